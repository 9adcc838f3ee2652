//! What the rows send: honest packets with a token that tells them from all others, and ways to spoil them.

use std::net::IpAddr;

use xtask::lab::frame::{self, Mac, TCP, UDP, checksum, ethernet, ip_frame, pseudo_checksum};

/// Four bytes that one packet carries and no other: in the payload, or as TCP's sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) u32);

impl Token {
    /// As it stands in the packet.
    pub(crate) fn bytes(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }

    /// Over and over, `length` bytes.
    pub(crate) fn fills(self, length: usize) -> Vec<u8> {
        self.bytes().into_iter().cycle().take(length).collect()
    }

    /// Whether it is in these bytes.
    pub(crate) fn is_in(self, bytes: &[u8]) -> bool {
        bytes.windows(4).any(|window| window == self.bytes())
    }
}

/// From whom to whom a packet goes, and by which MAC addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shot {
    pub(crate) source: IpAddr,
    pub(crate) target: IpAddr,
    pub(crate) source_mac: Mac,
    pub(crate) target_mac: Mac,
    /// Source port, another one for each shot.
    pub(crate) port: u16,
    /// A UDP port that is open there.
    pub(crate) udp: u16,
    /// A TCP port that is open there.
    pub(crate) tcp: u16,
    /// The MAC address of the sender's gateway.
    pub(crate) gateway: Mac,
    pub(crate) token: Token,
}

/// A port that nobody opens.
pub(crate) const CLOSED: u16 = 9;

impl Shot {
    /// The same from another address of the same family.
    pub(crate) fn from(mut self, four: &str, six: &str) -> Self {
        self.source = self.either(four, six);
        self
    }

    /// The same to another address of the same family.
    pub(crate) fn to(mut self, four: &str, six: &str) -> Self {
        self.target = self.either(four, six);
        self
    }

    /// The address of this shot's family.
    pub(crate) fn either(&self, four: &str, six: &str) -> IpAddr {
        let text = if self.is_six() { six } else { four };
        text.parse().expect("the row's address is one")
    }

    pub(crate) fn is_six(&self) -> bool {
        self.source.is_ipv6()
    }

    /// Bytes of the IP header.
    pub(crate) fn header(&self) -> usize {
        if self.is_six() { 40 } else { 20 }
    }

    /// A datagram to `port`.
    pub(crate) fn udp_to(&self, port: u16) -> Vec<u8> {
        self.datagram(port, 64)
    }

    /// A datagram to the open port.
    pub(crate) fn open(&self) -> Vec<u8> {
        self.udp_to(self.udp)
    }

    /// A datagram to `port` with a payload of this length.
    pub(crate) fn datagram(&self, port: u16, length: usize) -> Vec<u8> {
        frame::udp((self.source, self.port), (self.target, port), &self.token.fills(length))
    }

    /// A TCP segment without options or data, the token as sequence number.
    pub(crate) fn tcp_to(&self, port: u16, flags: u8) -> Vec<u8> {
        self.segment(port, flags, &[], &[])
    }

