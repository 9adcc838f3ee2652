//! Packets for tests, written as they read: who sends what to whom, and then what is odd about it.

use std::net::IpAddr;

use etherparse::checksum::u64_16bit_word as checksum;
use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FragmentHeader,
    Ipv6Header, TcpHeader, UdpHeader,
};
use fw_common::Mac;
use fw_common::wire::{ethertype, icmp, proto};

/// An IP packet in an Ethernet frame, before it is written out.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    to_mac: Mac,
    from_mac: Mac,
    /// `EtherType` and control information of each VLAN tag, outermost first.
    tags: Vec<(u16, u16)>,
    source: IpAddr,
    destination: IpAddr,
    hop_limit: u8,
    /// IPv4 options; whole words.
    options: Vec<u8>,
    /// IPv6 extension headers: their number, and the header without its first byte.
    extensions: Vec<(u8, Vec<u8>)>,
    /// Offset in bytes, and whether more follow.
    fragment: Option<(u16, bool)>,
    protocol: u8,
    payload: Vec<u8>,
}

/// A packet without content from `source` to `destination`, which are of one family.
pub(crate) fn ip(source: IpAddr, destination: IpAddr) -> Draft {
    assert_eq!(source.is_ipv4(), destination.is_ipv4(), "{source} and {destination} do not meet");
    Draft {
        to_mac: Mac::default(),
        from_mac: Mac::default(),
        tags: Vec::new(),
        source,
        destination,
        hop_limit: 64,
        options: Vec::new(),
        extensions: Vec::new(),
        fragment: None,
        protocol: NO_NEXT_HEADER,
        payload: Vec::new(),
    }
}

/// "No next header" of IPv6; in IPv4 a number that nobody listens to.
const NO_NEXT_HEADER: u8 = 59;
const FRAGMENT_HEADER: u8 = 44;

/// Where the network header of an untagged frame begins.
pub(crate) const NETWORK: usize = 14;

/// What a packet carries.
impl Draft {
    /// Any protocol.
    pub(crate) fn protocol(self, protocol: u8, payload: &[u8]) -> Self {
        Self { protocol, payload: payload.to_vec(), ..self }
    }

    /// A TCP segment without data.
    pub(crate) fn tcp(self, source_port: u16, destination_port: u16, flags: u8) -> Self {
        let header = TcpHeader::new(source_port, destination_port, 1000, 64_000);
        let mut bytes = header.to_bytes().to_vec();
        bytes[13] = flags;
        self.protocol(proto::TCP, &bytes).summed(16)
    }

    /// A UDP datagram.
    pub(crate) fn udp(self, source_port: u16, destination_port: u16, data: &[u8]) -> Self {
        let header = UdpHeader { source_port, destination_port, length: 8 + data.len() as u16, checksum: 0 };
        self.protocol(proto::UDP, &[&header.to_bytes(), data].concat()).summed(6)
    }

    /// An ICMP message of the packet's family; `rest` follows the checksum.
    pub(crate) fn icmp(self, kind: u8, code: u8, rest: &[u8]) -> Self {
        let protocol = if self.is_v4() { proto::ICMP } else { proto::ICMPV6 };
        self.protocol(protocol, &[&[kind, code, 0, 0], rest].concat()).summed(2)
    }

    /// An echo request with this identifier.
    pub(crate) fn echo(self, identifier: u16) -> Self {
        let kind = self.of_family(icmp::ECHO);
        self.icmp(kind, 0, &[&identifier.to_be_bytes()[..], &[0, 1], b"ping"].concat())
    }

    /// An echo reply with this identifier.
    pub(crate) fn echo_reply(self, identifier: u16) -> Self {
        let kind = self.of_family(icmp::ECHO_REPLY);
        self.icmp(kind, 0, &[&identifier.to_be_bytes()[..], &[0, 1], b"ping"].concat())
    }

