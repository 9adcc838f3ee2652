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
    let plain = |cell: Option<&str>| cell.map(without_links).unwrap_or_default();
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
        Reason::PortNotAllowed | Reason::DirectAccess if tables.subnet(&packet.destination).is_none() => {
            rule("allow", "from", packet.source.to_string())
        }
        Reason::SourceNotAllowed => {
            let name = ports.iter().rev().find_map(|port| known.rule(port.rule))?;
            Some(format!(
                "# in the [[allow]] rule {name:?}, or in a set that it names\nfrom = [..., \"{}\"]\n",
                packet.source
            ))
        }
        Reason::OutNotAllowed => rule("out", "to", packet.destination.to_string()),
        Reason::Icc | Reason::Unvouched => section("icc = true\n"),
        Reason::Isolation => {
            let to = network_of(&packet.destination)?;
            section(&format!("reach = [{to:?}]\n"))
        }
        Reason::Egress => Some(format!("{}egress = [..., \"{}\"]\n", container()?, packet.destination)),
        Reason::HostDenied => Some(format!("{}host = \"allow\"\n", container()?)),
        Reason::SpoofedMac | Reason::SpoofedSource | Reason::SpoofedNeighbour => {
            section("spoofing = \"allow\"\n")
        }
        _ => None,
    }
}

/// Protocol and port as a rule names them; `None` for what no rule can name.
fn service(packet: &Packet) -> Option<(String, Option<u16>)> {
    Some(match packet.protocol {
        proto::TCP | proto::UDP | proto::SCTP => {
            (view::protocol(packet.protocol), Some(packet.destination_port))
        }
        proto::ICMP | proto::ICMPV6 => ("icmp".to_owned(), None),
        proto::GRE => ("gre".to_owned(), None),
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

    #[test]
    fn links_lose_where_they_lead() {
        assert_eq!(without_links("see [a b](c.md#d), [[x]] and [y]."), "see a b, [[x]] and [y].");
    }
}
