//! `cargo xtask matrix`: who reaches whom on each generation of Docker, without fw and with it, as one table.
//!
//! Every row is probed on a host without fw first, so that each closed door has been seen open, or has a twin that is
//! open. Rows that are closed because of fw must move the counter of their reason.

mod host;
mod later;
mod rows;
mod run;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;
use std::{fmt, fs};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::lab::table::Table;
use crate::lab::{Generation, Lab, Options, POLICY};
use crate::setup::{self, Part};
use crate::workspace;

pub use host::Host;
pub use rows::{Expect, Row, rows, without_proxy};
pub use run::{Played, play, play_over_restart};

/// What `cargo xtask matrix` is told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Generations of Docker; what is not here is installed into `.cache/docker`.
    #[arg(long, value_delimiter = ',', default_values_t = Generation::ALL)]
    docker: Vec<Generation>,
    /// Who writes NAT.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Nat::Docker])]
    nat: Vec<Nat>,
    /// How dockerd runs; each in a host of its own.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Host::Plain])]
    host: Vec<Host>,
    /// A file for the table, in Markdown.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Who writes NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Nat {
    /// dockerd.
    Docker,
    /// fw, beside a dockerd that writes no rules.
    Fw,
}

impl Nat {
    /// The host on which a generation is asked.
    fn options(self, host: Host, docker: Generation) -> Options {
        let mut options = host.options(docker);
        if self == Self::Fw {
            let apart = |argument: &String| argument.starts_with("--icc") || argument.contains("tables=");
            options.dockerd.retain(|argument| !apart(argument));
            options.dockerd.extend(["--iptables=false", "--ip6tables=false"].map(str::to_owned));
            options.forward_accept = true;
        }
        options
    }

    /// What the policy says besides.
    const fn policy(self) -> &'static str {
        match self {
            Self::Docker => "",
            Self::Fw => "\n[nat]\nowner = \"fw\"\n\n[networks.bridge]\nicc = false\n",
        }
    }

    /// Why a row is not asked, if so.
    fn skips(self, row: &Row) -> Option<&'static str> {
        match (self, row.id) {
            (Self::Fw, "D45") => Some("without Docker's rules there is no DOCKER-USER"),
            (Self::Docker | Self::Fw, _) => None,
        }
    }
}

/// The town's policy, with what the rows of this generation ask for beside it.
pub fn policy(docker: Generation) -> String {
    let later = if docker >= Generation::V28_5 { later::POLICY } else { "" };
    format!("{POLICY}{}{later}", rows::POLICY)
}

/// Sets up, builds fw, asks each generation, and prints the table.
pub fn command(arguments: &Arguments) -> Result<()> {
    ensure!(setup::is_root(), "the matrix makes network namespaces, which needs root: run it with sudo");
    setup::ensure(&[Part::Build, Part::Lab])?;
    setup::ensure_generations(&arguments.docker)?;
    if std::env::var_os("FW_BIN").is_none() {
        workspace::build_fw()?;
    }
    let started = Instant::now();
    let mut columns = Vec::new();
    for docker in &arguments.docker {
        for nat in &arguments.nat {
            for host in &arguments.host {
                columns.push(Column::play(arguments, *docker, *nat, *host)?);
            }
        }
    }
    let (table, skipped) = summary(&columns);
    println!("\n{LEGEND}\n\n{table}\n{skipped}");
    println!("{} hosts in {:.0} s", columns.len(), started.elapsed().as_secs_f32());
    let missed: Vec<String> = columns.iter().flat_map(Column::missed).collect();
    if !missed.is_empty() {
        bail!("{} misses:\n{}", missed.len(), missed.join("\n"));
    }
    if let Some(file) = &arguments.out {
        let asked: Vec<String> = std::env::args().skip(1).collect();
        let kernel =
            fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
        let text = format!(
            "# Who reaches whom\n\nWritten by `cargo xtask {}` on kernel {}.\n\n{LEGEND}\n\n```text\n{table}\n{skipped}```\n",
            asked.join(" "),
            kernel.trim().split('-').next().unwrap_or_default(),
        );
        fs::write(file, text).with_context(|| format!("cannot write the table to {}", file.display()))?;
    }
    Ok(())
}

