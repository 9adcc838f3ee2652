//! Rules beside the file's: what the nodes of a swarm need of each other, for the nodes that Docker knows.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::tables::{OutKey, OutRule, Port, PortKey, sources};
use fw_common::wire::proto;
use ipnet::IpNet;

use super::rules::{NOTHING, merge};
use super::zones::Zones;
use super::{RuleIds, any_keys, outbound};
use crate::docker::Swarm;
use crate::inventory::Inventory;
use crate::policy::swarm_rule::{CONTROL, ESP, GOSSIP, VXLAN};
use crate::policy::{self, Policy, Published, SetName, Sources};

/// What a swarm needs; nothing on a host that is in none, or where the policy says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwarmRules {
    nodes: BTreeSet<IpNet>,
    /// Rule, protocol and port of this host for each service of it.
    inbound: Vec<(&'static str, u8, u16)>,
    /// The same for services of other nodes.
    outbound: Vec<(&'static str, u8, u16)>,
}

impl SwarmRules {
    /// What the swarm of this inventory needs under this policy.
    pub fn new(policy: &Policy, inventory: &Inventory) -> Self {
        match (&inventory.swarm, policy.docker.swarm) {
            (Some(swarm), policy::SwarmNodes::Auto) if !swarm.nodes.is_empty() => Self::of(swarm),
            (Some(_) | None, policy::SwarmNodes::Auto | policy::SwarmNodes::Off) => Self::default(),
        }
    }

    fn of(swarm: &Swarm) -> Self {
        let between = [
            (VXLAN, proto::UDP, swarm.data_port),
            (ESP, IPSEC_ESP, 0),
            (GOSSIP, proto::TCP, GOSSIP_PORT),
            (GOSSIP, proto::UDP, GOSSIP_PORT),
        ];
        let control = swarm.control_ports.iter().map(|port| (CONTROL, proto::TCP, *port));
        let outbound: Vec<_> = between.into_iter().chain(control).collect();
        let here = |(name, ..): &&(&'static str, u8, u16)| swarm.manager || *name != CONTROL;
        Self {
            nodes: swarm.nodes.iter().map(|node| IpNet::from(*node)).collect(),
            inbound: outbound.iter().filter(here).copied().collect(),
            outbound,
        }
    }

    /// The set of the swarm's other nodes, if there is anything to let in.
    pub(super) fn set(&self) -> Option<(SetName, &BTreeSet<IpNet>)> {
        (!self.nodes.is_empty()).then(|| (SetName::swarm_nodes(), &self.nodes))
    }

    /// Names of the rules; one may stand more than once.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.outbound.iter().map(|(name, ..)| *name)
    }

    /// Whether there is something to let in, and no bit for it.
    pub(super) fn is_left_out(&self, zones: &Zones) -> bool {
        !self.nodes.is_empty() && zones.mask(&[SetName::swarm_nodes()]) == 0
    }

    /// Adds the ports of this host that the swarm needs. Without a bit for its nodes nothing is opened.
    pub(super) fn ports(&self, zones: &Zones, ids: &RuleIds, table: &mut BTreeMap<PortKey, Port>) {
        let nodes = [SetName::swarm_nodes()];
        if zones.mask(&nodes) == 0 {
            return;
        }
        let from = Sources::Sets(nodes.to_vec());
        for (name, protocol, port) in &self.inbound {
            let id = ids.get(*name).copied().unwrap_or(0);
            for key in any_keys(*protocol, *port) {
                merge(table.entry(key).or_insert(NOTHING), &from, zones, id);
            }
        }
    }

    /// Adds what this host opens to other nodes. Without rules of the file for it, it may open everything.
    pub(super) fn outbound(
        &self,
        policy: &Policy,
        zones: &Zones,
        ids: &RuleIds,
        table: &mut BTreeMap<OutKey, OutRule>,
    ) {
        let zones = zones.mask(&[SetName::swarm_nodes()]);
        if policy.out.is_empty() || zones == 0 {
            return;
        }
        for (name, protocol, port) in &self.outbound {
            let rule = ids.get(*name).copied().unwrap_or(0);
            let new = OutRule { destinations: sources::ZONES, zones, rule, reserved: [0; 3] };
            outbound::add(table, OutKey::new(*protocol, *port, 0), new);
        }
    }
}

/// What services publish on every node counts as published. Docker leads IPv4 to its ingress; for IPv6, dockerd answers from
/// a socket of the host.
pub(super) fn ingress(policy: &Policy, inventory: &Inventory, table: &mut BTreeMap<PortKey, Port>) {
    for exposed in inventory.swarm.iter().flat_map(|swarm| &swarm.ingress) {
        for key in any_keys(exposed.protocol.number(), exposed.port) {
            let port = table.entry(key).or_insert(NOTHING);
            port.published |= u8::from(key.address.is_v4());
            port.open |= u8::from(policy.uplink.published == Published::Open);
        }
    }
}

/// libnetwork's port for gossip, over TCP and UDP; Docker offers no other.
const GOSSIP_PORT: u16 = 7946;
/// Encapsulating security payload, by which encrypted overlays hide their VXLAN.
const IPSEC_ESP: u8 = 50;
