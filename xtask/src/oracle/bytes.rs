//! From a packet's description to its frames, and from a frame to what the receiver sees of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::traffic::{Form, Header};
use crate::lab::frame::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMPV6, Mac, TCP, UDP, checksum, ethernet, pseudo_checksum, tagged,
};

/// Which packet a payload belongs to: conversation (24 bits), step, and fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag {
    pub(super) conversation: u32,
    pub(super) step: u8,
    pub(super) fragment: u8,
}

impl Tag {
    fn bytes(self) -> [u8; 8] {
        let [_, a, b, c] = self.conversation.to_be_bytes();
        let [x, y, z] = MAGIC;
        [x, y, z, a, b, c, self.step, self.fragment]
    }

    /// Every tag in what arrived.
    pub(super) fn all(bytes: &[u8]) -> impl Iterator<Item = Self> + '_ {
        bytes.windows(8).filter(|window| window[..3] == MAGIC).map(|window| Self {
            conversation: u32::from_be_bytes([0, window[3], window[4], window[5]]),
            step: window[6],
            fragment: window[7],
        })
    }
}

/// A packet to be sent.
#[derive(Clone, Debug)]
pub(super) struct Packet<'a> {
    pub(super) macs: (Mac, Mac),
    pub(super) source: IpAddr,
    pub(super) to: IpAddr,
    pub(super) proto: u8,
    pub(super) content: Content,
    pub(super) form: &'a Form,
    pub(super) tag: Tag,
}

/// What stands behind the IP header.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Source port, port, sequence number, acknowledgement, flags.
    Segment((u16, u16), (u32, u32), u8),
    /// Source port, port.
    Datagram((u16, u16)),
    /// Type, code, identifier.
    Message(u8, u8, u16),
    /// Type, code, the packet that is quoted.
    Error(u8, u8, Box<Quote>),
    /// Of any other protocol.
    Other((u16, u16)),
}

/// The packet that an ICMP error quotes.
#[derive(Clone, Debug)]
pub(super) struct Quote {
    pub(super) source: IpAddr,
    pub(super) to: IpAddr,
    pub(super) proto: u8,
    pub(super) ports: (u16, u16),
}

