//! The host of the examples: its devices, networks, containers, rules, and the outside that it talks to.

use std::net::IpAddr;

use bytemuck::Zeroable as _;
use fw_common::tables::memory::Memory;
use fw_common::tables::{
    DenyRule, Endpoint, Interface, LinkKey, LocalAddress, LocalKey, Network, Port, PortKey, Prefix, Settings,
    Station, Subnet, Terms, Zones, link_layer, role, sources,
};
use fw_common::wire::proto;
use fw_common::{ABI_VERSION, Address, Mac};

/// The NIC towards the outside.
pub(crate) const UPLINK: u32 = 11;
/// A NIC that is a port of a bridge, which carries the addresses.
pub(crate) const BRIDGED_UPLINK: u32 = 12;
/// That bridge; it has no hook.
pub(crate) const UPLINK_BRIDGE: u32 = 14;
/// An uplink without Ethernet header.
pub(crate) const TUNNEL: u32 = 13;
/// Bridges: two plain networks, an internal one, one without icc, one that may spoof.
pub(crate) const BRIDGE_A: u32 = 20;
pub(crate) const BRIDGE_B: u32 = 21;
pub(crate) const BRIDGE_INTERNAL: u32 = 22;
pub(crate) const BRIDGE_NO_ICC: u32 = 23;
pub(crate) const BRIDGE_SPOOFING: u32 = 24;
/// Ports of those bridges, named after the container behind them.
pub(crate) const PORT_A1: u32 = 31;
pub(crate) const PORT_A2: u32 = 32;
/// A port of network A behind which nobody is known.
pub(crate) const PORT_UNKNOWN: u32 = 33;
pub(crate) const PORT_B1: u32 = 34;
pub(crate) const PORT_I1: u32 = 35;
pub(crate) const PORT_N1: u32 = 36;
pub(crate) const PORT_S1: u32 = 37;
/// A port whose network is in no table.
pub(crate) const PORT_ORPHAN: u32 = 38;
/// A device that no table knows.
pub(crate) const STRANGER: u32 = 39;
/// A second port of the network without icc; the container behind the first one is linked to the one behind it.
pub(crate) const PORT_N3: u32 = 40;

/// Every device of the host.
pub(crate) const DEVICES: [u32; 19] = [
    UPLINK,
    BRIDGED_UPLINK,
    TUNNEL,
    UPLINK_BRIDGE,
    BRIDGE_A,
    BRIDGE_B,
    BRIDGE_INTERNAL,
    BRIDGE_NO_ICC,
    BRIDGE_SPOOFING,
    PORT_A1,
    PORT_A2,
    PORT_UNKNOWN,
    PORT_B1,
    PORT_I1,
    PORT_N1,
    PORT_S1,
    PORT_ORPHAN,
    STRANGER,
    PORT_N3,
];

/// The rules, by what they allow.
pub(crate) mod rule {
    pub(crate) const SSH_OFFICE: u32 = 1;
    pub(crate) const WEB: u32 = 2;
    pub(crate) const DNS_SECOND: u32 = 3;
    pub(crate) const VXLAN: u32 = 4;
    pub(crate) const MAIL_BRANCH: u32 = 5;
    pub(crate) const PING: u32 = 6;
    pub(crate) const PUBLISHED: u32 = 7;
    pub(crate) const PUBLISHED_OFFICE: u32 = 8;
    pub(crate) const SYSLOG_OFFICE: u32 = 9;
    pub(crate) const WIDE_OFFICE: u32 = 10;
    pub(crate) const EXACT: u32 = 11;
    pub(crate) const EXACT_OFFICE: u32 = 12;
    pub(crate) const WIDE: u32 = 13;
    pub(crate) const REGION: u32 = 14;
    pub(crate) const LIMIT: u32 = 15;
    pub(crate) const OUT_WEB: u32 = 16;
    pub(crate) const OUT_OFFICE: u32 = 17;
    pub(crate) const OUT_SOURCE: u32 = 18;
    pub(crate) const OUT_BOTH: u32 = 19;
    pub(crate) const DENY_HOST: u32 = 20;
    pub(crate) const DENY_NET: u32 = 21;
}

