//! `fw run`: the daemon, in the foreground.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::{Engine, Failure, Outcome, Pins, need_privileges, read_policy, runtime};
use crate::datapath::{AttachMode, Datapath, Directory};
use crate::docker::Docker;
use crate::netlink;
use crate::policy::Policy;
use crate::reconcile::{PassError, Passed, Reconciler, check_uplinks};

/// Options of `fw run`.
#[derive(Debug, Args)]
pub struct Options {
    /// Policy file
    #[arg(long, value_name = "FILE", default_value = "/etc/fw/policy.toml")]
    policy: PathBuf,
    #[command(flatten)]
    engine: Engine,
    #[command(flatten)]
    pins: Pins,
    /// How programs are attached
    #[arg(long, value_enum, default_value = "auto", hide = true)]
    attach: Attach,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Attach {
    /// TCX where the kernel has it, else clsact
    Auto,
    /// TCX or nothing
    Tcx,
    /// clsact even where TCX exists
    Clsact,
}

/// Runs the daemon.
pub fn run(options: Options) -> Outcome {
    let filter = EnvFilter::try_from_env("FW_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let policy = read_policy(&options.policy)?;
    need_privileges()?;
    // Later it may come and go.
    check_uplinks(&policy, None, &netlink::snapshot()?.links)?;
    let directory = Directory::open_or_make(&options.pins.bpffs)?;
    let lock = directory.lock()?;
    let outcome = runtime()?.block_on(daemon(options, policy, &directory));
    if outcome.is_err() {
        directory.remove_if_unused();
    }
    drop(lock);
    outcome
}

async fn daemon(options: Options, policy: Policy, directory: &Directory) -> Outcome {
    let begun = Instant::now();
    let mode = match options.attach {
        Attach::Auto => AttachMode::Auto,
        Attach::Tcx => AttachMode::Tcx,
        Attach::Clsact => AttachMode::Clsact,
    };
    let docker = Docker::connect(&options.engine.docker).await?;
    // Before the first snapshot, so that nothing that changes after it is missed.
    let watch = netlink::watch()?;
    let events = docker.events();
    let datapath = Datapath::load(directory, mode, &policy.tables.of_maps())?;
    let mut reconciler = Reconciler::new(options.policy, policy, docker, datapath, directory.was_made());
    let Passed { hooks, networks, ports, .. } = reconciler.start().await.map_err(failure)?;
    tracing::info!(hooks, networks, ports, after = ?begun.elapsed(), "ready: the policy is in force");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "cannot tell systemd that fw is ready");
    }
    // A large future: passes wait for Docker in it.
    Box::pin(reconciler.run(watch, events)).await?;
    Ok(ExitCode::SUCCESS)
}

/// A policy that does not fit is at fault itself.
fn failure(error: PassError) -> Failure {
    match error {
        PassError::Desired(_) => Failure::Usage(error.into()),
        PassError::Netlink(_)
        | PassError::Docker(_)
        | PassError::Datapath(_)
        | PassError::ReadBack { .. } => Failure::Failed(error.into()),
    }
}
