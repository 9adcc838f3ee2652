//! Who owns which address on a bridge: ARP of IPv4, neighbour discovery of IPv6.

use std::net::IpAddr;

use fw_common::verdict::{Reason, Verdict};
use fw_common::wire::icmp;
use fw_common::{Hook, Mac};

use super::host::{
    BRIDGE_A, Family, PORT_A1, PORT_A2, PORT_S1, PORT_UNKNOWN, address, container_mac, mac_of,
};
use super::packets::{Draft, NETWORK, PADDING, arp, ip};
use super::{Case, Scene, container, scene};

const SAME: Verdict = Verdict::pass(Reason::SameNetwork);
const FORGED: Verdict = Verdict::drop(Reason::SpoofedNeighbour);

pub(super) fn cases(f: &Family) -> Vec<Case> {
    if f.v6 { [speaking(f), asking(f), routing(f)].concat() } else { resolution(f) }
}

fn resolution(f: &Family) -> Vec<Case> {
    let says = |name: &str, port, address: IpAddr| -> Scene {
        let own = container_mac(port);
        scene(name, Hook::PortIngress, port, arp(own, own, address, f.gateway_a))
    };
    let (own, sibling) = (container_mac(PORT_A1), container_mac(PORT_A2));
    let at_a1 = |name: &str, frame| scene(name, Hook::PortIngress, PORT_A1, frame);
    let changed = |name: &str, at: usize, byte| {
        let mut frame = arp(own, own, f.a1, f.gateway_a);
        frame[at] = byte;
        at_a1(name, frame)
    };
    let malformed = Verdict::drop(Reason::MalformedHeader);
    vec![
        says("its own address", PORT_A1, f.a1).gives(SAME),
        says("its sibling's address", PORT_A1, f.a2).gives(FORGED),
        says("an address that nobody owns", PORT_A1, f.unknown).gives(FORGED),
        says("the gateway's address", PORT_A1, f.gateway_a).gives(FORGED),
        says("another network's address", PORT_A1, f.b1).gives(FORGED),
        says("an address outside", PORT_A1, f.remote).gives(FORGED),
        says("a probe", PORT_A1, address("0.0.0.0")).gives(SAME),
        says("unknown, an address that nobody owns", PORT_UNKNOWN, f.unknown).gives(SAME),
        says("unknown, the gateway's address", PORT_UNKNOWN, f.gateway_a).gives(FORGED),
        says("unknown, a known one's address", PORT_UNKNOWN, f.a1).gives(FORGED),
        says("spoofing allowed, a shared address", PORT_S1, f.shared).gives(SAME),
        at_a1("its own address, with a sibling's MAC inside", arp(own, sibling, f.a1, f.gateway_a))
            .gives(FORGED),
        at_a1("a probe with a sibling's MAC inside", arp(own, sibling, address("0.0.0.0"), f.a2))
            .gives(FORGED),
        at_a1("from a sibling's MAC", arp(sibling, sibling, f.a1, f.gateway_a))
            .gives(Verdict::drop(Reason::SpoofedMac)),
        at_a1("cut short", arp(own, own, f.a1, f.gateway_a)[..41].to_vec()).gives(malformed),
        changed("of another hardware", 15, 6).gives(malformed),
        changed("of another protocol", 16, 0x86).gives(malformed),
        changed("of longer addresses", 19, 16).gives(malformed),
    ]
}

fn advertised(from: IpAddr, target: IpAddr) -> Draft {
    ip(from, address("ff02::1")).neighbour(icmp::NEIGHBOUR_ADVERTISEMENT, target)
}

/// The packet's length leaves out the last byte of the frame.
fn cut_into_trailer(name: &str, packet: &Draft) -> Scene {
    let mut scene = container(name, PORT_A1, packet.clone());
    scene.frame[NETWORK + 5] -= 1;
    scene
}

fn speaking(f: &Family) -> Vec<Case> {
    let says = |name: &str, port, from, target| container(name, port, advertised(from, target));
    let link = address("fe80::9");
    vec![
        says("its own address", PORT_A1, f.a1, f.a1).gives(SAME),
        says("its own address from its link-local one", PORT_A1, link, f.a1).gives(SAME),
        says("its sibling's address", PORT_A1, f.a1, f.a2).gives(FORGED),
        says("its sibling's address from a link-local one", PORT_A1, link, f.a2).gives(FORGED),
        says("an address that nobody owns", PORT_A1, link, f.unknown).gives(FORGED),
        says("the gateway's address", PORT_A1, link, f.gateway_a).gives(FORGED),
        says("another network's address", PORT_A1, link, f.b1).gives(FORGED),
        says("its link-local address", PORT_A1, link, link).gives(SAME),
        says("the gateway's link-local address", PORT_A1, link, address("fe80::1")).gives(FORGED),
        says("the link-local address of its sibling's MAC", PORT_A1, link, address("fe80::42:ff:fe00:20"))
            .gives(FORGED),
        says("unknown, an address that nobody owns", PORT_UNKNOWN, link, f.unknown).gives(SAME),
        says("unknown, a known one's address", PORT_UNKNOWN, link, f.a1).gives(FORGED),
        says("unknown, the gateway's address", PORT_UNKNOWN, link, f.gateway_a).gives(FORGED),
        says("spoofing allowed, a shared address", PORT_S1, link, f.shared).gives(SAME),
        container("behind an extension, its sibling's address", PORT_A1, {
            advertised(link, f.a2).extension(60, &PADDING)
        })
        .gives(FORGED),
        cut_into_trailer("its own address, half of it in the frame's trailer", &advertised(link, f.a1))
            .gives(FORGED),
        container("cut short", PORT_A1, advertised(link, f.a1).cut(23)).gives(FORGED),
    ]
}

