//! T01 to T10, U01 to U03, O01 to O04: TCP, UDP and all other protocols.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use xtask::lab::frame::{Mac, SYN, ip_frame, udp};
use xtask::lab::{OUTSIDE, OUTSIDE6, Outcome, ask};

use crate::packet::{CLOSED, Shot, flags, raw_datagram, with};
use crate::peer::{Peer, Segment, punch};
use crate::row::Expect::{Arrives, Drops};
use crate::row::{Families, Family, Row, Seen, Story, row};
use crate::world::{Ear, Path, World, moved};

pub(crate) const FAMILY: Family = Family { name: "T, U, O: transport", rows: ROWS, stories: STORIES };

const FORM: &str = "malformed-transport";
const PORT: &str = "port-not-allowed";

const ROWS: &[Row] = &[
    row("T01a", "flags that no stack sends, published port", Path::Published, Drops("tcp-flags"), nonsense),
    row("T01b", "the same from a container", Path::Same, Drops("tcp-flags"), nonsense),
    row("T02a", "ACK, SYN+ACK, RST, data to a closed port", Path::Published, Drops(PORT), |s| {
        stray(s, CLOSED)
    }),
    // fw keeps no state of who comes in: to a port that is open to the sender, a stray segment says no more than a
    // SYN would, and the container's own stack refuses it, as with stock Docker.
    row("T02b", "the same to the published port", Path::Published, Arrives("allow-rule"), |s| {
        stray(s, s.tcp)
    })
    // The kernel translates neither SYN+ACK nor RST without a connection.
    .counts(2),
    row("T03", "data offset below 5 or beyond, port 0", Path::Published, Drops(FORM), |s| {
        let packet = s.tcp_to(s.tcp, SYN);
        let offset = s.header() + 12;
        let offsets = [0, 1, 4, 6, 15].map(|words: u8| with(packet.clone(), offset, &[words << 4]));
        let from_zero = with(packet.clone(), s.header(), &[0, 0]);
        s.frames(offsets.into_iter().chain([s.tcp_to(0, SYN), s.udp_to(0), from_zero]))
    }),
    row(
        "T04",
        "SYN with data, TFO, ECN, 40 B of options, tiny MSS",
        Path::Published,
        Arrives("allow-rule"),
        |s| {
            let cookie = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
            let long = [&[2, 4, 5, 180, 4, 2, 8, 10][..], &[0; 8], &[3, 3, 7, 1], &[1; 20]].concat();
            s.frames([
                s.segment(s.tcp, SYN, &[], &s.token.fills(100)),
                s.segment(s.tcp, SYN, &cookie, &[]),
                s.segment(s.tcp, SYN, &cookie, &s.token.fills(100)),
                s.tcp_to(s.tcp, SYN | flags::ECE | flags::CWR),
                s.segment(s.tcp, SYN, &long, &[]),
                s.segment(s.tcp, SYN, &[2, 4, 0, 1], &[]),
            ])
        },
    ),
    row("U02a", "UDP length 0, below 8, beyond the packet", Path::Published, Drops(FORM), |s| {
        s.frames([0, 7, 41, 65_535].map(|length| raw_datagram(s, s.udp, length, 0)))
    }),
    row("U02b", "UDP checksum 0, open port", Path::Published, Arrives("allow-rule"), |s| {
        s.frames([raw_datagram(s, s.udp, 40, 0)])
    })
    .four()
    .heard_by(Ear::Socket),
    row("U02d", "UDP checksum 0, closed port", Path::Published, Drops(PORT), |s| {
        s.frames([raw_datagram(s, CLOSED, 40, 0)])
    }),
    row("O01", "SCTP, DCCP, UDP-Lite to a port published for TCP", Path::Published, Drops(PORT), |s| {
        s.frames([132, 33, 136].map(|proto| {
            let words = [s.port, s.tcp, 8, 0].into_iter().flat_map(u16::to_be_bytes);
            s.ip(proto, &words.chain(s.token.fills(40)).collect::<Vec<_>>())
        }))
    }),
    row("O02a", "tunnels and routing protocols from outside", Path::Host, Drops(PORT), |s| {
        // Not from R, to whom a container may have spoken by the same protocol.
        others(&s.from("198.18.0.3", "2001:db8:18::3"), true)
    }),
    // Egress is open unless the policy restricts it.
    row("O02b", "the same out of a container", Path::Out, Arrives("outbound"), |s| others(s, false)),
    row("O03", "a packet to a container inside IPIP and GRE", Path::Host, Drops(PORT), |s| {
        let a1 = s.to("10.1.0.2", "2001:db8:a::2");
        let inner = a1.udp_to(CLOSED);
        let kind = if s.is_six() { [0, 0, 0x86, 0xdd] } else { [0, 0, 8, 0] };
        s.frames([s.ip(if s.is_six() { 41 } else { 4 }, &inner), s.ip(47, &[&kind[..], &inner].concat())])
    }),
];

