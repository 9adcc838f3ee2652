//! `fw explain`: what it says of a packet is what happens to it, and saying it changes nothing.

#[path = "holes/ground.rs"]
#[expect(dead_code, reason = "shared with the holes, which use more of it")]
mod ground;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ground::Ground;
use serde_json::Value;
use xtask::lab::frame::{ACK, Mac, SYN, TCP, icmp, ip, ip_frame, tcp, udp};
use xtask::lab::{Container, HOST, HOST_MAC, HOST6, Lab, OUTSIDE, OUTSIDE_MAC, OUTSIDE6, Place, wait};

/// A packet, where it is sent, and what must become of it.
struct Case<'a> {
    name: &'static str,
    sender: &'a Place,
    /// The device of the host by which it comes in.
    device: String,
    frame: Vec<u8>,
    /// Hook, verdict, reason, rule.
    expected: (&'static str, &'static str, &'static str, Option<&'static str>),
    mark: Option<&'static str>,
}

#[test]
fn what_is_explained_is_what_happens() {
    let Some(ground) = Ground::start("what_is_explained_is_what_happens") else { return };
    let lab = &ground.lab;
    lab.network("I", &["--internal", "--subnet=10.3.0.0/24"]).expect("a network");
    lab.network("N", &["--subnet=10.4.0.0/24"]).expect("a network");
    let i1 = lab.container("i1", &["--network=I"]).expect("a container");
    let [n1, n2] = ["n1", "n2"].map(|name| {
        let labels =
            ["project=shop", "service=front"].map(|label| format!("--label=com.docker.compose.{label}"));
        lab.container(name, &["--network=N", &labels[0], &labels[1]]).expect("a container")
    });
    let daemon = lab.fw_run(POLICY).expect("fw");
    let _flow =
        lab.host().connect_from(PORT, std::net::SocketAddrV4::new(OUTSIDE, 443)).expect("a connection");
    let b1 = ground.b1.ip().expect("IPv4");
    let _inward = lab.host().connect((b1, 80).into()).expect("a connection to a restricted container");

    let mut cases = from_outside(&ground);
    cases.extend(from_containers(&ground, &i1, [&n1, &n2]));
    let before = left(lab);
    for (table, rows) in before.iter().filter(|(table, _)| table.ends_with("flows")) {
        assert!(rows.contains("tcp"), "{table}: there is something that could be lost");
    }
    let explained = explain(lab, &cases);
    assert_eq!(left(lab), before, "explaining has left something behind");

    for (case, explained) in cases.iter().zip(&explained) {
        let (hook, verdict, reason, rule) = case.expected;
        let said = |key: &str| explained[key].as_str();
        let found = (said("hook"), said("verdict"), said("reason"), said("rule"), said("mark"));
        assert_eq!(
            found,
            (Some(hook), Some(verdict), Some(reason), rule, case.mark),
            "{}: {explained:#}",
            case.name
        );
        let at = explained["hooks"].as_array().expect("hooks").iter().find(|at| at["hook"] == hook);
        let at = at.expect("the hook that decides");
        assert_eq!(
            (&at["by"], &at["same_program"]),
            (&"kernel".into(), &true.into()),
            "{}: {at:#}",
            case.name
        );
        assert_eq!(at["notes"], Value::Array(Vec::new()), "{}: kernel and host agree", case.name);
        happens(lab, case);
    }
    an_event_is_of_a_packet_that_was_sent(lab);
    forms_of_asking(&ground);
    netfilter_comes_next(&ground);
    daemon.terminate().expect("SIGTERM");

    observing_and_without_ethernet(lab);

    let early = POLICY.replace("[uplink]\n", "[uplink]\nxdp = \"generic\"\n");
    let daemon = lab.fw_run(&early).expect("fw");
    let denied = Case { expected: ("uplink_xdp", "drop", "denied", Some("bad")), ..of_name(cases, "denied") };
    let said = explain(lab, std::slice::from_ref(&denied)).remove(0);
    let at = &said["hooks"][0];
    let found = (&said["hook"], &said["reason"], &at["by"], &at["same_program"]);
    assert_eq!(found, (&"uplink_xdp".into(), &"denied".into(), &"kernel".into(), &true.into()), "{said:#}");
    happens(lab, &denied);
    daemon.terminate().expect("SIGTERM");
    lab.fw_down().expect("fw down");
    let (code, said) = ask(lab, &["tcp", "198.18.0.2", "198.18.0.1:22", "--in", "eth0"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.to_string().contains("nothing of fw is in force"), "{said}");
}

fn of_name<'a>(cases: Vec<Case<'a>>, name: &str) -> Case<'a> {
    cases.into_iter().find(|case| case.name == name).expect("a case of that name")
}

