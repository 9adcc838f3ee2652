//! `fw flows`: the connections that are known, with the names of whom they belong to.

use std::process::ExitCode;

use clap::Args;
use fw_common::tables::memory::Memory;

use super::{Outcome, Pins, print};
use crate::datapath::{Directory, Maps};
use crate::flows::rows;
use crate::reconcile::monotonic_seconds;
use crate::view;

/// Options of `fw flows`.
#[derive(Debug, Args)]
pub struct Options {
    /// Only flows from or to this container
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    #[command(flatten)]
    pins: Pins,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the live flows.
pub fn run(options: &Options) -> Outcome {
    let directory = Directory::open(&options.pins.bpffs)?;
    let maps = Maps::open(directory.path())?;
    let state = maps.read_around(&Memory::default())?;
    let (outward, inbound) = (maps.flows()?, maps.inbound_flows()?);
    let now = u32::try_from(monotonic_seconds()).unwrap_or(u32::MAX);
    let rows = rows(&state, &outward, &inbound, now, options.container.as_deref(), options.json);
    if options.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
    } else {
        print(&view::aligned(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
}
