//! Samples: taken alone on a CPU, by turns over all that is compared; medians, ratios of the same round, spread.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Does it on one CPU before all ordinary work of the machine. The thread must be one that ends soon after.
pub(super) fn alone<T>(work: impl FnOnce() -> T) -> Result<T> {
    let mut cpus = CpuSet::new();
    cpus.set(1)?;
    // A machine of one CPU measures there.
    sched_setaffinity(Pid::from_raw(0), &cpus).ok();
    schedule(libc::SCHED_FIFO, 10).context("cannot run before other work: needs CAP_SYS_NICE")?;
    let done = work();
    schedule(libc::SCHED_OTHER, 0)?;
    Ok(done)
}

/// CPU time of this thread so far: the kernel takes a while for a run on live frames to begin and end, waiting.
pub(super) fn spent() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("cannot read the thread's clock")?.into())
}

fn schedule(policy: i32, priority: i32) -> Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 is the calling thread; the parameters live through the call, which reads them alone.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Median, least and most of what was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Spread {
    /// Of at least one sample.
    pub(super) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut samples: Vec<f64> = samples.into_iter().collect();
        samples.sort_by(f64::total_cmp);
        Some(Self {
            median: *samples.get(samples.len() / 2)?,
            least: *samples.first()?,
            most: *samples.last()?,
        })
    }
}

/// `median (least to most)`; width and precision are each number's.
impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (width, digits) = (f.width().unwrap_or(0), f.precision().unwrap_or(0));
        write!(f, "{:width$.digits$} ({:.digits$} to {:.digits$})", self.median, self.least, self.most)
    }
}
