//! What `fw top` reads each time: counters, and the statistics of devices. Nothing that grows with rules, sets or flows,
//! but for a part of the flows.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use fw_common::flow::{self, Flow, FlowKey};
use fw_common::tables::{Count, name_kind};
use nix::net::if_::if_nameindex;

use super::{Sample, Sweep, Traffic};
use crate::datapath::{DatapathError, Maps};
use crate::flows::{Direction, Ends};
use crate::plan::State;
use crate::view::flow_owner;

/// Statistics of the devices of this network namespace.
const DEVICES: &str = "/proc/self/net/dev";

/// Why there is no sample.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The maps cannot be read.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// Nor can the devices.
    #[error("cannot read the statistics of devices from {DEVICES}")]
    Devices(#[source] io::Error),
}

/// Takes a sample; `names` says which rules there are.
pub fn sample(maps: &Maps, names: &State, alive: bool) -> Result<Sample, SampleError> {
    let rules = names.names.keys().filter(|key| key.kind == name_kind::RULE);
    Ok(Sample {
        at: monotonic_millis(),
        devices: devices().map_err(SampleError::Devices)?,
        counters: maps.counters()?,
        rules: rules.map(|key| Ok((key.id, maps.rule(key.id)?))).collect::<Result<_, DatapathError>>()?,
        daemon: Some(maps.daemon()?),
        alive,
    })
}

/// Milliseconds on the monotonic clock.
pub fn monotonic_millis() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| now.tv_sec().unsigned_abs() * 1000 + now.tv_nsec().unsigned_abs() / 1_000_000)
}

fn devices() -> io::Result<BTreeMap<u32, (String, Traffic)>> {
    let mut traffic = parse(&fs::read_to_string(DEVICES)?);
    let numbers = if_nameindex()?;
    let numbered = numbers.iter().filter_map(|device| {
        let name = device.name().to_str().ok()?.to_owned();
        let traffic = traffic.remove(&name)?;
        Some((device.index(), (name, traffic)))
    });
    Ok(numbered.collect())
}

/// `NAME: bytes packets errs drop fifo frame compressed multicast bytes packets …`, below two lines of headings.
fn parse(text: &str) -> BTreeMap<String, Traffic> {
    let one = |line: &str| {
        let (name, numbers) = line.rsplit_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|number| number.parse().ok()).collect();
        let count = |at: usize| Some(Count { bytes: *numbers.get(at)?, packets: *numbers.get(at + 1)? });
        Some((name.trim().to_owned(), Traffic { received: count(0)?, sent: count(8)? }))
    };
    text.lines().skip(2).filter_map(one).collect()
}

/// Counts flows as they are walked over.
pub struct Counting {
    counts: BTreeMap<String, [u64; 3]>,
    begun: u64,
}

impl Counting {
    /// A look that begins now.
    pub fn begin() -> Self {
        Self { counts: BTreeMap::new(), begun: monotonic_millis() }
    }

    /// Counts a flow, if it is alive at second `now`.
    pub fn add(&mut self, ends: &Ends<'_>, (came, key, flow): (bool, FlowKey, Flow), now: u32) {
        let direction = if came { Direction::In } else { Direction::Out };
        let is_over = match direction {
            Direction::Out => flow.is_expired(key.proto, now),
            Direction::In => flow.is_forgotten(key.proto, now),
        };
        if is_over {
            return;
        }
        let owner = ends.container(&key, &flow).unwrap_or_else(|| format!("({})", flow_owner(flow.owner)));
        let counts = self.counts.entry(owner).or_default();
        counts[usize::from(direction == Direction::In)] += 1;
        counts[2] += u64::from(flow.state == flow::state::CUT);
    }

    /// All have been walked over.
    pub fn end(self) -> Sweep {
        Sweep { counts: self.counts, took: monotonic_millis().saturating_sub(self.begun) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_by_column() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
                    \x20   lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0\n\
                    eth0:7:1234567890123 20 0 0 0 0 0 0 40 30 0 0 0 0 0 0\nbroken: 1 2 3\n";
        let read = parse(text);
        let count = |packets, bytes| Count { packets, bytes };
        assert_eq!(read.keys().collect::<Vec<_>>(), ["eth0:7", "lo"]);
        assert_eq!(read["eth0:7"], Traffic { received: count(20, 1_234_567_890_123), sent: count(30, 40) });
    }
}
