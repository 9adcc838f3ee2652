//! Hosts and policies as they may follow each other: what one pass of the reconciler finds, and the next.
//!
//! What cannot change under the same ifindex does not: a port stays on its bridge, a network keeps its subnets and is
//! internal or not for life (Docker makes another bridge), and a container keeps its MAC address.

use std::path::Path;

use fw_common::Mac;
use proptest::prelude::*;

use crate::desired::desired;
use crate::docker::{Exposed, GatewayMode, Transport};
use crate::inventory::{self, DirectPort, Inventory, Linked, PublishedPort, PublishedTarget};
use crate::netlink::{Link, LinkKind, LocalAddress};
use crate::plan::State;
use crate::policy::Policy;

pub(super) const ETH0: u32 = 2;
/// An uplink without Ethernet header.
pub(super) const WG0: u32 = 3;
const FRONT: u32 = 10;
const BACK: u32 = 20;
/// A bridge that only the policy manages.
const LXC: u32 = 30;

/// Numbers of the MAC addresses of macvlan containers.
pub(super) const STATIONS: [u32; 2] = [50, 51];

/// Ports and their bridges: at 11 and 13 live containers that take over each other's address.
pub(super) const PORTS: [(u32, u32); 5] = [(11, FRONT), (12, FRONT), (13, FRONT), (21, BACK), (31, LXC)];

/// The MAC address of a bridge, or of the container behind a port.
pub(super) fn mac_of(ifindex: u32) -> Mac {
    Mac { bytes: [2, 0, 0, 0, 0, ifindex as u8] }
}

/// A host and its policy.
#[derive(Clone, Debug)]
pub(super) struct Host {
    observe: bool,
    published_open: bool,
    /// Content of the sets `office` and `branch`.
    sets: (Content, Content),
    /// Who may use TCP 22, TCP 80, UDP 53, TCP and UDP 8080, and ping.
    allow: [Who; 5],
    deny: Vec<Content>,
    /// To whom the host may open TCP 80, UDP 53, and ping.
    out: [Who; 3],
    /// Whether there are limits for TCP 22 and 80, and for UDP 53.
    limits: [bool; 2],
    spoofing: [bool; 3],
    /// What containers of the three networks, and that at port 11, may open.
    terms: [Terms; 4],
    /// Whether front reaches lxc, lxc front, and front back, which is internal.
    reach: [bool; 3],
    /// Whether the policy keeps neighbours of `front` apart.
    apart: bool,
    /// Whether labels keep c11 apart from its neighbours, and name who may use its published ports.
    labelled: [bool; 2],
    /// Whether c1 was started with `--link` to c2, which exposes TCP 80.
    linked: bool,
    /// Whether the policy manages the LXC bridge.
    lxc: bool,
    wg0: bool,
    second_address: bool,
    networks: [bool; 2],
    containers: [Container; 4],
    published: [Option<PublishedAt>; 2],
    /// Whether c1's TCP 80 is reached at its own address, by everybody, as one of all its ports, by eth0 alone.
    direct: [bool; 3],
    /// Networks on eth0 whose containers share it: of macvlan with nobody on it, with one container, or with another
    /// one, and of ipvlan with a container.
    lan: Option<Lan>,
}

#[derive(Clone, Copy, Debug)]
enum Lan {
    Empty,
    One,
    Other,
    Ipvlan,
}

#[derive(Clone, Copy, Debug)]
enum Content {
    Host,
    Net,
    Wide,
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Terms {
    egress: Egress,
    host: bool,
}

#[derive(Clone, Copy, Debug)]
enum Egress {
    Unsaid,
    Any,
    None,
    Internet,
    Office,
    Written,
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Nobody,
    Anybody,
    Office,
    Branch,
    Both,
}

/// How a container is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Gone,
    /// Its port is there, Docker has not told of it.
    Untold,
    /// Docker has told of it, its port is not found.
    Unmatched,
    Known,
}

#[derive(Clone, Copy, Debug)]
struct PublishedAt {
    exact: bool,
    target: bool,
}

