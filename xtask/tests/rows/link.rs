//! V01 to V14, W06 and W10: below IP.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use xtask::lab::frame::{ETHERTYPE_ARP, Mac, arp, ethernet, udp};

use crate::packet::{CLOSED, Shot};
use crate::row::Expect::{Arrives, Drops, Refused};
use crate::row::{Families, Family, ICC, Row, Seen, Story, row};
use crate::world::{Ear, Path, World, moved};

pub(crate) const FAMILY: Family = Family { name: "V: link layer", rows: ROWS, stories: STORIES };

const ROWS: &[Row] = &[
    row("V01", "icc = false: one VLAN-0 tag", Path::Icc, Drops(ICC), |s| tagged_each(s, s.udp, &[&[Q]])),
    row("V02", "icc = false: two and three VLAN-0 tags", Path::Icc, Drops(ICC), |s| {
        tagged_each(s, s.udp, &[&[Q, Q], &[Q, Q, Q]])
    }),
    row("V03", "icc = false: 88a8 VLAN-0, and 8100 in it", Path::Icc, Drops(ICC), |s| {
        tagged_each(s, s.udp, &[&[AD], &[AD, Q]])
    }),
    row("V04a", "VLAN-0 tags to a closed port of H", Path::Host, Drops("port-not-allowed"), |s| {
        tagged_each(s, CLOSED, STACKS)
    }),
    row("V04b", "VLAN-0 tags to an open port of H", Path::Host, Arrives("allow-rule"), |s| {
        tagged_each(s, s.udp, STACKS)
    }),
    row("V05a", "VLAN 6, which nobody has here", Path::Host, Refused("other-vlan"), |s| {
        tagged_each(s, s.udp, &[&[(0x8100, 6)]])
    }),
    row("V05b", "VLAN 5 to a closed port", Path::Vlan, Drops("port-not-allowed"), |s| {
        tagged_each(s, CLOSED, &[&[(0x8100, 5)]])
    })
    .twin(|s| tagged_each(s, s.udp, &[&[(0x8100, 5)]])),
    row("V06a", "icc = false: IP in LLC/SNAP, 8870, 88b7", Path::Icc, Drops(ICC), encapsulated),
    row("V06b", "IP in LLC/SNAP, 8870, 88b7 to the host", Path::Up, Drops("unknown-protocol"), encapsulated)
        .at("bridge_ingress"),
    row("V07a", "icc = false: 802.3 lengths that are none", Path::Icc, Drops(ICC), lengths),
    row("V07b", "802.3 lengths that are none, to the host", Path::Up, Drops("unknown-protocol"), lengths)
        .at("bridge_ingress"),
    row("V07c", "802.3 lengths that are none, from outside", Path::Host, Refused("not-ip"), lengths),
    row("V08a", "icc = false: unknown EtherTypes", Path::Icc, Drops(ICC), unknown),
    row("V08b", "unknown EtherTypes to the host", Path::Up, Drops("unknown-protocol"), unknown)
        .at("bridge_ingress"),
    // Docker's bridges carry every protocol between the containers of a network; so does fw where icc is true.
    row("V08c", "unknown EtherTypes between siblings", Path::Same, Arrives("same-network"), unknown),
    row("V08d", "spanning tree to the bridge", Path::Same, Drops("reserved-mac"), |s| {
        (0..16).map(|last| bpdu(s, last)).collect()
    })
    .four(),
    row("V09a", "frames cut within the IP header", Path::Host, Drops("malformed-header"), runts),
    row("V09b", "the same from a container", Path::Same, Drops("malformed-header"), runts),
    row("V10", "source MAC random, sibling's, gateway's", Path::Same, Drops("spoofed-mac"), |s| {
        let random = Mac([2, 0x77, 0, 0, 0, 1]);
        // With the sibling's the bridge would learn a way, and the twin would not arrive.
        [random, s.target_mac, Mac([2, 0x42, 10, 1, 0, 1])]
            .map(|from| Shot { source_mac: from, ..*s }.frame(&s.open()))
            .to_vec()
    }),
    row("V11", "icc = false: group MAC, sibling's address", Path::Icc, Drops(ICC), |s| {
        [Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1]), Mac([0x33, 0x33, 0, 0, 0, 1])]
            .map(|to| Shot { target_mac: to, ..*s }.frame(&s.open()))
            .to_vec()
    }),
    row("V13a", "ARP for the gateway, a sibling, another MAC", Path::Same, Drops("spoofed-neighbour"), |s| {
        let foreign = Mac([2, 0x77, 0, 0, 0, 1]);
        let claims = [("10.1.0.1", s.source_mac), ("10.1.0.3", s.source_mac), ("10.1.0.2", foreign)];
        let each = |operation: u16| claims.map(|(address, mac)| arp_frame(s, operation, address, mac));
        [each(1), each(2)].concat()
    })
    .four(),
    row("V13b", "plain ARP and the probe of RFC 5227", Path::Same, Arrives("same-network"), |s| {
        let own = s.source_mac;
        vec![
            arp_frame(s, 1, "10.1.0.2", own),
            arp_frame(s, 2, "10.1.0.2", own),
            arp_frame(s, 1, "0.0.0.0", own),
        ]
    })
    .four(),
    row("V14a", "DHCP server in a container", Path::Same, Drops("rogue-router"), |s| {
        let (from, to) = if s.is_six() { (547, 546) } else { (67, 68) };
        let one = udp((s.source, from), (s.target, to), &s.token.fills(16));
        let all = s.either("255.255.255.255", "ff02::1");
        let link = if s.is_six() { s.either("", "fe80::42:aff:fe01:2") } else { s.source };
        s.frames([one, udp((link, from), (all, to), &s.token.fills(16))])
    }),
    row("V14b", "DHCP client in a container", Path::Same, Arrives("same-network"), |s| {
        let source = s.either("0.0.0.0", "fe80::42:aff:fe01:2");
        let (from, to) = if s.is_six() { (546, 547) } else { (68, 67) };
        let all = s.either("255.255.255.255", "ff02::1:2");
        let broadcast = Shot { target_mac: Mac::BROADCAST, ..*s };
        broadcast.frames([udp((source, from), (all, to), &s.token.fills(16))])
    }),
    row("V14c", "DHCP server's answer to the host", Path::Host, Arrives("essential"), |s| {
        let (from, to) = if s.is_six() { (547, 546) } else { (67, 68) };
        let own = s.either("255.255.255.255", "fe80::c6ff:fe12:1");
        let server = s.either("198.18.0.2", "fe80::c6ff:fe12:2");
        let to_mac = if s.is_six() { s.target_mac } else { Mac::BROADCAST };
        Shot { target_mac: to_mac, ..*s }.frames([udp((server, from), (own, to), &s.token.fills(16))])
    }),
    row("W06", "icc = false: by the gateway's MAC", Path::Icc, Drops(ICC), |s| {
        let gateway = s.gateway;
        Shot { target_mac: gateway, ..*s }.frames([s.open()])
    }),
    row("W10a", "3 to 8 VLAN-0 tags, closed port", Path::Host, Drops("port-not-allowed"), |s| {
        tagged_each(s, CLOSED, DEEP)
    }),
    row("W10b", "3 to 8 VLAN-0 tags, open port", Path::Host, Arrives("allow-rule"), |s| {
        tagged_each(s, s.udp, DEEP)
    }),
    row("W10c", "nine VLAN-0 tags", Path::Host, Drops("too-many-headers"), |s| {
        tagged_each(s, s.udp, &[&[Q; 9]])
    }),
    row("W10d", "icc = false: 3 to 9 VLAN-0 tags", Path::Icc, Drops(ICC), |s| tagged_each(s, s.udp, DEEP)),
];

