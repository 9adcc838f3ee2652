//! The networks and containers of both twins: described, chosen at random, built in a lab.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::random::Random;
use crate::lab::frame::Mac;
use crate::lab::{HOST, HOST_MAC, HOST6, Lab, OUTSIDE, OUTSIDE_MAC, OUTSIDE6, Options, Place, Uplink};

/// A Docker host, but for its policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Topology {
    /// Whether dockerd runs docker-proxy.
    pub(super) userland_proxy: bool,
    /// Whether FORWARD's policy is ACCEPT.
    pub(super) forward_accept: bool,
    /// `net.bridge.bridge-nf-call-iptables`.
    pub(super) bridge_netfilter: bool,
    /// Whether the uplink is a bridge with `eth0` as its port.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) bridged_uplink: bool,
    #[serde(default)]
    pub(super) networks: Vec<Network>,
    #[serde(default)]
    pub(super) containers: Vec<Container>,
}

/// A bridge network. Its number gives its subnets: `10.NUMBER.0.0/24` and `2001:db8:NUMBER::/64`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Network {
    pub(super) name: String,
    pub(super) number: u8,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) six: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) internal: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) no_icc: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) no_masquerade: bool,
}

/// A container; its number gives its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) number: u8,
    /// One or two; `bridge` is Docker's default network, which can only be the first.
    pub(super) networks: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) published: Vec<Published>,
}

/// A port of the host that leads to a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Published {
    /// Nothing for any address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<IpAddr>,
    /// 6 or 17.
    pub(super) proto: u8,
    pub(super) host_port: u16,
    pub(super) port: u16,
}

impl Network {
    pub(super) fn bridge(&self) -> String {
        if self.name == DEFAULT { "docker0".to_owned() } else { format!("br-{}", self.name) }
    }

    pub(super) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, 0, 1)
    }

    pub(super) fn gateway6(&self) -> Ipv6Addr {
        self.six(1)
    }

    /// The bridge's own, given so that both twins have the same.
    pub(super) fn gateway_mac(&self) -> Mac {
        Mac([0x02, 0xfd, 10, self.number, 0, 1])
    }

    /// Whether an address lies in one of the network's subnets.
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address.octets()[..3] == [10, self.number, 0],
            IpAddr::V6(address) => self.six && address.segments()[..4] == self.six(1).segments()[..4],
        }
    }

    fn six(&self, last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, u16::from(self.number), 0, 0, 0, 0, last)
    }
}

impl Topology {
    pub(super) fn network(&self, name: &str) -> Option<&Network> {
        self.networks.iter().find(|network| network.name == name)
    }

    /// The ports that Docker publishes: none of containers that are on internal networks alone. With each, whether it is
    /// published for IPv6 too: docker-proxy translates; without it the container needs an address of its own.
    pub(super) fn published(&self) -> impl Iterator<Item = (&Published, bool)> {
        self.containers.iter().flat_map(|container| {
            let networks = container.networks.iter().filter_map(|name| self.network(name));
            let outward: Vec<_> = networks.filter(|network| !network.internal).collect();
            let six = self.userland_proxy || outward.iter().any(|network| network.six);
            let ports = if outward.is_empty() { &[][..] } else { &container.published };
            ports.iter().map(move |port| (port, six))
        })
    }

