//! The events of one fw, whatever happens to its maps meanwhile, with who they are about and what was lost.

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fw_common::event::Event;
use fw_common::tables::EventRate;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::time::{ClockId, clock_gettime};

use super::seen::{Known, Seen};
use crate::control;
use crate::datapath::{Directory, Maps, events_id};
use crate::reconcile::{devices, monotonic_seconds};

/// So many events are taken at once: more than the ring holds at the usual size.
const BATCH: usize = 4096;

/// How old names may be, and how often the rate is asked for anew.
const REFRESH: Duration = Duration::from_secs(1);

/// Seconds for which a rate is asked for beyond the next time, so that it is over soon after whoever asked has died.
const LEASE: u32 = 3;

/// The events, and who is who.
pub struct Follow {
    directory: Directory,
    maps: Maps,
    id: Option<u32>,
    /// Who is who, as of `refreshed`.
    pub known: Known,
    generation: u32,
    refreshed: Instant,
    rate: Option<u32>,
    losses: Losses,
    /// Nobody else takes events out while this lives.
    _alone: Alone,
}

/// Events that nobody will see, by what the programs count for each CPU.
#[derive(Debug, Default)]
struct Losses {
    /// What each CPU had missed when following began.
    begun: Vec<u64>,
    /// What it had when it wrote the last event.
    last: Vec<u64>,
    /// What was lost with maps that are gone.
    before: u64,
}

impl Losses {
    fn begin(&mut self, missed: Vec<u64>) {
        self.last.clone_from(&missed);
        self.begun = missed;
    }

    /// What the CPU of this event has missed since the event before, or since following began.
    fn between(&mut self, event: &Event) -> u64 {
        let Some(last) = self.last.get_mut(event.cpu as usize) else { return 0 };
        let between = event.missed.saturating_sub(*last);
        *last = event.missed.max(*last);
        between
    }

    fn total(&self, missed: &[u64]) -> u64 {
        let since = missed.iter().zip(&self.begun).map(|(now, begun)| now.saturating_sub(*begun));
        self.before + since.sum::<u64>()
    }
}

impl Follow {
    /// Begins to follow the fw of this directory, with so many events a second and CPU if a rate is given. What was waiting
    /// comes first if `waiting`, and else is gone.
    pub fn begin(directory: Directory, rate: Option<u32>, waiting: bool) -> anyhow::Result<Self> {
        let alone = alone(directory.path())?;
        let id = events_id(directory.path())?;
        let mut maps = Maps::open(directory.path())?;
        if !waiting {
            while !maps.take_events(BATCH).is_empty() {}
        }
        let mut losses = Losses::default();
        losses.begin(maps.missed_events()?);
        let generation = maps.generation()?;
        let known = Known { state: maps.read_who()?, devices: devices()? };
        let refreshed = Instant::now();
        let mut follow =
            Self { directory, maps, id, known, generation, refreshed, rate, losses, _alone: alone };
        follow.ask_for_rate(LEASE)?;
        Ok(follow)
    }

