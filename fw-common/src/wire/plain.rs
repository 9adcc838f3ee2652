//! Plain packets: the great mass of them, told apart by a few loads from the head of the frame, and rewritten there.

use bytemuck::{Pod, Zeroable};

use super::transport::valid_flags;
use super::{Packet, ethertype, proto, tcp};
use crate::address::{Address, Mac};
use crate::fast::{FastKey, FastPath, replaces};

const ROOM: u32 = 78;

/// The first bytes of a frame, laid down so that the fields of IP and TCP headers stand aligned.
///
/// The BPF backend puts together byte by byte what it cannot prove to be aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Head {
    gap: [u8; 2],
    /// The frame from its first byte on.
    pub bytes: [u8; ROOM as usize],
}

impl Head {
    /// How many bytes of a frame fit.
    pub const ROOM: u32 = ROOM;
    /// How many bytes of an IPv4 packet's frame [`Head::rewrite`] may change.
    pub const REWRITTEN_V4: u32 = AFTER_IPV4 + 4;
    /// The same of IPv6.
    pub const REWRITTEN_V6: u32 = AFTER_IPV6 + 4;
}

/// [`Head`] of a frame with an IPv4 packet; numbers in network byte order.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(8))]
struct HeadV4 {
    gap: u16,
    to: Mac,
    from: Mac,
    ethertype: u16,
    version_length: u8,
    service: u8,
    total_length: u16,
    identification: u16,
    fragment: u16,
    hop_limit: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
    transport: Transport,
    rest: [u8; 24],
}

/// [`Head`] of a frame with an IPv6 packet; numbers in network byte order.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(8))]
struct HeadV6 {
    gap: u16,
    to: Mac,
    from: Mac,
    ethertype: u16,
    version_class: u8,
    class_label: [u8; 3],
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    source: Address,
    destination: Address,
    transport: Transport,
    rest: [u8; 4],
}

/// The head of a TCP or UDP header; numbers in network byte order.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Transport {
    source: u16,
    destination: u16,
    /// Of UDP; of TCP half of the sequence number.
    length: u16,
    /// Of UDP; of TCP the other half.
    checksum: u16,
    acknowledgement: u32,
    /// Of TCP, as all that follows.
    offset: u8,
    flags: u8,
    window: u16,
    tcp_checksum: u16,
    urgent: u16,
}

/// Offsets of the network and transport headers in an untagged Ethernet frame.
const NETWORK: u32 = 14;
const AFTER_IPV4: u32 = NETWORK + 20;
const AFTER_IPV6: u32 = NETWORK + 40;

impl Head {
    /// The destination of the frame.
    #[inline(always)]
    pub fn to(&self) -> Mac {
        bytemuck::cast_ref::<Self, HeadV4>(self).to
    }

    /// The source of the frame.
    #[inline(always)]
    pub fn from(&self) -> Mac {
        bytemuck::cast_ref::<Self, HeadV4>(self).from
    }

    /// Reads a plain packet: a whole IPv4 or IPv6 packet of TCP or UDP in an untagged Ethernet frame, without options,
    /// extension headers, or anything that is wrong with it. `packet`, zeroed before, becomes what [`super::parse`] makes
    /// of it. False if the packet is of another kind; `packet` is then worth nothing.
    ///
    /// `length` bytes of the frame's `whole` are in the head; `ethertype` is what the kernel says of it.
    #[inline(always)]
    pub fn parse(&self, length: u32, whole: u32, ethertype: u16, packet: &mut Packet) -> bool {
        match ethertype {
            ethertype::IPV4 => Self::parse_v4(bytemuck::cast_ref(self), length, whole, packet),
            ethertype::IPV6 => Self::parse_v6(bytemuck::cast_ref(self), length, whole, packet),
            _ => false,
        }
    }

