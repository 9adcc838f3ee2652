//! What was found, as text, JSON and Markdown.

use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::sample::Spread;
use crate::workspace;

/// One thing that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Figure {
    pub(super) networks: usize,
    pub(super) ports: u16,
    pub(super) path: &'static str,
    pub(super) who: String,
    /// Nanoseconds for a packet.
    pub(super) ns: Spread,
    /// The same as a ratio to NAT alone (nft), round by round.
    pub(super) of_floor: Spread,
}

/// All that was measured in one run, and where.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    quick: bool,
    rounds: usize,
    machine: String,
    kernel: String,
    date: String,
    load: String,
    figures: Vec<Figure>,
    #[serde(skip)]
    begun: Instant,
}

impl Report {
    /// Notes where and when.
    pub(super) fn begin(quick: bool, rounds: usize) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let cpus = read("/proc/cpuinfo")?;
        let models: Vec<_> = cpus
            .lines()
            .filter_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1))
            .collect();
        let date = workspace::output(std::process::Command::new("date").arg("+%-d %B %Y"))?;
        Ok(Self {
            quick,
            rounds,
            machine: format!("{} CPUs ({})", models.len(), models.first().unwrap_or(&"of unknown make")),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            date: date.trim().to_owned(),
            load: read("/proc/loadavg")?.split_whitespace().next().unwrap_or_default().to_owned(),
            figures: Vec::new(),
            begun: Instant::now(),
        })
    }

    /// Prints and keeps it.
    pub(super) fn add(&mut self, figure: Figure) {
        let Figure { who, ns, of_floor, .. } = &figure;
        println!(
            "    {who:42} {:7.0} ns ({:.0} to {:.0})  {:6.3} of the floor ({:.3} to {:.3})",
            ns.median, ns.least, ns.most, of_floor.median, of_floor.least, of_floor.most
        );
        self.figures.push(figure);
    }

    /// Writes it down, and says where.
    pub(super) fn end(self) -> Result<()> {
        let folder = workspace::root().join("target/bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("path.json", serde_json::to_string_pretty(&self).context("figures as JSON")?)?;
        write("path.md", self.markdown())?;
        println!(
            "\nin {} s; written to {}/path.json and path.md",
            self.begun.elapsed().as_secs(),
            folder.display()
        );
        Ok(())
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "{}, kernel {}, {}, load {} when it began; {} rounds by turns, medians (least to most).\n",
            self.machine, self.kernel, self.date, self.load, self.rounds
        );
        let mut last = None;
        for figure in &self.figures {
            let at = (figure.networks, figure.ports, figure.path);
            if last != Some(at) {
                last = Some(at);
                write!(
                    text,
                    "\n### {}, {} networks, {} ports\n\n| who | ns for a packet | of NAT alone (nft) |\n|---|---|---|\n",
                    at.2, at.0, at.1
                )
                .expect("a string");
            }
            let Figure { who, ns, of_floor, .. } = figure;
            writeln!(
                text,
                "| {who} | {:.0} ({:.0} to {:.0}) | {:.3} ({:.3} to {:.3}) |",
                ns.median, ns.least, ns.most, of_floor.median, of_floor.least, of_floor.most
            )
            .expect("a string");
        }
        text
    }
}
