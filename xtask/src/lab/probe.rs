//! Probes: does a connection, a datagram or a ping come through, and who answers.

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};

use super::place::Place;

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It came through, and this one answered.
    Reach(String),
    /// No sign of life.
    Silent,
    /// Turned down: a reset, an ICMP error, or a proxy that closes at once.
    Refused,
}

impl Outcome {
    /// Whether it came through, whoever answered.
    pub fn reached(&self) -> bool {
        matches!(self, Self::Reach(_))
    }

    /// Whether it came through to the server that calls itself `name`.
    pub fn reached_at(&self, name: &str) -> bool {
        matches!(self, Self::Reach(who) if who == name)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reach(_) => f.pad("R"),
            Self::Silent => f.pad("X"),
            Self::Refused => f.pad("ref"),
        }
    }
}

impl Place {
    /// Connects, asks for a name, and reads the answer. One retransmission of the SYN fits into the time.
    pub fn tcp(&self, to: SocketAddr) -> Result<Outcome> {
        self.within(|| match TcpStream::connect_timeout(&to, CONNECT) {
            Ok(mut stream) => ask(&mut stream),
            Err(error) => outcome_of(&error),
        })
    }

    /// Opens a connection and keeps it.
    pub fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        Ok(self.within(|| TcpStream::connect_timeout(&to, CONNECT))??)
    }

    /// As [`Place::connect`], from a source port of one's choice; IPv4.
    pub fn connect_from(&self, port: u16, to: SocketAddrV4) -> Result<TcpStream> {
        let socket = self.within(|| {
            let socket = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            socket::bind(
                socket.as_raw_fd(),
                &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)),
            )?;
            socket::connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
            Ok::<_, nix::Error>(socket)
        })?;
        Ok(socket.with_context(|| format!("cannot connect from port {port} to {to}"))?.into())
    }

    /// Sends a datagram up to three times, until somebody answers with a name.
    pub fn udp(&self, to: SocketAddr) -> Result<Outcome> {
        self.udp_from(0, to)
    }

    /// As [`Place::udp`], from a source port of one's choice (0: any).
    pub fn udp_from(&self, port: u16, to: SocketAddr) -> Result<Outcome> {
        self.within(|| {
            let any: IpAddr =
                if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, port))?;
            socket.set_read_timeout(Some(DATAGRAM))?;
            if let Err(error) = socket.connect(to) {
                return Ok(outcome_of(&error));
            }
            Ok::<_, std::io::Error>(ask_datagram(&socket))
        })?
        .map_err(Into::into)
    }

    /// Sends an echo request, and another one if no reply comes.
    pub fn ping(&self, to: IpAddr) -> Result<Outcome> {
        self.ping_by(to, None)
    }

    /// As [`Place::ping`], over a named device (needed for link-local addresses).
    pub fn ping_by(&self, to: IpAddr, device: Option<&str>) -> Result<Outcome> {
        let to = to.to_string();
        let mut argv = vec!["busybox", "ping", "-c", "1", "-W", "1"];
        if let Some(device) = device {
            argv.extend(["-I", device]);
        }
        argv.push(&to);
        let reached = self.succeeds(&argv) || self.succeeds(&argv);
        Ok(if reached { Outcome::Reach(to) } else { Outcome::Silent })
    }
}

/// Asks over a connection that is open; used again on the same one, it shows whether the flow is still alive.
pub fn ask(stream: &mut TcpStream) -> Outcome {
    let mut answer = Vec::new();
    let exchange = stream
        .set_read_timeout(Some(ANSWER))
        .and_then(|()| stream.write_all(b"who\n"))
        .and_then(|()| read_line(stream, &mut answer));
    match exchange {
        Ok(()) if answer.is_empty() => Outcome::Refused,
        Ok(()) => Outcome::Reach(String::from_utf8_lossy(&answer).into_owned()),
        Err(error) => outcome_of(&error),
    }
}

fn read_line(stream: &mut TcpStream, line: &mut Vec<u8>) -> std::io::Result<()> {
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(())
}

fn ask_datagram(socket: &UdpSocket) -> Outcome {
    let mut answer = [0; 256];
    let mut last = Outcome::Silent;
    for _ in 0..3 {
        let exchange = socket.send(b"who\n").and_then(|_| socket.recv(&mut answer));
        match exchange {
            Ok(length) => {
                return Outcome::Reach(String::from_utf8_lossy(&answer[..length]).trim_end().to_owned());
            }
            Err(error) => last = outcome_of(&error),
        }
    }
    last
}

fn outcome_of(error: &std::io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Outcome::Refused,
        _ => Outcome::Silent,
    }
}

/// The kernel sends the first SYN again after one second.
const CONNECT: Duration = Duration::from_millis(1300);
const ANSWER: Duration = Duration::from_secs(1);
const DATAGRAM: Duration = Duration::from_millis(400);
