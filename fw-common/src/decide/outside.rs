//! Uplinks: what comes in from outside, and what goes out and so makes its reply known.
//!
//! The order of decisions is that of docs/decisions.md; each step there names its function here.

use bytemuck::Zeroable;

use super::service::{Access, Service, asks_for_service, find};
use super::{Workspace, is_for, is_unicast};
use crate::flow::{Flow, FlowKey, owner};
use crate::tables::{Interface, LocalKey, Route, Tables, role};
use crate::verdict::{Hook, Mark, Reason, Verdict};
use crate::wire::{
    Arrival, Audience, Bytes, Fragment, Packet, ethertype, icmp, inner_of_error, open, parse, proto,
};

/// Decides a packet that arrives on an uplink, before any NAT.
#[inline(always)]
pub(super) fn coming_in<T: Tables, B: Bytes + ?Sized>(
    arrival: &Arrival,
    bytes: &B,
    tables: &T,
    work: &mut Workspace,
) -> Verdict {
    let interface = match tables.interface(arrival.ifindex) {
        Some(interface) if is_for(Hook::UplinkIngress, interface.role) => interface,
        _ => return Verdict::drop(Reason::UnknownInterface),
    };
    // A port of a bridge delivers frames for the bridge's and every other port's address as well.
    if arrival.audience == Audience::Other && interface.bridge_port == 0 {
        return Verdict::pass(Reason::OtherHost);
    }
    match read_packet(&interface, arrival, bytes, &mut work.packet) {
        Ok(()) => {}
        Err(verdict) => return verdict,
    }
    let packet = &work.packet;
    if packet.source.is_martian_source(packet.is_v4())
        || packet.destination.is_martian_destination(packet.is_v4())
    {
        return Verdict::drop(Reason::Martian);
    }
    if tables.subnet(&packet.source).is_some() {
        return Verdict::drop(Reason::SourceInside);
    }
    let destination = locate(tables, &interface, &packet.destination, &packet.source);
    if destination == Destination::Ours
        && tables.local_address(&LocalKey::new(packet.source, interface.l3_device)).is_some()
        && is_for_one(arrival, tables, &interface, &packet.destination)
    {
        return Verdict::drop(Reason::SourceOurs);
    }
    if let Some(deny) = tables.denied(&packet.source) {
        return Verdict::drop(Reason::Denied).by(deny.rule);
    }
    match destination {
        Destination::Ours => to_us(bytes, tables, work),
        Destination::Container => to_container(bytes, tables, work),
        Destination::Elsewhere => Verdict::pass(Reason::NotOurs),
    }
}

/// Where a packet from outside is going.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Destination {
    Ours,
    Container,
    Elsewhere,
}

#[inline(always)]
fn read_packet<B: Bytes + ?Sized>(
    interface: &Interface,
    arrival: &Arrival,
    bytes: &B,
    packet: &mut Packet,
) -> Result<(), Verdict> {
    let frame = open(bytes, arrival, interface.link_layer).map_err(Verdict::drop)?;
    // A bridge that filters VLANs untags its own and hands it to the host: at its ports every tag is looked through.
    if frame.other_vlan && interface.bridge_port == 0 {
        return Err(Verdict::pass(Reason::OtherVlan));
    }
    if !matches!(frame.ethertype, ethertype::IPV4 | ethertype::IPV6) {
        return Err(Verdict::pass(Reason::NotIp));
    }
    parse(bytes, frame.ethertype, frame.network, packet).map_err(Verdict::drop)
}

/// Tells ours from a container's from everybody else's. The address of a bridge lies in its container subnet: from
/// outside it is reached like a container, that is, not at all.
#[inline(always)]
fn locate<T: Tables>(
    tables: &T,
    interface: &Interface,
    destination: &crate::Address,
    source: &crate::Address,
) -> Destination {
    if destination.is_multicast() || destination.is_broadcast() {
        return Destination::Ours;
    }
    if tables.subnet(destination).is_some() {
        return Destination::Container;
    }
    if tables.local_address(&LocalKey::new(*destination, interface.l3_device)).is_some() {
        return Destination::Ours;
    }
    match tables.route(source, destination, interface.l3_device) {
        Route::Local => Destination::Ours,
        Route::Forwarded => Destination::Elsewhere,
    }
}

/// Whether one of our addresses means us alone. A broadcast that loops back comes from us, too; so a frame for all
/// counts only by an address that the tables know not to be a broadcast address.
#[inline(always)]
fn is_for_one<T: Tables>(
    arrival: &Arrival,
    tables: &T,
    interface: &Interface,
    destination: &crate::Address,
) -> bool {
    if destination.is_multicast() || destination.is_broadcast() {
        return false;
    }
    is_unicast(arrival)
        || tables
            .local_address(&LocalKey::new(*destination, interface.l3_device))
            .is_some_and(|local| local.broadcast == 0)
}

