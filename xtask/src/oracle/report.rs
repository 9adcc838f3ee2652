//! What a run has shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use fw_common::Reason;

use super::allowed::ALLOWED;
use super::replay::{Counters, Outcome};

/// Sums over a run.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) packets: usize,
    arrived: usize,
    /// Time for making hosts, and for sending packets.
    pub(super) building: Duration,
    pub(super) playing: Duration,
    used: BTreeMap<&'static str, usize>,
    reached: BTreeSet<String>,
    /// Cases written for differences that no list allows.
    cases: Vec<PathBuf>,
    /// Differences that did not show again.
    unsteady: Vec<String>,
}

impl Report {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            packets: 0,
            arrived: 0,
            building: Duration::ZERO,
            playing: Duration::ZERO,
            used: BTreeMap::new(),
            reached: BTreeSet::new(),
            cases: Vec::new(),
            unsteady: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.packets += outcome.packets;
        self.arrived += outcome.arrived;
        for entry in outcome.differences.iter().filter_map(|difference| difference.allowed.first()) {
            *self.used.entry(entry.name).or_default() += 1;
        }
    }

    /// Remembers which reasons fw has given.
    pub(super) fn count(&mut self, counters: Counters) {
        self.reached
            .extend(counters.into_iter().filter(|(_, packets)| *packets > 0).map(|((_, reason), _)| reason));
    }

    pub(super) fn case(&mut self, file: PathBuf) {
        self.cases.push(file);
    }

    pub(super) fn unsteady(&mut self, what: String) {
        self.unsteady.push(what);
    }

    /// An error if anything was found, or too much did not show again to be called chance.
    pub(super) fn verdict(&self) -> Result<()> {
        if !self.cases.is_empty() {
            bail!("{} differences are on no list; each has its case file", self.cases.len());
        }
        if self.unsteady.len() > MOST_UNSTEADY {
            bail!(
                "{} differences did not show again: the oracle measures something else",
                self.unsteady.len()
            );
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.packets as u128 * 1000 / self.playing.as_millis().max(1);
        writeln!(
            f,
            "seed {}: {} packets to each host, {} arrived on the one without fw; {rate} packets a second \
             ({:.1} s, and {:.1} s for making hosts)",
            self.seed,
            self.packets,
            self.arrived,
            self.playing.as_secs_f32(),
            self.building.as_secs_f32()
        )?;
        writeln!(f, "\nallowed differences, by entry:")?;
        for entry in ALLOWED {
            let used = self.used.get(entry.name).copied().unwrap_or(0);
            let never = if used == 0 { "  (never used)" } else { "" };
            writeln!(f, "  {used:>7}  {}{never}", entry.name)?;
            writeln!(f, "           {} [{}]", entry.why, entry.source)?;
        }
        let beyond: BTreeMap<_, _> = BEYOND.iter().copied().collect();
        let names = Reason::ALL.iter().map(|reason| reason.name());
        let all = || names.clone().filter(|name| !beyond.contains_key(name));
        let missed: Vec<_> = all().filter(|name| !self.reached.contains(*name)).collect();
        let all = all().count();
        writeln!(f, "\nreasons: {} of {all} reached; never: {}", all - missed.len(), missed.join(", "))?;
        for (name, why) in BEYOND {
            writeln!(f, "  out of its reach: {name}: {why}")?;
        }
        for unsteady in &self.unsteady {
            writeln!(f, "did not show again: {unsteady}")?;
        }
        for case in &self.cases {
            writeln!(f, "UNLISTED: {}", case.display())?;
        }
        Ok(())
    }
}

/// Reasons that the oracle's traffic cannot reach, with why.
const BEYOND: &[(&str, &str)] = &[
    ("other-host", "frames for other machines are not counted"),
    ("link", "no container is started with --link; xtask/tests/icc has them"),
    ("spoofed-neighbour", "ARP and advertisements bear no tag by which their arrival is known"),
    ("unknown-interface", "the tables know every device before the first packet"),
    ("over-limit", "policies have no [[limit]]: hashlimit's buckets fill otherwise"),
];

/// docker-proxy is a process: on a busy machine it may take longer than the oracle waits.
const MOST_UNSTEADY: usize = 5;
