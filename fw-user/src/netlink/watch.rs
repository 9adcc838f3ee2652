//! Wake-ups when links, addresses or routes change.

use std::io;

use tokio::io::unix::AsyncFd;

use super::socket::Socket;
use super::{NetlinkError, message};

/// Listens for changes from the moment it was made, so that none is missed between it and a snapshot.
pub struct Watch {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

/// A device of which the kernel says that it belongs to a bridge (or bond, or the like).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Index of the device.
    pub index: u32,
    /// Name of the device.
    pub name: String,
    /// Index of what it belongs to.
    pub master: u32,
}

/// What the kernel has told of since the last time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Devices that were said to belong to another: they cannot wait for a snapshot.
    pub joined: Vec<Joined>,
    /// Indexes of devices that have gone, for good or to another namespace; one may be back already, and has lost its
    /// programs.
    pub gone: Vec<u32>,
}

/// Begins to listen in the network namespace of the calling thread, inside a tokio runtime.
#[expect(
    deprecated,
    reason = "tokio 1.54 offers only an unsafe replacement; its condition, a descriptor that stays open \
              and the same, is kept by `Socket`, which owns it"
)]
pub fn watch() -> Result<Watch, NetlinkError> {
    let socket = AsyncFd::new(Socket::listening(GROUPS)?).map_err(NetlinkError::Open)?;
    Ok(Watch { socket, buffer: vec![0; DATAGRAM] })
}

impl Watch {
    /// Waits until something has changed since the last call; any number of changes is one wake-up. What was lost shows in
    /// a snapshot.
    ///
    /// Safe to drop while it waits. After an error, make a new watch.
    pub async fn changed(&mut self) -> Result<Changed, NetlinkError> {
        let failed = |source| NetlinkError::Ask { what: "changes", source };
        let mut count = 0_u32;
        let mut changed = Changed::default();
        loop {
            let mut ready = self.socket.readable().await.map_err(failed)?;
            loop {
                match ready.try_io(|socket| socket.get_ref().next_change(&mut self.buffer)) {
                    Ok(Ok(messages)) => {
                        count = count.saturating_add(1);
                        for (kind, payload) in &messages {
                            match *kind {
                                RTM_NEWLINK => changed.joined.extend(of_another(payload)),
                                RTM_DELLINK => changed.gone.extend(index(payload)),
                                _ => {}
                            }
                        }
                    }
                    // More changes than the queue holds: the kernel has dropped some, and says so once.
                    Ok(Err(error)) if error.raw_os_error() == Some(ENOBUFS) => {
                        count = count.saturating_add(1);
                    }
                    Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(Err(error)) => return Err(failed(error)),
                    Err(_would_block) => break,
                }
                if count >= BURST {
                    return Ok(changed);
                }
            }
            if count > 0 {
                return Ok(changed);
            }
        }
    }
}

/// What cannot be understood here is found by the snapshot, which says so.
fn of_another(payload: &[u8]) -> Option<Joined> {
    let link = message::link(payload).ok()?.link;
    Some(Joined { index: link.index, name: link.name, master: link.master? })
}

/// The second word of `struct ifinfomsg`.
fn index(payload: &[u8]) -> Option<u32> {
    payload.get(4..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// Larger than any message about one link.
const DATAGRAM: usize = 64 * 1024;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;

const ENOBUFS: i32 = nix::errno::Errno::ENOBUFS as i32;

/// A storm of changes must not keep the caller from looking.
const BURST: u32 = 10_000;

/// A bit for each group of `linux/rtnetlink.h`: links, and addresses and routes of both families.
const GROUPS: u32 = group(1) | group(5) | group(7) | group(9) | group(11);

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}
