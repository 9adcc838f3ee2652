//! Limits: each source opens so many new flows a second, and what it has opened goes on.

#[path = "holes/ground.rs"]
#[expect(dead_code, reason = "shared with the holes, which use more of it")]
mod ground;

use std::net::Ipv4Addr;

use ground::Ground;
use xtask::lab::frame::{SYN, ip_frame, tcp, udp};
use xtask::lab::{HOST, HOST_MAC, OUTSIDE, OUTSIDE_MAC, ask};

/// More than the limit lets in by far, sent in much less time than it takes to fill the bucket.
const FLOOD: u16 = 200;

#[test]
fn a_source_opens_only_so_many_flows() {
    let Some(ground) = Ground::start("a_source_opens_only_so_many_flows") else { return };
    let lab = &ground.lab;
    let outside = lab.outside();
    let _echo = lab.host().serve_udp("[::]:6100", "H").expect("a server");
    let _daemon = lab.fw_run(POLICY).expect("fw");
    let over = |work: &dyn Fn()| ground.drops_during("uplink_ingress", "over-limit", work);

    let mut open = outside.connect((HOST, 8080).into()).expect("a connection");
    let floods = |source: Ipv4Addr| {
        for port in 1..=FLOOD {
            let packet = tcp((source.into(), 20_000 + port), (HOST.into(), 8080), SYN, (1, 0));
            outside.send_frame("eth0", &ip_frame(HOST_MAC, OUTSIDE_MAC, &packet)).expect("a frame");
        }
    };
    assert!(over(&|| floods(STRANGER)) > 0, "a flood of connections");
    assert!(ask(&mut open).reached_at("a1"), "another source has a bucket of its own");
    assert!(over(&|| floods(OUTSIDE)) > 0, "now its bucket is empty, too");
    assert!(ask(&mut open).reached_at("a1"), "what is open goes on: {:?}", lab.fw_drops());

    let asks = || outside.udp_from(6200, (HOST, 6100).into()).expect("a probe").reached_at("H");
    let exchange = over(&|| (0..20).for_each(|_| assert!(asks(), "a live exchange")));
    assert_eq!(exchange, 0, "a live exchange costs one token");
    let datagrams = over(&|| {
        for port in 1..=FLOOD {
            let packet = udp((STRANGER.into(), 20_000 + port), (HOST.into(), 6100), b"?");
            outside.send_frame("eth0", &ip_frame(HOST_MAC, OUTSIDE_MAC, &packet)).expect("a frame");
        }
    });
    assert!(datagrams > 0, "a flood of datagrams");

    let buckets = lab.fw(&["table", "buckets"]).expect("fw table");
    assert!(buckets.contains(&STRANGER.to_string()), "{buckets}");
    assert!(lab.fw(&["table", "limits"]).expect("fw table").contains("slow-web"));
    lab.fw_down().expect("fw down");
}

/// An address on R's link that nobody has.
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 99);

const POLICY: &str = r#"
[[allow]]
name = "web"
proto = "tcp"
ports = [8080]

[[allow]]
name = "echo"
proto = "udp"
ports = [6100]

[[limit]]
name = "slow-web"
proto = "tcp"
ports = [8080]
rate = 1
burst = 3

[[limit]]
name = "slow-echo"
proto = "udp"
ports = ["6000-6199"]
rate = 1
burst = 3
"#;
