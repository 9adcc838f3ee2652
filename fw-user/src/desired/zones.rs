//! Zones: sets as bits. A zone is its content: a set that changes is another zone with another bit, so that an entry
//! of `ports`, replaced in one write, holds exactly the old or the new peers at each moment of a plan.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::tables::{self, NameKey, Prefix, name_kind};
use sha2::{Digest as _, Sha256};

use super::labels::Labelled;
use super::swarm::SwarmRules;
use super::{DesiredError, cut, prefix_of};
use crate::plan::State;
use crate::policy::{Policy, SetName, table_prefixes};

/// The zones of a policy.
pub(super) struct Zones {
    bits: BTreeMap<SetName, u32>,
    contents: BTreeMap<u32, Content>,
    /// Every set has its bit.
    pub(super) complete: bool,
}

struct Content {
    name: String,
    prefixes: BTreeSet<Prefix>,
}

/// Gives each set in use a bit: that of the same content in force, else one that no zone in force has.
pub(super) fn assign(
    policy: &Policy,
    labelled: &Labelled,
    swarm: &SwarmRules,
    current: &State,
) -> Result<Zones, DesiredError> {
    let in_force: BTreeMap<&str, u32> = current
        .names
        .iter()
        .filter(|(key, _)| key.kind == name_kind::ZONE)
        .map(|(key, name)| (name.as_str(), key.id))
        .collect();
    let taken: BTreeSet<u32> = in_force.values().copied().collect();
    let mut free = (0..64).filter(|bit| !taken.contains(bit));
    let mut zones = Zones { bits: BTreeMap::new(), contents: BTreeMap::new(), complete: true };
    let of_policy: BTreeSet<&SetName> = policy.zones().into_iter().collect();
    let of_labels = labelled.used().iter().filter(|set| !of_policy.contains(set));
    let of_swarm = swarm.set();
    let nodes = of_swarm.as_ref().map(|(name, _)| name);
    for set in of_policy.iter().copied().chain(nodes).chain(of_labels.clone()) {
        let found = match &of_swarm {
            Some((name, nodes)) if name == set => Some(*nodes),
            _ => labelled.set(set).or_else(|| policy.sets.get(set).map(|found| &found.prefixes)),
        };
        let prefixes: BTreeSet<Prefix> =
            found.into_iter().flatten().flat_map(table_prefixes).map(prefix_of).collect();
        let name = named(set, &prefixes);
        let bit = match in_force.get(name.as_str()) {
            Some(bit) => *bit,
            None => match free.next() {
                Some(bit) => bit,
                // Labels and swarms keep no policy out: what they name is nobody's until a bit is free.
                None if !of_policy.contains(set) => {
                    zones.complete = false;
                    continue;
                }
                None => {
                    // They go on using theirs until everything that names them has been written anew.
                    let by_labels = of_labels.count();
                    return Err(DesiredError::TooManyZones { by_labels });
                }
            },
        };
        zones.bits.insert(set.clone(), bit);
        zones.contents.insert(bit, Content { name, prefixes });
    }
    Ok(zones)
}

/// The set's name with a digest of its content.
fn named(set: &SetName, prefixes: &BTreeSet<Prefix>) -> String {
    let mut digest = Sha256::new();
    for prefix in prefixes {
        digest.update(prefix.bits.to_be_bytes());
        digest.update(prefix.address.bytes);
    }
    let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = digest.finalize().into();
    let short = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    // The digest first: a long name is cut at its end.
    cut(&format!("{short:016x} {set}"))
}

impl Zones {
    /// Lets go of the prefixes; names and bits stay.
    pub(super) fn forget_contents(&mut self) {
        for content in self.contents.values_mut() {
            content.prefixes.clear();
        }
    }

    /// The bits of these sets.
    pub(super) fn mask<'a>(&self, sets: impl IntoIterator<Item = &'a SetName>) -> u64 {
        sets.into_iter().filter_map(|set| self.bits.get(set)).fold(0, |mask, bit| mask | 1 << bit)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = (NameKey, String)> + '_ {
        self.contents
            .iter()
            .map(|(bit, content)| (NameKey { kind: name_kind::ZONE, id: *bit }, content.name.clone()))
    }

    /// Every prefix with the zones that hold all of it, so that the longest match alone tells all.
    pub(super) fn table(&self) -> BTreeMap<Prefix, tables::Zones> {
        let mut own: BTreeMap<(fw_common::Address, u32), u64> = BTreeMap::new();
        for (bit, content) in &self.contents {
            for prefix in &content.prefixes {
                *own.entry((prefix.address, prefix.bits)).or_default() |= 1 << bit;
            }
        }
        // By address, then length: whatever covers a prefix comes before it, and the last that still does is nearest.
        let mut covering: Vec<(Prefix, u64)> = Vec::new();
        let mut table = BTreeMap::new();
        for ((address, bits), mask) in own {
            while covering.last().is_some_and(|(prefix, _)| !prefix.holds(&address)) {
                covering.pop();
            }
            let zones = mask | covering.last().map_or(0, |(_, inherited)| *inherited);
            let prefix = Prefix { bits, address };
            covering.push((prefix, zones));
            table.insert(prefix, tables::Zones { zones });
        }
        table
    }
}
