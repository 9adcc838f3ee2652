//! Bridges: everything that a container sends, at its port, and the backstop at the bridge for ports without a hook.

use bytemuck::Zeroable as _;

use super::{Workspace, is_for};
use crate::address::Address;
use crate::tables::{Endpoint, Interface, LocalKey, Network, Tables};
use crate::verdict::{Hook, Mark, Reason, Verdict};
use crate::wire::{
    Arp, Arrival, Audience, Bytes, Fragment, Frame, Packet, ethertype, icmp, open, parse, proto,
};

/// Whoever sends: what is known of it.
struct Sender {
    interface: Interface,
    network: Network,
    /// The port behind which it is; 0 at the bridge, where the port is not told.
    port: u32,
    /// Whether MAC and addresses are those of one known container; only then is anything vouched for.
    known: bool,
}

impl Sender {
    /// Whether the sender may be at this endpoint's port: it is that port, or one of them is not known.
    #[inline(always)]
    fn is_at(&self, endpoint: &Endpoint) -> bool {
        self.port == 0 || endpoint.port == self.port || (endpoint.port == 0 && !self.known)
    }
}

/// Decides a frame that enters a managed bridge by a port, before any NAT.
///
/// Frames for every MAC are judged: `pkt_type` compares with the port's own address, which nobody sends to.
#[inline(always)]
pub(super) fn at_port<T: Tables, B: Bytes + ?Sized>(
    arrival: &Arrival,
    bytes: &B,
    tables: &T,
    work: &mut Workspace,
) -> Verdict {
    let Some((interface, network)) = standing(Hook::PortIngress, arrival, tables) else {
        return Verdict::drop(Reason::UnknownInterface);
    };
    let known = interface.endpoint_known != 0;
    let sender = Sender { interface, network, port: arrival.ifindex, known };
    let frame = match open(bytes, arrival, interface.link_layer) {
        Ok(frame) => frame,
        Err(reason) => return Verdict::drop(reason),
    };
    if frame.destination.is_reserved() {
        return Verdict::drop(Reason::ReservedMac);
    }
    let forged = if known { frame.source != interface.mac } else { frame.source.is_group() };
    if forged && network.spoofing == 0 {
        return Verdict::drop(Reason::SpoofedMac);
    }
    if frame.other_vlan {
        return Verdict::pass(Reason::SameNetwork);
    }
    match frame.ethertype {
        ethertype::IPV4 | ethertype::IPV6 => packet(&sender, &frame, bytes, tables, &mut work.packet),
        ethertype::ARP => arp(&sender, &frame, bytes, tables),
        // Other protocols pass between containers as Docker has it; the bridge's hook keeps them from the host.
        _ => Verdict::pass(Reason::SameNetwork),
    }
}

/// Decides a packet that goes up from a managed bridge to the host: by addresses alone, and vouching for nothing.
///
/// With bridge-nf-call-iptables DNAT has run already.
#[inline(always)]
pub(super) fn at_bridge<T: Tables, B: Bytes + ?Sized>(
    arrival: &Arrival,
    bytes: &B,
    tables: &T,
    work: &mut Workspace,
) -> Verdict {
    if arrival.audience == Audience::Other {
        return Verdict::pass(Reason::OtherHost);
    }
    if arrival.mark & super::mark_mask(tables.settings().mark_bit) != 0 {
        return Verdict::pass(Reason::JudgedAtPort);
    }
    let Some((interface, network)) = standing(Hook::BridgeIngress, arrival, tables) else {
        return Verdict::drop(Reason::UnknownInterface);
    };
    let sender = Sender { interface, network, port: 0, known: false };
    let frame = match open(bytes, arrival, interface.link_layer) {
        Ok(frame) => frame,
        Err(reason) => return Verdict::drop(reason),
    };
    match frame.ethertype {
        _ if frame.other_vlan => Verdict::drop(Reason::UnknownProtocol),
        ethertype::IPV4 | ethertype::IPV6 => packet(&sender, &frame, bytes, tables, &mut work.packet),
        ethertype::ARP => arp(&sender, &frame, bytes, tables),
        _ => Verdict::drop(Reason::UnknownProtocol),
    }
}

#[inline(always)]
fn standing<T: Tables>(hook: Hook, arrival: &Arrival, tables: &T) -> Option<(Interface, Network)> {
    let interface = tables.interface(arrival.ifindex)?;
    if !is_for(hook, interface.role) {
        return None;
    }
    Some((interface, tables.network(interface.network)?))
}

