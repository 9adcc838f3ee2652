//! One policy in two languages: fw's policy file, and what an administrator would write with iptables.
//!
//! A knob of fw's policy that has an equivalent in iptables is a field of [`Policy`], a line in [`Policy::file`], and its
//! rules in [`Policy::iptables`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::random::Random;
use super::topology::{Container, FIRST_PUBLISHED, MARKER, MARKER_PORT, Network, Topology};

/// What may come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    /// Whether the administrator of the stock host wrote rules for what Docker 20.10 leaves open: container addresses
    /// from outside, and all of IPv6. If not, he wrote what Docker's documentation shows.
    pub(super) careful: bool,
    pub(super) published_open: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) sets: BTreeMap<String, Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) allow: Vec<Allow>,
    /// Names of sets that are denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) deny: Vec<String>,
    /// Names of networks whose containers may use any source; iptables never asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) spoofing: Vec<String>,
    /// Where XDP runs; verdicts are the same everywhere, so that iptables needs no word about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) xdp: Option<String>,
    /// What the host may open; none for everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) out: Vec<Out>,
    /// Whether containers of a network may talk to each other, where Docker was told otherwise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) icc: BTreeMap<String, bool>,
    /// Networks that a network reaches.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) reach: BTreeMap<String, Vec<String>>,
    /// What containers may open, by the name of their network.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) networks: BTreeMap<String, Terms>,
    /// What one container may open; what is left out is its network's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) containers: BTreeMap<String, Terms>,
}

/// One `[[out]]` rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Out {
    /// 1, 6 or 17.
    pub(super) proto: u8,
    /// None for any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ports: Vec<u16>,
    /// First and last source port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source_ports: Option<(u16, u16)>,
    /// Names of sets; none for any destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) to: Vec<String>,
}

/// What containers may open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Terms {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) host_denied: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) egress: Option<Egress>,
}

/// Where to, outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Egress {
    #[default]
    Any,
    None,
    Internet,
    /// Names of sets.
    Sets(Vec<String>),
}

/// One `[[allow]]` rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Allow {
    /// 1, 6 or 17.
    pub(super) proto: u8,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ports: Vec<u16>,
    /// Names of sets; none for any source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) from: Vec<String>,
}

impl Policy {
    /// The policy file for fw.
    pub(super) fn file(&self) -> String {
        let mut text =
            format!("[uplink]\npublished = \"{}\"\n", if self.published_open { "open" } else { "closed" });
        if let Some(xdp) = &self.xdp {
            text += &format!("xdp = \"{xdp}\"\n");
        }
        text += "\n[sets]\n";
        for (name, prefixes) in &self.sets {
            text += &format!("{name} = {prefixes:?}\n");
        }
        for (number, rule) in self.rules().iter().enumerate() {
            let proto = word(rule.proto);
            text += &format!("\n[[allow]]\nname = \"allow{number}\"\nproto = \"{proto}\"\n");
            if rule.proto != 1 {
                text += &format!("ports = {:?}\n", rule.ports);
            }
            if !rule.from.is_empty() {
                text += &format!("from = {:?}\n", rule.from);
            }
        }
        for name in &self.deny {
            text += &format!("\n[[deny]]\nname = \"deny {name}\"\nfrom = [\"{name}\"]\n");
        }
        for (number, rule) in self.out.iter().enumerate() {
            text += &format!("\n[[out]]\nname = \"out{number}\"\nproto = \"{}\"\n", word(rule.proto));
            if !rule.ports.is_empty() {
                text += &format!("ports = {:?}\n", rule.ports);
            }
            if let Some((first, last)) = rule.source_ports {
                text += &format!("source_ports = [\"{first}-{last}\"]\n");
            }
            if !rule.to.is_empty() {
                text += &format!("to = {:?}\n", rule.to);
            }
        }
        for (section, lines) in self.sections() {
            text += &format!("\n[{section}]\n{lines}");
        }
        text
    }

