//! What a network's or a container's terms let it open, what came in to it, and which networks reach which.

use std::net::IpAddr;

use fw_common::flow::{FlowKey, owner, state};
use fw_common::tables::memory::Memory;
use fw_common::tables::{Prefix, ReachKey, Terms, Zones, egress};
use fw_common::verdict::{Mark, Reason, Verdict};
use fw_common::wire::{icmp, proto, tcp};

use super::host::{
    BRIDGE_A, BRIDGE_B, BRIDGE_INTERNAL, Family, PORT_A1, PORT_A2, PORT_B1, PORT_I1, PORT_UNKNOWN, UPLINK,
    address,
};
use super::packets::{Draft, arp, ip};
use super::{Case, Scene, bridge, container, down, scene, tuple};

const OUT: Verdict = Verdict::accept(Reason::Outbound).marked(Mark::Out);
const ANSWER: Verdict = Verdict::accept(Reason::Answer);
const ANSWER_OUT: Verdict = ANSWER.marked(Mark::Out);
const EGRESS: Verdict = Verdict::drop(Reason::Egress);
const DENIED: Verdict = Verdict::drop(Reason::HostDenied);
const TO_HOST: Verdict = Verdict::accept(Reason::ToHost);
const SAME: Verdict = Verdict::pass(Reason::SameNetwork);
const ISOLATED: Verdict = Verdict::drop(Reason::Isolation);
const REACH: Verdict = Verdict::accept(Reason::Reach).marked(Mark::Reach);
const DELIVERED: Verdict = Verdict::pass(Reason::Delivered);

const NONE: Terms = Terms { egress: 0, ..Terms::OPEN };
const INTERNET: Terms = Terms { egress: egress::INTERNET, ..Terms::OPEN };
/// The zones `office` and `branch` of the host.
const ZONES: Terms = Terms { egress: egress::ZONES, zones: 3, ..Terms::OPEN };
/// Of their members those that have public addresses.
const PUBLIC_ZONES: Terms = Terms { egress: egress::PUBLIC_ZONES, ..ZONES };
const CLOSED_HOST: Terms = Terms { host: 0, ..Terms::OPEN };

pub(super) fn cases(f: &Family) -> Vec<Case> {
    [outside(f), answers(f), errors(f), host(f), at_bridge(f), reach(f), arrivals(f)].concat()
}

/// With this address in the zone `office`.
fn in_office(address: IpAddr) -> impl Fn(&mut Memory) {
    move |tables| _ = tables.sources.insert(Prefix::new(address.into(), 128), Zones { zones: 1 })
}

/// Network A with these terms, its containers too.
fn on(terms: Terms) -> impl Fn(&mut Memory) {
    move |tables| {
        for ifindex in [PORT_A1, PORT_A2, PORT_UNKNOWN] {
            tables.interfaces.get_mut(&ifindex).expect("a port").terms = terms;
        }
        tables.networks.get_mut(&BRIDGE_A).expect("network A").terms = terms;
    }
}

fn a_reaches_b(tables: &mut Memory) {
    tables.reach.insert(ReachKey { from: BRIDGE_A, to: BRIDGE_B });
}

fn syn(source: IpAddr, destination: IpAddr) -> Draft {
    ip(source, destination).tcp(40_000, 443, tcp::SYN)
}

/// A private address that is no container's and not the host's.
fn private(f: &Family) -> IpAddr {
    address(if f.v6 { "fd00:77::7" } else { "192.168.7.7" })
}

/// A connection from outside to port 80 of container a1.
fn web(f: &Family) -> FlowKey {
    tuple(f.a1, 80, f.remote, 40_000, proto::TCP)
}

