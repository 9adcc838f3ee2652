//! What one part of the benchmark found: printed as it comes, and kept as JSON.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::sample::Spread;
use crate::workspace;

/// How many networks, and how many published ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Size {
    pub(super) networks: usize,
    pub(super) ports: u16,
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} / {}", self.networks, self.ports)
    }
}

/// One thing that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Figure {
    /// Figures of one name, size and unit are comparable. The first of them is the one that others are divided by.
    pub(super) what: String,
    /// Nothing where it does not depend on it.
    pub(super) at: Option<Size>,
    /// Nothing where there is nobody to compare with.
    pub(super) who: String,
    pub(super) unit: String,
    /// One for each round; the rounds of comparable figures ran by turns.
    pub(super) samples: Vec<f64>,
    /// The most that its median may be, where that is no ratio: those are in `targets`.
    pub(super) must: Option<f64>,
}

impl Figure {
    /// Median, least and most.
    pub(super) fn spread(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().copied())
    }

    /// Whether one may be divided by the other, if they are of the same run.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        (&self.what, self.at, &self.unit) == (&other.what, other.at, &other.unit)
    }

    /// How often the other it is, round by round.
    pub(super) fn ratios(&self, other: &Self) -> impl Iterator<Item = f64> {
        self.samples.iter().zip(&other.samples).map(|(own, other)| own / other)
    }

    /// Median, least and most of that.
    pub(super) fn to(&self, other: &Self) -> Option<Spread> {
        Spread::of(self.ratios(other))
    }
}

/// What one part of the benchmark found in one run, and where.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// Which part: the name of its file.
    name: String,
    pub(super) quick: bool,
    pub(super) rounds: usize,
    pub(super) machine: String,
    pub(super) kernel: String,
    pub(super) date: String,
    /// Average number of processes that wanted to run in the minute before.
    pub(super) load: String,
    pub(super) figures: Vec<Figure>,
    #[serde(skip, default = "Instant::now")]
    begun: Instant,
}

impl Report {
    /// Notes where and when. Named parts are listed in `page::PARTS`.
    pub(super) fn begin(name: &str, quick: bool, rounds: usize) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let cpus = read("/proc/cpuinfo")?;
        let models: Vec<_> = cpus
            .lines()
            .filter_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1))
            .collect();
        let date = workspace::output(std::process::Command::new("date").arg("+%-d %B %Y"))?;
        Ok(Self {
            name: name.to_owned(),
            quick,
            rounds,
            machine: format!("{} CPUs ({})", models.len(), models.first().unwrap_or(&"of unknown make")),
            // Behind the version stands what a distribution calls it.
            kernel: read("/proc/sys/kernel/osrelease")?
                .trim()
                .split('-')
                .next()
                .unwrap_or_default()
                .to_owned(),
            date: date.trim().to_owned(),
            load: read("/proc/loadavg")?.split_whitespace().next().unwrap_or_default().to_owned(),
            figures: Vec::new(),
            begun: Instant::now(),
        })
    }

    /// Prints and keeps it; the first of its kind is the one that others are divided by.
    pub(super) fn add(&mut self, figure: Figure) -> Result<()> {
        let spread = figure.spread().with_context(|| format!("{}: nothing was measured", figure.what))?;
        let name = if figure.who.is_empty() { &figure.what } else { &figure.who };
        let floor = self.first_of(&figure);
        if floor.is_none() && !figure.who.is_empty() {
            println!("  {}{}", figure.what, figure.at.map(|at| format!(", {at}")).unwrap_or_default());
        }
        let ratio = floor.and_then(|floor| figure.to(floor));
        let ratio = ratio.map(|ratio| format!("  {ratio:.3} of the first")).unwrap_or_default();
        println!("    {name:42} {spread:8.*} {}{ratio}", decimals(spread.median), figure.unit);
        self.figures.push(figure);
        Ok(())
    }

    /// Keeps one that somebody else has printed.
    pub(super) fn keep(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// What a figure is divided by, itself among them.
    pub(super) fn first_of(&self, figure: &Figure) -> Option<&Figure> {
        self.figures.iter().find(|first| first.is_beside(figure))
    }

    /// Writes it to target/bench, and says where.
    pub(super) fn end(self) -> Result<()> {
        let path = self.save()?;
        println!("\nin {} s; written to {}", self.begun.elapsed().as_secs(), path.display());
        Ok(())
    }

    /// Writes what there is so far: a run of half an hour may be stopped.
    pub(super) fn save(&self) -> Result<PathBuf> {
        let path = folder()?.join(format!("{}.json", self.name));
        let text = serde_json::to_string(self).context("figures as JSON")?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// What the last run of a part wrote, if it ever ran here; what another version wrote is left out, aloud.
    pub(super) fn last(name: &str) -> Result<Option<Self>> {
        let path = folder()?.join(format!("{name}.json"));
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let report = serde_json::from_str(&text);
        if let Err(error) = &report {
            println!("left out, measure it again: {}: {error}", path.display());
        }
        Ok(report.ok())
    }
}

/// Digits behind the point that mean something.
pub(super) fn decimals(value: f64) -> usize {
    match value {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    }
}

/// Where results go.
pub(super) fn folder() -> Result<PathBuf> {
    let folder = workspace::root().join("target/bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
