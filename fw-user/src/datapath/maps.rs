//! The maps: typed access to each, all of them read into tables in memory, and single writes.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, IterableMap, Map, MapData, MapError, MapInfo, PerCpuArray, RingBuf};
use bytemuck::Zeroable as _;
use fw_common::event::Event;
use fw_common::fast::{FastKey, FastPath, Generation};
use fw_common::flow::{Flow, FlowKey, counted, state};
use fw_common::tables::memory::Memory;
use fw_common::tables::{
    Bucket, BucketKey, BudgetPlace, Count, Daemon, Datagram, DatagramKey, DenyRule, Endpoint, EventBudget,
    EventRate, Interface, Limit, LinkKey, LocalAddress, LocalKey, Name, NameKey, Network, Observed,
    ObservedKey, OutKey, OutRule, Port, PortKey, Prefix, Present, ReachKey, Settings, Station, Subnet, Zones,
    capacity, counter_index,
};
use fw_common::{ABI_VERSION, Address, Hook, Mac, Reason};

use super::DatapathError;
use super::layout::{self, Remains, Walked};
use crate::connections::Records;
use crate::plan::{Place, State, Step};

mod lookup;

/// Every map, by the name of its pin.
pub const MAP_NAMES: [&str; 31] = [
    "settings",
    "interfaces",
    "subnets",
    "networks",
    "local_addresses",
    "ports",
    "denied_hosts",
    "denied",
    "source_hosts",
    "sources",
    "endpoints",
    "stations",
    "flows",
    "budgets",
    "inbound_flows",
    "reach",
    "links",
    "outbound",
    "limits",
    "buckets",
    "datagrams",
    "names",
    "daemon",
    "counters",
    "rules",
    "event_budget",
    "event_rate",
    "events",
    "observed",
    "generation",
    "fast_paths",
];

/// Flag of `bpf_map_update_elem`: only if there is no entry yet.
const BPF_NOEXIST: u64 = 1;

/// What stands where presence counts.
const PRESENT: Present = Present { present: 1 };

pub(super) type Hash<K, V> = HashMap<MapData, K, V>;
type Trie<V> = LpmTrie<MapData, Address, V>;

/// The maps of one fw.
pub struct Maps {
    settings: Array<MapData, Settings>,
    interfaces: Hash<u32, Interface>,
    subnets: Trie<Subnet>,
    networks: Hash<u32, Network>,
    local_addresses: Hash<LocalKey, LocalAddress>,
    ports: Hash<PortKey, Port>,
    denied_hosts: Hash<Address, DenyRule>,
    denied: Trie<DenyRule>,
    source_hosts: Hash<Address, Zones>,
    sources: Trie<Zones>,
    endpoints: Hash<Address, Endpoint>,
    stations: Hash<Mac, Station>,
    flows: Hash<FlowKey, Flow>,
    budgets: Hash<BudgetPlace, FlowKey>,
    inbound_flows: Hash<FlowKey, Flow>,
    reach: Hash<ReachKey, Present>,
    links: Hash<LinkKey, Present>,
    outbound: Hash<OutKey, OutRule>,
    limits: Array<MapData, Limit>,
    buckets: Hash<BucketKey, Bucket>,
    datagrams: Hash<DatagramKey, Datagram>,
    names: Hash<NameKey, Name>,
    daemon: Array<MapData, Daemon>,
    counters: PerCpuArray<MapData, Count>,
    rules: PerCpuArray<MapData, Count>,
    event_budget: PerCpuArray<MapData, EventBudget>,
    event_rate: Array<MapData, EventRate>,
    events: RingBuf<MapData>,
    observed: Hash<ObservedKey, Observed>,
    generation: Array<MapData, Generation>,
    fast_paths: Hash<FastKey, FastPath>,
}

pub(super) fn pinned(directory: &Path, name: &str) -> Result<Map, DatapathError> {
    let path = directory.join(name);
    let open = |source| failed(&format!("open the pinned map {}", path.display()), source);
    Map::from_map_data(MapData::from_pin(&path).map_err(open)?).map_err(open)
}

