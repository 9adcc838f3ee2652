//! Uplinks: what comes in from outside, and what goes out and so makes its reply known.
//!
//! The order of decisions is that of docs/decisions.md; each step there names its function here.

use bytemuck::Zeroable;

use super::budget::make_room;
use super::fragments::{recall, remember};
use super::lan::{self, Sender};
use super::limit::exceeded;
use super::service::{Access, Service, asks_for_service, find, find_direct};
use super::{Workspace, is_for, is_unicast, outbound};
use crate::flow::{Flow, FlowKey, counted, owner, state};
use crate::tables::{Interface, LocalKey, PortKey, Route, Tables, role};
use crate::verdict::{Action, Hook, Mark, Reason, Verdict};
use crate::wire::{
    Arrival, Audience, Bytes, Fragment, Frame, Packet, ethertype, icmp, inner_of_error, proto,
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
    let for_station = lan::is_for_station(&interface, arrival, bytes, tables);
    // A port of a bridge delivers frames for the bridge's and every other port's address as well.
    if arrival.audience == Audience::Other && interface.bridge_port == 0 && !for_station {
        return Verdict::pass(Reason::OtherHost);
    }
    match read_packet(&interface, arrival, bytes, work) {
        Ok(()) => {}
        Err(verdict) => return verdict,
    }
    let packet = &work.packet;
    if is_martian(packet) {
        return Verdict::drop(Reason::Martian);
    }
    if tables.subnet(&packet.source).is_some() {
        return Verdict::drop(Reason::SourceInside);
    }
    let by_neighbour = for_station && lan::is_from_neighbour(interface.l3_device, bytes, packet, tables);
    let destination = if for_station {
        Destination::Station
    } else {
        match locate(tables, &interface, &packet.destination, &packet.source) {
            Destination::Elsewhere if lan::may_take(&interface, arrival, &packet.destination) => {
                Destination::Station
            }
            known => known,
        }
    };
    let for_one = match destination {
        Destination::Ours => is_for_one(arrival, tables, &interface, &packet.destination),
        Destination::Station => !by_neighbour,
        Destination::Container | Destination::Elsewhere => false,
    };
    if for_one && is_own_source(tables, &interface, &packet.source) {
        return Verdict::drop(Reason::SourceOurs);
    }
    if let Some(deny) = tables.denied(&packet.source) {
        return Verdict::drop(Reason::Denied).by(deny.rule);
    }
    if by_neighbour {
        return Verdict::pass(Reason::SameNetwork);
    }
    match destination {
        Destination::Ours | Destination::Station => {
            to_us(bytes, tables, work, Flows::Renewed, destination == Destination::Station)
        }
        Destination::Container => to_container(bytes, tables, work, interface.l3_device, Flows::Renewed),
        Destination::Elsewhere => Verdict::pass(Reason::NotOurs),
    }
}

/// What becomes of the flow that a packet replies to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flows {
    /// The reply keeps it alive.
    Renewed,
    /// It is only looked at.
    Kept,
}

/// Where a packet from outside is going.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    /// The host itself.
    Ours,
    /// A container that shares the uplink with it.
    Station,
    /// A container of a managed network.
    Container,
    /// Somebody whom the host forwards to, or nobody.
    Elsewhere,
}

#[inline(always)]
fn read_packet<B: Bytes + ?Sized>(
    interface: &Interface,
    arrival: &Arrival,
    bytes: &B,
    work: &mut Workspace,
) -> Result<(), Verdict> {
    let frame = ip_frame(interface, arrival, bytes, work)?;
    work.parse(&frame, bytes).map_err(Verdict::drop)
}

/// Whether nobody outside may have this source: it is the host's, or that of a container on this uplink.
#[inline(always)]
pub(super) fn is_own_source<T: Tables>(tables: &T, interface: &Interface, source: &crate::Address) -> bool {
    tables.local_address(&LocalKey::new(*source, interface.l3_device)).is_some()
        || lan::has_address(tables, interface, source)
}

