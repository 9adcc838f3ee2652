//! Which services become reachable, or cease to be, from one state of the tables to another.

use std::collections::BTreeSet;

use fw_common::Address;
use fw_common::tables::{PortKey, sources};

use super::{From, Seen, Target, View, Why, WhyClosed, closed, in_subnet, is_open, joins, open, terms};
use crate::conntrack::{Connection, TcpState};
use crate::exposure::Open;
use crate::plan::State;

/// Ports whose terms change in the same way, at the same addresses, and that lead to the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The key of the first port in table `ports`.
    pub key: PortKey,
    /// The last port.
    pub last: u16,
    /// Who could come in.
    pub before: Access,
    /// Who could then.
    pub after: Access,
    /// The addresses, each with the device that a link-local one belongs to, else 0.
    pub addresses: Vec<(Address, u32)>,
    /// Who answers.
    pub target: Target,
}

/// Who may come in to a port, as far as fw has a say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nobody.
    Closed,
    /// These.
    Open(From),
    /// Whoever gets past Docker's and the host's own rules: fw only observes, or is not there.
    Unfiltered,
}

impl Changed {
    /// Whether a connection was opened to one of these ports, and may still go on.
    pub fn concerns(&self, connection: &Connection) -> bool {
        let to = &connection.original;
        to.protocol == self.key.proto
            && (self.key.port..=self.last).contains(&to.destination_port)
            && self.addresses.iter().any(|(address, _)| *address == to.destination)
            && !matches!(connection.tcp, Some(TcpState::TimeWait | TcpState::Close))
    }
}

/// What changes from `current` to `wanted`, in the order of table `ports`.
#[must_use]
pub fn changed(current: &State, wanted: &State, seen: Seen<'_>) -> Vec<Changed> {
    match (is_filtered(current), is_filtered(wanted)) {
        (true, true) => between(current, wanted, seen),
        (false, true) => {
            restricted(wanted, seen).map(|(row, access)| row_of(row, Access::Unfiltered, access)).collect()
        }
        (true, false) => {
            restricted(current, seen).map(|(row, access)| row_of(row, access, Access::Unfiltered)).collect()
        }
        (false, false) => Vec::new(),
    }
}

/// Whether anything is dropped at all. Without an uplink that is hooked nothing from outside is.
fn is_filtered(state: &State) -> bool {
    state.tables.settings.observe == 0
        && state.hooks.iter().any(|point| point.hook == fw_common::Hook::UplinkIngress)
}

fn row_of(open: Open, before: Access, after: Access) -> Changed {
    let Open { key, last, addresses, target, .. } = open;
    Changed { key, last, before, after, addresses, target }
}

/// Everything that is there and that not everybody reaches.
fn restricted(state: &State, seen: Seen<'_>) -> impl Iterator<Item = (Open, Access)> {
    let open = open(state, seen).into_iter().filter(|row| matches!(row.from, From::Zones(_)));
    let view = View::new(state, seen);
    let closed = closed(state, seen).into_iter().filter(|row| row.why != WhyClosed::Loopback);
    let closed = closed.map(move |row| {
        let addresses = view
            .local
            .iter()
            .filter(|(address, _)| *address == row.address || address.any_of_family() == row.address);
        let open = Open {
            key: PortKey::new(row.address, row.protocol, row.port),
            last: row.port,
            from: From::Any,
            why: Why::Rule(0),
            limit: 0,
            addresses: addresses.copied().collect(),
            target: row.target,
        };
        (open, Access::Closed)
    });
    let open = open.map(|row| {
        let access = Access::Open(row.from);
        (row, access)
    });
    open.chain(closed)
}

fn between(current: &State, wanted: &State, seen: Seen<'_>) -> Vec<Changed> {
    let view = View::new(wanted, seen);
    let (old, new) = (&current.tables.ports, &wanted.tables.ports);
    let mut keys: Vec<PortKey> =
        old.keys().chain(new.keys()).copied().collect::<BTreeSet<_>>().into_iter().collect();
    keys.sort_by_key(|key| (key.proto, key.address, key.ifindex, key.port));
    // Each with the row that it would be if it were open, so that neighbours are joined in the same way.
    let mut rows: Vec<(Open, Access, Access)> = Vec::new();
    let mut last: Vec<usize> = Vec::new();
    for key in keys {
        let (before, after) = (access(current, &key), access(wanted, &key));
        if before == after || is_told_by_any(current, wanted, &key) {
            continue;
        }
        let mut now = Vec::new();
        for (addresses, target) in view.behind(&key, Why::Rule(0)) {
            let row =
                Open { key, last: key.port, from: From::Any, why: Why::Rule(0), limit: 0, addresses, target };
            let same = |at: &usize| {
                let (known, was, is) = &rows[*at];
                (*was, *is) == (before, after) && joins(known, &row)
            };
            if let Some(at) = last.iter().copied().find(same) {
                rows[at].0.last = key.port;
                now.push(at);
            } else {
                now.push(rows.len());
                rows.push((row, before, after));
            }
        }
        last = now;
    }
    rows.into_iter().map(|(row, before, after)| row_of(row, before, after)).collect()
}

/// Whether the change of the entry for any address says the same of this one.
fn is_told_by_any(current: &State, wanted: &State, key: &PortKey) -> bool {
    let any = PortKey { address: key.address.any_of_family(), ..*key };
    let alone = wanted.tables.ports.get(key).is_some_and(|entry| entry.sources & sources::ALONE != 0);
    let stands = [current, wanted].iter().any(|state| state.tables.ports.contains_key(&any));
    let both = |key| (access(current, key), access(wanted, key));
    any != *key && stands && !alone && in_subnet(wanted, &key.address).is_none() && both(key) == both(&any)
}

/// Who may come in by this key: for an exact address also whom the entry for any lets in, unless it stands alone.
fn access(state: &State, key: &PortKey) -> Access {
    let ports = &state.tables.ports;
    let entry = ports.get(key);
    let any = PortKey { address: key.address.any_of_family(), ..*key };
    let asks_any = any != *key
        && in_subnet(state, &key.address).is_none()
        && entry.is_none_or(|entry| entry.sources & sources::ALONE == 0);
    let entries = entry.map(|entry| (key, entry)).into_iter();
    let entries = entries.chain(ports.get(&any).filter(|_| asks_any).map(|entry| (&any, entry)));
    let mut access = Access::Closed;
    for (from, _) in entries.filter(|(_, entry)| is_open(entry)).flat_map(|(key, entry)| terms(key, entry)) {
        access = match (access, from) {
            (Access::Open(From::Zones(held)), From::Zones(zones)) => Access::Open(From::Zones(held | zones)),
            (Access::Open(From::Any), _) | (_, From::Any) => Access::Open(From::Any),
            (Access::Closed | Access::Unfiltered, from) => Access::Open(from),
        };
    }
    access
}
