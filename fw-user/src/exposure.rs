//! What the outside reaches: which ports are open to whom and why, who is behind them, and whether anybody listens there.
//!
//! Pure: from tables, inventory, sockets and translations that were read before. Nothing is assumed: what could not be
//! read is unknown, and shown so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fw_common::Address;
use fw_common::tables::{Port, PortKey, role, sources};
use fw_common::wire::proto;

use crate::docker::DockerContainer;
use crate::handover::Translation;
use crate::inventory::{Inventory, PublishedPort};
use crate::listeners::{Listener, Listeners, Process};
use crate::plan::State;
use crate::view::plain;

mod changed;
mod closed;

pub use changed::{Access, Changed, changed};
pub use closed::{Closed, Why as WhyClosed, closed};

/// What is known of the host besides the tables.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// Docker's and the kernel's view.
    pub inventory: &'a Inventory,
    /// Running containers.
    pub containers: &'a [DockerContainer],
    /// Who listens; `None` if that could not be read.
    pub listeners: Option<&'a Listeners>,
    /// Where ports of the host are translated to; `None` if that could not be read, or is not written in iptables: then
    /// what Docker publishes counts as translated.
    pub translations: Option<&'a [Translation]>,
}

/// Ports that are open under the same terms, at the same addresses, and lead to the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The entry of the first port in table `ports`.
    pub key: PortKey,
    /// The last port.
    pub last: u16,
    /// Who may come in.
    pub from: From,
    /// What says so.
    pub why: Why,
    /// The limit for new flows, 0 if none.
    pub limit: u8,
    /// The addresses, each with the device that a link-local one belongs to, else 0.
    pub addresses: Vec<(Address, u32)>,
    /// Who answers.
    pub target: Target,
}

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Everybody who is not denied.
    Any,
    /// Members of these zones.
    Zones(u64),
}

/// What lets it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The rule with this number.
    Rule(u32),
    /// `published = "open"`.
    Published,
    /// Docker trusts the interface with the container's network.
    Trusted,
}

/// Who is behind a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The container's name.
    pub container: Option<String>,
    /// Its place in Compose, as `project/service`.
    pub service: Option<String>,
    /// The port inside; the same as outside for what is reached without NAT.
    pub container_port: Option<u16>,
    /// Somebody who is neither this host nor a container that Docker tells of.
    pub elsewhere: Option<IpAddr>,
    /// The socket's process, if it is a socket of this host: docker-proxy, for instance.
    pub process: Option<Process>,
    /// Whether anybody listens; `None`: it could not be read.
    pub listens: Option<bool>,
}

impl Target {
    fn name(&mut self, container: Option<&DockerContainer>) {
        self.container = container.map(|container| container.name.clone());
        self.service = container.and_then(service);
    }
}

/// Everything that is open, in the order of table `ports`.
#[must_use]
pub fn open(state: &State, seen: Seen<'_>) -> Vec<Open> {
    let view = View::new(state, seen);
    let mut rows: Vec<Open> = Vec::new();
    let mut entries: Vec<(&PortKey, &Port)> =
        state.tables.ports.iter().filter(|(_, port)| is_open(port)).collect();
    entries.sort_by_key(|(key, _)| (key.proto, key.address, key.ifindex, key.port));
    // Where the last row of each group of one key stands, so that neighbours are joined.
    let mut last: Vec<usize> = Vec::new();
    for (key, port) in entries {
        let mut now = Vec::new();
        for (from, why) in terms(key, port) {
            for (addresses, target) in view.behind(key, why) {
                let row = Open { key: *key, last: key.port, from, why, limit: port.limit, addresses, target };
                let joins = last.iter().copied().find(|at| joins(&rows[*at], &row));
                if let Some(at) = joins {
                    rows[at].last = key.port;
                    now.push(at);
                } else {
                    now.push(rows.len());
                    rows.push(row);
                }
            }
        }
        last = now;
    }
    rows
}

