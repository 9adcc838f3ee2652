//! Meters that run while something is done to fw: what gets through that must not ([`Leaks`]), and for how long nothing
//! came through that must ([`Pulse`]).
//!
//! Each is one thread that serves all its sockets, so that a dozen pairs take little of the machine. A meter that did
//! not measure is an error: too few probes, a target that does not hear its twin, a pair that never answers.

mod leaks;
mod pulse;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use leaks::{Forbidden, Leaked, Leaks};
pub use pulse::{Allowed, Beat, Pulse};

/// A thread that goes on until it is dropped, and what it shares.
#[derive(Debug)]
struct Running<T> {
    stop: Arc<AtomicBool>,
    shared: Arc<Mutex<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Running<T> {
    /// Starts `work`; it looks at the first argument as often as it can, and ends when that is true.
    fn start(shared: T, work: impl FnOnce(&AtomicBool, &Mutex<T>) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Mutex::new(shared));
        let (for_stop, for_shared) = (Arc::clone(&stop), Arc::clone(&shared));
        let thread = Some(thread::spawn(move || work(&for_stop, &for_shared)));
        Self { stop, shared, thread }
    }

    fn shared(&self) -> MutexGuard<'_, T> {
        lock(&self.shared)
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds from now to the next tick, for a call that waits for input meanwhile.
fn until_tick(next: Instant) -> u16 {
    let left = next.saturating_duration_since(Instant::now());
    // Rounded up: to wake a moment early would be to ask again and again.
    left.as_micros().div_ceil(1000).try_into().unwrap_or(u16::MAX)
}

/// How long an answer that has to come may take on a busy machine.
const ANSWERS: Duration = Duration::from_secs(10);
