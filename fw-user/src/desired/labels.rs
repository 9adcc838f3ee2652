//! What the labels of containers make of the policy: they narrow what it says, and widen it only where it lets them.
//!
//! A label belongs to a place on a network (an endpoint of the inventory), never to an address: who comes later and has
//! the same address has nothing of it. What cannot be understood closes what it would have narrowed.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::Address;
use fw_common::tables::{Port, PortKey, Terms, egress, sources};
use fw_common::wire::proto;
use ipnet::IpNet;

use super::kind;
use super::zones::Zones;
use crate::inventory::{Endpoint, Inventory};
use crate::policy::label::{self, LabelKey, Peers, meet, set_of};
use crate::policy::{Egress, HostAccess, Labels, Policy, Proto, SetName, Sources};

/// How many different sets labels may use beside those of the policy: whoever writes labels must not use up all bits.
const MOST_SETS: usize = 16;

/// What the labels say, by endpoint of the inventory.
#[derive(Clone, Debug, Default)]
pub struct Labelled {
    own: BTreeMap<usize, Own>,
    /// Sets that no policy names.
    sets: BTreeMap<SetName, BTreeSet<IpNet>>,
    /// Sets in use, those of the policy among them.
    used: BTreeSet<SetName>,
    /// Who may use a service, by the sets of its rules and those of the label.
    met: BTreeMap<(Vec<SetName>, Vec<SetName>), BTreeSet<SetName>>,
    /// Labels that cannot be understood, or not be kept.
    pub(super) warnings: Vec<String>,
}

/// What holds for one place of a container.
#[derive(Clone, Debug)]
struct Own {
    outside: Outside,
    host: HostAccess,
    icc: bool,
    from: Option<From>,
}

/// Where it may open connections to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outside {
    /// As the policy could say.
    To(Egress),
    /// Members of these sets that have public addresses.
    PublicOf(Vec<SetName>),
}

/// Who may use its published ports.
#[derive(Clone, Debug)]
enum From {
    Any,
    Nobody,
    Of(Vec<SetName>),
}

impl Labelled {
    /// What the labels of the containers in `inventory` say under this policy.
    pub fn new(policy: &Policy, inventory: &Inventory) -> Self {
        let mut labelled = Self::default();
        for (index, endpoint) in inventory.endpoints.iter().enumerate() {
            if endpoint.labels.keys().any(|name| name.starts_with(label::PREFIX)) {
                labelled.endpoint(policy, inventory, index, endpoint);
            }
        }
        labelled
    }

    fn endpoint(&mut self, policy: &Policy, inventory: &Inventory, index: usize, endpoint: &Endpoint) {
        let Some(network) = inventory.networks.get(endpoint.network) else { return };
        let container = endpoint.container.as_str();
        for name in endpoint.labels.keys().filter(|name| LabelKey::is_mistaken(name)) {
            let names = LabelKey::ALL.map(LabelKey::name).join(", ");
            self.warn(container, name, &format!("there is no such label; expected one of {names}"));
        }
        let value = |key: LabelKey| endpoint.labels.get(key.name()).map(String::as_str);
        let may_open = policy.labels == Labels::MayOpen;
        let file = policy.egress(&network.name, Some(container));
        let outside = match value(LabelKey::Egress).map(|value| label::egress(value, policy)) {
            None => Outside::To(file.clone()),
            Some(Err(why)) => {
                self.closed(container, LabelKey::Egress, &why);
                Outside::To(Egress::None)
            }
            Some(Ok(peers)) => {
                let label = self.outside(container, peers);
                if may_open { Outside::To(label) } else { self.narrowed(policy, container, file, label) }
            }
        };
        let file = policy.host(&network.name, Some(container));
        let host = match value(LabelKey::Host).map(label::host) {
            None => file,
            Some(Ok(HostAccess::Allow)) => {
                if may_open {
                    HostAccess::Allow
                } else {
                    file
                }
            }
            Some(Ok(HostAccess::Deny)) => HostAccess::Deny,
            Some(Err(why)) => {
                self.closed(container, LabelKey::Host, &why);
                HostAccess::Deny
            }
        };
        // Two are needed to talk: where the network keeps all apart, one alone opens nothing.
        let icc = value(LabelKey::Icc).map(label::icc).is_none_or(|icc| {
            icc.unwrap_or_else(|why| {
                self.closed(container, LabelKey::Icc, &why);
                false
            })
        });
        let from = value(LabelKey::AllowFrom).map(|value| self.from(policy, inventory, endpoint, value));
        self.own.insert(index, Own { outside, host, icc, from });
    }

