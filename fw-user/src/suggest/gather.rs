//! What was observed, sorted: what a policy could say of it, and what it could not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fw_common::tables::{Observed, ObservedKey};
use fw_common::wire::{ethertype, proto};
use fw_common::{Address, Reason};

use super::{Seen, passed};
use crate::inventory::Network;
use crate::policy::label::PREFIX;
use crate::view;

/// One thing that a policy can say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    /// An `[[allow]]` rule for a port; echo requests have protocol 1 and port 0.
    Allow { proto: u8, port: u16 },
    /// An `[[out]]` rule.
    Out { proto: u8, port: u16 },
    /// `reach` of one network.
    Reach { from: String, to: String },
    /// `icc = true`.
    Icc { network: String },
    /// `egress`, of the container where it has a section with it.
    Egress { network: String, container: Option<String> },
    /// `host = "allow"`, likewise.
    Host { network: String, container: Option<String> },
}

/// Packets that one wish would have passed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Group {
    pub(super) packets: u64,
    /// Seconds of the monotonic clock.
    pub(super) first: u32,
    pub(super) last: u32,
    /// Who sent them; of egress and out, to whom they went.
    pub(super) peers: BTreeSet<Address>,
    /// The containers that sent them, by name.
    pub(super) senders: BTreeSet<String>,
    /// Addresses of this host at which a port was asked for. A rule opens it at all of them.
    pub(super) at: BTreeSet<Address>,
    /// Of the first `reach` of a network, all networks that it reaches.
    pub(super) beside: Vec<(String, String)>,
}

impl Group {
    fn add(&mut self, seen: &Observed, peer: Address) {
        self.first = if self.packets == 0 { seen.first_seen } else { self.first.min(seen.first_seen) };
        self.last = self.last.max(seen.last_seen);
        self.packets += seen.packets;
        self.peers.insert(peer);
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.first = if self.packets == 0 { other.first } else { self.first.min(other.first) };
        self.last = self.last.max(other.last);
        self.packets += other.packets;
        self.peers.extend(&other.peers);
        self.at.extend(&other.at);
        self.senders.extend(other.senders.iter().cloned());
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) wishes: BTreeMap<Wish, Group>,
    /// What it was and why it is left out.
    pub(super) left: BTreeMap<(String, String), Group>,
}

/// Who has tried so many closed ports looks for open ones, and what he found is no reason to open it to him.
const SCANNED: usize = 8;

/// From here on the kernel picks the ports of those who ask.
const PICKED: u16 = 32768;

/// The networks that wishes of one network name.
pub(super) fn reached_from<'a>(all: &'a [(String, String)], from: &str) -> Vec<&'a String> {
    all.iter().filter(|(of, _)| of == from).map(|(_, to)| to).collect()
}

pub(super) fn gather(seen: &Seen<'_>) -> Gathered {
    let scanners = scanners(seen);
    let mut gathered = Gathered::default();
    for (key, observed) in seen.observed {
        let (sorted, peer, sender) = sort(seen, &scanners, key, observed);
        match sorted {
            Sorted::Wish(wish) => {
                if let Some(why) = passed::settled(seen, &wish, key) {
                    gathered.left.entry((said(&wish), why)).or_default().add(observed, peer);
                    continue;
                }
                let at = matches!(wish, Wish::Allow { .. }).then_some(key.destination);
                let group = gathered.wishes.entry(wish).or_default();
                group.add(observed, peer);
                group.at.extend(at);
                group.senders.extend(sender);
            }
            Sorted::Left(what, why) => {
                gathered.left.entry((what, why)).or_default().add(observed, key.source);
            }
        }
    }
    let few: Vec<Wish> = gathered
        .wishes
        .iter()
        .filter(|(_, group)| group.packets < seen.min_packets)
        .map(|(wish, _)| wish.clone())
        .collect();
    for wish in few {
        if let Some(group) = gathered.wishes.remove(&wish) {
            let why = format!("fewer than {} packets (--min-packets)", seen.min_packets);
            gathered.left.entry((said(&wish), why)).or_default().join(&group);
        }
    }
    // `reach` is one key for all networks that one reaches: its first wish says them all.
    let reached: Vec<(String, String)> = gathered
        .wishes
        .keys()
        .filter_map(|wish| match wish {
            Wish::Reach { from, to } => Some((from.clone(), to.clone())),
            Wish::Allow { .. }
            | Wish::Out { .. }
            | Wish::Icc { .. }
            | Wish::Egress { .. }
            | Wish::Host { .. } => None,
        })
        .collect();
    let mut before: Option<String> = None;
    for (wish, group) in &mut gathered.wishes {
        if let Wish::Reach { from, .. } = wish
            && before.as_ref() != Some(from)
        {
            group.beside = reached.iter().filter(|(of, _)| of == from).cloned().collect();
            before = Some(from.clone());
        }
    }
    gathered
}

