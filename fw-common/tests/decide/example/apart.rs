//! Networks without icc: neighbours, by whatever address, tag or protocol, and what the gateway needs all the same.

use std::net::IpAddr;

use fw_common::verdict::{Mark, Reason, Verdict};
use fw_common::wire::{ethertype, icmp, proto, tcp};
use fw_common::{Hook, Mac};

use super::host::{
    BRIDGE_A, BRIDGE_NO_ICC, BRIDGED_UPLINK, Family, PORT_A1, PORT_A2, PORT_N1, PORT_N3, STRANGER, UPLINK,
    address, container_mac, mac_of,
};
use super::packets::{Draft, arp, ethernet, ip};
use super::{Case, Scene, bridge, container, scene};

const ICC: Verdict = Verdict::drop(Reason::Icc);
const UP: Verdict = Verdict::pass(Reason::SameNetwork);
const TO_HOST: Verdict = Verdict::accept(Reason::ToHost).marked(Mark::Out);
const OUT: Verdict = Verdict::accept(Reason::Outbound).marked(Mark::Out);
const LINK: Verdict = Verdict::accept(Reason::Link).marked(Mark::In);
const UNVOUCHED: Verdict = Verdict::drop(Reason::Unvouched);
const VOUCHED: Verdict = Verdict::pass(Reason::JudgedAtPort);

const ALL: Mac = Mac { bytes: [0xff; 6] };
/// That of n2, whose port is not known.
const N2: Mac = Mac { bytes: [2, 0x42, 0, 0, 0, 200] };

pub(super) fn cases(f: &Family) -> Vec<Case> {
    let common = [neighbours(f), other_protocols(f), gateway(f), links(f), leaving(f), alone(f)].concat();
    let own = if f.v6 { discovery(f) } else { resolution(f) };
    [common, own].concat()
}

fn syn(source: IpAddr, destination: IpAddr) -> Draft {
    ip(source, destination).tcp(40_000, 443, tcp::SYN)
}

fn from_n1(name: &str, packet: Draft) -> Scene {
    container(name, PORT_N1, packet)
}

