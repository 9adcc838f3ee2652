//! The few things of `bpf(2)` that the lab and the benchmarks ask of the kernel themselves: small programs in the
//! kernel's own instructions, arrays, links, and runs on live frames. fw's own programs go through its daemon.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::libc::{SYS_bpf, syscall};

use super::tcx::Direction;

/// A command that returns a number: a file descriptor, or 0.
///
/// `attributes` must be laid out as the command's member of `union bpf_attr`, and what it points to must live through
/// the call.
pub(super) fn call<Attributes>(command: u32, attributes: &mut Attributes) -> nix::Result<i64> {
    // SAFETY: the kernel reads and writes as many bytes as we say that there are; all commands used here are in this
    // module and in `tcx`, with their members of `union bpf_attr`.
    let result =
        unsafe { syscall(SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<Attributes>()) };
    Errno::result(result)
}

/// A command that returns a file descriptor.
fn descriptor<Attributes>(command: u32, attributes: &mut Attributes) -> Result<OwnedFd> {
    let number = i32::try_from(call(command, attributes)?).context("a file descriptor is an int")?;
    // SAFETY: on success the kernel has made a new file descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What runs a program. The numbers are `enum bpf_prog_type` of linux/bpf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// TC and TCX.
    Classifier = 3,
    /// XDP.
    Xdp = 6,
}

/// Where a program of a device hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// XDP, in the driver if it can.
    Xdp,
    /// XDP, in the kernel's generic path.
    GenericXdp,
    /// TCX (kernel 6.6).
    Tcx(Direction),
}

impl Point {
    /// Its number in `enum bpf_attach_type` of linux/bpf.h.
    fn number(self) -> u32 {
        match self {
            Self::Xdp | Self::GenericXdp => 37,
            Self::Tcx(direction) => direction as u32,
        }
    }

    /// `XDP_FLAGS_SKB_MODE` of `if_link.h`, or none.
    fn flags(self) -> u32 {
        if self == Self::GenericXdp { 1 << 1 } else { 0 }
    }

    /// What runs there.
    pub fn kind(self) -> Kind {
        match self {
            Self::Xdp | Self::GenericXdp => Kind::Xdp,
            Self::Tcx(_) => Kind::Classifier,
        }
    }
}

/// A loaded program.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// Loads these instructions; the verifier's log is in the error.
    pub fn load(kind: Kind, instructions: &[u64]) -> Result<Self> {
        let mut log = vec![0_u8; 64 << 10];
        let licence = c"GPL";
        let mut load = Load {
            kind: kind as u32,
            instruction_count: u32::try_from(instructions.len()).context("a program of that size")?,
            instructions: instructions.as_ptr() as u64,
            licence: licence.as_ptr() as u64,
            log_level: 1,
            log_size: log.len() as u32,
            log: log.as_mut_ptr() as u64,
        };
        let program = descriptor(PROG_LOAD, &mut load).with_context(|| {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            format!(
                "cannot load a program of {} instructions: {}",
                instructions.len(),
                String::from_utf8_lossy(&log[..end])
            )
        })?;
        Ok(Self(program))
    }

    /// Attaches it to a device of the calling thread's network, behind all others, until the link is closed.
    pub fn attach(&self, ifindex: u32, point: Point) -> Result<OwnedFd> {
        let mut link = Link {
            program: self.0.as_raw_fd().cast_unsigned(),
            ifindex,
            attach_type: point.number(),
            flags: point.flags(),
            ..Link::default()
        };
        descriptor(LINK_CREATE, &mut link)
    }

    /// Runs an XDP program on `repeat` frames as if they came in by this device of the calling thread's network, behind
    /// its native XDP; what it lets pass goes up the stack, on this CPU, before the call returns.
    ///
    /// Frames are recycled as the stack has left them: the program must write what they hold. What it sends back
    /// (`XDP_TX`) leaves by this device.
    pub fn run_live(&self, ifindex: u32, length: usize, repeat: u32) -> Result<()> {
        let frame = vec![0_u8; length];
        let context = XdpContext { data_end: length as u32, ifindex, ..XdpContext::default() };
        let mut run = TestRun {
            program: self.0.as_raw_fd().cast_unsigned(),
            data_size_in: length as u32,
            data_in: frame.as_ptr() as u64,
            repeat,
            context_size_in: size_of::<XdpContext>() as u32,
            context_in: std::ptr::from_ref(&context) as u64,
            flags: LIVE_FRAMES,
            batch_size: 64,
            ..TestRun::default()
        };
        call(PROG_TEST_RUN, &mut run).context("cannot run a program on live frames (kernel 5.18)")?;
        Ok(())
    }
}

