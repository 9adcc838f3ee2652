//! Maps that read well: `bpftool map dump pinned` prints every entry of every map with named fields.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::Value;
use xtask::lab::{self, BPFFS, HOST, Lab, OUTSIDE, Options, Town, wait};

/// A policy that puts something into every map.
const POLICY: &str = r#"
[uplink]
fast_path = "on"

[sets]
office = ["198.18.0.0/15", "203.0.113.7", "2001:db8::/32"]
scanners = ["203.0.113.66", "192.0.2.0/24"]

[[allow]]
name = "web"
proto = "tcp"
ports = [8080]
from = ["office"]

[[deny]]
name = "scanners"
from = ["scanners"]

[[limit]]
name = "slow"
proto = "tcp"
ports = [8080]
rate = 10
burst = 20

[[out]]
name = "pings"
proto = "icmp"

[networks.B]
egress = "none"
reach = ["A"]
"#;

#[test]
fn bpftool_prints_named_fields_of_every_map() {
    if !lab::available("bpftool_prints_named_fields_of_every_map") {
        return;
    }
    let lab = Lab::start(Options { dockerd: Town::dockerd(), ..Options::default() }).expect("a lab");
    let town = Town::build(&lab).expect("the town");
    let lan = ["network", "create", "-d", "macvlan", "-o", "parent=eth0", "--subnet", "198.18.0.0/24", "lan"];
    lab.docker(&lan).expect("a network on the uplink");
    lab.container("lan1", &["--network", "lan", "--ip", "198.18.0.70"]).expect("a container on it");
    let daemon = lab.fw_run(&format!("mode = \"observe\"\n{POLICY}")).expect("fw");
    assert!(lab.outside().script("busybox ping -c1 -W2 198.18.0.1").is_ok(), "what would be dropped passes");
    daemon.terminate().expect("SIGTERM");
    let daemon = lab.fw_run(POLICY).expect("fw");
    assert!(town.at("a2").place.script("busybox ping -c1 -W2 198.18.0.2").is_ok(), "a flow goes out");
    assert!(lab.host().script("busybox ping -c1 -W2 -s3000 198.18.0.2").is_ok(), "fragments go out");
    let b1 = town.at("b1").ip().expect("an address");
    assert!(lab.host().script(&format!("busybox ping -c1 -W2 {b1}")).is_ok(), "a flow comes in");
    assert!(lab.outside().tcp((HOST, 8080).into()).expect("a probe").reached(), "a new flow under a limit");
    assert!(lab.outside().script("busybox ping -c1 -W1 198.18.0.1").is_err(), "a drop is counted");
    let socket =
        town.at("a2").place.within(|| UdpSocket::bind("0.0.0.0:0")).expect("a place").expect("a socket");
    wait::until("a connection on the fast path", Duration::from_secs(10), || {
        socket.send_to(b"on and on", (OUTSIDE, 9_999)).expect("a datagram");
        let paths = lab.host().script(&format!("bpftool map dump pinned {BPFFS}/fast_paths")).ok()?;
        paths.contains("carried").then_some(())
    })
    .expect("one that lives for a second");
    for name in pinned(&lab) {
        let dump = lab.host().script(&format!("bpftool map dump pinned {BPFFS}/{name}"));
        if name == "events" {
            println!("## {name}: a ring buffer holds no entries to dump");
            continue;
        }
        let dump = dump.unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let excerpt: Vec<&str> = dump.lines().take(40).collect();
        println!("## {name}\n{}\n", excerpt.join("\n"));
        let entries: Vec<Value> =
            serde_json::from_str(&dump).unwrap_or_else(|error| panic!("{name}: {error}: {dump}"));
        assert!(!entries.is_empty(), "{name} is empty");
        for entry in &entries {
            let value = entry.get("value").or_else(|| entry.get("values")?.get(0)?.get("value"));
            assert!(value.is_some_and(Value::is_object), "{name}: the value has no named fields: {entry}");
            assert!(!dump.contains("0x"), "{name}: raw bytes: {entry}");
        }
    }
    daemon.terminate().expect("SIGTERM");
}

fn pinned(lab: &Lab) -> Vec<String> {
    let names = lab.host().script(&format!("cd {BPFFS} && find . -maxdepth 1 -type f")).expect("the pins");
    let names: Vec<String> = names.lines().map(|line| line.trim_start_matches("./").to_owned()).collect();
    assert!(names.len() > 10, "{names:?}");
    names
}