const STORIES: &[Story] = &[
    Story {
        id: "T05",
        what: "simultaneous open to an open port",
        families: Families::Four,
        run: simultaneous,
    },
    Story {
        id: "T06",
        what: "resets beside the window, in it, exact",
        families: Families::Both,
        run: resets,
    },
    Story { id: "T07", what: "forged FIN both ways", families: Families::Both, run: forged_fin },
    Story { id: "T08a", what: "half-closed, one-way data", families: Families::Both, run: half_closed },
    Story { id: "T08b", what: "idle for 1 h 50 min", families: Families::Both, run: idle },
    Story {
        id: "T09a",
        what: "SYN on the tuple of a closed connection",
        families: Families::Both,
        run: reopened,
    },
    Story { id: "T09b", what: "SYN on a live tuple, reset, SYN", families: Families::Both, run: challenged },
    Story { id: "T09c", what: "a container takes the same port again", families: Families::Four, run: again },
    Story { id: "T10", what: "R opens to a container's source port", families: Families::Both, run: reverse },
    Story {
        id: "U01",
        what: "reply from another port, another address",
        families: Families::Both,
        run: elsewhere,
    },
    Story {
        id: "U03",
        what: "replies before and after the timeouts",
        families: Families::Both,
        run: timeouts,
    },
    Story { id: "O04", what: "groups stay on their bridge", families: Families::Both, run: groups },
];

fn nonsense(shot: &Shot) -> Vec<Vec<u8>> {
    use flags::{ACK, FIN, PSH, RST, URG};
    let xmas = FIN | PSH | URG;
    shot.frames(
        [0, FIN, xmas, SYN | FIN, SYN | RST, SYN | FIN | RST | PSH | ACK | URG, 0xff]
            .map(|flags| shot.tcp_to(shot.tcp, flags)),
    )
}

fn stray(shot: &Shot, port: u16) -> Vec<Vec<u8>> {
    shot.frames([
        shot.tcp_to(port, flags::ACK),
        shot.tcp_to(port, SYN | flags::ACK),
        shot.tcp_to(port, flags::RST),
        shot.segment(port, flags::ACK | flags::PSH, &[], &shot.token.fills(64)),
    ])
}

/// GRE, ESP, AH, IPIP, 6in4, OSPF, VRRP and the last number. In IPv6 AH is an extension header (X01).
fn others(shot: &Shot, with_tunnels: bool) -> Vec<Vec<u8>> {
    let protos = [50, 51, 89, 112, 255, 47, 4, 41];
    let protos = protos.into_iter().filter(|proto| !(shot.is_six() && *proto == 51));
    let protos = protos.filter(|proto| with_tunnels || !matches!(proto, 4 | 41 | 47));
    // As GRE: no flags, and a protocol that nobody carries.
    let inside = [&[0, 0, 0x90, 0][..], &shot.token.fills(60)].concat();
    protos.map(|proto| shot.frame(&shot.ip(proto, &inside))).collect()
}

fn outside(six: bool) -> std::net::IpAddr {
    if six { OUTSIDE6.into() } else { OUTSIDE.into() }
}

/// T05: H connects from an open port while its peer connects to it.
fn simultaneous(world: &World, six: bool) -> Result<Seen> {
    let before = world.counters()?;
    let peer = Peer::new(world, six)?;
    let opened = std::thread::scope(|scope| -> Result<bool> {
        let to = SocketAddrV4::new([198, 18, 0, 77].into(), peer.port);
        let host = world.lab.host();
        let connecting = scope.spawn(move || host.connect_from(2200, to).is_ok());
        let syn = peer.hears(2200, |segment| segment.flags == SYN)?;
        peer.sends(2200, SYN, (5000, 0))?;
        peer.hears(2200, |segment| segment.flags == SYN | flags::ACK)?;
        peer.sends(2200, SYN | flags::ACK, (5000, syn.sequence.wrapping_add(1)))?;
        Ok(connecting.join().expect("the thread does not panic"))
    })?;
    ensure!(opened, "the host's connect failed");
    let accepted = moved(&before, &world.counters()?, "uplink_ingress", "allow-rule");
    ensure!(accepted >= 2, "accepted {accepted}");
    Ok(Seen::new("opens", "established", format!("uplink_ingress allow-rule +{accepted}")))
}

