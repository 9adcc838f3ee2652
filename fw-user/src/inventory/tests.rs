//! The inventory from literal snapshots.

use super::*;
use crate::docker::{DockerEndpoint, Published, Routed};

#[test]
fn a_container_is_found_behind_the_port_that_its_link_leads_to() {
    let (docker, host, links) = world();
    let inventory = Inventory::new(Some(&docker), &host, &links, &[]);
    let network = &inventory.networks[0];
    assert_eq!((network.name.as_str(), network.bridge_ifindex), ("front", Some(10)));
    // 20.10 names no gateway: the bridge's own addresses are the gateways.
    assert_eq!(network.gateways, [ip("172.18.0.1"), ip("fe80::1")]);
    let endpoint = &inventory.endpoints[0];
    assert_eq!((endpoint.container.as_str(), endpoint.network, endpoint.port_ifindex), ("web", 0, Some(11)));
    assert_eq!(
        network.ports,
        [
            Port { ifindex: 11, name: "veth11".into(), endpoint: Some(0), is_pair: false },
            Port { ifindex: 12, name: "veth12".into(), endpoint: None, is_pair: false },
        ]
    );
}

#[test]
fn a_container_on_two_networks_has_a_port_on_each() {
    let (docker, host, links) = world();
    let inventory = Inventory::new(Some(&docker), &host, &links, &[]);
    let places: Vec<_> = inventory.endpoints.iter().map(|e| (e.network, e.port_ifindex)).collect();
    assert_eq!(places, [(0, Some(11)), (1, Some(21))]);
    assert_eq!(inventory.networks[1].ports[0].endpoint, Some(1));
}

#[test]
fn a_link_is_believed_only_if_the_host_s_end_is_a_veth_on_the_right_bridge() {
    let (docker, mut host, links) = world();
    link_mut(&mut host, "veth11").kind = LinkKind::Physical;
    let inventory = Inventory::new(Some(&docker), &host, &links, &[]);
    assert_eq!(inventory.endpoints[0].port_ifindex, None);
    assert_eq!(inventory.networks[0].ports[0].endpoint, None);

    let (docker, mut host, links) = world();
    link_mut(&mut host, "veth11").master = Some(20);
    let inventory = Inventory::new(Some(&docker), &host, &links, &[]);
    assert_eq!(inventory.endpoints[0].port_ifindex, None);
    // Of the two ports on the other bridge, the Ethernet address still finds the right one.
    assert_eq!(inventory.endpoints[1].port_ifindex, Some(21));
}

#[test]
fn two_links_to_one_bridge_are_told_apart_by_address_or_not_at_all() {
    let (docker, host, mut links) = world();
    links.get_mut(&100).expect("the links of web").push(ContainerLink {
        index: 9,
        peer: 12,
        mac: Some(Mac([9; 6])),
    });
    let inventory = Inventory::new(Some(&docker), &host, &links, &[]);
    assert_eq!(inventory.endpoints[0].port_ifindex, Some(11));
    links.get_mut(&100).expect("the links of web")[0].mac = Some(Mac([8; 6]));
    let inventory = Inventory::new(Some(&docker), &host, &links, &[]);
    assert_eq!(inventory.endpoints[0].port_ifindex, None);
}

#[test]
fn a_port_that_two_containers_claim_belongs_to_nobody() {
    let (mut docker, host, mut links) = world();
    let mut twin = docker.containers[0].clone();
    twin.id = "cb".into();
    twin.pid = 200;
    docker.containers.push(twin);
    links.insert(200, links[&100].clone());
    let inventory = Inventory::new(Some(&docker), &host, &links, &[]);
    assert_eq!(inventory.networks[0].ports[0].endpoint, None);
}

