//! H41 to H49: headers of IPv4.

use anyhow::{Result, ensure};

use crate::packet::{CLOSED, Shot, summed, with, with_options};
use crate::row::Expect::{Arrives, Drops, Refused};
use crate::row::{Families, Family, Row, Seen, Story, row};
use crate::world::{Ear, Path, World, moved};

pub(crate) const FAMILY: Family = Family { name: "H: IPv4 header", rows: ROWS, stories: STORIES };

const FORM: &str = "malformed-header";

const ROWS: &[Row] = &[
    row("H41a", "version 0, 5, 6, 15", Path::Published, Drops(FORM), versions).four(),
    row("H41b", "IHL 0 to 4", Path::Published, Drops(FORM), short_ihl).four(),
    row("H41c", "version and IHL, from a container", Path::Same, Drops(FORM), versions_and_ihl).four(),
    row("H42a", "IHL 15, frame too short for it", Path::Published, Drops(FORM), ihl_beyond_frame).four(),
    row("H42b", "IHL 15 too short, from a container", Path::Same, Drops(FORM), ihl_beyond_frame).four(),
    row("H43a", "total length below the header's", Path::Published, Drops(FORM), |s| {
        s.frames([0, 8, 19].map(|length: u16| with(s.open(), 2, &length.to_be_bytes())))
    })
    .four(),
    row("H43b", "total length beyond the frame", Path::Published, Drops(FORM), |s| {
        s.frames([93, 1500, 65535].map(|length: u16| with(s.open(), 2, &length.to_be_bytes())))
    })
    .four(),
    row("H43c", "trailing padding, open port", Path::Published, Arrives("allow-rule"), |s| {
        vec![[s.frame(&s.open()), vec![0; 30]].concat()]
    }),
    row("H43d", "trailing padding, closed port", Path::Published, Drops("port-not-allowed"), |s| {
        vec![[s.frame(&s.udp_to(CLOSED)), vec![0; 30]].concat()]
    }),
    row("H43e", "ports only in the padding", Path::Published, Drops("malformed-transport"), |s| {
        s.frames([with(s.open(), 2, &24_u16.to_be_bytes())])
    })
    .four(),
    row("H44a", "options to an open port", Path::Published, Arrives("allow-rule"), |s| options(s, s.udp))
        .four(),
    row("H44b", "options to a closed port", Path::Published, Drops("port-not-allowed"), |s| {
        options(s, CLOSED)
    })
    .four(),
    row("H44c", "options that read as an open port", Path::Published, Drops("port-not-allowed"), |s| {
        // A parser that takes the transport header at byte 20 reads ports 1,1 and the open one here.
        let open = s.udp.to_be_bytes();
        s.frames([with_options(&s.udp_to(CLOSED), &[7, 8, 4, 0, open[0], open[1], 0, 0])])
    })
    .four(),
    row("H44d", "options between siblings", Path::Same, Arrives("same-network"), |s| options(s, s.udp))
        .four(),
    row(
        "H45a",
        "source routes, unknown option, bad lengths",
        Path::Published,
        Drops("bad-option"),
        bad_options,
    )
    .four(),
    row("H45b", "the same from a container", Path::Same, Drops("bad-option"), bad_options).four(),
    row("H46a", "IGMP with router alert", Path::Host, Arrives("essential"), |s| {
        let s = s.to("224.0.0.1", "ff02::1");
        let query = igmp(&s, 0x11);
        vec![s.frame(&with_options(&query, &ROUTER_ALERT))]
    })
    .four(),
    row("H46b", "IGMP with router alert, from a container", Path::Same, Arrives("same-network"), |s| {
        let mut s = s.to("224.0.0.22", "ff02::16");
        s.target_mac = xtask::lab::frame::Mac([1, 0, 0x5e, 0, 0, 22]);
        vec![s.frame(&with_options(&igmp(&s, 0x22), &ROUTER_ALERT))]
    })
    .four(),
    row("H46c", "UDP and TCP with router alert", Path::Published, Drops("bad-option"), |s| {
        s.frames([s.open(), s.tcp_to(s.tcp, 2)].map(|packet| with_options(&packet, &ROUTER_ALERT)))
    })
    .four(),
    row("H47a", "wrong header checksum", Path::Published, Refused("allow-rule"), wrong_sum).four(),
    row("H48a", "TTL 1 and 0 to a container's port", Path::Published, Refused("allow-rule"), |s| {
        s.frames([0, 1].map(|hops| with(s.open(), 8, &[hops])))
    })
    .four(),
    row("H49a", "reserved flag, open port", Path::Published, Arrives("allow-rule"), |s| {
        s.frames([with(s.open(), 6, &[0x80])])
    })
    .four(),
    row("H49b", "reserved flag, closed port", Path::Published, Drops("port-not-allowed"), |s| {
        s.frames([with(s.udp_to(CLOSED), 6, &[0x80])])
    })
    .four(),
];