    #[inline(always)]
    fn parse_v4(head: &HeadV4, length: u32, whole: u32, packet: &mut Packet) -> bool {
        // More fragments, and an offset.
        const FRAGMENT: u16 = u16::to_be(0x3fff);
        let claimed = u32::from(u16::from_be(head.total_length));
        if head.ethertype != ethertype::IPV4.to_be()
            || head.version_length != 0x45
            || head.fragment & FRAGMENT != 0
            || claimed < 20
            || claimed + NETWORK > whole
        {
            return false;
        }
        packet.version = 4;
        packet.source = Address::v4(head.source.to_ne_bytes());
        packet.destination = Address::v4(head.destination.to_ne_bytes());
        packet.protocol = head.protocol;
        packet.hop_limit = head.hop_limit;
        packet.identification = u32::from(u16::from_be(head.identification));
        packet.transport = AFTER_IPV4;
        packet.end = NETWORK + claimed;
        head.transport.parse(length, packet)
    }

    #[inline(always)]
    fn parse_v6(head: &HeadV6, length: u32, whole: u32, packet: &mut Packet) -> bool {
        let claimed = u32::from(u16::from_be(head.payload_length));
        if head.ethertype != ethertype::IPV6.to_be()
            || head.version_class >> 4 != 6
            || claimed == 0
            || claimed + AFTER_IPV6 > whole
        {
            return false;
        }
        packet.version = 6;
        packet.source = head.source;
        packet.destination = head.destination;
        packet.protocol = head.next_header;
        packet.hop_limit = head.hop_limit;
        packet.transport = AFTER_IPV6;
        packet.end = AFTER_IPV6 + claimed;
        head.transport.parse(length, packet)
    }
}

impl Transport {
    /// `length` bytes of the frame are there.
    #[inline(always)]
    fn parse(&self, length: u32, packet: &mut Packet) -> bool {
        packet.source_port = u16::from_be(self.source);
        packet.destination_port = u16::from_be(self.destination);
        let claimed = packet.end - packet.transport;
        match packet.protocol {
            proto::UDP => {
                let datagram = u32::from(u16::from_be(self.length));
                self.destination != 0
                    && packet.transport + 8 <= length
                    && datagram >= 8
                    && datagram <= claimed
            }
            proto::TCP => {
                let header = u32::from(self.offset >> 4) * 4;
                packet.tcp_flags = self.flags;
                self.source != 0
                    && self.destination != 0
                    && packet.transport + 20 <= length
                    && header >= 20
                    && header <= claimed
                    && valid_flags(self.flags)
            }
            _ => false,
        }
    }
}

/// A packet of a connection that goes on, as the [fast path](crate::fast) looks at it: plain, and of TCP a segment with ACK
/// and without SYN, FIN, RST or URG.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Plain {
    /// What it is of its own, to know it again behind the host's NAT: the identification and length of IP, and TCP's
    /// sequence number.
    pub token: u64,
    /// Its tuple at the device where it is seen.
    pub key: FastKey,
    /// The frame's destination.
    pub to: Mac,
    /// The frame's source.
    pub from: Mac,
    /// Bytes of all headers.
    pub headers: u32,
    /// Bytes of the frame up to the packet's end; what pads it does not count.
    pub end: u32,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// 4 or 6.
    pub version: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

impl Plain {
    /// Reads it from the head of a frame that [`Head::parse`] has found to be plain; false if it is not of a connection
    /// that goes on.
    #[inline(always)]
    pub fn read(&mut self, head: &Head, packet: &Packet, ifindex: u32) -> bool {
        const FLAGS: u8 = tcp::SYN | tcp::FIN | tcp::RST | tcp::URG | tcp::ACK;
        let v4 = packet.version == 4;
        let transport: &Transport = if v4 {
            &bytemuck::cast_ref::<Head, HeadV4>(head).transport
        } else {
            &bytemuck::cast_ref::<Head, HeadV6>(head).transport
        };
        let length = packet.end - packet.transport;
        self.token = u64::from(packet.identification) << 48 | u64::from(length & 0xffff) << 32;
        let mut header = 8;
        if packet.protocol == proto::TCP {
            header = u32::from(transport.offset >> 4) * 4;
            self.token |= u64::from(transport.length) << 16 | u64::from(transport.checksum);
            if packet.tcp_flags & FLAGS != tcp::ACK {
                return false;
            }
        }
        self.key.source = packet.source;
        self.key.destination = packet.destination;
        self.key.ifindex = ifindex;
        self.key.source_port = packet.source_port;
        self.key.destination_port = packet.destination_port;
        self.key.protocol = packet.protocol;
        self.to = head.to();
        self.from = head.from();
        self.headers = packet.transport + header;
        self.end = packet.end;
        self.hop_limit = packet.hop_limit;
        self.version = packet.version;
        packet.source_port != 0
    }
}

