//! The maps, with BTF types so that bpftool prints named fields. docs/maps.md describes each.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, bpf_fib_lookup};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup as fib_lookup, bpf_get_prandom_u32, bpf_ktime_get_coarse_ns,
};
use aya_ebpf::macros::btf_map;
use fw_common::decide::Workspace;
use fw_common::fast::{FastKey, FastPath, Generation, Pending};
use fw_common::flow::{Flow, FlowKey};
use fw_common::tables::{
    Bucket, BucketKey, BudgetPlace, Count, Daemon, Datagram, DatagramKey, DenyRule, Endpoint, EventBudget,
    EventRate, Interface, Limit, LinkKey, LocalAddress, LocalKey, Name, NameKey, Network, Observed,
    ObservedKey, OutKey, OutRule, Port, PortKey, Present, ReachKey, Route, Settings, Station, Subnet, Tables,
    Zones, capacity,
};
use fw_common::wire::{Arrival, Plain};
use fw_common::{Address, Mac};

use crate::packet::Context;

const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map(name = "settings")]
static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map(name = "interfaces")]
pub(crate) static INTERFACES: HashMap<u32, Interface, { capacity::INTERFACES }, SPARSE> = HashMap::new();
#[btf_map(name = "subnets")]
static SUBNETS: LpmTrie<Address, Subnet, { capacity::SUBNETS }> = LpmTrie::new();
#[btf_map(name = "networks")]
static NETWORKS: HashMap<u32, Network, { capacity::NETWORKS }, SPARSE> = HashMap::new();
#[btf_map(name = "local_addresses")]
static LOCAL_ADDRESSES: HashMap<LocalKey, LocalAddress, { capacity::LOCAL_ADDRESSES }, SPARSE> =
    HashMap::new();
#[btf_map(name = "ports")]
static PORTS: HashMap<PortKey, Port, { capacity::PORTS }, SPARSE> = HashMap::new();
#[btf_map(name = "denied_hosts")]
static DENIED_HOSTS: HashMap<Address, DenyRule, { capacity::HOSTS }, SPARSE> = HashMap::new();
#[btf_map(name = "denied")]
static DENIED: LpmTrie<Address, DenyRule, { capacity::PREFIXES }> = LpmTrie::new();
#[btf_map(name = "source_hosts")]
static SOURCE_HOSTS: HashMap<Address, Zones, { capacity::HOSTS }, SPARSE> = HashMap::new();
#[btf_map(name = "sources")]
static SOURCES: LpmTrie<Address, Zones, { capacity::PREFIXES }> = LpmTrie::new();
#[btf_map(name = "endpoints")]
pub(crate) static ENDPOINTS: HashMap<Address, Endpoint, { capacity::ENDPOINTS }, SPARSE> = HashMap::new();
#[btf_map(name = "stations")]
static STATIONS: HashMap<Mac, Station, { capacity::STATIONS }, SPARSE> = HashMap::new();
#[btf_map(name = "flows")]
static FLOWS: LruHashMap<FlowKey, Flow, { capacity::FLOWS }> = LruHashMap::new();
#[btf_map(name = "budgets")]
static BUDGETS: LruHashMap<BudgetPlace, FlowKey, { capacity::BUDGETS }> = LruHashMap::new();
#[btf_map(name = "inbound_flows")]
static INBOUND_FLOWS: LruHashMap<FlowKey, Flow, { capacity::INBOUND_FLOWS }> = LruHashMap::new();
#[btf_map(name = "reach")]
static REACH: HashMap<ReachKey, Present, { capacity::REACH }, SPARSE> = HashMap::new();
#[btf_map(name = "links")]
static LINKS: HashMap<LinkKey, Present, { capacity::LINKS }, SPARSE> = HashMap::new();
#[btf_map(name = "outbound")]
static OUTBOUND: HashMap<OutKey, OutRule, { capacity::OUTBOUND }, SPARSE> = HashMap::new();
#[btf_map(name = "limits")]
static LIMITS: Array<Limit, { capacity::LIMITS as usize }> = Array::new();
#[btf_map(name = "buckets")]
static BUCKETS: LruHashMap<BucketKey, Bucket, { capacity::BUCKETS }> = LruHashMap::new();
#[btf_map(name = "datagrams")]
static DATAGRAMS: LruHashMap<DatagramKey, Datagram, { capacity::DATAGRAMS }> = LruHashMap::new();
#[btf_map(name = "names")]
static NAMES: HashMap<NameKey, Name, { capacity::NAMES }, SPARSE> = HashMap::new();
#[btf_map(name = "daemon")]
static DAEMON: Array<Daemon, 1> = Array::new();
#[btf_map(name = "counters")]
pub(crate) static COUNTERS: PerCpuArray<Count, { capacity::COUNTERS as usize }> = PerCpuArray::new();
#[btf_map(name = "rules")]
pub(crate) static RULES: PerCpuArray<Count, { capacity::RULES as usize }> = PerCpuArray::new();
#[btf_map(name = "event_budget")]
pub(crate) static EVENT_BUDGET: PerCpuArray<EventBudget, 1> = PerCpuArray::new();
#[btf_map(name = "event_rate")]
pub(crate) static EVENT_RATE: Array<EventRate, 1> = Array::new();
#[btf_map(name = "events")]
// Typed `()`: aya-ebpf 0.2.1 declares value_size 0 beside the type, which libbpf refuses for any other.
pub(crate) static EVENTS: RingBuf<(), { capacity::EVENTS }> = RingBuf::new();
#[btf_map(name = "observed")]
pub(crate) static OBSERVED: LruHashMap<ObservedKey, Observed, { capacity::OBSERVED }> = LruHashMap::new();

