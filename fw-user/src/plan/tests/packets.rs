//! Packets between everybody and everybody of the hosts in `hosts`, each with the hooks on its way.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use fw_common::flow::{Flow, FlowKey, owner, state};
use fw_common::tables::{Bucket, BucketKey};
use fw_common::wire::{Arrival, Audience, VlanTag, ethertype, proto, tcp};
use fw_common::{Address, Hook, Mac};

use super::hosts::{ETH0, PORTS, STATIONS, WG0, mac_of};

/// A packet and the hooks that see it, in order.
pub(super) struct Journey {
    pub(super) name: String,
    pub(super) source: Address,
    pub(super) destination: Address,
    pub(super) way: Vec<(Hook, Arrival)>,
    pub(super) frame: Vec<u8>,
}

/// What the packet carries.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Syn(u16),
    /// A segment of a connection that is open: from port, to port.
    Ack(u16, u16),
    Udp(u16, u16),
    Echo,
}

const OUTSIDERS: [[u8; 4]; 4] = [[203, 0, 113, 7], [203, 0, 113, 99], [198, 51, 100, 99], [192, 0, 2, 66]];
pub(super) const OURS: [[u8; 4]; 2] = [[198, 51, 100, 7], [198, 51, 100, 8]];
const CONTAINERS: [[u8; 4]; 5] =
    [[172, 18, 0, 2], [172, 18, 0, 3], [172, 19, 0, 2], [10, 0, 3, 2], [172, 18, 0, 9]];
const GATEWAYS: [[u8; 4]; 3] = [[172, 18, 0, 1], [172, 19, 0, 1], [10, 0, 3, 1]];
/// Of a macvlan container, of an ipvlan one, and one that nobody has.
const ON_LAN: [[u8; 4]; 3] = [[198, 51, 100, 50], [198, 51, 100, 51], [198, 51, 100, 52]];
const ELSEWHERE: [u8; 4] = [192, 0, 2, 1];
const PRIVATE: [u8; 4] = [192, 168, 7, 7];

/// The journeys, always the same.
pub(super) fn journeys() -> Vec<Journey> {
    let mut journeys = Vec::new();
    let sources = OUTSIDERS.iter().chain(&CONTAINERS[..1]).chain(&OURS[1..]);
    for source in sources {
        for destination in OURS.iter().chain(&CONTAINERS).chain(&GATEWAYS[..1]).chain([&ELSEWHERE]) {
            for kind in [
                Kind::Syn(22),
                Kind::Syn(80),
                Kind::Ack(80, 40_000),
                Kind::Udp(53, 53),
                Kind::Udp(53, 8080),
                Kind::Echo,
            ] {
                for device in [ETH0, WG0] {
                    journeys.push(from_outside(device, *source, *destination, kind));
                }
            }
        }
    }
    for source in OURS {
        for destination in OUTSIDERS.iter().chain([&ELSEWHERE]) {
            for kind in
                [Kind::Syn(80), Kind::Syn(22), Kind::Udp(41_000, 53), Kind::Udp(53, 41_000), Kind::Echo]
            {
                for device in [ETH0, WG0] {
                    journeys.push(from_us(device, source, *destination, kind));
                }
            }
        }
    }
    on_the_lan(&mut journeys);
    for (port, bridge) in PORTS {
        for mac in [mac_of(port), mac_of(99)] {
            for source in CONTAINERS.iter().chain(&GATEWAYS[..1]).chain(&OUTSIDERS[..1]) {
                let outside = OUTSIDERS[..3].iter().chain([&PRIVATE]);
                for destination in CONTAINERS.iter().chain(&GATEWAYS).chain(&OURS).chain(outside) {
                    let answers = mac == mac_of(port) && *source == CONTAINERS[0];
                    let kinds =
                        if answers { &[Kind::Syn(80), Kind::Ack(80, 40_000)][..] } else { &[Kind::Syn(80)] };
                    for kind in kinds {
                        journeys.push(from_container((port, bridge), mac, *source, *destination, *kind));
                    }
                }
            }
        }
    }
    for (from, bridge) in PORTS {
        for (to, _) in PORTS.into_iter().filter(|(to, other)| *other == bridge && *to != from) {
            for source in &CONTAINERS[..2] {
                for destination in &CONTAINERS[..2] {
                    for kind in [Kind::Syn(80), Kind::Syn(22), Kind::Echo] {
                        journeys.push(to_neighbour(from, to, *source, *destination, kind));
                    }
                }
            }
        }
    }
    journeys
}

