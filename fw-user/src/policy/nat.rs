//! The section `[nat]`: who writes the NAT rules, and translations of the operator's own.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::parse::{Parser, word_or_default};
use super::ports;
use super::section::{Item, Section};
use super::words::{NatFrom, NatProto};
use super::{Dnat, PortRange, Redirect};

impl Parser<'_> {
    pub(super) fn nat(&mut self, mut section: Section<'_>) {
        self.policy.nat.owner = word_or_default(section.take("owner"), &mut self.problems);
        let redirects = section.sections_of("nat", "redirect", &mut self.problems);
        let dnats = section.sections_of("nat", "dnat", &mut self.problems);
        section.finish(&mut self.problems);
        for section in redirects {
            self.redirect(section);
        }
        for section in dnats {
            self.dnat(section);
        }
    }

    fn redirect(&mut self, mut section: Section<'_>) {
        let span = section.span().clone();
        let line = self.problems.line(&span);
        let name = self.rule_name(&mut section);
        let (proto, ports) = self.asked(&mut section);
        let from = match section.take("from") {
            Some(item) => self.nat_from(&item, &[NatFrom::Containers, NatFrom::Uplinks]),
            None => BTreeSet::from([NatFrom::Containers]),
        };
        let to = section.need("to", "to = 5353", &mut self.problems);
        let to = to.and_then(|item| ports::single(&item, "a port of this host", &mut self.problems));
        section.finish(&mut self.problems);
        let (Some(proto), Some(to)) = (proto, to) else { return };
        let redirect = Redirect { name, proto, ports, from, to, line };
        if let Some(other) = self.policy.nat.redirects.iter().find(|other| other.meets(&redirect)) {
            let message = format!(
                "redirect `{}` has a port in common with redirect `{}` at line {}; expected each once",
                redirect.name, other.name, other.line
            );
            self.problems.at(&span, message);
        }
        self.policy.nat.redirects.push(redirect);
    }

    fn dnat(&mut self, mut section: Section<'_>) {
        let span = section.span().clone();
        let line = self.problems.line(&span);
        let name = self.rule_name(&mut section);
        let (proto, ports) = self.asked(&mut section);
        let every = [NatFrom::Containers, NatFrom::Uplinks, NatFrom::Host];
        let from = match section.take("from") {
            Some(item) => self.nat_from(&item, &every),
            None => BTreeSet::from(every),
        };
        let address = section.need("address", "address = \"192.0.2.10\"", &mut self.problems);
        let address = address.and_then(|item| self.server(&item));
        let to = section.need("to", "to = \"192.0.2.20:5432\"", &mut self.problems);
        let to = to.and_then(|item| self.destination(&item).map(|to| (to, item)));
        section.finish(&mut self.problems);
        let (Some(proto), Some(address), Some(((to, to_port), to_item))) = (proto, address, to) else {
            return;
        };
        if address.is_ipv4() != to.is_ipv4() {
            let message =
                format!("`to` is of another family than `address`, {address}; expected both of one");
            self.problems.at(to_item.span(), message);
        }
        let dnat = Dnat { name, proto, address, ports, from, to, to_port, line };
        if let Some(other) = self.policy.nat.dnats.iter().find(|other| other.meets(&dnat)) {
            let message = format!(
                "dnat `{}` translates a port of {address} that dnat `{}` at line {} translates already; expected each once",
                dnat.name, other.name, other.line
            );
            self.problems.at(&span, message);
        }
        self.policy.nat.dnats.push(dnat);
    }

    /// Protocol and ports, as whoever connects writes them.
    fn asked(&mut self, section: &mut Section<'_>) -> (Option<NatProto>, Vec<PortRange>) {
        let proto = section.need("proto", "proto = \"udp\"", &mut self.problems);
        let proto = proto.and_then(|item| item.word::<NatProto>(&mut self.problems));
        let ports = section.need("ports", "ports = [53]", &mut self.problems);
        (proto, ports.map(|item| ports::parse(&item, &mut self.problems)).unwrap_or_default())
    }

    fn nat_from(&mut self, item: &Item<'_>, allowed: &[NatFrom]) -> BTreeSet<NatFrom> {
        let words: Vec<String> = allowed.iter().map(|from| format!("{:?}", from.word())).collect();
        let expected = format!("a list of {}", words.join(", "));
        let Some(items) = item.list(&expected, &mut self.problems) else { return BTreeSet::new() };
        if items.is_empty() {
            self.problems.at(item.span(), format!("an empty list means nobody; expected {expected}"));
        }
        let mut from = BTreeSet::new();
        for item in items {
            let Some(text) = item.string(&expected, &mut self.problems) else { continue };
            match allowed.iter().find(|from| from.word() == text) {
                Some(found) => _ = from.insert(*found),
                None => self.problems.at(item.span(), format!("`from` holds {text:?}; expected {expected}")),
            }
        }
        from
    }

    /// An address that a server may have.
    fn server(&mut self, item: &Item<'_>) -> Option<IpAddr> {
        let expected = "the address of one server, such as \"192.0.2.10\"";
        let text = item.string(expected, &mut self.problems)?;
        let address: Option<IpAddr> = text.parse().ok().filter(is_server);
        if address.is_none() {
            self.problems.at(item.span(), format!("`address` is {text:?}; expected {expected}"));
        }
        address
    }

    /// An address, with or without a port.
    fn destination(&mut self, item: &Item<'_>) -> Option<(IpAddr, Option<u16>)> {
        let expected =
            "an address with or without a port, such as \"192.0.2.20:5432\" or \"[2001:db8::20]:5432\"";
        let text = item.string(expected, &mut self.problems)?;
        let with_port = text.parse().ok().map(|to: SocketAddr| (to.ip(), Some(to.port())));
        let to = with_port.or_else(|| Some((text.parse().ok()?, None)));
        let to = to.filter(|(address, port)| is_server(address) && *port != Some(0));
        if to.is_none() {
            self.problems.at(item.span(), format!("`to` is {text:?}; expected {expected}"));
        }
        to
    }
}

/// Whether one machine may have this address on a network.
fn is_server(address: &IpAddr) -> bool {
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || mapped || link_local)
}

impl Redirect {
    fn meets(&self, other: &Self) -> bool {
        self.proto == other.proto && !self.from.is_disjoint(&other.from) && share(&self.ports, &other.ports)
    }
}

impl Dnat {
    fn meets(&self, other: &Self) -> bool {
        self.address == other.address
            && self.proto == other.proto
            && !self.from.is_disjoint(&other.from)
            && share(&self.ports, &other.ports)
    }
}

fn share(left: &[PortRange], right: &[PortRange]) -> bool {
    left.iter().any(|a| right.iter().any(|b| a.overlaps(*b)))
}
