//! Connections that the host itself opens to the outside, where the policy has rules for them.

use super::fragments::{recall, remember};
use super::service::find;
use crate::flow::{FlowKey, owner};
use crate::tables::{OutKey, Tables, sources};
use crate::verdict::{Action, Mark, Reason, Verdict};
use crate::wire::{Fragment, Packet, icmp, proto};

/// Decides a packet of the host itself that leaves by an uplink. docker-proxy is the host, too.
///
/// Only what opens a connection needs a rule. Of TCP that is a SYN alone: without it no socket of this host sends
/// anything, so that connections from before the rules go on, whether we have seen them or not. Of all else it is what
/// neither answers an allowed client of a service nor belongs to a flow that was recorded.
#[inline(never)]
pub(super) fn judge<T: Tables>(tables: &T, packet: &Packet) -> Verdict {
    if packet.fragment() == Fragment::Later {
        return match recall(tables, packet) {
            Some(_) => Verdict::accept(Reason::KnownFragment),
            None => Verdict::drop(Reason::UnknownFragment),
        };
    }
    let verdict = if opens(tables, packet) { by_rule(tables, packet) } else { Verdict::pass(Reason::Sent) };
    if verdict.action != Action::Drop {
        remember(tables, packet, Mark::None);
    }
    verdict
}

#[inline(always)]
fn opens<T: Tables>(tables: &T, packet: &Packet) -> bool {
    if packet.protocol == proto::TCP {
        return packet.opens();
    }
    !(is_essential(packet) || packet.is_icmp_error() || answers(tables, packet) || is_known(tables, packet))
}

/// What the host needs to have a network at all: address, neighbours, routers, groups.
#[inline(always)]
fn is_essential(packet: &Packet) -> bool {
    match (packet.version, packet.protocol) {
        (4, proto::IGMP) => packet.destination.is_multicast(),
        (4, proto::UDP) => packet.source_port == 68 && packet.destination_port == 67,
        (6, proto::UDP) => packet.source_port == 546 && packet.destination_port == 547,
        (6, proto::ICMPV6) => {
            matches!(packet.icmp_type, icmp::ROUTER_SOLICITATION..=icmp::NEIGHBOUR_ADVERTISEMENT)
                || icmp::MULTICAST_LISTENER.contains(&packet.icmp_type)
        }
        _ => false,
    }
}

/// Whether this may be the answer of a service to a client that is allowed to use it. Of UDP nothing tells an answer
/// from a question that comes from the service's port.
#[inline(always)]
fn answers<T: Tables>(tables: &T, packet: &Packet) -> bool {
    if packet.is_icmp() && !packet.is_icmp_of(icmp::ECHO_REPLY.0, icmp::ECHO_REPLY.1) {
        return false;
    }
    find(tables, &packet.source, packet.service_proto(), packet.source_port, &packet.destination).is_allowed()
}

/// Whether the host has recorded the flow, and so was allowed to begin it, or the peer had begun it before the hooks
/// were there.
#[inline(always)]
fn is_known<T: Tables>(tables: &T, packet: &Packet) -> bool {
    match tables.flow(&FlowKey::outward(packet)) {
        Some(flow) => {
            matches!(flow.owner, owner::HOST | owner::PEER) && flow.is_live(packet.protocol, tables.now())
        }
        None => false,
    }
}

/// The rule for the port, then for the source port, for both, for neither: the first that holds the destination.
#[inline(always)]
fn by_rule<T: Tables>(tables: &T, packet: &Packet) -> Verdict {
    let refused = Verdict::drop(Reason::OutNotAllowed);
    let (mut port, mut source_port) = (packet.destination_port, packet.source_port);
    if packet.is_icmp() {
        if !packet.is_icmp_of(icmp::ECHO.0, icmp::ECHO.1) {
            return refused;
        }
        (port, source_port) = (0, 0);
    }
    let mut zones = None;
    for (port, source_port) in [(port, 0), (0, source_port), (port, source_port), (0, 0)] {
        let Some(rule) = tables.outbound(&OutKey::new(packet.service_proto(), port, source_port)) else {
            continue;
        };
        let holds = rule.destinations == sources::ANY || {
            let held = zones.unwrap_or_else(|| tables.zones(&packet.destination));
            zones = Some(held);
            rule.destinations == sources::ZONES && held & rule.zones != 0
        };
        if holds {
            return Verdict::accept(Reason::OutRule).by(rule.rule);
        }
    }
    refused
}
