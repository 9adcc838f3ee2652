//! Single figures, each with what it must be: printed as they are found, and kept as JSON.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::sample::Spread;
use crate::workspace;

/// One thing that was measured.
#[derive(Debug, Serialize)]
struct Figure {
    what: String,
    /// Median of what was found.
    value: f64,
    unit: &'static str,
    least: f64,
    most: f64,
    samples: usize,
    /// The most that it may be.
    must: Option<f64>,
}

/// All figures of one run, and where they come from.
#[derive(Debug, Serialize)]
pub(super) struct Sheet {
    machine: String,
    kernel: String,
    date: String,
    load: String,
    /// Cargo's profile of the daemon.
    build: &'static str,
    figures: Vec<Figure>,
}

impl Sheet {
    /// Notes where and when.
    pub(super) fn begin(build: &'static str) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let cpus = std::thread::available_parallelism().context("cannot count CPUs")?;
        let date = workspace::output(Command::new("date").arg("+%-d %B %Y"))?;
        let first = |text: String, between: char| text.split(between).next().unwrap_or_default().to_owned();
        let sheet = Self {
            machine: format!("{cpus} CPUs"),
            kernel: first(read("/proc/sys/kernel/osrelease")?.trim().to_owned(), '-'),
            date: date.trim().to_owned(),
            load: first(read("/proc/loadavg")?, ' '),
            build,
            figures: Vec::new(),
        };
        println!(
            "{}, kernel {}, {}, load {}, fw built as {build}; medians (least to most)",
            sheet.machine, sheet.kernel, sheet.date, sheet.load
        );
        Ok(sheet)
    }

    /// A heading of what follows.
    pub(super) fn about(what: &str) {
        println!("\n{what}");
    }

    /// Prints and keeps a figure of at least one sample, and the most that it may be.
    pub(super) fn add(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        samples: &[f64],
        must: Option<f64>,
    ) -> Result<()> {
        let what = what.into();
        // Times are promised of what is shipped.
        let must = must.filter(|_| self.build == "release" || unit.is_empty());
        let spread = Spread::of(samples.iter().copied());
        let Spread { median, least, most } = spread.with_context(|| format!("no sample of: {what}"))?;
        let judged = match must {
            Some(must) if median <= must => format!("  must be {must} {unit} at most"),
            Some(must) => format!("  MISSED: must be {must} {unit} at most"),
            None => String::new(),
        };
        println!("  {what:66} {median:10.2} {unit:4} ({least:.2} to {most:.2}){judged}");
        self.figures.push(Figure { what, value: median, unit, least, most, samples: samples.len(), must });
        Ok(())
    }

    /// Writes it to target/bench/NAME.json.
    pub(super) fn end(self, name: &str) -> Result<()> {
        let folder = workspace::root().join("target/bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(&self).context("figures as JSON")?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("\nwritten to {}", path.display());
        Ok(())
    }
}