fn outside(f: &Family) -> Vec<Case> {
    let with = |name, to, terms| container(name, PORT_A1, syn(f.a1, to)).with(on(terms));
    let metadata = address(if f.v6 { "fd00:ec2::254" } else { "169.254.169.254" });
    vec![
        with("egress none, to the outside", f.remote, NONE).gives(EGRESS),
        with("egress none, to a sibling", f.a2, NONE)
            .gives(Verdict::accept(Reason::SameNetwork).marked(Mark::In)),
        with("egress none, to the host", f.ours, NONE).gives(TO_HOST),
        with("egress none, to another network", f.b1, NONE).gives(ISOLATED),
        container("egress none, a datagram", PORT_A1, ip(f.a1, f.remote).udp(5000, 53, b"?"))
            .with(on(NONE))
            .gives(EGRESS),
        container("egress none, a ping", PORT_A1, ip(f.a1, f.remote).echo(7)).with(on(NONE)).gives(EGRESS),
        with("egress internet, to the outside", f.remote, INTERNET).gives(OUT),
        with("egress internet, to a private address", private(f), INTERNET).gives(EGRESS),
        with("egress internet, to the metadata of a cloud", metadata, INTERNET).gives(EGRESS),
        with("egress any, to a private address", private(f), Terms::OPEN).gives(OUT),
        with("egress to sets, a member", f.office, ZONES).gives(OUT),
        with("egress to sets, a member by prefix", f.branch, ZONES).gives(OUT),
        with("egress to sets, a member of another one", f.region, ZONES).gives(EGRESS),
        with("egress to sets, to the outside", f.remote, ZONES).gives(EGRESS),
        with("egress internet or sets", f.region, ZONES.or(&INTERNET)).gives(OUT),
        with("egress to public ones of sets, a member", f.office, PUBLIC_ZONES).gives(OUT),
        with("egress to public ones of sets, the outside", f.remote, PUBLIC_ZONES).gives(EGRESS),
        with("egress to public ones of sets, a member with a private address", private(f), PUBLIC_ZONES)
            .with(in_office(private(f)))
            .gives(EGRESS),
        with("egress to sets, a member with a private address", private(f), ZONES)
            .with(in_office(private(f)))
            .gives(OUT),
        // The port's terms, not the network's.
        container("a container that may on a network that may not", PORT_A1, syn(f.a1, f.remote))
            .with(|tables| tables.networks.get_mut(&BRIDGE_A).expect("network A").terms = NONE)
            .gives(OUT),
        container("a container that may not on a network that may", PORT_A1, syn(f.a1, f.remote))
            .with(|tables| tables.interfaces.get_mut(&PORT_A1).expect("a port").terms = NONE)
            .gives(EGRESS),
        container("an unknown container on a network that may not", PORT_UNKNOWN, syn(f.unknown, f.remote))
            .with(on(NONE))
            .gives(EGRESS),
        container(
            "a later fragment goes where its container may",
            PORT_A1,
            ip(f.a1, f.remote).udp(5000, 53, &[0; 64]).piece(16, 64, false),
        )
        .with(on(INTERNET))
        .gives(OUT),
        container(
            "a later fragment does not go where its container may not",
            PORT_A1,
            ip(f.a1, f.remote).udp(5000, 53, &[0; 64]).piece(16, 64, false),
        )
        .with(on(NONE))
        .inbound(tuple(f.a1, 5000, f.remote, 53, proto::UDP), state::ESTABLISHED, 1)
        .gives(EGRESS),
        container(
            "a later fragment follows the first one of an answer",
            PORT_A1,
            ip(f.a1, f.remote).udp(5000, 53, &[0; 64]).piece(16, 64, false),
        )
        .with(on(NONE))
        .with(|tables| super::fragments::remembered(tables, f.a1, f.remote, super::host::NOW))
        .gives(ANSWER_OUT),
    ]
}

