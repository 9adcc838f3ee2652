//! Holes of the link layer: reserved addresses, neighbour probes, promiscuous devices, one's own source address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use xtask::lab::frame::{
    ACK, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Mac, SYN, TCP, ip_frame, ipv4, router_advertisement, tagged, tcp,
    udp,
};
use xtask::lab::{Container, HOST, HOST_MAC, HOST6, Lab, OUTSIDE, OUTSIDE_MAC, wait};

use crate::ground::{Ground, unlike_any_other};

/// W01: the kernel delivers frames to 01:80:c2:00:00:0X on the bridge's port, past every hook of the bridge.
#[test]
fn w01_reserved_mac_addresses() {
    let Some(ground) = Ground::start("w01_reserved_mac_addresses") else { return };
    let lab = &ground.lab;
    let server = lab.host().serve_udp("[::]:6000", "H").expect("a server");
    let port = lab.port_of(&ground.a1).expect("the port of a1");
    lab.host().script(&format!("echo 2 >/proc/sys/net/ipv6/conf/{port}/accept_ra")).expect("the sysctl");

    for six in [false, true] {
        let text = unlike_any_other("W01");
        datagrams_to_reserved(&ground, six, &text);
        assert!(server.hears(&text, SHORT), "without fw the host hears it (IPv6: {six})");
    }
    advertise(&ground.a1, STOCK_PREFIX);
    wait::until("an address by the router advertisement", Duration::from_secs(5), || {
        addresses(lab).contains("2001:db8:bad1").then_some(())
    })
    .expect("without fw the host believes it");
    lab.host()
        .script(&format!(
            "ip -6 addr flush dev {port} scope global; ip -6 route flush dev {port} proto ra; \
             ip -6 route flush {STOCK_PREFIX}/64"
        ))
        .expect("the host is as before");

    let _daemon = ground.fw();
    ground.at_both_settings(|bridge_netfilter| {
        let routes = routes_of(lab);
        let text = unlike_any_other("W01");
        let dropped = ground.drops_during("port_ingress", "reserved-mac", || {
            datagrams_to_reserved(&ground, false, &text);
            datagrams_to_reserved(&ground, true, &text);
            advertise(&ground.a1, FW_PREFIX);
            assert!(!server.hears(&text, SHORT), "the host heard it ({bridge_netfilter})");
        });
        assert!(dropped >= 48, "{dropped} of 48 frames were dropped");
        assert!(!addresses(lab).contains("2001:db8:bad2"), "the host took an address ({bridge_netfilter})");
        assert_eq!(routes_of(lab), routes);
        // The twin: the same datagram to the bridge's own address is for the host.
        let text = unlike_any_other("W01");
        datagram(&ground, bridge_mac(lab, "br-A"), false, &text);
        assert!(server.hears(&text, SHORT), "container to host is open ({bridge_netfilter})");
    });
}

/// W10, from outside: stacked priority tags hide nothing; the kernel strips as many as there are.
#[test]
fn w10_priority_tags_are_looked_through() {
    let Some(ground) = Ground::start("w10_priority_tags_are_looked_through") else { return };
    let lab = &ground.lab;
    let mut from = 41_000;
    let mut answered = |tags: usize, to: u16| {
        from += 1;
        let capture = lab.outside().capture("eth0").expect("a capture");
        let packet = tcp((OUTSIDE.into(), from), (HOST.into(), to), SYN, (1, 0));
        let frame = tagged(&ip_frame(HOST_MAC, OUTSIDE_MAC, &packet), &vec![0; tags]);
        lab.outside().send_frame("eth0", &frame).expect("a frame");
        capture.wait_for(SHORT, |frame| is_syn_ack(frame, to, from)).is_some()
    };
    for tags in [0, 1, 2, 5] {
        assert!(answered(tags, 9100), "without fw, {tags} tags");
    }
    let _daemon = ground.fw();
    ground.at_both_settings(|bridge_netfilter| {
        for tags in [0, 1, 2, 5, 8] {
            let dropped = ground.drops_during("uplink_ingress", "port-not-allowed", || {
                assert!(!answered(tags, 9100), "{tags} tags opened a closed port ({bridge_netfilter})");
            });
            assert!(dropped >= 1, "{tags} tags");
            assert!(answered(tags, 8080), "{tags} tags to the allowed port ({bridge_netfilter})");
        }
        let dropped = ground.drops_during("uplink_ingress", "too-many-headers", || {
            assert!(!answered(9, 8080), "nine tags ({bridge_netfilter})");
        });
        assert!(dropped >= 1);
    });
}