    /// Sections of networks and containers.
    fn sections(&self) -> BTreeMap<String, String> {
        let mut sections: BTreeMap<String, String> = BTreeMap::new();
        let mut add = |kind: &str, name: &str, line: String| {
            *sections.entry(format!("{kind}.{name}")).or_default() += &line;
        };
        for name in &self.spoofing {
            add("networks", name, "spoofing = \"allow\"\n".to_owned());
        }
        for (name, icc) in &self.icc {
            add("networks", name, format!("icc = {icc}\n"));
        }
        for (name, others) in &self.reach {
            add("networks", name, format!("reach = {others:?}\n"));
        }
        for (kind, all) in [("networks", &self.networks), ("containers", &self.containers)] {
            for (name, terms) in all {
                if let Some(denied) = terms.host_denied {
                    add(kind, name, format!("host = \"{}\"\n", if denied { "deny" } else { "allow" }));
                }
                if let Some(egress) = &terms.egress {
                    let value = match egress {
                        Egress::Any => "\"any\"".to_owned(),
                        Egress::None => "\"none\"".to_owned(),
                        Egress::Internet => "\"internet\"".to_owned(),
                        Egress::Sets(names) => format!("{names:?}"),
                    };
                    add(kind, name, format!("egress = {value}\n"));
                }
            }
        }
        sections
    }

    /// Whether containers of the network are kept apart.
    pub(super) fn apart(&self, network: &Network) -> bool {
        self.icc.get(&network.name).map_or(network.no_icc, |icc| !icc)
    }

    /// What a container on a network may open; a network's own terms without one.
    pub(super) fn terms(&self, container: Option<&str>, network: &str) -> (Egress, bool) {
        let own = container.and_then(|name| self.containers.get(name));
        let of = [own, self.networks.get(network)];
        let mut all = of.into_iter().flatten();
        let egress = all.clone().find_map(|terms| terms.egress.clone()).unwrap_or_default();
        (egress, all.find_map(|terms| terms.host_denied).unwrap_or(false))
    }

    /// Shell lines that put the same in force on a host without fw; run again, they replace what they wrote before.
    pub(super) fn iptables(&self, topology: &Topology) -> String {
        let mut lines = vec![
            "for i in iptables ip6tables; do $i -w -F INPUT; $i -w -F OUTPUT; done; iptables -w -F DOCKER-USER"
                .to_owned(),
            own_chain("ip6tables -w", "FORWARD"),
            own_chain("iptables -w -t nat", "POSTROUTING"),
            own_chain("iptables -w -t mangle", "PREROUTING"),
            own_chain("ip6tables -w -t mangle", "PREROUTING"),
        ];
        for family in [Family::Four, Family::Six] {
            self.input(topology, family, &mut lines);
            self.close_host(topology, family, &mut lines);
            self.output(topology, family, &mut lines);
        }
        self.forward(topology, &mut lines);
        self.forward_six(topology, &mut lines);
        lines.join("\n")
    }

    /// All rules: those of the policy, and the marker's.
    fn rules(&self) -> Vec<Allow> {
        let marker = Allow { proto: 17, ports: vec![MARKER_PORT], from: Vec::new() };
        self.allow.iter().cloned().chain([marker]).collect()
    }

    fn input(&self, topology: &Topology, family: Family, lines: &mut Vec<String>) {
        let begin = format!("{} -w -A INPUT -i {}", family.program(), topology.uplink());
        for source in self.deny.iter().flat_map(|name| self.prefixes(name, family)) {
            lines.push(format!("{begin} -s {source} -j DROP"));
        }
        lines.push(format!("{begin} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"));
        lines.extend(family.essential().iter().map(|matches| format!("{begin} {matches} -j ACCEPT")));
        for rule in self.rules() {
            for matches in rule.matches(family, "--dport") {
                for source in self.sources(&rule, family) {
                    lines.push(format!("{begin} {matches} {source} -j ACCEPT"));
                }
            }
        }
        if self.published_open {
            for (port, six) in topology.published() {
                let proto = if port.proto == 17 { "udp" } else { "tcp" };
                let to = match port.address {
                    None if family == Family::Four || six => String::new(),
                    Some(address) if address.is_ipv4() == (family == Family::Four) => format!("-d {address}"),
                    _ => continue,
                };
                lines.push(format!("{begin} {to} -p {proto} --dport {} -j ACCEPT", port.host_port));
            }
        }
        lines.push(format!("{begin} -j DROP"));
    }

