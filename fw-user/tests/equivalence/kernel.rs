//! The loaded programs beside `decide`: the same tables, the same packets one after the other, and what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use bytemuck::Zeroable as _;
use fw_common::decide::{Workspace, marked};
use fw_common::flow::{Flow, FlowKey};
use fw_common::tables::memory::Memory;
use fw_common::tables::{
    Bucket, BucketKey, BudgetPlace, Count, Datagram, DatagramKey, Observed, ObservedKey,
};
use fw_common::wire::Arrival;
use fw_common::{Action, Address, Hook, Mark, Reason, Verdict, decide};
use fw_user::datapath::{Drops, Maps, Programs, Seen};
use fw_user::desired::Early;
use fw_user::plan::{State, plan};
use nix::time::{ClockId, clock_gettime};

use super::traffic::Sent;
use crate::example;
use crate::example::host::{NOW, mac_of};
use crate::random::world::RULES;

/// Packets that meet the same tables one after the other; what one leaves behind is there for the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Flows, buckets and datagrams are as old as if it were second [`NOW`].
    pub(crate) tables: Memory,
    pub(crate) packets: Vec<Sent>,
}

/// What came of a packet on which both agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    Alike(Verdict),
    /// The kernel runs no program on such a frame.
    Refused,
    /// The clock went on during the run, and what the program did depends on whether it saw that.
    BetweenTicks,
}

/// A packet on which the kernel and `decide` do not agree.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// Which one; the number of packets if it shows only at the end.
    pub(crate) at: usize,
    pub(crate) what: String,
}

type Flows = BTreeMap<FlowKey, Flow>;

/// What packets leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    flows: Flows,
    inbound: Flows,
    buckets: BTreeMap<BucketKey, Bucket>,
    datagrams: BTreeMap<DatagramKey, Datagram>,
    budgets: BTreeMap<BudgetPlace, FlowKey>,
}

/// The loaded programs, and what their maps hold.
pub(crate) struct Kernel {
    programs: Programs,
    maps: Maps,
    state: State,
    local: BTreeSet<Address>,
    /// What the counters must say.
    reasons: Drops,
    rules: BTreeMap<u32, Count>,
}

impl Kernel {
    /// Loads the programs in this thread's network namespace, to which `local` are local addresses.
    pub(crate) fn load(local: BTreeSet<Address>) -> Self {
        let (mut programs, maps) = Programs::load(None, &[("observed", 1024)]).expect("the programs load");
        programs.load_early(Early::Native).expect("the program of XDP loads");
        Self { programs, maps, state: State::default(), local, reasons: Drops::new(), rules: BTreeMap::new() }
    }

    /// Instructions that the verifier walked for a program.
    pub(crate) fn walked(&self, hook: Hook) -> u32 {
        self.programs.verified_instructions(hook).expect("information about a program")
    }

    /// Runs all packets of a batch in the kernel and here, and compares action, mark, reason and rule of each, and at
    /// the end all counters and all that they left behind.
    pub(crate) fn judge(&mut self, batch: &Batch) -> Result<Vec<Judged>, Difference> {
        let mut here = self.put(&batch.tables);
        let mut all = Vec::with_capacity(batch.packets.len());
        for (at, sent) in batch.packets.iter().enumerate() {
            all.push(self.judge_one(sent, &mut here).map_err(|what| Difference { at, what })?);
        }
        self.end(&here).map_err(|what| Difference { at: all.len(), what })?;
        Ok(all)
    }

    /// Runs all packets of a batch in the kernel alone.
    pub(crate) fn run(&mut self, batch: &Batch) {
        self.put(&batch.tables);
        for Sent { hook, ifindex, ingress_ifindex, mark, frame } in &batch.packets {
            let seen = Seen { ifindex: *ifindex, ingress_ifindex: *ingress_ifindex, mark: *mark };
            self.programs.test_run_of(*hook, frame, seen, 1).expect("the kernel runs the program");
        }
    }

