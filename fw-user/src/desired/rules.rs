//! Allow and deny rules, and published ports, as entries of `ports` and `denied`.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::Address;
use fw_common::tables::{DenyRule, Port, PortKey, Prefix, capacity, name_kind, sources};
use fw_common::wire::proto;

use super::labels::Labelled;
use super::swarm::SwarmRules;
use super::zones::Zones;
use super::{DesiredError, RuleIds, any_keys, prefix_of};
use crate::inventory::{DirectPort, Inventory};
use crate::plan::State;
use crate::policy::{Allow, Policy, Proto, Published, Sources, table_prefixes};

/// Gives every rule a number: the one it has in what is in force, else the lowest free one.
pub(super) fn number(policy: &Policy, swarm: &SwarmRules, current: &State) -> Result<RuleIds, DesiredError> {
    let names = || {
        let (allow, deny) = (policy.allow.iter(), policy.deny.iter());
        let names = allow.map(|rule| &rule.name).chain(deny.map(|rule| &rule.name));
        let names = names.chain(policy.out.iter().map(|rule| &rule.name));
        let names = names.chain(policy.limits.iter().map(|rule| &rule.name));
        names.map(String::as_str).chain(swarm.names())
    };
    let known: BTreeMap<&str, u32> = current
        .names
        .iter()
        .filter(|(key, _)| key.kind == name_kind::RULE)
        .map(|(key, name)| (name.as_str(), key.id))
        .collect();
    let mut numbered: RuleIds =
        names().filter_map(|name| Some((name.to_owned(), *known.get(name)?))).collect();
    // A number that a vanished rule had stays unused until the next change, so that its counters are not mistaken.
    let taken: BTreeSet<u32> = known.values().copied().collect();
    let mut free = (1..capacity::RULES).filter(|id| !taken.contains(id));
    for name in names() {
        if !numbered.contains_key(name) {
            numbered.insert(name.to_owned(), free.next().ok_or(DesiredError::TooManyRules)?);
        }
    }
    Ok(numbered)
}

/// The denied prefixes.
pub(super) fn denied(policy: &Policy, ids: &RuleIds) -> BTreeMap<Prefix, DenyRule> {
    let mut table = BTreeMap::new();
    for rule in &policy.deny {
        let prefixes = rule.from.iter().filter_map(|set| policy.sets.get(set)).flat_map(|set| &set.prefixes);
        for prefix in prefixes.flat_map(table_prefixes).map(prefix_of) {
            table.entry(prefix).or_insert(DenyRule { rule: ids.get(&rule.name).copied().unwrap_or(0) });
        }
    }
    table
}

/// The ports with a rule or published by Docker.
pub(super) fn ports(
    policy: &Policy,
    inventory: &Inventory,
    direct: &[&DirectPort],
    zones: &Zones,
    ids: &RuleIds,
    labelled: &Labelled,
    table: &mut BTreeMap<PortKey, Port>,
) {
    for published in &inventory.published {
        let address = Address::from(published.host);
        if address.is_loopback() {
            continue;
        }
        let entry = table.entry(PortKey::new(address, published.protocol.number(), published.host_port));
        let port = entry.or_insert(NOTHING);
        // Without a target, docker-proxy answers from a socket of the host: nothing is forwarded, nothing vouched for.
        port.published |= u8::from(published.target.is_some());
        port.open |= u8::from(policy.uplink.published == Published::Open);
    }
    let mut allow = |key: PortKey, rule: &Allow| {
        let id = ids.get(&rule.name).copied().unwrap_or(0);
        merge(table.entry(key).or_insert(NOTHING), &rule.from, zones, id);
    };
    for rule in &policy.allow {
        for key in keys(rule) {
            allow(key, rule);
        }
    }
    // What is reached at a container's own address has entries that say all by themselves.
    for direct in direct {
        let address = Address::from(direct.address);
        for rule in &policy.allow {
            for key in direct_keys(address, direct, rule) {
                allow(key, rule);
            }
        }
    }
    for direct in direct {
        let address = Address::from(direct.address);
        let open = u8::from(policy.uplink.published == Published::Open);
        let services = match (direct.port, direct.by) {
            (Some(port), Some(link)) => {
                let at = PortKey::new(address, port.protocol.number(), port.port);
                vec![(at.by(link), 1)]
            }
            // Docker lets every ICMP message through to what is routed.
            (Some(port), None) => vec![
                (PortKey::new(address, port.protocol.number(), port.port), open),
                (PortKey::new(address, proto::ICMP, 0), open),
            ],
            // What is open to everybody is so in the entry of a port, too, for that is where its limit stands.
            (None, _) => {
                let ruled = policy.allow.iter().flat_map(|rule| direct_keys(address, direct, rule));
                ruled.chain([PortKey::all_of(address)]).map(|key| (key, open)).collect()
            }
        };
        for (key, open) in services {
            let port = table.entry(key).or_insert(NOTHING);
            port.published = 1;
            port.open |= open;
        }
    }
    labelled.narrow(policy, inventory, zones, table);
}

