//! What is measured: one host between a client and a container, with somebody's rules.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;

use super::peers;
use super::sample::{alone, spent};
use super::traffic::{Client, Generator, Sink};
use crate::lab::frame::Mac;
use crate::lab::{HOST, HOST_MAC, Lab, OUTSIDE, OUTSIDE_MAC, Options, Place};

/// The port that is published, and the container's.
pub(super) const PUBLISHED: u16 = 8080;
pub(super) const CONTAINER_PORT: u16 = 80;
/// Nobody's port.
const UNWANTED: u16 = 9;
/// Clients live here, behind R; the last byte tells them apart.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);
const FLOWS: u32 = 64;

/// Which packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    /// To the published port, of connections that the kernel knows.
    Established,
    /// The container's answers.
    Reply,
    /// To the published port, each the first of its connection.
    New,
    /// To a port that nobody serves.
    Unwanted,
}

impl Path {
    pub(super) const ALL: [Self; 4] = [Self::Established, Self::Reply, Self::New, Self::Unwanted];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Established => "established in",
            Self::Reply => "reply",
            Self::New => "new flow",
            Self::Unwanted => "unwanted",
        }
    }

    /// Packets of one sample: 10 to 40 ms, for the kernel stops a real-time thread that takes 950 ms of a second.
    fn packets(self) -> u32 {
        match self {
            Self::Established | Self::Reply | Self::Unwanted => 32_768,
            Self::New => 4_096,
        }
    }
}

/// A host with a container, the generators that send through it and the sinks where it ends.
pub(super) struct Street {
    lab: Lab,
    uplink: u32,
    port: u32,
    established: Generator,
    new: Generator,
    reply: Generator,
    unwanted: Generator,
    in_container: Sink,
    at_client: Sink,
    _queues: [OwnedFd; 2],
}

/// Who the container is, and how it is reached.
pub(super) struct Container {
    pub(super) place: Place,
    pub(super) address: Ipv4Addr,
    pub(super) mac: Mac,
    /// The host's end of its link.
    pub(super) port: String,
    /// The bridge with that port.
    pub(super) bridge: String,
}

impl Street {
    /// Sends through the host as it is now; the rules may change later. The container gets nothing else from now on.
    pub(super) fn through(lab: Lab, container: &Container) -> Result<Self> {
        let host = lab.host();
        let bridge = host.run(&["cat", &format!("/sys/class/net/{}/address", container.bridge)])?;
        let bridge: Mac = bridge.trim().parse().map_err(anyhow::Error::msg)?;
        let Container { address, mac, port, bridge: device, .. } = container;
        // The sinks take ARP as well.
        host.script(&format!(
            "ip neigh replace {address} lladdr {mac} dev {device} nud permanent
             ip neigh replace {OUTSIDE} lladdr {OUTSIDE_MAC} dev eth0 nud permanent
             ip route replace {CLIENTS}/24 via {OUTSIDE}"
        ))?;
        container.place.script(&format!(
            "ip neigh replace $(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p') lladdr {bridge} dev eth0 nud permanent"
        ))?;
        let from_client = |port, flows| {
            let ends = (OUTSIDE_MAC, HOST_MAC);
            Generator::new(ends, (CLIENTS, 0), (HOST, port), Client::Source, flows)
        };
        let answer = ((*address, CONTAINER_PORT), (CLIENTS, 0));
        // Has them register their queues for XDP, which a veth does when a program is attached in its driver.
        let queues = [host.attach_xdp("eth0")?, host.attach_xdp(port)?];
        let [uplink, port] = host.within(|| ["eth0", port.as_str()].map(if_nametoindex))?;
        let (uplink, port) = (uplink?, port?);
        Ok(Self {
            uplink,
            port,
            established: from_client(PUBLISHED, FLOWS)?,
            new: from_client(PUBLISHED, 1 << 22)?,
            reply: Generator::new((*mac, bridge), answer.0, answer.1, Client::Destination, FLOWS)?,
            unwanted: from_client(UNWANTED, FLOWS)?,
            in_container: Sink::attach(&container.place, "eth0")?,
            at_client: Sink::attach(lab.outside(), "eth0")?,
            _queues: queues,
            lab,
        })
    }

