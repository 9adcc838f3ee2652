//! A peer outside whose every segment is ours to choose, and flows of a container to it.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use xtask::lab::frame::{self, TCP, UDP};

use crate::packet::{Shot, flags};
use crate::world::{Ear, Path, World};

/// The ports, numbers and flags of a TCP segment; of UDP the ports alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
}

impl Segment {
    /// Reads a frame that holds a whole TCP or UDP packet without options before it.
    pub(crate) fn parse(frame: &[u8]) -> Option<Self> {
        let (start, proto) = match frame.get(14)? {
            0x45 => (34, *frame.get(23)?),
            0x60..=0x6f => (54, *frame.get(20)?),
            _ => return None,
        };
        let two =
            |at: usize| Some(u16::from_be_bytes(frame.get(start + at..start + at + 2)?.try_into().ok()?));
        let four =
            |at: usize| Some(u32::from_be_bytes(frame.get(start + at..start + at + 4)?.try_into().ok()?));
        let (from, to) = (two(0)?, two(2)?);
        match proto {
            TCP => {
                // Whether it pushes is the sender's taste.
                let flags = frame.get(start + 13)? & !flags::PSH;
                Some(Self { from, to, sequence: four(4)?, acknowledgement: four(8)?, flags })
            }
            UDP => Some(Self { from, to, sequence: 0, acknowledgement: 0, flags: 0 }),
            _ => None,
        }
    }

    /// The segment as a packet.
    pub(crate) fn packet(&self, source: IpAddr, target: IpAddr) -> Vec<u8> {
        let numbers = (self.sequence, self.acknowledgement);
        frame::tcp((source, self.from), (target, self.to), self.flags, numbers)
    }
}

/// An address outside where no kernel answers.
#[derive(Debug)]
pub(crate) struct Peer<'world> {
    world: &'world World,
    shot: Shot,
    /// Its port, another one for each peer.
    pub(crate) port: u16,
}

impl<'world> Peer<'world> {
    pub(crate) fn new(world: &'world World, six: bool) -> Result<Self> {
        let shot = world.shot(Path::Published, six)?.from("198.18.0.77", "2001:db8:18::77");
        Ok(Self { world, shot, port: shot.port })
    }

    /// Sends H a segment with these flags and numbers (sequence, acknowledgement).
    pub(crate) fn sends(&self, to: u16, flags: u8, numbers: (u32, u32)) -> Result<()> {
        let (sequence, acknowledgement) = numbers;
        let segment = Segment { from: self.port, to, sequence, acknowledgement, flags };
        let packet = segment.packet(self.shot.source, self.shot.target);
        self.world.send(Path::Published, &[self.shot.frame(&packet)])
    }

    /// Waits for a segment of H's port to this peer.
    pub(crate) fn hears(&self, from: u16, wanted: impl Fn(&Segment) -> bool) -> Result<Segment> {
        let is_it = |segment: &Segment| segment.from == from && segment.to == self.port && wanted(segment);
        let what = format!("a segment of port {from}");
        let frame = self.world.wait_for(Ear::Outside, &what, |frame| {
            Segment::parse(frame).is_some_and(|segment| is_it(&segment))
        })?;
        Segment::parse(&frame).context("it was one a moment ago")
    }
}

/// A UDP flow of a1 to the peer, as the outside sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    shot: Shot,
    pub(crate) peer: IpAddr,
    pub(crate) remote: u16,
    /// The port behind which H has hidden a1.
    pub(crate) port: u16,
}

/// Makes a1 send a datagram to this port of the peer.
pub(crate) fn punch(world: &World, six: bool, remote: u16) -> Result<Flow> {
    let shot = world.shot(Path::Out, six)?.to("198.18.0.77", "2001:db8:18::77");
    let mut flow = Flow { shot, peer: shot.target, remote, port: 0 };
    flow.sends(world)?;
    let out = world.wait_for(Ear::Outside, "a1's datagram", |frame| shot.token.is_in(frame))?;
    flow.port = Segment::parse(&out).context("a datagram")?.from;
    Ok(flow)
}

impl Flow {
    /// a1 sends another datagram.
    pub(crate) fn sends(&self, world: &World) -> Result<()> {
        world.send(Path::Out, &[self.shot.frame(&self.shot.udp_to(self.remote))])
    }
}
