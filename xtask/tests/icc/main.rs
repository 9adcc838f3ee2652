//! Networks without icc, and who is who on a bridge: with real frames, at both settings of bridge netfilter.

mod apart;
mod birth;
mod ground;
mod guard;
mod links;
mod soak;
