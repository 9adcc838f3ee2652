//! F01 to F12 and X11: fragments of both families.

use anyhow::{Context as _, Result, ensure};
use xtask::lab::frame::udp;
use xtask::lab::wait;

use crate::packet::{
    CLOSED, Shot, Token, cut, flags, fragment, fragment_header, placed, with, with_extensions,
};
use crate::row::Expect::{Arrives, Drops, Refused};
use crate::row::{Families, Family, Row, Seen, Story, row};
use crate::world::{Ear, Path, World, moved, scale};

pub(crate) const FAMILY: Family = Family { name: "F: fragments", rows: ROWS, stories: STORIES };

const BAD: &str = "bad-fragment";

const ROWS: &[Row] = &[
    row("F01", "3000 B to the published port, in any order", Path::Published, Arrives("allow-rule"), |s| {
        in_any_order(s, s.udp)
    })
    .four()
    .heard_by(Ear::Socket)
    .counts(4),
    row("X11", "3000 B to the published port, in any order", Path::Published, Arrives("allow-rule"), |s| {
        in_any_order(s, s.udp)
    })
    .six()
    .heard_by(Ear::Socket)
    .counts(4),
    row("F02a", "the same to a closed port", Path::Published, Drops("port-not-allowed"), |s| {
        in_any_order(s, CLOSED)
    })
    .heard_by(Ear::A1)
    .counts(4),
    row("F02b", "to the container's own address: first ones", Path::Direct, Drops("direct-access"), |s| {
        in_any_order(s, s.udp)
    })
    .counts(4),
    row("F02c", "to the container's own address: later ones", Path::Direct, Drops("unknown-fragment"), |s| {
        s.frames(cut(&s.datagram(s.udp, 3000), id(s), &[1000, 2000])[1..].to_vec())
    }),
    row("F03", "TCP: eight bytes first, the rest later", Path::Published, Drops(BAD), |s| {
        s.frames(cut(&s.segment(s.tcp, flags::SYN, &[], &s.token.fills(40)), id(s), &[8]))
    }),
    row("F04", "TCP: a fragment at offset 8", Path::Published, Drops(BAD), |s| {
        let packet = s.segment(s.tcp, flags::SYN, &[], &s.token.fills(40));
        s.frames([fragment(&packet, id(s), 8..48, false)])
    }),
    row("F05a", "TCP: a second fragment rewrites the header", Path::Published, Drops(BAD), |s| {
        let packet = s.segment(s.tcp, flags::SYN, &[], &s.token.fills(44));
        s.frames([fragment(&packet, id(s), 8..48, true), fragment(&packet, id(s), 16..64, false)])
    }),
    row("F05b", "a first fragment that says another port", Path::Published, Drops("port-not-allowed"), |s| {
        let (open, closed) = (s.datagram(s.udp, 56), s.datagram(CLOSED, 56));
        s.frames([fragment(&closed, id(s), 0..32, true), fragment(&open, id(s), 32..64, false)])
    })
    .heard_by(Ear::A1)
    .counts(1),
    row("F05c", "overlapping later fragments", Path::Published, Refused("allow-rule"), overlapping)
        .four()
        .heard_by(Ear::A1)
        .counts(1),
    row("X07", "overlapping later fragments", Path::Published, Refused("allow-rule"), overlapping)
        .six()
        .heard_by(Ear::A1)
        .counts(1),
    row(
        "F06",
        "the rest from another source, of another protocol",
        Path::Published,
        Refused("later-fragment"),
        |s| {
            let packet = s.datagram(s.udp, 120);
            let stranger = s.from("198.18.0.3", "2001:db8:18::3").datagram(s.udp, 120);
            let mut frames =
                vec![fragment(&packet, id(s), 0..64, true), fragment(&stranger, id(s), 64..128, false)];
            if !s.is_six() {
                frames.push(with(fragment(&packet, id(s), 64..128, false), 9, &[132]));
            }
            s.frames(frames)
        },
    )
    .heard_by(Ear::A1)
    .counts(1),
    row("F07a", "ping of 5000 B", Path::Host, Arrives("allow-rule"), |s| {
        s.frames(cut(&s.ping(5000), id(s), &[1400, 2800, 4200]))
    })
    .heard_by(Ear::Outside)
    .counts(1),
    row("F07b", "ping whose last fragment has three bytes", Path::Host, Arrives("allow-rule"), |s| {
        s.frames(cut(&s.ping(1403 - 8), id(s), &[1400]))
    })
    .heard_by(Ear::Outside)
    .counts(1),
    row("F08", "a fragment that ends beyond 65535", Path::Published, Drops(BAD), |s| {
        let packet = s.datagram(s.udp, 56);
        let header = &packet[..s.header()];
        let beyond = placed(header, id(s), 65_528, false, &s.token.fills(64));
        let more = placed(header, id(s), 65_528, true, &s.token.fills(64));
        // "Do not fragment" beside "more fragments".
        let both = if s.is_six() { more.clone() } else { with(more.clone(), 6, &[0x7f, 0xff]) };
        s.frames([beyond, more, both])
    }),
    row("X06", "a first fragment without the transport header", Path::Published, Drops(BAD), |s| {
        let packet = s.datagram(s.udp, 120);
        let options = (60, vec![2, 1, 4, 0, 0, 0, 0, 1, 14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let long = with_extensions(&packet, &[options]);
        s.frames([fragment(&packet, id(s), 0..0, true), fragment(&long, id(s), 0..16, true)])
    })
    .six(),
    row("X08", "two fragment headers", Path::Published, Drops(BAD), |s| {
        let packet = s.datagram(s.udp, 120);
        let atomic = fragment_header(id(s), 0, false);
        let first = fragment_header(id(s), 0, true);
        s.frames([
            with_extensions(&packet, &[atomic.clone(), atomic.clone()]),
            with_extensions(&packet, &[first.clone(), atomic.clone()]),
            with_extensions(&packet, &[atomic, first]),
        ])
    })
    .six(),
    // RFC 8200 section 4.5 lets the headers before the fragment header differ, and keeps the first one's: what counts
    // is that the port of the first fragment decides, wherever its header stands.
    row(
        "X09",
        "headers of different length before the fragments",
        Path::Published,
        Drops("port-not-allowed"),
        |s| {
            let closed = s.datagram(CLOSED, 120);
            let later = fragment(&s.datagram(s.udp, 120), id(s), 64..128, false);
            let first = fragment(&closed, id(s), 0..64, true);
            let first = with_extensions(&first, &[crate::packet::padding(crate::packet::DESTINATION)]);
            s.frames([first, later])
        },
    )
    .six()
    .heard_by(Ear::A1)
    .counts(1),
    row("X10a", "atomic fragment to the open port", Path::Published, Arrives("allow-rule"), |s| {
        s.frames([with_extensions(&s.open(), &[fragment_header(id(s), 0, false)])])
    })
    .six(),
    row("X10b", "atomic fragment to a closed port", Path::Published, Drops("port-not-allowed"), |s| {
        s.frames([with_extensions(&s.udp_to(CLOSED), &[fragment_header(id(s), 0, false)])])
    })
    .six(),
];

const STORIES: &[Story] = &[
    Story {
        id: "F09a",
        what: "2,000 fragments of incomplete datagrams",
        families: Families::Both,
        run: small_flood,
    },
    Story { id: "F10", what: "the last fragment comes too late", families: Families::Both, run: late },
    Story { id: "F11", what: "one IP id, two flows at once", families: Families::Both, run: same_id },
    Story {
        id: "F12",
        what: "fragments out of a container, and back",
        families: Families::Both,
        run: there_and_back,
    },
    Story {
        id: "F12b",
        what: "a reply in fragments, not masqueraded",
        families: Families::Both,
        run: to_own_address,
    },
    Story {
        id: "F06b",
        what: "the rest of it from another source",
        families: Families::Both,
        run: foreign_rest,
    },
    Story {
        id: "F09b",
        what: "12,000 fragments of incomplete datagrams",
        families: Families::Both,
        run: large_flood,
    },
];

/// The datagram's identification: as its token, unlike that of others.
fn id(shot: &Shot) -> u16 {
    (shot.token.0 >> 8) as u16
}

/// 3000 bytes in three fragments, as 123, 321, 213, and as 1 of two datagrams, 3 of two, 2 of two.
fn in_any_order(shot: &Shot, port: u16) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for (number, order) in [[0, 1, 2], [2, 1, 0], [1, 0, 2]].iter().enumerate() {
        let pieces = cut(&shot.datagram(port, 3000), id(shot) + number as u16, &[1000, 2000]);
        frames.extend(order.map(|piece| pieces[piece].clone()));
    }
    let last = cut(&shot.datagram(port, 3000), id(shot) + 3, &[1000, 2000]);
    // Interleaved with the third one, whose last piece is still to come.
    let end = frames.pop().unwrap_or_default();
    frames.extend([last[2].clone(), end, last[0].clone(), last[1].clone()]);
    shot.frames(frames)
}

fn overlapping(shot: &Shot) -> Vec<Vec<u8>> {
    let packet = shot.datagram(shot.udp, 184);
    shot.frames([
        fragment(&packet, id(shot), 0..64, true),
        fragment(&packet, id(shot), 48..128, true),
        fragment(&packet, id(shot), 128..192, false),
    ])
}

/// F09 within the kernel's memory for reassembly, 4 MB (`ipfrag_high_thresh`).
fn small_flood(world: &World, six: bool) -> Result<Seen> {
    flood(world, six, 1000)
}

/// F09 beyond it; 100,000 at full size. The host forgets soon, so that the rows after this one find room again.
fn large_flood(world: &World, six: bool) -> Result<Seen> {
    let seen = forgetting(world, six, || flood(world, six, scale("FW_ROWS_FRAGMENTS", 6000)));
    world.barrier(Path::Published, six)?;
    seen
}

/// First fragments that stay alone, and later ones without a first; honest datagrams between them.
fn flood(world: &World, six: bool, floods: usize) -> Result<Seen> {
    let honest = 20;
    let mut arrived = 0;
    for round in 0..honest {
        world.hush();
        let shot = world.shot(Path::Published, six)?;
        let (open, closed) = (shot.datagram(shot.udp, 120), shot.datagram(CLOSED, 120));
        let mut frames = Vec::new();
        for number in 0..floods / honest {
            let id = (round * (floods / honest) + number) as u16;
            frames.push(fragment(if number % 2 == 0 { &open } else { &closed }, id, 0..64, true));
            frames.push(fragment(&open, id.wrapping_add(0x8000), 64..128, false));
        }
        world.send(Path::Published, &shot.frames(frames))?;
        let good = world.shot(Path::Published, six)?;
        world.send(Path::Published, &in_any_order(&good, good.udp))?;
        world.barrier(Path::Published, six)?;
        arrived += usize::from(world.times(Ear::Socket, good.token) == 4);
    }
    ensure!(arrived * 100 >= honest * 99, "{arrived} of {honest} times all honest datagrams arrived");
    Ok(Seen::new("honest ones arrive", format!("{arrived} of {honest} among {}", 2 * floods), ""))
}

/// Does `work` while the host keeps incomplete datagrams for one second, and waits until it has forgotten them.
fn forgetting<T>(world: &World, six: bool, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (own, conntrack, usual) = if six {
        ("ipv6/ip6frag_time", "netfilter/nf_conntrack_frag6_timeout", 60)
    } else {
        ("ipv4/ipfrag_time", "ipv4/ipfrag_time", 30)
    };
    let set = |seconds: u8| {
        let line = format!("cd /proc/sys/net; echo {seconds} >{own}; echo {seconds} >{conntrack}");
        world.lab.host().script(&line)
    };
    set(1)?;
    let done = work();
    // Nobody tells when it has forgotten: the time is what is tested.
    wait::pass(std::time::Duration::from_millis(2200));
    set(usual)?;
    done
}

/// F10: the host gives up on a datagram after a while, and says so to its sender.
fn late(world: &World, six: bool) -> Result<Seen> {
    let shot = world.shot(Path::Published, six)?;
    let pieces = cut(&shot.datagram(shot.udp, 120), id(&shot), &[64]);
    forgetting(world, six, || world.send(Path::Published, &[shot.frame(&pieces[0])]))?;
    world.send(Path::Published, &[shot.frame(&pieces[1])])?;
    world.barrier(Path::Published, six)?;
    let heard = world.who_heard(shot.token);
    ensure!(!heard.contains(&Ear::A1) && !heard.contains(&Ear::Socket), "heard by {heard:?}");
    Ok(Seen::new("not delivered", "not heard", ""))
}

/// F11: two senders use the same identification at once; each datagram is judged by itself.
fn same_id(world: &World, six: bool) -> Result<Seen> {
    let open = world.shot(Path::Published, six)?;
    let other = world.shot(Path::Published, six)?.from("198.18.0.3", "2001:db8:18::3");
    let closed = world.shot(Path::Published, six)?.from("198.18.0.77", "2001:db8:18::77");
    let each = [(open, open.udp), (other, other.udp), (closed, CLOSED)]
        .map(|(shot, port)| shot.frames(cut(&shot.datagram(port, 3000), id(&open), &[1000, 2000])));
    let before = world.counters()?;
    for piece in 0..3 {
        for frames in &each {
            world.send(Path::Published, &frames[piece..=piece])?;
        }
    }
    world.arrives(Ear::Socket, open.token)?;
    world.arrives(Ear::Socket, other.token)?;
    world.barrier(Path::Published, six)?;
    ensure!(world.times(Ear::A1, closed.token) == 0, "the closed port's was delivered");
    let dropped = moved(&before, &world.counters()?, "uplink_ingress", "port-not-allowed");
    ensure!(dropped == 1, "dropped {dropped}");
    Ok(Seen::new("each by itself", "two delivered, one not", "uplink_ingress port-not-allowed +1"))
}

/// F12: what a container sends in fragments gets out, and the reply in fragments gets back.
fn there_and_back(world: &World, six: bool) -> Result<Seen> {
    let before = world.counters()?;
    let out = world.shot(Path::Out, six)?;
    let pieces = cut(&out.datagram(7000, 3000), id(&out), &[1000, 2000]);
    world.send(Path::Out, &out.frames(pieces))?;
    let first = world.wait_for(Ear::Outside, "the first fragment", |frame| {
        out.token.is_in(frame) && frame.windows(2).any(|ports| ports == 7000_u16.to_be_bytes())
    })?;
    world.arrive(Ear::Outside, out.token, 2)?;
    let ports = first.windows(4).find(|ports| ports[2..] == 7000_u16.to_be_bytes()).context("the ports")?;
    let port = u16::from_be_bytes([ports[0], ports[1]]);
    let back = world.shot(Path::Published, six)?;
    let reply = udp((back.source, 7000), (back.target, port), &back.token.fills(3000));
    world.send(Path::Published, &back.frames(cut(&reply, id(&back), &[1000, 2000])))?;
    world.arrive(Ear::A1, back.token, 2)?;
    let replies = moved(&before, &world.counters()?, "uplink_ingress", "reply");
    ensure!(replies == 1, "{replies} replies");
    Ok(Seen::new("delivered both ways", "heard by R, then by a1", "uplink_ingress reply +1"))
}

/// m1 asks R under its own address; R's reply comes in these fragments, later ones from `rest`.
fn answered(world: &World, six: bool, rest: Option<&str>) -> Result<Token> {
    let gateway = world.lab.host().run(&["cat", "/sys/class/net/br-M/address"])?;
    let out = world.shot(Path::Out, six)?;
    let own = if six { world.m1.ip6()? } else { world.m1.ip()? };
    let asks = Shot {
        source: own,
        source_mac: world.m1.mac.context("m1 has a MAC address")?,
        target_mac: gateway.parse().map_err(anyhow::Error::msg)?,
        ..out
    };
    world.send_by("m1", &[asks.frame(&asks.udp_to(7012))])?;
    world.arrives(Ear::Outside, asks.token)?;
    let back = Shot { target: own, ..world.shot(Path::Published, six)? };
    let reply = udp((back.source, 7012), (own, asks.port), &back.token.fills(3000));
    let mut pieces = cut(&reply, id(&back), &[1000, 2000]);
    if let Some(rest) = rest {
        let stranger = udp((rest.parse()?, 7012), (own, asks.port), &back.token.fills(3000));
        pieces.splice(1.., cut(&stranger, id(&back), &[1000, 2000]).split_off(1));
    }
    world.send(Path::Published, &back.frames(pieces))?;
    // The way into the network is m1's: another reply is the barrier.
    let last = world.shot(Path::Published, six)?;
    let reply = udp((last.source, 7012), (own, asks.port), &last.token.fills(32));
    world.send(Path::Published, &[last.frame(&reply)])?;
    world.arrives(Ear::M1, last.token)?;
    Ok(back.token)
}

/// F12: nobody but fw knows which datagram a later fragment to a container's own address belongs to.
fn to_own_address(world: &World, six: bool) -> Result<Seen> {
    let token = answered(world, six, None)?;
    let heard = world.times(Ear::M1, token);
    ensure!(heard >= 2, "m1 heard {heard} fragments of its reply");
    Ok(Seen::new("delivered", "heard by m1", ""))
}

/// F06: what follows from elsewhere belongs to nothing.
fn foreign_rest(world: &World, six: bool) -> Result<Seen> {
    let before = world.counters()?;
    let token = answered(world, six, Some(if six { "2001:db8:18::3" } else { "198.18.0.3" }))?;
    // Conntrack waits for the rest of the first one, in vain.
    ensure!(world.times(Ear::M1, token) == 0, "m1 heard a part of it");
    let dropped = moved(&before, &world.counters()?, "uplink_ingress", "unknown-fragment");
    ensure!(dropped == 2, "dropped {dropped}");
    Ok(Seen::new("dropped", "not heard", "uplink_ingress unknown-fragment +2"))
}