/// The kernel's number of the map `events` that is pinned in a directory now: another one after maps were made anew.
/// `None` if there is none.
pub fn events_id(directory: &Path) -> Result<Option<u32>, DatapathError> {
    let path = directory.join("events");
    if !path.exists() {
        return Ok(None);
    }
    let info = MapInfo::from_pin(&path);
    info.map(|info| Some(info.id()))
        .map_err(|source| failed(&format!("look at the pinned map {}", path.display()), source))
}

pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(map: Map, name: &str) -> Result<T, DatapathError> {
    map.try_into().map_err(|source| failed(&format!("use map {name}"), source))
}

pub(super) fn failed(what: &str, source: MapError) -> DatapathError {
    DatapathError::Map { what: what.to_owned(), source: Box::new(source) }
}

impl Maps {
    /// The maps pinned in a directory, if they are laid out as this fw lays them out.
    pub fn open(directory: &Path) -> Result<Self, DatapathError> {
        if let Some(found) = layout::abi(directory)?.filter(|found| ![0, ABI_VERSION].contains(found)) {
            let directory = directory.display().to_string();
            return Err(DatapathError::Layout { directory, found, expected: ABI_VERSION });
        }
        Self::from_source(|name| pinned(directory, name).map(Some))
    }

    pub(super) fn from_source(
        mut source: impl FnMut(&str) -> Result<Option<Map>, DatapathError>,
    ) -> Result<Self, DatapathError> {
        let mut take = |name: &'static str| {
            source(name)?.ok_or_else(|| DatapathError::Hook {
                what: format!("find map {name} in the embedded object"),
                source: "the build is broken: rebuild fw".into(),
            })
        };
        Ok(Self {
            settings: typed(take("settings")?, "settings")?,
            interfaces: typed(take("interfaces")?, "interfaces")?,
            subnets: typed(take("subnets")?, "subnets")?,
            networks: typed(take("networks")?, "networks")?,
            local_addresses: typed(take("local_addresses")?, "local_addresses")?,
            ports: typed(take("ports")?, "ports")?,
            denied_hosts: typed(take("denied_hosts")?, "denied_hosts")?,
            denied: typed(take("denied")?, "denied")?,
            source_hosts: typed(take("source_hosts")?, "source_hosts")?,
            sources: typed(take("sources")?, "sources")?,
            endpoints: typed(take("endpoints")?, "endpoints")?,
            stations: typed(take("stations")?, "stations")?,
            flows: typed(take("flows")?, "flows")?,
            budgets: typed(take("budgets")?, "budgets")?,
            inbound_flows: typed(take("inbound_flows")?, "inbound_flows")?,
            reach: typed(take("reach")?, "reach")?,
            links: typed(take("links")?, "links")?,
            outbound: typed(take("outbound")?, "outbound")?,
            limits: typed(take("limits")?, "limits")?,
            buckets: typed(take("buckets")?, "buckets")?,
            datagrams: typed(take("datagrams")?, "datagrams")?,
            names: typed(take("names")?, "names")?,
            daemon: typed(take("daemon")?, "daemon")?,
            counters: typed(take("counters")?, "counters")?,
            rules: typed(take("rules")?, "rules")?,
            event_budget: typed(take("event_budget")?, "event_budget")?,
            event_rate: typed(take("event_rate")?, "event_rate")?,
            events: typed(take("events")?, "events")?,
            observed: typed(take("observed")?, "observed")?,
            generation: typed(take("generation")?, "generation")?,
            fast_paths: typed(take("fast_paths")?, "fast_paths")?,
        })
    }

    /// Everything that the maps say, but for flows and counters.
    pub fn read(&self) -> Result<State, DatapathError> {
        self.read_around(&Memory {
            denied: self.denials()?.into(),
            sources: with_hosts(&self.sources, &self.source_hosts, "sources")?.into(),
            ..Memory::default()
        })
    }

    /// As [`Maps::read`], but the sets, which may have a million prefixes, are not read: they are those of `sets`.
    pub fn read_around(&self, sets: &Memory) -> Result<State, DatapathError> {
        let tables = Memory {
            settings: self.settings.get(&0, 0).map_err(|source| failed("read map settings", source))?,
            interfaces: entries(&self.interfaces, "interfaces")?,
            subnets: prefixes(&self.subnets, "subnets")?,
            networks: entries(&self.networks, "networks")?,
            local_addresses: entries(&self.local_addresses, "local_addresses")?,
            ports: entries(&self.ports, "ports")?,
            denied: sets.denied.clone(),
            sources: sets.sources.clone(),
            endpoints: entries(&self.endpoints, "endpoints")?,
            stations: entries(&self.stations, "stations")?,
            reach: entries(&self.reach, "reach")?.into_keys().collect(),
            links: entries(&self.links, "links")?.into_keys().collect(),
            outbound: entries(&self.outbound, "outbound")?,
            limits: self.limits()?,
            ..Memory::default()
        };
        Ok(State { tables, names: self.names()?, ..State::default() })
    }

    /// Who is who: of the tables those that say it, and the names.
    pub fn read_who(&self) -> Result<State, DatapathError> {
        let tables = Memory {
            interfaces: entries(&self.interfaces, "interfaces")?,
            subnets: prefixes(&self.subnets, "subnets")?,
            local_addresses: entries(&self.local_addresses, "local_addresses")?,
            endpoints: entries(&self.endpoints, "endpoints")?,
            ..Memory::default()
        };
        Ok(State { tables, names: self.names()?, ..State::default() })
    }

    fn limits(&self) -> Result<BTreeMap<u32, Limit>, DatapathError> {
        let mut limits = BTreeMap::new();
        for id in 1..capacity::LIMITS {
            let limit = self.limits.get(&id, 0).map_err(|source| failed("read map limits", source))?;
            if limit != Limit::zeroed() {
                limits.insert(id, limit);
            }
        }
        Ok(limits)
    }

    /// What the numbers in the maps stand for.
    pub fn names(&self) -> Result<BTreeMap<NameKey, String>, DatapathError> {
        let names = entries(&self.names, "names")?;
        Ok(names.into_iter().map(|(key, name)| (key, name.as_str().to_owned())).collect())
    }

    /// The flows, expired ones included.
    pub fn flows(&self) -> Result<BTreeMap<FlowKey, Flow>, DatapathError> {
        Ok(walked(&self.flows, "flows")?.collect())
    }

    /// The flows that came in to restricted networks, expired ones included.
    pub fn inbound_flows(&self) -> Result<BTreeMap<FlowKey, Flow>, DatapathError> {
        Ok(walked(&self.inbound_flows, "inbound_flows")?.collect())
    }

    /// The flows that went out and then, with `true`, those that came in, one after the other as they are asked for.
    pub fn each_flow(&self) -> Result<impl Iterator<Item = (bool, FlowKey, Flow)> + '_, DatapathError> {
        let out = walked(&self.flows, "flows")?.map(|(key, flow)| (false, key, flow));
        let came = walked(&self.inbound_flows, "inbound_flows")?.map(|(key, flow)| (true, key, flow));
        Ok(out.chain(came))
    }

    /// What tells names: devices, networks, containers and settings; nothing that grows with rules and sets.
    pub fn read_names(&self) -> Result<State, DatapathError> {
        let tables = Memory {
            settings: self.settings.get(&0, 0).map_err(|source| failed("read map settings", source))?,
            interfaces: entries(&self.interfaces, "interfaces")?,
            networks: entries(&self.networks, "networks")?,
            endpoints: entries(&self.endpoints, "endpoints")?,
            ..Memory::default()
        };
        Ok(State { tables, names: self.names()?, ..State::default() })
    }

    /// The token buckets of peers under a limit.
    pub fn buckets(&self) -> Result<BTreeMap<BucketKey, Bucket>, DatapathError> {
        Ok(walked(&self.buckets, "buckets")?.collect())
    }

    /// The datagrams of which a first fragment was let through.
    pub fn datagrams(&self) -> Result<BTreeMap<DatagramKey, Datagram>, DatapathError> {
        Ok(walked(&self.datagrams, "datagrams")?.collect())
    }

    /// The paths past the stack, those that serve no more included.
    pub fn fast_paths(&self) -> Result<BTreeMap<FastKey, FastPath>, DatapathError> {
        Ok(walked(&self.fast_paths, "fast_paths")?.collect())
    }

    /// How often the tables have changed; goes round.
    pub fn generation(&self) -> Result<u32, DatapathError> {
        let generation = self.generation.get(&0, 0);
        Ok(generation.map_err(|source| failed("read map generation", source))?.number)
    }

    /// The denials, which may be a million.
    pub fn denials(&self) -> Result<BTreeMap<Prefix, DenyRule>, DatapathError> {
        with_hosts(&self.denied, &self.denied_hosts, "denied")
    }

    /// The places that owners' flows have in their budgets.
    pub fn budgeted(&self) -> Result<BTreeMap<BudgetPlace, FlowKey>, DatapathError> {
        Ok(walked(&self.budgets, "budgets")?.collect())
    }

    /// What `mode = "observe"` let pass although it would be dropped, by tuple; what the mode was since does not matter.
    pub fn observed(&self) -> Result<BTreeMap<ObservedKey, Observed>, DatapathError> {
        Ok(walked(&self.observed, "observed")?.collect())
    }

    /// Forgets what was observed.
    pub fn clear_observed(&mut self) -> Result<(), DatapathError> {
        for key in self.observed()?.keys() {
            write(&mut self.observed, "observed", key, None)?;
        }
        Ok(())
    }

    /// Records flows that are not there yet; what a hook has recorded meanwhile knows better. How many were new.
    pub fn seed(&mut self, records: &Records) -> Result<usize, DatapathError> {
        let mut new = 0;
        for (key, flow) in &records.outward {
            new += usize::from(is_new(self.flows.insert(key, flow, BPF_NOEXIST), "flows")?);
        }
        for (key, flow) in &records.inbound {
            new += usize::from(is_new(self.inbound_flows.insert(key, flow, BPF_NOEXIST), "inbound_flows")?);
        }
        Ok(new)
    }

    /// The flows that a daemon has cut, and whose cut is not over at second `now` of the monotonic clock.
    pub fn cut(&self, now: u32) -> Result<Records, DatapathError> {
        let cut = |map: &Hash<FlowKey, Flow>, name, is_over: fn(&Flow, u8, u32) -> bool| {
            let cut = walked(map, name)?
                .filter(|(key, flow)| flow.state == state::CUT && !is_over(flow, key.proto, now));
            Ok::<_, DatapathError>(cut.collect())
        };
        Ok(Records {
            outward: cut(&self.flows, "flows", Flow::is_expired)?,
            inbound: cut(&self.inbound_flows, "inbound_flows", Flow::is_forgotten)?,
        })
    }

    /// Forgets those of these flows that are cut.
    pub fn lift(&mut self, records: &Records) -> Result<(), DatapathError> {
        for key in records.outward.keys() {
            if self.flows.get(key, 0).is_ok_and(|flow| flow.state == state::CUT) {
                write(&mut self.flows, "flows", key, None)?;
            }
        }
        for key in records.inbound.keys() {
            if self.inbound_flows.get(key, 0).is_ok_and(|flow| flow.state == state::CUT) {
                write(&mut self.inbound_flows, "inbound_flows", key, None)?;
            }
        }
        Ok(())
    }

    /// Records a flow, whatever stands there.
    pub fn put_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), DatapathError> {
        self.flows.insert(key, flow, 0).map_err(|source| failed("write map flows", source))?;
        self.renew_generation()
    }

    /// Fills a token bucket or takes it away, for tests.
    pub fn put_bucket(&mut self, key: &BucketKey, bucket: Option<&Bucket>) -> Result<(), DatapathError> {
        write(&mut self.buckets, "buckets", key, bucket)
    }

    /// Remembers or forgets a datagram, for tests.
    pub fn put_datagram(
        &mut self,
        key: &DatagramKey,
        datagram: Option<&Datagram>,
    ) -> Result<(), DatapathError> {
        write(&mut self.datagrams, "datagrams", key, datagram)
    }

    /// Gives a place in a budget to a flow, or takes it away, for tests.
    pub fn put_budgeted(&mut self, place: &BudgetPlace, flow: Option<&FlowKey>) -> Result<(), DatapathError> {
        write(&mut self.budgets, "budgets", place, flow)
    }

    /// Forgets a flow, for tests.
    pub fn remove_flow(&mut self, key: &FlowKey) -> Result<(), DatapathError> {
        write(&mut self.flows, "flows", key, None)
    }

    /// Records a flow that came in, whatever stands there.
    pub fn put_inbound_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), DatapathError> {
        write(&mut self.inbound_flows, "inbound_flows", key, Some(flow))?;
        self.renew_generation()
    }

    /// Forgets a flow that came in, for tests.
    pub fn remove_inbound_flow(&mut self, key: &FlowKey) -> Result<(), DatapathError> {
        write(&mut self.inbound_flows, "inbound_flows", key, None)
    }

    /// What the daemon last said of itself.
    pub fn daemon(&self) -> Result<Daemon, DatapathError> {
        self.daemon.get(&0, 0).map_err(|source| failed("read map daemon", source))
    }

    /// Says it.
    pub fn set_daemon(&mut self, daemon: Daemon) -> Result<(), DatapathError> {
        self.daemon.set(0, daemon, 0).map_err(|source| failed("write map daemon", source))
    }

    /// How often each hook gave each reason, summed over CPUs; only what is not zero.
    pub fn counters(&self) -> Result<Drops, DatapathError> {
        let mut counted = BTreeMap::new();
        for hook in Hook::ATTACHED {
            for reason in Reason::ALL {
                let count = self.counter(hook, *reason)?;
                if count != Count::default() {
                    counted.insert((hook, *reason), count);
                }
            }
        }
        Ok(counted)
    }

    /// How often this hook gave this reason, summed over CPUs.
    pub fn counter(&self, hook: Hook, reason: Reason) -> Result<Count, DatapathError> {
        sum(&self.counters, counter_index(hook, reason as u8), "counters")
    }

    /// How often a rule decided, summed over CPUs.
    pub fn rule(&self, rule: u32) -> Result<Count, DatapathError> {
        if rule >= capacity::RULES {
            return Ok(Count::default());
        }
        sum(&self.rules, rule, "rules")
    }

    /// The oldest events that are waiting, `most` at most; taken out for good.
    pub fn take_events(&mut self, most: usize) -> Vec<Event> {
        let mut taken = Vec::new();
        while taken.len() < most {
            let Some(item) = self.events.next() else { break };
            if let Ok(event) = bytemuck::try_pod_read_unaligned(&item) {
                taken.push(event);
            }
        }
        taken
    }

    /// Drops of which no event tells, by CPU, since the maps were made.
    pub fn missed_events(&self) -> Result<Vec<u64>, DatapathError> {
        Ok(self.event_budgets()?.iter().map(|budget| budget.missed).collect())
    }

    /// What becomes of events, by CPU.
    pub fn event_budgets(&self) -> Result<Vec<EventBudget>, DatapathError> {
        let budgets = self.event_budget.get(&0, 0);
        Ok(budgets.map_err(|source| failed("read map event_budget", source))?.to_vec())
    }

    /// How many events a CPU may write in a second, as somebody has asked for last.
    pub fn event_rate(&self) -> Result<EventRate, DatapathError> {
        self.event_rate.get(&0, 0).map_err(|source| failed("read map event_rate", source))
    }

    /// Has each CPU write so many events a second for a time.
    pub fn set_event_rate(&mut self, rate: EventRate) -> Result<(), DatapathError> {
        self.event_rate.set(0, rate, 0).map_err(|source| failed("write map event_rate", source))
    }

    /// What becomes readable when events are waiting.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Carries out writes, in this order. Steps that change a hook are not for maps and change none.
    pub fn apply_all(&mut self, steps: &[Step]) -> Result<(), DatapathError> {
        let applied = steps.iter().try_for_each(|step| self.write(step));
        self.renew_generation().and(applied)
    }

    /// Says that the tables have changed: what the fast path knows of before holds no longer. After the change, or a
    /// packet could be judged by the old tables and believe that it was by the new.
    fn renew_generation(&mut self) -> Result<(), DatapathError> {
        let of = |source| failed("renew the number in map generation", source);
        let Generation { number } = self.generation.get(&0, 0).map_err(of)?;
        self.generation.set(0, Generation { number: number.wrapping_add(1) }, 0).map_err(of)
    }

    /// The first of these steps that the maps do not hold. An entry that is written twice on the way (sources, settings)
    /// counts as it was written last.
    pub fn first_not_held<'a>(&self, steps: &'a [Step]) -> Result<Option<&'a Step>, DatapathError> {
        let mut last: Vec<(Place, usize)> =
            steps.iter().enumerate().map(|(number, step)| (step.place(), number)).collect();
        last.sort_unstable();
        for same in last.chunk_by(|(one, _), (other, _)| one == other) {
            let Some(step) = same.last().and_then(|(_, number)| steps.get(*number)) else { continue };
            if !self.holds(step)? {
                return Ok(Some(step));
            }
        }
        Ok(None)
    }

    /// Carries out one write.
    pub fn apply(&mut self, step: &Step) -> Result<(), DatapathError> {
        let written = self.write(step);
        self.renew_generation().and(written)
    }

    fn write(&mut self, step: &Step) -> Result<(), DatapathError> {
        match step {
            Step::Settings(settings) => {
                self.settings.set(0, settings, 0).map_err(|source| failed("write map settings", source))
            }
            Step::Interface(key, value) => write(&mut self.interfaces, "interfaces", key, value.as_ref()),
            Step::Network(key, value) => write(&mut self.networks, "networks", key, value.as_ref()),
            Step::LocalAddress(key, value) => {
                write(&mut self.local_addresses, "local_addresses", key, value.as_ref())
            }
            Step::Port(key, value) => write(&mut self.ports, "ports", key, value.as_ref()),
            Step::Endpoint(key, value) => write(&mut self.endpoints, "endpoints", key, value.as_ref()),
            Step::Station(key, value) => write(&mut self.stations, "stations", key, value.as_ref()),
            Step::Reach(key, value) => write(&mut self.reach, "reach", key, value.map(|()| &PRESENT)),
            Step::Link(key, value) => write(&mut self.links, "links", key, value.map(|()| &PRESENT)),
            Step::Outbound(key, value) => write(&mut self.outbound, "outbound", key, value.as_ref()),
            Step::Limit(id, value) => self
                .limits
                .set(*id, value.unwrap_or(Limit::zeroed()), 0)
                .map_err(|source| failed("write map limits", source)),
            Step::Subnet(key, value) => write_prefix(&mut self.subnets, "subnets", key, value.as_ref()),
            Step::Denied(key, value) if key.bits == 128 => {
                write(&mut self.denied_hosts, "denied_hosts", &key.address, value.as_ref())
            }
            Step::Denied(key, value) => write_prefix(&mut self.denied, "denied", key, value.as_ref()),
            Step::Source(key, value) if key.bits == 128 => {
                write(&mut self.source_hosts, "source_hosts", &key.address, value.as_ref())
            }
            Step::Source(key, value) => write_prefix(&mut self.sources, "sources", key, value.as_ref()),
            Step::Name(key, value) => {
                let name = value.as_ref().map(|text| Name::new(text));
                write(&mut self.names, "names", key, name.as_ref())
            }
            Step::Attach(_) | Step::Detach(_) => Ok(()),
        }
    }
}

