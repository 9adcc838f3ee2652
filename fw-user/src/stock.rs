//! What stock Docker would leave open on this very host, and what fw makes of each.
//!
//! Pure: from rules of iptables, sysctls, networks, sockets and tables that were read before. A hole is told only where what
//! was read shows it, and called closed only where the hook that closes it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fw_common::tables::role;
use fw_common::{Address, Hook};

use crate::docker::GatewayMode;
use crate::exposure::{Closed, From, Open, PROXY, Seen, WhyClosed};
use crate::handover::{Family, Survey};
use crate::inventory::{Endpoint, Network};
use crate::plan::{HookPoint, State};
use crate::view;

/// What is looked at.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// The tables.
    pub state: &'a State,
    /// The hooks that run.
    pub hooks: &'a BTreeSet<HookPoint>,
    /// Docker, the kernel, sockets.
    pub seen: Seen<'a>,
    /// What iptables does.
    pub survey: &'a Survey,
    /// Whether Docker filters with nftables, in tables that are not read: then nothing is said of what it forwards.
    pub native: bool,
    /// Whether this host forwards IPv4, and IPv6.
    pub forwards: (bool, bool),
    /// Whether bridged packets visit iptables (`net.bridge.bridge-nf-call-iptables`).
    pub bridge_netfilter: bool,
    /// What the outside reaches.
    pub open: &'a [Open],
    /// What it does not.
    pub closed: &'a [Closed],
}

/// One hole of stock Docker's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// A word for it, for programs.
    pub name: &'static str,
    /// Whom it concerns: containers, networks, processes.
    pub concerns: Vec<String>,
    /// Why Docker alone leaves it open.
    pub why: &'static str,
    /// What fw makes of it.
    pub with_fw: WithFw,
    /// By what, or why not.
    pub because: String,
}

/// What fw makes of a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithFw {
    /// It is closed.
    Closed,
    /// The policy leaves it open, in whole or in part.
    Open,
    /// It is counted and reported, and left open.
    Observed,
    /// A hook that would close it does not run.
    Unhooked,
}

/// The holes that are there, in the order of the list in `docs/threat-model.md`.
#[must_use]
pub fn holes(ground: Ground<'_>) -> Vec<Hole> {
    let mut holes = Vec::new();
    ground.published(&mut holes);
    ground.direct(&mut holes);
    ground.gateways(&mut holes);
    ground.loopback(&mut holes);
    ground.internal(&mut holes);
    ground.neighbours(&mut holes);
    holes.retain(|hole| !hole.concerns.is_empty());
    for hole in &mut holes {
        hole.concerns.sort();
        hole.concerns.dedup();
    }
    holes
}

impl<'a> Ground<'a> {
    /// Published ports are forwarded, and never come to `INPUT`.
    fn published(&self, holes: &mut Vec<Hole>) {
        let closed = self.closed.iter().filter(|row| matches!(row.why, WhyClosed::NoRule | WhyClosed::Label));
        let named = |container: &Option<String>, protocol: u8, port: u16| {
            let name = container.clone().unwrap_or_default();
            format!("{name} ({port}/{})", view::protocol(protocol))
        };
        let (with_fw, because) = self.at_uplinks("no rule opens them (uplink_ingress: port-not-allowed)");
        let why = "Docker forwards what it publishes to everybody; ufw and rules in INPUT never see it";
        let concerns = closed.map(|row| named(&row.target.container, row.protocol, row.port)).collect();
        holes.push(Hole { name: "published", concerns, why, with_fw, because });
        let open = self.open.iter().filter(|row| {
            row.target.container.is_some() && row.target.process.is_none() && row.from == From::Any
        });
        let concerns = open.map(|row| named(&row.target.container, row.key.proto, row.key.port)).collect();
        let because = "a rule, or `published = \"open\"`, lets in everybody".to_owned();
        holes.push(Hole { name: "published-open", concerns, why, with_fw: WithFw::Open, because });
    }

