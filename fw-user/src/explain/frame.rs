//! The packets to explain, made from a tuple as people write it.

use std::net::{IpAddr, Ipv6Addr};

use fw_common::tables::memory::Memory;
use fw_common::tables::{NameKey, Tables as _, link_layer, name_kind, role};
use fw_common::wire::{ethertype, proto, tcp};
use fw_common::{Address, Mac};

use crate::connections::packet;
use crate::conntrack::Tuple;
use crate::plan::State;

/// What is wrong with a packet as it was asked for; each says what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// The protocol.
    #[error(
        "{found:?} is no protocol; expected tcp, udp, icmp, sctp, udplite, gre, or the number of an IP protocol"
    )]
    Protocol {
        /// As it was written.
        found: String,
    },
    /// An end.
    #[error(
        "{found:?} is neither an address nor the name of a container, with or without a port; expected one like \
         198.51.100.7, 198.51.100.7:443, [2001:db8::7]:443, web or web:80"
    )]
    End {
        /// As it was written.
        found: String,
    },
    /// A container without an address of that family.
    #[error("the container {name} has no {family} address")]
    NoAddress {
        /// Its name.
        name: String,
        /// Of which family.
        family: &'static str,
    },
    /// Addresses of two families.
    #[error("{from} and {to} are of two families; expected both IPv4 or both IPv6")]
    Families {
        /// The source.
        from: String,
        /// The destination.
        to: String,
    },
    /// No destination port.
    #[error("{protocol} needs the port of the destination; expected one like {to}:443")]
    NoPort {
        /// The protocol.
        protocol: &'static str,
        /// The destination.
        to: String,
    },
    /// Flags.
    #[error(
        "{found:?} is no flag of TCP; expected some of syn, ack, fin, rst, psh, urg, with commas between them"
    )]
    Flag {
        /// As it was written.
        found: String,
    },
    /// Flags of something else.
    #[error("--flags is for tcp alone")]
    NotTcp,
    /// Hex digits.
    #[error(
        "--packet is neither a file nor a frame in hexadecimal: {what}; expected an even number of digits (blanks and \
         colons may stand between them), or a file of pcap or pcapng"
    )]
    Hex {
        /// What is wrong.
        what: String,
    },
    /// A capture.
    #[error("cannot read the capture {file}: {what}; expected pcap or pcapng, as `tcpdump -w` writes it")]
    Capture {
        /// The file.
        file: String,
        /// What is wrong.
        what: String,
    },
}

/// A packet in words: `fw explain PROTO SRC[:PORT] DST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    protocol: Protocol,
    from: End,
    to: End,
    flags: Option<u8>,
    reply: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Icmp,
    Number(u8),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    who: Who,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    At(IpAddr),
    Container(String),
}

/// The port from which a packet comes if nobody says: one of those that Linux gives out.
const SOURCE_PORT: u16 = 40_000;

impl Words {
    /// Reads them. `flags` are those of TCP with commas between them; `reply` makes an answer of it.
    pub fn parse([protocol, from, to]: [&str; 3], flags: Option<&str>, reply: bool) -> Result<Self, Unclear> {
        let protocol = Protocol::parse(protocol)?;
        if flags.is_some() && protocol != Protocol::Number(proto::TCP) {
            return Err(Unclear::NotTcp);
        }
        let all = |flags: &str| flags.split(',').try_fold(0, |all, name| Ok(all | flag(name)?));
        let flags = flags.map(all).transpose()?;
        Ok(Self { protocol, from: End::parse(from)?, to: End::parse(to)?, flags, reply })
    }

    /// The container that it comes from, if it was named.
    pub fn sender(&self) -> Option<&str> {
        match &self.from.who {
            Who::Container(name) => Some(name),
            Who::At(_) => None,
        }
    }