    /// The device that faces the outside, as rules in iptables name it.
    pub(super) fn uplink(&self) -> &'static str {
        if self.bridged_uplink { "br0" } else { "eth0" }
    }

    pub(super) fn options(&self) -> Options {
        Options {
            uplink: if self.bridged_uplink { Uplink::PortOfBridge } else { Uplink::Plain },
            userland_proxy: self.userland_proxy,
            forward_accept: self.forward_accept,
            bridge_netfilter: self.bridge_netfilter,
            dockerd: vec!["--bip".to_owned(), format!("10.{DEFAULT_NUMBER}.0.1/24")],
            ..Options::default()
        }
    }

    /// Where packets come from and arrive: the outside, the host, and each container on each of its networks.
    pub(super) fn spots(&self) -> BTreeMap<String, Spot> {
        let mut spots = BTreeMap::new();
        let outside = Spot {
            place: OUTSIDE_NAME.to_owned(),
            device: "eth0".to_owned(),
            network: None,
            mac: OUTSIDE_MAC,
            next_hop: HOST_MAC,
            v4: OUTSIDE,
            v6: Some(OUTSIDE6),
        };
        spots.insert(OUTSIDE_NAME.to_owned(), outside);
        let host = Spot {
            place: HOST_NAME.to_owned(),
            device: "eth0".to_owned(),
            network: None,
            mac: HOST_MAC,
            next_hop: OUTSIDE_MAC,
            v4: HOST,
            v6: Some(HOST6),
        };
        spots.insert(HOST_NAME.to_owned(), host);
        for container in &self.containers {
            for (index, name) in container.networks.iter().enumerate() {
                let Some(network) = self.network(name) else { continue };
                let v4 = Ipv4Addr::new(10, network.number, 0, container.number);
                let [a, b, c, d] = v4.octets();
                let spot = Spot {
                    place: container.name.clone(),
                    device: format!("eth{index}"),
                    network: Some(network.name.clone()),
                    mac: Mac([0x02, 0x42, a, b, c, d]),
                    next_hop: network.gateway_mac(),
                    v4,
                    v6: network.six.then(|| network.six(u16::from(container.number))),
                };
                spots.insert(format!("{}/{}", container.name, network.name), spot);
            }
        }
        spots
    }

    /// What is left when only these containers are wanted.
    ///
    /// On the default network Docker counts addresses up: whoever is there stays.
    pub(super) fn only(&self, names: &BTreeSet<String>) -> Self {
        let on_default = |container: &Container| container.networks.iter().any(|name| name == DEFAULT);
        let stays =
            names.iter().any(|name| self.containers.iter().any(|it| it.name == *name && on_default(it)));
        let wanted = |it: &&Container| names.contains(&it.name) || (stays && on_default(it));
        let containers: Vec<_> = self.containers.iter().filter(wanted).cloned().collect();
        let used = |network: &&Network| {
            network.name == DEFAULT || containers.iter().any(|it| it.networks.contains(&network.name))
        };
        Self { networks: self.networks.iter().filter(used).cloned().collect(), containers, ..*self }
    }

    /// Makes networks and containers in a lab, and quiet: nobody answers, nobody asks for neighbours, no bridge learns.
    ///
    /// What a network stack would answer by itself would come at a time of its own; here all answers are the oracle's.
    pub(super) fn build(&self, lab: &Lab) -> Result<BTreeMap<String, Place>> {
        for network in self.networks.iter().filter(|network| network.name != DEFAULT) {
            network.create(lab)?;
        }
        let mut places = BTreeMap::new();
        for container in &self.containers {
            let place = container.start(self, lab)?;
            places.insert(container.name.clone(), place);
        }
        places.insert(HOST_NAME.to_owned(), lab.host().clone());
        places.insert(OUTSIDE_NAME.to_owned(), lab.outside().clone());
        self.check_addresses(&places)?;
        self.quieten(lab, &places)?;
        Ok(places)
    }

    /// Docker gives addresses and MAC addresses as the description says.
    fn check_addresses(&self, places: &BTreeMap<String, Place>) -> Result<()> {
        for (name, spot) in self.spots().into_iter().filter(|(_, spot)| spot.network.is_some()) {
            let place = places.get(&spot.place).context("each spot lies in a place")?;
            let seen = place.run(&["ip", "addr", "show", "dev", &spot.device])?;
            for wanted in [format!("inet {}/", spot.v4), spot.mac.to_string()] {
                ensure!(seen.contains(&wanted), "{name} was expected to have {wanted}, but has: {seen}");
            }
        }
        Ok(())
    }

    fn quieten(&self, lab: &Lab, places: &BTreeMap<String, Place>) -> Result<()> {
        let mut neighbours = Vec::new();
        let mut fdb = Vec::new();
        for spot in self.spots().values() {
            let Some(network) = spot.network.as_deref().and_then(|name| self.network(name)) else { continue };
            let bridge = network.bridge();
            let six = spot.v6.map(IpAddr::from);
            for address in [Some(IpAddr::from(spot.v4)), six].into_iter().flatten() {
                neighbours.push(format!(
                    "ip neigh replace {address} lladdr {} nud permanent dev {bridge}",
                    spot.mac
                ));
            }
            let place = places.get(&spot.place).context("each spot lies in a place")?;
            let index = place.script(&format!(
                "ip -o link show dev {} | sed 's/.*@if\\([0-9]*\\):.*/\\1/'",
                spot.device
            ))?;
            fdb.push(format!(
                "d=$(grep -lx {} /sys/class/net/*/ifindex | cut -d/ -f5); bridge link set dev $d learning off; \
                 bridge fdb replace {} dev $d master static",
                index.trim(),
                spot.mac
            ));
            place.script(&format!("{MUTE}; ip link set {} promisc off", spot.device))?;
        }
        for address in OUTSIDE_SOURCES {
            let uplink = self.uplink();
            neighbours
                .push(format!("ip neigh replace {address} lladdr {OUTSIDE_MAC} nud permanent dev {uplink}"));
        }
        for network in &self.networks {
            let (bridge, mac) = (network.bridge(), network.gateway_mac());
            neighbours.insert(0, format!("ip link set dev {bridge} address {mac}"));
        }
        lab.host().script(&neighbours.join("\n")).context("cannot fix the host's neighbours")?;
        lab.host().script(&fdb.join("\n")).context("cannot fix what the bridges know")?;
        lab.outside().script(MUTE)?;
        // Of the host, docker-proxy alone may speak unasked, and it speaks UDP to those who cannot answer.
        lab.host()
            .script(&format!(
                "for i in iptables ip6tables; do \
                 $i -w -t raw -A OUTPUT -m mark --mark {SENDER_MARK} -j RETURN; $i -w -t raw -A OUTPUT -o lo -j RETURN; \
                 $i -w -t raw -A OUTPUT -p udp -j RETURN; $i -w -t raw -A OUTPUT -j DROP; done"
            ))
            .map(drop)
    }

    /// A host at random. The marker's network is always there: by it the oracle knows that all has arrived.
    pub(super) fn random(random: &mut Random) -> Self {
        let mut networks =
            vec![Network::plain(DEFAULT, DEFAULT_NUMBER), Network::plain(MARKER, MARKER_NUMBER)];
        for number in 0..random.between(3, 6) {
            let number = u8::try_from(number).unwrap_or(0) + 10;
            let mut network = Network::plain(&format!("n{number}"), number);
            network.six = random.chance(50);
            match random.below(6) {
                0 => network.internal = true,
                1 => network.no_icc = true,
                2 => network.no_masquerade = true,
                _ => {}
            }
            networks.push(network);
        }
        let usable: Vec<String> = networks
            .iter()
            .filter(|network| network.name != MARKER)
            .map(|network| network.name.clone())
            .collect();
        let marker = Container {
            name: MARKER.to_owned(),
            number: 2,
            networks: vec![MARKER.to_owned()],
            published: vec![Published {
                address: None,
                proto: 17,
                host_port: MARKER_PORT,
                port: MARKER_PORT,
            }],
        };
        let mut containers = vec![marker];
        let mut host_port = FIRST_PUBLISHED;
        let mut on_default = 0;
        for index in 0..random.between(5, 8) {
            let mut names = vec![random.pick(&usable).clone()];
            let second = random.pick(&usable);
            if random.chance(25) && !names.contains(second) && *second != DEFAULT {
                names.push(second.clone());
            }
            // On the default network Docker counts addresses up by itself.
            let number =
                if names[0] == DEFAULT { 2 + on_default } else { 20 + u8::try_from(index).unwrap_or(0) };
            on_default += u8::from(names[0] == DEFAULT);
            let mut published = Vec::new();
            for _ in 0..random.weighted(&[(3, 0), (4, 1), (2, 2), (1, 3)]) {
                let address = random.weighted(&[
                    (5, None),
                    (2, Some(IpAddr::from(HOST))),
                    (2, Some(IpAddr::from(Ipv4Addr::LOCALHOST))),
                    (1, Some(IpAddr::from(Ipv4Addr::new(127, 0, 0, 2)))),
                ]);
                let proto = random.weighted(&[(3, 6), (2, 17)]);
                let port = *random.pick(CONTAINER_PORTS);
                published.push(Published { address, proto, host_port, port });
                host_port += 1;
            }
            containers.push(Container { name: format!("c{index}"), number, networks: names, published });
        }
        Self {
            userland_proxy: random.chance(75),
            forward_accept: random.chance(30),
            bridge_netfilter: random.chance(60),
            bridged_uplink: random.chance(20),
            networks,
            containers,
        }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |on: bool| if on { "on" } else { "off" };
        write!(
            f,
            "two hosts with {} networks, {} containers; uplink {}, docker-proxy {}, bridge netfilter {}, forwarding {}",
            self.networks.len(),
            self.containers.len(),
            self.uplink(),
            on(self.userland_proxy),
            on(self.bridge_netfilter),
            if self.forward_accept { "accepted" } else { "dropped" }
        )
    }
}