/// The second in which all examples play.
pub(crate) const NOW: u32 = 1_000_000;

const OFFICE: u64 = 1;
const BRANCH: u64 = 2;
const REGION: u64 = 4;

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    pub(crate) v6: bool,
    /// Addresses of the host on its uplink.
    pub(crate) ours: IpAddr,
    pub(crate) second: IpAddr,
    /// Added a moment ago: only the routing table knows it.
    pub(crate) new: IpAddr,
    /// Anybody outside, and somebody whom the host forwards to.
    pub(crate) remote: IpAddr,
    pub(crate) elsewhere: IpAddr,
    /// In zones, as a host, by a prefix, and by the prefix around both.
    pub(crate) office: IpAddr,
    pub(crate) branch: IpAddr,
    pub(crate) region: IpAddr,
    /// Denied as a host and by a prefix.
    pub(crate) denied_host: IpAddr,
    pub(crate) denied_net: IpAddr,
    /// Gateways, that is, addresses of bridges.
    pub(crate) gateway_a: IpAddr,
    pub(crate) gateway_b: IpAddr,
    pub(crate) gateway_internal: IpAddr,
    pub(crate) gateway_n: IpAddr,
    /// Containers, and an address of network A that no container is known to own.
    pub(crate) a1: IpAddr,
    pub(crate) a2: IpAddr,
    pub(crate) unknown: IpAddr,
    pub(crate) b1: IpAddr,
    pub(crate) i1: IpAddr,
    pub(crate) i2: IpAddr,
    pub(crate) n1: IpAddr,
    pub(crate) n2: IpAddr,
    pub(crate) n3: IpAddr,
    pub(crate) s1: IpAddr,
    /// An address that containers of the spoofing network pass among themselves.
    pub(crate) shared: IpAddr,
    /// Containers that may share an uplink: with MAC addresses of their own, and with the uplink's.
    pub(crate) station: IpAddr,
    pub(crate) neighbour: IpAddr,
    pub(crate) ipvlan: IpAddr,
    /// A group that everybody listens to.
    pub(crate) group: IpAddr,
}

/// Both families.
pub(crate) fn families() -> [Family; 2] {
    [false, true].map(|v6| {
        let of = |v4: &str, six: &str| address(if v6 { six } else { v4 });
        Family {
            v6,
            ours: of("198.18.0.1", "2001:db8::1"),
            second: of("198.18.0.2", "2001:db8::2"),
            new: of("198.18.0.77", "2001:db8::77"),
            remote: of("203.0.113.9", "2001:db8:9::9"),
            elsewhere: of("192.0.2.1", "2001:db8:e::1"),
            office: of("203.0.113.120", "2001:db8:7:1::20"),
            branch: of("203.0.113.70", "2001:db8:7:2::70"),
            region: of("203.0.113.100", "2001:db8:7:3::99"),
            denied_host: of("192.0.2.66", "2001:db8:66::66"),
            denied_net: of("192.0.2.200", "2001:db8:6600::1"),
            gateway_a: of("10.1.0.1", "fd00:1::1"),
            gateway_b: of("10.2.0.1", "fd00:2::1"),
            gateway_internal: of("10.3.0.1", "fd00:3::1"),
            gateway_n: of("10.4.0.1", "fd00:4::1"),
            a1: of("10.1.0.11", "fd00:1::11"),
            a2: of("10.1.0.12", "fd00:1::12"),
            unknown: of("10.1.0.13", "fd00:1::13"),
            b1: of("10.2.0.11", "fd00:2::11"),
            i1: of("10.3.0.11", "fd00:3::11"),
            i2: of("10.3.0.12", "fd00:3::12"),
            n1: of("10.4.0.11", "fd00:4::11"),
            n2: of("10.4.0.12", "fd00:4::12"),
            n3: of("10.4.0.13", "fd00:4::13"),
            s1: of("10.5.0.11", "fd00:5::11"),
            shared: of("10.5.0.100", "fd00:5::100"),
            station: of("198.18.0.50", "2001:db8::50"),
            neighbour: of("198.18.0.52", "2001:db8::52"),
            ipvlan: of("198.18.0.51", "2001:db8::51"),
            group: of("224.0.0.251", "ff02::fb"),
        }
    })
}

