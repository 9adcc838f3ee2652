//! Random tables: those of the example host, with entries gone, changed and added.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fw_common::flow::{Flow, FlowKey, counted, owner, state};
use fw_common::tables::memory::Memory;
use fw_common::tables::{
    Bucket, BucketKey, BudgetPlace, Datagram, DatagramKey, DenyRule, Endpoint, Limit, LinkKey, LocalAddress,
    LocalKey, OutKey, OutRule, Port, PortKey, Prefix, ReachKey, Subnet, Terms, Zones, egress,
};
use fw_common::wire::proto;
use fw_common::{Address, Mac};

use super::Random;
use crate::example::host::{
    self, BRIDGE_A, BRIDGED_UPLINK, DEVICES, Family, NOW, STRANGER, UPLINK, UPLINK_BRIDGE, container_mac,
    families, share,
};
use crate::example::packets::IDENTIFICATION;

/// Uplinks and the devices that carry their addresses.
const UPLINKS: [(u32, u32); 2] = [(UPLINK, UPLINK), (BRIDGED_UPLINK, UPLINK_BRIDGE)];

/// Rules of random tables have numbers below this.
pub(crate) const RULES: u32 = 64;

/// Ports that tables and packets share.
pub(crate) const PORTS: [u16; 20] = [
    22, 25, 26, 53, 67, 68, 123, 443, 546, 547, 2022, 2023, 4789, 5000, 6000, 8080, 8082, 8083, 8084, 40_000,
];

/// Protocols that tables and packets share.
pub(crate) const PROTOCOLS: [u8; 6] =
    [proto::TCP, proto::UDP, proto::ICMP, proto::UDP_LITE, proto::SCTP, proto::GRE];

/// Budgets of random tables: of one place and none the same one is drawn always, of so many places none twice. What of
/// other budgets is drawn in the kernel nobody can tell.
const BUDGETS: [u32; 3] = [0, 1, u32::MAX];

/// Limits of random tables have numbers below this; that number none.
const LIMITS: u32 = 5;

/// Random tables; flows, buckets and datagrams are as old as if it were second [`NOW`].
pub(crate) fn tables(random: &mut Random) -> Memory {
    let mut tables = host::tables();
    tables.settings.observe = u8::from(random.once_in(8));
    tables.settings.mark_bit = 17 + random.below(14) as u8;
    tables.settings.nat_owned = u8::from(random.once_in(4));
    devices(&mut tables, random);
    thin(&mut tables.networks, random);
    for network in tables.networks.values_mut() {
        if random.once_in(3) {
            (network.icc, network.internal, network.spoofing) =
                (random.flag(), random.flag(), u8::from(random.once_in(4)));
        }
        if random.once_in(2) {
            network.terms = terms(random);
        }
    }
    let networks: Vec<u32> = host::tables().networks.into_keys().collect();
    addresses(&mut tables, &networks, random);
    sources(&mut tables, random);
    between(&mut tables, &networks, random);
    outbound(&mut tables, random);
    limits(&mut tables, random);
    flows(&mut tables, random);
    datagrams(&mut tables, random);
    tables
}

/// An address of this family: mostly one that means something, or a neighbour of it.
pub(crate) fn address(family: &Family, random: &mut Random) -> IpAddr {
    let f = family;
    let known = [
        f.ours,
        f.second,
        f.new,
        f.remote,
        f.elsewhere,
        f.office,
        f.branch,
        f.region,
        f.denied_host,
        f.denied_net,
        f.gateway_a,
        f.gateway_b,
        f.gateway_internal,
        f.gateway_n,
        f.a1,
        f.a2,
        f.unknown,
        f.b1,
        f.i1,
        f.i2,
        f.n1,
        f.n2,
        f.n3,
        f.s1,
        f.shared,
        f.station,
        f.neighbour,
        f.ipvlan,
        f.group,
    ];
    let address = random.pick(&known);
    match (random.below(20), address) {
        (0, IpAddr::V4(_)) => {
            let odd = ["0.0.0.0", "255.255.255.255", "127.0.0.1", "198.18.0.255", "240.0.0.1", "239.1.2.3"];
            host::address(random.pick(&odd))
        }
        (0, IpAddr::V6(_)) => {
            let odd = ["::", "::1", "ff02::1", "fe80::1", "fe80::2", "::ffff:198.18.0.1", "ff05::2"];
            host::address(random.pick(&odd))
        }
        (1, IpAddr::V4(v4)) => (u32::from(v4) ^ 1 << random.below(10)).to_be_bytes().into(),
        (1, IpAddr::V6(v6)) => (u128::from(v6) ^ 1 << random.below(70)).to_be_bytes().into(),
        _ => address,
    }
}