    fn warn(&mut self, container: &str, label: &str, why: &str) {
        self.warnings.push(format!("container {container}: label {label}: {why}"));
    }

    fn closed(&mut self, container: &str, key: LabelKey, why: &str) {
        self.warn(
            container,
            key.name(),
            &format!("{why}; until it is mended, it counts as the narrowest there is"),
        );
    }

    fn outside(&mut self, container: &str, peers: Peers) -> Egress {
        match peers {
            Peers::Any => Egress::Any,
            Peers::None => Egress::None,
            Peers::Internet => Egress::Internet,
            Peers::Of { sets, prefixes } => {
                let sets = self.use_sets(container, LabelKey::Egress, sets, &prefixes);
                Egress::To(sets.into_iter().collect())
            }
        }
    }

    /// What both let.
    fn narrowed(&mut self, policy: &Policy, container: &str, file: &Egress, label: Egress) -> Outside {
        match (file, label) {
            (Egress::Any, label) => Outside::To(label),
            (file, Egress::Any) => Outside::To(file.clone()),
            (Egress::None, _) | (_, Egress::None) => Outside::To(Egress::None),
            (Egress::Internet, Egress::Internet) => Outside::To(Egress::Internet),
            (Egress::Internet, Egress::To(sets)) => Outside::PublicOf(sets),
            (Egress::To(sets), Egress::Internet) => Outside::PublicOf(sets.clone()),
            (Egress::To(file), Egress::To(label)) => {
                let (file, label) = (file.iter().cloned().collect(), label.into_iter().collect());
                let both = self.both(policy, container, LabelKey::Egress, &file, &label);
                Outside::To(Egress::To(both.into_iter().collect()))
            }
        }
    }

    /// The sets of a label, with one for what is written in it. Over the limit: none, which closes.
    fn use_sets(
        &mut self,
        container: &str,
        key: LabelKey,
        mut sets: BTreeSet<SetName>,
        prefixes: &BTreeSet<IpNet>,
    ) -> BTreeSet<SetName> {
        if !prefixes.is_empty() {
            let name = set_of(prefixes);
            if self.sets.len() >= MOST_SETS && !self.sets.contains_key(&name) {
                self.closed(
                    container,
                    key,
                    &format!("labels use more than {MOST_SETS} sets of their own; name sets of the policy"),
                );
                return BTreeSet::new();
            }
            self.sets.insert(name.clone(), prefixes.clone());
            sets.insert(name);
        }
        self.used.extend(sets.iter().cloned());
        sets
    }

    /// The sets whose members are members of one of either's.
    fn both(
        &mut self,
        policy: &Policy,
        container: &str,
        key: LabelKey,
        one: &BTreeSet<SetName>,
        other: &BTreeSet<SetName>,
    ) -> BTreeSet<SetName> {
        if other.is_subset(one) {
            return other.clone();
        }
        if one.is_subset(other) {
            return one.clone();
        }
        let both = meet(&self.members(policy, one), &self.members(policy, other));
        if both.is_empty() { BTreeSet::new() } else { self.use_sets(container, key, BTreeSet::new(), &both) }
    }

