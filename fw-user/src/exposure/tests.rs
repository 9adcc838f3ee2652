//! What is reachable, from literal tables, containers and sockets.

use std::net::IpAddr;

use bytemuck::Zeroable as _;
use fw_common::Hook;
use fw_common::tables::{Interface, LocalAddress, LocalKey, Prefix, Subnet};

use super::*;
use crate::docker::Transport;
use crate::handover::Family;
use crate::inventory::Endpoint;
use crate::plan::HookPoint;

#[test]
fn a_published_port_leads_to_the_socket_in_its_container() {
    let mut world = World::new();
    world.open(Address::ANY_V4, proto::TCP, 8080, ANY);
    world.translate("172.18.0.2", 8080, 80);
    let open = world.rows();
    assert_eq!(open.len(), 1);
    let Target { container, service, container_port, listens, .. } = &open[0].target;
    assert_eq!((container.as_deref(), service.as_deref()), (Some("web"), Some("shop/front")));
    assert_eq!((*container_port, *listens), (Some(80), Some(false)), "nobody listens yet");
    assert_eq!(open[0].addresses, [(address("198.51.100.1"), 0), (address("198.51.100.2"), 0)]);
    world.listen_inside("0.0.0.0", 80, 0);
    assert_eq!(world.rows()[0].target.listens, Some(true));
    world.listeners.as_mut().expect("listeners").inside.clear();
    assert_eq!(world.rows()[0].target.listens, None, "what cannot be read is unknown");
}

#[test]
fn a_socket_of_one_address_splits_what_is_open_at_all() {
    let mut world = World::new();
    for port in 9000..=9003 {
        world.open(Address::ANY_V4, proto::TCP, port, ANY);
    }
    assert_eq!(world.rows().len(), 1, "neighbours are joined");
    assert_eq!((world.rows()[0].key.port, world.rows()[0].last), (9000, 9003));
    world.listen("198.51.100.2", 9001, 7);
    let rows = world.rows();
    let of = |listens| {
        let rows = rows.iter().filter(move |row| row.target.listens == Some(listens));
        rows.map(|row| (row.key.port, row.last, row.addresses.len())).collect::<Vec<_>>()
    };
    assert_eq!(of(true), [(9001, 9001, 1)]);
    assert_eq!(of(false), [(9000, 9000, 2), (9001, 9001, 1), (9002, 9003, 2)]);
    let process = rows.iter().find_map(|row| row.target.process.clone()).expect("its process");
    assert_eq!((process.name.as_str(), process.pid), ("server", 4711));
}

#[test]
fn a_redirect_leads_to_another_socket_of_the_host() {
    let mut world = World::new();
    world.open(Address::ANY_V4, proto::TCP, 2222, ANY);
    world.translate("127.0.0.1", 2222, 22);
    world.translations[0].to = None;
    assert_eq!(world.rows()[0].target.listens, Some(false));
    world.listen("0.0.0.0", 22, 7);
    assert_eq!(world.rows()[0].target.listens, Some(true));
    world.translations[0].input = Some("wg0".to_owned());
    assert_eq!(world.rows()[0].target.listens, Some(false), "not for what comes in by an uplink");
}

#[test]
fn a_socket_on_a_device_of_its_own_is_not_for_the_outside() {
    let mut world = World::new();
    world.open(Address::ANY_V4, proto::TCP, 9000, ANY);
    world.listen("0.0.0.0", 9000, 7);
    world.listeners.as_mut().expect("listeners").host[0].device = 99;
    assert_eq!(world.rows()[0].target.listens, Some(false));
    world.listeners.as_mut().expect("listeners").host[0].device = UPLINK;
    assert_eq!(world.rows()[0].target.listens, Some(true));
}

#[test]
fn docker_proxy_answers_for_the_container_where_nothing_is_translated() {
    let mut world = World::new();
    world.open(Address::ANY_V6, proto::TCP, 8080, ANY);
    world.publish("::", 8080, 80);
    world.listen("::", 8080, 7);
    world.name_process(PROXY);
    let target = &world.rows()[0].target;
    assert_eq!((target.container.as_deref(), target.container_port), (Some("web"), Some(80)));
    assert_eq!(target.process.as_ref().map(|process| process.name.as_str()), Some(PROXY));
    assert_eq!(target.listens, Some(true), "it takes connections, whoever is behind it");
    world.name_process("sshd");
    assert_eq!(world.rows()[0].target.container, None, "somebody else has the port");
}