/// A connection of a1 to R, and the segment with which it acknowledged R's answer.
fn connection(world: &World, six: bool) -> Result<(TcpStream, Segment)> {
    let mut stream = world.a1.place.connect((outside(six), 443).into())?;
    ensure!(ask(&mut stream).reached_at("R"), "R answers");
    // The last words of the connection before may still come in: this one is that of the last SYN.
    let frames = world.all(Ear::Outside);
    let segments: Vec<_> =
        frames.iter().filter_map(|frame| Segment::parse(frame)).filter(|segment| segment.to == 443).collect();
    let opening = segments.iter().rfind(|segment| segment.flags == SYN).context("a1 has begun")?;
    let first = segments.iter().find(|segment| segment.from == opening.from && segment.flags == flags::ACK);
    let first = first.context("a1 has completed the handshake")?;
    let segment = acknowledged(world, first.acknowledgement.wrapping_add(ANSWER))?;
    Ok((stream, segment))
}

/// The segment with which a1 acknowledges R's port 443 up to this number.
fn acknowledged(world: &World, number: u32) -> Result<Segment> {
    let is_it = |segment: &Segment| segment.to == 443 && segment.acknowledgement == number;
    let frame = world.wait_for(Ear::Outside, "the acknowledgement", |frame| {
        Segment::parse(frame).is_some_and(|segment| is_it(&segment))
    })?;
    Segment::parse(&frame).context("it was one a moment ago")
}

/// Bytes of "R" and the end of the line.
const ANSWER: u32 = 2;

/// T06: RFC 5961. Whoever does not know the sequence number ends nothing.
fn resets(world: &World, six: bool) -> Result<Seen> {
    let (mut stream, seen) = connection(world, six)?;
    let reset = |sequence: u32| {
        let peer = world.shot(Path::Published, six)?;
        let packet = Segment { from: 443, to: seen.from, sequence, acknowledgement: 0, flags: flags::RST };
        world.send(Path::Published, &[peer.frame(&packet.packet(peer.source, peer.target))])?;
        world.barrier(Path::Published, six)
    };
    let known = seen.acknowledgement;
    reset(known.wrapping_add(0x4000_0000))?;
    ensure!(ask(&mut stream).reached_at("R"), "a reset beside the window ended the connection");
    acknowledged(world, known.wrapping_add(ANSWER))?;
    reset(known.wrapping_add(ANSWER + 100))?;
    ensure!(ask(&mut stream).reached_at("R"), "a reset within the window ended the connection");
    acknowledged(world, known.wrapping_add(2 * ANSWER))?;
    reset(known.wrapping_add(2 * ANSWER))?;
    ensure!(ask(&mut stream) == Outcome::Refused, "the exact reset did not end the connection");
    Ok(Seen::new("the exact one ends it", "alive, alive, reset", ""))
}

/// T07: a FIN that is not in the window of either side.
fn forged_fin(world: &World, six: bool) -> Result<Seen> {
    let (mut stream, seen) = connection(world, six)?;
    let far = 0x4000_0000;
    let inward = world.shot(Path::Published, six)?;
    let fin = Segment {
        from: 443,
        to: seen.from,
        sequence: seen.acknowledgement.wrapping_add(far),
        // Whoever knows this number can end the connection at R, too: what conntrack takes for invalid is not
        // translated, and H answers it with a reset of that number.
        acknowledgement: seen.sequence.wrapping_add(far),
        flags: flags::FIN | flags::ACK,
    };
    world.send(Path::Published, &[inward.frame(&fin.packet(inward.source, inward.target))])?;
    let outward = world.shot(Path::Out, six)?;
    let local = stream.local_addr()?.port();
    let fin = Segment { from: local, to: 443, sequence: seen.sequence.wrapping_add(far), ..fin };
    world.send(Path::Out, &[outward.frame(&fin.packet(outward.source, outward.target))])?;
    world.barrier(Path::Out, six)?;
    ensure!(ask(&mut stream).reached_at("R"), "forged FINs ended the connection");
    Ok(Seen::new("stays", "alive", ""))
}

