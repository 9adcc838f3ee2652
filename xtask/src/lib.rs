//! Set-up, checks, tests, lab and benchmarks of fw; ships nothing.

pub mod bench;
pub mod demo;
pub mod lab;
pub mod setup;
pub mod test;
pub mod tidy;
pub mod workspace;