impl Maps {
    /// Whether the map holds what the step wrote; true for steps that write no map.
    pub fn holds(&self, step: &Step) -> Result<bool, DatapathError> {
        match step {
            Step::Settings(settings) => {
                let found = self.settings.get(&0, 0).map_err(|source| failed("read map settings", source))?;
                Ok(found == *settings)
            }
            Step::Interface(key, value) => found(self.interfaces.get(key, 0), value.as_ref(), "interfaces"),
            Step::Network(key, value) => found(self.networks.get(key, 0), value.as_ref(), "networks"),
            Step::LocalAddress(key, value) => {
                found(self.local_addresses.get(key, 0), value.as_ref(), "local_addresses")
            }
            Step::Port(key, value) => found(self.ports.get(key, 0), value.as_ref(), "ports"),
            Step::Endpoint(key, value) => found(self.endpoints.get(key, 0), value.as_ref(), "endpoints"),
            Step::Station(key, value) => found(self.stations.get(key, 0), value.as_ref(), "stations"),
            Step::Reach(key, value) => found(self.reach.get(key, 0), value.map(|()| &PRESENT), "reach"),
            Step::Link(key, value) => found(self.links.get(key, 0), value.map(|()| &PRESENT), "links"),
            Step::Outbound(key, value) => found(self.outbound.get(key, 0), value.as_ref(), "outbound"),
            Step::Limit(id, value) => {
                let limit = self.limits.get(id, 0).map_err(|source| failed("read map limits", source))?;
                Ok(limit == value.unwrap_or(Limit::zeroed()))
            }
            Step::Denied(key, value) if key.bits == 128 => {
                found(self.denied_hosts.get(&key.address, 0), value.as_ref(), "denied_hosts")
            }
            Step::Source(key, value) if key.bits == 128 => {
                found(self.source_hosts.get(&key.address, 0), value.as_ref(), "source_hosts")
            }
            // A trie answers with the longest prefix: of one that was put, with itself; one that was removed may have
            // others around it, so nothing can be told.
            Step::Subnet(key, Some(value)) => {
                found(self.subnets.get(&trie_key(key), 0), Some(value), "subnets")
            }
            Step::Denied(key, Some(value)) => {
                found(self.denied.get(&trie_key(key), 0), Some(value), "denied")
            }
            Step::Source(key, Some(value)) => {
                found(self.sources.get(&trie_key(key), 0), Some(value), "sources")
            }
            Step::Name(key, value) => {
                found(self.names.get(key, 0), value.as_ref().map(|text| Name::new(text)).as_ref(), "names")
            }
            Step::Subnet(..) | Step::Denied(..) | Step::Source(..) | Step::Attach(_) | Step::Detach(_) => {
                Ok(true)
            }
        }
    }
}

