//! Tables from a literal inventory and the text of a policy.

mod labels;
mod lan;
mod outbound;
mod rules;
mod swarm;
mod terms;
mod uplinks;

use std::path::Path;

use fw_common::tables::memory::longest;
use fw_common::tables::{Terms, sources};
use fw_common::wire::proto;

use super::*;
use crate::docker::{Exposed, GatewayMode, Transport};
use crate::inventory::{DirectPort, Linked, PublishedPort, PublishedTarget};
use crate::netlink::{Link, LinkKind};
use crate::plan::plan;

#[test]
fn networks_stand_under_their_bridges() {
    let found = want("", &world(), &State::default());
    let tables = &found.state.tables;
    assert_eq!(tables.networks[&FRONT], Network { icc: 1, terms: Terms::OPEN, ..Network::zeroed() });
    assert_eq!(tables.networks[&BACK], Network { internal: 1, terms: Terms::OPEN, ..Network::zeroed() });
    let front = longest(&tables.subnets, &address("172.18.3.4")).map(|subnet| subnet.network);
    assert_eq!(front, Some(FRONT));
    assert_eq!(longest(&tables.subnets, &address("2001:db8:f::9")).map(|subnet| subnet.network), Some(FRONT));
    assert!(longest(&tables.subnets, &address("172.20.0.1")).is_none());
    assert_eq!(name(&found, name_kind::NETWORK, FRONT), "front");
    for (ifindex, hook) in [(FRONT, Hook::BridgeIngress), (11, Hook::PortIngress), (12, Hook::PortIngress)] {
        assert!(found.state.hooks.contains(&HookPoint { ifindex, hook }), "{ifindex}");
    }
}

#[test]
fn a_network_without_a_bridge_is_left_out_until_it_has_one() {
    let mut inventory = world();
    inventory.networks[0].bridge_ifindex = None;
    let found = want("", &inventory, &State::default());
    assert!(!found.state.tables.subnets.values().any(|subnet| subnet.network == FRONT));
    assert!(!found.state.tables.endpoints.contains_key(&address("172.18.0.2")));
}

#[test]
fn ports_are_known_with_mac_and_address_and_unknown_otherwise() {
    let found = want("", &world(), &State::default());
    let interfaces = &found.state.tables.interfaces;
    let known = interfaces[&11];
    assert_eq!((known.role, known.network, known.l3_device), (role::PORT, FRONT, FRONT));
    assert_eq!((known.endpoint_known, known.mac), (1, MAC));
    assert_eq!(name(&found, name_kind::ENDPOINT, 11), "web");
    let unknown = interfaces[&12];
    assert_eq!((unknown.role, unknown.endpoint_known, unknown.mac), (role::PORT, 0, Mac::default()));

    for strip in [
        (|endpoint: &mut inventory::Endpoint| endpoint.mac = None) as fn(&mut _),
        |endpoint: &mut inventory::Endpoint| endpoint.addresses.clear(),
    ] {
        let mut inventory = world();
        strip(&mut inventory.endpoints[0]);
        let port = want("", &inventory, &State::default()).state.tables.interfaces[&11];
        assert_eq!((port.endpoint_known, port.mac), (0, Mac::default()), "half known is not known");
    }
}

#[test]
fn ports_are_hooked_both_ways_where_neighbours_are_kept_apart() {
    let hooks = |policy: &str, ifindex| {
        let state = want(policy, &world(), &State::default()).state;
        let hooks = state.hooks.into_iter().filter(|point| point.ifindex == ifindex);
        hooks.map(|point| point.hook).collect::<Vec<_>>()
    };
    let (one_way, both_ways) = (vec![Hook::PortIngress], vec![Hook::PortIngress, Hook::PortEgress]);
    assert_eq!([hooks("", 11), hooks("", 21)], [one_way.clone(), both_ways.clone()], "as Docker says");
    let turned = "[networks.front]\nicc = false\n[networks.back]\nicc = true";
    assert_eq!([hooks(turned, 11), hooks(turned, 21)], [both_ways, one_way], "as the policy says");
    let apart =
        |policy: &str| want(policy, &world(), &State::default()).apart.into_iter().collect::<Vec<_>>();
    assert_eq!(apart(""), ["br-back"]);
    assert_eq!(apart(turned), ["br-front"]);
    assert_eq!(apart("mode = \"observe\""), [""; 0], "a static rule cannot only observe");
}

