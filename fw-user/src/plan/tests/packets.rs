//! Packets between everybody and everybody of the hosts in `hosts`, each with the hooks on its way.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use fw_common::flow::{Flow, FlowKey, owner, state};
use fw_common::wire::{Arrival, Audience, VlanTag, ethertype, proto, tcp};
use fw_common::{Address, Hook, Mac};

use super::hosts::{ETH0, PORTS, WG0, mac_of};

/// A packet and the hooks that see it, in order.
pub(super) struct Journey {
    pub(super) name: String,
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
const OURS: [[u8; 4]; 2] = [[198, 51, 100, 7], [198, 51, 100, 8]];
const CONTAINERS: [[u8; 4]; 5] =
    [[172, 18, 0, 2], [172, 18, 0, 3], [172, 19, 0, 2], [10, 0, 3, 2], [172, 18, 0, 9]];
const GATEWAYS: [[u8; 4]; 3] = [[172, 18, 0, 1], [172, 19, 0, 1], [10, 0, 3, 1]];
const ELSEWHERE: [u8; 4] = [192, 0, 2, 1];

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
    for (port, bridge) in PORTS {
        for mac in [mac_of(port), mac_of(99)] {
            for source in CONTAINERS.iter().chain(&GATEWAYS[..1]).chain(&OUTSIDERS[..1]) {
                for destination in CONTAINERS.iter().chain(&GATEWAYS).chain(&OURS).chain(&OUTSIDERS[..1]) {
                    journeys.push(from_container(port, bridge, mac, *source, *destination));
                }
            }
        }
    }
    journeys
}

/// Flows that went out: of the host over TCP, of a container over UDP from a port that may be published, and one of
/// a container that is not translated.
pub(super) fn flows() -> BTreeMap<FlowKey, Flow> {
    let flow = |owner, state| Flow { last_seen: 0, started: 0, state, owner, reserved: [0; 2] };
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

fn from_outside(device: u32, source: [u8; 4], destination: [u8; 4], kind: Kind) -> Journey {
    let arrival = Arrival {
        ifindex: device,
        ingress_ifindex: 0,
        ethertype: ethertype::IPV4,
        vlan: VlanTag::NONE,
        audience: Audience::Host,
        mark: 0,
    };
    let packet = packet(source, destination, kind);
    let frame = if device == WG0 { packet } else { framed(mac_of(device), mac_of(98), &packet) };
    let name = named(device, source, destination, &format!("{kind:?}"));
    let destination = Address::v4(destination);
    Journey { name, destination, way: vec![(Hook::UplinkIngress, arrival)], frame }
}

/// Up to the host: past the port, then past the bridge.
fn from_container(port: u32, bridge: u32, mac: Mac, source: [u8; 4], destination: [u8; 4]) -> Journey {
    let at_port = Arrival {
        ifindex: port,
        ingress_ifindex: 0,
        ethertype: ethertype::IPV4,
        vlan: VlanTag::NONE,
        audience: Audience::Other,
        mark: 0,
    };
    let at_bridge = Arrival { ifindex: bridge, audience: Audience::Host, ..at_port };
    Journey {
        name: named(port, source, destination, &format!("from {mac}")),
        destination: Address::v4(destination),
        way: vec![(Hook::PortIngress, at_port), (Hook::BridgeIngress, at_bridge)],
        frame: framed(mac_of(bridge), mac, &packet(source, destination, Kind::Syn(80))),
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