/// Sends the packet: the counter that was named moves, of its hook no other one, and the rule's.
#[track_caller]
fn happens(lab: &Lab, case: &Case<'_>) {
    let (hook, _, reason, rule) = case.expected;
    let (before, counted) = (counters(lab), rule.map(|_| rules(lab)));
    case.sender.send_frame("eth0", &case.frame).expect("a frame");
    let key = (hook.to_owned(), reason.to_owned());
    let moved = wait::until("the counter that was named", Duration::from_secs(5), || {
        let now = counters(lab);
        (now.get(&key) != before.get(&key)).then_some(now)
    });
    let moved = moved.unwrap_or_else(|error| {
        let now = counters(lab);
        let others: Vec<_> = now.iter().filter(|(key, count)| before.get(*key) != Some(count)).collect();
        panic!("{}: {error:#}; others have moved: {others:?}", case.name)
    });
    let others = moved.iter().filter(|((at, why), count)| {
        let key = (at.clone(), why.clone());
        at == hook && why != reason && is_ours_alone(why) && before.get(&key) != Some(count)
    });
    assert_eq!(others.collect::<Vec<_>>(), Vec::<(&(String, String), &u64)>::new(), "{}", case.name);
    if let Some((rule, counted)) = rule.zip(counted) {
        assert_ne!(rules(lab).get(rule), counted.get(rule), "{}: rule {rule}", case.name);
    }
}

/// Whether nothing but a case of this test moves a counter of this reason: neither what hosts and containers send by
/// themselves, nor the answers to packets that were let in.
fn is_ours_alone(reason: &str) -> bool {
    let others = ["essential", "same-network", "unvouched", "not-ip"];
    let answers = ["reply", "allow-rule", "related-error", "not-ours", "sent", "answer"];
    !others.contains(&reason) && !answers.contains(&reason)
}

/// The port of the host from which it has a connection to R.
const PORT: u16 = 41_000;

