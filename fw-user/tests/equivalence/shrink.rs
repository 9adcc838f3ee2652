//! The smallest batch that still shows a difference: fewer packets, fewer entries, shorter and emptier frames.

use fw_common::tables::memory::Memory;

use super::kernel::{Batch, Kernel};

/// Shrinks a batch on which the kernel and `decide` differ.
pub(crate) fn shrink(kernel: &mut Kernel, mut batch: Batch) -> Batch {
    // What a smaller batch allows may allow smaller ones again; each round is much cheaper than the one before.
    for _ in 0..3 {
        let before = batch.clone();
        packets(kernel, &mut batch);
        (0..TABLES).for_each(|table| entries(kernel, &mut batch, table));
        (0..batch.packets.len()).for_each(|which| frame(kernel, &mut batch, which));
        if batch == before {
            break;
        }
    }
    batch
}

/// Takes the smaller batch if it still shows a difference. One run in which the second ends shows none; ask twice.
fn take(kernel: &mut Kernel, batch: &mut Batch, smaller: Batch) -> bool {
    let differs = kernel.judge(&smaller).is_err() || kernel.judge(&smaller).is_err();
    if differs {
        *batch = smaller;
    }
    differs
}

fn packets(kernel: &mut Kernel, batch: &mut Batch) {
    chunks(batch.packets.len(), |from, to| {
        let mut smaller = batch.clone();
        smaller.packets.drain(from..to);
        take(kernel, batch, smaller)
    });
}

fn entries(kernel: &mut Kernel, batch: &mut Batch, table: usize) {
    let mut count = 0;
    retain(&mut batch.tables, table, |_| {
        count += 1;
        true
    });
    chunks(count, |from, to| {
        let mut smaller = batch.clone();
        retain(&mut smaller.tables, table, |position| !(from..to).contains(&position));
        take(kernel, batch, smaller)
    });
}

fn frame(kernel: &mut Kernel, batch: &mut Batch, which: usize) {
    chunks(batch.packets[which].frame.len(), |from, to| {
        let mut smaller = batch.clone();
        // From the end: without the first bytes all others would mean something else.
        let bytes = &mut smaller.packets[which].frame;
        if to == bytes.len() {
            bytes.truncate(from);
            return take(kernel, batch, smaller);
        }
        false
    });
    for at in 0..batch.packets[which].frame.len() {
        if batch.packets[which].frame[at] != 0 {
            let mut smaller = batch.clone();
            smaller.packets[which].frame[at] = 0;
            take(kernel, batch, smaller);
        }
    }
}

/// Offers ranges of a list to be removed, from the end, in halves, quarters, … and single ones.
fn chunks(mut length: usize, mut remove: impl FnMut(usize, usize) -> bool) {
    let mut size = length.div_ceil(2);
    while size > 0 {
        let mut to = length;
        while to > 0 {
            let from = to.saturating_sub(size);
            if remove(from, to) {
                length -= to - from;
            }
            to = from;
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
}

const TABLES: usize = 18;

/// Keeps the entries of one table whose positions `keep` answers for.
fn retain(tables: &mut Memory, table: usize, keep: impl FnMut(usize) -> bool) {
    let mut keep = {
        let (mut keep, mut position) = (keep, 0);
        move || {
            position += 1;
            keep(position - 1)
        }
    };
    match table {
        0 => tables.ports.retain(|_, _| keep()),
        1 => tables.sources.retain(|_, _| keep()),
        2 => tables.denied.retain(|_, _| keep()),
        3 => tables.flows.get_mut().retain(|_, _| keep()),
        4 => tables.inbound_flows.get_mut().retain(|_, _| keep()),
        5 => tables.buckets.get_mut().retain(|_, _| keep()),
        6 => tables.datagrams.get_mut().retain(|_, _| keep()),
        7 => tables.budgets.get_mut().retain(|_, _| keep()),
        8 => tables.outbound.retain(|_, _| keep()),
        9 => tables.limits.retain(|_, _| keep()),
        10 => tables.reach.retain(|_| keep()),
        11 => tables.links.retain(|_| keep()),
        12 => tables.endpoints.retain(|_, _| keep()),
        13 => tables.local_addresses.retain(|_, _| keep()),
        14 => tables.subnets.retain(|_, _| keep()),
        15 => tables.networks.retain(|_, _| keep()),
        16 => tables.stations.retain(|_, _| keep()),
        _ => tables.interfaces.retain(|_, _| keep()),
    }
}
