//! The text of the rules, for hosts of each kind.

use std::path::Path;

use super::*;
use crate::policy::Policy;

fn marks() -> Marks {
    Marks::new(24).expect("bit 24 is allowed")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn port(host: &str, protocol: Transport, numbers: (u16, u16), target: &str) -> Port {
    let (host_port, target_port) = numbers;
    Port { host: ip(host), protocol, host_port, bridge: "br-a".into(), target: ip(target), target_port }
}

/// Networks of each kind and ports of each kind.
fn host(owns: bool) -> Nat {
    let a = Network {
        bridge: "br-a".into(),
        docker: true,
        subnets: vec![net("10.1.0.0/24"), net("fd00:a::/64")],
        internal: false,
        masquerade_v4: true,
        masquerade_v6: true,
    };
    let named = |bridge: &str, subnet: &str| Network {
        bridge: bridge.into(),
        subnets: vec![net(subnet)],
        masquerade_v4: false,
        masquerade_v6: false,
        ..a.clone()
    };
    Nat {
        owns,
        observe: false,
        marks: marks(),
        reach: false,
        networks: vec![
            a.clone(),
            Network { internal: true, ..named("br-i", "10.3.0.0/24") },
            Network { docker: false, ..named("virbr0", "192.168.122.0/24") },
        ],
        ports: vec![
            port("127.0.0.1", Transport::Tcp, (8088, 80), "10.1.0.2"),
            port("198.18.0.1", Transport::Sctp, (8070, 80), "10.1.0.2"),
            port("0.0.0.0", Transport::Tcp, (8080, 80), "10.1.0.2"),
            port("::", Transport::Udp, (53, 5353), "fd00:a::2"),
        ],
        uplinks: BTreeSet::from(["eth0".to_owned()]),
        redirects: Vec::new(),
        dnats: Vec::new(),
        localnet: BTreeSet::new(),
    }
}

/// Every rule of one family as `CHAIN RULE`, jumps first.
fn rules(nat: &Nat, family: Family, owns: bool) -> Vec<String> {
    let chains = nat.chains(family, owns).expect("plain names");
    let jumps = chains.iter().filter_map(|chain| chain.jump.as_ref());
    let jumps = jumps.map(|jump| format!("{} {}", jump.from, jump.rule)).collect::<Vec<_>>();
    let rules =
        chains.iter().flat_map(|chain| chain.rules.iter().map(|rule| format!("{} {rule}", chain.name)));
    jumps.into_iter().chain(rules).collect()
}

#[test]
fn with_docker_proxy() {
    assert_eq!(
        rules(&host(true), Family::V4, true),
        [
            "PREROUTING -m comment --comment fw -j FW-PREROUTING",
            "OUTPUT -m comment --comment fw -j FW-OUTPUT",
            "POSTROUTING -m comment --comment fw -j FW-POSTROUTING",
            "FORWARD -m mark --mark 0x0/0x1000000 -m conntrack ! --ctstate RELATED,ESTABLISHED -m comment --comment fw -j FW-FORWARD",
            "FORWARD -m comment --comment fw -j FW-ACCEPT",
            "FW-PREROUTING ! -d 127.0.0.0/8 -i eth0 -m addrtype --dst-type LOCAL -j FW-PORTS",
            "FW-PREROUTING -i eth0 -j RETURN",
            "FW-PREROUTING -i br-a -j RETURN",
            "FW-PREROUTING -i virbr0 -j RETURN",
            "FW-PREROUTING ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j FW-PORTS",
            "FW-OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j FW-PORTS",
            "FW-POSTROUTING -s 10.1.0.0/24 ! -o br-a -j MASQUERADE",
            "FW-PORTS -d 198.18.0.1/32 -p sctp -m sctp --dport 8070 -j DNAT --to-destination 10.1.0.2:80",
            "FW-PORTS -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.1.0.2:80",
            "FW-FORWARD -i br-i ! -o br-i -j DROP",
            "FW-FORWARD ! -i br-i -o br-i -j DROP",
            "FW-FORWARD -o eth0 -m mark --mark 0x2000000/0x3000000 -j RETURN",
            "FW-FORWARD -i br-a -o br-a -j RETURN",
            "FW-FORWARD -o br-a -j DROP",
            "FW-FORWARD -i br-i -o br-i -j RETURN",
            "FW-FORWARD -o br-i -j DROP",
            "FW-ACCEPT -m mark --mark 0x1000000/0x1000000 -j ACCEPT",
            "FW-ACCEPT -i br-a -j ACCEPT",
            "FW-ACCEPT -o br-a -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "FW-ACCEPT -i br-i -j ACCEPT",
            "FW-ACCEPT -o br-i -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ]
    );
}

#[test]
fn without_docker_proxy() {
    let nat = Nat { localnet: BTreeSet::from(["br-a".to_owned(), "br-i".to_owned()]), ..host(true) };
    let found = rules(&nat, Family::V4, true);
    let of = |chain: &str| found.iter().filter(|rule| rule.starts_with(chain)).cloned().collect::<Vec<_>>();
    assert_eq!(
        of("FW-LOOPBACK"),
        [
            "FW-LOOPBACK -d 127.0.0.1/32 -p tcp -m tcp --dport 8088 -j DNAT --to-destination 10.1.0.2:80",
            "FW-LOOPBACK -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.1.0.2:80",
        ]
    );
    assert_eq!(
        of("FW-POSTROUTING"),
        [
            "FW-POSTROUTING -s 10.1.0.0/24 -o br-a -m conntrack --ctstate DNAT -j MASQUERADE",
            "FW-POSTROUTING -s 10.1.0.0/24 ! -o br-a -j MASQUERADE",
            "FW-POSTROUTING -s 127.0.0.0/8 -o br-a -j MASQUERADE",
        ]
    );
    assert!(found.contains(&"FW-OUTPUT -d 127.0.0.0/8 -j FW-LOOPBACK".to_owned()), "{found:#?}");
    // 127.0.0.0/8 is never translated for anybody but this host.
    let from_others = ["FW-PREROUTING", "FW-PORTS"];
    let lead_to = |rule: &&String| rule.contains("FW-LOOPBACK") || rule.contains(" -d 127.");
    let wrong: Vec<_> = from_others.iter().flat_map(|chain| of(chain)).collect();
    assert!(!wrong.iter().any(|rule| lead_to(&rule) && !rule.contains("! -d 127.")), "{wrong:#?}");
    assert!(!of("FW-PREROUTING").iter().any(|rule| rule.contains("-i br-a")), "neighbours are translated");
}

#[test]
fn ipv6() {
    let found = rules(&host(true), Family::V6, true);
    let nat: Vec<_> = found.iter().filter(|rule| rule.contains("DNAT") || rule.contains("MASQ")).collect();
    assert_eq!(
        nat,
        [
            "FW-POSTROUTING -s fd00:a::/64 ! -o br-a -j MASQUERADE",
            "FW-PORTS ! -s fe80::/10 -p udp -m udp --dport 53 -j DNAT --to-destination [fd00:a::2]:5353",
        ]
    );
}

#[test]
fn observing_drops_no_published_port_and_reach_is_not_masqueraded() {
    let nat = Nat { observe: true, reach: true, ..host(true) };
    let found = rules(&nat, Family::V4, true);
    let at = |rule: &str| {
        found.iter().position(|found| found == rule).unwrap_or_else(|| panic!("{rule}: {found:#?}"))
    };
    assert!(at("FW-FORWARD -m conntrack --ctstate DNAT -j RETURN") < at("FW-FORWARD -o br-a -j DROP"));
    at("FW-ACCEPT -o br-a -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT");
    let first = found.iter().find(|rule| rule.starts_with("FW-POSTROUTING"));
    assert_eq!(
        first.map(String::as_str),
        Some("FW-POSTROUTING -m mark --mark 0x3000000/0x3000000 -j ACCEPT")
    );
}

#[test]
fn where_docker_writes_nat_only_translations_are_ours() {
    assert_eq!(rules(&host(false), Family::V4, false), Vec::<String>::new());
    assert_eq!(rules(&host(true), Family::V4, false), Vec::<String>::new(), "Docker's rules stand");
    let text = "[[nat.redirect]]\nname = \"dns\"\nproto = \"udp\"\nports = [53]\nfrom = [\"uplinks\", \"containers\"]\n\
                to = 5300\n[[nat.dnat]]\nname = \"db\"\nproto = \"tcp\"\nports = [\"10-20\"]\naddress = \"203.0.113.1\"\n\
                to = \"198.51.100.1:5432\"\n[[nat.dnat]]\nname = \"db6\"\nproto = \"tcp\"\nports = [1]\n\
                address = \"2001:db8::1\"\nto = \"2001:db8::2\"\nfrom = [\"host\"]";
    let policy = Policy::parse(text, Path::new("policy.toml"), Path::new("/nonexistent")).expect("a policy");
    let nat = Nat { redirects: policy.nat.redirects, dnats: policy.nat.dnats, ..host(false) };
    assert_eq!(
        rules(&nat, Family::V4, false),
        [
            "PREROUTING -m comment --comment fw -j FW-PREROUTING",
            "OUTPUT -m comment --comment fw -j FW-OUTPUT",
            "FW-TRANSLATE -p udp -m udp --dport 53 -j REDIRECT --to-ports 5300",
            "FW-TRANSLATE -d 203.0.113.1/32 -p tcp -m tcp --dport 10:20 -j DNAT --to-destination 198.51.100.1:5432",
            "FW-INSIDE -d 10.1.0.0/24 -i br-a -m addrtype ! --dst-type LOCAL -j RETURN",
            "FW-INSIDE -i br-a -j FW-TRANSLATE",
            "FW-INSIDE -d 10.3.0.0/24 -i br-i -m addrtype ! --dst-type LOCAL -j RETURN",
            "FW-INSIDE -i br-i -j FW-TRANSLATE",
            "FW-INSIDE -d 192.168.122.0/24 -i virbr0 -m addrtype ! --dst-type LOCAL -j RETURN",
            "FW-INSIDE -i virbr0 -j FW-TRANSLATE",
            "FW-PREROUTING -i eth0 -p udp -m udp --dport 53 -j REDIRECT --to-ports 5300",
            "FW-PREROUTING -d 203.0.113.1/32 -i eth0 -p tcp -m tcp --dport 10:20 -j DNAT --to-destination 198.51.100.1:5432",
            "FW-PREROUTING -p udp -m udp --dport 53 -j FW-INSIDE",
            "FW-PREROUTING -d 203.0.113.1/32 -p tcp -m tcp --dport 10:20 -j FW-INSIDE",
            "FW-OUTPUT -d 203.0.113.1/32 -p tcp -m tcp --dport 10:20 -j DNAT --to-destination 198.51.100.1:5432",
        ]
    );
    let v6 = rules(&nat, Family::V6, false);
    let last = "FW-OUTPUT -d 2001:db8::1/128 -p tcp -m tcp --dport 1 -j DNAT --to-destination 2001:db8::2";
    assert_eq!(v6.last().map(String::as_str), Some(last));
}

#[test]
fn a_name_that_would_mean_something_else_is_refused() {
    let mut nat = host(true);
    nat.networks[0].bridge = "br+".into();
    assert!(matches!(nat.chains(Family::V4, true), Err(HandoverError::Uplink { name }) if name == "br+"));
}