    /// Who may not open connections to the host: by any of its addresses before NAT, and by groups and broadcasts.
    fn close_host(&self, topology: &Topology, family: Family, lines: &mut Vec<String>) {
        let begin = format!("{} -w -t mangle -A ORACLE", family.program());
        let input = format!("{} -w -A INPUT", family.program());
        for (matches, _, denied) in self.clients(topology, family) {
            if !denied {
                lines.push(format!("{begin} {matches} -j RETURN"));
                lines.push(format!("{input} {matches} -j ACCEPT"));
                continue;
            }
            for essential in family.essential_of_containers() {
                lines.push(format!("{begin} {matches} {essential} -j RETURN"));
                lines.push(format!("{input} {matches} {essential} -j ACCEPT"));
            }
            lines.push(format!("{begin} {matches} -m addrtype --dst-type LOCAL {UNKNOWN} -j DROP"));
            lines.push(format!("{input} {matches} {UNKNOWN} -j DROP"));
        }
    }

    /// Containers with terms of their own, then networks: what matches them, their egress, whether the host is closed.
    fn clients(&self, topology: &Topology, family: Family) -> Vec<(String, Egress, bool)> {
        let mut clients = Vec::new();
        for (name, spot) in topology.spots() {
            let (Some(network), true) = (&spot.network, self.containers.contains_key(&spot.place)) else {
                continue;
            };
            let address = match family {
                Family::Four => Some(IpAddr::from(spot.v4)),
                Family::Six => spot.v6.map(IpAddr::from),
            };
            let bridge = topology.network(network).map(Network::bridge);
            if let (Some(address), Some(bridge)) = (address, bridge) {
                let (egress, denied) = self.terms(name.split('/').next(), network);
                clients.push((format!("-i {bridge} -s {address}"), egress, denied));
            }
        }
        for network in topology.networks.iter().filter(|network| self.networks.contains_key(&network.name)) {
            let (egress, denied) = self.terms(None, &network.name);
            clients.push((format!("-i {}", network.bridge()), egress, denied));
        }
        clients
    }

    /// What containers may open outside; `begin` names the chain.
    fn egress(&self, topology: &Topology, family: Family, begin: &str, lines: &mut Vec<String>) {
        for (matches, egress, _) in self.clients(topology, family) {
            let begin = format!("{begin} {matches} -o {}", topology.uplink());
            match egress {
                Egress::Any => {}
                Egress::None => lines.push(format!("{begin} {UNKNOWN} -j DROP")),
                Egress::Internet => {
                    let private = family.private().iter();
                    lines.extend(private.map(|private| format!("{begin} {private} {UNKNOWN} -j DROP")));
                }
                Egress::Sets(names) => {
                    for prefix in names.iter().flat_map(|name| self.prefixes(name, family)) {
                        lines.push(format!("{begin} -d {prefix} -j RETURN"));
                    }
                    lines.push(format!("{begin} {UNKNOWN} -j DROP"));
                }
            }
            lines.push(format!("{begin} -j RETURN"));
        }
    }

    /// What the host itself may open.
    fn output(&self, topology: &Topology, family: Family, lines: &mut Vec<String>) {
        if self.out.is_empty() {
            return;
        }
        let begin = format!("{} -w -A OUTPUT -o {}", family.program(), topology.uplink());
        lines.push(format!("{begin} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"));
        lines.extend(family.essential().iter().map(|matches| format!("{begin} {matches} -j ACCEPT")));
        for rule in &self.out {
            let ports = Allow { proto: rule.proto, ports: rule.ports.clone(), from: Vec::new() };
            let mut matches = ports.matches(family, "--dport");
            if rule.proto != 1 && rule.ports.is_empty() {
                matches = vec![format!("-p {}", word(rule.proto))];
            }
            let source = rule.source_ports.map(|(first, last)| format!("--sport {first}:{last}"));
            let to: Vec<_> = rule.to.iter().flat_map(|name| self.prefixes(name, family)).collect();
            let to = if rule.to.is_empty() {
                vec![String::new()]
            } else {
                to.iter().map(|prefix| format!("-d {prefix}")).collect()
            };
            for matches in matches {
                for to in &to {
                    lines.push(format!(
                        "{begin} {matches} {} {to} -j ACCEPT",
                        source.as_deref().unwrap_or_default()
                    ));
                }
            }
        }
        lines.push(format!("{begin} -j DROP"));
    }

