//! I01 to I08 and X17: errors, redirects, pings.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use xtask::lab::frame::{self, ip_frame};

use crate::packet::{Shot, fragment, with_options};
use crate::peer::{Flow, punch};
use crate::row::Expect::Drops;
use crate::row::{Families, Family, Row, Seen, Story, row};
use crate::world::{Ear, Path, World, moved};

pub(crate) const FAMILY: Family = Family { name: "I: ICMP", rows: ROWS, stories: STORIES };

const ROWS: &[Row] = &[
    row("I05a", "redirect from outside", Path::Host, Drops("bad-discovery"), redirect),
    row("I05b", "redirect from a container", Path::Same, Drops("rogue-router"), redirect),
    row("I05c", "redirect from a container to the host", Path::Up, Drops("rogue-router"), redirect),
    row("I07", "timestamp, mask, quench, unknown types", Path::Host, Drops("port-not-allowed"), |s| {
        let rest = [&[0; 4][..], &s.token.fills(24)].concat();
        s.frames([(13, 100), (17, 139), (4, 150), (42, 200)].map(|kinds| s.icmp(kinds, 0, &rest)))
    }),
    row("I08a", "ping to all from whom no rule holds", Path::Host, Drops("source-not-allowed"), |s| {
        let s = s.from("198.18.0.3", "2001:db8:18::3");
        let groups: &[&str] = if s.is_six() {
            &["ff02::1", "ff02::2", "ff05::1"]
        } else {
            &["198.18.0.255", "255.255.255.255", "224.0.0.1"]
        };
        s.frames(groups.iter().map(|group| s.to(group, group).ping(32)))
    }),
    row("I08b", "ping from whom no rule holds", Path::Host, Drops("source-not-allowed"), |s| {
        s.frames([s.from("198.18.0.3", "2001:db8:18::3").ping(32)])
    })
    .twin(|s| s.frames([s.ping(32)])),
];

const STORIES: &[Story] = &[
    Story { id: "I01", what: "errors about a live masqueraded flow", families: Families::Four, run: related },
    Story { id: "X17", what: "errors about a live flow", families: Families::Six, run: related },
    Story {
        id: "I02",
        what: "to another container, inner not translated, no flow",
        families: Families::Both,
        run: unrelated,
    },
    Story {
        id: "I03",
        what: "quotes cut short, with options, fragments, errors",
        families: Families::Both,
        run: quotes,
    },
    Story { id: "I04", what: "MTU 0, 68, 552, 1280", families: Families::Both, run: path_mtu },
    Story {
        id: "I06",
        what: "request with the id of our own request",
        families: Families::Both,
        run: own_id,
    },
];

fn redirect(shot: &Shot) -> Vec<Vec<u8>> {
    let quoted = shot.open();
    let rest = if shot.is_six() {
        [&[0; 4][..], &[0xfe; 16], &[0xfd; 16], &shot.token.fills(8)].concat()
    } else {
        [&[198, 18, 0, 9][..], &quoted].concat()
    };
    shot.frames([shot.icmp((5, 137), 1, &rest)])
}

/// What H sent to the peer for a1, as a router beyond would quote it.
fn sent(flow: &Flow, local: IpAddr, token: &[u8]) -> Vec<u8> {
    frame::udp((local, flow.port), (flow.peer, flow.remote), token)
}

/// An error from the peer about `quoted`.
fn error(shot: &Shot, from: IpAddr, kind: (u8, u8), mtu: u32, quoted: &[u8]) -> Vec<u8> {
    let rest = [&mtu.to_be_bytes()[..], quoted].concat();
    let packet = frame::icmp(from, shot.target, kind.0, kind.1, &rest);
    ip_frame(shot.target_mac, shot.source_mac, &packet)
}

fn related(world: &World, six: bool) -> Result<Seen> {
    let flow = punch(world, six, 7201)?;
    let before = world.counters()?;
    let kinds: &[(u8, u8)] = if six {
        &[(1, 0), (1, 3), (1, 4), (2, 0), (3, 0), (4, 1), (4, 2)]
    } else {
        &[(3, 0), (3, 1), (3, 3), (3, 4), (11, 0), (12, 0)]
    };
    for kind in kinds {
        let shot = world.shot(Path::Published, six)?;
        let quoted = sent(&flow, shot.target, &shot.token.fills(32));
        world.send(Path::Published, &[error(&shot, flow.peer, *kind, 1280, &quoted)])?;
        let heard = world.wait_for(Ear::A1, &format!("error {kind:?}"), |frame| shot.token.is_in(frame))?;
        // What is quoted has a1's own address again.
        let inner = if six { 14 + 40 + 8 + 8..14 + 40 + 8 + 24 } else { 14 + 20 + 8 + 12..14 + 20 + 8 + 16 };
        let own = match if six { world.a1.ip6()? } else { world.a1.ip()? } {
            IpAddr::V4(own) => own.octets().to_vec(),
            IpAddr::V6(own) => own.octets().to_vec(),
        };
        ensure!(heard.get(inner) == Some(&own[..]), "the quoted source is not a1's");
    }
    let count = moved(&before, &world.counters()?, "uplink_ingress", "related-error");
    ensure!(count == kinds.len() as u64, "counted {count}");
    Ok(Seen::new(
        "arrives",
        format!("{} kinds at a1", kinds.len()),
        format!("uplink_ingress related-error +{count}"),
    ))
}

const UNREACHABLE: [(u8, u8); 2] = [(3, 1), (1, 0)];

