//! Kernel side of fw: each program is one hook. It fetches what the decision asks for and carries the verdict out;
//! what a packet means is decided in `fw_common::decide`.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "the form of entry points that the `classifier` macro asks for and writes"
)]

mod action;
mod maps;
mod packet;

use aya_ebpf::{macros::classifier, programs::TcContext};
use fw_common::Hook;

/// TC ingress of an uplink, before Docker's DNAT.
#[classifier]
pub fn uplink_ingress(context: TcContext) -> i32 {
    action::run(Hook::UplinkIngress, &context)
}

/// TC egress of an uplink, after MASQUERADE.
#[classifier]
pub fn uplink_egress(context: TcContext) -> i32 {
    action::run(Hook::UplinkEgress, &context)
}

/// TC ingress of a port of a managed bridge.
#[classifier]
pub fn port_ingress(context: TcContext) -> i32 {
    action::run(Hook::PortIngress, &context)
}

/// TC ingress of a managed bridge.
#[classifier]
pub fn bridge_ingress(context: TcContext) -> i32 {
    action::run(Hook::BridgeIngress, &context)
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
