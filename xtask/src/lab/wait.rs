//! Waiting for a condition with a deadline; the only place of the lab that sleeps.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `probe` until it gives a value; after `limit` it is an error that says `what` did not happen.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s", limit.as_secs_f32());
        }
        thread::sleep(PAUSE);
    }
}

/// Lets `span` pass: for what is shown when nothing happens (a timeout of the kernel, a silence).
pub fn pass(span: Duration) {
    thread::sleep(span);
}

const PAUSE: Duration = Duration::from_millis(30);