fn neighbours(f: &Family) -> Vec<Case> {
    let group = Mac { bytes: [1, 0, 0x5e, 0, 0, 1] };
    let to_n2 = || syn(f.n1, f.n2).sent_to(N2);
    let tagged = |kind, count: usize| (0..count).fold(to_n2(), |packet, _| packet.tag(kind, 0));
    let mut cases = vec![
        from_n1("to the sibling", to_n2()).gives(ICC),
        from_n1("to the sibling, in answer to nothing", ip(f.n1, f.n2).tcp(443, 1, tcp::ACK).sent_to(N2))
            .gives(ICC),
        from_n1("a ping to the sibling", ip(f.n1, f.n2).echo(7).sent_to(N2)).gives(ICC),
        from_n1("to the sibling over the gateway", syn(f.n1, f.n2)).gives(ICC),
        from_n1("to the sibling in a frame for all", syn(f.n1, f.n2).sent_to(ALL)).gives(ICC),
        from_n1("to the sibling in a frame for a group", syn(f.n1, f.n2).sent_to(group)).gives(ICC),
        from_n1("to nobody on its network", syn(f.n1, f.unknown).sent_to(N2)).gives(ICC),
        from_n1("to the outside over the sibling", syn(f.n1, f.remote).sent_to(N2)).gives(ICC),
        from_n1("to the host over the sibling", syn(f.n1, f.ours).sent_to(N2)).gives(ICC),
        from_n1("to another network over the sibling", syn(f.n1, f.a1).sent_to(N2)).gives(ICC),
        from_n1("to a group in a frame for the sibling", ip(f.n1, f.group).udp(5353, 5353, b"").sent_to(N2))
            .gives(ICC),
        from_n1("to a MAC that nobody has", syn(f.n1, f.remote).sent_to(Mac { bytes: [2, 9, 9, 9, 9, 9] }))
            .gives(ICC),
        from_n1("forged, to the sibling", syn(f.n2, f.n2).sent_to(N2))
            .gives(Verdict::drop(Reason::SpoofedSource)),
        from_n1("where spoofing is allowed, too", to_n2())
            .with(|tables| {
                if let Some(network) = tables.networks.get_mut(&BRIDGE_NO_ICC) {
                    network.spoofing = 1;
                }
            })
            .gives(ICC),
        from_n1("behind one tag", tagged(ethertype::VLAN, 1)).gives(ICC),
        from_n1("behind three tags", tagged(ethertype::VLAN, 3)).gives(ICC),
        from_n1("behind eight tags", tagged(ethertype::VLAN, 8)).gives(ICC),
        from_n1("behind a service tag", tagged(ethertype::SERVICE_VLAN, 1)).gives(ICC),
        from_n1(
            "behind a service tag and another",
            to_n2().tag(ethertype::VLAN, 0).tag(ethertype::SERVICE_VLAN, 0),
        )
        .gives(ICC),
        from_n1("in another VLAN", to_n2().tag(ethertype::VLAN, 5)).gives(ICC),
        bridge("going up, to the sibling's address", BRIDGE_NO_ICC, PORT_N1, syn(f.n1, f.n3)).gives(ICC),
        bridge("going up, to the outside", BRIDGE_NO_ICC, PORT_N1, syn(f.n1, f.remote))
            .gives(Verdict::accept(Reason::Outbound)),
    ];
    if f.v6 {
        let (own, other) = (address("fe80::9"), address("fe80::2"));
        cases.extend([
            from_n1("from link-local to link-local", syn(own, other).sent_to(N2)).gives(ICC),
            from_n1("from link-local to the sibling", syn(own, f.n2).sent_to(N2)).gives(ICC),
            from_n1("to a link-local address over the gateway", syn(own, other)).gives(ICC),
        ]);
    }
    cases
}

fn other_protocols(_: &Family) -> Vec<Case> {
    let own = container_mac(PORT_N1);
    let mut cases = Vec::new();
    for (name, kind) in [
        ("LLDP", 0x88cc),
        ("PPPoE discovery", 0x8863),
        ("PPPoE", 0x8864),
        ("MPLS", 0x8847),
        ("Realtek", 0x8899),
        ("IPv4 in SNAP", 0x8870),
        ("local experiments", 0x88b7),
        ("an 802.3 length", 40),
        ("an undefined length", 0x05f0),
        ("a length of 0", 0),
    ] {
        for (whom, to) in [("the sibling", N2), ("all", ALL), ("the host", mac_of(BRIDGE_NO_ICC))] {
            let frame = [ethernet(to, own, kind), vec![0; 46]].concat();
            cases.push(scene(&format!("{name} to {whom}"), Hook::PortIngress, PORT_N1, frame).gives(ICC));
        }
    }
    cases
}

fn gateway(f: &Family) -> Vec<Case> {
    vec![
        from_n1("to the outside", syn(f.n1, f.remote)).gives(OUT),
        from_n1("to its gateway", syn(f.n1, f.gateway_n)).gives(TO_HOST),
        from_n1("to the host", syn(f.n1, f.ours)).gives(TO_HOST),
        from_n1("to another network", syn(f.n1, f.a1)).gives(Verdict::drop(Reason::Isolation)),
        from_n1("to its gateway in a frame for all", syn(f.n1, f.gateway_n).sent_to(ALL)).gives(TO_HOST),
        from_n1("to a group", ip(f.n1, f.group).udp(5353, 5353, b"").sent_to(ALL)).gives(UP),
    ]
}

