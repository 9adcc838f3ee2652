//! What a container sends, at its port: who it may say to be, and where it may go.

use std::net::IpAddr;

use fw_common::tables::{Endpoint, Port};
use fw_common::verdict::{Mark, Reason, Verdict};
use fw_common::wire::{Audience, icmp, proto, tcp};
use fw_common::{Hook, Mac};

use super::host::{
    BRIDGE_A, Family, PORT_A1, PORT_A2, PORT_I1, PORT_ORPHAN, PORT_S1, PORT_UNKNOWN, STRANGER, UPLINK,
    address, container_mac, mac_of,
};
use super::packets::{Draft, ethernet, ip};
use super::{Case, container, scene};

const SAME: Verdict = Verdict::pass(Reason::SameNetwork);
/// What may go out anyway may do so as well where the host leads it on.
const TO_HOST: Verdict = Verdict::accept(Reason::ToHost).marked(Mark::Out);
const TO_HOST_ALONE: Verdict = Verdict::accept(Reason::ToHost);
const ISOLATED: Verdict = Verdict::drop(Reason::Isolation);
const INTERNAL: Verdict = Verdict::drop(Reason::Internal);
const FORGED: Verdict = Verdict::drop(Reason::SpoofedSource);
const FORGED_MAC: Verdict = Verdict::drop(Reason::SpoofedMac);
const OUT: Verdict = Verdict::accept(Reason::Outbound).marked(Mark::Out);
const OUT_UNKNOWN: Verdict = Verdict::accept(Reason::Outbound);

pub(super) fn cases(f: &Family) -> Vec<Case> {
    [destinations(f), internal(f), sources(f), macs(f), spoofing(f), nowhere(f), routers(f), martians(f)]
        .concat()
}

fn syn(source: IpAddr, destination: IpAddr) -> Draft {
    ip(source, destination).tcp(40_000, 443, tcp::SYN)
}

fn destinations(f: &Family) -> Vec<Case> {
    let from_a1 = |name, to| container(name, PORT_A1, syn(f.a1, to));
    let sibling = mac_of(PORT_A2);
    let mut cases = vec![
        from_a1("to the outside", f.remote).gives(OUT),
        from_a1("to its sibling", f.a2).gives(Verdict::accept(Reason::SameNetwork).marked(Mark::In)),
        from_a1("to nobody on its network", f.unknown).gives(SAME),
        from_a1("to another network", f.b1).gives(ISOLATED),
        from_a1("to an internal network", f.i1).gives(ISOLATED),
        from_a1("to its gateway", f.gateway_a).gives(TO_HOST),
        from_a1("to another network's gateway", f.gateway_b).gives(TO_HOST),
        from_a1("to the host", f.ours).gives(TO_HOST),
        from_a1("to an address that only the FIB knows", f.new).gives(OUT),
        from_a1("to a denied host", f.denied_host).gives(OUT),
        container("to a group", PORT_A1, ip(f.a1, f.group).udp(5353, 5353, b"")).gives(SAME),
        // A neighbour that forwards must not become the way round us.
        container("to another network over a sibling", PORT_A1, syn(f.a1, f.b1).sent_to(sibling))
            .gives(ISOLATED),
        container("ending a connection to another network", PORT_A1, ip(f.a1, f.b1).tcp(443, 1, tcp::RST))
            .gives(ISOLATED),
        container("whoever the frame is for", PORT_A1, syn(f.a1, f.b1))
            .arriving(|arrival| arrival.audience = Audience::Host)
            .gives(ISOLATED),
        container("a mark that was there", PORT_A1, syn(f.a1, f.remote))
            .arriving(|arrival| arrival.mark = 0xffff_ffff)
            .gives(OUT),
        container("from an unknown container", PORT_UNKNOWN, syn(f.unknown, f.remote)).gives(OUT_UNKNOWN),
        container("from an unknown container to a known one", PORT_UNKNOWN, syn(f.unknown, f.a1)).gives(SAME),
        container("from an unknown container to another network", PORT_UNKNOWN, syn(f.unknown, f.b1))
            .gives(ISOLATED),
        container("to a port of the host that is closed outside", PORT_A1, ip(f.a1, f.ours).udp(1, 9, b""))
            .with(|tables| {
                tables.ports.retain(|_, port: &mut Port| port.rule == 0);
            })
            .gives(TO_HOST),
    ];
    if f.v6 {
        let link = address("fe80::1");
        let neighbour = address("fe80::2");
        cases.extend([
            from_a1("to the gateway's link-local address", link).gives(TO_HOST),
            from_a1("to a neighbour's link-local address", neighbour).gives(SAME),
            container("from a link-local address to the gateway", PORT_A1, syn(neighbour, f.gateway_a))
                .gives(TO_HOST_ALONE),
            container("from the gateway's link-local address", PORT_A1, syn(link, f.a2)).gives(FORGED),
            container("from the link-local address of its MAC", PORT_A1, syn(made_from(PORT_A1), f.a2))
                .gives(Verdict::accept(Reason::SameNetwork).marked(Mark::In)),
            container("from the link-local address of its sibling's MAC", PORT_A1, {
                syn(made_from(PORT_A2), f.a2)
            })
            .gives(FORGED),
            container("from a link-local address to the sibling", PORT_A1, syn(neighbour, f.a2))
                .gives(Verdict::accept(Reason::SameNetwork).marked(Mark::In)),
            container("from a link-local address to the gateway's", PORT_A1, syn(neighbour, link))
                .gives(TO_HOST_ALONE),
            container("from a link-local address to the outside", PORT_A1, syn(neighbour, f.remote))
                .gives(FORGED),
            container("from a link-local address to another network", PORT_A1, syn(neighbour, f.b1))
                .gives(FORGED),
        ]);
    } else {
        let directed = address("198.18.0.255");
        let all = address("255.255.255.255");
        cases.extend([
            container("to the host's broadcast address", PORT_A1, ip(f.a1, directed).udp(1, 9, b""))
                .gives(SAME),
            container("to all", PORT_A1, ip(f.a1, all).udp(1, 9, b"")).gives(SAME),
        ]);
    }
    cases
}

