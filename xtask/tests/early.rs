//! The early drop at XDP: it drops what the hook behind would drop, gets out of everybody's way, and goes as it came.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;
use xtask::lab::{self, BPFFS, HOST, Lab, Options, POLICY, Town, doors, wait};

const FILE: &str = "/run/lab/policy.toml";

/// The lab's policy with this mode of XDP.
fn policy(mode: &str) -> String {
    let bulk = "[[allow]]\nname = \"bulk\"\nproto = \"tcp\"\nports = [9200]\n";
    POLICY.replace("[uplink]\n", &format!("[uplink]\nxdp = \"{mode}\"\n")) + bulk
}

/// How XDP is attached to a device according to `fw status`, and whether it runs.
fn attached(lab: &Lab, device: &str) -> Option<(String, bool)> {
    let status = lab.fw_status().ok()?;
    let hook = |row: &&Value| row["hook"] == "uplink_xdp" && row["device"] == device;
    let row = status["hooks"].as_array()?.iter().find(hook)?;
    Some((row["by"].as_str()?.to_owned(), row["runs"].as_bool()?))
}

fn runs(lab: &Lab, by: &str) {
    let found = || (attached(lab, "eth0") == Some((by.to_owned(), true))).then_some(());
    wait::until(by, Duration::from_secs(15), found)
        .unwrap_or_else(|error| panic!("{error:#}:\n{}", lab.fw_log()));
}

fn drops(lab: &Lab, hook: &str, reason: &str) -> u64 {
    let drops = lab.fw_drops().expect("drops");
    drops.get(&(hook.to_owned(), reason.to_owned())).copied().unwrap_or(0)
}

/// Packets with this reason, dropped or not.
fn counted(lab: &Lab, hook: &str, reason: &str) -> u64 {
    let status = lab.fw_status().expect("status");
    let rows = status["counters"].as_array().expect("counters");
    let row = rows.iter().find(|row| row["hook"] == hook && row["reason"] == reason);
    row.and_then(|row| row["packets"].as_u64()).unwrap_or(0)
}

/// Number of the link and of the program behind its pin.
fn link(lab: &Lab) -> (u64, u64) {
    let shown = lab.host().script(&format!(
        "bpftool -j link show pinned {BPFFS}/hooks/uplink_xdp-$(cat /sys/class/net/eth0/ifindex)"
    ));
    let pin = shown.expect("bpftool");
    let link: Value = serde_json::from_str(&pin).expect("JSON of bpftool");
    (link["id"].as_u64().expect("an id"), link["prog_id"].as_u64().expect("a program"))
}

fn logged(lab: &Lab, text: &str) {
    let found = || lab.fw_log().contains(text).then_some(());
    wait::until(text, Duration::from_secs(10), found)
        .unwrap_or_else(|error| panic!("{error:#}:\n{}", lab.fw_log()));
}

#[test]
fn closed_ports_are_dropped_early_and_open_ones_are_not() {
    if !lab::available("closed_ports_are_dropped_early_and_open_ones_are_not") {
        return;
    }
    let lab = Lab::start(Options { dockerd: Town::dockerd(), ..Options::default() }).expect("a lab");
    let town = Town::build(&lab).expect("the town");
    let before = lab.footprint().expect("a footprint");
    let reread = |mode: &str| fs::write(lab.path(FILE), policy(mode)).expect("a policy");

    // In the driver, through a death, taken over by the next one.
    let daemon = lab.fw_run(&policy("native")).expect("fw");
    runs(&lab, "xdp native");
    doors::held(&lab, &town, "XDP in the driver").expect("fw holds");
    for reason in ["port-not-allowed", "direct-access"] {
        assert!(drops(&lab, "uplink_xdp", reason) > 0, "{reason}");
        assert_eq!(
            drops(&lab, "uplink_ingress", reason),
            0,
            "{reason}: all of it opens or has no connection"
        );
    }
    let first = link(&lab);
    daemon.kill().expect("SIGKILL");
    assert_eq!(link(&lab), first, "the link stays");
    doors::held(&lab, &town, "fw was killed").expect("fw holds");
    let daemon = lab.fw_run(&policy("native")).expect("fw again");
    let second = link(&lab);
    assert_eq!(second.0, first.0, "the link is the same");
    assert_ne!(second.1, first.1, "the program behind it is a new one");
    bulk(&lab);

    // Another mode by SIGHUP, observing, and none.
    let allowed = |lab: &Lab| counted(lab, "uplink_ingress", "allow-rule");
    let (allowed_before, not_ip) = (allowed(&lab), counted(&lab, "uplink_ingress", "not-ip"));
    reread("generic");
    daemon.signal("HUP").expect("SIGHUP");
    runs(&lab, "xdp generic");
    let dropped = drops(&lab, "uplink_xdp", "port-not-allowed");
    doors::held(&lab, &town, "XDP in the generic path").expect("fw holds");
    assert!(drops(&lab, "uplink_xdp", "port-not-allowed") > dropped);
    bulk(&lab);
    // What XDP lets on is judged by the hook behind as if XDP were not there.
    assert!(allowed(&lab) > allowed_before + 100, "{} after {allowed_before}", allowed(&lab));
    assert!(counted(&lab, "uplink_ingress", "not-ip") < not_ip + 100);
    fs::write(lab.path(FILE), format!("mode = \"observe\"\n{}", policy("generic"))).expect("a policy");
    daemon.signal("HUP").expect("SIGHUP");
    let reached = || lab.outside().tcp((HOST, 9100).into()).expect("a probe").reached().then_some(());
    wait::until("fw observes", Duration::from_secs(10), reached).expect("open");
    let (early, behind) =
        ["uplink_xdp", "uplink_ingress"].map(|hook| drops(&lab, hook, "port-not-allowed")).into();
    assert!(lab.outside().tcp((HOST, 9100).into()).expect("a probe").reached());
    assert_eq!(drops(&lab, "uplink_xdp", "port-not-allowed"), early, "counted once, by the hook behind");
    let now = drops(&lab, "uplink_ingress", "port-not-allowed");
    assert!(now > behind, "{now} after {behind}: {}", lab.fw_log());
    reread("off");
    daemon.signal("HUP").expect("SIGHUP");
    let off = || attached(&lab, "eth0").is_none().then_some(());
    wait::until("XDP is off", Duration::from_secs(10), off).expect("off");
    doors::held(&lab, &town, "no XDP").expect("fw holds");

    // Down.
    reread("native");
    daemon.signal("HUP").expect("SIGHUP");
    runs(&lab, "xdp native");
    daemon.terminate().expect("SIGTERM");
    lab.fw_down().expect("fw down");
    assert_eq!(lab.footprint().expect("a footprint"), before);
    doors::all_open(&lab, &town, "after fw down").expect("stock Docker again");
}