    /// Who reaches whom, and who may talk to neighbours; `begin` names the chain.
    fn between(&self, topology: &Topology, family: Family, begin: &str, lines: &mut Vec<String>) {
        let bridge = |name: &str| topology.network(name).map(Network::bridge);
        for (name, others) in &self.reach {
            for other in others {
                if let (Some(from), Some(to)) = (bridge(name), bridge(other)) {
                    lines.push(format!("{begin} -i {from} -o {to} {DIRECT} -j ACCEPT"));
                    lines.push(format!(
                        "{begin} -i {to} -o {from} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
                    ));
                }
            }
        }
        for (network, icc) in self.icc.iter().filter_map(|(name, icc)| Some((topology.network(name)?, icc))) {
            let within = format!("{begin} -i {bridge} -o {bridge} {DIRECT}", bridge = network.bridge());
            if !icc {
                lines.push(format!("{within} -j DROP"));
            } else if family == Family::Four {
                // Docker filters no IPv6. What is opened are the network's own addresses, no way through a neighbour.
                lines.push(format!("{within} -d {}/24 -j ACCEPT", network.gateway()));
            }
        }
    }

    fn forward(&self, topology: &Topology, lines: &mut Vec<String>) {
        let uplink = topology.uplink();
        let begin = format!("iptables -w -A DOCKER-USER -i {uplink}");
        for source in self.deny.iter().flat_map(|name| self.prefixes(name, Family::Four)) {
            lines.push(format!("{begin} -s {source} -j DROP"));
        }
        lines.push(format!("{begin} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"));
        let translated = if self.careful { "--ctstate DNAT" } else { "" };
        if self.published_open {
            if self.careful {
                lines.push(format!("{begin} -m conntrack {translated} -j RETURN"));
                lines.push(format!("{begin} ! -o {uplink} -j DROP"));
            }
        } else {
            for rule in self.rules().iter().filter(|rule| rule.proto != 1) {
                let proto = if rule.proto == 17 { "udp" } else { "tcp" };
                for port in &rule.ports {
                    for source in self.sources(rule, Family::Four) {
                        lines.push(format!(
                            "{begin} -p {proto} -m conntrack {translated} --ctorigdstport {port} {source} -j RETURN"
                        ));
                    }
                }
            }
            lines.push(format!("{begin} ! -o {uplink} -j DROP"));
        }
        let all = "iptables -w -A DOCKER-USER";
        self.between(topology, Family::Four, all, lines);
        for (name, others) in &self.reach {
            for (from, to) in
                others.iter().filter_map(|other| topology.network(name).zip(topology.network(other)))
            {
                // The source stays true.
                lines.push(format!(
                    "iptables -w -t nat -A ORACLE -s {}/24 -o {} -j ACCEPT",
                    from.gateway(),
                    to.bridge()
                ));
            }
        }
        self.egress(topology, Family::Four, all, lines);
        lines.push(format!("{all} -j RETURN"));
    }

    /// Docker 20.10 filters no IPv6: this is all that there is.
    fn forward_six(&self, topology: &Topology, lines: &mut Vec<String>) {
        let begin = "ip6tables -w -A ORACLE";
        let uplink = topology.uplink();
        for source in self.deny.iter().flat_map(|name| self.prefixes(name, Family::Six)) {
            lines.push(format!("{begin} -i {uplink} -s {source} -j DROP"));
        }
        self.between(topology, Family::Six, begin, lines);
        if !self.careful {
            self.egress(topology, Family::Six, begin, lines);
            return;
        }
        let bridges: Vec<_> = topology.networks.iter().filter(|network| network.six).collect();
        for network in &bridges {
            let bridge = network.bridge();
            for other in bridges.iter().filter(|other| other.name != network.name) {
                lines.push(format!("{begin} -i {bridge} -o {} -j DROP", other.bridge()));
            }
            if network.internal {
                lines.push(format!("{begin} -i {bridge} ! -o {bridge} -j DROP"));
                lines.push(format!("{begin} ! -i {bridge} -o {bridge} -j DROP"));
            }
        }
        self.egress(topology, Family::Six, begin, lines);
        lines.push(format!("{begin} -i {uplink} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"));
        lines.push(format!("{begin} -i {uplink} ! -o {uplink} -j DROP"));
    }