/// Any host.
pub(super) fn any() -> impl Strategy<Value = Host> {
    let policy = (
        prop::bool::weighted(0.1),
        prop::arbitrary::any::<bool>(),
        (content(), content()),
        [who(), who(), who(), who(), who()],
        prop::collection::vec(content(), 0..2),
        ([who(), who(), who()], prop::bool::weighted(0.6), prop::arbitrary::any::<[bool; 2]>()),
        prop::arbitrary::any::<[bool; 3]>(),
        prop::arbitrary::any::<bool>(),
        ([terms(), terms(), terms(), terms()], prop::arbitrary::any::<[bool; 3]>()),
    );
    let host = (
        prop::arbitrary::any::<bool>(),
        prop::arbitrary::any::<bool>(),
        [prop::bool::weighted(0.8), prop::bool::weighted(0.6)],
        [container(), container(), container(), container()],
        [prop::option::of(published()), prop::option::of(published())],
        (
            prop::arbitrary::any::<[bool; 2]>(),
            prop::arbitrary::any::<[bool; 2]>(),
            [prop::bool::weighted(0.5), prop::bool::weighted(0.2), prop::bool::weighted(0.5)],
        ),
        prop::option::of(prop::sample::select(vec![Lan::Empty, Lan::One, Lan::Other, Lan::Ipvlan])),
    );
    (policy, host).prop_map(|(policy, host)| {
        let (
            observe,
            published_open,
            sets,
            allow,
            deny,
            (out, restricted, limits),
            spoofing,
            lxc,
            (terms, reach),
        ) = policy;
        let out = if restricted { out } else { [Who::Nobody; 3] };
        let (wg0, second_address, networks, containers, published, apart_linked, lan) = host;
        let ([apart, linked], labelled, direct) = apart_linked;
        Host {
            observe,
            published_open,
            sets,
            allow,
            deny,
            out,
            limits,
            spoofing,
            terms,
            reach,
            apart,
            labelled,
            linked,
            lxc,
            wg0,
            second_address,
            networks,
            containers,
            published,
            direct,
            lan,
        }
    })
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![Just(Content::Host), Just(Content::Net), Just(Content::Wide), Just(Content::Other)]
}

fn terms() -> impl Strategy<Value = Terms> {
    use Egress::{Any, Internet, None, Office, Unsaid, Written};
    let egress = prop::sample::select(vec![Unsaid, Any, None, Internet, Office, Written]);
    (egress, prop::bool::weighted(0.7)).prop_map(|(egress, host)| Terms { egress, host })
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![Just(Who::Nobody), Just(Who::Anybody), Just(Who::Office), Just(Who::Branch), Just(Who::Both)]
}

fn container() -> impl Strategy<Value = Container> {
    use Container::{Gone, Known, Unmatched, Untold};
    prop_oneof![1 => Just(Gone), 1 => Just(Untold), 1 => Just(Unmatched), 2 => Just(Known)]
}

fn published() -> impl Strategy<Value = PublishedAt> {
    (prop::arbitrary::any::<bool>(), prop::arbitrary::any::<bool>())
        .prop_map(|(exact, target)| PublishedAt { exact, target })
}

impl Host {
    /// A host with something of everything.
    pub(super) fn full() -> Self {
        Self {
            observe: false,
            published_open: false,
            sets: (Content::Host, Content::Net),
            allow: [Who::Office, Who::Anybody, Who::Branch, Who::Nobody, Who::Anybody],
            deny: vec![Content::Other],
            out: [Who::Office, Who::Anybody, Who::Nobody],
            limits: [true, false],
            spoofing: [false; 3],
            terms: [Egress::None, Egress::Any, Egress::Internet, Egress::Unsaid]
                .map(|egress| Terms { egress, host: matches!(egress, Egress::Any | Egress::Unsaid) }),
            reach: [true, false, true],
            apart: true,
            labelled: [false, true],
            linked: true,
            lxc: true,
            wg0: true,
            second_address: true,
            networks: [true; 2],
            containers: [Container::Known, Container::Untold, Container::Gone, Container::Known],
            published: [Some(PublishedAt { exact: false, target: true }), None],
            direct: [true, false, true],
            lan: Some(Lan::One),
        }
    }

