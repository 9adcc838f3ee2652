//! Rules, published ports, sets and their limits.

use super::*;

#[test]
fn a_published_port_stands_under_its_address() {
    let mut inventory = world();
    inventory.published = vec![
        published("0.0.0.0", Transport::Tcp, 8080, true),
        published("::", Transport::Tcp, 8080, false),
        published("198.51.100.7", Transport::Udp, 53, true),
        published("127.0.0.1", Transport::Tcp, 9000, true),
        published("::1", Transport::Tcp, 9000, true),
        published("0.0.0.0", Transport::Sctp, 7, true),
    ];
    for (policy, open) in [("", 0), ("[uplink]\npublished = \"open\"", 1)] {
        let found = want(policy, &inventory, &State::default());
        let at = |text: &str, proto, number| {
            let port = found.state.tables.ports.get(&PortKey::new(address(text), proto, number))?;
            assert_eq!((port.rule, port.sources, port.zones), (0, sources::NOBODY, 0));
            Some((port.published, port.open))
        };
        assert_eq!(at("0.0.0.0", proto::TCP, 8080), Some((1, open)));
        assert_eq!(at("::", proto::TCP, 8080), Some((0, open)), "docker-proxy answers: nothing is forwarded");
        assert_eq!(at("198.51.100.7", proto::UDP, 53), Some((1, open)));
        assert_eq!(at("0.0.0.0", proto::UDP, 53), None, "published on one address alone");
        assert_eq!(at("0.0.0.0", proto::SCTP, 7), Some((1, open)));
        assert_eq!(found.state.tables.ports.len(), 4, "loopback never comes in by an uplink");
    }
}

