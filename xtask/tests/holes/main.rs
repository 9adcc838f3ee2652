//! Holes that a naive design has: each was seen on a real host, and is closed.
//!
//! Every hole is first seen open on stock Docker (or its twin is), then closed by the counter that is named, at
//! bridge-nf-call-iptables 0 and 1. W03 and W04 are rows of the matrix: D15-D17 at both settings with docker-proxy and
//! without, and the whole matrix on an uplink that is a port of a bridge. W05 is in `stopped.rs` and in `foreign.rs`.

mod addresses;
mod foreign;
mod ground;
mod link;
mod loopback;
mod replies;
mod spoofing;
mod tunnels;
