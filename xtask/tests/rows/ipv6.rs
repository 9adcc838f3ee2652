//! X01 to X19 (but fragments): extension headers, neighbour discovery and addresses of IPv6.

use xtask::lab::frame::{self, Mac, router_advertisement};

use crate::packet::{
    AUTHENTICATION, CLOSED, DESTINATION, HOP_BY_HOP, ROUTING, Shot, fragment, fragment_header, padding, with,
    with_extensions,
};
use crate::row::Expect::{Arrives, Drops, Refused};
use crate::row::{Family, ICC, Row, row};
use crate::world::{Ear, Path};

pub(crate) const FAMILY: Family = Family { name: "X: IPv6", rows: ROWS, stories: &[] };

const FORM: &str = "malformed-header";

const ROWS: &[Row] = &[
    row("X01a", "legal extension headers to the open port", Path::Published, Arrives("allow-rule"), |s| {
        legal(s, s.udp)
    })
    .six(),
    // What is authenticated with its addresses is not for DNAT: these end at the host.
    row("X01d", "authenticated to the host's open port", Path::Host, Arrives("allow-rule"), |s| {
        authenticated(s, s.udp)
    })
    .six(),
    row("X01e", "authenticated to a closed port", Path::Host, Drops("port-not-allowed"), |s| {
        authenticated(s, CLOSED)
    })
    .six(),
    row(
        "X01b",
        "legal extension headers to a closed port",
        Path::Published,
        Drops("port-not-allowed"),
        |s| legal(s, CLOSED),
    )
    .six(),
    row("X01c", "legal extension headers between siblings", Path::Same, Arrives("same-network"), |s| {
        legal(s, s.udp)
    })
    .six(),
    row("X02a", "one to eight destination options", Path::Published, Arrives("allow-rule"), |s| {
        s.frames([1, 2, 8].map(|count| with_extensions(&s.open(), &vec![padding(DESTINATION); count])))
    })
    .six(),
    row("X02b", "9, 16, 50 destination options", Path::Published, Drops("too-many-headers"), |s| {
        s.frames([9, 16, 50].map(|count| with_extensions(&s.open(), &vec![padding(DESTINATION); count])))
    })
    .six(),
    row("X03", "routing header of type 0", Path::Published, Drops("bad-option"), source_routed).six(),
    row("X03b", "the same from a container", Path::Same, Drops("bad-option"), source_routed).six(),
    row("X04", "hop-by-hop options twice, or not first", Path::Published, Drops(FORM), |s| {
        let (hops, options) = (padding(HOP_BY_HOP), padding(DESTINATION));
        s.frames([
            with_extensions(&s.open(), &[hops.clone(), hops.clone()]),
            with_extensions(&s.open(), &[options, hops]),
        ])
    })
    .six(),
    row("X05a", "extension header beyond the packet; jumbogram", Path::Published, Drops(FORM), |s| {
        let beyond = (DESTINATION, vec![200, 1, 4, 0, 0, 0, 0]);
        let jumbo = (HOP_BY_HOP, vec![0, 0xc2, 4, 0, 1, 0, 0]);
        s.frames([
            with_extensions(&s.open(), &[beyond]),
            with(with_extensions(&s.open(), &[jumbo]), 4, &[0, 0]),
        ])
    })
    .six(),
    row("X05b", "payload length 0", Path::Published, Drops("malformed-transport"), |s| {
        s.frames([with(s.open(), 4, &[0, 0])])
    })
    .six(),
    row("X12", "no next header, 253, ESP", Path::Host, Drops("port-not-allowed"), |s| {
        // Not from R, to whom a container may have spoken by the same protocol.
        let s = s.from("", "2001:db8:18::3");
        s.frames([59, 253, 50].map(|proto| s.ip(proto, &s.token.fills(32))))
    })
    .six(),
    row("X13a", "discovery with hop limit 254", Path::Host, Drops("bad-discovery"), distant).six(),
    row("X13b", "the same from a container", Path::Same, Drops("bad-discovery"), |s| {
        s.frames(
            discovery(s).into_iter().filter(|packet| packet[40] != 134).map(|packet| with(packet, 7, &[254])),
        )
    })
    .six(),
    row("X14a", "discovery in a fragment", Path::Host, Drops("bad-discovery"), fragmented).six(),
    row("X14b", "the same from a container", Path::Same, Drops("bad-discovery"), |s| {
        s.frames(
            discovery(s).into_iter().filter(|packet| packet[40] != 134).map(|packet| first_of(s, &packet)),
        )
    })
    .six(),
    row("X14c", "discovery in an atomic fragment", Path::Host, Drops("bad-discovery"), atomic).six(),
    row(
        "X15",
        "router advertisement from a container, however wrapped",
        Path::Same,
        Drops("rogue-router"),
        rogue,
    )
    .six(),
    row("X16a", "discovery and a router's advertisement", Path::Host, Arrives("essential"), |s| {
        s.frames(discovery(s))
    })
    .six(),
    row(
        "X16b",
        "solicitation, probe, reports, own advertisement",
        Path::Same,
        Arrives("same-network"),
        neighbourly,
    )
    .six(),
    row("X16c", "advertisement of another's address", Path::Same, Drops("spoofed-neighbour"), |s| {
        let group = s.to("", "ff02::1");
        let claims = ["2001:db8:a::1", "2001:db8:a::3"].map(|claimed| advertises(&group, claimed));
        Shot { target_mac: ALL_NODES_MAC, ..*s }.frames(claims)
    })
    .six(),
    row("X18a", "sources that cannot be", Path::Published, Drops("martian"), |s| {
        let sources = ["::ffff:198.18.0.2", "ff02::2", "ff0e::1", "::1", "::"];
        s.frames(sources.map(|source| s.from("", source).open()))
    })
    .six(),
    // 6to4, Teredo, NAT64 and site-local sources are forwardable (IANA's registry of special addresses) or mere
    // history: whoever is open to all is open to them, and what is closed is closed to them.
    row(
        "X18b",
        "6to4, NAT64, Teredo, site-local to a closed port",
        Path::Published,
        Drops("port-not-allowed"),
        |s| {
            let sources = ["2002:c612:2::1", "64:ff9b::c612:2", "2001:0:c612:2::1", "fec0::1"];
            s.frames(sources.map(|source| s.from("", source).udp_to(CLOSED)))
        },
    )
    .six(),
    row("X19", "icc = false: link-local siblings", Path::Icc, Drops(ICC), |s| {
        let link = s.from("", "fe80::42:aff:fe04:2").to("", "fe80::42:aff:fe04:3");
        s.frames([link.open(), s.to("", "fe80::42:aff:fe04:3").open()])
    })
    .six()
    .counts(1),
    row("X05c", "payload length beyond the frame", Path::Same, Drops(FORM), |s| {
        s.frames([with(s.open(), 4, &[0x20, 0])])
    })
    .six(),
    row("U02c", "UDP checksum 0", Path::Published, Refused("allow-rule"), |s| {
        s.frames([crate::packet::raw_datagram(s, s.udp, 40, 0)])
    })
    .six()
    .heard_by(Ear::Socket),
];

