//! What differs between what is in force and what would be, for people to read.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::tables::name_kind;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::State;
use crate::view::{self, Names, Row};

/// Sets are told by these tables, of which only the numbers of entries matter to a person.
const COUNTED: [&str; 2] = ["sources", "denied"];

/// How many entries of each table are added, removed and changed; tables that stay as they are are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counts(pub BTreeMap<String, Count>);

/// How many entries of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// New ones.
    pub added: usize,
    /// Gone ones.
    pub removed: usize,
    /// Those with another value.
    pub changed: usize,
}

impl Counts {
    /// The counts between two states.
    pub fn between(old: &State, new: &State) -> Self {
        let (a, b) = (&old.tables, &new.tables);
        let set = |old: usize, new: usize, both: usize| Count {
            added: new - both,
            removed: old - both,
            changed: 0,
        };
        let all = [
            ("settings", Count { changed: usize::from(a.settings != b.settings), ..Count::default() }),
            ("interfaces", count(&a.interfaces, &b.interfaces)),
            ("subnets", count(&a.subnets, &b.subnets)),
            ("networks", count(&a.networks, &b.networks)),
            ("local_addresses", count(&a.local_addresses, &b.local_addresses)),
            ("ports", count(&a.ports, &b.ports)),
            ("denied", count(&a.denied, &b.denied)),
            ("sources", count(&a.sources, &b.sources)),
            ("endpoints", count(&a.endpoints, &b.endpoints)),
            ("reach", set(a.reach.len(), b.reach.len(), a.reach.intersection(&b.reach).count())),
            ("links", set(a.links.len(), b.links.len(), a.links.intersection(&b.links).count())),
            ("outbound", count(&a.outbound, &b.outbound)),
            ("limits", count(&a.limits, &b.limits)),
            ("names", count(&old.names, &new.names)),
            ("hooks", set(old.hooks.len(), new.hooks.len(), old.hooks.intersection(&new.hooks).count())),
        ];
        let named = all.into_iter().map(|(table, count)| (table.to_owned(), count));
        Self(named.filter(|(_, count)| *count != Count::default()).collect())
    }

    /// The counts in one line: `ports +2 -1 ~0, names +1`.
    pub fn line(&self) -> String {
        if self.0.is_empty() {
            return "nothing".to_owned();
        }
        let table = |(name, count): (&String, &Count)| {
            let signs = [('+', count.added), ('-', count.removed), ('~', count.changed)];
            let counts = signs.iter().filter(|(_, count)| *count > 0);
            let counts: Vec<String> = counts.map(|(sign, count)| format!("{sign}{count}")).collect();
            format!("{name} {}", counts.join(" "))
        };
        self.0.iter().map(table).collect::<Vec<_>>().join(", ")
    }
}

fn count<K: Ord, V: PartialEq>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Count {
    if std::ptr::eq(old, new) {
        return Count::default();
    }
    Count {
        added: new.keys().filter(|key| !old.contains_key(key)).count(),
        removed: old.keys().filter(|key| !new.contains_key(key)).count(),
        changed: new.iter().filter(|(key, value)| old.get(key).is_some_and(|known| known != *value)).count(),
    }
}

/// The entries of one table that come and go, as `fw table` prints them; a changed one goes and comes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TableChange {
    /// Table name.
    pub table: &'static str,
    /// How many, by kind.
    #[serde(flatten)]
    pub count: Count,
    /// Entries that would be gone.
    pub gone: Vec<Row>,
    /// Entries that would be there.
    pub new: Vec<Row>,
}

/// What differs, table by table. Of sets only the counts, of names and rules nothing beside where they are used.
pub fn between(old: &State, new: &State) -> Vec<TableChange> {
    let Counts(mut counts) = Counts::between(old, new);
    let mut changes = Vec::new();
    for table in view::TABLES {
        let Some(count) = counts.remove(table) else { continue };
        let rows = |state: &State| {
            let counted = COUNTED.contains(&table) || table == "names";
            let rows =
                if counted { None } else { view::rows_of(table, state, Names { names: &state.names }) };
            rows.unwrap_or_default()
        };
        let (before, after) = (rows(old), rows(new));
        let texts = |rows: &[Row]| -> BTreeSet<String> { rows.iter().map(text).collect() };
        let (known, wanted) = (texts(&before), texts(&after));
        changes.push(TableChange {
            table,
            count,
            gone: before.into_iter().filter(|row| !wanted.contains(&text(row))).collect(),
            new: after.into_iter().filter(|row| !known.contains(&text(row))).collect(),
        });
    }
    changes
}

fn text(row: &Row) -> String {
    Value::Object(row.clone()).to_string()
}

/// Names of rules that are only in one of the two.
pub fn rules(only_in: &State, not_in: &State) -> Vec<String> {
    let rules = |state: &State| -> BTreeSet<String> {
        let named = state.names.iter().filter(|(key, _)| key.kind == name_kind::RULE);
        named.map(|(_, name)| name.clone()).collect()
    };
    rules(only_in).difference(&rules(not_in)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use fw_common::Address;
    use fw_common::tables::{Port, PortKey, sources};

    use super::*;

    fn with(ports: &[(u16, u8)]) -> State {
        let mut state = State::default();
        for (port, from) in ports {
            let value = Port { zones: 0, rule: 0, sources: *from, published: 0, open: 0, limit: 0 };
            state.tables.ports.insert(PortKey::new(Address::ANY_V4, 6, *port), value);
        }
        state
    }

    #[test]
    fn entries_are_added_removed_and_changed() {
        let (any, nobody) = (sources::ANY, sources::NOBODY);
        let old = with(&[(22, any), (80, any), (81, any)]);
        let new = with(&[(22, nobody), (81, any), (443, any), (444, any)]);
        let counts = Counts::between(&old, &new);
        assert_eq!(counts.line(), "ports +2 -1 ~1");
        assert_eq!(Counts::between(&old, &old.clone()), Counts::default());
        let changes = between(&old, &new);
        assert_eq!(changes.len(), 1);
        let ports = |rows: &[Row]| rows.iter().map(|row| row["port"].to_string()).collect::<Vec<_>>();
        assert_eq!(ports(&changes[0].gone), ["22", "80"]);
        assert_eq!(ports(&changes[0].new), ["22", "443", "444"]);
    }
}
