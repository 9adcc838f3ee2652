//! What `fw status` says the outside reaches is what a port scanner finds there, on a host with thirty containers.

use xtask::lab;
use xtask::soak::scan::{POLICY, Reach, Street, compare};

#[test]
fn what_is_said_to_be_reachable_is_what_a_scanner_finds() {
    let test = "what_is_said_to_be_reachable_is_what_a_scanner_finds";
    if !lab::available(test) {
        return;
    }
    if lab::which("nmap").is_none() {
        eprintln!("SKIPPED: {test}: missing: nmap (`cargo xtask setup` installs it)");
        return;
    }
    let street = Street::build().expect("a host with thirty containers");
    let _daemon = street.lab.fw_run(POLICY).expect("fw");
    compare(&street, &Reach::SHORT).unwrap_or_else(|error| panic!("{error:#}"));
}
