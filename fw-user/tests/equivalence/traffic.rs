//! Random packets, mostly such as make sense to the tables that judge them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fw_common::flow::{Flow, FlowKey};
use fw_common::tables::memory::Memory;
use fw_common::tables::role;
use fw_common::wire::{ethertype, proto, tcp};
use fw_common::{Address, Hook, Mac};

use crate::example::host::{DEVICES, Family, STATION, container_mac, families, mac_of};
use crate::example::packets::{Draft, IDENTIFICATION, PADDING, arp, ip};
use crate::example::{Case, Scene};
use crate::random::Random;
use crate::random::world::{PORTS, PROTOCOLS, address};

/// A packet at a hook, as the kernel can be told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) hook: Hook,
    pub(crate) ifindex: u32,
    pub(crate) ingress_ifindex: u32,
    pub(crate) mark: u32,
    pub(crate) frame: Vec<u8>,
}

impl Sent {
    pub(crate) fn of(scene: &Scene) -> Self {
        let (hook, arrival, frame) = (scene.hook, scene.arrival, scene.frame.clone());
        let (ifindex, ingress_ifindex, mark) = (arrival.ifindex, arrival.ingress_ifindex, arrival.mark);
        Self { hook, ifindex, ingress_ifindex, mark, frame }
    }
}

/// Where the packets come from.
pub(crate) struct Traffic {
    examples: Vec<Vec<Sent>>,
}

impl Traffic {
    pub(crate) fn new(cases: &[Case]) -> Self {
        let of = |hook| {
            let cases = cases.iter().filter(move |case| case.scene.hook == hook);
            cases.map(|case| Sent::of(&case.scene))
        };
        Self { examples: Hook::ATTACHED.into_iter().map(|hook| of(hook).collect()).collect() }
    }

    /// A packet for these tables.
    pub(crate) fn packet(&self, tables: &Memory, random: &mut Random) -> Sent {
        let which = random.below(Hook::ATTACHED.len());
        let hook = Hook::ATTACHED[which];
        let examples = &self.examples[which];
        let mut sent = if !examples.is_empty() && random.once_in(3) {
            examples[random.below(examples.len())].clone()
        } else {
            built(hook, tables, random)
        };
        match random.below(8) {
            0 => sent.mark = random.next() as u32,
            1 => sent.mark = 3 << tables.settings.mark_bit,
            _ => {}
        }
        if random.once_in(4) {
            random.mutate(&mut sent.frame);
        }
        sent
    }
}

/// The device at which such a hook would be.
fn device(hook: Hook, tables: &Memory, random: &mut Random) -> u32 {
    let wanted = match hook {
        Hook::UplinkXdp | Hook::UplinkIngress | Hook::UplinkEgress => role::UPLINK,
        Hook::PortIngress | Hook::PortEgress => role::PORT,
        Hook::BridgeIngress | Hook::BridgeEgress => role::BRIDGE,
    };
    let fitting = DEVICES
        .into_iter()
        .filter(|device| tables.interfaces.get(device).is_some_and(|known| known.role == wanted))
        .collect::<Vec<_>>();
    if fitting.is_empty() || random.once_in(32) { random.pick(&DEVICES) } else { random.pick(&fitting) }
}

fn built(hook: Hook, tables: &Memory, random: &mut Random) -> Sent {
    let ifindex = device(hook, tables, random);
    let family = random.pick(&families());
    let outward = matches!(hook, Hook::UplinkEgress | Hook::PortEgress | Hook::BridgeEgress);
    let at_port = matches!(hook, Hook::PortIngress | Hook::BridgeIngress);
    let flow = known_flow(&tables.flows.borrow(), &family, random).filter(|_| random.once_in(3));
    let inbound = came_in(hook, ifindex, tables, &family, random).filter(|_| random.once_in(3));
    let datagram = later_fragment(tables, &family, random).filter(|_| random.once_in(20));
    let at_uplink = matches!(hook, Hook::UplinkXdp | Hook::UplinkIngress);
    let request = request(tables, &family, random).filter(|_| at_uplink && random.once_in(4));
    let draft = if let Some(draft) = datagram.or(request) {
        draft
    } else if let Some(key) = inbound.filter(|_| at_port || hook == Hook::BridgeEgress) {
        of_flow(&key, at_port, random)
    } else if let Some(key) = flow {
        of_flow(&key, outward, random)
    } else {
        let source = source(hook, ifindex, tables, &family, random);
        payload(ip(source, address(&family, random)), random)
    };
    let (to, from) = macs(hook, ifindex, tables, random);
    let mut frame = odd(draft, family.v6, random).between(to, from).frame();
    if random.once_in(40) {
        let owner = source(hook, ifindex, tables, &families()[0], random);
        frame = arp(from, if random.once_in(8) { to } else { from }, owner, address(&families()[0], random));
    }
    let ingress_ifindex = if outward && random.flag() == 0 { random.pick(&DEVICES) } else { 0 };
    Sent { hook, ifindex, ingress_ifindex, mark: 0, frame }
}