/// The link-local address that the kernel gives to the container behind a port (RFC 4291 appendix A).
fn made_from(port: u32) -> IpAddr {
    let [a, b, c, d, e, g] = container_mac(port).bytes;
    IpAddr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, g])
}

fn internal(f: &Family) -> Vec<Case> {
    let from_i1 = |name, to| container(name, PORT_I1, syn(f.i1, to));
    let mut cases = vec![
        from_i1("internal, to its sibling", f.i2)
            .gives(Verdict::accept(Reason::SameNetwork).marked(Mark::In)),
        from_i1("internal, to its gateway", f.gateway_internal).gives(TO_HOST_ALONE),
        from_i1("internal, to another gateway", f.gateway_a).gives(INTERNAL),
        from_i1("internal, to the host", f.ours).gives(INTERNAL),
        from_i1("internal, to an address that only the FIB knows", f.new).gives(INTERNAL),
        from_i1("internal, to the outside", f.remote).gives(INTERNAL),
        from_i1("internal, to another network", f.a1).gives(ISOLATED),
        from_i1("internal, to a group", f.group).gives(SAME),
    ];
    if f.v6 {
        let link = address("fe80::1");
        cases.push(from_i1("internal, to the gateway's link-local address", link).gives(TO_HOST_ALONE));
    } else {
        let broadcast = ip(f.i1, address("198.18.0.255")).udp(1, 9, b"");
        cases
            .push(container("internal, to the host's broadcast address", PORT_I1, broadcast).gives(INTERNAL));
    }
    cases
}

