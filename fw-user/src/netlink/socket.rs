//! A netlink socket of the kernel: ask and read whole answers, or listen for changes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

use super::NetlinkError;
use super::message::{Malformed, aligned};

/// A socket in the network namespace of the thread that opened it, where it stays.
pub(crate) struct Socket {
    descriptor: OwnedFd,
}

impl Socket {
    /// Opens a socket for questions; its reads wait for the kernel, which answers at once.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Self::bound(SockProtocol::NetlinkRoute, 0, SockFlag::SOCK_CLOEXEC)
    }

    /// As [`Socket::open`], for questions about connections.
    pub(crate) fn of_netfilter() -> Result<Self, NetlinkError> {
        Self::bound(SockProtocol::NetlinkNetFilter, 0, SockFlag::SOCK_CLOEXEC)
    }

    /// As [`Socket::open`], for questions about sockets.
    pub(crate) fn of_sockets() -> Result<Self, NetlinkError> {
        Self::bound(SockProtocol::NetlinkSockDiag, 0, SockFlag::SOCK_CLOEXEC)
    }

    /// As [`Socket::open`]; the kernel takes what a question says beside the family at its word (Linux 4.20). An older one
    /// answers more than was asked for.
    pub(super) fn open_strict() -> Result<Self, NetlinkError> {
        let socket = Self::open()?;
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is open, and the kernel reads as many bytes of `on` as we say that it has.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_NETLINK,
                libc::NETLINK_GET_STRICT_CHK,
                std::ptr::from_ref(&on).cast(),
                size_of_val(&on) as libc::socklen_t,
            );
        }
        Ok(socket)
    }

    /// Opens a socket that does not wait and hears of changes in `groups` (a bit per `RTNLGRP`, less one).
    pub(super) fn listening(groups: u32) -> Result<Self, NetlinkError> {
        Self::bound(SockProtocol::NetlinkRoute, groups, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)
    }

    fn bound(protocol: SockProtocol, groups: u32, flags: SockFlag) -> Result<Self, NetlinkError> {
        let descriptor = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)
            .map_err(|errno| NetlinkError::Open(errno.into()))?;
        bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, groups))
            .map_err(|errno| NetlinkError::Open(errno.into()))?;
        Ok(Self { descriptor })
    }

    /// Reads the whole list of what `question` names: the payloads of the answers.
    ///
    /// A list that changed while the kernel was writing it (`NLM_F_DUMP_INTR`) may lack entries that were
    /// there all the time; it is thrown away and asked for again.
    pub(super) fn list_of(&self, question: Question, payload: &[u8]) -> Result<Vec<Vec<u8>>, NetlinkError> {
        self.read_list(question, payload, |answer| Ok(answer.to_vec()))
    }

    /// As [`Socket::list_of`], with each answer read as it comes: a list of a thousand links is three megabytes.
    pub(super) fn read_list<T>(
        &self,
        question: Question,
        payload: &[u8],
        read: impl Fn(&[u8]) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..LIST_ATTEMPTS {
            let (mut list, mut failed) = (Vec::new(), None);
            let whole = self.ask(question, NLM_F_DUMP, payload, |answer| match read(answer) {
                Ok(item) => list.push(item),
                Err(error) => failed = Some(error),
            })?;
            match failed {
                Some(error) => return Err(error.into()),
                None if whole => return Ok(list),
                None => {}
            }
        }
        Err(NetlinkError::Unsteady { what: question.name(), attempts: LIST_ATTEMPTS })
    }

    /// Hands each entry of a long list to `visit` as it comes. A list that changes meanwhile, as that of connections
    /// always does, is read once: entries may be missing that came or went.
    pub(crate) fn visit(
        &self,
        question: Question,
        payload: &[u8],
        visit: impl FnMut(&[u8]),
    ) -> Result<(), NetlinkError> {
        self.ask(question, NLM_F_DUMP, payload, visit).map(|_| ())
    }

    /// Asks one question that has one answer.
    pub(super) fn single(&self, question: Question, payload: &[u8]) -> Result<Vec<u8>, NetlinkError> {
        let mut first = None;
        self.ask(question, 0, payload, |answer| _ = first.get_or_insert_with(|| answer.to_vec()))?;
        first.ok_or(NetlinkError::NoAnswer { what: question.name() })
    }

    /// Makes a request that is answered with success or failure alone.
    pub(crate) fn request(&self, question: Question, payload: &[u8]) -> Result<(), NetlinkError> {
        self.ask(question, NLM_F_ACK, payload, |_| {}).map(|_| ())
    }

    /// Takes one datagram off the queue: its messages by type, as many as fit into `buffer`.
    pub(super) fn next_change(&self, buffer: &mut [u8]) -> io::Result<Vec<(u16, Vec<u8>)>> {
        let length = recv(self.descriptor.as_raw_fd(), buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        let mut messages = Vec::new();
        while let Some((header, payload)) = split(rest) {
            rest = rest.get(aligned(header.length)..).unwrap_or_default();
            messages.push((header.kind, payload.to_vec()));
        }
        Ok(messages)
    }

    /// Hands the answer's payloads to `visit`; false if the list was interrupted by a change.
    fn ask(
        &self,
        question: Question,
        flags: u16,
        payload: &[u8],
        mut visit: impl FnMut(&[u8]),
    ) -> Result<bool, NetlinkError> {
        let what = question.name();
        let ask_failed = |source: io::Error| NetlinkError::Ask { what, source };
        let message = message(question as u16, NLM_F_REQUEST | flags, payload);
        send(self.descriptor.as_raw_fd(), &message, MsgFlags::empty())
            .map_err(|errno| ask_failed(errno.into()))?;

        let mut answered = false;
        let mut interrupted = false;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            // MSG_TRUNC makes the call return the length of the datagram, even if it did not fit.
            let length = recv(self.descriptor.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)
                .map_err(|errno| ask_failed(errno.into()))?;
            let mut rest = buffer.get(..length).ok_or(NetlinkError::TooLong { what, length })?;
            while !rest.is_empty() {
                let (header, payload) = split(rest).ok_or(NetlinkError::Framing { what })?;
                rest = rest.get(aligned(header.length)..).unwrap_or_default();
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match header.kind {
                    NLMSG_NOOP => {}
                    // Both begin with a status: zero, or an error number below zero.
                    NLMSG_ERROR | NLMSG_DONE => match status(payload) {
                        Some(0) => return Ok(!interrupted),
                        Some(errno) => return Err(ask_failed(io::Error::from_raw_os_error(-errno))),
                        None => return Err(NetlinkError::Framing { what }),
                    },
                    _ => {
                        visit(payload);
                        answered = true;
                    }
                }
                if flags & NLM_F_DUMP == 0 && answered {
                    return Ok(true);
                }
            }
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

/// What can be asked for; the number is the message's type, for connections with that of their subsystem above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Question {
    Links = 18,
    Sockets = 20,
    Addresses = 22,
    Routes = 26,
    RoutingRules = 34,
    RemoveQdisc = 37,
    Filters = 46,
    NamespaceId = 90,
    Connections = 0x101,
    RemoveConnection = 0x102,
}

impl Question {
    const fn name(self) -> &'static str {
        match self {
            Self::Links => "links",
            Self::Sockets => "sockets",
            Self::Addresses => "addresses",
            Self::Routes => "routes",
            Self::RoutingRules => "rules of policy routing",
            Self::RemoveQdisc => "removal of a qdisc",
            Self::Filters => "filters",
            Self::NamespaceId => "id of a network namespace",
            Self::Connections => "connections",
            Self::RemoveConnection => "removal of a connection",
        }
    }
}

struct Header {
    length: usize,
    kind: u16,
    flags: u16,
}

fn split(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let header = bytes.first_chunk::<HEADER>()?;
    let length = usize::try_from(u32::from_ne_bytes([header[0], header[1], header[2], header[3]])).ok()?;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let flags = u16::from_ne_bytes([header[6], header[7]]);
    Some((Header { length, kind, flags }, bytes.get(HEADER..length)?))
}

fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and port: each question has the socket to itself, and the kernel fills in the port.
    bytes.extend([0; 8]);
    bytes.extend(payload);
    bytes
}

fn status(payload: &[u8]) -> Option<i32> {
    payload.first_chunk::<4>().map(|status| i32::from_ne_bytes(*status))
}

const HEADER: usize = 16;
/// The kernel writes lists in pieces of at most 32 KiB (since Linux 4.9).
const DATAGRAM: usize = 64 * 1024;
const LIST_ATTEMPTS: usize = 10;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