/// What remains to be done to a frame whose head [`Head::rewrite`] has rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// Offset of the transport's checksum.
    pub checksum: u32,
    /// What the address adds to the sum over which that checksum is made (RFC 1071), as `bpf_csum_diff` would say.
    pub address: u32,
    /// The port as it was, in network byte order.
    pub port_before: u16,
    /// The port as it is now, in network byte order.
    pub port: u16,
    /// What an IPv6 header's bytes add to their sum, hop limit included.
    pub header: u32,
    /// Whether it is UDP, of which a checksum of 0 means none.
    pub is_udp: bool,
}

impl Head {
    /// Rewrites the head of a plain packet as the stack would on its way: frame addresses, hop limit, and one address
    /// and port, with the checksum of the IPv4 header (RFC 1624).
    #[inline(always)]
    pub fn rewrite(&mut self, version: u8, protocol: u8, path: &FastPath) -> Rewritten {
        let checksum = if protocol == proto::TCP { 16 } else { 6 };
        let port = path.port.to_be();
        let source = path.replaces == replaces::SOURCE;
        let is_udp = protocol == proto::UDP;
        let mut rewritten = Rewritten { checksum: 0, address: 0, port_before: 0, port, header: 0, is_udp };
        if version == 4 {
            let head: &mut HeadV4 = bytemuck::cast_mut(self);
            (head.to, head.from) = (path.to, path.from);
            let new = path.address.v4_word();
            let old = if source { head.source } else { head.destination };
            *(if source { &mut head.source } else { &mut head.destination }) = new;
            let port_before = core::mem::replace(
                if source { &mut head.transport.source } else { &mut head.transport.destination },
                port,
            );
            let hop = u16::from_ne_bytes([head.hop_limit, head.protocol]);
            head.hop_limit = head.hop_limit.wrapping_sub(1);
            let hop_now = u16::from_ne_bytes([head.hop_limit, head.protocol]);
            let difference = folded(u64::from(!old) + u64::from(new));
            let sum =
                u64::from(!head.checksum) + u64::from(!hop) + u64::from(hop_now) + u64::from(difference);
            head.checksum = !folded_to_half(sum);
            rewritten.checksum = AFTER_IPV4 + checksum;
            rewritten.address = difference;
            rewritten.port_before = port_before;
        } else {
            let head: &mut HeadV6 = bytemuck::cast_mut(self);
            (head.to, head.from) = (path.to, path.from);
            let old = core::mem::replace(
                if source { &mut head.source } else { &mut head.destination },
                path.address,
            );
            rewritten.port_before = core::mem::replace(
                if source { &mut head.transport.source } else { &mut head.transport.destination },
                port,
            );
            head.hop_limit = head.hop_limit.wrapping_sub(1);
            rewritten.checksum = AFTER_IPV6 + checksum;
            rewritten.address = difference(&old, &path.address);
            // The hop limit is the second byte of its word of 16 bits.
            let hop = u16::from_ne_bytes([0, 1]);
            rewritten.header = folded(u64::from(rewritten.address) + u64::from(!hop));
        }
        rewritten
    }
}

/// What an address that takes the place of another adds to a sum of its words.
#[inline(always)]
fn difference(old: &Address, new: &Address) -> u32 {
    let [old, new] = [old.halves(), new.halves()];
    let mut sum = 0;
    for half in 0..2 {
        sum +=
            (!old[half] & 0xffff_ffff) + (!old[half] >> 32) + (new[half] & 0xffff_ffff) + (new[half] >> 32);
    }
    folded(sum)
}

