//! Outbound rules: what the host itself may open, and what it must go on doing all the same.

#[path = "holes/ground.rs"]
#[expect(dead_code, reason = "shared with the holes, which use more of it")]
mod ground;

use ground::Ground;
use serde_json::{Value, json};
use xtask::lab::{HOST, OUTSIDE, OUTSIDE6, ask};

#[test]
fn the_host_opens_only_what_a_rule_holds() {
    let Some(ground) = Ground::start("the_host_opens_only_what_a_rule_holds") else { return };
    let lab = &ground.lab;
    let (host, outside) = (lab.host(), lab.outside());
    let _closed = outside.serve_tcp("[::]:444", "R").expect("a server");
    let _datagrams =
        [5000, 5001].map(|port| outside.serve_udp(&format!("[::]:{port}"), "R").expect("a server"));
    let mut old = host.connect((OUTSIDE, 444).into()).expect("a connection from before fw");
    assert!(ask(&mut old).reached_at("R"));

    let daemon = lab.fw_run(POLICY).expect("fw");
    let opens = |port| host.tcp((OUTSIDE, port).into()).expect("a probe").reached();
    assert!(opens(443), "a rule holds it: {:?}", lab.fw_drops());
    assert!(host.tcp((OUTSIDE6, 443).into()).expect("a probe").reached(), "over IPv6");
    let refused = ground.drops_during("uplink_egress", "out-not-allowed", || assert!(!opens(444), "no rule"));
    assert!(refused > 0);
    assert!(ask(&mut old).reached_at("R"), "connections from before the rules go on: {:?}", lab.fw_drops());

    let asks = |port| host.udp((OUTSIDE, port).into()).expect("a probe").reached();
    assert!(asks(5000), "a rule holds it");
    assert!(!asks(5001), "no rule");
    assert!(!host.ping(OUTSIDE.into()).expect("a ping").reached(), "no rule for pings");

    assert!(outside.tcp((HOST, 22).into()).expect("a probe").reached(), "a service of the host answers");
    assert!(outside.ping(HOST.into()).expect("a ping").reached(), "a ping is answered");
    assert!(outside.tcp((HOST, 8080).into()).expect("a probe").reached_at("a1"), "a published port");
    assert!(
        ground.a2.place.tcp((OUTSIDE, 444).into()).expect("a probe").reached(),
        "a container is not the host"
    );

    host.run(&["ip", "neigh", "flush", "all"]).expect("no neighbours");
    assert!(host.tcp((OUTSIDE6, 443).into()).expect("a probe").reached(), "neighbours are found again");
    daemon.terminate().expect("SIGTERM");

    let observing = format!("mode = \"observe\"\n{POLICY}");
    let daemon = lab.fw_run(&observing).expect("fw");
    let would = ground.drops_during("uplink_egress", "out-not-allowed", || assert!(opens(444), "observing"));
    assert!(would > 0, "it is counted all the same");
    let observed = lab.fw(&["table", "observed", "--json"]).expect("a table");
    let observed: Vec<Value> = serde_json::from_str(&observed).expect("rows");
    let of = |row: &&Value| row["port"] == 444 && row["destination"] == OUTSIDE.to_string();
    let row = observed.iter().find(of).unwrap_or_else(|| panic!("it is kept by tuple: {observed:?}"));
    assert_eq!((&row["reason"], &row["hook"]), (&json!("out-not-allowed"), &json!("uplink_egress")));
    assert!(row["opening"].as_u64() >= Some(1) && row["packets"].as_u64() >= Some(would), "{row}");
    daemon.terminate().expect("SIGTERM");
    lab.fw_down().expect("fw down");
    assert!(opens(444) && asks(5001), "after fw down");
}

/// Fragments of the host follow their first one.
#[test]
fn large_datagrams_of_the_host_leave_whole_or_not_at_all() {
    let Some(ground) = Ground::start("large_datagrams_of_the_host_leave_whole_or_not_at_all") else { return };
    let lab = &ground.lab;
    let servers =
        [5000, 5001].map(|port| lab.outside().serve_udp(&format!("[::]:{port}"), "R").expect("a server"));
    let _daemon = lab.fw_run(POLICY).expect("fw");
    let large = |to: std::net::SocketAddr, text: &str| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = lab.host().within(|| std::net::UdpSocket::bind(any)).expect("H").expect("a socket");
        // The server reads two kilobytes.
        socket.send_to(format!("{text}{}", "x".repeat(1990)).as_bytes(), to).ok();
    };
    for address in [std::net::IpAddr::from(OUTSIDE), OUTSIDE6.into()] {
        let [open, closed] = [5000, 5001].map(|port| (address, port).into());
        large(open, &format!("open {address}"));
        assert!(
            servers[0].hears(&format!("open {address}"), std::time::Duration::from_secs(3)),
            "both fragments leave: {:?}",
            lab.fw_drops()
        );
        let refused = ground.drops_during("uplink_egress", "out-not-allowed", || large(closed, "closed"));
        assert!(refused > 0, "the first fragment is judged by its port");
    }
    assert!(servers[1].heard().is_empty());
}

const POLICY: &str = r#"
[[allow]]
name = "ssh and web"
proto = "tcp"
ports = [22, 8080]

[[allow]]
name = "ping"
proto = "icmp"

[[out]]
name = "https"
proto = "tcp"
ports = [443]

[[out]]
name = "syslog"
proto = "udp"
ports = [5000]
to = ["198.18.0.0/15", "2001:db8::/32"]
"#;