/// The address that is written so.
pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The MAC address of a device of the host. The tunnel has none; the kernel's test run wants one, and with this one an
/// IPv6 packet of twenty bytes looks like a frame for the tunnel.
pub(crate) fn mac_of(device: u32) -> Mac {
    if device == TUNNEL {
        return Mac { bytes: [0x60, 0, 0, 0, 0, 20] };
    }
    Mac { bytes: [2, 0, 0, 0, 0, device as u8] }
}

/// The MAC address of the container behind a port.
pub(crate) fn container_mac(port: u32) -> Mac {
    Mac { bytes: [2, 0x42, 0, 0, 0, port as u8] }
}

/// The MAC address of a macvlan container.
pub(crate) const STATION: Mac = Mac { bytes: [2, 0x42, 0, 0, 1, 0x50] };
/// That of another one.
pub(crate) const NEIGHBOUR: Mac = Mac { bytes: [2, 0x42, 0, 0, 1, 0x51] };
/// That of a macvlan device of the host's own, over which it meets them.
pub(crate) const SHIM: Mac = Mac { bytes: [2, 0x42, 0, 0, 1, 0x52] };

/// Lets the containers share this uplink, whose addresses `parent` carries.
pub(crate) fn share(tables: &mut Memory, uplink: u32, parent: u32) {
    if let Some(interface) = tables.interfaces.get_mut(&uplink) {
        interface.shared = fw_common::tables::shared::BY_ADDRESS;
    }
    for (mac, host) in [(STATION, 0), (NEIGHBOUR, 0), (SHIM, 1)] {
        tables.stations.insert(mac, Station { parent, host, reserved: [0; 3] });
    }
    for family in families() {
        let known =
            [(family.station, STATION), (family.neighbour, NEIGHBOUR), (family.ipvlan, Mac::default())];
        for (address, mac) in known {
            let endpoint = Endpoint { network: 0, port: parent, mac, reserved: [0; 2] };
            tables.endpoints.insert(address.into(), endpoint);
        }
    }
}

/// The tables of the host.
pub(crate) fn tables() -> Memory {
    let mut tables = Memory { now: NOW, now_ms: NOW * 1000, ..Memory::default() };
    tables.settings = Settings {
        abi: ABI_VERSION,
        mark_bit: 17,
        deny: 1,
        source_prefixes: 1,
        flow_budget: 64,
        ..Settings::zeroed()
    };
    devices(&mut tables);
    networks(&mut tables);
    for family in families() {
        own_addresses(&mut tables, &family);
        zones(&mut tables, &family);
        links(&mut tables, &family);
        rules(&mut tables, &family);
    }
    tables.local_addresses.insert(
        LocalKey::new(address("198.18.0.255").into(), UPLINK),
        LocalAddress { ifindex: UPLINK, broadcast: 1, reserved: [0; 3] },
    );
    // Link-local addresses, the same one on every device.
    for ifindex in [UPLINK, BRIDGE_A, BRIDGE_INTERNAL, BRIDGE_NO_ICC] {
        let key = LocalKey::new(address("fe80::1").into(), ifindex);
        tables.local_addresses.insert(key, LocalAddress { ifindex, broadcast: 0, reserved: [0; 3] });
    }
    tables
}

