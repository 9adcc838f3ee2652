//! What `mode = "observe"` lets pass although it would be dropped, counted by tuple.

use fw_common::decide::Workspace;
use fw_common::tables::{Observed, ObservedKey};
use fw_common::wire::Arrival;
use fw_common::{Hook, Verdict};

use crate::maps::{OBSERVED, now};

/// Hook, reason and rule in one register.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct Why {
    rule: u32,
    hook: u8,
    reason: u8,
    reserved: [u8; 2],
}

impl Why {
    #[inline(always)]
    pub(crate) fn new(hook: Hook, verdict: Verdict) -> Self {
        Self { rule: verdict.rule, hook: hook as u8, reason: verdict.reason as u8, reserved: [0; 2] }
    }
}

const BPF_NOEXIST: u64 = 1;

/// Counts a packet that would be dropped under its tuple. Out of line for a stack frame of its own.
#[inline(never)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "a copy of the key takes as much stack again")]
pub(crate) fn count(why: Why, arrival: &Arrival, work: &Workspace, length: u32) -> u32 {
    let packet = &work.packet;
    let icmp = packet.is_icmp();
    let key = ObservedKey {
        source: packet.source,
        destination: packet.destination,
        ifindex: arrival.ifindex,
        rule: why.rule,
        destination_port: if icmp { 0 } else { packet.destination_port },
        ethertype: arrival.ethertype,
        proto: packet.protocol,
        hook: why.hook,
        reason: why.reason,
        icmp_type: if icmp { packet.icmp_type } else { 0 },
    };
    let (bytes, opening) = (u64::from(length), u64::from(packet.opens()));
    let second = now();
    if let Some(entry) = OBSERVED.get_ptr_mut(&key) {
        add(entry, bytes, opening, second);
        return 0;
    }
    let new = Observed { packets: 1, bytes, opening, first_seen: second, last_seen: second };
    if OBSERVED.insert(&key, &new, BPF_NOEXIST).is_ok() {
        return 0;
    }
    // Another CPU was first.
    if let Some(entry) = OBSERVED.get_ptr_mut(&key) {
        add(entry, bytes, opening, second);
    }
    0
}

#[inline(always)]
fn add(entry: *mut Observed, bytes: u64, opening: u64, second: u32) {
    // SAFETY: the element's memory lives as long as the program. Other CPUs add meanwhile, as we do; of the last second all
    // of them write the same.
    unsafe {
        atomic_add(&raw mut (*entry).packets, 1);
        atomic_add(&raw mut (*entry).bytes, bytes);
        if opening != 0 {
            atomic_add(&raw mut (*entry).opening, opening);
        }
        (&raw mut (*entry).last_seen).write_volatile(second);
    }
}

/// Adds to a number that other CPUs add to.
#[inline(always)]
unsafe fn atomic_add(to: *mut u64, number: u64) {
    // SAFETY: the caller's pointer is valid for writing and aligned.
    unsafe { core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) to, in(reg) number) };
}