/// A connection with more than fits any buffer, whose segments the sender would like to be large.
fn bulk(lab: &Lab) {
    const BYTES: usize = 64 << 20;
    let listener = lab.host().within(|| TcpListener::bind("0.0.0.0:9200")).expect("H").expect("a listener");
    let mut stream = lab.outside().connect((HOST, 9200).into()).expect("a connection");
    let sender = std::thread::spawn(move || stream.write_all(&vec![0; BYTES]));
    let (mut stream, _) = listener.accept().expect("the other end");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let mut received = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer).expect("bytes arrive") {
            0 => break,
            length => received += length,
        }
    }
    assert_eq!(received, BYTES);
    sender.join().expect("the sender").expect("all was sent");
}

#[test]
fn another_program_is_left_alone_and_awaited() {
    if !lab::available("another_program_is_left_alone_and_awaited") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    let theirs = lab.host().attach_xdp("eth0").expect("another program");
    let shown =
        || lab.host().script("ip -o link show eth0 | grep -o 'prog/xdp id [0-9]*' || true").expect("ip");
    let before = shown();
    assert!(!before.is_empty());
    let daemon = lab.fw_run(&policy("native")).expect("fw");
    logged(&lab, "another XDP program runs there and is left alone");
    assert_eq!(attached(&lab, "eth0"), Some(("another program".to_owned(), false)));
    assert!(!lab.outside().tcp((HOST, 9100).into()).expect("a probe").reached());
    assert_eq!(shown(), before, "it is theirs");
    // It goes; ours comes with a later pass, and nobody heard of it twice.
    drop(theirs);
    runs(&lab, "xdp native");
    assert_ne!(shown(), before);
    assert_eq!(lab.fw_log().matches("another XDP program").count(), 1, "{}", lab.fw_log());
    // Somebody takes our program off behind its pin.
    let taken_off = shown();
    lab.host()
        .script(&format!(
            "bpftool link detach pinned {BPFFS}/hooks/uplink_xdp-$(cat /sys/class/net/eth0/ifindex)"
        ))
        .expect("bpftool");
    // The kernel tells of it, so that ours may be back already.
    assert_ne!(shown(), taken_off);
    runs(&lab, "xdp native");
    daemon.terminate().expect("SIGTERM");
    lab.fw_down().expect("fw down");
    assert_eq!(shown(), "");
}

#[test]
fn a_device_that_cannot_is_judged_by_tc_alone() {
    if !lab::available("a_device_that_cannot_is_judged_by_tc_alone") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    // A tunnel has no Ethernet header; the driver of an ifb knows no XDP.
    lab.host()
        .script("ip tuntap add tun9 mode tun; ip link set tun9 up; ip link add ifb9 type ifb; ip link set ifb9 up")
        .expect("a tunnel and an ifb");
    let uplinks =
        |mode| policy(mode).replace("[uplink]\n", "[uplink]\ninterfaces = [\"eth0\", \"tun9\", \"ifb9\"]\n");
    let daemon = lab.fw_run(&uplinks("native")).expect("fw");
    logged(&lab, "no early drop on tun9: it has no Ethernet header");
    logged(&lab, "no early drop: uplink_ingress judges everything");
    runs(&lab, "xdp native");
    assert_eq!((attached(&lab, "tun9"), attached(&lab, "ifb9")), (None, None));
    let status = lab.fw_status().expect("status");
    assert_eq!(status["daemon"]["degraded"], false, "it costs speed alone");
    fs::write(lab.path(FILE), uplinks("generic")).expect("a policy");
    daemon.signal("HUP").expect("SIGHUP");
    runs(&lab, "xdp generic");
    assert_eq!(attached(&lab, "ifb9"), Some(("xdp generic".to_owned(), true)));
    assert_eq!(attached(&lab, "tun9"), None);
    daemon.terminate().expect("SIGTERM");
    lab.fw_down().expect("fw down");
}