    /// Destination unreachable, quoting `packet`.
    pub(crate) fn unreachable(self, packet: &[u8]) -> Self {
        let kind = self.of_family((3, 1));
        self.icmp(kind, 1, &[&[0; 4], packet].concat())
    }

    /// A neighbour message (type 135 or 136) about `target`, with the hop limit of the link itself.
    pub(crate) fn neighbour(self, kind: u8, target: IpAddr) -> Self {
        let packet = self.icmp(kind, 0, &[&[0; 4][..], &octets(target)].concat());
        packet.hop_limit(255)
    }

    /// The type for this packet's family out of a pair of both.
    pub(crate) fn of_family(&self, (v4, v6): (u8, u8)) -> u8 {
        if self.is_v4() { v4 } else { v6 }
    }

    fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// The transport checksum written at `at` of the payload (RFC 1071, RFC 8200 section 8.1).
    fn summed(mut self, at: usize) -> Self {
        let pseudo_header = if self.protocol == proto::ICMP {
            0
        } else {
            let sum = checksum::add_slice(0, &octets(self.source));
            let sum = checksum::add_slice(sum, &octets(self.destination));
            let length = self.payload.len() as u16;
            checksum::add_2bytes(checksum::add_2bytes(sum, length.to_be_bytes()), [0, self.protocol])
        };
        let sum = checksum::add_slice(pseudo_header, &self.payload);
        // etherparse sums in memory order, whatever the machine's.
        let sum = checksum::ones_complement_with_no_zero(sum).to_ne_bytes();
        self.payload[at..at + 2].copy_from_slice(&sum);
        self
    }
}

/// What is odd about a packet.
impl Draft {
    pub(crate) fn sent_by(self, from_mac: Mac) -> Self {
        Self { from_mac, ..self }
    }

    pub(crate) fn sent_to(self, to_mac: Mac) -> Self {
        Self { to_mac, ..self }
    }

    /// The same, with these MAC addresses where it has none yet.
    pub(crate) fn between(mut self, to: Mac, from: Mac) -> Self {
        for (mac, instead) in [(&mut self.to_mac, to), (&mut self.from_mac, from)] {
            if *mac == Mac::default() {
                *mac = instead;
            }
        }
        self
    }

    /// One more VLAN tag, inside those that are there.
    pub(crate) fn tag(mut self, ethertype: u16, control: u16) -> Self {
        self.tags.push((ethertype, control));
        self
    }

    pub(crate) fn hop_limit(self, hop_limit: u8) -> Self {
        Self { hop_limit, ..self }
    }

    /// IPv4 options, filled up with "end of list" to whole words.
    pub(crate) fn options(mut self, options: &[u8]) -> Self {
        assert!(self.is_v4(), "options are IPv4's");
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// One more IPv6 extension header, behind those that are there; `body` is all of it but the number of the next,
    /// and so begins with its length.
    pub(crate) fn extension(mut self, number: u8, body: &[u8]) -> Self {
        assert!(!self.is_v4(), "extension headers are IPv6's");
        self.extensions.push((number, body.to_vec()));
        self
    }

    /// Only bytes `from` to `to` of what the packet carries, as the fragment that they make.
    pub(crate) fn piece(mut self, from: usize, to: usize, more: bool) -> Self {
        self.payload = self.payload[from..to].to_vec();
        self.fragment = Some((from as u16, more));
        self
    }

    /// All of the payload, as a fragment at this offset.
    pub(crate) fn at_offset(self, offset: u16, more: bool) -> Self {
        Self { fragment: Some((offset, more)), ..self }
    }

    /// The payload cut after `length` bytes; the IP header tells the truth about it.
    pub(crate) fn cut(mut self, length: usize) -> Self {
        self.payload.truncate(length);
        self
    }

    /// Byte `at` of the payload replaced.
    pub(crate) fn with_byte(mut self, at: usize, byte: u8) -> Self {
        self.payload[at] = byte;
        self
    }
}

/// Writing it out.
impl Draft {
    /// The Ethernet frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let network = if self.is_v4() { ethertype::IPV4 } else { ethertype::IPV6 };
        let mut types = self.tags.iter().map(|(kind, _)| *kind).chain([network]);
        let header = Ethernet2Header {
            destination: self.to_mac.bytes,
            source: self.from_mac.bytes,
            ether_type: EtherType(types.next().unwrap_or(network)),
        };
        let mut frame = header.to_bytes().to_vec();
        for ((_, control), next) in self.tags.iter().zip(types) {
            frame.extend(control.to_be_bytes());
            frame.extend(next.to_be_bytes());
        }
        frame.extend(self.packet());
        frame
    }

