//! `fw run`: the daemon, in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};

use super::{Engine, Failure, Outcome, Pins, bad_policy, need_privileges, runtime};
use crate::control::Control;
use crate::datapath::{AttachMode, Datapath, Directory};
use crate::docker::Docker;
use crate::kept::{self, Read};
use crate::log::{self, Form};
use crate::metrics::{Endpoint, Listening, serve};
use crate::netlink;
use crate::reconcile::{PassError, Passed, Reconciler, chain, check_uplinks};

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
    /// How the log is written: journald where standard error leads to systemd's journal anyway, else text
    #[arg(long, value_enum, value_name = "FORM")]
    log: Option<Form>,
    /// Serve metrics for Prometheus here: a port of loopback (`127.0.0.1:9768`), or `unix:/run/fw/metrics.sock`
    #[arg(long, value_name = "ADDR")]
    metrics: Option<Endpoint>,
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
    log::begin(options.log)?;
    let (read, note) =
        Read::to_begin_with(&options.policy).map_err(|error| bad_policy(&options.policy, error))?;
    if let Some(note) = &note {
        tracing::warn!("{note}");
    }
    need_privileges()?;
    // Later it may come and go.
    check_uplinks(&read.policy, None, &netlink::snapshot()?.links)?;
    let directory = Directory::open_or_make(&options.pins.bpffs)?;
    let lock = directory.lock()?;
    let outcome = runtime()?.block_on(daemon(options, read, note.is_none(), &directory));
    if outcome.is_err() {
        directory.remove_if_unused();
    }
    drop(lock);
    outcome
}

async fn daemon(options: Options, read: Read, of_file: bool, directory: &Directory) -> Outcome {
    let begun = Instant::now();
    let mode = match options.attach {
        Attach::Auto => AttachMode::Auto,
        Attach::Tcx => AttachMode::Tcx,
        Attach::Clsact => AttachMode::Clsact,
    };
    // Before anything is changed: an address that is taken is told at once.
    let listening = match &options.metrics {
        Some(endpoint) => Some(Listening::new(endpoint).await?),
        None => None,
    };
    let docker = Docker::connect(&options.engine.docker).await?;
    // Before the first snapshot, so that nothing that changes after it is missed.
    let watch = netlink::watch()?;
    let events = docker.events();
    let datapath = Datapath::load(directory, mode, &read.policy.tables.of_maps())?;
    let file = options.policy.clone();
    let mut reconciler = Reconciler::new(options.policy, read, docker, datapath, directory.was_made());
    let _serving =
        listening.map(|listening| serve(listening, directory.path().to_owned(), reconciler.meters()));
    let Passed { hooks, networks, ports, .. } = reconciler.start().await.map_err(failure)?;
    tracing::info!(hooks, networks, ports, after = ?begun.elapsed(), "ready: the policy is in force");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "cannot tell systemd that fw is ready");
    }
    if of_file && let Err(error) = kept::let_go(&file) {
        tracing::warn!(%error, "cannot remove {}; remove it", kept::beside(&file).display());
    }
    match Control::listen(directory.path()) {
        Ok(control) => reconciler.listen(control),
        Err(error) => tracing::warn!(
            error = chain(&error),
            "no control socket: `fw reload` and `fw confirm` do not work, SIGHUP does"
        ),
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
        | PassError::Unprepared
        | PassError::ReadBack { .. } => Failure::Failed(error.into()),
    }
}
