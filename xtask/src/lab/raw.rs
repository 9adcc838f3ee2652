//! Raw frames in and out of a device of a place.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc::{AF_PACKET, ETH_P_ALL, sockaddr, sockaddr_ll, socklen_t};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _, bind, recv,
    sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::place::Place;

impl Place {
    /// Sends a whole frame out of `device`.
    pub fn send_frame(&self, device: &str, frame: &[u8]) -> Result<()> {
        self.within(|| {
            // Protocol 0: this socket only sends.
            let sender =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)?;
            sendto(sender.as_raw_fd(), frame, &address(device, 0)?, MsgFlags::empty())?;
            Ok::<_, anyhow::Error>(())
        })?
        .with_context(|| format!("cannot send a frame out of {device} of {}", self.name()))
    }

    /// Starts to listen to every frame of `device`, in both directions.
    pub fn capture(&self, device: &str) -> Result<Capture> {
        self.within(|| {
            let listener =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            bind(listener.as_raw_fd(), &address(device, ETH_P_ALL as u16)?)?;
            setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
            Ok::<_, anyhow::Error>(Capture { listener })
        })?
        .with_context(|| format!("cannot listen on {device} of {}", self.name()))
    }
}

/// Frames of one device since it was opened.
#[derive(Debug)]
pub struct Capture {
    listener: OwnedFd,
}

impl Capture {
    /// The first frame that `wanted` likes, if one comes within `limit`.
    pub fn wait_for(&self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + limit;
        let mut buffer = [0; 4096];
        while Instant::now() < deadline {
            match recv(self.listener.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) if wanted(&buffer[..length]) => return Some(buffer[..length].to_vec()),
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
        None
    }
}

fn address(device: &str, protocol: u16) -> Result<LinkAddr> {
    let index = if_nametoindex(device).with_context(|| format!("no device {device}"))?;
    let link = sockaddr_ll {
        sll_family: AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer and the length describe `link`, a complete sockaddr_ll that lives through the call.
    let address = unsafe {
        LinkAddr::from_raw((&raw const link).cast::<sockaddr>(), Some(size_of::<sockaddr_ll>() as socklen_t))
    };
    address.context("the kernel's form of a link address is as expected")
}
