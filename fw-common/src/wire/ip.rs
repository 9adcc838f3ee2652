//! IPv4 and IPv6: headers, options, extension headers and fragments.

use bytemuck::{Pod, Zeroable};

use super::{Bytes, Packet, Parsed, be16, ethertype, proto, transport};
use crate::address::Address;
use crate::verdict::Reason;

/// How many IPv4 options and how many IPv6 extension headers are walked.
const IPV4_OPTIONS: u32 = 12;
const EXTENSION_HEADERS: u32 = 8;

/// [`Packet::fragment`] of a fragment that is all of its packet (RFC 6946).
pub(super) const ATOMIC: u8 = 3;

/// Whether all of the packet should be there, or only what an ICMP error quotes of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    Quoted,
}

/// Parses the IP packet at `offset` of a frame with this `EtherType` (IPv4 or IPv6) into `packet`.
///
/// # Errors
/// The reason for a drop; `packet` is then filled as far as parsing came.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(bytes: &B, ethertype: u16, offset: u32, packet: &mut Packet) -> Parsed<()> {
    network(bytes, ethertype == ethertype::IPV6, offset, Extent::Whole, packet)
}

/// One function for both uses, kept out of line: each BPF function has a stack frame of its own, and the packet's
/// and the quoted packet's headers need not stand in the same one.
#[inline(never)]
pub(super) fn network<B: Bytes + ?Sized>(
    bytes: &B,
    v6: bool,
    offset: u32,
    extent: Extent,
    packet: &mut Packet,
) -> Parsed<()> {
    let header = if v6 { ipv6(bytes, offset, extent, packet) } else { ipv4(bytes, offset, extent, packet) };
    header?;
    transport::parse(bytes, extent, packet)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Ipv4Header {
    version_length: u8,
    service: u8,
    total_length: [u8; 2],
    identification: [u8; 2],
    fragment: [u8; 2],
    hop_limit: u8,
    protocol: u8,
    checksum: [u8; 2],
    source: [u8; 4],
    destination: [u8; 4],
}

#[inline(always)]
fn ipv4<B: Bytes + ?Sized>(bytes: &B, offset: u32, extent: Extent, packet: &mut Packet) -> Parsed<()> {
    let mut header = Ipv4Header::zeroed();
    if !bytes.read(offset, &mut header) {
        return Err(Reason::MalformedHeader);
    }
    packet.version = 4;
    packet.source = Address::v4(header.source);
    packet.destination = Address::v4(header.destination);
    packet.protocol = header.protocol;
    packet.hop_limit = header.hop_limit;
    let header_length = u32::from(header.version_length & 0x0f) * 4;
    if header.version_length >> 4 != 4 || header_length < 20 {
        return Err(Reason::MalformedHeader);
    }
    let length = claimed(bytes, offset, u32::from(be16(header.total_length)), extent)?;
    if length < header_length {
        return Err(Reason::MalformedHeader);
    }
    packet.transport = offset + header_length;
    packet.end = offset + length;
    if header_length > 20 && extent == Extent::Whole {
        ipv4_options(bytes, offset + 20, packet)?;
    }
    packet.identification = u32::from(be16(header.identification));
    let fragment = be16(header.fragment);
    let position = u32::from(fragment & 0x1fff) * 8;
    packet.set_fragment(position, fragment & 0x2000 != 0);
    check_fragment(packet, position)
}

/// The packet's length as far as it may be believed.
///
/// A length of 0 in a packet that is longer than the field can say is a GRO aggregate (BIG TCP, kernel 6.3).
#[inline(always)]
fn claimed<B: Bytes + ?Sized>(bytes: &B, offset: u32, length: u32, extent: Extent) -> Parsed<u32> {
    let available = bytes.length().saturating_sub(offset);
    if extent == Extent::Quoted {
        return Ok(if length < available { length } else { available });
    }
    if length == 0 && available > 0xffff {
        return Ok(available);
    }
    if length > available { Err(Reason::MalformedHeader) } else { Ok(length) }
}

/// Options that hosts have a use for pass (RFC 7126); source routes, unknown ones and overruns do not.
#[inline(always)]
fn ipv4_options<B: Bytes + ?Sized>(bytes: &B, start: u32, packet: &Packet) -> Parsed<()> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const RECORD_ROUTE: u8 = 7;
    const TIMESTAMP: u8 = 68;
    const ROUTER_ALERT: u8 = 148;
    let mut at = start;
    let mut walked = 0;
    while at < packet.transport {
        if walked >= IPV4_OPTIONS {
            return Err(Reason::TooManyHeaders);
        }
        walked += 1;
        let mut kind = 0u8;
        if !bytes.read(at, &mut kind) {
            return Err(Reason::MalformedHeader);
        }
        match kind {
            END => return Ok(()),
            NO_OPERATION => {
                at += 1;
                continue;
            }
            RECORD_ROUTE | TIMESTAMP => {}
            ROUTER_ALERT if packet.protocol == proto::IGMP => {}
            _ => return Err(Reason::BadOption),
        }
        // Kind, length and pointer (RFC 791 section 3.1); of an alert a value.
        let mut length = 0u8;
        if !bytes.read(at + 1, &mut length) || length < 3 || at + u32::from(length) > packet.transport {
            return Err(Reason::BadOption);
        }
        at += u32::from(length);
    }
    Ok(())
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Ipv6Header {
    version_class_label: [u8; 4],
    payload_length: [u8; 2],
    next: u8,
    hop_limit: u8,
    source: Address,
    destination: Address,
}

#[inline(always)]
fn ipv6<B: Bytes + ?Sized>(bytes: &B, offset: u32, extent: Extent, packet: &mut Packet) -> Parsed<()> {
    const HEADER: u32 = 40;
    let mut header = Ipv6Header::zeroed();
    if !bytes.read(offset, &mut header) {
        return Err(Reason::MalformedHeader);
    }
    packet.version = 6;
    packet.source = header.source;
    packet.destination = header.destination;
    packet.hop_limit = header.hop_limit;
    if header.version_class_label[0] >> 4 != 6 {
        return Err(Reason::MalformedHeader);
    }
    let payload = u32::from(be16(header.payload_length));
    packet.transport = offset + HEADER;
    packet.end = packet.transport + claimed(bytes, packet.transport, payload, extent)?;
    packet.protocol = header.next;
    extensions(bytes, packet)
}

/// First eight bytes of an extension header; of a fragment header, all of it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Extension {
    next: u8,
    length: u8,
    fragment: [u8; 2],
    identification: [u8; 4],
}