/// The sum with its carries added in again, as one word.
#[inline(always)]
fn folded(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// As [`folded`], as half a word.
#[inline(always)]
fn folded_to_half(sum: u64) -> u16 {
    let sum = u64::from(folded(sum));
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// The sum of RFC 1071 over bytes of even number.
    fn sum(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|pair| u64::from(u16::from_ne_bytes([pair[0], pair[1]])));
        folded_to_half(words.sum())
    }

    fn datagram(v6: bool) -> Vec<u8> {
        let mut frame = std::vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 12, 17, 64]);
            frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
            frame.extend([0x20, 1, 0xd, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        } else {
            frame.extend([8, 0, 0x45, 0, 0, 32, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0]);
            frame.extend([198, 51, 100, 7, 198, 18, 0, 1]);
            let checksum = !sum(&frame[14..34]);
            frame[24..26].copy_from_slice(&checksum.to_ne_bytes());
        }
        frame.extend([0x9c, 0x40, 0x1f, 0x90, 0, 12, 0, 0, b'f', b'a', b's', b't']);
        frame
    }

    /// What the transport's checksum is made over, addresses included.
    fn covered(frame: &[u8], v6: bool) -> u16 {
        let addresses = if v6 { 22..54 } else { 26..34 };
        folded_to_half(u64::from(sum(&frame[addresses.clone()])) + u64::from(sum(&frame[addresses.end..])))
    }

    #[test]
    fn a_rewritten_frame_has_right_sums_and_nothing_else_is_changed() {
        for (v6, replaces) in
            [false, true].into_iter().flat_map(|v6| [(v6, replaces::SOURCE), (v6, replaces::DESTINATION)])
        {
            let mut frame = datagram(v6);
            let before = frame.clone();
            let mut head = Head::zeroed();
            let mut packet = Packet::zeroed();
            head.bytes[..frame.len()].copy_from_slice(&frame);
            let length = frame.len() as u32;
            let ethertype = if v6 { ethertype::IPV6 } else { ethertype::IPV4 };
            assert!(head.parse(length, length, ethertype, &mut packet));
            let address = if v6 { Address::v6([0xfd; 16]) } else { Address::v4([10, 255, 254, 253]) };
            let mac = |last| Mac { bytes: [2, 2, 2, 2, 2, last] };
            let path =
                FastPath { address, port: 80, replaces, to: mac(1), from: mac(2), ..FastPath::zeroed() };
            let version = if v6 { 6 } else { 4 };
            let rewritten = head.rewrite(version, proto::UDP, &path);
            let written = if v6 { Head::REWRITTEN_V6 } else { Head::REWRITTEN_V4 } as usize;
            frame[..written].copy_from_slice(&head.bytes[..written]);

            let at = |v4: usize, v6_: usize| if v6 { v6_ } else { v4 };
            let source = replaces == replaces::SOURCE;
            let mut expected = before.clone();
            expected[..6].copy_from_slice(&mac(1).bytes);
            expected[6..12].copy_from_slice(&mac(2).bytes);
            expected[at(22, 21)] -= 1;
            let (place, port) = if source { (at(26, 22), at(34, 54)) } else { (at(30, 38), at(36, 56)) };
            let bytes = &address.bytes[at(12, 0)..];
            expected[place..place + bytes.len()].copy_from_slice(bytes);
            expected[port..port + 2].copy_from_slice(&80_u16.to_be_bytes());
            if !v6 {
                expected[24..26].fill(0);
                let checksum = !sum(&expected[14..34]);
                expected[24..26].copy_from_slice(&checksum.to_ne_bytes());
            }
            assert_eq!(frame, expected);

            assert_eq!(rewritten.checksum as usize, at(34, 54) + 6);
            // Ones' complement has two zeroes.
            let added = u64::from(rewritten.address)
                + u64::from(!rewritten.port_before)
                + u64::from(rewritten.port)
                + u64::from(covered(&before, v6));
            assert_eq!(folded_to_half(added) % 0xffff, covered(&frame, v6) % 0xffff);
            if v6 {
                let header = folded_to_half(u64::from(rewritten.header) + u64::from(sum(&before[14..54])));
                assert_eq!(header % 0xffff, sum(&frame[14..54]) % 0xffff);
            }
        }
    }
}
