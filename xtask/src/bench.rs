//! `cargo xtask bench`: measurements that anyone can rerun.

use anyhow::{Result, ensure};
use clap::Subcommand;

use crate::setup::{self, Part};
use crate::workspace;

/// What to measure.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Bench {
    /// What the verifier walks for each program, and what a run of each costs for a typical accept and drop.
    Verifier,
    /// What a set of a million prefixes takes: from the policy file into force, in memory, and for each packet.
    Sets,
}

/// Measures.
pub fn run(what: Bench) -> Result<()> {
    ensure!(setup::is_root(), "loading programs needs root: run it with sudo");
    setup::ensure(&[Part::Build])?;
    let arguments = match what {
        Bench::Verifier => ["--bench", "verifier", "--profile", "bench"],
        // What the daemon does counts here, too.
        Bench::Sets => ["--bench", "sets", "--profile", "release"],
    };
    let mut cargo = workspace::cargo();
    workspace::run(cargo.args(["bench", "--quiet", "--package", "fw-user"]).args(arguments))
}
