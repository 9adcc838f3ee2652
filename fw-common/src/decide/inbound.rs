//! What came in to containers that may not open every connection, so that their answers are known.

use bytemuck::Zeroable as _;

use super::fragments::{recall, remember};
use super::service::asks_for_service;
use super::{Workspace, is_for};
use crate::flow::{Flow, FlowKey, owner};
use crate::tables::{LocalKey, Tables};
use crate::verdict::{Hook, Mark, Reason, Verdict};
use crate::wire::{Arrival, Bytes, Fragment, Packet, ethertype, icmp, inner_of_error, proto};

/// Decides a packet that goes down a managed bridge to its containers, after all NAT: nothing is dropped here, what
/// asks for an answer is recorded.
#[inline(always)]
pub(super) fn going_down<T: Tables, B: Bytes + ?Sized>(
    arrival: &Arrival,
    bytes: &B,
    tables: &T,
    work: &mut Workspace,
) -> Verdict {
    let delivered = Verdict::pass(Reason::Delivered);
    let interface = match tables.interface(arrival.ifindex) {
        Some(interface) if is_for(Hook::BridgeEgress, interface.role) && interface.records != 0 => interface,
        _ => return delivered,
    };
    let Ok(frame) = work.open(arrival, bytes, interface.link_layer) else { return delivered };
    if frame.other_vlan {
        return Verdict::pass(Reason::OtherVlan);
    }
    if !matches!(frame.ethertype, ethertype::IPV4 | ethertype::IPV6) {
        return Verdict::pass(Reason::NotIp);
    }
    if work.parse(&frame, bytes).is_err() {
        return delivered;
    }
    let packet = &work.packet;
    // The gateway's address lies in the subnet, too: ask first whether it is ours.
    if tables.local_address(&LocalKey::new(packet.source, interface.l3_device)).is_some() {
        record(tables, packet, owner::HOST);
        return delivered;
    }
    match tables.subnet(&packet.source) {
        // Back to the network that it came from: what neighbours say to each other needs no leave.
        Some(subnet) if subnet.network == interface.network => {}
        Some(_) => record(tables, packet, owner::CONTAINER),
        None => record(tables, packet, owner::OTHER),
    }
    delivered
}

/// Records that this packet came in to its destination, if it may ask for an answer; `owner` says who sent it.
#[inline(never)]
pub(super) fn record<T: Tables>(tables: &T, packet: &Packet, owner: u8) {
    if packet.fragment() == Fragment::Later || packet.destination.is_for_many() || !asks_for_service(packet) {
        return;
    }
    let key = FlowKey::inward(packet);
    let known = tables.inbound_flow(&key);
    if let Some(flow) = Flow::came_in(known.as_ref(), packet, owner, tables.now())
        && known != Some(flow)
    {
        tables.record_inbound(&key, &flow);
    }
}

/// Whether the packet answers a flow that came in to its source, or is an ICMP error about a packet of one; keeps the
/// flow alive, or lets it end.
///
/// A SYN is never an answer, and of ICMP only an echo reply is; a later fragment is one if its first was. An error goes
/// to whoever sent what it quotes: a forged quote could else carry data anywhere.
#[inline(always)]
pub(super) fn answers<T: Tables, B: Bytes + ?Sized>(bytes: &B, tables: &T, work: &mut Workspace) -> bool {
    let Workspace { packet, inner, .. } = work;
    if packet.is_icmp_error() {
        return quotes(bytes, packet, inner) && came_in(tables, inner);
    }
    if packet.fragment() == Fragment::Later {
        return follows_answer(tables, packet);
    }
    let answers = answers_flow(tables, packet);
    if answers {
        remember_answer(tables, packet);
    }
    answers
}

/// Whether the first fragment of this one's datagram was an answer.
#[inline(never)]
fn follows_answer<T: Tables>(tables: &T, packet: &Packet) -> bool {
    recall(tables, packet).is_some()
}

/// Records a packet that another network's container may send to this one, and remembers its first fragment.
#[inline(never)]
pub(super) fn record_direct<T: Tables>(tables: &T, packet: &Packet) {
    record(tables, packet, owner::CONTAINER);
    remember(tables, packet, Mark::None);
}

/// What it is marked with the fragments that follow work out for themselves: it is their addresses that tell.
#[inline(never)]
fn remember_answer<T: Tables>(tables: &T, packet: &Packet) {
    remember(tables, packet, Mark::None);
}

/// Whether the error quotes a packet that its receiver sent and that may ask for an answer. Out of line, beside the
/// lookups and not around them: a stack holds them one after the other.
#[inline(never)]
fn quotes<B: Bytes + ?Sized>(bytes: &B, packet: &Packet, inner: &mut Packet) -> bool {
    *inner = Packet::zeroed();
    inner_of_error(bytes, packet, inner) && inner.source == packet.destination && asks_for_service(inner)
}

#[inline(never)]
fn came_in<T: Tables>(tables: &T, inner: &Packet) -> bool {
    let flow = tables.inbound_flow(&FlowKey::inward(inner));
    flow.is_some_and(|flow| flow.is_answerable(inner.protocol, tables.now()))
}

/// As [`answers`], ICMP errors left out.
#[inline(never)]
pub(super) fn answers_flow<T: Tables>(tables: &T, packet: &Packet) -> bool {
    let may_answer = match packet.protocol {
        proto::ICMP | proto::ICMPV6 => packet.is_icmp_of(icmp::ECHO_REPLY.0, icmp::ECHO_REPLY.1),
        _ => packet.fragment() != Fragment::Later && !packet.opens(),
    };
    if !may_answer {
        return false;
    }
    let key = FlowKey::outward(packet);
    let now = tables.now();
    let Some(flow) = tables.inbound_flow(&key) else { return false };
    if !flow.is_answerable(packet.protocol, now) {
        return false;
    }
    let next = flow.answered(packet, now);
    if next != flow {
        tables.record_inbound(&key, &next);
    }
    true
}
