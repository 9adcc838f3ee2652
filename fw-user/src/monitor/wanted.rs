//! Which drops are asked for.

use std::net::IpAddr;

use fw_common::event::Event;
use fw_common::wire::{ethertype, proto};
use ipnet::IpNet;

use super::seen::Ends;

/// What a packet must be to be shown; all that is asked for must hold, and of a list one.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// From or to one of these containers.
    pub containers: Vec<String>,
    /// From or to one of these networks.
    pub networks: Vec<String>,
    /// Dropped for one of these reasons, by their numbers.
    pub reasons: Vec<u8>,
    /// From or to an address in one of these prefixes.
    pub prefixes: Vec<IpNet>,
    /// From or to one of these ports.
    pub ports: Vec<u16>,
    /// Of one of these protocols.
    pub protocols: Vec<Protocol>,
}

/// A protocol that a person asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// By its number in the IP header.
    Ip(u8),
    /// ICMP of either family.
    Icmp,
    /// Address resolution, which is no IP.
    Arp,
}

impl Wanted {
    /// Whether everything is.
    pub fn is_everything(&self) -> bool {
        let Self { containers, networks, reasons, prefixes, ports, protocols } = self;
        containers.is_empty()
            && networks.is_empty()
            && reasons.is_empty()
            && prefixes.is_empty()
            && ports.is_empty()
            && protocols.is_empty()
    }

    /// Whether this packet is.
    pub fn holds(&self, event: &Event, ends: &Ends) -> bool {
        let named = |wanted: &[String], found: [&Option<String>; 2]| {
            wanted.is_empty() || found.into_iter().flatten().any(|name| wanted.contains(name))
        };
        let addresses = [event.source, event.destination].map(IpAddr::from);
        let ports = [event.source_port, event.destination_port];
        // A packet that was not parsed so far is from and to no address, not to `::`.
        let is_ip = event.proto != 0 || addresses.iter().any(|address| !address.is_unspecified());
        named(&self.containers, [&ends.from.container, &ends.to.container])
            && named(&self.networks, [&ends.from.network, &ends.to.network])
            && (self.reasons.is_empty() || self.reasons.contains(&event.reason))
            && (self.prefixes.is_empty()
                || is_ip
                    && self
                        .prefixes
                        .iter()
                        .any(|prefix| addresses.iter().any(|address| prefix.contains(address))))
            && (self.ports.is_empty()
                || has_ports(event.proto) && self.ports.iter().any(|port| ports.contains(port)))
            && (self.protocols.is_empty() || self.protocols.iter().any(|protocol| protocol.is_of(event)))
    }
}

impl Protocol {
    /// Reads a name or a number.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "tcp" => Self::Ip(proto::TCP),
            "udp" => Self::Ip(proto::UDP),
            "icmp" => Self::Icmp,
            "icmpv6" => Self::Ip(proto::ICMPV6),
            "igmp" => Self::Ip(proto::IGMP),
            "gre" => Self::Ip(proto::GRE),
            "sctp" => Self::Ip(proto::SCTP),
            "arp" => Self::Arp,
            number => Self::Ip(number.parse().map_err(|_| {
                "expected tcp, udp, icmp (of either family), icmpv6, igmp, gre, sctp, arp, or a number of 0 to 255"
                    .to_owned()
            })?),
        })
    }

    fn is_of(self, event: &Event) -> bool {
        let is_ip = matches!(event.ethertype, ethertype::IPV4 | ethertype::IPV6);
        match self {
            Self::Ip(number) => is_ip && event.proto == number,
            Self::Icmp => is_ip && matches!(event.proto, proto::ICMP | proto::ICMPV6),
            Self::Arp => event.ethertype == ethertype::ARP,
        }
    }
}

/// Whether the ports of an event are ports, and not the identifier of a ping.
pub(super) fn has_ports(protocol: u8) -> bool {
    matches!(protocol, proto::TCP | proto::UDP | proto::SCTP | proto::UDP_LITE)
}

