//! A pass that fails half way leaves nothing undone: the next one cuts what the first one should have cut.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use xtask::lab::{self, BPFFS, HOST, Lab, Options, ask, wait};

use crate::ground::{ends, fw, reached, write};

/// Addresses of one set: more than are read back at each look.
const MANY: usize = 10_100;
/// Addresses that all sets may have.
const ROOM: usize = 16_384;

#[test]
fn what_a_failed_pass_should_have_cut_the_next_one_cuts() {
    if !lab::available("what_a_failed_pass_should_have_cut_the_next_one_cuts") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    let _service = lab.host().serve_tcp("[::]:9100", "H").expect("a service");
    let daemon = lab.fw_run(&policy(9100, MANY)).expect("fw");
    let mut open = lab.outside().connect((HOST, 9100).into()).expect("a connection");
    assert!(ask(&mut open).reached_at("H"));

    // Somebody fills the map, which the daemon does not read again for as long as nothing fails.
    others(&lab, "update", " value hex 00 00 00 00 00 00 00 00");
    write(&lab, &policy(9101, MANY + 1));
    ends(&fw(&lab, &["reload"], None), 1, &["not in force as a whole", "source_hosts (full?)"]);
    assert!(ask(&mut open).reached_at("H"), "nothing is cut by half: {}", lab.fw_log());

    others(&lab, "delete", "");
    lab.host().script("ip link add poke0 type veth peer name poke1").expect("something that wakes");
    wait::until("the connection is cut", Duration::from_secs(15), || {
        (!ask(&mut open).reached_at("H")).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}:\n{}", lab.fw_log()));
    assert!(lab.fw_log().contains("cut what the policy lets be no more"), "{}", lab.fw_log());
    assert!(!reached(&lab, 9100));
    let well = || lab.fw_status().is_ok_and(|status| status["daemon"]["degraded"] == false).then_some(());
    wait::until("fw is well", Duration::from_secs(15), well).expect("well");
    daemon.terminate().expect("SIGTERM");
}

/// Lets in this port, and so many addresses to another one.
fn policy(port: u16, many: usize) -> String {
    let addresses = (0..many).map(|number| format!("\"10.9.{}.{}\"", number / 256, number % 256));
    format!(
        "[tables]\nhosts = {ROOM}\n[sets]\nmany = [{}]\n[[allow]]\nname = \"port\"\nproto = \"tcp\"\nports = [{port}]\n\
         [[allow]]\nname = \"many\"\nproto = \"tcp\"\nports = [9999]\nfrom = [\"many\"]\n",
        addresses.collect::<Vec<_>>().join(", ")
    )
}

/// Writes or removes as many other addresses as the map has room for.
fn others(lab: &Lab, what: &str, value: &str) {
    let mut batch = String::new();
    for number in MANY..ROOM {
        let [_, _, high, low] = u32::try_from(number).expect("a small number").to_be_bytes();
        writeln!(
            batch,
            "map {what} pinned {BPFFS}/source_hosts key hex 00 00 00 00 00 00 00 00 00 00 ff ff c0 00 {high:02x} {low:02x}{value}"
        )
        .expect("text");
    }
    fs::write(lab.path("/run/lab/batch"), batch).expect("a file");
    lab.host().script("bpftool batch file /run/lab/batch >/run/lab/batch.said 2>&1").expect("bpftool");
}
