//! The rules of fw's own in iptables: NAT where the policy says `owner = "fw"`, translations of the operator's, and
//! the least of a filter that keeps unmarked packets out of containers.
//!
//! Pure: from what should hold to chains and their rules, written as iptables-save prints them back. Only the chains of
//! [`OWN`] are ever made, emptied or removed; a rule of a chain of the system is ours if it has the comment `fw` and
//! jumps to one of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{Family, HandoverError, Marks, plain_name};
use crate::docker::Transport;
use crate::policy::{Dnat, NatFrom, PortRange, Redirect};

/// What fw writes itself, for both families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Whether fw writes the NAT of Docker's networks (`nat.owner = "fw"`); else translations alone.
    pub owns: bool,
    /// Whether nothing is to be dropped for want of our mark (`mode = "observe"`).
    pub observe: bool,
    /// Our marks.
    pub marks: Marks,
    /// Whether networks reach each other, marked REACH.
    pub reach: bool,
    /// Managed networks, by bridge.
    pub networks: Vec<Network>,
    /// Published ports that are translated; those of one address before those of any.
    pub ports: Vec<Port>,
    /// The devices by which packets come in from outside.
    pub uplinks: BTreeSet<String>,
    /// `[[nat.redirect]]`.
    pub redirects: Vec<Redirect>,
    /// `[[nat.dnat]]`.
    pub dnats: Vec<Dnat>,
    /// Bridges with `route_localnet`, which Docker sets where no docker-proxy serves 127.0.0.0/8 and neighbours.
    pub localnet: BTreeSet<String>,
}

/// A managed network, as far as NAT goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    /// Name of the bridge.
    pub bridge: String,
    /// Whether it is Docker's; others have a NAT of their own, and filter rules as well.
    pub docker: bool,
    /// Its prefixes.
    pub subnets: Vec<IpNet>,
    /// Its containers reach each other and nothing else.
    pub internal: bool,
    /// Whether what leaves it over IPv4 takes the host's address.
    pub masquerade_v4: bool,
    /// Whether what leaves it over IPv6 takes the host's address.
    pub masquerade_v6: bool,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Address on the host; the unspecified address of a family means any address of that family.
    pub host: IpAddr,
    /// Protocol.
    pub protocol: Transport,
    /// Port on the host, host byte order.
    pub host_port: u16,
    /// Bridge of the container's network.
    pub bridge: String,
    /// The container's address.
    pub target: IpAddr,
    /// Port in the container, host byte order.
    pub target_port: u16,
}

/// A chain of our own and the rule that leads there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) table: &'static str,
    pub(super) name: &'static str,
    /// `None` for a chain that another one of ours leads to.
    pub(super) jump: Option<Jump>,
    /// What follows `-A CHAIN`.
    pub(super) rules: Vec<String>,
}

/// A rule in a chain of the system that leads to one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Jump {
    pub(super) from: &'static str,
    /// What follows `-A CHAIN`.
    pub(super) rule: String,
    pub(super) place: JumpPlace,
}

/// Where a jump stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JumpPlace {
    /// Before all others: a foreign rule that accepts must not come first.
    Head,
    /// Put before all others, and left where it is then: programs that insist on the first place never meet us.
    Anywhere,
    /// Behind all others but before one that drops or rejects everything, itself or by a chain of its own; only where there
    /// is such a rule, or where the chain drops by its policy.
    BeforeRefusal,
}

/// Every chain of ours, in the order in which they are emptied; nothing else is ever removed.
pub(crate) const OWN: [(&str, &str); 9] = [
    ("nat", "FW-PREROUTING"),
    ("nat", "FW-OUTPUT"),
    ("nat", "FW-POSTROUTING"),
    ("nat", "FW-PORTS"),
    ("nat", "FW-LOOPBACK"),
    ("nat", "FW-INSIDE"),
    ("nat", "FW-TRANSLATE"),
    ("filter", "FW-FORWARD"),
    ("filter", "FW-ACCEPT"),
];