#[test]
fn links_stand_where_neighbours_are_kept_apart() {
    let mut inventory = world();
    let link = |port| Linked { network: 0, client: ip("172.18.0.3"), server: ip("172.18.0.2"), port };
    inventory.linked = vec![link(None), link(Some(Exposed { protocol: Transport::Udp, port: 53 }))];
    let links = |policy: &str| want(policy, &inventory, &State::default()).state.tables.links;
    assert!(links("").is_empty());
    let pair = LinkKey::pair(address("172.18.0.3"), address("172.18.0.2"));
    let exposed = LinkKey { port: 53, proto: proto::UDP, ..pair };
    assert_eq!(links("[networks.front]\nicc = false"), BTreeSet::from([pair, exposed]));
}

#[test]
fn a_newcomer_is_hooked_as_a_port_of_its_network() {
    let known = want("", &world(), &State::default()).state;
    let steps = newcomer(&known, 99, BACK);
    let [Step::Interface(99, Some(port)), hooks @ ..] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!((port.role, port.network, port.endpoint_known), (role::PORT, BACK, 0));
    let at = |hook| Step::Attach(HookPoint { ifindex: 99, hook });
    assert_eq!(hooks, [at(Hook::PortIngress), at(Hook::PortEgress)]);
    assert_eq!(newcomer(&known, 99, FRONT).len(), 2, "with icc one hook is enough");
    assert_eq!(newcomer(&known, 11, FRONT), [], "known already");
    assert_eq!(newcomer(&known, 99, 2), [], "an uplink is no bridge of ours");
    // The pass that follows gives it the number by which its flows are counted, and finds nothing else to do.
    let mut inventory = world();
    inventory.networks[1].ports.push(port_of(99));
    let mut welcomed = known.clone();
    welcomed.tables.interfaces.insert(99, *port);
    welcomed.hooks.extend([Hook::PortIngress, Hook::PortEgress].map(|hook| HookPoint { ifindex: 99, hook }));
    let found = want("", &inventory, &welcomed);
    let steps = plan(&welcomed, &found.state);
    let [Step::Interface(99, Some(counted))] = steps[..] else { panic!("{steps:?}") };
    assert_eq!(Interface { owner: 0, ..counted }, *port);
}

#[test]
fn endpoints_stand_under_their_addresses() {
    let found = want("", &world(), &State::default());
    let endpoints = &found.state.tables.endpoints;
    let web = Endpoint { network: FRONT, port: 11, mac: MAC, reserved: [0; 2] };
    assert_eq!(endpoints[&address("172.18.0.2")], web);
    assert_eq!(endpoints[&address("2001:db8:f::2")], web);
    assert_eq!(endpoints.len(), 2);

    let mut inventory = world();
    inventory.endpoints[0].port_ifindex = None;
    let found = want("", &inventory, &State::default());
    assert_eq!(found.state.tables.endpoints[&address("172.18.0.2")].port, 0, "its port is not known yet");
}

#[test]
fn spoofing_is_allowed_where_the_policy_says_so() {
    let found = want("[networks.front]\nspoofing = \"allow\"", &world(), &State::default());
    assert_eq!(found.state.tables.networks[&FRONT].spoofing, 1);
    assert_eq!(found.state.tables.networks[&BACK].spoofing, 0);
}

#[test]
fn our_addresses_stand_with_their_broadcasts_and_without_loopback() {
    let found = want("", &world(), &State::default());
    let local = &found.state.tables.local_addresses;
    let at = |text: &str, ifindex| {
        local.get(&LocalKey::new(address(text), ifindex)).map(|found| (found.ifindex, found.broadcast))
    };
    assert_eq!(at("198.51.100.7", 0), Some((2, 0)));
    assert_eq!(at("198.51.100.255", 0), Some((2, 1)));
    assert_eq!(at("fe80::7", 2), Some((2, 0)));
    assert_eq!(at("fe80::7", FRONT), None, "a link-local address is one of its link");
    assert_eq!(at("127.0.0.1", 0), None);
}