/// The frame, if it holds an IP packet that this device is to judge.
#[inline(always)]
pub(super) fn ip_frame<B: Bytes + ?Sized>(
    interface: &Interface,
    arrival: &Arrival,
    bytes: &B,
    work: &mut Workspace,
) -> Result<Frame, Verdict> {
    let frame = work.open(arrival, bytes, interface.link_layer).map_err(Verdict::drop)?;
    // A bridge that filters VLANs untags its own and hands it to the host: at its ports every tag is looked through.
    if frame.other_vlan && interface.bridge_port == 0 {
        return Err(Verdict::pass(Reason::OtherVlan));
    }
    if !matches!(frame.ethertype, ethertype::IPV4 | ethertype::IPV6) {
        return Err(Verdict::pass(Reason::NotIp));
    }
    Ok(frame)
}

/// Loopback, groups as source and the like, which no packet carries on a wire; nor has one no source, unless it is for
/// a group or for all.
#[inline(always)]
pub(super) fn is_martian(packet: &Packet) -> bool {
    packet.source.is_martian_source(packet.is_v4())
        || packet.destination.is_martian_destination(packet.is_v4())
        || (packet.source.is_unspecified() && !packet.destination.is_for_many())
}

/// Tells ours from a container's from everybody else's.
#[inline(always)]
fn locate<T: Tables>(
    tables: &T,
    interface: &Interface,
    destination: &crate::Address,
    source: &crate::Address,
) -> Destination {
    if let Some(known) = known(tables, interface, destination) {
        return known;
    }
    match tables.route(source, destination, interface.l3_device) {
        Route::Local => Destination::Ours,
        Route::Forwarded => Destination::Elsewhere,
    }
}

/// What the tables alone say of a destination.
#[inline(always)]
pub(super) fn known<T: Tables>(
    tables: &T,
    interface: &Interface,
    destination: &crate::Address,
) -> Option<Destination> {
    if lan::has_address(tables, interface, destination) {
        return Some(Destination::Station);
    }
    behind_host(tables, interface.l3_device, destination)
}

/// As [`known`], containers on the uplink aside. The address of a bridge lies in its container subnet: from outside it
/// is reached like a container, that is, not at all.
#[inline(always)]
fn behind_host<T: Tables>(tables: &T, device: u32, address: &crate::Address) -> Option<Destination> {
    if address.is_for_many() {
        return Some(Destination::Ours);
    }
    if tables.subnet(address).is_some() {
        return Some(Destination::Container);
    }
    tables.local_address(&LocalKey::new(*address, device)).is_some().then_some(Destination::Ours)
}

/// Whether one of our addresses means us alone. A broadcast that loops back comes from us, too; so a frame for all
/// counts only by an address that the tables know not to be a broadcast address.
#[inline(always)]
pub(super) fn is_for_one<T: Tables>(
    arrival: &Arrival,
    tables: &T,
    interface: &Interface,
    destination: &crate::Address,
) -> bool {
    if destination.is_for_many() {
        return false;
    }
    is_unicast(arrival)
        || tables
            .local_address(&LocalKey::new(*destination, interface.l3_device))
            .is_some_and(|local| local.broadcast == 0)
}

/// To a container's own address, in by the uplink `by`: replies, and what Docker leads there without NAT.
#[inline(always)]
pub(super) fn to_container<T: Tables, B: Bytes + ?Sized>(
    bytes: &B,
    tables: &T,
    work: &mut Workspace,
    by: u32,
    flows: Flows,
) -> Verdict {
    let Workspace { packet, inner, .. } = work;
    if packet.fragment() == Fragment::Later {
        return match recall(tables, packet) {
            Some(mark) => Verdict::accept(Reason::KnownFragment).marked(mark),
            None => Verdict::drop(Reason::UnknownFragment),
        };
    }
    let mut begun_by_peer = false;
    let accepted = if packet.is_icmp_error() {
        if related(bytes, tables, packet, inner, Whose::container(by)).is_none() {
            return Verdict::drop(Reason::UnrelatedError);
        }
        Verdict::accept(Reason::RelatedError)
    } else if let Some(flow) = reply(tables, packet, None, flows) {
        begun_by_peer = flow.owner == owner::PEER;
        Verdict::accept(Reason::Reply)
    } else {
        let verdict = direct(tables, packet, by, flows);
        if verdict.action == Action::Drop {
            return verdict;
        }
        verdict
    };
    let known = tables.endpoint(&packet.destination).is_some();
    let mark = if known && !begun_by_peer { Mark::In } else { Mark::None };
    // Who only looks leaves nothing behind: the hook behind XDP remembers.
    if flows == Flows::Renewed {
        remember(tables, packet, mark);
    }
    accepted.marked(mark)
}