fn devices(tables: &mut Memory, random: &mut Random) {
    let networks: Vec<u32> = tables.networks.keys().copied().collect();
    thin(&mut tables.interfaces, random);
    for interface in tables.interfaces.values_mut() {
        // The FIB refuses to answer for a device that is not there; the tables in memory have no such notion.
        if !DEVICES.contains(&interface.l3_device) {
            interface.l3_device = STRANGER;
        }
        match random.below(24) {
            0 => interface.role = random.below(5) as u8,
            1 => interface.link_layer = 1 + random.flag(),
            2 => interface.bridge_port ^= 1,
            3 => interface.endpoint_known ^= 1,
            4 => interface.mac = container_mac(random.pick(&DEVICES)),
            5 => interface.network = random.pick(&networks),
            6 => interface.l3_device = random.pick(&DEVICES),
            7 => interface.apart = 1,
            8 => interface.shared = random.below(3) as u8,
            _ => {}
        }
        if random.once_in(2) {
            interface.terms = terms(random);
        }
    }
}

fn addresses(tables: &mut Memory, networks: &[u32], random: &mut Random) {
    thin(&mut tables.subnets, random);
    thin(&mut tables.local_addresses, random);
    if random.once_in(2) {
        let (uplink, parent) = random.pick(&UPLINKS);
        share(tables, uplink, if random.once_in(8) { random.pick(&DEVICES) } else { parent });
        thin(&mut tables.stations, random);
        tables.stations.values_mut().for_each(|station| station.host ^= u8::from(random.once_in(8)));
    }
    thin(&mut tables.endpoints, random);
    for _ in 0..random.below(4) {
        tables.subnets.insert(prefix(random), Subnet { network: random.pick(networks) });
    }
    for _ in 0..random.below(6) {
        let (address, ifindex) = (any(random), random.pick(&DEVICES));
        let broadcast = u8::from(random.once_in(4));
        tables
            .local_addresses
            .insert(LocalKey::new(address, ifindex), LocalAddress { ifindex, broadcast, reserved: [0; 3] });
    }
    for _ in 0..random.below(6) {
        let port = if random.once_in(3) { 0 } else { random.pick(&DEVICES) };
        let mac = if random.once_in(4) { Mac { bytes: [2; 6] } } else { container_mac(port) };
        let network = if random.once_in(4) { 0 } else { random.pick(networks) };
        let endpoint = Endpoint { network, port, mac, reserved: [0; 2] };
        tables.endpoints.insert(any(random), endpoint);
    }
    // A network that no subnet belongs to, and a subnet whose network is not there.
    if random.once_in(8) {
        tables.subnets.insert(prefix(random), Subnet { network: BRIDGE_A + 70 });
    }
}

fn sources(tables: &mut Memory, random: &mut Random) {
    thin(&mut tables.ports, random);
    thin(&mut tables.denied, random);
    thin(&mut tables.sources, random);
    for _ in 0..random.below(30) {
        let address = any(random);
        let address = if random.flag() == 0 { address.any_of_family() } else { address };
        let protocol = random.pick(&PROTOCOLS);
        let port = if matches!(protocol, proto::ICMP | proto::GRE) { 0 } else { random.pick(&PORTS) };
        let entry = Port {
            zones: random.next() & 0xf,
            rule: random.below(RULES as usize) as u32,
            sources: random.below(8) as u8,
            published: random.flag(),
            open: u8::from(random.once_in(4)),
            limit: limit(random),
        };
        let key = match random.below(8) {
            0 => PortKey::all_of(address),
            1 => PortKey::new(address, protocol, port).by(random.pick(&DEVICES)),
            _ => PortKey::new(address, protocol, port),
        };
        tables.ports.insert(key, entry);
    }
    for _ in 0..random.below(6) {
        tables.denied.insert(prefix(random), DenyRule { rule: random.below(RULES as usize) as u32 });
        tables.sources.insert(prefix(random), Zones { zones: random.next() & 0xf });
    }
    tables.settings.deny = u8::from(!tables.denied.is_empty());
    tables.settings.source_prefixes = u8::from(!tables.sources.is_empty());
}

