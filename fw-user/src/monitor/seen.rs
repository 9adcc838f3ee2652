//! A drop as people and scripts read it: with the names of devices, networks, containers and rules.

use std::collections::BTreeMap;

use fw_common::event::Event;
use fw_common::tables::{LocalKey, NameKey, link_layer, name_kind};
use fw_common::wire::{ethertype, proto, tcp};
use fw_common::{Address, Hook, Reason, Tables as _};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use super::wanted::has_ports;
use crate::plan::State;
use crate::view::{Names, Row, protocol, row};

/// Who is who: tables and devices as they were a moment ago.
#[derive(Default)]
pub struct Known {
    /// The tables; of them devices, subnets, addresses, containers and names count.
    pub state: State,
    /// Names of devices by ifindex.
    pub devices: BTreeMap<u32, String>,
}

/// One end of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The container.
    pub container: Option<String>,
    /// Its network.
    pub network: Option<String>,
    /// Whether the address is one of this host.
    pub ours: bool,
}

/// Both ends of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Who sent it; of what a container sends the container behind the port, whatever address it wrote.
    pub from: End,
    /// Whom it is for.
    pub to: End,
}

impl Known {
    /// Names of this kind: containers or networks.
    pub fn names(&self, kind: u32) -> Vec<&str> {
        let names = self.state.names.iter().filter(|(key, _)| key.kind == kind);
        let mut names: Vec<&str> = names.map(|(_, name)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Who is at the ends of this packet.
    pub fn ends(&self, event: &Event) -> Ends {
        let mut from = self.end(&event.source, event.ifindex);
        let mut to = self.end(&event.destination, event.ifindex);
        match Hook::from_number(event.hook) {
            Some(Hook::PortIngress) => from = self.behind(event.ifindex, from),
            Some(Hook::PortEgress) => to = self.behind(event.ifindex, to),
            _ => {}
        }
        Ends { from, to }
    }

    /// The name of a device, or its number.
    pub fn device(&self, ifindex: u32) -> String {
        self.devices.get(&ifindex).cloned().unwrap_or_else(|| ifindex.to_string())
    }

    /// Whether frames of this device begin with an Ethernet header.
    pub fn is_ethernet(&self, ifindex: u32) -> bool {
        let interface = self.state.tables.interface(ifindex);
        interface.is_none_or(|interface| interface.link_layer != link_layer::NONE)
    }

    fn end(&self, address: &Address, ifindex: u32) -> End {
        let tables = &self.state.tables;
        let endpoint = tables.endpoint(address);
        let network = endpoint
            .map(|endpoint| endpoint.network)
            .filter(|network| *network != 0)
            .or_else(|| tables.subnet(address).map(|subnet| subnet.network));
        End {
            container: endpoint
                .filter(|endpoint| endpoint.port != 0)
                .and_then(|endpoint| self.name(name_kind::ENDPOINT, endpoint.port)),
            network: network.and_then(|id| self.name(name_kind::NETWORK, id)),
            ours: tables.local_address(&LocalKey::new(*address, ifindex)).is_some(),
        }
    }

    /// Who lives behind a port, or else `otherwise`.
    fn behind(&self, port: u32, otherwise: End) -> End {
        let network = self.state.tables.interface(port).map(|interface| interface.network);
        match self.name(name_kind::ENDPOINT, port) {
            Some(container) => End {
                container: Some(container),
                network: network.and_then(|id| self.name(name_kind::NETWORK, id)).or(otherwise.network),
                ours: false,
            },
            None => otherwise,
        }
    }

    fn name(&self, kind: u32, id: u32) -> Option<String> {
        self.state.names.get(&NameKey { kind, id }).cloned()
    }
}

/// Some packets that are equal in all that is shown but for the source port.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The first of them.
    pub event: Event,
    /// Who it is about.
    pub ends: Ends,
    /// When the last of them was seen, nanoseconds since 1970.
    pub time: i128,
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Drops of the same CPU of which no event tells, since the event before.
    pub missed: u64,
    /// Whether they come from several ports.
    pub many_ports: bool,
}

impl Seen {
    /// One packet.
    pub fn one(event: Event, ends: Ends, time: i128, missed: u64) -> Self {
        let bytes = u64::from(event.length);
        Self { event, ends, time, count: 1, bytes, missed, many_ports: false }
    }

