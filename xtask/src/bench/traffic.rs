//! Packets made and counted by programs in the kernel: no sender's system calls in what is measured, and no packet that
//! was lost passes for a fast one.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;

use crate::lab::Place;
use crate::lab::bpf::code::{Do, EXIT, Width, by, load, skip_if_greater, skip_unless, store, with};
use crate::lab::bpf::{self, Cell, Kind, Program, Register};
use crate::lab::frame::{self, Mac};
use crate::lab::tcx::Direction;

/// Length of each frame.
const LENGTH: usize = 64;
/// Where the counter stands behind the frame, and the mask behind it.
const COUNTER: i16 = 64;

/// Which end of the packet is the client's: its port and the last byte of its address change from flow to flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    Source,
    Destination,
    /// The source, of which the port alone changes.
    OneSource,
}

/// Where a generator's packets go. The numbers are `enum xdp_action` of linux/bpf.h.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Way {
    /// Up the stack of the device that they come in by, behind its native XDP.
    Up = 2,
    /// Back out of it, so that they come in by its neighbour, as if by a wire. A veth takes them if a native XDP program
    /// is at the other end.
    Across = 3,
}

/// Makes UDP packets and has them come in by a device.
pub(super) struct Generator(Program);

impl Generator {
    /// Packets of so many flows, a power of two up to 2²²: the client's address ends in 0 to 127, its port is any from
    /// 32768.
    pub(super) fn new(
        (from, to): (Mac, Mac),
        source: (IpAddr, u16),
        destination: (IpAddr, u16),
        client: Client,
        flows: u32,
        way: Way,
    ) -> Result<Self> {
        let header = if source.0.is_ipv4() { 20 } else { 40 };
        let mut packet = frame::udp(source, destination, &vec![0; LENGTH - 14 - header - 8]);
        // No checksum (RFC 768): it would change with the client's port. Who forwards does not ask, in IPv6 neither.
        packet[header + 6..header + 8].fill(0);
        if source.0.is_ipv4() {
            // What the last byte of the address gains, the identification loses, and the header's checksum stays right.
            packet[4..6].copy_from_slice(&[0, 0xff]);
            packet[10..12].fill(0);
            let sum = frame::checksum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let cell = Cell::make(LENGTH + 16)?;
        let mut value = frame::ip_frame(to, from, &packet);
        value.extend(0_u64.to_ne_bytes());
        value.extend(u64::from(flows - 1).to_ne_bytes());
        cell.write(&value)?;
        // The program keeps the cell.
        Ok(Self(Program::load(Kind::Xdp, &writer(&cell, source.0.is_ipv4(), client, way))?))
    }

    /// Lets so many packets come in by this device of the calling thread's network.
    pub(super) fn send(&self, ifindex: u32, packets: u32) -> Result<()> {
        self.0.run_live(ifindex, LENGTH, packets)
    }
}

/// The program: copies the frame from its cell, counts, and writes the client's port and address.
fn writer(cell: &Cell, ipv4: bool, client: Client, way: Way) -> Vec<u64> {
    use Register::{R0, R1, R2, R3, R4, R5, R6, R7, R8};
    use Width::{Byte, Double, Half, Word};
    const IDENTIFICATION: i16 = 19;
    let (port, address) = match (ipv4, client) {
        (true, Client::Source | Client::OneSource) => (34, 29),
        (true, Client::Destination) => (36, 33),
        (false, Client::Source | Client::OneSource) => (54, 37),
        (false, Client::Destination) => (56, 53),
    };
    let mut code = vec![
        load(Word, R6, R1, 0),
        load(Word, R7, R1, 4),
        with(Do::Move, R0, 0),
        by(Do::Move, R2, R6),
        with(Do::Add, R2, i32::from(COUNTER)),
    ];
    let mut rest = cell.address(R8).to_vec();
    for at in (0..COUNTER).step_by(8) {
        rest.extend([load(Double, R3, R8, at), store(Double, R6, at, R3)]);
    }
    rest.extend([
        load(Double, R3, R8, COUNTER),
        by(Do::Move, R4, R3),
        with(Do::Add, R4, 1),
        store(Double, R8, COUNTER, R4),
        load(Double, R4, R8, COUNTER + 8),
        by(Do::And, R3, R4),
        // Seven bits, then eight: the port's first byte has its highest bit set.
        by(Do::Move, R4, R3),
        with(Do::And, R4, 0x7f),
        with(Do::Or, R4, 0x80),
        by(Do::Move, R5, R3),
        with(Do::ShiftLeft, R5, 1),
        with(Do::And, R5, 0xff00),
        by(Do::Or, R4, R5),
        store(Half, R6, port, R4),
        with(Do::ShiftRight, R3, 15),
        with(Do::And, R3, 0x7f),
    ]);
    if client != Client::OneSource {
        rest.push(store(Byte, R6, address, R3));
        if ipv4 {
            rest.extend([
                with(Do::Move, R4, 0xff),
                by(Do::Subtract, R4, R3),
                store(Byte, R6, IDENTIFICATION, R4),
            ]);
        }
    }
    rest.push(with(Do::Move, R0, way as i32));
    // A frame that is too short is XDP_ABORTED; nothing makes one.
    code.push(skip_if_greater(R2, R7, i16::try_from(rest.len()).expect("a short program")));
    code.extend(rest);
    code.push(EXIT);
    code
}

/// Takes every packet that comes in by a device, and counts those of a generator's length: others have to do with
/// neighbours and groups.
pub(super) struct Sink {
    cell: Cell,
    _link: OwnedFd,
}

impl Sink {
    /// In a place of the lab, until it is dropped.
    pub(super) fn attach(place: &Place, device: &str) -> Result<Self> {
        use Register::{R0, R1, R2, R8};
        let cell = Cell::make(8)?;
        let [first, second] = cell.address(R8);
        let code = [
            load(Width::Word, R2, R1, 0),
            skip_unless(R2, const { LENGTH as u16 as i32 }, 5),
            first,
            second,
            load(Width::Double, R2, R8, 0),
            with(Do::Add, R2, 1),
            store(Width::Double, R8, 0, R2),
            // TCX_DROP.
            with(Do::Move, R0, 2),
            EXIT,
        ];
        let program = Program::load(Kind::Classifier, &code)?;
        let link = place.within(|| {
            let ifindex = if_nametoindex(device).with_context(|| format!("no device {device}"))?;
            program.attach(ifindex, bpf::Point::Tcx(Direction::Ingress))
        })?;
        Ok(Self { cell, _link: link.with_context(|| format!("cannot attach a sink to {device}"))? })
    }

    /// Packets that have arrived.
    pub(super) fn arrived(&self) -> Result<u64> {
        bpf::number(&self.cell.read()?, 0)
    }
}
