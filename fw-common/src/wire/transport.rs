//! The transport layer: ports, flags, ICMP, and the packet that an ICMP error quotes.

use bytemuck::{Pod, Zeroable};

use super::ip::{Extent, network};
use super::{Bytes, Fragment, Packet, Parsed, be16, proto};
use crate::verdict::Reason;

/// TCP flags (RFC 9293).
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
}

/// ICMP types of both families, v4 and v6 side by side where they mean the same.
pub mod icmp {
    /// Echo request.
    pub const ECHO: (u8, u8) = (8, 128);
    /// Echo reply.
    pub const ECHO_REPLY: (u8, u8) = (0, 129);
    /// Redirect.
    pub const REDIRECT: (u8, u8) = (5, 137);
    /// MLD query, report, done, and the report of version 2.
    pub const MULTICAST_LISTENER: [u8; 4] = [130, 131, 132, 143];
    /// Router solicitation.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
}

/// Bytes that an ICMP message has before what it quotes, and that it must quote of a transport header.
const ICMP_HEADER: u32 = 8;

/// Reads the transport header, unless the packet is a later fragment.
#[inline(always)]
pub(super) fn parse<B: Bytes + ?Sized>(bytes: &B, extent: Extent, packet: &mut Packet) -> Parsed<()> {
    if packet.fragment() == Fragment::Later {
        return Ok(());
    }
    let whole = extent == Extent::Whole;
    let read = match packet.protocol {
        proto::TCP if whole => tcp(bytes, packet),
        proto::UDP | proto::UDP_LITE if whole => udp(bytes, packet),
        proto::TCP | proto::UDP | proto::UDP_LITE | proto::SCTP => ports(bytes, packet),
        _ if packet.is_icmp() => icmp(bytes, packet),
        _ => Ok(()),
    };
    match read {
        Err(Reason::MalformedTransport) if packet.fragment() == Fragment::First => Err(Reason::BadFragment),
        other => other,
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct TcpHeader {
    source: [u8; 2],
    destination: [u8; 2],
    sequence: [u8; 4],
    acknowledgement: [u8; 4],
    offset: u8,
    flags: u8,
    window: [u8; 2],
    checksum: [u8; 2],
    urgent: [u8; 2],
}

#[inline(always)]
fn tcp<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Parsed<()> {
    let mut header = TcpHeader::zeroed();
    if packet.transport + 20 > packet.end || !bytes.read(packet.transport, &mut header) {
        return Err(Reason::MalformedTransport);
    }
    packet.source_port = be16(header.source);
    packet.destination_port = be16(header.destination);
    packet.tcp_flags = header.flags;
    let length = u32::from(header.offset >> 4) * 4;
    if length < 20
        || packet.transport + length > packet.end
        || packet.source_port == 0
        || packet.destination_port == 0
    {
        return Err(Reason::MalformedTransport);
    }
    if valid_flags(header.flags) { Ok(()) } else { Err(Reason::TcpFlags) }
}

/// The combinations that netfilter's conntrack takes for valid (`tcp_valid_flags`); PSH, ECE and CWR go with any.
#[inline(always)]
pub(super) fn valid_flags(flags: u8) -> bool {
    use tcp::{ACK, FIN, RST, SYN, URG};
    const VALID: u64 = 1 << SYN
        | 1 << (SYN | URG)
        | 1 << (SYN | ACK)
        | 1 << RST
        | 1 << (RST | ACK)
        | 1 << (FIN | ACK)
        | 1 << (FIN | ACK | URG)
        | 1 << ACK
        | 1 << (ACK | URG);
    VALID >> (flags & (FIN | SYN | RST | ACK | URG)) & 1 == 1
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct UdpHeader {
    source: [u8; 2],
    destination: [u8; 2],
    length: [u8; 2],
    checksum: [u8; 2],
}

#[inline(always)]
fn udp<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Parsed<()> {
    let mut header = UdpHeader::zeroed();
    if packet.transport + 8 > packet.end || !bytes.read(packet.transport, &mut header) {
        return Err(Reason::MalformedTransport);
    }
    packet.source_port = be16(header.source);
    packet.destination_port = be16(header.destination);
    // The length field of UDP-Lite is its checksum coverage (RFC 3828); a first fragment's counts the whole datagram.
    let length = u32::from(be16(header.length));
    let claims_too_much = packet.transport + length > packet.end && packet.fragment() == Fragment::Whole;
    if packet.protocol == proto::UDP && (length < 8 || claims_too_much) {
        return Err(Reason::MalformedTransport);
    }
    if packet.destination_port == 0 { Err(Reason::MalformedTransport) } else { Ok(()) }
}

/// The two ports with which TCP, UDP and SCTP headers begin.
#[inline(always)]
fn ports<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Parsed<()> {
    let mut header = [[0u8; 2]; 2];
    if packet.transport + 8 > packet.end || !bytes.read(packet.transport, &mut header) {
        return Err(Reason::MalformedTransport);
    }
    packet.source_port = be16(header[0]);
    packet.destination_port = be16(header[1]);
    Ok(())
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct IcmpHeader {
    kind: u8,
    code: u8,
    checksum: [u8; 2],
    identifier: [u8; 2],
    sequence: [u8; 2],
}

/// The identifier of a request stands as source port, that of a reply as destination port: so a request that comes
/// back at us never matches the flow of our own request (GHSA-c66w-hq56-4q97).
#[inline(always)]
fn icmp<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Parsed<()> {
    let mut header = IcmpHeader::zeroed();
    if packet.transport + ICMP_HEADER > packet.end || !bytes.read(packet.transport, &mut header) {
        return Err(Reason::MalformedTransport);
    }
    packet.icmp_type = header.kind;
    packet.icmp_code = header.code;
    if packet.is_icmp_of(icmp::ECHO.0, icmp::ECHO.1) {
        packet.source_port = be16(header.identifier);
    } else if packet.is_icmp_of(icmp::ECHO_REPLY.0, icmp::ECHO_REPLY.1) {
        packet.destination_port = be16(header.identifier);
    }
    Ok(())
}

/// Parses the packet that an ICMP error quotes; false if `packet` is no ICMP error or quotes too little.
///
/// Errors are unreachable, time exceeded, parameter problem, and of IPv6 packet too big. Quench is obsolete (RFC 6633),
/// a redirect is no error. Eight bytes behind the quoted header must lie within the message (RFC 792): a frame's trailer
/// is nobody's word.
#[inline(always)]
pub fn inner_of_error<B: Bytes + ?Sized>(bytes: &B, packet: &Packet, inner: &mut Packet) -> bool {
    let quoted = packet.transport + ICMP_HEADER;
    packet.is_icmp_error()
        && packet.fragment() == Fragment::Whole
        && network(bytes, !packet.is_v4(), quoted, Extent::Quoted, inner).is_ok()
        && inner.transport + ICMP_HEADER <= packet.end
        && inner.fragment() != Fragment::Later
        && !inner.is_icmp_error()
}

impl Packet {
    /// Whether this is an ICMP error message that quotes a packet.
    #[inline(always)]
    pub const fn is_icmp_error(&self) -> bool {
        match (self.version, self.protocol) {
            (4, proto::ICMP) => matches!(self.icmp_type, 3 | 11 | 12),
            (6, proto::ICMPV6) => matches!(self.icmp_type, 1..=4),
            _ => false,
        }
    }
}