fn answers(f: &Family) -> Vec<Case> {
    let from_web =
        |name, flags| container(name, PORT_A1, ip(f.a1, f.remote).tcp(80, 40_000, flags)).with(on(NONE));
    let dns = tuple(f.a1, 53, f.remote, 5000, proto::UDP);
    let answer = ip(f.a1, f.remote).udp(53, 5000, b"!");
    let ping = tuple(f.a1, 0, f.remote, 7, proto::ICMP);
    vec![
        from_web("SYN and ACK to who connected", tcp::SYN | tcp::ACK)
            .inbound(web(f), state::OPENING, 5)
            .gives(ANSWER_OUT)
            .leaves_inbound(web(f), state::OPENING, owner::OTHER),
        from_web("data to who connected", tcp::ACK)
            .inbound(web(f), state::ESTABLISHED, 431_999)
            .gives(ANSWER_OUT),
        from_web("data to who never connected", tcp::ACK).gives(EGRESS).leaves_no_inbound(web(f)),
        from_web("data of a connection that conntrack has forgotten", tcp::ACK)
            .inbound(web(f), state::ESTABLISHED, 432_010)
            .gives(EGRESS),
        from_web("a SYN to who connected", tcp::SYN).inbound(web(f), state::ESTABLISHED, 1).gives(EGRESS),
        from_web("its FIN", tcp::FIN | tcp::ACK)
            .inbound(web(f), state::ESTABLISHED, 1)
            .gives(ANSWER_OUT)
            .leaves_inbound(web(f), state::FIN_SENT, owner::OTHER),
        from_web("its RST", tcp::RST)
            .inbound(web(f), state::ESTABLISHED, 1)
            .gives(ANSWER_OUT)
            .leaves_inbound(web(f), state::FIN_SENT, owner::OTHER),
        from_web("a late FIN begins nothing", tcp::FIN | tcp::ACK)
            .inbound(web(f), state::FIN_SENT, 130)
            .gives(EGRESS),
        from_web("a late RST begins nothing", tcp::RST | tcp::ACK).gives(EGRESS).leaves_no_inbound(web(f)),
        container("from another port", PORT_A1, ip(f.a1, f.remote).tcp(81, 40_000, tcp::ACK))
            .with(on(NONE))
            .inbound(web(f), state::ESTABLISHED, 1)
            .gives(EGRESS),
        container("to another port", PORT_A1, ip(f.a1, f.remote).tcp(80, 40_001, tcp::ACK))
            .with(on(NONE))
            .inbound(web(f), state::ESTABLISHED, 1)
            .gives(EGRESS),
        container(
            "of a container that may open it, too",
            PORT_A1,
            ip(f.a1, f.remote).tcp(80, 40_000, tcp::ACK),
        )
        .with(on(INTERNET))
        .inbound(web(f), state::ESTABLISHED, 1)
        .gives(ANSWER_OUT),
        container("a datagram to who asked", PORT_A1, answer.clone())
            .with(on(NONE))
            .inbound(dns, state::OPENING, 39)
            .gives(ANSWER_OUT)
            .leaves_inbound(dns, state::ESTABLISHED, owner::OTHER),
        container("a datagram to who asked long ago", PORT_A1, answer)
            .with(on(NONE))
            .inbound(dns, state::OPENING, 40)
            .gives(EGRESS),
        container("a pong", PORT_A1, ip(f.a1, f.remote).echo_reply(7))
            .with(on(NONE))
            .inbound(ping, state::OPENING, 1)
            .gives(ANSWER_OUT),
        container("a pong to nobody's ping", PORT_A1, ip(f.a1, f.remote).echo_reply(8))
            .with(on(NONE))
            .inbound(ping, state::OPENING, 1)
            .gives(EGRESS),
        container("a ping back", PORT_A1, ip(f.a1, f.remote).echo(7))
            .with(on(NONE))
            .inbound(ping, state::OPENING, 1)
            .gives(EGRESS),
    ]
}

fn errors(f: &Family) -> Vec<Case> {
    let asked = ip(f.remote, f.a1).udp(5000, 53, b"?");
    let dns = tuple(f.a1, 53, f.remote, 5000, proto::UDP);
    let pinged = ip(f.remote, f.a1).echo(7);
    let about = |name, to, quoted: &Draft| {
        container(name, PORT_A1, ip(f.a1, to).unreachable(&quoted.packet())).with(on(NONE))
    };
    vec![
        about("an error about what came in", f.remote, &asked)
            .inbound(dns, state::OPENING, 1)
            .gives(ANSWER_OUT),
        about("an error about what came in, to somebody else", f.elsewhere, &asked)
            .inbound(dns, state::OPENING, 1)
            .gives(EGRESS),
        about("an error about what never came in", f.remote, &asked).gives(EGRESS),
        about("an error about what came in long ago", f.remote, &asked)
            .inbound(dns, state::OPENING, 40)
            .gives(EGRESS),
        about("an error about a ping that came in", f.remote, &pinged)
            .inbound(tuple(f.a1, 0, f.remote, 7, proto::ICMP), state::OPENING, 1)
            .gives(ANSWER_OUT),
        about("an error that quotes too little", f.remote, &asked.clone().cut(7))
            .inbound(dns, state::OPENING, 1)
            .gives(EGRESS),
    ]
}

