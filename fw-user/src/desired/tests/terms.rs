//! Terms of networks and containers, and which networks reach which.

use fw_common::tables::egress;

use super::*;

fn terms(found: &Desired) -> (Terms, Terms, Terms) {
    let tables = &found.state.tables;
    (tables.networks[&FRONT].terms, tables.interfaces[&11].terms, tables.interfaces[&12].terms)
}

/// A second network that is not internal, and a static one.
fn three() -> Inventory {
    let mut inventory = world();
    inventory.networks[1].internal = false;
    inventory.networks.push(network("lxc", 30, &["10.0.3.0/24"]));
    inventory
}

#[test]
fn every_port_carries_the_terms_of_its_container_or_its_network() {
    let open = want("", &world(), &State::default());
    assert_eq!(terms(&open), (Terms::OPEN, Terms::OPEN, Terms::OPEN));

    let policy = "
        [networks.front]
        egress = \"internet\"
        [containers.web]
        egress = \"none\"
        host = \"deny\"";
    let internet = Terms { egress: egress::INTERNET, ..Terms::OPEN };
    let own = Terms { egress: 0, host: 0, ..Terms::OPEN };
    let found = want(policy, &world(), &State::default());
    assert_eq!(terms(&found), (internet, own, internet), "nobody is known behind veth12");
    assert_eq!(found.state.tables.networks[&BACK].terms, Terms::OPEN);

    let half = want(
        "[networks.front]\nhost = \"deny\"\n[containers.web]\negress = \"none\"",
        &world(),
        &State::default(),
    );
    assert_eq!(terms(&half).1, own, "what the container's section leaves out is its network's");
}

#[test]
fn sets_of_egress_are_zones() {
    let policy = "
        [sets]
        updates = [\"203.0.113.0/24\"]
        [networks.front]
        egress = [\"updates\", \"192.0.2.7\"]
        [[allow]]
        name = \"ssh\"
        proto = \"tcp\"
        ports = [22]
        from = [\"updates\"]";
    let found = want(policy, &world(), &State::default());
    let zones = bit(&found, "updates") | bit(&found, "192.0.2.7/32");
    let expected = Terms { egress: egress::ZONES, zones, ..Terms::OPEN };
    assert_eq!(terms(&found), (expected, expected, expected));
    let held = longest(&found.state.tables.sources, &address("203.0.113.9")).map(|held| held.zones);
    assert_eq!(held, Some(bit(&found, "updates")));
}

#[test]
fn what_comes_in_is_watched_where_something_is_restricted() {
    let watched = |policy: &str| {
        let found = want(policy, &world(), &State::default());
        let hooks = found.state.hooks.into_iter().filter(|point| point.hook == Hook::BridgeEgress);
        hooks.map(|point| point.ifindex).collect::<Vec<_>>()
    };
    assert_eq!(watched(""), [0; 0]);
    assert_eq!(watched("[networks.front]\negress = \"none\""), [FRONT]);
    assert_eq!(watched("[networks.back]\nhost = \"deny\""), [BACK]);
    assert_eq!(watched("[containers.web]\negress = \"internet\""), [FRONT]);
    assert_eq!(watched("[networks.front]\negress = \"none\"\n[containers.web]\negress = \"any\""), [FRONT]);
    assert_eq!(watched("[networks.\"*\"]\negress = \"none\""), [FRONT, BACK]);
}

#[test]
fn networks_reach_those_that_they_name() {
    let reach = |policy: &str, inventory: &Inventory| {
        let found = want(policy, inventory, &State::default());
        found.state.tables.reach.iter().map(|key| (key.from, key.to)).collect::<Vec<_>>()
    };
    assert_eq!(reach("", &three()), []);
    assert_eq!(reach("[networks.front]\nreach = [\"back\", \"nosuch\"]", &three()), [(FRONT, BACK)]);
    assert_eq!(
        reach("[networks.lxc]\nreach = [\"front\"]", &three()),
        [(30, FRONT)],
        "a network of the policy's own"
    );
    assert_eq!(
        reach("[networks.\"*\"]\nreach = [\"back\"]", &three()),
        [(FRONT, BACK), (30, BACK)],
        "and none reaches itself"
    );
    let mut without_bridge = three();
    without_bridge.networks[1].bridge_ifindex = None;
    assert_eq!(reach("[networks.front]\nreach = [\"back\"]", &without_bridge), []);
}

#[test]
fn an_internal_network_reaches_nobody_and_nobody_reaches_it() {
    for (policy, internal) in
        [("[networks.front]\nreach = [\"back\"]", "front"), ("[networks.back]\nreach = [\"front\"]", "back")]
    {
        let found = want(policy, &world(), &State::default());
        assert!(found.state.tables.reach.is_empty(), "{policy}");
        let told = |warning: &String| {
            warning.starts_with(&format!("[networks.{internal}]")) && warning.contains("`back` is internal")
        };
        assert!(found.warnings.iter().any(told), "{:?}", found.warnings);
    }
}

#[test]
fn a_container_or_network_that_docker_does_not_know_is_a_warning() {
    let policy = "[containers.nobody]\negress = \"none\"\n[networks.front]\nreach = [\"nowhere\"]";
    let warnings = want(policy, &world(), &State::default()).warnings;
    for part in ["no container `nobody` on a managed network yet", "no network `nowhere` yet"] {
        assert!(warnings.iter().any(|warning| warning.contains(part)), "{warnings:?}");
    }
    let known = want("[containers.web]\negress = \"none\"", &world(), &State::default()).warnings;
    assert!(!known.iter().any(|warning| warning.contains("web")), "{known:?}");
}
