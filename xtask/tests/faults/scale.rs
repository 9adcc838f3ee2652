//! The short forms of `cargo xtask soak churn` and `networks`: Z11 and Z19.

use std::path::Path;

use xtask::{lab, soak};

#[test]
fn newborn_containers_deliver_nothing_forbidden() {
    if lab::available("newborn_containers_deliver_nothing_forbidden") {
        soak::churn(Path::new(env!("CARGO_BIN_EXE_xtask")), 30, 10).expect("nothing arrives");
    }
}

#[test]
fn networks_come_and_go_without_a_trace() {
    if lab::available("networks_come_and_go_without_a_trace") {
        soak::networks(10, 1).expect("nothing is left");
    }
}
