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
    pub(super) path: String,
    pub(super) who: String,
    /// Nanoseconds for a packet.
    pub(super) ns: Spread,
    /// The same as a ratio to the first on this path, round by round.
    pub(super) of_first: Spread,
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

    /// Prints and keeps it.
    pub(super) fn add(&mut self, figure: Figure) {
        let Figure { who, ns, of_first, .. } = &figure;
        println!(
            "    {who:42} {:7.0} ns ({:.0} to {:.0})  {:6.3} of the first ({:.3} to {:.3})",
            ns.median, ns.least, ns.most, of_first.median, of_first.least, of_first.most
        );
        self.figures.push(figure);
    }

    /// Writes it down, with `docs` in docs/performance.md, too, and says where.
    pub(super) fn end(self, docs: bool) -> Result<()> {
        let folder = workspace::root().join("target/bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("path.json", serde_json::to_string_pretty(&self).context("figures as JSON")?)?;
        write("path.md", self.markdown())?;
        if docs {
            let path = workspace::root().join("docs/performance.md");
            fs::write(&path, format!("{INTRODUCTION}{}", self.markdown()))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
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
            let at = (figure.networks, figure.ports, &figure.path);
            if last != Some(at) {
                last = Some(at);
                write!(
                    text,
                    "\n### {}, {} networks, {} ports\n\n| who | ns for a packet | of the first |\n|---|---|---|\n",
                    at.2, at.0, at.1
                )
                .expect("a string");
            }
            let Figure { who, ns, of_first, .. } = figure;
            writeln!(
                text,
                "| {who} | {:.0} ({:.0} to {:.0}) | {:.3} ({:.3} to {:.3}) |",
                ns.median, ns.least, ns.most, of_first.median, of_first.least, of_first.most
            )
            .expect("a string");
        }
        text
    }
}

/// How docs/performance.md begins.
const INTRODUCTION: &str = "\
# What a packet costs

Written by `cargo xtask bench --docs`; not by hand. Hosts of everybody in the field are alive at once and sampled by turns.
Frames of 64 bytes of UDP are made by a program in the kernel (`BPF_PROG_TEST_RUN` with live frames), come in by the uplink, or
for replies by the container's port, and end in a program that counts them at the other end: a sample in which one was lost
is an error. What counts is CPU time of one core. *Established* and *reply* are 64 flows that the kernel knows; *new flow*
is the first packet of a connection, each time; *unwanted* goes to a port that nobody serves. The container that is
measured was there first, so that Docker's lists have it last. *Dropped at TCX*, *by generic* and *by native XDP* hold fw's
drop against a program that parses and drops, and does nothing else.

The floor is NAT alone, with the rules that Docker writes for it. `nat.owner = docker` has Docker's filter rules in place,
which vetted packets skip; with `nat.owner = fw` there are none but fw's own few. Without a real NIC all ratios are larger
than they would be: what a driver costs is in none of the figures.

Each packet visits one hook of fw on its way in and three on its way out. That cost does not grow with networks and ports;
that of Docker's rules does, up to Docker 27 for every packet. With very few networks fw costs more than they do.

";
