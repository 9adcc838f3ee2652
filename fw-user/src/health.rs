//! What may be wrong with an fw that is or was in force: `fw status` and `fw doctor` say it in the same words.

use std::fmt;

use fw_common::tables::{Daemon, nat_health};

/// A daemon that has not finished a pass for so many seconds does not keep up.
const OVERDUE: u64 = 60;

/// Why what is in force is not kept in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ailment {
    /// No daemon runs.
    Absent,
    /// It is halted (SIGSTOP, or a debugger).
    Halted {
        /// Its process.
        pid: u32,
    },
    /// The first pass is not finished.
    Starting,
    /// Its last pass failed in part.
    Degraded,
    /// It has not finished a pass for long.
    Overdue,
}

impl Ailment {
    /// What a daemon suffers from that has written this of itself; `now` is the second of the monotonic clock.
    pub fn of(daemon: &Daemon, alive: bool, halted: bool, now: u64) -> Option<Self> {
        match () {
            () if !alive => Some(Self::Absent),
            () if halted => Some(Self::Halted { pid: daemon.pid }),
            () if daemon.ready == 0 => Some(Self::Starting),
            () if daemon.degraded != 0 => Some(Self::Degraded),
            () if now.saturating_sub(daemon.last_pass) > OVERDUE => Some(Self::Overdue),
            () => None,
        }
    }

    /// Its name for `fw doctor`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "daemon-absent",
            Self::Halted { .. } => "daemon-halted",
            Self::Starting => "daemon-starting",
            Self::Degraded => "daemon-degraded",
            Self::Overdue => "daemon-overdue",
        }
    }
}

impl fmt::Display for Ailment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str(
                "no daemon is running: traffic stays filtered by the last tables, new containers are not known; start \
                 `fw run`",
            ),
            Self::Halted { pid } => {
                write!(f, "the daemon is halted: `kill -CONT {pid}` lets it go on")
            }
            Self::Starting => f.write_str("the first pass is not finished"),
            Self::Degraded => f.write_str("the last pass was not complete; the daemon's log says why"),
            Self::Overdue => {
                write!(f, "the daemon has not finished a pass for {OVERDUE} s; its log says why")
            }
        }
    }
}

/// What is wrong with NAT, as the daemon has told.
pub const fn nat(health: u8) -> Option<&'static str> {
    match health {
        nat_health::REFUSED => Some(NAT_REFUSED),
        nat_health::GONE => Some(
            "Docker's NAT rules are gone (iptables -F, nft flush ruleset): no published port is reached by new \
             connections; restart Docker",
        ),
        nat_health::FAILED => Some("NAT: our rules could not be written; the daemon's log says why"),
        _ => None,
    }
}

/// Both would translate.
pub const NAT_REFUSED: &str = "NAT: the policy says nat.owner = \"fw\", but Docker's own rules stand: run dockerd with --iptables=false and \
     take its rules away as docs/operations.md says";

/// What leads to our rules is gone.
pub const NO_WAY: &str = "FORWARD in iptables does not lead to DOCKER-USER (iptables -F): Docker's policy drops what is \
     forwarded, vetted or not; restart Docker, and create a network if it runs with live-restore";

/// No device faces the outside.
pub const NO_UPLINK: &str = "there is no uplink: nothing from outside is judged; see `uplink.interfaces`";

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    #[test]
    fn the_gravest_comes_first() {
        let well = Daemon { pid: 7, ready: 1, last_pass: 100, ..Daemon::zeroed() };
        assert_eq!(Ailment::of(&well, true, false, 130), None);
        assert_eq!(Ailment::of(&well, true, false, 161), Some(Ailment::Overdue));
        let degraded = Daemon { degraded: 1, ..well };
        assert_eq!(Ailment::of(&degraded, true, false, 130), Some(Ailment::Degraded));
        assert_eq!(Ailment::of(&degraded, true, true, 130), Some(Ailment::Halted { pid: 7 }));
        assert_eq!(Ailment::of(&degraded, false, true, 130), Some(Ailment::Absent));
    }
}