/// W12: what neighbour discovery needs is not taken for spoofing, unicast probes from link-local addresses included.
#[test]
fn w12_gateway_stays_reachable_over_ipv6() {
    let Some(ground) = Ground::start("w12_gateway_stays_reachable_over_ipv6") else { return };
    let daemon = ground.fw();
    ground
        .a1
        .place
        .script(
            "cd /proc/sys/net/ipv6/neigh/eth0; echo 300 >base_reachable_time_ms; echo 1 >delay_first_probe_time; \
             echo 1 >gc_stale_time",
        )
        .expect("a short reachable time");
    let gateway: Ipv6Addr = "2001:db8:a::1".parse().expect("an address");
    let capture = ground.a1.place.capture("eth0").expect("a capture");
    ground.at_both_settings(|bridge_netfilter| {
        for reason in ["spoofed-source", "spoofed-neighbour", "spoofed-mac", "bad-discovery", "rogue-router"]
        {
            assert_eq!(ground.drops("port_ingress", reason), 0, "{reason} before");
        }
        // One a second: each finds the entry stale and probes it after one second.
        let answers = ground.a1.place.run(&["busybox", "ping", "-c", "12", "-W", "2", &gateway.to_string()]);
        assert!(
            answers.expect("answers").contains("0% packet loss"),
            "an answer is missing ({bridge_netfilter})"
        );
        let probe = capture.wait_for(Duration::from_secs(1), |frame| is_unicast_probe(frame, gateway));
        assert!(probe.is_some(), "the container never probed its gateway: the test shows nothing");
        for reason in ["spoofed-source", "spoofed-neighbour", "spoofed-mac", "bad-discovery", "rogue-router"]
        {
            assert_eq!(ground.drops("port_ingress", reason), 0, "{reason} ({bridge_netfilter})");
        }
    });
    daemon.terminate().expect("SIGTERM");
}

/// W18: a promiscuous bridge or uplink shows other people's frames; they are nobody's business.
#[test]
fn w18_promiscuous_devices_count_nothing() {
    let Some(ground) = Ground::start("w18_promiscuous_devices_count_nothing") else { return };
    let lab = &ground.lab;
    let _daemon = ground.fw();
    lab.host()
        .script("ip link set br-A promisc on; ip link set eth0 promisc on")
        .expect("promiscuous devices");
    ground.at_both_settings(|_| {
        let before = lab.fw_drops().expect("counters");
        let a2 = ground.a2.ip().expect("an address");
        assert!(ground.a1.place.tcp((a2, 81).into()).expect("a probe").reached_at("a2"));
        let elsewhere = Mac([0x02, 0, 0, 0, 0, 0x77]);
        closed_port(lab, elsewhere);
        wait::pass(SHORT);
        assert_eq!(lab.fw_drops().expect("counters"), before, "something was counted");
        // The twin: the same frame to the host itself is counted.
        let dropped = ground.drops_during("uplink_ingress", "port-not-allowed", || {
            closed_port(lab, HOST_MAC);
            wait::pass(SHORT);
        });
        assert!(dropped >= 1);
    });
}

