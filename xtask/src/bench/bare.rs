//! The least that a program does that drops what is unwanted: what fw's programs are held against on live frames.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;

use super::street::PUBLISHED;
use crate::lab::Place;
use crate::lab::bpf::code::{Do, EXIT, LOOK_UP, Width, by, load, skip_if_greater, skip_unless, store, with};
use crate::lab::bpf::{Kind, Point, Program, Register, Trie};

/// Has a program parse what comes in by a device and drop every UDP datagram that is not for the first published port,
/// and, where there are any, what is from these prefixes, until the link is closed. It counts nothing and keeps nothing.
pub(super) fn attach(
    place: &Place,
    device: &str,
    point: Point,
    denied: &[(Ipv4Addr, u8)],
) -> Result<OwnedFd> {
    place.within(|| {
        let trie = if denied.is_empty() { None } else { Some(Trie::make(denied)?) };
        let program = Program::load(point.kind(), &parse_and_drop(point.kind(), trie.as_ref()))?;
        let ifindex = if_nametoindex(device).with_context(|| format!("no device {device}"))?;
        program.attach(ifindex, point).with_context(|| format!("cannot attach a bare program to {device}"))
    })?
}

fn parse_and_drop(kind: Kind, denied: Option<&Trie>) -> Vec<u64> {
    use Register::{R0, R1, R2, R3, R4, R6, R10};
    use Width::{Byte, Half, Word};
    // `data` and `data_end` of struct __sk_buff and struct xdp_md; TCX_NEXT and TCX_DROP, XDP_PASS and XDP_DROP.
    let (data, end, pass, drop) = match kind {
        Kind::Classifier => (76, 80, -1, 2),
        Kind::Xdp => (0, 4, 2, 1),
    };
    let on_the_wire = |port: u16| i32::from(port.to_be());
    let asks = denied.map(|trie| {
        let [first, second] = trie.reference(R1);
        // The key on the stack: all bits count, ::ffff:0:0 and the source.
        [
            with(Do::Move, R3, 128),
            store(Word, R10, -20, R3),
            with(Do::Move, R3, 0),
            store(Word, R10, -16, R3),
            store(Word, R10, -12, R3),
            with(Do::Move, R3, on_the_wire(0xffff)),
            with(Do::ShiftLeft, R3, 16),
            store(Word, R10, -8, R3),
            load(Word, R3, R6, 26),
            store(Word, R10, -4, R3),
            first,
            second,
            by(Do::Move, R2, R10),
            with(Do::Add, R2, -20),
            LOOK_UP,
            // Found is not 0.
            skip_unless(R0, 0, 4),
        ]
    });
    let asks: &[u64] = asks.as_ref().map_or(&[], |asks| asks);
    let to_pass = |instructions: u8| i16::from(instructions) + i16::from(asks.len() as u8);
    let parse = [
        load(Word, R6, R1, data),
        load(Word, R3, R1, end),
        by(Do::Move, R4, R6),
        with(Do::Add, R4, 42),
        skip_if_greater(R4, R3, to_pass(11)),
        // IPv4, without options, no later fragment, UDP.
        load(Half, R4, R6, 12),
        skip_unless(R4, on_the_wire(0x0800), to_pass(9)),
        load(Byte, R4, R6, 14),
        skip_unless(R4, 0x45, to_pass(7)),
        load(Half, R4, R6, 20),
        with(Do::And, R4, on_the_wire(0x1fff)),
        skip_unless(R4, 0, to_pass(4)),
        load(Byte, R4, R6, 23),
        skip_unless(R4, 17, to_pass(2)),
    ];
    let port = [
        load(Half, R4, R6, 36),
        skip_unless(R4, on_the_wire(PUBLISHED), 2),
        with(Do::Move, R0, pass),
        EXIT,
        with(Do::Move, R0, drop),
        EXIT,
    ];
    [&parse, asks, &port].concat()
}
