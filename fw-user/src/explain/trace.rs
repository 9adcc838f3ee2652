//! What a decision looks up, in the order in which it does, each lookup with its answer in words.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use fw_common::flow::{Flow, FlowKey, owner, state};
use fw_common::tables::memory::Memory;
use fw_common::tables::{
    Bucket, BucketKey, BudgetPlace, Datagram, DatagramKey, DenyRule, Endpoint, Interface, Limit, LinkKey,
    LocalAddress, LocalKey, Network, OutKey, OutRule, Port, PortKey, ReachKey, Route, Settings, Station,
    Subnet, Tables, Zones, name_kind, role, sources,
};
use fw_common::wire::proto;
use fw_common::{Address, Mac};
use serde::Serialize;

use crate::datapath::{DatapathError, Left, Maps};
use crate::plan::State;
use crate::view::{self, Names};

/// One lookup: what was asked of which table, and what it said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The table, as `fw table` names it; `routes` is the kernel's own.
    pub table: &'static str,
    /// What was asked for.
    pub asked: String,
    /// The answer.
    pub found: String,
}

/// What numbers stand for, in one set of tables.
pub struct Known<'a> {
    /// The tables, but for sets and denials.
    pub state: &'a State,
    /// Names of devices.
    pub devices: &'a BTreeMap<u32, String>,
    /// The service of a container, as compose's labels have it, by the container's name.
    pub services: &'a BTreeMap<String, String>,
}

/// The tables that a decision asks, with a record of what it asked.
pub struct Trace<'a> {
    known: &'a Known<'a>,
    /// The maps with sets and denials.
    sets: &'a Maps,
    /// The maps with what packets have left; none where nothing is in force.
    live: Option<&'a Maps>,
    /// What the routing table is taken to say.
    route: Route,
    now: u32,
    now_ms: u32,
    steps: RefCell<Vec<Step>>,
    left: RefCell<Left>,
    routed: Cell<Option<Routed>>,
    failure: RefCell<Option<DatapathError>>,
    /// Ports and denials that were found, for advice.
    ports: RefCell<Vec<Port>>,
}

/// A question to the routing table: source, destination, and the device by which the packet comes in.
pub type Routed = (Address, Address, u32);

/// What a decision has asked for.
pub struct Asked {
    /// The lookups.
    pub steps: Vec<Step>,
    /// What packets had left behind, of all that it looked at.
    pub left: Left,
    /// What the routing table was asked.
    pub routed: Option<Routed>,
    /// The ports that were found.
    pub ports: Vec<Port>,
}

impl<'a> Trace<'a> {
    /// Nothing asked yet; where the routing table is asked it will say `route`. `clock` is the second and the millisecond
    /// of the monotonic clock.
    pub fn new(
        known: &'a Known<'a>,
        sets: &'a Maps,
        live: Option<&'a Maps>,
        route: Route,
        clock: (u32, u32),
    ) -> Self {
        Self {
            known,
            sets,
            live,
            route,
            now: clock.0,
            now_ms: clock.1,
            steps: RefCell::default(),
            left: RefCell::default(),
            routed: Cell::new(None),
            failure: RefCell::default(),
            ports: RefCell::default(),
        }
    }

    /// What was asked; an error if a map could not be read.
    pub fn end(self) -> Result<Asked, DatapathError> {
        match self.failure.into_inner() {
            Some(error) => Err(error),
            None => Ok(Asked {
                steps: self.steps.into_inner(),
                left: self.left.into_inner(),
                routed: self.routed.get(),
                ports: self.ports.into_inner(),
            }),
        }
    }

    fn memory(&self) -> &Memory {
        &self.known.state.tables
    }

    fn step(&self, table: &'static str, asked: String, found: String) {
        let step = Step { table, asked, found };
        let mut steps = self.steps.borrow_mut();
        // A decision may ask twice; the answer is the same.
        if !steps.contains(&step) {
            steps.push(step);
        }
    }

    /// A lookup in a map in the kernel. A failure ends in an error, whatever is decided meanwhile.
    fn held<V: Default>(&self, found: Result<V, DatapathError>) -> V {
        found.unwrap_or_else(|error| {
            self.failure.borrow_mut().get_or_insert(error);
            V::default()
        })
    }

    fn live<V>(&self, read: impl Fn(&Maps) -> Result<Option<V>, DatapathError>) -> Option<V> {
        self.live.and_then(|maps| self.held(read(maps)))
    }
}

