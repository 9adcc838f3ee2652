//! Faults, one after the other on hosts that go on working: nothing leaks, what may talk goes on talking, and all is
//! well again by itself. The numbers of rows are those of `docs/testing.md`.

mod daemon;
mod engine;
mod ground;
mod kernel;
mod lies;
mod restart;
mod scale;

mod story;
