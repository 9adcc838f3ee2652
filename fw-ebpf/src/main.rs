//! Kernel side of fw: each program is one hook. It fetches what the decision asks for and carries the verdict out;
//! what a packet means is decided in `fw_common::decide`.
#![no_std]
#![no_main]
// For an addition that other CPUs see, of which the library has none for BPF.
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the form of entry points that the macros ask for and write"
)]

mod action;
mod fast;
#[cfg(feature = "log")]
mod log;
mod maps;
mod observed;
mod packet;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use fw_common::Hook;

use crate::packet::{Early, Skb};

/// XDP of an uplink, in its driver. `frags`: frames of more than one buffer come here as well (kernel 5.18).
#[xdp(frags)]
pub fn uplink_xdp(context: XdpContext) -> u32 {
    action::run(Hook::UplinkXdp, &Early { context }).cast_unsigned()
}

/// XDP of an uplink, in the kernel's generic path. Without `frags`: for a program that knows them the kernel copies what
/// is cloned or paged into a new skb and forgets `mac_len` (seen on 6.18), and the hooks behind would not find the
/// Ethernet header; for one that does not it makes the same skb linear.
#[xdp]
pub fn uplink_xdp_skb(context: XdpContext) -> u32 {
    action::run(Hook::UplinkXdp, &Early { context }).cast_unsigned()
}

/// TC ingress of an uplink, before Docker's DNAT.
#[classifier]
pub fn uplink_ingress(context: TcContext) -> i32 {
    action::run(Hook::UplinkIngress, &Skb { context })
}

/// TC egress of an uplink, after MASQUERADE.
#[classifier]
pub fn uplink_egress(context: TcContext) -> i32 {
    action::run(Hook::UplinkEgress, &Skb { context })
}

/// TC ingress of a port of a managed bridge.
#[classifier]
pub fn port_ingress(context: TcContext) -> i32 {
    action::run(Hook::PortIngress, &Skb { context })
}

/// TC egress of a port of a managed bridge.
#[classifier]
pub fn port_egress(context: TcContext) -> i32 {
    action::run(Hook::PortEgress, &Skb { context })
}

/// TC ingress of a managed bridge.
#[classifier]
pub fn bridge_ingress(context: TcContext) -> i32 {
    action::run(Hook::BridgeIngress, &Skb { context })
}

/// TC egress of a managed bridge.
#[classifier]
pub fn bridge_egress(context: TcContext) -> i32 {
    action::run(Hook::BridgeEgress, &Skb { context })
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that can get here.
    loop {}
}

/// The kernel lends some of its helpers only to programs under a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
