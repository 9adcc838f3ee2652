//! Bridges: everything that a container sends, at its port, and the backstop at the bridge for ports without a hook.

use bytemuck::Zeroable as _;

use super::inbound::{answers, record, record_direct};
use super::service::{Access, asks_for_service, find_direct};
use super::{Workspace, apart, is_for};
use crate::address::Address;
use crate::flow::{counted, owner};
use crate::tables::{
    Endpoint, Interface, LocalKey, Network, PortKey, ReachKey, Route, Tables, Terms, egress, role,
};
use crate::verdict::{Hook, Mark, Reason, Verdict};
use crate::wire::{Arp, Arrival, Audience, Bytes, Fragment, Frame, Packet, ethertype, icmp, proto};

/// Whoever sends: what is known of it.
pub(super) struct Sender {
    /// The port, or at the bridge the bridge.
    pub(super) interface: Interface,
    pub(super) network: Network,
    /// The port behind which it is; 0 at the bridge, where the port is not told.
    pub(super) port: u32,
    /// Whether MAC and addresses are those of one known container; only then is anything vouched for.
    pub(super) known: bool,
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
    work.owner = interface.owner;
    let known = interface.endpoint_known != 0;
    let sender = Sender { interface, network, port: arrival.ifindex, known };
    let frame = match work.open(arrival, bytes, interface.link_layer) {
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
    match frame.ethertype {
        // Neither concerns the host: the bridge's hook keeps it from there, and between containers it is `icc`'s to say.
        _ if frame.other_vlan => no_internet(&sender),
        ethertype::IPV4 | ethertype::IPV6 => packet(&sender, &frame, bytes, tables, work),
        ethertype::ARP => arp(&sender, &frame, bytes, tables),
        _ => no_internet(&sender),
    }
}

/// What is neither IP nor ARP, or in a VLAN of its own.
#[inline(always)]
fn no_internet(sender: &Sender) -> Verdict {
    if sender.network.icc == 0 { Verdict::drop(Reason::Icc) } else { Verdict::pass(Reason::SameNetwork) }
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
        // A mark is not forged, for none crosses a veth; the number beside it may be, but where a port's hook marked.
        return match arrival.owner {
            counted::TO_HOST => Verdict::accept(Reason::ToHost),
            _ => Verdict::pass(Reason::JudgedAtPort),
        };
    }
    let Some((interface, network)) = standing(Hook::BridgeIngress, arrival, tables) else {
        return Verdict::drop(Reason::UnknownInterface);
    };
    let sender = Sender { interface, network, port: 0, known: false };
    let frame = match work.open(arrival, bytes, interface.link_layer) {
        Ok(frame) => frame,
        Err(reason) => return Verdict::drop(reason),
    };
    match frame.ethertype {
        _ if frame.other_vlan => Verdict::drop(Reason::UnknownProtocol),
        ethertype::IPV4 | ethertype::IPV6 => packet(&sender, &frame, bytes, tables, work),
        ethertype::ARP => arp(&sender, &frame, bytes, tables),
        _ => Verdict::drop(Reason::UnknownProtocol),
    }
}

/// The device and its network, if the hook may decide there. To a container that is kept apart alone its network is one
/// without `icc`.
#[inline(always)]
pub(super) fn standing<T: Tables>(hook: Hook, arrival: &Arrival, tables: &T) -> Option<(Interface, Network)> {
    let interface = tables.interface(arrival.ifindex)?;
    if !is_for(hook, interface.role) {
        return None;
    }
    let mut network = tables.network(interface.network)?;
    if interface.apart != 0 {
        network.icc = 0;
    }
    Some((interface, network))
}