    fn prefixes(&self, set: &str, family: Family) -> Vec<String> {
        let all = self.sets.get(set).into_iter().flatten();
        all.filter(|prefix| prefix.contains(':') == (family == Family::Six)).cloned().collect()
    }

    /// One match for each prefix that the rule names; one that holds everybody if it names none.
    fn sources(&self, rule: &Allow, family: Family) -> Vec<String> {
        if rule.from.is_empty() {
            return vec![String::new()];
        }
        let prefixes = rule.from.iter().flat_map(|name| self.prefixes(name, family));
        prefixes.map(|prefix| format!("-s {prefix}")).collect()
    }

    /// A policy at random.
    pub(super) fn random(random: &mut Random, topology: &Topology) -> Self {
        let sets: BTreeMap<_, _> = SETS
            .iter()
            .map(|(name, prefixes)| ((*name).to_owned(), prefixes.iter().map(ToString::to_string).collect()))
            .collect();
        let names: Vec<String> = sets.keys().cloned().collect();
        let ports = interesting_ports(topology);
        let mut allow = Vec::new();
        for _ in 0..random.between(2, 6) {
            let proto = random.weighted(&[(5, 6), (4, 17), (1, 1)]);
            let mut chosen: Vec<u16> = (0..random.between(1, 4)).map(|_| *random.pick(&ports)).collect();
            chosen.sort_unstable();
            chosen.dedup();
            if proto == 1 {
                chosen.clear();
            }
            let mut from: Vec<_> = (0..random.below(3)).map(|_| random.pick(&names).clone()).collect();
            from.sort();
            from.dedup();
            allow.push(Allow { proto, ports: chosen, from });
        }
        let deny = if random.chance(50) { vec![random.pick(&names[..]).clone()] } else { Vec::new() };
        let deny = deny.into_iter().filter(|name| name != "near").collect();
        let spoofing = random.pick(&topology.networks).name.clone();
        let spoofing = if random.chance(25) && spoofing != MARKER { vec![spoofing] } else { Vec::new() };
        let mut policy = Self {
            careful: random.chance(60),
            published_open: random.chance(30),
            sets,
            allow,
            deny,
            spoofing,
            xdp: random
                .weighted(&[(2, None), (1, Some("off")), (2, Some("native")), (1, Some("generic"))])
                .map(str::to_owned),
            out: Vec::new(),
            icc: BTreeMap::new(),
            reach: BTreeMap::new(),
            networks: BTreeMap::new(),
            containers: BTreeMap::new(),
        };
        if random.chance(40) {
            policy.out = (0..random.between(1, 3)).map(|_| Out::random(random, &ports, &names)).collect();
        }
        policy.choose_terms(random, topology, &names);
        policy
    }

    /// Terms of networks and containers at random. None for the marker's.
    fn choose_terms(&mut self, random: &mut Random, topology: &Topology, sets: &[String]) {
        let usable: Vec<_> = topology.networks.iter().filter(|network| network.name != MARKER).collect();
        for network in &usable {
            if random.chance(25) {
                self.networks.insert(network.name.clone(), Terms::random(random, sets));
            }
            if random.chance(10) {
                self.icc.insert(network.name.clone(), random.chance(50));
            }
            let other = *random.pick(&usable);
            if random.chance(30) && other.name != network.name && !other.internal && !network.internal {
                self.reach.insert(network.name.clone(), vec![other.name.clone()]);
            }
        }
        // Where containers may use any source, iptables cannot tell them apart.
        let told =
            |container: &Container| !container.networks.iter().any(|name| self.spoofing.contains(name));
        let containers = topology.containers.iter().filter(|it| it.name != MARKER && told(it));
        for container in containers {
            if random.chance(15) {
                self.containers.insert(container.name.clone(), Terms::random(random, sets));
            }
        }
    }
}