    /// The tuple and, of TCP, the flags; a container's name stands for its address.
    pub fn tuple(&self, state: &State) -> Result<(Tuple, u8), Unclear> {
        let family = [&self.from, &self.to].into_iter().find_map(|end| match end.who {
            Who::At(address) => Some(address.is_ipv4()),
            Who::Container(_) => None,
        });
        let (source, destination) = (self.from.address(state, family)?, self.to.address(state, family)?);
        if source.is_v4() != destination.is_v4() {
            let (from, to) = (source.to_string(), destination.to_string());
            return Err(Unclear::Families { from, to });
        }
        let v4 = source.is_v4();
        let (protocol, icmp_type) = match self.protocol {
            Protocol::Icmp if v4 => (proto::ICMP, if self.reply { 0 } else { 8 }),
            Protocol::Icmp => (proto::ICMPV6, if self.reply { 129 } else { 128 }),
            Protocol::Number(number) => (number, 0),
        };
        let ports = match protocol {
            proto::TCP => Some("tcp"),
            proto::UDP => Some("udp"),
            proto::UDP_LITE => Some("udplite"),
            proto::SCTP => Some("sctp"),
            _ => None,
        };
        let (source_port, destination_port) = match (ports, self.protocol) {
            (Some(protocol), _) => {
                let to = || Unclear::NoPort { protocol, to: destination.to_string() };
                (self.from.port.unwrap_or(SOURCE_PORT), self.to.port.ok_or_else(to)?)
            }
            // The identifier, which one end has.
            (None, Protocol::Icmp) => (self.from.port.or(self.to.port).unwrap_or(1), 0),
            (None, Protocol::Number(_)) => (0, 0),
        };
        let flags = self.flags.unwrap_or(if self.reply { tcp::SYN | tcp::ACK } else { tcp::SYN });
        let tuple =
            Tuple { source, destination, protocol, icmp_type, icmp_code: 0, source_port, destination_port };
        Ok((tuple, flags))
    }
}

impl Protocol {
    fn parse(text: &str) -> Result<Self, Unclear> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "icmp" | "icmpv6" | "icmp6" | "ping" => Self::Icmp,
            "tcp" => Self::Number(proto::TCP),
            "udp" => Self::Number(proto::UDP),
            "sctp" => Self::Number(proto::SCTP),
            "udplite" => Self::Number(proto::UDP_LITE),
            "gre" => Self::Number(proto::GRE),
            "igmp" => Self::Number(proto::IGMP),
            other => match other.parse() {
                Ok(proto::ICMP | proto::ICMPV6) => Self::Icmp,
                Ok(number) => Self::Number(number),
                Err(_) => return Err(Unclear::Protocol { found: text.to_owned() }),
            },
        })
    }
}

impl End {
    fn parse(text: &str) -> Result<Self, Unclear> {
        let unclear = || Unclear::End { found: text.to_owned() };
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(Self { who: Who::At(address.into()), port: None });
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or_else(unclear)?;
            let address: Ipv6Addr = address.parse().map_err(|_| unclear())?;
            let port = match port.strip_prefix(':') {
                Some(port) => Some(port.parse().map_err(|_| unclear())?),
                None if port.is_empty() => None,
                None => return Err(unclear()),
            };
            return Ok(Self { who: Who::At(address.into()), port });
        }
        let (who, port) = match text.split_once(':') {
            Some((who, port)) => (who, Some(port.parse().map_err(|_| unclear())?)),
            None => (text, None),
        };
        let numeric = who.chars().all(|c| c.is_ascii_digit() || c == '.' || c == '/');
        let who = match who.parse::<IpAddr>() {
            Ok(address) => Who::At(address),
            // What looks like an address and is none is no name either.
            Err(_) if numeric || !who.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) => {
                return Err(unclear());
            }
            Err(_) => Who::Container(who.to_owned()),
        };
        Ok(Self { who, port })
    }

    fn address(&self, state: &State, v4: Option<bool>) -> Result<Address, Unclear> {
        let name = match &self.who {
            Who::At(address) => return Ok((*address).into()),
            Who::Container(name) => name,
        };
        let ports = ports_of(state, name);
        if ports.is_empty() {
            return Err(Unclear::End { found: name.clone() });
        }
        let endpoints = state.tables.endpoints.iter();
        let mut its = endpoints.filter(|(_, at)| ports.contains(&at.port)).map(|(address, _)| *address);
        let found = its.find(|address| v4.is_none_or(|v4| address.is_v4() == v4));
        let family = if v4 == Some(false) { "IPv6" } else { "IPv4" };
        found.ok_or_else(|| Unclear::NoAddress { name: name.clone(), family })
    }
}

/// The ports of bridges behind which a container of this name lives.
pub fn ports_of(state: &State, container: &str) -> Vec<u32> {
    let endpoint = |key: &NameKey| {
        let device = state.tables.interfaces.get(&key.id);
        key.kind == name_kind::ENDPOINT && device.is_some_and(|device| device.role == role::PORT)
    };
    let named = state.names.iter().filter(|(key, name)| endpoint(key) && name.as_str() == container);
    named.map(|(key, _)| key.id).collect()
}

fn flag(name: &str) -> Result<u8, Unclear> {
    Ok(match name.trim().to_ascii_lowercase().as_str() {
        "fin" => tcp::FIN,
        "syn" => tcp::SYN,
        "rst" => tcp::RST,
        "psh" => PSH,
        "ack" => tcp::ACK,
        "urg" => tcp::URG,
        _ => return Err(Unclear::Flag { found: name.to_owned() }),
    })
}

/// The flag of TCP that no decision asks for (RFC 9293).
const PSH: u8 = 0x08;