/// Sends errors, then one that is related; only the last may be heard.
fn none_but_last(
    world: &World,
    six: bool,
    flow: &Flow,
    bad: impl Fn(&Shot) -> Vec<Vec<u8>>,
    path: Path,
) -> Result<u64> {
    let before = world.counters()?;
    let shot = world.shot(path, six)?;
    let frames = bad(&shot);
    world.send(path, &frames)?;
    let good = world.shot(Path::Published, six)?;
    let quoted = sent(flow, good.target, &good.token.fills(32));
    world.send(Path::Published, &[error(&good, flow.peer, UNREACHABLE[usize::from(six)], 0, &quoted)])?;
    world.arrives(Ear::A1, good.token)?;
    ensure!(world.who_heard(shot.token).is_empty(), "heard by {:?}", world.who_heard(shot.token));
    let dropped = moved(&before, &world.counters()?, "uplink_ingress", "unrelated-error");
    ensure!(dropped == frames.len() as u64, "dropped {dropped} of {}", frames.len());
    Ok(dropped)
}

fn unrelated(world: &World, six: bool) -> Result<Seen> {
    let flow = punch(world, six, 7202)?;
    let kind = UNREACHABLE[usize::from(six)];
    let a1 = if six { world.a1.ip6()? } else { world.a1.ip()? };
    let a2 = if six { world.a2.ip6()? } else { world.a2.ip()? };
    let count = none_but_last(
        world,
        six,
        &flow,
        |shot| {
            let token = shot.token.fills(32);
            let to_sibling = Shot { target: a2, ..*shot };
            let mut other = flow;
            other.port = flow.port.wrapping_add(1);
            vec![
                error(&to_sibling, flow.peer, kind, 0, &sent(&flow, shot.target, &token)),
                error(&to_sibling, flow.peer, kind, 0, &sent(&flow, a2, &token)),
                error(shot, flow.peer, kind, 0, &sent(&flow, a1, &token)),
                error(shot, flow.peer, kind, 0, &sent(&other, shot.target, &token)),
            ]
        },
        Path::Published,
    )?;
    Ok(Seen::new("dropped", "not heard", format!("uplink_ingress unrelated-error +{count}")))
}

fn quotes(world: &World, six: bool) -> Result<Seen> {
    let flow = punch(world, six, 7203)?;
    let kind = UNREACHABLE[usize::from(six)];
    let count = none_but_last(
        world,
        six,
        &flow,
        |shot| {
            let token = shot.token.fills(32);
            let whole = sent(&flow, shot.target, &token);
            let header = shot.header();
            let quoted = Shot { source: shot.target, target: flow.peer, ..*shot };
            let nested = quoted.icmp(kind, 0, &[&[0; 4][..], &whole].concat());
            vec![
                error(shot, flow.peer, kind, 0, &whole[..header]),
                error(shot, flow.peer, kind, 0, &whole[..header + 7]),
                error(shot, flow.peer, kind, 0, &fragment(&whole, 7, 8..32, false)),
                error(shot, flow.peer, kind, 0, &nested),
            ]
        },
        Path::Published,
    )?;
    if !six {
        // A quote with options is as complete as one without.
        let shot = world.shot(Path::Published, six)?;
        let whole = with_options(&sent(&flow, shot.target, &shot.token.fills(32)), &[1, 1, 1, 0]);
        world.send(Path::Published, &[error(&shot, flow.peer, kind, 0, &whole)])?;
        world.arrives(Ear::A1, shot.token)?;
    }
    Ok(Seen::new("only complete ones", "not heard", format!("uplink_ingress unrelated-error +{count}")))
}

fn path_mtu(world: &World, six: bool) -> Result<Seen> {
    let flow = punch(world, six, 7204)?;
    let before = world.counters()?;
    let kind = if six { (2, 0) } else { (3, 4) };
    for mtu in [0, 68, 552, 1280] {
        let shot = world.shot(Path::Published, six)?;
        let quoted = sent(&flow, shot.target, &shot.token.fills(32));
        world.send(Path::Published, &[error(&shot, flow.peer, kind, mtu, &quoted)])?;
        world.arrives(Ear::A1, shot.token)?;
    }
    let count = moved(&before, &world.counters()?, "uplink_ingress", "related-error");
    ensure!(count == 4, "counted {count}");
    // The kernel of the container clamps: its datagrams still get out, and so does the host's.
    world.barrier(Path::Out, six)?;
    Ok(Seen::new("arrives; a1 still sends", "heard by a1", "uplink_ingress related-error +4"))
}

/// I06: an echo request is no reply, whatever its identifier.
fn own_id(world: &World, six: bool) -> Result<Seen> {
    let before = world.counters()?;
    let asked = world.shot(Path::Out, six)?.to("198.18.0.77", "2001:db8:18::77");
    world.send(Path::Out, &[asked.frame(&asked.ping(32))])?;
    let out = world.wait_for(Ear::Outside, "the request", |frame| asked.token.is_in(frame))?;
    let at = 14 + asked.header() + 4;
    let id = u16::from_be_bytes([out[at], out[at + 1]]);
    let own = world.shot(Path::Published, six)?.from("198.18.0.77", "2001:db8:18::77");
    let reply = world.shot(Path::Published, six)?.from("198.18.0.77", "2001:db8:18::77");
    let message = |shot: &Shot, kinds| {
        shot.frame(&shot.icmp(kinds, 0, &[&id.to_be_bytes()[..], &[0, 1], &shot.token.fills(32)].concat()))
    };
    world.send(Path::Published, &[message(&own, (8, 128)), message(&reply, (0, 129))])?;
    world.arrives(Ear::A1, reply.token)?;
    ensure!(world.who_heard(own.token).is_empty(), "heard by {:?}", world.who_heard(own.token));
    let dropped = moved(&before, &world.counters()?, "uplink_ingress", "source-not-allowed");
    ensure!(dropped == 1, "dropped {dropped}");
    Ok(Seen::new("dropped", "only the reply heard", "uplink_ingress source-not-allowed +1"))
}
