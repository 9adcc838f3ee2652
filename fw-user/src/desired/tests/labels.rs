//! What labels of containers make of the policy.

use fw_common::tables::{Port, PortKey, Terms, sources};
use fw_common::{Address, Hook};

use super::*;

/// The example world, with these labels on the container `web`, which publishes one port on all addresses and one on one.
fn labelled(policy: &str, labels: &[(&str, &str)]) -> Desired {
    let mut inventory = world();
    inventory.published = vec![
        published("0.0.0.0", Transport::Tcp, 8080, true),
        published("198.51.100.7", Transport::Tcp, 8081, true),
    ];
    for endpoint in inventory.endpoints.iter_mut().filter(|endpoint| endpoint.container == "web") {
        endpoint.labels =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    }
    want(policy, &inventory, &State::default())
}

fn terms(desired: &Desired) -> Terms {
    desired.state.tables.interfaces[&11].terms
}

fn port(desired: &Desired, address: Address, port: u16) -> Port {
    desired.state.tables.ports[&PortKey::new(address, 6, port)]
}

const SETS: &str = "[sets]\nlan = [\"10.0.0.0/8\"]\npart = [\"10.1.0.0/16\", \"192.0.2.0/24\"]\n";

/// The prefixes of the zones in this mask.
fn members(desired: &Desired, mask: u64) -> Vec<String> {
    let sources = desired.state.tables.sources.iter();
    let held = sources.filter(|(_, zones)| zones.zones & mask != 0);
    held.map(|(prefix, _)| crate::view::prefix(prefix)).collect()
}

#[test]
fn labels_narrow_terms_and_widen_them_only_where_they_may() {
    let none = |policy: &str, labels: &[(&str, &str)]| {
        let found = labelled(policy, labels);
        assert!(found.warnings.iter().all(|warning| !warning.contains("label")), "{:?}", found.warnings);
        terms(&found)
    };
    let closed = "[networks.front]\negress = \"none\"\nhost = \"deny\"\n";
    let open = [("fw.egress", "any"), ("fw.host", "allow")];
    assert_eq!((none(closed, &open).egress, none(closed, &open).host), (0, 0), "a label does not open");
    let may = format!("labels = \"may-open\"\n{closed}");
    assert_eq!((none(&may, &open).egress, none(&may, &open).host), (egress::ANY, 1));
    let shut = [("fw.egress", "none"), ("fw.host", "deny")];
    assert_eq!((none("", &shut).egress, none("", &shut).host), (0, 0));
    assert_eq!(none("", &[("fw.egress", "internet")]).egress, egress::INTERNET);
    let internet = format!("{SETS}[networks.front]\negress = \"internet\"\n");
    assert_eq!(none(&internet, &[("fw.egress", "any")]).egress, egress::INTERNET);
    assert_eq!(none(&internet, &[("fw.egress", "part")]).egress, egress::PUBLIC_ZONES);
    let lan = format!("{SETS}[networks.front]\negress = [\"lan\"]\n");
    assert_eq!(none(&lan, &[("fw.egress", "internet")]).egress, egress::PUBLIC_ZONES);
    let found = labelled(&lan, &[("fw.egress", "part, 10.2.3.4, 172.16.0.0/12")]);
    assert_eq!(terms(&found).egress, egress::ZONES);
    let only: Vec<String> = ["10.1.0.0/16", "10.2.3.4"].map(str::to_owned).to_vec();
    let mut both = members(&found, terms(&found).zones);
    both.sort();
    assert_eq!(both, only, "what lies in both");
}

#[test]
fn a_wrong_label_closes_and_is_said() {
    let wrong =
        [("fw.egress", "nowhere"), ("fw.host", "no"), ("fw.icc", "maybe"), ("fw.allow_from", "nobody")];
    for policy in ["", "labels = \"may-open\"\n"] {
        let policy = format!("{policy}[uplink]\npublished = \"open\"\n");
        let found = labelled(&policy, &wrong);
        assert_eq!((terms(&found).egress, terms(&found).host), (0, 0));
        assert_eq!(found.state.tables.interfaces[&11].apart, 1);
        let entry = port(&found, Address::ANY_V4, 8080);
        assert_eq!((entry.sources, entry.open, entry.published), (sources::NOBODY, 0, 1));
        for (label, value) in wrong {
            let said = |warning: &&String| {
                warning.contains("container web") && warning.contains(label) && warning.contains(value)
            };
            assert_eq!(found.warnings.iter().filter(said).count(), 1, "{label}: {:?}", found.warnings);
        }
    }
    let unknown = labelled("", &[("fw.egres", "none"), ("org.fw.egress", "none")]);
    assert_eq!(unknown.warnings.iter().filter(|warning| warning.contains("no such label")).count(), 1);
    assert_eq!(terms(&unknown), Terms::OPEN);
}

