//! The commands of `fw`: each module is one, with its options and what it prints.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 usage or bad policy, 3 would change
//! (`fw plan`), 4 dropped (`fw explain`).

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::policy::{Policy, PolicyError};
use crate::view;

pub mod bans;
pub mod check;
pub mod confirm;
pub mod doctor;
pub mod down;
pub mod explain;
pub mod flows;
pub mod monitor;
pub mod plan;
mod reach;
pub mod reload;
pub mod rules;
pub mod run;
pub mod status;
pub mod suggest;
pub mod table;
pub(crate) mod time;
pub mod top;

/// Where maps and links are pinned.
#[derive(Clone, Debug, Args)]
pub struct Pins {
    /// Directory on a bpffs in which maps and links are pinned
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    pub bpffs: PathBuf,
}

const DEFAULT_BPFFS: &str = "/sys/fs/bpf/fw";

impl Pins {
    /// Whether this is the directory that is meant if none is named.
    pub fn is_default(&self) -> bool {
        self.bpffs == Path::new(DEFAULT_BPFFS)
    }
}

/// Where Docker answers.
#[derive(Clone, Debug, Args)]
pub struct Engine {
    /// Docker's socket
    #[arg(long, value_name = "URL", default_value = "unix:///var/run/docker.sock")]
    pub docker: String,
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    /// The policy file or the arguments are at fault.
    Usage(anyhow::Error),
    /// Anything else.
    Failed(anyhow::Error),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
        }
    }

    /// What to say, causes included.
    pub fn text(&self) -> String {
        let (Self::Usage(error) | Self::Failed(error)) = self;
        crate::reconcile::chain(error.as_ref())
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// What `fw explain` ends with if the packet is dropped.
const DROPPED: u8 = 4;

/// What a command ends with.
pub type Outcome = Result<ExitCode, Failure>;

/// Writes data to stdout, and no commands to a terminal. A reader that has gone (`fw table ports | head`) is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(view::lines(text).as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("cannot write to stdout"))
        }
        _ => Ok(()),
    }
}

/// Reads a policy file. Each problem stands on a line of its own that begins with file and line, as editors want it.
fn read_policy(file: &Path) -> Result<Policy, Failure> {
    Policy::read(file).map_err(|error| bad_policy(file, error))
}

/// What is wrong with a policy file.
fn bad_policy(file: &Path, error: PolicyError) -> Failure {
    match error {
        PolicyError::Invalid { .. } => {
            Failure::Usage(anyhow::anyhow!("the policy file {} is not valid:\n{error}", file.display()))
        }
        PolicyError::Read { .. } => Failure::Usage(error.into()),
    }
}

/// A runtime for one command.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    use anyhow::Context as _;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start threads")
}

/// Capabilities that fw cannot do without, each with what for (capability numbers of linux/capability.h).
const NEEDED: [(u32, &str); 5] = [
    (12, "CAP_NET_ADMIN (attach programs, write iptables)"),
    (13, "CAP_NET_RAW (write iptables of the legacy flavour)"),
    (19, "CAP_SYS_PTRACE (find the network of a container)"),
    (21, "CAP_SYS_ADMIN (look into it)"),
    (39, "CAP_BPF (load programs and maps)"),
];

/// Refuses to begin what the kernel would refuse halfway.
fn need_privileges() -> Result<(), Failure> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(u64::MAX);
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(bit, _)| effective >> bit & 1 == 0).map(|(_, what)| *what).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(anyhow::anyhow!(
        "this needs root, or at least these capabilities, which are missing: {}; run it with sudo, or grant them in \
         the unit file (AmbientCapabilities=)",
        missing.join(", ")
    )))
}

/// Whether the process is halted (SIGSTOP, or a debugger).
fn is_halted(pid: u32) -> bool {
    // The state follows the name, which stands in brackets and may hold anything.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    state.starts_with(['T', 't'])
}

/// Whether this process is an fw, and not a later one with the same number. Whose executable we may not see is known by
/// the name that everybody sees.
fn is_fw(pid: u32) -> bool {
    let executable = std::fs::read_link(format!("/proc/{pid}/exe"));
    let name =
        executable.ok().and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()));
    match name {
        Some(name) => name == "fw" || name == "fw (deleted)",
        None => {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "fw")
        }
    }
}