fn links(f: &Family) -> Vec<Case> {
    let there = container_mac(PORT_N3);
    let (client, server) = (f.n1, f.n3);
    let to_server = |name, packet: Draft| from_n1(name, packet.sent_to(there));
    let to_client = |name, packet: Draft| container(name, PORT_N3, packet.sent_to(container_mac(PORT_N1)));
    vec![
        to_server("linked, to an exposed port", ip(client, server).tcp(40_000, 443, tcp::SYN)).gives(LINK),
        to_server("linked, more of it", ip(client, server).tcp(40_000, 443, tcp::ACK)).gives(LINK),
        to_server("linked, to an exposed UDP port", ip(client, server).udp(40_000, 53, b"")).gives(LINK),
        to_server("linked, to another port", ip(client, server).tcp(40_000, 444, tcp::SYN)).gives(ICC),
        to_server("linked, by another protocol", ip(client, server).udp(40_000, 443, b"")).gives(ICC),
        to_server("linked, a protocol without ports", ip(client, server).protocol(proto::GRE, &[0; 8]))
            .gives(ICC),
        to_server("linked, the protocol with number 0", {
            ip(client, server).protocol(if f.v6 { 253 } else { 0 }, &[0; 8])
        })
        .gives(ICC),
        to_server("linked, a ping", ip(client, server).echo(7)).gives(ICC),
        from_n1("linked, over the gateway", ip(client, server).tcp(40_000, 443, tcp::SYN)).gives(ICC),
        from_n1("linked, in a frame for all", ip(client, server).tcp(40_000, 443, tcp::SYN).sent_to(ALL))
            .gives(ICC),
        from_n1(
            "linked, in a frame for another sibling",
            ip(client, server).tcp(40_000, 443, tcp::SYN).sent_to(N2),
        )
        .gives(ICC),
        to_server(
            "linked, from a container that is not known",
            ip(client, server).tcp(40_000, 443, tcp::SYN),
        )
        .with(|tables| {
            if let Some(port) = tables.interfaces.get_mut(&PORT_N1) {
                port.endpoint_known = 0;
            }
        })
        .gives(ICC),
        to_client("the way back, opening", ip(server, client).tcp(443, 40_000, tcp::SYN)).gives(ICC),
        to_client(
            "the way back, in answer to nothing",
            ip(server, client).tcp(443, 40_000, tcp::SYN | tcp::ACK),
        )
        .gives(ICC),
        to_client("the way back, to the same port", ip(server, client).tcp(40_000, 443, tcp::SYN)).gives(ICC),
        to_client("the way back, a datagram in answer to nothing", ip(server, client).udp(53, 40_000, b""))
            .gives(ICC),
    ]
}

/// What leaves by the port of a container.
fn leaving(f: &Family) -> Vec<Case> {
    let frame = |to| syn(f.n1, f.n3).between(to, container_mac(PORT_N1)).frame();
    let there = container_mac(PORT_N3);
    let at = |name: &str, ingress, to| {
        let leaving = scene(name, Hook::PortEgress, PORT_N3, frame(to));
        leaving.arriving(|arrival| arrival.ingress_ifindex = ingress)
    };
    let marked =
        |name: &str, mark: u32| at(name, PORT_N1, there).arriving(|arrival| arrival.mark = mark << 17);
    vec![
        at("from the host", 0, there).gives(Verdict::pass(Reason::Sent)),
        at("from the host, to all", 0, ALL).gives(Verdict::pass(Reason::Sent)),
        at("routed from the outside", UPLINK, there).gives(Verdict::pass(Reason::Sent)),
        at("routed from a bridge that is an uplink's", BRIDGED_UPLINK, there)
            .gives(Verdict::pass(Reason::Sent)),
        at("routed from another network", BRIDGE_A, there).gives(Verdict::pass(Reason::Sent)),
        at("from a port that no table knows", STRANGER, there).gives(UNVOUCHED),
        at("from a port that no table knows, to all", STRANGER, ALL).gives(UNVOUCHED),
        at("routed from a device that no table knows", STRANGER, mac_of(PORT_N3))
            .gives(Verdict::pass(Reason::Sent)),
        marked("from a neighbour, not vouched for", 0).gives(UNVOUCHED),
        marked("from a neighbour, vouched for", 1).gives(VOUCHED),
        marked("from a neighbour, vouched for towards the outside", 2).gives(UNVOUCHED),
        marked("from a neighbour, vouched for towards another network", 3).gives(UNVOUCHED),
        at("from a neighbour, vouched for, but to all", PORT_N1, ALL)
            .arriving(|arrival| arrival.mark = 1 << 17)
            .gives(UNVOUCHED),
        marked("on a network with icc", 0)
            .with(|tables| {
                if let Some(network) = tables.networks.get_mut(&BRIDGE_NO_ICC) {
                    network.icc = 1;
                }
            })
            .gives(UP),
        scene("at a device that no table knows", Hook::PortEgress, STRANGER, frame(there))
            .gives(Verdict::drop(Reason::UnknownInterface)),
        scene("at a bridge", Hook::PortEgress, BRIDGE_A, frame(there))
            .gives(Verdict::drop(Reason::UnknownInterface)),
        scene("to a container with icc", Hook::PortEgress, PORT_A2, frame(there))
            .arriving(|arrival| arrival.ingress_ifindex = PORT_A1)
            .gives(UP),
    ]
}