fn asking(f: &Family) -> Vec<Case> {
    let nobody = address("::");
    let takes = |name: &str, port, target| {
        let group = address("ff02::1:ff00:11");
        container(name, port, ip(nobody, group).neighbour(icmp::NEIGHBOUR_SOLICITATION, target))
    };
    let asks = |name: &str, from, to| {
        let packet = ip(from, to).neighbour(icmp::NEIGHBOUR_SOLICITATION, f.gateway_a);
        container(name, PORT_A1, packet)
    };
    let router = ip(nobody, address("ff02::2")).hop_limit(255);
    vec![
        takes("about to take its own address", PORT_A1, f.a1).gives(SAME),
        takes("about to take a link-local address", PORT_A1, address("fe80::9")).gives(SAME),
        takes("about to take its sibling's address", PORT_A1, f.a2).gives(FORGED),
        takes("about to take the gateway's address", PORT_A1, f.gateway_a).gives(FORGED),
        takes("about to take the gateway's link-local address", PORT_A1, address("fe80::1")).gives(FORGED),
        asks("asking for its gateway", f.a1, address("ff02::1:ff00:1")).gives(SAME),
        // The kernel probes its neighbours from its link-local address (RFC 4861 section 7.3).
        asks("probing its gateway", address("fe80::9"), f.gateway_a).gives(Verdict::accept(Reason::ToHost)),
        asks("asking as its sibling", f.a2, address("ff02::1:ff00:1"))
            .gives(Verdict::drop(Reason::SpoofedSource)),
        container("soliciting a router", PORT_A1, router.clone().icmp(icmp::ROUTER_SOLICITATION, 0, &[0; 4]))
            .gives(SAME),
        container("reporting a group", PORT_A1, {
            let report = ip(nobody, address("ff02::16")).hop_limit(1).icmp(143, 0, &[0; 20]);
            report.extension(0, &[0, 5, 2, 0, 0, 1, 0])
        })
        .gives(SAME),
        container("reporting a group to the outside", PORT_A1, ip(nobody, f.remote).icmp(143, 0, &[0; 20]))
            .gives(Verdict::drop(Reason::SpoofedSource)),
        container("taking an address from beyond", PORT_A1, {
            let packet = ip(nobody, f.remote).neighbour(icmp::NEIGHBOUR_SOLICITATION, f.a1);
            packet.sent_to(mac_of(BRIDGE_A))
        })
        .gives(Verdict::drop(Reason::SpoofedSource)),
    ]
}

fn routing(f: &Family) -> Vec<Case> {
    let link = address("fe80::9");
    let all = address("ff02::1");
    let rogue = Verdict::drop(Reason::RogueRouter);
    let bad = Verdict::drop(Reason::BadDiscovery);
    let advertisement = || ip(link, all).hop_limit(255).icmp(icmp::ROUTER_ADVERTISEMENT, 0, &[0; 12]);
    let own = || advertised(f.a1, f.a1);
    vec![
        container("a router advertisement", PORT_A1, advertisement()).gives(rogue),
        container(
            "a router advertisement behind an extension",
            PORT_A1,
            advertisement().extension(60, &PADDING),
        )
        .gives(rogue),
        container("a router advertisement in a fragment", PORT_A1, advertisement().at_offset(0, true))
            .gives(rogue),
        container("a router advertisement in an atomic fragment", PORT_A1, {
            advertisement().extension(44, &[0, 0, 0, 0, 0, 0, 7])
        })
        .gives(rogue),
        container("a router advertisement behind a tag", PORT_A1, advertisement().tag(0x8100, 0))
            .gives(rogue),
        container("a router advertisement to a reserved MAC", PORT_A1, {
            advertisement().sent_to(Mac { bytes: [0x01, 0x80, 0xc2, 0, 0, 3] })
        })
        .gives(Verdict::drop(Reason::ReservedMac)),
        container("spoofing allowed, a router advertisement", PORT_S1, advertisement()).gives(rogue),
        container("an advertisement from beyond", PORT_A1, own().hop_limit(254)).gives(bad),
        container("an advertisement in a fragment", PORT_A1, own().at_offset(0, true)).gives(bad),
        container("an advertisement in an atomic fragment", PORT_A1, {
            own().extension(44, &[0, 0, 0, 0, 0, 0, 7])
        })
        .gives(bad),
    ]
}
