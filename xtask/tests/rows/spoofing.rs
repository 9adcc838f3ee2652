//! S01 to S05: addresses that the sender does not have, and that nobody has.

use anyhow::{Result, ensure};
use xtask::lab::frame::{Mac, udp};

use crate::packet::{CLOSED, Shot};
use crate::peer::punch;
use crate::row::Expect::{Drops, Refused};
use crate::row::{Families, Family, Row, Seen, Story, row};
use crate::world::{Ear, Path, World, moved};

pub(crate) const FAMILY: Family = Family { name: "S: spoofing", rows: ROWS, stories: STORIES };

const ROWS: &[Row] = &[
    row("S01a", "sibling's, other network's, external, gateway's", Path::Out, Drops("spoofed-source"), |s| {
        from_each(
            s,
            &["10.1.0.3", "10.2.0.2", "198.51.100.9", "10.1.0.1", "198.18.0.1", "0.0.0.0"],
            &["2001:db8:a::3", "2001:db8:b::2", "2001:db8:99::9", "2001:db8:a::1", "2001:db8:18::1", "::"],
        )
    }),
    row("S01b", "loopback, 0/8, multicast, reserved", Path::Out, Drops("martian"), |s| {
        from_each(
            s,
            &["127.0.0.1", "0.1.2.3", "224.0.0.9", "240.0.0.1"],
            &["::1", "ff02::9", "::ffff:10.1.0.2"],
        )
    }),
    row("S01c", "a sibling's address to another sibling", Path::Same, Drops("spoofed-source"), |s| {
        from_each(
            s,
            &["10.1.0.9", "10.1.0.1", "10.2.0.2"],
            &["2001:db8:a::9", "2001:db8:a::1", "2001:db8:b::2"],
        )
    }),
    row("S01d", "another's address to the host", Path::Up, Drops("spoofed-source"), |s| {
        from_each(
            s,
            &["10.1.0.3", "10.1.0.1", "198.18.0.2"],
            &["2001:db8:a::3", "2001:db8:a::1", "2001:db8:18::2"],
        )
    }),
    row("S02a", "a container's or gateway's, from outside", Path::Published, Drops("source-inside"), |s| {
        from_each(
            s,
            &["10.1.0.2", "10.1.0.1", "10.4.0.9"],
            &["2001:db8:a::2", "2001:db8:a::1", "2001:db8:4::9"],
        )
    }),
    row("S02b", "the host's own, from outside", Path::Published, Drops("source-ours"), |s| {
        from_each(s, &["198.18.0.1"], &["2001:db8:18::1"])
    }),
    row("S02c", "loopback and no address, from outside", Path::Published, Drops("martian"), |s| {
        from_each(s, &["127.0.0.1", "127.9.9.9", "0.0.0.0"], &["::1", "::", "ff02::2"])
    }),
    row("S03", "to the gateways of bridges, from outside", Path::Direct, Drops("direct-access"), |s| {
        s.frames(["1", "2", "4"].iter().zip(["a", "b", "4"]).flat_map(|(four, six)| {
            let s = s.to(&format!("10.{four}.0.1"), &format!("2001:db8:{six}::1"));
            [s.ping(32), s.udp_to(s.udp), s.tcp_to(22, 2)]
        }))
    }),
    row("S04a", "to loopback and no address, from outside", Path::Host, Drops("martian"), |s| {
        to_each(s, &["127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3"], &["::1", "::", "::ffff:10.1.0.2"])
    }),
    row("S04b", "to all, and to all of the uplink", Path::Host, Drops("port-not-allowed"), |s| {
        let all: &[&str] =
            if s.is_six() { &["ff02::1", "ff05::2"] } else { &["255.255.255.255", "198.18.0.255"] };
        let s = Shot { target_mac: Mac::BROADCAST, ..*s };
        s.frames(all.iter().map(|to| s.to(to, to).udp_to(CLOSED)))
    }),
    row("S04c", "to all of a bridge", Path::Direct, Drops("direct-access"), |s| {
        to_each(s, &["10.1.0.255", "10.1.0.0"], &["2001:db8:a::", "2001:db8:a::ffff"])
    }),
    // Not an address of the host: it is the routing table's to say what comes of it, and Docker's FORWARD drops it.
    row("S04d", "to a link-local address that is nobody's", Path::Host, Refused("not-ours"), |s| {
        s.frames([s.to("169.254.9.9", "").open()])
    })
    .four()
    .heard_by(Ear::A1),
];

const STORIES: &[Story] =
    &[Story { id: "S05", what: "a third host answers a flow", families: Families::Both, run: third_host }];

fn from_each(shot: &Shot, four: &[&str], six: &[&str]) -> Vec<Vec<u8>> {
    let sources = if shot.is_six() { six } else { four };
    shot.frames(sources.iter().map(|source| shot.from(source, source).open()))
}

fn to_each(shot: &Shot, four: &[&str], six: &[&str]) -> Vec<Vec<u8>> {
    let targets = if shot.is_six() { six } else { four };
    shot.frames(targets.iter().map(|target| shot.to(target, target).open()))
}

fn third_host(world: &World, six: bool) -> Result<Seen> {
    let flow = punch(world, six, 7301)?;
    let before = world.counters()?;
    let forged = world.shot(Path::Published, six)?;
    let real = world.shot(Path::Published, six)?;
    let reply = |shot: &Shot, from| {
        shot.frame(&udp((from, flow.remote), (shot.target, flow.port), &shot.token.fills(32)))
    };
    let third = forged.either("198.18.0.3", "2001:db8:18::3");
    world.send(
        Path::Published,
        &[reply(&forged, third), reply(&forged, forged.source), reply(&real, flow.peer)],
    )?;
    world.arrives(Ear::A1, real.token)?;
    ensure!(world.who_heard(forged.token).is_empty(), "heard by {:?}", world.who_heard(forged.token));
    let dropped = moved(&before, &world.counters()?, "uplink_ingress", "port-not-allowed");
    ensure!(dropped == 2, "dropped {dropped}");
    Ok(Seen::new("dropped", "only the peer's heard", "uplink_ingress port-not-allowed +2"))
}
