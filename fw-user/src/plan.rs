//! From what is in force to what should be: ordered steps, each small, so that on the way a packet passes only if the
//! old or the new tables pass it, and one that both pass is never dropped.
//!
//! Pure: no I/O, no clock. The order, and why:
//!
//! 1. Hooks go off networks that are managed no more: from here on everything passes there, as it will.
//! 2. Denials come first: they may only narrow, and a port that opens next must not be open to a denied source.
//! 3. Sources take the union of old and new zones. A zone whose content changed is another zone with another bit
//!    (see `desired`), so a peer in the union is let in by a port entry only if it was or will be.
//! 4. Our own addresses come before the subnets in which gateways lie (a subnet alone says "container"), and both
//!    before ports open: nobody outside may use such an address as his source.
//! 5. Ports take the union of what the old and the new entries allow: a peer may change from the entry of an exact
//!    address to that of any. Networks begin with the laxer of two changing terms. Endpoints stand before the ports of
//!    bridges that are judged by them, but a port that is nobody's any more is so before its endpoint is elsewhere.
//!    A network that allows spoofing before or after does so on the way, and under the terms of that side, or what
//!    spoofs would go where neither lets it.
//!    Links that are over go before somebody can become known who was not, and new ones come when nobody is known any
//!    more who will not be. `icc` goes first and comes last.
//!    Limits stand before the ports that name them, and go after. What the host itself may open widens and narrows
//!    like ports; whether it is asked at all is in the settings, which restrict it only at the end.
//!    Containers on an uplink that are gone go first, for nobody may come to them from an address that becomes a
//!    container's; then an uplink is told that it is shared, and MAC addresses of new ones come last: whoever is no
//!    container before or after is none in between. All of it after ports open, by which they are judged, and before
//!    ports close.
//! 6. Roles of devices, then new hooks, then wider terms of networks: a hook on a device without role drops everything,
//!    and by now the tables hold all that is wanted. A bridge has its hook before its ports have theirs: a port vouches
//!    for what goes to the host, too, and the bridge's hook takes the mark off again before a socket sees it. Hooks of
//!    devices that are uplinks no more go off after that: what came in by them may now come in by the new ones (a
//!    device that joins a bond), and must not pass by neither. Then roles go.
//! 7. Backwards: networks take the new terms, for the wider ones must not meet endpoints that are gone; endpoints go; then
//!    networks take the rest, the other way round.
//!    Ports close. Both stand before subnets and addresses go, whose absence lets others use them as their source;
//!    subnets before the addresses in them, networks last.
//! 8. Sources lose the old zones, denials that are over go, and the settings become the new ones: observing begins
//!    before everything else, and enforcing only when the tables are those that it was meant for.
//!
//! Where one write is not enough a packet is rather dropped: between neighbours that a link joins before and `icc`
//! after, or the other way round; to an address that becomes or ceases to be ours while its port opens or closes; by a
//! new hook, which drops what the old tables say until they are gone; by the hook of a device that is an uplink no
//! more, until it goes; and on a device that takes another role, where the old hook drops everything until the new one
//! is there and it has gone; from a port that leaves its bridge; to a network that comes or goes and is reached, or has
//! containers that are addressed without NAT; to a container that comes onto an uplink, while denials or limits go;
//! from an uplink in a frame that one of its containers could have sent before and another one after; from a container
//! under terms of its own, while its network begins or ceases to allow spoofing, or has other terms when the container
//! ceases to be known; and from such a one with an address of IP or Ethernet that it was not given, where its network
//! allows that, before its port has its hook: the bridge's cannot know whose it is. And one may pass that neither lets
//! through: from a container to an address that becomes or ceases to be the host's, while what the container may open
//! to the host and to the outside changes, too; from a network that begins or ceases to reach another one, while it
//! begins or ceases to allow spoofing, or its containers to be known; from a container to one that is addressed without
//! NAT, while what the one may open and what is open at the other change; from a container that may less than its
//! network, before its port has its hook; from one that takes over another's address while the terms of their network
//! change; and from a port that leaves its bridge while they do.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use fw_common::tables::memory::{Memory, Shared};
use fw_common::tables::{
    DenyRule, Endpoint, Interface, Limit, LinkKey, LocalAddress, LocalKey, NameKey, Network, OutKey, OutRule,
    Port, PortKey, Prefix, ReachKey, Settings, Station, Subnet, Zones, role, sources,
};
use fw_common::{Address, Hook, Mac};