/// One container apart on a network whose others talk to each other.
fn alone(f: &Family) -> Vec<Case> {
    let apart =
        |scene: Scene| scene.with(|tables| tables.interfaces.get_mut(&PORT_A2).expect("a port").apart = 1);
    let (mine, other) = (container_mac(PORT_A2), container_mac(PORT_A1));
    let from = |name: &str, packet| apart(container(name, PORT_A2, packet));
    let leaving = |name: &str, port, ingress: u32| {
        let to = container_mac(port);
        let frame = syn(f.a1, f.a2).between(to, container_mac(ingress)).frame();
        let scene = scene(name, Hook::PortEgress, port, frame);
        apart(scene.arriving(|arrival| {
            arrival.ingress_ifindex = ingress;
            arrival.mark = 1 << 17;
        }))
    };
    let same = Verdict::accept(Reason::SameNetwork).marked(Mark::In);
    vec![
        from("alone, to a neighbour", syn(f.a2, f.a1).sent_to(other)).gives(ICC),
        from("alone, to a neighbour over the gateway", syn(f.a2, f.a1)).gives(ICC),
        from("alone, to the outside over a neighbour", syn(f.a2, f.remote).sent_to(other)).gives(ICC),
        from("alone, in a VLAN", syn(f.a2, f.a1).sent_to(other).tag(ethertype::VLAN, 5)).gives(ICC),
        from("alone, to the outside", syn(f.a2, f.remote)).gives(OUT),
        from("alone, to the host", syn(f.a2, f.ours)).gives(TO_HOST),
        apart(container("to one alone", PORT_A1, syn(f.a1, f.a2).sent_to(mine))).gives(ICC),
        apart(container("to one alone over the gateway", PORT_A1, syn(f.a1, f.a2))).gives(ICC),
        apart(bridge("to one alone, from a port without hook", BRIDGE_A, PORT_A1, syn(f.a1, f.a2)))
            .gives(ICC),
        container("to the same, not alone", PORT_A1, syn(f.a1, f.a2).sent_to(mine)).gives(same),
        leaving("at the port of one alone, though vouched for", PORT_A2, PORT_A1).gives(UNVOUCHED),
        leaving("at the port of one alone, from the host", PORT_A2, 0).gives(Verdict::pass(Reason::Sent)),
        leaving("at the port of one alone, routed", PORT_A2, UPLINK).gives(Verdict::pass(Reason::Sent)),
        leaving("from one alone at its neighbour's port", PORT_A1, PORT_A2).gives(UNVOUCHED),
        leaving("from another neighbour at its neighbour's port", PORT_A1, PORT_A1).gives(UP),
    ]
}

