//! Rules for what the host opens, limits for what comes in, and numbers by which containers' flows are counted.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::flow::counted;
use fw_common::tables::{self, Interface, OutKey, OutRule, capacity, role, sources};

use super::zones::Zones;
use super::{Desired, DesiredError, RuleIds};
use crate::plan::State;
use crate::policy::{Limit, Out, Policy, PortRange, Proto, Sources};

/// The rules for connections of the host itself.
pub(super) fn rules(policy: &Policy, zones: &Zones, ids: &RuleIds, table: &mut BTreeMap<OutKey, OutRule>) {
    for rule in &policy.out {
        let id = ids.get(&rule.name).copied().unwrap_or(0);
        let new = match &rule.to {
            Sources::Any => OutRule { destinations: sources::ANY, zones: 0, rule: id, reserved: [0; 3] },
            Sources::Sets(sets) => {
                let zones = zones.mask(sets);
                OutRule { destinations: sources::ZONES, zones, rule: id, reserved: [0; 3] }
            }
        };
        for key in keys(rule) {
            add(table, key, new);
        }
    }
}

/// Adds a rule to what stands for its port.
pub(super) fn add(table: &mut BTreeMap<OutKey, OutRule>, key: OutKey, new: OutRule) {
    table.entry(key).and_modify(|known| *known = both(*known, new)).or_insert(new);
}

/// Rules for the same port add up; one for any destination holds them all.
fn both(known: OutRule, new: OutRule) -> OutRule {
    match (known.destinations, new.destinations) {
        (sources::ANY, _) => known,
        (_, sources::ANY) => new,
        _ => OutRule { zones: known.zones | new.zones, ..known },
    }
}

fn keys(rule: &Out) -> Vec<OutKey> {
    let each = |ranges: &[PortRange]| -> Vec<u16> {
        if ranges.is_empty() { vec![0] } else { ranges.iter().flat_map(|range| range.ports()).collect() }
    };
    let from = each(&rule.source_ports);
    let keys =
        |port| from.iter().map(move |source_port| OutKey::new(rule.proto.number(), port, *source_port));
    each(&rule.ports).into_iter().flat_map(keys).collect()
}

/// The limits, each under the number that it has in what is in force, else the lowest free one; ports that somebody may
/// come in by name theirs.
pub(super) fn limits(
    policy: &Policy,
    ids: &RuleIds,
    current: &BTreeMap<u32, tables::Limit>,
    desired: &mut Desired,
) -> Result<(), DesiredError> {
    let known: BTreeMap<u32, u32> = current.iter().map(|(id, limit)| (limit.rule, *id)).collect();
    let mut free = (1..capacity::LIMITS).filter(|id| !current.contains_key(id));
    for limit in &policy.limits {
        let rule = ids.get(&limit.name).copied().unwrap_or(0);
        let id = match known.get(&rule) {
            Some(id) => *id,
            None => free.next().ok_or(DesiredError::TooManyLimits)?,
        };
        let entry = tables::Limit { rate: limit.rate, burst: limit.burst, rule };
        desired.state.tables.limits.insert(id, entry);
        let mut opened = false;
        for (key, port) in &mut desired.state.tables.ports {
            if key.proto == limit.proto.number()
                && holds(limit, key.port)
                && (port.sources & !sources::ALONE != sources::NOBODY || port.open != 0)
            {
                port.limit = u8::try_from(id).unwrap_or(u8::MAX);
                opened = true;
            }
        }
        if !opened {
            desired.warnings.push(format!(
                "limit `{}` limits nothing: no [[allow]] rule opens a port that it names",
                limit.name
            ));
        }
    }
    Ok(())
}

fn holds(limit: &Limit, port: u16) -> bool {
    limit.proto == Proto::Icmp || limit.ports.iter().any(|range| range.ports().contains(&port))
}

/// A number for each port of a bridge: the one that it has in what is in force, else the lowest that nobody has there.
pub(super) fn owners(current: &State, interfaces: &mut BTreeMap<u32, Interface>) {
    let in_force = &current.tables.interfaces;
    let taken: BTreeSet<u16> = in_force.values().map(|interface| interface.owner).collect();
    let mut free = (1..counted::RENEWS).filter(|number| !taken.contains(number));
    for (ifindex, interface) in interfaces.iter_mut().filter(|(_, interface)| interface.role == role::PORT) {
        let known = in_force.get(ifindex).filter(|known| known.role == role::PORT && known.owner != 0);
        // There are more numbers than devices; without one a container shares that of all unknown ones.
        interface.owner = known.map(|known| known.owner).or_else(|| free.next()).unwrap_or(0);
    }
}
