//! What the programs log of themselves (feature `log`): read from their ring buffer and told in the daemon's log.

use std::os::fd::AsFd as _;
use std::thread;

use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Tells in the log what these programs log, as long as the process lives. Failing costs the lines alone.
pub(super) fn follow(object: &mut Ebpf) {
    let mut logger = match EbpfLogger::init(object) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!(%error, "what the programs log is not told");
            return;
        }
    };
    let tell = move || {
        loop {
            let mut waited = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
            match poll(&mut waited, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => logger.flush(),
                Err(error) => {
                    tracing::warn!(%error, "what the programs log is not told any more");
                    return;
                }
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("fw-ebpf log".to_owned()).spawn(tell) {
        tracing::warn!(%error, "what the programs log is not told: no thread");
    }
}
