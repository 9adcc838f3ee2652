//! A place of the lab: one network namespace, in which commands and threads can run.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

/// The host, the outside, or a container, as far as the network is concerned.
#[derive(Clone, Debug)]
pub struct Place {
    name: String,
    keeper: u32,
    net: PathBuf,
}

impl Place {
    pub(super) fn new(name: &str, keeper: u32, net: PathBuf) -> Self {
        Self { name: name.to_owned(), keeper, net }
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run here; it sees the lab's files and processes.
    pub fn command(&self, program: &str) -> Command {
        let keeper = self.keeper;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{keeper}/ns/mnt"))
            .arg(format!("--pid=/proc/{keeper}/ns/pid_for_children"))
            .arg(format!("--net={}", self.net.display()))
            .args(["--", program])
            .stdin(Stdio::null())
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT");
        command
    }

    /// Runs a command to its end and returns what it printed; an exit code other than 0 is an error with its words.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let (program, arguments) = argv.split_first().context("a command has a name")?;
        let output = self
            .command(program)
            .args(arguments)
            .output()
            .with_context(|| format!("cannot run `{program}` in {}", self.name))?;
        if !output.status.success() {
            bail!(
                "`{}` in {} failed ({}): {}",
                argv.join(" "),
                self.name,
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs shell lines, stopping at the first that fails.
    pub fn script(&self, lines: &str) -> Result<String> {
        self.run(&["sh", "-ec", lines])
    }

    /// Whether a command ends with exit code 0; its output is thrown away.
    pub fn succeeds(&self, argv: &[&str]) -> bool {
        self.run(argv).is_ok()
    }

    /// Runs `work` in a thread of this network; sockets made there stay in it.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let net =
            File::open(&self.net).with_context(|| format!("cannot open the network of {}", self.name))?;
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(&net, CloneFlags::CLONE_NEWNET)?;
                Ok::<_, nix::Error>(work())
            });
            match entered.join() {
                Ok(done) => done.with_context(|| format!("cannot enter the network of {}", self.name)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}
