//! G01 to G04: the same packets in other forms: in pages, in aggregates of 64 KB, with the tag beside the frame.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use xtask::lab::offload::Offload;
use xtask::lab::{HOST, HOST6};

use crate::packet::Shot;
use crate::row::{Expect, Families, Family, Row, Seen, Story};
use crate::world::{Counters, Ear, Path, World, moved};
use crate::{fragments, icmp, ipv4, ipv6, link, spoofing, transport};

pub(crate) const FAMILY: Family = Family { name: "G: offload", rows: &[], stories: STORIES };

const STORIES: &[Story] = &[
    Story {
        id: "G01",
        what: "aggregates, checksums left open, MTU 9000",
        families: Families::Both,
        run: aggregates,
    },
    Story { id: "G02", what: "headers in page fragments", families: Families::Both, run: pages },
    Story { id: "G04", what: "VLAN tag in the frame or beside it", families: Families::Both, run: tags },
];

/// Every row that comes in from outside by the uplink.
fn corpus() -> impl Iterator<Item = &'static Row> {
    [
        link::FAMILY,
        ipv4::FAMILY,
        fragments::FAMILY,
        ipv6::FAMILY,
        transport::FAMILY,
        icmp::FAMILY,
        spoofing::FAMILY,
    ]
    .into_iter()
    .flat_map(|family| family.rows)
    .filter(|row| matches!(row.path, Path::Published | Path::Host | Path::Direct))
}

/// Where the header of Ethernet, IPv4, IPv6, TCP and UDP end, and just beside.
const CUTS: [&[usize]; 9] = [&[14], &[15], &[20], &[33], &[34], &[35], &[40], &[54], &[14, 34, 42, 54]];

/// G02: the whole corpus through a tap device, in one piece and cut; every counter of the hook moves alike.
fn pages(world: &World, six: bool) -> Result<Seen> {
    let Some(device) = &world.tap else {
        println!("SKIPPED: row G02: no /dev/net/tun with IFF_NAPI_FRAGS here");
        return Ok(Seen::new("same verdicts", "SKIPPED", ""));
    };
    let rows: Vec<_> = corpus().filter(|row| row.is_of(six)).collect();
    let mut tap = device.borrow_mut();
    let mut send = |rows: &[&Row], cuts: &[usize]| -> Result<(Counters, usize)> {
        let before = world.counters()?;
        let mut sent = 0;
        for row in rows {
            let shot = world.shot(row.path, six)?;
            for frame in (row.packets)(&Shot { target_mac: TAP_MAC, ..shot }) {
                tap.send(&frame, cuts).with_context(|| format!("row {}", row.id))?;
                sent += usize::from(!NOISE.contains(&row.expect.reason()));
            }
        }
        Ok((judged(&before, &world.counters()?), sent))
    };
    let (whole, count) = send(&rows, &[])?;
    let judged_at_all: u64 = whole.values().sum();
    ensure!(judged_at_all as usize >= count, "{judged_at_all} of {count} frames were judged");
    for cuts in CUTS {
        let (parted, _) = send(&rows, cuts)?;
        if parted == whole {
            continue;
        }
        for row in &rows {
            let ((one, _), (other, _)) = (send(&[row], &[])?, send(&[row], cuts)?);
            ensure!(one == other, "{} cut at {cuts:?}: {other:?} instead of {one:?}", row.id);
        }
        bail!("cut at {cuts:?}: {parted:?} instead of {whole:?}, and no row by itself");
    }
    Ok(Seen::new(
        "same verdicts",
        format!("{count} frames, {} ways to cut", CUTS.len()),
        format!("uplink_ingress +{judged_at_all}"),
    ))
}

