//! What a reason means, and what would make a packet pass: words of docs/reasons.md, and lines for the policy.

use fw_common::tables::{Port, Tables as _};
use fw_common::wire::{Packet, proto};
use fw_common::{Hook, Reason};

use super::trace::Known;
use crate::view;

/// Where each reason has its meaning and advice.
const REASONS: &str = include_str!("../../../docs/reasons.md");

/// The meaning of a reason, and what to do about it, in the words of docs/reasons.md.
pub fn of(reason: Reason) -> (String, String) {
    let number = (reason as u8).to_string();
    let row = REASONS.lines().find_map(|line| {
        let mut cells = line.strip_prefix('|')?.split(" | ").map(|cell| cell.trim_matches([' ', '|']));
        (cells.next()? == number).then(|| (cells.nth(1), cells.next()))
    });
    let plain =
        |cell: Option<&str>| cell.map(|cell| without_links(cell).replace('`', "")).unwrap_or_default();
    row.map_or_else(Default::default, |(meaning, advice)| (plain(meaning), plain(advice)))
}

/// The text of Markdown's links, without where they lead.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        match link.split_once("](").and_then(|(words, tail)| Some((words, tail.split_once(')')?.1))) {
            Some((words, tail)) if !words.contains('[') => {
                plain += before;
                plain += words;
                rest = tail;
            }
            _ => {
                plain += before;
                plain.push('[');
                rest = link;
            }
        }
    }
    plain + rest
}

/// Lines for the policy file that would let such a packet pass at this hook; `None` where no policy does. `ports` are
/// the entries that the decision found.
pub fn policy(
    known: &Known<'_>,
    hook: Hook,
    ifindex: u32,
    packet: &Packet,
    reason: Reason,
    ports: &[Port],
) -> Option<String> {
    let tables = &known.state.tables;
    let network_of = |address| tables.subnet(address).map(|subnet| known.network(subnet.network));
    let device = tables.interface(ifindex);
    let network = device.map(|device| known.network(device.network));
    let section =
        |key: &str| network.as_ref().map(|network| format!("[networks.{}]\n{key}", quoted(network)));
    let container = || match device {
        Some(device) if device.endpoint_known != 0 && hook == Hook::PortIngress => {
            let name = known.names().of(fw_common::tables::name_kind::ENDPOINT, ifindex);
            Some(format!("[containers.{}]\n", quoted(&name)))
        }
        _ => network.as_ref().map(|network| format!("[networks.{}]\n", quoted(network))),
    };
    let rule = |kind: &str, side: &str, peer: String| {
        let (proto, port) = service(packet)?;
        let ports = port.map_or(String::new(), |port| format!("ports = [{port}]\n"));
        let name = port.map_or_else(|| proto.clone(), |port| format!("{proto}-{port}"));
        Some(format!("[[{kind}]]\nname = {name:?}\nproto = {proto:?}\n{ports}{side} = [{peer:?}]\n"))
    };
    match reason {
        Reason::PortNotAllowed => rule("allow", "from", packet.source.to_string()),
        Reason::SourceNotAllowed => {
            let port = ports.iter().rev().find(|port| port.rule != 0)?;
            let name = known.rule(port.rule)?;
            let source = packet.source;
            Some(format!(
                "# in `from` of the rule {name:?}, or in a set that it names, beside what stands there: \"{source}\"\n"
            ))
        }
        Reason::OutNotAllowed => rule("out", "to", packet.destination.to_string()),
        Reason::Icc | Reason::Unvouched => section("icc = true\n"),
        Reason::Isolation => {
            let to = network_of(&packet.destination)?;
            section(&format!("reach = [{to:?}]\n"))
        }
        Reason::Egress => {
            let terms = device.filter(|_| hook == Hook::PortIngress).map(|device| device.terms);
            let terms = terms.or_else(|| Some(tables.network(device?.network)?.terms))?;
            let places = match view::egress(&terms, known.names()) {
                serde_json::Value::Array(places) => {
                    places.iter().filter_map(|place| place.as_str().map(str::to_owned)).collect()
                }
                _ => Vec::new(),
            };
            let destination = packet.destination;
            Some(if places.is_empty() {
                format!("{}egress = [\"{destination}\"]\n", container()?)
            } else {
                // "internet" stands alone, and what a label has narrowed is no list that a file could hold.
                let places = places.join(", ");
                format!(
                    "# `egress` is now {places}: name a set that holds \"{destination}\" too, or say\n{}egress = \"any\"\n",
                    container()?
                )
            })
        }
        Reason::HostDenied => Some(format!("{}host = \"allow\"\n", container()?)),
        Reason::SpoofedMac | Reason::SpoofedSource | Reason::SpoofedNeighbour => section(
            "# only if its containers own more addresses than Docker gave them (VRRP): then each may send as any other\nspoofing = \"allow\"\n",
        ),
        _ => None,
    }
}

