//! The reachability matrix: what stock Docker lets through, and what is left of it with fw.
//!
//! Every row is probed on a host without fw first, so that each closed door has been seen open, or has a twin that is
//! open. Rows that are closed because of fw must move the counter of their reason.

use xtask::lab::{self, Generation, Lab, Options, POLICY, Town, Uplink};
use xtask::matrix::{self, Host, Row, play, rows, without_proxy};

#[test]
fn plain_uplink() {
    matrix("plain_uplink", Uplink::Plain);
}

#[test]
fn uplink_is_a_port_of_a_bridge() {
    matrix("uplink_is_a_port_of_a_bridge", Uplink::PortOfBridge);
}

#[test]
fn plain_uplink_with_early_drop() {
    early_drop("plain_uplink_with_early_drop", Uplink::Plain, "native");
}

#[test]
fn uplink_is_a_port_of_a_bridge_with_early_drop() {
    early_drop("uplink_is_a_port_of_a_bridge_with_early_drop", Uplink::PortOfBridge, "generic");
}

#[test]
fn without_docker_proxy() {
    if !lab::available("without_docker_proxy") {
        return;
    }
    let lab = Lab::start(Host::WithoutProxy.options(Generation::default())).expect("a lab");
    all(&lab, "without docker-proxy", POLICY, &without_proxy(Generation::default()));
}

/// The later generations are asked where they are installed; `cargo xtask matrix` installs them.
#[test]
fn later_generations() {
    if !lab::available("later_generations") {
        return;
    }
    for generation in [Generation::V26_1, Generation::V28_5] {
        if let Some(obstacle) = generation.obstacle() {
            println!("SKIPPED: later_generations: {obstacle}");
            continue;
        }
        let lab = Lab::start(Host::Plain.options(generation)).expect("a lab");
        all(&lab, &format!("Docker {generation}"), &matrix::policy(generation), &rows(generation));
    }
}

#[test]
fn closed_rows_have_a_twin_or_were_seen_open() {
    let rows = every_row();
    for row in rows.iter().filter(|row| !row.target.is_reach()) {
        if Generation::ALL.into_iter().any(|on| seen_open(row.id, on)) {
            continue;
        }
        let twin = rows.iter().find(|twin| Some(twin.id) == row.twin);
        let twin = twin.unwrap_or_else(|| panic!("{} is closed and has no twin that is open", row.id));
        assert!(twin.target.is_reach(), "{}, the twin of {}, is closed as well", twin.id, row.id);
    }
}

fn seen_open(id: &str, generation: Generation) -> bool {
    rows(generation).iter().any(|row| row.id == id && row.stock.is_reach())
}

#[test]
fn rows_have_names_of_their_own() {
    let rows = every_row();
    let mut ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), rows.len());
}

fn every_row() -> Vec<Row> {
    rows(Generation::V28_5)
}

/// Every row at both settings of bridge netfilter; panics if one misses.
fn all(lab: &Lab, title: &str, policy: &str, rows: &[Row]) {
    println!("\n{title}");
    let missed = play(lab, policy, rows, true).expect("the rows").missed;
    assert!(missed.is_empty(), "{title}: {} misses:\n{}", missed.len(), missed.join("\n"));
}

fn matrix(test: &str, uplink: Uplink) {
    let rows = rows(Generation::default());
    let rows = if uplink == Uplink::Plain { rows } else { of_uplinks(rows) };
    matrix_by(test, uplink, &matrix::policy(Generation::default()), &rows);
}

/// XDP changes no row.
fn early_drop(test: &str, uplink: Uplink, mode: &str) {
    let policy = matrix::policy(Generation::default());
    let policy = policy.replace("[uplink]\n", &format!("[uplink]\nxdp = \"{mode}\"\n"));
    matrix_by(test, uplink, &policy, &of_uplinks(rows(Generation::default())));
}

/// Rows for which it matters by which uplink a packet comes; the others are asked once.
fn of_uplinks(mut rows: Vec<Row>) -> Vec<Row> {
    let elsewhere = ["D32", "D33", "D43", "L"];
    rows.retain(|row| !elsewhere.iter().any(|start| row.id.starts_with(start)));
    rows
}

fn matrix_by(test: &str, uplink: Uplink, policy: &str, rows: &[Row]) {
    if !lab::available(test) {
        return;
    }
    let lab = Lab::start(Options { uplink, dockerd: Town::dockerd(), ..Options::default() }).expect("a lab");
    all(&lab, &format!("uplink {uplink:?} ({test})"), policy, rows);
}