impl Maps {
    /// Takes over what packets have left in another set since this second of the monotonic clock, unless what is here is
    /// newer; `carried` remembers it.
    pub(super) fn carry(
        &mut self,
        from: &Remains,
        since: u32,
        carried: &mut Carried,
    ) -> Result<(), DatapathError> {
        let [flows, inbound_flows] = &mut carried.flows;
        carry_flows(&mut self.flows, &from.flows, "flows", since, flows)?;
        carry_flows(&mut self.inbound_flows, &from.inbound_flows, "inbound_flows", since, inbound_flows)?;
        for (key, datagram) in from.datagrams.walk().filter(|(_, datagram)| datagram.seen >= since) {
            write(&mut self.datagrams, "datagrams", &key, Some(&datagram))?;
        }
        Ok(())
    }

    /// Forgets flows that were taken over and have ended in the other set since; not those that began here anew.
    pub(super) fn forget_ended(&mut self, from: &Remains, carried: &Carried) -> Result<(), DatapathError> {
        let [flows, inbound_flows] = &carried.flows;
        forget_ended(&mut self.flows, &from.flows, "flows", flows)?;
        forget_ended(&mut self.inbound_flows, &from.inbound_flows, "inbound_flows", inbound_flows)
    }
}

/// When the flows began that one set of maps took over from another: those that went out, and those that came in.
#[derive(Default)]
pub(super) struct Carried {
    flows: [BTreeMap<FlowKey, u32>; 2],
}