/// Protocol and port as a rule names them; `None` for what no rule can name.
fn service(packet: &Packet) -> Option<(String, Option<u16>)> {
    Some(match packet.protocol {
        proto::TCP | proto::UDP => (view::protocol(packet.protocol), Some(packet.destination_port)),
        // Only who asks; an answer belongs to a flow, or to nothing.
        proto::ICMP | proto::ICMPV6 if packet.is_icmp_of(8, 128) => ("icmp".to_owned(), None),
        _ => return None,
    })
}

/// A name as a key of TOML.
fn quoted(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if bare { name.to_owned() } else { format!("{name:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_that_is_counted_has_words() {
        for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::OtherHost) {
            let (meaning, advice) = of(*reason);
            assert!(!meaning.is_empty() && !advice.is_empty(), "{}", reason.name());
            assert!(
                !meaning.contains(" | ") && !advice.contains("]("),
                "{}: {meaning} {advice}",
                reason.name()
            );
        }
    }

    /// What is advised is policy, whatever the packet.
    #[test]
    fn lines_are_a_policy() {
        use bytemuck::Zeroable;
        use fw_common::tables::{Interface, NameKey, Network, Subnet, name_kind};
        use std::collections::BTreeMap;

        let address = |text: &str| fw_common::Address::from(text.parse::<std::net::IpAddr>().expect("one"));
        let mut state = crate::plan::State::default();
        for (id, name) in [(5, "back end"), (6, "front")] {
            state.names.insert(NameKey { kind: name_kind::NETWORK, id }, name.to_owned());
            state.tables.networks.insert(id, Network::zeroed());
        }
        state.names.insert(NameKey { kind: name_kind::ENDPOINT, id: 7 }, "web.1".to_owned());
        state.names.insert(NameKey { kind: name_kind::RULE, id: 1 }, "web".to_owned());
        let terms =
            fw_common::tables::Terms { egress: fw_common::tables::egress::INTERNET, ..Zeroable::zeroed() };
        for (ifindex, terms) in [(7, Zeroable::zeroed()), (8, terms)] {
            let port = Interface { network: 5, endpoint_known: 1, terms, ..Interface::zeroed() };
            state.tables.interfaces.insert(ifindex, port);
        }
        let front = fw_common::tables::Prefix::new(address("172.18.0.0"), 112);
        state.tables.subnets.insert(front, Subnet { network: 6 });
        let (devices, services) = (BTreeMap::new(), BTreeMap::new());
        let known = Known { state: &state, devices: &devices, services: &services };
        let port = Port { rule: 1, ..Port::zeroed() };
        let mut given = 0;
        for reason in Reason::ALL {
            let protocols = [proto::TCP, proto::UDP, proto::SCTP, proto::ICMP, proto::ICMPV6, proto::GRE, 89];
            for (protocol, ifindex) in
                protocols.into_iter().flat_map(|protocol| [(protocol, 7), (protocol, 8)])
            {
                let mut packet = Packet::zeroed();
                (packet.source, packet.destination) = (address("198.51.100.7"), address("172.18.0.2"));
                (packet.protocol, packet.destination_port) = (protocol, 80);
                let lines = policy(&known, Hook::PortIngress, ifindex, &packet, *reason, &[port]);
                let Some(lines) = lines else { continue };
                let text = format!("{lines}\n[networks.front]\n");
                let file = std::path::Path::new("policy.toml");
                let parsed = crate::policy::Policy::parse(&text, file, file);
                assert!(parsed.is_ok(), "{}: {text}{parsed:?}", reason.name());
                given += 1;
            }
        }
        assert!(given > 0);
    }

    #[test]
    fn links_lose_where_they_lead() {
        assert_eq!(without_links("see [a b](c.md#d), [[x]] and [y]."), "see a b, [[x]] and [y].");
    }
}
