//! What is measured: one host between a client and a container, with somebody's rules.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;

use super::peers;
use super::sample::{alone, spent};
use super::traffic::{Client, Generator, Sink, Way};
use crate::lab::frame::Mac;
use crate::lab::{HOST, HOST_MAC, Lab, OUTSIDE, OUTSIDE_MAC, Options, Place};

/// The port that is published, and the container's.
pub(super) const PUBLISHED: u16 = 8080;
pub(super) const CONTAINER_PORT: u16 = 80;
/// Nobody's port.
const UNWANTED: u16 = 9;
/// Clients live here, behind R; the last byte tells them apart.
pub(super) const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);

/// Which packets, on which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    /// To the published port, of connections that the kernel knows.
    Established,
    /// The container's answers.
    Reply,
    /// To the published port, each the first of its connection.
    New,
    /// To a port that nobody serves.
    Unwanted(By),
    /// To the published port, from a source that is denied.
    Denied(By),
}

/// Who drops what is unwanted. Those that have one of these in common are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum By {
    /// Whoever does.
    Anybody,
    /// A TCX program.
    Tcx,
    /// Generic XDP.
    GenericXdp,
    /// Native XDP: packets come from the client's end of the wire, for what a generator has come in by a device is behind
    /// its native XDP.
    NativeXdp,
}

impl Path {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Established => "established in",
            Self::Reply => "reply",
            Self::New => "new flow",
            Self::Unwanted(By::Anybody) => "unwanted",
            Self::Unwanted(By::Tcx) => "unwanted, dropped at TCX",
            Self::Unwanted(By::GenericXdp) => "unwanted, dropped by generic XDP",
            Self::Unwanted(By::NativeXdp) => "unwanted, dropped by native XDP",
            Self::Denied(By::Anybody) => "denied",
            Self::Denied(By::Tcx) => "denied, dropped at TCX",
            Self::Denied(By::GenericXdp) => "denied, dropped by generic XDP",
            Self::Denied(By::NativeXdp) => "denied, dropped by native XDP",
        }
    }

    /// Whether its packets have to arrive.
    fn is_wanted(self) -> bool {
        matches!(self, Self::Established | Self::Reply | Self::New)
    }

    /// The most packets that a sample should have: flows go on in the kernel's tables.
    fn most(self) -> u32 {
        if self == Self::New { BURST } else { PACKETS[1] }
    }

    /// Whether its packets come from the other end of the wire.
    fn crosses(self) -> bool {
        matches!(self, Self::Unwanted(By::NativeXdp) | Self::Denied(By::NativeXdp))
    }
}

/// Nanoseconds that a sample should take: the kernel stops a real-time thread that takes 950 ms of a second.
const SAMPLE: f64 = 30e6;
/// New flows at once.
const BURST: u32 = 4_096;
/// Packets of one sample, at the least and at the most. Like flows they are powers of two, so that each sample visits as many.
const PACKETS: [u32; 2] = [64, 131_072];

/// A host with a container, the generators that send through it and the sinks where it ends.
pub(super) struct Street {
    lab: Lab,
    container: Container,
    /// Address of the bridge on the wire.
    bridge: Mac,
    traffic: BTreeMap<Path, Traffic>,
    in_container: Sink,
    at_client: Sink,
}

/// Packets of one path, the device that they come in by, and how many make a sample.
struct Traffic {
    generator: Generator,
    place: Place,
    ifindex: u32,
    packets: u32,
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
    /// Sends on these paths through the host as it is now; the rules may change later. The container gets nothing else from
    /// now on.
    pub(super) fn through(lab: Lab, container: Container, paths: &[Path], flows: u32) -> Result<Self> {
        let host = lab.host();
        let bridge = host.run(&["cat", &format!("/sys/class/net/{}/address", container.bridge)])?;
        let bridge: Mac = bridge.trim().parse().map_err(anyhow::Error::msg)?;
        let Container { address, mac, bridge: device, .. } = &container;
        // The sinks take ARP as well.
        host.script(&format!(
            "ip neigh replace {address} lladdr {mac} dev {device} nud permanent
             ip neigh replace {OUTSIDE} lladdr {OUTSIDE_MAC} dev eth0 nud permanent
             ip route replace {CLIENTS}/24 via {OUTSIDE}"
        ))?;
        container.place.script(&format!(
            "ip neigh replace $(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p') lladdr {bridge} dev eth0 nud permanent"
        ))?;
        let mut street = Self {
            in_container: Sink::attach(&container.place, "eth0")?,
            at_client: Sink::attach(lab.outside(), "eth0")?,
            traffic: BTreeMap::new(),
            lab,
            container,
            bridge,
        };
        for path in paths {
            street.traffic.insert(*path, street.traffic_of(*path, flows)?);
        }
        street.greet(flows)?;
        Ok(street)
    }