    fn members(&self, policy: &Policy, sets: &BTreeSet<SetName>) -> BTreeSet<IpNet> {
        let found = sets.iter().filter_map(|name| {
            self.sets.get(name).or_else(|| policy.sets.get(name).map(|set| &set.prefixes))
        });
        found.flatten().copied().collect()
    }

    fn from(&mut self, policy: &Policy, inventory: &Inventory, endpoint: &Endpoint, value: &str) -> From {
        let container = endpoint.container.as_str();
        let label = match label::allow_from(value, policy) {
            Ok(Peers::Any) => return From::Any,
            Ok(Peers::Of { sets, prefixes }) => {
                self.use_sets(container, LabelKey::AllowFrom, sets, &prefixes)
            }
            Ok(Peers::None | Peers::Internet) => BTreeSet::new(),
            Err(why) => {
                self.closed(container, LabelKey::AllowFrom, &why);
                BTreeSet::new()
            }
        };
        if label.is_empty() {
            return From::Nobody;
        }
        let names: Vec<SetName> = label.iter().cloned().collect();
        // What is let in by rules that name sets has to be a set of its own.
        for (number, port) in services(policy, inventory, container) {
            let Rules::Of(rules) = rules_for(policy, number, port) else { continue };
            let key = (rules.iter().cloned().collect(), names.clone());
            if !self.met.contains_key(&key) {
                let both = self.both(policy, container, LabelKey::AllowFrom, &rules, &label);
                self.used.extend(both.iter().cloned());
                self.met.insert(key, both);
            }
        }
        From::Of(names)
    }

    /// The sets in use, in ascending order of name.
    pub(super) fn used(&self) -> &BTreeSet<SetName> {
        &self.used
    }

    /// The content of a set that no policy names.
    pub(super) fn set(&self, name: &SetName) -> Option<&BTreeSet<IpNet>> {
        self.sets.get(name)
    }

    /// Whether it asks for the same sets as another.
    pub(super) fn uses_the_same(&self, other: &Self) -> bool {
        self.used == other.used && self.sets == other.sets
    }

    /// What the container at this endpoint may open, if its labels say anything.
    pub(super) fn terms(&self, endpoint: Option<usize>, zones: &Zones) -> Option<Terms> {
        let own = self.own.get(&endpoint?)?;
        let (kind, zones) = match &own.outside {
            Outside::To(to) => (kind(to), zones.mask(to.sets())),
            Outside::PublicOf(sets) => (egress::PUBLIC_ZONES, zones.mask(sets)),
        };
        Some(Terms { zones, egress: kind, host: u8::from(own.host == HostAccess::Allow), reserved: [0; 6] })
    }

    /// Whether the container at this endpoint is kept apart from its neighbours.
    pub(super) fn is_apart(&self, endpoint: Option<usize>) -> bool {
        endpoint.and_then(|endpoint| self.own.get(&endpoint)).is_some_and(|own| !own.icc)
    }

    /// Narrows the entries of published ports to whom the labels of their containers let in.
    pub(super) fn narrow(
        &self,
        policy: &Policy,
        inventory: &Inventory,
        zones: &Zones,
        table: &mut BTreeMap<PortKey, Port>,
    ) {
        let may_open = policy.labels == Labels::MayOpen;
        // A container on several networks has its labels on each.
        let mut done = BTreeSet::new();
        for (index, own) in &self.own {
            let (Some(from), Some(endpoint)) = (&own.from, inventory.endpoints.get(*index)) else { continue };
            let published = inventory.published.iter().filter(|published| {
                published.container == endpoint.container && !published.host.is_loopback()
            });
            let of_host = published.map(|published| {
                PortKey::new(Address::from(published.host), published.protocol.number(), published.host_port)
            });
            let own: BTreeSet<Address> = endpoint.addresses.iter().copied().map(Address::from).collect();
            let keys: BTreeSet<PortKey> =
                of_host.chain(table.keys().filter(|key| own.contains(&key.address)).copied()).collect();
            for key in keys.into_iter().filter(|key| done.insert(*key)) {
                let any = PortKey { address: key.address.any_of_family(), ..key };
                let rule = table.get(&any).map_or(0, |port| port.rule);
                if let Some(port) = table.get_mut(&key) {
                    let rule = if port.rule == 0 { rule } else { port.rule };
                    *port = Port { rule, ..*port };
                    self.narrow_one(policy, zones, from, may_open, &key, port);
                }
            }
        }
    }