    /// What was let pass since it was asked for, although it would be dropped.
    pub(crate) fn take_observed(&mut self) -> BTreeMap<ObservedKey, Observed> {
        let observed = self.maps.observed().expect("what was observed can be read");
        self.maps.clear_observed().expect("it can be cleared");
        observed
    }

    /// The flows after the last batch.
    pub(crate) fn flows(&self) -> Flows {
        self.maps.flows().expect("flows can be read")
    }

    /// The flows that came in, after the last batch.
    pub(crate) fn inbound(&self) -> Flows {
        self.maps.inbound_flows().expect("flows can be read")
    }

    fn left(&self) -> Left {
        Left {
            flows: self.flows(),
            inbound: self.inbound(),
            buckets: self.maps.buckets().expect("buckets can be read"),
            datagrams: self.maps.datagrams().expect("datagrams can be read"),
            budgets: self.maps.budgeted().expect("budgets can be read"),
        }
    }

    /// Brings the maps to these tables; returns them as they hold at this moment.
    fn put(&mut self, tables: &Memory) -> Memory {
        let here = self.as_of_now(tables);
        let desired = State { tables: tables.clone(), ..State::default() };
        for step in plan(&self.state, &desired) {
            self.maps.apply(&step).expect("a map can be written");
        }
        self.state = desired;
        let (left, maps) = (self.left(), &mut self.maps);
        for key in left.flows.keys() {
            maps.remove_flow(key).expect("a flow can be removed");
        }
        for key in left.inbound.keys() {
            maps.remove_inbound_flow(key).expect("a flow can be removed");
        }
        for key in left.buckets.keys() {
            maps.put_bucket(key, None).expect("a bucket can be removed");
        }
        for key in left.datagrams.keys() {
            maps.put_datagram(key, None).expect("a datagram can be removed");
        }
        for place in left.budgets.keys() {
            maps.put_budgeted(place, None).expect("a place can be removed");
        }
        let put = Left::of(&here);
        for (key, flow) in &put.flows {
            maps.put_flow(key, flow).expect("a flow can be written");
        }
        for (key, flow) in &put.inbound {
            maps.put_inbound_flow(key, flow).expect("a flow can be written");
        }
        for (key, bucket) in &put.buckets {
            maps.put_bucket(key, Some(bucket)).expect("a bucket can be written");
        }
        for (key, datagram) in &put.datagrams {
            maps.put_datagram(key, Some(datagram)).expect("a datagram can be written");
        }
        for (place, key) in &put.budgets {
            maps.put_budgeted(place, Some(key)).expect("a place can be written");
        }
        (self.reasons, self.rules) = self.counted();
        here
    }

    fn as_of_now(&self, tables: &Memory) -> Memory {
        let mut here = tables.clone();
        here.routed_local.clone_from(&self.local);
        (here.now, here.now_ms) = clock();
        let (now, now_ms) = (here.now, here.now_ms);
        for flow in here.flows.get_mut().values_mut().chain(here.inbound_flows.get_mut().values_mut()) {
            flow.last_seen = now.wrapping_sub(NOW.wrapping_sub(flow.last_seen));
            flow.started = now.wrapping_sub(NOW.wrapping_sub(flow.started));
        }
        for datagram in here.datagrams.get_mut().values_mut() {
            datagram.seen = now.wrapping_sub(NOW.wrapping_sub(datagram.seen));
        }
        for bucket in here.buckets.get_mut().values_mut() {
            bucket.filled = now_ms.wrapping_sub((NOW * 1000).wrapping_sub(bucket.filled));
        }
        here
    }