fn from_outside(ground: &Ground) -> Vec<Case<'_>> {
    let (host, outside): (IpAddr, IpAddr) = (HOST.into(), OUTSIDE.into());
    let syn = |from: IpAddr, to: IpAddr, port| tcp((from, 40_000), (to, port), SYN, (1, 0));
    let flags = |flags| tcp((outside, 40_000), (host, 8080), flags, (1, 0));
    let quoting = |local: u16| {
        let quoted = tcp((host, local), (outside, 443), ACK, (1, 1));
        icmp(outside, host, 3, 3, &[&[0; 4][..], &quoted[..28]].concat())
    };
    let a1 = &ground.a1;
    let (v4, v6) = (a1.ip().expect("IPv4"), a1.ip6().expect("IPv6"));
    let web = Some("web");
    let mut malformed = syn(outside, host, 8080);
    malformed[2..4].copy_from_slice(&2000_u16.to_be_bytes());
    let of = |name, packet: Vec<u8>, verdict, reason, rule, mark| Case {
        name,
        sender: ground.lab.outside(),
        device: "eth0".to_owned(),
        frame: ip_frame(HOST_MAC, OUTSIDE_MAC, &packet),
        expected: ("uplink_ingress", verdict, reason, rule),
        mark,
    };
    let stranger = |last| IpAddr::from(Ipv4Addr::new(198, 18, 0, last));
    let datagram = udp((outside, 40_000), (host, 6000), b"?");
    let ping = icmp(outside, host, 8, 0, &[0, 7, 0, 1]);
    let elsewhere = Ipv4Addr::new(203, 0, 113, 77).into();
    let answer = tcp((outside, 443), (host, PORT), ACK, (1, 1));
    vec![
        of("allowed", syn(outside, host, 8080), "accept", "allow-rule", web, Some("in")),
        of("source not allowed", datagram, "drop", "source-not-allowed", Some("far-away-only"), None),
        of("port not allowed", syn(outside, host, 22), "drop", "port-not-allowed", None, None),
        of("over IPv6", syn(OUTSIDE6.into(), HOST6.into(), 22), "drop", "port-not-allowed", None, None),
        of("direct access", syn(outside, v4, 80), "drop", "direct-access", None, None),
        of("direct access over IPv6", syn(OUTSIDE6.into(), v6, 80), "drop", "direct-access", None, None),
        of("martian", syn(Ipv4Addr::LOCALHOST.into(), host, 8080), "drop", "martian", None, None),
        of("a source inside", syn(v4, host, 8080), "drop", "source-inside", None, None),
        of("a source of ours", syn(host, host, 8080), "drop", "source-ours", None, None),
        of("denied", syn(stranger(66), host, 8080), "drop", "denied", Some("bad"), None),
        of("malformed", malformed, "drop", "malformed-header", None, None),
        of("a short fragment", fragment(0x2000, &[0; 8]), "drop", "bad-fragment", None, None),
        of("a later fragment", fragment(100, &[0; 64]), "pass", "later-fragment", None, None),
        of("flags that nobody sends", flags(SYN | 1), "drop", "tcp-flags", None, None),
        of("a reply", answer, "accept", "reply", None, None),
        of("an error about a flow", quoting(PORT), "accept", "related-error", None, None),
        of("an error about nothing", quoting(PORT + 1), "drop", "unrelated-error", None, None),
        of("a ping", ping, "accept", "allow-rule", Some("ping"), None),
        of("for somebody else", syn(outside, elsewhere, 80), "pass", "not-ours", None, None),
    ]
}

/// A fragment of TCP to the host; `at` are the bits of flags and offset.
fn fragment(at: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = ip(OUTSIDE.into(), HOST.into(), TCP, payload);
    packet[6..8].copy_from_slice(&at.to_be_bytes());
    packet[10..12].fill(0);
    let sum = xtask::lab::frame::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn from_containers<'a>(ground: &'a Ground, i1: &'a Container, [n1, n2]: [&'a Container; 2]) -> Vec<Case<'a>> {
    let Ground { lab, a1, a2, b1, .. } = ground;
    let at = |container: &Container| container.ip().expect("IPv4");
    let (host, outside): (IpAddr, IpAddr) = (HOST.into(), OUTSIDE.into());
    let of =
        |name, sender: &'a Container, from: (Mac, IpAddr), to: (Mac, IpAddr, u16), verdict, reason, mark| {
            Case {
                name,
                sender: &sender.place,
                device: lab.port_of(sender).expect("its port"),
                frame: ip_frame(to.0, from.0, &tcp((from.1, 40_000), (to.1, to.2), SYN, (1, 0))),
                expected: ("port_ingress", verdict, reason, None),
                mark,
            }
        };
    let mac = |container: &Container| container.mac.expect("a MAC address");
    let bridge = |name: &str| -> Mac {
        let path = format!("/sys/class/net/br-{name}/address");
        lab.host().run(&["cat", &path]).expect("a bridge").parse().expect("a MAC address")
    };
    let own = |container: &Container| (mac(container), at(container));
    let [a, b, i] = ["A", "B", "I"].map(bridge);
    let (out, in_, reach) = (Some("out"), Some("in"), Some("reach"));
    vec![
        of("to another network", a2, own(a2), (a, at(b1), 80), "drop", "isolation", None),
        of("to a network that it reaches", b1, own(b1), (b, at(a1), 80), "accept", "reach", reach),
        of("to a neighbour", a2, own(a2), (mac(a1), at(a1), 80), "accept", "same-network", in_),
        of("to a neighbour without icc", n1, own(n1), (mac(n2), at(n2), 80), "drop", "icc", None),
        of("from an internal network", i1, own(i1), (i, outside, 443), "drop", "internal", None),
        of("beyond its egress", b1, own(b1), (b, outside, 443), "drop", "egress", None),
        of("to a closed host", b1, own(b1), (b, host, 22), "drop", "host-denied", None),
        of("to the host", a2, own(a2), (a, host, 22), "accept", "to-host", out),
        of("to the outside", a2, own(a2), (a, outside, 443), "accept", "outbound", out),
        of(
            "from a source that is another's",
            a2,
            (mac(a2), at(a1)),
            (a, outside, 443),
            "drop",
            "spoofed-source",
            None,
        ),
        of(
            "from a MAC address that is another's",
            a2,
            (mac(a1), at(a2)),
            (a, outside, 443),
            "drop",
            "spoofed-mac",
            None,
        ),
    ]
}

