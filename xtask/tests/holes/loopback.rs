//! Holes by loopback addresses on the wire.

use std::net::Ipv4Addr;
use std::time::Duration;

use xtask::lab::Options;
use xtask::lab::frame::{ip_frame, udp};

use crate::ground::{Ground, unlike_any_other};

/// W13: without docker-proxy Docker sets `route_localnet`, and a container's frame to 127.0.0.1 reaches the host's.
#[test]
fn w13_containers_do_not_reach_the_hosts_loopback() {
    let options = Options { userland_proxy: false, ..Options::default() };
    let Some(ground) = Ground::with("w13_containers_do_not_reach_the_hosts_loopback", options) else {
        return;
    };
    let lab = &ground.lab;
    let server = lab.host().serve_udp("127.0.0.1:6000", "H").expect("a server");
    lab.host().script("echo 1 >/proc/sys/net/ipv4/conf/br-A/route_localnet").expect("the sysctl");
    let gateway = lab.host().run(&["cat", "/sys/class/net/br-A/address"]).expect("an address");
    let gateway = gateway.parse().expect("a MAC address");
    let attempt = || {
        let text = unlike_any_other("W13");
        let own = ground.a1.mac.expect("a MAC address");
        let source = (ground.a1.ip().expect("an address"), 6001);
        let packet = udp(source, (Ipv4Addr::LOCALHOST.into(), 6000), text.as_bytes());
        ground.a1.place.send_frame("eth0", &ip_frame(gateway, own, &packet)).expect("a frame");
        server.hears(&text, Duration::from_millis(900))
    };
    assert!(attempt(), "without fw the host's loopback hears the container");
    let _daemon = ground.fw();
    ground.at_both_settings(|bridge_netfilter| {
        let dropped = ground.drops_during("port_ingress", "martian", || {
            assert!(!attempt(), "the host's loopback heard the container ({bridge_netfilter})");
        });
        assert!(dropped >= 1);
    });
}
