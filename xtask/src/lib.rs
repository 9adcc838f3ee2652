//! Set-up, checks, tests, lab and benchmarks of fw; ships nothing.

pub mod bench;
pub mod coverage;
pub mod demo;
pub mod equivalence;
pub mod fuzz;
pub mod lab;
pub mod matrix;
pub mod mutants;
pub mod oracle;
pub mod replace;
pub mod setup;
pub mod soak;
pub mod test;
pub mod tidy;
pub mod workspace;