/// What is said of each packet; those of one device are asked about together, as a capture.
fn explain(lab: &Lab, cases: &[Case<'_>]) -> Vec<Value> {
    let mut all = BTreeMap::new();
    let devices: BTreeSet<&str> = cases.iter().map(|case| case.device.as_str()).collect();
    for device in devices {
        let of_it = || cases.iter().enumerate().filter(|(_, case)| case.device == device);
        let frames: Vec<_> = of_it().map(|(_, case)| case.frame.clone()).collect();
        fs::write(lab.path(CAPTURE), pcap(&frames)).expect("a capture");
        let (code, said) = ask(lab, &["--packet", CAPTURE, "--in", device, "--json"]);
        let dropped = of_it().any(|(_, case)| case.expected.1 == "drop");
        assert_eq!(code, Some(if dropped { 4 } else { 0 }), "{device}: {said:#}");
        let packets = said["packets"].as_array().expect("packets").clone();
        assert_eq!(packets.len(), frames.len(), "{device}");
        all.extend(of_it().map(|(number, _)| number).zip(packets));
    }
    all.into_values().collect()
}

/// Where a capture lies inside the lab.
const CAPTURE: &str = "/run/lab/explain.pcap";

/// The exit code of `fw explain`, and what it printed: JSON, or the words on both outputs as a string.
fn ask(lab: &Lab, arguments: &[&str]) -> (Option<i32>, Value) {
    let docker = ["--docker", xtask::lab::SOCKET];
    let output =
        lab.fw_command(&[&["explain"], arguments, &docker].concat()).expect("fw").output().expect("fw");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let json = serde_json::from_slice(&output.stdout).ok().filter(|_| !output.stdout.is_empty());
    let words = || Value::String(text(&output.stdout) + &text(&output.stderr));
    (output.status.code(), json.unwrap_or_else(words))
}

/// What packets leave behind in the maps in force, and what is pinned; not what hosts do by themselves.
fn left(lab: &Lab) -> Vec<(&'static str, String)> {
    let mut left = Vec::new();
    for table in ["counters", "flows", "inbound_flows", "buckets", "datagrams", "rules"] {
        let mut rows = rows(lab, table);
        let ours = |row: &Value| match table {
            "counters" => row["drop"] == true && row["reason"].as_str().is_some_and(is_ours_alone),
            "flows" | "inbound_flows" => row["proto"] == "tcp",
            _ => true,
        };
        rows.retain(ours);
        for row in rows.iter_mut().filter_map(Value::as_object_mut) {
            row.retain(|key, _| key != "idle_seconds" && key != "age_seconds");
        }
        left.push((table, format!("{rows:?}")));
    }
    left.push(("pins", lab.host().run(&["ls", "-R", xtask::lab::BPFFS]).expect("pins")));
    left
}

fn rows(lab: &Lab, table: &str) -> Vec<Value> {
    let text = lab.fw(&["table", table, "--json"]).expect("fw table");
    serde_json::from_str(&text).expect("JSON")
}

fn counters(lab: &Lab) -> BTreeMap<(String, String), u64> {
    let one = |row: &Value| {
        let text = |key: &str| row[key].as_str().map(str::to_owned);
        Some(((text("hook")?, text("reason")?), row["packets"].as_u64()?))
    };
    rows(lab, "counters").iter().filter_map(one).collect()
}

fn rules(lab: &Lab) -> BTreeMap<String, u64> {
    let one = |row: &Value| Some((row["rule"].as_str()?.to_owned(), row["packets"].as_u64()?));
    rows(lab, "rules").iter().filter_map(one).collect()
}

/// Of a drop that is explained no event comes; of one that happens one does.
fn an_event_is_of_a_packet_that_was_sent(lab: &Lab) {
    let path = lab.path("/run/lab/monitor.jsonl");
    let file = File::create(&path).expect("a file");
    let mut monitor = lab.fw_command(&["monitor", "--json"]).expect("fw");
    lab.keep_running(monitor.stdout(file)).expect("fw monitor");
    let sent = |port: u16| {
        let packet = tcp((OUTSIDE.into(), port), (HOST.into(), 22), SYN, (1, 0));
        ip_frame(HOST_MAC, OUTSIDE_MAC, &packet)
    };
    let lines = || fs::read_to_string(&path).unwrap_or_default();
    wait::until("the monitor shows a drop", Duration::from_secs(10), || {
        lab.outside().send_frame("eth0", &sent(50_001)).expect("a frame");
        lines().contains("50001").then_some(())
    })
    .expect("an event");
    let hex: Vec<_> = sent(50_002).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(ask(lab, &["--packet", &hex.join(":"), "--in", "eth0", "--json"]).0, Some(4));
    lab.outside().send_frame("eth0", &sent(50_003)).expect("a frame");
    wait::until("the monitor shows the last drop", Duration::from_secs(10), || {
        lines().contains("50003").then_some(())
    })
    .expect("an event");
    assert!(!lines().contains("50002"), "{}", lines());
}

/// While only observing; and at a device without an Ethernet header, for which the kernel has no test run.
fn observing_and_without_ethernet(lab: &Lab) {
    let mut tun = lab.host().tun("tun0").expect("a tun device");
    lab.host()
        .script(
            "ip addr add 10.99.0.1/24 dev tun0; ip link set tun0 up; echo 0 >/proc/sys/net/ipv4/conf/tun0/rp_filter
             ip route add local 192.0.2.0/24 dev lo",
        )
        .expect("an address");
    let policy = POLICY.replace("[uplink]\n", "[uplink]\ninterfaces = [\"eth0\", \"tun0\"]\n");
    let daemon = lab.fw_run(&format!("mode = \"observe\"\n{policy}")).expect("fw");
    let (code, said) = ask(lab, &["tcp", "198.18.0.2", "198.18.0.1:22", "--in", "eth0", "--json"]);
    let packet = &said["packets"][0];
    let found = (code, &packet["verdict"], &packet["hooks"][0]["by"]);
    assert_eq!(found, (Some(4), &"would-drop".into(), &"kernel".into()), "{said:#}");
    for (to, code, verdict, reason) in [
        ("10.99.0.1:22", 4, "would-drop", "port-not-allowed"),
        // Only the routing table knows.
        ("192.0.2.7:22", 4, "would-drop", "port-not-allowed"),
        ("203.0.113.7:22", 0, "pass", "not-ours"),
    ] {
        let (found, said) = ask(lab, &["tcp", "10.99.0.9:40000", to, "--in", "tun0", "--json"]);
        let packet = &said["packets"][0];
        let told = (found, &packet["verdict"], &packet["reason"], &packet["hooks"][0]["by"]);
        assert_eq!(told, (Some(code), &verdict.into(), &reason.into(), &"decide".into()), "{to}: {said:#}");
        let before = counters(lab);
        let to: std::net::SocketAddrV4 = to.parse().expect("an address");
        let from = IpAddr::from(Ipv4Addr::new(10, 99, 0, 9));
        tun.send(&tcp((from, 40_000), ((*to.ip()).into(), to.port()), SYN, (1, 0))).expect("a packet");
        let key = ("uplink_ingress".to_owned(), reason.to_owned());
        wait::until("the counter that was named", Duration::from_secs(5), || {
            (counters(lab).get(&key) != before.get(&key)).then_some(())
        })
        .expect("it moves");
    }
    daemon.terminate().expect("SIGTERM");
    lab.host().run(&["ip", "link", "del", "tun0"]).expect("the device goes");
}

fn forms_of_asking(ground: &Ground) {
    let Ground { lab, a2, .. } = ground;
    let verdict = |arguments: &[&str]| {
        let (code, said) = ask(lab, &[arguments, &["--json"]].concat());
        let packet = &said["packets"][0];
        let word = |key: &str| packet[key].as_str().unwrap_or("-").to_owned();
        (code, format!("{} {}", word("verdict"), word("reason")))
    };
    let is = |arguments: &[&str], code, words: &str| {
        assert_eq!(verdict(arguments), (Some(code), words.to_owned()), "{arguments:?}");
    };
    is(&["tcp", "198.18.0.2:40000", "198.18.0.1:8080", "--in", "eth0"], 0, "accept allow-rule");
    is(&["tcp", "[2001:db8:18::2]:4000", "[2001:db8:18::1]:22", "--in", "eth0"], 4, "drop port-not-allowed");
    is(&["icmp", "2001:db8:18::2", "2001:db8:18::1", "--in", "eth0"], 0, "accept allow-rule");
    is(
        &["tcp", "198.18.0.2:443", &format!("198.18.0.1:{PORT}"), "--in", "eth0", "--flags", "ack"],
        0,
        "accept reply",
    );
    is(&["tcp", "198.18.0.2:443", &format!("198.18.0.1:{PORT}"), "--in", "eth0"], 4, "drop port-not-allowed");
    let from = a2.ip().expect("IPv4").to_string();
    is(&["tcp", &from, "198.18.0.2:443", "--container", "a2"], 0, "accept outbound");
    is(&["tcp", "a2", "b1:80"], 4, "drop isolation");

    let (code, text) = ask(lab, &["tcp", "n1", "n2:80"]);
    let text = text.as_str().expect("words");
    let service = "container n2 (service shop/front) of network N";
    assert!(code == Some(4) && text.contains(service), "{service:?} is not in:\n{text}");
    let (code, text) = ask(lab, &["tcp", "a2", "b1:80"]);
    let text = text.as_str().expect("words").to_owned();
    for part in [
        "DROP: isolation, by port_ingress",
        "container b1 of network B",
        "the loaded program, tag ",
        "reach = [\"B\"]",
    ] {
        assert!(code == Some(4) && text.contains(part), "{part:?} is not in:\n{text}");
    }

    let wider = format!("{POLICY}\n[[allow]]\nname = \"ssh\"\nproto = \"tcp\"\nports = [22]\n");
    fs::write(lab.path("/run/lab/wider.toml"), wider).expect("a policy");
    let ssh = ["tcp", "198.18.0.2", "198.18.0.1:22", "--in", "eth0", "--json"];
    let (code, said) = ask(lab, &[&ssh[..], &["--policy", "/run/lab/wider.toml"]].concat());
    let packet = &said["packets"][0];
    assert_eq!(
        (code, &packet["rule"], &packet["new_rule"]),
        (Some(0), &"ssh".into(), &true.into()),
        "{said:#}"
    );
    assert_eq!(ask(lab, &ssh).0, Some(4), "it is not in force");

    for (arguments, part) in [
        (&["tcp", "198.18.0.2", "198.18.0.1", "--in", "eth0"][..], "198.18.0.1:443"),
        (&["tpc", "198.18.0.2", "198.18.0.1:1", "--in", "eth0"], "expected tcp, udp, icmp"),
        (&["tcp", "198.18.0.2", "198.18.0.1:1"], "devices that fw judges: "),
        (&["tcp", "198.18.0.2", "198.18.0.1:1", "--in", "lo"], "eth0 (uplink)"),
        (&["tcp", "198.18.0.2", "198.18.0.1:1", "--in", "nosuch"], "there is no device nosuch"),
        (&["tcp", "198.18.0.2", "198.18.0.1:1", "--container", "nosuch"], "no container \"nosuch\""),
        (&["--packet", "nosuch.pcap", "--in", "eth0"], "expected an even number of digits"),
        (&["--packet", "/run/lab/wider.toml", "--in", "eth0"], "expected pcap or pcapng"),
        (&["tcp", "198.18.0.2", "--in", "eth0"], "DST"),
        (&ssh[..3], "expected --in IFACE"),
    ] {
        let (code, said) = ask(lab, arguments);
        let said = said.as_str().expect("words, no JSON").to_owned();
        assert!(
            code == Some(2) && said.contains(part),
            "{arguments:?}: {part:?} is not in ({code:?}): {said}"
        );
    }
}

/// A capture as `tcpdump -w` writes it.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let number = |number: u32| number.to_le_bytes();
    let mut file =
        [number(0xa1b2_c3d4), number(0x0004_0002), number(0), number(0), number(65_535), number(1)].concat();
    for frame in frames {
        let length = frame.len() as u32;
        file.extend([number(1), number(0), number(length), number(length)].concat());
        file.extend(frame);
    }
    file
}

