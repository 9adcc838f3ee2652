//! The short form of `cargo xtask soak neighbours`.

use std::time::Duration;

use xtask::lab;
use xtask::soak::{Expiry, neighbours};

#[test]
fn the_gateway_stays_reachable_while_neighbours_expire() {
    if lab::available("the_gateway_stays_reachable_while_neighbours_expire") {
        neighbours(Duration::from_secs(20), Expiry::SHORT).expect("the gateway answers all the time");
    }
}