fn host(f: &Family) -> Vec<Case> {
    let with = |name, packet| container(name, PORT_A1, packet).with(on(CLOSED_HOST));
    let proxied = tuple(f.a1, 80, f.gateway_a, 50_000, proto::TCP);
    let mut cases = vec![
        with("host closed, to its gateway", syn(f.a1, f.gateway_a)).gives(DENIED),
        with("host closed, to another gateway", syn(f.a1, f.gateway_b)).gives(DENIED),
        with("host closed, to the host's address outside", syn(f.a1, f.ours)).gives(DENIED),
        with("host closed, to an address that only the FIB knows", syn(f.a1, f.new)).gives(DENIED),
        with("host closed, a name to resolve", ip(f.a1, f.gateway_a).udp(5000, 53, b"?")).gives(DENIED),
        with("host closed, a ping", ip(f.a1, f.gateway_a).echo(7)).gives(DENIED),
        with("host closed, to the outside", syn(f.a1, f.remote)).gives(OUT),
        with("host closed, to a sibling", syn(f.a1, f.a2))
            .gives(Verdict::accept(Reason::SameNetwork).marked(Mark::In)),
        with("host closed, to a group", ip(f.a1, f.group).udp(5353, 5353, b"")).gives(SAME),
        with("host closed, to who connected from it", ip(f.a1, f.gateway_a).tcp(80, 50_000, tcp::ACK))
            .inbound(proxied, state::ESTABLISHED, 1)
            .gives(ANSWER_OUT),
        with("host closed, a SYN to who connected from it", ip(f.a1, f.gateway_a).tcp(80, 50_000, tcp::SYN))
            .inbound(proxied, state::ESTABLISHED, 1)
            .gives(DENIED),
        with("host closed, a pong", ip(f.a1, f.gateway_a).echo_reply(7))
            .inbound(tuple(f.a1, 0, f.gateway_a, 7, proto::ICMP), state::OPENING, 1)
            .gives(ANSWER_OUT),
        with(
            "host closed, an error about what the host sent",
            ip(f.a1, f.gateway_a).unreachable(&ip(f.gateway_a, f.a1).udp(5000, 53, b"?").packet()),
        )
        .inbound(tuple(f.a1, 53, f.gateway_a, 5000, proto::UDP), state::OPENING, 1)
        .gives(ANSWER_OUT),
        container("egress none, to who connected from the host", PORT_A1, {
            ip(f.a1, f.gateway_a).tcp(80, 5000, tcp::SYN | tcp::ACK)
        })
        .with(on(NONE))
        .inbound(tuple(f.a1, 80, f.gateway_a, 5000, proto::TCP), state::OPENING, 1)
        .gives(TO_HOST),
        container("host closed to an internal network", PORT_I1, syn(f.i1, f.gateway_internal))
            .with(|tables| tables.interfaces.get_mut(&PORT_I1).expect("a port").terms = CLOSED_HOST)
            .gives(DENIED),
        container("closed altogether, to an address that only the FIB knows", PORT_A1, syn(f.a1, f.new))
            .with(on(Terms { host: 0, ..NONE }))
            .gives(EGRESS),
    ];
    if f.v6 {
        let solicit = ip(f.a1, f.gateway_a).neighbour(icmp::NEIGHBOUR_SOLICITATION, f.gateway_a);
        let link = address("fe80::1");
        cases.extend([
            with("host closed, it may ask where the gateway is", solicit).gives(TO_HOST.marked(Mark::Out)),
            with("host closed, the gateway's link-local address", syn(f.a1, link)).gives(DENIED),
        ]);
    } else {
        let frame =
            arp(super::host::container_mac(PORT_A1), super::host::container_mac(PORT_A1), f.a1, f.gateway_a);
        cases.push(
            scene(
                "host closed, it may ask where the gateway is",
                fw_common::Hook::PortIngress,
                PORT_A1,
                frame,
            )
            .with(on(CLOSED_HOST))
            .gives(SAME),
        );
    }
    cases
}

