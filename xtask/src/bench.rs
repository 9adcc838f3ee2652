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
}

/// Measures.
pub fn run(what: Bench) -> Result<()> {
    match what {
        Bench::Verifier => {
            ensure!(setup::is_root(), "loading programs needs root: run it with sudo");
            setup::ensure(&[Part::Build])?;
            let mut cargo = workspace::cargo();
            workspace::run(cargo.args(["bench", "--quiet", "--package", "fw-user", "--bench", "verifier"]))
        }
    }
}
