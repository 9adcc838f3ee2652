//! `fw check FILE`: parse, validate, print what the policy means.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Outcome, print, read_policy};
use crate::policy::{Summary, describe};

/// Options of `fw check`.
#[derive(Debug, Args)]
pub struct Options {
    /// Policy file
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Checks a policy file.
pub fn run(options: &Options) -> Outcome {
    let policy = read_policy(&options.file)?;
    if options.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&Summary::of(&policy))?))?;
    } else {
        print(&describe(&policy))?;
    }
    Ok(ExitCode::SUCCESS)
}
