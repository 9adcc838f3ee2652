//! Devices whose far end is this program: without Ethernet header (tun), or with one and its packets in parts (tap).

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::libc::{IFF_NO_PI, IFF_TAP, IFF_TUN, O_NONBLOCK, TUNSETIFF, c_char, ifreq, ioctl};

use super::place::Place;
use super::wait;

/// The far end of a tun device; the device goes with it.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

/// The far end of a tap device whose frames reach the kernel in the parts in which they are written.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl Place {
    /// Makes a tun device here; it has neither address nor is it up.
    pub fn tun(&self, device: &str) -> Result<Tun> {
        Ok(Tun { file: self.far_end(device, IFF_TUN | IFF_NO_PI)? })
    }

    /// Makes a tap device here, likewise. Each part but the first of what is written to it becomes a page fragment.
    pub fn tap(&self, device: &str) -> Result<Tap> {
        Ok(Tap { file: self.far_end(device, IFF_TAP | IFF_NO_PI | IFF_NAPI | IFF_NAPI_FRAGS)? })
    }

    fn far_end(&self, device: &str, flags: i32) -> Result<File> {
        self.within(|| {
            let file =
                OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open("/dev/net/tun")?;
            // SAFETY: ifreq is plain data, for which all zeroes is a value.
            let mut request: ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
                *to = c_char::from_ne_bytes([from]);
            }
            request.ifr_ifru.ifru_flags = flags as i16;
            // SAFETY: TUNSETIFF reads and writes the ifreq that it is given, which lives through the call.
            let result = unsafe { ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
            Errno::result(result)?;
            Ok::<_, anyhow::Error>(file)
        })?
        .with_context(|| format!("cannot make the device {device}"))
    }
}

impl Tap {
    /// Lets a frame come in through the device, cut at these offsets, the first of which is 14 at least. Those beyond
    /// its end cut nothing.
    pub fn send(&mut self, frame: &[u8], cuts: &[usize]) -> Result<()> {
        let mut parts = Vec::new();
        let mut start = 0;
        for cut in cuts.iter().copied().filter(|cut| *cut < frame.len()).chain([frame.len()]) {
            parts.push(IoSlice::new(&frame[start..cut]));
            start = cut;
        }
        let written = self.file.write_vectored(&parts).context("cannot write to a tap device")?;
        ensure!(written == frame.len(), "the kernel took {written} of {} bytes", frame.len());
        Ok(())
    }
}

/// `linux/if_tun.h`, since kernel 4.15.
const IFF_NAPI: i32 = 0x10;
const IFF_NAPI_FRAGS: i32 = 0x20;

impl Tun {
    /// Lets a packet come in through the device.
    pub fn send(&mut self, packet: &[u8]) -> Result<()> {
        self.file.write_all(packet).context("cannot write to a tun device")
    }

    /// The first packet that goes out through the device and that `wanted` likes, if one comes within `limit`.
    pub fn wait_for(&mut self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let mut buffer = [0; 4096];
        wait::until("a packet", limit, || {
            loop {
                match self.file.read(&mut buffer) {
                    Ok(length) if wanted(&buffer[..length]) => return Some(buffer[..length].to_vec()),
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        })
        .ok()
    }
}
