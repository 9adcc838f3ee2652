//! The decision: from a packet and the tables to a verdict. The kernel and the host call the same code.

use crate::tables::{Tables, link_layer, role};
use crate::verdict::{Hook, Mark, Verdict};
use bytemuck::Zeroable;

use crate::wire::{Arrival, Audience, Bytes, Frame, Head, Packet, Parsed, open, parse};

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
    /// The head of the frame, if it was asked for.
    pub head: Head,
    /// The packet.
    pub packet: Packet,
    /// The packet that an ICMP error quotes.
    pub inner: Packet,
    /// The number by which the sender's flows are counted, for `uplink_egress` to find beside the packet; `port_ingress`
    /// says it.
    pub owner: u16,
    /// Whether `packet` was read from `head` before the decision: one of [`glance`].
    pub glance: u8,
}

/// What a glance at the head of a frame has shown: [`Workspace::glance`].
pub mod glance {
    /// Nobody has looked.
    pub const NONE: u8 = 0;
    /// A plain packet, if the device has an Ethernet header.
    pub const PLAIN: u8 = 1;
    /// Anything else.
    pub const OTHER: u8 = 2;
}

impl Workspace {
    /// Looks whether the packet is plain, which most are: its head is copied once, and its fields stand aligned.
    #[inline(always)]
    pub fn glance<B: Bytes + ?Sized>(&mut self, arrival: &Arrival, bytes: &B) -> bool {
        self.packet = Packet::zeroed();
        let plain = !arrival.vlan.is_present() && {
            let length = bytes.head(&mut self.head);
            self.head.parse(length, bytes.length(), arrival.ethertype, &mut self.packet)
        };
        self.glance = if plain { glance::PLAIN } else { glance::OTHER };
        plain
    }

    /// Opens a frame on a device with this link layer, and has the packet if it is plain.
    #[inline(always)]
    fn open<B: Bytes + ?Sized>(&mut self, arrival: &Arrival, bytes: &B, link: u8) -> Parsed<Frame> {
        if link == link_layer::ETHERNET
            && (self.glance == glance::PLAIN || self.glance == glance::NONE && self.glance(arrival, bytes))
        {
            return Ok(Frame {
                destination: self.head.to(),
                source: self.head.from(),
                ethertype: arrival.ethertype,
                other_vlan: false,
                network: Frame::UNTAGGED,
            });
        }
        self.glance = glance::OTHER;
        self.packet = Packet::zeroed();
        open(bytes, arrival, link)
    }

    /// Parses the IP packet in a frame that [`Workspace::open`] has opened.
    #[inline(always)]
    fn parse<B: Bytes + ?Sized>(&mut self, frame: &Frame, bytes: &B) -> Parsed<()> {
        if self.glance == glance::PLAIN {
            return Ok(());
        }
        parse(bytes, frame.ethertype, frame.network, &mut self.packet)
    }
}

/// Decides a packet at a hook. If `work` says that somebody has glanced at it, that was at this packet.
#[inline(always)]
pub fn decide<T: Tables, B: Bytes + ?Sized>(
    hook: Hook,
    arrival: &Arrival,
    bytes: &B,
    tables: &T,
    work: &mut Workspace,
) -> Verdict {
    work.owner = 0;
    let verdict = match hook {
        Hook::UplinkXdp => early::coming_in(arrival, bytes, tables, work),
        Hook::UplinkIngress => outside::coming_in(arrival, bytes, tables, work),
        Hook::UplinkEgress => outside::going_out(arrival, bytes, tables, work),
        Hook::PortIngress => container::at_port(arrival, bytes, tables, work),
        Hook::BridgeIngress => container::at_bridge(arrival, bytes, tables, work),
        Hook::PortEgress => apart::at_port_egress(arrival, bytes, tables),
        Hook::BridgeEgress => inbound::going_down(arrival, bytes, tables, work),
    };
    // The next one's is another.
    work.glance = glance::NONE;
    verdict
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