#[test]
fn other_drivers_are_not_managed_and_a_bridge_may_be_missing() {
    let (mut docker, mut host, links) = world();
    docker.networks.push(DockerNetwork {
        driver: "macvlan".into(),
        bridge: None,
        parent: Some("eth9".into()),
        ..network("n3", "lan", "br-n3")
    });
    docker.containers[0].endpoints.push(place("n3", "192.0.2.7"));
    host.links.retain(|link| link.name != "br-n2");
    docker.networks[1].gateways = vec![ip("172.19.0.1")];
    let inventory = Inventory::new(Some(&docker), &host, &links, &[]);
    assert_eq!(inventory.networks.len(), 2);
    assert_eq!(inventory.endpoints.len(), 2);
    let missing = &inventory.networks[1];
    assert_eq!((missing.bridge_ifindex, missing.ports.len()), (None, 0));
    assert_eq!(missing.gateways, [ip("172.19.0.1")]);
    assert_eq!(inventory.endpoints[1].port_ifindex, None);
    // Whether the parent is there or not.
    let [lan] = &inventory.lan_networks[..] else { panic!("{:?}", inventory.lan_networks) };
    assert_eq!((lan.parent_name.as_str(), lan.parent), ("eth9", None));
    let [station] = &inventory.stations[..] else { panic!("{:?}", inventory.stations) };
    assert_eq!((station.container.as_str(), station.addresses.as_slice()), ("web", &[ip("192.0.2.7")][..]));
    assert!(station.mac.is_some() && !station.labelled);
}

#[test]
fn an_ipvlan_container_has_no_address_of_its_own_on_the_link() {
    let (mut docker, mut host, links) = world();
    docker.networks.push(DockerNetwork {
        driver: "ipvlan".into(),
        bridge: None,
        parent: Some("eth0".into()),
        ..network("n3", "lan", "br-n3")
    });
    docker.containers[0].endpoints.push(place("n3", "192.0.2.7"));
    host.links.push(Link::sample(77, "eth0", LinkKind::Physical, None));
    let inventory = Inventory::new(Some(&docker), &host, &links, &[]);
    assert_eq!(inventory.lan_networks[0].parent, Some(77));
    assert_eq!((inventory.stations[0].network, inventory.stations[0].mac), (0, None));
}

#[test]
fn a_device_that_is_not_a_bridge_is_not_taken_for_one() {
    let (docker, mut host, links) = world();
    link_mut(&mut host, "br-n1").kind = LinkKind::Dummy;
    let inventory = Inventory::new(Some(&docker), &host, &links, &[]);
    assert_eq!(inventory.networks[0].bridge_ifindex, None);
}

#[test]
fn published_ports_lead_over_the_network_with_the_default_route() {
    let (mut docker, host, links) = world();
    let leads_to = |docker: &DockerSnapshot| {
        let inventory = Inventory::new(Some(docker), &host, &links, &[]);
        inventory.published.iter().map(|port| port.target.map(|target| target.address)).collect::<Vec<_>>()
    };
    // "any" is listed once for each family; without an IPv6 address docker-proxy answers there.
    assert_eq!(leads_to(&docker), [Some(ip("172.19.0.2")), None]);
    docker.containers[0].endpoints[0].gateway_priority = 1;
    assert_eq!(leads_to(&docker), [Some(ip("172.18.0.2")), None]);
    docker.networks[0].internal = true;
    assert_eq!(leads_to(&docker), [Some(ip("172.19.0.2")), None]);
    docker.networks[0].internal = false;
    docker.containers[0].endpoints[1].addresses.push(ip("2001:db8::2"));
    // The priority comes before the families, and each family has its own way.
    assert_eq!(leads_to(&docker), [Some(ip("172.18.0.2")), Some(ip("2001:db8::2"))]);
    docker.containers[0].endpoints[0].gateway_priority = 0;
    docker.networks[1].name = "zzz".into();
    assert_eq!(leads_to(&docker), [Some(ip("172.19.0.2")), Some(ip("2001:db8::2"))]);
    docker.networks[1].gateway_mode_v4 = GatewayMode::Isolated;
    assert_eq!(leads_to(&docker), [Some(ip("172.18.0.2")), Some(ip("2001:db8::2"))]);
}

