//! A plan by service: who becomes reachable or ceases to be, with the live connections concerned.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::connections::Cut;
use crate::conntrack::Connection;
use crate::docker::{DockerContainer, DockerSnapshot};
use crate::exposure::{Access, Changed, From, Seen};
use crate::handover::{Iptables, Survey};
use crate::inventory::Inventory;
use crate::listeners::{self, Listeners};
use crate::plan::State;
use crate::reconcile::chain;
use crate::view::{self, Names, Row, row};

use super::super::reach;

/// What is read beside Docker and the tables, as far as it can be.
pub(super) struct Read {
    listeners: Option<Listeners>,
    survey: Option<Survey>,
}

impl Read {
    /// Reads sockets and translations; what cannot be read is a warning.
    pub(super) fn new(docker: &DockerSnapshot, warnings: &mut Vec<String>) -> Self {
        let pids = docker.containers.iter().map(|container| container.pid).collect();
        let listeners = listeners::snapshot(&pids)
            .map_err(|error| warnings.push(format!("cannot tell who listens: {}", chain(&error))));
        let survey = Iptables::find()
            .and_then(|iptables| Ok(iptables.rule_sets()?.survey()))
            .map_err(|error| warnings.push(format!("cannot tell what is translated: {}", chain(&error))));
        Self { listeners: listeners.ok(), survey: survey.ok() }
    }

    pub(super) fn seen<'a>(
        &'a self,
        inventory: &'a Inventory,
        containers: &'a [DockerContainer],
    ) -> Seen<'a> {
        // With its nftables backend Docker writes no rule that is read here, and publishes all the same.
        let survey = self.survey.as_ref().filter(|survey| !survey.translations.is_empty());
        Seen {
            inventory,
            containers,
            listeners: self.listeners.as_ref(),
            translations: survey.map(|survey| survey.translations.as_slice()),
        }
    }
}

/// One row for each service that changes: for whom, from what to what, and how many connections live on it.
pub(super) fn rows(
    changed: &[Changed],
    states: (&State, &State),
    open: &[Connection],
    cut: &[Cut],
) -> Vec<Row> {
    let [old, new] = [states.0, states.1].map(|state| Names { names: &state.names });
    let one = |change: &Changed| {
        let Changed { key, target, .. } = change;
        row(json!({
            "proto": view::protocol(key.proto),
            "address": reach::address(&key.address),
            "ports": reach::ports(key.proto, key.port, change.last),
            "before": access(change.before, old),
            "after": access(change.after, new),
            "leads_to": reach::leads_to(target),
            "service": target.service,
            "listens": target.listens,
            "addresses": change.addresses.iter().map(|(address, _)| address.to_string()).collect::<Vec<_>>(),
            "live": open.iter().filter(|connection| change.concerns(connection)).count(),
            "cut": cut.iter().filter(|cut| change.concerns(&cut.connection)).count(),
        }))
    };
    changed.iter().map(one).collect()
}

/// Connections that are cut and lead to none of those: how many of each container, hook and reason.
pub(super) fn elsewhere(changed: &[Changed], cut: &[Cut]) -> Vec<Row> {
    let mut groups: BTreeMap<(Option<&str>, &str, &str), usize> = BTreeMap::new();
    for cut in cut.iter().filter(|cut| !changed.iter().any(|change| change.concerns(&cut.connection))) {
        *groups.entry((cut.container.as_deref(), cut.hook.name(), cut.reason.name())).or_default() += 1;
    }
    let groups = groups.into_iter();
    groups
        .map(|((container, hook, reason), cut)| {
            row(json!({"container": container, "hook": hook, "reason": reason, "cut": cut}))
        })
        .collect()
}

/// All of it for people; nothing where nothing changes.
pub(super) fn text(services: &[Row], elsewhere: &[Row], observed: &[Row]) -> String {
    let mut text = String::new();
    let mut section = |title: &str, rows: &[Row]| {
        if rows.is_empty() {
            return;
        }
        text += &format!("\n{title}\n");
        let shown = reach::all_for_people(&rows[..rows.len().min(super::MOST_RULES)]);
        for line in view::aligned(&shown).lines() {
            text += &format!("  {line}\n");
        }
        if rows.len() > super::MOST_RULES {
            text += &format!("  and {} more (--json has all)\n", rows.len() - super::MOST_RULES);
        }
    };
    section("reachable from outside, before and after", services);
    section("live connections that would be cut elsewhere, by container", elsewhere);
    let observed: Vec<Row> = observed.iter().map(|row| reach::without(row, &["drop"])).collect();
    section(
        "only observed so far, and dropped from then on; `fw suggest` writes the rules that would let it pass",
        &observed,
    );
    text
}

fn access(access: Access, names: Names<'_>) -> Value {
    match access {
        Access::Closed => json!("closed"),
        Access::Open(From::Any) => json!("any"),
        Access::Open(From::Zones(zones)) => json!(names.zones(zones)),
        Access::Unfiltered => json!("not filtered"),
    }
}