    fn traffic_of(&self, path: Path, flows: u32) -> Result<Traffic> {
        let from_client = |port, flows, way| {
            Generator::new((OUTSIDE_MAC, HOST_MAC), (CLIENTS, 0), (HOST, port), Client::Source, flows, way)
        };
        let (host, outside) = (self.lab.host(), self.lab.outside());
        let (generator, place, device) = match path {
            Path::New => (from_client(PUBLISHED, 1 << 22, Way::Up)?, host, "eth0"),
            Path::Unwanted(By::NativeXdp) => (from_client(UNWANTED, flows, Way::Across)?, outside, "eth0"),
            Path::Denied(By::NativeXdp) => (from_client(PUBLISHED, flows, Way::Across)?, outside, "eth0"),
            Path::Unwanted(_) => (from_client(UNWANTED, flows, Way::Up)?, host, "eth0"),
            Path::Established | Path::Denied(_) => (from_client(PUBLISHED, flows, Way::Up)?, host, "eth0"),
            Path::Reply => {
                let Container { address, mac, port, .. } = &self.container;
                let (from, to) = ((*address, CONTAINER_PORT), (CLIENTS, 0));
                let ends = (*mac, self.bridge);
                let generator = Generator::new(ends, from, to, Client::Destination, flows, Way::Up)?;
                (generator, host, port.as_str())
            }
        };
        let ifindex =
            place.within(|| if_nametoindex(device))?.with_context(|| format!("no device {device}"))?;
        Ok(Traffic { generator, place: place.clone(), ifindex, packets: 0 })
    }

    /// Whether it is measured on this path.
    pub(super) fn has(&self, path: Path) -> bool {
        self.traffic.contains_key(&path)
    }

    /// Makes the flows that [`Path::Established`] and [`Path::Reply`] are of, and finds out how many packets make a sample.
    fn greet(&mut self, flows: u32) -> Result<()> {
        for _ in 0..2 {
            for path in [Path::Established, Path::Reply] {
                let Some(traffic) = self.traffic.get(&path) else { continue };
                for _ in 0..flows.div_ceil(BURST) {
                    traffic.send(flows.min(BURST))?;
                }
            }
        }
        for (path, traffic) in &mut self.traffic {
            traffic.packets = PACKETS[0];
            // What a run takes to begin must not count.
            while traffic.packets < path.most() && traffic.send(traffic.packets)? < SAMPLE / 3.0 {
                traffic.packets *= 2;
            }
        }
        Ok(())
    }

    /// Nanoseconds for a packet, over one sample; an error if not all arrived, or if an unwanted one did.
    pub(super) fn sample(&self, path: Path) -> Result<f64> {
        let traffic =
            self.traffic.get(&path).with_context(|| format!("{}: not measured here", path.name()))?;
        let sink = if path == Path::Reply { &self.at_client } else { &self.in_container };
        let packets = traffic.packets;
        let crossed = || if path.crosses() { self.crossed().map(Some) } else { Ok(None) };
        let (crossed_before, before) = (crossed()?, sink.arrived()?);
        let took = traffic.send(packets)?;
        let arrived = sink.arrived()? - before;
        let expected = if path.is_wanted() { u64::from(packets) } else { 0 };
        ensure!(
            arrived == expected,
            "{}: {arrived} of {packets} packets arrived, {expected} should have",
            path.name()
        );
        if let (Some(before), Some(now)) = (crossed_before, crossed()?) {
            let crossed = now - before;
            ensure!(crossed >= u64::from(packets), "{crossed} of {packets} packets came across the wire");
        }
        Ok(took / f64::from(packets))
    }

    /// Packets that have come in by the uplink's driver, those that its XDP program dropped among them.
    fn crossed(&self) -> Result<u64> {
        let count = self.lab.host().run(&["cat", "/sys/class/net/eth0/statistics/rx_packets"])?;
        count.trim().parse().with_context(|| format!("no number of packets: {count}"))
    }
}

impl Traffic {
    /// Nanoseconds of CPU time for all.
    fn send(&self, packets: u32) -> Result<f64> {
        self.place.within(|| {
            alone(|| {
                let begun = spent()?;
                self.generator.send(self.ifindex, packets)?;
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