/// As Docker 28.5 answers for `-p 80 -p 81:81` on a routed and on a nat network.
#[test]
fn what_is_reached_without_nat_follows_the_gateway_mode() {
    let (mut docker, mut host, links) = world();
    host.links.push(Link::sample(2, "eth0", LinkKind::Physical, None));
    docker.version = "28.5.2".into();
    docker.containers[0].endpoints.remove(1);
    let exposed = |port| Exposed { protocol: Transport::Tcp, port };
    docker.containers[0].routed = [false, true].map(|ipv6| Routed { ipv6, port: exposed(90) }).to_vec();
    let direct = |docker: &DockerSnapshot| {
        let inventory = Inventory::new(Some(docker), &host, &links, &[]);
        let of = |direct: DirectPort| (direct.address, direct.port, direct.by);
        inventory.direct.into_iter().map(of).collect::<Vec<_>>()
    };
    let web = ip("172.18.0.2");
    assert_eq!(direct(&docker), [], "in the mode nat");
    docker.networks[0].trusted_interfaces = vec!["eth0".into(), "gone0".into()];
    assert_eq!(
        direct(&docker),
        [(web, Some(exposed(80)), Some(2))],
        "from a trusted link, what is published"
    );
    docker.containers[0].published = vec![any("127.0.0.1")];
    assert_eq!(direct(&docker), [], "for nobody outside");
    docker.containers[0].published = vec![any("0.0.0.0")];
    docker.networks[0].gateway_mode_v6 = GatewayMode::Routed;
    assert_eq!(direct(&docker).len(), 1, "each family by itself");
    docker.networks[0].gateway_mode_v4 = GatewayMode::Routed;
    assert_eq!(direct(&docker), [(web, Some(exposed(90)), None)]);
    docker.networks[0].internal = true;
    assert_eq!(direct(&docker), []);
    docker.networks[0].internal = false;
    // The other network has the default route: 28 routes nothing, 29 also what is published there.
    docker.containers[0].endpoints.push(place("n2", "172.19.0.2"));
    assert_eq!(direct(&docker), []);
    docker.version = "29.0.0-rc.1".into();
    assert_eq!(direct(&docker), [(web, Some(exposed(80)), None), (web, Some(exposed(90)), None)]);
    docker.networks[0].gateway_mode_v4 = GatewayMode::NatUnprotected;
    assert_eq!(direct(&docker), [(web, None, None)], "every port, whatever is published");
    docker.networks[0].gateway_mode_v4 = GatewayMode::Isolated;
    assert_eq!(direct(&docker), []);
}

#[test]
fn the_policy_s_networks_stand_beside_docker_s_or_widen_them() {
    let (docker, mut host, links) = world();
    host.links.push(Link::sample(30, "lxcbr0", LinkKind::Bridge, None));
    host.links.push(Link::sample(31, "veth31", LinkKind::Veth, Some(30)));
    let named = |name: &str, bridge: &str, subnet: &str| StaticNetwork {
        name: name.into(),
        bridge: bridge.into(),
        subnets: vec![prefix(subnet)],
    };
    let named = [named("lxc", "lxcbr0", "10.0.3.0/24"), named("more", "br-n1", "10.9.0.0/16")];
    let inventory = Inventory::new(Some(&docker), &host, &links, &named);
    let joined: Vec<_> = inventory.networks.iter().map(|network| network.name.as_str()).collect();
    assert_eq!(joined, ["front", "back", "lxc"]);
    assert_eq!(inventory.networks[0].subnets, [prefix("10.9.0.0/16"), prefix("172.18.0.0/16")]);
    assert_eq!(inventory.networks[2].ports[0].endpoint, None);

    let alone = Inventory::new(None, &host, &BTreeMap::new(), &named);
    let left: Vec<_> = alone.networks.iter().map(|network| network.name.as_str()).collect();
    assert_eq!(left, ["lxc", "more"]);
    assert!(alone.endpoints.is_empty());
}

/// libnetwork opens links on the default network alone, for IPv4, and by what the named container exposes.
#[test]
fn links_lead_to_exposed_ports_on_the_default_network() {
    let (mut docker, host, links) = world();
    let mut server = docker.containers[0].clone();
    (server.id, server.name, server.pid) = ("cb".into(), "svr".into(), 101);
    server.endpoints = vec![place("n1", "172.18.0.9")];
    server.exposed = vec![Exposed { protocol: Transport::Tcp, port: 80 }];
    docker.containers.push(server);
    docker.containers[0].links = vec!["svr".into(), "gone".into()];
    assert_eq!(Inventory::new(Some(&docker), &host, &links, &[]).linked, [], "not on other networks");
    docker.networks[0].name = "bridge".into();
    let found = Inventory::new(Some(&docker), &host, &links, &[]);
    let network = found.networks.iter().position(|network| network.name == "bridge").expect("the network");
    let (client, server) = ("172.18.0.2".parse().expect("IPv4"), "172.18.0.9".parse().expect("IPv4"));
    let link = |port| Linked { network, client, server, port };
    let exposed = Exposed { protocol: Transport::Tcp, port: 80 };
    assert_eq!(found.linked, [link(None), link(Some(exposed))]);
}

