//! What is measured: one host between a client and a container, with somebody's rules.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;

use super::peers;
use super::sample::{alone, spent};
use super::traffic::{Client, Generator, Sink, Way};
use crate::lab::frame::Mac;
use crate::lab::{
    self, Generation, HOST, HOST_MAC, HOST6, Lab, OUTSIDE, OUTSIDE_MAC, OUTSIDE6, Options, Place,
};

/// The port that is published, and the container's.
pub(super) const PUBLISHED: u16 = 8080;
pub(super) const CONTAINER_PORT: u16 = 80;
/// Nobody's port.
const UNWANTED: u16 = 9;
/// Clients live here, behind R; the last byte tells them apart.
pub(super) const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);
const CLIENTS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc6, 0, 0, 0, 0, 0);

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
    /// As [`Path::Established`], over IPv6.
    Established6,
    /// As [`Path::Reply`], over IPv6.
    Reply6,
    /// From the container of a network whose addresses are not masqueraded, of connections that it has opened.
    OutWithoutNat,
    /// Back to it.
    InWithoutNat,
    /// From one container to another on the same bridge.
    Neighbour,
}

/// What the measured network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// IPv4, with ports published by NAT.
    Published,
    /// The same, with ports of TCP. There are no packets of [`Path`]s on it, but `sockets`.
    Tcp,
    /// IPv6, with ports published by NAT.
    Ipv6,
    /// IPv4, not masqueraded.
    WithoutNat,
    /// One with a second container, and whether bridged packets visit iptables.
    Neighbours { netfilter: bool },
}

impl Ground {
    /// Of published ports, as Docker and policies write it.
    pub(super) fn protocol(self) -> &'static str {
        if self == Self::Tcp { "tcp" } else { "udp" }
    }
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
            Self::Established6 => "established in, IPv6",
            Self::Reply6 => "reply, IPv6",
            Self::OutWithoutNat => "established out, no NAT",
            Self::InWithoutNat => "reply in, no NAT",
            Self::Neighbour => "between neighbours",
        }
    }

    /// Whether its packets have to arrive.
    fn is_wanted(self) -> bool {
        !matches!(self, Self::Unwanted(_) | Self::Denied(_))
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

/// Paths whose packets belong to flows that are there: whoever opens one comes first.
const OF_ONE_FLOW: [Path; 7] = [
    Path::Established,
    Path::Reply,
    Path::Established6,
    Path::Reply6,
    Path::OutWithoutNat,
    Path::InWithoutNat,
    Path::Neighbour,
];
/// Nanoseconds that a sample should take: the kernel stops a real-time thread that takes 950 ms of a second.
const SAMPLE: f64 = 30e6;
/// Flows of those that go on, if nothing else is asked for.
pub(super) const FEW: u32 = 64;
/// New flows at once.
pub(super) const BURST: u32 = 4_096;
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
    at_neighbour: Option<Sink>,
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
    pub(super) mac: Mac,
    /// The host's end of its link.
    pub(super) port: String,
    /// The bridge with that port.
    pub(super) bridge: String,
    /// Another container there, its address on the wire and the host's end of its link.
    pub(super) neighbour: Option<(Place, Mac, String)>,
}

impl Street {
    /// Sends on these paths through the host as it is now; the rules may change later. The container gets nothing else from
    /// now on.
    pub(super) fn through(lab: Lab, container: Container, paths: &[Path], flows: u32) -> Result<Self> {
        let host = lab.host();
        let bridge = host.run(&["cat", &format!("/sys/class/net/{}/address", container.bridge)])?;
        let bridge: Mac = bridge.trim().parse().map_err(anyhow::Error::msg)?;
        let Container { mac, bridge: device, .. } = &container;
        // The sinks take ARP as well.
        host.script(&format!(
            "ip neigh replace {CONTAINER} lladdr {mac} dev {device} nud permanent
             ip neigh replace {OUTSIDE} lladdr {OUTSIDE_MAC} dev eth0 nud permanent
             ip route replace {CLIENTS}/24 via {OUTSIDE}
             ip neigh replace {CONTAINER6} lladdr {mac} dev {device} nud permanent
             ip neigh replace {OUTSIDE6} lladdr {OUTSIDE_MAC} dev eth0 nud permanent
             ip -6 route replace {CLIENTS6}/64 via {OUTSIDE6} dev eth0"
        ))?;
        container.place.script(&format!(
            "ip neigh replace $(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p') lladdr {bridge} dev eth0 nud permanent"
        ))?;
        if let Some((_, mac, port)) = &container.neighbour {
            // It says nothing of its own, and a bridge floods what it knows no port for, hairpin ports among them.
            host.script(&format!("bridge fdb replace {mac} dev {port} master static"))?;
        }
        let mut street = Self {
            in_container: Sink::attach(&container.place, "eth0")?,
            at_client: Sink::attach(lab.outside(), "eth0")?,
            at_neighbour: match &container.neighbour {
                Some((place, ..)) => Some(Sink::attach(place, "eth0")?),
                None => None,
            },
            traffic: BTreeMap::new(),
            lab,
            container,
            bridge,
        };
        if flows > FEW {
            // Making them takes a while, and then they are visited by turns.
            street.lab.host().script(
                "cd /proc/sys/net/netfilter; for t in udp_timeout udp_timeout_stream; do echo 3600 >nf_conntrack_$t; done",
            )?;
        }
        for path in paths {
            street.traffic.insert(*path, street.traffic_of(*path, flows)?);
        }
        Ok(street)
    }