    /// What should be in force on it, given what is.
    pub(super) fn state(&self, current: &State) -> State {
        let text = self.policy();
        let policy = Policy::parse(&text, Path::new("policy.toml"), Path::new("/nonexistent"));
        let policy = policy.unwrap_or_else(|error| panic!("{error}\n---\n{text}"));
        desired(&policy, &self.inventory(), current).unwrap_or_else(|error| panic!("{error}")).state
    }

    fn policy(&self) -> String {
        let mode = if self.observe { "observe" } else { "enforce" };
        let published = if self.published_open { "open" } else { "closed" };
        let mut text = format!(
            "mode = \"{mode}\"\n[uplink]\npublished = \"{published}\"\ninterfaces = [\"eth0\"{}]\n\
             [sets]\noffice = [{}]\nbranch = [{}]\n",
            if self.wg0 { ", \"wg0\"" } else { "" },
            self.sets.0.text(),
            self.sets.1.text(),
        );
        let [front_lxc, lxc_front, front_back] = self.reach;
        let reaches = [(front_lxc, "lxc"), (front_back, "back")];
        let front: Vec<&str> =
            reaches.into_iter().filter(|(reaches, _)| *reaches).map(|(_, to)| to).collect();
        let lxc: &[&str] = if lxc_front { &["front"] } else { &[] };
        let names = ["front", "back", "lxc"].into_iter().zip([&front[..], &[], lxc]);
        for (((name, reach), spoofing), terms) in names.zip(self.spoofing).zip(self.terms) {
            let spoofing = if spoofing { "allow" } else { "drop" };
            let terms = terms.text();
            text += &format!("[networks.{name}]\nspoofing = \"{spoofing}\"\nreach = {reach:?}\n{terms}");
            if self.apart && name == "front" {
                text += "icc = false\n";
            }
        }
        text += &format!("[containers.c11]\n{}", self.terms[3].text());
        if self.lxc {
            text += "[[network]]\nname = \"lxc\"\nbridge = \"lxcbr0\"\nsubnets = [\"10.0.3.0/24\"]\n";
        }
        let services = [
            ("tcp", "ports = [22]\n"),
            ("tcp", "ports = [80]\n"),
            ("udp", "ports = [53]\n"),
            ("udp", "ports = [\"8000-8100\"]\n"),
            ("icmp", ""),
        ];
        for ((proto, ports), who) in services.into_iter().zip(self.allow) {
            if let Some(from) = who.text() {
                let name = format!("{proto}, {}", ports.trim().replace('"', "")).trim().to_owned();
                text += &format!("[[allow]]\nname = \"{name}\"\nproto = \"{proto}\"\n{ports}{from}");
            }
        }
        for ((proto, ports), who) in
            services[1..].iter().filter(|(_, ports)| !ports.contains('"')).zip(self.out)
        {
            if let Some(from) = who.text() {
                let to = from.replace("from", "to");
                text += &format!("[[out]]\nname = \"out {proto}\"\nproto = \"{proto}\"\n{ports}{to}");
            }
        }
        for ((proto, ports), limited) in [("tcp", "[22, 80]"), ("udp", "[53]")].into_iter().zip(self.limits) {
            if limited {
                let name = format!("limit {proto}");
                text += &format!(
                    "[[limit]]\nname = \"{name}\"\nproto = \"{proto}\"\nports = {ports}\nrate = 1\n"
                );
            }
        }
        for (number, content) in self.deny.iter().enumerate() {
            text += &format!("[[deny]]\nname = \"deny {number}\"\nfrom = [{}]\n", content.text());
        }
        text
    }