#[inline(always)]
fn packet<T: Tables, B: Bytes + ?Sized>(
    sender: &Sender,
    frame: &Frame,
    bytes: &B,
    tables: &T,
    packet: &mut Packet,
) -> Verdict {
    if let Err(reason) = parse(bytes, frame.ethertype, frame.network, packet) {
        return Verdict::drop(reason);
    }
    if packet.source.is_martian_source(packet.is_v4())
        || packet.destination.is_martian_destination(packet.is_v4())
    {
        return Verdict::drop(Reason::Martian);
    }
    if let Some(reason) = poses_as_router(packet) {
        return Verdict::drop(reason);
    }
    if !owns_source(sender, frame, packet, tables) {
        return Verdict::drop(Reason::SpoofedSource);
    }
    if sender.network.spoofing == 0 && !owns_target(sender, bytes, packet, tables) {
        return Verdict::drop(Reason::SpoofedNeighbour);
    }
    destination(sender, packet, tables)
}

/// The reason for which a container must not send this: it tells others where to route, or what their address is
/// (CVE-2020-13401), or it is neighbour discovery that no neighbour sends.
#[inline(always)]
fn poses_as_router(packet: &Packet) -> Option<Reason> {
    match (packet.version, packet.protocol) {
        _ if packet.fragment() == Fragment::Later => None,
        (4, proto::ICMP) if packet.icmp_type == icmp::REDIRECT.0 => Some(Reason::RogueRouter),
        (6, proto::ICMPV6) => match packet.icmp_type {
            icmp::ROUTER_ADVERTISEMENT => Some(Reason::RogueRouter),
            kind if kind == icmp::REDIRECT.1 => Some(Reason::RogueRouter),
            icmp::ROUTER_SOLICITATION..=icmp::NEIGHBOUR_ADVERTISEMENT
                if packet.hop_limit != 255 || packet.fragment() != Fragment::Whole =>
            {
                Some(Reason::BadDiscovery)
            }
            _ => None,
        },
        (4, proto::UDP) if packet.source_port == 67 && packet.destination_port == 68 => {
            Some(Reason::RogueRouter)
        }
        (6, proto::UDP) if packet.source_port == 547 && packet.destination_port == 546 => {
            Some(Reason::RogueRouter)
        }
        _ => None,
    }
}

/// Whether the sender may use this source address (BCP 38). Where spoofing is allowed, any that is not another network's.
#[inline(always)]
fn owns_source<T: Tables>(sender: &Sender, frame: &Frame, packet: &Packet, tables: &T) -> bool {
    let source = &packet.source;
    if source.is_unspecified() {
        return begins_without_address(packet);
    }
    if source.is_link_local_v6() {
        return stays_on_link(sender, packet, tables);
    }
    if sender.network.spoofing != 0 {
        let subnet = tables.subnet(source);
        return subnet.is_none_or(|subnet| subnet.network == sender.interface.network);
    }
    owns(sender, frame, source, tables)
}

/// Whether the address is the sender's: that of the known container, or else one of the network that no other port
/// and no other MAC is known to own.
#[inline(always)]
fn owns<T: Tables>(sender: &Sender, frame: &Frame, address: &Address, tables: &T) -> bool {
    let Some(endpoint) = tables.endpoint(address) else {
        let inside = tables.subnet(address).is_some_and(|subnet| subnet.network == sender.interface.network);
        // Nobody may speak as the gateway, known or not.
        let ours = tables.local_address(&LocalKey::new(*address, sender.interface.l3_device)).is_some();
        return !sender.known && inside && !ours;
    };
    endpoint.network == sender.interface.network && endpoint.mac == frame.source && sender.is_at(&endpoint)
}

/// What may be sent before there is an address: DHCP, duplicate address detection, solicitations, group reports; all
/// of them to a group or to everybody, none of them beyond the link.
#[inline(always)]
fn begins_without_address(packet: &Packet) -> bool {
    if !packet.destination.is_multicast() && !packet.destination.is_broadcast() {
        return false;
    }
    match (packet.version, packet.protocol) {
        (4, proto::UDP) => packet.source_port == 68 && packet.destination_port == 67,
        (4, proto::IGMP) => true,
        (6, proto::ICMPV6) => {
            matches!(packet.icmp_type, icmp::ROUTER_SOLICITATION | icmp::NEIGHBOUR_SOLICITATION)
                || icmp::MULTICAST_LISTENER.contains(&packet.icmp_type)
        }
        _ => false,
    }
}