    /// Makes the flows that [`Path::Established`] and [`Path::Reply`] are of.
    pub(super) fn greet(&self) -> Result<()> {
        for _ in 0..2 {
            self.send(&self.established, self.uplink, FLOWS)?;
            self.send(&self.reply, self.port, FLOWS)?;
        }
        Ok(())
    }

    /// Nanoseconds for a packet, over one sample; an error if not all arrived, or if an unwanted one did.
    pub(super) fn sample(&self, path: Path) -> Result<f64> {
        let (generator, by, sink) = match path {
            Path::Established => (&self.established, self.uplink, &self.in_container),
            Path::New => (&self.new, self.uplink, &self.in_container),
            Path::Reply => (&self.reply, self.port, &self.at_client),
            Path::Unwanted => (&self.unwanted, self.uplink, &self.in_container),
        };
        let packets = path.packets();
        let before = sink.arrived()?;
        let took = self.send(generator, by, packets)?;
        let arrived = sink.arrived()? - before;
        let expected = if path == Path::Unwanted { 0 } else { u64::from(packets) };
        ensure!(
            arrived == expected,
            "{}: {arrived} of {packets} packets arrived, {expected} should have",
            path.name()
        );
        Ok(took / f64::from(packets))
    }

    /// Nanoseconds of CPU time for all.
    fn send(&self, generator: &Generator, by: u32, packets: u32) -> Result<f64> {
        self.lab.host().within(|| {
            alone(|| {
                let begun = spent()?;
                generator.send(by, packets)?;
                anyhow::Ok(spent()?.saturating_sub(begun).as_secs_f64() * 1e9)
            })?
        })?
    }
}

/// A host without Docker: one bridge with one container, wired as Docker does it.
pub(super) fn plain() -> Result<(Lab, Container)> {
    let lab = Lab::without_docker(Options { forward_accept: true, ..Options::default() })?;
    lab.further("c")?;
    let place = lab.place("c", "/run/netns/c");
    lab.host().script(&format!(
        "
        ip link add {BRIDGE} address 02:42:0a:64:00:01 type bridge
        ip addr add 10.100.0.1/24 dev {BRIDGE}
        ip link set {BRIDGE} up
        ip link add vethc type veth peer name eth0 address 02:42:0a:64:00:02 netns c
        ip link set vethc master {BRIDGE}
        ip link set vethc up
        ip -n c addr add {CONTAINER}/24 dev eth0
        ip -n c link set eth0 up
        ip -n c route add default via 10.100.0.1
        echo 1 >/proc/sys/net/ipv4/ip_forward
        "
    ))?;
    let container = Container {
        place,
        address: CONTAINER,
        mac: Mac([0x02, 0x42, 0x0a, 0x64, 0, 2]),
        port: "vethc".to_owned(),
        bridge: BRIDGE.to_owned(),
    };
    Ok((lab, container))
}

/// A host with a dockerd, `networks` networks, and a container on the first that publishes `ports` ports.
pub(super) fn docker(options: Options, networks: usize, ports: u16) -> Result<(Lab, Container)> {
    let lab = Lab::start(options)?;
    for number in 0..networks {
        let (_, subnet) = peers::network(number);
        lab.network(&format!("n{number}"), &["--subnet", &subnet])?;
    }
    let address = CONTAINER.to_string();
    let further = format!(
        "-p={}-{}:{}-{}/udp",
        PUBLISHED + 1,
        PUBLISHED + ports - 1,
        PUBLISHED + 1,
        PUBLISHED + ports - 1
    );
    let measured = format!("-p={PUBLISHED}:{CONTAINER_PORT}/udp");
    let mut options = vec!["--network=n0", "--ip", &address, &measured];
    if ports > 1 {
        options.push(&further);
    }
    let container = lab.container("measured", &options).context("the container that is measured")?;
    let port = lab.port_of(&container)?;
    let container = Container {
        address: CONTAINER,
        mac: container.mac.context("a container on a bridge has a MAC address")?,
        place: container.place,
        port,
        bridge: "br-n0".to_owned(),
    };
    Ok((lab, container))
}

/// The container's address and its bridge where there is no Docker.
pub(super) const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 2);
pub(super) const BRIDGE: &str = "br-n0";