impl Out {
    fn random(random: &mut Random, ports: &[u16], sets: &[String]) -> Self {
        let proto = random.weighted(&[(5, 6), (4, 17), (2, 1)]);
        let ports = (0..if proto == 1 { 0 } else { random.below(4) }).map(|_| *random.pick(ports)).collect();
        let source_ports = (proto != 1 && random.chance(20)).then_some((20_000, 20_999));
        let to = if random.chance(40) { vec![random.pick(sets).clone()] } else { Vec::new() };
        let mut out = Self { proto, ports, source_ports, to };
        out.ports.sort_unstable();
        out.ports.dedup();
        out
    }
}

impl Terms {
    fn random(random: &mut Random, sets: &[String]) -> Self {
        let egress = match random.below(6) {
            0 => None,
            1 => Some(Egress::Any),
            2 => Some(Egress::None),
            3 => Some(Egress::Internet),
            _ => Some(Egress::Sets(vec![random.pick(sets).clone()])),
        };
        let host_denied = random.weighted(&[(3, None), (3, Some(true)), (1, Some(false))]);
        Self { host_denied, egress }
    }
}

/// A protocol as policies and iptables call it.
fn word(proto: u8) -> &'static str {
    match proto {
        1 => "icmp",
        6 => "tcp",
        _ => "udp",
    }
}

/// Shell lines for an empty chain `ORACLE` that `chain` asks first.
fn own_chain(program: &str, chain: &str) -> String {
    format!(
        "{program} -N ORACLE 2>/dev/null || true; {program} -F ORACLE; \
         {program} -C {chain} -j ORACLE 2>/dev/null || {program} -I {chain} -j ORACLE"
    )
}

/// What opens something, or belongs to nothing.
const UNKNOWN: &str = "-m conntrack ! --ctstate ESTABLISHED,RELATED";
/// By its own address: published ports that are reached over the host's address stay as Docker has them.
const DIRECT: &str = "-m conntrack ! --ctstate DNAT";

/// Ports that mean something somewhere, and one that does not.
pub(super) fn interesting_ports(topology: &Topology) -> Vec<u16> {
    let published = topology.containers.iter().flat_map(|container| &container.published);
    let mut ports: Vec<u16> =
        published.flat_map(|port| [port.host_port, port.host_port, port.port]).collect();
    ports.retain(|port| *port != MARKER_PORT);
    ports.extend([22, 53, 80, 6000, FIRST_PUBLISHED + 99]);
    ports
}

impl Allow {
    /// What iptables matches of the packet itself; `port` is the option that takes a port.
    fn matches(&self, family: Family, port: &str) -> Vec<String> {
        match (self.proto, family) {
            (1, Family::Four) => vec!["-p icmp --icmp-type 8".to_owned()],
            (1, Family::Six) => vec!["-p icmpv6 --icmpv6-type 128".to_owned()],
            (6, _) => self.ports.iter().map(|number| format!("-p tcp {port} {number}")).collect(),
            (_, _) => self.ports.iter().map(|number| format!("-p udp {port} {number}")).collect(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Four,
    Six,
}

impl Family {
    fn program(self) -> &'static str {
        match self {
            Self::Four => "iptables",
            Self::Six => "ip6tables",
        }
    }

    /// What a container may send to a host that is closed to it: neighbour discovery and group reports.
    fn essential_of_containers(self) -> &'static [&'static str] {
        match self {
            Self::Four => &["-p igmp -d 224.0.0.0/4"],
            Self::Six => &[
                "-p icmpv6 --icmpv6-type 133 -m hl --hl-eq 255",
                "-p icmpv6 --icmpv6-type 135 -m hl --hl-eq 255",
                "-p icmpv6 --icmpv6-type 136 -m hl --hl-eq 255",
                "-p icmpv6 --icmpv6-type 130",
                "-p icmpv6 --icmpv6-type 131",
                "-p icmpv6 --icmpv6-type 132",
                "-p icmpv6 --icmpv6-type 143",
            ],
        }
    }

    /// Destinations that are not the internet (RFC 6890), as far as the oracle sends there.
    fn private(self) -> &'static [&'static str] {
        match self {
            Self::Four => &[
                "-d 10.0.0.0/8",
                "-d 100.64.0.0/10",
                "-d 127.0.0.0/8",
                "-d 169.254.0.0/16",
                "-d 172.16.0.0/12",
                "-d 192.168.0.0/16",
                "-d 198.18.0.0/15",
            ],
            Self::Six => &["! -d 2000::/3", "-d 2001:2::/48", "-d 2002:a00::/24"],
        }
    }

