//! What a container says about who it is: addresses that are not its own, in frames, packets and neighbour protocols.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use xtask::lab::frame::{
    ALL_NODES, ETHERTYPE_ARP, Mac, arp, ethernet, icmp, ip_frame, router_advertisement, udp,
};
use xtask::lab::{OUTSIDE, wait};

use crate::ground::{Ground, unlike_any_other};

/// A datagram to the outside with the sibling's address, or out of an invented MAC address, does not leave.
#[test]
fn foreign_source_addresses_do_not_leave() {
    let Some(ground) = Ground::start("foreign_source_addresses_do_not_leave") else { return };
    let lab = &ground.lab;
    let server = lab.outside().serve_udp("[::]:5001", "R").expect("a server");
    let gateway: Mac = {
        let text = lab.host().run(&["cat", "/sys/class/net/br-A/address"]).expect("an address");
        text.parse().expect("a MAC address")
    };
    let own_mac = ground.a1.mac.expect("a MAC address");
    let own = ground.a1.ip().expect("an address");
    let arrives = |mac: Mac, source: IpAddr| {
        let text = unlike_any_other("spoofed");
        let packet = udp((source, 6003), (OUTSIDE.into(), 5001), text.as_bytes());
        ground.a1.place.send_frame("eth0", &ip_frame(gateway, mac, &packet)).expect("a frame");
        server.hears(&text, SHORT)
    };
    let sibling = ground.a2.ip().expect("an address");
    let invented = Mac([0x02, 0, 0, 0, 0, 0x66]);
    assert!(arrives(own_mac, sibling), "without fw the sibling's address is believed");
    assert!(arrives(invented, own), "without fw any MAC address is believed");

    let _daemon = ground.fw();
    ground.at_both_settings(|bridge_netfilter| {
        assert!(arrives(own_mac, own), "its own addresses ({bridge_netfilter})");
        for source in [sibling, Ipv4Addr::new(203, 0, 113, 5).into()] {
            let dropped = ground.drops_during("port_ingress", "spoofed-source", || {
                assert!(!arrives(own_mac, source), "{source} was believed ({bridge_netfilter})");
            });
            assert_eq!(dropped, 1);
        }
        let dropped = ground.drops_during("port_ingress", "spoofed-mac", || {
            assert!(!arrives(invented, own), "{invented} was believed ({bridge_netfilter})");
        });
        assert!(dropped >= 1);
    });
}

/// A container does not speak for its gateway: neither by ARP, nor by neighbour or router advertisement.
#[test]
fn neighbours_are_not_spoken_for() {
    let Some(ground) = Ground::start("neighbours_are_not_spoken_for") else { return };
    let own_mac = ground.a1.mac.expect("a MAC address");
    let sibling = (ground.a2.mac.expect("a MAC address"), ground.a2.v4.expect("an address"));
    let gateway = (own_mac, Ipv4Addr::new(10, 1, 0, 1));
    let send = |frame: &[u8]| ground.a1.place.send_frame("eth0", frame).expect("a frame");
    let claim_by_arp = || send(&ethernet(sibling.0, own_mac, ETHERTYPE_ARP, &arp(2, gateway, sibling)));
    let claim_by_nd = || {
        let address: Ipv6Addr = "2001:db8:a::1".parse().expect("an address");
        // Solicited and override; the target and, as an option, our MAC address.
        let rest = [&[0x60, 0, 0, 0][..], &address.octets(), &[2, 1], &own_mac.0].concat();
        send(&ip_frame(
            Mac([0x33, 0x33, 0, 0, 0, 1]),
            own_mac,
            &icmp(address.into(), ALL_NODES.into(), 136, 0, &rest),
        ));
    };
    let claim_to_be_router = || {
        let own: Ipv6Addr = "fe80::bad".parse().expect("an address");
        let prefix = "2001:db8:bad::".parse().expect("a prefix");
        send(&ip_frame(
            Mac([0x33, 0x33, 0, 0, 0, 1]),
            own_mac,
            &router_advertisement((own_mac, own), prefix),
        ));
    };
    let sees = |ethertype: u16, kind: Option<u8>, claim: &dyn Fn()| {
        let capture = ground.a2.place.capture("eth0").expect("a capture");
        claim();
        let from_a1 = |frame: &[u8]| {
            frame.len() > 54
                && frame[6..12] == own_mac.0
                && frame[12..14] == ethertype.to_be_bytes()
                && kind.is_none_or(|kind| frame[54] == kind)
        };
        let arp_from_a1 =
            |frame: &[u8]| frame.len() >= 42 && frame[6..12] == own_mac.0 && frame[12..14] == [8, 6];
        capture
            .wait_for(SHORT, |frame| if kind.is_some() { from_a1(frame) } else { arp_from_a1(frame) })
            .is_some()
    };
    assert!(sees(ETHERTYPE_ARP, None, &claim_by_arp), "without fw the sibling sees the ARP answer");
    assert!(sees(0x86dd, Some(136), &claim_by_nd), "without fw the sibling sees the advertisement");
    assert!(sees(0x86dd, Some(134), &claim_to_be_router), "without fw the sibling sees the router");

    let _daemon = ground.fw();
    ground.at_both_settings(|bridge_netfilter| {
        let dropped = ground.drops_during("port_ingress", "spoofed-neighbour", || {
            assert!(!sees(ETHERTYPE_ARP, None, &claim_by_arp), "ARP ({bridge_netfilter})");
        });
        // More than one: the sibling, who believed the router while there was no fw, looks for its false address.
        assert!(dropped >= 1);
        assert!(!sees(0x86dd, Some(136), &claim_by_nd), "neighbour advertisement ({bridge_netfilter})");
        let dropped = ground.drops_during("port_ingress", "rogue-router", || {
            assert!(
                !sees(0x86dd, Some(134), &claim_to_be_router),
                "router advertisement ({bridge_netfilter})"
            );
        });
        assert!(dropped >= 1);
        // The twin: the sibling still learns the container's true address.
        ground.a2.place.run(&["ip", "neigh", "flush", "all"]).expect("a flush");
        let reached = wait::until("the sibling is reached", Duration::from_secs(3), || {
            ground.a2.place.ping(ground.a1.ip().ok()?).ok().filter(xtask::lab::Outcome::reached)
        });
        reached.expect("ARP works");
    });
}

const SHORT: Duration = Duration::from_millis(700);
