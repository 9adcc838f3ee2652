//! `nat.owner = "fw"`: dockerd runs with --iptables=false, and fw writes NAT.

mod closed;
mod ground;
mod handed;
mod moves;
mod repair;
mod translations;
mod ways;