/// A link-local source is good for its link: groups, neighbours, and the gateway's addresses, which the kernel probes
/// from it (RFC 4861 section 7.3).
#[inline(always)]
fn stays_on_link<T: Tables>(sender: &Sender, packet: &Packet, tables: &T) -> bool {
    packet.destination.is_multicast()
        || packet.destination.is_link_local_v6()
        || tables.subnet(&packet.destination).is_some_and(|subnet| subnet.network == sender.interface.network)
}

/// Whether a neighbour message speaks for the sender's own address. An advertisement always must, a solicitation
/// when it asks on behalf of an address that it is about to take.
#[inline(always)]
fn owns_target<T: Tables, B: Bytes + ?Sized>(
    sender: &Sender,
    bytes: &B,
    packet: &Packet,
    tables: &T,
) -> bool {
    let speaks = packet.is_icmp_of(0xff, icmp::NEIGHBOUR_ADVERTISEMENT)
        || (packet.is_icmp_of(0xff, icmp::NEIGHBOUR_SOLICITATION) && packet.source.is_unspecified());
    if packet.is_v4() || !speaks {
        return true;
    }
    let mut target = Address::zeroed();
    if packet.transport + 24 > packet.end || !bytes.read(packet.transport + 8, &mut target) {
        return false;
    }
    if target.is_link_local_v6() {
        return tables.local_address(&LocalKey::new(target, sender.interface.l3_device)).is_none();
    }
    match tables.endpoint(&target) {
        Some(endpoint) => endpoint.network == sender.interface.network && sender.is_at(&endpoint),
        None => !sender.known && tables.local_address(&LocalKey::new(target, 0)).is_none(),
    }
}

/// ARP: the sender must be who it says it is (RFC 826; probes of RFC 5227 have no address yet).
#[inline(always)]
fn arp<T: Tables, B: Bytes + ?Sized>(sender: &Sender, frame: &Frame, bytes: &B, tables: &T) -> Verdict {
    let message = match Arp::read(bytes, frame.network) {
        Ok(message) => message,
        Err(reason) => return Verdict::drop(reason),
    };
    let honest = sender.network.spoofing != 0
        || (message.sender == frame.source
            && (message.address.is_unspecified() || owns(sender, frame, &message.address, tables)));
    if honest { Verdict::pass(Reason::SameNetwork) } else { Verdict::drop(Reason::SpoofedNeighbour) }
}

/// Where a container's packet may go.
///
/// The FIB is not asked for addresses that no table knows: to the host or through it, they are open to a network that
/// is not internal, and closed to one that is. The mark OUT counts only with an uplink as output device.
#[inline(always)]
fn destination<T: Tables>(sender: &Sender, packet: &Packet, tables: &T) -> Verdict {
    let own_network = sender.interface.network;
    let destination = &packet.destination;
    let internal = sender.network.internal != 0;
    if destination.is_multicast() || destination.is_broadcast() {
        return Verdict::pass(Reason::SameNetwork);
    }
    if let Some(local) = tables.local_address(&LocalKey::new(*destination, sender.interface.l3_device)) {
        return match local.broadcast {
            _ if internal && local.ifindex != own_network => Verdict::drop(Reason::Internal),
            0 => Verdict::accept(Reason::ToHost),
            _ => Verdict::pass(Reason::SameNetwork),
        };
    }
    if destination.is_link_local_v6() {
        return Verdict::pass(Reason::SameNetwork);
    }
    match tables.subnet(destination) {
        Some(subnet) if subnet.network == own_network => {
            let vouched = sender.known && sender.network.icc != 0 && tables.endpoint(destination).is_some();
            if vouched {
                Verdict::accept(Reason::SameNetwork).marked(Mark::In)
            } else {
                Verdict::pass(Reason::SameNetwork)
            }
        }
        Some(_) => Verdict::drop(Reason::Isolation),
        None if internal => Verdict::drop(Reason::Internal),
        None => Verdict::accept(Reason::Outbound).marked(if sender.known { Mark::Out } else { Mark::None }),
    }
}
