//! The sections `[networks.NAME]`, `[containers.NAME]` and `[[network]]`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use toml::de::DeValue;

use super::parse::{Parser, name};
use super::problem::Problems;
use super::section::{Item, Section};
use super::uplink::interface;
use super::{ContainerPolicy, Egress, Interfaces, NetworkPolicy, StaticNetwork, prefix};

/// The section of `[networks]` that holds for all networks.
const EVERY_NETWORK: &str = "*";

impl Parser<'_> {
    pub(super) fn networks(&mut self, section: &Section<'_>) {
        let (default, named): (Vec<_>, Vec<_>) =
            section.entries().partition(|(name, ..)| *name == EVERY_NETWORK);
        for (name, span, item) in default.into_iter().chain(named) {
            if name.trim().is_empty() || name.contains(char::is_control) {
                let message = format!(
                    "{name:?} cannot name a network; expected a name as `docker network ls` shows it, or \"*\""
                );
                self.problems.at(&span, message);
            }
            let title = format!("[networks.{}]", name.escape_debug());
            let Some(section) = item.section(&title, &mut self.problems) else { continue };
            let network = self.network(name, section);
            if name == EVERY_NETWORK {
                self.policy.default_network = network;
            } else {
                self.policy.networks.insert(name.to_owned(), network);
            }
        }
    }

    fn network(&mut self, name: &str, mut section: Section<'_>) -> NetworkPolicy {
        let mut network = self.policy.default_network.clone();
        if let Some(item) = section.take("egress") {
            network.egress = self.egress(&item, &format!("networks.{name}"));
        }
        if let Some(host) = section.take("host").and_then(|item| item.word(&mut self.problems)) {
            network.host = host;
        }
        if let Some(item) = section.take("icc") {
            network.icc = item.boolean(&mut self.problems);
        }
        if let Some(item) = section.take("reach") {
            network.reach = names_of_networks(&item, &mut self.problems);
        }
        if let Some(spoofing) = section.take("spoofing").and_then(|item| item.word(&mut self.problems)) {
            network.spoofing = spoofing;
        }
        section.finish(&mut self.problems);
        network
    }

    pub(super) fn containers(&mut self, section: &Section<'_>) {
        for (name, span, item) in section.entries() {
            if name.trim().is_empty() || name.contains(char::is_control) || name == EVERY_NETWORK {
                let message =
                    format!("{name:?} cannot name a container; expected a name as `docker ps` shows it");
                self.problems.at(&span, message);
            }
            let title = format!("[containers.{}]", name.escape_debug());
            let Some(mut section) = item.section(&title, &mut self.problems) else { continue };
            let egress = section.take("egress").map(|item| self.egress(&item, &format!("containers.{name}")));
            let host = section.take("host").and_then(|item| item.word(&mut self.problems));
            section.finish(&mut self.problems);
            self.policy.containers.insert(name.to_owned(), ContainerPolicy { egress, host });
        }
    }

    /// `owner` names the set of the prefixes that stand in the list.
    fn egress(&mut self, item: &Item<'_>, owner: &str) -> Egress {
        let expected = "\"any\", \"none\", \"internet\", or a list of set names and prefixes";
        match item.value() {
            DeValue::Array(_) => {
                let sets = self.sources(item, owner, "write \"none\"");
                self.count_zones(item.span(), &sets);
                Egress::To(sets)
            }
            DeValue::String(word) => match word.as_ref() {
                "any" => Egress::Any,
                "none" => Egress::None,
                "internet" => Egress::Internet,
                word => {
                    self.problems.at(item.span(), format!("`egress` is {word:?}; expected {expected}"));
                    Egress::Any
                }
            },
            _ => {
                item.wrong_type(expected, &mut self.problems);
                Egress::Any
            }
        }
    }

    pub(super) fn static_network(&mut self, mut section: Section<'_>) {
        let name = name(&mut section, "network", &mut self.problems);
        let bridge = section.need("bridge", "bridge = \"lxcbr0\"", &mut self.problems);
        let bridge =
            bridge.and_then(|item| Some((interface(&item, &mut self.problems)?, item.span().clone())));
        let subnets = section.need("subnets", "subnets = [\"10.0.3.0/24\"]", &mut self.problems);
        let subnets = subnets.map(|item| self.subnets(&item)).unwrap_or_default();
        section.finish(&mut self.problems);
        let (Some((name, name_span)), Some((bridge, bridge_span))) = (name, bridge) else { return };
        let others = &self.policy.static_networks;
        if others.iter().any(|other| other.name == name) {
            let message =
                format!("network `{name}` stands already in another [[network]]; expected a name of its own");
            self.problems.at(&name_span, message);
        }
        if let Some(other) = others.iter().find(|other| other.bridge == bridge) {
            let message = format!(
                "bridge `{bridge}` is already that of network `{}`; expected one [[network]] for each bridge",
                other.name
            );
            self.problems.at(&bridge_span, message);
        }
        if matches!(&self.policy.uplink.interfaces, Interfaces::Named(uplinks) if uplinks.contains(&bridge)) {
            let message =
                format!("`{bridge}` is named in uplink.interfaces; expected it there or here, not both");
            self.problems.at(&bridge_span, message);
        }
        self.policy.static_networks.push(StaticNetwork { name, bridge, subnets });
    }

    fn subnets(&mut self, item: &Item<'_>) -> Vec<IpNet> {
        let expected = "a list of prefixes, `subnets = [\"10.0.3.0/24\"]`";
        let Some(items) = item.list(expected, &mut self.problems) else { return Vec::new() };
        if items.is_empty() {
            self.problems.at(item.span(), format!("`subnets` is empty; expected {expected}"));
        }
        let mut subnets: Vec<IpNet> = Vec::new();
        for item in items {
            let Some(text) = item.string(expected, &mut self.problems) else { continue };
            let before =
                self.policy.static_networks.iter().flat_map(|network| &network.subnets).chain(&subnets);
            match prefix::parse(text).and_then(|subnet| check_subnet(subnet, before)) {
                Ok(subnet) => subnets.push(subnet),
                Err(message) => self.problems.at(item.span(), message),
            }
        }
        subnets
    }
}

fn names_of_networks(item: &Item<'_>, problems: &mut Problems<'_>) -> Vec<String> {
    let expected = "a list of network names";
    let items = item.list(expected, problems).unwrap_or_default();
    let names = items.iter().filter_map(|item| item.string(expected, problems));
    names.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
}

fn check_subnet<'a>(subnet: IpNet, mut others: impl Iterator<Item = &'a IpNet>) -> Result<IpNet, String> {
    let address = subnet.network();
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if subnet.prefix_len() == 0 || address.is_loopback() || address.is_multicast() || link_local {
        return Err(format!(
            "{subnet} cannot be the subnet of a bridge; expected unicast addresses, for example \"10.0.3.0/24\""
        ));
    }
    match others.find(|other| other.contains(&subnet) || subnet.contains(*other)) {
        Some(other) => Err(format!("{subnet} overlaps {other} above; expected each subnet once")),
        None => Ok(subnet),
    }
}
