//! Rules for what the host opens, limits, numbers of owners, sizes.

use fw_common::tables::{Limit, OutKey, OutRule};

use super::*;

const POLICY: &str = "
    [sets]
    office = [\"203.0.113.0/24\"]
    [[allow]]
    name = \"ssh\"
    proto = \"tcp\"
    ports = [22]
    [[out]]
    name = \"web\"
    proto = \"tcp\"
    ports = [80, 443]
    to = [\"office\"]
    [[out]]
    name = \"more web\"
    proto = \"tcp\"
    ports = [443]
    [[out]]
    name = \"time\"
    proto = \"udp\"
    ports = [123]
    source_ports = [\"123-124\"]
    [[limit]]
    name = \"slow\"
    proto = \"tcp\"
    ports = [\"20-30\"]
    rate = 2
    [[limit]]
    name = \"idle\"
    proto = \"udp\"
    ports = [22]
    rate = 2
    burst = 9
    [tables]
    flows = 8192";

#[test]
fn outbound_rules_stand_under_their_ports_and_add_up() {
    let tables = want(POLICY, &world(), &State::default()).state.tables;
    assert_eq!((tables.settings.outbound, tables.settings.flow_budget), (1, 1024));
    let at = |proto, port, source| tables.outbound.get(&OutKey::new(proto, port, source)).copied();
    let to = |found: Option<OutRule>| found.map(|rule| (rule.destinations, rule.zones.count_ones()));
    assert_eq!(to(at(proto::TCP, 80, 0)), Some((sources::ZONES, 1)));
    assert_eq!(to(at(proto::TCP, 443, 0)), Some((sources::ANY, 0)), "one for anybody holds them all");
    assert_eq!(to(at(proto::UDP, 123, 124)), Some((sources::ANY, 0)));
    assert_eq!(tables.outbound.len(), 4);
    assert_eq!(want("", &world(), &State::default()).state.tables.settings.outbound, 0);
}

#[test]
fn ports_name_their_limit_and_a_limit_keeps_its_number() {
    let found = want(POLICY, &world(), &State::default());
    let tables = &found.state.tables;
    let ssh = tables.ports[&PortKey::new(Address::ANY_V4, proto::TCP, 22)];
    let limit = tables.limits[&u32::from(ssh.limit)];
    assert_eq!((limit.rate, limit.burst), (2, 2), "the burst is the rate unless the policy says so");
    assert!(found.warnings.iter().any(|warning| warning.contains("limit `idle` limits nothing")));
    let first = POLICY.find("[[limit]]").expect("a limit");
    let second = POLICY.rfind("[[limit]]").expect("a limit");
    let without = [&POLICY[..first], &POLICY[second..]].concat();
    let later = want(&without, &world(), &found.state);
    let id =
        |limits: &BTreeMap<u32, Limit>| limits.iter().find(|(_, limit)| limit.burst == 9).map(|(id, _)| *id);
    assert_eq!(id(&later.state.tables.limits), id(&tables.limits));
    assert_eq!(later.state.tables.ports[&PortKey::new(Address::ANY_V4, proto::TCP, 22)].limit, 0);
}

#[test]
fn a_port_of_a_bridge_keeps_its_number_and_nobody_inherits_one_at_once() {
    let first = want("", &world(), &State::default());
    let owners = |state: &State| -> BTreeMap<u32, u16> {
        let ports = state.tables.interfaces.iter().filter(|(_, interface)| interface.role == role::PORT);
        ports.map(|(ifindex, interface)| (*ifindex, interface.owner)).collect()
    };
    let numbers = owners(&first.state);
    let different: BTreeSet<u16> = numbers.values().copied().collect();
    assert!(!numbers.is_empty() && different.len() == numbers.len() && !different.contains(&0));
    assert_eq!(owners(&want("", &world(), &first.state).state), numbers);
    let mut others = first.state.clone();
    let (gone, number) =
        numbers.first_key_value().map(|(ifindex, number)| (*ifindex, *number)).expect("a port");
    let port = others.tables.interfaces.remove(&gone).expect("a port");
    others.tables.interfaces.insert(9_999, port);
    let after = owners(&want("", &world(), &others).state);
    assert_ne!(after[&gone], number, "flows of the one before are still counted under it");
}

#[test]
fn a_table_of_another_size_holds_as_much() {
    let ports = |most: u32| {
        format!("[tables]\nports = {most}\n[[allow]]\nname = \"a\"\nproto = \"tcp\"\nports = [\"1-1000\"]")
    };
    let fits = |most| desired(&parse(&ports(most)), &world(), &State::default()).map(drop);
    assert_eq!(fits(2048), Ok(()));
    let refused = fits(1024).expect_err("2000 entries and more");
    assert!(refused.to_string().contains("raise it in [tables]"), "{refused}");
}