    /// What becomes readable when events are waiting.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.maps.events_fd()
    }

    /// The events that are waiting, or the oldest of them.
    pub fn take(&mut self) -> anyhow::Result<Vec<Seen>> {
        let events = self.maps.take_events(BATCH);
        if events.is_empty() {
            return Ok(Vec::new());
        }
        self.refresh(&events)?;
        // What the clock on the wall says beyond the one that the programs read: it may be set meanwhile.
        let ahead = nanoseconds(ClockId::CLOCK_REALTIME)? - nanoseconds(ClockId::CLOCK_MONOTONIC)?;
        let seen = |event: Event| {
            let missed = self.losses.between(&event);
            Seen::one(event, self.known.ends(&event), i128::from(event.time) + ahead, missed)
        };
        Ok(events.into_iter().map(seen).collect())
    }

    /// Drops since following began of which no event told.
    pub fn lost(&self) -> anyhow::Result<u64> {
        Ok(self.losses.total(&self.maps.missed_events()?))
    }

    /// Does what is to be done once a second: asks for the rate anew, and goes over to maps that were made anew. `false` if
    /// fw is gone. What was waiting in the old maps has to be taken before.
    pub fn go_on(&mut self) -> anyhow::Result<Going> {
        self.ask_for_rate(LEASE)?;
        let id = events_id(self.directory.path())?;
        if id == self.id {
            return Ok(Going::On);
        }
        if id.is_none() {
            return Ok(Going::Gone);
        }
        // The programs write to the new ones since before their pins are there.
        let maps = Maps::open(self.directory.path())?;
        self.losses.before = self.lost()?;
        let fresh = vec![0; maps.missed_events()?.len()];
        self.losses.begin(fresh);
        (self.maps, self.id) = (maps, id);
        self.known = Known { state: self.maps.read_who()?, devices: devices()? };
        self.ask_for_rate(LEASE)?;
        Ok(Going::Anew)
    }

    /// Takes back what was asked for.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.ask_for_rate(0)
    }

    /// Names may be as old as [`REFRESH`]; they are read again if the tables have changed, or a device is unknown.
    fn refresh(&mut self, events: &[Event]) -> anyhow::Result<()> {
        if self.refreshed.elapsed() < REFRESH {
            return Ok(());
        }
        let generation = self.maps.generation()?;
        let known = |event: &Event| self.known.devices.contains_key(&event.ifindex);
        if generation != self.generation || !events.iter().all(known) {
            self.known = Known { state: self.maps.read_who()?, devices: devices()? };
            self.generation = generation;
        }
        self.refreshed = Instant::now();
        Ok(())
    }

    fn ask_for_rate(&mut self, seconds: u32) -> anyhow::Result<()> {
        let Some(rate) = self.rate else { return Ok(()) };
        let now = u32::try_from(monotonic_seconds()).unwrap_or(u32::MAX);
        let until = if seconds == 0 { 0 } else { now.saturating_add(seconds) };
        Ok(self.maps.set_event_rate(EventRate { rate, until })?)
    }
}

/// Whether there still is something to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Going {
    /// As before.
    On,
    /// In maps that were made anew.
    Anew,
    /// No more: fw was taken away.
    Gone,
}

/// Keeps others from taking events out of the same ring: each event can be read once. It is a locked file beside the
/// control socket, where only root may lock; the lock goes with the process.
struct Alone {
    file: PathBuf,
    _lock: Flock<File>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        control::remove(&self.file);
    }
}

fn alone(directory: &Path) -> anyhow::Result<Alone> {
    let locked = || -> io::Result<Option<Alone>> {
        let file = control::socket(directory)?.with_extension("monitor");
        control::make_folder()?;
        loop {
            let opened = File::options().write(true).create(true).truncate(false).mode(0o600).open(&file)?;
            let lock = match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, errno)) => return Err(errno.into()),
            };
            // Another may have removed it between the two.
            let (held, there) = (lock.metadata()?, fs::metadata(&file));
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())) {
                return Ok(Some(Alone { file, _lock: lock }));
            }
        }
    };
    let alone = locked().context("cannot lock the events in /run/fw")?;
    alone.with_context(|| {
        format!(
            "another `fw monitor` reads the events of {}, and each can be read once; end that one first",
            directory.display()
        )
    })
}

fn nanoseconds(clock: ClockId) -> anyhow::Result<i128> {
    let now = clock_gettime(clock).context("cannot read the clock")?;
    Ok(i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::seen::tests::event;

    #[test]
    fn what_is_lost_is_counted_once() {
        let mut losses = Losses::default();
        losses.begin(vec![10, 0]);
        let by = |cpu, missed| Event { cpu, missed, ..event("10.0.0.1", 1, "10.0.0.2", 2) };
        assert_eq!(losses.between(&by(0, 7)), 0, "from before");
        assert_eq!(losses.between(&by(0, 15)), 5);
        assert_eq!(losses.between(&by(0, 15)), 0);
        assert_eq!(losses.between(&by(1, 3)), 3);
        assert_eq!(losses.between(&by(9, 3)), 0, "a CPU that was not there");
        assert_eq!(losses.total(&[17, 3]), 10, "with two that no event has told of yet");
        losses.before = losses.total(&[17, 3]);
        losses.begin(vec![0, 0]);
        assert_eq!(losses.total(&[1, 0]), 11);
    }
}
