//! fw inside the lab: started, asked, signalled and taken down as an operator would.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Lab, SOCKET, wait};

/// Dropped packets by hook and reason.
pub type Drops = BTreeMap<(String, String), u64>;

/// A daemon that runs in the lab's host.
#[derive(Debug)]
pub struct Daemon<'lab> {
    lab: &'lab Lab,
    binary: PathBuf,
    child: Child,
}

/// The environment variable under which every fw that a test starts has the fast path: what is true without it has to be
/// true with it.
const FAST: &str = "FW_FAST_PATH";

/// The policy with the fast path, unless it says something of it itself.
fn fast(policy: &str) -> String {
    const UPLINK: &str = "[uplink]\n";
    const KEY: &str = "fast_path = \"on\"\n";
    if policy.contains("fast_path") {
        policy.to_owned()
    } else if policy.contains(UPLINK) {
        policy.replacen(UPLINK, &format!("{UPLINK}{KEY}"), 1)
    } else {
        format!("{policy}\n{UPLINK}{KEY}")
    }
}

impl Lab {
    /// Starts `fw run` with this policy and waits until it says that the first full pass is in force.
    pub fn fw_run(&self, policy: &str) -> Result<Daemon<'_>> {
        self.fw_run_with(policy, &[])
    }

    /// As [`Lab::fw_run`], with further arguments; `--docker` among them takes the place of the lab's own socket.
    pub fn fw_run_with(&self, policy: &str, arguments: &[&str]) -> Result<Daemon<'_>> {
        self.fw_run_by(&fw_binary()?, policy, arguments)
    }

    /// As [`Lab::fw_run_with`], by another binary.
    pub fn fw_run_by(&self, binary: &Path, policy: &str, arguments: &[&str]) -> Result<Daemon<'_>> {
        let mut daemon = self.fw_begin(binary, policy, arguments)?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Starts `fw run`, and does not wait for it.
    pub fn fw_begin(&self, binary: &Path, policy: &str, arguments: &[&str]) -> Result<Daemon<'_>> {
        let policy = if std::env::var_os(FAST).is_some() { fast(policy) } else { policy.to_owned() };
        fs::write(self.path(POLICY), policy).context("cannot write the policy into the lab")?;
        fs::remove_file(self.path(PID)).ok();
        // The pid file holds the number inside the lab's process namespace; `exec` keeps it.
        let docker =
            if arguments.contains(&"--docker") { String::new() } else { format!("--docker {SOCKET}") };
        let line = format!(
            "echo $$ >{PID}.new; mv {PID}.new {PID}; exec {} run --policy {POLICY} --bpffs {BPFFS} {docker} {} >>{LOG} 2>&1",
            binary.display(),
            arguments.join(" ")
        );
        // The log is read by people and tests, not by a terminal.
        let child = self
            .host()
            .command("sh")
            .args(["-ec", &line])
            .env("NO_COLOR", "1")
            .envs(self.options().fw_log.map(|log| ("FW_LOG", log)))
            .spawn()
            .context("cannot start fw")?;
        let pid = self.path(PID);
        wait::until("the shell that becomes fw", Duration::from_secs(10), || pid.exists().then_some(()))?;
        Ok(Daemon { lab: self, binary: binary.to_owned(), child })
    }

    /// A command `fw …` on this host, not yet started.
    pub fn fw_command(&self, arguments: &[&str]) -> Result<Command> {
        self.fw_command_by(&fw_binary()?, arguments)
    }

    fn fw_command_by(&self, binary: &Path, arguments: &[&str]) -> Result<Command> {
        let mut command = self.host().command(&binary.display().to_string());
        let (name, rest) = arguments.split_first().context("fw has a subcommand")?;
        command.args([name, "--bpffs", BPFFS]).args(rest);
        Ok(command)
    }

    /// Runs `fw …` to its end and returns its standard output; an exit code other than 0 is an error with its words.
    pub fn fw(&self, arguments: &[&str]) -> Result<String> {
        self.fw_by(&fw_binary()?, arguments)
    }

    fn fw_by(&self, binary: &Path, arguments: &[&str]) -> Result<String> {
        let output = self.fw_command_by(binary, arguments)?.output().context("cannot run fw")?;
        if !output.status.success() {
            // `fw status` tells what is wrong on its standard output.
            let words = [output.stderr, output.stdout].concat();
            let words = String::from_utf8_lossy(&words).trim().to_owned();
            bail!("`fw {}` failed ({}): {words}", arguments.join(" "), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `fw status --json`.
    pub fn fw_status(&self) -> Result<Value> {
        let text = self.fw(&["status", "--json"])?;
        serde_json::from_str(&text).context("`fw status --json` did not print JSON")
    }

    /// The drop counters of `fw status`.
    pub fn fw_drops(&self) -> Result<Drops> {
        let status = self.fw_status()?;
        let drops = status["drops"].as_array().context("`fw status --json` has no list `drops`")?;
        let mut counted = Drops::new();
        for drop in drops {
            let (Some(hook), Some(reason), Some(packets)) =
                (drop["hook"].as_str(), drop["reason"].as_str(), drop["packets"].as_u64())
            else {
                bail!("an entry of `drops` lacks hook, reason or packets: {drop}");
            };
            *counted.entry((hook.to_owned(), reason.to_owned())).or_default() += packets;
        }
        Ok(counted)
    }

    /// `fw down`: the host is as it was before `fw run`.
    pub fn fw_down(&self) -> Result<()> {
        self.fw(&["down"]).map(drop)
    }

    /// What the daemon has written to its standard output and error so far.
    pub fn fw_log(&self) -> String {
        fs::read_to_string(self.path(LOG)).unwrap_or_default()
    }
}

impl Daemon<'_> {
    /// Sends a signal by its name (`TERM`, `KILL`, `STOP`, `CONT`, `HUP`).
    pub fn signal(&self, name: &str) -> Result<()> {
        self.lab.host().script(&format!("kill -{name} $(cat {PID})"))?;
        if name != "STOP" {
            // `nsenter` stops itself together with what it started, and nobody else wakes it.
            kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGCONT).ok();
        }
        Ok(())
    }

    /// Ends it as a service manager would; all that it has put in force stays.
    pub fn terminate(self) -> Result<()> {
        self.end("TERM")
    }

    /// Ends it without any chance to do something about it.
    pub fn kill(self) -> Result<()> {
        self.end("KILL")
    }

    fn end(mut self, signal: &str) -> Result<()> {
        self.signal(signal)?;
        wait::until(&format!("end of fw after SIG{signal}"), Duration::from_secs(10), || {
            self.child.try_wait().ok().flatten()
        })?;
        Ok(())
    }

    /// Waits for its end, and tells whether that was a success.
    pub fn ends(&mut self) -> Result<bool> {
        let ended = wait::until("fw ends", Duration::from_secs(30), || self.child.try_wait().ok().flatten())?;
        Ok(ended.success())
    }

    fn wait_ready(&mut self) -> Result<()> {
        let mut ended = None;
        let mut last = String::new();
        let ready = wait::until("`fw status` exits 0", Duration::from_secs(30), || {
            ended = self.child.try_wait().ok().flatten();
            let status = self.lab.fw_by(&self.binary, &["status"]);
            let status = status.map_err(|error| last = format!("{error:#}"));
            (ended.is_some() || status.is_ok()).then_some(())
        });
        let log = || format!("{last}\nits log:\n{}", self.lab.fw_log().trim_end());
        ready.with_context(log)?;
        if let Some(status) = ended {
            return Err(anyhow::anyhow!("fw ended before it was ready ({status})")).with_context(log);
        }
        Ok(())
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal("KILL").ok();
            self.child.wait().ok();
        }
    }
}

/// `FW_BIN`, or the binary that `cargo build` leaves.
pub fn fw_binary() -> Result<PathBuf> {
    let given = std::env::var_os("FW_BIN").map(PathBuf::from);
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/fw");
    let binary = given.unwrap_or_else(built);
    binary.canonicalize().with_context(|| {
        format!(
            "no fw binary at {}; `cargo build -p fw-user` makes it, FW_BIN names another",
            binary.display()
        )
    })
}

/// Where fw's pins lie inside the lab.
pub const BPFFS: &str = "/sys/fs/bpf/fw";
const POLICY: &str = "/run/lab/policy.toml";
const PID: &str = "/run/lab/fw.pid";
const LOG: &str = "/run/lab/fw.log";