    fn traffic_of(&self, path: Path, flows: u32) -> Result<Traffic> {
        let (host, outside) = (self.lab.host(), self.lab.outside());
        let from_client = |to: (IpAddr, u16), flows, way| {
            let clients = if to.0.is_ipv4() { IpAddr::from(CLIENTS) } else { IpAddr::from(CLIENTS6) };
            Generator::new((OUTSIDE_MAC, HOST_MAC), (clients, 0), to, Client::Source, flows, way)
        };
        let Container { mac, port, neighbour, .. } = &self.container;
        let to_client = |from: IpAddr| {
            let clients = if from.is_ipv4() { IpAddr::from(CLIENTS) } else { IpAddr::from(CLIENTS6) };
            let ends = (*mac, self.bridge);
            Generator::new(ends, (from, CONTAINER_PORT), (clients, 0), Client::Destination, flows, Way::Up)
        };
        let (published, unwanted) = ((HOST.into(), PUBLISHED), (HOST.into(), UNWANTED));
        let (generator, place, device) = match path {
            Path::New => (from_client(published, 1 << 22, Way::Up)?, host, "eth0"),
            Path::Unwanted(By::NativeXdp) => (from_client(unwanted, flows, Way::Across)?, outside, "eth0"),
            Path::Denied(By::NativeXdp) => (from_client(published, flows, Way::Across)?, outside, "eth0"),
            Path::Unwanted(_) => (from_client(unwanted, flows, Way::Up)?, host, "eth0"),
            Path::Established | Path::Denied(_) => (from_client(published, flows, Way::Up)?, host, "eth0"),
            Path::Established6 => (from_client((HOST6.into(), PUBLISHED), flows, Way::Up)?, host, "eth0"),
            Path::InWithoutNat => {
                (from_client((CONTAINER.into(), CONTAINER_PORT), flows, Way::Up)?, host, "eth0")
            }
            Path::Reply | Path::OutWithoutNat => (to_client(CONTAINER.into())?, host, port.as_str()),
            Path::Reply6 => (to_client(CONTAINER6.into())?, host, port.as_str()),
            Path::Neighbour => {
                let (_, to, _) = neighbour.as_ref().context("there is no neighbour")?;
                let (from, at) = ((CONTAINER.into(), 0), (NEIGHBOUR.into(), CONTAINER_PORT));
                let generator = Generator::new((*mac, *to), from, at, Client::OneSource, flows, Way::Up)?;
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

    /// Makes the flows that are established, or as many of them as [`BURST`].
    pub(super) fn greet(&self, flows: u32) -> Result<()> {
        for path in OF_ONE_FLOW {
            if let Some(traffic) = self.traffic.get(&path) {
                traffic.send(flows.min(BURST))?;
            }
        }
        Ok(())
    }

    /// The host, to change its rules.
    pub(super) fn host(&self) -> &Place {
        self.lab.host()
    }

    /// All of it.
    pub(super) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Finds out how many packets make a sample.
    pub(super) fn calibrate(&mut self) -> Result<()> {
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
        let sink = match path {
            Path::Reply | Path::Reply6 | Path::OutWithoutNat => &self.at_client,
            Path::Neighbour => self.at_neighbour.as_ref().context("there is no neighbour")?,
            _ => &self.in_container,
        };
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
pub(super) fn plain(ground: Ground) -> Result<(Lab, Container)> {
    let lab = Lab::without_docker(Options { forward_accept: true, ..Options::default() })?;
    lab.host().script(&format!(
        "
        ip link add {BRIDGE} address 02:42:0a:64:00:01 type bridge
        ip addr add 10.100.0.1/24 dev {BRIDGE}
        ip addr add {GATEWAY6}/64 dev {BRIDGE} nodad
        ip link set {BRIDGE} up
        echo 1 >/proc/sys/net/ipv4/ip_forward
        "
    ))?;
    let inhabitant = |name: &str, address, mac: Mac| {
        let place = lab.further(name)?;
        lab.host().script(&format!(
            "
            ip link add veth{name} type veth peer name eth0 address {mac} netns {name}
            ip link set veth{name} master {BRIDGE}
            ip link set veth{name} up
            ip -n {name} addr add {address}/24 dev eth0
            ip -n {name} link set eth0 up
            ip -n {name} route add default via 10.100.0.1
            "
        ))?;
        anyhow::Ok((place, mac, format!("veth{name}")))
    };
    let (place, mac, port) = inhabitant("c", CONTAINER, Mac([0x02, 0x42, 0x0a, 0x64, 0, 2]))?;
    let neighbour = match ground {
        Ground::Neighbours { netfilter } => {
            lab.set_bridge_netfilter(netfilter)?;
            Some(inhabitant("d", NEIGHBOUR, Mac([0x02, 0x42, 0x0a, 0x64, 0, 3]))?)
        }
        _ => None,
    };
    Ok((lab, Container { place, mac, port, bridge: BRIDGE.to_owned(), neighbour }))
}

/// A host with a dockerd, `networks` networks, and a container on the first that publishes `ports` ports.
pub(super) fn docker(
    ground: Ground,
    arguments: &[&str],
    networks: usize,
    ports: u16,
) -> Result<(Lab, Container)> {
    docker_of(Generation::default(), ground, arguments, networks, ports)
}

/// The same with this Docker.
pub(super) fn docker_of(
    docker: Generation,
    ground: Ground,
    arguments: &[&str],
    networks: usize,
    ports: u16,
) -> Result<(Lab, Container)> {
    let bridge_netfilter = !matches!(ground, Ground::Neighbours { netfilter: false });
    let dockerd = arguments.iter().map(ToString::to_string).collect();
    let options = Options { dockerd, userland_proxy: false, bridge_netfilter, docker, ..Options::default() };
    let lab = Lab::start(options)?;
    let subnet6 = format!("{GATEWAY6}/64");
    let ipv6 = ["--ipv6", "--subnet", &subnet6];
    let not_masqueraded = ["-o", "com.docker.network.bridge.enable_ip_masquerade=false"];
    let (_, subnet) = peers::network(0);
    let mut options = vec!["--subnet", &subnet];
    match ground {
        Ground::Ipv6 => options.extend(ipv6),
        Ground::WithoutNat => options.extend(not_masqueraded),
        Ground::Published | Ground::Tcp | Ground::Neighbours { .. } => {}
    }
    lab.network("n0", &options)?;
    let (address, address6) = (CONTAINER.to_string(), CONTAINER6.to_string());
    let (first, last) = (PUBLISHED + 1, PUBLISHED + ports - 1);
    let protocol = ground.protocol();
    let further = format!("-p={first}-{last}:{first}-{last}/{protocol}");
    let measured = format!("-p={PUBLISHED}:{CONTAINER_PORT}/{protocol}");
    let mut options = vec!["--network=n0", "--ip", &address, &measured];
    if ports > 1 {
        options.push(&further);
    }
    if ground == Ground::Ipv6 {
        options.extend(["--ip6", &address6]);
    }
    let on_the_wire = |container: &lab::Container| {
        container.mac.context("a container on a bridge has an address on the wire")
    };
    let container = lab.container("measured", &options).context("the container that is measured")?;
    let neighbour = match ground {
        Ground::Neighbours { .. } => {
            let address = NEIGHBOUR.to_string();
            let neighbour = lab.container("neighbour", &["--network=n0", "--ip", &address])?;
            let (mac, port) = (on_the_wire(&neighbour)?, lab.port_of(&neighbour)?);
            Some((neighbour.place, mac, port))
        }
        _ => None,
    };
    // What is measured was there first, and publishes what it does without waiting for the rules of all others.
    for number in 1..networks {
        lab.one_of_many_networks(&format!("n{number}"), &peers::network(number).1)?;
    }
    let (port, mac) = (lab.port_of(&container)?, on_the_wire(&container)?);
    Ok((lab, Container { place: container.place, mac, port, bridge: BRIDGE.to_owned(), neighbour }))
}

/// The container's address and its bridge, and who else has one there.
pub(super) const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 2);
pub(super) const CONTAINER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 2);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 1);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 3);
pub(super) const BRIDGE: &str = "br-n0";
