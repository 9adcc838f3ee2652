//! Runs the rows on one host, without fw and with it.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::rows::{Counter, Expect, Row, When};
use crate::lab::table::Table;
use crate::lab::{Drops, Lab, Outcome, Town, wait};

/// What became of the rows on one host.
#[derive(Debug, Default)]
pub struct Played {
    /// By row: without fw and with it, at bridge-nf-call-iptables 1 and 0.
    cells: BTreeMap<&'static str, [String; 2]>,
    /// What was not as expected.
    pub missed: Vec<String>,
}

impl Played {
    /// What a row gave; `None` if it was not asked.
    pub fn cell(&self, row: &str) -> Option<String> {
        let [with, without] = self.cells.get(row)?;
        Some(if with == without || without.is_empty() { with.clone() } else { format!("{with} | {without}") })
    }
}

/// Every row at both settings of bridge netfilter, in a town built for it, and with `stock` without fw first; prints one
/// table for each.
pub fn play(lab: &Lab, policy: &str, rows: &[Row], stock: bool) -> Result<Played> {
    let start = Instant::now();
    let town = Town::build(lab).context("cannot build the town")?;
    let mut played = Played::default();
    for bridge_netfilter in [true, false] {
        lab.set_bridge_netfilter(bridge_netfilter)?;
        let stock = if stock { Some(pass(lab, &town, rows, false)?) } else { None };
        let with_fw = with_fw(lab, &town, policy, rows);
        let heading = format!("bridge-nf-call-iptables = {}", u8::from(bridge_netfilter));
        let half = Half { bridge_netfilter, column: usize::from(!bridge_netfilter) };
        let (table, wrong) = report(rows, stock.as_ref(), with_fw.as_ref().ok(), half, &mut played.cells);
        println!("\ndockerd {}, {heading}\n\n{table}", lab.docker_version());
        played.missed.extend(wrong.into_iter().map(|miss| format!("{heading}: {miss}")));
        if let Err(error) = with_fw {
            println!("with fw: {error:#}");
            played.missed.push(format!("{heading}: {error:#}"));
        }
    }
    println!("{} rows twice in {:.0} s", rows.len(), start.elapsed().as_secs_f32());
    Ok(played)
}

/// Every row with fw, before dockerd has restarted and after; prints one table for each.
pub fn play_over_restart(lab: &Lab, policy: &str, rows: &[Row]) -> Result<Played> {
    let town = Town::build(lab).context("cannot build the town")?;
    lab.set_forward_accept(false)?;
    let daemon = lab.fw_run(policy)?;
    let mut played = Played::default();
    for (column, heading) in ["before the restart of dockerd", "after it"].into_iter().enumerate() {
        if column > 0 {
            lab.signal_docker("TERM")?;
            lab.docker_again(&[])?;
            wait::until("fw finds nothing wrong", Duration::from_secs(30), || lab.fw_status().ok())
                .with_context(|| format!("fw's log:\n{}", lab.fw_log()))?;
        }
        let seen = pass(lab, &town, rows, true).with_context(|| format!("fw's log:\n{}", lab.fw_log()))?;
        let half = Half { bridge_netfilter: true, column };
        let (table, wrong) = report(rows, None, Some(&seen), half, &mut played.cells);
        println!("\ndockerd {}, {heading}\n\n{table}", lab.docker_version());
        played.missed.extend(wrong.into_iter().map(|miss| format!("{heading}: {miss}")));
    }
    daemon.terminate()?;
    lab.fw_down()?;
    Ok(played)
}

/// One of the two passes that share a cell.
#[derive(Clone, Copy)]
struct Half {
    bridge_netfilter: bool,
    column: usize,
}

/// What one row gave.
#[derive(Debug)]
struct Seen {
    outcome: Outcome,
    moved: Option<u64>,
}

fn with_fw(lab: &Lab, town: &Town, policy: &str, rows: &[Row]) -> Result<Vec<Seen>> {
    // fw looks every ten seconds what FORWARD does with the rest; the rows do not wait for it.
    lab.set_forward_accept(false)?;
    let daemon = lab.fw_run(policy)?;
    let seen = pass(lab, town, rows, true).with_context(|| format!("fw's log:\n{}", lab.fw_log()))?;
    daemon.terminate()?;
    lab.fw_down()?;
    Ok(seen)
}

fn pass(lab: &Lab, town: &Town, rows: &[Row], counted: bool) -> Result<Vec<Seen>> {
    let mut seen: BTreeMap<usize, Seen> = BTreeMap::new();
    for batch in batches(rows) {
        let accept = rows[batch[0]].when == When::ForwardAccept;
        lab.set_forward_accept(accept)?;
        let before = if counted { lab.fw_drops()? } else { Drops::new() };
        let outcomes: Vec<Result<Outcome>> = thread::scope(|scope| {
            let probes: Vec<_> = batch
                .iter()
                .map(|number| scope.spawn(|| attempt(&rows[*number], lab, town, counted)))
                .collect();
            probes.into_iter().map(|probe| probe.join().expect("a probe does not panic")).collect()
        });
        let after = if counted { lab.fw_drops()? } else { Drops::new() };
        for (number, outcome) in batch.into_iter().zip(outcomes) {
            let row = &rows[number];
            let outcome = outcome.with_context(|| format!("row {} ({})", row.id, row.what))?;
            let moved = row.counter.filter(|_| counted).map(|counter| moved(counter, &before, &after));
            seen.insert(number, Seen { outcome, moved });
        }
    }
    lab.set_forward_accept(false)?;
    Ok(seen.into_values().collect())
}