fn resolution(f: &Family) -> Vec<Case> {
    let (own, there) = (container_mac(PORT_N1), container_mac(PORT_N3));
    let host = mac_of(BRIDGE_NO_ICC);
    let nobody = address("0.0.0.0");
    let sent_to = |to: Mac, source, target| {
        let mut frame = arp(own, own, source, target);
        frame[..6].copy_from_slice(&to.bytes);
        frame
    };
    let at =
        |name: &str, to, source, target| scene(name, Hook::PortIngress, PORT_N1, sent_to(to, source, target));
    let left = |name: &str, ingress, mark: u32, target| {
        let frame = sent_to(ALL, f.n1, target);
        scene(name, Hook::PortEgress, PORT_N3, frame).arriving(|arrival| {
            arrival.ingress_ifindex = ingress;
            arrival.mark = mark << 17;
        })
    };
    vec![
        at("asking for its gateway", ALL, f.n1, f.gateway_n).gives(UP),
        at("asking its gateway alone", host, f.n1, f.gateway_n).gives(UP),
        at("probing an address", ALL, nobody, f.n1).gives(UP),
        at("announcing itself", ALL, f.n1, f.n1).gives(UP),
        at("asking for an address elsewhere, as proxy ARP answers", ALL, f.n1, f.remote).gives(UP),
        at("asking for a sibling", ALL, f.n1, f.n2).gives(ICC),
        at("asking for nobody", ALL, f.n1, address("10.4.0.99")).gives(ICC),
        at("asking a sibling for the gateway", N2, f.n1, f.gateway_n).gives(ICC),
        at("announcing itself to a sibling", N2, f.n1, f.n1).gives(ICC),
        at("asking for whom it is linked to", ALL, f.n1, f.n3).gives(LINK),
        at("asking the one that it is linked to", there, f.n1, f.n3).gives(LINK),
        at("asking another sibling for the one that it is linked to", N2, f.n1, f.n3).gives(ICC),
        at("saying to be a sibling", ALL, f.n2, f.gateway_n).gives(Verdict::drop(Reason::SpoofedNeighbour)),
        left("a neighbour's question for the gateway", PORT_N1, 0, f.gateway_n).gives(UNVOUCHED),
        left("the question of a neighbour that is linked", PORT_N1, 1, f.n3).gives(VOUCHED),
        left("the question of a neighbour that is linked to another one", PORT_N1, 1, f.n2).gives(UNVOUCHED),
        left("a question of the host", 0, 0, f.n3).gives(Verdict::pass(Reason::Sent)),
    ]
}

fn discovery(f: &Family) -> Vec<Case> {
    let group = Mac { bytes: [0x33, 0x33, 0xff, 0, 0, 1] };
    let link = address("fe80::9");
    let asks = |name: &str, to: IpAddr, mac: Option<Mac>, target| {
        let packet = ip(link, to).neighbour(icmp::NEIGHBOUR_SOLICITATION, target);
        from_n1(name, mac.into_iter().fold(packet, Draft::sent_to))
    };
    let says = |name: &str, to: IpAddr, mac: Option<Mac>| {
        let packet = ip(f.n1, to).neighbour(icmp::NEIGHBOUR_ADVERTISEMENT, f.n1);
        from_n1(name, mac.into_iter().fold(packet, Draft::sent_to))
    };
    vec![
        asks("asking for its gateway", address("ff02::1:ff00:1"), Some(group), f.gateway_n).gives(UP),
        asks("probing its gateway", f.gateway_n, None, f.gateway_n).gives(Verdict::accept(Reason::ToHost)),
        asks("probing a sibling", f.n2, Some(N2), f.n2).gives(ICC),
        asks("asking a sibling for the gateway", f.gateway_n, Some(N2), f.gateway_n).gives(ICC),
        says("answering its gateway", f.gateway_n, None).gives(TO_HOST),
        says("answering its gateway's link-local address", address("fe80::1"), None).gives(TO_HOST),
        says("answering a sibling", f.n2, Some(N2)).gives(ICC),
        says("announcing itself", address("ff02::1"), Some(group)).gives(UP),
    ]
}
