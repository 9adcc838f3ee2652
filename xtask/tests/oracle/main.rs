//! fw beside stock Docker with iptables: a short run at random, and the cases that once showed a fault.

use std::path::Path;

use xtask::{lab, oracle};

#[test]
fn same_packets_arrive_with_fw_as_without_but_for_what_is_meant() {
    if !lab::available("same_packets_arrive_with_fw_as_without_but_for_what_is_meant") {
        return;
    }
    let cases = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oracle");
    let arguments = oracle::Arguments { packets: 2000, seed: 1, keep: false, cases };
    if let Err(error) = oracle::run(&arguments) {
        panic!("{error:#}");
    }
}

#[test]
fn kept_cases_show_nothing_any_more() {
    if !lab::available("kept_cases_show_nothing_any_more") {
        return;
    }
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle");
    if let Err(error) = oracle::replay_kept(&kept) {
        panic!("{error:#}");
    }
}
