//! `cargo xtask equivalence`: the loaded programs against `decide`, over as many random packets as one likes.

use std::time::SystemTime;

use anyhow::{Result, ensure};
use clap::Args;

use crate::setup::{self, Part};
use crate::workspace;

/// What `cargo xtask equivalence` is told.
#[derive(Args)]
pub struct Arguments {
    /// How many packets.
    #[arg(long, default_value_t = 5_000_000)]
    packets: usize,
    /// Seed of the packets and tables; the same seed gives the same ones. A new one each time unless given.
    #[arg(long)]
    seed: Option<u32>,
}

/// Compares; a difference is an error that shows the smallest tables and packets on which it is seen.
pub fn run(arguments: &Arguments) -> Result<()> {
    ensure!(setup::is_root(), "loading programs needs root: run it with sudo");
    setup::ensure(&[Part::Build])?;
    let seed = arguments.seed.unwrap_or_else(unlike_the_last);
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--quiet", "--package", "fw-user", "--test", "equivalence", "--"]);
    cargo.args(["--exact", TEST, "--nocapture"]);
    cargo.env("FW_EQUIVALENCE_PACKETS", arguments.packets.to_string());
    cargo.env("FW_EQUIVALENCE_SEED", seed.to_string());
    workspace::run(&mut cargo)
}

fn unlike_the_last() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as u32)
}

const TEST: &str = "random_packets_over_random_tables_are_decided_alike";
