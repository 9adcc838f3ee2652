//! The keeper: one process that holds the lab's namespaces, and whose end is the end of all that runs in them.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::wait;

/// Network, mount and process namespaces of one lab.
///
/// The first process in the process namespace reads from a pipe that only we hold. When we drop the pipe, or die in
/// whatever way, it ends; the kernel then kills everything in the namespace and takes down its mounts and devices.
#[derive(Debug)]
pub(super) struct Keeper {
    process: Child,
    name: String,
}

impl Keeper {
    /// Makes the namespaces: an empty `/run`, this network's `/sys`, a bpffs at `/sys/fs/bpf`, loopback up.
    pub(super) fn start() -> Result<Self> {
        let mut process = Command::new("unshare")
            .args(["--fork", "--kill-child", "--pid", "--mount", "--net", "--mount-proc", "sh", "-ec", SETUP])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run `unshare` (package util-linux) to make the lab's namespaces")?;
        let mut said = String::new();
        let output = process.stdout.take().context("the keeper has an output pipe")?;
        BufReader::new(output).read_line(&mut said).context("cannot read from the lab's keeper")?;
        if said.trim() != READY {
            let mut why = String::new();
            if let Some(mut errors) = process.stderr.take() {
                drop(process.stdin.take());
                errors.read_to_string(&mut why).ok();
            }
            bail!("cannot set up the lab's namespaces: {}", why.trim());
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}", std::process::id());
        Ok(Self { process, name })
    }

    /// Name of this lab: of its cgroup, and in messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Number of the process whose `/proc` entry leads to the namespaces.
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// A file of the lab (`/run/…`) as seen from outside it.
    pub(super) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.pid()))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let ended = wait::until("end of the lab", Duration::from_secs(10), || {
            self.process.try_wait().ok().flatten().map(drop)
        });
        if ended.is_err() {
            // --kill-child: the kernel kills the namespace's first process together with `unshare`.
            self.process.kill().ok();
            self.process.wait().ok();
        }
        let cgroups = cgroups_of(&self.name);
        let gone = wait::until("removal of the lab's cgroups", Duration::from_secs(5), || {
            cgroups.iter().all(|path| remove_cgroup(path)).then_some(())
        });
        if let Err(error) = gone {
            eprintln!("lab {}: {error:#}; `cargo xtask lab clean` tries again", self.name);
        }
    }
}

/// Removes what labs have left whose process is gone (killed with SIGKILL): only cgroups outlive it.
///
/// Returns their names. Namespaces, mounts, devices and processes need no cleaning: the kernel takes them down.
pub(super) fn clean() -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for path in cgroup_roots().iter().flat_map(|root| fs::read_dir(root).into_iter().flatten().flatten()) {
        let name = path.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        let Some(owner) = owner else { continue };
        if Path::new(&format!("/proc/{owner}")).exists() {
            continue;
        }
        if !remove_cgroup(&path.path()) {
            bail!("cannot remove the cgroup {}: processes are still in it", path.path().display());
        }
        removed.push(name);
    }
    removed.sort();
    removed.dedup();
    Ok(removed)
}

fn cgroups_of(name: &str) -> Vec<PathBuf> {
    cgroup_roots().into_iter().map(|root| root.join(name)).filter(|path| path.exists()).collect()
}

/// The one hierarchy of cgroup v2, and those of v1.
fn cgroup_roots() -> Vec<PathBuf> {
    let top = PathBuf::from("/sys/fs/cgroup");
    let below = fs::read_dir(&top).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut roots: Vec<_> = below.filter(|path| path.join("cgroup.procs").exists()).collect();
    roots.push(top);
    roots
}

/// Removes a cgroup and those below it; false if one is still in use.
fn remove_cgroup(path: &Path) -> bool {
    let below = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let below_gone = below.filter(|path| path.is_dir()).all(|path| remove_cgroup(&path));
    below_gone && (fs::remove_dir(path).is_ok() || !path.exists())
}

static COUNT: AtomicU32 = AtomicU32::new(0);

const PREFIX: &str = "fwlab-";
const READY: &str = "ready";

/// `ip netns exec` would mount a /sys without cgroups, and dockerd refuses to start then: they are carried over.
const SETUP: &str = "
mount -t tmpfs -o mode=755 fwlab /run
mkdir -p /run/lab /run/netns /run/lock /run/cgroup
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --rbind /run/cgroup /sys/fs/cgroup
umount -l /run/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
echo ready
cat >/dev/null
";
