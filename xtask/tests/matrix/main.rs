//! The reachability matrix: what stock Docker lets through, and what is left of it with fw.
//!
//! Every row is probed on a host without fw first, so that each closed door has been seen open, or has a twin that is
//! open. Rows that are closed because of fw must move the counter of their reason.

use xtask::lab::{self, Generation, Lab, Options, POLICY, Town, Uplink};
use xtask::matrix::{self, Row, play, rows, without_proxy};

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
    let lab = Lab::start(Options { userland_proxy: false, dockerd: Town::dockerd(), ..Options::default() });
    all(&lab.expect("a lab"), "without docker-proxy", POLICY, &without_proxy(Generation::default()));
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
        let lab = Lab::start(matrix::options(generation)).expect("a lab");
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
    matrix_by(test, uplink, POLICY);
}

/// XDP changes no row.
fn early_drop(test: &str, uplink: Uplink, mode: &str) {
    matrix_by(test, uplink, &POLICY.replace("[uplink]\n", &format!("[uplink]\nxdp = \"{mode}\"\n")));
}

fn matrix_by(test: &str, uplink: Uplink, policy: &str) {
    if !lab::available(test) {
        return;
    }
    let lab = Lab::start(Options { uplink, dockerd: Town::dockerd(), ..Options::default() }).expect("a lab");
    all(&lab, &format!("uplink {uplink:?} ({test})"), policy, &rows(Generation::default()));
}