/// Whether an entry lets anybody in.
pub(crate) fn is_open(port: &Port) -> bool {
    port.sources & !sources::ALONE != sources::NOBODY || port.open != 0
}

/// By which terms an entry lets in whom: members of zones by a rule, and everybody else because it is published.
fn terms(key: &PortKey, port: &Port) -> Vec<(From, Why)> {
    let published = if key.ifindex == 0 { Why::Published } else { Why::Trusted };
    let mut terms = Vec::new();
    match port.sources & !sources::ALONE {
        sources::ANY => return vec![(From::Any, Why::Rule(port.rule))],
        sources::ZONES if port.open == 0 => terms.push((From::Zones(port.zones), Why::Rule(port.rule))),
        _ => {}
    }
    if port.open != 0 {
        terms.push((From::Any, published));
    }
    terms
}

/// Whether `row` is one more port of `before`.
fn joins(before: &Open, row: &Open) -> bool {
    let Open { key, last, from, why, limit, addresses, target } = row;
    before.last.checked_add(1) == Some(*last)
        && PortKey { port: key.port, ..before.key } == *key
        && (before.from, before.why, before.limit) == (*from, *why, *limit)
        && before.addresses == *addresses
        && before.target == *target
}

/// The host, looked up by port and address.
pub(crate) struct View<'a> {
    state: &'a State,
    seen: Seen<'a>,
    /// The devices that carry the addresses of uplinks.
    devices: BTreeSet<u32>,
    device_names: BTreeSet<&'a str>,
    /// Addresses of this host that the outside can mean, each with its device if it is link-local.
    local: Vec<(Address, u32)>,
    /// Addresses of containers that share an uplink with the host.
    stations: Vec<Address>,
    containers: BTreeMap<Address, &'a DockerContainer>,
    published: BTreeMap<(u8, u16), Vec<&'a PublishedPort>>,
    sockets: BTreeMap<(u8, u16), Vec<&'a Listener>>,
    /// Ports at which anything may be told from a port of the host where nobody listens.
    known: BTreeSet<(u8, u16)>,
}

impl<'a> View<'a> {
    pub(crate) fn new(state: &'a State, seen: Seen<'a>) -> Self {
        let tables = &state.tables;
        let uplinks = || tables.interfaces.values().filter(|device| device.role == role::UPLINK);
        let devices: BTreeSet<u32> = uplinks().map(|device| device.l3_device).collect();
        let local = tables.local_addresses.iter().filter(|(key, local)| {
            local.broadcast == 0
                && !key.address.is_loopback()
                && in_subnet(state, &key.address).is_none()
                && (key.ifindex == 0 || devices.contains(&key.ifindex))
        });
        let local = local.map(|(key, _)| (key.address, key.ifindex)).collect();
        let by_id: BTreeMap<&str, &DockerContainer> =
            seen.containers.iter().map(|container| (container.id.as_str(), container)).collect();
        let inventory = seen.inventory;
        let judged = |parent: Option<u32>| uplinks().any(|it| it.shared != 0 && Some(it.l3_device) == parent);
        let on_uplinks = inventory.stations.iter().filter(|station| {
            inventory.lan_networks.get(station.network).is_some_and(|network| judged(network.parent))
        });
        let places = inventory.endpoints.iter().map(|place| (&place.container_id, &place.addresses));
        let shared = inventory.stations.iter().map(|place| (&place.container_id, &place.addresses));
        let containers = places.chain(shared).flat_map(|(id, addresses)| {
            let container = by_id.get(id.as_str()).copied();
            addresses.iter().filter_map(move |address| Some((Address::from(*address), container?)))
        });
        let links = seen.inventory.links.iter().filter(|link| devices.contains(&link.index));
        let device_names = links.map(|link| link.name.as_str()).collect();
        let mut view = Self {
            state,
            seen,
            devices,
            device_names,
            local,
            stations: on_uplinks.flat_map(|it| &it.addresses).map(|it| Address::from(*it)).collect(),
            containers: containers.collect(),
            published: BTreeMap::new(),
            sockets: BTreeMap::new(),
            known: BTreeSet::new(),
        };
        for published in inventory.published.iter().filter(|published| !published.host.is_loopback()) {
            let at = (published.protocol.number(), published.host_port);
            view.published.entry(at).or_default().push(published);
            view.known.insert(at);
        }
        for listener in seen.listeners.iter().flat_map(|listeners| &listeners.host) {
            let at = (listener.protocol, listener.port);
            view.sockets.entry(at).or_default().push(listener);
            view.known.insert(at);
        }
        for rule in seen.translations.into_iter().flatten() {
            view.known.extend((rule.ports.0..=rule.ports.1).map(|port| (rule.protocol, port)));
        }
        let stations = view.stations.iter().filter_map(|address| view.sockets_of(address)).flatten();
        let stations: Vec<_> = stations.map(|listener| (listener.protocol, listener.port)).collect();
        view.known.extend(stations);
        view
    }

