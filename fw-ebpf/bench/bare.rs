//! What a benchmark holds fw's programs against: the least that a program does that drops, and the least that asks a
//! prefix table. Never attached to anything; no part of fw.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "the form of entry points that the macros ask for and write"
)]

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::btf_maps::LpmTrie;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use fw_common::Address;
use fw_common::tables::{Zones, capacity};
use fw_common::wire::ethertype;

/// As fw's own map of this name.
#[btf_map(name = "sources")]
static SOURCES: LpmTrie<Address, Zones, { capacity::PREFIXES }> = LpmTrie::new();

const ETHERNET: usize = 14;

/// Reads the source and drops.
#[classifier]
pub fn bare_drop(context: TcContext) -> i32 {
    match source(&context) {
        Some(source) if source.is_unspecified() => 0,
        _ => TC_ACT_SHOT,
    }
}

/// The same, and asks the prefix table in between.
#[classifier]
pub fn bare_prefix(context: TcContext) -> i32 {
    match source(&context) {
        Some(source) if SOURCES.get(&Key::new(128, source)).is_none() => 0,
        _ => TC_ACT_SHOT,
    }
}

/// The source of an IP packet, by loads straight from the frame.
#[inline(always)]
fn source(context: &TcContext) -> Option<Address> {
    match u16::from_be(load(context, 12)?) {
        ethertype::IPV4 => Some(Address::v4(load(context, ETHERNET + 12)?)),
        ethertype::IPV6 => Some(Address::v6(load(context, ETHERNET + 8)?)),
        _ => None,
    }
}

#[inline(always)]
fn load<T: Copy>(context: &TcContext, at: usize) -> Option<T> {
    let start = context.data() + at;
    if start + size_of::<T>() > context.data_end() {
        return None;
    }
    // SAFETY: within the frame, as just compared; BPF loads need no alignment.
    Some(unsafe { (start as *const T).read_unaligned() })
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that can get here.
    loop {}
}

/// Helpers for maps need none, the loader of aya does.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