/// Owners' numbers are given anew: a container's flow is counted again with the next packet that it sends.
fn carry_flows(
    new: &mut Hash<FlowKey, Flow>,
    old: &Walked<FlowKey, Flow>,
    name: &str,
    since: u32,
    carried: &mut BTreeMap<FlowKey, u32>,
) -> Result<(), DatapathError> {
    for (key, mut flow) in old.walk().filter(|(_, flow)| flow.last_seen >= since) {
        if new.get(&key, 0).is_ok_and(|here| here.last_seen > flow.last_seen) {
            continue;
        }
        if flow.container < counted::RENEWS {
            flow.container = 0;
        }
        write(new, name, &key, Some(&flow))?;
        carried.insert(key, flow.started);
    }
    Ok(())
}

fn forget_ended(
    new: &mut Hash<FlowKey, Flow>,
    old: &Walked<FlowKey, Flow>,
    name: &str,
    carried: &BTreeMap<FlowKey, u32>,
) -> Result<(), DatapathError> {
    for (key, started) in carried {
        let ended = matches!(old.map.get(key, 0), Err(MapError::KeyNotFound));
        if ended && new.get(key, 0).is_ok_and(|here| here.started <= *started) {
            write(new, name, key, None)?;
        }
    }
    Ok(())
}