#[test]
fn rules_for_one_port_add_up() {
    let policy = "
        [sets]
        office = [\"203.0.113.0/24\"]
        branch = [\"198.51.100.0/24\"]
        [[allow]]
        name = \"a\"
        proto = \"tcp\"
        ports = [22, 25]
        from = [\"office\"]
        [[allow]]
        name = \"b\"
        proto = \"tcp\"
        ports = [\"20-22\"]
        from = [\"branch\"]
        [[allow]]
        name = \"c\"
        proto = \"tcp\"
        ports = [25]
        [[allow]]
        name = \"d\"
        proto = \"tcp\"
        ports = [25]
        from = [\"branch\"]
        [[allow]]
        name = \"ping\"
        proto = \"icmp\"";
    let found = want(policy, &world(), &State::default());
    let [office, branch] = [bit(&found, "office"), bit(&found, "branch")];
    for any in ["0.0.0.0", "::"] {
        let at = |proto, number| found.state.tables.ports[&PortKey::new(address(any), proto, number)];
        let both = at(proto::TCP, 22);
        assert_eq!((both.sources, both.zones), (sources::ZONES, office | branch));
        assert_eq!(name(&found, name_kind::RULE, both.rule), "a", "the first rule of the file");
        assert_eq!((at(proto::TCP, 20).zones, at(proto::TCP, 21).zones), (branch, branch));
        let anybody = at(proto::TCP, 25);
        assert_eq!((anybody.sources, anybody.zones), (sources::ANY, 0), "one for anybody holds them all");
        assert_eq!(name(&found, name_kind::RULE, anybody.rule), "c");
        assert_eq!(at(proto::ICMP, 0).sources, sources::ANY);
    }
    assert_eq!(found.state.tables.ports.len(), 2 * 5);
    assert!(found.state.tables.ports.values().all(|port| port.published == 0 && port.open == 0));
}

#[test]
fn a_rule_and_a_published_port_share_their_entry() {
    let mut inventory = world();
    inventory.published = vec![published("0.0.0.0", Transport::Tcp, 80, true)];
    let found =
        want("[[allow]]\nname = \"web\"\nproto = \"tcp\"\nports = [80]", &inventory, &State::default());
    let at = |any: &str| found.state.tables.ports[&PortKey::new(address(any), proto::TCP, 80)];
    assert_eq!((at("0.0.0.0").sources, at("0.0.0.0").published), (sources::ANY, 1));
    assert_eq!((at("::").sources, at("::").published), (sources::ANY, 0));
}

#[test]
fn denied_prefixes_carry_the_first_rule_that_names_them() {
    let policy = "
        [sets]
        scanners = [\"203.0.113.9\", \"2001:db8:bad::/48\"]
        [[deny]]
        name = \"first\"
        from = [\"scanners\"]
        [[deny]]
        name = \"second\"
        from = [\"203.0.113.9\", \"203.0.113.0/24\"]";
    let found = want(policy, &world(), &State::default());
    let rule = |text: &str| {
        longest(&found.state.tables.denied, &address(text))
            .map(|deny| name(&found, name_kind::RULE, deny.rule).to_owned())
    };
    assert_eq!(rule("203.0.113.9").as_deref(), Some("first"));
    assert_eq!(rule("203.0.113.8").as_deref(), Some("second"));
    assert_eq!(rule("2001:db8:bad::1").as_deref(), Some("first"));
    assert_eq!(rule("203.0.114.9"), None);
    assert_eq!(found.state.tables.settings.deny, 1);
    assert_eq!(want("", &world(), &State::default()).state.tables.settings.deny, 0);
}

#[test]
fn a_zone_keeps_its_bit_while_its_content_is_the_same() {
    let sets = |office: &str| {
        format!(
            "[sets]\noffice = [{office}]\nbranch = [\"198.51.100.0/24\"]\n
             [[allow]]\nname = \"ssh\"\nproto = \"tcp\"\nports = [22]\nfrom = [\"office\", \"branch\"]"
        )
    };
    let first = want(&sets("\"203.0.113.0/24\", \"2001:db8::/48\""), &world(), &State::default());
    let same = want(&sets("\"2001:db8::/48\", \"203.0.113.0/24\""), &world(), &first.state);
    assert_eq!(same.state, first.state, "the order of a set is nothing");
    let changed = want(&sets("\"203.0.113.0/25\""), &world(), &first.state);
    assert_eq!(bit(&changed, "branch"), bit(&first, "branch"));
    assert_ne!(bit(&changed, "office"), bit(&first, "office"));
    assert_ne!(bit(&changed, "office"), bit(&first, "branch"));
    let back = want(&sets("\"203.0.113.0/24\", \"2001:db8::/48\""), &world(), &changed.state);
    assert_eq!(back.state, first.state, "the bit that came free is the lowest again");
}

#[test]
fn zones_of_a_prefix_hold_those_of_every_prefix_around_it() {
    let policy = "
        [sets]
        world = [\"0.0.0.0/0\"]
        region = [\"203.0.112.0/20\"]
        office = [\"203.0.113.0/24\"]
        chief = [\"203.0.113.7\"]
        six = [\"::/0\"]
        [[allow]]
        name = \"all\"
        proto = \"tcp\"
        ports = [22]
        from = [\"world\", \"region\", \"office\", \"chief\", \"six\"]";
    let found = want(policy, &world(), &State::default());
    let [everybody, region, office, chief, six] =
        ["world", "region", "office", "chief", "six"].map(|set| bit(&found, set));
    for (text, zones) in [
        ("203.0.113.7", everybody | region | office | chief),
        ("203.0.113.8", everybody | region | office),
        ("203.0.112.1", everybody | region),
        ("8.8.8.8", everybody),
        ("2001:db8::1", six),
        ("::1", six),
        ("::ffff", six),
    ] {
        let held = longest(&found.state.tables.sources, &address(text)).map_or(0, |held| held.zones);
        assert_eq!(held, zones, "{text}");
    }
    assert_eq!(found.state.tables.settings.source_prefixes, 1);
}

#[test]
fn sets_of_single_addresses_cost_no_prefix_lookup_and_sets_not_used_by_a_rule_nothing() {
    let policy = "
        [sets]
        chief = [\"203.0.113.7\", \"2001:db8::7\"]
        unused = [\"198.51.100.0/24\"]
        [[allow]]
        name = \"ssh\"
        proto = \"tcp\"
        ports = [22]
        from = [\"chief\"]";
    let found = want(policy, &world(), &State::default());
    assert_eq!(found.state.tables.settings.source_prefixes, 0);
    assert_eq!(found.state.tables.sources.len(), 2);
}

#[test]
fn rules_keep_their_numbers_by_name() {
    let rule = |name: &str| format!("[[allow]]\nname = \"{name}\"\nproto = \"tcp\"\nports = [22]\n");
    let deny = "[[deny]]\nname = \"bad\"\nfrom = [\"203.0.113.9\"]\n";
    let first = want(&(rule("a") + &rule("b") + deny), &world(), &State::default());
    let [a, b, bad] = ["a", "b", "bad"].map(|name| id(&first, name));
    let second = want(&(deny.to_owned() + &rule("c") + &rule("b")), &world(), &first.state);
    assert_eq!([id(&second, "b"), id(&second, "bad")], [b, bad]);
    assert!(![0, a, b, bad].contains(&id(&second, "c")), "the number of a rule that just went is not used");
    let third = want(&(rule("b") + &rule("d")), &world(), &second.state);
    assert_eq!(id(&third, "d"), a, "a round later it is");
}

#[test]
fn more_zones_than_bits_are_refused() {
    let policy = |third: u8, sets: u8| {
        let one = |set: u8| {
            format!(
                "[[allow]]\nname = \"r{set}\"\nproto = \"tcp\"\nports = [22]\nfrom = [\"10.0.{third}.{set}\"]\n"
            )
        };
        (0..sets).map(one).collect::<String>()
    };
    let first = want(&policy(1, 40), &world(), &State::default());
    let refused = desired(&parse(&policy(2, 40)), &world(), &first.state).expect_err("80 bits");
    assert_eq!(refused, DesiredError::TooManyZones { by_labels: 0 });
    assert!(refused.to_string().contains("change them in two steps"), "{refused}");
    want(&policy(2, 24), &world(), &first.state);
}

#[test]
fn more_rules_than_counters_are_refused() {
    let rules = |rule| format!("[[deny]]\nname = \"{rule}\"\nfrom = [\"10.0.0.0/8\"]\n");
    let rules: Vec<String> = (0..capacity::RULES).map(rules).collect();
    let refused = desired(&parse(&rules.concat()), &world(), &State::default()).expect_err("one too many");
    assert_eq!(refused, DesiredError::TooManyRules);
}

#[test]
fn ports_of_both_policies_have_to_fit_on_the_way_from_one_to_the_other() {
    let at = |address: &str| {
        let mut inventory = world();
        let ports = (1..=60_000).flat_map(|port| {
            [Transport::Tcp, Transport::Udp, Transport::Sctp]
                .map(|proto| published(address, proto, port, true))
        });
        inventory.published.extend(ports);
        inventory
    };
    let first = want("", &at("198.51.100.7"), &State::default());
    let second = want("", &at("198.51.100.8"), &first.state);
    assert_eq!(second.state.tables.ports.len(), 3 * 60_000);
    let all = "[[allow]]\nname = \"t\"\nproto = \"tcp\"\nports = [\"1-65535\"]
         [[allow]]\nname = \"u\"\nproto = \"udp\"\nports = [\"1-65535\"]";
    let refused = desired(&parse(all), &at("198.51.100.8"), &first.state).expect_err("too many together");
    let DesiredError::TooLarge { table, needed, .. } = refused else { panic!("{refused}") };
    assert_eq!((table, needed), ("ports", 4 * 65_535 + 2 * 3 * 60_000));
    assert!(refused.to_string().contains("change it in two steps"), "{refused}");
}

#[test]
fn more_ports_than_the_table_holds_are_refused_with_advice() {
    // Both protocols and families: 4 × 65,535; addresses of their own for published ports bring the rest.
    let policy = "
        [[allow]]
        name = \"t\"
        proto = \"tcp\"
        ports = [\"1-65535\"]
        [[allow]]
        name = \"u\"
        proto = \"udp\"
        ports = [\"1-65535\"]";
    let mut inventory = world();
    let addresses = ["198.51.100.7", "198.51.100.8", "198.51.100.9", "198.51.100.10", "198.51.100.11"];
    for address in addresses {
        inventory.published.extend((1..=60_000).map(|port| published(address, Transport::Tcp, port, true)));
    }
    let refused = desired(&parse(policy), &inventory, &State::default()).expect_err("too many");
    let DesiredError::TooLarge { table, needed, .. } = refused else { panic!("{refused}") };
    assert_eq!((table, needed), ("ports", 4 * 65_535 + 5 * 60_000));
    assert!(refused.to_string().contains("write fewer or narrower port ranges"), "{refused}");
}

/// Whoever may start containers on a network without NAT does not keep others, or the policy, out of the table.
#[test]
fn containers_reached_at_their_own_addresses_do_not_fill_the_table() {
    let policy =
        "[[allow]]\nname = \"some\"\nproto = \"tcp\"\nports = [\"1-1000\"]\n[tables]\nports = 16384\n";
    let with = |hosts: std::ops::Range<u8>| {
        let direct = |host| DirectPort {
            address: ip(&format!("172.18.1.{host}")),
            port: None,
            by: None,
            container: format!("c{host}"),
        };
        Inventory { direct: hosts.map(direct).collect(), ..world() }
    };
    let has = |found: &Desired, host: u8| {
        let address = address(&format!("172.18.1.{host}"));
        (
            found.state.tables.ports.contains_key(&PortKey::all_of(address)),
            found.state.tables.ports.contains_key(&PortKey::new(address, 6, 1000)),
        )
    };
    let first = want(policy, &with(100..104), &State::default());
    assert!((100..104).all(|host| has(&first, host) == (true, true)));
    assert!(!first.warnings.iter().any(|warning| warning.contains("closed at its own")));
    // More of them, some with lower addresses: those that are there stay, and the others are closed.
    let many = want(policy, &with(0..200), &first.state);
    assert!((100..104).all(|host| has(&many, host) == (true, true)));
    assert!((0..100).all(|host| has(&many, host) == (false, false)));
    assert!(many.warnings.iter().any(|warning| warning.starts_with("container `c7` is closed at its own")));
    // All others at once: both fit on the way.
    let others = want(policy, &with(0..4), &first.state);
    assert!((0..4).all(|host| has(&others, host) == (true, true)));
}

/// `docker run -p 80` in the gateway mode routed, `nat-unprotected`, and `trusted_host_interfaces`.
#[test]
fn what_is_reached_at_a_container_s_own_address_has_entries_of_its_own() {
    let exposed = |port| Some(Exposed { protocol: Transport::Tcp, port });
    let direct =
        |address: &str, port, by| DirectPort { address: ip(address), port, by, container: "web".into() };
    let mut inventory = world();
    inventory.direct = vec![
        direct("172.18.0.2", exposed(80), None),
        direct("172.18.0.2", exposed(81), None),
        direct("172.18.0.3", None, None),
        direct("172.18.0.4", exposed(80), Some(7)),
    ];
    let rules = "
        [[allow]]
        name = \"web\"
        proto = \"tcp\"
        ports = [80, 443]
        [[allow]]
        name = \"wide\"
        proto = \"udp\"
        ports = [\"1-1025\"]
        [[allow]]
        name = \"ping\"
        proto = \"icmp\"";
    for (policy, open) in [(rules.to_owned(), 0), (format!("[uplink]\npublished = \"open\"\n{rules}"), 1)] {
        let found = want(&policy, &inventory, &State::default());
        let at = |key: PortKey| {
            let port = found.state.tables.ports.get(&key)?;
            assert_eq!(port.published, 1);
            Some((port.sources, port.open))
        };
        let tcp = |text: &str, port| PortKey::new(address(text), proto::TCP, port);
        let ping = |text: &str| PortKey::new(address(text), proto::ICMP, 0);
        assert_eq!(at(tcp("172.18.0.2", 80)), Some((sources::ANY, open)), "published, and with a rule");
        assert_eq!(at(tcp("172.18.0.2", 81)), Some((sources::NOBODY, open)), "published, without a rule");
        assert_eq!(at(tcp("172.18.0.2", 443)), None, "with a rule, not published");
        assert_eq!(at(ping("172.18.0.2")), Some((sources::ANY, open)));
        assert_eq!(at(PortKey::all_of(address("172.18.0.2"))), None);
        assert_eq!(at(PortKey::all_of(address("172.18.0.3"))), Some((sources::NOBODY, open)));
        for port in [80, 443] {
            let port = found.state.tables.ports[&tcp("172.18.0.3", port)];
            assert_eq!((port.sources, port.open), (sources::ANY, open), "a rule, and all ports");
        }
        let udp = |port| PortKey::new(address("172.18.0.3"), proto::UDP, port);
        assert!(found.state.tables.ports.contains_key(&udp(1024)));
        assert!(!found.state.tables.ports.contains_key(&udp(1025)), "no more of one rule");
        assert!(found.warnings.iter().any(|warning| warning.contains("`wide`")), "{:?}", found.warnings);
        assert_eq!(at(tcp("172.18.0.4", 80).by(7)), Some((sources::NOBODY, 1)), "Docker trusts the link");
        assert_eq!(at(tcp("172.18.0.4", 80)), None, "and no other");
        assert_eq!(at(ping("172.18.0.4")), None);
    }
}

#[test]
fn the_kernel_is_told_who_owns_nat() {
    let owned = |text| want(text, &world(), &State::default()).state.tables.settings.nat_owned;
    assert_eq!([owned(""), owned("[nat]\nowner = \"fw\"")], [0, 1]);
}