/// T08a: the container has said all; R has not. And again when the flow has been silent for nearly its time.
fn half_closed(world: &World, six: bool) -> Result<Seen> {
    let listener = world.lab.outside().within(|| TcpListener::bind("[::]:7008"))??;
    let stream = world.a1.place.connect((outside(six), 7008).into())?;
    let (mut server, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.shutdown(Shutdown::Write)?;
    let mut lines = BufReader::new(stream);
    for silence in [0, 90, 90] {
        world.age_flow(6, 7008, silence)?;
        server.write_all(b"data\n")?;
        let mut line = String::new();
        lines.read_line(&mut line).context("one-way data did not arrive")?;
        ensure!(line == "data\n", "the container read `{line}`");
    }
    Ok(Seen::new("data arrives", "three lines, silent for 90 s between", ""))
}

/// T08b: keepalives come every two hours.
fn idle(world: &World, six: bool) -> Result<Seen> {
    let (mut stream, _) = connection(world, six)?;
    world.age_flow(6, 443, 110 * 60)?;
    ensure!(ask(&mut stream).reached_at("R"), "the connection died of silence");
    Ok(Seen::new("stays", "alive", ""))
}

/// A whole connection of the peer to the published port; `sequence` is the peer's first number.
fn opens(peer: &Peer<'_>, from: u32) -> Result<Segment> {
    peer.sends(8080, SYN, (from, 0))?;
    let answer = peer.hears(8080, |segment| {
        segment.flags == SYN | flags::ACK && segment.acknowledgement == from.wrapping_add(1)
    })?;
    peer.sends(8080, flags::ACK, (from.wrapping_add(1), answer.sequence.wrapping_add(1)))?;
    Ok(answer)
}

/// T09a: the peer closes and opens again from the same port.
fn reopened(world: &World, six: bool) -> Result<Seen> {
    let peer = Peer::new(world, six)?;
    let answer = opens(&peer, 1_000_000)?;
    let next = answer.sequence.wrapping_add(1);
    peer.sends(8080, flags::FIN | flags::ACK, (1_000_001, next))?;
    let fin = peer.hears(8080, |segment| segment.flags & flags::FIN != 0)?;
    peer.sends(8080, flags::ACK, (1_000_002, fin.sequence.wrapping_add(1)))?;
    world.hush();
    opens(&peer, 90_000_000)?;
    Ok(Seen::new("opens again", "SYN+ACK", ""))
}

/// T09b: RFC 9293 section 3.10.7.4: a challenge, a reset, and a new connection.
fn challenged(world: &World, six: bool) -> Result<Seen> {
    let peer = Peer::new(world, six)?;
    let answer = opens(&peer, 1_000_000)?;
    world.hush();
    peer.sends(8080, SYN, (70_000_000, 0))?;
    let challenge = peer.hears(8080, |segment| segment.flags == flags::ACK)?;
    ensure!(challenge.sequence == answer.sequence.wrapping_add(1), "not a challenge: {challenge:?}");
    peer.sends(8080, flags::RST, (challenge.acknowledgement, 0))?;
    world.hush();
    opens(&peer, 70_000_000)?;
    Ok(Seen::new("opens again", "challenge, then SYN+ACK", ""))
}

/// T09c: R closes first and keeps the tuple; the container takes its port again at once.
fn again(world: &World, _: bool) -> Result<Seen> {
    let listener = world.lab.outside().within(|| TcpListener::bind("[::]:7009"))??;
    for _ in 0..2 {
        let mut stream = world.a1.place.connect_from(7309, SocketAddrV4::new(OUTSIDE, 7009))?;
        drop(listener.accept()?);
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        let read = std::io::Read::read(&mut stream, &mut [0; 8])?;
        ensure!(read == 0, "R has closed");
    }
    Ok(Seen::new("opens again", "connected twice", ""))
}

/// T10: what a container opened is open one way only.
fn reverse(world: &World, six: bool) -> Result<Seen> {
    let (mut stream, seen) = connection(world, six)?;
    let before = world.counters()?;
    let shot = world.shot(Path::Published, six)?;
    let syn = Shot { port: 443, ..shot }.tcp_to(seen.from, SYN);
    world.send(Path::Published, &[shot.frame(&syn)])?;
    world.barrier(Path::Published, six)?;
    ensure!(world.who_heard(shot.token).is_empty(), "heard by {:?}", world.who_heard(shot.token));
    let dropped = moved(&before, &world.counters()?, "uplink_ingress", PORT);
    ensure!(dropped == 1, "dropped {dropped}");
    ensure!(ask(&mut stream).reached_at("R"), "the container's own connection lives on");
    Ok(Seen::new("dropped", "not heard", "uplink_ingress port-not-allowed +1"))
}

/// U01: a reply comes from where the question went.
fn elsewhere(world: &World, six: bool) -> Result<Seen> {
    let flow = punch(world, six, 7101)?;
    let before = world.counters()?;
    let wrong = world.shot(Path::Published, six)?;
    let third = wrong.either("198.18.0.3", "2001:db8:18::3");
    let payload = wrong.token.fills(32);
    world.send(
        Path::Published,
        &wrong.frames([
            udp((flow.peer, 7102), (wrong.target, flow.port), &payload),
            udp((third, 7101), (wrong.target, flow.port), &payload),
        ]),
    )?;
    let right = world.shot(Path::Published, six)?;
    let reply = udp((flow.peer, 7101), (right.target, flow.port), &right.token.fills(32));
    world.send(Path::Published, &[right.frame(&reply)])?;
    world.arrives(Ear::A1, right.token)?;
    ensure!(world.who_heard(wrong.token).is_empty(), "heard by {:?}", world.who_heard(wrong.token));
    let dropped = moved(&before, &world.counters()?, "uplink_ingress", PORT);
    ensure!(dropped == 2, "dropped {dropped}");
    Ok(Seen::new("dropped", "only the exact one heard", "uplink_ingress port-not-allowed +2"))
}

/// U03: docs/decisions.md: 25 s for a datagram, 110 s for a stream.
fn timeouts(world: &World, six: bool) -> Result<Seen> {
    for (stream, port, last, late) in [(false, 7103, 23, 3), (true, 7104, 107, 4)] {
        let flow = punch(world, six, port)?;
        let reply = || -> Result<crate::packet::Token> {
            let shot = world.shot(Path::Published, six)?;
            let packet = udp((flow.peer, port), (shot.target, flow.port), &shot.token.fills(32));
            world.send(Path::Published, &[shot.frame(&packet)])?;
            world.barrier(Path::Published, six)?;
            Ok(shot.token)
        };
        if stream {
            // Answered, and spoken to again after it has been there for a while.
            world.arrives(Ear::A1, reply()?)?;
            world.age_flow(17, port, 5)?;
            flow.sends(world)?;
        }
        world.age_flow(17, port, last)?;
        let heard = reply()?;
        ensure!(world.times(Ear::A1, heard) == 1, "no reply after {last} s (stream: {stream})");
        world.age_flow(17, port, late)?;
        let heard = reply()?;
        ensure!(world.who_heard(heard).is_empty(), "a reply after {last} + {late} s (stream: {stream})");
    }
    Ok(Seen::new("within, not after", "23 s and 107 s pass, 26 s and 111 s do not", ""))
}

/// O04: group reports, mDNS and SSDP of a container reach its siblings and nobody else.
fn groups(world: &World, six: bool) -> Result<Seen> {
    let shot = world.shot(Path::Same, six)?;
    let names = shot.to("224.0.0.251", "ff02::fb");
    let services = shot.to("239.255.255.250", "ff0e::c");
    let mac = if six { Mac([0x33, 0x33, 0, 0, 0, 0xfb]) } else { Mac([1, 0, 0x5e, 0, 0, 0xfb]) };
    let payload = shot.token.fills(48);
    let packets = [
        udp((shot.source, 5353), (names.target, 5353), &payload),
        udp((shot.source, 1900), (services.target, 1900), &payload),
    ];
    world.send(Path::Same, &packets.map(|packet| ip_frame(mac, shot.source_mac, &packet)))?;
    world.arrive(Ear::A2, shot.token, 2)?;
    world.barrier(Path::Out, six)?;
    world.barrier(Path::ToB, six)?;
    let heard = world.who_heard(shot.token);
    ensure!(heard.iter().all(|ear| matches!(ear, Ear::A2 | Ear::Bridge)), "heard by {heard:?}");
    Ok(Seen::new("stay", format!("heard by {heard:?}"), ""))
}
