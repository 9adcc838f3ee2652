//! What goes up from a bridge: the backstop for ports that have no hook yet.

use std::net::IpAddr;

use fw_common::flow::counted;
use fw_common::verdict::{Reason, Verdict};
use fw_common::wire::{ethertype, icmp, tcp};
use fw_common::{Hook, Mac};

use super::host::{
    BRIDGE_A, BRIDGE_B, BRIDGE_INTERNAL, BRIDGE_SPOOFING, Family, PORT_A1, PORT_A2, PORT_I1, PORT_S1,
    PORT_UNKNOWN, UPLINK, address, container_mac, mac_of,
};
use super::packets::{Draft, arp, ethernet, ip};
use super::{Case, Scene, bridge, scene};

const TO_HOST: Verdict = Verdict::accept(Reason::ToHost);
const OUT: Verdict = Verdict::accept(Reason::Outbound);
const FORGED: Verdict = Verdict::drop(Reason::SpoofedSource);
const UNKNOWN: Verdict = Verdict::drop(Reason::UnknownProtocol);

pub(super) fn cases(f: &Family) -> Vec<Case> {
    [marks(f), destinations(f), sources(f), frames(f)].concat()
}

fn syn(source: IpAddr, destination: IpAddr) -> Draft {
    ip(source, destination).tcp(40_000, 443, tcp::SYN)
}

fn from_a1(name: &str, f: &Family, to: IpAddr) -> Scene {
    bridge(name, BRIDGE_A, PORT_A1, syn(f.a1, to))
}

fn marks(f: &Family) -> Vec<Case> {
    let marked = |name: &str, mark| from_a1(name, f, f.b1).arriving(|arrival| arrival.mark = mark);
    let judged = Verdict::pass(Reason::JudgedAtPort);
    let isolated = Verdict::drop(Reason::Isolation);
    vec![
        marked("with the mark IN", 1 << 17).gives(judged),
        marked("with the mark OUT", 2 << 17).gives(judged),
        marked("with the mark REACH", 3 << 17 | 0x0f00_00ff).gives(judged),
        // To the host as its port's hook saw it, and after NAT to anywhere: unmarked from here.
        marked("to the host by a port's hook", 2 << 17)
            .arriving(|arrival| arrival.owner = counted::TO_HOST)
            .gives(TO_HOST),
        marked("with the number of that, and no mark", 0)
            .arriving(|arrival| arrival.owner = counted::TO_HOST)
            .gives(isolated),
        marked("without a mark", 0).gives(isolated),
        marked("with others' marks", !(3 << 17)).gives(isolated),
        marked("with a mark at another place", 1 << 17)
            .with(|tables| tables.settings.mark_bit = 20)
            .gives(isolated),
        from_a1("to another machine, the bridge being promiscuous", f, f.b1)
            .arriving(|arrival| arrival.audience = fw_common::wire::Audience::Other)
            .gives(Verdict::pass(Reason::OtherHost)),
    ]
}

fn destinations(f: &Family) -> Vec<Case> {
    let internal = |name, to| bridge(name, BRIDGE_INTERNAL, PORT_I1, syn(f.i1, to));
    let closed = Verdict::drop(Reason::Internal);
    vec![
        from_a1("to the outside", f, f.remote).gives(OUT),
        from_a1("to the host", f, f.ours).gives(TO_HOST),
        from_a1("to its gateway", f, f.gateway_a).gives(TO_HOST),
        from_a1("to another network", f, f.b1).gives(Verdict::drop(Reason::Isolation)),
        from_a1("hairpin", f, f.a2).gives(Verdict::pass(Reason::SameNetwork)),
        from_a1("to a group", f, f.group).gives(Verdict::pass(Reason::SameNetwork)),
        internal("internal, to its gateway", f.gateway_internal).gives(TO_HOST),
        internal("internal, to the outside", f.remote).gives(closed),
        internal("internal, to the host", f.ours).gives(closed),
    ]
}

