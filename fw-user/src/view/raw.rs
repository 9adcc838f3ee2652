//! Tables that only `fw table` shows: what the programs keep for themselves, and what the daemon says of itself.

use std::collections::BTreeMap;

use fw_common::fast::{LIFE, replaces};
use fw_common::tables::{Daemon, EventBudget, EventRate, name_kind, nat_health};
use fw_common::{Mac, Reason};
use serde_json::json;

use super::{Names, Row, protocol, row};
use crate::datapath::{DatapathError, Maps};
use crate::plan::State;
use crate::reconcile::monotonic_seconds;

/// The containers that flows are counted by, by number.
pub(crate) fn owners(state: &State, names: Names<'_>) -> BTreeMap<u16, String> {
    let counted = state.tables.interfaces.iter().filter(|(_, interface)| interface.owner != 0);
    counted.map(|(ifindex, interface)| (interface.owner, names.of(name_kind::ENDPOINT, *ifindex))).collect()
}

/// Places of flows in the budgets of their owners.
pub(super) fn budgets(maps: &Maps, state: &State, names: Names<'_>) -> Result<Vec<Row>, DatapathError> {
    let owners = owners(state, names);
    let budgets = maps.budgeted()?.into_iter();
    Ok(budgets
        .map(|(key, flow)| {
            row(json!({
                "counted_as": key.owner,
                "container": owners.get(&key.owner),
                "place": key.place,
                "proto": protocol(flow.proto),
                "local": flow.local.to_string(),
                "local_port": flow.local_port,
                "remote": flow.remote.to_string(),
                "remote_port": flow.remote_port,
            }))
        })
        .collect())
}

/// How many events a CPU may write in a second, and for how long somebody has asked for that.
pub(super) fn event_rate(rate: EventRate) -> Row {
    let left = u64::from(rate.until).saturating_sub(monotonic_seconds());
    row(json!({"rate": rate.rate, "for_seconds": left}))
}

/// What became of the events of one CPU.
pub(super) fn event_budget((budget, cpu): (&EventBudget, usize)) -> Row {
    row(json!({"cpu": cpu, "missed": budget.missed, "left": budget.left}))
}

/// What the daemon last said of itself.
pub(super) fn daemon(daemon: &Daemon) -> Row {
    row(json!({
        "pid": daemon.pid,
        "ready": daemon.ready != 0,
        "docker": daemon.docker != 0,
        "handover": daemon.handover != 0,
        "degraded": daemon.degraded != 0,
        "made_directory": daemon.made_directory != 0,
        "nat": match daemon.nat {
            nat_health::NOT_OURS => "docker",
            nat_health::STANDS => "fw",
            nat_health::REFUSED => "refused",
            nat_health::GONE => "gone",
            _ => "failed",
        },
        "passes": daemon.passes,
        "last_pass_seconds_ago": monotonic_seconds().saturating_sub(daemon.last_pass),
    }))
}

/// Paths past the stack, and whether they serve now.
pub(super) fn fast_paths(maps: &Maps, names: Names<'_>) -> Result<Vec<Row>, DatapathError> {
    let generation = maps.generation()?;
    let now = monotonic_seconds();
    let mac = |mac: Mac| (mac != Mac::ZERO).then(|| mac.to_string());
    let paths = maps.fast_paths()?.into_iter();
    Ok(paths
        .map(|(key, path)| {
            let age = now.saturating_sub(path.carried / 1_000_000_000);
            row(json!({
                "proto": protocol(key.protocol),
                "source": key.source.to_string(),
                "source_port": key.source_port,
                "destination": key.destination.to_string(),
                "destination_port": key.destination_port,
                "in_ifindex": key.ifindex,
                "out_ifindex": path.out,
                "becomes": if path.replaces == replaces::DESTINATION { "destination" } else { "source" },
                "address": path.address.to_string(),
                "port": path.port,
                "to_mac": mac(path.to),
                "longest": path.longest,
                "reason": Reason::from_number(path.reason).map(Reason::name),
                "rule": (path.rule != 0).then(|| names.of(name_kind::RULE, path.rule)),
                "serves": path.carried != 0 && path.generation == generation && age <= LIFE / 1_000_000_000,
                "age_seconds": (path.carried != 0).then_some(age),
            }))
        })
        .collect())
}