const STORIES: &[Story] = &[Story {
    id: "V12",
    what: "over a sibling that is in both networks",
    families: Families::Both,
    run: relay,
}];

type Tag = (u16, u16);
const Q: Tag = (0x8100, 0);
const AD: Tag = (0x88a8, 0);
const STACKS: &[&[Tag]] = &[&[Q], &[Q, Q], &[Q, Q, Q], &[AD], &[AD, Q]];
const DEEP: &[&[Tag]] = &[&[Q; 3], &[Q; 4], &[Q; 5], &[Q; 8]];

fn tagged_each(shot: &Shot, port: u16, stacks: &[&[Tag]]) -> Vec<Vec<u8>> {
    stacks.iter().map(|tags| tagged(&shot.frame(&shot.udp_to(port)), tags)).collect()
}

fn tagged(frame: &[u8], tags: &[Tag]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let words = tags.iter().flat_map(|(kind, vlan)| [*kind, *vlan]).flat_map(u16::to_be_bytes);
    addresses.iter().copied().chain(words).chain(rest.iter().copied()).collect()
}

/// An IP packet where Linux does not look for one, but others may (RFC 1042, bridge tunnel encapsulation).
fn encapsulated(shot: &Shot) -> Vec<Vec<u8>> {
    let packet = shot.open();
    let kind = if shot.is_six() { [0x86, 0xdd] } else { [8, 0] };
    let snap = |organisation: [u8; 3]| {
        let inside = [&[0xaa, 0xaa, 3][..], &organisation, &kind, &packet].concat();
        shot.ethernet(inside.len() as u16, &inside)
    };
    vec![snap([0, 0, 0]), snap([0, 0, 0xf8]), shot.ethernet(0x8870, &packet), shot.ethernet(0x88b7, &packet)]
}

