//! Holes by addresses that no table knows yet.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use xtask::lab::frame::{Mac, ip_frame, udp};
use xtask::lab::{OUTSIDE, OUTSIDE_MAC, Outcome};

use crate::ground::{Ground, unlike_any_other};

/// W09: an address of a moment ago, an `AnyIP` range and a directed broadcast, while the daemon cannot notice.
#[test]
fn w09_new_local_addresses_are_judged_as_local() {
    let Some(ground) = Ground::start("w09_new_local_addresses_are_judged_as_local") else { return };
    let lab = &ground.lab;
    let server = lab.host().serve_udp("0.0.0.0:6001", "H").expect("a server");
    let outside = lab.outside();
    let broadcast = || {
        let text = unlike_any_other("W09");
        let destination = (Ipv4Addr::new(198, 18, 0, 255).into(), 6001);
        let packet = udp((OUTSIDE.into(), 6001), destination, text.as_bytes());
        outside.send_frame("eth0", &ip_frame(Mac::BROADCAST, OUTSIDE_MAC, &packet)).expect("a frame");
        server.hears(&text, Duration::from_millis(900))
    };
    add(&ground, 1);
    for address in new_addresses(1) {
        assert!(
            outside.tcp((address, 9100).into()).expect("a probe").reached_at("H"),
            "without fw: {address}"
        );
    }
    assert!(broadcast(), "without fw the host hears the broadcast");

    let daemon = ground.fw();
    daemon.signal("STOP").expect("a signal");
    add(&ground, 2);
    ground.at_both_settings(|bridge_netfilter| {
        for address in new_addresses(2) {
            let closed = outside.tcp((address, 9100).into()).expect("a probe");
            assert_eq!(closed, Outcome::Silent, "{address} ({bridge_netfilter})");
            let allowed = outside.ping(address).expect("a ping");
            assert!(allowed.reached(), "{address} is not judged as local ({bridge_netfilter})");
        }
        assert!(!broadcast(), "the host heard the broadcast ({bridge_netfilter})");
    });
    let before = ground.drops("uplink_ingress", "port-not-allowed");
    assert!(before >= 6, "{before} drops for want of a rule");
    daemon.signal("CONT").expect("a signal");
}

fn add(ground: &Ground, round: u8) {
    ground
        .lab
        .host()
        .script(&format!(
            "ip addr add 198.18.0.{}/24 dev eth0; ip addr add 2001:db8:18::{round}07/64 dev eth0 nodad; \
             ip route add local 198.18.{}.0/24 dev lo",
            100 + round,
            100 + round
        ))
        .expect("new addresses");
}

fn new_addresses(round: u8) -> [IpAddr; 3] {
    [
        Ipv4Addr::new(198, 18, 0, 100 + round).into(),
        Ipv4Addr::new(198, 18, 100 + round, 5).into(),
        format!("2001:db8:18::{round}07").parse().expect("an address"),
    ]
}
