//! What a pass spends its time on: said at level debug, for whoever looks for what is slow (`cargo xtask bench control`).

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::Wake;

/// A part of a pass.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// Docker is asked, and answers.
    Docker,
    /// The links inside containers are read.
    Containers,
    /// Devices, addresses and routes are read.
    Kernel,
    /// The tables are read.
    Read,
    /// The kernel is asked what is attached.
    Attached,
    /// What should be in force is worked out.
    Desired,
    /// The steps to it are.
    Plan,
    /// Connections are read, taken over and cut.
    Connections,
    /// Maps are written, and read back.
    Maps,
    /// Hooks are attached and detached.
    Hooks,
    /// Rules in iptables and nftables are looked at.
    Rules,
}

/// Time and work of one pass.
#[derive(Clone, Debug)]
pub(super) struct Spent {
    last: Took,
    parts: [Took; Part::Rules as usize + 1],
    /// Entries written.
    pub(super) writes: usize,
    /// Entries read back.
    pub(super) reads: usize,
    /// Hooks attached or detached.
    pub(super) hooks: usize,
}

impl Spent {
    /// A pass begins.
    pub(super) fn begin() -> Self {
        Self { last: Took::so_far(), parts: [Took::default(); _], writes: 0, reads: 0, hooks: 0 }
    }

    /// What has passed since the last call went into this part.
    pub(super) fn on(&mut self, part: Part) {
        let now = Took::so_far();
        self.parts[part as usize].add(now, self.last);
        self.last = now;
    }

    /// Time by the clock of all parts so far.
    pub(super) fn time(&self) -> Duration {
        self.parts.iter().map(|part| part.clock).sum()
    }

    /// Says it.
    pub(super) fn say(&self, wake: Wake) {
        let of = |part: Part| self.parts[part as usize].shown();
        tracing::debug!(
            ?wake,
            docker = of(Part::Docker),
            containers = of(Part::Containers),
            kernel = of(Part::Kernel),
            read = of(Part::Read),
            attached = of(Part::Attached),
            desired = of(Part::Desired),
            plan = of(Part::Plan),
            connections = of(Part::Connections),
            maps = of(Part::Maps),
            hooks = of(Part::Hooks),
            rules = of(Part::Rules),
            writes = self.writes,
            reads = self.reads,
            changed = self.hooks,
            "pass, in us by the clock and of CPU"
        );
    }
}

/// Time by the clock, and that of all CPUs, which other work on the machine does not lengthen, nor does waiting.
#[derive(Clone, Copy, Debug, Default)]
struct Took {
    clock: Duration,
    cpu: Duration,
}

impl Took {
    /// Since long ago.
    fn so_far() -> Self {
        let of = |id| clock_gettime(id).map_or(Duration::ZERO, Into::into);
        Self { clock: of(ClockId::CLOCK_MONOTONIC), cpu: of(ClockId::CLOCK_PROCESS_CPUTIME_ID) }
    }

    fn add(&mut self, now: Self, before: Self) {
        self.clock += now.clock.saturating_sub(before.clock);
        self.cpu += now.cpu.saturating_sub(before.cpu);
    }

    fn shown(self) -> tracing::field::DisplayValue<String> {
        tracing::field::display(format!("{}/{}", self.clock.as_micros(), self.cpu.as_micros()))
    }
}
