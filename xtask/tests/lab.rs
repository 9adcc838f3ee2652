//! The lab itself: stock Docker behaves in it as on a real host, and nothing of it is left behind.

use std::path::Path;
use std::time::Duration;

use xtask::lab::{self, HOST, HOST6, Lab, OUTSIDE, OUTSIDE6, Options, Outcome, Uplink, wait};

#[test]
fn published_port_is_reached_and_unpublished_is_not() {
    if !lab::available("published_port_is_reached_and_unpublished_is_not") {
        return;
    }
    for uplink in [Uplink::Plain, Uplink::PortOfBridge] {
        let lab = Lab::start(Options { uplink, ..Options::default() }).expect("a lab");
        lab.network("a", &[]).expect("a network");
        let a1 = lab.container("a1", &["--network", "a", "-p", "8080:80"]).expect("a container");
        let _server = a1.place.serve_tcp("[::]:80", "a1").expect("a server");
        let _unpublished = a1.place.serve_tcp("[::]:81", "a1").expect("a server");

        let outside = lab.outside();
        assert!(outside.tcp((HOST, 8080).into()).expect("a probe").reached_at("a1"), "{uplink:?}");
        assert!(outside.tcp((HOST6, 8080).into()).expect("a probe").reached_at("a1"), "{uplink:?}");
        assert_eq!(outside.tcp((HOST, 8081).into()).expect("a probe"), Outcome::Refused, "{uplink:?}");
        let direct = (a1.ip().expect("an address"), 81).into();
        assert_eq!(outside.tcp(direct).expect("a probe"), Outcome::Silent, "{uplink:?}");
        assert!(a1.place.ping(OUTSIDE.into()).expect("a ping").reached(), "{uplink:?}");
    }
}

/// The gateway of a network answers as soon as its first container is there.
#[test]
fn a_new_ipv6_network_is_ready_for_probes() {
    if !lab::available("a_new_ipv6_network_is_ready_for_probes") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    lab.network("a", &["--ipv6", "--subnet=2001:db8:a::/64"]).expect("a network");
    let a1 = lab.container("a1", &["--network", "a"]).expect("a container");
    for place in [lab.host(), lab.outside()] {
        let tentative = place.run(&["ip", "-6", "addr", "show", "tentative"]).expect("addresses");
        assert!(tentative.is_empty(), "{}: {tentative}", place.name());
    }
    let _server = lab.outside().serve_udp("[::]:5000", "R").expect("a server");
    assert!(a1.place.udp((OUTSIDE6, 5000).into()).expect("a probe").reached_at("R"));
}

#[test]
fn nothing_is_left() {
    if !lab::available("nothing_is_left") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    let a1 = lab.container("a1", &[]).expect("a container");
    let name = lab.name().to_owned();
    let inside = lab.path("/run/lab");
    assert!(inside.exists() && a1.v4.is_some());
    drop(lab);
    assert!(!inside.exists(), "{} is still there", inside.display());
    for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"] {
        assert!(!Path::new(hierarchy).join(&name).exists(), "{name} is still in {hierarchy}");
    }
}

#[test]
fn everything_ends_with_its_owner() {
    if !lab::available("everything_ends_with_its_owner") {
        return;
    }
    let mut owner = std::process::Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["lab", "hold"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the lab's owner");
    let mut line = String::new();
    let output = owner.stdout.take().expect("its output");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("a line");
    let daemon: u32 = line.trim().parse().unwrap_or_else(|_| panic!("no process number: {line:?}"));
    let running = Path::new("/proc").join(daemon.to_string());
    assert!(running.exists());

    owner.kill().expect("SIGKILL");
    owner.wait().expect("its end");
    wait::until("end of the lab's dockerd", Duration::from_secs(10), || (!running.exists()).then_some(()))
        .expect("no orphan");
    lab::clean().expect("its cgroups can be removed");
}