const LEGEND: &str = "Without fw → with fw. R reached, X silent, ref refused; where bridge-nf-call-iptables 1 and 0 \
    differ, 1 | 0 (with live-restore: before | after the restart of dockerd); ! not as expected.";

/// One host that was asked.
struct Column {
    docker: Generation,
    nat: Nat,
    host: Host,
    name: String,
    /// Nothing where there is no such host.
    played: Option<Played>,
}

impl Column {
    fn play(arguments: &Arguments, docker: Generation, nat: Nat, host: Host) -> Result<Self> {
        let word = |value: &dyn fmt::Debug| format!("{value:?}").to_lowercase();
        let mut name = docker.to_string();
        if arguments.nat.len() > 1 {
            name += &format!(" nat {}", word(&nat));
        }
        if arguments.host.len() > 1 || host != Host::Plain {
            name +=
                &host.to_possible_value().map_or_else(String::new, |value| format!(" {}", value.get_name()));
        }
        let mut column = Self { docker, nat, host, name, played: None };
        if column.missing().is_some() {
            return Ok(column);
        }
        let lab = Lab::start(nat.options(host, docker))?;
        let policy = format!("{}{}", policy(docker), nat.policy());
        let asked: Vec<Row> = host.rows(docker).into_iter().filter(|row| nat.skips(row).is_none()).collect();
        println!("\n{} (dockerd {})", column.name, lab.docker_version());
        // Without anybody's rules there is nothing to see before fw comes, unless that is the point.
        column.played = Some(match host {
            Host::LiveRestore => play_over_restart(&lab, &policy, &asked)?,
            _ => play(&lab, &policy, &asked, nat == Nat::Docker)?,
        });
        Ok(column)
    }

    /// Why there is no such host, if so.
    fn missing(&self) -> Option<&'static str> {
        let bare = matches!(self.host, Host::WithoutRaw | Host::WithoutRules) && self.nat == Nat::Fw;
        let bare = bare.then_some("where fw writes NAT, Docker never writes rules");
        bare.or_else(|| self.host.missing_in(self.docker))
    }

    fn missed(&self) -> impl Iterator<Item = String> {
        let missed = self.played.iter().flat_map(|played| &played.missed);
        missed.map(|miss| format!("{}: {miss}", self.name))
    }

    fn cell(&self, row: &Row) -> Result<String, String> {
        let Some(played) = &self.played else {
            return Err(self.missing().unwrap_or_default().to_owned());
        };
        played.cell(row.id).ok_or_else(|| match self.nat.skips(row) {
            Some(why) => why.to_owned(),
            None if row.since > self.docker => row.missing_in(self.docker),
            None => "these rows concern other hosts".to_owned(),
        })
    }
}

/// A line for each row that any of the hosts has: what was seen without fw, and with it; and what was skipped.
fn summary(columns: &[Column]) -> (Table, String) {
    let mut order: Vec<Row> = Vec::new();
    let hosts = columns.iter().map(|column| column.host.rows(column.docker));
    for row in Generation::ALL.into_iter().rev().map(rows).chain(hosts).flatten() {
        if !order.iter().any(|known| known.id == row.id) {
            order.push(row);
        }
    }
    order.retain(|row| columns.iter().any(|column| column.cell(row).is_ok()));
    let mut skipped: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut heading = vec!["row", "what", "target"];
    heading.extend(columns.iter().map(|column| column.name.as_str()));
    let mut table = Table::new(&heading);
    for row in &order {
        let mut cells = vec![row.id.to_owned(), row.what.to_owned(), row.target.to_string()];
        for column in columns {
            cells.push(column.cell(row).unwrap_or_else(|why| {
                skipped.entry(format!("{}: {why}", column.name)).or_default().push(row.id);
                "-".to_owned()
            }));
        }
        let cells: Vec<&dyn fmt::Display> = cells.iter().map(|cell| cell as _).collect();
        table.row(&cells);
    }
    let notes = skipped.iter().map(|(why, rows)| format!("SKIPPED: {why}: {}\n", rows.join(" ")));
    (table, notes.collect())
}