fn trie_key(prefix: &Prefix) -> Key<Address> {
    Key::new(prefix.bits, prefix.address)
}

fn found<V: PartialEq>(
    found: Result<V, MapError>,
    wanted: Option<&V>,
    name: &str,
) -> Result<bool, DatapathError> {
    match found {
        Ok(found) => Ok(wanted == Some(&found)),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(wanted.is_none()),
        Err(source) => Err(failed(&format!("read map {name}"), source)),
    }
}

/// Counts by hook and reason.
pub type Drops = BTreeMap<(Hook, Reason), Count>;

fn entries<K: Pod + Ord, V: Pod>(map: &Hash<K, V>, name: &str) -> Result<BTreeMap<K, V>, DatapathError> {
    map.iter().collect::<Result<_, _>>().map_err(|source| failed(&format!("read map {name}"), source))
}

/// The entries of a map that packets write meanwhile: some come twice, and under a flood there is no end, so it ends.
fn walked<'a, K: Pod, V: Pod>(
    map: &'a Hash<K, V>,
    name: &str,
) -> Result<impl Iterator<Item = (K, V)> + use<'a, K, V>, DatapathError> {
    let info = IterableMap::map(map).info();
    let size = info.map_err(|source| failed(&format!("read the size of map {name}"), source))?;
    Ok(map.iter().take(2 * size.max_entries() as usize).flatten())
}

