//! Docker's and the kernel's view of this host joined into one: who sits behind which port of which bridge.
//!
//! Pure: no I/O, ordered collections, so that equal sources give equal inventories. Indices into the lists
//! of an inventory (`network`, `endpoint`) hold for that inventory only.

mod belief;
mod bridges;
mod direct;
mod lan;
mod mac;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

pub use self::belief::{Evidence, believe};
pub use self::bridges::with_bridges;
pub use self::direct::DirectPort;
pub use self::lan::{LanNetwork, Station};
pub use self::mac::{Mac, NotAMac};
use crate::docker::{
    DockerContainer, DockerNetwork, DockerSnapshot, Exposed, GatewayMode, Membership, Swarm, Transport,
};
use crate::netlink::{ContainerLink, HostSnapshot, Link, LinkKind, LocalAddress};
use crate::policy::StaticNetwork;

/// Everything that the policy is applied to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// Managed bridge networks: Docker's by id, then those that only the policy names, by name.
    pub networks: Vec<Network>,
    /// Places of running containers on those networks, by container id and network.
    pub endpoints: Vec<Endpoint>,
    /// Docker's networks whose containers share a device with the host, by id.
    pub lan_networks: Vec<LanNetwork>,
    /// Places of running containers on those, by container id and network.
    pub stations: Vec<Station>,
    /// Ports of the host that Docker leads to containers, by host address, protocol and port.
    pub published: Vec<PublishedPort>,
    /// Services that are reached at a container's own address, without NAT, sorted.
    pub direct: Vec<DirectPort>,
    /// Which containers Docker's legacy `--link` leads to ports of others, sorted.
    pub linked: Vec<Linked>,
    /// Addresses of this host, by link.
    pub local_addresses: Vec<LocalAddress>,
    /// Devices of this host, by index.
    pub links: Vec<Link>,
    /// Indices of the links that default routes lead over.
    pub default_route_links: Vec<u32>,
    /// The swarm that Docker is an active member of.
    pub swarm: Option<Swarm>,
}

/// A network on a bridge of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Network {
    /// Name in Docker or in the policy; not unique.
    pub name: String,
    /// Docker's id, if Docker manages it.
    pub docker_id: Option<String>,
    /// Name of the bridge device.
    pub bridge_name: String,
    /// Index of the bridge device; `None` while there is none, or if the name belongs to no bridge.
    pub bridge_ifindex: Option<u32>,
    /// Prefixes of the network, sorted.
    pub subnets: Vec<IpNet>,
    /// Addresses of this host on the bridge, link-local ones too; what Docker says while there is no bridge.
    pub gateways: Vec<IpAddr>,
    /// Its containers reach each other and nothing else.
    pub internal: bool,
    /// Its containers may talk to each other.
    pub icc: bool,
    /// Docker gives out IPv6 addresses on it.
    pub ipv6: bool,
    /// How its containers are reached from outside over IPv4.
    pub gateway_mode_v4: GatewayMode,
    /// How its containers are reached from outside over IPv6.
    pub gateway_mode_v6: GatewayMode,
    /// Names of links from which Docker lets its containers be addressed directly.
    pub trusted: Vec<String>,
    /// What leaves it takes the host's address.
    pub masquerade: bool,
    /// Ports of the bridge, by index.
    pub ports: Vec<Port>,
}

/// A port of a managed bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Index of the device.
    pub ifindex: u32,
    /// Name of the device.
    pub name: String,
    /// Who sits behind it, as an index into [`Inventory::endpoints`]; `None` if nobody is known to.
    pub endpoint: Option<usize>,
    /// It is one end of a veth whose other end is in another network namespace.
    pub is_pair: bool,
}

impl Port {
    fn of(link: &Link) -> Self {
        let is_pair = link.kind == LinkKind::Veth && link.abroad;
        Self { ifindex: link.index, name: link.name.clone(), endpoint: None, is_pair }
    }
}

/// A running container's place on a managed network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Name of the container.
    pub container: String,
    /// Full id of the container.
    pub container_id: String,
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
    /// Its network, as an index into [`Inventory::networks`].
    pub network: usize,
    /// Ethernet address that Docker gave it.
    pub mac: Option<Mac>,
    /// Addresses that Docker gave it.
    pub addresses: Vec<IpAddr>,
    /// Index of the bridge's port that it sits behind; `None` if that is not known.
    pub port_ifindex: Option<u32>,
}