fn terms(random: &mut Random) -> Terms {
    let allowed = [
        egress::ANY,
        egress::ANY,
        0,
        egress::INTERNET,
        egress::ZONES,
        egress::INTERNET | egress::ZONES,
        egress::PUBLIC_ZONES,
    ];
    Terms { zones: random.next() & 0xf, egress: random.pick(&allowed), host: random.flag(), reserved: [0; 6] }
}

/// What leads from one network to another, and across one without `icc`.
fn between(tables: &mut Memory, networks: &[u32], random: &mut Random) {
    for from in networks {
        for to in networks {
            if random.once_in(3) {
                tables.reach.insert(ReachKey { from: *from, to: *to });
            }
        }
    }
    tables.links.retain(|_| !random.once_in(16));
    for _ in 0..random.below(10) {
        let f = random.pick(&families());
        let neighbours = [f.n1, f.n2, f.n3, f.a1, f.a2].map(Address::from);
        let link = LinkKey::pair(random.pick(&neighbours), random.pick(&neighbours));
        let (port, proto) = (random.pick(&PORTS), random.pick(&PROTOCOLS));
        tables.links.insert(if random.once_in(3) { link } else { LinkKey { port, proto, ..link } });
    }
}

fn outbound(tables: &mut Memory, random: &mut Random) {
    tables.settings.outbound = random.flag();
    for _ in 0..random.below(30) {
        let proto = random.pick(&PROTOCOLS);
        let mut end = || if random.once_in(2) { 0 } else { random.pick(&PORTS) };
        let key = match proto {
            proto::ICMP | proto::GRE => OutKey::new(proto, 0, 0),
            _ => OutKey::new(proto, end(), end()),
        };
        let rule = OutRule {
            zones: random.next() & 0xf,
            rule: random.below(RULES as usize) as u32,
            destinations: random.below(4) as u8,
            reserved: [0; 3],
        };
        tables.outbound.insert(key, rule);
    }
}

/// The number of a limit, mostly 0.
fn limit(random: &mut Random) -> u8 {
    if random.once_in(3) { random.below(LIMITS as usize + 1) as u8 } else { 0 }
}

fn limits(tables: &mut Memory, random: &mut Random) {
    for port in tables.ports.values_mut().filter(|port| port.limit == 0) {
        port.limit = limit(random);
    }
    for id in 1..LIMITS {
        let limit = Limit {
            rate: random.pick(&[0, 1, 20, 1000, u32::MAX]),
            burst: random.pick(&[0, 1, 2, 50, u32::MAX]),
            rule: random.below(RULES as usize) as u32,
        };
        tables.limits.insert(id, limit);
    }
    thin(&mut tables.limits, random);
    for _ in 0..random.below(30) {
        let limit = 1 + random.below(LIMITS as usize) as u32;
        let f = random.pick(&families());
        let peer = Address::from(random.pick(&[f.remote, f.office, f.branch, f.region, f.elsewhere]));
        let key = BucketKey { peer: peer.counted(), limit, reserved: [0; 4] };
        // One was filled by a CPU that is ahead.
        let age = random.pick(&[0, 1, 20, 500, 1000, 2000, 100_000, 5_u32.wrapping_neg()]);
        let tokens = random.pick(&[0, 1, 500, 999, 1000, 1500, 50_000, u32::MAX]);
        let bucket = Bucket { tokens, filled: (NOW * 1000).wrapping_sub(age) };
        tables.buckets.get_mut().insert(key, bucket);
    }
}

