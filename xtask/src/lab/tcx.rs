//! TCX programs of a device: counted by asking the kernel (`bpftool net` before 7.3 does not show them), and a foreign
//! one that drops all, to see whether it still runs behind ours.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::bpf::code::{Do, EXIT, with};
use super::bpf::{self, Kind, Point, Program, Register};
use super::place::Place;

/// Which way packets go, seen from the device. The numbers are `enum bpf_attach_type` of linux/bpf.h (since 6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// Into the host.
    Ingress = 46,
    /// Out of it.
    Egress = 47,
}

impl Place {
    /// Number of TCX programs on a device; none on a kernel that knows no TCX.
    pub fn tcx_programs(&self, device: &str, direction: Direction) -> Result<u32> {
        self.within(|| {
            let mut query = Query {
                ifindex: if_nametoindex(device).with_context(|| format!("no device {device}"))?,
                attach_type: direction as u32,
                ..Query::default()
            };
            // Its pointers are null, which asks for the count alone.
            match bpf::call(PROG_QUERY, &mut query) {
                Ok(_) => Ok(query.count),
                Err(Errno::ENOENT | Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(0),
                Err(error) => Err(error).with_context(|| format!("cannot ask for the programs of {device}")),
            }
        })?
    }
}

impl Place {
    /// Attaches a program behind all others that drops every packet, until the returned link is closed.
    pub fn attach_dropper(&self, device: &str, direction: Direction) -> Result<OwnedFd> {
        self.attach_two(device, Kind::Classifier, Point::Tcx(direction))
    }

    /// Attaches a program to XDP, in the driver, that lets every packet on, until the returned link is closed.
    pub fn attach_xdp(&self, device: &str) -> Result<OwnedFd> {
        self.attach_two(device, Kind::Xdp, Point::Xdp)
    }

    /// Attaches a program that returns 2, which is `TCX_DROP` and `XDP_PASS`.
    fn attach_two(&self, device: &str, kind: Kind, point: Point) -> Result<OwnedFd> {
        self.within(|| {
            let program = Program::load(kind, &[with(Do::Move, Register::R0, 2), EXIT])?;
            let ifindex = if_nametoindex(device).with_context(|| format!("no device {device}"))?;
            program.attach(ifindex, point).with_context(|| format!("cannot attach a program to {device}"))
        })?
    }
}

/// The `query` member of `union bpf_attr`.
#[derive(Default)]
#[repr(C)]
struct Query {
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

const PROG_QUERY: u32 = 16;
