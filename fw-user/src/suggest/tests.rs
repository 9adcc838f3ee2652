//! Suggestions by example; `xtask/tests/suggest.rs` makes one of real traffic and enforces it.

use std::net::IpAddr;
use std::path::Path;

use bytemuck::Zeroable as _;
use fw_common::wire::{ethertype, proto};
use fw_common::{Hook, Reason};

use super::*;
use crate::docker::Transport;
use crate::inventory::{Endpoint, Network, Port, PublishedPort};

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().expect("an address").into()
}

fn entry(reason: Reason, source: &str, destination: &str, proto: u8, port: u16) -> (ObservedKey, Observed) {
    let hook = if reason == Reason::OutNotAllowed { Hook::UplinkEgress } else { Hook::UplinkIngress };
    let key = ObservedKey {
        source: address(source),
        destination: address(destination),
        destination_port: port,
        ethertype: if address(source).is_v4() { ethertype::IPV4 } else { ethertype::IPV6 },
        proto,
        hook: hook as u8,
        reason: reason as u8,
        ..ObservedKey::zeroed()
    };
    let opening = u64::from(proto == proto::TCP);
    (key, Observed { packets: 3, bytes: 180, opening, first_seen: 1000, last_seen: 4000 })
}

fn network(name: &str, bridge: u32, subnet: &str, internal: bool) -> Network {
    Network {
        name: name.to_owned(),
        docker_id: None,
        bridge_name: format!("br-{name}"),
        bridge_ifindex: Some(bridge),
        subnets: vec![subnet.parse().expect("a subnet")],
        gateways: Vec::new(),
        internal,
        icc: true,
        ipv6: false,
        gateway_mode_v4: crate::docker::GatewayMode::Nat,
        gateway_mode_v6: crate::docker::GatewayMode::Nat,
        trusted: Vec::new(),
        masquerade: true,
        ports: vec![Port { ifindex: bridge + 1, name: "veth".to_owned(), endpoint: None, is_pair: true }],
    }
}

fn host() -> Inventory {
    let published = PublishedPort {
        host: IpAddr::from([0, 0, 0, 0]),
        protocol: Transport::Tcp,
        host_port: 8080,
        container_port: 80,
        container: "web".to_owned(),
        target: None,
    };
    let mut shop = network("shop", 10, "10.1.0.0/24", false);
    shop.ports[0].endpoint = Some(0);
    let web = Endpoint {
        container: "web".to_owned(),
        container_id: "1".to_owned(),
        labels: BTreeMap::new(),
        network: 0,
        mac: None,
        addresses: vec![IpAddr::from([10, 1, 0, 2])],
        port_ifindex: Some(11),
    };
    Inventory {
        networks: vec![
            shop,
            network("back end", 20, "10.2.0.0/24", false),
            network("vault", 30, "10.3.0.0/24", true),
        ],
        endpoints: vec![web],
        published: vec![published],
        ..Inventory::default()
    }
}

fn suggested(text: &str, entries: &[(ObservedKey, Observed)], min_packets: u64) -> Suggestion {
    let (path, base) = (Path::new("policy.toml"), Path::new("/nonexistent"));
    let policy = Policy::parse(text, path, base).expect("a policy");
    let seen = Seen {
        text,
        policy: &policy,
        observed: &entries.iter().copied().collect(),
        now: 4010,
        inventory: &host(),
        listening: &BTreeSet::from([(proto::TCP, Address::ANY_V6, 22)]),
        min_packets,
        full: false,
    };
    let suggestion = suggest(&seen);
    let checked = Policy::parse(&suggestion.policy, path, base);
    assert!(checked.is_ok(), "{:?}\n{}", checked.err(), suggestion.policy);
    suggestion
}

#[test]
fn nothing_observed_adds_nothing() {
    let found = suggested("mode = \"observe\"", &[], 1);
    assert!(found.suggested.is_empty() && found.not_suggested.is_empty());
    assert!(found.policy.starts_with("mode = \"observe\"\n"));
}