/// Everything that fw has in the kernel, or wants to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The tables.
    pub tables: Memory,
    /// What the numbers in the tables stand for.
    pub names: BTreeMap<NameKey, String>,
    /// Where programs are attached.
    pub hooks: BTreeSet<HookPoint>,
}

/// A hook on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HookPoint {
    /// The device.
    pub ifindex: u32,
    /// Which program, and so which direction.
    pub hook: Hook,
}

/// One write. `None` as value: remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// What holds for all packets.
    Settings(Settings),
    /// The role of a device.
    Interface(u32, Option<Interface>),
    /// A prefix of a network.
    Subnet(Prefix, Option<Subnet>),
    /// A network.
    Network(u32, Option<Network>),
    /// An address of this host.
    LocalAddress(LocalKey, Option<LocalAddress>),
    /// A port of this host.
    Port(PortKey, Option<Port>),
    /// A denied prefix.
    Denied(Prefix, Option<DenyRule>),
    /// The zones of a prefix.
    Source(Prefix, Option<Zones>),
    /// An address of a container.
    Endpoint(Address, Option<Endpoint>),
    /// Who shares an uplink with the host.
    Station(Mac, Option<Station>),
    /// Whether one network reaches another.
    Reach(ReachKey, Option<()>),
    /// Whether a container is linked to a neighbour's port.
    Link(LinkKey, Option<()>),
    /// A rule for connections of the host itself.
    Outbound(OutKey, Option<OutRule>),
    /// A limit for new flows.
    Limit(u32, Option<Limit>),
    /// A name.
    Name(NameKey, Option<String>),
    /// A program onto a hook.
    Attach(HookPoint),
    /// A program off its hook.
    Detach(HookPoint),
}

/// Where a step writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Map `settings`.
    Settings,
    /// Map `interfaces`.
    Interface(u32),
    /// Map `subnets`.
    Subnet(Prefix),
    /// Map `networks`.
    Network(u32),
    /// Map `local_addresses`.
    LocalAddress(LocalKey),
    /// Map `ports`.
    Port(PortKey),
    /// Maps `denied_hosts` and `denied`.
    Denied(Prefix),
    /// Maps `source_hosts` and `sources`.
    Source(Prefix),
    /// Map `endpoints`.
    Endpoint(Address),
    /// Map `stations`.
    Station(Mac),
    /// Map `reach`.
    Reach(ReachKey),
    /// Map `links`.
    Link(LinkKey),
    /// Map `outbound`.
    Outbound(OutKey),
    /// Map `limits`.
    Limit(u32),
    /// Map `names`.
    Name(NameKey),
    /// A hook.
    Hook(HookPoint),
}

impl Step {
    /// Whether the step changes a hook; all others write a map.
    pub fn is_hook(&self) -> bool {
        matches!(self, Self::Attach(_) | Self::Detach(_))
    }

    /// Where the step writes.
    pub fn place(&self) -> Place {
        match self {
            Self::Settings(_) => Place::Settings,
            Self::Interface(key, _) => Place::Interface(*key),
            Self::Subnet(key, _) => Place::Subnet(*key),
            Self::Network(key, _) => Place::Network(*key),
            Self::LocalAddress(key, _) => Place::LocalAddress(*key),
            Self::Port(key, _) => Place::Port(*key),
            Self::Denied(key, _) => Place::Denied(*key),
            Self::Source(key, _) => Place::Source(*key),
            Self::Endpoint(key, _) => Place::Endpoint(*key),
            Self::Station(key, _) => Place::Station(*key),
            Self::Reach(key, _) => Place::Reach(*key),
            Self::Link(key, _) => Place::Link(*key),
            Self::Outbound(key, _) => Place::Outbound(*key),
            Self::Limit(key, _) => Place::Limit(*key),
            Self::Name(key, _) => Place::Name(*key),
            Self::Attach(point) | Self::Detach(point) => Place::Hook(*point),
        }
    }
}