const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

fn legal(shot: &Shot, port: u16) -> Vec<Vec<u8>> {
    let packet = shot.udp_to(port);
    let (hops, options) = (padding(HOP_BY_HOP), padding(DESTINATION));
    let all = [hops.clone(), options.clone(), routed(2), options.clone()];
    shot.frames([
        with_extensions(&packet, &[hops]),
        with_extensions(&packet, &[options]),
        with_extensions(&packet, &[routed(2)]),
        with_extensions(&packet, &[routed(4)]),
        with_extensions(&packet, &all),
    ])
}

/// A routing header with nothing left to route: type 2 is Mobile IPv6's, type 4 segment routing's.
fn routed(kind: u8) -> (u8, Vec<u8>) {
    (ROUTING, [&[2, kind, 0][..], &[0; 20]].concat())
}

fn authenticated(shot: &Shot, port: u16) -> Vec<Vec<u8>> {
    let header = (AUTHENTICATION, [&[4, 0, 0, 0, 0, 1, 0][..], &[0, 0, 0, 1], &[7; 12]].concat());
    let options = padding(DESTINATION);
    let packet = shot.udp_to(port);
    shot.frames([
        with_extensions(&packet, std::slice::from_ref(&header)),
        with_extensions(&packet, &[padding(HOP_BY_HOP), options.clone(), header, options]),
    ])
}

fn source_routed(shot: &Shot) -> Vec<Vec<u8>> {
    let routed = |left: u8| (ROUTING, [&[2, 0, left][..], &[0; 20]].concat());
    shot.frames([0, 1].map(|left| with_extensions(&shot.open(), &[routed(left)])))
}

fn solicits(shot: &Shot, target: &str) -> Vec<u8> {
    message(shot, 135, target, 1)
}

fn advertises(shot: &Shot, target: &str) -> Vec<u8> {
    message(shot, 136, target, 2)
}

