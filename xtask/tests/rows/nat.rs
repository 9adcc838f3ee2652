//! N01 to N04: what NAT does before and after the hooks.

use anyhow::{Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};
use xtask::lab::frame::{SYN, udp};
use xtask::lab::{HOST, HOST6, ask};

use crate::packet::{Shot, flags};
use crate::peer::Segment;
use crate::row::Expect::Drops;
use crate::row::{Families, Family, Row, Seen, Story, row};
use crate::world::{Ear, Path, World, moved};

pub(crate) const FAMILY: Family = Family { name: "N: NAT", rows: ROWS, stories: STORIES };

const ROWS: &[Row] = &[
    row(
        "N02a",
        "the container's port on the host's address",
        Path::Published,
        Drops("port-not-allowed"),
        |s| s.frames([s.tcp_to(80, SYN)]),
    )
    .twin(|s| s.frames([s.tcp_to(s.tcp, SYN)])),
    row("N02b", "the host's port on a container's address", Path::Direct, Drops("direct-access"), |s| {
        let sibling = s.to("10.1.0.3", "2001:db8:a::3");
        s.frames([s.tcp_to(8080, SYN), sibling.tcp_to(8080, SYN), sibling.tcp_to(80, SYN)])
    })
    .twin(|s| s.frames([s.tcp_to(s.tcp, SYN)])),
];

const STORIES: &[Story] = &[
    Story { id: "N01", what: "two containers, one source port", families: Families::Both, run: same_port },
    Story {
        id: "N02c",
        what: "a sibling listens on the host's port number",
        families: Families::Both,
        run: only_mapped,
    },
    Story { id: "N03", what: "the host opens from a published port", families: Families::Four, run: shadow },
    Story { id: "N04", what: "the DNAT rule goes in mid-flow", families: Families::Four, run: rule_gone },
];

/// N01: MASQUERADE gives one of them another port; each hears its own reply.
fn same_port(world: &World, six: bool) -> Result<Seen> {
    let before = world.counters()?;
    let one = world.shot(Path::Out, six)?.to("198.18.0.77", "2001:db8:18::77");
    let Some(mac) = world.a2.mac else { anyhow::bail!("a2 has a MAC address") };
    let source = if six { world.a2.ip6()? } else { world.a2.ip()? };
    let other = Shot { source, source_mac: mac, port: one.port, ..world.shot(Path::Out, six)? };
    let other = Shot { target: one.target, ..other };
    world.send_by("a1", &[one.frame(&one.udp_to(7401))])?;
    world.send_by("a2", &[other.frame(&other.udp_to(7401))])?;
    let mut ports = Vec::new();
    for shot in [&one, &other] {
        let frame = world.wait_for(Ear::Outside, "a datagram", |frame| shot.token.is_in(frame))?;
        ports.extend(Segment::parse(&frame).map(|segment| segment.from));
    }
    ensure!(ports.len() == 2 && ports[0] != ports[1], "R saw the ports {ports:?}");
    for (port, ear) in ports.into_iter().zip([Ear::A1, Ear::A2]) {
        let back = world.shot(Path::Published, six)?;
        let reply = udp((one.target, 7401), (back.target, port), &back.token.fills(32));
        world.send(Path::Published, &[back.frame(&reply)])?;
        world.arrives(ear, back.token)?;
        world.barrier(Path::Published, six)?;
        let heard = world.who_heard(back.token);
        let other = if ear == Ear::A1 { Ear::A2 } else { Ear::A1 };
        ensure!(!heard.contains(&other), "heard by {heard:?}");
    }
    let replies = moved(&before, &world.counters()?, "uplink_ingress", "reply");
    ensure!(replies == 2, "{replies} replies");
    Ok(Seen::new("each its own reply", "not crossed", "uplink_ingress reply +2"))
}

