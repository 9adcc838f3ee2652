//! `fw confirm`: keeps the policy that is on trial.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Outcome, Pins, print, reload};
use crate::control::{Answer, Request, ask, socket};
use crate::datapath::Directory;
use crate::typed_on::typed_on;

/// Options of `fw confirm`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pins: Pins,
    /// Also over the connection on which the policy was reloaded
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Confirms the policy on trial.
pub fn run(options: &Options) -> Outcome {
    let directory = Directory::open(&options.pins.bpffs)?;
    let request = Request::Confirm { typed_on: typed_on(), force: options.force };
    let answer = ask(&socket(directory.path())?, &request)?;
    match answer {
        Answer::Confirmed if options.json => print(&format!("{}\n", json!({"answer": "confirmed"})))?,
        Answer::Confirmed => print("the policy is confirmed and stays in force\n")?,
        other => return Err(reload::failure(other)),
    }
    Ok(ExitCode::SUCCESS)
}