/// To containers that share eth0, in frames of their own and of the host, and what they send.
fn on_the_lan(journeys: &mut Vec<Journey>) {
    for mac in STATIONS.into_iter().chain([ETH0]).map(mac_of) {
        for kind in [Kind::Syn(22), Kind::Syn(80), Kind::Ack(80, 40_000), Kind::Udp(53, 8080), Kind::Echo] {
            for there in ON_LAN {
                for source in [OUTSIDERS[0], OUTSIDERS[3], ON_LAN[0], OURS[0]] {
                    let mut journey = from_outside(ETH0, source, there, kind);
                    journey.frame[..6].copy_from_slice(&mac.bytes);
                    let audience = if mac == mac_of(ETH0) { Audience::Host } else { Audience::Other };
                    journey.way.iter_mut().for_each(|(_, arrival)| arrival.audience = audience);
                    journeys.push(Journey { name: format!("{} for {mac}", journey.name), ..journey });
                }
                for destination in [OUTSIDERS[0], OUTSIDERS[3]] {
                    let mut journey = from_us(ETH0, there, destination, kind);
                    journey.frame[6..12].copy_from_slice(&mac.bytes);
                    journeys.push(Journey { name: format!("{} by {mac}", journey.name), ..journey });
                }
            }
        }
    }
}

/// Every source is at the end of its tokens under any limit.
pub(super) fn buckets() -> BTreeMap<BucketKey, Bucket> {
    let keys = OUTSIDERS.iter().flat_map(|peer| (1..8).map(move |limit| (Address::v4(*peer), limit)));
    keys.map(|(peer, limit)| (BucketKey { peer, limit, reserved: [0; 4] }, Bucket { tokens: 0, filled: 0 }))
        .collect()
}

/// Flows that went out: of the host over TCP, of a container over UDP from a port that may be published, and one of
/// a container that is not translated.
pub(super) fn flows() -> BTreeMap<FlowKey, Flow> {
    let flow = |owner, state| Flow { last_seen: 0, started: 0, state, owner, container: 0 };
    let key = |local: [u8; 4], local_port, remote: [u8; 4], remote_port, proto| FlowKey {
        local: Address::v4(local),
        remote: Address::v4(remote),
        local_port,
        remote_port,
        proto,
        reserved: [0; 3],
    };
    BTreeMap::from([
        (key(OURS[0], 40_000, OUTSIDERS[0], 80, proto::TCP), flow(owner::HOST, state::ESTABLISHED)),
        (key(OURS[0], 8080, OUTSIDERS[1], 53, proto::UDP), flow(owner::CONTAINER, state::ESTABLISHED)),
        (
            key(CONTAINERS[0], 40_000, OUTSIDERS[0], 80, proto::TCP),
            flow(owner::CONTAINER, state::ESTABLISHED),
        ),
    ])
}

/// Flows that came in to a container: from outside, from the host, and from another network.
pub(super) fn inbound_flows() -> BTreeMap<FlowKey, Flow> {
    let flow =
        Flow { last_seen: 0, started: 0, state: state::ESTABLISHED, owner: owner::OTHER, container: 0 };
    let key = |remote| FlowKey {
        local: Address::v4(CONTAINERS[0]),
        remote: Address::v4(remote),
        local_port: 80,
        remote_port: 40_000,
        proto: proto::TCP,
        reserved: [0; 3],
    };
    [OUTSIDERS[0], GATEWAYS[0], CONTAINERS[3]].into_iter().map(|remote| (key(remote), flow)).collect()
}

