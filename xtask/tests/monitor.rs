//! `fw monitor`: what is dropped is shown, with names, as it is asked for; what is not shown is counted.

#[path = "holes/ground.rs"]
#[expect(dead_code, reason = "shared with the holes, which use more of it")]
mod ground;

use std::fs;
use std::net::{IpAddr, UdpSocket};

use ground::{Ground, POLICY};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::Value;
use xtask::lab::{HOST, Lab, Monitor, Place, Said};

const PCAP: &str = "/run/lab/drops.pcapng";

#[test]
fn drops_are_shown_as_they_are_asked_for() {
    let Some(ground) = Ground::start("drops_are_shown_as_they_are_asked_for") else { return };
    let lab = &ground.lab;
    let daemon = ground.fw();
    let b1: IpAddr = ground.b1.ip().expect("an address");
    // One drop at the port of a2, one at the uplink.
    let drops = || {
        send(&ground.a2.place, b1, 5353, 1);
        send(lab.outside(), HOST.into(), 22, 1);
    };

    names_and_capture(lab, drops);
    for (filter, port) in [
        ("--container a2", 5353),
        ("--network B", 5353),
        ("--reason isolation --reason icc", 5353),
        ("--prefix 10.2.0.0/16", 5353),
        ("--port 22 --proto udp", 22),
        ("--reason port-not-allowed --prefix 198.18.0.0/15", 22),
    ] {
        let monitor = start(lab, &format!("--json {filter}"));
        drops();
        until(&monitor, filter, |said| !packets(said).is_empty());
        let said = monitor.interrupt().expect("an end");
        let ports: Vec<Value> =
            packets(&said).iter().map(|packet| packet["destination_port"].clone()).collect();
        assert_eq!(ports, [port], "{filter}: {}", said.out);
        let [shown, others, lost] = said.tally().expect("a summary");
        assert!(shown == 1 && others >= 1 && lost == 0, "{filter}: {}", said.err);
    }
    wrong_input(lab);
    what_is_not_shown_is_counted(lab);
    a_flood_is_few_lines(lab);
    daemon.terminate().expect("SIGTERM");
    other_maps(lab, drops);
}

fn names_and_capture(lab: &Lab, drops: impl Fn()) {
    let monitor = start(lab, &format!("--json --pcap {PCAP}"));
    drops();
    until(&monitor, "both drops", |said| packets(said).len() >= 2);
    let second = lab.fw(&["monitor"]).expect_err("each event can be read once");
    assert!(format!("{second:#}").contains("another `fw monitor`"), "{second:#}");
    let said = monitor.interrupt().expect("an end");
    assert_eq!(said.code, Some(0), "{}", said.err);
    let packets = packets(&said);
    let of = |port: u16| {
        let packet = packets.iter().find(|packet| packet["destination_port"] == port);
        packet.unwrap_or_else(|| panic!("no packet to {port}: {}", said.out))
    };
    for (field, value) in [
        ("reason", "isolation"),
        ("hook", "port_ingress"),
        ("source_container", "a2"),
        ("source_network", "A"),
        ("destination_container", "b1"),
        ("destination_network", "B"),
        ("proto", "udp"),
        ("verdict", "drop"),
    ] {
        assert_eq!(of(5353)[field], value, "{field} of {}", of(5353));
    }
    assert_eq!((&of(22)["reason"], &of(22)["device"]), (&"port-not-allowed".into(), &"eth0".into()));

    let listed = lab.host().run(&["tcpdump", "-nr", PCAP]).expect("tcpdump reads it");
    assert_eq!(listed.lines().count(), packets.len(), "{listed}");
    assert!(listed.contains(".5353: ") && listed.contains(".22: "), "{listed}");
    let written = fs::read(lab.path(PCAP)).expect("a capture");
    let mut reader = PcapNgReader::new(&written[..]).expect("pcapng");
    let mut comments = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.expect("a whole block") {
            let comment = packet.options.iter().find_map(|option| match option {
                EnhancedPacketOption::Comment(text) => Some(text.to_string()),
                _ => None,
            });
            comments.push(comment.expect("a comment"));
        }
    }
    assert_eq!(comments.len(), packets.len());
    let isolated = comments.iter().find(|text| text.contains("isolation")).expect("the reason");
    assert!(
        isolated.contains("port_ingress") && isolated.contains("a2@A") && isolated.contains("b1@B"),
        "{isolated}"
    );
}

fn wrong_input(lab: &Lab) {
    for (arguments, part) in [
        (&["--container", "nobody"][..], "those that it knows: a1, a2, b1"),
        (&["--network", "a1"], "no network a1"),
        (&["--reason", "bad-luck"], "bad-luck"),
        (&["--prefix", "10.0.0"], "expected an address or a prefix"),
        (&["--port", "0"], "0"),
        (&["--proto", "tpc"], "expected tcp"),
        (&["--json", "--pcap", "-"], "both write to stdout"),
        (&["--rate", "0"], "0"),
    ] {
        let output =
            lab.fw_command(&[&["monitor"], arguments].concat()).expect("fw").output().expect("an end");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(part), "{arguments:?}: {said}");
    }
    let nowhere = lab.fw(&["monitor", "--pcap", "/proc/nowhere/x"]).expect_err("no such place");
    assert!(format!("{nowhere:#}").contains("cannot write the capture"), "{nowhere:#}");
}

