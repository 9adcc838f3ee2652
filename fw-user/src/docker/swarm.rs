//! Whether the engine is a member of a swarm, and what it tells of the swarm's other nodes.
//!
//! A manager knows every node. A worker knows the managers, and the nodes that share an overlay with it; all of them do so
//! as long as the network `ingress` is there. What it opens to the outside in ingress mode only managers tell.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use bollard::models::{self, LocalNodeState};
use bollard::query_parameters::{InspectNetworkOptions, ListNodesOptions, ListServicesOptions};
use futures_util::{StreamExt, stream};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Docker, DockerContainer, DockerEndpoint, DockerError, DockerNetwork, Exposed, INSPECTIONS, Mac,
    Transport, answer,
};

/// What the engine says of its membership in a swarm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Membership {
    /// Nothing to go by: it does not answer that, has failed as a node, or is locked.
    #[default]
    Unknown,
    /// It is in no swarm.
    None,
    /// It is a member, active or about to be.
    Member(Swarm),
}

/// A swarm, as far as one of its nodes knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swarm {
    /// Whether this node is a manager, or may be one: while it starts, that is not said.
    pub manager: bool,
    /// Addresses of the other nodes.
    pub nodes: BTreeSet<IpAddr>,
    /// UDP port of this host that the data of overlays comes to, host byte order. A worker is not told of another than
    /// 4789.
    pub data_port: u16,
    /// TCP ports that managers listen at, host byte order; 2377 unless a manager was told another.
    pub control_ports: BTreeSet<u16>,
    /// Ports of this host that services publish on every node (`mode=ingress`), host byte order; a worker knows none.
    pub ingress: BTreeSet<Exposed>,
    /// Whether all was told that a node of this kind is told. A manager of a swarm without a leader is told
    /// little, and one that starts, too.
    pub complete: bool,
}

impl Docker {
    /// What the engine says of its swarm. No failure spoils a snapshot: what is not said is unknown.
    pub(super) async fn membership(&self, networks: &[DockerNetwork]) -> Membership {
        // The question is dear: Docker runs programs to answer it. Who is in a swarm has one of these networks.
        let traces =
            |network: &DockerNetwork| network.scope == "swarm" || network.bridge.as_deref() == Some(GATEWAY);
        if !self.minds_swarm && !networks.iter().any(traces) {
            return Membership::None;
        }
        let said = match self.ask("its swarm", self.client.info()).await {
            Ok(info) => info.swarm.unwrap_or_default(),
            Err(error) => {
                tracing::debug!(%error, "Docker does not say whether it is in a swarm");
                return Membership::Unknown;
            }
        };
        // One that starts waits for the managers that it remembers, and they for it: all of them may have started just now.
        let pending = match said.local_node_state {
            Some(LocalNodeState::ACTIVE) => false,
            Some(LocalNodeState::PENDING) => true,
            Some(LocalNodeState::INACTIVE) => return Membership::None,
            Some(LocalNodeState::EMPTY | LocalNodeState::ERROR | LocalNodeState::LOCKED) | None => {
                return Membership::Unknown;
            }
        };
        let is_manager = said.control_available.unwrap_or_default();
        let mut swarm = Swarm {
            manager: is_manager || pending,
            nodes: BTreeSet::new(),
            data_port: data_port(&said),
            control_ports: managers(&said).map(|manager| manager.port()).collect(),
            ingress: BTreeSet::new(),
            complete: !pending,
        };
        if is_manager {
            match self.ask("the nodes of its swarm", self.client.list_nodes(None::<ListNodesOptions>)).await {
                Ok(nodes) => swarm.nodes.extend(nodes.iter().flat_map(addresses_of)),
                Err(error) => swarm.lacks(&error),
            }
            let services = self.client.list_services(None::<ListServicesOptions>);
            match self.ask("the services of its swarm", services).await {
                Ok(services) => swarm.ingress.extend(services.iter().flat_map(ingress_of)),
                Err(error) => swarm.lacks(&error),
            }
        }
        if !is_manager || !swarm.complete {
            swarm.nodes.extend(managers(&said).map(|manager| manager.ip()));
            for peers in self.peers(networks).await {
                match peers {
                    Ok(peers) => swarm.nodes.extend(peers),
                    Err(error) => swarm.lacks(&error),
                }
            }
        }
        let own = said.node_addr.and_then(|address| address.parse::<IpAddr>().ok());
        swarm.nodes.retain(|node| Some(*node) != own && names_a_host(node));
        Membership::Member(swarm)
    }

    /// The nodes that share an overlay with this one, by overlay.
    async fn peers(&self, networks: &[DockerNetwork]) -> Vec<Result<Vec<IpAddr>, DockerError>> {
        let overlays = networks.iter().filter(|network| network.driver == "overlay");
        stream::iter(overlays)
            .map(|network| async move {
                let found = self.network(network).await?;
                let peers = found.peers.unwrap_or_default();
                Ok(peers.into_iter().filter_map(|peer| peer.ip?.parse().ok()).collect())
            })
            .buffer_unordered(INSPECTIONS)
            .collect()
            .await
    }

