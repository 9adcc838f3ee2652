//! Packets that try to get past: each row sends the real packet and its legitimate neighbour to a real Docker host.
//!
//! What does not arrive is told by a later packet on the same path that does, never by waiting; each row also moves
//! the counter of the reason for which it fared as it did.

mod capacity;
mod fragments;
mod icmp;
mod ipv4;
mod ipv6;
mod link;
mod nat;
mod offload;
mod packet;
mod peer;
mod row;
mod spoofing;
mod transport;
mod world;

use std::time::Instant;

use row::{Family, report};
use world::World;
use xtask::lab;

/// Rows that send single packets.
const PACKETS: &[&Family] = &[
    &link::FAMILY,
    &ipv4::FAMILY,
    &fragments::FAMILY,
    &ipv6::FAMILY,
    &transport::FAMILY,
    &icmp::FAMILY,
    &spoofing::FAMILY,
    &nat::FAMILY,
];

/// Those in which a bridge has a part.
const BRIDGED: &[&Family] =
    &[&link::FAMILY, &ipv6::FAMILY, &transport::FAMILY, &icmp::FAMILY, &spoofing::FAMILY, &nat::FAMILY];

/// Rows that send very many, or them all again. The last leaves the table of flows full.
const FLOODS: &[&Family] = &[&offload::FAMILY, &capacity::FAMILY];

/// Rows whose feature is not there yet, and which. A row that meets its target must leave this list.
const PENDING: &[(&str, &str)] =
    &[("F09b", "later fragments of nobody fill the kernel's memory for reassembly")];

#[test]
fn rows() {
    if !lab::available("rows") {
        return;
    }
    let start = Instant::now();
    let world = World::build().expect("a host");
    let _daemon = world.fw("off").expect("fw");
    println!("host and fw after {:.0} s", start.elapsed().as_secs_f32());
    let only = std::env::var("FW_ROWS").unwrap_or_default();
    let chosen = |families: &[&'static Family]| -> Vec<_> {
        families.iter().copied().filter(|family| family.name.starts_with(&only)).collect()
    };
    let mut missed = all(&world, &chosen(PACKETS), "bridge-nf-call-iptables = 1");
    world.lab.set_bridge_netfilter(false).expect("the sysctl");
    missed.extend(all(&world, &chosen(BRIDGED), "bridge-nf-call-iptables = 0"));
    world.lab.set_bridge_netfilter(true).expect("the sysctl");
    missed.extend(all(&world, &chosen(FLOODS), "bridge-nf-call-iptables = 1"));
    conclude(&missed, start);
}

/// G03: what XDP drops early is what the uplink's hook would have dropped, and nothing else.
#[test]
fn rows_behind_xdp() {
    if !lab::available("rows_behind_xdp") {
        return;
    }
    let start = Instant::now();
    let world = World::build().expect("a host");
    let _daemon = world.fw("generic").expect("fw with XDP");
    conclude(&all(&world, PACKETS, "xdp = generic"), start);
}

/// Runs the families and prints their tables; each row that misses and is not pending.
fn all(world: &World, families: &[&Family], when: &str) -> Vec<String> {
    let mut missed = Vec::new();
    for family in families {
        let begun = Instant::now();
        let lines = family.run(world).expect("the counters");
        let (table, wrong) = report(&lines, PENDING);
        let (count, took) = (lines.len(), begun.elapsed().as_secs_f32());
        println!("\n{}, {when} ({count} rows in {took:.1} s)\n\n{table}", family.name);
        missed.extend(wrong.into_iter().map(|miss| format!("{when}: {miss}")));
    }
    missed
}

fn conclude(missed: &[String], start: Instant) {
    let took = start.elapsed().as_secs_f32();
    assert!(missed.is_empty(), "{} rows miss, {took:.0} s:\n{}", missed.len(), missed.join("\n"));
    println!("all at target in {took:.0} s, {} pending", PENDING.len());
}
