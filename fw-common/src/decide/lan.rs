//! Containers that share an uplink with the host (macvlan, ipvlan): they are on its LAN, behind no bridge of the host's.
//!
//! A frame for a macvlan container is for its MAC address, which tells it whatever the packet's addresses are. With
//! ipvlan the host and its containers have one MAC address, so that only an address tells them apart: those that Docker
//! has given out stand in `endpoints`, with no network and the parent device as port.

use bytemuck::Zeroable;

use super::is_unicast;
use crate::address::{Address, Mac};
use crate::tables::{Endpoint, Interface, LocalKey, Station, Tables, link_layer, shared};
use crate::wire::{Arrival, Audience, Bytes, Packet};

/// Offset of the source address in an Ethernet header.
const SOURCE_MAC: u32 = 6;

/// Whether the frame that arrives is for the MAC address of a container on this uplink.
#[inline(always)]
pub(super) fn is_for_station<T: Tables, B: Bytes + ?Sized>(
    interface: &Interface,
    arrival: &Arrival,
    bytes: &B,
    tables: &T,
) -> bool {
    if interface.shared == shared::NO || interface.link_layer != link_layer::ETHERNET {
        return false;
    }
    if interface.shared == shared::WHOLE && is_unicast(arrival) {
        return true;
    }
    let mut destination = Mac::zeroed();
    bytes.read(0, &mut destination)
        && station(tables, interface.l3_device, &destination).is_some_and(|station| station.host == 0)
}

/// Whether a container on this uplink has the address.
#[inline(always)]
pub(super) fn has_address<T: Tables>(tables: &T, interface: &Interface, address: &Address) -> bool {
    interface.shared != shared::NO
        && tables.endpoint(address).is_some_and(|endpoint| is_here(&endpoint, interface.l3_device))
}

/// Whether a container on this uplink may take a packet for an address that neither the tables nor the host know: a frame
/// for a group or for all comes to every one of them, and what is for a link-local address goes no further than the link.
#[inline(always)]
pub(super) fn may_take(interface: &Interface, arrival: &Arrival, destination: &Address) -> bool {
    interface.shared != shared::NO
        && match arrival.audience {
            Audience::Broadcast | Audience::Multicast => true,
            Audience::Host => destination.is_link_local_v6(),
            Audience::Other => false,
        }
}

/// What a container on an uplink has to do with a packet that leaves by it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Sender {
    /// Nothing: the host or somebody behind it sent it.
    Host,
    /// It sent it, from an address that may be its own.
    Container,
    /// It sent it, from an address that is the host's, another container's or inside a managed network.
    Forger,
}

/// Whether a container on this uplink sent the packet, and whether under its own address.
#[inline(always)]
pub(super) fn sender<T: Tables, B: Bytes + ?Sized>(
    interface: &Interface,
    bytes: &B,
    packet: &Packet,
    tables: &T,
) -> Sender {
    if interface.shared == shared::NO || interface.link_layer != link_layer::ETHERNET {
        return Sender::Host;
    }
    sender_on(interface.l3_device, bytes, packet, tables)
}

/// Whether a container on this uplink, or a macvlan device of the host's on it, sent the frame under an address that is
/// known to be its own: from one to another the kernel hands frames round on the parent, as if they came in there.
#[inline(never)]
pub(super) fn is_from_neighbour<T: Tables, B: Bytes + ?Sized>(
    parent: u32,
    bytes: &B,
    packet: &Packet,
    tables: &T,
) -> bool {
    let mut mac = Mac::zeroed();
    if !bytes.read(SOURCE_MAC, &mut mac) {
        return false;
    }
    match station(tables, parent, &mac) {
        Some(station) if station.host != 0 => {
            tables.local_address(&LocalKey::new(packet.source, parent)).is_some()
        }
        // Of any other address nothing tells that it is not somebody's on the LAN, to whom the answers would go.
        Some(_) => {
            let known = tables.endpoint(&packet.source);
            known.is_some_and(|endpoint| is_here(&endpoint, parent) && endpoint.mac == mac)
                || packet.source.is_made_from(&mac)
        }
        None => false,
    }
}

/// Out of line for a stack frame of its own.
#[inline(never)]
fn sender_on<T: Tables, B: Bytes + ?Sized>(parent: u32, bytes: &B, packet: &Packet, tables: &T) -> Sender {
    let source = &packet.source;
    let mut mac = Mac::zeroed();
    let by_mac = bytes.read(SOURCE_MAC, &mut mac)
        && station(tables, parent, &mac).is_some_and(|station| station.host == 0);
    if let Some(endpoint) = tables.endpoint(source)
        && is_here(&endpoint, parent)
    {
        // In a frame of the host's own: ipvlan, or a way through the host.
        let own = !by_mac || endpoint.mac == mac;
        return if own { Sender::Container } else { Sender::Forger };
    }
    if !by_mac {
        return Sender::Host;
    }
    let forged =
        tables.subnet(source).is_some() || tables.local_address(&LocalKey::new(*source, parent)).is_some();
    if forged { Sender::Forger } else { Sender::Container }
}

#[inline(always)]
fn station<T: Tables>(tables: &T, parent: u32, mac: &Mac) -> Option<Station> {
    tables.station(mac).filter(|station| station.parent == parent || station.parent == 0)
}

#[inline(always)]
fn is_here(endpoint: &Endpoint, parent: u32) -> bool {
    endpoint.network == 0 && endpoint.port == parent
}
