//! TCX programs of a device: counted by asking the kernel (`bpftool net` before 7.3 does not show them), and a foreign
//! one that drops all, to see whether it still runs behind ours.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc::{SYS_bpf, syscall};
use nix::net::if_::if_nametoindex;

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
            // SAFETY: `query` is the part of `union bpf_attr` that BPF_PROG_QUERY reads and writes, its length is
            // given, and its pointers are null, which asks for the count alone.
            let result = unsafe { syscall(SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
            match Errno::result(result) {
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
        self.attach_two(device, BPF_PROG_TYPE_SCHED_CLS, direction as u32)
    }

    /// Attaches a program to XDP, in the driver, that lets every packet on, until the returned link is closed.
    pub fn attach_xdp(&self, device: &str) -> Result<OwnedFd> {
        self.attach_two(device, BPF_PROG_TYPE_XDP, BPF_XDP)
    }

    /// Attaches a program that returns 2, which is `TCX_DROP` and `XDP_PASS`.
    fn attach_two(&self, device: &str, kind: u32, attach_type: u32) -> Result<OwnedFd> {
        self.within(|| {
            let instructions: [u64; 2] = [RETURN_VALUE_IS_2, EXIT];
            let licence = c"GPL";
            let mut load = Load {
                kind,
                instruction_count: 2,
                instructions: instructions.as_ptr() as u64,
                licence: licence.as_ptr() as u64,
                ..Load::default()
            };
            let program =
                bpf(BPF_PROG_LOAD, &mut load).context("cannot load a program of two instructions")?;
            let mut link = Link {
                program: program.as_raw_fd().cast_unsigned(),
                ifindex: if_nametoindex(device).with_context(|| format!("no device {device}"))?,
                attach_type,
                ..Link::default()
            };
            bpf(BPF_LINK_CREATE, &mut link).with_context(|| format!("cannot attach a program to {device}"))
        })?
    }
}

/// A command that returns a file descriptor.
fn bpf<Attributes>(command: u32, attributes: &mut Attributes) -> Result<OwnedFd> {
    // SAFETY: the attributes are laid out as the command's member of `union bpf_attr`, with their length; what they
    // point to lives through the call.
    let result =
        unsafe { syscall(SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<Attributes>()) };
    let number = Errno::result(result)?;
    // SAFETY: on success the kernel has made a new file descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(number).context("a file descriptor is an int")?) })
}

/// The start of the member of `union bpf_attr` for `BPF_PROG_LOAD`.
#[derive(Default)]
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// The member of `union bpf_attr` for `BPF_LINK_CREATE` on a device.
#[derive(Default)]
#[repr(C)]
struct Link {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    expected_revision: u64,
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

const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_QUERY: u32 = 16;
const BPF_LINK_CREATE: u32 = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;

/// `r0 = 2`; opcode in the low byte, immediate in the high half.
const RETURN_VALUE_IS_2: u64 = 0xb7 | 2 << 32;
const EXIT: u64 = 0x95;