#[test]
fn the_order_of_the_sources_does_not_show() {
    let (mut docker, host, links) = world();
    let inventory = Inventory::new(Some(&docker), &host, &links, &[]);
    docker.containers[0].endpoints.reverse();
    docker.containers[0].published.reverse();
    assert_eq!(Inventory::new(Some(&docker), &host, &links, &[]), inventory);
}

/// Two networks; `web` (process 100) on both behind veth11 and veth21; veth12 is nobody's.
pub(super) fn world() -> (DockerSnapshot, HostSnapshot, BTreeMap<u32, Vec<ContainerLink>>) {
    let docker = DockerSnapshot {
        networks: vec![network("n1", "front", "br-n1"), network("n2", "back", "br-n2")],
        containers: vec![DockerContainer {
            id: "ca".into(),
            name: "web".into(),
            pid: 100,
            labels: BTreeMap::new(),
            network_mode: "front".into(),
            endpoints: vec![place("n1", "172.18.0.2"), place("n2", "172.19.0.2")],
            published: vec![any("0.0.0.0"), any("::"), any("::")],
            routed: vec![],
            exposed: vec![],
            links: vec![],
        }],
        ..DockerSnapshot::default()
    };
    let host = HostSnapshot {
        links: vec![
            Link::sample(10, "br-n1", LinkKind::Bridge, None),
            Link::sample(11, "veth11", LinkKind::Veth, Some(10)),
            Link::sample(12, "veth12", LinkKind::Veth, Some(10)),
            Link::sample(20, "br-n2", LinkKind::Bridge, None),
            Link::sample(21, "veth21", LinkKind::Veth, Some(20)),
        ],
        addresses: vec![local(10, "172.18.0.1"), local(10, "fe80::1"), local(20, "172.19.0.1")],
        default_route_links: vec![],
    };
    let inside = |index, peer, address| ContainerLink { index, peer, mac: place("", address).mac };
    let links = BTreeMap::from([(100, vec![inside(1, 11, "172.18.0.2"), inside(2, 21, "172.19.0.2")])]);
    (docker, host, links)
}

fn network(id: &str, name: &str, bridge: &str) -> DockerNetwork {
    let subnet = if id == "n1" { "172.18.0.0/16" } else { "172.19.0.0/16" };
    DockerNetwork {
        id: id.into(),
        name: name.into(),
        driver: "bridge".into(),
        scope: "local".into(),
        bridge: Some(bridge.into()),
        parent: None,
        passthru: false,
        subnets: vec![prefix(subnet)],
        gateways: vec![],
        internal: false,
        icc: true,
        ipv6: false,
        gateway_mode_v4: GatewayMode::Nat,
        gateway_mode_v6: GatewayMode::Nat,
        trusted_interfaces: vec![],
        masquerade: true,
    }
}

fn place(network_id: &str, address: &str) -> DockerEndpoint {
    let address = ip(address);
    let IpAddr::V4(v4) = address else { panic!("an ipv4 address") };
    let [a, b, c, d] = v4.octets();
    DockerEndpoint {
        network_id: network_id.into(),
        endpoint_id: format!("e-{network_id}"),
        mac: Some(Mac([2, 0x42, a, b, c, d])),
        addresses: vec![address],
        gateway_priority: 0,
    }
}

fn any(host: &str) -> Published {
    Published { host: ip(host), protocol: Transport::Tcp, host_port: 8080, container_port: 80 }
}

fn local(ifindex: u32, address: &str) -> LocalAddress {
    LocalAddress { ifindex, address: ip(address), prefix_len: 16, broadcast: None }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn prefix(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

pub(super) fn link_mut<'a>(host: &'a mut HostSnapshot, name: &str) -> &'a mut Link {
    host.links.iter_mut().find(|link| link.name == name).expect("a link of that name")
}