fn sources(f: &Family) -> Vec<Case> {
    let from = |name: &str, source| container(name, PORT_A1, syn(source, f.remote)).gives(FORGED);
    let nobody = address(if f.v6 { "::" } else { "0.0.0.0" });
    let server = if f.v6 { (546, 547) } else { (68, 67) };
    vec![
        from("its sibling's source", f.a2),
        from("a source that nobody owns", f.unknown),
        from("another network's source", f.b1),
        from("a source outside", f.remote),
        from("the gateway's source", f.gateway_a),
        from("the host's source", f.ours),
        from("no source", nobody),
        container("no source, to the host", PORT_A1, ip(nobody, f.ours).udp(server.0, server.1, b""))
            .gives(FORGED),
        container("no source, to the outside as a DHCP client", PORT_A1, {
            ip(nobody, f.remote).udp(server.0, server.1, b"")
        })
        .gives(FORGED),
        container("its sibling's source to its sibling", PORT_A1, syn(f.a2, f.a2)).gives(FORGED),
        container("unknown, with the gateway's source", PORT_UNKNOWN, syn(f.gateway_a, f.remote))
            .gives(FORGED),
        container("unknown, with another network's source", PORT_UNKNOWN, syn(f.b1, f.remote)).gives(FORGED),
        container("unknown, with a known one's source", PORT_UNKNOWN, syn(f.a1, f.remote)).gives(FORGED),
        container("unknown, with a known one's source and MAC", PORT_UNKNOWN, {
            syn(f.a1, f.remote).sent_by(container_mac(PORT_A1))
        })
        .gives(FORGED),
        container("known, with a source whose port is not known yet", PORT_A1, syn(f.unknown, f.remote))
            .with(|tables| {
                let own = tables.endpoints[&f.a1.into()];
                tables.endpoints.insert(f.unknown.into(), Endpoint { port: 0, ..own });
            })
            .gives(FORGED),
        container("unknown, with a source whose port is not known yet", PORT_UNKNOWN, {
            syn(f.a1, f.remote).sent_by(container_mac(PORT_A1))
        })
        .with(|tables| {
            if let Some(endpoint) = tables.endpoints.get_mut(&f.a1.into()) {
                endpoint.port = 0;
            }
        })
        .gives(OUT_UNKNOWN),
    ]
}

fn macs(f: &Family) -> Vec<Case> {
    let reserved = |last| Mac { bytes: [0x01, 0x80, 0xc2, 0, 0, last] };
    let to = |mac| container(&format!("to {mac}"), PORT_A1, syn(f.a1, f.ours).sent_to(mac));
    let from = |name: &str, port, source, mac| container(name, port, syn(source, f.remote).sent_by(mac));
    let group = Mac { bytes: [3, 0, 0, 0, 0, 1] };
    let mut cases: Vec<_> =
        (0..16).map(|last| to(reserved(last)).gives(Verdict::drop(Reason::ReservedMac))).collect();
    cases.extend([
        to(reserved(16)).gives(TO_HOST),
        from("a random MAC", PORT_A1, f.a1, Mac { bytes: [2, 9, 9, 9, 9, 9] }).gives(FORGED_MAC),
        from("its sibling's MAC and source", PORT_A1, f.a2, container_mac(PORT_A2)).gives(FORGED_MAC),
        from("the gateway's MAC", PORT_A1, f.a1, mac_of(BRIDGE_A)).gives(FORGED_MAC),
        from("unknown, any MAC", PORT_UNKNOWN, f.unknown, Mac { bytes: [2, 9, 9, 9, 9, 9] })
            .gives(OUT_UNKNOWN),
        from("unknown, a group's MAC", PORT_UNKNOWN, f.unknown, group).gives(FORGED_MAC),
    ]);
    for (name, kind) in
        [("LLDP", 0x88cc), ("IPv4 in SNAP", 0x8870), ("MPLS", 0x8847), ("an 802.3 length", 40)]
    {
        let frame = |to, from| [ethernet(to, from, kind), vec![0; 46]].concat();
        let own = container_mac(PORT_A1);
        let (sibling, forged) = (container_mac(PORT_A2), container_mac(PORT_A2));
        let at = |name: String, frame| scene(&name, Hook::PortIngress, PORT_A1, frame);
        cases.push(at(format!("{name} to the sibling"), frame(sibling, own)).gives(SAME));
        cases.push(at(format!("{name} from a forged MAC"), frame(sibling, forged)).gives(FORGED_MAC));
        cases.push(
            at(format!("{name} to a reserved MAC"), frame(reserved(14), own))
                .gives(Verdict::drop(Reason::ReservedMac)),
        );
    }
    cases
}

