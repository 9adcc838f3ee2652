//! Holes by tunnels: what comes out of one was not vetted with its wrapping; what has no Ethernet header is still judged.

use std::net::IpAddr;
use std::time::Duration;

use xtask::lab::frame::{ACK, SYN, tcp};
use xtask::lab::tun::Tun;
use xtask::lab::{HOST, OUTSIDE};

use crate::ground::{Ground, POLICY};

/// W08: the packet inside an allowed VXLAN packet carries no mark of ours.
#[test]
fn w08_the_inner_packet_is_not_vouched_for() {
    let Some(ground) = Ground::start("w08_the_inner_packet_is_not_vouched_for") else { return };
    let lab = &ground.lab;
    let made = lab.host().script(&format!(
        "ip link add vx0 type vxlan id 42 local {HOST} remote {OUTSIDE} dstport 4789 dev eth0
         ip addr add 10.99.0.1/24 dev vx0; ip link set vx0 up
         ip -n r link add vx0 type vxlan id 42 local {OUTSIDE} remote {HOST} dstport 4789 dev eth0
         ip -n r addr add 10.99.0.2/24 dev vx0; ip -n r link set vx0 up
         ip -n r route add 10.1.0.0/24 via 10.99.0.1 dev vx0
         iptables -w -t mangle -A FORWARD -i vx0 -m mark ! --mark 0
         iptables -w -t mangle -A FORWARD -i vx0 -m mark --mark 0"
    ));
    if let Err(error) = made {
        eprintln!("SKIPPED: w08_the_inner_packet_is_not_vouched_for: no VXLAN here: {error:#}");
        return;
    }
    let a1 = ground.a1.ip().expect("an address");
    let unpublished = || lab.outside().tcp((a1, 81).into()).expect("a probe");
    let published = || lab.outside().tcp((a1, 80).into()).expect("a probe");
    let to_host = || lab.outside().tcp(([10, 99, 0, 1], 9100).into()).expect("a probe");
    assert!(to_host().reached_at("H"), "the tunnel works");
    let (stock_unpublished, stock_published) = (unpublished(), published());
    assert!(!stock_unpublished.reached(), "Docker's own chains close it");
    lab.set_forward_accept(true).expect("the policy of FORWARD");
    assert!(unpublished().reached_at("a1"), "the way through the tunnel is there");
    lab.set_forward_accept(false).expect("the policy of FORWARD");

    let _daemon = lab.fw_run(&POLICY.replace("[uplink]", "[uplink]\ninterfaces = [\"eth0\"]")).expect("fw");
    lab.host().run(&["iptables", "-w", "-t", "mangle", "-Z"]).expect("counters");
    ground.at_both_settings(|bridge_netfilter| {
        assert!(to_host().reached_at("H"), "the tunnel works ({bridge_netfilter})");
        assert_eq!(unpublished(), stock_unpublished, "through the tunnel ({bridge_netfilter})");
        assert_eq!(published(), stock_published, "as with stock Docker ({bridge_netfilter})");
    });
    let rules = lab.host().run(&["iptables-save", "-c", "-t", "mangle"]).expect("counters");
    let of =
        |text: &str| rules.lines().find(|line| line.contains(text)).expect("our counting rule").to_owned();
    assert!(
        !of("-i vx0 -m mark --mark 0x0").starts_with("[0:"),
        "inner packets were forwarded or refused: {rules}"
    );
    assert!(
        of("-i vx0 -m mark ! --mark 0x0").starts_with("[0:0]"),
        "an inner packet carried a mark: {rules}"
    );
}

