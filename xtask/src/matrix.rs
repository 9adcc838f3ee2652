//! `cargo xtask matrix`: who reaches whom on each generation of Docker, without fw and with it, as one table.
//!
//! Every row is probed on a host without fw first, so that each closed door has been seen open, or has a twin that is
//! open. Rows that are closed because of fw must move the counter of their reason.

mod later;
mod rows;
mod run;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::lab::table::Table;
use crate::lab::{Generation, Lab, Options, POLICY, Town};
use crate::setup::{self, Part};
use crate::workspace;

pub use rows::{Expect, Row, rows, without_proxy};
pub use run::{Played, play};

/// What `cargo xtask matrix` is told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Generations of Docker; what is not here is installed into `.cache/docker`.
    #[arg(long, value_delimiter = ',', default_values_t = Generation::ALL)]
    docker: Vec<Generation>,
    /// Who writes NAT.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Nat::Docker])]
    nat: Vec<Nat>,
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
    fn options(self, docker: Generation) -> Options {
        match self {
            Self::Docker => options(docker),
            // dockerd refuses to keep the default network's containers apart without rules of its own.
            Self::Fw => {
                let dockerd = ["--iptables=false", "--ip6tables=false"].map(str::to_owned).to_vec();
                Options { dockerd, docker, forward_accept: true, ..Options::default() }
            }
        }
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
            (Self::Fw, "D36a") => Some("without Docker's rules nobody lets networks meet"),
            (Self::Docker | Self::Fw, _) => None,
        }
    }
}

/// The host on which a generation is asked.
pub fn options(docker: Generation) -> Options {
    Options { dockerd: Town::dockerd(), docker, ..Options::default() }
}

/// The town's policy, with what the rows of this generation ask for beside it.
pub fn policy(docker: Generation) -> String {
    if docker >= Generation::V28_5 { format!("{POLICY}{}", later::POLICY) } else { POLICY.to_owned() }
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
    let (mut columns, mut missed) = (Vec::new(), Vec::new());
    for generation in &arguments.docker {
        for nat in &arguments.nat {
            let lab = Lab::start(nat.options(*generation))?;
            let policy = format!("{}{}", policy(*generation), nat.policy());
            let asked: Vec<Row> =
                rows(*generation).into_iter().filter(|row| nat.skips(row).is_none()).collect();
            // Without anybody's rules there is nothing to see before fw comes.
            let played = play(&lab, &policy, &asked, *nat == Nat::Docker)?;
            let name =
                if arguments.nat.len() > 1 { format!(" nat {nat:?}").to_lowercase() } else { String::new() };
            missed.extend(played.missed.iter().map(|miss| format!("{generation}{name}: {miss}")));
            columns.push((*generation, *nat, format!("{}{name}", lab.docker_version()), played));
        }
    }
    println!("{}", summary(&columns));
    println!("{} hosts in {:.0} s", columns.len(), started.elapsed().as_secs_f32());
    if !missed.is_empty() {
        bail!("{} misses:\n{}", missed.len(), missed.join("\n"));
    }
    Ok(())
}

/// A line for each row of any generation: what was seen without fw, and with it.
fn summary(columns: &[(Generation, Nat, String, Played)]) -> String {
    let mut order: Vec<Row> = Vec::new();
    for row in Generation::ALL.into_iter().rev().flat_map(rows) {
        if !order.iter().any(|known| known.id == row.id) {
            order.push(row);
        }
    }
    let mut skipped: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let headings: Vec<String> = columns.iter().map(|(_, _, name, _)| name.clone()).collect();
    let mut heading = vec!["row", "what", "target"];
    heading.extend(headings.iter().map(String::as_str));
    let mut table = Table::new(&heading);
    for row in &order {
        let mut cells = vec![row.id.to_owned(), row.what.to_owned(), row.target.to_string()];
        for (generation, nat, name, played) in columns {
            cells.push(played.cell(row.id).unwrap_or_else(|| {
                let why = nat.skips(row).map_or_else(|| row.missing_in(*generation), str::to_owned);
                let why = format!("dockerd {name}: {why}");
                skipped.entry(why).or_default().push(row.id);
                "-".to_owned()
            }));
        }
        let cells: Vec<&dyn std::fmt::Display> = cells.iter().map(|cell| cell as _).collect();
        table.row(&cells);
    }
    let notes: Vec<String> =
        skipped.iter().map(|(why, rows)| format!("SKIPPED: {why}: {}\n", rows.join(" "))).collect();
    format!(
        "\nWithout fw → with fw. R reached, X silent, ref refused; where bridge-nf-call-iptables 1 and 0 differ, 1 | 0; \
         ! not as expected.\n\n{table}\n{}",
        notes.concat()
    )
}