/// The backstop, and the second look at what the port let pass unmarked.
fn at_bridge(f: &Family) -> Vec<Case> {
    let up = |name, packet| bridge(name, BRIDGE_A, PORT_A1, packet);
    let own = |terms: Terms| {
        move |tables: &mut Memory| tables.interfaces.get_mut(&PORT_A1).expect("a port").terms = terms
    };
    let unknown = |name, to| bridge(name, BRIDGE_A, PORT_UNKNOWN, syn(f.unknown, to));
    vec![
        up("egress none", syn(f.a1, f.remote)).with(on(NONE)).gives(EGRESS),
        up("egress none of a container", syn(f.a1, f.remote)).with(own(NONE)).gives(EGRESS),
        up("egress none, an answer", ip(f.a1, f.remote).tcp(80, 40_000, tcp::ACK))
            .with(on(NONE))
            .inbound(web(f), state::ESTABLISHED, 1)
            .gives(ANSWER),
        up("host closed", syn(f.a1, f.gateway_a)).with(on(CLOSED_HOST)).gives(DENIED),
        up("host open to a container of a network to which it is closed", syn(f.a1, f.gateway_a))
            .with(on(CLOSED_HOST))
            .with(own(Terms::OPEN))
            .gives(TO_HOST),
        bridge(
            "terms of another container's address, where that may be used",
            BRIDGE_A,
            PORT_A2,
            syn(f.a1, f.ours),
        )
        .with(|tables| tables.networks.get_mut(&BRIDGE_A).expect("network A").spoofing = 1)
        .with(own(CLOSED_HOST))
        .gives(TO_HOST),
        up("host closed, to a group", ip(f.a1, f.group).udp(5353, 5353, b""))
            .with(on(CLOSED_HOST))
            .gives(DENIED),
        up("host open, to a group", ip(f.a1, f.group).udp(5353, 5353, b"")).gives(SAME),
        unknown("egress none of the network of an unknown container", f.remote).with(on(NONE)).gives(EGRESS),
        unknown("host closed to the network of an unknown container", f.ours)
            .with(on(CLOSED_HOST))
            .gives(DENIED),
        up("reach", syn(f.a1, f.b1)).with(a_reaches_b).gives(Verdict::accept(Reason::Reach)),
    ]
}

fn reach(f: &Family) -> Vec<Case> {
    let asked = tuple(f.b1, 443, f.a1, 40_000, proto::TCP);
    let from_a = |name, packet| container(name, PORT_A1, packet).with(a_reaches_b);
    let from_b = |name, packet| container(name, PORT_B1, packet).with(a_reaches_b);
    let back = |flags| ip(f.b1, f.a1).tcp(443, 40_000, flags);
    vec![
        from_a("to a network that it reaches", syn(f.a1, f.b1)).gives(REACH).leaves_inbound(
            asked,
            state::OPENING,
            owner::CONTAINER,
        ),
        from_a("to a network that it reaches, under closed terms", syn(f.a1, f.b1))
            .with(on(Terms { host: 0, ..NONE }))
            .gives(REACH),
        from_a("going on", ip(f.a1, f.b1).tcp(40_000, 443, tcp::ACK))
            .inbound(asked, state::OPENING, 1)
            .gives(REACH)
            .leaves_inbound(asked, state::ESTABLISHED, owner::OTHER),
        from_a("ending what never was", ip(f.a1, f.b1).tcp(40_000, 443, tcp::RST))
            .gives(REACH)
            .leaves_no_inbound(asked),
        from_a("to nobody there", syn(f.a1, if f.v6 { address("fd00:2::99") } else { address("10.2.0.99") }))
            .gives(Verdict::accept(Reason::Reach)),
        from_a("to a third network", syn(f.a1, f.i1)).gives(ISOLATED),
        from_b("the other way", syn(f.b1, f.a1)).gives(ISOLATED),
        from_b("an answer", back(tcp::SYN | tcp::ACK))
            .inbound(asked, state::OPENING, 1)
            .gives(ANSWER.marked(Mark::Reach)),
        from_b("an answer to nothing", back(tcp::ACK)).gives(ISOLATED).leaves_no_inbound(asked),
        from_b("a SYN is no answer", back(tcp::SYN)).inbound(asked, state::ESTABLISHED, 1).gives(ISOLATED),
        from_b("an answer ends it", back(tcp::RST | tcp::ACK))
            .inbound(asked, state::ESTABLISHED, 1)
            .gives(ANSWER.marked(Mark::Reach))
            .leaves_inbound(asked, state::FIN_SENT, owner::OTHER),
        from_b("an error about it", ip(f.b1, f.a1).unreachable(&ip(f.a1, f.b1).udp(1, 53, b"?").packet()))
            .inbound(tuple(f.b1, 53, f.a1, 1, proto::UDP), state::OPENING, 1)
            .gives(ANSWER.marked(Mark::Reach)),
        from_b(
            "an error about nothing",
            ip(f.b1, f.a1).unreachable(&ip(f.a1, f.b1).udp(1, 53, b"?").packet()),
        )
        .gives(ISOLATED),
        container("an unknown container that reaches", PORT_UNKNOWN, syn(f.unknown, f.b1))
            .with(a_reaches_b)
            .gives(Verdict::accept(Reason::Reach)),
        from_a("with an address of the network that it reaches", syn(f.b1, f.b1))
            .gives(Verdict::drop(Reason::SpoofedSource)),
    ]
}