    fn judge_one(&mut self, sent: &Sent, here: &mut Memory) -> Result<Judged, String> {
        (here.now, here.now_ms) = clock();
        let Sent { hook, ifindex, ingress_ifindex, mark, ref frame } = *sent;
        let run = match self.programs.test_run_of(hook, frame, Seen { ifindex, ingress_ifindex, mark }, 1) {
            Ok(run) => run,
            Err(_) if is_refused(hook, frame) => return Ok(Judged::Refused),
            Err(error) => return Err(format!("the kernel does not run the program: {error:?}")),
        };
        let (second, millisecond) = clock();
        if second != here.now {
            return Ok(self.follow(here));
        }
        let went_on = millisecond != here.now_ms;
        let buckets = went_on.then(|| here.buckets.borrow().clone());
        let arrival = arrival(sent);
        let verdict = decide(hook, &arrival, &frame[..], here, &mut Workspace::zeroed());
        // Milliseconds matter to buckets alone.
        if buckets
            .is_some_and(|before| verdict.reason == Reason::OverLimit || before != *here.buckets.borrow())
        {
            return Ok(self.follow(here));
        }
        let carried_out = carried_out(hook, &arrival, verdict, here);
        let length = frame.len() as u64;
        if carried_out.counted {
            add(self.reasons.entry((hook, verdict.reason)).or_default(), length);
            if verdict.rule != 0 {
                add(self.rules.entry(verdict.rule).or_default(), length);
            }
        }
        let expected = (carried_out.action, carried_out.mark);
        if (run.action, run.mark) == expected && self.has_counted(hook, verdict) {
            return Ok(Judged::Alike(verdict));
        }
        Err(format!(
            "decide says {verdict:?}, so (action, mark) must be {expected:x?}; the kernel has {:x?}{}",
            (run.action, run.mark),
            self.miscounted()
        ))
    }

    /// Takes over what the kernel has made of a packet that cannot be compared.
    fn follow(&mut self, here: &mut Memory) -> Judged {
        let Left { flows, inbound, buckets, datagrams, budgets } = self.left();
        *here.flows.get_mut() = flows;
        *here.inbound_flows.get_mut() = inbound;
        *here.buckets.get_mut() = buckets;
        *here.datagrams.get_mut() = datagrams;
        *here.budgets.get_mut() = budgets;
        (self.reasons, self.rules) = self.counted();
        Judged::BetweenTicks
    }

    /// Whether reason and rule of this packet are counted. That nothing else is, shows at the end: each packet counts
    /// once, so that the sums are right only if all are.
    fn has_counted(&self, hook: Hook, verdict: Verdict) -> bool {
        let reason = self.maps.counter(hook, verdict.reason).expect("a counter can be read");
        let rule = match verdict.rule {
            0 => Count::default(),
            rule => self.maps.rule(rule).expect("a counter can be read"),
        };
        reason == self.reasons.get(&(hook, verdict.reason)).copied().unwrap_or_default()
            && rule == self.rules.get(&verdict.rule).copied().unwrap_or_default()
    }

    fn end(&self, here: &Memory) -> Result<(), String> {
        let miscounted = self.miscounted();
        if !miscounted.is_empty() {
            return Err(format!("at the end{miscounted}"));
        }
        let (found, expected) = (self.left(), Left::of(here));
        let mut text = String::new();
        odd(&mut text, "flows", &found.flows, &expected.flows);
        odd(&mut text, "inbound_flows", &found.inbound, &expected.inbound);
        odd(&mut text, "buckets", &found.buckets, &expected.buckets);
        odd(&mut text, "datagrams", &found.datagrams, &expected.datagrams);
        if here.settings.flow_budget <= 1 {
            odd(&mut text, "budgets", &found.budgets, &expected.budgets);
        } else {
            // Which place a flow gets is drawn; that it has one is not.
            odd(&mut text, "budgets", &placed(&found.budgets), &placed(&expected.budgets));
        }
        if text.is_empty() { Ok(()) } else { Err(format!("at the end, second {}{text}", here.now)) }
    }

    /// In words, which counters are not what they must be.
    fn miscounted(&self) -> String {
        let (reasons, rules) = self.counted();
        let mut text = String::new();
        let keys: BTreeSet<_> = reasons.keys().chain(self.reasons.keys()).collect();
        for key in keys {
            let (found, expected) = (reasons.get(key), self.reasons.get(key));
            if found != expected {
                text += &format!("\n  {} {}: {found:?}, expected {expected:?}", key.0.name(), key.1.name());
            }
        }
        if rules != self.rules {
            text += &format!("\n  rules: {rules:?}, expected {:?}", self.rules);
        }
        text
    }