impl Nat {
    /// The chains of one family; `owns` is whether NAT is ours there. Those without a rule are not wanted.
    pub(super) fn chains(&self, family: Family, owns: bool) -> Result<Vec<Chain>, HandoverError> {
        let bridges = self.networks.iter().map(|network| &network.bridge);
        if let Some(name) = bridges.chain(&self.uplinks).find(|name| !plain_name(name)) {
            return Err(HandoverError::Uplink { name: name.clone() });
        }
        let of = Of { nat: self, family, owns };
        let (ports, loopback) = (of.ports(), of.loopback());
        let mut chains = vec![
            nat_chain("FW-TRANSLATE", None, of.for_containers()),
            nat_chain("FW-INSIDE", None, of.inside()),
            nat_chain("FW-PREROUTING", Some("PREROUTING"), of.prerouting(!ports.is_empty())),
            nat_chain("FW-OUTPUT", Some("OUTPUT"), of.output(!ports.is_empty(), !loopback.is_empty())),
            nat_chain("FW-POSTROUTING", Some("POSTROUTING"), of.postrouting()),
            nat_chain("FW-PORTS", None, ports),
            nat_chain("FW-LOOPBACK", None, loopback),
        ];
        if owns {
            chains.push(of.forward());
            chains.push(of.accept());
        }
        chains.retain(|chain| !chain.rules.is_empty());
        Ok(chains)
    }
}

/// One family of a [`Nat`].
struct Of<'a> {
    nat: &'a Nat,
    family: Family,
    owns: bool,
}

impl<'a> Of<'a> {
    /// Whether an address is of this family.
    fn has(&self, address: IpAddr) -> bool {
        address.is_ipv4() == (self.family == Family::V4)
    }

    fn subnets<'s>(&'s self, network: &'s Network) -> impl Iterator<Item = &'s IpNet> {
        network.subnets.iter().filter(|subnet| self.has(subnet.addr()))
    }