/// A port of the host that Docker leads to a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PublishedPort {
    /// Address on the host; the unspecified address of a family means any address of that family.
    pub host: IpAddr,
    /// Protocol.
    pub protocol: Transport,
    /// Port on the host, host byte order.
    pub host_port: u16,
    /// Port in the container, host byte order.
    pub container_port: u16,
    /// Name of the container.
    pub container: String,
    /// Where packets are translated to. `None` where the container has no address of the family on a
    /// network that can be reached: then docker-proxy, a socket of the host, answers.
    pub target: Option<PublishedTarget>,
}

/// A port of a container that another one was linked to, on one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Linked {
    /// The network of both, as an index into [`Inventory::networks`].
    pub network: usize,
    /// Address of the container that was started with `--link`.
    pub client: IpAddr,
    /// Address of the container that it names.
    pub server: IpAddr,
    /// The port; `None` for the link itself, which stands once for each pair.
    pub port: Option<Exposed>,
}

/// The end of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PublishedTarget {
    /// The container's place, as an index into [`Inventory::endpoints`].
    pub endpoint: usize,
    /// The container's address.
    pub address: IpAddr,
}

impl Inventory {
    /// Joins what the sources say. `container_links` holds, by process number, the links that were seen
    /// inside containers. A static network on a bridge of Docker's adds its prefixes to Docker's network.
    pub fn new(
        docker: Option<&DockerSnapshot>,
        host: &HostSnapshot,
        container_links: &BTreeMap<u32, Vec<ContainerLink>>,
        static_networks: &[StaticNetwork],
    ) -> Self {
        let managed = Managed::of(docker);
        let containers = docker.map(|docker| docker.containers.as_slice()).unwrap_or_default();
        let mut networks = networks(&managed, static_networks, host);
        let endpoints = endpoints(&networks, containers, container_links, host);
        assign_ports(&mut networks, &endpoints);
        let lan_networks = lan::networks(docker, host);
        Self {
            published: published(&managed, containers, &endpoints),
            direct: docker
                .map(|docker| direct::direct(docker, &managed, &endpoints, host))
                .unwrap_or_default(),
            linked: linked(&networks, containers, &endpoints),
            networks,
            endpoints,
            stations: lan::stations(&lan_networks, containers),
            lan_networks,
            local_addresses: host.addresses.clone(),
            links: host.links.clone(),
            default_route_links: host.default_route_links.clone(),
            swarm: docker.and_then(|docker| match &docker.swarm {
                Membership::Member(swarm) => Some(swarm.clone()),
                Membership::Unknown | Membership::None => None,
            }),
        }
    }

    /// The link with that index.
    pub fn link(&self, index: u32) -> Option<&Link> {
        let at = self.links.binary_search_by_key(&index, |link| link.index).ok()?;
        self.links.get(at)
    }
}

/// Docker's networks that have a bridge, in its order, and where each stands.
struct Managed<'a> {
    networks: Vec<&'a DockerNetwork>,
    by_id: BTreeMap<&'a str, usize>,
}

impl<'a> Managed<'a> {
    fn of(docker: Option<&'a DockerSnapshot>) -> Self {
        let networks = docker.iter().flat_map(|docker| &docker.networks);
        let networks: Vec<_> = networks.filter(|network| network.bridge.is_some()).collect();
        let by_id = networks.iter().enumerate().map(|(at, network)| (network.id.as_str(), at)).collect();
        Self { networks, by_id }
    }

    /// The network of that id, and its place, which is that in an inventory, too.
    fn with_id(&self, id: &str) -> Option<(usize, &'a DockerNetwork)> {
        let at = *self.by_id.get(id)?;
        Some((at, self.networks[at]))
    }
}

/// The bridges of a host with their ports and addresses, for questions about each of many networks.
struct Bridges<'a> {
    by_name: BTreeMap<&'a str, u32>,
    ports: BTreeMap<u32, Vec<&'a Link>>,
    addresses: BTreeMap<u32, BTreeSet<IpAddr>>,
}

impl<'a> Bridges<'a> {
    fn of(host: &'a HostSnapshot) -> Self {
        let (mut ports, mut addresses) = (BTreeMap::new(), BTreeMap::new());
        for link in &host.links {
            if let Some(master) = link.master {
                ports.entry(master).or_insert_with(Vec::new).push(link);
            }
        }
        for local in &host.addresses {
            addresses.entry(local.ifindex).or_insert_with(BTreeSet::new).insert(local.address);
        }
        // A device of that name that is not a bridge is not hooked as one.
        let bridges = host.links.iter().filter(|link| link.kind == LinkKind::Bridge);
        let by_name = bridges.map(|link| (link.name.as_str(), link.index)).collect();
        Self { by_name, ports, addresses }
    }

