//! Both twins play the same; what differs is compared with the list of allowed differences.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::allowed::{Entry, Facts};
use super::policy::Policy;
use super::topology::Topology;
use super::traffic::Conversation;
use super::twin::{Fate, Record, Twin};
use crate::lab::Lab;

/// A host with stock Docker and an administrator's iptables, and its twin with fw.
pub(super) struct Twins {
    pub(super) topology: Topology,
    pub(super) policy: Policy,
    stock: Twin,
    fw: Twin,
    next: AtomicU32,
}

/// A packet that fared otherwise with fw.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    /// Place of its conversation in the list.
    pub(super) conversation: usize,
    pub(super) step: u8,
    pub(super) fragment: u8,
    pub(super) stock: Fate,
    pub(super) fw: Fate,
    /// Why it is allowed; none if it is not.
    pub(super) allowed: Vec<&'static Entry>,
}

/// What fw counted: packets by hook and reason.
pub(super) type Counters = BTreeMap<(String, String), u64>;

/// What a replay showed.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Packets and fragments that stock Docker's host was sent.
    pub(super) packets: usize,
    /// Those of them that arrived somewhere.
    pub(super) arrived: usize,
    pub(super) differences: Vec<Difference>,
}

impl Outcome {
    /// Differences that no list allows.
    pub(super) fn unlisted(&self) -> impl Iterator<Item = &Difference> {
        self.differences.iter().filter(|difference| difference.allowed.is_empty())
    }
}

impl Twins {
    /// Builds both hosts, side by side.
    pub(super) fn build(topology: &Topology, policy: &Policy) -> Result<Self> {
        let build = || Twin::build(Lab::start(topology.options())?, topology);
        let (stock, fw) = thread::scope(|scope| {
            let stock = scope.spawn(build);
            let fw = build();
            (stock.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), fw)
        });
        Ok(Self {
            topology: topology.clone(),
            policy: policy.clone(),
            stock: stock?,
            fw: fw?,
            next: AtomicU32::new(1),
        })
    }

    /// Plays what `work` plays with this policy in force on both hosts and nothing remembered.
    pub(super) fn with_policy<T>(
        &mut self,
        policy: &Policy,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.policy = policy.clone();
        let stock = &self.stock.lab;
        stock
            .host()
            .script(&policy.iptables(&self.topology))
            .context("cannot write the administrator's rules")?;
        for twin in [&self.stock, &self.fw] {
            twin.lab.host().run(&["conntrack", "-F"]).context("cannot make a host forget its connections")?;
        }
        // The administrator's rules ask connection tracking, which joins fragments; IPv6 has it on both hosts.
        let tracking =
            "ip6tables -w -t mangle -F FORWARD; ip6tables -w -t mangle -A FORWARD -m conntrack --ctstate NEW";
        self.fw.lab.host().script(tracking).context("cannot switch connection tracking on")?;
        self.start_fw()?;
        let done = work(self);
        self.stop_fw()?;
        done
    }

    /// The daemon ends, and what it has put in force stays: nothing happens but by packets.
    fn start_fw(&self) -> Result<()> {
        self.fw.lab.fw_run(&self.policy.file())?.terminate()
    }

    fn stop_fw(&self) -> Result<()> {
        self.fw.lab.fw_down()
    }

    /// How long docker-proxy may take.
    pub(super) fn set_patience(&mut self, patience: Duration) {
        self.stock.patience = patience;
        self.fw.patience = patience;
    }

    /// Plays conversations on both hosts and compares.
    pub(super) fn play(&self, conversations: &[Conversation]) -> Result<Outcome> {
        let base = self.next.fetch_add(u32::try_from(conversations.len()).unwrap_or(0), Ordering::Relaxed);
        let (stock, fw) = thread::scope(|scope| {
            let (ours, theirs) = (&self.fw, &self.stock);
            let stock = scope.spawn(|| theirs.play(conversations, base));
            let fw = ours.play(conversations, base);
            (stock.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), fw)
        });
        Ok(self.compare(
            conversations,
            &stock.context("on the host without fw")?,
            &fw.context("on the host with fw")?,
        ))
    }

    fn compare(&self, conversations: &[Conversation], stock: &Record, fw: &Record) -> Outcome {
        let keys: BTreeSet<_> = stock.fates.keys().chain(fw.fates.keys()).copied().collect();
        let mut outcome = Outcome { packets: stock.fates.len(), ..Outcome::default() };
        outcome.arrived = stock.fates.values().filter(|fate| fate.arrived_somewhere()).count();
        let mut differing: BTreeMap<usize, u8> = BTreeMap::new();
        for key @ (conversation, step, fragment) in keys {
            let (here, there) = (fate(stock, key), fate(fw, key));
            let described = &conversations[conversation];
            let earlier = differing.get(&conversation).is_some_and(|first| *first < step)
                || described.after.is_some_and(|other| differing.contains_key(&other));
            // What answers a packet that arrived on one host alone was sent there alone.
            let unanswered = earlier && (here == Fate::NotSent || there == Fate::NotSent);
            if here == there || unanswered {
                continue;
            }
            let sent = stock.sent.get(&(conversation, step)).or(fw.sent.get(&(conversation, step)));
            let facts = Facts {
                topology: &self.topology,
                policy: &self.policy,
                conversation: described,
                before: described.after.and_then(|other| conversations.get(other)),
                step: usize::from(step),
                sent,
                stock: &here,
                fw: &there,
                earlier,
                lost: (0..step).any(|step| {
                    [stock, fw]
                        .iter()
                        .all(|record| !fate(record, (conversation, step, 0)).arrived_somewhere())
                }),
            };
            let allowed = facts.entries();
            differing.entry(conversation).or_insert(step);
            outcome.differences.push(Difference {
                conversation,
                step,
                fragment,
                stock: here,
                fw: there,
                allowed,
            });
        }
        outcome
    }

    /// What fw has counted.
    pub(super) fn counters(&self) -> Result<Counters> {
        let status = self.fw.lab.fw(&["table", "counters", "--json"])?;
        let rows: Vec<serde_json::Value> =
            serde_json::from_str(&status).context("`fw table counters --json` did not print a list")?;
        let mut counters = Counters::new();
        for row in rows {
            let (Some(hook), Some(reason), Some(packets)) =
                (row["hook"].as_str(), row["reason"].as_str(), row["packets"].as_u64())
            else {
                anyhow::bail!("a row of `fw table counters --json` lacks hook, reason or packets: {row}");
            };
            *counters.entry((hook.to_owned(), reason.to_owned())).or_default() += packets;
        }
        Ok(counters)
    }

    /// The host without fw, and that with it.
    pub(super) fn labs(&self) -> [&Lab; 2] {
        [&self.stock.lab, &self.fw.lab]
    }
}

fn fate(record: &Record, key: (usize, u8, u8)) -> Fate {
    record.fates.get(&key).cloned().unwrap_or_default()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}, fragment {}: stock: {}; fw: {}", self.step, self.fragment, self.stock, self.fw)
    }
}
