//! Regressions: what once went wrong on a real host, each by the smallest scene that shows it.

#[path = "../holes/ground.rs"]
#[expect(dead_code, reason = "shared with the holes, which use more of it")]
mod ground;

mod bridged;
mod flows;
mod hooks;
mod passes;
