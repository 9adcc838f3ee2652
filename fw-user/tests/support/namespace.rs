//! A network namespace with the devices of the example host, for programs that run on frames of test runs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use fw_common::Address;
use nix::sched::{CloneFlags, unshare};

use crate::example::host::{DEVICES, STRANGER, UPLINK, mac_of};

/// Gives this thread a network namespace with the devices of the example host. Everything is forwarded but `local`, as
/// the tables in memory have it.
pub(crate) fn make(local: &BTreeSet<Address>) {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    let mut batch = String::new();
    for device in DEVICES {
        let (mac, peer) = (mac_of(device), device + 100);
        let name = format!("fw{device}");
        let link = format!("link add name {name} index {device} address {mac} type veth");
        writeln!(batch, "{link} peer name fw{peer} index {peer}").expect("a string");
        for end in [name, format!("fw{peer}")] {
            writeln!(batch, "link set dev {end} addrgenmode none").expect("a string");
            writeln!(batch, "link set dev {end} up").expect("a string");
        }
    }
    for address in local {
        writeln!(batch, "route add local {address} dev fw{UPLINK} table local").expect("a string");
    }
    for network in ["0.0.0.0/0", "::/0"] {
        writeln!(batch, "route add {network} dev fw{STRANGER}").expect("a string");
    }
    let mut ip =
        Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip (iproute2)");
    ip.stdin.take().expect("piped").write_all(batch.as_bytes()).expect("ip reads");
    assert!(ip.wait().expect("ip ends").success(), "ip refused:\n{batch}");
    for family in ["net/ipv4/conf/all", "net/ipv6/conf/all"] {
        fs::write(format!("/proc/sys/{family}/forwarding"), "1").expect("forwarding can be switched on");
    }
}
