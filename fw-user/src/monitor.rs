//! Following drops: the events of the ring buffer with names, filtered, equal ones joined, and what was lost counted.

pub mod capture;
pub mod follow;
pub mod repeats;
pub mod seen;
pub mod wanted;
