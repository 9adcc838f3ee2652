//! The differences that are meant: where fw is right, or where both are.

use std::net::{IpAddr, Ipv4Addr};

use super::policy::{Egress, Policy};
use super::topology::{HOST_NAME, Network, OUTSIDE_NAME, Topology};
use super::traffic::{By, Conversation, Form, Header, Link, Step};
use super::twin::{Fate, Sent, forged};
use crate::lab::frame::{ICMP, ICMPV6, SYN, TCP};
use crate::lab::{HOST, HOST6};

/// One kind of difference, with why it is meant.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    /// Whether a difference is of this kind.
    holds: fn(&Facts<'_>) -> bool,
    /// The reasons with which fw drops the packet; none if it is the stock host that drops it.
    pub(super) reasons: &'static [&'static str],
    pub(super) why: &'static str,
    /// Rows of the reliability matrix, and the section of the documents that says so.
    pub(super) source: &'static str,
}

/// What is known about a difference.
pub(super) struct Facts<'a> {
    pub(super) topology: &'a Topology,
    pub(super) policy: &'a Policy,
    pub(super) conversation: &'a Conversation,
    /// The conversation whose tuple this one uses.
    pub(super) before: Option<&'a Conversation>,
    pub(super) step: usize,
    /// As it was sent.
    pub(super) sent: Option<&'a Sent>,
    pub(super) stock: &'a Fate,
    pub(super) fw: &'a Fate,
    /// Whether an earlier packet of this conversation, or of the one it uses, differs already.
    pub(super) earlier: bool,
    /// Whether an earlier packet of this conversation arrived nowhere, on neither host.
    pub(super) lost: bool,
}

impl Facts<'_> {
    /// The entries that this difference is of.
    pub(super) fn entries(&self) -> Vec<&'static Entry> {
        let holds = |entry: &&Entry| {
            (entry.reasons.is_empty() || self.fw_drops() || self.neighbours_miss()) && (entry.holds)(self)
        };
        ALLOWED.iter().filter(holds).collect()
    }

    fn step(&self) -> &Step {
        &self.conversation.steps[self.step]
    }

    fn form(&self) -> &Form {
        &self.step().form
    }

    /// Arrived on the stock host, and nowhere with fw.
    fn fw_drops(&self) -> bool {
        self.stock.arrived_somewhere() && !self.fw.arrived_somewhere() && *self.fw != Fate::NotSent
    }

    /// Arrived with fw, and nowhere on the stock host.
    fn stock_drops(&self) -> bool {
        self.fw.arrived_somewhere() && !self.stock.arrived_somewhere() && *self.stock != Fate::NotSent
    }

    /// Arrived with fw where it should, and on the stock host at neighbours besides that are kept apart.
    fn neighbours_miss(&self) -> bool {
        let (Fate::Arrived(stock), Fate::Arrived(fw)) = (self.stock, self.fw) else { return false };
        let own = self.own_network().filter(|own| self.policy.apart(own)).map(|own| own.name.as_str());
        fw.is_subset(stock)
            && own.is_some()
            && stock.difference(fw).all(|arrival| arrival.spot.split_once('/').map(|(_, name)| name) == own)
    }

    fn spot(&self) -> &str {
        self.sent.map_or("", |sent| sent.spot.as_str())
    }

    fn comes_from_outside(&self) -> bool {
        self.spot() == OUTSIDE_NAME
    }

    fn comes_from_container(&self) -> bool {
        !matches!(self.spot(), "" | HOST_NAME | OUTSIDE_NAME)
    }

    fn source(&self) -> Option<IpAddr> {
        self.sent.map(|sent| sent.source)
    }

    fn to(&self) -> Option<IpAddr> {
        self.sent.map(|sent| sent.to)
    }

    fn network_of(&self, address: Option<IpAddr>) -> Option<&Network> {
        self.topology.networks.iter().find(|network| address.is_some_and(|address| network.holds(address)))
    }

    /// The network of the container that sends.
    fn own_network(&self) -> Option<&Network> {
        self.comes_from_container()
            .then(|| self.spot().split('/').nth(1))?
            .and_then(|name| self.topology.network(name))
    }

    /// Whether the sender's own addresses hold the source.
    fn source_is_own(&self) -> bool {
        let spots = self.topology.spots();
        let own = spots.get(self.spot()).and_then(|spot| self.source().and_then(|it| spot.address_like(it)));
        own.is_some() && own == self.source()
    }

    /// Whether the policy leaves the sender's network its sources.
    fn may_forge(&self) -> bool {
        self.own_network().is_some_and(|network| self.policy.spoofing.contains(&network.name))
    }

    /// Whether the packet is, or claims to be, the answer to something that came from behind the host.
    fn answers(&self) -> bool {
        self.comes_from_outside() && (self.step().by != By::Initiator || self.before.is_some())
    }

    /// Whether a container sends the packet in answer to something.
    fn answers_from_container(&self) -> bool {
        self.comes_from_container() && self.step().by != By::Initiator
    }

    /// Whether the policy says what the sending container may open, outside or to the host.
    fn has_terms(&self) -> bool {
        let (container, network) = self.spot().split_once('/').unwrap_or_default();
        self.comes_from_container() && self.policy.terms(Some(container), network) != (Egress::Any, false)
    }

    /// Whether the host sends it, and may not open what it likes.
    fn comes_from_restricted_host(&self) -> bool {
        self.spot() == HOST_NAME && !self.policy.out.is_empty()
    }

    /// Whether the packet comes to an address that the host or a container sends from.
    fn to_host(&self) -> bool {
        self.to() == Some(HOST.into()) || self.to() == Some(HOST6.into())
    }

    /// Steps of the conversation, and of the one whose tuple it uses, up to this one.
    fn history(&self) -> impl Iterator<Item = &Step> {
        let before = self.before.into_iter().flat_map(|other| &other.steps);
        before.chain(&self.conversation.steps[..=self.step])
    }

    /// Whether the port to which the packet comes means something on the host.
    fn to_known_port(&self) -> bool {
        let port = self.sent.map_or(0, |sent| sent.ports.1);
        let published = self.topology.containers.iter().flat_map(|container| &container.published);
        port < 1024
            || self.policy.allow.iter().any(|rule| rule.ports.contains(&port))
            || published.into_iter().any(|published| published.host_port == port)
    }
}

