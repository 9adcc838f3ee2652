//! fw after fw on the same pins: restarts, other layouts and sizes of maps, upgrades that fail or die half way.

mod crash;
mod failure;
mod layout;

use xtask::lab;
use xtask::replace::{self, Ground};

/// The short form of `cargo xtask soak restarts`.
#[test]
fn restarts_under_load() {
    if lab::available("restarts_under_load") {
        replace::restarts(6, 1, None, 20).expect("nobody notices");
    }
}

/// The host, or nothing (after having said why) where no lab can be made.
fn ground(test: &str) -> Option<Ground> {
    lab::available(test).then(|| Ground::start().expect("a host"))
}