    fn counted(&self) -> (Drops, BTreeMap<u32, Count>) {
        let reasons = self.maps.counters().expect("counters can be read");
        let rules = (1..RULES).map(|rule| (rule, self.maps.rule(rule).expect("a counter can be read")));
        (reasons, rules.filter(|(_, count)| *count != Count::default()).collect())
    }
}

impl Left {
    fn of(tables: &Memory) -> Self {
        Self {
            flows: tables.flows.borrow().clone(),
            inbound: tables.inbound_flows.borrow().clone(),
            buckets: tables.buckets.borrow().clone(),
            datagrams: tables.datagrams.borrow().clone(),
            budgets: tables.budgets.borrow().clone(),
        }
    }
}

/// Owners and flows that have a place, and how many they have.
fn placed(budgets: &BTreeMap<BudgetPlace, FlowKey>) -> BTreeMap<(u16, FlowKey), usize> {
    let mut placed = BTreeMap::new();
    for (place, key) in budgets {
        *placed.entry((place.owner, *key)).or_default() += 1;
    }
    placed
}

/// Writes down where the table in the kernel and the one here differ.
fn odd<K: Ord + Debug, V: PartialEq + Debug>(
    text: &mut String,
    name: &str,
    kernel: &BTreeMap<K, V>,
    here: &BTreeMap<K, V>,
) {
    let odd = |ours: &BTreeMap<K, V>, theirs: &BTreeMap<K, V>| {
        let odd = ours.iter().filter(|(key, value)| theirs.get(key) != Some(value));
        odd.map(|(key, value)| format!("\n    {key:?}: {value:?}")).collect::<Vec<_>>().concat()
    };
    if kernel != here {
        let (kernel, decided) = (odd(kernel, here), odd(here, kernel));
        *text += &format!("\n  {name}\n  kernel:{kernel}\n  decide:{decided}");
    }
}

/// The packet as `decide` is told of it.
pub(crate) fn arrival(sent: &Sent) -> Arrival {
    let Sent { ifindex, ingress_ifindex, mark, ref frame, .. } = *sent;
    Arrival { ingress_ifindex, mark, ..example::arrival(ifindex, mac_of(ifindex), frame) }
}

/// How the kernel must carry a verdict out.
struct CarriedOut {
    action: i32,
    mark: u32,
    counted: bool,
}

fn carried_out(hook: Hook, arrival: &Arrival, verdict: Verdict, tables: &Memory) -> CarriedOut {
    let early = hook == Hook::UplinkXdp;
    // XDP_PASS and XDP_DROP; TCX_NEXT and TCX_DROP.
    let (next, drop) = if early { (2, 1) } else { (-1, 2) };
    let observing = tables.settings.observe != 0;
    let dropped = verdict.action == Action::Drop && !observing;
    let mark = match hook {
        Hook::UplinkIngress | Hook::PortIngress => {
            let field = if observing { Mark::None } else { verdict.mark };
            marked(arrival.mark, field, tables.settings.mark_bit)
        }
        Hook::UplinkXdp => 0,
        _ => arrival.mark,
    };
    // XDP counts what it drops, the hook behind all else.
    let counted = if early { dropped } else { verdict.reason != Reason::OtherHost };
    CarriedOut { action: if dropped { drop } else { next }, mark, counted }
}

/// Frames on which the kernel runs no program: without a byte behind the Ethernet header, or with an IP header that is
/// cut short (`bpf_prog_test_run_skb`), and for XDP without an Ethernet header. They never reach a hook of a real device
/// either.
fn is_refused(hook: Hook, frame: &[u8]) -> bool {
    let least = match frame.get(12..14) {
        _ if hook == Hook::UplinkXdp => 14,
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => 15,
    };
    frame.len() < least
}

/// Seconds and milliseconds on the clock that the programs read.
fn clock() -> (u32, u32) {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("the clock can be read");
    let seconds = u32::try_from(time.tv_sec()).expect("a machine that runs for less than a century");
    (seconds, (time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000).cast_unsigned() as u32)
}

fn add(count: &mut Count, bytes: u64) {
    count.packets += 1;
    count.bytes += bytes;
}