    /// Index of the bridge of that name.
    fn index(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    fn addresses_on(&self, index: u32) -> Vec<IpAddr> {
        self.addresses.get(&index).into_iter().flatten().copied().collect()
    }

    /// Its ports, by index as all links are.
    fn ports_of(&self, index: u32) -> Vec<Port> {
        let ports = self.ports.get(&index).into_iter().flatten();
        ports.map(|link| Port::of(link)).collect()
    }
}

fn networks(managed: &Managed<'_>, named: &[StaticNetwork], host: &HostSnapshot) -> Vec<Network> {
    let bridges = &Bridges::of(host);
    let mut networks: Vec<Network> =
        managed.networks.iter().map(|network| docker_network(network, bridges)).collect();
    let mut named: Vec<&StaticNetwork> = named.iter().collect();
    named.sort_by(|a, b| (&a.name, &a.bridge).cmp(&(&b.name, &b.bridge)));
    for network in named {
        match networks.iter_mut().find(|known| known.bridge_name == network.bridge) {
            Some(known) => known.subnets.extend(&network.subnets),
            None => networks.push(static_network(network, bridges)),
        }
    }
    for network in &mut networks {
        network.subnets.sort();
        network.subnets.dedup();
    }
    networks
}

fn docker_network(network: &DockerNetwork, bridges: &Bridges<'_>) -> Network {
    let bridge_name = network.bridge.clone().unwrap_or_default();
    let bridge_ifindex = bridges.index(&bridge_name);
    Network {
        name: network.name.clone(),
        docker_id: Some(network.id.clone()),
        gateways: bridge_ifindex
            .map_or_else(|| network.gateways.clone(), |index| bridges.addresses_on(index)),
        ports: bridge_ifindex.map(|index| bridges.ports_of(index)).unwrap_or_default(),
        bridge_name,
        bridge_ifindex,
        subnets: network.subnets.clone(),
        internal: network.internal,
        icc: network.icc,
        ipv6: network.ipv6,
        gateway_mode_v4: network.gateway_mode_v4,
        gateway_mode_v6: network.gateway_mode_v6,
        trusted: network.trusted_interfaces.clone(),
        masquerade: network.masquerade,
    }
}

fn static_network(network: &StaticNetwork, bridges: &Bridges<'_>) -> Network {
    let bridge_ifindex = bridges.index(&network.bridge);
    Network {
        name: network.name.clone(),
        docker_id: None,
        bridge_name: network.bridge.clone(),
        gateways: bridge_ifindex.map(|index| bridges.addresses_on(index)).unwrap_or_default(),
        ports: bridge_ifindex.map(|index| bridges.ports_of(index)).unwrap_or_default(),
        bridge_ifindex,
        subnets: network.subnets.clone(),
        internal: false,
        icc: true,
        ipv6: network.subnets.iter().any(|subnet| matches!(subnet, IpNet::V6(_))),
        gateway_mode_v4: GatewayMode::Nat,
        gateway_mode_v6: GatewayMode::Nat,
        trusted: Vec::new(),
        masquerade: true,
    }
}

fn endpoints(
    networks: &[Network],
    containers: &[DockerContainer],
    container_links: &BTreeMap<u32, Vec<ContainerLink>>,
    host: &HostSnapshot,
) -> Vec<Endpoint> {
    let by_id: BTreeMap<&str, usize> = networks
        .iter()
        .enumerate()
        .filter_map(|(index, network)| Some((network.docker_id.as_deref()?, index)))
        .collect();
    let mut endpoints = Vec::new();
    for container in containers {
        let links = container_links.get(&container.pid).map(Vec::as_slice).unwrap_or_default();
        for endpoint in &container.endpoints {
            let Some(&network) = by_id.get(endpoint.network_id.as_str()) else { continue };
            let bridge = networks[network].bridge_ifindex;
            endpoints.push(Endpoint {
                container: container.name.clone(),
                container_id: container.id.clone(),
                labels: container.labels.clone(),
                network,
                mac: endpoint.mac,
                addresses: endpoint.addresses.clone(),
                port_ifindex: bridge.and_then(|bridge| port_of(links, bridge, endpoint.mac, host)),
            });
        }
    }
    endpoints.sort_by(|a, b| (&a.container_id, a.network).cmp(&(&b.container_id, b.network)));
    endpoints
}

/// The port of `bridge` that one of a container's links leads to. Only a veth that is a port of this very
/// bridge is believed. Several (a container whose owner may make links) are told apart by the Ethernet
/// address; if that does not single out one, none is believed.
fn port_of(links: &[ContainerLink], bridge: u32, mac: Option<Mac>, host: &HostSnapshot) -> Option<u32> {
    let is_port = |peer: u32| {
        host.link(peer).is_some_and(|link| link.kind == LinkKind::Veth && link.master == Some(bridge))
    };
    let candidates: Vec<&ContainerLink> = links.iter().filter(|link| is_port(link.peer)).collect();
    match candidates.as_slice() {
        [] => None,
        [only] => Some(only.peer),
        several => {
            let mut same = several.iter().filter(|link| link.mac.is_some() && link.mac == mac);
            same.next().filter(|_| same.next().is_none()).map(|link| link.peer)
        }
    }
}

/// Two endpoints that claim one port (two containers of one process number cannot be) leave it unassigned.
fn assign_ports(networks: &mut [Network], endpoints: &[Endpoint]) {
    let mut claims: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        if let Some(port) = endpoint.port_ifindex {
            claims.entry(port).or_default().push(index);
        }
    }
    for port in networks.iter_mut().flat_map(|network| &mut network.ports) {
        if let Some([only]) = claims.get(&port.ifindex).map(Vec::as_slice) {
            port.endpoint = Some(*only);
        }
    }
}