    /// The addresses that an entry speaks of, by who answers there.
    fn behind(&self, key: &PortKey, why: Why) -> Vec<(Vec<(Address, u32)>, Target)> {
        let (protocol, port) = (key.proto, key.port);
        if key.address != key.address.any_of_family() {
            return self.behind_one(key);
        }
        let mut found: Vec<(Vec<(Address, u32)>, Target)> = Vec::new();
        let mut add =
            |at: (Address, u32), target: Target| match found.iter_mut().find(|(_, known)| *known == target) {
                Some((addresses, _)) => addresses.push(at),
                None => found.push((vec![at], target)),
            };
        let is_known = self.known.contains(&(protocol, port));
        for at in self.local.iter().filter(|(address, _)| self.is_asked(key, address)) {
            add(*at, if is_known { self.at_host(&at.0, protocol, port) } else { self.nobody(protocol) });
        }
        // Docker publishes nothing there.
        let may_listen = is_known || protocol == proto::ICMP;
        if why != Why::Published && may_listen {
            for address in self.stations.iter().filter(|address| self.is_asked(key, address)) {
                let target = self.inside(address, protocol, port);
                if target.listens != Some(false) {
                    add((*address, 0), target);
                }
            }
        }
        found
    }

    /// Whether the entry for any address is asked about this one: an exact entry may stand alone.
    fn is_asked(&self, key: &PortKey, address: &Address) -> bool {
        let exact = self.state.tables.ports.get(&PortKey { address: *address, ..*key });
        address.is_v4() == key.address.is_v4()
            && exact.is_none_or(|exact| exact.sources & sources::ALONE == 0)
    }

    fn behind_one(&self, key: &PortKey) -> Vec<(Vec<(Address, u32)>, Target)> {
        let at = |address: &Address| vec![(*address, 0)];
        if in_subnet(self.state, &key.address).is_some() || self.stations.contains(&key.address) {
            return vec![(at(&key.address), self.inside(&key.address, key.proto, key.port))];
        }
        let here: Vec<(Address, u32)> =
            self.local.iter().filter(|(address, _)| *address == key.address).copied().collect();
        vec![(here, self.at_host(&key.address, key.proto, key.port))]
    }