/// What goes down to the containers, and is remembered.
fn arrivals(f: &Family) -> Vec<Case> {
    let to_a1 = |name, packet| down(name, BRIDGE_A, packet);
    let knocked = |source: IpAddr| ip(source, f.a1).tcp(40_000, 80, tcp::SYN);
    let dns = tuple(f.a1, 53, f.remote, 5000, proto::UDP);
    let asked = ip(f.remote, f.a1).udp(5000, 53, b"?");
    let of = |source: IpAddr| tuple(f.a1, 80, source, 40_000, proto::TCP);
    let flags = |flags| ip(f.remote, f.a1).tcp(40_000, 80, flags);
    let delivered = |scene: Scene| scene.gives(DELIVERED);
    vec![
        delivered(to_a1("a connection from outside", knocked(f.remote))).leaves_inbound(
            web(f),
            state::OPENING,
            owner::OTHER,
        ),
        delivered(to_a1("a connection of the host by its gateway", knocked(f.gateway_a))).leaves_inbound(
            of(f.gateway_a),
            state::OPENING,
            owner::HOST,
        ),
        delivered(to_a1("a connection of another network", knocked(f.b1))).leaves_inbound(
            of(f.b1),
            state::OPENING,
            owner::CONTAINER,
        ),
        delivered(to_a1("a connection of a sibling", knocked(f.a2))).leaves_no_inbound(of(f.a2)),
        delivered(to_a1("one that is going on", flags(tcp::ACK))).leaves_inbound(
            web(f),
            state::ESTABLISHED,
            owner::OTHER,
        ),
        delivered(to_a1("the handshake is done", flags(tcp::ACK)).inbound(web(f), state::OPENING, 1))
            .leaves_inbound(web(f), state::ESTABLISHED, owner::OTHER),
        delivered(to_a1("the answer to its own SYN", flags(tcp::SYN | tcp::ACK))).leaves_no_inbound(web(f)),
        delivered(to_a1("a FIN of nothing", flags(tcp::FIN | tcp::ACK))).leaves_no_inbound(web(f)),
        delivered(to_a1("a RST of nothing", flags(tcp::RST))).leaves_no_inbound(web(f)),
        delivered(to_a1("a RST of a connection", flags(tcp::RST)).inbound(web(f), state::ESTABLISHED, 1))
            .leaves_inbound(web(f), state::ESTABLISHED, owner::OTHER),
        delivered(to_a1("a datagram", asked.clone())).leaves_inbound(dns, state::OPENING, owner::OTHER),
        delivered(to_a1("one more datagram", asked.clone()).inbound(dns, state::ESTABLISHED, 1))
            .leaves_inbound(dns, state::ESTABLISHED, owner::OTHER),
        delivered(to_a1("a ping", ip(f.remote, f.a1).echo(7))).leaves_inbound(
            tuple(f.a1, 0, f.remote, 7, proto::ICMP),
            state::OPENING,
            owner::OTHER,
        ),
        delivered(to_a1("a pong", ip(f.remote, f.a1).echo_reply(7))).leaves_no_inbound(tuple(
            f.a1,
            7,
            f.remote,
            0,
            proto::ICMP,
        )),
        delivered(to_a1("to a group", ip(f.remote, f.group).udp(5000, 53, b"?"))).leaves_no_inbound(tuple(
            f.group,
            53,
            f.remote,
            5000,
            proto::UDP,
        )),
        delivered(to_a1("a datagram that is cut short", asked.clone().cut(7))).leaves_no_inbound(dns),
        down("on an uplink", UPLINK, asked.clone()).gives(DELIVERED).leaves_no_inbound(dns),
        down("on an internal network", BRIDGE_INTERNAL, asked).gives(DELIVERED).leaves_inbound(
            dns,
            state::OPENING,
            owner::OTHER,
        ),
    ]
}
