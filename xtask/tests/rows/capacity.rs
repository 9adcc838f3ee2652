//! P01 to P03: floods. Their size here fits a test of seconds; the variables in `scale` make them as large as one likes.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use xtask::lab::frame::SYN;
use xtask::lab::{HOST, OUTSIDE, ask};

use crate::packet::{CLOSED, Shot, summed};
use crate::row::{Families, Family, Seen, Story};
use crate::world::{Path, World, moved, scale};

pub(crate) const FAMILY: Family = Family { name: "P: capacity", rows: &[], stories: STORIES };

const STORIES: &[Story] = &[
    Story {
        id: "P01",
        what: "half-open and UDP tuples to published ports",
        families: Families::Four,
        run: half_open,
    },
    Story {
        id: "P03",
        what: "many sources at closed ports leave no state",
        families: Families::Four,
        run: no_state,
    },
    // Last: it leaves the table of flows full.
    Story {
        id: "P02",
        what: "a container floods with egress tuples",
        families: Families::Four,
        run: one_container,
    },
];

/// The frame from another source each time: addresses of 100.64.0.0/10, whose checksums are put right.
fn from_many(shot: &Shot, packet: &[u8], number: u32) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let source = Ipv4Addr::from(0x6440_0000 + (number & 0x003f_ffff));
    packet[12..16].copy_from_slice(&source.octets());
    // The transport's checksum covers the source; what is counted here does not depend on it.
    shot.frame(&summed(packet))
}

/// P01: 2M half-open and 1M UDP tuples at full size (`FW_ROWS_HALF_OPEN=2000000`); 20,000 and 10,000 here.
fn half_open(world: &World, six: bool) -> Result<Seen> {
    let flood = scale("FW_ROWS_HALF_OPEN", 20_000) as u32;
    let live = scale("FW_ROWS_LIVE", 20);
    let mut flows = Vec::new();
    for number in 0..live {
        let (place, to, who) = if number % 2 == 0 {
            (world.lab.outside(), SocketAddr::from((HOST, 8080)), "a1")
        } else {
            (&world.a1.place, SocketAddr::from((OUTSIDE, 443)), "R")
        };
        flows.push((place.connect(to)?, who));
    }
    let before = world.counters()?;
    let shot = world.shot(Path::Published, six)?;
    let (syn, datagram) = (shot.tcp_to(shot.tcp, SYN), shot.open());
    for number in 0..flood {
        world.send(Path::Published, &[from_many(&shot, &syn, number)])?;
        if number % 2 == 0 {
            world.send(Path::Published, &[from_many(&shot, &datagram, number)])?;
        }
    }
    world.barrier(Path::Published, six)?;
    let alive = flows.iter_mut().filter_map(|(flow, who)| ask(flow).reached_at(who).then_some(())).count();
    ensure!(alive * 1000 >= live * 995, "{alive} of {live} flows are alive");
    let mut opened = 0;
    for _ in 0..live {
        opened += usize::from(world.lab.outside().tcp((HOST, 8080).into())?.reached_at("a1"));
    }
    ensure!(opened * 100 >= live * 99, "{opened} of {live} new connections");
    let accepted = moved(&before, &world.counters()?, "uplink_ingress", "allow-rule");
    ensure!(accepted >= u64::from(flood), "accepted {accepted}");
    let got = format!("{alive} of {live} alive, {opened} new, after {} tuples", flood + flood / 2);
    Ok(Seen::new("flows live", got, format!("uplink_ingress allow-rule +{accepted}")))
}

