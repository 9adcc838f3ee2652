//! What things mean in fw: addresses, packets on the wire, tables, decisions, verdicts and events.
//!
//! The meaning of a packet is decided here, once, by [`decide`]: the kernel programs call it with BPF maps behind
//! [`Tables`], tests and `fw explain` with ordinary collections. Nothing in this crate does I/O, allocates or is
//! `unsafe` (but for the markers in `pod`).
//!
//! Byte order: addresses and MAC addresses are byte arrays as on the wire; every other number is in host order.
#![no_std]

#[cfg(any(test, feature = "std"))]
extern crate std;

pub mod address;
pub mod decide;
pub mod event;
pub mod fast;
pub mod flow;
#[cfg(feature = "user")]
mod pod;
pub mod tables;
pub mod verdict;
pub mod wire;

pub use address::{Address, Mac};
pub use decide::decide;
pub use tables::Tables;
pub use verdict::{Action, Hook, Mark, Reason, Verdict};

/// Version of the layout of the tables and of the meaning of their fields.
///
/// A daemon adopts pinned maps only if they carry the same number, and else makes new ones in their place; it changes
/// with every change to [`tables`], [`flow`], [`event`] or the numbering in [`verdict`]. Whatever changes, the first
/// eight bytes of [`tables::Settings`] and the first twelve of [`tables::Daemon`] stay what they are: every version
/// reads them of every other.
pub const ABI_VERSION: u32 = 4;

/// The first [`ABI_VERSION`] whose `flows`, `inbound_flows` and `datagrams` are laid out, numbered and keyed as here. A
/// daemon that makes new maps carries their content over only if the maps in force have the same number.
pub const FLOWS_ABI: u32 = 3;
