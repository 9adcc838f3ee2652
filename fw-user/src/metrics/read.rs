//! What a scrape reads: the maps as they are at that moment, what the daemon has told, and the process itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use fw_common::flow::{Flow, FlowKey};
use fw_common::tables::{Count, Daemon};

use super::families::{FLOWS, FROM_PACKETS};
use super::told::{Meters, Told};
use crate::datapath::{DatapathError, Drops, Maps, map_sample, map_size};
use crate::reconcile::{chain, monotonic_seconds};

/// All of it.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) told: Told,
    /// An error while the maps are not those of this fw: another version's, or taken away.
    pub(super) tables: Result<Tables, String>,
    pub(super) process: Process,
    /// Seconds that reading took.
    pub(super) took: f64,
}

/// What the maps hold.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// What this daemon has said of itself; nothing before its first pass, when it is what one before has said.
    pub(super) daemon: Option<Daemon>,
    pub(super) counters: Drops,
    /// By the number of the rule.
    pub(super) rules: BTreeMap<u32, Count>,
    /// Drops of which no event tells.
    pub(super) events_lost: u64,
    /// How many entries maps hold at most.
    pub(super) sizes: BTreeMap<&'static str, u32>,
    /// Entries of the maps that packets fill.
    pub(super) filled: BTreeMap<&'static str, u64>,
    /// Flows that are alive.
    pub(super) flows: BTreeMap<&'static str, u64>,
}

/// What the kernel says of this process.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// Seconds of CPU that it has used.
    pub(super) cpu: f64,
    /// Bytes of its memory that are resident.
    pub(super) memory: u64,
    /// Files that it has open.
    pub(super) files: usize,
    /// When it was started, in seconds since 1970.
    pub(super) started: f64,
}

/// Reads everything. `started` is when this process was, in seconds since 1970.
pub(super) fn read(directory: &Path, meters: &Meters, started: f64) -> Reading {
    let begun = Instant::now();
    let told = meters.told();
    let tables = tables(directory, &told).map_err(|error| chain(&error));
    let process = process(started);
    Reading { told, tables, process, took: begun.elapsed().as_secs_f64() }
}

fn tables(directory: &Path, told: &Told) -> Result<Tables, DatapathError> {
    let maps = Maps::open(directory)?;
    let daemon = Some(maps.daemon()?).filter(|daemon| daemon.pid == std::process::id());
    let events_lost = maps.missed_events()?.iter().sum();
    let mut tables = Tables { daemon, counters: maps.counters()?, events_lost, ..Tables::default() };
    for id in told.host.counted.iter().flat_map(|counted| counted.rules.keys()) {
        tables.rules.insert(*id, maps.rule(*id)?);
    }
    for map in told.host.entries.keys().chain(&FROM_PACKETS) {
        tables.sizes.insert(map, map_size(directory, map)?);
    }
    let now = monotonic_seconds() as u32;
    for map in FROM_PACKETS {
        let sample = map_sample(directory, map)?;
        tables.filled.insert(map, sample.entries());
        if let Some((_, is_over)) = FLOWS.iter().find(|(name, _)| *name == map) {
            let pairs = sample.pairs::<FlowKey, Flow>();
            let live = pairs.filter(|(key, flow)| !is_over(flow, key.proto, now)).count();
            tables.flows.insert(map, sample.all(live as u32));
        }
    }
    Ok(tables)
}

/// What cannot be read is zero.
fn process(started: f64) -> Process {
    let cpu = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = resident.and_then(|words| words.split_whitespace().next()?.parse::<u64>().ok());
    Process {
        cpu: cpu.map_or(0.0, |cpu| Duration::from(cpu).as_secs_f64()),
        memory: kibibytes.unwrap_or(0) * 1024,
        files: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        started,
    }
}