fn published(
    managed: &Managed<'_>,
    containers: &[DockerContainer],
    endpoints: &[Endpoint],
) -> Vec<PublishedPort> {
    let mut published = BTreeSet::new();
    for container in containers {
        for port in &container.published {
            published.insert(PublishedPort {
                host: port.host,
                protocol: port.protocol,
                host_port: port.host_port,
                container_port: port.container_port,
                container: container.name.clone(),
                target: target(port.host, managed, container, endpoints),
            });
        }
    }
    published.into_iter().collect()
}

/// What Docker opens for `--link` (libnetwork, `bridge.link`): on the default network alone, IPv4 alone, the exposed
/// ports of the container that is named.
fn linked(networks: &[Network], containers: &[DockerContainer], endpoints: &[Endpoint]) -> Vec<Linked> {
    let mut linked = BTreeSet::new();
    let Some(network) = networks.iter().position(|it| it.docker_id.is_some() && it.name == DEFAULT_NETWORK)
    else {
        return Vec::new();
    };
    let addresses = |container: &DockerContainer| {
        let places = endpoints
            .iter()
            .filter(|endpoint| endpoint.container_id == container.id && endpoint.network == network);
        let addresses = places.flat_map(|place| place.addresses.iter().copied());
        addresses.filter(IpAddr::is_ipv4).collect::<Vec<_>>()
    };
    for client in containers.iter().filter(|client| !client.links.is_empty()) {
        let servers = containers.iter().filter(|server| client.links.contains(&server.name));
        for server in servers {
            for (client, to) in addresses(client)
                .into_iter()
                .flat_map(|from| addresses(server).into_iter().map(move |to| (from, to)))
            {
                let ports = server.exposed.iter().map(|port| Some(*port)).chain([None]);
                linked.extend(ports.map(|port| Linked { network, client, server: to, port }));
            }
        }
    }
    linked.into_iter().collect()
}

/// The name of the network that containers join if nothing else is said.
pub(crate) const DEFAULT_NETWORK: &str = "bridge";

/// Docker leads published ports over one network of a container, the one that has its default route
/// (libnetwork, `Endpoint.Less`): not an internal one; then the highest gateway priority; swarm's
/// `docker_gwbridge` last; both families before IPv6 before IPv4; the first name. It is chosen anew when
/// the container joins or leaves a network. Since 28.0 each family has a route of its own, so a network
/// without an address of the family is passed over; before, that comes to the same.
fn target(
    host: IpAddr,
    managed: &Managed<'_>,
    container: &DockerContainer,
    endpoints: &[Endpoint],
) -> Option<PublishedTarget> {
    let candidates = container.endpoints.iter().filter_map(|place| {
        // Docker's networks come first in an inventory and in this order.
        let (index, network) = managed.with_id(&place.network_id)?;
        let mode = if host.is_ipv4() { network.gateway_mode_v4 } else { network.gateway_mode_v6 };
        if network.internal || mode == GatewayMode::Isolated {
            return None;
        }
        let address = place.addresses.iter().find(|address| address.is_ipv4() == host.is_ipv4())?;
        let has = |v4: bool| place.addresses.iter().any(|address| address.is_ipv4() == v4);
        let rank = (
            Reverse(place.gateway_priority),
            network.bridge.as_deref() == Some("docker_gwbridge"),
            Reverse((has(false), has(true))),
            &network.name,
        );
        Some((rank, index, *address))
    });
    let (_, network, address) = candidates.min()?;
    let place = (container.id.as_str(), network);
    let endpoint = endpoints
        .binary_search_by(|endpoint| (endpoint.container_id.as_str(), endpoint.network).cmp(&place))
        .ok()?;
    Some(PublishedTarget { endpoint, address })
}

#[cfg(test)]
mod tests;