impl Known<'_> {
    /// Names of tables' numbers.
    pub fn names(&self) -> Names<'_> {
        Names { names: &self.state.names }
    }

    /// The name of a device, or its number.
    pub fn device(&self, ifindex: u32) -> String {
        self.devices.get(&ifindex).cloned().unwrap_or_else(|| format!("device {ifindex}"))
    }

    /// The name of a network.
    pub fn network(&self, id: u32) -> String {
        self.names().of(name_kind::NETWORK, id)
    }

    /// The name of a rule.
    pub fn rule(&self, id: u32) -> Option<String> {
        (id != 0).then(|| self.names().of(name_kind::RULE, id))
    }

    /// The container behind a port of a bridge, with its service.
    pub fn container(&self, port: u32) -> String {
        let name = self.names().of(name_kind::ENDPOINT, port);
        match self.services.get(&name) {
            Some(service) => format!("{name} (service {service})"),
            None => name,
        }
    }

    /// Who has this address, as far as the tables tell.
    pub fn who(&self, address: &Address) -> Option<String> {
        let tables = &self.state.tables;
        if let Some(endpoint) = tables.endpoint(address) {
            return Some(match (endpoint.port, endpoint.network) {
                (0, 0) => "a container on an uplink".to_owned(),
                (0, network) => format!("a container of network {}", self.network(network)),
                (_, 0) => format!("a container on {}", self.device(endpoint.port)),
                (port, network) => {
                    format!("container {} of network {}", self.container(port), self.network(network))
                }
            });
        }
        let on = |ifindex| LocalKey { address: *address, ifindex, reserved: [0; 4] };
        if tables.local_addresses.range(on(0)..=on(u32::MAX)).next().is_some() {
            return Some("this host".to_owned());
        }
        tables.subnet(address).map(|subnet| format!("network {}", self.network(subnet.network)))
    }

    fn interface(&self, ifindex: u32, interface: Interface) -> String {
        let network = || self.network(interface.network);
        match interface.role {
            role::UPLINK if interface.bridge_port != 0 => {
                "an uplink (port of a bridge that is one)".to_owned()
            }
            role::UPLINK => "an uplink".to_owned(),
            role::BRIDGE => format!("the bridge of network {}", network()),
            role::PORT => {
                let who = if interface.endpoint_known == 0 {
                    "a port behind which nobody is known yet".to_owned()
                } else {
                    format!("the port of container {}", self.container(ifindex))
                };
                let egress = words(&view::egress(&interface.terms, self.names()));
                let host = if interface.terms.host == 0 { "deny" } else { "allow" };
                let apart = if interface.apart == 0 { "" } else { ", kept apart from its neighbours" };
                format!("{who}, network {}; egress {egress}, host {host}{apart}", network())
            }
            other => format!("of role {other}, which this fw does not know"),
        }
    }

    fn terms(&self, network: &Network) -> String {
        let egress = words(&view::egress(&network.terms, self.names()));
        let word = |flag: u8, yes: &'static str, no: &'static str| if flag == 0 { no } else { yes };
        format!(
            "icc {}, {}egress {egress}, host {}, spoofing {}",
            word(network.icc, "on", "off"),
            word(network.internal, "internal, ", ""),
            word(network.terms.host, "allow", "deny"),
            word(network.spoofing, "allow", "drop"),
        )
    }

    fn port(&self, port: Port) -> String {
        let mut parts = Vec::new();
        let from = match port.sources & !sources::ALONE {
            sources::ANY => Some("anybody".to_owned()),
            sources::ZONES => Some(self.names().zones(port.zones).join(", ")),
            _ => None,
        };
        match (self.rule(port.rule), from) {
            (Some(rule), Some(from)) => parts.push(format!("rule {rule:?} lets in {from}")),
            (None, Some(from)) => parts.push(format!("open to {from}")),
            (_, None) => parts.push("no rule".to_owned()),
        }
        if port.published != 0 {
            parts.push("published by Docker".to_owned());
        }
        if port.open != 0 {
            parts.push("being published is enough".to_owned());
        }
        if port.sources & sources::ALONE != 0 {
            parts.push("narrowed by a label: the rule for any address is not asked".to_owned());
        }
        if port.limit != 0 {
            parts.push("under a limit".to_owned());
        }
        parts.join("; ")
    }
}