#[test]
fn a_port_that_somebody_answers() {
    let of = |port| entry(Reason::PortNotAllowed, "198.51.100.7", "203.0.113.1", proto::TCP, port);
    let text = "[[allow]]\nname = \"host tcp 22\"\nproto = \"tcp\"\nports = [2222]\n";
    let found = suggested(text, &[of(22), of(8080), of(23)], 1);
    let names: Vec<&str> = found.suggested.iter().map(|added| added.name.as_str()).collect();
    assert_eq!(names, ["host tcp 22 (2)", "web tcp 8080"], "names of rules are unique");
    assert_eq!((found.suggested[0].first_seconds_ago, found.suggested[0].last_seconds_ago), (3010, 10));
    assert_eq!(found.not_suggested[0].why, "nobody answers there");
    assert!(suggested(text, &[of(22)], 4).suggested.is_empty(), "--min-packets");
}

#[test]
fn who_looks_for_open_ports_opens_none() {
    let of = |port| entry(Reason::PortNotAllowed, "198.51.100.66", "203.0.113.1", proto::TCP, port);
    let scan: Vec<_> = (30..38).chain([22]).map(of).collect();
    assert!(suggested("", &scan, 1).suggested.is_empty());
    assert_eq!(suggested("", &scan[1..], 1).suggested.len(), 1, "seven closed ports are a mistake");
}

#[test]
fn many_sources_are_their_neighbourhood_or_any() {
    let of = |source: &str| entry(Reason::PortNotAllowed, source, "203.0.113.1", proto::TCP, 22);
    let near: Vec<_> = (1..=20).map(|n| of(&format!("198.51.100.{n}"))).collect();
    assert!(suggested("", &near, 1).suggested[0].says.contains("from = [\"198.51.100.0/24\"]"));
    let far: Vec<_> = (1..=20).map(|n| of(&format!("198.51.{n}.1"))).collect();
    assert!(suggested("", &far, 1).suggested[0].says.contains("# REVIEW: from any: 20 addresses"));
}

#[test]
fn whom_a_rule_leaves_out_it_goes_on_leaving_out() {
    let text = "[sets]\noffice = [\"192.0.2.0/24\"]\n[[allow]]\nname = \"ssh\"\nproto = \"tcp\"\nports = [22]\nfrom = [\"office\"]\n";
    let of = |n| entry(Reason::SourceNotAllowed, &format!("198.51.{n}.1"), "203.0.113.1", proto::TCP, 22);
    let strays: Vec<_> = (1..=17).map(of).collect();
    let found = suggested(text, &strays, 1);
    assert!(found.suggested.is_empty(), "{:?}", found.suggested);
    let left = &found.not_suggested[0];
    assert!(left.what == "tcp to port 22" && left.why.contains("the rule \"ssh\" does not name"), "{left:?}");
    assert!(left.sources.len() == 17 && left.sources[16] == "and 1 more", "{left:?}");
    assert!(suggested(text, &strays[..1], 1).suggested.is_empty(), "one stray");
    assert!(suggested("", &strays[..1], 1).suggested.is_empty(), "the rule is gone from the file");
}

#[test]
fn what_the_file_says_already_is_not_suggested_again() {
    let text = "[sets]\noffice = [\"192.0.2.0/24\"]\n[[allow]]\nname = \"web\"\nproto = \"tcp\"\nports = [8080]\nfrom = [\"office\"]\n\
                [[out]]\nname = \"time\"\nproto = \"udp\"\nports = [123]\n[networks.shop]\nreach = [\"back end\"]\negress = [\"office\"]\n";
    let of = |reason, from, to, proto, port| {
        let (mut key, seen) = entry(reason, from, to, proto, port);
        key.ifindex = if from == "10.1.0.2" { 11 } else { 0 };
        (key, seen)
    };
    let entries = [
        of(Reason::PortNotAllowed, "192.0.2.7", "203.0.113.1", proto::TCP, 8080),
        of(Reason::OutNotAllowed, "203.0.113.1", "203.0.113.9", proto::UDP, 123),
        of(Reason::Isolation, "10.1.0.2", "10.2.0.9", proto::TCP, 5432),
        of(Reason::Egress, "10.1.0.2", "192.0.2.8", proto::TCP, 443),
    ];
    let found = suggested(text, &entries, 1);
    assert!(found.suggested.is_empty(), "{:?}", found.suggested);
    assert!(found.not_suggested.iter().all(|left| left.why == "the policy file lets it pass already"));
    assert_eq!(found.not_suggested.len(), 4, "{:?}", found.not_suggested);
    let elsewhere = [of(Reason::Egress, "10.1.0.2", "203.0.113.8", proto::TCP, 443)];
    assert_eq!(suggested(text, &elsewhere, 1).suggested.len(), 1, "outside the set");
}