    /// Whoever routes to a container's own address gets there unless raw or FORWARD say no.
    fn direct(&self, holes: &mut Vec<Hole>) {
        for (family, name) in [(Family::V4, "direct-v4"), (Family::V6, "direct-v6")] {
            let forwards = if family == Family::V4 { self.forwards.0 } else { self.forwards.1 };
            if self.native || !forwards || self.survey.drops_direct(family) {
                continue;
            }
            let docker = self.survey.docker(family);
            let drops = self.survey.drops_forwarded(family);
            let why = match (docker, drops) {
                (true, false) => {
                    "this Docker does not drop what is addressed to containers directly, and FORWARD's policy is ACCEPT: \
                     every port of theirs is open to whoever routes to them"
                }
                (true, true) => {
                    "this Docker does not drop what is addressed to containers directly: their published ports are open \
                     under their own numbers to whoever routes to them"
                }
                (false, false) => {
                    "Docker writes no rules of this family, and FORWARD's policy is ACCEPT: every port of theirs is open \
                     to whoever routes to them"
                }
                (false, true) => continue,
            };
            let of_family = |address: &&IpAddr| address.is_ipv4() == (family == Family::V4);
            let publishes = |endpoint: &Endpoint| {
                self.seen.inventory.published.iter().any(|port| port.container == endpoint.container)
            };
            let places = self.places().filter(|(network, endpoint)| {
                let mode =
                    if family == Family::V4 { network.gateway_mode_v4 } else { network.gateway_mode_v6 };
                // What the other modes open directly, they open on purpose.
                let meant = mode == GatewayMode::Nat && !(network.internal && docker);
                meant && endpoint.addresses.iter().any(|it| of_family(&it)) && (!drops || publishes(endpoint))
            });
            let concerns = places.map(|(_, endpoint)| endpoint.container.clone()).collect();
            let (with_fw, because) = self.at_uplinks(
                "containers' own addresses are closed from outside (uplink_ingress: direct-access)",
            );
            holes.push(Hole { name, concerns, why, with_fw, because });
        }
    }

    /// A socket for any address of the host is there at bridges' addresses, too.
    fn gateways(&self, holes: &mut Vec<Hole>) {
        let gateways: Vec<Address> = self
            .seen
            .inventory
            .networks
            .iter()
            .flat_map(|it| &it.gateways)
            .map(|it| Address::from(*it))
            .collect();
        let listeners = self.seen.listeners.into_iter().flat_map(|listeners| {
            let host = listeners.host.iter();
            host.map(|listener| (listener, listeners.holders.get(&listener.inode)))
        });
        // Those of docker-proxy are for published ports, of which is told elsewhere.
        let there = listeners.filter(|(listener, process)| {
            process.is_none_or(|process| process.name != PROXY)
                && listener.device == 0
                && gateways.iter().any(|at| listener.takes(listener.protocol, at, listener.port))
        });
        let name =
            |(listener, process): (&crate::listeners::Listener, Option<&crate::listeners::Process>)| {
                let name = process.map_or("a process", |process| process.name.as_str());
                format!("{name} ({}/{})", listener.port, view::protocol(listener.protocol))
            };
        let refuses = self.survey.forwarding.iter().any(|it| it.input_drops);
        let concerns = if refuses { Vec::new() } else { there.map(name).collect() };
        let why = "sockets for any address answer at the bridges' own addresses, too, to whoever on the link routes there";
        let (with_fw, because) =
            self.at_uplinks("addresses of bridges are closed from outside (uplink_ingress: direct-access)");
        holes.push(Hole { name: "gateways", concerns, why, with_fw, because });
    }

    /// A DNAT for 127.0.0.1 holds for what comes in from outside, too.
    fn loopback(&self, holes: &mut Vec<Hole>) {
        if self.native || self.survey.drops_direct(Family::V4) {
            return;
        }
        let translated =
            self.survey.translations.iter().filter(|rule| rule.address.is_some_and(|it| it.is_loopback()));
        let ports: BTreeSet<(u8, u16)> = translated.map(|rule| (rule.protocol, rule.ports.0)).collect();
        let closed = self.closed.iter().filter(|row| row.why == WhyClosed::Loopback);
        let concerns = closed.filter(|row| ports.contains(&(row.protocol, row.port)));
        let concerns = concerns.filter_map(|row| {
            Some(format!(
                "{} ({}/{})",
                row.target.container.as_deref()?,
                row.port,
                view::protocol(row.protocol)
            ))
        });
        let why = "what is published for 127.0.0.1 is translated wherever it comes from: a neighbour on the link reaches it";
        let (with_fw, because) =
            self.at_uplinks("nothing comes in for 127.0.0.0/8 (uplink_ingress: martian)");
        holes.push(Hole { name: "loopback", concerns: concerns.collect(), why, with_fw, because });
    }