impl Tables for Trace<'_> {
    fn settings(&self) -> Settings {
        self.memory().settings
    }

    fn interface(&self, ifindex: u32) -> Option<Interface> {
        let found = self.memory().interface(ifindex);
        let said = found.map_or("not known to fw".to_owned(), |found| self.known.interface(ifindex, found));
        self.step("interfaces", self.known.device(ifindex), said);
        found
    }

    fn subnet(&self, address: &Address) -> Option<Subnet> {
        let found = self.memory().subnet(address);
        let said = found.map_or("in no managed network".to_owned(), |found| {
            format!("in network {}", self.known.network(found.network))
        });
        self.step("subnets", address.to_string(), said);
        found
    }

    fn network(&self, id: u32) -> Option<Network> {
        let found = self.memory().network(id);
        let said = found.map_or("not known".to_owned(), |found| self.known.terms(&found));
        self.step("networks", self.known.network(id), said);
        found
    }

    fn local_address(&self, key: &LocalKey) -> Option<LocalAddress> {
        let found = self.memory().local_address(key);
        let said = found.map_or("no address of this host".to_owned(), |found| {
            let kind = if found.broadcast == 0 { "an address" } else { "a broadcast address" };
            format!("{kind} of this host, on {}", self.known.device(found.ifindex))
        });
        self.step("local_addresses", key.address.to_string(), said);
        found
    }

    fn port(&self, key: &PortKey) -> Option<Port> {
        let found = self.memory().port(key);
        let said = found.map_or("no rule, and not published".to_owned(), |found| self.known.port(found));
        let by =
            if key.ifindex == 0 { String::new() } else { format!(" by {}", self.known.device(key.ifindex)) };
        let asked = if key.proto == 0 {
            format!("everything at {}{by}", key.address)
        } else {
            format!("{}{by}", place(key.proto, &view::local(&key.address), key.port))
        };
        self.step("ports", asked, said);
        self.ports.borrow_mut().extend(found);
        found
    }

    fn denied(&self, source: &Address) -> Option<DenyRule> {
        if self.memory().settings.deny == 0 {
            return None;
        }
        let found = self.held(self.sets.denied(source));
        let said = found.map_or("no deny rule holds it".to_owned(), |found| {
            format!("denied by rule {:?}", self.known.rule(found.rule).unwrap_or_default())
        });
        self.step("denied", source.to_string(), said);
        found
    }

    fn zones(&self, source: &Address) -> u64 {
        let mask = self.held(self.sets.zones(source));
        let names = self.known.names().zones(mask);
        let said = if names.is_empty() { "in no set".to_owned() } else { format!("in {}", names.join(", ")) };
        self.step("sources", source.to_string(), said);
        Zones { zones: mask }.zones
    }

    fn endpoint(&self, address: &Address) -> Option<Endpoint> {
        let found = self.memory().endpoint(address);
        let said = found.and_then(|_| self.known.who(address)).unwrap_or("no container".to_owned());
        self.step("endpoints", address.to_string(), said);
        found
    }

    fn station(&self, mac: &Mac) -> Option<Station> {
        let found = self.memory().station(mac);
        let said = match found.map(|found| found.host) {
            None => "nobody who shares an uplink",
            Some(0) => "a container on an uplink",
            Some(_) => "a device of this host on an uplink",
        };
        self.step("stations", mac.to_string(), said.to_owned());
        found
    }

    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        let found = self.live(|maps| maps.flow(key));
        self.step("flows", tuple(key), flow(found.as_ref(), Flow::is_expired, key.proto, self.now));
        self.left.borrow_mut().flows.extend(found.map(|found| (*key, found)));
        found
    }

    // What a decision would write is written nowhere: it is about one packet.
    fn record(&self, _key: &FlowKey, _flow: &Flow) {}

    fn refresh(&self, _key: &FlowKey, _flow: &Flow) {}

    fn forget(&self, _key: &FlowKey) {}

    // Which place a flow gets in a budget decides nothing about its packet.
    fn budgeted(&self, _place: &BudgetPlace) -> Option<FlowKey> {
        None
    }

    fn set_budgeted(&self, _place: &BudgetPlace, _flow: &FlowKey) {}

    fn random(&self) -> u32 {
        0
    }

    fn inbound_flow(&self, key: &FlowKey) -> Option<Flow> {
        let found = self.live(|maps| maps.inbound_flow(key));
        self.step("inbound_flows", tuple(key), flow(found.as_ref(), Flow::is_forgotten, key.proto, self.now));
        self.left.borrow_mut().inbound_flows.extend(found.map(|found| (*key, found)));
        found
    }

    fn record_inbound(&self, _key: &FlowKey, _flow: &Flow) {}

    fn reaches(&self, key: &ReachKey) -> bool {
        let found = self.memory().reaches(key);
        let asked = format!("{} → {}", self.known.network(key.from), self.known.network(key.to));
        self.step("reach", asked, if found { "may reach it" } else { "may not" }.to_owned());
        found
    }

    fn linked(&self, key: &LinkKey) -> bool {
        let found = self.memory().linked(key);
        let to = match key.proto {
            0 => key.server.to_string(),
            proto => place(proto, &key.server.to_string(), key.port),
        };
        self.step(
            "links",
            format!("{} → {to}", key.client),
            if found { "linked" } else { "not linked" }.to_owned(),
        );
        found
    }

    fn outbound(&self, key: &OutKey) -> Option<OutRule> {
        let found = self.memory().outbound(key);
        let any = |port: u16| if port == 0 { "any".to_owned() } else { port.to_string() };
        let said = found.map_or("no rule".to_owned(), |found| {
            let to = match found.destinations {
                sources::ZONES => self.known.names().zones(found.zones).join(", "),
                _ => "anywhere".to_owned(),
            };
            format!("rule {:?} lets out to {to}", self.known.rule(found.rule).unwrap_or_default())
        });
        let asked = format!(
            "{} to port {}, from port {}",
            view::protocol(key.proto),
            any(key.port),
            any(key.source_port)
        );
        self.step("outbound", asked, said);
        found
    }

    fn limit(&self, id: u32) -> Option<Limit> {
        let found = self.memory().limit(id);
        let said = found.map_or("none".to_owned(), |limit| {
            format!("{} new flows a second, {} at once", limit.rate, limit.burst)
        });
        let name = found.and_then(|limit| self.known.rule(limit.rule)).unwrap_or_else(|| id.to_string());
        self.step("limits", name, said);
        found
    }

    fn bucket(&self, key: &BucketKey) -> Option<Bucket> {
        let found = self.live(|maps| maps.bucket(key));
        let said = found.map_or("full: nothing came from there lately".to_owned(), |bucket| {
            format!("{} flows left, {} ms ago", bucket.tokens / 1000, self.now_ms.wrapping_sub(bucket.filled))
        });
        self.step("buckets", key.peer.to_string(), said);
        self.left.borrow_mut().buckets.extend(found.map(|found| (*key, found)));
        found
    }

    fn set_bucket(&self, _key: &BucketKey, _bucket: &Bucket) {}

    fn datagram(&self, key: &DatagramKey) -> Option<Datagram> {
        let found = self.live(|maps| maps.datagram(key));
        let asked = format!("{} → {}, identification {}", key.source, key.destination, key.id);
        let said = found.map_or("no first fragment was let through".to_owned(), |datagram| {
            format!("its first fragment came {} s ago", self.now.saturating_sub(datagram.seen))
        });
        self.step("datagrams", asked, said);
        self.left.borrow_mut().datagrams.extend(found.map(|found| (*key, found)));
        found
    }

    fn remember(&self, _key: &DatagramKey, _datagram: &Datagram) {}

    fn route(&self, source: &Address, destination: &Address, ifindex: u32) -> Route {
        self.routed.set(Some((*source, *destination, ifindex)));
        let said = match self.route {
            Route::Local => "delivered here, or nowhere",
            Route::Forwarded => "forwarded",
        };
        let asked = format!("{source} → {destination}, coming in by {}", self.known.device(ifindex));
        self.step("routes", asked, said.to_owned());
        self.route
    }

    fn now(&self) -> u32 {
        self.now
    }

    fn now_ms(&self) -> u32 {
        self.now_ms
    }
}