#[test]
fn the_same_again_changes_nothing() {
    let mut inventory = world();
    inventory.published = vec![published("0.0.0.0", Transport::Tcp, 80, true)];
    let policy = "
        [[allow]]
        name = \"ssh\"
        proto = \"tcp\"
        ports = [\"20-30\"]
        from = [\"203.0.113.0/24\"]
        [[deny]]
        name = \"bad\"
        from = [\"2001:db8:bad::/48\"]";
    let first = want(policy, &inventory, &State::default());
    let again = want(policy, &inventory, &first.state);
    assert_eq!(again.state, first.state);
    assert_eq!(plan(&first.state, &again.state), []);
}

#[test]
fn what_follows_from_the_policy_alone_is_worked_out_once() {
    let policy = parse(
        "[sets]\nmany = [\"203.0.113.0/24\"]\n[[allow]]\nname = \"ssh\"\nproto = \"tcp\"\nports = [22]\nfrom = [\"many\"]\n\
         [[deny]]\nname = \"bad\"\nfrom = [\"many\"]\n",
    );
    let prepared = Prepared::new(&policy, &State::default()).expect("it fits");
    let first = desired_with(&policy, &world(), &State::default(), &prepared, Labelled::default())
        .expect("it fits")
        .state;
    assert_eq!(first, desired(&policy, &world(), &State::default()).expect("it fits").state);
    let alone = SwarmRules::default();
    assert!(prepared.is_of(&first, &Labelled::default(), &alone));
    assert!(!prepared.is_of(&State::default(), &Labelled::default(), &alone), "its numbers are not in force");
    let again =
        desired_with(&policy, &world(), &first, &prepared, Labelled::default()).expect("it fits").state;
    assert!(std::ptr::eq(&raw const *first.tables.sources, &raw const *again.tables.sources));
    assert!(std::ptr::eq(&raw const *first.tables.denied, &raw const *again.tables.denied));
}

#[test]
fn settings_follow_the_policy() {
    let settings =
        want("mode = \"observe\"\n[marks]\nbit = 20", &world(), &State::default()).state.tables.settings;
    assert_eq!((settings.abi, settings.observe, settings.mark_bit), (ABI_VERSION, 1, 20));
}

#[test]
fn a_name_that_docker_does_not_know_is_a_warning() {
    let found = want("[networks.nosuch]\nspoofing = \"allow\"", &world(), &State::default());
    assert!(
        found.warnings.iter().any(|warning| warning.contains("no network `nosuch` yet")),
        "{:?}",
        found.warnings
    );
    let known = want("[networks.front]\nspoofing = \"allow\"", &world(), &State::default());
    assert!(!known.warnings.iter().any(|warning| warning.contains("front")), "{:?}", known.warnings);
}

/// Bridges of the two networks.
const FRONT: u32 = 10;
const BACK: u32 = 20;
/// Ethernet address of `web`.
const MAC: Mac = Mac { bytes: [2, 0x42, 0, 0, 0, 2] };

/// One uplink; `front`, with `web` behind veth11 and nobody known behind veth12; `back`, internal, without icc.
fn world() -> Inventory {
    let front = inventory::Network {
        ports: vec![port(11, Some(0)), port(12, None)],
        ..network("front", FRONT, &["172.18.0.0/16", "2001:db8:f::/64"])
    };
    let back = inventory::Network {
        internal: true,
        icc: false,
        ports: vec![port(21, None)],
        ..network("back", BACK, &["172.19.0.0/16"])
    };
    Inventory {
        networks: vec![front, back],
        endpoints: vec![inventory::Endpoint {
            container: "web".into(),
            container_id: "c1".into(),
            labels: BTreeMap::new(),
            network: 0,
            mac: Some(inventory::Mac(MAC.bytes)),
            addresses: vec![ip("172.18.0.2"), ip("2001:db8:f::2")],
            port_ifindex: Some(11),
        }],
        local_addresses: vec![
            local(1, "127.0.0.1", None),
            local(2, "198.51.100.7", Some("198.51.100.255")),
            local(2, "fe80::7", None),
            local(FRONT, "172.18.0.1", None),
        ],
        links: vec![
            Link { loopback: true, ..Link::sample(1, "lo", LinkKind::Physical, None) },
            Link::sample(2, "eth0", LinkKind::Physical, None),
            Link::sample(FRONT, "br-front", LinkKind::Bridge, None),
            Link::sample(11, "veth11", LinkKind::Veth, Some(FRONT)),
            Link::sample(12, "veth12", LinkKind::Veth, Some(FRONT)),
            Link::sample(BACK, "br-back", LinkKind::Bridge, None),
            Link::sample(21, "veth21", LinkKind::Veth, Some(BACK)),
        ],
        default_route_links: vec![2],
        ..Inventory::default()
    }
}

fn network(name: &str, bridge: u32, subnets: &[&str]) -> inventory::Network {
    inventory::Network {
        name: name.into(),
        docker_id: Some(format!("id of {name}")),
        bridge_name: format!("br-{name}"),
        bridge_ifindex: Some(bridge),
        subnets: subnets.iter().map(|subnet| subnet.parse().expect("a prefix")).collect(),
        gateways: vec![],
        internal: false,
        icc: true,
        ipv6: true,
        gateway_mode_v4: GatewayMode::Nat,
        gateway_mode_v6: GatewayMode::Nat,
        trusted: vec![],
        masquerade: true,
        ports: vec![],
    }
}

fn port(ifindex: u32, endpoint: Option<usize>) -> inventory::Port {
    inventory::Port { ifindex, name: format!("veth{ifindex}"), endpoint, is_pair: false }
}

fn port_of(ifindex: u32) -> inventory::Port {
    port(ifindex, None)
}

fn local(ifindex: u32, address: &str, broadcast: Option<&str>) -> crate::netlink::LocalAddress {
    let broadcast = broadcast.map(|text| text.parse().expect("an address"));
    crate::netlink::LocalAddress { ifindex, address: ip(address), prefix_len: 24, broadcast }
}

fn published(host: &str, protocol: Transport, host_port: u16, target: bool) -> PublishedPort {
    PublishedPort {
        host: ip(host),
        protocol,
        host_port,
        container_port: 80,
        container: "web".into(),
        target: target.then(|| PublishedTarget { endpoint: 0, address: ip("172.18.0.2") }),
    }
}

fn want(policy: &str, inventory: &Inventory, current: &State) -> Desired {
    let mut inventory = inventory.clone();
    // Tests add devices as they come to mind; an inventory has them by index.
    inventory.links.sort_by_key(|link| link.index);
    desired(&parse(policy), &inventory, current).unwrap_or_else(|error| panic!("{error}\n---\n{policy}"))
}

fn parse(policy: &str) -> Policy {
    Policy::parse(policy, Path::new("policy.toml"), Path::new("/nonexistent"))
        .unwrap_or_else(|error| panic!("{error}\n---\n{policy}"))
}

/// The zone of a set, as a mask.
fn bit(found: &Desired, set: &str) -> u64 {
    let suffix = format!(" {set}");
    let zones = found.state.names.iter().filter(|(key, _)| key.kind == name_kind::ZONE);
    let bits: Vec<u32> = zones.filter(|(_, name)| name.ends_with(&suffix)).map(|(key, _)| key.id).collect();
    let [bit] = bits[..] else { panic!("{set} has the bits {bits:?}") };
    1 << bit
}

/// The number of a rule.
fn id(found: &Desired, rule: &str) -> u32 {
    let mut rules = found.state.names.iter().filter(|(key, _)| key.kind == name_kind::RULE);
    rules.find(|(_, name)| *name == rule).map_or(0, |(key, _)| key.id)
}

fn name(found: &Desired, kind: u32, id: u32) -> &str {
    found.state.names.get(&NameKey { kind, id }).map_or("", String::as_str)
}

fn address(text: &str) -> Address {
    ip(text).into()
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