    /// The IP packet.
    pub(crate) fn packet(&self) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (offset, more) = self.fragment.unwrap_or_default();
                let mut header = Ipv4Header {
                    total_len: (20 + self.options.len() + self.payload.len()) as u16,
                    identification: IDENTIFICATION as u16,
                    more_fragments: more,
                    fragment_offset: IpFragOffset::try_new(offset / 8).expect("13 bits"),
                    time_to_live: self.hop_limit,
                    protocol: IpNumber(self.protocol),
                    source: source.octets(),
                    destination: destination.octets(),
                    options: Ipv4Options::try_from(&self.options[..])
                        .expect("at most 40 bytes in whole words"),
                    ..Ipv4Header::default()
                };
                header.header_checksum = header.calc_header_checksum();
                [&header.to_bytes(), &self.payload[..]].concat()
            }
            _ => self.ipv6(),
        }
    }

    fn ipv6(&self) -> Vec<u8> {
        let mut chain = self.extensions.clone();
        if let Some((offset, more)) = self.fragment {
            let offset = IpFragOffset::try_new(offset / 8).expect("13 bits");
            let header = Ipv6FragmentHeader::new(IpNumber(0), offset, more, IDENTIFICATION).to_bytes();
            chain.push((FRAGMENT_HEADER, header[1..].to_vec()));
        }
        let numbers = chain.iter().map(|(number, _)| *number).chain([self.protocol]);
        let mut numbers = numbers.collect::<Vec<_>>().into_iter();
        let first = numbers.next().unwrap_or(self.protocol);
        let mut inside = Vec::new();
        for ((_, body), next) in chain.iter().zip(numbers) {
            inside.push(next);
            inside.extend(body);
        }
        inside.extend(&self.payload);
        let header = Ipv6Header {
            payload_length: inside.len() as u16,
            next_header: IpNumber(first),
            hop_limit: self.hop_limit,
            source: octets(self.source).try_into().expect("sixteen octets"),
            destination: octets(self.destination).try_into().expect("sixteen octets"),
            ..Ipv6Header::default()
        };
        [&header.to_bytes()[..], &inside].concat()
    }
}

/// An ARP request in which `sender` says to own `address` and asks for `target`; `from` is the frame's source.
pub(crate) fn arp(from: Mac, sender: Mac, address: IpAddr, target: IpAddr) -> Vec<u8> {
    let request: &[u8] = &[0, 1, 8, 0, 6, 4, 0, 1];
    let head = ethernet(Mac { bytes: [0xff; 6] }, from, ethertype::ARP);
    [&head, request, &sender.bytes, &octets(address), &[0; 6], &octets(target)].concat()
}

/// A frame of any kind.
pub(crate) fn ethernet(to: Mac, from: Mac, ethertype: u16) -> Vec<u8> {
    [&to.bytes[..], &from.bytes, &ethertype.to_be_bytes()].concat()
}

/// What all fragments have in common here.
pub(crate) const IDENTIFICATION: u32 = 7;

/// Options of IPv6 that say nothing, as the body of a hop-by-hop or destination options header of eight bytes.
pub(crate) const PADDING: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
