//! Offloads of a device, as `ethtool -K` sets them.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc::{c_char, ifreq, ioctl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::place::Place;

/// What a device does for the stack, or the stack for it. The numbers are the commands of linux/ethtool.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Offload {
    /// Checksums of what it sends.
    Checksum = 0x17,
    /// Cutting TCP into segments.
    Segmentation = 0x1f,
    /// Cutting late, in software.
    LateSegmentation = 0x24,
    /// Joining segments that came in.
    Joining = 0x2c,
}

/// Flags of `ETHTOOL_SFLAGS`: the VLAN tag beside the frame, sent or received.
pub const VLAN_TAGS: u32 = 1 << 7 | 1 << 8;

impl Place {
    /// Switches an offload of `device`.
    pub fn set_offload(&self, device: &str, offload: Offload, on: bool) -> Result<()> {
        self.ethtool(device, offload as u32, u32::from(on))
            .map(drop)
            .with_context(|| format!("cannot set {offload:?} of {device} to {on}"))
    }

    /// Whether the device takes VLAN tags beside the frame, from now on; an error if it cannot be told.
    pub fn set_vlan_tags(&self, device: &str, beside: bool) -> Result<()> {
        let flags = self.ethtool(device, GET_FLAGS, 0)?;
        let flags = if beside { flags | VLAN_TAGS } else { flags & !VLAN_TAGS };
        self.ethtool(device, SET_FLAGS, flags)
            .map(drop)
            .with_context(|| format!("cannot set the VLAN offloads of {device}"))
    }

    fn ethtool(&self, device: &str, command: u32, value: u32) -> Result<u32> {
        self.within(|| {
            let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
            // `struct ethtool_value`.
            let mut value = [command, value];
            // SAFETY: ifreq is plain data, for which all zeroes is a value.
            let mut request: ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
                *to = c_char::from_ne_bytes([from]);
            }
            request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
            // SAFETY: SIOCETHTOOL reads the ifreq, and reads and writes the ethtool_value that it points to; both
            // live through the call.
            let result = unsafe { ioctl(any.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
            Errno::result(result)?;
            Ok::<_, anyhow::Error>(value[1])
        })?
    }
}

/// linux/sockios.h.
const SIOCETHTOOL: u64 = 0x8946;
/// linux/ethtool.h.
const GET_FLAGS: u32 = 0x25;
const SET_FLAGS: u32 = 0x26;