#[inline(always)]
fn packet<T: Tables, B: Bytes + ?Sized>(
    sender: &Sender,
    frame: &Frame,
    bytes: &B,
    tables: &T,
    work: &mut Workspace,
) -> Verdict {
    if let Err(reason) = work.parse(frame, bytes) {
        return Verdict::drop(reason);
    }
    let packet = &work.packet;
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
    if sender.network.spoofing == 0 && !owns_target(sender, frame, bytes, packet, tables) {
        return Verdict::drop(Reason::SpoofedNeighbour);
    }
    if sender.network.icc == 0 && apart::means_neighbour(sender, frame, packet, tables) {
        return apart::to_neighbour(sender, frame, packet, tables);
    }
    let terms = terms_of(sender, frame, packet, tables);
    destination(sender, frame, &terms, bytes, tables, work)
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
                if packet.hop_limit != 255 || packet.has_fragment_header() =>
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
#[inline(never)]
fn owns_source<T: Tables>(sender: &Sender, frame: &Frame, packet: &Packet, tables: &T) -> bool {
    let source = &packet.source;
    if source.is_unspecified() {
        return begins_without_address(packet);
    }
    if source.is_link_local_v6() {
        return (sender.network.spoofing != 0 || may_be_own(sender, frame, source, tables))
            && stays_on_link(sender, packet, tables);
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
    if !packet.destination.is_for_many() {
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

/// Whether a link-local address, of which no table says who owns it, may be the sender's: it is not the host's, nor
/// made from the MAC address of somebody else (RFC 4291 appendix A, what the kernel does with a container's).
#[inline(always)]
fn may_be_own<T: Tables>(sender: &Sender, frame: &Frame, address: &Address, tables: &T) -> bool {
    !address.is_made_from_other(&frame.source)
        && tables.local_address(&LocalKey::new(*address, sender.interface.l3_device)).is_none()
}

/// Whether a neighbour message speaks for the sender's own address. An advertisement always must, a solicitation
/// when it asks on behalf of an address that it is about to take.
#[inline(never)]
fn owns_target<T: Tables, B: Bytes + ?Sized>(
    sender: &Sender,
    frame: &Frame,
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
        return may_be_own(sender, frame, &target, tables);
    }
    match tables.endpoint(&target) {
        Some(endpoint) => endpoint.network == sender.interface.network && sender.is_at(&endpoint),
        None => !sender.known && tables.local_address(&LocalKey::new(target, 0)).is_none(),
    }
}

/// ARP: the sender must be who it says it is (RFC 826; probes of RFC 5227 have no address yet).
#[inline(never)]
fn arp<T: Tables, B: Bytes + ?Sized>(sender: &Sender, frame: &Frame, bytes: &B, tables: &T) -> Verdict {
    let message = match Arp::read(bytes, frame.network) {
        Ok(message) => message,
        Err(reason) => return Verdict::drop(reason),
    };
    let honest = sender.network.spoofing != 0
        || (message.sender == frame.source
            && (message.address.is_unspecified() || owns(sender, frame, &message.address, tables)));
    if !honest {
        return Verdict::drop(Reason::SpoofedNeighbour);
    }
    if sender.network.icc == 0 && sender.port != 0 {
        return apart::arp(sender, frame, &message, tables);
    }
    Verdict::pass(Reason::SameNetwork)
}

/// Where a container's packet may go.
///
/// The FIB is not asked for addresses that no table knows: they are outside, and open or closed as the terms have it;
/// only where the host is closed an address must not be one of its own. The mark OUT counts only with an uplink as
/// output device.
#[inline(always)]
fn destination<T: Tables, B: Bytes + ?Sized>(
    sender: &Sender,
    frame: &Frame,
    terms: &Terms,
    bytes: &B,
    tables: &T,
    work: &mut Workspace,
) -> Verdict {
    let packet = &work.packet;
    let own_network = sender.interface.network;
    let destination = &packet.destination;
    let internal = sender.network.internal != 0;
    if destination.is_for_many() {
        return to_group(sender, frame, packet, terms, tables);
    }
    if let Some(local) = tables.local_address(&LocalKey::new(*destination, sender.interface.l3_device)) {
        return match local.broadcast {
            _ if internal && local.ifindex != own_network => Verdict::drop(Reason::Internal),
            0 => to_host(sender, terms, bytes, tables, work),
            _ => to_group(sender, frame, packet, terms, tables),
        };
    }
    if destination.is_link_local_v6() {
        return Verdict::pass(Reason::SameNetwork);
    }
    match tables.subnet(destination) {
        Some(subnet) if subnet.network == own_network => {
            // What goes up and is delivered here though no table says so: anycast of routers, an unwritten broadcast.
            let closed = sender.port == 0 && terms.host == 0 && !keeps_link(packet);
            if closed && tables.route(&packet.source, destination, sender.interface.l3_device) == Route::Local
            {
                return Verdict::drop(Reason::HostDenied);
            }
            let there = tables.endpoint(destination);
            // Past the bridge's hook it might come back to the container over the host.
            if there.is_some_and(|there| apart::is_apart(there.port, tables)) {
                return Verdict::drop(Reason::Icc);
            }
            if sender.known && sender.network.icc != 0 && there.is_some() {
                Verdict::accept(Reason::SameNetwork).marked(Mark::In)
            } else {
                Verdict::pass(Reason::SameNetwork)
            }
        }
        Some(subnet) => to_network(sender, subnet.network, terms, bytes, tables, work),
        None if internal => Verdict::drop(Reason::Internal),
        None => to_outside(sender, terms, bytes, tables, work),
    }
}

/// What holds for the sender. At the bridge his port is not told: it is that of the container whose addresses he has.
#[inline(always)]
fn terms_of<T: Tables>(sender: &Sender, frame: &Frame, packet: &Packet, tables: &T) -> Terms {
    if sender.port != 0 {
        return sender.interface.terms;
    }
    if let Some(endpoint) = tables.endpoint(&packet.source)
        && endpoint.network == sender.interface.network
        && endpoint.mac == frame.source
        && let Some(port) = tables.interface(endpoint.port)
        && port.role == role::PORT
    {
        return port.terms;
    }
    sender.network.terms
}

/// To a group or to all: neighbours may hear it, and the host only if it is open; or if it is how the host learns who
/// is there.
///
/// The bridge's hook tells that, by the terms of the container that owns the source. Of a source that no table knows
/// (link-local, or none yet) only the port can: where the network may and this container may not, nobody hears it.
#[inline(always)]
fn to_group<T: Tables>(
    sender: &Sender,
    frame: &Frame,
    packet: &Packet,
    terms: &Terms,
    tables: &T,
) -> Verdict {
    let told_here = sender.port == 0
        || (sender.network.terms.host != 0
            && tables
                .endpoint(&packet.source)
                .is_none_or(|endpoint| endpoint.port != sender.port || endpoint.mac != frame.source));
    let closed = terms.host == 0 && !keeps_link(packet) && told_here;
    if closed { Verdict::drop(Reason::HostDenied) } else { Verdict::pass(Reason::SameNetwork) }
}

/// Discovery of neighbours and group reports, as harmless as ARP: their form has been checked.
#[inline(always)]
fn keeps_link(packet: &Packet) -> bool {
    match (packet.version, packet.protocol) {
        (4, proto::IGMP) => true,
        (6, proto::ICMPV6) => {
            packet.fragment() == Fragment::Whole
                && (matches!(
                    packet.icmp_type,
                    icmp::ROUTER_SOLICITATION | icmp::NEIGHBOUR_SOLICITATION | icmp::NEIGHBOUR_ADVERTISEMENT
                ) || icmp::MULTICAST_LISTENER.contains(&packet.icmp_type))
        }
        _ => false,
    }
}

/// To this host. What becomes of it there is NAT's to say: a published port that is reached through the host is what
/// Docker makes of it, for IN and REACH are not given.
///
/// OUT is, as far as the bridge's hook, to a container that may send it out by an uplink anyway, or answers what came in:
/// with bridge-nf-call-iptables that hook sees the answer to a connection of this host to 127.0.0.1 after NAT, and could
/// not tell it from a forged frame. It takes the mark off, or what a tunnel of the host brings would inherit it.
#[inline(always)]
fn to_host<T: Tables, B: Bytes + ?Sized>(
    sender: &Sender,
    terms: &Terms,
    bytes: &B,
    tables: &T,
    work: &mut Workspace,
) -> Verdict {
    let reason = if terms.host != 0 || keeps_link(&work.packet) {
        Reason::ToHost
    } else if answers(bytes, tables, work) {
        Reason::Answer
    } else {
        return Verdict::drop(Reason::HostDenied);
    };
    let anywhere = terms.egress & egress::ANY != 0 || reason == Reason::Answer;
    let vouched =
        sender.known && sender.network.internal == 0 && anywhere && !work.packet.source.is_link_local_v6();
    if !vouched {
        return Verdict::accept(reason);
    }
    work.owner = counted::TO_HOST;
    Verdict::accept(reason).marked(Mark::Out)
}

/// To another managed network: only one that the sender's may reach, or in answer to one that may reach the sender's; or
/// to a container port that is open to it as to the outside, for it is reached without NAT. That goes unmarked, as the
/// running Docker has it; where Docker writes no rules nobody else says whether networks meet, and it is marked IN.
#[inline(always)]
fn to_network<T: Tables, B: Bytes + ?Sized>(
    sender: &Sender,
    network: u32,
    terms: &Terms,
    bytes: &B,
    tables: &T,
    work: &mut Workspace,
) -> Verdict {
    let packet = &work.packet;
    let vouched = sender.known && tables.endpoint(&packet.destination).is_some();
    let mark = if vouched { Mark::Reach } else { Mark::None };
    if tables.reaches(&ReachKey { from: sender.interface.network, to: network }) {
        record(tables, packet, owner::CONTAINER);
        return Verdict::accept(Reason::Reach).marked(mark);
    }
    if answers(bytes, tables, work) {
        return Verdict::accept(Reason::Answer).marked(mark);
    }
    let packet = &work.packet;
    if sender.network.internal == 0
        && packet.fragment() != Fragment::Later
        && asks_for_service(packet)
        && may_open(terms, &packet.destination, tables)
    {
        let at = PortKey::new(packet.destination, packet.service_proto(), packet.destination_port);
        let service = find_direct(tables, &at, &packet.source);
        let reason = match service.access {
            Access::Rule => Some(Reason::AllowRule),
            Access::Open => Some(Reason::PublishedOpen),
            Access::SourceNotAllowed | Access::Closed => None,
        };
        if let Some(reason) = reason {
            record_direct(tables, packet);
            let decided = vouched && tables.settings().nat_owned != 0;
            let mark = if decided { Mark::In } else { Mark::None };
            return Verdict::accept(reason).by(service.rule).marked(mark);
        }
    }
    Verdict::drop(Reason::Isolation)
}

/// To the outside, as the terms have it.
#[inline(always)]
fn to_outside<T: Tables, B: Bytes + ?Sized>(
    sender: &Sender,
    terms: &Terms,
    bytes: &B,
    tables: &T,
    work: &mut Workspace,
) -> Verdict {
    let mark = if sender.known { Mark::Out } else { Mark::None };
    if terms.is_restricted() && answers(bytes, tables, work) {
        return Verdict::accept(Reason::Answer).marked(mark);
    }
    let packet = &work.packet;
    if !may_open(terms, &packet.destination, tables) {
        return Verdict::drop(Reason::Egress);
    }
    if terms.host == 0
        && tables.route(&packet.source, &packet.destination, sender.interface.l3_device) == Route::Local
    {
        return Verdict::drop(Reason::HostDenied);
    }
    Verdict::accept(Reason::Outbound).marked(mark)
}

/// Whether these terms let a container open connections to this address outside.
#[inline(never)]
fn may_open<T: Tables>(terms: &Terms, destination: &Address, tables: &T) -> bool {
    terms.egress & egress::ANY != 0
        || (terms.egress & egress::INTERNET != 0 && destination.is_public())
        || (may_open_zones(terms, destination) && tables.zones(destination) & terms.zones != 0)
}

/// Whether it is open if it is in one of the zones.
#[inline(always)]
fn may_open_zones(terms: &Terms, destination: &Address) -> bool {
    terms.egress & egress::ZONES != 0 || (terms.egress & egress::PUBLIC_ZONES != 0 && destination.is_public())
}
