//! Tables in ordinary collections: what the planner compares, and what tests and `fw explain` decide with.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytemuck::Zeroable;

use super::{
    Bucket, BucketKey, BudgetPlace, Datagram, DatagramKey, DenyRule, Endpoint, Interface, Limit, LinkKey,
    LocalAddress, LocalKey, Network, OutKey, OutRule, Port, PortKey, Prefix, ReachKey, Route, Settings,
    Station, Subnet, Tables, Zones,
};
use crate::address::{Address, Mac};
use crate::flow::{Flow, FlowKey};

/// A table that may have a million entries: cloned at no cost, copied when it is changed, and compared at no cost with
/// its clones.
#[derive(Clone, Debug, Default)]
pub struct Shared<T>(Arc<T>);

impl<T> From<T> for Shared<T> {
    fn from(table: T) -> Self {
        Self(Arc::new(table))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl<T: Eq> Eq for Shared<T> {}

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
    pub denied: Shared<BTreeMap<Prefix, DenyRule>>,
    /// Zones of prefixes; full-length ones stand in the map `source_hosts`, the others in `sources`.
    pub sources: Shared<BTreeMap<Prefix, Zones>>,
    /// Containers by address.
    pub endpoints: BTreeMap<Address, Endpoint>,
    /// Who shares an uplink with the host, by MAC address.
    pub stations: BTreeMap<Mac, Station>,
    /// Networks that others may open connections to.
    pub reach: BTreeSet<ReachKey>,
    /// Ports of neighbours that containers were linked to.
    pub links: BTreeSet<LinkKey>,
    /// What the host may open connections to.
    pub outbound: BTreeMap<OutKey, OutRule>,
    /// Limits by number, which is not 0.
    pub limits: BTreeMap<u32, Limit>,
    /// Flows that went out.
    pub flows: RefCell<BTreeMap<FlowKey, Flow>>,
    /// Places of flows in the budgets of their owners.
    pub budgets: RefCell<BTreeMap<BudgetPlace, FlowKey>>,
    /// What the next number that is drawn comes from.
    pub random: Cell<u32>,
    /// Flows that came in.
    pub inbound_flows: RefCell<BTreeMap<FlowKey, Flow>>,
    /// Token buckets of peers.
    pub buckets: RefCell<BTreeMap<BucketKey, Bucket>>,
    /// Datagrams of which the first fragment was seen.
    pub datagrams: RefCell<BTreeMap<DatagramKey, Datagram>>,
    /// Addresses that only the routing table knows to be local.
    pub routed_local: BTreeSet<Address>,
    /// Second of the monotonic clock.
    pub now: u32,
    /// Millisecond of the monotonic clock.
    pub now_ms: u32,
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
            denied: Shared::default(),
            sources: Shared::default(),
            endpoints: BTreeMap::new(),
            stations: BTreeMap::new(),
            reach: BTreeSet::new(),
            links: BTreeSet::new(),
            outbound: BTreeMap::new(),
            limits: BTreeMap::new(),
            flows: RefCell::default(),
            budgets: RefCell::default(),
            random: Cell::new(0),
            inbound_flows: RefCell::default(),
            buckets: RefCell::default(),
            datagrams: RefCell::default(),
            routed_local: BTreeSet::new(),
            now: 0,
            now_ms: 0,
        }
    }
}

/// The value of the longest prefix that holds the address.
pub fn longest<V: Copy>(table: &BTreeMap<Prefix, V>, address: &Address) -> Option<V> {
    // Keys are ordered by length first: only the lengths that there are need a look.
    let mut shorter_than = 129;
    loop {
        let below = Prefix { bits: shorter_than, address: Address::ANY_V6 };
        let (Prefix { bits, .. }, _) = table.range(..below).next_back()?;
        if let Some(value) = table.get(&Prefix::new(*address, *bits)) {
            return Some(*value);
        }
        shorter_than = *bits;
    }
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

    fn station(&self, mac: &Mac) -> Option<Station> {
        self.stations.get(mac).copied()
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

    fn budgeted(&self, place: &BudgetPlace) -> Option<FlowKey> {
        self.budgets.borrow().get(place).copied()
    }

    fn set_budgeted(&self, place: &BudgetPlace, flow: &FlowKey) {
        self.budgets.borrow_mut().insert(*place, *flow);
    }

    fn random(&self) -> u32 {
        // Numerical Recipes' generator; its high bits are the better ones.
        let next = self.random.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.random.set(next);
        next.rotate_left(16)
    }

    fn inbound_flow(&self, key: &FlowKey) -> Option<Flow> {
        self.inbound_flows.borrow().get(key).copied()
    }

    fn record_inbound(&self, key: &FlowKey, flow: &Flow) {
        self.inbound_flows.borrow_mut().insert(*key, *flow);
    }

    fn reaches(&self, key: &ReachKey) -> bool {
        self.reach.contains(key)
    }

    fn linked(&self, key: &LinkKey) -> bool {
        self.links.contains(key)
    }

    fn outbound(&self, key: &OutKey) -> Option<OutRule> {
        self.outbound.get(key).copied()
    }

    fn limit(&self, id: u32) -> Option<Limit> {
        self.limits.get(&id).copied()
    }

    fn bucket(&self, key: &BucketKey) -> Option<Bucket> {
        self.buckets.borrow().get(key).copied()
    }

    fn set_bucket(&self, key: &BucketKey, bucket: &Bucket) {
        self.buckets.borrow_mut().insert(*key, *bucket);
    }

    fn datagram(&self, key: &DatagramKey) -> Option<Datagram> {
        self.datagrams.borrow().get(key).copied()
    }

    fn remember(&self, key: &DatagramKey, datagram: &Datagram) {
        self.datagrams.borrow_mut().insert(*key, *datagram);
    }

    fn route(&self, source: &Address, destination: &Address, _ifindex: u32) -> Route {
        // Of IPv6 the kernel forwards nothing from or to a link, a group or the loopback address
        // (`rt6_need_strict` in `bpf_ipv6_fib_lookup`, since 4.18).
        let stays = |address: &Address| {
            !address.is_v4()
                && (address.is_link_local_v6() || address.is_multicast() || address.is_loopback())
        };
        let never_forwarded = !destination.is_v4() && (stays(source) || stays(destination));
        if never_forwarded || self.routed_local.contains(destination) {
            Route::Local
        } else {
            Route::Forwarded
        }
    }

    fn now(&self) -> u32 {
        self.now
    }

    fn now_ms(&self) -> u32 {
        self.now_ms
    }
}
