//! Room in the kernel's table of connections, which all hosts of a machine share.

use std::fs;

use anyhow::{Context as _, Result};

/// A larger table, until it is dropped. It is never made smaller than it was.
pub(super) struct Room {
    before: [(&'static str, String); 2],
}

impl Room {
    /// For so many connections on each of some hosts, with buckets for 16 times as many.
    pub(super) fn make(connections: u32) -> Result<Self> {
        let read = |path: &'static str| {
            let value = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
            anyhow::Ok((path, value.trim().to_owned()))
        };
        let room = Self { before: [read(MAX)?, read(BUCKETS)?] };
        for ((path, before), wanted) in room.before.iter().zip([connections, 16 * connections]) {
            if before.parse::<u32>().is_ok_and(|before| before < wanted) {
                fs::write(path, wanted.to_string()).with_context(|| format!("cannot write {path}"))?;
            }
        }
        Ok(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        for (path, before) in &self.before {
            fs::write(path, before).ok();
        }
    }
}

/// Connections that each host may have.
const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// Buckets that all share.
const BUCKETS: &str = "/proc/sys/net/netfilter/nf_conntrack_buckets";
