//! The binary `fw`: arguments in, exit code out.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fw_user::commands;

/// An eBPF firewall for Docker hosts.
#[derive(Parser)]
#[command(name = "fw", version, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put the policy in force and keep it in step with Docker; ends on SIGTERM leaving everything in force
    Run(commands::run::Options),
    /// Check a policy file and print what it means
    Check(commands::check::Options),
    /// Say what a policy file would change in what is in force; exit 3 if it would change anything
    Plan(commands::plan::Options),
    /// Have the daemon read its policy file again; with --confirm, for a time unless `fw confirm` comes
    Reload(commands::reload::Options),
    /// Keep the policy that `fw reload --confirm` has put in force
    Confirm(commands::confirm::Options),
    /// Show hooks, networks, what is reachable from outside and why, drops by reason, and health
    Status(commands::status::Options),
    /// Say what becomes of a packet and why, step by step; exit 4 if it is dropped
    Explain(commands::explain::Options),
    /// Print a table as it is in the kernel
    Table(commands::table::Options),
    /// Follow dropped packets, with names
    Monitor(commands::monitor::Options),
    /// Watch who talks, what is dropped, flows and networks
    Top(commands::top::Options),
    /// Show live flows, with names
    Flows(commands::flows::Options),
    /// Show rules in the order in which they are asked, with packets and bytes
    Rules(commands::rules::Options),
    /// Shut sources out, for a time or until `fw unban`
    Ban(commands::bans::NewBan),
    /// End bans
    Unban(commands::bans::Unban),
    /// List the bans
    Bans(commands::bans::Bans),
    /// Print the policy that would have passed what was observed (mode = "observe"), for review
    Suggest(commands::suggest::Options),
    /// Find what on this host weakens the filter or confuses, each with its repair; changes nothing
    Doctor(commands::doctor::Options),
    /// Take everything away: rules, programs, pins; Docker's own rules are in force again
    Down(commands::down::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Run(options) => commands::run::run(options),
        Command::Check(options) => commands::check::run(&options),
        Command::Plan(options) => commands::plan::run(&options),
        Command::Reload(options) => commands::reload::run(&options),
        Command::Confirm(options) => commands::confirm::run(&options),
        Command::Status(options) => commands::status::run(&options),
        Command::Explain(options) => commands::explain::run(&options),
        Command::Table(options) => commands::table::run(&options),
        Command::Monitor(options) => commands::monitor::run(&options),
        Command::Top(options) => commands::top::run(&options),
        Command::Flows(options) => commands::flows::run(&options),
        Command::Rules(options) => commands::rules::run(&options),
        Command::Ban(options) => commands::bans::ban(options),
        Command::Unban(options) => commands::bans::unban(&options),
        Command::Bans(options) => commands::bans::list(&options),
        Command::Suggest(options) => commands::suggest::run(&options),
        Command::Doctor(options) => commands::doctor::run(&options),
        Command::Down(options) => commands::down::run(&options),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("fw: {}", failure.text());
            ExitCode::from(failure.code())
        }
    }
}