#[btf_map(name = "generation")]
pub(crate) static GENERATION: Array<Generation, 1> = Array::new();
#[btf_map(name = "fast_paths")]
pub(crate) static FAST_PATHS: LruHashMap<FastKey, FastPath, { capacity::FAST_PATHS }> = LruHashMap::new();
#[btf_map(name = "fast_candidates")]
pub(crate) static FAST_CANDIDATES: PerCpuArray<Candidate, { capacity::FAST_CANDIDATES as usize }> =
    PerCpuArray::new();

#[btf_map(name = "workspace")]
static WORKSPACE: PerCpuArray<Desk, 1> = PerCpuArray::new();

/// This CPU's room for one packet: what is too much for a stack of 512 bytes. All zero is valid.
#[repr(C)]
pub(crate) struct Desk {
    pub(crate) work: Workspace,
    pub(crate) arrival: Arrival,
    pub(crate) leaving: Plain,
    pub(crate) pending: Pending,
    pub(crate) key: FastKey,
    pub(crate) path: FastPath,
    pub(crate) back: FastPath,
}

/// This CPU's desk. TC and XDP programs run with bottom halves disabled, so no two use it at once.
#[inline(always)]
pub(crate) fn desk<'a>() -> Option<&'a mut Desk> {
    let room = WORKSPACE.get_ptr_mut(0)?;
    // SAFETY: the slot is this CPU's own, lives as long as the program, and is handed out once in a run.
    Some(unsafe { &mut *room })
}

/// A connection that may be worth a fast path if it lives on.
#[repr(C)]
pub(crate) struct Candidate {
    /// Its tuple, mixed.
    pub(crate) tuple: u64,
    /// Nanosecond of the monotonic clock at which it was seen first.
    pub(crate) since: u64,
}

/// The BPF maps as the tables that decisions ask.
pub(crate) struct Maps<'a, C> {
    pub(crate) context: &'a C,
    settings: &'static Settings,
}

impl<'a, C> Maps<'a, C> {
    /// The maps as seen from this packet; `None` until the daemon has written the settings (it does so before it
    /// attaches anything).
    #[inline(always)]
    pub(crate) fn open(context: &'a C) -> Option<Self> {
        let settings = SETTINGS.get(0)?;
        Some(Self { context, settings })
    }

