//! `cargo xtask bench`: measurements that anyone can rerun.

mod bare;
mod control;
mod crowd;
mod path;
mod peers;
mod report;
mod room;
mod sample;
mod scale;
mod sheet;
mod street;
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
    /// Fewer sizes and rounds: under three minutes.
    #[arg(long)]
    quick: bool,
    /// Only what has this in its title ("10 networks"), or beside the floor those that have it in their name ("fw").
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Write docs/performance.md.
    #[arg(long, conflicts_with = "only")]
    docs: bool,
}

/// What to measure, if not the whole path of a packet.
#[derive(Clone, Copy, Debug, Subcommand)]
enum Bench {
    /// What the verifier walks for each program, and what a run of each costs for a typical accept and drop.
    Verifier,
    /// What the control plane takes: from Docker's event to the last map write, resync, restart, reload, memory.
    Control,
    /// What a million flows and prefixes and thousands of networks, containers and ports take.
    Scale,
    /// What a set of a million prefixes takes: from the policy file into force, in memory, and for each packet.
    Sets,
}

/// Measures.
pub fn run(arguments: &Arguments) -> Result<()> {
    ensure!(setup::is_root(), "measuring needs root: run it with sudo");
    let inside = match arguments.what {
        None => {
            let only = arguments.only.as_deref().unwrap_or_default();
            path::run(arguments.quick, only, arguments.docs)?;
            return if arguments.quick && only.is_empty() { control::run(true) } else { Ok(()) };
        }
        Some(Bench::Control) => return control::run(arguments.quick),
        Some(Bench::Scale) => return scale::run(),
        Some(Bench::Verifier) => ["--bench", "verifier", "--profile", "bench"],
        // What the daemon does counts here, too.
        Some(Bench::Sets) => ["--bench", "sets", "--profile", "release"],
    };
    setup::ensure(&[Part::Build])?;
    let mut cargo = workspace::cargo();
    workspace::run(cargo.args(["bench", "--quiet", "--package", "fw-user"]).args(inside))
}