/// A service at a container's own address: in the gateway modes routed and nat-unprotected, or by an uplink that Docker
/// trusts.
#[inline(always)]
fn direct<T: Tables>(tables: &T, packet: &Packet, by: u32, flows: Flows) -> Verdict {
    if !asks_for_service(packet) {
        return Verdict::drop(Reason::DirectAccess);
    }
    let at = PortKey::new(packet.destination, packet.service_proto(), packet.destination_port).by(by);
    let service = find_direct(tables, &at, &packet.source);
    if service.is_allowed() && service.limit != 0 && flows == Flows::Renewed {
        let rule = exceeded(tables, packet, service.limit);
        if rule != 0 {
            return Verdict::drop(Reason::OverLimit).by(rule);
        }
    }
    match service.access {
        Access::Rule => Verdict::accept(Reason::AllowRule).by(service.rule),
        Access::Open => Verdict::accept(Reason::PublishedOpen),
        Access::SourceNotAllowed => Verdict::drop(Reason::SourceNotAllowed).by(service.rule),
        Access::Closed if service.known => Verdict::drop(Reason::PortNotAllowed),
        Access::Closed => Verdict::drop(Reason::DirectAccess),
    }
}

/// To the host, or to a container that shares the uplink with it (`station`): there the same rules hold, Docker
/// publishes nothing, no port is shared with others, and nobody is vouched for, since the host forwards nothing.
#[inline(always)]
pub(super) fn to_us<T: Tables, B: Bytes + ?Sized>(
    bytes: &B,
    tables: &T,
    work: &mut Workspace,
    flows: Flows,
    station: bool,
) -> Verdict {
    let Workspace { packet, inner, .. } = work;
    if packet.fragment() == Fragment::Later {
        return Verdict::pass(Reason::LaterFragment);
    }
    if packet.is_icmp_error() {
        let whose = if station { Whose::STATION } else { Whose::HOST };
        return match related(bytes, tables, packet, inner, whose) {
            Some(mark) => {
                Verdict::accept(Reason::RelatedError).marked(if station { Mark::None } else { mark })
            }
            None => Verdict::drop(Reason::UnrelatedError),
        };
    }
    let mut service = Service::CLOSED;
    if asks_for_service(packet) {
        service = find(
            tables,
            &packet.destination,
            packet.service_proto(),
            packet.destination_port,
            &packet.source,
        );
    }
    if station {
        service = service.unpublished();
    }
    // What is only looked at takes no token: the hook behind does.
    if service.is_allowed() && service.limit != 0 && flows == Flows::Renewed {
        let rule = exceeded(tables, packet, service.limit);
        if rule != 0 {
            return Verdict::drop(Reason::OverLimit).by(rule);
        }
    }
    let vouched = if service.published && !packet.destination.is_multicast() { Mark::In } else { Mark::None };
    match service.access {
        Access::Rule => return Verdict::accept(Reason::AllowRule).marked(vouched).by(service.rule),
        Access::Open => return Verdict::accept(Reason::PublishedOpen).marked(vouched),
        Access::SourceNotAllowed | Access::Closed => {}
    }
    let shared = if station { None } else { Some(&service) };
    if let Some(flow) = reply(tables, packet, shared, flows) {
        return Verdict::accept(Reason::Reply).marked(if station { Mark::None } else { mark_of(&flow) });
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

/// The live flow that this packet replies to; keeps it alive if `flows` says so.
///
/// A SYN is never a reply, and of ICMP only an echo reply is. A container may choose any source port and MASQUERADE keeps it if it can: without
/// connections to tell a reply from a request, its flow must not open a port of the host that has a meaning.
/// `service` is what stands at that port; `None` where the address is the container's own and no port is shared.
#[inline(always)]
fn reply<T: Tables>(tables: &T, packet: &Packet, service: Option<&Service>, flows: Flows) -> Option<Flow> {
    if !may_reply(packet) {
        return None;
    }
    let key = FlowKey::inward(packet);
    let flow = tables.flow(&key)?;
    let now = tables.now();
    if !flow.is_live(packet.protocol, now) {
        return None;
    }
    if let Some(service) = service
        && !matches!(flow.owner, owner::HOST | owner::PEER)
        && packet.protocol != proto::TCP
        && !packet.is_icmp()
    {
        let has_ports = matches!(packet.protocol, proto::UDP | proto::UDP_LITE | proto::SCTP);
        if service.known || (has_ports && packet.destination_port < 1024) {
            return None;
        }
    }
    if flows == Flows::Renewed {
        let next = flow.received(packet, now);
        if next != flow {
            tables.refresh(&key, &next);
        }
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

/// Whose address an ICMP error comes to, which says where to look for a service that it may be about; in one register.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Whose(u32);

impl Whose {
    /// The host's.
    const HOST: Self = Self(0);
    /// That of a container which shares the uplink with it.
    const STATION: Self = Self(u32::MAX);

    /// A container's own on a managed network, by this uplink.
    fn container(by: u32) -> Self {
        Self(by)
    }
}

/// The mark for an ICMP error that concerns a flow of ours or an allowed service; `None` if it concerns neither.
///
/// The quoted packet is one that we sent: its source must be the address to which the error comes, or a forged quote
/// could steer an error to another machine.
#[inline(never)]
fn related<T: Tables, B: Bytes + ?Sized>(
    bytes: &B,
    tables: &T,
    packet: &Packet,
    inner: &mut Packet,
    whose: Whose,
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
        && flow.is_live(inner.protocol, tables.now())
    {
        return Some(mark_of(&flow));
    }
    if inner.is_icmp() {
        return None;
    }
    let service = match whose {
        Whose::HOST => find(tables, &inner.source, inner.protocol, inner.source_port, &inner.destination),
        Whose::STATION => {
            find(tables, &inner.source, inner.protocol, inner.source_port, &inner.destination).unpublished()
        }
        Whose(by) => {
            let at = PortKey::new(inner.source, inner.protocol, inner.source_port).by(by);
            find_direct(tables, &at, &inner.destination)
        }
    };
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
    let whole = !packet.has_fragment_header();
    match packet.icmp_type {
        icmp::ROUTER_SOLICITATION..=icmp::NEIGHBOUR_ADVERTISEMENT => Some(packet.hop_limit == 255 && whole),
        kind if kind == icmp::REDIRECT.1 => Some(false),
        kind if icmp::MULTICAST_LISTENER.contains(&kind) => {
            Some(whole && (packet.source.is_link_local_v6() || packet.source.is_unspecified()))
        }
        _ => None,
    }
}

/// Decides a packet that leaves by an uplink, after all NAT: flows are recorded, and what the host itself opens is
/// judged if the policy has rules for it.
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
    let judged = arrival.ingress_ifindex == 0 && tables.settings().outbound != 0;
    match read_packet(&interface, arrival, bytes, work) {
        Ok(()) => {}
        Err(verdict) if verdict.reason.is_drop() && !judged => return sent,
        Err(verdict) => return verdict,
    }
    let packet = &work.packet;
    let sender = lan::sender(&interface, bytes, packet, tables);
    let verdict = if judged && sender == Sender::Host { outbound::judge(tables, packet) } else { sent };
    if verdict.action != Action::Drop && sender != Sender::Forger && may_begin_flow(packet) {
        record(arrival, interface.l3_device, tables, packet, sender == Sender::Container);
    }
    verdict
}

/// Records the flow of a packet that leaves by an uplink whose addresses are this device's; `station` says that a container
/// which shares the uplink sent it. Out of line for a stack frame of its own.
#[inline(never)]
fn record<T: Tables>(arrival: &Arrival, device: u32, tables: &T, packet: &Packet, station: bool) {
    let key = FlowKey::outward(packet);
    let known = tables.flow(&key);
    let now = tables.now();
    let worth = if known.is_none() { worth(tables, device, packet, station) } else { Worth::Flow };
    if worth == Worth::Nothing {
        return;
    }
    let owner = if station { owner::OTHER } else { owner_of(tables, arrival.ingress_ifindex) };
    let container = match counted_by(arrival, owner, worth, known.as_ref()) {
        0 if station => counted::UNKNOWN,
        container => container,
    };
    let Some(flow) = Flow::sent(known.as_ref(), packet, owner, now) else {
        if known.is_some() {
            tables.forget(&key);
        }
        return;
    };
    // What is cut has no place in a budget, or its owner could push it out.
    let container = if flow.state == state::CUT { 0 } else { container };
    let flow = Flow { container, ..flow };
    if known == Some(flow) {
        return;
    }
    if container != 0 && known.is_none_or(|known| known.container != container) {
        make_room(tables, &key, container);
    }
    tables.record(&key, &flow);
}

/// By whose budget the flow is counted: a container's, or that of all answers under a limit; the host's own and those
/// that it forwards for others are not counted.
#[inline(always)]
fn counted_by(arrival: &Arrival, owner: u8, worth: Worth, known: Option<&Flow>) -> u16 {
    if owner == owner::CONTAINER {
        return if arrival.owner == 0 { counted::UNKNOWN } else { arrival.owner };
    }
    let answers = worth == Worth::Answer || known.is_some_and(|known| known.container == counted::ANSWERS);
    if answers { counted::ANSWERS } else { 0 }
}

#[inline(always)]
fn may_begin_flow(packet: &Packet) -> bool {
    packet.fragment() != Fragment::Later && !packet.destination.is_for_many() && asks_for_service(packet)
}

/// What a packet that belongs to no flow yet is worth.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worth {
    /// No flow: a rule lets the reply in anyway (a busy service makes no state), or the packet is somebody else's whom
    /// we only bridge.
    Nothing,
    /// A flow.
    Flow,
    /// A flow, because it answers a service under a limit, which asks whether an exchange is alive; not of TCP, where
    /// a SYN tells what is new.
    Answer,
}

#[inline(always)]
fn worth<T: Tables>(tables: &T, device: u32, packet: &Packet, station: bool) -> Worth {
    let mut worth = Worth::Flow;
    if !packet.is_icmp() {
        let mut service = if !station && tables.subnet(&packet.source).is_some() {
            let at = PortKey::new(packet.source, packet.protocol, packet.source_port).by(device);
            find_direct(tables, &at, &packet.destination)
        } else {
            find(tables, &packet.source, packet.protocol, packet.source_port, &packet.destination)
        };
        if station {
            service = service.unpublished();
        }
        if service.is_allowed() {
            if service.limit == 0 || packet.protocol == proto::TCP {
                return Worth::Nothing;
            }
            worth = Worth::Answer;
        }
    }
    // A container on the uplink may have given itself more addresses; its frame tells whose they are.
    let known = station || behind_host(tables, device, &packet.source).is_some();
    if known || tables.route(&packet.destination, &packet.source, device) == Route::Local {
        worth
    } else {
        Worth::Nothing
    }
}

#[inline(always)]
fn owner_of<T: Tables>(tables: &T, ingress_ifindex: u32) -> u8 {
    if ingress_ifindex == 0 { owner::HOST } else { owner_behind(tables, ingress_ifindex) }
}

/// The owner of what came in by this device. Out of line for a stack frame of its own: with that of [`record`] it would
/// be too large.
#[inline(never)]
fn owner_behind<T: Tables>(tables: &T, ingress_ifindex: u32) -> u8 {
    match tables.interface(ingress_ifindex) {
        Some(interface) if matches!(interface.role, role::BRIDGE | role::PORT) => owner::CONTAINER,
        _ => owner::OTHER,
    }
}
