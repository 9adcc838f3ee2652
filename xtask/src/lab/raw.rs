//! Raw frames in and out of a device of a place.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc::{
    self, AF_PACKET, ETH_P_ALL, PACKET_OTHERHOST, PACKET_OUTGOING, sockaddr, sockaddr_ll, socklen_t,
};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _, SockaddrStorage,
    bind, recv, recvfrom, send, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::place::Place;

impl Place {
    /// Sends a whole frame out of `device`.
    pub fn send_frame(&self, device: &str, frame: &[u8]) -> Result<()> {
        self.sender(device)?.send(frame)
    }

    /// Opens `device` for whole frames, to be sent one after the other.
    pub fn sender(&self, device: &str) -> Result<Sender> {
        let name = format!("{device} of {}", self.name());
        let opened = self.within(|| open(device))?;
        let (socket, address) = opened.with_context(|| format!("cannot send frames out of {name}"))?;
        Ok(Sender { socket, address, name })
    }

    /// Starts to listen to the frames that come in by `device`.
    ///
    /// With an `EtherType` (host order) it hears what the device's own stack would be given: the kernel hands frames
    /// to such a listener behind TC ingress, to one for all of them before it.
    pub fn listen(&self, device: &str, ethertype: Option<u16>) -> Result<Listener> {
        self.within(|| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            // Protocol 0 until it is bound, so that it hears no other device.
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None::<SockProtocol>)?;
            setsockopt(&socket, sockopt::RcvBufForce, &LISTENER_BUFFER)?;
            bind(socket.as_raw_fd(), &address(device, ethertype.unwrap_or(ETH_P_ALL as u16))?)?;
            Ok::<_, anyhow::Error>(Listener { socket, behind: ethertype.is_some() })
        })?
        .with_context(|| format!("cannot listen on {device} of {}", self.name()))
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

/// Opens `device` of this process' own network for whole frames.
pub fn sender_here(device: &str) -> Result<Sender> {
    let (socket, address) = open(device).with_context(|| format!("cannot send frames out of {device}"))?;
    Ok(Sender { socket, address, name: device.to_owned() })
}

fn open(device: &str) -> Result<(OwnedFd, LinkAddr)> {
    // Protocol 0: this socket only sends.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)?;
    Ok((socket, address(device, 0)?))
}

/// A device that frames are sent out of.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
    address: LinkAddr,
    name: String,
}

impl Sender {
    /// Sends a whole frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = sendto(self.socket.as_raw_fd(), frame, &self.address, MsgFlags::empty());
        sent.map(drop).with_context(|| format!("cannot send a frame out of {}", self.name))
    }
}

/// Frames that come in by one device.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    behind: bool,
}

impl Listener {
    /// Every frame since the last time, without those that the device itself sent and, behind TC, those that its own
    /// stack takes to be for another machine.
    pub fn take(&self) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 1 << 16];
        let mut frames = Vec::new();
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, from)) => {
                    let audience = from.map_or(0, |from| from.pkttype());
                    if audience != PACKET_OUTGOING && (audience != PACKET_OTHERHOST || !self.behind) {
                        frames.push(buffer[..length].to_vec());
                    }
                }
                Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(_) => return frames,
            }
        }
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

impl Place {
    /// A device's wire: frames out, and those that come in, in bulk and without waiting.
    pub fn wire(&self, device: &str) -> Result<Wire> {
        self.within(|| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
            bind(socket.as_raw_fd(), &address(device, ETH_P_ALL as u16)?)?;
            Ok::<_, anyhow::Error>(Wire { socket })
        })?
        .with_context(|| format!("cannot open the wire of {device} of {}", self.name()))
    }

    /// Hears every packet of an IP protocol that is delivered to this place itself, behind all filters for its input.
    pub fn ear(&self, six: bool, proto: u8) -> Result<Ear> {
        self.within(|| {
            let family = if six { libc::AF_INET6 } else { libc::AF_INET };
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            // SAFETY: the call takes three numbers; protocols without a name in nix can be asked for in no other way.
            let socket = Errno::result(unsafe { libc::socket(family, kind, i32::from(proto)) })?;
            // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
            let socket = unsafe { OwnedFd::from_raw_fd(socket) };
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
            Ok::<_, anyhow::Error>(Ear { socket })
        })?
        .with_context(|| format!("cannot listen to IP protocol {proto} in {}", self.name()))
    }

    /// Says whole IP packets from this place itself, through its filters for output, with this mark.
    pub fn mouth(&self, six: bool, mark: u32) -> Result<Mouth> {
        self.within(|| {
            let family = if six { AddressFamily::Inet6 } else { AddressFamily::Inet };
            // IPPROTO_RAW: the header is included.
            let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
            setsockopt(&socket, sockopt::Mark, &mark)?;
            Ok::<_, anyhow::Error>(Mouth { socket })
        })?
        .with_context(|| format!("cannot send packets from {}", self.name()))
    }
}

/// Frames of one device, in bulk.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// Sends a whole frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).context("cannot send a frame")?;
        Ok(())
    }

    /// The next frame that has come in and was not for another machine; its length in `buffer`.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            let (length, from) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), buffer).ok()?;
            let kind = from.map_or(0, |from| from.pkttype());
            if kind != PACKET_OUTGOING && kind != PACKET_OTHERHOST {
                return Some(length);
            }
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Packets that were delivered to a place itself.
#[derive(Debug)]
pub struct Ear {
    socket: OwnedFd,
}

impl Ear {
    /// The next packet, with its header if it is IPv4; its length in `buffer`.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()).ok()
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Packets of a place's own.
#[derive(Debug)]
pub struct Mouth {
    socket: OwnedFd,
}

impl Mouth {
    /// Sends a whole IP packet; false if the kernel would not.
    pub fn send(&self, packet: &[u8], to: IpAddr) -> bool {
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        sendto(self.socket.as_raw_fd(), packet, &to, MsgFlags::empty()).is_ok()
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

/// Bytes that a socket of a wire or an ear may hold until they are read.
const BUFFER: usize = 16 << 20;

/// Bytes that a listener holds until they are taken.
const LISTENER_BUFFER: usize = 16 << 20;