fn said(wish: &Wish) -> String {
    match wish {
        Wish::Allow { proto: proto::ICMP, .. } => "echo requests".to_owned(),
        Wish::Allow { proto, port } => format!("{} to port {port}", view::protocol(*proto)),
        Wish::Out { proto, port } => format!("{} of this host to port {port}", view::protocol(*proto)),
        Wish::Reach { from, to } => format!("network {from} to network {to}"),
        Wish::Icc { network } => format!("neighbours on network {network}"),
        Wish::Egress { network, .. } => format!("network {network} to the outside"),
        Wish::Host { network, .. } => format!("network {network} to this host"),
    }
}

enum Sorted {
    Wish(Wish),
    Left(String, String),
}

fn left(what: impl Into<String>, why: impl Into<String>) -> Sorted {
    Sorted::Left(what.into(), why.into())
}

/// Sources that have tried many ports at which nobody answers.
fn scanners(seen: &Seen<'_>) -> BTreeSet<Address> {
    let mut closed: BTreeMap<Address, BTreeSet<(Address, u8, u16)>> = BTreeMap::new();
    for key in seen.observed.keys() {
        if from_outside(key) && !is_answered(seen, key) && !key.destination.is_for_many() {
            let at = (key.destination, key.proto, key.destination_port);
            closed.entry(key.source).or_default().insert(at);
        }
    }
    closed.into_iter().filter(|(_, ports)| ports.len() >= SCANNED).map(|(source, _)| source).collect()
}

fn from_outside(key: &ObservedKey) -> bool {
    matches!(Reason::from_number(key.reason), Some(Reason::PortNotAllowed | Reason::SourceNotAllowed))
}

fn is_echo(key: &ObservedKey) -> bool {
    matches!((key.proto, key.icmp_type), (proto::ICMP, 8) | (proto::ICMPV6, 128))
}

/// Whether a socket of the host takes it, or Docker leads it to a container.
fn is_answered(seen: &Seen<'_>, key: &ObservedKey) -> bool {
    let (to, port) = (key.destination, key.destination_port);
    let listens = |address: Address| seen.listening.contains(&(key.proto, address, port));
    // A socket of IPv6 on `::` takes IPv4, too, unless it was told not to.
    let by_host = listens(to) || listens(to.any_of_family()) || listens(Address::ANY_V6);
    let published = seen.inventory.published.iter().any(|published| {
        let host = Address::from(published.host);
        let here = host == to || host == to.any_of_family();
        here && published.protocol.number() == key.proto && published.host_port == port
    });
    let station = |address: &IpAddr| Address::from(*address) == to;
    let lan = seen.inventory.stations.iter().any(|it| it.addresses.iter().any(station));
    is_echo(key) || by_host || published || lan
}