/// A neighbour message about `target`, with the token in an option that nobody knows.
fn message(shot: &Shot, kind: u8, target: &str, option: u8) -> Vec<u8> {
    let target: std::net::Ipv6Addr = target.parse().expect("an address");
    let mut rest = vec![0x20, 0, 0, 0];
    rest.extend(target.octets());
    rest.extend([option, 1]);
    rest.extend(shot.source_mac.0);
    rest.extend([253, 1, 0, 0]);
    rest.extend(shot.token.bytes());
    frame::icmp(shot.source, shot.target, kind, 0, &rest)
}

/// What a host must hear to stay on the network: NS, NA, RS and RA.
fn discovery(shot: &Shot) -> Vec<Vec<u8>> {
    let link = shot.from("", "fe80::c6ff:fe12:2");
    let solicitation = [&[0, 0, 0, 0, 253, 1, 0, 0][..], &shot.token.bytes()].concat();
    let own = shot.source.to_string();
    // A router that lives for no time: no route comes of it.
    let advertisement = [&[64, 0, 0, 0][..], &[0; 8], &[253, 1, 0, 0], &shot.token.bytes()].concat();
    vec![
        solicits(shot, &shot.target.to_string()),
        advertises(shot, &own),
        frame::icmp(shot.source, shot.target, 133, 0, &solicitation),
        frame::icmp(link.source, shot.target, 134, 0, &advertisement),
    ]
}

fn distant(shot: &Shot) -> Vec<Vec<u8>> {
    shot.frames(discovery(shot).into_iter().map(|packet| with(packet, 7, &[254])))
}

fn first_of(shot: &Shot, packet: &[u8]) -> Vec<u8> {
    let first = fragment(packet, (shot.token.0 >> 8) as u16, 0..8, true);
    // The token stands behind the piece, where it is not part of the packet.
    [first, shot.token.bytes().to_vec()].concat()
}

fn fragmented(shot: &Shot) -> Vec<Vec<u8>> {
    shot.frames(discovery(shot).iter().map(|packet| first_of(shot, packet)))
}

fn atomic(shot: &Shot) -> Vec<Vec<u8>> {
    let header = fragment_header((shot.token.0 >> 8) as u16, 0, false);
    shot.frames(discovery(shot).iter().map(|packet| with_extensions(packet, std::slice::from_ref(&header))))
}

/// RFC 7113: behind options, in a first or an atomic fragment, behind a VLAN-0 tag; and a redirect.
fn rogue(shot: &Shot) -> Vec<Vec<u8>> {
    let link: std::net::Ipv6Addr = "fe80::42:aff:fe01:2".parse().expect("an address");
    let prefix = "2001:db8:bad::".parse().expect("an address");
    let plain = router_advertisement((shot.source_mac, link), prefix);
    let id = (shot.token.0 >> 8) as u16;
    let redirect = [&[0; 4][..], &[0xfe; 16], &[0xfd; 16], &shot.token.bytes()].concat();
    let packets = [
        with_extensions(&plain, &[padding(DESTINATION)]),
        with_extensions(&plain, &[padding(HOP_BY_HOP), padding(DESTINATION)]),
        with_extensions(&plain, &[fragment_header(id, 0, false)]),
        fragment(&plain, id, 0..16, true),
        fragment(&with_extensions(&plain, &[padding(DESTINATION)]), id, 0..24, true),
        frame::icmp(link.into(), shot.target, 137, 0, &redirect),
        plain,
    ];
    let group = Shot { target_mac: ALL_NODES_MAC, ..*shot };
    let mut frames = group.frames(packets);
    let last = frames.last().cloned().unwrap_or_default();
    frames.push(frame::tagged(&last, &[0]));
    frames
}

/// What a container has to say to its neighbours.
fn neighbourly(shot: &Shot) -> Vec<Vec<u8>> {
    let group = shot.to("", "ff02::1");
    let nobody = group.from("", "::");
    let link = group.from("", "fe80::42:aff:fe01:2");
    let report = [&[0, 0, 0, 0][..], &[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &shot.token.bytes()].concat();
    let alert = (HOP_BY_HOP, vec![0, 5, 2, 0, 0, 1, 0]);
    let own = shot.source.to_string();
    let packets = [
        solicits(&group, &shot.target.to_string()),
        solicits(&nobody, &own),
        advertises(&group, &own),
        with_extensions(
            &frame::icmp(link.source, group.target, 131, 0, &report),
            std::slice::from_ref(&alert),
        ),
        with_extensions(&frame::icmp(link.source, group.target, 143, 0, &report), &[alert]),
    ];
    Shot { target_mac: ALL_NODES_MAC, ..*shot }.frames(packets)
}