/// An array of one value of so many bytes, which programs read and write in place.
#[derive(Debug)]
pub struct Cell {
    map: OwnedFd,
    size: usize,
}

impl Cell {
    /// Makes it, all zero.
    pub fn make(size: usize) -> Result<Self> {
        let mut create = Create {
            kind: MAP_ARRAY,
            key_size: 4,
            value_size: size as u32,
            max_entries: 1,
            ..Create::default()
        };
        let map = descriptor(MAP_CREATE, &mut create).context("cannot make an array of one value")?;
        Ok(Self { map, size })
    }

    /// What it holds.
    pub fn read(&self) -> Result<Vec<u8>> {
        let mut value = vec![0_u8; self.size];
        self.element(MAP_LOOKUP, value.as_mut_ptr() as u64).context("cannot read an array")?;
        Ok(value)
    }

    /// Replaces what it holds.
    pub fn write(&self, value: &[u8]) -> Result<()> {
        ensure!(value.len() == self.size, "an array of {} bytes cannot hold {}", self.size, value.len());
        self.element(MAP_UPDATE, value.as_ptr() as u64).context("cannot write an array")
    }

    fn element(&self, command: u32, value: u64) -> nix::Result<()> {
        let key = 0_u32;
        let mut element = Element {
            map: self.map.as_raw_fd().cast_unsigned(),
            key: std::ptr::from_ref(&key) as u64,
            value,
            ..Element::default()
        };
        call(command, &mut element).map(drop)
    }

    /// The two halves of the instruction that puts the address of its value into a register.
    pub fn address(&self, into: Register) -> [u64; 2] {
        const PSEUDO_MAP_VALUE: u64 = 2;
        let map = u64::from(self.map.as_raw_fd().cast_unsigned());
        [0x18 | (into as u64) << 8 | PSEUDO_MAP_VALUE << 12 | map << 32, 0]
    }
}

/// A trie of prefixes, looked up by address; what it holds of each is a number.
#[derive(Debug)]
pub struct Trie(OwnedFd);

impl Trie {
    /// Makes it of these prefixes, with 1 for each.
    pub fn make(prefixes: &[(Ipv4Addr, u8)]) -> Result<Self> {
        let mut create = Create {
            kind: MAP_LPM_TRIE,
            // How many bits count, and the address as IPv6 has it.
            key_size: 20,
            value_size: 8,
            max_entries: u32::try_from(prefixes.len().max(1)).context("prefixes of that number")?,
            flags: NO_PREALLOC,
            ..Create::default()
        };
        let map = descriptor(MAP_CREATE, &mut create).context("cannot make a trie of prefixes")?;
        for (address, length) in prefixes {
            let mut key = [0_u8; 20];
            key[..4].copy_from_slice(&(96 + u32::from(*length)).to_ne_bytes());
            key[4..].copy_from_slice(&address.to_ipv6_mapped().octets());
            let value = 1_u64;
            let mut element = Element {
                map: map.as_raw_fd().cast_unsigned(),
                key: key.as_ptr() as u64,
                value: std::ptr::from_ref(&value) as u64,
                ..Element::default()
            };
            call(MAP_UPDATE, &mut element).with_context(|| format!("cannot enter {address}/{length}"))?;
        }
        Ok(Self(map))
    }

    /// The two halves of the instruction that puts what helpers know it by into a register.
    pub fn reference(&self, into: Register) -> [u64; 2] {
        const PSEUDO_MAP_FD: u64 = 1;
        let map = u64::from(self.0.as_raw_fd().cast_unsigned());
        [0x18 | (into as u64) << 8 | PSEUDO_MAP_FD << 12 | map << 32, 0]
    }
}

