//! A device without Ethernet header whose far end is this program.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc::{IFF_NO_PI, IFF_TUN, O_NONBLOCK, TUNSETIFF, c_char, ifreq, ioctl};

use super::place::Place;
use super::wait;

/// The far end of a tun device; the device goes with it.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

impl Place {
    /// Makes a tun device here; it has neither address nor is it up.
    pub fn tun(&self, device: &str) -> Result<Tun> {
        self.within(|| {
            let file =
                OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open("/dev/net/tun")?;
            // SAFETY: ifreq is plain data, for which all zeroes is a value.
            let mut request: ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
                *to = c_char::from_ne_bytes([from]);
            }
            request.ifr_ifru.ifru_flags = (IFF_TUN | IFF_NO_PI) as i16;
            // SAFETY: TUNSETIFF reads and writes the ifreq that it is given, which lives through the call.
            let result = unsafe { ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
            Errno::result(result)?;
            Ok::<_, anyhow::Error>(Tun { file })
        })?
        .with_context(|| format!("cannot make the tun device {device}"))
    }
}

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
