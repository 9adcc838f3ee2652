//! How programs hang on devices: clsact where TCX is not to be had, and what a later daemon finds taken over.

use xtask::lab::tcx::Direction;
use xtask::lab::{self, BPFFS, Lab, Options, POLICY, Town, doors};

#[test]
fn clsact_does_what_tcx_does_and_goes_without_a_trace() {
    if !lab::available("clsact_does_what_tcx_does_and_goes_without_a_trace") {
        return;
    }
    let lab = Lab::start(Options { dockerd: Town::dockerd(), ..Options::default() }).expect("a lab");
    let town = Town::build(&lab).expect("the town");
    let before = lab.footprint().expect("a footprint");
    let daemon = lab.fw_run_with(POLICY, &["--attach", "clsact"]).expect("fw by clsact");
    let filters =
        lab.host().script("tc filter show dev eth0 ingress; tc filter show dev eth0 egress").expect("tc");
    assert!(filters.contains("uplink_ingress") && filters.contains("uplink_egress"), "{filters}");
    doors::held(&lab, &town, "fw runs by clsact").expect("fw holds");
    daemon.kill().expect("SIGKILL");
    doors::held(&lab, &town, "fw was killed, its filters stay").expect("fw holds");
    let daemon = lab.fw_run_with(POLICY, &["--attach", "clsact"]).expect("fw again");
    let filters = lab.host().script("tc filter show dev eth0 ingress").expect("tc");
    assert_eq!(filters.matches("name uplink_ingress").count(), 1, "one copy: {filters}");
    doors::held(&lab, &town, "fw took its filters over").expect("fw holds");
    daemon.terminate().expect("SIGTERM");
    lab.fw_down().expect("fw down");
    assert_eq!(lab.footprint().expect("a footprint"), before);
}

#[test]
fn a_restart_takes_links_over_and_never_doubles_them() {
    if !lab::available("a_restart_takes_links_over_and_never_doubles_them") {
        return;
    }
    let lab = Lab::start(Options { dockerd: Town::dockerd(), ..Options::default() }).expect("a lab");
    let town = Town::build(&lab).expect("the town");
    // bpftool 7.1 lists no TCX, but shows a pinned link by its numbers.
    let links = || {
        let pins = lab.host().script(&format!("ls {BPFFS}/hooks")).expect("the pins");
        let links = pins.lines().map(|pin| {
            let shown = lab.host().script(&format!("bpftool -j link show pinned {BPFFS}/hooks/{pin}"));
            let link: serde_json::Value =
                serde_json::from_str(&shown.expect("bpftool")).expect("JSON of bpftool");
            (
                pin.to_owned(),
                link["id"].as_u64().expect("an id"),
                link["prog_id"].as_u64().expect("a program"),
            )
        });
        links.collect::<Vec<_>>()
    };
    let daemon = lab.fw_run(POLICY).expect("fw");
    let first = links();
    daemon.terminate().expect("SIGTERM");
    let second = lab.fw_run(POLICY).expect("fw again");
    let now = links();
    assert!(first.len() > 4, "{first:?}");
    assert_eq!(now.len(), first.len());
    for (new, old) in now.iter().zip(&first) {
        assert_eq!((&new.0, new.1), (&old.0, old.1), "the link is the same");
        assert_ne!(new.2, old.2, "the program behind {} is a new one", new.0);
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        assert_eq!(lab.host().tcx_programs("eth0", direction).expect("a count"), 1);
    }
    doors::held(&lab, &town, "the second daemon runs").expect("fw holds");
    second.terminate().expect("SIGTERM");
}

#[test]
fn a_second_fw_on_the_same_directory_is_refused() {
    if !lab::available("a_second_fw_on_the_same_directory_is_refused") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    let daemon = lab.fw_run(POLICY).expect("fw");
    let before = lab.footprint().expect("a footprint");
    let refused = lab.fw(&["run", "--policy", "/run/lab/policy.toml"]).expect_err("a second one");
    assert!(format!("{refused:#}").contains("another fw runs on"), "{refused:#}");
    assert_eq!(lab.footprint().expect("a footprint"), before, "the first one is undisturbed");
    daemon.terminate().expect("SIGTERM");
}
