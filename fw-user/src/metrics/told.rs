//! What only the daemon knows, told by the reconciler and read at each scrape.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fw_common::Hook;

/// Where the reconciler tells; a clone tells of the same daemon.
#[derive(Clone, Debug, Default)]
pub struct Meters(Arc<Mutex<Told>>);

/// What it has told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Passes that were completed, and how long they took.
    pub passes: Durations,
    /// Passes that were not.
    pub failures: u64,
    /// When the last one was completed, in seconds since 1970; none yet: 0.
    pub last_pass: f64,
    /// Policies that were read again, by what became of them.
    pub reloads: BTreeMap<Reload, u64>,
    /// Whether the policy in force is on trial.
    pub on_trial: bool,
    /// Digest of the text of the policy in force.
    pub policy: String,
    /// What the last completed pass found and left.
    pub host: Host,
}

/// What becomes of a policy that is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reload {
    /// It is in force, for good or on trial.
    Applied,
    /// It is not: the file is at fault, or something stood in its way.
    Refused,
    /// Nobody confirmed it, and the one before is in force again.
    TakenBack,
}

impl Reload {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Applied, Self::Refused, Self::TakenBack];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::TakenBack => "taken-back",
        }
    }
}

/// How XDP drops early on an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Xdp {
    /// In the driver.
    Native,
    /// In the kernel's generic path.
    Generic,
    /// It does not.
    Off,
}

impl Xdp {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Native, Self::Generic, Self::Off];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Off => "off",
        }
    }
}

/// The host as a pass sees it.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Whether the policy only observes.
    pub observing: bool,
    /// Hooks that should be attached, and those that are.
    pub hooks: BTreeMap<Hook, (usize, usize)>,
    /// Uplinks by how XDP drops on them.
    pub uplinks: BTreeMap<Xdp, usize>,
    /// Prefixes that are banned.
    pub bans: usize,
    /// Managed networks.
    pub networks: usize,
    /// Ports of managed bridges behind which a container is known.
    pub endpoints: usize,
    /// Those behind which nobody is.
    pub unknown_ports: usize,
    /// Entries of the tables that the daemon fills, by the name of the map.
    pub entries: BTreeMap<&'static str, usize>,
    /// What takes long to count where tables are large; counted when they have changed.
    pub counted: Option<Counted>,
}

/// What is counted when tables have changed.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Services that somebody outside may reach.
    pub open: usize,
    /// Services that Docker publishes and the policy lets nobody reach.
    pub published_closed: usize,
    /// Names of rules by their numbers.
    pub rules: BTreeMap<u32, String>,
}

/// How often passes took how long.
#[derive(Clone, Debug)]
pub struct Durations {
    /// Upper bounds in seconds, and how many took at most so long and longer than the bound before.
    pub buckets: Vec<(f64, u64)>,
    /// Seconds of all together.
    pub sum: f64,
    /// All of them.
    pub count: u64,
}

/// From a look at devices on a small host to a first pass on one with a thousand networks.
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, f64::INFINITY];

impl Default for Durations {
    fn default() -> Self {
        Self { buckets: BOUNDS.map(|bound| (bound, 0)).to_vec(), sum: 0.0, count: 0 }
    }
}

impl Durations {
    fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some((_, count)) = self.buckets.iter_mut().find(|(bound, _)| seconds <= *bound) {
            *count += 1;
        }
        self.sum += seconds;
        self.count += 1;
    }
}

impl Meters {
    /// What has been told so far.
    pub fn told(&self) -> Told {
        self.lock().clone()
    }

    /// A pass was completed. `count` counts what is counted anew only when tables have changed.
    pub fn passed(&self, took: Duration, changed: bool, host: Host, count: impl FnOnce() -> Counted) {
        let mut told = self.lock();
        told.passes.add(took);
        // A clock before 1970 tells no time.
        told.last_pass =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let counted = told.host.counted.take().filter(|_| !changed).unwrap_or_else(count);
        told.host = Host { counted: Some(counted), ..host };
    }

    /// A pass was not completed: tables may have changed all the same.
    pub fn failed(&self) {
        let mut told = self.lock();
        told.failures += 1;
        told.host.counted = None;
    }

    /// A policy was read again.
    pub fn reloaded(&self, what: Reload) {
        *self.lock().reloads.entry(what).or_default() += 1;
    }

    /// Another policy is in force.
    pub fn set_policy(&self, digest: String) {
        self.lock().policy = digest;
    }

    /// The policy in force is on trial, or is not any more.
    pub fn set_on_trial(&self, on_trial: bool) {
        self.lock().on_trial = on_trial;
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        // Nothing that is left half told does harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_once_in_the_first_bucket_that_holds_it() {
        let mut durations = Durations::default();
        for millis in [5, 6, 60_000] {
            durations.add(Duration::from_millis(millis));
        }
        let filled: Vec<_> = durations.buckets.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [&(0.005, 1), &(0.01, 1), &(f64::INFINITY, 1)]);
        assert_eq!(durations.count, 3);
    }

    #[test]
    fn what_is_dear_is_counted_when_tables_changed_or_may_have() {
        let meters = Meters::default();
        let counts = std::cell::Cell::new(0);
        let pass = |changed| {
            meters.passed(Duration::ZERO, changed, Host::default(), || {
                counts.set(counts.get() + 1);
                Counted { open: counts.get(), ..Counted::default() }
            });
            meters.told().host.counted.expect("counted").open
        };
        assert_eq!([pass(false), pass(false), pass(true), pass(false)], [1, 1, 2, 2]);
        meters.failed();
        assert!(meters.told().host.counted.is_none());
        assert_eq!(pass(false), 3);
    }
}
