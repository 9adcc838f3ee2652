//! Batches as text: what once differed is kept in `found/` and judged again in every run.
//!
//! A line is the name of a table, key and, unless the key says all, value, in hexadecimal as they stand in the maps; or
//! a packet: hook, device, the device that it came in by, mark and frame. Lines that begin with `#` say what was seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytemuck::Pod;
use fw_common::flow::FlowKey;
use fw_common::tables::memory::Memory;
use fw_common::tables::{
    BucketKey, BudgetPlace, DatagramKey, LinkKey, LocalKey, OutKey, PortKey, Prefix, ReachKey,
};
use fw_common::{Address, Hook, Mac};

use super::kernel::Batch;
use super::traffic::Sent;

/// The batch as text.
pub(crate) fn write(batch: &Batch) -> String {
    let tables = &batch.tables;
    let mut text = format!("settings {}\n", hex(bytemuck::bytes_of(&tables.settings)));
    entries(&mut text, "interfaces", &tables.interfaces);
    entries(&mut text, "subnets", &tables.subnets);
    entries(&mut text, "networks", &tables.networks);
    entries(&mut text, "local_addresses", &tables.local_addresses);
    entries(&mut text, "ports", &tables.ports);
    entries(&mut text, "denied", &tables.denied);
    entries(&mut text, "sources", &tables.sources);
    entries(&mut text, "endpoints", &tables.endpoints);
    entries(&mut text, "stations", &tables.stations);
    for key in &tables.reach {
        writeln!(text, "reach {}", key.written()).expect("a string");
    }
    for key in &tables.links {
        writeln!(text, "links {}", key.written()).expect("a string");
    }
    entries(&mut text, "outbound", &tables.outbound);
    entries(&mut text, "limits", &tables.limits);
    entries(&mut text, "flows", &tables.flows.borrow());
    entries(&mut text, "inbound_flows", &tables.inbound_flows.borrow());
    entries(&mut text, "buckets", &tables.buckets.borrow());
    entries(&mut text, "datagrams", &tables.datagrams.borrow());
    entries(&mut text, "budgets", &tables.budgets.borrow());
    for Sent { hook, ifindex, ingress_ifindex, mark, frame } in &batch.packets {
        let hook = hook.name();
        writeln!(text, "packet {hook} {ifindex} {ingress_ifindex} {mark:#x} {}", hex(frame))
            .expect("a string");
    }
    text
}

/// The batch that a text describes; an error names the line.
pub(crate) fn read(text: &str) -> Result<Batch, String> {
    let mut batch = Batch { tables: Memory::default(), packets: Vec::new() };
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        read_line(&mut batch, line).ok_or_else(|| format!("line {}: {line}", number + 1))?;
    }
    Ok(batch)
}

fn read_line(batch: &mut Batch, line: &str) -> Option<()> {
    let tables = &mut batch.tables;
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["settings", value] => tables.settings = pod(value)?,
        ["packet", hook, ifindex, ingress_ifindex, mark, frame] => batch.packets.push(Sent {
            hook: Hook::ATTACHED.into_iter().find(|known| known.name() == hook)?,
            ifindex: ifindex.parse().ok()?,
            ingress_ifindex: ingress_ifindex.parse().ok()?,
            mark: u32::from_str_radix(mark.strip_prefix("0x")?, 16).ok()?,
            frame: unhex(frame)?,
        }),
        ["reach", key] => _ = tables.reach.insert(Key::read(key)?),
        ["links", key] => _ = tables.links.insert(Key::read(key)?),
        [table, key, value] => match table {
            "interfaces" => entry(&mut tables.interfaces, key, value)?,
            "subnets" => entry(&mut tables.subnets, key, value)?,
            "networks" => entry(&mut tables.networks, key, value)?,
            "local_addresses" => entry(&mut tables.local_addresses, key, value)?,
            "ports" => entry(&mut tables.ports, key, value)?,
            "denied" => entry(&mut tables.denied, key, value)?,
            "sources" => entry(&mut tables.sources, key, value)?,
            "endpoints" => entry(&mut tables.endpoints, key, value)?,
            "stations" => entry(&mut tables.stations, key, value)?,
            "outbound" => entry(&mut tables.outbound, key, value)?,
            "limits" => entry(&mut tables.limits, key, value)?,
            "flows" => entry(tables.flows.get_mut(), key, value)?,
            "inbound_flows" => entry(tables.inbound_flows.get_mut(), key, value)?,
            "buckets" => entry(tables.buckets.get_mut(), key, value)?,
            "datagrams" => entry(tables.datagrams.get_mut(), key, value)?,
            "budgets" => entry(tables.budgets.get_mut(), key, value)?,
            _ => return None,
        },
        _ => return None,
    }
    Some(())
}

/// A key as bytes.
trait Key: Ord + Sized {
    fn written(&self) -> String;
    fn read(text: &str) -> Option<Self>;
}

macro_rules! plain_keys {
    ($($type:ty),+) => {
        $(impl Key for $type {
            fn written(&self) -> String {
                hex(bytemuck::bytes_of(self))
            }

            fn read(text: &str) -> Option<Self> {
                pod(text)
            }
        })+
    };
}

plain_keys!(u32, Address, Mac, LocalKey, PortKey, FlowKey);
plain_keys!(ReachKey, LinkKey, OutKey, BucketKey, DatagramKey, BudgetPlace);

impl Key for Prefix {
    fn written(&self) -> String {
        format!("{}/{}", hex(&self.address.bytes), self.bits)
    }

    fn read(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        Some(Self { bits: bits.parse().ok()?, address: pod(address)? })
    }
}

fn entries<K: Key, V: Pod>(text: &mut String, name: &str, table: &BTreeMap<K, V>) {
    for (key, value) in table {
        writeln!(text, "{name} {} {}", key.written(), hex(bytemuck::bytes_of(value))).expect("a string");
    }
}

fn entry<K: Key, V: Pod>(table: &mut BTreeMap<K, V>, key: &str, value: &str) -> Option<()> {
    table.insert(K::read(key)?, pod(value)?);
    Some(())
}

fn pod<T: Pod>(text: &str) -> Option<T> {
    bytemuck::try_pod_read_unaligned(&unhex(text)?).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let byte = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(byte).collect()
}