/// What one entry asks for; the peer that a rule would name, and the container that sent it.
fn sort(
    seen: &Seen<'_>,
    scanners: &BTreeSet<Address>,
    key: &ObservedKey,
    observed: &Observed,
) -> (Sorted, Address, Option<String>) {
    let Some(reason) = Reason::from_number(key.reason) else {
        let unknown = left("a reason that this fw does not know", "it was written by another version");
        return (unknown, key.source, None);
    };
    let begins = begins(key, observed).err();
    let none = |what: &str, why: &str| (left(what, why), key.source, None);
    match reason {
        Reason::PortNotAllowed | Reason::SourceNotAllowed => {
            (from_peer(seen, scanners, key, observed), key.source, None)
        }
        Reason::OutNotAllowed => {
            let wish = Wish::Out { proto: key.proto, port: key.destination_port };
            (begins.unwrap_or_else(|| with_ports(key, observed, wish)), key.destination, None)
        }
        Reason::Isolation | Reason::Icc | Reason::Unvouched | Reason::Egress | Reason::HostDenied => {
            let (container, network) = sender(seen, key);
            let sorted =
                begins.unwrap_or_else(|| of_container(seen, reason, key, container.as_ref(), network));
            let peer = if reason == Reason::Egress { key.destination } else { key.source };
            (sorted, peer, container)
        }
        Reason::Denied => none("denied sources", "a [[deny]] rule holds them"),
        Reason::OverLimit => none("over a limit", "a [[limit]] rule slows them"),
        Reason::DirectAccess
        | Reason::SourceInside
        | Reason::SourceOurs
        | Reason::Martian
        | Reason::MalformedHeader
        | Reason::TooManyHeaders
        | Reason::BadOption
        | Reason::BadFragment
        | Reason::MalformedTransport
        | Reason::TcpFlags
        | Reason::BadDiscovery
        | Reason::UnrelatedError
        | Reason::ReservedMac
        | Reason::SpoofedMac
        | Reason::SpoofedSource
        | Reason::SpoofedNeighbour
        | Reason::RogueRouter
        | Reason::Internal
        | Reason::UnknownProtocol
        | Reason::UnknownInterface
        | Reason::UnknownFragment => {
            (left(reason.name(), "no policy lets it pass (docs/reasons.md)"), key.source, sender(seen, key).0)
        }
        // What passes is not observed.
        Reason::OtherHost
        | Reason::NotIp
        | Reason::OtherVlan
        | Reason::NotOurs
        | Reason::LaterFragment
        | Reason::Essential
        | Reason::JudgedAtPort
        | Reason::Sent
        | Reason::Delivered
        | Reason::AllowRule
        | Reason::PublishedOpen
        | Reason::Reply
        | Reason::RelatedError
        | Reason::SameNetwork
        | Reason::ToHost
        | Reason::Outbound
        | Reason::Reach
        | Reason::Answer
        | Reason::Link
        | Reason::KnownFragment
        | Reason::OutRule => none(reason.name(), "it passes"),
    }
}

/// Of what comes from outside to this host.
fn from_peer(
    seen: &Seen<'_>,
    scanners: &BTreeSet<Address>,
    key: &ObservedKey,
    observed: &Observed,
) -> Sorted {
    let (word, port) = (view::protocol(key.proto), key.destination_port);
    if key.destination.is_for_many() {
        let what = format!("{word} port {port} to {}", key.destination);
        left(what, "it is for many, and needs no answer of this host")
    } else if !is_answered(seen, key) {
        left(
            format!("{word} to ports of this host"),
            format!("nobody answers there{}", scanned(scanners, key)),
        )
    } else if scanners.contains(&key.source) {
        left(format!("{word} port {port}"), "its source has tried many closed ports")
    } else if is_echo(key) {
        Sorted::Wish(Wish::Allow { proto: proto::ICMP, port: 0 })
    } else {
        with_ports(key, observed, Wish::Allow { proto: key.proto, port })
    }
}