#[inline(always)]
fn to_container<T: Tables, B: Bytes + ?Sized>(bytes: &B, tables: &T, work: &mut Workspace) -> Verdict {
    let Workspace { packet, inner } = work;
    if packet.fragment() == Fragment::Later {
        return Verdict::drop(Reason::UnknownFragment);
    }
    let reason = if packet.is_icmp_error() {
        if related(bytes, tables, packet, inner, false).is_none() {
            return Verdict::drop(Reason::UnrelatedError);
        }
        Reason::RelatedError
    } else {
        if reply(tables, packet, None).is_none() {
            return Verdict::drop(Reason::DirectAccess);
        }
        Reason::Reply
    };
    let known = tables.endpoint(&packet.destination).is_some();
    Verdict::accept(reason).marked(if known { Mark::In } else { Mark::None })
}

#[inline(always)]
fn to_us<T: Tables, B: Bytes + ?Sized>(bytes: &B, tables: &T, work: &mut Workspace) -> Verdict {
    let Workspace { packet, inner } = work;
    if packet.fragment() == Fragment::Later {
        return Verdict::pass(Reason::LaterFragment);
    }
    if packet.is_icmp_error() {
        return match related(bytes, tables, packet, inner, true) {
            Some(mark) => Verdict::accept(Reason::RelatedError).marked(mark),
            None => Verdict::drop(Reason::UnrelatedError),
        };
    }
    let mut service = Service { known: false, published: false, access: Access::Closed, rule: 0 };
    if asks_for_service(packet) {
        service = find(
            tables,
            &packet.destination,
            packet.service_proto(),
            packet.destination_port,
            &packet.source,
        );
    }
    let vouched = if service.published && !packet.destination.is_multicast() { Mark::In } else { Mark::None };
    match service.access {
        Access::Rule => return Verdict::accept(Reason::AllowRule).marked(vouched).by(service.rule),
        Access::Open => return Verdict::accept(Reason::PublishedOpen).marked(vouched),
        Access::SourceNotAllowed | Access::Closed => {}
    }
    if let Some(flow) = reply(tables, packet, Some(&service)) {
        return Verdict::accept(Reason::Reply).marked(mark_of(&flow));
    }
    match essential(packet) {
        Some(true) => Verdict::pass(Reason::Essential),
        Some(false) => Verdict::drop(Reason::BadDiscovery),
        None if service.access == Access::SourceNotAllowed => {
            Verdict::drop(Reason::SourceNotAllowed).by(service.rule)
        }
        None => Verdict::drop(Reason::PortNotAllowed),
    }
}

/// Only what a container began is vouched for; what ends in a socket of the host needs no mark, and a tunnel's
/// inner packet would inherit it.
#[inline(always)]
fn mark_of(flow: &Flow) -> Mark {
    if flow.owner == owner::CONTAINER { Mark::In } else { Mark::None }
}

/// The live flow that this packet replies to; keeps it alive.
///
/// A SYN is never a reply, and of ICMP only an echo reply is. A container may choose any source port and MASQUERADE keeps it if it can: without
/// connections to tell a reply from a request, its flow must not open a port of the host that has a meaning.
/// `service` is what stands at that port; `None` where the address is the container's own and no port is shared.
#[inline(always)]
fn reply<T: Tables>(tables: &T, packet: &Packet, service: Option<&Service>) -> Option<Flow> {
    if !may_reply(packet) {
        return None;
    }
    let key = FlowKey::inward(packet);
    let flow = tables.flow(&key)?;
    let now = tables.now();
    if flow.is_expired(packet.protocol, now) {
        return None;
    }
    if let Some(service) = service
        && flow.owner != owner::HOST
        && packet.protocol != proto::TCP
        && !packet.is_icmp()
    {
        let has_ports = matches!(packet.protocol, proto::UDP | proto::UDP_LITE | proto::SCTP);
        if service.known || (has_ports && packet.destination_port < 1024) {
            return None;
        }
    }
    let next = flow.received(packet, now);
    if next != flow {
        tables.refresh(&key, &next);
    }
    Some(flow)
}

/// Whether the packet can be a reply at all. Of all other ICMP messages the identifier reads as 0, which is also that
/// of a ping of ours that chose it.
#[inline(always)]
fn may_reply(packet: &Packet) -> bool {
    match packet.protocol {
        proto::ICMP | proto::ICMPV6 => packet.is_icmp_of(icmp::ECHO_REPLY.0, icmp::ECHO_REPLY.1),
        _ => !packet.opens(),
    }
}

