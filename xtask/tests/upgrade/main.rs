//! fw after fw on the same pins: restarts, other layouts and sizes of maps, upgrades that fail or die half way.

mod crash;
mod failure;
mod ground;
mod layout;