/// Where Docker leads what fw lets in, and what its own rules make of the rest; the kernel's counters say the same.
fn netfilter_comes_next(ground: &Ground) {
    let Ground { lab, a1, a2, .. } = ground;
    let next = |arguments: &[&str]| {
        let (_, said) = ask(lab, &[arguments, &["--json"]].concat());
        said["packets"][0]["netfilter"].clone()
    };
    // From ports of their own: of what was sent before, conntrack may still know a connection, and NAT follows that.
    let web = next(&["tcp", "198.18.0.2:41001", "198.18.0.1:8080", "--in", "eth0"]);
    let container = a1.ip().expect("IPv4");
    assert_eq!(web["dnat"], Value::from(format!("{container}:80")), "{web:#}");
    assert_eq!(
        (&web["to"], &web["leaves"], &web["end"]),
        (&"container a1 of network A".into(), &"br-A".into(), &"accept".into())
    );
    let rules: Vec<_> =
        web["rules"].as_array().expect("rules").iter().map(|at| at["chain"].as_str().unwrap_or("")).collect();
    assert_eq!(rules.iter().filter(|chain| **chain == "DOCKER-USER").count(), 1, "fw's mark: {web:#}");
    assert!(ground.lab.outside().tcp((HOST, 8080).into()).expect("a probe").reached_at("a1"), "so it is");

    let ping = next(&["icmp", "198.18.0.2", "198.18.0.1", "--in", "eth0"]);
    assert_eq!((&ping["end"], &ping["dnat"]), (&"to-host".into(), &Value::Null), "{ping:#}");
    let from = format!("{}:41002", a2.ip().expect("IPv4"));
    let out = next(&["tcp", &from, "198.18.0.2:443", "--container", "a2"]);
    assert_eq!(
        (&out["end"], &out["leaves"], &out["source_nat"]),
        (&"accept".into(), &"eth0".into(), &"MASQUERADE".into()),
        "{out:#}"
    );
    let reply =
        next(&["tcp", "198.18.0.2:443", &format!("198.18.0.1:{PORT}"), "--in", "eth0", "--flags", "ack"]);
    assert_eq!(reply["end"], Value::from("to-host"), "{reply:#}");

    // A rule of the administrator's stands before fw's: it is named, and it is what happens.
    let rule = ["-s", "198.18.0.2", "-j", "DROP"];
    lab.host().run(&[&["iptables", "-w", "-I", "DOCKER-USER"], &rule[..]].concat()).expect("iptables");
    let dropped = next(&["tcp", "198.18.0.2", "198.18.0.1:8080", "--in", "eth0"]);
    assert_eq!(dropped["end"], Value::from("drop"), "{dropped:#}");
    assert!(dropped["why"].as_str().expect("why").contains("-s 198.18.0.2/32 -j DROP"), "{dropped:#}");
    assert!(!lab.outside().tcp((HOST, 8080).into()).expect("a probe").reached(), "so it is");
    lab.host().run(&[&["iptables", "-w", "-D", "DOCKER-USER"], &rule[..]].concat()).expect("iptables");
    // The other flavour counts as well.
    if lab.host().succeeds(&[&["iptables-legacy", "-w", "-I", "FORWARD"], &rule[..]].concat()) {
        let dropped = next(&["tcp", "198.18.0.2", "198.18.0.1:8080", "--in", "eth0"]);
        let last = &dropped["rules"].as_array().expect("rules").last().expect("a rule")["place"];
        assert_eq!((&dropped["end"], last), (&"drop".into(), &"iptables-legacy".into()), "{dropped:#}");
        lab.host().run(&[&["iptables-legacy", "-w", "-D", "FORWARD"], &rule[..]].concat()).expect("iptables");
    } else {
        eprintln!("SKIPPED: rules of iptables-legacy: this kernel or host has none");
    }
    let redirect = ["-p", "udp", "--dport", "6000", "-j", "REDIRECT", "--to-ports", "6001"];
    lab.host()
        .run(&[&["iptables", "-w", "-t", "nat", "-I", "PREROUTING"], &redirect[..]].concat())
        .expect("iptables");
    let led = next(&["udp", "203.0.113.7", "198.18.0.1:6000", "--in", "eth0"]);
    assert_eq!((&led["dnat"], &led["end"]), (&"198.18.0.1:6001".into(), &"to-host".into()), "{led:#}");
    lab.host()
        .run(&[&["iptables", "-w", "-t", "nat", "-D", "PREROUTING"], &redirect[..]].concat())
        .expect("iptables");
    // One that is not known here is not guessed.
    let rule = ["-m", "hashlimit", "--hashlimit-above", "5/sec", "--hashlimit-name", "x", "-j", "DROP"];
    lab.host().run(&[&["iptables", "-w", "-I", "FORWARD"], &rule[..]].concat()).expect("iptables");
    let unknown = next(&["tcp", "198.18.0.2", "198.18.0.1:8080", "--in", "eth0"]);
    assert_eq!(unknown["end"], Value::from("cannot-tell"), "{unknown:#}");
    lab.host().run(&[&["iptables", "-w", "-D", "FORWARD"], &rule[..]].concat()).expect("iptables");
    // Docker's rules in nftables are not walked.
    lab.host().run(&["nft", "add", "table", "ip", "docker-bridges"]).expect("nft");
    let native = next(&["tcp", "198.18.0.2", "198.18.0.1:8080", "--in", "eth0"]);
    assert_eq!(native["end"], Value::from("not-walked"), "{native:#}");
    lab.host().run(&["nft", "delete", "table", "ip", "docker-bridges"]).expect("nft");
}

const POLICY: &str = r#"
[uplink]
published = "closed"

[sets]
far-away = ["203.0.113.0/24"]

[[deny]]
name = "bad"
from = ["198.18.0.66"]

[[allow]]
name = "web"
proto = "tcp"
ports = [8080]

[[allow]]
name = "far-away-only"
proto = "udp"
ports = [6000]
from = ["far-away"]

[[allow]]
name = "ping"
proto = "icmp"

[networks.B]
egress = "none"
host = "deny"
reach = ["A"]

[networks.N]
icc = false
"#;
