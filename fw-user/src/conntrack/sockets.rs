//! Connections of this host's own sockets, as `ss` shows them (`linux/inet_diag.h`): TCP, and UDP sockets that are
//! connected.

use std::collections::BTreeSet;

use fw_common::Address;
use fw_common::wire::proto;

use super::{Connection, ENOENT, TcpState, Tuple, status};
use crate::netlink::{AF_INET, AF_INET6, Malformed, NetlinkError, Question, Reader, Socket};

/// A socket of TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    /// As the kernel numbers it: `TCP_ESTABLISHED` and so on.
    state: u8,
    local: (Address, u16),
    remote: (Address, u16),
}

/// Reads them. None on a kernel that cannot tell (without `CONFIG_INET_DIAG`).
pub(super) fn connected() -> Result<Vec<Connection>, NetlinkError> {
    let socket = Socket::of_sockets()?;
    let mut connections = Vec::new();
    for protocol in [proto::TCP, proto::UDP] {
        let mut all = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut broken = None;
            let asked = socket.visit(Question::Sockets, &question(family, protocol), |payload| {
                match found(payload) {
                    Ok(found) => all.push(found),
                    Err(error) => broken = Some(error),
                }
            });
            match asked {
                Err(NetlinkError::Ask { source, .. }) if source.raw_os_error() == Some(ENOENT) => {}
                other => other?,
            }
            if let Some(error) = broken {
                return Err(error.into());
            }
        }
        connections.extend(of_sockets(protocol, &all));
    }
    Ok(connections)
}

/// Who began is not told: where somebody listens on the port, the peer did.
fn of_sockets(protocol: u8, all: &[Found]) -> impl Iterator<Item = Connection> {
    let listened: BTreeSet<u16> =
        all.iter().filter(|found| found.state == LISTEN).map(|found| found.local.1).collect();
    all.iter().filter(|found| found.state != LISTEN && found.remote.1 != 0).map(move |found| {
        let tuple = |source: (Address, u16), destination: (Address, u16)| Tuple {
            source: source.0,
            destination: destination.0,
            protocol,
            icmp_type: 0,
            icmp_code: 0,
            source_port: source.1,
            destination_port: destination.1,
        };
        let (out, back) = (tuple(found.local, found.remote), tuple(found.remote, found.local));
        let (original, reply) = if listened.contains(&found.local.1) { (back, out) } else { (out, back) };
        let opening = protocol == proto::TCP && found.state == SYN_SENT;
        Connection {
            original,
            reply,
            tcp: (protocol == proto::TCP).then(|| state(found.state)),
            status: if opening { 0 } else { status::SEEN_REPLY | status::ASSURED },
            timeout: None,
            mark: 0,
            zone: 0,
            id: 0,
        }
    })
}

/// The state that conntrack would have (`include/net/tcp_states.h`).
fn state(number: u8) -> TcpState {
    match number {
        1 => TcpState::Established,
        SYN_SENT => TcpState::SynSent,
        3 | 12 => TcpState::SynReceived,
        4 | 5 | 11 => TcpState::FinWait,
        6 => TcpState::TimeWait,
        7 => TcpState::Close,
        8 => TcpState::CloseWait,
        9 => TcpState::LastAck,
        other => TcpState::Other(other),
    }
}

/// `struct inet_diag_req_v2`: all states, no matter which socket.
fn question(family: u8, protocol: u8) -> Vec<u8> {
    let mut bytes = vec![family, protocol, 0, 0];
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.resize(56, 0);
    bytes
}

/// Reads `struct inet_diag_msg`, whose ports and addresses are in network order.
fn found(payload: &[u8]) -> Result<Found, Malformed> {
    let read = Reader { message: "socket" };
    let header = read.header::<40>(payload)?;
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let address = |at: usize| match header[0] {
        AF_INET => Address::v4([header[at], header[at + 1], header[at + 2], header[at + 3]]),
        // A socket of IPv6 that speaks IPv4 names it in mapped form, which is that of an `Address`.
        _ => Address::v6(std::array::from_fn(|byte| header[at + byte])),
    };
    Ok(Found { state: header[1], local: (address(8), port(4)), remote: (address(24), port(6)) })
}

const SYN_SENT: u8 = 2;
const LISTEN: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    /// The sockets of this very process, asked from the kernel.
    #[test]
    fn the_listeners_peer_is_the_one_who_began() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(any) else {
                eprintln!("SKIPPED {any}: this host has no such address");
                continue;
            };
            let at = listener.local_addr().expect("an address");
            let stream = TcpStream::connect(at).expect("a connection");
            let from = stream.local_addr().expect("an address");
            let datagrams = UdpSocket::bind(any).expect("a socket");
            datagrams.connect(at).expect("a route");
            let udp = datagrams.local_addr().expect("an address");
            let all = connected().expect("sockets");
            // Both ends are ours: the one that accepted and the one that connected tell of one connection.
            let of = |protocol, source: std::net::SocketAddr| {
                let same = move |one: &&Connection| {
                    let Tuple { source: address, source_port, destination_port, .. } = one.original;
                    one.original.protocol == protocol
                        && (address, source_port, destination_port)
                            == (source.ip().into(), source.port(), at.port())
                };
                all.iter().filter(same).count()
            };
            assert_eq!(of(proto::TCP, from), 2, "{any}: {all:#?}");
            assert_eq!(of(proto::TCP, at), 0, "{any}: {all:#?}");
            assert_eq!(of(proto::UDP, udp), 1, "{any}: {all:#?}");
        }
    }

    #[test]
    fn ports_and_mapped_addresses_are_read_in_network_order() {
        let mut message = vec![AF_INET6, 1, 0, 0, 0, 22, 0xc3, 0x50];
        message.extend(Address::v4([198, 51, 100, 7]).bytes);
        message.extend(Address::v4([203, 0, 113, 9]).bytes);
        assert!(found(&message[..39]).is_err());
        let (local, remote) = (Address::v4([198, 51, 100, 7]), Address::v4([203, 0, 113, 9]));
        assert_eq!(found(&message), Ok(Found { state: 1, local: (local, 22), remote: (remote, 50_000) }));
    }
}
