//! Wake-ups when links, addresses or routes change.

use std::io;

use tokio::io::unix::AsyncFd;

use super::NetlinkError;
use super::socket::Socket;

/// Listens for changes from the moment it was made, so that none is missed between it and a snapshot.
pub struct Watch {
    socket: AsyncFd<Socket>,
}

/// Begins to listen in the network namespace of the calling thread, inside a tokio runtime.
#[expect(
    deprecated,
    reason = "tokio 1.54 offers only an unsafe replacement; its condition, a descriptor that stays open \
              and the same, is kept by `Socket`, which owns it"
)]
pub fn watch() -> Result<Watch, NetlinkError> {
    let socket = AsyncFd::new(Socket::listening(GROUPS)?).map_err(NetlinkError::Open)?;
    Ok(Watch { socket })
}

impl Watch {
    /// Waits until something has changed since the last call; any number of changes is one wake-up.
    ///
    /// Safe to drop while it waits. After an error, make a new watch.
    pub async fn changed(&mut self) -> Result<(), NetlinkError> {
        let failed = |source| NetlinkError::Ask { what: "changes", source };
        let mut changes = 0_u32;
        loop {
            let mut ready = self.socket.readable().await.map_err(failed)?;
            loop {
                match ready.try_io(|socket| socket.get_ref().discard_one()) {
                    Ok(Ok(())) => changes = changes.saturating_add(1),
                    // More changes than the queue holds: the kernel has dropped some, and says so once.
                    Ok(Err(error)) if error.raw_os_error() == Some(ENOBUFS) => {
                        changes = changes.saturating_add(1);
                    }
                    Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(Err(error)) => return Err(failed(error)),
                    Err(_would_block) => break,
                }
                if changes >= BURST {
                    return Ok(());
                }
            }
            if changes > 0 {
                return Ok(());
            }
        }
    }
}

const ENOBUFS: i32 = nix::errno::Errno::ENOBUFS as i32;

/// A storm of changes must not keep the caller from looking.
const BURST: u32 = 10_000;

/// A bit for each group of `linux/rtnetlink.h`: links, and addresses and routes of both families.
const GROUPS: u32 = group(1) | group(5) | group(7) | group(9) | group(11);

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}