#[test]
fn an_exact_entry_that_stands_alone_takes_its_address_out_of_any() {
    let mut world = World::new();
    world.open(Address::ANY_V4, proto::TCP, 8080, ANY);
    let narrowed = Port { sources: sources::ZONES | sources::ALONE, zones: 4, rule: 1, ..ANY };
    world.open(address("198.51.100.2"), proto::TCP, 8080, narrowed);
    let rows = world.rows();
    let of = |from| rows.iter().find(|row| row.from == from).map(|row| row.addresses.clone());
    assert_eq!(of(From::Any), Some(vec![(address("198.51.100.1"), 0)]));
    assert_eq!(of(From::Zones(4)), Some(vec![(address("198.51.100.2"), 0)]));
}

#[test]
fn addresses_of_bridges_and_link_local_ones_of_other_devices_are_not_open() {
    let mut world = World::new();
    world.open(Address::ANY_V6, proto::TCP, 22, ANY);
    let addresses = world.rows()[0].addresses.clone();
    assert_eq!(addresses, [(address("2001:db8::1"), 0), (address("fe80::1"), UPLINK)]);
}

#[test]
fn what_nobody_opens_is_closed_and_says_why() {
    let mut world = World::new();
    world.publish("0.0.0.0", 8080, 80);
    world.publish("127.0.0.1", 8081, 80);
    world.open(
        Address::ANY_V4,
        proto::TCP,
        8080,
        Port { sources: sources::NOBODY, published: 1, rule: 0, ..ANY },
    );
    world.listen("0.0.0.0", 5432, 7);
    world.listen("127.0.0.1", 6379, 8);
    world.listen("172.18.0.1", 7000, 9);
    world.listen("0.0.0.0", 22, 10);
    world.open(Address::ANY_V4, proto::TCP, 22, ANY);
    let closed: Vec<_> = world.closed().iter().map(|row| (row.port, row.why)).collect();
    assert_eq!(closed, [(8080, WhyClosed::NoRule), (8081, WhyClosed::Loopback), (5432, WhyClosed::Host)]);
    world.state.tables.ports.insert(PortKey::new(Address::ANY_V4, proto::TCP, 8080), ANY);
    assert!(world.closed().iter().all(|row| row.port != 8080));
}

#[test]
fn a_plan_tells_what_opens_and_closes_and_what_stays_is_not_told() {
    let mut world = World::new();
    world.hook();
    let old = world.state.clone();
    for port in [22, 80, 81, 443] {
        world.open(Address::ANY_V4, proto::TCP, port, ANY);
    }
    let mut wanted = world.state.clone();
    let mut current = old;
    let of_zone = Port { sources: sources::ZONES, zones: 2, ..ANY };
    for (port, entry) in [(22, of_zone), (443, ANY), (8080, ANY)] {
        current.tables.ports.insert(PortKey::new(Address::ANY_V4, proto::TCP, port), entry);
    }
    let told: Vec<_> = changed(&current, &wanted, world.seen())
        .iter()
        .map(|row| (row.key.port, row.last, row.before, row.after))
        .collect();
    let (any, closed) = (Access::Open(From::Any), Access::Closed);
    let zone = Access::Open(From::Zones(2));
    assert_eq!(told, [(22, 22, zone, any), (80, 81, closed, any), (8080, 8080, any, closed)]);
    assert_eq!(changed(&wanted, &wanted, world.seen()), []);
    // Docker publishes 8080 on one address alone: it closes there as everywhere, and is told once.
    let published = Port { sources: sources::NOBODY, published: 1, rule: 0, ..ANY };
    for state in [&mut current, &mut wanted] {
        state.tables.ports.insert(PortKey::new(address("198.51.100.1"), proto::TCP, 8080), published);
    }
    assert_eq!(changed(&current, &wanted, world.seen()).len(), 3);
}

#[test]
fn where_nothing_was_filtered_all_that_listens_and_is_not_open_to_all_changes() {
    let mut world = World::new();
    world.hook();
    world.listen("0.0.0.0", 5432, 7);
    world.open(Address::ANY_V4, proto::TCP, 80, ANY);
    world.open(Address::ANY_V4, proto::TCP, 22, Port { sources: sources::ZONES, zones: 2, ..ANY });
    let enforcing = world.state.clone();
    let mut observing = enforcing.clone();
    observing.tables.settings.observe = 1;
    let nothing = State::default();
    let told = |current, wanted| {
        let rows = changed(current, wanted, world.seen());
        rows.iter().map(|row| (row.key.port, row.before, row.after)).collect::<Vec<_>>()
    };
    let (all, zone) = (Access::Unfiltered, Access::Open(From::Zones(2)));
    let narrowed = [(22, all, zone), (5432, all, Access::Closed)];
    assert_eq!(told(&observing, &enforcing), narrowed);
    assert_eq!(told(&nothing, &enforcing), narrowed, "nothing is in force yet");
    assert_eq!(told(&enforcing, &observing), [(22, zone, all), (5432, Access::Closed, all)]);
    assert_eq!(told(&nothing, &observing), []);
}