/// N02: 8080 of the host is a1's 80; that a2 serves 8080 has nothing to do with it.
fn only_mapped(world: &World, six: bool) -> Result<Seen> {
    let _server = world.a2.place.serve_tcp("[::]:8080", "a2")?;
    let host = if six { HOST6.into() } else { HOST.into() };
    let outcome = world.lab.outside().tcp(std::net::SocketAddr::new(host, 8080))?;
    ensure!(outcome.reached_at("a1"), "{outcome:?}");
    ensure!(
        world.all(Ear::A2).iter().filter_map(|f| Segment::parse(f)).all(|s| s.to != 8080),
        "a2 heard of it"
    );
    Ok(Seen::new("a1 answers", "a1", ""))
}

/// N03: what answers the host's own connection from a published port number goes to the host.
fn shadow(world: &World, six: bool) -> Result<Seen> {
    let before = world.counters()?;
    let shot = world.shot(Path::Published, six)?;
    // The port is docker-proxy's, so that no socket may connect from it: the segment is sent as it stands.
    let from_host = Shot { source: shot.target, target: shot.source, port: 8080, ..shot };
    let packet = from_host.tcp_to(443, SYN);
    world.lab.host().within(|| send_raw(&packet, from_host.target))??;
    let answer = world.wait_for(Ear::Uplink, "R's answer", |frame| {
        Segment::parse(frame).is_some_and(|segment| {
            segment.from == 443 && segment.to == 8080 && segment.flags == SYN | flags::ACK
        })
    })?;
    ensure!(world.heard(Ear::Outside, |frame| shot.token.is_in(frame)).is_some(), "R heard the SYN");
    world.barrier(Path::Published, six)?;
    let number = shot.token.0.wrapping_add(1).to_be_bytes();
    ensure!(answer.windows(4).any(|window| window == number), "R answered another segment");
    let at_a1 = world.heard(Ear::A1, |frame| frame.windows(4).any(|window| window == number));
    ensure!(at_a1.is_none(), "a1 was given the host's answer");
    let accepted = moved(&before, &world.counters()?, "uplink_ingress", "allow-rule");
    Ok(Seen::new("the host hears", "not a1", format!("uplink_ingress allow-rule +{accepted}")))
}

fn send_raw(packet: &[u8], to: std::net::IpAddr) -> Result<()> {
    use std::os::fd::AsRawFd as _;
    let raw = nix::sys::socket::SockProtocol::Raw;
    match to {
        std::net::IpAddr::V4(to) => {
            let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, raw)?;
            let to = SockaddrIn::from(std::net::SocketAddrV4::new(to, 0));
            sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty())?;
        }
        std::net::IpAddr::V6(to) => {
            let socket = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, raw)?;
            let to = SockaddrIn6::from(std::net::SocketAddrV6::new(to, 0, 0, 0));
            sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty())?;
        }
    }
    Ok(())
}

/// N04: conntrack keeps what it has translated, and nobody else is reached.
fn rule_gone(world: &World, six: bool) -> Result<Seen> {
    let (tool, host) = if six { ("ip6tables", HOST6.into()) } else { ("iptables", HOST.into()) };
    let rules = world.lab.host().run(&[tool, "-w", "-t", "nat", "-S", "DOCKER"])?;
    let Some(rule) = rules.lines().find(|line| line.contains("--dport 8080")) else {
        anyhow::bail!("no DNAT rule for 8080 in {rules}");
    };
    let to = std::net::SocketAddr::new(host, 8080);
    let mut flow = world.lab.outside().connect(to)?;
    ensure!(ask(&mut flow).reached_at("a1"), "a1 answers");
    let change = |line: &str| world.lab.host().script(&format!("{tool} -w -t nat {line}"));
    change(&rule.replacen("-A", "-D", 1))?;
    let after = ask(&mut flow);
    // docker-proxy still listens on the port, and leads to the same container.
    let anew = world.lab.outside().tcp(to)?;
    change(rule)?;
    ensure!(after.reached_at("a1"), "the flow ended: {after:?}");
    ensure!(!anew.reached() || anew.reached_at("a1"), "somebody else answered: {anew:?}");
    Ok(Seen::new("stays, no other target", format!("alive; anew {anew}"), ""))
}