    /// The networks whose NAT is ours.
    fn owned(&self) -> impl Iterator<Item = &'a Network> {
        self.nat.networks.iter().filter(|network| self.owns && network.docker)
    }

    fn masquerades(&self, network: &Network) -> bool {
        match self.family {
            Family::V4 => network.masquerade_v4,
            Family::V6 => network.masquerade_v6,
        }
    }

    /// Whether host and neighbours reach the ports of this network by our rules, for want of a docker-proxy.
    fn without_proxy(&self, bridge: &str) -> bool {
        self.nat.localnet.contains(bridge)
    }

    /// What comes in: translations first, for they take more than what is addressed to the host.
    fn prerouting(&self, ports: bool) -> Vec<String> {
        let mut rules = Vec::new();
        for uplink in &self.nat.uplinks {
            let device = format!("-i {uplink} ");
            rules.extend(self.translations(NatFrom::Uplinks, &device).map(|(asked, target)| asked + &target));
        }
        let inside: Vec<String> =
            self.translations(NatFrom::Containers, "").map(|(asked, _)| asked).collect();
        rules.extend(inside.into_iter().map(|asked| format!("{asked}-j FW-INSIDE")));
        if ports {
            // 127.0.0.0/8 is for this host alone, whatever route_localnet says of the device.
            let to_us = "-m addrtype --dst-type LOCAL -j FW-PORTS";
            let not_loopback = self.not_loopback();
            // So that what comes from outside meets no rule of a network, however many there are.
            for uplink in &self.nat.uplinks {
                rules.push(format!("{not_loopback}-i {uplink} {to_us}"));
                rules.push(format!("-i {uplink} -j RETURN"));
            }
            // As Docker up to 28 has it, containers reach published ports by docker-proxy, if there is one.
            let proxied = self
                .nat
                .networks
                .iter()
                .filter(|network| self.owns && !network.internal && !self.without_proxy(&network.bridge));
            rules.extend(proxied.map(|network| format!("-i {} -j RETURN", network.bridge)));
            rules.push(format!("{not_loopback}{to_us}"));
        }
        rules
    }

    fn not_loopback(&self) -> &'static str {
        match self.family {
            Family::V4 => "! -d 127.0.0.0/8 ",
            // ::1 is never routed, and docker-proxy alone serves it.
            Family::V6 => "! -d ::1/128 ",
        }
    }

    /// Containers may translate what they send out, not what they send to their neighbours.
    fn inside(&self) -> Vec<String> {
        if self.translations(NatFrom::Containers, "").next().is_none() {
            return Vec::new();
        }
        let of = |network: &Network| {
            let bridge = &network.bridge;
            let neighbours =
                |subnet| format!("-d {subnet} -i {bridge} -m addrtype ! --dst-type LOCAL -j RETURN");
            let mut rules: Vec<String> = self.subnets(network).map(neighbours).collect();
            rules.push(format!("-i {bridge} -j FW-TRANSLATE"));
            rules
        };
        self.nat.networks.iter().flat_map(of).collect()
    }

    fn for_containers(&self) -> Vec<String> {
        self.translations(NatFrom::Containers, "").map(|(asked, target)| asked + &target).collect()
    }

    /// What this host itself asks for.
    fn output(&self, ports: bool, loopback: bool) -> Vec<String> {
        let mut rules: Vec<String> =
            self.translations(NatFrom::Host, "").map(|(asked, target)| asked + &target).collect();
        if ports {
            rules.push(format!("{}-m addrtype --dst-type LOCAL -j FW-PORTS", self.not_loopback()));
        }
        if loopback {
            rules.push("-d 127.0.0.0/8 -j FW-LOOPBACK".to_owned());
        }
        rules
    }

    /// Sources: what leaves a network takes the host's address, and so does what comes back to a network that it came
    /// from, for the answer has to come back by this host.
    fn postrouting(&self) -> Vec<String> {
        let mut rules = Vec::new();
        let marks = self.nat.marks;
        if self.owns && self.nat.reach {
            rules.push(format!("-m mark --mark {:#x}/{:#x} -j ACCEPT", marks.reach(), marks.mask()));
        }
        for network in self.owned() {
            let bridge = &network.bridge;
            let published = |port: &Port| port.bridge == *bridge && self.has(port.host);
            let hairpin = self.without_proxy(bridge) && self.nat.ports.iter().any(published);
            for subnet in self.subnets(network) {
                if hairpin {
                    rules.push(format!("-s {subnet} -o {bridge} -m conntrack --ctstate DNAT -j MASQUERADE"));
                }
                if self.masquerades(network) {
                    rules.push(format!("-s {subnet} ! -o {bridge} -j MASQUERADE"));
                }
            }
            if hairpin && self.family == Family::V4 {
                rules.push(format!("-s 127.0.0.0/8 -o {bridge} -j MASQUERADE"));
            }
        }
        rules
    }

    /// Published ports of every address but loopback's.
    fn ports(&self) -> Vec<String> {
        let ports = self.nat.ports.iter().filter(|port| self.owns && self.has(port.host));
        let rule = |port: &Port| {
            let mut rule = destination(port.host);
            if self.family == Family::V6 {
                // A link-local sender is not forwarded; docker-proxy answers.
                rule = "! -s fe80::/10 ".to_owned() + &rule;
            }
            rule + &service(port) + &target(port)
        };
        ports.filter(|port| !port.host.is_loopback()).map(rule).collect()
    }

    /// Published ports that this host reaches by a loopback address, where no docker-proxy serves them.
    fn loopback(&self) -> Vec<String> {
        let ports = self.nat.ports.iter().filter(|port| self.owns && self.has(port.host));
        let ports = ports.filter(|port| port.host.is_ipv4() && self.without_proxy(&port.bridge));
        let ports = ports.filter(|port| port.host.is_loopback() || port.host.is_unspecified());
        ports.map(|port| destination(port.host) + &service(port) + &target(port)).collect()
    }

    /// What of the operator's translations is asked for by `from`, and what becomes of it.
    fn translations(
        &self,
        from: NatFrom,
        device: &'a str,
    ) -> impl Iterator<Item = (String, String)> + use<'_> {
        let redirects = self.nat.redirects.iter().filter(move |rule| rule.from.contains(&from));
        let redirects = redirects.flat_map(move |rule| {
            let target = format!("-j REDIRECT --to-ports {}", rule.to);
            each(rule.proto.word(), &rule.ports, device.to_owned()).map(move |asked| (asked, target.clone()))
        });
        let dnats = self.nat.dnats.iter();
        let dnats = dnats.filter(move |rule| rule.from.contains(&from) && self.has(rule.address));
        let dnats = dnats.flat_map(move |rule| {
            let to =
                rule.to_port.map_or(rule.to.to_string(), |port| SocketAddr::new(rule.to, port).to_string());
            let target = format!("-j DNAT --to-destination {to}");
            let asked = destination(rule.address) + device;
            each(rule.proto.word(), &rule.ports, asked).map(move |asked| (asked, target.clone()))
        });
        redirects.chain(dnats)
    }

    /// The filter: what no program has vouched for, and belongs to no connection, is not forwarded to a container.
    ///
    /// IN and REACH have the lower bit of the field, OUT has not: it is valid with an uplink as output device alone.
    fn forward(&self) -> Chain {
        let marks = self.nat.marks;
        let mut rules = Vec::new();
        let networks = || self.nat.networks.iter();
        for network in networks().filter(|network| network.docker && network.internal) {
            let bridge = &network.bridge;
            rules.push(format!("-i {bridge} ! -o {bridge} -j DROP"));
            rules.push(format!("! -i {bridge} -o {bridge} -j DROP"));
        }
        let outward = format!("-m mark --mark {:#x}/{:#x} -j RETURN", marks.outward(), marks.mask());
        rules.extend(self.nat.uplinks.iter().map(|uplink| format!("-o {uplink} {outward}")));
        if self.nat.observe {
            rules.push("-m conntrack --ctstate DNAT -j RETURN".to_owned());
        }
        let before = rules.len();
        for Network { bridge, .. } in networks().filter(|network| network.docker) {
            rules.push(format!("-i {bridge} -o {bridge} -j RETURN"));
            rules.push(format!("-o {bridge} -j DROP"));
        }
        if rules.len() == before {
            rules.clear();
        }
        let rule = format!(
            "-m mark --mark 0x0/{:#x} -m conntrack ! --ctstate RELATED,ESTABLISHED -m comment --comment fw -j FW-FORWARD",
            marks.inward()
        );
        let jump = Some(Jump { from: "FORWARD", rule, place: JumpPlace::Head });
        Chain { table: "filter", name: "FW-FORWARD", jump, rules }
    }

    /// Where FORWARD drops or rejects what nobody has accepted: what passes all the same, behind everybody else's rules.
    fn accept(&self) -> Chain {
        let inward = self.nat.marks.inward();
        let mut rules = Vec::new();
        for network in self.owned() {
            let bridge = &network.bridge;
            let states = if self.nat.observe { "RELATED,ESTABLISHED,DNAT" } else { "RELATED,ESTABLISHED" };
            rules.push(format!("-i {bridge} -j ACCEPT"));
            rules.push(format!("-o {bridge} -m conntrack --ctstate {states} -j ACCEPT"));
        }
        if !rules.is_empty() {
            rules.insert(0, format!("-m mark --mark {inward:#x}/{inward:#x} -j ACCEPT"));
        }
        let rule = "-m comment --comment fw -j FW-ACCEPT".to_owned();
        let jump = Some(Jump { from: "FORWARD", rule, place: JumpPlace::BeforeRefusal });
        Chain { table: "filter", name: "FW-ACCEPT", jump, rules }
    }
}

