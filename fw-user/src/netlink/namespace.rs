//! The links of a container as seen from inside it, and which of them lead to this host.
//!
//! `IFLA_LINK` of a veth is the index of its peer *in the peer's namespace*. The kernel adds
//! `IFLA_LINK_NETNSID` when that is another namespace than the link's own, an id that counts in the
//! namespace of the link (it is given out on the first look). So a peer is believed to be on this host only
//! if that id is the one under which the container's namespace knows the namespace of this thread
//! (`RTM_GETNSID` asked inside the container). A veth between two containers, or a pair that a container
//! made for itself, is none of ours even if its numbers fit. Who uses the result must still check that the
//! host's link is a veth and a port of the expected bridge, because indices change hands over time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::thread;

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::socket::{Question, Socket};
use super::{LinkKind, NetlinkError, message};
use crate::inventory::Mac;

/// A veth inside a container whose other end is on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerLink {
    /// Index of the link inside the container.
    pub index: u32,
    /// Index of the other end on this host.
    pub peer: u32,
    /// Ethernet address inside the container, at this moment.
    pub mac: Option<Mac>,
}

/// The veths of the container of process `pid` that lead to this host; none if it shares the host's
/// namespace.
pub async fn links_of(pid: u32) -> Result<Vec<ContainerLink>, NetlinkError> {
    links_of_each(vec![pid]).await?.remove(&pid).unwrap_or(Err(NetlinkError::ProcessGone { pid }))
}

/// As [`links_of`], for many containers on one thread; a container that cannot be read spoils no other.
pub async fn links_of_each(
    pids: Vec<u32>,
) -> Result<BTreeMap<u32, Result<Vec<ContainerLink>, NetlinkError>>, NetlinkError> {
    const WHAT: &str = "the links of containers";
    let (answer, result) = oneshot::channel();
    // A thread of its own: it changes its namespace, must never run other tasks, and ends here.
    thread::Builder::new()
        .name("container-links".into())
        .spawn(move || {
            let _ = answer.send(read_each(&pids));
        })
        .map_err(|source| NetlinkError::Ask { what: WHAT, source })?;
    result.await.map_err(|_| NetlinkError::Thread { what: WHAT })?
}

/// What `read` finds in the network namespace of each of these processes, on one thread; those that share the caller's
/// namespace are left out, and one that cannot be entered spoils no other.
pub(crate) fn inside_each<T: Send>(
    pids: &[u32],
    read: impl Fn() -> Result<T, NetlinkError> + Sync,
) -> Result<BTreeMap<u32, Result<T, NetlinkError>>, NetlinkError> {
    let home = home()?;
    let look = |pid: u32| match enter(pid, &home) {
        Ok(false) => None,
        Ok(true) => Some((pid, read())),
        Err(error) => Some((pid, Err(error))),
    };
    // A thread of its own: it changes its namespace, and ends here.
    thread::scope(|scope| {
        let worker = scope.spawn(|| pids.iter().filter_map(|pid| look(*pid)).collect());
        worker.join().map_err(|_| NetlinkError::Thread { what: "what is in containers' networks" })
    })
}

fn read_each(pids: &[u32]) -> Result<BTreeMap<u32, Result<Vec<ContainerLink>, NetlinkError>>, NetlinkError> {
    let home = home()?;
    Ok(pids.iter().map(|pid| (*pid, read(*pid, &home))).collect())
}

/// The namespace of the calling thread.
fn home() -> Result<File, NetlinkError> {
    // /proc/self would be the namespace of the main thread, which need not be that of our creator.
    File::open("/proc/thread-self/ns/net").map_err(|source| NetlinkError::Ask { what: "name", source })
}

fn read(pid: u32, home: &File) -> Result<Vec<ContainerLink>, NetlinkError> {
    if !enter(pid, home)? {
        return Ok(Vec::new());
    }
    let socket = Socket::open()?;
    let readings = socket.read_list(Question::Links, &message::all_links(), message::link)?;
    let question = message::namespace_by_file(home.as_raw_fd());
    let Some(host) = message::namespace_id(&socket.single(Question::NamespaceId, &question)?)? else {
        return Ok(Vec::new());
    };
    let ours = readings.into_iter().filter_map(|reading| match (reading.link.parent, reading.link.kind) {
        (Some(peer), LinkKind::Veth) if reading.parent_namespace == Some(host) => {
            Some(ContainerLink { index: reading.link.index, peer, mac: reading.link.mac })
        }
        _ => None,
    });
    Ok(ours.collect())
}

/// Has this thread enter the namespace of `pid`; false if that is `home`.
fn enter(pid: u32, home: &File) -> Result<bool, NetlinkError> {
    let enter = |source: io::Error| match source.kind() {
        // The directory is gone with the process; the link of a zombie is empty.
        io::ErrorKind::NotFound => NetlinkError::ProcessGone { pid },
        _ if source.raw_os_error() == Some(ESRCH) => NetlinkError::ProcessGone { pid },
        _ => NetlinkError::Enter { pid, source },
    };
    let inside = File::open(format!("/proc/{pid}/ns/net")).map_err(enter)?;
    let same = |file: &File| file.metadata().map(|data| (data.dev(), data.ino()));
    if same(&inside).map_err(enter)? == same(home).map_err(enter)? {
        return Ok(false);
    }
    setns(&inside, CloneFlags::CLONE_NEWNET).map_err(|errno| enter(errno.into()))?;
    Ok(true)
}

const ESRCH: i32 = nix::errno::Errno::ESRCH as i32;