    /// Whether nothing is dropped, as the map says it now. Volatile, so that what was known before a decision is not kept
    /// through it: the verifier would walk the decision for both cases.
    #[inline(always)]
    pub(crate) fn observes(&self) -> bool {
        // SAFETY: the pointer is that of a reference.
        unsafe { (&raw const self.settings.observe).read_volatile() != 0 }
    }
}

/// Copies a value out of a hash map.
macro_rules! copied {
    ($map:expr, $key:expr) => {
        // SAFETY: the reference ends with this expression; an entry that is replaced meanwhile is freed by RCU only
        // after this program. Values are plain data: a torn read gives old or new fields, never an invalid value.
        unsafe { $map.get($key).copied() }
    };
}

impl<C: Context> Tables for Maps<'_, C> {
    #[inline(always)]
    fn settings(&self) -> Settings {
        *self.settings
    }

    #[inline(always)]
    fn interface(&self, ifindex: u32) -> Option<Interface> {
        copied!(INTERFACES, &ifindex)
    }

    #[inline(always)]
    fn subnet(&self, address: &Address) -> Option<Subnet> {
        SUBNETS.get(&Key::new(128, *address)).copied()
    }

    #[inline(always)]
    fn network(&self, id: u32) -> Option<Network> {
        copied!(NETWORKS, &id)
    }

    #[inline(always)]
    fn local_address(&self, key: &LocalKey) -> Option<LocalAddress> {
        copied!(LOCAL_ADDRESSES, key)
    }

    #[inline(always)]
    fn port(&self, key: &PortKey) -> Option<Port> {
        copied!(PORTS, key)
    }

    #[inline(always)]
    fn denied(&self, source: &Address) -> Option<DenyRule> {
        if self.settings.deny == 0 {
            return None;
        }
        if let Some(rule) = copied!(DENIED_HOSTS, source) {
            return Some(rule);
        }
        DENIED.get(&Key::new(128, *source)).copied()
    }

    #[inline(always)]
    fn zones(&self, source: &Address) -> u64 {
        if let Some(held) = copied!(SOURCE_HOSTS, source) {
            return held.zones;
        }
        if self.settings.source_prefixes == 0 {
            return 0;
        }
        SOURCES.get(&Key::new(128, *source)).map_or(0, |held| held.zones)
    }

    #[inline(always)]
    fn endpoint(&self, address: &Address) -> Option<Endpoint> {
        copied!(ENDPOINTS, address)
    }

    #[inline(always)]
    fn station(&self, mac: &Mac) -> Option<Station> {
        copied!(STATIONS, mac)
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        copied!(FLOWS, key)
    }

    #[inline(always)]
    fn record(&self, key: &FlowKey, flow: &Flow) {
        // A full table evicts its oldest flow; an insert that fails under contention costs one reply, retransmitted.
        let _ = FLOWS.insert(key, flow, 0);
    }

    #[inline(always)]
    fn refresh(&self, key: &FlowKey, flow: &Flow) {
        const BPF_EXIST: u64 = 2;
        // Fails only if the flow was evicted meanwhile, and then it must stay gone.
        let _ = FLOWS.insert(key, flow, BPF_EXIST);
    }

    #[inline(always)]
    fn forget(&self, key: &FlowKey) {
        // Fails only if it is gone already.
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn budgeted(&self, place: &BudgetPlace) -> Option<FlowKey> {
        copied!(BUDGETS, place)
    }

    #[inline(always)]
    fn set_budgeted(&self, place: &BudgetPlace, flow: &FlowKey) {
        // An insert that fails under contention leaves a flow that nobody counts.
        let _ = BUDGETS.insert(place, flow, 0);
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes no arguments and has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn inbound_flow(&self, key: &FlowKey) -> Option<Flow> {
        copied!(INBOUND_FLOWS, key)
    }

    #[inline(always)]
    fn record_inbound(&self, key: &FlowKey, flow: &Flow) {
        // As for `flows`.
        let _ = INBOUND_FLOWS.insert(key, flow, 0);
    }

    #[inline(always)]
    fn reaches(&self, key: &ReachKey) -> bool {
        REACH.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn linked(&self, key: &LinkKey) -> bool {
        LINKS.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn outbound(&self, key: &OutKey) -> Option<OutRule> {
        copied!(OUTBOUND, key)
    }

    #[inline(always)]
    fn limit(&self, id: u32) -> Option<Limit> {
        LIMITS.get(id).copied()
    }

    #[inline(always)]
    fn bucket(&self, key: &BucketKey) -> Option<Bucket> {
        copied!(BUCKETS, key)
    }

    #[inline(always)]
    fn set_bucket(&self, key: &BucketKey, bucket: &Bucket) {
        // An insert that fails under contention leaves the bucket as full as it was.
        let _ = BUCKETS.insert(key, bucket, 0);
    }

    #[inline(always)]
    fn datagram(&self, key: &DatagramKey) -> Option<Datagram> {
        copied!(DATAGRAMS, key)
    }

    #[inline(always)]
    fn remember(&self, key: &DatagramKey, datagram: &Datagram) {
        // An insert that fails under contention costs one datagram.
        let _ = DATAGRAMS.insert(key, datagram, 0);
    }

    #[inline(always)]
    fn route(&self, source: &Address, destination: &Address, ifindex: u32) -> Route {
        route(self.context.pointer(), source, destination, ifindex)
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        now()
    }

    #[inline(always)]
    fn now_ms(&self) -> u32 {
        // SAFETY: the helper takes no arguments and has no preconditions.
        (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000) as u32
    }
}

/// Seconds on the monotonic clock, as of the last tick (helper of kernel 5.11).
#[inline(always)]
pub(crate) fn now() -> u32 {
    // SAFETY: the helper takes no arguments and has no preconditions.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}

/// Asks the FIB, rules included, as the kernel will a moment later. Out of line for a stack frame of its own.
#[inline(never)]
fn route(context: *mut c_void, source: &Address, destination: &Address, ifindex: u32) -> Route {
    use aya_ebpf::bindings::{
        BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LOOKUP_SKIP_NEIGH,
    };
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const LOCAL: [i64; 2] = [BPF_FIB_LKUP_RET_NOT_FWDED as i64, BPF_FIB_LKUP_RET_FWD_DISABLED as i64];
    #[expect(clippy::cast_possible_wrap, reason = "64 bytes")]
    const QUESTION: i32 = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: a `bpf_fib_lookup` of zeroes is valid: integers and unions of integers.
    let mut question: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    question.ifindex = ifindex;
    if destination.is_v4() {
        question.family = AF_INET;
        question.__bindgen_anon_3.ipv4_src = low_word(source);
        question.__bindgen_anon_4.ipv4_dst = low_word(destination);
    } else {
        question.family = AF_INET6;
        question.__bindgen_anon_3.ipv6_src = words(source);
        question.__bindgen_anon_4.ipv6_dst = words(destination);
    }
    let mut ask = |flags| {
        // SAFETY: the context is the one that the kernel handed to this program, the question is on our stack and its
        // size is passed with it.
        unsafe { fib_lookup(context, &raw mut question, QUESTION, flags) }
    };
    // Who the neighbour is does not matter. Kernels before 6.3 do not know the flag and say EINVAL.
    let answer = match ask(BPF_FIB_LOOKUP_SKIP_NEIGH) {
        refused if refused < 0 => ask(0),
        answer => answer,
    };
    // Not forwarded: local, broadcast or no route. Forwarding off: whatever it is, the kernel forwards nothing.
    // A negative answer is an error of ours: judge as local, which drops what no rule allows.
    if answer < 0 || LOCAL.contains(&answer) { Route::Local } else { Route::Forwarded }
}

/// The address as the FIB wants it: words in network order.
#[inline(always)]
fn words(address: &Address) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.bytes;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

#[inline(always)]
fn low_word(address: &Address) -> u32 {
    words(address)[3]
}