/// The mark for an ICMP error that concerns a flow of ours or, where `services` can be asked for, an allowed one;
/// `None` if it concerns neither. At a container's own address there is no service: rules name ports of the host.
///
/// The quoted packet is one that we sent: its source must be the address to which the error comes, or a forged quote
/// could steer an error to another machine.
#[inline(never)]
fn related<T: Tables, B: Bytes + ?Sized>(
    bytes: &B,
    tables: &T,
    packet: &Packet,
    inner: &mut Packet,
    services: bool,
) -> Option<Mark> {
    *inner = Packet::zeroed();
    if !inner_of_error(bytes, packet, inner) || inner.source != packet.destination {
        return None;
    }
    let quotes_request = !inner.is_icmp() || inner.is_icmp_of(icmp::ECHO.0, icmp::ECHO.1);
    if !quotes_request {
        return None;
    }
    if let Some(flow) = tables.flow(&FlowKey::outward(inner))
        && !flow.is_expired(inner.protocol, tables.now())
    {
        return Some(mark_of(&flow));
    }
    if inner.is_icmp() || !services {
        return None;
    }
    let service = find(tables, &inner.source, inner.protocol, inner.source_port, &inner.destination);
    let vouched = if service.published { Mark::In } else { Mark::None };
    service.is_allowed().then_some(vouched)
}

/// Whether the packet is one without which the host loses its network: neighbour discovery (RFC 4890 section 4.4.1),
/// group membership, answers of a DHCP server. `Some(false)`: it says so and must not be believed.
#[inline(always)]
fn essential(packet: &Packet) -> Option<bool> {
    match (packet.version, packet.protocol) {
        (4, proto::IGMP) => Some(packet.destination.is_multicast()),
        (4, proto::ICMP) if packet.icmp_type == icmp::REDIRECT.0 => Some(false),
        (4, proto::UDP) => (packet.source_port == 67 && packet.destination_port == 68).then_some(true),
        (6, proto::UDP) => {
            (packet.source_port == 547 && packet.destination_port == 546 && packet.source.is_link_local_v6())
                .then_some(true)
        }
        (6, proto::ICMPV6) => discovery(packet),
        _ => None,
    }
}

/// Neighbour discovery is believed only from the link itself (hop limit 255, RFC 4861) and whole (RFC 6980).
#[inline(always)]
fn discovery(packet: &Packet) -> Option<bool> {
    let whole = packet.fragment() == Fragment::Whole;
    match packet.icmp_type {
        icmp::ROUTER_SOLICITATION..=icmp::NEIGHBOUR_ADVERTISEMENT => Some(packet.hop_limit == 255 && whole),
        kind if kind == icmp::REDIRECT.1 => Some(false),
        kind if icmp::MULTICAST_LISTENER.contains(&kind) => {
            Some(whole && (packet.source.is_link_local_v6() || packet.source.is_unspecified()))
        }
        _ => None,
    }
}

/// Decides a packet that leaves by an uplink, after all NAT: nothing is dropped here, flows are recorded.
#[inline(always)]
pub(super) fn going_out<T: Tables, B: Bytes + ?Sized>(
    arrival: &Arrival,
    bytes: &B,
    tables: &T,
    work: &mut Workspace,
) -> Verdict {
    let sent = Verdict::pass(Reason::Sent);
    let interface = match tables.interface(arrival.ifindex) {
        Some(interface) if is_for(Hook::UplinkEgress, interface.role) => interface,
        _ => return sent,
    };
    match read_packet(&interface, arrival, bytes, &mut work.packet) {
        Ok(()) => {}
        Err(verdict) if verdict.reason.is_drop() => return sent,
        Err(verdict) => return verdict,
    }
    let packet = &work.packet;
    if !may_begin_flow(packet) {
        return sent;
    }
    let key = FlowKey::outward(packet);
    let known = tables.flow(&key);
    let now = tables.now();
    if known.is_none() && !deserves_flow(tables, &interface, packet) {
        return sent;
    }
    let flow = Flow::sent(known.as_ref(), packet, owner_of(tables, arrival.ingress_ifindex), now);
    match flow {
        Some(flow) if known != Some(flow) => tables.record(&key, &flow),
        None if known.is_some() => tables.forget(&key),
        Some(_) | None => {}
    }
    sent
}

#[inline(always)]
fn may_begin_flow(packet: &Packet) -> bool {
    packet.fragment() != Fragment::Later
        && !packet.destination.is_multicast()
        && !packet.destination.is_broadcast()
        && asks_for_service(packet)
}

/// Whether the reply would need a flow to be let in: not if a rule holds the peer anyway (a busy service makes no
/// state), and not if the packet is somebody else's whom we only bridge.
#[inline(always)]
fn deserves_flow<T: Tables>(tables: &T, interface: &Interface, packet: &Packet) -> bool {
    if !packet.is_icmp()
        && find(tables, &packet.source, packet.protocol, packet.source_port, &packet.destination).is_allowed()
    {
        return false;
    }
    locate(tables, interface, &packet.source, &packet.destination) != Destination::Elsewhere
}

#[inline(always)]
fn owner_of<T: Tables>(tables: &T, ingress_ifindex: u32) -> u8 {
    if ingress_ifindex == 0 {
        return owner::HOST;
    }
    match tables.interface(ingress_ifindex) {
        Some(interface) if matches!(interface.role, role::BRIDGE | role::PORT) => owner::CONTAINER,
        _ => owner::OTHER,
    }
}