fn devices(tables: &mut Memory) {
    let device = |role, network, l3_device| Interface {
        role,
        link_layer: link_layer::ETHERNET,
        network,
        l3_device,
        ..Interface::zeroed()
    };
    let uplink = Interface { mac: mac_of(UPLINK), ..device(role::UPLINK, 0, UPLINK) };
    tables.interfaces.insert(UPLINK, uplink);
    let bridged =
        Interface { bridge_port: 1, mac: mac_of(BRIDGED_UPLINK), ..device(role::UPLINK, 0, UPLINK_BRIDGE) };
    tables.interfaces.insert(BRIDGED_UPLINK, bridged);
    let tunnel = Interface { link_layer: link_layer::NONE, ..device(role::UPLINK, 0, TUNNEL) };
    tables.interfaces.insert(TUNNEL, tunnel);
    for bridge in [BRIDGE_A, BRIDGE_B, BRIDGE_INTERNAL, BRIDGE_NO_ICC, BRIDGE_SPOOFING] {
        let bridge_device =
            Interface { mac: mac_of(bridge), records: 1, ..device(role::BRIDGE, bridge, bridge) };
        tables.interfaces.insert(bridge, bridge_device);
    }
    for (port, bridge) in [
        (PORT_A1, BRIDGE_A),
        (PORT_A2, BRIDGE_A),
        (PORT_B1, BRIDGE_B),
        (PORT_I1, BRIDGE_INTERNAL),
        (PORT_N1, BRIDGE_NO_ICC),
        (PORT_N3, BRIDGE_NO_ICC),
        (PORT_S1, BRIDGE_SPOOFING),
    ] {
        let known = Interface {
            endpoint_known: 1,
            terms: Terms::OPEN,
            mac: container_mac(port),
            ..device(role::PORT, bridge, bridge)
        };
        tables.interfaces.insert(port, known);
    }
    let unknown = Interface { terms: Terms::OPEN, ..device(role::PORT, BRIDGE_A, BRIDGE_A) };
    tables.interfaces.insert(PORT_UNKNOWN, unknown);
    tables.interfaces.insert(PORT_ORPHAN, device(role::PORT, 25, 25));
}

fn networks(tables: &mut Memory) {
    let plain = Network { icc: 1, terms: Terms::OPEN, ..Network::zeroed() };
    tables.networks.insert(BRIDGE_A, plain);
    tables.networks.insert(BRIDGE_B, plain);
    tables.networks.insert(BRIDGE_INTERNAL, Network { internal: 1, ..plain });
    tables.networks.insert(BRIDGE_NO_ICC, Network { icc: 0, ..plain });
    tables.networks.insert(BRIDGE_SPOOFING, Network { spoofing: 1, ..plain });
    for (third, network) in
        [BRIDGE_A, BRIDGE_B, BRIDGE_INTERNAL, BRIDGE_NO_ICC, BRIDGE_SPOOFING].into_iter().enumerate()
    {
        for text in [format!("10.{}.0.0", third + 1), format!("fd00:{}::", third + 1)] {
            let address = address(&text);
            let bits = if address.is_ipv4() { 96 + 24 } else { 64 };
            tables.subnets.insert(Prefix::new(address.into(), bits), Subnet { network });
        }
    }
    for family in families() {
        for (address, network, port) in [
            (family.a1, BRIDGE_A, PORT_A1),
            (family.a2, BRIDGE_A, PORT_A2),
            (family.b1, BRIDGE_B, PORT_B1),
            (family.i1, BRIDGE_INTERNAL, PORT_I1),
            (family.n1, BRIDGE_NO_ICC, PORT_N1),
            (family.n3, BRIDGE_NO_ICC, PORT_N3),
            (family.s1, BRIDGE_SPOOFING, PORT_S1),
            // Known to Docker, their ports not known yet.
            (family.i2, BRIDGE_INTERNAL, 0),
            (family.n2, BRIDGE_NO_ICC, 0),
        ] {
            let mac = container_mac(if port == 0 { 200 } else { port });
            tables.endpoints.insert(address.into(), Endpoint { network, port, mac, reserved: [0; 2] });
        }
    }
}

fn own_addresses(tables: &mut Memory, family: &Family) {
    for (address, ifindex) in [
        (family.ours, UPLINK),
        (family.second, UPLINK),
        (family.gateway_a, BRIDGE_A),
        (family.gateway_b, BRIDGE_B),
        (family.gateway_internal, BRIDGE_INTERNAL),
        (family.gateway_n, BRIDGE_NO_ICC),
    ] {
        let key = LocalKey::new(address.into(), ifindex);
        tables.local_addresses.insert(key, LocalAddress { ifindex, broadcast: 0, reserved: [0; 3] });
    }
    tables.routed_local.insert(family.new.into());
}

