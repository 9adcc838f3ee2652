//! What `fw status` says the outside reaches is what a port scanner finds there, on a host with thirty containers; what it
//! says Docker alone would leave open is open without fw.

use std::net::SocketAddr;

use serde_json::Value;
use xtask::lab::{self, Lab};
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
    let open = doors(&street.lab).map(|door| is_open(&street.lab, door));
    assert_eq!(open, [true; 4], "without fw");
    let daemon = street.lab.fw_run(POLICY).expect("fw");
    compare(&street, &Reach::SHORT).unwrap_or_else(|error| panic!("{error:#}"));

    let status = street.status().expect("a status");
    for (hole, with_fw, concerns) in [
        ("published", "closed", "c11 (8011/tcp)"),
        ("published-open", "open", "c1 (8001/tcp)"),
        ("direct-v4", "closed", "c1"),
        ("direct-v6", "closed", "c19"),
        ("gateways", "closed", "busybox (9007/tcp)"),
        ("loopback", "closed", "c24 (8024/tcp)"),
        ("internal-host", "open", "shut"),
    ] {
        let rows = status["docker_alone"].as_array().expect("a list");
        let row =
            rows.iter().find(|row| row["hole"] == hole).unwrap_or_else(|| panic!("no {hole}: {rows:#?}"));
        let named = row["concerns"].as_array().is_some_and(|names| names.contains(&Value::from(concerns)));
        assert!(named && row["with_fw"] == with_fw, "{row:#}");
    }
    let open = doors(&street.lab).map(|door| is_open(&street.lab, door));
    assert_eq!(open, [false; 4], "with fw");
    drop(daemon);
    what_was_observed_is_told_by_the_plan_to_enforce(&street.lab);
}

fn what_was_observed_is_told_by_the_plan_to_enforce(lab: &Lab) {
    let daemon = lab.fw_run(&format!("mode = \"observe\"\n{POLICY}")).expect("fw, observing");
    let _live = lab.outside().connect((lab::HOST, 8011).into()).expect("observing closes nothing");
    std::fs::write(lab.path("/run/lab/enforce.toml"), POLICY).expect("a policy");
    let plan = ["plan", "/run/lab/enforce.toml", "--docker", lab::SOCKET, "--json"];
    let output = lab.fw_command(&plan).expect("fw").output().expect("fw plan");
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let find = |list: &str, with: &[(&str, &str)]| {
        let rows = plan[list].as_array().unwrap_or_else(|| panic!("no {list}: {plan:#}"));
        let found = rows.iter().find(|row| with.iter().all(|(key, value)| row[key] == *value));
        found.unwrap_or_else(|| panic!("nothing with {with:?}: {:#}", plan[list])).clone()
    };
    let dropped = find("observed", &[("hook", "uplink_ingress"), ("reason", "port-not-allowed")]);
    assert!(dropped["packets"].as_u64() > Some(0), "{dropped}");
    let closing =
        [("leads_to", "c11:80"), ("address", "any IPv4"), ("before", "not filtered"), ("after", "closed")];
    assert!(find("services", &closing)["live"].as_u64() > Some(0), "the connection is told");
    daemon.terminate().expect("SIGTERM");
}

/// A container's own address in each family, a bridge's, and a published port that no rule opens.
fn doors(lab: &Lab) -> [SocketAddr; 4] {
    let container = |name| lab.inspect(name).expect("a container");
    [
        (container("c1").ip().expect("an address"), 80).into(),
        (container("c19").ip6().expect("an address"), 80).into(),
        (container("c1").gateway.expect("a gateway"), 9007).into(),
        (lab::HOST, 8011).into(),
    ]
}

fn is_open(lab: &Lab, door: SocketAddr) -> bool {
    lab.outside().connect(door).is_ok()
}
