//! Holes of stock Docker's, from literal rules, networks and sockets.

use fw_common::tables::{Interface, Network as Terms};

use super::*;
use crate::docker::DockerContainer;
use crate::exposure::Target;
use crate::handover::{Forwarding, Translation};
use crate::inventory::{Inventory, Port, PublishedPort};
use crate::listeners::{Listener, Listeners};
use bytemuck::Zeroable as _;
use fw_common::wire::proto;

#[test]
fn what_is_addressed_to_containers_is_open_as_raw_and_forward_say() {
    let mut world = World::new();
    let direct = |world: &World| {
        let holes = world.holes().into_iter().filter(|hole| hole.name.starts_with("direct"));
        holes.map(|hole| (hole.name, hole.concerns, hole.with_fw)).collect::<Vec<_>>()
    };
    let all = vec!["n1".to_owned(), "n2".to_owned()];
    world.survey.forwarding = vec![forwarding(Family::V4, false, false)];
    assert_eq!(direct(&world), [("direct-v4", all.clone(), WithFw::Closed)]);
    world.survey.forwarding = vec![forwarding(Family::V4, true, false)];
    assert_eq!(direct(&world), [], "FORWARD drops what is not published");
    world.publish("n1");
    assert_eq!(direct(&world), [("direct-v4", vec!["n1".to_owned()], WithFw::Closed)]);
    world.survey.forwarding = vec![forwarding(Family::V4, false, true)];
    assert_eq!(direct(&world), [], "Docker drops it in raw");
    world.survey.forwarding = vec![forwarding(Family::V4, false, false)];
    world.native = true;
    assert_eq!(direct(&world), [], "what is not read is not claimed");
}

#[test]
fn nothing_is_called_closed_whose_hook_does_not_run_or_that_is_only_observed() {
    let mut world = World::new();
    world.survey.forwarding = vec![forwarding(Family::V4, false, false)];
    let state = |world: &World, name: &str| {
        world.holes().iter().find(|hole| hole.name == name).map(|hole| hole.with_fw)
    };
    assert_eq!(state(&world, "direct-v4"), Some(WithFw::Closed));
    world.state.tables.settings.observe = 1;
    assert_eq!(state(&world, "direct-v4"), Some(WithFw::Observed));
    assert_eq!(state(&world, "icc-frames"), Some(WithFw::Observed));
    world.hooks.remove(&HookPoint { ifindex: UPLINK, hook: Hook::UplinkIngress });
    assert_eq!(state(&world, "direct-v4"), Some(WithFw::Unhooked));
    world.hooks.remove(&HookPoint { ifindex: 12, hook: Hook::PortEgress });
    assert_eq!(state(&world, "icc-frames"), Some(WithFw::Unhooked));
}

#[test]
fn icc_is_void_where_bridged_packets_visit_no_rule() {
    let mut world = World::new();
    let names = |world: &World| {
        let holes = world.holes().into_iter().filter(|hole| hole.name.starts_with("icc"));
        holes.map(|hole| (hole.name, hole.with_fw)).collect::<Vec<_>>()
    };
    assert_eq!(names(&world), [("icc-frames", WithFw::Closed)]);
    world.bridge_netfilter = false;
    assert_eq!(names(&world), [("icc-void", WithFw::Closed), ("icc-frames", WithFw::Closed)]);
    world.state.tables.networks.get_mut(&BRIDGE).expect("a network").icc = 1;
    assert_eq!(
        names(&world),
        [("icc-void", WithFw::Open), ("icc-frames", WithFw::Open)],
        "the policy says so"
    );
    world.inventory.networks[0].icc = true;
    assert_eq!(names(&world), []);
}

#[test]
fn an_internal_network_is_closed_to_its_host_only_where_the_policy_says_so() {
    let mut world = World::new();
    world.inventory.networks[0].internal = true;
    let found = |world: &World| {
        let mut holes = world.holes().into_iter().filter(|hole| hole.name == "internal-host");
        holes.next().map(|hole| hole.with_fw)
    };
    assert_eq!(found(&world), Some(WithFw::Closed));
    world.state.tables.networks.get_mut(&BRIDGE).expect("a network").terms.host = 1;
    assert_eq!(found(&world), Some(WithFw::Open));
}