fn zones(tables: &mut Memory, family: &Family) {
    // Closed over covering prefixes: who is in the office is in the region, too.
    let (branch_bits, region_bits) = if family.v6 { (64, 48) } else { (96 + 28, 96 + 26) };
    let (office, branch) = (Address::from(family.office), Address::from(family.branch));
    tables.sources.insert(Prefix::new(office, 128), Zones { zones: OFFICE | REGION });
    tables.sources.insert(Prefix::new(branch, branch_bits), Zones { zones: BRANCH | REGION });
    tables.sources.insert(Prefix::new(branch, region_bits), Zones { zones: REGION });
    let net_bits = if family.v6 { 40 } else { 96 + 25 };
    tables.denied.insert(Prefix::new(family.denied_host.into(), 128), DenyRule { rule: rule::DENY_HOST });
    tables.denied.insert(Prefix::new(family.denied_net.into(), net_bits), DenyRule { rule: rule::DENY_NET });
}

/// n1 was started with `--link` to n3, which exposes 443/tcp and 53/udp.
fn links(tables: &mut Memory, family: &Family) {
    let link = LinkKey::pair(family.n1.into(), family.n3.into());
    tables.links.insert(link);
    tables.links.insert(LinkKey { port: 443, proto: proto::TCP, ..link });
    tables.links.insert(LinkKey { port: 53, proto: proto::UDP, ..link });
}

fn rules(tables: &mut Memory, family: &Family) {
    let any = Address::from(family.ours).any_of_family();
    let second = Address::from(family.second);
    let mut put = |address, protocol, port, entry| {
        tables.ports.insert(PortKey::new(address, protocol, port), entry);
    };
    put(any, proto::TCP, 22, allow_zones(OFFICE, rule::SSH_OFFICE));
    put(any, proto::TCP, 25, allow_zones(OFFICE | BRANCH, rule::MAIL_BRANCH));
    put(any, proto::TCP, 26, allow_zones(REGION, rule::REGION));
    put(any, proto::TCP, 443, allow_any(rule::WEB));
    put(second, proto::UDP, 53, allow_any(rule::DNS_SECOND));
    put(any, proto::UDP, 4789, allow_any(rule::VXLAN));
    put(any, proto::UDP, 6000, allow_zones(OFFICE, rule::SYSLOG_OFFICE));
    // The same port under one address and under any.
    put(any, proto::TCP, 2022, allow_zones(OFFICE, rule::WIDE_OFFICE));
    put(second, proto::TCP, 2022, allow_any(rule::EXACT));
    put(any, proto::TCP, 2023, allow_any(rule::WIDE));
    put(second, proto::TCP, 2023, allow_zones(OFFICE, rule::EXACT_OFFICE));
    // Published by Docker, with and without a rule, and with the policy's `published = "open"`.
    let published = Port { published: 1, ..Port::zeroed() };
    put(any, proto::TCP, 8080, published);
    put(any, proto::UDP, 5000, published);
    put(any, proto::TCP, 8081, Port { open: 1, ..published });
    put(any, proto::TCP, 8082, Port { published: 1, ..allow_any(rule::PUBLISHED) });
    put(any, proto::TCP, 8083, Port { published: 1, ..allow_zones(OFFICE, rule::PUBLISHED_OFFICE) });
    put(any, proto::TCP, 8085, Port { published: 1, open: 1, ..allow_zones(OFFICE, rule::PUBLISHED_OFFICE) });
    // Published under one address only, allowed under any.
    put(any, proto::TCP, 8084, allow_any(rule::PUBLISHED));
    put(second, proto::TCP, 8084, published);
}

/// A rule for everybody.
pub(crate) fn allow_any(rule: u32) -> Port {
    Port { rule, sources: sources::ANY, ..Port::zeroed() }
}

fn allow_zones(zones: u64, rule: u32) -> Port {
    Port { zones, rule, sources: sources::ZONES, ..Port::zeroed() }
}

impl Family {
    /// The key of rules for any address of this family.
    pub(crate) fn any(&self) -> Address {
        Address::from(self.ours).any_of_family()
    }
}
