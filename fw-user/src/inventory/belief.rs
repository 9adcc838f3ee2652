//! What Docker says, held against what the kernel shows: silence is no word.
//!
//! A list that lacks something may be a lie: of an engine that has just started, of one that is broken, of a proxy in
//! front of it. What was known before is believed further as long as the kernel shows it: a network whose bridge is
//! still there, a container whose process still has a link that leads to its port. Docker takes both down before it
//! forgets them, so whoever is gone is believed to be gone at once. Only a bridge that somebody else made outlives its
//! network; there Docker's own event is the word.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Bridges, port_of};
use crate::docker::{
    DATA_PORT, DockerContainer, DockerEndpoint, DockerNetwork, DockerSnapshot, GatewayMode, Membership,
};
use crate::netlink::{ContainerLink, HostSnapshot};

/// What was known before the snapshot, and what the kernel shows now.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// What was believed last.
    pub before: &'a DockerSnapshot,
    /// Networks that Docker said, in so many words, to have removed.
    pub removed: &'a BTreeSet<String>,
    /// Indices of the bridges that are managed; another device of the same name is another network.
    pub bridges: &'a BTreeSet<u32>,
    /// Devices of this host.
    pub host: &'a HostSnapshot,
    /// Links seen inside containers, by process number; those of `before` as well as those of the snapshot.
    pub links: &'a BTreeMap<u32, Vec<ContainerLink>>,
}

/// What Docker said, with what stands all the same; and a sentence for each thing that it ought to have said.
///
/// Nothing is believed that would be laxer than what was believed before of the same network, for networks do not change.
pub fn believe(mut said: DockerSnapshot, evidence: &Evidence<'_>) -> (DockerSnapshot, Vec<String>) {
    let mut doubts = Vec::new();
    let bridges = Bridges::of(evidence.host);
    let told: BTreeMap<String, usize> =
        said.networks.iter().enumerate().map(|(at, network)| (network.id.clone(), at)).collect();
    for old in &evidence.before.networks {
        match told.get(&old.id) {
            Some(at) => keep_network(&mut said.networks[*at], old, &bridges, &mut doubts),
            None if evidence.network_stands(old, &said.networks, &bridges) => {
                doubts.push(format!(
                    "Docker does not name the network {} any more, but its bridge {} stands: it stays in force; if it \
                     was removed on purpose, remove the bridge",
                    old.name,
                    old.bridge.as_deref().unwrap_or_default()
                ));
                said.networks.push(old.clone());
            }
            None => {}
        }
    }
    said.networks.sort_by(|a, b| a.id.cmp(&b.id));
    let bridge_of = |network: &DockerNetwork| bridges.index(network.bridge.as_deref()?);
    let managed: BTreeMap<&str, u32> =
        said.networks.iter().filter_map(|network| Some((network.id.as_str(), bridge_of(network)?))).collect();
    let told: BTreeMap<String, usize> =
        said.containers.iter().enumerate().map(|(at, container)| (container.id.clone(), at)).collect();
    for old in &evidence.before.containers {
        let standing = evidence.standing(old, &managed);
        match told.get(&old.id) {
            Some(at) => keep_container(&mut said.containers[*at], old, standing, &mut doubts),
            None if !standing.is_empty() => {
                doubts.push(format!(
                    "Docker does not name the container {} any more, but it is still on its network: it stays in force",
                    old.name
                ));
                said.containers.push(DockerContainer { endpoints: standing, ..old.clone() });
            }
            None => {}
        }
    }
    said.containers.sort_by(|a, b| a.id.cmp(&b.id));
    keep_swarm(&mut said.swarm, &evidence.before.swarm, &mut doubts);
    (said, doubts)
}

/// Nodes and ports that were known stay until Docker, able to tell all, does not name them, or says to be in no swarm.
fn keep_swarm(said: &mut Membership, before: &Membership, doubts: &mut Vec<String>) {
    let Membership::Member(known) = before else { return };
    match said {
        Membership::None => {}
        Membership::Member(swarm) if swarm.complete => {}
        Membership::Member(swarm) => {
            swarm.nodes.extend(&known.nodes);
            swarm.ingress.extend(&known.ingress);
            swarm.control_ports.extend(&known.control_ports);
            // Left out it reads as Docker's default; a swarm keeps that with which it was begun.
            if swarm.data_port == DATA_PORT {
                swarm.data_port = known.data_port;
            }
            doubts.push(
                "Docker does not tell all nodes and services of its swarm (a manager without a leader, or one that does \
                 not answer): those known before stay in force"
                    .to_owned(),
            );
        }
        Membership::Unknown => {
            *said = before.clone();
            doubts.push(
                "Docker does not say whether it is in its swarm still: what its nodes need stays in force; if it is to \
                 be in none, `docker swarm leave`"
                    .to_owned(),
            );
        }
    }
}

