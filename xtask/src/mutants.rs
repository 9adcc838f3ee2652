//! `cargo xtask mutants`: changes fw-common in one place after the other, and asks whether a test notices.
//!
//! What no test notices is a decision that nothing holds; docs/testing.md lists those that need not be held, and why.

use anyhow::Result;
use clap::Args;

use crate::setup::{self, Part};
use crate::workspace;

/// What `cargo xtask mutants` is told.
#[derive(Args)]
pub struct Arguments {
    /// Change only these files of `fw-common/src` (`flow.rs`, `wire/*.rs`); may be given more than once.
    #[arg(long)]
    file: Vec<String>,
    /// How many changes to try at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

/// What is changed unless files are named: parsing, flows, decisions.
const FILES: [&str; 7] =
    ["address.rs", "wire.rs", "wire/*.rs", "flow.rs", "decide.rs", "decide/*.rs", "verdict.rs"];

/// Tries every change; one that no test notices is an error.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Part::Mutants])?;
    let mut cargo = workspace::cargo();
    cargo.args(["mutants", "--package", "fw-common", "--output", "target"]);
    cargo.args(["--jobs", &arguments.jobs.to_string(), "--no-shuffle", "--colors", "never"]);
    let named: Vec<&str> = arguments.file.iter().map(String::as_str).collect();
    for file in if named.is_empty() { &FILES[..] } else { &named } {
        cargo.args(["--file", &format!("fw-common/src/{file}")]);
    }
    // The properties take ten times as long as all examples together, and what only they notice lacks an example.
    cargo.args(["--", "--", "--skip", "properties"]);
    workspace::run(&mut cargo)
}