/// What is reached at containers' own addresses, and the names of those whose addresses find no room in the table. Who may
/// start containers must not fill it: they have a quarter, for on the way from some to others both stand there. Those that
/// are in force stay before others come.
pub(super) fn direct<'i>(
    policy: &Policy,
    inventory: &'i Inventory,
    current: &State,
) -> (Vec<&'i DirectPort>, BTreeSet<&'i str>) {
    let mut by_address: BTreeMap<(bool, Address), Vec<&DirectPort>> = BTreeMap::new();
    for direct in &inventory.direct {
        let address = Address::from(direct.address);
        let first = PortKey::all_of(address);
        let is_new = current.tables.ports.range(first..).next().is_none_or(|(key, _)| key.address != address);
        by_address.entry((is_new, address)).or_default().push(direct);
    }
    let mut room = policy.tables.ports as usize / 4;
    let (mut fitting, mut left_out) = (Vec::new(), BTreeSet::new());
    for ((_, address), services) in by_address {
        // Its own service, all of them or echo requests, beside those that rules name.
        let ruled = |direct: &&DirectPort| {
            policy.allow.iter().flat_map(|rule| direct_keys(address, direct, rule)).collect::<Vec<_>>()
        };
        let ruled: BTreeSet<PortKey> = services.iter().flat_map(ruled).collect();
        let needed = ruled.len() + services.len() + 1;
        if needed <= room {
            room -= needed;
            fitting.extend(services);
        } else {
            left_out.extend(services.iter().map(|direct| direct.container.as_str()));
        }
    }
    (fitting, left_out)
}

/// The services at a container's address that a rule opens: those that Docker leads there; where that is all of them, every
/// one that the rule names, up to a number of ports.
fn direct_keys(address: Address, direct: &DirectPort, rule: &Allow) -> Vec<PortKey> {
    let at = |number, port| PortKey::new(address, number, port);
    match (rule.proto, direct.port, direct.by) {
        (_, _, Some(_)) => Vec::new(),
        (Proto::Icmp, ..) => vec![at(proto::ICMP, 0)],
        (proto, Some(port), None) => {
            let named = proto.number() == port.protocol.number()
                && rule.ports.iter().any(|range| range.ports().contains(&port.port));
            if named { vec![at(proto.number(), port.port)] } else { Vec::new() }
        }
        (proto, None, None) => {
            let ports = rule.ports.iter().flat_map(|range| range.ports());
            ports.take(MOST_DIRECT).map(|port| at(proto.number(), port)).collect()
        }
    }
}

/// Of a rule for more ports than these, so many are opened at the own address of a container in the gateway mode
/// nat-unprotected: each takes an entry for each container.
pub(super) const MOST_DIRECT: usize = 1024;

/// Rules of which not every port is opened at the addresses of containers that have all of theirs open.
pub(super) fn cut_short<'p>(policy: &'p Policy, inventory: &Inventory) -> Vec<&'p str> {
    if !inventory.direct.iter().any(|direct| direct.port.is_none()) {
        return Vec::new();
    }
    let long =
        |rule: &&Allow| rule.ports.iter().map(|range| range.ports().len()).sum::<usize>() > MOST_DIRECT;
    policy.allow.iter().filter(long).map(|rule| rule.name.as_str()).collect()
}

fn keys(rule: &Allow) -> Vec<PortKey> {
    match rule.proto {
        Proto::Icmp => any_keys(proto::ICMP, 0).to_vec(),
        Proto::Tcp => ranged(rule, proto::TCP),
        Proto::Udp => ranged(rule, proto::UDP),
    }
}

fn ranged(rule: &Allow, proto: u8) -> Vec<PortKey> {
    rule.ports.iter().flat_map(|range| range.ports()).flat_map(|port| any_keys(proto, port)).collect()
}

/// A port that is open to nobody.
pub(super) const NOTHING: Port =
    Port { zones: 0, rule: 0, sources: sources::NOBODY, published: 0, open: 0, limit: 0 };

/// Rules for the same port add up; one for anybody holds them all.
pub(super) fn merge(port: &mut Port, from: &Sources, zones: &Zones, id: u32) {
    match from {
        Sources::Any if port.sources != sources::ANY => {
            *port = Port { sources: sources::ANY, zones: 0, rule: id, ..*port };
        }
        Sources::Sets(sets) if port.sources != sources::ANY => {
            port.sources = sources::ZONES;
            port.zones |= zones.mask(sets);
            port.rule = if port.rule == 0 { id } else { port.rule };
        }
        Sources::Any | Sources::Sets(_) => {}
    }
}