impl Evidence<'_> {
    fn network_stands(&self, old: &DockerNetwork, said: &[DockerNetwork], bridges: &Bridges<'_>) -> bool {
        let Some(bridge) = old.bridge.as_deref() else { return false };
        let overlaps = |network: &DockerNetwork| {
            network.bridge.as_deref() == Some(bridge)
                || network.bridge.is_some() && overlap(&network.subnets, &old.subnets)
        };
        !self.removed.contains(&old.id)
            && bridges.index(bridge).is_some_and(|index| self.bridges.contains(&index))
            && !said.iter().any(overlaps)
    }

    /// The places of a container that its process has still; `managed` are the bridges of networks by their ids.
    fn standing(&self, old: &DockerContainer, managed: &BTreeMap<&str, u32>) -> Vec<DockerEndpoint> {
        let links = self.links.get(&old.pid).map(Vec::as_slice).unwrap_or_default();
        let stands = |endpoint: &&DockerEndpoint| {
            let bridge = managed.get(endpoint.network_id.as_str()).copied();
            bridge.and_then(|bridge| port_of(links, bridge, endpoint.mac, self.host)).is_some()
        };
        old.endpoints.iter().filter(stands).cloned().collect()
    }
}

/// What is left out reads as Docker's default, which is the laxer one.
fn keep_network(
    network: &mut DockerNetwork,
    old: &DockerNetwork,
    bridges: &Bridges<'_>,
    doubts: &mut Vec<String>,
) {
    let told = network.clone();
    network.internal |= old.internal;
    network.icc &= old.icc;
    network.masquerade &= old.masquerade;
    for (mode, before) in [
        (&mut network.gateway_mode_v4, old.gateway_mode_v4),
        (&mut network.gateway_mode_v6, old.gateway_mode_v6),
    ] {
        if *mode == GatewayMode::default() {
            *mode = before;
        }
    }
    if network.trusted_interfaces.is_empty() {
        network.trusted_interfaces.clone_from(&old.trusted_interfaces);
    }
    if network.subnets.is_empty() {
        network.subnets.clone_from(&old.subnets);
    }
    let untold = network.bridge.is_none() || network.bridge == Some(default_bridge(network));
    // Podman takes a bridge down with its last container, and may call the next one otherwise.
    if untold && old.bridge.as_deref().is_some_and(|name| bridges.index(name).is_some()) {
        network.bridge.clone_from(&old.bridge);
    }
    if *network != told {
        doubts.push(format!(
            "Docker tells less of the network {} than before, and networks do not change: it stays as it was",
            old.name
        ));
    }
}

/// The name of a bridge that was given none.
pub(super) fn default_bridge(network: &DockerNetwork) -> String {
    format!("br-{}", network.id.chars().take(12).collect::<String>())
}

fn keep_container(
    container: &mut DockerContainer,
    old: &DockerContainer,
    standing: Vec<DockerEndpoint>,
    doubts: &mut Vec<String>,
) {
    // Docker may not answer for a container that starts or stops; who has a link to its port has not ended.
    if container.pid == 0 && !standing.is_empty() {
        container.pid = old.pid;
    }
    // They are given to a container when it is made, and narrow what it may.
    for (label, value) in &old.labels {
        container.labels.entry(label.clone()).or_insert_with(|| value.clone());
    }
    if container.pid != old.pid || container.pid == 0 {
        return;
    }
    if container.exposed.is_empty() {
        container.exposed.clone_from(&old.exposed);
    }
    if container.links.is_empty() {
        container.links.clone_from(&old.links);
    }
    let told = (container.endpoints.clone(), container.published.clone());
    for place in standing {
        match container.endpoints.iter_mut().find(|endpoint| endpoint.network_id == place.network_id) {
            Some(endpoint) if endpoint.endpoint_id == place.endpoint_id => keep_endpoint(endpoint, &place),
            Some(_) => {}
            None => container.endpoints.push(place),
        }
    }
    container.endpoints.sort_by(|a, b| a.network_id.cmp(&b.network_id));
    // Which ports are published changes only with the networks, while a container runs.
    let places = |container: &DockerContainer| {
        container.endpoints.iter().map(|endpoint| endpoint.endpoint_id.clone()).collect::<Vec<_>>()
    };
    if places(container) == places(old) {
        container.published.extend(&old.published);
        container.published.sort();
        container.published.dedup();
        container.routed.extend(&old.routed);
        container.routed.sort();
        container.routed.dedup();
    }
    if (&container.endpoints, &container.published) != (&told.0, &told.1) {
        doubts.push(format!(
            "Docker tells less of the container {} than before, but it is still on its network: it stays as it was",
            old.name
        ));
    }
}