/// Of what a container sends.
fn of_container(
    seen: &Seen<'_>,
    reason: Reason,
    key: &ObservedKey,
    container: Option<&String>,
    network: Option<&Network>,
) -> Sorted {
    let Some(from) = network.map(|network| network.name.clone()) else {
        return left(reason.name(), "the network of the sender is gone");
    };
    if reason == Reason::Isolation {
        return match around(seen, key.destination) {
            Some(to) if to.internal => {
                left(format!("network {from} to network {}", to.name), "no network reaches an internal one")
            }
            Some(to) => Sorted::Wish(Wish::Reach { from, to: to.name.clone() }),
            None => left(reason.name(), "the network that it leads to is gone"),
        };
    }
    if matches!(reason, Reason::Icc | Reason::Unvouched) {
        return Sorted::Wish(Wish::Icc { network: from });
    }
    let label = if reason == Reason::Egress { "egress" } else { "host" };
    if let Some(name) = container.filter(|name| has_label(seen, name, label)) {
        let what = format!("container {name}, {}", reason.name());
        return left(what, format!("its own label {PREFIX}{label} says so"));
    }
    let own = container.and_then(|name| seen.policy.containers.get(name));
    Sorted::Wish(if reason == Reason::Egress {
        let container = own.filter(|own| own.egress.is_some()).and(container.cloned());
        Wish::Egress { network: from, container }
    } else {
        let container = own.filter(|own| own.host.is_some()).and(container.cloned());
        Wish::Host { network: from, container }
    })
}

/// A rule needs TCP or UDP, and something that begins.
fn with_ports(key: &ObservedKey, observed: &Observed, wish: Wish) -> Sorted {
    match key.proto {
        proto::TCP if observed.opening == 0 => goes_on(key),
        proto::TCP | proto::UDP => Sorted::Wish(wish),
        other => left(view::protocol(other), "no rule names this protocol"),
    }
}

/// Whether what a container or this host sends may begin something; why not, if not.
fn begins(key: &ObservedKey, observed: &Observed) -> Result<(), Sorted> {
    match key.proto {
        _ if !matches!(key.ethertype, ethertype::IPV4 | ethertype::IPV6) => {
            Err(left("other than IP", "who asks for a neighbour has asked for nothing of him yet"))
        }
        proto::TCP if observed.opening == 0 => Err(goes_on(key)),
        proto::UDP if key.destination_port >= PICKED => {
            let what = format!("udp to ports from {PICKED} on, which clients pick");
            Err(left(what, "these are probably answers; if not, write by hand what they need"))
        }
        proto::ICMP | proto::ICMPV6 if !is_echo(key) => Err(left(
            "icmp that asks for nothing",
            "errors, discovery and reports go with what they are about",
        )),
        _ => Ok(()),
    }
}

fn goes_on(key: &ObservedKey) -> Sorted {
    left(
        format!("{} that opens nothing", view::protocol(key.proto)),
        "these are answers, or connections that were open before: they go on",
    )
}

fn scanned(scanners: &BTreeSet<Address>, key: &ObservedKey) -> &'static str {
    if scanners.contains(&key.source) { ", and the source has tried many" } else { "" }
}

fn has_label(seen: &Seen<'_>, container: &str, label: &str) -> bool {
    let name = format!("{PREFIX}{label}");
    seen.inventory
        .endpoints
        .iter()
        .any(|place| place.container == container && place.labels.contains_key(&name))
}

/// The container behind the port at which it was seen, and its network; by the source where that port is gone.
fn sender<'a>(seen: &Seen<'a>, key: &ObservedKey) -> (Option<String>, Option<&'a Network>) {
    for network in &seen.inventory.networks {
        if network.bridge_ifindex == Some(key.ifindex) {
            return (by_address(seen, key.source), Some(network));
        }
        if let Some(port) = network.ports.iter().find(|port| port.ifindex == key.ifindex) {
            let place = port.endpoint.and_then(|at| seen.inventory.endpoints.get(at));
            return (place.map(|place| place.container.clone()), Some(network));
        }
    }
    (by_address(seen, key.source), around(seen, key.source))
}

fn by_address(seen: &Seen<'_>, address: Address) -> Option<String> {
    let mut places = seen.inventory.endpoints.iter();
    let place = places.find(|place| place.addresses.iter().any(|own| Address::from(*own) == address))?;
    Some(place.container.clone())
}

/// The network in whose subnet an address lies.
fn around<'a>(seen: &Seen<'a>, address: Address) -> Option<&'a Network> {
    let address = IpAddr::from(address);
    seen.inventory
        .networks
        .iter()
        .find(|network| network.subnets.iter().any(|subnet| subnet.contains(&address)))
}