    fn inventory(&self) -> Inventory {
        let [front, back] = self.networks;
        let mut inventory = Inventory::default();
        inventory.links.push(link(ETH0, "eth0", LinkKind::Physical, None));
        if self.wg0 {
            let link = link(WG0, "wg0", LinkKind::Wireguard, None);
            inventory.links.push(Link { ethernet: false, ..link });
        }
        inventory.local_addresses.push(local(ETH0, [198, 51, 100, 7]));
        if self.second_address {
            inventory.local_addresses.push(local(ETH0, [198, 51, 100, 8]));
        }
        // The bridge is there whether the policy manages it or not.
        inventory.local_addresses.push(local(LXC, [10, 0, 3, 1]));
        inventory.links.push(link(LXC, "lxcbr0", LinkKind::Bridge, None));
        inventory.links.push(link(31, "lxc1", LinkKind::Veth, Some(LXC)));
        let [c1, c2, c3, b1] = self.containers;
        if front {
            // Two containers cannot have one address.
            let c3 = if c1 == Container::Gone { c3 } else { Container::Gone };
            let members = [(11, [172, 18, 0, 2], c1), (12, [172, 18, 0, 3], c2), (13, [172, 18, 0, 2], c3)];
            add_network(&mut inventory, "front", FRONT, [172, 18, 0, 0], &members);
        }
        if back {
            add_network(&mut inventory, "back", BACK, [172, 19, 0, 0], &[(21, [172, 19, 0, 2], b1)]);
        }
        if self.lxc {
            let port = inventory::Port { ifindex: 31, name: "lxc1".into(), endpoint: None, is_pair: false };
            inventory
                .networks
                .push(inventory::Network { ports: vec![port], ..network("lxc", LXC, [10, 0, 3, 0]) });
        }
        if front && self.linked && inventory.endpoints.iter().any(|endpoint| endpoint.container == "c12") {
            let exposed = Exposed { protocol: Transport::Tcp, port: 80 };
            let link = |port| Linked {
                network: 0,
                client: [172, 18, 0, 2].into(),
                server: [172, 18, 0, 3].into(),
                port,
            };
            inventory.linked.extend([link(None), link(Some(exposed))]);
        }
        self.publish(&mut inventory);
        let labels = [("fw.icc", "false"), ("fw.allow_from", "office")].into_iter().zip(self.labelled);
        for endpoint in inventory.endpoints.iter_mut().filter(|endpoint| endpoint.container == "c11") {
            let said = labels.clone().filter(|(_, said)| *said);
            endpoint.labels = said.map(|((key, value), _)| (key.to_owned(), value.to_owned())).collect();
        }
        if let Some(lan) = self.lan {
            share(&mut inventory, lan);
        }
        inventory.links.sort_by_key(|link| link.index);
        inventory
    }

    fn publish(&self, inventory: &mut Inventory) {
        for (host_port, published) in [80, 8080].into_iter().zip(self.published) {
            let Some(PublishedAt { exact, target }) = published else { continue };
            inventory.published.push(PublishedPort {
                host: (if exact { [198, 51, 100, 7] } else { [0; 4] }).into(),
                protocol: if host_port == 80 { Transport::Tcp } else { Transport::Udp },
                host_port,
                container_port: 80,
                container: "c11".into(),
                target: target.then(|| PublishedTarget { endpoint: 0, address: [172, 18, 0, 2].into() }),
            });
        }
        let exposed = Some(Exposed { protocol: Transport::Tcp, port: 80 });
        let ways = [(exposed, None), (None, None), (exposed, Some(ETH0))];
        for ((port, by), _) in ways.into_iter().zip(self.direct).filter(|(_, there)| *there) {
            let (address, container) = ([172, 18, 0, 2].into(), "c1".into());
            inventory.direct.push(DirectPort { address, port, by, container });
        }
    }
}

impl Content {
    fn text(self) -> &'static str {
        match self {
            Self::Host => "\"203.0.113.7\"",
            Self::Net => "\"203.0.113.0/24\", \"198.51.100.99\"",
            Self::Wide => "\"203.0.0.0/16\", \"203.0.113.7\", \"203.0.113.96/28\"",
            Self::Other => "\"192.0.2.64/26\"",
        }
    }
}

impl Terms {
    fn text(self) -> String {
        let host = if self.host { "allow" } else { "deny" };
        let egress = match self.egress {
            Egress::Unsaid => return String::new(),
            Egress::Any => "\"any\"",
            Egress::None => "\"none\"",
            Egress::Internet => "\"internet\"",
            Egress::Office => "[\"office\"]",
            Egress::Written => "[\"branch\", \"192.168.7.0/24\"]",
        };
        format!("egress = {egress}\nhost = \"{host}\"\n")
    }
}