    /// As a JSON object.
    pub fn row(&self, known: &Known) -> Row {
        let Self { event, ends: Ends { from, to }, .. } = self;
        let names = Names { names: &known.state.names };
        let is_tcp = event.proto == proto::TCP;
        let is_icmp = matches!(event.proto, proto::ICMP | proto::ICMPV6);
        row(json!({
            "time": instant(self.time).to_string(),
            "monotonic_ns": event.time,
            "verdict": verdict(event),
            "reason": Reason::from_number(event.reason).map(Reason::name),
            "hook": Hook::from_number(event.hook).map(Hook::name),
            "device": known.device(event.ifindex),
            "proto": protocol(event.proto),
            "ethertype": event.ethertype,
            "source": event.source.to_string(),
            "source_port": (!self.many_ports).then_some(event.source_port),
            "source_container": from.container,
            "source_network": from.network,
            "destination": event.destination.to_string(),
            "destination_port": event.destination_port,
            "destination_container": to.container,
            "destination_network": to.network,
            "tcp_flags": is_tcp.then(|| flags(event.detail)),
            "icmp_type": is_icmp.then_some(event.detail),
            "rule": (event.rule != 0).then(|| names.of(name_kind::RULE, event.rule)),
            "bytes": self.bytes,
            "count": self.count,
            "missed": self.missed,
        }))
    }

    /// As a line: `16:05:31.123 drop isolation  port_ingress veth1  tcp SYN  a1@A 10.1.0.2:4000 -> b1@B 10.2.0.2:80  74 bytes`.
    pub fn line(&self, known: &Known) -> String {
        let Self { event, ends, .. } = self;
        let time = instant(self.time).to_zoned(TimeZone::system()).strftime("%H:%M:%S%.3f").to_string();
        let count = if self.count == 1 { String::new() } else { format!("  x{}", self.count) };
        format!(
            "{time} {} {}  {}{count}\n",
            verdict(event),
            Reason::from_number(event.reason).map_or("unknown", Reason::name),
            self.about(known, ends),
        )
    }

    /// What a comment in a capture says of the packet.
    pub fn comment(&self, known: &Known) -> String {
        let Self { event, ends, .. } = self;
        let reason = Reason::from_number(event.reason).map_or("unknown", Reason::name);
        format!("{} {reason}  {}", verdict(event), self.about(known, ends))
    }

    fn about(&self, known: &Known, ends: &Ends) -> String {
        let event = &self.event;
        let names = Names { names: &known.state.names };
        let rule = match event.rule {
            0 => String::new(),
            rule => format!("  rule={}", names.of(name_kind::RULE, rule)),
        };
        let source_port = if self.many_ports { None } else { Some(event.source_port) };
        format!(
            "{} {}  {}  {} -> {}  {} bytes{rule}",
            Hook::from_number(event.hook).map_or("unknown", Hook::name),
            known.device(event.ifindex),
            what(event),
            end(&ends.from, &event.source, event, source_port),
            end(&ends.to, &event.destination, event, Some(event.destination_port)),
            self.bytes,
        )
    }
}

fn instant(nanoseconds: i128) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn verdict(event: &Event) -> &'static str {
    if event.observed == 0 { "drop" } else { "would-drop" }
}

/// The protocol, with the flags of TCP or the type of ICMP.
fn what(event: &Event) -> String {
    match (event.ethertype, event.proto) {
        (ethertype::ARP, _) => "arp".to_owned(),
        (ethertype::IPV4 | ethertype::IPV6, proto::TCP) => format!("tcp {}", flags(event.detail)),
        (ethertype::IPV4 | ethertype::IPV6, number @ (proto::ICMP | proto::ICMPV6)) => {
            format!("{} type {}", protocol(number), event.detail)
        }
        (ethertype::IPV4 | ethertype::IPV6, number) => protocol(number),
        (other, _) => format!("ethertype {other:04x}"),
    }
}

/// TCP flags by their usual names, `-` if there is none.
fn flags(set: u8) -> String {
    const OTHERS: [(u8, &str); 4] = [(0x08, "PSH"), (0x20, "URG"), (0x40, "ECE"), (0x80, "CWR")];
    const USUAL: [(u8, &str); 4] =
        [(tcp::SYN, "SYN"), (tcp::FIN, "FIN"), (tcp::RST, "RST"), (tcp::ACK, "ACK")];
    let names: Vec<&str> =
        USUAL.into_iter().chain(OTHERS).filter(|(flag, _)| set & flag != 0).map(|(_, name)| name).collect();
    if names.is_empty() { "-".to_owned() } else { names.join(",") }
}

