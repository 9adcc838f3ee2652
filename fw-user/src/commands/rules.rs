//! `fw rules`: what is in force, rule by rule, with packets and bytes, and what becomes of the rest.

use std::process::ExitCode;

use clap::Args;
use fw_common::tables::memory::Memory;
use fw_common::tables::{Count, name_kind};
use serde_json::json;

use super::{Outcome, Pins, print};
use crate::datapath::{Directory, Maps};
use crate::rules::{defaults, rows};
use crate::view;

/// Options of `fw rules`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pins: Pins,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the rules in the order in which they are asked.
pub fn run(options: &Options) -> Outcome {
    let directory = Directory::open(&options.pins.bpffs)?;
    let maps = Maps::open(directory.path())?;
    let state = maps.read_around(&Memory::default())?;
    let ids = state.names.keys().filter(|key| key.kind == name_kind::RULE).map(|key| key.id);
    let counts = ids
        .map(|id| Ok((id, maps.rule(id)?)))
        .collect::<Result<std::collections::BTreeMap<_, _>, crate::datapath::DatapathError>>()?;
    let rules = rows(&state, &maps.denials()?, |id| counts.get(&id).copied().unwrap_or(Count::default()));
    let defaults = defaults(&maps.counters()?);
    let mode = if state.tables.settings.observe == 0 { "enforce" } else { "observe" };
    if options.json {
        let all = json!({"mode": mode, "rules": rules, "defaults": defaults});
        print(&format!("{}\n", serde_json::to_string_pretty(&all)?))?;
    } else {
        let nothing = if mode == "observe" { ": nothing is dropped, what would be is counted" } else { "" };
        let (rules, defaults) = (view::aligned(&rules), view::aligned(&defaults));
        print(&format!("Rules (mode {mode}{nothing})\n{rules}\nWhat no rule lets pass\n{defaults}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