/// Rows that run together: never two that move the same counter, and those that change the host alone.
fn batches(rows: &[Row]) -> Vec<Vec<usize>> {
    let mut together: BTreeMap<(When, usize), Vec<usize>> = BTreeMap::new();
    let mut used: BTreeMap<(When, Option<Counter>), usize> = BTreeMap::new();
    let mut alone = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        if row.when == When::Alone {
            alone.push(vec![number]);
            continue;
        }
        let turn = used.entry((row.when, row.counter)).or_default();
        together.entry((row.when, *turn)).or_default().push(number);
        if row.counter.is_some() {
            *turn += 1;
        }
    }
    // The policy of FORWARD changes once: where fw writes NAT, it looks every ten seconds what that policy is.
    let accepting = |batch: &Vec<usize>| rows[batch[0]].when == When::ForwardAccept;
    let (accepted, dropped): (Vec<_>, Vec<_>) = together.into_values().partition(accepting);
    [dropped, alone, accepted].concat()
}

/// A row that ought to be open gets a second chance: the machine may be busy. A closed one is judged by its first.
fn attempt(row: &Row, lab: &Lab, town: &Town, with_fw: bool) -> Result<Outcome> {
    let expected = if with_fw { row.target } else { row.stock };
    let mut outcome = (row.act)(lab, town)?;
    for _ in 0..2 {
        if expected.is_reach() && !expected.met_by(&outcome) {
            outcome = (row.act)(lab, town)?;
        }
    }
    Ok(outcome)
}

fn moved((hook, reason): Counter, before: &Drops, after: &Drops) -> u64 {
    let key = (hook.to_owned(), reason.to_owned());
    // What comes in from outside may be dropped early, for the same reason.
    let early = ("uplink_xdp".to_owned(), reason.to_owned());
    let count = |drops: &Drops| {
        let of = |key| drops.get(key).copied().unwrap_or(0);
        of(&key) + if hook == "uplink_ingress" { of(&early) } else { 0 }
    };
    count(after).saturating_sub(count(before))
}

fn report(
    rows: &[Row],
    stock: Option<&Vec<Seen>>,
    with_fw: Option<&Vec<Seen>>,
    half: Half,
    cells: &mut BTreeMap<&'static str, [String; 2]>,
) -> (Table, Vec<String>) {
    let mut table = Table::new(&["row", "what", "stock", "with fw", "target", "counter moved", "ok"]);
    let mut misses = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let (stock, fw) = (stock.map(|seen| &seen[number]), with_fw.map(|seen| &seen[number]));
        let mut wrong = Vec::new();
        let in_scope = half.bridge_netfilter || !row.needs_bridge_netfilter;
        if in_scope {
            wrong.extend(stock.and_then(|stock| judge("stock", row.stock, stock)));
            wrong.extend(fw.and_then(|fw| judge("with fw", row.target, fw)));
        }
        let counter = match (row.counter, fw.and_then(|fw| fw.moved)) {
            (Some((hook, reason)), Some(packets)) => format!("{hook} {reason} +{packets}"),
            _ => String::new(),
        };
        let stock_cell = stock.map_or_else(|| "-".to_owned(), |stock| stock.outcome.to_string());
        let fw_cell = fw.map_or_else(|| "-".to_owned(), |fw| fw.outcome.to_string());
        let ok = match (in_scope, wrong.is_empty(), fw) {
            (false, ..) => "out of scope: Docker needs bridge netfilter for it",
            (true, false, _) => "MISSED",
            (true, true, None) => "stock only",
            (true, true, Some(_)) => "ok",
        };
        if in_scope {
            let mark = if wrong.is_empty() { "" } else { "!" };
            cells.entry(row.id).or_default()[half.column] = format!("{stock_cell} → {fw_cell}{mark}");
        }
        table.row(&[&row.id, &row.what, &stock_cell, &fw_cell, &row.target, &counter, &ok]);
        misses.extend(wrong.into_iter().map(|miss| format!("{} ({}): {miss}", row.id, row.what)));
    }
    (table, misses)
}

fn judge(column: &str, expected: Expect, seen: &Seen) -> Option<String> {
    if !expected.met_by(&seen.outcome) {
        return Some(format!("{column}: expected {expected}, saw {:?}", seen.outcome));
    }
    (seen.moved == Some(0))
        .then(|| format!("{column}: closed, but not by the reason that should have closed it"))
}
