//! `fw doctor`: what on this host weakens the filter or confuses, each with its repair; changes nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::plan::ask_docker;
use super::{Engine, Outcome, Pins, is_fw, is_halted, print, runtime};
use crate::doctor::{Finding, Seen, Severity, Where, examine, look};

/// Options of `fw doctor`.
#[derive(Debug, Args)]
pub struct Options {
    /// Policy file
    #[arg(long, value_name = "FILE", default_value = "/etc/fw/policy.toml")]
    policy: PathBuf,
    #[command(flatten)]
    engine: Engine,
    #[command(flatten)]
    pins: Pins,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Exit 0 if everything was looked at and nothing weakens or confuses, else 1.
pub fn run(options: &Options) -> Outcome {
    let docker = runtime()?.block_on(ask_docker(&options.engine.docker));
    let place = Where {
        policy: &options.policy,
        bpffs: &options.pins.bpffs,
        process: |pid| (is_fw(pid), is_halted(pid)),
    };
    let seen = look(&place, docker.map_err(|error| crate::reconcile::chain(error.as_ref())));
    let findings = examine(&seen);
    let is_clean =
        seen.unseen.is_empty() && findings.iter().all(|finding| finding.severity == Severity::Notes);
    if options.json {
        let report = json!({"clean": is_clean, "findings": findings, "not_seen": seen.unseen});
        print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        print(&text(&findings, &seen))?;
    }
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(findings: &[Finding], seen: &Seen) -> String {
    let mut text = String::new();
    for finding in findings {
        text += &format!("{}: {}  [{}]\n", finding.severity.word(), finding.found, finding.name);
        if !finding.why.is_empty() {
            text += &format!("  why     {}\n", finding.why);
        }
        for (at, line) in finding.repair.iter().enumerate() {
            text += &format!("  {}  {line}\n", if at == 0 { "repair" } else { "      " });
        }
        if !finding.risk.is_empty() {
            text += &format!("  risk    {}\n", finding.risk);
        }
        text.push('\n');
    }
    for unseen in &seen.unseen {
        text += &format!("not looked at: {unseen}\n");
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (weaken, confuse, note) =
        (count(Severity::Weakens), count(Severity::Confuses), count(Severity::Notes));
    text + &format!("{weaken} that weaken, {confuse} that confuse, {note} to note\n")
}