/// A network whose containers own more addresses than Docker knows (VRRP).
fn spoofing(f: &Family) -> Vec<Case> {
    let from = |name, source| container(name, PORT_S1, syn(source, f.remote));
    vec![
        from("spoofing allowed, its own source", f.s1).gives(OUT),
        from("spoofing allowed, a shared source", f.shared).gives(OUT),
        from("spoofing allowed, a source outside", f.elsewhere).gives(OUT),
        from("spoofing allowed, another network's source", f.a1).gives(FORGED),
        container("spoofing allowed, another MAC", PORT_S1, {
            syn(f.shared, f.remote).sent_by(Mac { bytes: [0, 0, 0x5e, 0, 1, 9] })
        })
        .gives(OUT),
        container("spoofing allowed, to another network", PORT_S1, syn(f.shared, f.a1)).gives(ISOLATED),
        container("spoofing allowed, to a reserved MAC", PORT_S1, {
            syn(f.s1, f.ours).sent_to(Mac { bytes: [0x01, 0x80, 0xc2, 0, 0, 0] })
        })
        .gives(Verdict::drop(Reason::ReservedMac)),
    ]
}

fn nowhere(f: &Family) -> Vec<Case> {
    let unknown = Verdict::drop(Reason::UnknownInterface);
    let at = |name: &str, device| container(name, device, syn(f.a1, f.remote)).gives(unknown);
    vec![
        at("a port that no table knows", STRANGER),
        at("a port whose network no table knows", PORT_ORPHAN),
        at("a port's hook on an uplink", UPLINK),
        at("a port's hook on a bridge", BRIDGE_A),
    ]
}

/// Who tells others where to route, or what their address is (CVE-2020-13401).
fn routers(f: &Family) -> Vec<Case> {
    let rogue = Verdict::drop(Reason::RogueRouter);
    let redirect = ip(f.a1, f.a2);
    let kind = redirect.of_family(icmp::REDIRECT);
    let (server, client) = if f.v6 { (547, 546) } else { (67, 68) };
    let dhcp = |from, to, source_port, port| ip(from, to).udp(source_port, port, &[2; 40]);
    let (nobody, all, own) =
        if f.v6 { ("fe80::9", "ff02::1:2", "fe80::9") } else { ("0.0.0.0", "255.255.255.255", "10.1.0.11") };
    let mut cases = vec![
        container("a redirect", PORT_A1, redirect.icmp(kind, 1, &[0; 40])).gives(rogue),
        container("an answer of a DHCP server", PORT_A1, dhcp(f.a1, f.a2, server, client)).gives(rogue),
        container(
            "an answer of a DHCP server to all",
            PORT_A1,
            dhcp(address(own), address(all), server, client),
        )
        .gives(rogue),
        container(
            "a question of a DHCP client",
            PORT_A1,
            dhcp(address(nobody), address(all), client, server),
        )
        .gives(SAME),
        container(
            "a question of a DHCP client to its gateway",
            PORT_A1,
            dhcp(f.a1, f.gateway_a, client, server),
        )
        .gives(TO_HOST),
        container("spoofing allowed, a DHCP server", PORT_S1, dhcp(f.s1, f.shared, server, client))
            .gives(rogue),
    ];
    if !f.v6 {
        let group = address("224.0.0.22");
        cases.extend([
            container(
                "IGMP without an address",
                PORT_A1,
                ip(address("0.0.0.0"), group).protocol(proto::IGMP, &[0x11; 8]),
            )
            .gives(SAME),
            container("IGMP without an address, to the outside", PORT_A1, {
                ip(address("0.0.0.0"), f.remote).protocol(proto::IGMP, &[0x11; 8])
            })
            .gives(FORGED),
        ]);
    }
    cases
}

fn martians(f: &Family) -> Vec<Case> {
    let martian = Verdict::drop(Reason::Martian);
    let (loopback, group) = if f.v6 { ("::1", "ff02::9") } else { ("127.0.0.1", "224.0.0.9") };
    let mut cases = vec![
        container("from loopback", PORT_A1, syn(address(loopback), f.ours)).gives(martian),
        // route_localnet=1 would deliver it.
        container("to loopback", PORT_A1, syn(f.a1, address(loopback))).gives(martian),
        container("from a group", PORT_A1, syn(address(group), f.ours)).gives(martian),
        container("spoofing allowed, from loopback", PORT_S1, syn(address(loopback), f.ours)).gives(martian),
    ];
    if f.v6 {
        let mapped = address("::ffff:10.1.0.11");
        cases.push(container("from IPv4 inside IPv6", PORT_A1, syn(mapped, f.remote)).gives(martian));
    }
    cases
}