/// `a1@A 10.1.0.2:80`, `(A) 10.1.0.9:80`, `host 198.18.0.1:22`, `203.0.113.7:*`; of a port that is not one, `None`.
fn end(end: &End, address: &Address, event: &Event, port: Option<u16>) -> String {
    let name = match end {
        End { container: Some(container), network: Some(network), .. } => format!("{container}@{network} "),
        End { container: Some(container), .. } => format!("{container} "),
        End { ours: true, .. } => "host ".to_owned(),
        End { network: Some(network), .. } => format!("({network}) "),
        End { .. } => String::new(),
    };
    if !has_ports(event.proto) {
        return format!("{name}{address}");
    }
    let port = port.map_or_else(|| "*".to_owned(), |port| port.to_string());
    if address.is_v4() { format!("{name}{address}:{port}") } else { format!("{name}[{address}]:{port}") }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::IpAddr;

    use bytemuck::Zeroable as _;
    use fw_common::tables::{Endpoint, LocalAddress, Subnet};

    use super::*;

    /// A TCP packet that opens a connection.
    pub(in crate::monitor) fn event(source: &str, from: u16, destination: &str, to: u16) -> Event {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().expect("an address"));
        Event {
            source: address(source),
            destination: address(destination),
            ifindex: 2,
            length: 74,
            source_port: from,
            destination_port: to,
            ethertype: ethertype::IPV4,
            proto: proto::TCP,
            hook: Hook::UplinkIngress as u8,
            reason: Reason::PortNotAllowed as u8,
            detail: tcp::SYN,
            captured: 74,
            ..Event::zeroed()
        }
    }

    pub(in crate::monitor) fn known() -> Known {
        let mut known = Known::default();
        let address = |text: &str| Address::from(text.parse::<IpAddr>().expect("an address"));
        let tables = &mut known.state.tables;
        tables.endpoints.insert(
            address("10.1.0.2"),
            Endpoint { network: 4, port: 9, mac: fw_common::Mac::default(), reserved: [0; 2] },
        );
        let net = fw_common::tables::Prefix::new(address("10.1.0.0"), 120);
        tables.subnets.insert(net, Subnet { network: 4 });
        tables.local_addresses.insert(
            LocalKey::new(address("198.18.0.1"), 2),
            LocalAddress { ifindex: 2, broadcast: 0, reserved: [0; 3] },
        );
        let mut name = |kind, id, text: &str| known.state.names.insert(NameKey { kind, id }, text.to_owned());
        name(name_kind::NETWORK, 4, "A");
        name(name_kind::ENDPOINT, 9, "a1");
        name(name_kind::RULE, 3, "scanners");
        known.devices.insert(2, "eth0".to_owned());
        known.devices.insert(9, "veth1".to_owned());
        known
    }

    fn line(event: Event) -> String {
        let known = known();
        let line = Seen::one(event, known.ends(&event), 0, 0).line(&known);
        line.split_once(' ').expect("a time").1.trim_end().to_owned()
    }

    #[test]
    fn both_ends_have_their_names() {
        let to_host = event("203.0.113.7", 4000, "198.18.0.1", 22);
        assert_eq!(
            line(to_host),
            "drop port-not-allowed  uplink_ingress eth0  tcp SYN  203.0.113.7:4000 -> host 198.18.0.1:22  74 bytes"
        );
        let denied = Event { reason: Reason::Denied as u8, rule: 3, observed: 1, ..to_host };
        assert_eq!(
            line(denied),
            "would-drop denied  uplink_ingress eth0  tcp SYN  203.0.113.7:4000 -> host 198.18.0.1:22  74 bytes  \
             rule=scanners"
        );
        let direct = event("203.0.113.7", 4000, "10.1.0.9", 80);
        assert!(line(direct).contains(" -> (A) 10.1.0.9:80 "), "{}", line(direct));
        let v6 = Event { ethertype: ethertype::IPV6, ..event("2001:db8::1", 1, "2001:db8::2", 2) };
        assert!(line(v6).contains(" [2001:db8::1]:1 -> [2001:db8::2]:2 "), "{}", line(v6));
        let unknown = Event { ifindex: 77, hook: 99, reason: 1, ..to_host };
        assert!(line(unknown).starts_with("drop not-ip  unknown 77  tcp"), "{}", line(unknown));
    }

    #[test]
    fn a_container_is_known_by_its_port_whatever_it_writes() {
        let spoofed =
            Event { ifindex: 9, hook: Hook::PortIngress as u8, ..event("8.8.8.8", 1, "10.1.0.9", 2) };
        assert!(line(spoofed).contains("veth1  tcp SYN  a1 8.8.8.8:1 -> "), "{}", line(spoofed));
        let arp = Event { ethertype: ethertype::ARP, proto: 0, ..spoofed };
        assert!(line(arp).contains("  arp  a1 8.8.8.8 -> "), "{}", line(arp));
    }

    #[test]
    fn the_row_keeps_its_fields() {
        let known = known();
        let event = event("203.0.113.7", 4000, "10.1.0.2", 80);
        let row = Seen::one(event, known.ends(&event), 1_700_000_000_123_000_000, 7).row(&known);
        let text = |key: &str| row[key].to_string();
        assert_eq!(text("time"), "\"2023-11-14T22:13:20.123Z\"");
        assert_eq!(
            (text("count"), text("missed"), text("source_port")),
            ("1".into(), "7".into(), "4000".into())
        );
        assert_eq!(text("destination_container"), "\"a1\"");
        assert_eq!((text("tcp_flags"), text("icmp_type")), ("\"SYN\"".into(), "null".into()));
    }
}