impl Who {
    /// The line `from`; `None` without a rule.
    fn text(self) -> Option<&'static str> {
        match self {
            Self::Nobody => None,
            Self::Anybody => Some(""),
            Self::Office => Some("from = [\"office\"]\n"),
            Self::Branch => Some("from = [\"branch\"]\n"),
            Self::Both => Some("from = [\"office\", \"branch\"]\n"),
        }
    }
}

fn share(inventory: &mut Inventory, lan: Lan) {
    let driver = if matches!(lan, Lan::Ipvlan) { "ipvlan" } else { "macvlan" };
    inventory.lan_networks.push(inventory::LanNetwork {
        name: "lan".into(),
        docker_id: "id lan".into(),
        driver: driver.into(),
        parent_name: "eth0".into(),
        parent: Some(ETH0),
        passthru: false,
    });
    let (mac, last) = match lan {
        Lan::Empty => return,
        Lan::One => (Some(mac_of(STATIONS[0])), 50),
        // Another container with the same address.
        Lan::Other => (Some(mac_of(STATIONS[1])), 50),
        Lan::Ipvlan => (None, 51),
    };
    inventory.stations.push(inventory::Station {
        container: "m1".into(),
        container_id: "id m1".into(),
        network: 0,
        mac: mac.map(|mac| inventory::Mac(mac.bytes)),
        labelled: false,
        addresses: vec![[198, 51, 100, last].into()],
    });
}

fn add_network(
    inventory: &mut Inventory,
    name: &str,
    bridge: u32,
    subnet: [u8; 4],
    members: &[(u32, [u8; 4], Container)],
) {
    let mut network = inventory::Network { internal: name == "back", ..network(name, bridge, subnet) };
    inventory.links.push(link(bridge, &network.bridge_name, LinkKind::Bridge, None));
    let [a, b, c, _] = subnet;
    inventory.local_addresses.push(local(bridge, [a, b, c, 1]));
    for (ifindex, address, seen) in members {
        if *seen == Container::Gone {
            continue;
        }
        inventory.links.push(link(*ifindex, &format!("veth{ifindex}"), LinkKind::Veth, Some(bridge)));
        let known = *seen == Container::Known;
        let endpoint = known.then_some(inventory.endpoints.len());
        network.ports.push(inventory::Port {
            ifindex: *ifindex,
            name: format!("veth{ifindex}"),
            endpoint,
            is_pair: true,
        });
        if *seen != Container::Untold {
            inventory.endpoints.push(inventory::Endpoint {
                container: format!("c{ifindex}"),
                container_id: format!("id {ifindex}"),
                labels: std::collections::BTreeMap::new(),
                network: inventory.networks.len(),
                mac: Some(inventory::Mac(mac_of(*ifindex).bytes)),
                addresses: vec![(*address).into()],
                port_ifindex: known.then_some(*ifindex),
            });
        }
    }
    inventory.networks.push(network);
}

fn network(name: &str, bridge: u32, subnet: [u8; 4]) -> inventory::Network {
    inventory::Network {
        name: name.into(),
        docker_id: None,
        bridge_name: format!("br-{name}"),
        bridge_ifindex: Some(bridge),
        subnets: vec![ipnet::Ipv4Net::new_assert(subnet.into(), 24).into()],
        gateways: vec![],
        internal: false,
        icc: true,
        ipv6: false,
        gateway_mode_v4: GatewayMode::Nat,
        gateway_mode_v6: GatewayMode::Nat,
        trusted: vec![],
        masquerade: true,
        ports: vec![],
    }
}

fn link(index: u32, name: &str, kind: LinkKind, master: Option<u32>) -> Link {
    let mac = Some(inventory::Mac(mac_of(index).bytes));
    Link { mac, ..Link::sample(index, name, kind, master) }
}

fn local(ifindex: u32, address: [u8; 4]) -> LocalAddress {
    LocalAddress { ifindex, address: address.into(), prefix_len: 24, broadcast: None }
}