/// Registers of a program: R0 is what it returns, R1 its context, R6 to R9 are kept by helpers,
/// R10 is the end of its stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
#[expect(missing_docs, reason = "numbers")]
pub enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R5 = 5,
    R6 = 6,
    R7 = 7,
    R8 = 8,
    R10 = 10,
}

/// Instructions (RFC 9669): operation, registers, offset and immediate value in one word.
pub mod code {
    use super::Register;

    /// Bytes that a load or store moves; the value is the instruction's size field.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u64)]
    pub enum Width {
        /// One byte.
        Byte = 0x10,
        /// Two.
        Half = 0x08,
        /// Four.
        Word = 0x00,
        /// Eight.
        Double = 0x18,
    }

    /// What is done with two operands of 64 bits; the value is the instruction's code field.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u64)]
    #[expect(missing_docs, reason = "the names say it")]
    pub enum Do {
        Add = 0x00,
        Subtract = 0x10,
        Or = 0x40,
        And = 0x50,
        ShiftLeft = 0x60,
        ShiftRight = 0x70,
        Move = 0xb0,
    }

    fn word(code: u64, to: Register, from: u64, offset: i16, value: i32) -> u64 {
        code | (to as u64) << 8
            | from << 12
            | u64::from(offset.cast_unsigned()) << 16
            | u64::from(value.cast_unsigned()) << 32
    }

    /// `to = *(from + offset)`.
    pub fn load(width: Width, to: Register, from: Register, offset: i16) -> u64 {
        word(0x61 | width as u64, to, from as u64, offset, 0)
    }

    /// `*(to + offset) = from`.
    pub fn store(width: Width, to: Register, offset: i16, from: Register) -> u64 {
        word(0x63 | width as u64, to, from as u64, offset, 0)
    }

    /// `to = to WHAT value`.
    pub fn with(what: Do, to: Register, value: i32) -> u64 {
        word(0x07 | what as u64, to, 0, 0, value)
    }

    /// `to = to WHAT from`.
    pub fn by(what: Do, to: Register, from: Register) -> u64 {
        word(0x0f | what as u64, to, from as u64, 0, 0)
    }

    /// Skips so many instructions if `left != value`.
    pub fn skip_unless(left: Register, value: i32, instructions: i16) -> u64 {
        word(0x55, left, 0, instructions, value)
    }

    /// Skips so many instructions if `left > right`.
    pub fn skip_if_greater(left: Register, right: Register, instructions: i16) -> u64 {
        word(0x2d, left, right as u64, instructions, 0)
    }

    /// Puts what a map holds for the key at R2 into R0, as an address; 0 if there is nothing. The map is in R1.
    pub const LOOK_UP: u64 = 0x85 | 1 << 32;

    /// Returns R0.
    pub const EXIT: u64 = 0x95;
}

/// Looks a number up in a reply of the kernel.
pub fn number(bytes: &[u8], offset: usize) -> Result<u64> {
    match bytes.get(offset..offset + 8).and_then(|bytes| bytes.try_into().ok()) {
        Some(bytes) => Ok(u64::from_ne_bytes(bytes)),
        None => bail!("a value of {} bytes has no number at {offset}", bytes.len()),
    }
}

/// The member of `union bpf_attr` for `BPF_MAP_CREATE`.
#[derive(Default)]
#[repr(C)]
struct Create {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    padding: u32,
}

/// The member of `union bpf_attr` for commands on elements.
#[derive(Default)]
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The start of the member of `union bpf_attr` for `BPF_PROG_LOAD`.
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

/// The `test` member of `union bpf_attr`.
#[derive(Default)]
#[repr(C)]
struct TestRun {
    program: u32,
    returned: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// `struct xdp_md`.
#[derive(Default)]
#[repr(C)]
struct XdpContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ifindex: u32,
    queue: u32,
    egress_ifindex: u32,
}

const MAP_CREATE: u32 = 0;
const MAP_LOOKUP: u32 = 1;
const MAP_UPDATE: u32 = 2;
const PROG_LOAD: u32 = 5;
const PROG_TEST_RUN: u32 = 10;
const LINK_CREATE: u32 = 28;
const MAP_ARRAY: u32 = 2;
const MAP_LPM_TRIE: u32 = 11;
const NO_PREALLOC: u32 = 1;
const LIVE_FRAMES: u32 = 1 << 1;
