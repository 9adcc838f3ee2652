//! Networks whose containers share a device of this host with it (macvlan, ipvlan), and who is on them.

use std::net::IpAddr;

use serde::Serialize;

use super::Mac;
use crate::docker::{DockerContainer, DockerNetwork, DockerSnapshot};
use crate::netlink::HostSnapshot;

/// A macvlan or ipvlan network of Docker's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LanNetwork {
    /// Name in Docker.
    pub name: String,
    /// Docker's id.
    pub docker_id: String,
    /// `macvlan` or `ipvlan`.
    pub driver: String,
    /// Name of the device that its containers share.
    pub parent_name: String,
    /// Index of that device; `None` while there is none.
    pub parent: Option<u32>,
    /// One container has all of it.
    pub passthru: bool,
}

/// A running container's place on such a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Station {
    /// Name of the container.
    pub container: String,
    /// Full id of the container.
    pub container_id: String,
    /// Its network, as an index into [`Inventory::lan_networks`](super::Inventory::lan_networks).
    pub network: usize,
    /// Its Ethernet address; `None` with ipvlan, which has that of the parent.
    pub mac: Option<Mac>,
    /// It has labels for fw.
    pub labelled: bool,
    /// Addresses that Docker gave it.
    pub addresses: Vec<IpAddr>,
}

/// The networks, in Docker's order. Without a parent Docker gives them a device that leads nowhere.
pub(super) fn networks(docker: Option<&DockerSnapshot>, host: &HostSnapshot) -> Vec<LanNetwork> {
    let one = |network: &DockerNetwork| {
        let parent_name = network.parent.clone()?;
        Some(LanNetwork {
            name: network.name.clone(),
            docker_id: network.id.clone(),
            driver: network.driver.clone(),
            parent: host.link_named(&parent_name).map(|link| link.index),
            parent_name,
            passthru: network.passthru,
        })
    };
    docker.iter().flat_map(|docker| &docker.networks).filter_map(one).collect()
}

/// Who is on them, by container and network.
pub(super) fn stations(networks: &[LanNetwork], containers: &[DockerContainer]) -> Vec<Station> {
    let mut stations = Vec::new();
    for container in containers {
        for place in &container.endpoints {
            let Some(network) = networks.iter().position(|network| network.docker_id == place.network_id)
            else {
                continue;
            };
            stations.push(Station {
                container: container.name.clone(),
                container_id: container.id.clone(),
                network,
                mac: place.mac.filter(|_| networks[network].driver == "macvlan"),
                labelled: container.labels.keys().any(|name| name.starts_with(crate::policy::label::PREFIX)),
                addresses: place.addresses.clone(),
            });
        }
    }
    stations.sort_by(|a, b| (&a.container_id, a.network).cmp(&(&b.container_id, b.network)));
    stations
}
