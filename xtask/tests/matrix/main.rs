//! The reachability matrix: what stock Docker lets through, and what is left of it with fw.
//!
//! Every row is probed on a host without fw first, so that each closed door has been seen open, or has a twin that is
//! open. Rows that are closed because of fw must move the counter of their reason.

mod rows;
mod run;

use rows::{WITHOUT_PROXY, rows};
use xtask::lab::{self, Lab, Options, POLICY, Town, Uplink};

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
    run::all(&lab.expect("a lab"), "without docker-proxy", POLICY, WITHOUT_PROXY);
}

#[test]
fn closed_rows_have_a_twin_or_were_seen_open() {
    let rows = rows();
    for row in rows.iter().filter(|row| !row.target.is_reach() && !row.stock.is_reach()) {
        let twin = rows.iter().find(|twin| Some(twin.id) == row.twin);
        let twin = twin.unwrap_or_else(|| panic!("{} is closed and has no twin that is open", row.id));
        assert!(twin.target.is_reach(), "{}, the twin of {}, is closed as well", twin.id, row.id);
    }
}

#[test]
fn rows_have_names_of_their_own() {
    let rows = rows();
    let mut ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), rows.len());
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
    run::all(&lab, &format!("uplink {uplink:?} ({test})"), policy, &rows());
}