/// The frame of a packet with this tuple as it comes in by a device, or leaves by it.
pub fn frame(tables: &Memory, ifindex: u32, tuple: &Tuple, flags: u8) -> Vec<u8> {
    on_link(tables, ifindex, &packet(tuple, flags))
}

/// An IP packet behind the link layer of a device, with the addresses that an honest sender would use.
pub fn on_link(tables: &Memory, ifindex: u32, packet: &[u8]) -> Vec<u8> {
    let device = tables.interface(ifindex);
    if device.is_some_and(|device| device.link_layer == link_layer::NONE) {
        return packet.to_vec();
    }
    let (v4, source, destination) = ends(packet);
    let mac = |ifindex| tables.interface(ifindex).map_or(Mac::default(), |device| device.mac);
    let container = |address: Option<Address>| address.and_then(|address| tables.endpoint(&address));
    let (to, from) = match device {
        Some(device) if device.role == role::PORT => {
            let neighbour =
                container(destination).filter(|to| to.network == device.network && to.mac != Mac::default());
            (neighbour.map_or_else(|| mac(device.network), |neighbour| neighbour.mac), device.mac)
        }
        Some(device) if device.role == role::BRIDGE => {
            (mac(ifindex), container(source).map_or(PEER, |container| container.mac))
        }
        _ => (mac(ifindex), PEER),
    };
    let ethertype = if v4 { ethertype::IPV4 } else { ethertype::IPV6 };
    [&to.bytes[..], &from.bytes, &ethertype.to_be_bytes(), packet].concat()
}

/// Some neighbour beyond an uplink: an address that nobody is given (locally administered).
const PEER: Mac = Mac { bytes: [0x02, 0, 0, 0, 0xfe, 0x01] };

/// Whether it is IPv4, where the packet comes from and where it goes.
fn ends(packet: &[u8]) -> (bool, Option<Address>, Option<Address>) {
    let v4 = packet.first().is_none_or(|first| first >> 4 != 6);
    let at = |offset: usize| {
        if v4 {
            let bytes = packet.get(offset..)?.first_chunk::<4>()?;
            Some(IpAddr::from(*bytes).into())
        } else {
            Some(Address::v6(*packet.get(offset..)?.first_chunk::<16>()?))
        }
    };
    let (source, destination) = if v4 { (at(12), at(16)) } else { (at(8), at(24)) };
    (v4, source, destination)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(from: &str, to: &str) -> Result<(Tuple, u8), Unclear> {
        Words::parse(["tcp", from, to], None, false)?.tuple(&State::default())
    }

    #[test]
    fn tuples_are_read_as_people_write_them() {
        let (tuple, flags) = words("198.51.100.7", "192.0.2.1:443").expect("a tuple");
        assert_eq!((tuple.source_port, tuple.destination_port, flags), (SOURCE_PORT, 443, tcp::SYN));
        let (tuple, _) = words("[2001:db8::7]:9", "[2001:db8::1]:443").expect("a tuple");
        assert_eq!((tuple.source_port, tuple.destination.is_v4()), (9, false));
        let ping = Words::parse(["icmp", "2001:db8::7", "2001:db8::1"], None, true).expect("a ping");
        let (tuple, _) = ping.tuple(&State::default()).expect("a tuple");
        assert_eq!((tuple.protocol, tuple.icmp_type), (proto::ICMPV6, 129));
        let both = Words::parse(["tcp", "1.1.1.1", "2.2.2.2:3"], Some("syn,ack"), false).expect("flags");
        assert_eq!(both.flags, Some(tcp::SYN | tcp::ACK));
    }

    #[test]
    fn what_is_wrong_is_said_with_what_was_expected() {
        let refused = |from: &str, to: &str| words(from, to).expect_err("refused").to_string();
        for (from, to, part) in [
            ("198.51.100", "192.0.2.1:443", "expected one like 198.51.100.7,"),
            ("198.51.100.7/24", "192.0.2.1:443", "expected one like 198.51.100.7,"),
            ("198.51.100.7:70000", "192.0.2.1:443", "198.51.100.7:70000"),
            ("[2001:db8::7", "192.0.2.1:443", "neither an address"),
            ("2001:db8::7", "192.0.2.1:443", "two families"),
            ("198.51.100.7", "192.0.2.1", "192.0.2.1:443"),
            ("nobody", "192.0.2.1:443", "neither an address nor the name of a container"),
        ] {
            assert!(refused(from, to).contains(part), "{}", refused(from, to));
        }
        for [protocol, flags] in [["tpc", "syn"], ["udp", "syn"], ["tcp", "sync"]] {
            assert!(Words::parse([protocol, "1.1.1.1", "2.2.2.2:3"], Some(flags), false).is_err());
        }
    }
}