fn prefixes<V: Pod>(map: &Trie<V>, name: &str) -> Result<BTreeMap<Prefix, V>, DatapathError> {
    let mut read = BTreeMap::new();
    for entry in map {
        let (key, value) = entry.map_err(|source| failed(&format!("read map {name}"), source))?;
        read.insert(Prefix { bits: key.prefix_len(), address: key.data() }, value);
    }
    Ok(read)
}

fn with_hosts<V: Pod>(
    trie: &Trie<V>,
    hosts: &Hash<Address, V>,
    name: &str,
) -> Result<BTreeMap<Prefix, V>, DatapathError> {
    let mut read = prefixes(trie, name)?;
    let hosts = entries(hosts, name)?;
    read.extend(hosts.into_iter().map(|(address, value)| (Prefix { bits: 128, address }, value)));
    Ok(read)
}

fn write<K: Pod, V: Pod>(
    map: &mut Hash<K, V>,
    name: &str,
    key: &K,
    value: Option<&V>,
) -> Result<(), DatapathError> {
    let written = match value {
        Some(value) => map.insert(key, value, 0),
        None => absent_is_fine(map.remove(key)),
    };
    written.map_err(|source| failed(&format!("write map {name} (full?)"), source))
}

fn write_prefix<V: Pod>(
    map: &mut Trie<V>,
    name: &str,
    prefix: &Prefix,
    value: Option<&V>,
) -> Result<(), DatapathError> {
    let key = trie_key(prefix);
    let written = match value {
        Some(value) => map.insert(&key, *value, 0),
        None => absent_is_fine(map.remove(&key)),
    };
    written.map_err(|source| failed(&format!("write map {name} (full?)"), source))
}

/// Whether the entry was not there before.
fn is_new(inserted: Result<(), MapError>, name: &str) -> Result<bool, DatapathError> {
    match inserted {
        Ok(()) => Ok(true),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::AlreadyExists => {
            Ok(false)
        }
        Err(source) => Err(failed(&format!("write map {name}"), source)),
    }
}

/// A removal that finds nothing has reached its aim.
fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sum(map: &PerCpuArray<MapData, Count>, index: u32, name: &str) -> Result<Count, DatapathError> {
    let per_cpu = map.get(&index, 0).map_err(|source| failed(&format!("read map {name}"), source))?;
    Ok(per_cpu.iter().fold(Count::zeroed(), |total, count| Count {
        packets: total.packets + count.packets,
        bytes: total.bytes + count.bytes,
    }))
}