/// Drops by the counters are those shown, those not asked for, and those that were lost.
fn what_is_not_shown_is_counted(lab: &Lab) {
    for arguments in ["--json", "--json --port 9", "--json --rate 20", "--json --rate 2000"] {
        let first = drops_of(lab);
        let monitor = start(lab, arguments);
        let before = drops_of(lab);
        // What was dropped before in this second has taken from what a CPU may write.
        until(&monitor, "some are shown", |said| {
            for port in [9, 10].into_iter().cycle().take(60) {
                send(lab.outside(), HOST.into(), port, 70);
            }
            !packets(said).is_empty()
        });
        let after = drops_of(lab);
        let said = monitor.interrupt().expect("an end");
        let at_the_end = drops_of(lab);
        let [shown, others, lost] = said.tally().expect("a summary");
        let counted = shown + others + lost;
        // The same number on both sides, unless something else is dropped just when it begins or ends.
        assert!(
            (after - before..=at_the_end - first).contains(&counted),
            "{arguments}: {counted}: {}",
            said.err
        );
        assert_eq!(packets(&said).len() as u64, shown, "{arguments}");
        let told: u64 = objects(&said)
            .iter()
            .filter(|object| object["verdict"] == "lost")
            .map(|object| object["count"].as_u64().expect("a number"))
            .sum();
        assert_eq!(told, lost, "{arguments}");
        assert!(lost > 0, "{arguments}: a flood is more than is written: {}", said.err);
        assert_eq!(others > 0, arguments.contains("--port"), "{arguments}: {}", said.err);
        println!(
            "{arguments}: {counted} drops: {shown} shown, {others} not asked for, {lost} without an event"
        );
    }
}

fn a_flood_is_few_lines(lab: &Lab) {
    let monitor = start(lab, "--rate 1000 --lines 3");
    until(&monitor, "lines beyond", |said| {
        send(lab.outside(), HOST.into(), 9, 500);
        for port in 100..120 {
            send(lab.outside(), HOST.into(), port, 1);
        }
        said.err.contains("were not printed")
    });
    let said = monitor.interrupt().expect("an end");
    let [shown, ..] = said.tally().expect("a summary");
    let counts = said.out.lines().map(|line| {
        let count = line.rsplit_once("  x").map(|(_, count)| count.parse::<u64>().expect("a count"));
        assert!(line.contains(" drop port-not-allowed  uplink_ingress eth0  udp  "), "{line}");
        count.unwrap_or(1)
    });
    let beyond = said.err.lines().filter_map(|line| {
        let (_, rest) = line.split_once("more lines with ")?;
        rest.split(' ').next()?.parse::<u64>().ok()
    });
    assert_eq!(counts.sum::<u64>() + beyond.sum::<u64>(), shown, "{}{}", said.out, said.err);
    assert!((said.out.lines().count() as u64) < shown / 10, "{}", said.out);
}

/// Maps that are made anew under a running monitor, and taken away.
fn other_maps(lab: &Lab, drops: impl Fn()) {
    let monitor = start(lab, "--json");
    let daemon = lab.fw_run(&format!("{POLICY}\n[tables]\nobserved = 2048\n")).expect("fw");
    until(&monitor, "it goes over", |said| said.err.contains("made anew"));
    drops();
    until(&monitor, "what the new ones say", |said| {
        packets(said).iter().any(|packet| packet["source_container"] == "a2")
    });
    daemon.terminate().expect("SIGTERM");
    lab.fw_down().expect("fw down");
    let said = monitor.ends().expect("an end");
    assert!(said.code == Some(1) && said.err.contains("taken away"), "{}", said.err);
}

fn start<'a>(lab: &'a Lab, arguments: &str) -> Monitor<'a> {
    Monitor::start(lab, arguments).expect("fw monitor follows")
}

#[track_caller]
fn until(monitor: &Monitor<'_>, what: &str, holds: impl Fn(&Said) -> bool) {
    monitor.until(what, holds).unwrap_or_else(|error| panic!("{error:#}"));
}

/// The packets, without what was lost.
fn packets(said: &Said) -> Vec<Value> {
    objects(said).into_iter().filter(|object| object["verdict"] != "lost").collect()
}

fn objects(said: &Said) -> Vec<Value> {
    let object = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    said.out.lines().map(object).collect()
}

/// Sends datagrams that nobody answers, all from one port.
fn send(from: &Place, to: IpAddr, port: u16, count: usize) {
    let sent = from.within(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        // Not connected: an answer that the port is closed is not for this socket.
        (0..count).try_for_each(|_| socket.send_to(b"?", (to, port)).map(drop))
    });
    sent.expect("a place").expect("datagrams");
}

/// All drops so far, by the counters.
fn drops_of(lab: &Lab) -> u64 {
    lab.fw_drops().expect("the counters").values().sum()
}
