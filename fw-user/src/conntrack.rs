//! What the kernel's connection tracking knows: every connection of this host at one moment, and an end for one of them.
//!
//! The kernel tracks a family only where some rule asks it to, and IPv6 often is not: what the host's own sockets are
//! connected to is told by them as well.
//!
//! Everything is seen from the network namespace of the calling thread. The kernel keeps the table per connection in
//! both directions, before and after NAT; a hook sees the one or the other (see `connections.rs`).

mod message;
mod sockets;

use std::collections::BTreeSet;

use fw_common::Address;

use crate::netlink::{NetlinkError, Question, Socket};

/// A tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// The packets of whoever began it, before any NAT.
    pub original: Tuple,
    /// The packets that answer, before NAT is undone: from where it really ended, to whom it seemed to come from.
    pub reply: Tuple,
    /// How far it has come; of TCP alone.
    pub tcp: Option<TcpState>,
    /// A sum of [`status`].
    pub status: u32,
    /// Seconds until it is forgotten if nothing more is sent; `None` if the kernel does not tell.
    pub timeout: Option<u32>,
    /// Its own mark (`CONNMARK`), no packet's.
    pub mark: u32,
    /// Its zone, 0 unless somebody has made zones.
    pub zone: u16,
    /// A number by which the kernel tells it from a later one of the same tuple.
    pub id: u32,
}

impl Connection {
    /// Whether an answer was seen.
    pub fn is_answered(&self) -> bool {
        self.status & status::SEEN_REPLY != 0
    }
}

/// Addresses and ports of one direction, as they stand in its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// IP protocol number; 58 for ICMP of IPv6.
    pub protocol: u8,
    /// ICMP type of this direction's packets; 0 for other protocols.
    pub icmp_type: u8,
    /// ICMP code, or 0.
    pub icmp_code: u8,
    /// Source port in host order; of ICMP the identifier, in the direction that asks; of GRE a key; else 0.
    pub source_port: u16,
    /// Destination port in host order; of ICMP the identifier, in the direction that answers; of GRE a key; else 0.
    pub destination_port: u16,
}

/// Bits of [`Connection::status`] (`enum ip_conntrack_status`, `linux/netfilter/nf_conntrack_common.h`).
pub mod status {
    /// Packets went both ways.
    pub const SEEN_REPLY: u32 = 1 << 1;
    /// It is not dropped early from a full table: TCP established, UDP a stream.
    pub const ASSURED: u32 = 1 << 2;
    /// Its source is translated.
    pub const SOURCE_NAT: u32 = 1 << 4;
    /// Its destination is translated.
    pub const DESTINATION_NAT: u32 = 1 << 5;
}

/// How far a TCP connection has come, as the kernel numbers it (`enum tcp_conntrack`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TcpState {
    /// Not told, or one of the future.
    Other(u8),
    /// A SYN was seen, or one from each side.
    SynSent,
    /// A SYN with ACK answered.
    SynReceived,
    /// Both sides send.
    Established,
    /// The first FIN was seen.
    FinWait,
    /// It was acknowledged.
    CloseWait,
    /// The second FIN was seen.
    LastAck,
    /// Both have ended.
    TimeWait,
    /// A RST was seen.
    Close,
}

impl TcpState {
    /// The state with that number.
    pub fn numbered(number: u8) -> Self {
        match number {
            1 | 9 => Self::SynSent,
            2 => Self::SynReceived,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            other => Self::Other(other),
        }
    }
}

/// Reads every connection of both families, sorted: those that are tracked, and those of this host's sockets that are not.
/// One that begins or ends meanwhile may be in it or not.
pub fn snapshot() -> Result<Vec<Connection>, NetlinkError> {
    let mut connections = Vec::new();
    let mut broken = None;
    Socket::of_netfilter()?.visit(Question::Connections, &message::HEADER, |payload| {
        match message::connection(payload) {
            Ok(connection) => connections.extend(connection),
            Err(error) => broken = Some(error),
        }
    })?;
    if let Some(error) = broken {
        return Err(error.into());
    }
    connections.sort_unstable();
    // A table that grows while it is read tells some of them twice.
    connections.dedup_by_key(|connection| (connection.original, connection.zone));
    let tracked: BTreeSet<Tuple> =
        connections.iter().flat_map(|connection| [connection.original, connection.reply]).collect();
    connections.extend(sockets::connected()?.into_iter().filter(|one| !tracked.contains(&one.original)));
    connections.sort_unstable();
    Ok(connections)
}

/// Makes the kernel forget these connections, so that their next packet begins a new one for netfilter. How many it
/// still knew: one that has ended, or made place for another of the same tuple, is left as it is.
pub fn remove<'a>(connections: impl IntoIterator<Item = &'a Connection>) -> Result<usize, NetlinkError> {
    let socket = Socket::of_netfilter()?;
    let mut removed = 0;
    for connection in connections {
        match socket.request(Question::RemoveConnection, &message::removal(connection)) {
            Ok(()) => removed += 1,
            Err(NetlinkError::Ask { source, .. }) if source.raw_os_error() == Some(ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

const ENOENT: i32 = nix::errno::Errno::ENOENT as i32;