/// An endpoint keeps its addresses as long as it lives.
fn keep_endpoint(endpoint: &mut DockerEndpoint, old: &DockerEndpoint) {
    endpoint.mac = endpoint.mac.or(old.mac);
    for v4 in [true, false] {
        let of_family = |address: &&IpAddr| address.is_ipv4() == v4;
        if !endpoint.addresses.iter().any(|address| of_family(&address)) {
            endpoint.addresses.extend(old.addresses.iter().filter(of_family));
        }
    }
    endpoint.addresses.sort();
}

fn overlap(ours: &[IpNet], theirs: &[IpNet]) -> bool {
    ours.iter().any(|one| theirs.iter().any(|other| one.contains(other) || other.contains(one)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{link_mut, world};
    use super::*;
    use crate::docker::{Exposed, Published, Routed, Swarm, Transport};

    struct World {
        before: DockerSnapshot,
        host: HostSnapshot,
        links: BTreeMap<u32, Vec<ContainerLink>>,
        removed: BTreeSet<String>,
    }

    impl World {
        fn new() -> Self {
            let (mut before, host, links) = world();
            before.containers[0].published.sort();
            before.containers[0].published.dedup();
            Self { before, host, links, removed: BTreeSet::new() }
        }

        fn believe(&self, said: DockerSnapshot) -> (DockerSnapshot, usize) {
            let bridges = BTreeSet::from([10, 20]);
            let Self { before, host, links, removed } = self;
            let (believed, doubts) =
                believe(said, &Evidence { before, removed, bridges: &bridges, host, links });
            (believed, doubts.len())
        }
    }

    #[test]
    fn a_word_of_docker_is_believed() {
        let world = World::new();
        assert_eq!(world.believe(world.before.clone()), (world.before.clone(), 0));
        let mut more = world.before.clone();
        more.networks[0].subnets.push("10.7.0.0/16".parse().expect("a prefix"));
        more.containers[0].published.clear();
        more.containers[0].pid = 101;
        assert_eq!(world.believe(more.clone()), (more, 0), "a restarted container may publish nothing");
    }

    #[test]
    fn what_stands_is_not_forgotten_by_an_empty_list() {
        let world = World::new();
        let (believed, doubts) = world.believe(DockerSnapshot::default());
        assert_eq!((believed.networks, doubts), (world.before.networks.clone(), 3));
        assert_eq!(believed.containers, world.before.containers);
        let only_networks = DockerSnapshot { containers: vec![], ..world.before.clone() };
        assert_eq!(world.believe(only_networks), (world.before.clone(), 1));
    }

    #[test]
    fn what_is_gone_from_the_kernel_is_gone() {
        let mut world = World::new();
        world.links.clear();
        let (believed, doubts) = world.believe(DockerSnapshot::default());
        assert_eq!((believed.networks.len(), believed.containers.len(), doubts), (2, 0, 2));
        world.host.links.retain(|link| link.name != "br-n1");
        let (believed, _) = world.believe(DockerSnapshot::default());
        assert_eq!(believed.networks, world.before.networks[1..]);
        link_mut(&mut world.host, "br-n2").index = 99;
        let (believed, doubts) = world.believe(DockerSnapshot::default());
        assert_eq!((believed, doubts), (DockerSnapshot::default(), 0), "another bridge of the same name");
    }

    #[test]
    fn a_container_keeps_the_places_that_its_process_has() {
        let mut world = World::new();
        link_mut(&mut world.host, "veth21").master = None;
        let (believed, _) = world.believe(DockerSnapshot::default());
        assert_eq!(believed.containers[0].endpoints, world.before.containers[0].endpoints[..1]);
        let mut left = world.before.clone();
        left.containers[0].endpoints.remove(1);
        let (believed, doubts) = world.believe(left.clone());
        assert_eq!((&believed, doubts), (&left, 0), "it has left that network");
    }

    #[test]
    fn a_network_that_docker_says_to_have_removed_is_believed_to_be() {
        let mut world = World::new();
        world.removed.insert("n1".into());
        let (believed, _) = world.believe(DockerSnapshot::default());
        assert_eq!(believed.networks, world.before.networks[1..]);
        assert_eq!(believed.containers[0].endpoints, world.before.containers[0].endpoints[1..]);
    }

    #[test]
    fn a_network_made_again_takes_the_place_of_the_old_one() {
        let world = World::new();
        let mut again = world.before.clone();
        again.networks[0].id = "n3".into();
        let (believed, _) = world.believe(again.clone());
        assert_eq!(believed.networks.iter().map(|n| n.id.as_str()).collect::<Vec<_>>(), ["n2", "n3"]);
        again.networks[0].bridge = Some("br-n3".into());
        let (believed, _) = world.believe(again);
        assert_eq!(believed.networks.len(), 2, "the same subnet on another bridge");
    }

    #[test]
    fn fields_that_are_missing_are_as_before() {
        let mut world = World::new();
        (world.before.networks[0].icc, world.before.networks[0].internal) = (false, true);
        let mut said = world.before.clone();
        (said.networks[0].icc, said.networks[0].internal) = (true, false);
        said.networks[1].subnets.clear();
        said.networks[1].bridge = Some("br-n2".into());
        said.containers[0].published = Vec::<Published>::new();
        said.containers[0].endpoints[0].addresses.clear();
        said.containers[0].endpoints[0].mac = None;
        said.containers[0].endpoints.remove(1);
        assert_eq!(world.believe(said), (world.before.clone(), 3));
    }

    #[test]
    fn how_a_network_is_joined_to_the_outside_is_as_before_where_it_is_left_out() {
        let mut world = World::new();
        let network = &mut world.before.networks[0];
        (network.gateway_mode_v4, network.gateway_mode_v6) = (GatewayMode::Routed, GatewayMode::Isolated);
        (network.masquerade, network.trusted_interfaces) = (false, vec!["wg0".into()]);
        let port = Exposed { protocol: Transport::Tcp, port: 80 };
        world.before.containers[0].routed = vec![Routed { ipv6: false, port }];
        let mut said = world.before.clone();
        let network = &mut said.networks[0];
        (network.gateway_mode_v4, network.gateway_mode_v6) = Default::default();
        (network.masquerade, network.trusted_interfaces) = (true, Vec::new());
        said.containers[0].routed.clear();
        assert_eq!(world.believe(said), (world.before.clone(), 1));
    }

    #[test]
    fn a_container_that_docker_does_not_answer_for_keeps_its_process() {
        let mut world = World::new();
        world.before.containers[0].labels.insert("fw.host".into(), "deny".into());
        let mut stuck = world.before.clone();
        stuck.containers[0].pid = 0;
        stuck.containers[0].labels.clear();
        assert_eq!(world.believe(stuck.clone()), (world.before.clone(), 0));
        world.links.clear();
        assert_eq!(world.believe(stuck).0.containers[0].pid, 0);
    }

    #[test]
    fn a_swarm_keeps_its_ports_while_docker_does_not_tell_all() {
        let mut world = World::new();
        let known = Swarm {
            manager: true,
            nodes: BTreeSet::new(),
            data_port: 7789,
            control_ports: BTreeSet::from([4377]),
            ingress: BTreeSet::from([Exposed { protocol: Transport::Tcp, port: 8090 }]),
            complete: true,
        };
        world.before.swarm = Membership::Member(known.clone());
        let believes = |said: &Swarm| {
            let swarm = Membership::Member(said.clone());
            world.believe(DockerSnapshot { swarm, ..world.before.clone() }).0.swarm
        };
        let told = Swarm {
            data_port: 4789,
            control_ports: BTreeSet::new(),
            ingress: BTreeSet::new(),
            ..known.clone()
        };
        let starting = Swarm { complete: false, ..told.clone() };
        assert_eq!(believes(&starting), Membership::Member(Swarm { complete: false, ..known.clone() }));
        let another = Swarm { data_port: 7790, ..starting };
        let kept = Swarm { complete: false, data_port: 7790, ..known };
        assert_eq!(believes(&another), Membership::Member(kept), "what is told counts");
        assert_eq!(believes(&told), Membership::Member(told), "a word is a word");
    }

    #[test]
    fn a_swarm_is_left_by_a_word_and_not_by_silence() {
        let mut world = World::new();
        let swarm = |nodes: &[&str], complete| {
            Membership::Member(Swarm {
                manager: true,
                nodes: nodes.iter().map(|node| node.parse().expect("an address")).collect(),
                data_port: 4789,
                control_ports: BTreeSet::from([2377]),
                ingress: BTreeSet::new(),
                complete,
            })
        };
        let says = |world: &World, swarm| {
            let (believed, doubts) = world.believe(DockerSnapshot { swarm, ..world.before.clone() });
            (believed.swarm, doubts)
        };
        assert_eq!(says(&world, Membership::Unknown), (Membership::Unknown, 0), "nothing was known before");
        world.before.swarm = swarm(&["198.18.0.2", "198.18.0.3"], true);
        assert_eq!(says(&world, Membership::Unknown), (world.before.swarm.clone(), 1));
        assert_eq!(says(&world, Membership::None), (Membership::None, 0), "it has left");
        let fewer = swarm(&["198.18.0.3"], true);
        assert_eq!(says(&world, fewer.clone()), (fewer, 0), "a node has left");
        let both = swarm(&["198.18.0.2", "198.18.0.3", "198.18.0.4"], false);
        assert_eq!(says(&world, swarm(&["198.18.0.4"], false)), (both, 1), "a manager without a leader");
    }
}