#[test]
fn published_ports_are_narrowed_to_whom_the_label_names() {
    let rule =
        |from: &str| format!("{SETS}[[allow]]\nname = \"web\"\nproto = \"tcp\"\nports = [8080]\n{from}");
    let at = |policy: &str, label: &str| {
        let found = labelled(policy, &[("fw.allow_from", label)]);
        (port(&found, Address::ANY_V4, 8080), found)
    };
    let (entry, found) = at(&rule(""), "lan");
    assert_eq!(
        (entry.sources, members(&found, entry.zones)),
        (sources::ZONES, vec!["10.0.0.0/8".to_owned()])
    );
    assert_ne!(entry.rule, 0, "it is still counted for the rule");
    let (entry, found) = at(&rule("from = [\"lan\"]\n"), "part");
    assert_eq!(
        (entry.sources, members(&found, entry.zones)),
        (sources::ZONES, vec!["10.1.0.0/16".to_owned()])
    );
    let (entry, _) = at(&rule("from = [\"lan\"]\n"), "192.0.2.0/24");
    assert_eq!((entry.sources, entry.zones), (sources::ZONES, 0), "nobody is in both");
    let (entry, _) = at(&rule(""), "none");
    assert_eq!(entry.sources, sources::NOBODY);
    let (entry, _) = at(&rule("from = [\"lan\"]\n"), "any");
    assert_eq!(entry.sources, sources::ZONES);
    // Without a rule a label opens nothing, unless it may.
    let (entry, _) = at(SETS, "lan");
    assert_eq!((entry.sources, entry.open), (sources::NOBODY, 0));
    let (entry, _) = at(&format!("labels = \"may-open\"\n{SETS}"), "lan");
    assert_eq!(entry.sources, sources::ZONES);
    let open = format!("[uplink]\npublished = \"open\"\n{SETS}");
    let (entry, found) = at(&open, "lan");
    assert_eq!((entry.sources, entry.open), (sources::ZONES, 0));
    // Published on one address alone: the rule stands in the entry of any, which must not be asked.
    let exact = port(&found, address("198.51.100.7"), 8081);
    assert_eq!((exact.sources, exact.open, exact.published), (sources::ZONES | sources::ALONE, 0, 1));
    let wide = rule("").replace("8080", "8081");
    let found = labelled(&wide, &[("fw.allow_from", "lan")]);
    let exact = port(&found, address("198.51.100.7"), 8081);
    assert_eq!(exact.sources, sources::ZONES | sources::ALONE);
    assert_eq!(members(&found, exact.zones), ["10.0.0.0/8"]);
    assert_eq!(port(&found, Address::ANY_V4, 8081).sources, sources::ANY, "other addresses are the host's");
    assert_eq!(exact.rule, port(&found, Address::ANY_V4, 8081).rule);
}

/// In the gateway modes routed and nat-unprotected: with one port, and with all.
#[test]
fn a_label_narrows_who_may_reach_a_container_at_its_own_address() {
    let policy = format!(
        "{SETS}[[allow]]\nname = \"web\"\nproto = \"tcp\"\nports = [80]\nfrom = [\"lan\"]\n\
         [[allow]]\nname = \"ping\"\nproto = \"icmp\"\nfrom = [\"lan\"]\n"
    );
    for port in [Some(Exposed { protocol: Transport::Tcp, port: 80 }), None] {
        let mut inventory = world();
        let web = inventory.endpoints.iter_mut().find(|endpoint| endpoint.container == "web").expect("it");
        web.labels.insert("fw.allow_from".to_owned(), "part".to_owned());
        let at = web.addresses[0];
        let direct = DirectPort { address: at, port, by: None, container: "web".to_owned() };
        inventory.direct.push(direct);
        let found = want(&policy, &inventory, &State::default());
        for key in [PortKey::new(at.into(), proto::TCP, 80), PortKey::new(at.into(), proto::ICMP, 0)] {
            let entry = found.state.tables.ports[&key];
            assert_eq!(entry.sources & !sources::ALONE, sources::ZONES, "{port:?} {key:?}");
            assert_eq!(members(&found, entry.zones), ["10.1.0.0/16"], "{port:?} {key:?}");
        }
    }
}

