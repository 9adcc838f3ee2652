//! Who says to be whom on a bridge with icc: ARP, neighbour discovery, DHCP, and those who pass things on (V10, V12 to V14).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use xtask::lab::frame::{ETHERTYPE_ARP, Mac, arp, ethernet, icmp, ip_frame, udp};
use xtask::lab::{self, Container, HOST, Lab, OUTSIDE, Options};

use crate::ground::{SHORT, link_local, mac};

/// Network A (dual stack): a1, a2, and relay, which is on B, too, and forwards. Network B: b1.
struct Street {
    lab: Lab,
    a1: Container,
    a2: Container,
    relay: Container,
    b1: Container,
}

impl Street {
    fn start(test: &str) -> Option<Self> {
        if !lab::available(test) {
            return None;
        }
        let lab = Lab::start(Options::default()).expect("a lab");
        lab.network("A", &["--subnet=10.1.0.0/24", "--ipv6", "--subnet=2001:db8:a::/64"]).expect("a network");
        lab.network("B", &["--subnet=10.2.0.0/24"]).expect("a network");
        let a1 = lab.container("a1", &["--network=A"]).expect("a container");
        let a2 = lab.container("a2", &["--network=A"]).expect("a container");
        let b1 = lab.container("b1", &["--network=B"]).expect("a container");
        lab.container("relay", &["--network=A", "--sysctl=net.ipv4.ip_forward=1"]).expect("a container");
        lab.docker(&["network", "connect", "B", "relay"]).expect("a second network");
        let relay = lab.inspect("relay").expect("the relay");
        relay.place.script("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done").ok();
        Some(Self { lab, a1, a2, relay, b1 })
    }

    fn drops(&self, reason: &str) -> u64 {
        let drops = self.lab.fw_drops().expect("the drop counters");
        drops.get(&("port_ingress".to_owned(), reason.to_owned())).copied().unwrap_or(0)
    }

    fn send(&self, frame: &[u8]) {
        self.a1.place.send_frame("eth0", frame).expect("a frame");
    }
}

/// V12: over a neighbour that forwards leads no way to its other network, to the outside, or to the host.
#[test]
fn a_neighbour_that_forwards_is_no_way_round() {
    let Some(street) = Street::start("a_neighbour_that_forwards_is_no_way_round") else { return };
    let Street { lab, a1, relay, b1, .. } = &street;
    lab.set_bridge_netfilter(false).expect("the sysctl");
    let relay_mac = {
        let text = relay.place.script("ip -o addr | grep 10.1.0. | cut -d' ' -f2").expect("a device");
        let path = format!("cat /sys/class/net/{}/address", text.trim());
        lab.docker(&["exec", "relay", "sh", "-c", &path])
            .expect("an address")
            .parse::<Mac>()
            .expect("a MAC address")
    };
    let at_b1 = b1.place.serve_udp("[::]:5000", "b1").expect("a server");
    let at_host = lab.host().serve_udp("[::]:5000", "H").expect("a server");
    let at_outside = lab.outside().serve_udp("[::]:5000", "R").expect("a server");
    let send = |to: IpAddr, text: &str| {
        let packet = udp((a1.ip().expect("an address"), 6001), (to, 5000), text.as_bytes());
        street.send(&ip_frame(relay_mac, mac(a1), &packet));
    };
    let b1 = b1.ip().expect("an address");
    send(b1, "stock");
    assert!(at_b1.hears("stock", SHORT), "without fw the neighbour passes it on");
    let _daemon = lab.fw_run("").expect("fw");
    for nf in [true, false] {
        lab.set_bridge_netfilter(nf).expect("the sysctl");
        send(b1, "V12-B");
        assert!(!at_b1.hears("V12-B", SHORT), "it reached the other network ({nf})");
        let before = street.drops("spoofed-source");
        send(OUTSIDE.into(), "V12-R");
        assert!(!at_outside.hears("V12-R", SHORT), "it reached the outside ({nf})");
        send(HOST.into(), "V12-H");
        assert!(!at_host.hears("V12-H", SHORT), "it reached the host ({nf})");
        assert!(street.drops("spoofed-source") >= before + 2, "at the port of whoever passed it on ({nf})");
    }
}