/// The steps from `current` to `desired`.
#[must_use]
pub fn plan(current: &State, desired: &State) -> Vec<Step> {
    let (old, new) = (&current.tables, &desired.tables);
    let mut steps = Vec::new();
    let growing = Settings {
        observe: old.settings.observe | new.settings.observe,
        deny: old.settings.deny | new.settings.deny,
        source_prefixes: old.settings.source_prefixes | new.settings.source_prefixes,
        outbound: old.settings.outbound & new.settings.outbound,
        nat_owned: old.settings.nat_owned & new.settings.nat_owned,
        fast_path: old.settings.fast_path & new.settings.fast_path,
        // An empty table has no settings of its own to keep; those of the desired one make it whole.
        ..if old.settings.abi == 0 { new.settings } else { old.settings }
    };
    if growing != old.settings {
        steps.push(Step::Settings(growing));
    }
    put(&current.names, &desired.names, |key, value| Step::Name(*key, value), &mut steps);
    let unmanaged = |ifindex: u32| {
        let network = old.interfaces.get(&ifindex).map_or(0, |interface| interface.network);
        network != 0 && !new.networks.contains_key(&network) && !new.interfaces.contains_key(&ifindex)
    };
    let gone = current.hooks.difference(&desired.hooks).copied();
    let (first, last): (Vec<HookPoint>, Vec<HookPoint>) = gone.partition(|point| unmanaged(point.ifindex));
    steps.extend(first.into_iter().map(Step::Detach));
    put(&old.denied, &new.denied, |key, value| Step::Denied(*key, value), &mut steps);
    let union = union_of(&old.sources, &new.sources);
    prefixes(&old.sources, &union, &mut steps);
    grow(old, new, &mut steps);
    let mut new_hooks: Vec<HookPoint> = desired.hooks.difference(&current.hooks).copied().collect();
    // What only records stands before what drops, and so before the first answer that it would drop. A bridge's stands
    // before those of its ports: what they vouch for on its way to the host would else reach a socket with the mark on.
    let records = |hook| matches!(hook, Hook::UplinkEgress | Hook::BridgeEgress);
    new_hooks.sort_by_key(|point| (!records(point.hook), point.hook != Hook::BridgeIngress, *point));
    steps.extend(new_hooks.into_iter().map(Step::Attach));
    for (key, value) in &new.networks {
        if let Some(known) = old.networks.get(key)
            && laxer(*known, *value) != laxer_but_terms(*known, *value)
        {
            steps.push(Step::Network(*key, Some(laxer(*known, *value))));
        }
    }
    steps.extend(last.into_iter().map(Step::Detach));
    prune(&old.interfaces, &new.interfaces, |key, value| Step::Interface(*key, value), &mut steps);
    shrink(old, new, &mut steps);
    prefixes(&union, &new.sources, &mut steps);
    prune(&old.denied, &new.denied, |key, value| Step::Denied(*key, value), &mut steps);
    prune(&current.names, &desired.names, |key, value| Step::Name(*key, value), &mut steps);
    if growing != new.settings {
        steps.push(Step::Settings(new.settings));
    }
    steps
}