fn lengths(shot: &Shot) -> Vec<Vec<u8>> {
    [0, 1, 1500, 1501, 1535].map(|length| shot.ethernet(length, &shot.open())).to_vec()
}

fn unknown(shot: &Shot) -> Vec<Vec<u8>> {
    [0x8863, 0x8864, 0x8847, 0x8848, 0x88cc, 0x8899, 0x9abc]
        .map(|ethertype| shot.ethernet(ethertype, &shot.token.fills(60)))
        .to_vec()
}

fn bpdu(shot: &Shot, last: u8) -> Vec<u8> {
    let inside = [&[0x42, 0x42, 3, 0, 0, 0, 0, 0][..], &shot.token.fills(30)].concat();
    ethernet(Mac::reserved(last), shot.source_mac, inside.len() as u16, &inside)
}

/// Every length from the Ethernet header alone to one byte less than both headers.
fn runts(shot: &Shot) -> Vec<Vec<u8>> {
    let frame = shot.frame(&shot.open());
    (14..14 + shot.header()).map(|length| frame[..length].to_vec()).collect()
}

/// The token stands behind the message, as padding does.
fn arp_frame(shot: &Shot, operation: u16, sender: &str, sender_mac: Mac) -> Vec<u8> {
    let sender: Ipv4Addr = sender.parse().expect("an address");
    let target = match shot.target {
        IpAddr::V4(target) => target,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let message = arp(operation, (sender_mac, sender), (Mac([0; 6]), target));
    ethernet(Mac::BROADCAST, shot.source_mac, ETHERTYPE_ARP, &[message, shot.token.fills(18)].concat())
}

/// V12: a1 hands a packet for b1 to a2, and a2 sends it on in B with a1's address.
fn relay(world: &World, six: bool) -> Result<Seen> {
    let before = world.counters()?;
    let shot = world.shot(Path::Across, six)?;
    let sibling = world.shot(Path::Same, six)?;
    world.send(Path::Across, &[Shot { target_mac: sibling.target_mac, ..shot }.frame(&shot.open())])?;
    world.barrier(Path::Same, six)?;
    ensure!(world.who_heard(shot.token).is_empty(), "a2 was handed it");
    let b1 = world.shot(Path::ToB, six)?;
    let relayed = world.shot(Path::Across, six)?;
    let frame = Shot { source_mac: world.relay, target_mac: b1.target_mac, ..relayed };
    world.send_by("relay", &[frame.frame(&relayed.open())])?;
    world.barrier(Path::ToB, six)?;
    ensure!(world.who_heard(relayed.token).is_empty(), "b1 heard it");
    let after = world.counters()?;
    let (isolated, spoofed) = (
        moved(&before, &after, "port_ingress", "isolation"),
        moved(&before, &after, "port_ingress", "spoofed-source"),
    );
    ensure!(isolated == 1 && spoofed == 1, "isolation +{isolated}, spoofed-source +{spoofed}");
    ensure!(world.heard(Ear::B1, |_| true).is_some(), "the barrier came");
    Ok(Seen::new("dropped", "not heard", "port_ingress isolation +1, spoofed-source +1"))
}