/// V10, V13, V14: lies about the gateway and about a neighbour change nobody's mind; the truth passes.
#[test]
fn lies_about_others_are_not_heard() {
    let Some(street) = Street::start("lies_about_others_are_not_heard") else { return };
    let Street { lab, a1, a2, .. } = &street;
    let gateway = Ipv4Addr::new(10, 1, 0, 1);
    let gateway6 = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 1);
    let (own, there) = (mac(a1), mac(a2));
    let (Some(v4), Some(v4_there)) = (a1.v4, a2.v4) else { panic!("IPv4") };
    let v6 = a1.ip6().expect("an address");
    let _daemon = lab.fw_run("").expect("fw");
    for nf in [true, false] {
        lab.set_bridge_netfilter(nf).expect("the sysctl");
        let knows_gateway = |family: &str, address: &str| {
            assert!(
                a2.place.ping(address.parse().expect("an address")).expect("a ping").reached(),
                "{family} ({nf})"
            );
            a2.place.run(&["ip", family, "neigh", "show", address]).expect("neighbours")
        };
        let before = [knows_gateway("-4", "10.1.0.1"), knows_gateway("-6", "2001:db8:a::1")];
        let lied = street.drops("spoofed-neighbour");
        for (to, operation, address) in [
            (Mac::BROADCAST, 1, gateway),
            (Mac::BROADCAST, 2, gateway),
            (there, 2, gateway),
            (Mac::BROADCAST, 1, v4_there),
            (there, 2, Ipv4Addr::new(10, 1, 0, 77)),
        ] {
            let message = arp(operation, (own, address), (there, v4_there));
            street.send(&ethernet(to, own, ETHERTYPE_ARP, &message));
        }
        let advertise = |source: IpAddr, target: Ipv6Addr| {
            let rest = [&[0x20, 0, 0, 0][..], &target.octets(), &[2, 1], &own.0].concat();
            street.send(&ip_frame(there, own, &icmp(source, a2.ip6().expect("an address"), 136, 0, &rest)));
        };
        advertise(v6, gateway6);
        advertise(link_local(own).into(), gateway6);
        advertise(v6, link_local(there));
        assert_eq!(street.drops("spoofed-neighbour") - lied, 8, "({nf})");
        let forged = street.drops("spoofed-source");
        // A question of somebody else, whose answerer would learn our MAC address for it.
        let asked = |source: Ipv6Addr| {
            let rest = [&[0; 4][..], &own_six(a2).octets(), &[1, 1], &own.0].concat();
            street.send(&ip_frame(
                there,
                own,
                &icmp(source.into(), a2.ip6().expect("an address"), 135, 0, &rest),
            ));
        };
        asked(gateway6);
        asked(link_local(there));
        assert_eq!(street.drops("spoofed-source") - forged, 2, "({nf})");
        let stolen = street.drops("spoofed-mac");
        street.send(&ip_frame(Mac::BROADCAST, there, &udp((v4.into(), 1), (v4_there.into(), 9), b"")));
        assert_eq!(street.drops("spoofed-mac") - stolen, 1, "({nf})");
        let served = street.drops("rogue-router");
        street.send(&ip_frame(there, own, &udp((v4.into(), 67), (v4_there.into(), 68), &[2; 240])));
        street.send(&ip_frame(there, own, &udp((v6, 547), (a2.ip6().expect("an address"), 546), &[2; 40])));
        assert_eq!(street.drops("rogue-router") - served, 2, "({nf})");
        let after = [knows_gateway("-4", "10.1.0.1"), knows_gateway("-6", "2001:db8:a::1")];
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(link_of(before), link_of(after), "somebody was believed ({nf})");
        }
        // The twin: announcing itself, and a probe.
        let capture = a2.place.capture("eth0").expect("a capture");
        street.send(&ethernet(Mac::BROADCAST, own, ETHERTYPE_ARP, &arp(1, (own, v4), (Mac([0; 6]), v4))));
        let heard = capture
            .wait_for(Duration::from_secs(2), |frame| frame.len() >= 32 && frame[28..32] == v4.octets());
        assert!(heard.is_some(), "an announcement was lost ({nf})");
    }
}

fn own_six(container: &Container) -> Ipv6Addr {
    container.v6.expect("an address")
}

/// The MAC address in a line of `ip neigh`.
fn link_of(line: &str) -> Option<&str> {
    line.split_whitespace().skip_while(|word| *word != "lladdr").nth(1)
}