fn from_outside(device: u32, source: [u8; 4], destination: [u8; 4], kind: Kind) -> Journey {
    let arrival = Arrival {
        ifindex: device,
        ingress_ifindex: 0,
        ethertype: ethertype::IPV4,
        vlan: VlanTag::NONE,
        audience: Audience::Host,
        mark: 0,
        owner: 0,
    };
    let packet = packet(source, destination, kind);
    let frame = if device == WG0 { packet } else { framed(mac_of(device), mac_of(98), &packet) };
    let name = named(device, source, destination, &format!("{kind:?}"));
    let (source, destination) = (Address::v4(source), Address::v4(destination));
    Journey { name, source, destination, way: vec![(Hook::UplinkIngress, arrival)], frame }
}

/// What the host itself sends.
fn from_us(device: u32, source: [u8; 4], destination: [u8; 4], kind: Kind) -> Journey {
    let journey = from_outside(device, source, destination, kind);
    let way = journey.way.into_iter().map(|(_, arrival)| (Hook::UplinkEgress, arrival)).collect();
    Journey { name: format!("leaving {}", journey.name), way, ..journey }
}

/// Up to the host: past the port, then past the bridge.
fn from_container(
    (port, bridge): (u32, u32),
    mac: Mac,
    source: [u8; 4],
    destination: [u8; 4],
    kind: Kind,
) -> Journey {
    let at_port = Arrival {
        ifindex: port,
        ingress_ifindex: 0,
        ethertype: ethertype::IPV4,
        vlan: VlanTag::NONE,
        audience: Audience::Other,
        mark: 0,
        owner: 0,
    };
    let at_bridge = Arrival { ifindex: bridge, audience: Audience::Host, ..at_port };
    Journey {
        name: named(port, source, destination, &format!("{kind:?} from {mac}")),
        source: Address::v4(source),
        destination: Address::v4(destination),
        way: vec![(Hook::PortIngress, at_port), (Hook::BridgeIngress, at_bridge)],
        frame: framed(mac_of(bridge), mac, &packet(source, destination, kind)),
    }
}

/// From port to port of a bridge.
fn to_neighbour(from: u32, to: u32, source: [u8; 4], destination: [u8; 4], kind: Kind) -> Journey {
    let at_port = Arrival {
        ifindex: from,
        ingress_ifindex: 0,
        ethertype: ethertype::IPV4,
        vlan: VlanTag::NONE,
        audience: Audience::Other,
        mark: 0,
        owner: 0,
    };
    let leaving = Arrival { ifindex: to, ingress_ifindex: from, ..at_port };
    Journey {
        name: named(from, source, destination, &format!("by port {to}, {kind:?}")),
        source: Address::v4(source),
        destination: Address::v4(destination),
        way: vec![(Hook::PortIngress, at_port), (Hook::PortEgress, leaving)],
        frame: framed(mac_of(to), mac_of(from), &packet(source, destination, kind)),
    }
}

fn named(device: u32, source: [u8; 4], destination: [u8; 4], what: &str) -> String {
    format!("at {device}, {} -> {}, {what}", Ipv4Addr::from(source), Ipv4Addr::from(destination))
}

fn framed(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    [&to.bytes[..], &from.bytes, &ethertype::IPV4.to_be_bytes(), packet].concat()
}

/// An IPv4 packet; no decision reads a checksum.
fn packet(source: [u8; 4], destination: [u8; 4], kind: Kind) -> Vec<u8> {
    let ports = |from: u16, to: u16| [from.to_be_bytes(), to.to_be_bytes()].concat();
    let segment =
        |from, to, flags: u8| [&ports(from, to)[..], &[0; 8], &[5 << 4, flags, 1, 0, 0, 0, 0, 0]].concat();
    let (protocol, payload) = match kind {
        Kind::Syn(to) => (proto::TCP, segment(41_000, to, tcp::SYN)),
        Kind::Ack(from, to) => (proto::TCP, segment(from, to, tcp::ACK)),
        Kind::Udp(from, to) => (proto::UDP, [&ports(from, to)[..], &[0, 8, 0, 0]].concat()),
        Kind::Echo => (proto::ICMP, vec![8, 0, 0, 0, 0, 1, 0, 1]),
    };
    let length = (20 + payload.len() as u16).to_be_bytes();
    let header = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    [&header[..], &source, &destination, &payload].concat()
}