/// A service: protocol, address and port, where the protocol has ports.
pub fn place(proto: u8, address: &str, port: u16) -> String {
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let port = if port == 0 { String::new() } else { format!(":{port}") };
    format!("{} {address}{port}", view::protocol(proto))
}

/// A flow's ends, ours first.
fn tuple(key: &FlowKey) -> String {
    let proto = if key.proto == proto::ICMP { "ping".to_owned() } else { view::protocol(key.proto) };
    format!("{proto} {} ↔ {}", view::at(&key.local, key.local_port), view::at(&key.remote, key.remote_port))
}

fn flow(found: Option<&Flow>, is_over: fn(&Flow, u8, u32) -> bool, proto: u8, now: u32) -> String {
    let Some(flow) = found else { return "none is recorded".to_owned() };
    let state = match flow.state {
        state::OPENING => "opening",
        state::ANSWERED => "answered",
        state::ESTABLISHED => "established",
        state::FIN_SENT => "closing",
        state::CUT => "cut by a change of the policy",
        _ => "in a state that this fw does not know",
    };
    let by = match flow.owner {
        owner::HOST => "this host",
        owner::CONTAINER => "a container",
        owner::PEER => "the peer",
        _ => "another",
    };
    let over = if is_over(flow, proto, now) { ", and over" } else { "" };
    format!("{state}, begun by {by}, last seen {} s ago{over}", now.saturating_sub(flow.last_seen))
}

/// A JSON word or list of words as people write it.
fn words(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(word) => word.clone(),
        serde_json::Value::Array(items) => {
            items.iter().filter_map(|item| item.as_str()).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}