/// What the new tables need and the old ones do not rule out.
fn grow(old: &Memory, new: &Memory, steps: &mut Vec<Step>) {
    put(&old.local_addresses, &new.local_addresses, |key, value| Step::LocalAddress(*key, value), steps);
    put(&old.subnets, &new.subnets, |key, value| Step::Subnet(*key, value), steps);
    put(&old.limits, &new.limits, |key, value| Step::Limit(*key, value), steps);
    steps.extend(new.reach.difference(&old.reach).map(|key| Step::Reach(*key, Some(()))));
    widen(&old.outbound, &new.outbound, to_both, |key, value| Step::Outbound(*key, value), steps);
    widen(&old.ports, &new.ports, open_to_both, |key, value| Step::Port(*key, value), steps);
    for (key, value) in &old.interfaces {
        let next = new.interfaces.get(key).map(|next| next.terms);
        if spoofing(old, value.network) < spoofing(new, value.network)
            && let Some(terms) = next.or(new.networks.get(&value.network).map(|network| network.terms))
            && value.role == role::PORT
            && terms != value.terms
        {
            steps.push(Step::Interface(*key, Some(Interface { terms, ..*value })));
        }
    }
    let interfaces = &on_the_way(old, new);
    widen(&old.networks, &new.networks, laxer_but_terms, |key, value| Step::Network(*key, value), steps);
    steps.extend(old.links.difference(&new.links).map(|key| Step::Link(*key, None)));
    let endpoint = |key: &Address, value| Step::Endpoint(*key, value);
    let interface = |key: &u32, value| Step::Interface(*key, value);
    let loses_its_endpoint = |key: &u32, value: &Interface| {
        value.endpoint_known == 0 && old.interfaces.get(key).is_some_and(|known| known.endpoint_known != 0)
    };
    steps.extend(lan_endpoints_gone(old, new).map(|key| Step::Endpoint(key, None)));
    prune(&old.stations, &new.stations, |key, value| Step::Station(*key, value), steps);
    put_where(&old.endpoints, &new.endpoints, |key, _| !old.endpoints.contains_key(key), endpoint, steps);
    put_where(&old.interfaces, interfaces, loses_its_endpoint, interface, steps);
    put_where(&old.endpoints, &new.endpoints, |key, _| old.endpoints.contains_key(key), endpoint, steps);
    let others = |key: &u32, value: &Interface| !loses_its_endpoint(key, value);
    put_where(&old.interfaces, interfaces, others, interface, steps);
    put(&old.stations, &new.stations, |key, value| Step::Station(*key, value), steps);
    steps.extend(new.links.difference(&old.links).map(|key| Step::Link(*key, Some(()))));
}

/// What only the old tables had.
fn shrink(old: &Memory, new: &Memory, steps: &mut Vec<Step>) {
    for (key, value) in &new.networks {
        let wide = old.networks.get(key).map(|known| laxer(*known, *value));
        if let Some(wide) = wide.filter(|wide| wide.terms != value.terms && value.spoofing == wide.spoofing) {
            steps.push(Step::Network(*key, Some(Network { terms: value.terms, ..wide })));
        }
    }
    let endpoints = old.endpoints.iter().filter(|(_, endpoint)| endpoint.network != 0);
    let gone = endpoints.map(|(key, _)| *key).filter(|key| !new.endpoints.contains_key(key));
    steps.extend(gone.map(|key| Step::Endpoint(key, None)));
    settle(&old.networks, &new.networks, laxer, |key, value| Step::Network(*key, value), steps);
    put(&on_the_way(old, new), &new.interfaces, |key, value| Step::Interface(*key, value), steps);
    settle(&old.ports, &new.ports, open_to_both, |key, value| Step::Port(*key, value), steps);
    prune(&old.ports, &new.ports, |key, value| Step::Port(*key, value), steps);
    settle(&old.outbound, &new.outbound, to_both, |key, value| Step::Outbound(*key, value), steps);
    prune(&old.outbound, &new.outbound, |key, value| Step::Outbound(*key, value), steps);
    prune(&old.limits, &new.limits, |key, value| Step::Limit(*key, value), steps);
    prune(&old.subnets, &new.subnets, |key, value| Step::Subnet(*key, value), steps);
    steps.extend(old.reach.difference(&new.reach).map(|key| Step::Reach(*key, None)));
    prune(&old.local_addresses, &new.local_addresses, |key, value| Step::LocalAddress(*key, value), steps);
    prune(&old.networks, &new.networks, |key, value| Step::Network(*key, value), steps);
}

