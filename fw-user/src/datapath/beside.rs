//! The programs a second time, attached nowhere: to be run on a packet that nobody has sent, without a trace.
//!
//! What programs only read they share with those in force: the pinned maps themselves. What they write is their own, and
//! small: flows, buckets, counters, events. So a run finds what a packet would find now, and leaves nothing behind.

use std::collections::BTreeMap;

use aya::EbpfLoader;
use fw_common::flow::{Flow, FlowKey};
use fw_common::tables::{Bucket, BucketKey, Datagram, DatagramKey};
use fw_common::{Hook, Reason};

use super::{DatapathError, Directory, Maps, OBJECT, Programs, Seen};
use crate::desired::Early;
use crate::plan::{State, plan};

/// The maps that no program writes.
const READ: [&str; 17] = [
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
    "reach",
    "links",
    "outbound",
    "limits",
    "names",
];

/// The maps that programs write and that hold many entries: here a few do. An LRU map gives each CPU some to begin with.
const WRITTEN: [&str; 6] = ["flows", "budgets", "inbound_flows", "buckets", "datagrams", "fast_paths"];
const ENTRIES: u32 = 16_384;

/// What packets have left behind that another one finds.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// Flows that went out.
    pub flows: BTreeMap<FlowKey, Flow>,
    /// Flows that came in.
    pub inbound_flows: BTreeMap<FlowKey, Flow>,
    /// Token buckets.
    pub buckets: BTreeMap<BucketKey, Bucket>,
    /// Datagrams of which a first fragment was let through.
    pub datagrams: BTreeMap<DatagramKey, Datagram>,
}

/// What a program made of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Whether the kernel drops it; never while only observing.
    pub dropped: bool,
    /// What it was counted for. `None` where nothing is counted: frames for another machine, and what XDP leaves to the
    /// next hook.
    pub reason: Option<Reason>,
    /// The rule that was counted, 0 if none was.
    pub rule: u32,
    /// The packet's mark afterwards.
    pub mark: u32,
}

/// The programs with maps of which none that is in force is written.
pub struct Beside {
    programs: Programs,
    maps: Maps,
}

impl Beside {
    /// Beside the programs in force: the same tables, which go on changing as the daemon writes them.
    pub fn of(directory: &Directory) -> Result<Self, DatapathError> {
        // A map without a pin would get one: all must be there, and laid out as ours.
        drop(Maps::open(directory.path())?);
        let mut loader = loader();
        for name in READ {
            loader.map_pin_path(name, directory.path().join(name));
        }
        Self::load(&mut loader)
    }

    /// With tables of its own that hold `state`; `sizes` says how many entries maps of these names hold.
    pub fn with(state: &State, sizes: &[(&'static str, u32)]) -> Result<Self, DatapathError> {
        let mut loader = loader();
        for (name, entries) in sizes.iter().filter(|(name, _)| READ.contains(name)) {
            loader.map_max_entries(name, *entries);
        }
        let mut beside = Self::load(&mut loader)?;
        beside.maps.apply_all(&plan(&State::default(), state))?;
        Ok(beside)
    }

    fn load(loader: &mut EbpfLoader<'_>) -> Result<Self, DatapathError> {
        let mut object = loader.load(OBJECT).map_err(|source| DatapathError::Load(Box::new(source)))?;
        let maps = Maps::from_source(|name| Ok(object.take_map(name)))?;
        Ok(Self { programs: Programs { object }, maps })
    }

    /// The tables that the programs read.
    pub fn tables(&self) -> &Maps {
        &self.maps
    }

    /// The digest of a program's instructions, by which the kernel tells programs apart.
    pub fn tag(&mut self, hook: Hook) -> Result<u64, DatapathError> {
        self.prepare(hook)?;
        let program = self.programs.object.program(hook.name()).ok_or_else(|| super::missing(hook))?;
        let info = program
            .info()
            .map_err(|source| DatapathError::Program { program: hook.name(), source: Box::new(source) })?;
        Ok(info.tag())
    }

    /// Runs the program of this hook on a frame, where packets have left this much and nothing else behind. `rules` are
    /// those that it may count.
    pub fn run(
        &mut self,
        hook: Hook,
        frame: &[u8],
        seen: Seen,
        left: &Left,
        rules: impl Iterator<Item = u32>,
    ) -> Result<Judged, DatapathError> {
        self.prepare(hook)?;
        self.put(left)?;
        let mut before = BTreeMap::new();
        for rule in rules {
            before.insert(rule, self.maps.rule(rule)?);
        }
        let counted = self.maps.counters()?;
        let run = self.programs.test_run_of(hook, frame, seen, 1)?;
        let now = self.maps.counters()?;
        let moved = now.iter().find(|(of, count)| counted.get(of) != Some(count));
        let mut rule = 0;
        for (of, count) in before {
            if self.maps.rule(of)? != count {
                rule = of;
            }
        }
        let drop = if hook == Hook::UplinkXdp { XDP_DROP } else { TCX_DROP };
        let reason = moved.map(|((_, reason), _)| *reason);
        Ok(Judged { dropped: run.action == drop, reason, rule, mark: run.mark })
    }

    /// Loads the program, unless it is.
    fn prepare(&mut self, hook: Hook) -> Result<(), DatapathError> {
        if hook == Hook::UplinkXdp {
            return self.programs.load_early(Early::Native);
        }
        let program = self.programs.classifier_mut(hook)?;
        if program.fd().is_ok() {
            return Ok(());
        }
        program
            .load()
            .map_err(|source| DatapathError::Program { program: hook.name(), source: Box::new(source) })
    }

    /// Has the maps that programs write hold this and nothing else.
    fn put(&mut self, left: &Left) -> Result<(), DatapathError> {
        let maps = &mut self.maps;
        for key in maps.flows()?.keys() {
            maps.remove_flow(key)?;
        }
        for key in maps.inbound_flows()?.keys() {
            maps.remove_inbound_flow(key)?;
        }
        for key in maps.buckets()?.keys() {
            maps.put_bucket(key, None)?;
        }
        for key in maps.datagrams()?.keys() {
            maps.put_datagram(key, None)?;
        }
        for place in maps.budgeted()?.keys() {
            maps.put_budgeted(place, None)?;
        }
        for (key, flow) in &left.flows {
            maps.put_flow(key, flow)?;
        }
        for (key, flow) in &left.inbound_flows {
            maps.put_inbound_flow(key, flow)?;
        }
        for (key, bucket) in &left.buckets {
            maps.put_bucket(key, Some(bucket))?;
        }
        for (key, datagram) in &left.datagrams {
            maps.put_datagram(key, Some(datagram))?;
        }
        Ok(())
    }
}

fn loader<'a>() -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    for name in WRITTEN {
        loader.map_max_entries(name, ENTRIES);
    }
    loader
}

/// The kernel's codes for a drop (`include/uapi/linux/bpf.h`).
const XDP_DROP: i32 = 1;
const TCX_DROP: i32 = 2;

#[cfg(test)]
mod tests {
    use super::super::MAP_NAMES;
    use super::*;

    /// A name that is misspelt would be a map of its own instead of the one in force.
    #[test]
    fn names_are_those_of_maps() {
        for name in READ.iter().chain(&WRITTEN) {
            assert!(MAP_NAMES.contains(name), "{name}");
            assert!(!(READ.contains(name) && WRITTEN.contains(name)), "{name}");
        }
    }
}