/// A chain of the nat table, and the jump to it if packets come to it from a chain of the system.
fn nat_chain(name: &'static str, from: Option<&'static str>, rules: Vec<String>) -> Chain {
    let rule = || format!("-m comment --comment fw -j {name}");
    let jump = from.map(|from| Jump { from, rule: rule(), place: JumpPlace::Anywhere });
    Chain { table: "nat", name, jump, rules }
}

/// `-d ADDRESS/32 `; nothing for any address.
fn destination(address: IpAddr) -> String {
    match address {
        any if any.is_unspecified() => String::new(),
        one => format!("-d {} ", IpNet::from(one)),
    }
}

fn service(port: &Port) -> String {
    let Port { protocol, host_port, .. } = port;
    format!("-p {protocol} -m {protocol} --dport {host_port} ")
}

fn target(port: &Port) -> String {
    format!("-j DNAT --to-destination {}", SocketAddr::new(port.target, port.target_port))
}

/// One match for each range of ports.
fn each(proto: &str, ports: &[PortRange], before: String) -> impl Iterator<Item = String> {
    ports.iter().map(move |range| {
        let ports = match (range.first(), range.last()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}:{last}"),
        };
        format!("{before}-p {proto} -m {proto} --dport {ports} ")
    })
}

#[cfg(test)]
mod tests;