/// Addresses of containers on uplinks that none has any more.
fn lan_endpoints_gone<'a>(old: &'a Memory, new: &'a Memory) -> impl Iterator<Item = Address> + 'a {
    let there = old.endpoints.iter().filter(|(_, endpoint)| endpoint.network == 0);
    there.map(|(key, _)| *key).filter(|key| !new.endpoints.contains_key(key))
}

/// Steps for entries that are new or changed, longer prefixes before shorter ones (keys are ordered by length first).
/// A table that is the very same (sets of a million prefixes are shared) is not gone through.
fn put<K: Ord, V: Clone + PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    step: impl Fn(&K, Option<V>) -> Step,
    steps: &mut Vec<Step>,
) {
    put_where(old, new, |_, _| true, step, steps);
}

/// As [`put`], but only for these entries.
fn put_where<K: Ord, V: Clone + PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    which: impl Fn(&K, &V) -> bool,
    step: impl Fn(&K, Option<V>) -> Step,
    steps: &mut Vec<Step>,
) {
    if std::ptr::eq(old, new) {
        return;
    }
    let changed = new.iter().rev().filter(|(key, value)| old.get(key) != Some(value) && which(key, value));
    steps.extend(changed.map(|(key, value)| step(key, Some(value.clone()))));
}

/// Steps for entries that are gone, shorter prefixes before longer ones.
fn prune<K: Ord, V>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    step: impl Fn(&K, Option<V>) -> Step,
    steps: &mut Vec<Step>,
) {
    if std::ptr::eq(old, new) {
        return;
    }
    steps.extend(old.keys().filter(|key| !new.contains_key(key)).map(|key| step(key, None)));
}

/// As [`put`], but an entry that changes becomes what `both` makes of the old and the new value.
fn widen<K: Ord, V: Copy + PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    both: fn(V, V) -> V,
    step: impl Fn(&K, Option<V>) -> Step,
    steps: &mut Vec<Step>,
) {
    for (key, value) in new.iter().rev() {
        let known = old.get(key);
        let wide = known.map_or(*value, |known| both(*known, *value));
        if known != Some(&wide) {
            steps.push(step(key, Some(wide)));
        }
    }
}

/// Steps for the entries that [`widen`] has left wider than they should be.
fn settle<K: Ord, V: Copy + PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    both: fn(V, V) -> V,
    step: impl Fn(&K, Option<V>) -> Step,
    steps: &mut Vec<Step>,
) {
    let wider =
        new.iter().filter(|(key, value)| old.get(key).is_some_and(|known| both(*known, **value) != **value));
    steps.extend(wider.map(|(key, value)| step(key, Some(*value))));
}

/// The entry that lets in whom either lets in.
fn open_to_both(old: Port, new: Port) -> Port {
    let kind = |port: Port| port.sources & !sources::ALONE;
    let wider = if kind(old) == sources::ANY && kind(new) != sources::ANY { old } else { new };
    Port {
        zones: old.zones | new.zones,
        rule: if wider.rule == 0 { old.rule } else { wider.rule },
        // Whom either passes by the entry of any address alone, the other drops: that is asked at the end.
        sources: (old.sources | new.sources) & sources::ALONE
            | match (kind(old), kind(new)) {
                (sources::ANY, _) | (_, sources::ANY) => sources::ANY,
                (sources::ZONES, _) | (_, sources::ZONES) => sources::ZONES,
                _ => sources::NOBODY,
            },
        published: old.published | new.published,
        open: old.open | new.open,
        // Whom only one of them lets in may be under a limit there: better one too many for a moment.
        limit: if new.limit == 0 { old.limit } else { new.limit },
    }
}

/// The rule that lets the host out to whom either does.
fn to_both(old: OutRule, new: OutRule) -> OutRule {
    OutRule {
        zones: old.zones | new.zones,
        destinations: match (old.destinations, new.destinations) {
            (sources::ANY, _) | (_, sources::ANY) => sources::ANY,
            _ => sources::ZONES,
        },
        ..new
    }
}

