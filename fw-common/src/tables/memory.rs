//! Tables in ordinary collections: what the planner compares, and what tests and `fw explain` decide with.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use bytemuck::Zeroable;

use super::{
    DenyRule, Endpoint, Interface, LocalAddress, LocalKey, Network, Port, PortKey, Prefix, Route, Settings,
    Subnet, Tables, Zones,
};
use crate::address::Address;
use crate::flow::{Flow, FlowKey};

/// One consistent set of tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What holds for all packets.
    pub settings: Settings,
    /// Devices by ifindex.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Prefixes of managed networks.
    pub subnets: BTreeMap<Prefix, Subnet>,
    /// Managed networks by id.
    pub networks: BTreeMap<u32, Network>,
    /// Addresses of this host.
    pub local_addresses: BTreeMap<LocalKey, LocalAddress>,
    /// Ports with a rule or published.
    pub ports: BTreeMap<PortKey, Port>,
    /// Denied prefixes; full-length ones stand in the map `denied_hosts`, the others in `denied`.
    pub denied: BTreeMap<Prefix, DenyRule>,
    /// Zones of prefixes; full-length ones stand in the map `source_hosts`, the others in `sources`.
    pub sources: BTreeMap<Prefix, Zones>,
    /// Containers by address.
    pub endpoints: BTreeMap<Address, Endpoint>,
    /// Flows that went out.
    pub flows: RefCell<BTreeMap<FlowKey, Flow>>,
    /// Addresses that only the routing table knows to be local.
    pub routed_local: BTreeSet<Address>,
    /// Second of the monotonic clock.
    pub now: u32,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            settings: Settings::zeroed(),
            interfaces: BTreeMap::new(),
            subnets: BTreeMap::new(),
            networks: BTreeMap::new(),
            local_addresses: BTreeMap::new(),
            ports: BTreeMap::new(),
            denied: BTreeMap::new(),
            sources: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            flows: RefCell::default(),
            routed_local: BTreeSet::new(),
            now: 0,
        }
    }
}

/// The value of the longest prefix that holds the address.
pub fn longest<V: Copy>(table: &BTreeMap<Prefix, V>, address: &Address) -> Option<V> {
    (0..=128).rev().find_map(|bits| table.get(&Prefix::new(*address, bits)).copied())
}

impl Prefix {
    /// The prefix of this many bits (0 to 128) that holds `address`.
    pub fn new(address: Address, bits: u32) -> Self {
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        Self { bits, address: Address::v6((u128::from_be_bytes(address.bytes) & mask).to_be_bytes()) }
    }

    /// Whether the prefix holds the address.
    pub fn holds(&self, address: &Address) -> bool {
        Self::new(*address, self.bits) == *self
    }
}

impl Tables for Memory {
    fn settings(&self) -> Settings {
        self.settings
    }

    fn interface(&self, ifindex: u32) -> Option<Interface> {
        self.interfaces.get(&ifindex).copied()
    }

    fn subnet(&self, address: &Address) -> Option<Subnet> {
        longest(&self.subnets, address)
    }

    fn network(&self, id: u32) -> Option<Network> {
        self.networks.get(&id).copied()
    }

    fn local_address(&self, key: &LocalKey) -> Option<LocalAddress> {
        self.local_addresses.get(key).copied()
    }

    fn port(&self, key: &PortKey) -> Option<Port> {
        self.ports.get(key).copied()
    }

    fn denied(&self, source: &Address) -> Option<DenyRule> {
        longest(&self.denied, source)
    }

    fn zones(&self, source: &Address) -> u64 {
        longest(&self.sources, source).map_or(0, |held| held.zones)
    }

    fn endpoint(&self, address: &Address) -> Option<Endpoint> {
        self.endpoints.get(address).copied()
    }

    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.flows.borrow().get(key).copied()
    }

    fn record(&self, key: &FlowKey, flow: &Flow) {
        self.flows.borrow_mut().insert(*key, *flow);
    }

    fn refresh(&self, key: &FlowKey, flow: &Flow) {
        if let Some(known) = self.flows.borrow_mut().get_mut(key) {
            *known = *flow;
        }
    }

    fn forget(&self, key: &FlowKey) {
        self.flows.borrow_mut().remove(key);
    }

    fn route(&self, source: &Address, destination: &Address, _ifindex: u32) -> Route {
        // The kernel forwards nothing from or to a link (`bpf_ipv6_fib_lookup`, since 4.18).
        let on_link = source.is_link_local_v6() || destination.is_link_local_v6();
        if on_link || self.routed_local.contains(destination) { Route::Local } else { Route::Forwarded }
    }

    fn now(&self) -> u32 {
        self.now
    }
}