#[test]
fn networks_that_reach_each_other() {
    let at = |to: &str, port| {
        let (mut key, seen) = entry(Reason::Isolation, "10.1.0.2", to, proto::TCP, port);
        key.ifindex = 11;
        (key, seen)
    };
    let found = suggested("", &[at("10.2.0.9", 5432), at("10.3.0.9", 5432)], 1);
    assert!(
        found.policy.contains("[networks.shop]\n# 3 packets from 10.1.0.2, sent by web;"),
        "{}",
        found.policy
    );
    assert!(found.policy.contains("reach = [\"back end\"]"), "{}", found.policy);
    assert_eq!(found.not_suggested[0].why, "no network reaches an internal one");
    let text = "[networks.shop]\nreach = [ \"vault\" ] # mine\n";
    let found = suggested(text, &[at("10.2.0.9", 5432)], 1);
    assert!(found.policy.contains("reach = [\"back end\", \"vault\"] # mine\n"), "{}", found.policy);
    let inline = "networks = { shop = { host = \"deny\" } }\n";
    assert!(!suggested(inline, &[at("10.2.0.9", 5432)], 1).not_suggested.is_empty(), "only a person can");
}

#[test]
fn what_containers_and_the_host_open() {
    let at = |reason, to: &str, proto, port| {
        let (mut key, seen) = entry(reason, "10.1.0.2", to, proto, port);
        key.ifindex = 11;
        (key, seen)
    };
    let text = "[sets]\nmine = [\"192.0.2.1\"]\n[networks.shop]\negress = [\"mine\", \"192.0.2.2\"]\n\
                [containers.web]\nhost = \"deny\"\n[[out]]\nname = \"dns\"\nproto = \"udp\"\nports = [53]\n";
    let entries = [
        at(Reason::Egress, "203.0.113.80", proto::TCP, 443),
        at(Reason::HostDenied, "203.0.113.1", proto::UDP, 53),
        // Probably an answer.
        at(Reason::Egress, "203.0.113.81", proto::UDP, 40000),
        entry(Reason::OutNotAllowed, "203.0.113.1", "203.0.113.9", proto::UDP, 123),
    ];
    let found = suggested(text, &entries, 1);
    assert!(
        found.policy.contains("egress = [\"192.0.2.2/32\", \"203.0.113.80\", \"mine\"]"),
        "{}",
        found.policy
    );
    assert!(found.policy.contains("host = \"allow\""), "{}", found.policy);
    assert!(
        found
            .policy
            .contains("name = \"out udp 123\"\nproto = \"udp\"\nports = [123]\nto = [\"203.0.113.9\"]")
    );
    assert_eq!(found.not_suggested.len(), 1, "{:?}", found.not_suggested);
}

#[test]
fn runs_of_ports_are_ranges() {
    assert_eq!(ranges(&[1, 2, 3, 7, 65534, 65535]), ["\"1-3\"", "7", "\"65534-65535\""]);
}

#[test]
fn names_cannot_leave_their_comment_or_quotes() {
    assert_eq!(file::key("a-b_1"), "a-b_1");
    assert_eq!(file::key("back end"), "\"back end\"");
    assert_eq!(file::quoted("a\"\n[x]"), "\"a\\\"\\n[x]\"");
}