    /// What the host needs to keep its network, as every guide to iptables has it (RFC 4890 section 4.4.1).
    fn essential(self) -> &'static [&'static str] {
        match self {
            Self::Four => &["-p igmp -d 224.0.0.0/4", "-p udp --sport 67 --dport 68"],
            Self::Six => &[
                "-p icmpv6 --icmpv6-type 133 -m hl --hl-eq 255",
                "-p icmpv6 --icmpv6-type 134 -m hl --hl-eq 255",
                "-p icmpv6 --icmpv6-type 135 -m hl --hl-eq 255",
                "-p icmpv6 --icmpv6-type 136 -m hl --hl-eq 255",
                "-p icmpv6 -s fe80::/10 --icmpv6-type 130",
                "-p icmpv6 -s fe80::/10 --icmpv6-type 131",
                "-p icmpv6 -s fe80::/10 --icmpv6-type 132",
                "-p icmpv6 -s fe80::/10 --icmpv6-type 143",
                "-p udp -s fe80::/10 --sport 547 --dport 546",
            ],
        }
    }
}

/// Sets to choose from; none holds the marker's source but `near`, which is never denied.
const SETS: &[(&str, &[&str])] = &[
    ("near", &["198.18.0.0/24", "2001:db8:18::/64"]),
    ("one", &["198.18.0.2", "2001:db8:18::2"]),
    ("other", &["198.18.0.3/32", "2001:db8:18::3/128"]),
    ("far", &["203.0.113.0/24", "2001:db8:99::/48"]),
    ("half", &["203.0.113.128/25", "2001:db8:99:8000::/49"]),
    ("nested", &["203.0.113.0/25", "203.0.113.7", "192.0.2.0/24"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(random: u64) -> (Topology, Policy) {
        let mut random = Random::new(random);
        let topology = Topology::random(&mut random);
        let policy = Policy::random(&mut random, &topology);
        (topology, policy)
    }

    #[test]
    fn the_marker_is_denied_by_no_policy() {
        for seed in 0..200 {
            let (_, policy) = policy(seed);
            let holds = |name: &String| policy.sets[name].iter().any(|prefix| prefix == "198.18.0.0/24");
            assert!(!policy.deny.iter().any(holds), "{seed} denies the marker");
            assert!(policy.file().contains(&format!("ports = [{MARKER_PORT}]")));
        }
    }

    #[test]
    fn what_a_container_is_told_stands_before_what_its_network_is_told() {
        let (topology, mut policy) = policy(1);
        let container = topology.containers.iter().find(|it| it.name != MARKER).expect("there is one");
        let network = &container.networks[0];
        let terms = |egress, host_denied| Terms { host_denied, egress };
        policy.networks = [(network.clone(), terms(Some(Egress::None), Some(true)))].into();
        policy.containers = [(container.name.clone(), terms(Some(Egress::Any), None))].into();
        assert_eq!(policy.terms(Some(&container.name), network), (Egress::Any, true));
        assert_eq!(policy.terms(None, network), (Egress::None, true));
        let clients = policy.clients(&topology, Family::Four);
        assert!(clients[0].0.contains(" -s 10."), "the container comes first: {clients:?}");
        assert!(policy.file().contains(&format!("[containers.{}]\negress = \"any\"\n", container.name)));
    }

    #[test]
    fn a_rule_for_sources_without_a_prefix_of_the_family_opens_nothing() {
        let (mut topology, mut policy) = policy(1);
        policy.published_open = false;
        topology.bridged_uplink = false;
        policy.sets = [("six".to_owned(), vec!["2001:db8:99::/48".to_owned()])].into();
        policy.allow = vec![Allow { proto: 6, ports: vec![4711], from: vec!["six".to_owned()] }];
        policy.deny.clear();
        let text = policy.iptables(&topology);
        let rules: Vec<_> = text.lines().filter(|line| line.contains("4711")).collect();
        assert_eq!(
            rules,
            ["ip6tables -w -A INPUT -i eth0 -p tcp --dport 4711 -s 2001:db8:99::/48 -j ACCEPT"]
        );
    }
}