/// How the counters of the uplink's hook moved, but for what the lab's own network says by itself.
fn judged(before: &Counters, after: &Counters) -> Counters {
    after
        .keys()
        .filter(|(hook, reason)| {
            matches!(hook.as_str(), "uplink_ingress" | "uplink_xdp") && !NOISE.contains(&reason.as_str())
        })
        .map(|(_, reason)| {
            let hook = "uplink_ingress".to_owned();
            let count = moved(before, after, &hook, reason);
            ((hook, reason.clone()), count)
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// G04: the rows with tags, with and without the uplink's VLAN offloads.
fn tags(world: &World, six: bool) -> Result<Seen> {
    let rows: Vec<_> =
        link::FAMILY.rows.iter().filter(|row| row.path == Path::Host && row.is_of(six)).collect();
    let (host, outside) = (world.lab.host(), world.lab.outside());
    let mut all = Vec::new();
    for beside in [true, false] {
        host.set_vlan_tags("eth0", beside)?;
        outside.set_vlan_tags("eth0", beside)?;
        let before = world.counters()?;
        for row in &rows {
            let shot = world.shot(row.path, six)?;
            world.send(row.path, &(row.packets)(&shot))?;
            world.barrier(row.path, six)?;
            let heard = !world.who_heard(shot.token).is_empty();
            let arrives = matches!(row.expect, Expect::Arrives(_));
            ensure!(heard == arrives, "{} with the tag beside ({beside}): heard {heard}", row.id);
        }
        all.push(judged(&before, &world.counters()?));
    }
    host.set_vlan_tags("eth0", true)?;
    outside.set_vlan_tags("eth0", true)?;
    ensure!(all[0] == all[1], "{:?} with, {:?} without", all[0], all[1]);
    Ok(Seen::new("same verdicts", format!("{} rows twice", rows.len()), ""))
}

/// G01: bytes in and out of a container, with everything that joins or cuts packets on and off.
fn aggregates(world: &World, six: bool) -> Result<Seen> {
    let (host, outside) = (world.lab.host(), world.lab.outside());
    let port = world.lab.port_of(&world.a1)?;
    let set = |offload, on| -> Result<()> {
        outside.set_offload("eth0", offload, on)?;
        host.set_offload("eth0", offload, on)?;
        host.set_offload(&port, offload, on)?;
        world.a1.place.set_offload("eth0", offload, on)
    };
    let mtu = |bytes: u32| -> Result<()> {
        let command = format!("ip link set eth0 mtu {bytes}");
        outside.script(&command)?;
        host.script(&command).map(drop)
    };
    let mut longest = Vec::new();
    // Aggregates as a veth makes them; none, but joined on the way in; nothing at all; long frames.
    for (cutting, joining, bytes) in
        [(true, false, 1500), (false, true, 1500), (false, false, 1500), (true, true, 9000)]
    {
        set(Offload::Checksum, cutting)?;
        if cutting {
            set(Offload::Segmentation, true)?;
        }
        set(Offload::LateSegmentation, cutting)?;
        set(Offload::Joining, joining)?;
        mtu(bytes)?;
        let before = world.counters()?;
        let length = transfer(world, six)?;
        longest.push(length);
        ensure!(
            cutting == (length > 9018) || joining,
            "the longest frame had {length} bytes (cutting: {cutting})"
        );
        let closed = world.lab.outside().tcp(SocketAddr::new(host_address(six), 9100))?;
        ensure!(!closed.reached(), "the closed port answers");
        let after = world.counters()?;
        let ports = moved(&before, &after, "uplink_ingress", "port-not-allowed");
        let all: u64 =
            judged(&before, &after).iter().filter(|((_, reason), _)| dropped(reason)).map(|(_, n)| n).sum();
        ensure!(ports >= 1 && all == ports, "dropped {all}, of them {ports} of the closed port");
    }
    mtu(1500)?;
    set(Offload::Joining, false)?;
    Ok(Seen::new(
        "all bytes arrive",
        format!("longest frames {longest:?}"),
        "uplink_ingress port-not-allowed",
    ))
}

/// Reasons that the lab's devices move by themselves: ARP, neighbour discovery.
const NOISE: [&str; 2] = ["not-ip", "essential"];

fn dropped(reason: &str) -> bool {
    !matches!(
        reason,
        "allow-rule" | "reply" | "related-error" | "not-ours" | "later-fragment" | "published-open"
    )
}

fn host_address(six: bool) -> IpAddr {
    if six { HOST6.into() } else { HOST.into() }
}

/// Bytes from R to a1 and back; the longest frame that the uplink's hook was given.
fn transfer(world: &World, six: bool) -> Result<usize> {
    const BYTES: usize = 4 << 20;
    world.hush();
    let echo = world.a1.place.within(|| TcpListener::bind("[::]:81"))??;
    let to = SocketAddr::new(host_address(six), 8081);
    let mut client = world.lab.outside().connect(to)?;
    let (mut server, _) = echo.accept()?;
    let patience = Some(Duration::from_secs(10));
    for stream in [&client, &server] {
        stream.set_read_timeout(patience)?;
        stream.set_write_timeout(patience)?;
    }
    let mut longest = 0;
    std::thread::scope(|scope| -> Result<()> {
        let sends = |mut stream: &TcpStream| -> Result<()> {
            let block: Vec<u8> = (0..=255).cycle().take(1 << 16).collect();
            for _ in 0..BYTES >> 16 {
                stream.write_all(&block)?;
            }
            Ok(())
        };
        let (from_client, from_server) = (client.try_clone()?, server.try_clone()?);
        let there = scope.spawn(move || sends(&from_client));
        receives(&mut server, BYTES)?;
        there.join().expect("no panic")?;
        let back = scope.spawn(move || sends(&from_server));
        receives(&mut client, BYTES)?;
        back.join().expect("no panic")?;
        longest = world.all(Ear::Uplink).iter().map(Vec::len).max().unwrap_or(0);
        Ok(())
    })?;
    Ok(longest)
}

fn receives(stream: &mut TcpStream, bytes: usize) -> Result<()> {
    let mut block = vec![0; 1 << 16];
    for _ in 0..bytes >> 16 {
        stream.read_exact(&mut block).context("the bytes did not all arrive")?;
        ensure!(
            block.iter().zip((0..=255_u8).cycle()).all(|(got, sent)| *got == sent),
            "the bytes are not those sent"
        );
    }
    Ok(())
}

/// The tap device on the wire.
pub(crate) const TAP_MAC: xtask::lab::frame::Mac = xtask::lab::frame::Mac([2, 0, 0xc6, 0x12, 9, 1]);