    /// Who answers at this address of the host.
    pub(crate) fn at_host(&self, address: &Address, protocol: u8, port: u16) -> Target {
        let published = self.published_at(address, protocol, port);
        let translated = match self.seen.translations {
            Some(rules) => {
                let mut meant = rules
                    .iter()
                    .filter(|rule| rule.input.as_deref().is_none_or(|name| self.device_names.contains(name)));
                meant.find_map(|rule| rule.applies(protocol, (*address).into(), port))
            }
            None => published
                .and_then(|published| Some((Some(published.target?.address), published.container_port))),
        };
        if let Some((Some(to), port)) = translated {
            return self.inside(&to.into(), protocol, port);
        }
        // A redirect stays here, at another port.
        let port = translated.map_or(port, |(_, port)| port);
        let listeners = self.seen.listeners;
        let sockets = self.sockets.get(&(protocol, port)).into_iter().flatten();
        let mut takes = sockets.filter(|listener| {
            listener.takes(protocol, address, port)
                && (listener.device == 0 || self.devices.contains(&listener.device))
        });
        let socket = takes.next();
        let process = socket.and_then(|socket| listeners?.holders.get(&socket.inode).cloned());
        let mut target = Target { listens: self.nobody(protocol).listens, ..Target::default() };
        if socket.is_some() {
            target.listens = Some(true);
        }
        // A socket for a published port is docker-proxy's, or there is none at all.
        let by_proxy = process.as_ref().is_none_or(|process| process.name == PROXY);
        if let Some(published) = published.filter(|_| by_proxy) {
            let container = self.seen.containers.iter().find(|it| it.name == published.container);
            target.name(container);
            target.container_port = Some(published.container_port);
            // It takes connections whether or not somebody is behind it; a datagram it only passes on.
            if protocol == proto::UDP && socket.is_some() {
                target.listens = container.and_then(|container| {
                    let inside = listeners?.inside.get(&container.pid)?.iter();
                    let mut of_port =
                        inside.filter(|it| (it.protocol, it.port) == (protocol, published.container_port));
                    Some(of_port.any(|listener| !listener.address.is_loopback()))
                });
            }
            target.container.get_or_insert_with(|| published.container.clone());
        } else if let Some(id) = process.as_ref().and_then(|process| process.container.as_deref()) {
            target.name(self.seen.containers.iter().find(|container| container.id == id));
        }
        target.process = process;
        target
    }

    /// Who answers at a container's own address.
    fn inside(&self, address: &Address, protocol: u8, port: u16) -> Target {
        let mut target = Target { container_port: Some(port), ..Target::default() };
        match self.containers.get(address) {
            Some(container) => target.name(Some(container)),
            None => target.elsewhere = Some((*address).into()),
        }
        target.listens = match (protocol, port) {
            (proto::ICMP, _) => Some(true),
            (proto::TCP | proto::UDP, 1..) => self
                .sockets_of(address)
                .map(|sockets| sockets.iter().any(|socket| socket.takes(protocol, address, port))),
            _ => None,
        };
        target
    }

    /// A port of the host at which nobody is seen.
    fn nobody(&self, protocol: u8) -> Target {
        let listens = match protocol {
            proto::ICMP => Some(true),
            proto::TCP | proto::UDP => self.seen.listeners.map(|_| false),
            _ => None,
        };
        Target { listens, ..Target::default() }
    }

    /// The sockets of the container that has this address.
    fn sockets_of(&self, address: &Address) -> Option<&'a Vec<Listener>> {
        self.seen.listeners?.inside.get(&self.containers.get(address)?.pid)
    }

    fn published_at(&self, address: &Address, protocol: u8, port: u16) -> Option<&'a PublishedPort> {
        let published = self.published.get(&(protocol, port)).into_iter().flatten();
        let mut meant = published.filter(|published| {
            let host = Address::from(published.host);
            host == *address || host == address.any_of_family()
        });
        meant.next().copied()
    }
}

/// The place of a container in Compose. Images have labels, too, so it may be anything: on one line here.
pub(crate) fn service(container: &DockerContainer) -> Option<String> {
    let label = |name: &str| container.labels.get(&format!("com.docker.compose.{name}"));
    Some(plain(&format!("{}/{}", label("project")?, label("service")?)).into_owned())
}

/// The managed network around an address.
fn in_subnet(state: &State, address: &Address) -> Option<u32> {
    use fw_common::tables::Tables as _;
    state.tables.subnet(address).map(|subnet| subnet.network)
}

/// The process by which Docker serves published ports from sockets of the host.
pub(crate) const PROXY: &str = "docker-proxy";

#[cfg(test)]
mod tests;
