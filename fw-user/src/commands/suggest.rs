//! `fw suggest`: prints the policy that would have passed what was observed, for review; changes nothing.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::plan::ask_docker;
use super::time::parse_span;
use super::{Engine, Failure, Outcome, Pins, bad_policy, need_privileges, print, runtime};
use crate::datapath::{Directory, Maps};
use crate::inventory::{Inventory, with_bridges};
use crate::listeners;
use crate::netlink;
use crate::policy::Policy;
use crate::reconcile::monotonic_seconds;
use crate::suggest::{INCOMPLETE, NEARLY_FULL, Seen, suggest};

/// Options of `fw suggest`.
#[derive(Debug, Args)]
pub struct Options {
    /// Policy file that the suggestion begins with
    #[arg(long, value_name = "FILE", default_value = "/etc/fw/policy.toml")]
    policy: PathBuf,
    #[command(flatten)]
    engine: Engine,
    #[command(flatten)]
    pins: Pins,
    /// What has fewer packets is not suggested
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_packets: u64,
    /// What was not seen within this time (30s, 10m, 1h, 7d, or seconds) is left out
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    since: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the suggestion: exit 0, also if nothing is missing.
pub fn run(options: &Options) -> Outcome {
    let file = &options.policy;
    let text = Policy::text(file).map_err(|error| bad_policy(file, error))?;
    let policy = Policy::read(file).map_err(|error| bad_policy(file, error))?;
    need_privileges()?;
    let directory = Directory::open(&options.pins.bpffs)?;
    let maps = Maps::open(directory.path())?;
    let host = netlink::snapshot()?;
    let (docker, links) = runtime()?.block_on(ask_docker(&options.engine.docker))?;
    let inventory =
        Inventory::new(Some(&with_bridges(docker, &host)), &host, &links, &policy.static_networks);
    let mut observed = maps.observed()?;
    let full = observed.len() >= NEARLY_FULL;
    let now = monotonic_seconds() as u32;
    if let Some(since) = options.since {
        observed.retain(|_, entry| u64::from(now.saturating_sub(entry.last_seen)) <= since.as_secs());
    }
    let listening = listeners::here().context("cannot tell who listens on this host")?;
    let listening = listening.into_iter().map(|one| (one.protocol, one.address, one.port)).collect();
    let seen = Seen {
        text: &text,
        policy: &policy,
        observed: &observed,
        now,
        inventory: &inventory,
        listening: &listening,
        min_packets: options.min_packets,
        full,
    };
    let suggestion = suggest(&seen);
    // What is handed out is a policy that `fw check` takes.
    let base = file.parent().unwrap_or(std::path::Path::new("."));
    if let Err(error) = Policy::parse(&suggestion.policy, file, base) {
        return Err(Failure::Failed(anyhow::anyhow!(
            "what was observed does not fit into one policy: {error}; ask for less with --min-packets, or write by hand \
             what `fw table observed` shows"
        )));
    }
    if observed.is_empty() {
        eprintln!("fw: nothing was observed: does the policy in force say mode = \"observe\"?");
    }
    if full {
        eprintln!("fw: {INCOMPLETE}");
    }
    if options.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&json!(suggestion))?))?;
    } else {
        print(&suggestion.policy)?;
    }
    Ok(ExitCode::SUCCESS)
}
