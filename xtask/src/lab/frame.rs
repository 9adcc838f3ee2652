//! Frames built by hand, with correct checksums, for what no socket would send.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All stations.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// One of the addresses that a bridge never forwards: 01:80:c2:00:00:0X.
    pub const fn reserved(last: u8) -> Self {
        Self([0x01, 0x80, 0xc2, 0, 0, last])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|byte| format!("{byte:02x}")).join(":"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Result<Vec<_>, _> =
            text.trim().split(':').map(|part| u8::from_str_radix(part, 16)).collect();
        let bytes = bytes.ok().and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        bytes.map(Self).ok_or_else(|| format!("`{text}` is not a MAC address such as 02:42:ac:11:00:02"))
    }
}

/// An Ethernet frame. `EtherType` in host order.
pub fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + payload.len());
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IP packet as an Ethernet frame, of the family of its addresses.
pub fn ip_frame(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    let ethertype =
        if packet.first().is_some_and(|first| first >> 4 == 6) { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    ethernet(to, from, ethertype, packet)
}

/// Puts 802.1Q tags with these IDs (outermost first) between the addresses and the `EtherType` of a frame.
pub fn tagged(frame: &[u8], vlans: &[u16]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let tags = vlans.iter().flat_map(|vlan| [0x81, 0x00, (vlan >> 8) as u8, *vlan as u8]);
    addresses.iter().copied().chain(tags).chain(rest.iter().copied()).collect()
}

/// An ARP packet; `operation` 1 asks, 2 answers.
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(sender.0.0);
    packet.extend(sender.1.octets());
    packet.extend(target.0.0);
    packet.extend(target.1.octets());
    packet
}

/// An IPv4 or IPv6 packet, by the family of the addresses (which must be the same). Hop limit 64.
pub fn ip(source: IpAddr, destination: IpAddr, proto: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(source, destination, proto, 64, payload),
        (source, destination) => ipv6(six(source), six(destination), proto, 64, payload),
    }
}

/// An IPv4 packet without options, with a correct header checksum.
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, proto: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(((20 + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 1, 0, 0, ttl, proto, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet; `next` is the protocol number of the payload's first header.
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hop_limit]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// A UDP datagram inside an IP packet. Ports in host order.
pub fn udp(source: (IpAddr, u16), destination: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(source.1.to_be_bytes());
    datagram.extend(destination.1.to_be_bytes());
    datagram.extend(((8 + payload.len()) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let sum = pseudo_checksum(source.0, destination.0, UDP, &datagram);
    // An all-zero checksum means "none" (RFC 768); the sum zero is sent as all ones.
    datagram[6..8].copy_from_slice(&if sum == 0 { 0xffff_u16 } else { sum }.to_be_bytes());
    ip(source.0, destination.0, UDP, &datagram)
}

/// A TCP segment without payload or options inside an IP packet. Ports and numbers in host order.
pub fn tcp(source: (IpAddr, u16), destination: (IpAddr, u16), flags: u8, numbers: (u32, u32)) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(source.1.to_be_bytes());
    segment.extend(destination.1.to_be_bytes());
    segment.extend(numbers.0.to_be_bytes());
    segment.extend(numbers.1.to_be_bytes());
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = pseudo_checksum(source.0, destination.0, TCP, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ip(source.0, destination.0, TCP, &segment)
}

/// An ICMP or `ICMPv6` message inside an IP packet; `rest` is everything behind the checksum.
pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            ipv4(source, destination, ICMP, 64, &message)
        }
        (source, destination) => {
            let sum = pseudo_checksum(source, destination, ICMPV6, &message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            // Neighbour and router discovery count only with hop limit 255 (RFC 4861).
            ipv6(six(source), six(destination), ICMPV6, 255, &message)
        }
    }
}

/// Router advertisement (RFC 4861) that announces a default route and an autonomous /64.
pub fn router_advertisement(from: (Mac, Ipv6Addr), prefix: Ipv6Addr) -> Vec<u8> {
    let mut rest = vec![64, 0];
    rest.extend(1800_u16.to_be_bytes());
    rest.extend([0; 8]);
    rest.extend([3, 4, 64, 0xc0]);
    rest.extend(3600_u32.to_be_bytes());
    rest.extend(3600_u32.to_be_bytes());
    rest.extend([0; 4]);
    rest.extend(prefix.octets());
    rest.extend([1, 1]);
    rest.extend(from.0.0);
    icmp(from.1.into(), ALL_NODES.into(), 134, 0, &rest)
}

fn six(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// The checksum of a transport segment whose own checksum field is zero, with the pseudo header of its family.
pub fn pseudo_checksum(source: IpAddr, destination: IpAddr, proto: u8, segment: &[u8]) -> u16 {
    let mut bytes = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => [source.octets(), destination.octets()].concat(),
        (source, destination) => [six(source).octets(), six(destination).octets()].concat(),
    };
    bytes.extend((segment.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, proto]);
    bytes.extend(segment);
    checksum(&bytes)
}

/// The Internet checksum (RFC 1071) of bytes whose checksum field is zero.
pub fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// `EtherType` of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// `EtherType` of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// `EtherType` of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// TCP's SYN flag.
pub const SYN: u8 = 0x02;
/// TCP's ACK flag.
pub const ACK: u8 = 0x10;
/// All nodes of the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Protocol numbers (IANA).
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// `ICMPv6`.
pub const ICMPV6: u8 = 58;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn header_with_its_checksum_sums_to_zero() {
        let packet = ipv4(Ipv4Addr::new(198, 18, 0, 2), Ipv4Addr::new(198, 18, 0, 1), UDP, 64, b"abc");
        assert_eq!(checksum(&packet[..20]), 0);
    }

    #[test]
    fn tags_stand_between_addresses_and_ethertype() {
        let frame = ethernet(Mac::BROADCAST, Mac::reserved(3), ETHERTYPE_ARP, &[1]);
        let tagged = tagged(&frame, &[0, 5]);
        assert_eq!(tagged[12..20], [0x81, 0, 0, 0, 0x81, 0, 0, 5]);
        assert_eq!(tagged[20..], frame[12..]);
    }

    #[test]
    fn mac_reads_what_it_prints() {
        assert_eq!(Mac::reserved(15).to_string().parse(), Ok(Mac::reserved(15)));
        assert!("02:42".parse::<Mac>().is_err());
    }
}