/// As [`laxer`], under the old terms unless spoofing changes: the wider ones must not meet endpoints that are missing.
fn laxer_but_terms(old: Network, new: Network) -> Network {
    let terms = if old.spoofing == new.spoofing { old.terms } else { laxer(old, new).terms };
    Network { terms, ..laxer(old, new) }
}

/// Whether a network allows spoofing.
fn spoofing(tables: &Memory, network: u32) -> u8 {
    tables.networks.get(&network).map_or(0, |network| network.spoofing)
}

/// The new devices, as long as their networks allow spoofing that they will not: under the terms that go with it.
fn on_the_way(old: &Memory, new: &Memory) -> BTreeMap<u32, Interface> {
    let one = |(key, value): (&u32, &Interface)| {
        let before = old.networks.get(&value.network).filter(|_| value.role == role::PORT);
        let (terms, apart) = match before {
            Some(network) if network.spoofing > spoofing(new, value.network) => {
                let same = old.interfaces.get(key).filter(|known| known.network == value.network);
                same.map_or((network.terms, value.apart), |known| (known.terms, known.apart | value.apart))
            }
            _ => (value.terms, value.apart),
        };
        let records = value.records | old.interfaces.get(key).map_or(0, |known| known.records);
        (*key, Interface { terms, apart, records, ..*value })
    };
    new.interfaces.iter().map(one).collect()
}

/// The terms that drop only what both drop; but neighbours talk to each other only where both let them. In the union of
/// "any source" of the one and "to neighbours" of the other would pass what neither lets pass.
fn laxer(old: Network, new: Network) -> Network {
    Network {
        icc: old.icc & new.icc,
        internal: old.internal & new.internal,
        spoofing: old.spoofing | new.spoofing,
        terms: match old.spoofing.cmp(&new.spoofing) {
            Ordering::Less => new.terms,
            Ordering::Equal => old.terms.or(&new.terms),
            Ordering::Greater => old.terms,
        },
        ..new
    }
}

/// One table of zones to another so that every address has its old or its new zones at each moment: a longer prefix
/// is put before the shorter one that it shadows, and a shorter one is removed before a longer one inside it.
fn prefixes(old: &BTreeMap<Prefix, Zones>, new: &BTreeMap<Prefix, Zones>, steps: &mut Vec<Step>) {
    put(old, new, |key, value| Step::Source(*key, value), steps);
    prune(old, new, |key, value| Step::Source(*key, value), steps);
}

/// Every prefix of both tables with the zones that either says of it.
fn union_of(
    old: &Shared<BTreeMap<Prefix, Zones>>,
    new: &Shared<BTreeMap<Prefix, Zones>>,
) -> Shared<BTreeMap<Prefix, Zones>> {
    if old.is_empty() || old == new {
        return new.clone();
    }
    if new.is_empty() {
        return old.clone();
    }
    let both: BTreeSet<(Address, u32)> =
        old.keys().chain(new.keys()).map(|prefix| (prefix.address, prefix.bits)).collect();
    // By address, then length: whatever covers a prefix comes before it, and the last that still does is nearest.
    let mut covering: Vec<(Prefix, u64, u64)> = Vec::new();
    let mut union = BTreeMap::new();
    for (address, bits) in both {
        while covering.last().is_some_and(|(prefix, ..)| !prefix.holds(&address)) {
            covering.pop();
        }
        let prefix = Prefix { bits, address };
        let (from_old, from_new) = covering.last().map_or((0, 0), |(_, old, new)| (*old, *new));
        let before = old.get(&prefix).map_or(from_old, |held| held.zones);
        let after = new.get(&prefix).map_or(from_new, |held| held.zones);
        covering.push((prefix, before, after));
        union.insert(prefix, Zones { zones: before | after });
    }
    union.into()
}

#[cfg(test)]
mod tests;
