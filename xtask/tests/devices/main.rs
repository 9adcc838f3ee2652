//! Devices that come and go, and the ground that hooks are pinned on: fw follows, and never believes a hook that is none.
//!
//! Rows that are held elsewhere: Z09 renamed, W17 there and back, Z15 detached links and deleted qdiscs in
//! `xtask/tests/regressions/hooks.rs`; Z14 in `attach.rs`, `early.rs` and `holes/foreign.rs`; Z25 in `attach.rs`.

mod bpffs;
mod bridges;
mod uplinks;

use std::time::{Duration, Instant};

use xtask::lab::{self, wait};
use xtask::replace::Ground;

/// The host, or nothing (after having said why) where no lab can be made.
fn ground(test: &str) -> Option<Ground> {
    lab::available(test).then(|| Ground::start().expect("a host"))
}

/// Waits for a condition, and says how long it took.
fn until(what: &str, holds: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    wait::until(what, Duration::from_secs(30), || holds().then_some(()))
        .unwrap_or_else(|error| panic!("{error:#}"));
    begun.elapsed()
}