/// Walks the extension headers to the upper-layer protocol (RFC 8200 section 4).
#[inline(always)]
fn extensions<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Parsed<()> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    const MOBILE: u8 = 2;
    let mut walked = 0;
    let mut fragmented = false;
    loop {
        let this = packet.protocol;
        if !matches!(this, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            return Ok(());
        }
        if walked >= EXTENSION_HEADERS {
            return Err(Reason::TooManyHeaders);
        }
        // Hop-by-hop options stand first or not at all.
        if this == HOP_BY_HOP && walked > 0 {
            return Err(Reason::MalformedHeader);
        }
        walked += 1;
        let mut header = Extension::zeroed();
        if packet.transport + 8 > packet.end || !bytes.read(packet.transport, &mut header) {
            return Err(if fragmented { Reason::BadFragment } else { Reason::MalformedHeader });
        }
        packet.protocol = header.next;
        // Type 0 source routes (RFC 5095); of any other, but Mobile IPv6, a segment left sends the packet elsewhere
        // behind our back. Type and segments left stand where a fragment header has its offset.
        let [kind, segments_left] = header.fragment;
        if this == ROUTING && (kind == 0 || (segments_left > 0 && kind != MOBILE)) {
            return Err(Reason::BadOption);
        }
        if this == FRAGMENT {
            if fragmented {
                return Err(Reason::BadFragment);
            }
            fragmented = true;
            packet.identification = u32::from_be_bytes(header.identification);
            let field = be16(header.fragment);
            let position = u32::from(field & 0xfff8);
            packet.set_fragment(position, field & 1 != 0);
            if packet.fragment == 0 {
                packet.fragment = ATOMIC;
            }
            packet.transport += 8;
            check_fragment(packet, position)?;
            if position > 0 {
                return Ok(());
            }
            continue;
        }
        packet.transport += match this {
            AUTHENTICATION => (u32::from(header.length) + 2) * 4,
            _ => (u32::from(header.length) + 1) * 8,
        };
        if packet.transport > packet.end {
            return Err(if fragmented { Reason::BadFragment } else { Reason::MalformedHeader });
        }
    }
}

/// A later fragment may neither overwrite the first one's TCP header (RFC 1858 section 3, RFC 3128) nor end beyond
/// the largest datagram.
#[inline(always)]
fn check_fragment(packet: &Packet, position: u32) -> Parsed<()> {
    let overwrites = packet.protocol == proto::TCP && position > 0 && position < 24;
    let ends = position + packet.end.saturating_sub(packet.transport);
    if overwrites || (position > 0 && ends > 0xffff) { Err(Reason::BadFragment) } else { Ok(()) }
}

impl Packet {
    #[inline(always)]
    fn set_fragment(&mut self, position: u32, more: bool) {
        self.fragment = match (position, more) {
            (0, false) => 0,
            (0, true) => 1,
            _ => 2,
        };
    }
}
