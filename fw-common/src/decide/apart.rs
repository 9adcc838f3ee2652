//! Networks without `icc`: what keeps containers apart at every layer, and the links that lead across.

use super::container::{Sender, standing};
use super::inbound::{answers_flow, record};
use crate::address::Address;
use crate::flow::owner;
use crate::tables::{LinkKey, LocalKey, Tables, role};
use crate::verdict::{Hook, Mark, Reason, Verdict};
use crate::wire::{Arp, Arrival, Audience, Bytes, Fragment, Frame, Packet, ethertype, open};

/// Whether a packet on a network without `icc` means a neighbour: by its address, or by its MAC address whatever the
/// packet says, for a neighbour might pass it on. To a neighbour's address in a frame for the host it would come back.
#[inline(never)]
pub(super) fn means_neighbour<T: Tables>(
    sender: &Sender,
    frame: &Frame,
    packet: &Packet,
    tables: &T,
) -> bool {
    if sender.port != 0 && is_past_host(sender, frame, tables) {
        return true;
    }
    let destination = &packet.destination;
    if destination.is_for_many() {
        return false;
    }
    if tables.local_address(&LocalKey::new(*destination, sender.interface.l3_device)).is_some() {
        return false;
    }
    destination.is_link_local_v6()
        || tables.subnet(destination).is_some_and(|subnet| subnet.network == sender.interface.network)
}

/// To a neighbour on a network without `icc`: only over a link, and back.
///
/// Docker's own rule for the way back asks for the source port alone; here it must be the answer to what came.
#[inline(never)]
pub(super) fn to_neighbour<T: Tables>(
    sender: &Sender,
    frame: &Frame,
    packet: &Packet,
    tables: &T,
) -> Verdict {
    let there = tables.endpoint(&packet.destination).is_some_and(|endpoint| {
        endpoint.network == sender.interface.network && endpoint.mac == frame.destination
    });
    if !sender.known || !there {
        return Verdict::drop(Reason::Icc);
    }
    let link = Verdict::accept(Reason::Link).marked(Mark::In);
    if packet.fragment() == Fragment::Later {
        // Without its first fragment, which was judged, it becomes nothing.
        let linked = are_linked(&packet.source, &packet.destination, tables);
        return if linked { link } else { Verdict::drop(Reason::Icc) };
    }
    let key = LinkKey {
        client: packet.source,
        server: packet.destination,
        port: packet.destination_port,
        proto: packet.protocol,
        reserved: [0; 5],
    };
    // Port 0 stands for the link itself.
    if key.port != 0 && tables.linked(&key) {
        record(tables, packet, owner::CONTAINER);
        return link;
    }
    if answers_flow(tables, packet) {
        return Verdict::accept(Reason::Answer).marked(Mark::In);
    }
    Verdict::drop(Reason::Icc)
}

/// ARP on a network without `icc`: with the host, about oneself (probes and announcements, which the host hears and no
/// neighbour), and with whom the container is linked to.
#[inline(always)]
pub(super) fn arp<T: Tables>(sender: &Sender, frame: &Frame, message: &Arp, tables: &T) -> Verdict {
    let about_itself = message.address.is_unspecified() || message.target == message.address;
    if !about_itself && sender.known && are_linked(&message.address, &message.target, tables) {
        let there = tables.endpoint(&message.target);
        if frame.destination.is_group() || there.is_some_and(|there| there.mac == frame.destination) {
            return Verdict::accept(Reason::Link).marked(Mark::In);
        }
    }
    let inside =
        tables.subnet(&message.target).is_some_and(|subnet| subnet.network == sender.interface.network);
    let ours = tables.local_address(&LocalKey::new(message.target, sender.interface.l3_device)).is_some();
    if (about_itself || ours || !inside) && !is_past_host(sender, frame, tables) {
        Verdict::pass(Reason::SameNetwork)
    } else {
        Verdict::drop(Reason::Icc)
    }
}