    /// A TCP segment with options (a multiple of four bytes) and data.
    pub(crate) fn segment(&self, port: u16, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.port.to_be_bytes());
        segment.extend(port.to_be_bytes());
        segment.extend(self.token.bytes());
        segment.extend(0x1234_5678_u32.to_be_bytes());
        segment.extend([((20 + options.len()) * 4) as u8, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(options);
        segment.extend(data);
        let sum = pseudo_checksum(self.source, self.target, TCP, &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        self.ip(TCP, &segment)
    }

    /// Any payload under any protocol number.
    pub(crate) fn ip(&self, proto: u8, payload: &[u8]) -> Vec<u8> {
        frame::ip(self.source, self.target, proto, payload)
    }

    /// An ICMP message, of this type in IPv4 and that one in IPv6; `rest` is everything behind the checksum.
    pub(crate) fn icmp(&self, kinds: (u8, u8), code: u8, rest: &[u8]) -> Vec<u8> {
        let kind = if self.is_six() { kinds.1 } else { kinds.0 };
        frame::icmp(self.source, self.target, kind, code, rest)
    }

    /// An echo request.
    pub(crate) fn ping(&self, length: usize) -> Vec<u8> {
        let mut rest = self.port.to_be_bytes().to_vec();
        rest.extend([0, 1]);
        rest.extend(self.token.fills(length));
        self.icmp((8, 128), 0, &rest)
    }

    /// The packet in a frame.
    pub(crate) fn frame(&self, packet: &[u8]) -> Vec<u8> {
        ip_frame(self.target_mac, self.source_mac, packet)
    }

    /// Each packet in a frame.
    pub(crate) fn frames(&self, packets: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
        packets.into_iter().map(|packet| self.frame(&packet)).collect()
    }

    /// A frame with this `EtherType` (or length).
    pub(crate) fn ethernet(&self, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        ethernet(self.target_mac, self.source_mac, ethertype, payload)
    }
}

/// Writes bytes over a packet; the checksum of an IPv4 header is put right.
pub(crate) fn with(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    summed(packet)
}

/// Puts the checksum of an IPv4 header right.
pub(crate) fn summed(mut packet: Vec<u8>) -> Vec<u8> {
    let length = usize::from(packet[0] & 0x0f) * 4;
    if packet[0] >> 4 == 4 && (20..=packet.len()).contains(&length) {
        packet[10..12].fill(0);
        let sum = checksum(&packet[..length]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// An IPv4 packet with options (a multiple of four bytes).
pub(crate) fn with_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
    let (header, payload) = packet.split_at(20);
    let mut packet = [header, options, payload].concat();
    packet[0] = 0x45 + (options.len() / 4) as u8;
    lengthened(packet)
}

/// An IPv6 packet with extension headers: for each its number and all of it but its first byte.
pub(crate) fn with_extensions(packet: &[u8], extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let (header, payload) = packet.split_at(40);
    let mut packet = header.to_vec();
    let upper = packet[6];
    let mut next = extensions.iter().map(|extension| extension.0).chain([upper]);
    packet[6] = next.next().unwrap_or(upper);
    for (_, rest) in extensions {
        packet.push(next.next().unwrap_or(upper));
        packet.extend(rest);
    }
    packet.extend(payload);
    lengthened(packet)
}

/// Writes the packet's length into its header.
pub(crate) fn lengthened(packet: Vec<u8>) -> Vec<u8> {
    let length = packet.len() as u16;
    if packet[0] >> 4 == 6 {
        with(packet, 4, &(length - 40).to_be_bytes())
    } else {
        with(packet, 2, &length.to_be_bytes())
    }
}

/// A part of a packet as a fragment of its own: `range` of what follows the IP header.
pub(crate) fn fragment(packet: &[u8], id: u16, range: std::ops::Range<usize>, more: bool) -> Vec<u8> {
    let six = packet[0] >> 4 == 6;
    let header = if six { 40 } else { 20 };
    placed(&packet[..header], id, range.start, more, &packet[header + range.start..header + range.end])
}

/// A fragment that says to stand at `position`, whatever it holds; `header` is that of an IP packet without more.
pub(crate) fn placed(header: &[u8], id: u16, position: usize, more: bool, payload: &[u8]) -> Vec<u8> {
    if header[0] >> 4 == 6 {
        return with_extensions(&[&header[..40], payload].concat(), &[fragment_header(id, position, more)]);
    }
    let packet = lengthened([header, payload].concat());
    let field = (position / 8) as u16 | u16::from(more) << 13;
    let packet = with(packet, 4, &id.to_be_bytes());
    with(packet, 6, &field.to_be_bytes())
}

/// IPv6's fragment header.
pub(crate) fn fragment_header(id: u16, position: usize, more: bool) -> (u8, Vec<u8>) {
    let field = (position as u16 & 0xfff8 | u16::from(more)).to_be_bytes();
    let id = id.to_be_bytes();
    (44, vec![0, field[0], field[1], 0, 0, id[0], id[1]])
}

/// Cuts a packet behind its header into pieces that end at these offsets (multiples of eight) and at its end.
pub(crate) fn cut(packet: &[u8], id: u16, ends: &[usize]) -> Vec<Vec<u8>> {
    let header = if packet[0] >> 4 == 6 { 40 } else { 20 };
    let all = packet.len() - header;
    let mut start = 0;
    let mut pieces = Vec::new();
    for end in ends.iter().copied().chain([all]) {
        pieces.push(fragment(packet, id, start..end, end < all));
        start = end;
    }
    pieces
}

/// Hop-by-hop or destination options that mean nothing (`PadN`), eight bytes with the first.
pub(crate) fn padding(kind: u8) -> (u8, Vec<u8>) {
    (kind, vec![0, 1, 4, 0, 0, 0, 0])
}

/// Hop-by-hop options.
pub(crate) const HOP_BY_HOP: u8 = 0;
/// A routing header.
pub(crate) const ROUTING: u8 = 43;
/// Authentication.
pub(crate) const AUTHENTICATION: u8 = 51;
/// Destination options.
pub(crate) const DESTINATION: u8 = 60;

/// TCP's flags.
pub(crate) mod flags {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const PSH: u8 = 8;
    pub(crate) const ACK: u8 = 16;
    pub(crate) const URG: u8 = 32;
    pub(crate) const ECE: u8 = 64;
    pub(crate) const CWR: u8 = 128;
}

/// A UDP header with this length and checksum, and the token behind it.
pub(crate) fn raw_datagram(shot: &Shot, port: u16, length: u16, sum: u16) -> Vec<u8> {
    let words = [shot.port, port, length, sum];
    let mut datagram: Vec<u8> = words.into_iter().flat_map(u16::to_be_bytes).collect();
    datagram.extend(shot.token.fills(32));
    shot.ip(UDP, &datagram)
}