const UPLINK: u32 = 2;
const BRIDGE: u32 = 10;
const ANY: Port = Port { zones: 0, rule: 1, sources: sources::ANY, published: 0, open: 0, limit: 0 };

/// An uplink with two addresses, a bridge, and a container on it.
struct World {
    state: State,
    inventory: Inventory,
    containers: Vec<DockerContainer>,
    listeners: Option<Listeners>,
    translations: Vec<Translation>,
}

impl World {
    fn new() -> Self {
        let mut state = State::default();
        let device = |role| Interface { role, l3_device: UPLINK, ..Interface::zeroed() };
        state.tables.interfaces.insert(UPLINK, device(role::UPLINK));
        for (text, ifindex) in [
            ("127.0.0.1", 1),
            ("198.51.100.1", UPLINK),
            ("198.51.100.2", UPLINK),
            ("2001:db8::1", UPLINK),
            ("fe80::1", UPLINK),
            ("fe80::1", BRIDGE),
            ("172.18.0.1", BRIDGE),
        ] {
            let local = LocalAddress { ifindex, broadcast: 0, reserved: [0; 3] };
            state.tables.local_addresses.insert(LocalKey::new(address(text), ifindex), local);
        }
        let prefix = Prefix { bits: 96 + 16, address: address("172.18.0.0") };
        state.tables.subnets.insert(prefix, Subnet { network: BRIDGE });
        let mut inventory = Inventory::default();
        inventory.endpoints.push(Endpoint {
            container: "web".to_owned(),
            container_id: "id".to_owned(),
            labels: BTreeMap::new(),
            network: 0,
            mac: None,
            addresses: vec![ip("172.18.0.2")],
            port_ifindex: None,
        });
        let label = |name: &str, value: &str| (format!("com.docker.compose.{name}"), value.to_owned());
        let container = DockerContainer {
            id: "id".to_owned(),
            name: "web".to_owned(),
            pid: 100,
            labels: BTreeMap::from([label("project", "shop"), label("service", "front")]),
            network_mode: "front".to_owned(),
            endpoints: Vec::new(),
            published: Vec::new(),
            routed: Vec::new(),
            exposed: Vec::new(),
            links: Vec::new(),
        };
        let listeners = Listeners { inside: BTreeMap::from([(100, Vec::new())]), ..Listeners::default() };
        let containers = vec![container];
        Self { state, inventory, containers, listeners: Some(listeners), translations: Vec::new() }
    }

    fn hook(&mut self) {
        self.state.hooks.insert(HookPoint { ifindex: UPLINK, hook: Hook::UplinkIngress });
    }

    fn open(&mut self, address: Address, protocol: u8, port: u16, entry: Port) {
        self.state.tables.ports.insert(PortKey::new(address, protocol, port), entry);
    }

    fn publish(&mut self, host: &str, host_port: u16, container_port: u16) {
        self.inventory.published.push(PublishedPort {
            host: ip(host),
            protocol: Transport::Tcp,
            host_port,
            container_port,
            container: "web".to_owned(),
            target: None,
        });
    }

    fn translate(&mut self, to: &str, port: u16, to_port: u16) {
        self.translations.push(Translation {
            family: Family::V4,
            input: None,
            protocol: proto::TCP,
            address: None,
            ports: (port, port),
            to: Some(ip(to)),
            to_port: Some(to_port),
        });
    }

    fn listen(&mut self, at: &str, port: u16, inode: u32) {
        let listeners = self.listeners.as_mut().expect("listeners");
        listeners.host.push(listener(at, port, inode));
        listeners.holders.insert(inode, Process { pid: 4711, name: "server".to_owned(), container: None });
    }

    fn listen_inside(&mut self, at: &str, port: u16, inode: u32) {
        let inside = &mut self.listeners.as_mut().expect("listeners").inside;
        inside.entry(100).or_default().push(listener(at, port, inode));
    }

    fn name_process(&mut self, name: &str) {
        let holders = &mut self.listeners.as_mut().expect("listeners").holders;
        for process in holders.values_mut() {
            name.clone_into(&mut process.name);
        }
    }

    fn seen(&self) -> Seen<'_> {
        Seen {
            inventory: &self.inventory,
            containers: &self.containers,
            listeners: self.listeners.as_ref(),
            translations: Some(&self.translations),
        }
    }

    fn rows(&self) -> Vec<Open> {
        open(&self.state, self.seen())
    }

    fn closed(&self) -> Vec<Closed> {
        closed(&self.state, self.seen())
    }
}

fn listener(at: &str, port: u16, inode: u32) -> Listener {
    Listener { protocol: proto::TCP, address: address(at), port, only_v6: false, device: 0, inode }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn address(text: &str) -> Address {
    ip(text).into()
}
