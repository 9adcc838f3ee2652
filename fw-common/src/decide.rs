//! The decision: from a packet and the tables to a verdict. The kernel and the host call the same code.

use crate::tables::{Tables, role};
use crate::verdict::{Hook, Mark, Verdict};
use bytemuck::Zeroable;

use crate::wire::{Arrival, Audience, Bytes, Packet};

mod apart;
mod budget;
mod container;
mod early;
mod fragments;
mod inbound;
mod lan;
mod limit;
mod outbound;
mod outside;
mod service;

/// Room for what is parsed of a packet.
///
/// The caller lends it: on the 512 bytes of a BPF stack it would crowd out everything else, and in map memory, of whose
/// content the verifier assumes nothing, it does not multiply the states that the verifier has to walk.
#[derive(Clone, Copy, Debug, Zeroable)]
#[repr(C)]
pub struct Workspace {
    /// The packet.
    pub packet: Packet,
    /// The packet that an ICMP error quotes.
    pub inner: Packet,
    /// The number by which the sender's flows are counted, for `uplink_egress` to find beside the packet; `port_ingress`
    /// says it.
    pub owner: u16,
}

/// Decides a packet at a hook.
///
#[inline(always)]
pub fn decide<T: Tables, B: Bytes + ?Sized>(
    hook: Hook,
    arrival: &Arrival,
    bytes: &B,
    tables: &T,
    work: &mut Workspace,
) -> Verdict {
    work.packet = Packet::zeroed();
    work.owner = 0;
    match hook {
        Hook::UplinkXdp => early::coming_in(arrival, bytes, tables, work),
        Hook::UplinkIngress => outside::coming_in(arrival, bytes, tables, work),
        Hook::UplinkEgress => outside::going_out(arrival, bytes, tables, work),
        Hook::PortIngress => container::at_port(arrival, bytes, tables, work),
        Hook::BridgeIngress => container::at_bridge(arrival, bytes, tables, work),
        Hook::PortEgress => apart::at_port_egress(arrival, bytes, tables),
        Hook::BridgeEgress => inbound::going_down(arrival, bytes, tables, work),
    }
}

/// The bits of the packet mark that are ours.
#[inline(always)]
pub const fn mark_mask(mark_bit: u8) -> u32 {
    3 << (mark_bit & 31)
}

/// The packet mark after the verdict: our field replaced, every other bit as it was.
#[inline(always)]
pub const fn marked(mark: u32, field: Mark, mark_bit: u8) -> u32 {
    mark & !mark_mask(mark_bit) | (field as u32) << (mark_bit & 31)
}

/// Whether a packet with this mark is vouched for in this way.
#[inline(always)]
fn carries<T: Tables>(field: Mark, mark: u32, tables: &T) -> bool {
    let bit = tables.settings().mark_bit;
    mark & mark_mask(bit) == marked(0, field, bit)
}

/// Whether a hook on a device of this role may decide; tables and attachments change at different moments.
#[inline(always)]
fn is_for(hook: Hook, device: u8) -> bool {
    match hook {
        Hook::UplinkXdp | Hook::UplinkIngress | Hook::UplinkEgress => device == role::UPLINK,
        Hook::PortIngress | Hook::PortEgress => device == role::PORT,
        Hook::BridgeIngress | Hook::BridgeEgress => device == role::BRIDGE,
    }
}

/// Whether the frame is addressed to a single machine.
#[inline(always)]
fn is_unicast(arrival: &Arrival) -> bool {
    matches!(arrival.audience, Audience::Host | Audience::Other)
}

#[cfg(test)]
mod tests;