/// Destination and source.
fn macs(hook: Hook, ifindex: u32, tables: &Memory, random: &mut Random) -> (Mac, Mac) {
    let of_port = |ifindex| tables.interfaces.get(&ifindex).map_or(container_mac(ifindex), |known| known.mac);
    let from = match (hook, random.below(24)) {
        (_, 0) => container_mac(random.pick(&DEVICES)),
        (_, 1) => Mac { bytes: [3, 0, 0, 0, 0, 1] },
        (Hook::UplinkEgress, 2..=7) => STATION,
        (Hook::PortIngress, _) => of_port(ifindex),
        (Hook::BridgeIngress, _) => of_port(random.pick(&DEVICES)),
        _ => Mac { bytes: [2, 0xff, 0, 0, 0, 1] },
    };
    let to = match random.below(24) {
        0 => Mac { bytes: [0xff; 6] },
        1 => Mac { bytes: [0x33, 0x33, 0, 0, 0, 1] },
        2 => Mac { bytes: [1, 0x80, 0xc2, 0, 0, random.byte() & 0x1f] },
        3 => mac_of(random.pick(&DEVICES)),
        4..=7 if matches!(hook, Hook::UplinkXdp | Hook::UplinkIngress) => STATION,
        _ => mac_of(ifindex),
    };
    (to, from)
}

/// Mostly one that may send there.
fn source(hook: Hook, ifindex: u32, tables: &Memory, family: &Family, random: &mut Random) -> IpAddr {
    let at_port = matches!(hook, Hook::PortIngress | Hook::BridgeIngress);
    if at_port && !random.once_in(8) {
        let network = tables.interfaces.get(&ifindex).map_or(0, |known| known.network);
        let containers = [
            family.a1,
            family.a2,
            family.unknown,
            family.b1,
            family.i1,
            family.i2,
            family.n1,
            family.n2,
            family.n3,
            family.s1,
        ];
        let there = containers.into_iter().filter(|address| {
            tables.endpoints.get(&(*address).into()).is_some_and(|endpoint| {
                endpoint.port == ifindex || (hook == Hook::BridgeIngress && endpoint.network == network)
            })
        });
        let there: Vec<_> = there.collect();
        if !there.is_empty() {
            return random.pick(&there);
        }
    }
    if hook == Hook::UplinkIngress && !random.once_in(4) {
        let f = family;
        return random.pick(&[
            f.remote,
            f.elsewhere,
            f.office,
            f.branch,
            f.region,
            f.denied_host,
            f.denied_net,
        ]);
    }
    address(family, random)
}

fn known_flow(flows: &BTreeMap<FlowKey, Flow>, family: &Family, random: &mut Random) -> Option<FlowKey> {
    let (from, count) = (random.below(flows.len().max(1)), flows.len());
    let around = flows.keys().chain(flows.keys()).skip(from).take(count);
    around.copied().find(|key| key.local.is_v4() != family.v6 && key.remote.is_v4() != family.v6)
}

/// A flow that came in to a container which is at this device.
fn came_in(
    hook: Hook,
    ifindex: u32,
    tables: &Memory,
    family: &Family,
    random: &mut Random,
) -> Option<FlowKey> {
    let there = tables.inbound_flows.borrow().clone().into_iter().filter(|(key, _)| {
        hook != Hook::PortIngress
            || tables.endpoints.get(&key.local).is_some_and(|endpoint| endpoint.port == ifindex)
    });
    known_flow(&there.collect(), family, random)
}

/// A packet from outside that asks for a service of the host, mostly of a port that has an entry.
fn request(tables: &Memory, family: &Family, random: &mut Random) -> Option<Draft> {
    let named = tables.ports.keys().filter(|key| key.address.is_v4() != family.v6);
    let named: Vec<_> = named.copied().collect();
    if named.is_empty() {
        return None;
    }
    let key = random.pick(&named);
    let any = key.address == key.address.any_of_family();
    let to = if any {
        random.pick(&[family.ours, family.second, family.station, family.ipvlan])
    } else {
        address_of(key.address)
    };
    let from = random.pick(&[family.remote, family.office, family.branch, family.region, family.elsewhere]);
    let draft = ip(from, to);
    Some(match key.proto {
        proto::TCP => draft.tcp(port(random), key.port, tcp::SYN),
        proto::UDP => draft.udp(port(random), key.port, b"data"),
        proto::ICMP => draft.echo(port(random)),
        other => {
            let ports = [port(random).to_be_bytes(), key.port.to_be_bytes()].concat();
            draft.protocol(other, &[&ports[..], &[0; 8]].concat())
        }
    })
}