/// Reads a prefix or an address; the bits behind a prefix may be anything, as in `ip addr`.
pub fn prefix(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
        "expected an address or a prefix, for example 203.0.113.7, 203.0.113.0/24 or 2001:db8:12::/48"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::seen::{End, tests::event};

    fn holds(wanted: &Wanted, event: &Event) -> bool {
        let a1 = End { container: Some("a1".into()), network: Some("A".into()), ours: false };
        wanted.holds(event, &Ends { from: a1, to: End::default() })
    }

    #[test]
    fn all_that_is_asked_for_must_hold() {
        let tcp = event("10.1.0.2", 40_000, "198.18.0.2", 443);
        let asks = |change: &dyn Fn(&mut Wanted)| {
            let mut wanted = Wanted::default();
            assert!(wanted.is_everything() && holds(&wanted, &tcp));
            change(&mut wanted);
            assert!(!wanted.is_everything());
            holds(&wanted, &tcp)
        };
        assert!(asks(&|wanted| wanted.containers = vec!["b1".into(), "a1".into()]));
        assert!(!asks(&|wanted| wanted.containers = vec!["b1".into()]));
        assert!(asks(&|wanted| wanted.networks = vec!["A".into()]));
        assert!(!asks(&|wanted| wanted.networks = vec!["a1".into()]));
        assert!(asks(&|wanted| wanted.reasons = vec![tcp.reason]));
        assert!(!asks(&|wanted| wanted.reasons = vec![tcp.reason + 1]));
        let within = |text: &str| vec![prefix(text).expect("a prefix")];
        assert!(asks(&|wanted| wanted.prefixes = within("198.18.0.0/15")));
        assert!(asks(&|wanted| wanted.prefixes = within("10.1.0.2")));
        assert!(!asks(&|wanted| wanted.prefixes = within("::/0")));
        assert!(asks(&|wanted| wanted.ports = vec![40_000]) && asks(&|wanted| wanted.ports = vec![443]));
        assert!(!asks(&|wanted| wanted.ports = vec![80]));
        assert!(asks(&|wanted| wanted.protocols = vec![Protocol::Icmp, Protocol::Ip(6)]));
        assert!(!asks(&|wanted| wanted.protocols = vec![Protocol::Arp]));
        assert!(!asks(&|wanted| {
            wanted.ports = vec![443];
            wanted.containers = vec!["b1".into()];
        }));
    }

    #[test]
    fn what_has_no_address_or_port_is_in_no_prefix_and_on_no_port() {
        let ping = Event { proto: proto::ICMP, ..event("10.1.0.2", 80, "198.18.0.2", 0) };
        assert!(!holds(&Wanted { ports: vec![80], ..Wanted::default() }, &ping), "an identifier is no port");
        let arp = Event { proto: 0, ethertype: ethertype::ARP, ..event("::", 0, "::", 0) };
        let all = ["0.0.0.0/0", "::/0"].map(|text| prefix(text).expect("a prefix")).to_vec();
        assert!(!holds(&Wanted { prefixes: all.clone(), ..Wanted::default() }, &arp));
        assert!(holds(&Wanted { prefixes: all, ..Wanted::default() }, &ping));
        assert!(holds(&Wanted { protocols: vec![Protocol::Arp], ..Wanted::default() }, &arp));
    }

    #[test]
    fn words_are_read() {
        assert_eq!(Protocol::parse("icmp"), Ok(Protocol::Icmp));
        assert_eq!(Protocol::parse("89"), Ok(Protocol::Ip(89)));
        for wrong in ["", "TCP", "256", "-1", "tcp,udp"] {
            assert!(Protocol::parse(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "10.0.0", "10.0.0.0/33", "front", "::/129"] {
            assert!(prefix(wrong).is_err(), "{wrong}");
        }
        assert_eq!(prefix("10.1.2.3/8").expect("a prefix").trunc().to_string(), "10.0.0.0/8");
    }
}
