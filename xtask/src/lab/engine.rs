//! What can happen to the lab's dockerd: it ends in this way or that, comes back, and is halted.

use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Lab, wait};

impl Lab {
    /// Sends a signal to dockerd by its name (`TERM`, `KILL`, `STOP`, `CONT`); after one that ends it, waits for the end.
    pub fn signal_docker(&self, signal: &str) -> Result<()> {
        let pid = self.host().run(&["cat", PID]).context("dockerd runs")?;
        let pid = pid.trim();
        self.host().run(&["kill", &format!("-{signal}"), pid])?;
        if signal != "STOP" {
            // `nsenter` stops itself together with what it started, and nobody else wakes it.
            for child in self.children.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGCONT).ok();
            }
        }
        if matches!(signal, "TERM" | "KILL") {
            // A zombie waits for us, its parent, and is as good as gone.
            let gone = || {
                let state = self.host().run(&["cat", &format!("/proc/{pid}/stat")]);
                state.map_or(true, |state| state.contains(") Z ")).then_some(())
            };
            wait::until("end of dockerd", Duration::from_secs(40), gone)?;
        }
        Ok(())
    }

    /// Starts dockerd again as it was, with further arguments, and waits until it answers.
    pub fn docker_again(&self, further: &[&str]) -> Result<()> {
        let proxy = format!("--userland-proxy={}", self.options().userland_proxy);
        let arguments = std::iter::once(proxy).chain(self.options().dockerd.iter().cloned());
        let arguments: Vec<_> = arguments.chain(further.iter().map(ToString::to_string)).collect();
        self.start_docker(&arguments).context("cannot start dockerd again")?;
        self.set_bridge_netfilter(self.options().bridge_netfilter)
    }
}

const PID: &str = "/run/lab/dockerd.pid";
