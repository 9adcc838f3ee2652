//! fw, the library behind the binary.

pub mod bans;
pub mod commands;
pub mod connections;
pub mod conntrack;
pub mod control;
pub mod datapath;
pub mod desired;
pub mod difference;
pub mod docker;
pub mod doctor;
pub mod explain;
pub mod exposure;
pub mod handover;
pub mod health;
pub mod inventory;
pub mod kept;
pub mod listeners;
pub mod log;
mod memory;
pub mod monitor;
pub mod netlink;
pub mod plan;
pub mod policy;
pub mod reconcile;
pub mod stock;
pub mod typed_on;
pub mod view;