    fn narrow_one(
        &self,
        policy: &Policy,
        zones: &Zones,
        from: &From,
        may_open: bool,
        key: &PortKey,
        port: &mut Port,
    ) {
        let rules = rules_for(policy, key.proto, key.port);
        let open = port.open != 0 || rules == Rules::Any;
        let (kind, mask) = match (from, &rules) {
            (From::Any, _) if may_open => (sources::ANY, 0),
            (From::Any, _) => return,
            (From::Of(label), _) if may_open || open => (sources::ZONES, zones.mask(label)),
            (From::Of(label), Rules::Of(rules)) => {
                let key = (rules.iter().cloned().collect(), label.clone());
                let both = self.met.get(&key).map_or(0, |both| zones.mask(both));
                (sources::ZONES, both)
            }
            (From::Nobody, _) | (From::Of(_), Rules::None | Rules::Any) => (sources::NOBODY, 0),
        };
        // The entry of an exact address says all: that of any address would let in whom the label does not.
        let alone = if key.address == key.address.any_of_family() { 0 } else { sources::ALONE };
        *port = Port { sources: kind | alone, zones: mask, open: 0, ..*port };
    }
}

/// Protocols and ports under which a container is reached: published ones, and those of its own addresses.
fn services(policy: &Policy, inventory: &Inventory, container: &str) -> BTreeSet<(u8, u16)> {
    let published = inventory.published.iter().filter(|published| published.container == container);
    let mut services: BTreeSet<(u8, u16)> = published
        .flat_map(|published| {
            [published.host_port, published.container_port].map(|port| (published.protocol.number(), port))
        })
        .collect();
    for direct in inventory.direct.iter().filter(|direct| direct.container == container) {
        services.insert((proto::ICMP, 0));
        match direct.port {
            Some(port) => _ = services.insert((port.protocol.number(), port.port)),
            None => services.extend(policy.allow.iter().flat_map(named)),
        }
    }
    services
}

/// What a rule names of a container that is asked for all its ports.
fn named(rule: &crate::policy::Allow) -> impl Iterator<Item = (u8, u16)> {
    let number = rule.proto.number();
    let ports = rule.ports.iter().flat_map(|range| range.ports());
    ports.take(super::rules::MOST_DIRECT).map(move |port| (number, port))
}

/// The `[[allow]]` rules for a port, as far as sources go.
#[derive(PartialEq, Eq)]
enum Rules {
    None,
    Any,
    Of(BTreeSet<SetName>),
}

fn rules_for(policy: &Policy, number: u8, port: u16) -> Rules {
    let names = |rule: &&crate::policy::Allow| {
        let same = match rule.proto {
            Proto::Tcp => number == proto::TCP,
            Proto::Udp => number == proto::UDP,
            Proto::Icmp => return number == proto::ICMP,
        };
        same && rule.ports.iter().any(|range| (range.first()..=range.last()).contains(&port))
    };
    let mut found = Rules::None;
    for rule in policy.allow.iter().filter(names) {
        found = match (found, &rule.from) {
            (_, Sources::Any) | (Rules::Any, _) => Rules::Any,
            (Rules::None, Sources::Sets(sets)) => Rules::Of(sets.iter().cloned().collect()),
            (Rules::Of(mut all), Sources::Sets(sets)) => {
                all.extend(sets.iter().cloned());
                Rules::Of(all)
            }
        };
    }
    found
}