#[test]
fn the_same_address_with_other_labels_has_nothing_of_the_old_ones() {
    let first = labelled("", &[("fw.egress", "none"), ("fw.icc", "false"), ("fw.allow_from", "none")]);
    let mut inventory = world();
    inventory.endpoints[0].container_id = "another".to_owned();
    let next = want("", &inventory, &first.state);
    let interface = next.state.tables.interfaces[&11];
    assert_eq!((interface.terms, interface.apart), (Terms::OPEN, 0));
    let hooks = next.state.hooks.iter().filter(|point| point.hook == Hook::PortEgress && point.ifindex == 12);
    assert_eq!(hooks.count(), 0, "nobody is left to look out for");
}

#[test]
fn one_alone_is_kept_apart_and_all_its_neighbours_look() {
    let found = labelled("", &[("fw.icc", "false")]);
    let tables = &found.state.tables;
    assert_eq!(tables.networks[&FRONT].icc, 1);
    let apart: Vec<u32> =
        tables.interfaces.iter().filter(|(_, it)| it.apart != 0).map(|(index, _)| *index).collect();
    assert_eq!(apart, [11]);
    let ports = tables.interfaces.iter().filter(|(_, it)| it.role == role::PORT && it.network == FRONT);
    for (index, _) in ports {
        assert!(
            found.state.hooks.contains(&HookPoint { ifindex: *index, hook: Hook::PortEgress }),
            "{index}"
        );
    }
    let newcomer = newcomer(&found.state, 99, FRONT);
    assert!(newcomer.contains(&Step::Attach(HookPoint { ifindex: 99, hook: Hook::PortEgress })));
    // Where the network keeps all apart, or the label says nothing new, it needs no word of its own.
    for (policy, label) in [("[networks.front]\nicc = false\n", "false"), ("", "true")] {
        let found = labelled(policy, &[("fw.icc", label)]);
        assert!(found.state.tables.interfaces.values().all(|it| it.apart == 0));
    }
}

/// The example world, with so many containers that each may reach another address by its label.
fn each_its_own(count: usize) -> Inventory {
    let mut inventory = world();
    let web = inventory.endpoints.iter().position(|endpoint| endpoint.container == "web").expect("web");
    for prefix in (0..count).map(|host| format!("192.0.2.{host}")) {
        let mut other = inventory.endpoints[web].clone();
        other.labels = BTreeMap::from([("fw.egress".to_owned(), prefix.clone())]);
        other.container_id = prefix;
        other.port_ifindex = None;
        inventory.endpoints.push(other);
    }
    inventory
}

/// All bits are in use on the way from one policy to another: it is refused as a whole, and goes in two steps.
#[test]
fn sets_of_labels_count_where_one_policy_takes_the_place_of_another() {
    let inventory = each_its_own(16);
    let policy = |old: u8, new: u8| {
        let rule = |third: u8, set: u8| {
            format!(
                "[[allow]]\nname = \"r{third}.{set}\"\nproto = \"tcp\"\nports = [22]\nfrom = [\"10.0.{third}.{set}\"]\n"
            )
        };
        (0..old).map(|set| rule(1, set)).chain((0..new).map(|set| rule(2, set))).collect::<String>()
    };
    let first = want(&policy(25, 0), &inventory, &State::default());
    let refused = desired(&parse(&policy(0, 25)), &inventory, &first.state).expect_err("66 bits");
    assert_eq!(refused, DesiredError::TooManyZones { by_labels: 16 });
    assert!(refused.to_string().contains("labels name (16)"), "{refused}");
    let half = want(&policy(12, 13), &inventory, &first.state);
    assert_eq!(half.warnings.iter().filter(|warning| warning.contains("label")).count(), 0);
    let all = want(&policy(0, 25), &inventory, &half.state);
    let zones = all.state.names.keys().filter(|key| key.kind == name_kind::ZONE).count();
    assert_eq!((zones, all.warnings.iter().filter(|warning| warning.contains("label")).count()), (41, 0));
}

#[test]
fn labels_do_not_use_up_the_bits_of_the_policy() {
    let inventory = each_its_own(20);
    let found = want("", &inventory, &State::default());
    let zones = found.state.names.keys().filter(|key| key.kind == name_kind::ZONE).count();
    assert_eq!(zones, 16);
    assert_eq!(found.warnings.iter().filter(|warning| warning.contains("more than 16 sets")).count(), 4);
}