/// W20: one's own address as source is spoofed only if the packet is for oneself.
#[test]
fn w20_own_source_address_comes_back() {
    let Some(ground) = Ground::start("w20_own_source_address_comes_back") else { return };
    let lab = &ground.lab;
    let _daemon = ground.fw();
    let send = |to: Mac, packet: &[u8]| {
        lab.outside().send_frame("eth0", &ip_frame(to, OUTSIDE_MAC, packet)).expect("a frame");
        wait::pass(SHORT);
    };
    ground.at_both_settings(|_| {
        let own = IpAddr::from(HOST);
        let innocent = ground.drops_during("uplink_ingress", "source-ours", || {
            // VRRP of a partner with a shared address, a broadcast, and what a NAT loop-back sends on.
            send(
                Mac([0x01, 0, 0x5e, 0, 0, 18]),
                &ipv4(HOST, Ipv4Addr::new(224, 0, 0, 18), 112, 255, &[0x21; 20]),
            );
            send(Mac::BROADCAST, &udp((own, 6001), (Ipv4Addr::new(198, 18, 0, 255).into(), 6001), b"W20"));
            send(HOST_MAC, &udp((own, 6001), (Ipv4Addr::new(203, 0, 113, 9).into(), 6001), b"W20"));
        });
        assert_eq!(innocent, 0, "a packet that is not for us was called spoofed");
        let spoofed = ground.drops_during("uplink_ingress", "source-ours", || {
            send(HOST_MAC, &tcp((own, 6001), (own, 8080), SYN, (1, 0)));
            let own = IpAddr::from(HOST6);
            send(HOST_MAC, &tcp((own, 6001), (own, 8080), SYN, (1, 0)));
        });
        assert_eq!(spoofed, 2, "our own address was believed");
        assert!(lab.outside().tcp((HOST, 8080).into()).expect("a probe").reached_at("a1"));
    });
}

fn datagrams_to_reserved(ground: &Ground, six: bool, text: &str) {
    for last in 0..16 {
        datagram(ground, Mac::reserved(last), six, text);
    }
}

fn datagram(ground: &Ground, to: Mac, six: bool, text: &str) {
    let own = ground.a1.mac.expect("a MAC address");
    let packet = if six {
        udp((ground.a1.ip6().expect("an address"), 6001), (HOST6.into(), 6000), text.as_bytes())
    } else {
        udp((ground.a1.ip().expect("an address"), 6001), (HOST.into(), 6000), text.as_bytes())
    };
    ground.a1.place.send_frame("eth0", &ip_frame(to, own, &packet)).expect("a frame");
}

fn advertise(container: &Container, prefix: Ipv6Addr) {
    let own = container.mac.expect("a MAC address");
    let source = "fe80::bad".parse().expect("an address");
    for last in 0..16 {
        let frame = ip_frame(Mac::reserved(last), own, &router_advertisement((own, source), prefix));
        container.place.send_frame("eth0", &frame).expect("a frame");
    }
}

fn addresses(lab: &Lab) -> String {
    lab.host().run(&["ip", "-6", "addr"]).expect("addresses")
}

fn routes_of(lab: &Lab) -> String {
    lab.host().run(&["ip", "-6", "route"]).expect("routes")
}

fn bridge_mac(lab: &Lab, bridge: &str) -> Mac {
    let address = lab.host().run(&["cat", &format!("/sys/class/net/{bridge}/address")]).expect("an address");
    address.parse().expect("a MAC address")
}

/// A SYN to a closed port of the host, in a frame for `to`.
fn closed_port(lab: &Lab, to: Mac) {
    let packet = tcp((OUTSIDE.into(), 6002), (HOST.into(), 9100), SYN, (1, 0));
    lab.outside().send_frame("eth0", &ip_frame(to, OUTSIDE_MAC, &packet)).expect("a frame");
}

/// Whether `frame` is the answer of port `from` to a SYN from port `to`, over IPv4.
fn is_syn_ack(frame: &[u8], from: u16, to: u16) -> bool {
    frame.len() >= 54
        && frame[12..14] == ETHERTYPE_IPV4.to_be_bytes()
        && frame[23] == TCP
        && frame[34..36] == from.to_be_bytes()
        && frame[36..38] == to.to_be_bytes()
        && frame[47] & (SYN | ACK) == SYN | ACK
}

/// A neighbour solicitation (type 135) that goes to the gateway alone.
fn is_unicast_probe(frame: &[u8], gateway: Ipv6Addr) -> bool {
    frame.len() > 54
        && frame[12..14] == ETHERTYPE_IPV6.to_be_bytes()
        && frame[20] == 58
        && frame[54] == 135
        && frame[38..54] == gateway.octets()
}

const SHORT: Duration = Duration::from_millis(700);
const STOCK_PREFIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad1, 0, 0, 0, 0, 0);
const FW_PREFIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad2, 0, 0, 0, 0, 0);