    /// An internal network is closed to the world, and open to its host.
    fn internal(&self, holes: &mut Vec<Hole>) {
        let why = "containers of internal networks reach every service of the host, at any of its addresses";
        let mut found: BTreeMap<bool, Vec<String>> = BTreeMap::new();
        for network in self.seen.inventory.networks.iter().filter(|network| network.internal) {
            let known = network.bridge_ifindex.and_then(|id| self.state.tables.networks.get(&id));
            if let Some(known) = known.filter(|_| !network.ports.is_empty()) {
                found.entry(known.terms.host == 0).or_default().push(network.name.clone());
            }
        }
        for (denied, concerns) in found {
            let because = if denied {
                "host = \"deny\" (port_ingress: host-denied)"
            } else {
                "at other addresses than their gateway's it is closed (port_ingress: internal); host = \"deny\" closes that"
            };
            let (mut with_fw, because) = self.at_ports(&concerns, &[Hook::PortIngress], because);
            if !denied && with_fw == WithFw::Closed {
                with_fw = WithFw::Open;
            }
            holes.push(Hole { name: "internal-host", concerns, why, with_fw, because });
        }
    }

    /// icc=false is a rule in iptables, which bridged packets visit or not, and frames that are no IP never.
    fn neighbours(&self, holes: &mut Vec<Hole>) {
        let without =
            self.seen.inventory.networks.iter().filter(|network| !network.icc && network.ports.len() > 1);
        let (mut closed, mut open) = (Vec::new(), Vec::new());
        for network in without {
            let known = network.bridge_ifindex.and_then(|id| self.state.tables.networks.get(&id));
            if known.is_some_and(|known| known.icc == 0) { &mut closed } else { &mut open }
                .push(network.name.clone());
        }
        let why_frames = "icc=false stops IP alone: ARP and other frames pass between its containers";
        let why_void = "icc=false is void: bridge-nf-call-iptables is off, and no rule sees what its containers say to each \
                        other";
        let hooks = [Hook::PortIngress, Hook::PortEgress];
        let because = "judged at both ports, every layer (port_ingress: icc)";
        for (concerns, opened) in [(closed, false), (open, true)] {
            let (with_fw, because) = if opened {
                (WithFw::Open, "the policy says icc = true".to_owned())
            } else {
                self.at_ports(&concerns, &hooks, because)
            };
            if !self.bridge_netfilter {
                let (concerns, because) = (concerns.clone(), because.clone());
                holes.push(Hole { name: "icc-void", concerns, why: why_void, with_fw, because });
            }
            holes.push(Hole { name: "icc-frames", concerns, why: why_frames, with_fw, because });
        }
    }

    /// Containers with their networks.
    fn places(&self) -> impl Iterator<Item = (&'a Network, &'a Endpoint)> {
        let inventory = self.seen.inventory;
        inventory
            .endpoints
            .iter()
            .filter_map(|endpoint| Some((inventory.networks.get(endpoint.network)?, endpoint)))
    }

    /// What comes of something that the hook of every uplink closes.
    fn at_uplinks(&self, because: &str) -> (WithFw, String) {
        let uplinks = self.state.tables.interfaces.iter().filter(|(_, device)| device.role == role::UPLINK);
        let points = uplinks.map(|(ifindex, _)| HookPoint { ifindex: *ifindex, hook: Hook::UplinkIngress });
        self.closes(&points.collect::<Vec<_>>(), because)
    }

    /// What comes of something that these hooks close at all ports of these networks.
    fn at_ports(&self, networks: &[String], hooks: &[Hook], because: &str) -> (WithFw, String) {
        let ports = self.seen.inventory.networks.iter().filter(|network| networks.contains(&network.name));
        let ports = ports.flat_map(|network| &network.ports);
        let points =
            ports.flat_map(|port| hooks.iter().map(|hook| HookPoint { ifindex: port.ifindex, hook: *hook }));
        self.closes(&points.collect::<Vec<_>>(), because)
    }

    fn closes(&self, points: &[HookPoint], because: &str) -> (WithFw, String) {
        if points.is_empty() || !points.iter().all(|point| self.hooks.contains(point)) {
            return (WithFw::Unhooked, "not every hook that closes it runs".to_owned());
        }
        if self.state.tables.settings.observe != 0 {
            return (WithFw::Observed, format!("mode = \"observe\"; else: {because}"));
        }
        (WithFw::Closed, because.to_owned())
    }
}

#[cfg(test)]
mod tests;
