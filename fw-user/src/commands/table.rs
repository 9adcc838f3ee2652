//! `fw table NAME`: a table as it is in the kernel, with names.

use std::process::ExitCode;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::{Failure, Outcome, Pins, print};
use crate::datapath::{Directory, Maps};
use crate::reconcile::monotonic_seconds;
use crate::view;

/// Options of `fw table`.
#[derive(Debug, Args)]
pub struct Options {
    /// Which table
    #[arg(value_parser = PossibleValuesParser::new(view::TABLES))]
    name: String,
    #[command(flatten)]
    pins: Pins,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints a table.
pub fn run(options: &Options) -> Outcome {
    let directory = Directory::open(&options.pins.bpffs)?;
    let maps = Maps::open(directory.path())?;
    let now = u32::try_from(monotonic_seconds()).unwrap_or(u32::MAX);
    let rows = view::rows(&options.name, &maps, now)?
        .ok_or_else(|| Failure::Usage(anyhow::anyhow!("there is no table {}", options.name)))?;
    if options.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
    } else {
        print(&view::aligned(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
}
