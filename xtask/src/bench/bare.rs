//! The least that a program does that drops what is unwanted: what fw's programs are held against on live frames.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;

use super::street::PUBLISHED;
use crate::lab::Place;
use crate::lab::bpf::code::{Do, EXIT, Width, by, load, skip_if_greater, skip_unless, with};
use crate::lab::bpf::{Kind, Point, Program, Register};

/// Has a program parse what comes in by a device and drop every UDP datagram that is not for the first published port,
/// until the link is closed. It counts nothing, keeps nothing, and asks no table.
pub(super) fn attach(place: &Place, device: &str, point: Point) -> Result<OwnedFd> {
    place.within(|| {
        let program = Program::load(point.kind(), &parse_and_drop(point.kind()))?;
        let ifindex = if_nametoindex(device).with_context(|| format!("no device {device}"))?;
        program.attach(ifindex, point).with_context(|| format!("cannot attach a bare program to {device}"))
    })?
}

fn parse_and_drop(kind: Kind) -> Vec<u64> {
    use Register::{R0, R1, R2, R3, R4};
    use Width::{Byte, Half, Word};
    // `data` and `data_end` of struct __sk_buff and struct xdp_md; TCX_NEXT and TCX_DROP, XDP_PASS and XDP_DROP.
    let (data, end, pass, drop) = match kind {
        Kind::Classifier => (76, 80, -1, 2),
        Kind::Xdp => (0, 4, 2, 1),
    };
    let on_the_wire = |port: u16| i32::from(port.to_be());
    vec![
        load(Word, R2, R1, data),
        load(Word, R3, R1, end),
        with(Do::Move, R0, pass),
        by(Do::Move, R4, R2),
        with(Do::Add, R4, 42),
        skip_if_greater(R4, R3, 11),
        // IPv4, without options, no later fragment, UDP; the port.
        load(Half, R4, R2, 12),
        skip_unless(R4, on_the_wire(0x0800), 9),
        load(Byte, R4, R2, 14),
        skip_unless(R4, 0x45, 7),
        load(Half, R4, R2, 20),
        with(Do::And, R4, on_the_wire(0x1fff)),
        skip_unless(R4, 0, 4),
        load(Byte, R4, R2, 23),
        skip_unless(R4, 17, 2),
        load(Half, R4, R2, 36),
        skip_unless(R4, on_the_wire(PUBLISHED), 1),
        EXIT,
        with(Do::Move, R0, drop),
        EXIT,
    ]
}