const STORIES: &[Story] = &[
    Story { id: "H47b", what: "wrong checksum makes no state", families: Families::Four, run: no_state },
    Story {
        id: "H48b",
        what: "TTL 1: answered only from an open port",
        families: Families::Both,
        run: traceroute,
    },
];

const ROUTER_ALERT: [u8; 4] = [148, 4, 0, 0];

fn versions(shot: &Shot) -> Vec<Vec<u8>> {
    // In a frame that says IPv4, whatever the packet says.
    [0_u8, 5, 6, 15].map(|version| shot.ethernet(0x0800, &with(shot.open(), 0, &[version << 4 | 5]))).to_vec()
}

fn short_ihl(shot: &Shot) -> Vec<Vec<u8>> {
    shot.frames((0..5).map(|words| with(shot.open(), 0, &[0x40 | words])))
}

fn versions_and_ihl(shot: &Shot) -> Vec<Vec<u8>> {
    [versions(shot), short_ihl(shot)].concat()
}

fn ihl_beyond_frame(shot: &Shot) -> Vec<Vec<u8>> {
    let mut packet = shot.open();
    packet.truncate(48);
    packet[0] = 0x4f;
    packet[2..4].copy_from_slice(&48_u16.to_be_bytes());
    shot.frames([packet])
}

fn options(shot: &Shot, port: u16) -> Vec<Vec<u8>> {
    let record_route = [7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let timestamp = [68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let both = [&record_route[..], &timestamp].concat();
    // IHL 15: 40 bytes, the longest that there is.
    let longest = [&[7, 39, 4][..], &[0; 36], &[0]].concat();
    [&[1, 1, 1, 0][..], &[0, 0, 0, 0], &[1, 1, 1, 1, 1, 1, 1, 0], &record_route, &timestamp, &both, &longest]
        .map(|options| shot.frame(&with_options(&shot.udp_to(port), options)))
        .to_vec()
}

fn bad_options(shot: &Shot) -> Vec<Vec<u8>> {
    let loose = [131, 7, 4, 198, 18, 0, 9, 0];
    let strict = [137, 7, 4, 198, 18, 0, 9, 0];
    [&loose[..], &strict, &[200, 4, 0, 0], &[7, 0, 0, 0], &[7, 1, 0, 0], &[7, 9, 4, 0], &[1, 1, 1, 7]]
        .map(|options| shot.frame(&with_options(&shot.open(), options)))
        .to_vec()
}

fn igmp(shot: &Shot, kind: u8) -> Vec<u8> {
    // The token stands where the group does; a checksum that fails comes after what is judged here.
    let token = shot.token.bytes();
    shot.ip(2, &[&[kind, 100, 0, 0][..], &token].concat())
}

fn wrong_sum(shot: &Shot) -> Vec<Vec<u8>> {
    let mut packet = summed(shot.open());
    packet[10] ^= 0x55;
    shot.frames([packet])
}

fn no_state(world: &World, six: bool) -> Result<Seen> {
    // Out of a container: the host's IP refuses it, so nothing leaves, and no reply is known.
    let shot = world.shot(Path::Out, six)?;
    world.send(Path::Out, &wrong_sum(&shot))?;
    world.barrier(Path::Out, six)?;
    ensure!(world.who_heard(shot.token).iter().all(|ear| *ear == Ear::Bridge), "it left the host");
    let mut reply = world.shot(Path::Host, six)?;
    let before = world.counters()?;
    (reply.port, reply.udp) = (shot.udp, shot.port);
    world.send(Path::Host, &[reply.frame(&reply.open())])?;
    world.barrier(Path::Host, six)?;
    let dropped = moved(&before, &world.counters()?, "uplink_ingress", "port-not-allowed");
    ensure!(dropped == 1, "a flow was made: the reply was not dropped");
    Ok(Seen::new("no flow", "reply dropped", "uplink_ingress port-not-allowed +1"))
}

fn traceroute(world: &World, six: bool) -> Result<Seen> {
    let at = if six { 7 } else { 8 };
    let before = world.counters()?;
    let closed = world.shot(Path::Published, six)?;
    world.send(Path::Published, &[closed.frame(&with(closed.udp_to(CLOSED), at, &[1]))])?;
    let open = world.shot(Path::Published, six)?;
    world.send(Path::Published, &[open.frame(&with(open.open(), at, &[1]))])?;
    let kind = if six { (54, 3) } else { (34, 11) };
    world.wait_for(Ear::Outside, "time exceeded", |frame| {
        frame.get(kind.0) == Some(&kind.1) && open.token.is_in(frame)
    })?;
    ensure!(world.times(Ear::Outside, closed.token) == 0, "the closed port answered");
    let dropped = moved(&before, &world.counters()?, "uplink_ingress", "port-not-allowed");
    ensure!(dropped == 1, "dropped {dropped}");
    Ok(Seen::new("only from open", "time exceeded from open", "uplink_ingress port-not-allowed +1"))
}