fn flows(tables: &mut Memory, random: &mut Random) {
    tables.settings.flow_budget = random.pick(&BUDGETS);
    for _ in 0..random.below(60) {
        let (key, flow) = flow(random);
        tables.flows.get_mut().insert(key, flow);
        if tables.settings.flow_budget <= 1 && random.once_in(3) {
            let owner = if random.once_in(4) { counted::UNKNOWN } else { flow.container };
            tables.budgets.get_mut().insert(BudgetPlace { place: 0, owner, reserved: [0; 2] }, key);
        }
    }
    for _ in 0..random.below(60) {
        let (mut key, flow) = flow(random);
        // Mostly to a container, of the same family.
        let f = families()[usize::from(!key.remote.is_v4())];
        if key.local.is_v4() == key.remote.is_v4() && !random.once_in(8) {
            key.local = random.pick(&[f.a1, f.a2, f.unknown, f.b1, f.i1, f.n1, f.n3, f.s1]).into();
        }
        tables.inbound_flows.get_mut().insert(key, Flow { container: 0, ..flow });
    }
}

fn datagrams(tables: &mut Memory, random: &mut Random) {
    for _ in 0..random.below(12) {
        let f = random.pick(&families());
        let peer = address(&f, random).into();
        let inside = random.pick(&[f.a1, f.a2, f.unknown, f.b1, f.n1, f.s1]).into();
        let (source, destination) = if random.once_in(2) { (peer, inside) } else { (f.ours.into(), peer) };
        let proto = if f.v6 { 0 } else { random.pick(&PROTOCOLS) };
        let key = DatagramKey { source, destination, id: IDENTIFICATION, proto, reserved: [0; 3] };
        let seen = NOW - random.pick(&[0, 0, 0, 29, 30, 1000]);
        let datagram = Datagram { seen, mark: random.pick(&[0, 1, 1, 9]), reserved: [0; 3] };
        tables.datagrams.get_mut().insert(key, datagram);
    }
}

/// Around the ends of flows that went out, and of those that came in.
const AGES: [u32; 28] = [
    0, 0, 0, 0, 1, 3, 7, 8, 24, 25, 39, 40, 99, 100, 109, 110, 124, 125, 129, 130, 169, 170, 549, 550, 609,
    610, 345_599, 345_600,
];

fn flow(random: &mut Random) -> (FlowKey, Flow) {
    let family = random.pick(&families());
    let proto = random.pick(&PROTOCOLS);
    let [local_port, remote_port] = match proto {
        proto::GRE => [0, 0],
        proto::ICMP => [random.pick(&PORTS), 0],
        _ => [random.pick(&PORTS), random.pick(&PORTS)],
    };
    let (local, remote) = (address(&family, random).into(), address(&family, random).into());
    let age = random.pick(&AGES);
    let flow = Flow {
        last_seen: NOW - age,
        started: NOW - age - random.pick(&[0, 1, 3, 4, 5]),
        state: random.pick(&[
            state::OPENING,
            state::ANSWERED,
            state::ESTABLISHED,
            state::FIN_SENT,
            state::CUT,
        ]),
        owner: random.pick(&[owner::HOST, owner::CONTAINER, owner::OTHER, owner::PEER]),
        container: random.pick(&[0, 0, 1, counted::UNKNOWN, counted::ANSWERS]),
    };
    (FlowKey { local, remote, local_port, remote_port, proto, reserved: [0; 3] }, flow)
}

fn any(random: &mut Random) -> Address {
    let family = random.pick(&families());
    address(&family, random).into()
}

fn prefix(random: &mut Random) -> Prefix {
    let address = any(random);
    let bits = if random.once_in(4) {
        128
    } else if address.is_v4() {
        96 + random.pick(&[8, 16, 20, 24, 25, 26, 28, 31])
    } else {
        random.pick(&[16, 32, 40, 48, 64, 96, 112, 127])
    };
    Prefix::new(address, bits)
}

/// Takes away one entry in sixteen.
fn thin<K: Ord, V>(table: &mut BTreeMap<K, V>, random: &mut Random) {
    table.retain(|_, _| !random.once_in(16));
}