impl Network {
    fn plain(name: &str, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            number,
            six: false,
            internal: false,
            no_icc: false,
            no_masquerade: false,
        }
    }

    fn create(&self, lab: &Lab) -> Result<()> {
        let mut options = vec!["--subnet".to_owned(), format!("10.{}.0.0/24", self.number)];
        if self.six {
            options.extend(["--ipv6".to_owned(), "--subnet".to_owned(), format!("{}/64", self.six(0))]);
        }
        if self.internal {
            options.push("--internal".to_owned());
        }
        if self.no_icc {
            options.extend(["-o".to_owned(), "com.docker.network.bridge.enable_icc=false".to_owned()]);
        }
        if self.no_masquerade {
            options
                .extend(["-o".to_owned(), "com.docker.network.bridge.enable_ip_masquerade=false".to_owned()]);
        }
        lab.network(&self.name, &options.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

impl Container {
    fn start(&self, topology: &Topology, lab: &Lab) -> Result<Place> {
        let given = |name: &str| {
            let network = topology.network(name).with_context(|| format!("no network {name}"))?;
            let mut options = vec!["--ip".to_owned(), format!("10.{}.0.{}", network.number, self.number)];
            if network.six {
                options.extend(["--ip6".to_owned(), network.six(u16::from(self.number)).to_string()]);
            }
            Ok::<_, anyhow::Error>(options)
        };
        let (first, others) = self.networks.split_first().context("a container is on a network")?;
        let mut options = vec![format!("--network={first}")];
        if first != DEFAULT {
            options.extend(given(first)?);
        }
        for port in &self.published {
            let address = port.address.map_or_else(String::new, |address| format!("{address}:"));
            let proto = if port.proto == 17 { "udp" } else { "tcp" };
            options.push(format!("-p={address}{}:{}/{proto}", port.host_port, port.port));
        }
        let container = lab.container(&self.name, &options.iter().map(String::as_str).collect::<Vec<_>>())?;
        for name in others {
            let mut arguments = vec!["network".to_owned(), "connect".to_owned()];
            arguments.extend(given(name)?);
            arguments.extend([name.clone(), self.name.clone()]);
            lab.docker(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        Ok(container.place)
    }
}

/// Where a packet is sent or arrives.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    /// Name of the namespace.
    pub(super) place: String,
    pub(super) device: String,
    /// The container's network.
    pub(super) network: Option<String>,
    pub(super) mac: Mac,
    /// MAC address of the way out: the gateway's, for R the host's.
    pub(super) next_hop: Mac,
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Option<Ipv6Addr>,
}

impl Spot {
    /// Its address of the family of `other`.
    pub(super) fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        if other.is_ipv4() { Some(self.v4.into()) } else { self.v6.map(IpAddr::from) }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Docker's name of its default network.
pub(super) const DEFAULT: &str = "bridge";
const DEFAULT_NUMBER: u8 = 9;
/// Network and container of the marker.
pub(super) const MARKER: &str = "mark";
const MARKER_NUMBER: u8 = 8;
/// The marker's published port.
pub(super) const MARKER_PORT: u16 = 7;
/// Names of the two spots that are no containers.
pub(super) const HOST_NAME: &str = "H";
pub(super) const OUTSIDE_NAME: &str = "R";
/// Host ports are published from here on.
pub(super) const FIRST_PUBLISHED: u16 = 8000;
/// Ports that containers publish.
pub(super) const CONTAINER_PORTS: &[u16] = &[80, 81, 5000, 53];
/// The mark of what the oracle lets the host send.
pub(super) const SENDER_MARK: u32 = 1;
/// From where the outside speaks; the last is the marker's, and denied by nobody.
pub(super) const OUTSIDE_SOURCES: &[IpAddr] = &[
    IpAddr::V4(OUTSIDE),
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, 3)),
    IpAddr::V6(OUTSIDE6),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 3)),
    IpAddr::V4(MARKER_SOURCE),
];
/// The marker's source outside.
pub(super) const MARKER_SOURCE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 254);

/// Packet sockets see what arrives before this rule throws it away.
const MUTE: &str = "for i in iptables ip6tables; do $i -w -t raw -F; $i -w -t raw -A PREROUTING -j DROP; \
                    $i -w -t raw -A OUTPUT -j DROP; done";