/// A later fragment of a datagram whose first one is known.
fn later_fragment(tables: &Memory, family: &Family, random: &mut Random) -> Option<Draft> {
    let datagrams = tables.datagrams.borrow();
    let known = datagrams.keys().filter(|key| {
        key.source.is_v4() != family.v6 && key.destination.is_v4() != family.v6 && key.id == IDENTIFICATION
    });
    let known: Vec<_> = known.collect();
    if known.is_empty() {
        return None;
    }
    let key = random.pick(&known);
    let proto = if family.v6 { random.pick(&PROTOCOLS) } else { key.proto };
    Some(
        ip(address_of(key.source), address_of(key.destination))
            .protocol(proto, &[7; 16])
            .at_offset(16, false),
    )
}

/// A packet of this flow: what we send, or what comes back.
fn of_flow(key: &FlowKey, outward: bool, random: &mut Random) -> Draft {
    let outward = outward != random.once_in(8);
    let (local, remote) = (address_of(key.local), address_of(key.remote));
    let error = !outward && random.once_in(4);
    let (from, to) = if outward || error {
        ((local, key.local_port), (remote, key.remote_port))
    } else {
        ((remote, key.remote_port), (local, key.local_port))
    };
    let draft = ip(from.0, to.0);
    let draft = match key.proto {
        proto::TCP => draft.tcp(from.1, to.1, flags(random)),
        proto::UDP => draft.udp(from.1, to.1, b"data"),
        proto::ICMP if outward || error => draft.echo(key.local_port),
        proto::ICMP => draft.echo_reply(key.local_port),
        other => {
            let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
            draft.protocol(other, &[&ports[..], &[0; 8]].concat())
        }
    };
    // An error about what we sent comes from the peer or from somebody on the way.
    if error { ip(remote, local).unreachable(&draft.packet()) } else { draft }
}

fn address_of(address: Address) -> IpAddr {
    let address = std::net::Ipv6Addr::from(address.bytes);
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}

fn flags(random: &mut Random) -> u8 {
    let sensible = [
        tcp::SYN,
        tcp::SYN | tcp::ACK,
        tcp::ACK,
        tcp::ACK,
        tcp::FIN | tcp::ACK,
        tcp::RST,
        tcp::RST | tcp::ACK,
    ];
    if random.once_in(16) { random.byte() } else { random.pick(&sensible) }
}

fn port(random: &mut Random) -> u16 {
    if random.once_in(12) { random.next() as u16 } else { random.pick(&PORTS) }
}

fn payload(draft: Draft, random: &mut Random) -> Draft {
    match random.below(12) {
        0..=3 => draft.tcp(port(random), port(random), flags(random)),
        4..=6 => draft.udp(port(random), port(random), b"data"),
        7 => draft.echo(port(random)),
        8 => {
            let code = random.byte() & 3;
            let kind = random.pick(&[
                (0, 129),
                (3, 1),
                (5, 137),
                (8, 128),
                (11, 3),
                (13, 130),
                (17, 133),
                (14, 134),
            ]);
            let kind = draft.of_family(kind);
            draft.icmp(kind, code, &[0; 12])
        }
        9 => {
            let family = random.pick(&families());
            let (kind, target) = (133 + random.byte() % 5, address(&family, random));
            draft.neighbour(kind, target)
        }
        10 => {
            let family = random.pick(&families());
            let inner = ip(address(&family, random), address(&family, random));
            let inner = inner.tcp(port(random), port(random), flags(random)).packet();
            draft.unreachable(&inner[..inner.len() - random.below(20)])
        }
        _ => {
            let protocol = random.pick(&[2, proto::GRE, proto::SCTP, proto::UDP_LITE, 50, 59, 103, 255]);
            draft.protocol(protocol, &[0, 22, 0x9c, 0x40, 0, 0, 0, 0, 0, 0, 0, 0])
        }
    }
}

/// Now and then with something that is seldom seen.
fn odd(draft: Draft, v6: bool, random: &mut Random) -> Draft {
    match random.below(40) {
        0 | 1 => {
            let count = if random.once_in(4) { 9 } else { 1 + random.below(8) };
            let id = if random.once_in(8) { 5 } else { 0 };
            let kind = random.pick(&[ethertype::VLAN, ethertype::SERVICE_VLAN]);
            (0..count).fold(draft, |draft, _| draft.tag(kind, id))
        }
        2 if !v6 => {
            let options: [&[u8]; 5] =
                [&[1, 1, 1, 0], &[7, 7, 4, 0, 0, 0, 0], &[131, 3, 4], &[148, 4, 0, 0], &[1; 16]];
            draft.options(random.pick(&options))
        }
        2..=4 if v6 => {
            let count = if random.once_in(8) { 9 } else { 1 + random.below(7) };
            (0..count).fold(draft, |draft, _| {
                let number = random.pick(&[0, 60, 60, 60, 43, 51]);
                draft.extension(number, &PADDING)
            })
        }
        5 => draft.at_offset(random.pick(&[0, 0, 8, 16, 24, 1480, 65_528]), random.flag() == 1),
        6 => draft.hop_limit(random.pick(&[0, 1, 255])),
        7 => draft.cut(random.below(20)),
        _ => draft,
    }
}
