//! What the nodes of a swarm need of each other.

use fw_common::tables::{OutKey, PortKey};

use super::*;
use crate::docker::Swarm;

/// What nodes need of each other: protocol and port.
const RULES: [(&str, u8, u16); 5] = [
    ("swarm-vxlan", proto::UDP, 4790),
    ("swarm-esp", 50, 0),
    ("swarm-gossip", proto::TCP, 7946),
    ("swarm-gossip", proto::UDP, 7946),
    ("swarm-control", proto::TCP, 2377),
];

#[test]
fn nodes_are_let_in_by_name_and_managers_are_asked_for_control() {
    let found = want("", &member(true), &State::default());
    let of = |state: &State, proto, port| {
        state.tables.ports.get(&PortKey::new(Address::ANY_V4, proto, port)).copied()
    };
    let nodes = bit(&found, "swarm nodes");
    for (rule, proto, port) in RULES {
        let port = of(&found.state, proto, port).unwrap_or_else(|| panic!("{rule}"));
        assert_eq!(
            (port.sources, port.zones, port.rule),
            (sources::ZONES, nodes, id(&found, rule)),
            "{rule}"
        );
        assert_eq!((port.published, port.open), (0, 0), "what ends in the host is vouched for by nobody");
    }
    let zones = |text| longest(&found.state.tables.sources, &address(text)).map_or(0, |held| held.zones);
    assert_eq!([zones("198.18.0.2"), zones("2001:db8::3"), zones("198.18.0.9")], [nodes, nodes, 0]);
    let worker = want("", &member(false), &State::default()).state;
    assert!(of(&worker, proto::UDP, 4790).is_some() && of(&worker, proto::TCP, 2377).is_none());
}

#[test]
fn without_a_swarm_or_with_swarm_off_nothing_stands() {
    let alone = want("", &world(), &State::default()).state;
    let mut empty = member(true);
    empty.swarm.iter_mut().for_each(|swarm| swarm.nodes.clear());
    let mut off = want("[docker]\nswarm = \"off\"", &member(true), &State::default()).state;
    off.tables.ports.retain(|key, _| !matches!(key.port, 8090));
    assert_eq!(off, alone);
    let mut empty = want("", &empty, &State::default()).state;
    empty.tables.ports.retain(|key, _| !matches!(key.port, 8090));
    assert_eq!(empty, alone, "a swarm of one");
}

#[test]
fn outbound_rules_are_joined_by_the_swarm_s_and_never_begun_by_them() {
    let open = want("", &member(true), &State::default()).state.tables;
    assert_eq!((open.settings.outbound, open.outbound.len()), (0, 0), "the host may open everything");
    let found = want(DNS, &member(false), &State::default());
    let outbound = &found.state.tables.outbound;
    for (rule, proto, port) in RULES {
        let stands = outbound.get(&OutKey::new(proto, port, 0)).unwrap_or_else(|| panic!("{rule}"));
        let of_nodes = (sources::ZONES, bit(&found, "swarm nodes"), id(&found, rule));
        assert_eq!((stands.destinations, stands.zones, stands.rule), of_nodes, "{rule}: a worker asks, too");
    }
}

#[test]
fn rules_of_the_file_for_the_same_port_add_up() {
    let all =
        "[[allow]]\nname = \"managers to be\"\nproto = \"tcp\"\nports = [2377]\nfrom = [\"203.0.113.0/24\"]";
    let found = want(all, &member(true), &State::default());
    let port = found.state.tables.ports[&PortKey::new(Address::ANY_V4, proto::TCP, 2377)];
    assert_eq!(port.zones, bit(&found, "swarm nodes") | bit(&found, "203.0.113.0/24"));
    assert_eq!(port.rule, id(&found, "managers to be"), "who wrote a rule finds its name");
}

#[test]
fn what_services_publish_on_every_node_counts_as_published() {
    let entry = |policy: &str, any| {
        let ports = want(policy, &member(true), &State::default()).state.tables.ports;
        let port = ports[&PortKey::new(any, proto::TCP, 8090)];
        (port.published, port.open, port.sources)
    };
    assert_eq!(entry("", Address::ANY_V4), (1, 0, sources::NOBODY));
    let open = "[uplink]\npublished = \"open\"";
    assert_eq!(entry(open, Address::ANY_V4), (1, 1, sources::NOBODY));
    assert_eq!(entry(open, Address::ANY_V6), (0, 1, sources::NOBODY), "dockerd's own socket answers");
}

#[test]
fn a_node_that_is_gone_is_another_zone_and_a_plan_leads_there() {
    let before = want("", &member(true), &State::default());
    let mut inventory = member(true);
    inventory.swarm.iter_mut().for_each(|swarm| _ = swarm.nodes.pop_first());
    let after = want("", &inventory, &before.state);
    assert_ne!(bit(&before, "swarm nodes"), bit(&after, "swarm nodes"));
    assert_eq!(id(&before, "swarm-vxlan"), id(&after, "swarm-vxlan"), "its counter goes on");
    assert!(longest(&after.state.tables.sources, &address("198.18.0.2")).is_none());
    assert_eq!(plan(&after.state, &want("", &inventory, &after.state).state), []);
}

#[test]
fn where_the_file_uses_every_set_the_nodes_are_left_out_aloud() {
    use std::fmt::Write as _;
    let mut policy = String::new();
    for number in 0..64 {
        let prefix = format!("203.0.113.{number}/32");
        write!(
            policy,
            "[[allow]]\nname = \"{number}\"\nproto = \"tcp\"\nports = [22]\nfrom = [\"{prefix}\"]\n"
        )
        .expect("a string");
    }
    let found = want(&policy, &member(true), &State::default());
    let left_out =
        |found: &Desired| found.warnings.iter().any(|warning| warning.contains("nodes of the swarm"));
    assert!(left_out(&found), "{:?}", found.warnings);
    assert!(!found.state.tables.ports.contains_key(&PortKey::new(Address::ANY_V4, proto::TCP, 7946)));
    assert!(!left_out(&want("", &member(true), &State::default())));
}

const DNS: &str = "[[out]]\nname = \"dns\"\nproto = \"udp\"\nports = [53]";

/// The world, and Docker in a swarm of three.
fn member(manager: bool) -> Inventory {
    let swarm = Swarm {
        manager,
        nodes: [ip("198.18.0.2"), ip("2001:db8::3")].into(),
        data_port: 4790,
        control_ports: [2377].into(),
        ingress: [Exposed { protocol: Transport::Tcp, port: 8090 }].into(),
        complete: true,
    };
    Inventory { swarm: Some(swarm), ..world() }
}