#[test]
fn sockets_at_bridges_and_ports_for_loopback_are_named() {
    let mut world = World::new();
    world.survey.forwarding = vec![forwarding(Family::V4, true, false)];
    world.survey.translations = vec![Translation {
        family: Family::V4,
        input: None,
        protocol: proto::TCP,
        address: Some(ip("127.0.0.1")),
        ports: (8024, 8024),
        to: Some(ip("172.18.0.2")),
        to_port: Some(80),
    }];
    world.closed = vec![Closed {
        protocol: proto::TCP,
        address: ip("127.0.0.1").into(),
        port: 8024,
        target: Target { container: Some("n1".to_owned()), ..Target::default() },
        why: WhyClosed::Loopback,
    }];
    let concerns = |world: &World, name: &str| {
        let mut holes = world.holes().into_iter().filter(|hole| hole.name == name);
        holes.next().map(|hole| hole.concerns)
    };
    assert_eq!(concerns(&world, "loopback"), Some(vec!["n1 (8024/tcp)".to_owned()]));
    assert_eq!(concerns(&world, "gateways"), Some(vec!["a process (9000/tcp)".to_owned()]));
    world.survey.forwarding[0].input_drops = true;
    assert_eq!(concerns(&world, "gateways"), None, "INPUT may close them");
    world.survey.forwarding[0].raw = true;
    assert_eq!(concerns(&world, "loopback"), None, "Docker 28 and later drop it in raw");
}

const UPLINK: u32 = 2;
const BRIDGE: u32 = 10;

/// An uplink, and a network without icc on which two containers are, all hooked.
struct World {
    state: State,
    hooks: BTreeSet<HookPoint>,
    inventory: Inventory,
    listeners: Listeners,
    survey: Survey,
    native: bool,
    bridge_netfilter: bool,
    closed: Vec<Closed>,
}

impl World {
    fn new() -> Self {
        let mut state = State::default();
        let uplink = Interface { role: role::UPLINK, l3_device: UPLINK, ..Interface::zeroed() };
        state.tables.interfaces.insert(UPLINK, uplink);
        state.tables.networks.insert(BRIDGE, Terms::zeroed());
        let mut inventory = Inventory::default();
        let port = |ifindex| Port { ifindex, name: format!("veth{ifindex}"), endpoint: None, is_pair: true };
        inventory.networks.push(Network {
            name: "n".to_owned(),
            docker_id: Some("id".to_owned()),
            bridge_name: "br-n".to_owned(),
            bridge_ifindex: Some(BRIDGE),
            subnets: Vec::new(),
            gateways: vec![ip("172.18.0.1")],
            internal: false,
            icc: false,
            ipv6: false,
            gateway_mode_v4: GatewayMode::Nat,
            gateway_mode_v6: GatewayMode::Nat,
            trusted: Vec::new(),
            masquerade: true,
            ports: vec![port(11), port(12)],
        });
        for (name, address) in [("n1", "172.18.0.2"), ("n2", "172.18.0.3")] {
            inventory.endpoints.push(Endpoint {
                container: name.to_owned(),
                container_id: name.to_owned(),
                labels: BTreeMap::new(),
                network: 0,
                mac: None,
                addresses: vec![ip(address)],
                port_ifindex: None,
            });
        }
        let at = |ifindex, hook| HookPoint { ifindex, hook };
        let ports =
            [11, 12].into_iter().flat_map(|port| [at(port, Hook::PortIngress), at(port, Hook::PortEgress)]);
        let hooks = ports.chain([at(UPLINK, Hook::UplinkIngress)]).collect();
        let listener = Listener {
            protocol: proto::TCP,
            address: Address::ANY_V4,
            port: 9000,
            only_v6: false,
            device: 0,
            inode: 1,
        };
        let listeners = Listeners { host: vec![listener], ..Listeners::default() };
        let survey = Survey::default();
        Self {
            state,
            hooks,
            inventory,
            listeners,
            survey,
            native: false,
            bridge_netfilter: true,
            closed: Vec::new(),
        }
    }

    fn publish(&mut self, container: &str) {
        self.inventory.published.push(PublishedPort {
            host: ip("0.0.0.0"),
            protocol: crate::docker::Transport::Tcp,
            host_port: 8080,
            container_port: 80,
            container: container.to_owned(),
            target: None,
        });
    }

    fn holes(&self) -> Vec<Hole> {
        const NOBODY: &[DockerContainer] = &[];
        let seen = Seen {
            inventory: &self.inventory,
            containers: NOBODY,
            listeners: Some(&self.listeners),
            translations: Some(&self.survey.translations),
        };
        holes(Ground {
            state: &self.state,
            hooks: &self.hooks,
            seen,
            survey: &self.survey,
            native: self.native,
            forwards: (true, true),
            bridge_netfilter: self.bridge_netfilter,
            open: &[],
            closed: &self.closed,
        })
    }
}

fn forwarding(family: Family, drops: bool, raw: bool) -> Forwarding {
    Forwarding { family, docker: true, drops, raw, input_drops: false }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