    /// Adds the places of containers on swarm's `docker_gwbridge`, which they join without being asked, and of which their
    /// own inspection says nothing. Those that cannot be learned are as before.
    pub(super) async fn add_gateways(&self, networks: &[DockerNetwork], containers: &mut [DockerContainer]) {
        let Some(gateway) = networks.iter().find(|network| network.bridge.as_deref() == Some(GATEWAY)) else {
            return;
        };
        let found = match self.network(gateway).await {
            Ok(found) => found.containers.unwrap_or_default(),
            Err(error) => {
                return tracing::debug!(%error, "Docker does not say who is on its swarm's bridge");
            }
        };
        for container in containers {
            let joined = container.endpoints.iter().any(|endpoint| endpoint.network_id == gateway.id);
            let Some(place) = found.get(&container.id).filter(|_| !joined) else { continue };
            match endpoint(gateway, place) {
                Ok(endpoint) => {
                    container.endpoints.extend(endpoint);
                    container.endpoints.sort_by(|a, b| a.network_id.cmp(&b.network_id));
                }
                Err(error) => {
                    tracing::warn!(container = container.name, %error, "not known on swarm's bridge");
                }
            }
        }
    }

    async fn network(&self, network: &DockerNetwork) -> Result<models::NetworkInspect, DockerError> {
        let what = format!("network {}", network.name);
        let question = self.client.inspect_network(&network.id, None::<InspectNetworkOptions>);
        self.ask(&what, question).await
    }
}

impl Swarm {
    fn lacks(&mut self, error: &DockerError) {
        tracing::debug!(%error, "Docker does not tell all of its swarm");
        self.complete = false;
    }
}

/// Where the managers are, this node among them if it is one.
fn managers(said: &models::SwarmInfo) -> impl Iterator<Item = SocketAddr> {
    let managers = said.remote_managers.iter().flatten();
    managers.filter_map(|manager| manager.addr.as_deref()?.parse().ok())
}

/// Only managers are told another port than Docker's default.
fn data_port(said: &models::SwarmInfo) -> u16 {
    let port = said.cluster.as_ref().and_then(|cluster| u16::try_from(cluster.data_path_port?).ok());
    port.filter(|port| *port != 0).unwrap_or(DATA_PORT)
}

/// Where a node is: as its manager sees it, and as it calls itself among managers. Those that are down stay, for they have
/// to come back; `docker node rm` takes them away.
fn addresses_of(node: &models::Node) -> impl Iterator<Item = IpAddr> + use<> {
    let seen = node.status.as_ref().and_then(|status| status.addr.as_deref()?.parse().ok());
    let manager = node.manager_status.as_ref().and_then(|status| status.addr.as_deref()?.parse().ok());
    seen.into_iter().chain(manager.map(|manager: SocketAddr| manager.ip()))
}

/// The ports that a service publishes on every node.
fn ingress_of(service: &models::Service) -> Vec<Exposed> {
    use models::{EndpointPortConfigProtocolEnum as Protocol, EndpointPortConfigPublishModeEnum as Mode};
    let ports = service.endpoint.iter().flat_map(|endpoint| endpoint.ports.iter().flatten());
    let ports = ports.filter(|port| port.publish_mode == Some(Mode::INGRESS));
    let exposed = |port: &models::EndpointPortConfig| {
        let protocol = match port.protocol? {
            Protocol::TCP => Transport::Tcp,
            Protocol::UDP => Transport::Udp,
            Protocol::SCTP => Transport::Sctp,
            Protocol::EMPTY => return None,
        };
        let port = u16::try_from(port.published_port?).ok().filter(|port| *port != 0)?;
        Some(Exposed { protocol, port })
    };
    ports.filter_map(exposed).collect()
}

/// A container's place on the bridge; `None` while it has no address there.
fn endpoint(
    network: &DockerNetwork,
    found: &models::EndpointResource,
) -> Result<Option<DockerEndpoint>, DockerError> {
    let what = format!("network {}", network.name);
    let mut addresses = Vec::new();
    for prefix in [&found.ipv4_address, &found.ipv6_address].into_iter().flatten() {
        if !prefix.is_empty() {
            let parsed = prefix.parse::<IpNet>().map(|prefix| prefix.addr());
            addresses.push(parsed.map_err(|error| answer(&what, &format!("address {prefix}: {error}")))?);
        }
    }
    let mac = found.mac_address.as_deref().filter(|mac| !mac.is_empty());
    let mac = mac.map(str::parse::<Mac>).transpose();
    let mac = mac.map_err(|error| answer(&what, &error.to_string()))?;
    let Some(endpoint_id) = found.endpoint_id.clone().filter(|id| !id.is_empty()) else { return Ok(None) };
    Ok(Some(DockerEndpoint {
        network_id: network.id.clone(),
        endpoint_id,
        mac,
        addresses,
        gateway_priority: 0,
    }))
}

/// A manager that listens on every address may name itself by none.
fn names_a_host(address: &IpAddr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

/// The bridge by which containers on overlays reach everything else.
const GATEWAY: &str = "docker_gwbridge";
/// Docker's port for the data of overlays, unless a swarm was begun with another.
pub(crate) const DATA_PORT: u16 = 4789;
