//! `cargo xtask bench`: measurements that anyone can rerun.

mod bare;
mod control;
mod crowd;
mod known;
mod metrics;
mod monitor;
mod netfilter;
mod page;
mod path;
mod peers;
mod plot;
mod report;
mod room;
mod sample;
mod scale;
mod sheet;
mod sockets;
mod street;
mod targets;
mod told;
mod traffic;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};

use crate::setup::{self, Part};
use crate::workspace;

/// What `cargo xtask bench` is told.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: Option<Bench>,
    /// Fewer sizes and rounds: under three minutes. Fails if fw is slower, beside the floor, than it is known to be.
    #[arg(long, global = true)]
    quick: bool,
    /// Only what has this in its title ("10 networks"), or beside the floor those that have it in their name ("fw").
    #[arg(long, global = true, value_name = "TEXT")]
    only: Option<String>,
    /// Write docs/performance.md and its pictures.
    #[arg(long, global = true, conflicts_with = "only")]
    docs: bool,
}

/// What to measure, if not all that a packet meets.
#[derive(Clone, Copy, Debug, Subcommand)]
enum Bench {
    /// What a packet costs on its way through the host.
    Path,
    /// What TCP costs through a published port: round trips, connections, bulk.
    Sockets,
    /// What rules of netfilter cost beside fw: its fail-safe, its rules among Docker's, Docker's in raw PREROUTING.
    Netfilter,
    /// What dropping costs with and without somebody who follows the drops, and what they see of a flood.
    Monitor,
    /// What the control plane takes: from Docker's event to the last map write, resync, restart, reload, memory.
    Control,
    /// What a million flows and prefixes and thousands of networks, containers and ports take.
    Scale,
    /// What a scrape of the metrics takes on a host with 500 networks and 1000 ports.
    Metrics,
    /// Nothing: write the page from what the last run of each part found, and with `--quick` hold it to what is known.
    Page,
    /// What the verifier walks for each program, and what a run of each costs for a typical accept and drop.
    Verifier,
    /// What a set of a million prefixes takes: from the policy file into force, in memory, and for each packet.
    Sets,
}

/// Measures.
pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { what, quick, only, docs } = arguments;
    ensure!(setup::is_root() || matches!(what, Some(Bench::Page)), "measuring needs root: run it with sudo");
    let only = only.as_deref();
    match what {
        None => {
            path::run(*quick, only.unwrap_or_default())?;
            sockets::run(*quick, only.unwrap_or_default())?;
            if *quick && only.is_none() {
                control::run(true)?;
            }
        }
        Some(Bench::Control) => control::run(*quick)?,
        Some(Bench::Scale) => scale::run()?,
        Some(Bench::Metrics) => return metrics::run(*quick),
        Some(Bench::Path) => path::run(*quick, only.unwrap_or_default())?,
        Some(Bench::Sockets) => sockets::run(*quick, only.unwrap_or_default())?,
        Some(Bench::Netfilter) => return netfilter::run(*quick, only.unwrap_or_default()),
        Some(Bench::Monitor) => return monitor::run(*quick),
        Some(Bench::Page) => {}
        Some(Bench::Verifier) => return of_fw_user(&["--bench", "verifier", "--profile", "bench"]),
        // What the daemon does counts here, too.
        Some(Bench::Sets) => return of_fw_user(&["--bench", "sets", "--profile", "release"]),
    }
    let found = page::Found::read()?;
    page::write(&found, *docs)?;
    let whole = only.is_none() && matches!(what, None | Some(Bench::Page));
    if *quick && whole { known::hold(&found) } else { Ok(()) }
}

/// A benchmark of the package's own.
fn of_fw_user(arguments: &[&str]) -> Result<()> {
    setup::ensure(&[Part::Build])?;
    let mut cargo = workspace::cargo();
    workspace::run(cargo.args(["bench", "--quiet", "--package", "fw-user"]).args(arguments))
}