fn sources(f: &Family) -> Vec<Case> {
    let from = |name, source, mac: Mac| {
        let packet = syn(source, f.remote).sent_by(mac);
        bridge(name, BRIDGE_A, PORT_UNKNOWN, packet)
    };
    let (a1, a2, unknown) = (container_mac(PORT_A1), container_mac(PORT_A2), container_mac(PORT_UNKNOWN));
    let server = if f.v6 { (547, 546) } else { (67, 68) };
    let mut cases = vec![
        from("a container's own source", f.a1, a1).gives(OUT),
        from("a container's source with its sibling's MAC", f.a1, a2).gives(FORGED),
        from("a source that nobody owns", f.unknown, unknown).gives(OUT),
        from("another network's source", f.b1, unknown).gives(FORGED),
        from("a source outside", f.remote, unknown).gives(FORGED),
        from("the gateway's source", f.gateway_a, unknown).gives(FORGED),
        bridge("another network's bridge", BRIDGE_B, PORT_A1, syn(f.a1, f.remote)).gives(FORGED),
        bridge("spoofing allowed, a source outside", BRIDGE_SPOOFING, PORT_S1, syn(f.elsewhere, f.remote))
            .gives(OUT),
        bridge("spoofing allowed, another network's source", BRIDGE_SPOOFING, PORT_S1, syn(f.a1, f.remote))
            .gives(FORGED),
        bridge(
            "a DHCP server's answer",
            BRIDGE_A,
            PORT_A1,
            ip(f.a1, f.gateway_a).udp(server.0, server.1, b""),
        )
        .gives(Verdict::drop(Reason::RogueRouter)),
        bridge("a martian", BRIDGE_A, PORT_A1, {
            syn(f.a1, address(if f.v6 { "::1" } else { "127.0.0.1" }))
        })
        .gives(Verdict::drop(Reason::Martian)),
    ];
    if f.v6 {
        let advertised = |name, target| {
            let packet = ip(f.a1, f.gateway_a).neighbour(icmp::NEIGHBOUR_ADVERTISEMENT, target);
            bridge(name, BRIDGE_A, PORT_A1, packet)
        };
        cases.extend([
            advertised("advertising its own address", f.a1).gives(TO_HOST),
            advertised("advertising the gateway's address", f.gateway_a)
                .gives(Verdict::drop(Reason::SpoofedNeighbour)),
            advertised("advertising another network's address", f.b1)
                .gives(Verdict::drop(Reason::SpoofedNeighbour)),
        ]);
    }
    cases
}

fn frames(f: &Family) -> Vec<Case> {
    let own = container_mac(PORT_A1);
    let at = |name: &str, frame| scene(name, Hook::BridgeIngress, BRIDGE_A, frame);
    let kind = |name: &str, kind| at(name, [ethernet(mac_of(BRIDGE_A), own, kind), vec![0; 46]].concat());
    let tagged =
        |name, control| bridge(name, BRIDGE_A, PORT_A1, syn(f.a1, f.b1).tag(ethertype::VLAN, control));
    let mut cases = vec![
        kind("LLDP", 0x88cc).gives(UNKNOWN),
        kind("an 802.3 length", 46).gives(UNKNOWN),
        tagged("another VLAN", 5).gives(UNKNOWN),
        tagged("a priority tag", 0).gives(Verdict::drop(Reason::Isolation)),
        bridge("a bridge's hook on an uplink", UPLINK, PORT_A1, syn(f.a1, f.remote))
            .gives(Verdict::drop(Reason::UnknownInterface)),
        bridge("a cut segment", BRIDGE_A, PORT_A1, syn(f.a1, f.remote).cut(19))
            .gives(Verdict::drop(Reason::MalformedTransport)),
    ];
    if !f.v6 {
        let says = |name: &str, address| at(name, arp(own, own, address, f.gateway_a));
        cases.extend([
            says("ARP with its own address", f.a1).gives(Verdict::pass(Reason::SameNetwork)),
            says("ARP with its sibling's address", f.a2).gives(Verdict::drop(Reason::SpoofedNeighbour)),
            says("ARP with the gateway's address", f.gateway_a)
                .gives(Verdict::drop(Reason::SpoofedNeighbour)),
        ]);
    }
    cases
}