/// Decides a frame that leaves a managed bridge by a port, towards the container behind it.
///
/// On a network without `icc` a frame from a neighbour must be vouched for by the neighbour's own port. Whoever has
/// no hook yet vouches for nothing; nor is anything vouched for that goes to a group, and so to everybody.
#[inline(always)]
pub(super) fn at_port_egress<T: Tables, B: Bytes + ?Sized>(
    arrival: &Arrival,
    bytes: &B,
    tables: &T,
) -> Verdict {
    let Some((interface, network)) = standing(Hook::PortEgress, arrival, tables) else {
        return Verdict::drop(Reason::UnknownInterface);
    };
    if network.icc != 0 {
        // Its groups the host hears, and its neighbours do not.
        let from_apart = arrival.ingress_ifindex != 0 && is_apart(arrival.ingress_ifindex, tables);
        return if from_apart {
            Verdict::drop(Reason::Unvouched)
        } else {
            Verdict::pass(Reason::SameNetwork)
        };
    }
    if !is_neighbours(arrival, tables) {
        return Verdict::pass(Reason::Sent);
    }
    // On its network the ports of all others vouch for what they send to each other.
    if interface.apart != 0 {
        return Verdict::drop(Reason::Unvouched);
    }
    if !super::carries(Mark::In, arrival.mark, tables) {
        return Verdict::drop(Reason::Unvouched);
    }
    // The one thing that is vouched for and goes to all: the question for the address of a linked neighbour.
    if matches!(arrival.audience, Audience::Broadcast | Audience::Multicast)
        && !asks_for_port(arrival.ifindex, interface.link_layer, arrival, bytes, tables)
    {
        return Verdict::drop(Reason::Unvouched);
    }
    Verdict::pass(Reason::JudgedAtPort)
}

/// Whether the container behind this port is kept apart, although its network is not.
#[inline(always)]
pub(super) fn is_apart<T: Tables>(port: u32, tables: &T) -> bool {
    tables.interface(port).is_some_and(|interface| interface.apart != 0)
}

/// Whether the frame came in by a port of the bridge, and not from the host or routed through it.
///
/// Of a device that no table knows the kernel's word counts: only what is addressed to the host is routed, and what is
/// so addressed is never forwarded from port to port.
#[inline(always)]
fn is_neighbours<T: Tables>(arrival: &Arrival, tables: &T) -> bool {
    if arrival.ingress_ifindex == 0 {
        return false;
    }
    match tables.interface(arrival.ingress_ifindex) {
        Some(interface) => interface.role == role::PORT,
        None => arrival.audience != Audience::Host,
    }
}

/// Whether the frame is an ARP message about the container behind this port.
#[inline(always)]
fn asks_for_port<T: Tables, B: Bytes + ?Sized>(
    port: u32,
    link_layer: u8,
    arrival: &Arrival,
    bytes: &B,
    tables: &T,
) -> bool {
    let Ok(frame) = open(bytes, arrival, link_layer) else { return false };
    if frame.other_vlan || frame.ethertype != ethertype::ARP {
        return false;
    }
    let Ok(message) = Arp::read(bytes, frame.network) else { return false };
    tables.endpoint(&message.target).is_some_and(|endpoint| endpoint.port == port)
}

/// Whether a frame at a port of a network without `icc` means one machine other than the host.
#[inline(always)]
fn is_past_host<T: Tables>(sender: &Sender, frame: &Frame, tables: &T) -> bool {
    !frame.destination.is_group()
        && tables.interface(sender.interface.network).is_none_or(|bridge| bridge.mac != frame.destination)
}

/// Whether one of the two was started with `--link` to the other.
#[inline(always)]
fn are_linked<T: Tables>(one: &Address, other: &Address, tables: &T) -> bool {
    tables.linked(&LinkKey::pair(*one, *other)) || tables.linked(&LinkKey::pair(*other, *one))
}