impl Packet<'_> {
    /// The frames of this packet, each with the tag of its fragment.
    pub(super) fn frames(&self) -> Vec<(Tag, Vec<u8>)> {
        let alone = |packet: Vec<u8>| vec![(self.tag, self.framed(&packet))];
        match self.form {
            Form::Fragments { size, order } => self.fragments(usize::from(*size), order),
            Form::Overlap => self.overlap(),
            Form::Tiny => {
                let body = self.transport(0);
                let parts = [self.fragment(&body[..8], 0, true), self.fragment(&body[8..], 8, false)];
                parts.iter().map(|part| (self.tag, self.framed(part))).collect()
            }
            Form::Atomic => {
                let body = self.transport(0);
                alone(six_header(
                    self,
                    FRAGMENT,
                    64,
                    &fragment_header(self.proto, 0, false, self.identity()),
                    &body,
                ))
            }
            Form::Options(options) => {
                let mut padded = options.clone();
                padded.resize(options.len().div_ceil(4) * 4, 0);
                alone(self.four(&self.transport(0), &padded, 0, 64))
            }
            Form::Headers(headers) => {
                let (next, chain) = chain(headers, self.proto, self.to);
                alone(six_header(self, next, 64, &chain, &self.transport(0)))
            }
            Form::HopLimit(limit) => alone(self.ip(&self.transport(0), *limit)),
            Form::TooLong => alone(lengthened(self.ip(&self.transport(0), 64), 40)),
            Form::Padded(count) => {
                let mut packet = self.ip(&self.transport(0), 64);
                packet.extend(vec![0; usize::from(*count)]);
                alone(packet)
            }
            Form::Version(version) => {
                let mut packet = self.ip(&self.transport(0), 64);
                packet[0] = version << 4 | packet[0] & 0xf;
                alone(packet)
            }
            Form::BadHeaderChecksum => {
                let mut packet = self.ip(&self.transport(0), 64);
                packet[10] ^= 0x55;
                alone(packet)
            }
            // Neighbour discovery counts only with hop limit 255.
            Form::Icmp(133..=137, _) => alone(self.ip(&self.transport(0), 255)),
            Form::Plain
            | Form::Tags(_)
            | Form::Vlan(_)
            | Form::BadChecksum
            | Form::Icmp(..)
            | Form::FarDiscovery(_)
            | Form::EtherType(_)
            | Form::OutOfWindow
            | Form::BadLength => alone(self.ip(&self.transport(0), 64)),
        }
    }

    fn framed(&self, packet: &[u8]) -> Vec<u8> {
        let ethertype = if self.to.is_ipv6() { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        let ethertype = if let Form::EtherType(other) = self.form { *other } else { ethertype };
        let frame = ethernet(self.macs.0, self.macs.1, ethertype, packet);
        match self.form {
            Form::Tags(count) => tagged(&frame, &vec![0; usize::from(*count)]),
            Form::Vlan(vlan) => tagged(&frame, &[*vlan]),
            _ => frame,
        }
    }

    /// The transport header and a payload with the tag, filled up to `length` bytes with tags of later fragments.
    fn transport(&self, length: usize) -> Vec<u8> {
        let mut body = match &self.content {
            Content::Segment((source, port), (sequence, acknowledgement), flags) => {
                let offset = if *self.form == Form::BadLength { 0x40 } else { 0x50 };
                let mut body = [source.to_be_bytes(), port.to_be_bytes()].concat();
                body.extend(sequence.to_be_bytes());
                body.extend(acknowledgement.to_be_bytes());
                body.extend([offset, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                body
            }
            Content::Datagram((source, port)) => {
                [source.to_be_bytes(), port.to_be_bytes(), [0, 0], [0, 0]].concat()
            }
            Content::Message(kind, code, identifier) => {
                [[*kind, *code], [0, 0], identifier.to_be_bytes(), [0, 1]].concat()
            }
            Content::Error(kind, code, quote) => {
                let mut body = vec![*kind, *code, 0, 0, 0, 0, 5, 0x78];
                body.extend(quote.bytes());
                body
            }
            Content::Other((source, port)) => match self.proto {
                47 => vec![0, 0, 8, 0],
                _ => [source.to_be_bytes(), port.to_be_bytes(), [0, 0], [0, 0]].concat(),
            },
        };
        body.extend(self.tag.bytes());
        body.resize(body.len().max(length), 0);
        if length > 0 {
            self.tag_fragments(&mut body, length / 3);
        }
        self.finish(&mut body);
        body
    }

    /// Each fragment has its tag at its end.
    fn tag_fragments(&self, body: &mut [u8], size: usize) {
        for (fragment, part) in (0..).zip(body.chunks_mut(size)) {
            // That of the first stands behind the header already.
            if fragment > 0 {
                let end = part.len();
                part[end - 8..].copy_from_slice(&Tag { fragment, ..self.tag }.bytes());
            }
        }
    }

    /// Lengths and checksums.
    fn finish(&self, body: &mut [u8]) {
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
        let at = match &self.content {
            Content::Segment(..) => 16,
            Content::Datagram(_) => {
                let wrong = if *self.form == Form::BadLength { 100 } else { 0 };
                body[4..6].copy_from_slice(&(length + wrong).to_be_bytes());
                6
            }
            Content::Message(..) | Content::Error(..) => 2,
            // UDP-Lite, whose checksum covers all (RFC 3828).
            Content::Other(_) if self.proto == 136 => 6,
            Content::Other(_) => return,
        };
        let proto = self.wire_proto();
        let mut sum =
            if proto == ICMP { checksum(body) } else { pseudo_checksum(self.source, self.to, proto, body) };
        if sum == 0 && proto == UDP {
            sum = 0xffff;
        }
        if *self.form == Form::BadChecksum {
            sum ^= 0x5555;
        }
        body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// The number in the IP header: errors about TCP are ICMP.
    fn wire_proto(&self) -> u8 {
        match self.content {
            Content::Error(..) if self.to.is_ipv6() => ICMPV6,
            Content::Error(..) => ICMP,
            _ => self.proto,
        }
    }

    fn identity(&self) -> u32 {
        self.tag.conversation.wrapping_mul(31).wrapping_add(u32::from(self.tag.step) + 1)
    }

    fn ip(&self, body: &[u8], hop_limit: u8) -> Vec<u8> {
        if self.to.is_ipv6() {
            six_header(self, self.wire_proto(), hop_limit, &[], body)
        } else {
            self.four(body, &[], 0, hop_limit)
        }
    }

    /// An IPv4 packet; `fragment` is the field with flags and offset.
    fn four(&self, body: &[u8], options: &[u8], fragment: u16, hop_limit: u8) -> Vec<u8> {
        let (IpAddr::V4(source), IpAddr::V4(to)) = (self.source, self.to) else { return Vec::new() };
        let words = 5 + options.len() / 4;
        let length = u16::try_from(words * 4 + body.len()).unwrap_or(u16::MAX);
        let mut packet = vec![0x40 | words as u8, 0];
        packet.extend(length.to_be_bytes());
        packet.extend((self.identity() as u16 | 1).to_be_bytes());
        packet.extend(fragment.to_be_bytes());
        packet.extend([hop_limit, self.wire_proto(), 0, 0]);
        packet.extend(source.octets());
        packet.extend(to.octets());
        packet.extend(options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(body);
        packet
    }

    /// One fragment: bytes of the body from `at` on.
    fn fragment(&self, part: &[u8], at: usize, more: bool) -> Vec<u8> {
        let offset = u16::try_from(at / 8).unwrap_or(0);
        if self.to.is_ipv6() {
            let header = fragment_header(self.wire_proto(), offset, more, self.identity());
            return six_header(self, FRAGMENT, 64, &header, part);
        }
        self.four(part, &[], offset | if more { 0x2000 } else { 0 }, 64)
    }

    fn fragments(&self, size: usize, order: &[u8]) -> Vec<(Tag, Vec<u8>)> {
        let body = self.transport(3 * size);
        let parts: Vec<_> = body.chunks(size).collect();
        let of = |number: &u8| {
            let at = usize::from(*number);
            let part = parts.get(at)?;
            let frame = self.framed(&self.fragment(part, at * size, at + 1 < parts.len()));
            Some((Tag { fragment: *number, ..self.tag }, frame))
        };
        order.iter().filter_map(of).collect()
    }

    fn overlap(&self) -> Vec<(Tag, Vec<u8>)> {
        let body = self.transport(144);
        let first = self.fragment(&body[..48], 0, true);
        let second = self.fragment(&body[40..], 40, false);
        let tag = |fragment| Tag { fragment, ..self.tag };
        vec![(tag(0), self.framed(&first)), (tag(1), self.framed(&second))]
    }
}

impl Quote {
    /// IP header and eight bytes.
    fn bytes(&self) -> Vec<u8> {
        let mut inner = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        inner.extend([0, 16, 0, 0]);
        if self.proto == ICMP || self.proto == ICMPV6 {
            let kind = if self.proto == ICMP { 8 } else { 128 };
            inner = [[kind, 0], [0, 0], self.ports.0.to_be_bytes(), [0, 1]].concat();
        }
        crate::lab::frame::ip(self.source, self.to, self.proto, &inner)
    }
}

fn six_header(packet: &Packet<'_>, next: u8, hop_limit: u8, headers: &[u8], body: &[u8]) -> Vec<u8> {
    let (IpAddr::V6(source), IpAddr::V6(to)) = (packet.source, packet.to) else { return Vec::new() };
    crate::lab::frame::ipv6(source, to, next, hop_limit, &[headers, body].concat())
}

fn fragment_header(next: u8, offset: u16, more: bool, identity: u32) -> Vec<u8> {
    let mut header = vec![next, 0];
    header.extend((offset << 3 | u16::from(more)).to_be_bytes());
    header.extend(identity.to_be_bytes());
    header
}

/// Extension headers before `proto`: the number of the first, and their bytes.
fn chain(headers: &[Header], proto: u8, to: IpAddr) -> (u8, Vec<u8>) {
    let mut next = proto;
    let mut bytes = Vec::new();
    for header in headers.iter().rev() {
        let (number, header) = match header {
            // Six bytes of padding (RFC 8200 section 4.2).
            Header::HopByHop => (0, vec![next, 0, 1, 4, 0, 0, 0, 0]),
            Header::DestinationOptions => (60, vec![next, 0, 1, 4, 0, 0, 0, 0]),
            Header::Routing(kind) => {
                let address = if let IpAddr::V6(to) = to { to } else { Ipv6Addr::UNSPECIFIED };
                (43, [&[next, 2, *kind, 0, 0, 0, 0, 0], address.octets().as_slice()].concat())
            }
        };
        bytes = [header, bytes].concat();
        next = number;
    }
    (next, bytes)
}

/// A packet whose length field says `more` than there is.
fn lengthened(mut packet: Vec<u8>, more: u16) -> Vec<u8> {
    let six = packet[0] >> 4 == 6;
    let at = if six { 4 } else { 2 };
    let length = u16::from_be_bytes([packet[at], packet[at + 1]]) + more;
    packet[at..at + 2].copy_from_slice(&length.to_be_bytes());
    if !six {
        packet[10..12].fill(0);
        let sum = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// What a receiver sees of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) source: IpAddr,
    pub(super) to: IpAddr,
    /// Ports, twice the identifier of an echo, or zeroes; none for a later fragment.
    pub(super) ports: Option<(u16, u16)>,
    /// Who sent the frame.
    pub(super) mac: Mac,
}

impl Seen {
    /// Reads an Ethernet frame without tags.
    pub(super) fn read(frame: &[u8]) -> Option<Self> {
        let mac = Mac(frame.get(6..12)?.try_into().ok()?);
        let packet = frame.get(14..)?;
        let (source, to, proto, first, at): (IpAddr, IpAddr, u8, bool, usize) = match packet.first()? >> 4 {
            4 => {
                let at = usize::from(packet[0] & 0xf) * 4;
                let address =
                    |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
                // Not the three flags.
                let first = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) << 3 == 0;
                (address(12)?.into(), address(16)?.into(), *packet.get(9)?, first, at)
            }
            6 => {
                let address =
                    |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
                let (proto, first, at) = upper_layer(packet)?;
                (address(8)?.into(), address(24)?.into(), proto, first, at)
            }
            _ => return None,
        };
        let number = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
        let ports = match proto {
            _ if !first => None,
            TCP | UDP | 132 | 136 => number(at).zip(number(at + 2)),
            ICMP | ICMPV6 => number(at + 4).map(|identifier| (identifier, identifier)),
            _ => Some((0, 0)),
        };
        Some(Self { source, to, ports, mac })
    }
}

/// Behind the extension headers: the protocol, whether this is not a later fragment, and where it begins.
fn upper_layer(packet: &[u8]) -> Option<(u8, bool, usize)> {
    let (mut next, mut at, mut first) = (*packet.get(6)?, 40, true);
    loop {
        match next {
            0 | 43 | 60 => {
                let length = 8 + 8 * usize::from(*packet.get(at + 1)?);
                next = *packet.get(at)?;
                at += length;
            }
            FRAGMENT => {
                first &= u16::from_be_bytes([*packet.get(at + 2)?, *packet.get(at + 3)?]) >> 3 == 0;
                next = *packet.get(at)?;
                at += 8;
            }
            _ => return Some((next, first, at)),
        }
    }
}

const MAGIC: [u8; 3] = [0xf5, 0xa9, 0x6b];
const FRAGMENT: u8 = 44;

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Form = Form::Plain;

    fn packet(content: Content, proto: u8, form: &Form, six: bool) -> Packet<'_> {
        let macs = (Mac::reserved(1), Mac::reserved(2));
        let (source, to): (IpAddr, IpAddr) = if six {
            ("2001:db8::1".parse().expect("an address"), "2001:db8::2".parse().expect("an address"))
        } else {
            ("192.0.2.1".parse().expect("an address"), "192.0.2.2".parse().expect("an address"))
        };
        Packet {
            macs,
            source,
            to,
            proto,
            content,
            form,
            tag: Tag { conversation: 70_000, step: 3, fragment: 0 },
        }
    }

    #[test]
    fn what_is_sent_is_seen() {
        for six in [false, true] {
            for (proto, content, ports) in [
                (UDP, Content::Datagram((1, 2)), (1, 2)),
                (TCP, Content::Segment((1, 2), (3, 4), 2), (1, 2)),
                (if six { ICMPV6 } else { ICMP }, Content::Message(8, 0, 9), (9, 9)),
            ] {
                let packet = packet(content, proto, &FORM, six);
                let [(tag, frame)] = packet.frames().try_into().expect("one frame");
                let seen = Seen::read(&frame).expect("a packet");
                assert_eq!((seen.source, seen.to, seen.ports), (packet.source, packet.to, Some(ports)));
                assert_eq!(seen.mac, Mac::reserved(2));
                assert_eq!(Tag::all(&frame).collect::<Vec<_>>(), [tag]);
            }
        }
    }

    #[test]
    fn each_fragment_has_its_tag_and_only_the_first_has_ports() {
        let form = Form::Fragments { size: 48, order: vec![2, 0, 1] };
        for six in [false, true] {
            let frames = packet(Content::Segment((1, 2), (3, 4), 2), TCP, &form, six).frames();
            let tags: Vec<_> = frames.iter().map(|(tag, _)| tag.fragment).collect();
            assert_eq!(tags, [2, 0, 1]);
            for (tag, frame) in &frames {
                assert!(Tag::all(frame).all(|found| found == *tag), "{tag:?}");
                assert!(Tag::all(frame).count() > 0, "{tag:?}");
                let ports = Seen::read(frame).expect("a packet").ports;
                assert_eq!(ports.is_some(), tag.fragment == 0);
            }
        }
    }

    #[test]
    fn headers_are_walked() {
        let form = Form::Headers(vec![Header::HopByHop, Header::Routing(4), Header::DestinationOptions]);
        let [(_, frame)] =
            packet(Content::Datagram((1, 2)), UDP, &form, true).frames().try_into().expect("one frame");
        assert_eq!(Seen::read(&frame).expect("a packet").ports, Some((1, 2)));
    }
}