/// All allowed differences, the most particular first.
pub(super) const ALLOWED: &[Entry] = &[
    Entry {
        name: "follows",
        holds: |facts| facts.earlier,
        reasons: &[],
        why: "an earlier packet of the conversation differs; connection tracking has gone another way since",
        source: "the entry of that packet",
    },
    Entry {
        name: "impossible TCP flags",
        holds: |facts| {
            let flags = facts.step().flags;
            let possible = [SYN, SYN | ACK, ACK, RST, RST | ACK, FIN | ACK];
            let segment =
                facts.conversation.proto == TCP && matches!(facts.step().by, By::Initiator | By::Responder);
            segment && !possible.contains(&(flags & !(PSH | URG)))
        },
        reasons: &["tcp-flags"],
        why: "no stack sends them; the stock host hands them to whoever owns the port",
        source: "T01; decisions.md, form",
    },
    Entry {
        name: "IPv4 options",
        holds: |facts| matches!(facts.form(), Form::Options(options) if !matches!(options[..2], [1 | 68, _] | [7, 7])),
        reasons: &["bad-option"],
        why: "source routes, router alerts outside IGMP, options that are unknown or overrun have no use in a packet to a host",
        source: "H45, H46; decisions.md, form",
    },
    Entry {
        name: "tiny fragments",
        holds: |facts| *facts.form() == Form::Tiny && facts.conversation.proto == TCP,
        reasons: &["bad-fragment"],
        why: "a first fragment without the whole transport header hides what it is",
        source: "F03, F04; decisions.md, form",
    },
    Entry {
        name: "too many headers",
        holds: |facts| match facts.form() {
            Form::Tags(count) => *count > 8,
            Form::Headers(headers) => headers.len() > 8,
            _ => false,
        },
        reasons: &["too-many-headers"],
        why: "a parser that ends somewhere drops what goes on",
        source: "W10, X02; decisions.md, form",
    },
    Entry {
        name: "extension headers out of order",
        holds: |facts| {
            matches!(facts.form(), Form::Headers(headers)
                if headers.contains(&Header::Routing(0)) || headers.iter().skip(1).any(|header| *header == Header::HopByHop))
        },
        reasons: &["bad-option", "malformed-header"],
        why: "routing headers of type 0 are abolished; hop-by-hop options stand first or nowhere",
        source: "X03, X04; decisions.md, form",
    },
    Entry {
        name: "lengths that lie",
        holds: |facts| matches!(facts.form(), Form::TooLong | Form::BadLength | Form::Version(_)),
        reasons: &["malformed-header", "malformed-transport"],
        why: "what a receiver would refuse is not carried to it",
        source: "H41, H43, T03, U02; decisions.md, form",
    },
    Entry {
        name: "loopback from the wire",
        holds: |facts| {
            let loopback = |address: Option<IpAddr>| address.is_some_and(|address| address.is_loopback());
            loopback(facts.to()) || loopback(facts.source())
        },
        reasons: &["martian"],
        why: "a port published on a loopback address is nobody's on the link",
        source: "D08, C04, S04, W13; decisions.md, uplink_ingress 5",
    },
    Entry {
        name: "martian source",
        holds: |facts| {
            facts.source().is_some_and(|source| {
                source.is_multicast()
                    || source.is_unspecified()
                    || source == IpAddr::from(Ipv4Addr::BROADCAST)
            })
        },
        reasons: &["martian", "spoofed-source"],
        why: "nobody sends from there",
        source: "S01, S02; decisions.md, uplink_ingress 5",
    },
    Entry {
        name: "container address as source, from outside",
        holds: |facts| facts.comes_from_outside() && facts.network_of(facts.source()).is_some(),
        reasons: &["source-inside"],
        why: "containers are not outside",
        source: "S02; decisions.md, uplink_ingress 6",
    },
    Entry {
        name: "own address as source, from outside",
        holds: |facts| {
            let ours =
                matches!(facts.source(), Some(it) if it == IpAddr::from(HOST) || it == IpAddr::from(HOST6));
            facts.comes_from_outside() && ours && facts.network_of(facts.to()).is_none()
        },
        reasons: &["source-ours"],
        why: "the host is not outside",
        source: "S02, C13; decisions.md, uplink_ingress 8",
    },
    Entry {
        name: "fragments that overtake their first one",
        holds: |facts| {
            let restricted =
                facts.has_terms() || facts.comes_from_restricted_host() || facts.answers_from_container();
            let direct = facts.comes_from_outside() && facts.network_of(facts.to()).is_some();
            let overtakes =
                matches!(facts.form(), Form::Fragments { order, .. } if order.first() != Some(&0));
            (restricted || direct) && overtakes
        },
        reasons: &["unknown-fragment", "egress", "host-denied", "isolation"],
        why: "a fragment without ports goes by what its first one was, and waits for nobody",
        source: "F01, F10; decisions.md, fragments, port_ingress, and uplink_egress 2; threat-model.md, where fw drops more than it should",
    },
    Entry {
        name: "a SYN is no reply",
        holds: |facts| {
            facts.answers() && facts.conversation.proto == TCP && facts.step().flags & (SYN | ACK) == SYN
        },
        reasons: &["port-not-allowed", "source-not-allowed", "direct-access"],
        why: "simultaneous opens are given up, so that no flow of a container opens a port of the host",
        source: "T10, W02; decisions.md, replies",
    },
    Entry {
        name: "our reset ends the flow",
        holds: |facts| {
            facts.answers() && facts.history().any(|step| step.by == By::Initiator && step.flags & RST != 0)
        },
        reasons: &["port-not-allowed", "source-not-allowed", "direct-access"],
        why: "connection tracking lets a closed connection linger for ten seconds",
        source: "decisions.md, replies",
    },
    Entry {
        name: "reply to a port that means something",
        holds: |facts| facts.answers() && facts.conversation.proto != TCP && facts.to_known_port(),
        reasons: &["port-not-allowed", "source-not-allowed"],
        why: "a container may choose any source port; without connections its flow must not open a port of the host",
        source: "W02, C31; decisions.md, replies",
    },
    Entry {
        name: "direct access",
        holds: |facts| facts.comes_from_outside() && facts.network_of(facts.to()).is_some(),
        reasons: &["direct-access", "unrelated-error"],
        why: "containers and their gateways are not addressed from outside; Docker 20.10 leaves open what is published, what FORWARD accepts, and IPv6",
        source: "D03-D06, D10, D31, S03; decisions.md, to a container",
    },
    Entry {
        name: "checks of connection tracking",
        holds: |facts| {
            let odd = |step: &Step| !step.form.is_plain() || step.flags & RST != 0 || step.flags & FIN != 0;
            let middle = facts.conversation.proto == TCP
                && facts.history().next().is_some_and(|step| step.flags != SYN);
            facts.stock_drops()
                && (facts.answers() || facts.answers_from_container() || facts.comes_from_restricted_host())
                && (middle || matches!(facts.conversation.proto, 47 | 132 | 136) || facts.history().any(odd))
        },
        reasons: &[],
        why: "connection tracking believes no segment out of the window, no wrong checksum and no SCTP without its chunks; fw knows flows by their tuples, and the receiver's stack discards what is wrong",
        source: "T06, H47; decisions.md, replies",
    },
    Entry {
        name: "error about an allowed service",
        holds: |facts| {
            let quoted = facts.sent.map_or(0, |sent| forged(sent.ports.1));
            let allowed = facts.policy.allow.iter().any(|rule| rule.ports.contains(&quoted));
            let open = facts.policy.published_open
                && facts.topology.published().any(|(port, _)| port.host_port == quoted);
            facts.stock_drops() && facts.step().by == By::ForgedError && facts.to_host() && (allowed || open)
        },
        reasons: &[],
        why: "a service that is allowed makes no state, so that an error about any answer of it is believed; the stack that gets it compares sequence numbers",
        source: "decisions.md, to us 2",
    },
    Entry {
        name: "dropped at another depth",
        holds: |facts| facts.lost && facts.conversation.proto == TCP,
        reasons: &[],
        why: "both hosts dropped an earlier packet, fw before connection tracking saw it, the stock host behind that",
        source: "decisions.md, form",
    },
    Entry {
        name: "a SYN is no answer",
        holds: |facts| {
            let host = facts.comes_from_restricted_host() && facts.step().by == By::Responder;
            (facts.answers_from_container() || host)
                && facts.conversation.proto == TCP
                && facts.step().flags & (SYN | ACK) == SYN
        },
        reasons: &["egress", "host-denied", "isolation", "internal", "out-not-allowed"],
        why: "simultaneous opens are given up, so that nobody opens a connection by waiting for a SYN",
        source: "decisions.md, answers, and uplink_egress 5",
    },
    Entry {
        name: "closed by address, whatever the frame",
        holds: |facts| facts.has_terms() && facts.conversation.link != Link::NextHop,
        reasons: &["egress", "host-denied"],
        why: "what a container may not open it may not send through a neighbour or to all either; iptables sees no bridged frame, or not where it goes",
        source: "V11; decisions.md, port_ingress 11",
    },
    Entry {
        name: "the host's answer to a forged source",
        holds: |facts| {
            facts.comes_from_restricted_host()
                && facts.step().by == By::Responder
                && facts.conversation.from.contains('/')
                && facts.network_of(facts.to()).is_none()
        },
        reasons: &["out-not-allowed"],
        why: "a container that may use any source makes the host answer somebody outside, who asked for nothing and is no client of a service",
        source: "decisions.md, uplink_egress 4",
    },
    Entry {
        name: "the host's TCP behind its SYN",
        holds: |facts| {
            facts.stock_drops()
                && facts.comes_from_restricted_host()
                && facts.conversation.proto == TCP
                && facts.step().flags & (SYN | ACK) != SYN
        },
        reasons: &[],
        why: "without a SYN no socket of the host has a connection, and one from before the rules must go on; connection tracking asks for windows and for its own memory",
        source: "decisions.md, uplink_egress 3",
    },
    Entry {
        name: "the host's errors and discovery",
        holds: |facts| {
            facts.stock_drops()
                && facts.comes_from_restricted_host()
                && (matches!(facts.step().by, By::ForgedError | By::ResponderError)
                    || matches!(facts.form(), Form::Icmp(..) | Form::FarDiscovery(_)))
        },
        reasons: &[],
        why: "the host may always tell of errors and look for its neighbours; no service hides behind that",
        source: "decisions.md, uplink_egress 4",
    },
    Entry {
        name: "the host's answer to a group",
        holds: |facts| {
            let to = facts.conversation.to;
            let group = to.is_multicast() || to == IpAddr::V4(Ipv4Addr::BROADCAST);
            let (Fate::Arrived(stock), Fate::Arrived(fw)) = (facts.stock, facts.fw) else { return false };
            !facts.policy.out.is_empty()
                && group
                && facts.step().by == By::Responder
                && stock.is_subset(fw)
                && fw.difference(stock).all(|arrival| arrival.spot == OUTSIDE_NAME)
        },
        reasons: &[],
        why: "a service that is asked by a group, docker-proxy among them, answers from an address of its own; connection tracking takes that for something new, fw for the answer of an open port to its client",
        source: "decisions.md, uplink_egress 4",
    },
    Entry {
        name: "reserved MAC address",
        holds: |facts| facts.comes_from_container() && matches!(facts.conversation.link, Link::Reserved(_)),
        reasons: &["reserved-mac"],
        why: "the kernel takes them at the port, past every rule for the bridge, or floods them",
        source: "W01; decisions.md, port_ingress 2",
    },
    Entry {
        name: "forged MAC address",
        holds: |facts| {
            facts.comes_from_container() && facts.conversation.source_mac.is_some() && !facts.may_forge()
        },
        reasons: &["spoofed-mac"],
        why: "bridges learn from source addresses",
        source: "V10; decisions.md, port_ingress 3",
    },
    Entry {
        name: "forged source",
        holds: |facts| {
            let others =
                facts.network_of(facts.source()).is_some_and(|network| Some(network) != facts.own_network());
            facts.comes_from_container() && !facts.source_is_own() && (others || !facts.may_forge())
        },
        reasons: &["spoofed-source"],
        why: "containers send from their own addresses",
        source: "S01, V12; decisions.md, port_ingress 8",
    },
    Entry {
        name: "routers and discovery",
        holds: |facts| {
            facts.comes_from_container()
                && match facts.form() {
                    Form::Icmp(kind, _) if facts.conversation.proto == ICMP => *kind == 5,
                    Form::Icmp(kind, _) => {
                        facts.conversation.proto == ICMPV6 && matches!(kind, 134 | 136 | 137)
                    }
                    Form::FarDiscovery(_) => true,
                    _ => false,
                }
        },
        reasons: &["rogue-router", "bad-discovery", "spoofed-neighbour"],
        why: "containers are no routers",
        source: "C08, X15; decisions.md, port_ingress 7",
    },
    Entry {
        name: "neighbours without icc",
        holds: |facts| facts.own_network().is_some_and(|own| facts.policy.apart(own)),
        reasons: &["icc", "unvouched"],
        why: "without icc neighbours are apart at every layer; Docker asks iptables, which sees untagged IPv4 with bridge netfilter alone",
        source: "V01-V03, V08, D26, X19; decisions.md, port_ingress 10",
    },
    Entry {
        name: "other networks",
        holds: |facts| {
            let (own, other) = (facts.own_network(), facts.network_of(facts.to()));
            let gateway = |network: &Network| {
                [IpAddr::from(network.gateway()), network.gateway6().into()]
                    .into_iter()
                    .any(|it| Some(it) == facts.to())
            };
            own.zip(other)
                .is_some_and(|(own, other)| own.name != other.name && (own.internal || !gateway(other)))
        },
        reasons: &["isolation", "internal"],
        why: "Docker 20.10 isolates IPv4 alone, and only what it forwards: not what a frame to all carries to neighbours",
        source: "D13, D31, V11; decisions.md, port_ingress 10",
    },
    Entry {
        name: "out of an internal network",
        holds: |facts| {
            facts.own_network().is_some_and(|own| own.internal && !facts.to().is_some_and(|to| own.holds(to)))
        },
        reasons: &["internal"],
        why: "an internal network reaches its own gateway address, no other address of the host, and nothing else",
        source: "D24; decisions.md, port_ingress 10",
    },
];

const FIN: u8 = 0x01;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