/// P03: 1M sources at full size (`FW_ROWS_SOURCES=1000000`); 100,000 here.
fn no_state(world: &World, six: bool) -> Result<Seen> {
    let flood = scale("FW_ROWS_SOURCES", 100_000) as u32;
    let flows = || -> Result<usize> {
        let text = world.lab.fw(&["table", "flows", "--json"])?;
        let rows: Vec<serde_json::Value> = serde_json::from_str(&text).context("no JSON")?;
        Ok(rows.len())
    };
    let conntrack = || -> Result<u64> {
        let text = world.lab.host().run(&["cat", "/proc/sys/net/netfilter/nf_conntrack_count"])?;
        text.trim().parse().context("a number")
    };
    let (flows_before, conntrack_before, before) = (flows()?, conntrack()?, world.counters()?);
    let shot = world.shot(Path::Published, six)?;
    let (syn, datagram) = (shot.tcp_to(CLOSED, SYN), shot.udp_to(CLOSED));
    for number in 0..flood {
        let packet = if number % 2 == 0 { &syn } else { &datagram };
        world.send(Path::Published, &[from_many(&shot, packet, number)])?;
    }
    world.barrier(Path::Published, six)?;
    let dropped = moved(&before, &world.counters()?, "uplink_ingress", "port-not-allowed");
    ensure!(dropped == u64::from(flood), "dropped {dropped} of {flood}");
    let (flows_after, conntrack_after) = (flows()?, conntrack()?);
    // The barrier is one; conntrack may forget others meanwhile.
    ensure!(flows_after <= flows_before + 1, "{flows_before} flows before, {flows_after} after");
    ensure!(
        conntrack_after <= conntrack_before + 1,
        "conntrack held {conntrack_before}, then {conntrack_after}"
    );
    let got = format!("{flows_after} flows, {conntrack_after} in conntrack");
    Ok(Seen::new("no state", got, format!("uplink_ingress port-not-allowed +{dropped}")))
}

/// P02: more tuples than the table has room for (262,144), so that this is its full size.
fn one_container(world: &World, six: bool) -> Result<Seen> {
    let flood = scale("FW_ROWS_EGRESS", 300_000);
    let listener = world.lab.outside().within(|| std::net::TcpListener::bind("[::]:7808"))??;
    let mut neighbours = Vec::new();
    for _ in 0..scale("FW_ROWS_LIVE", 20) {
        let neighbour = world.n1.place.connect((OUTSIDE, 7808).into())?;
        neighbour.set_read_timeout(Some(Duration::from_secs(1)))?;
        neighbours.push((neighbour, listener.accept()?.0));
    }
    let before = world.counters()?;
    // Without conntrack, whose own table would be full first, and a flow for each.
    let rule = "iptables -w -t raw -A PREROUTING -i br-A -p udp --dport 9000 -j CT --notrack";
    world.lab.host().script(rule)?;
    let shot = world.shot(Path::Out, six)?;
    let mut packet = shot.udp_to(9000);
    for number in 0..flood as u32 {
        // The source port, and an address behind R.
        packet[20..22].copy_from_slice(&(1024 + (number % 60_000) as u16).to_be_bytes());
        let to = Ipv4Addr::from(0x6440_0000 + number / 60_000);
        packet[16..20].copy_from_slice(&to.octets());
        // Twice: the table's least recently used are those that were asked for once.
        let frame = shot.frame(&summed(packet.clone()));
        world.send(Path::Out, &[frame.clone(), frame])?;
    }
    world.lab.host().script(&rule.replace("-A PREROUTING", "-D PREROUTING"))?;
    let sent = moved(&before, &world.counters()?, "uplink_egress", "sent");
    ensure!(sent >= 2 * flood as u64, "{sent} of {} left the host", 2 * flood);
    let mut alive = 0;
    for (neighbour, server) in &mut neighbours {
        std::io::Write::write_all(server, b"data\n")?;
        let mut line = String::new();
        let read = std::io::BufRead::read_line(&mut std::io::BufReader::new(neighbour), &mut line);
        ensure!(read.is_ok() && line == "data\n", "a flow of a neighbour is gone");
        alive += 1;
    }
    Ok(Seen::new(
        "the neighbour's flows live",
        format!("{alive} alive after {flood} tuples"),
        format!("uplink_egress sent +{sent}"),
    ))
}