/// W08 from inside: what a container wraps for a tunnel of the host is not vouched for with its wrapping.
#[test]
fn w08_the_inner_packet_of_a_container_is_not_vouched_for() {
    let Some(ground) = Ground::start("w08_the_inner_packet_of_a_container_is_not_vouched_for") else {
        return;
    };
    let lab = &ground.lab;
    let a1 = ground.a1.ip().expect("an address");
    let gateway = ground.a1.gateway.expect("a gateway");
    let vxlan = "type vxlan id 43 dstport 4789";
    let made = lab.host().script(&format!(
        "ip link add vx1 {vxlan} local {gateway} remote {a1} dev br-A
         ip addr add 10.98.0.1/24 dev vx1; ip link set vx1 up
         iptables -w -t mangle -A FORWARD -i vx1 -m mark ! --mark 0
         iptables -w -t mangle -A FORWARD -i vx1 -m mark --mark 0"
    ));
    let made = made.and_then(|_| {
        ground.a1.place.script(&format!(
            "ip link add vx1 {vxlan} local {a1} remote {gateway} dev eth0
             ip addr add 10.98.0.2/24 dev vx1; ip link set vx1 up; ip route add {OUTSIDE} via 10.98.0.1"
        ))
    });
    if let Err(error) = made {
        eprintln!(
            "SKIPPED: w08_the_inner_packet_of_a_container_is_not_vouched_for: no VXLAN here: {error:#}"
        );
        return;
    }
    let to_host = || ground.a1.place.tcp(([10, 98, 0, 1], 9100).into()).expect("a probe");
    let _daemon = ground.fw();
    ground.at_both_settings(|bridge_netfilter| {
        lab.host().run(&["iptables", "-w", "-t", "mangle", "-Z"]).expect("counters");
        assert!(to_host().reached_at("H"), "the tunnel works ({bridge_netfilter})");
        let outside = ground.a1.place.tcp((OUTSIDE, 443).into()).expect("a probe");
        assert!(!outside.reached(), "FORWARD drops what nobody vouches for ({bridge_netfilter})");
        let rules = lab.host().run(&["iptables-save", "-c", "-t", "mangle"]).expect("counters");
        let packets = |text: &str| {
            let rule = rules.lines().find(|line| line.contains(text)).expect("our counting rule");
            rule[1..].split(':').next().and_then(|count| count.parse::<u64>().ok()).expect("a count")
        };
        assert!(packets("-i vx1 -m mark --mark 0x0") > 0, "inner packets were forwarded: {rules}");
        assert_eq!(packets("-i vx1 -m mark ! --mark 0x0"), 0, "an inner packet carried a mark: {rules}");
    });
}

/// W11: an uplink without Ethernet header (tun, wireguard, ppp) is judged like any other.
#[test]
fn w11_uplink_without_ethernet_header() {
    let Some(ground) = Ground::start("w11_uplink_without_ethernet_header") else { return };
    let lab = &ground.lab;
    let mut tun = lab.host().tun("tun0").expect("a tun device");
    lab.host()
        .script(
            "ip addr add 10.97.0.1/24 dev tun0; ip addr add 2001:db8:97::1/64 dev tun0 nodad; ip link set tun0 up",
        )
        .expect("addresses");
    let pairs: [(IpAddr, IpAddr); 2] = [
        ("10.97.0.2".parse().expect("an address"), "10.97.0.1".parse().expect("an address")),
        ("2001:db8:97::2".parse().expect("an address"), "2001:db8:97::1".parse().expect("an address")),
    ];
    let mut from = 40_000;
    let mut answered = |pair: (IpAddr, IpAddr), to: u16| {
        from += 1;
        is_answered(&mut tun, pair, (from, to))
    };
    for pair in pairs {
        assert!(answered(pair, 9100), "without fw the closed port answers {pair:?}");
    }
    let policy = POLICY.replace("[uplink]", "[uplink]\ninterfaces = [\"eth0\", \"tun0\"]");
    let _daemon = lab.fw_run(&policy).expect("fw");
    ground.at_both_settings(|bridge_netfilter| {
        for pair in pairs {
            assert!(answered(pair, 8080), "the allowed port answers {pair:?} ({bridge_netfilter})");
            let dropped = ground.drops_during("uplink_ingress", "port-not-allowed", || {
                assert!(!answered(pair, 9100), "the closed port answers {pair:?} ({bridge_netfilter})");
            });
            assert!(dropped >= 1);
        }
    });
}

/// Whether a SYN that comes in through the tun device is answered with SYN and ACK.
fn is_answered(tun: &mut Tun, (outside, host): (IpAddr, IpAddr), (from, to): (u16, u16)) -> bool {
    tun.send(&tcp((outside, from), (host, to), SYN, (1, 0))).expect("a packet");
    let header = if host.is_ipv4() { 20 } else { 40 };
    let answer = tun.wait_for(Duration::from_millis(900), |packet| {
        packet.len() >= header + 20
            && packet[header..header + 2] == to.to_be_bytes()
            && packet[header + 2..header + 4] == from.to_be_bytes()
            && packet[header + 13] & (SYN | ACK) == SYN | ACK
    });
    answer.is_some()
}
