//! What fw writes itself in iptables: from networks and published ports of the inventory, and `[nat]` of the policy.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::docker::GatewayMode;
use crate::handover::{Marks, Nat, Network, Port};
use crate::inventory::{self, DEFAULT_NETWORK, Inventory};
use crate::policy::{Mode, NatOwner, Policy};

/// The NAT that should stand; nothing of the kernel's settings in it yet.
pub(super) fn nat(
    policy: &Policy,
    inventory: &Inventory,
    marks: Marks,
    uplinks: &BTreeSet<String>,
    reach: bool,
) -> Nat {
    let mut ports: Vec<Port> =
        inventory.published.iter().filter_map(|published| port(inventory, published)).collect();
    // Those of one address come first, then each port once: two containers that claim one are told apart by nobody.
    ports.sort_by_key(|port| (port.host.is_unspecified(), port.host, port.protocol, port.host_port));
    ports.dedup_by_key(|port| (port.host, port.protocol, port.host_port));
    let mut networks: Vec<Network> = inventory.networks.iter().map(network).collect();
    networks.sort();
    Nat {
        owns: policy.nat.owner == NatOwner::Fw,
        observe: policy.mode == Mode::Observe,
        marks,
        reach,
        networks,
        ports,
        uplinks: uplinks.clone(),
        redirects: policy.nat.redirects.clone(),
        dnats: policy.nat.dnats.clone(),
        localnet: BTreeSet::new(),
    }
}

fn network(network: &inventory::Network) -> Network {
    let docker = network.docker_id.is_some();
    // dockerd that writes no rules reports of its default network that it does not masquerade, whatever --ip-masq says.
    let masquerade = network.masquerade || network.name == DEFAULT_NETWORK;
    let masquerades = |mode| docker && !network.internal && masquerade && translates(mode);
    Network {
        bridge: network.bridge_name.clone(),
        docker,
        subnets: network.subnets.clone(),
        internal: network.internal,
        masquerade_v4: masquerades(network.gateway_mode_v4),
        masquerade_v6: masquerades(network.gateway_mode_v6),
    }
}

/// A port that leads to a container by NAT; `None` where docker-proxy alone serves it, or nothing is translated.
fn port(inventory: &Inventory, published: &inventory::PublishedPort) -> Option<Port> {
    let target = published.target?;
    let endpoint = inventory.endpoints.get(target.endpoint)?;
    let network = inventory.networks.get(endpoint.network)?;
    let mode = match target.address {
        IpAddr::V4(_) => network.gateway_mode_v4,
        IpAddr::V6(_) => network.gateway_mode_v6,
    };
    translates(mode).then(|| Port {
        host: published.host,
        protocol: published.protocol,
        host_port: published.host_port,
        bridge: network.bridge_name.clone(),
        target: target.address,
        target_port: published.container_port,
    })
}

/// Whether a network in this mode is translated at all.
fn translates(mode: GatewayMode) -> bool {
    match mode {
        GatewayMode::Nat | GatewayMode::NatUnprotected => true,
        GatewayMode::Routed | GatewayMode::Isolated => false,
    }
}
