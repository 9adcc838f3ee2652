//! What should be in force: from the policy and the inventory to tables, names and hooks.
//!
//! Pure: no I/O, no clock, ordered collections. What is in force already is asked only for numbers that should stay:
//! rule ids (their counters belong to them), zone bits, and uplinks that were found before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bytemuck::Zeroable as _;
use fw_common::tables::memory::{Memory, Shared};
use fw_common::tables::{
    self, DenyRule, Endpoint, Interface, LinkKey, LocalAddress, LocalKey, Name, NameKey, Network, PortKey,
    Prefix, ReachKey, Settings, Subnet, Terms, capacity, egress, link_layer, name_kind, role,
};
use fw_common::{ABI_VERSION, Address, FLOWS_ABI, Hook, Mac};

use crate::handover::{Marks, Nat};
use crate::inventory::{self, Inventory};
use crate::plan::{HookPoint, State, Step};
use crate::policy::{
    Egress, Fallback, FastPath, HostAccess, Mode, NatOwner, Policy, Spoofing, TableSizes, table_prefixes,
};
pub use bans::{banned_in, in_tables};
pub use labels::Labelled;
pub use swarm::SwarmRules;
use zones::Zones;

mod bans;
mod labels;
mod lan;
mod nat;
mod outbound;
mod rules;
mod swarm;
mod uplinks;
mod zones;

/// What should be in force, and what a person should know about it.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Tables, names and hooks.
    pub state: State,
    /// Names of the devices by which packets leave towards the outside: a bridge for uplinks that are its ports.
    pub output_devices: BTreeSet<String>,
    /// Names of the bridges whose ports are kept apart.
    pub apart: BTreeSet<String>,
    /// What fw writes itself in iptables; `None` for marks that no rule can match.
    pub nat: Option<Nat>,
    /// Names of Docker's bridges, if nothing may begin towards them from outside while our programs are not there.
    pub closed: BTreeSet<String>,
    /// Uplinks on which XDP drops early, and how.
    pub early: BTreeMap<u32, Early>,
    /// Parts of the policy that match nothing, uplinks that are missing.
    pub warnings: Vec<String>,
}

/// Where XDP runs on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Early {
    /// In the driver, because the policy says so.
    Native,
    /// In the driver if it can (`xdp = "auto"`).
    IfNative,
    /// In the kernel's generic path.
    Generic,
}

/// A policy that cannot be put into tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DesiredError {
    /// More sets in use, old and new together, than there are bits.
    #[error(
        "the sets of the policy that is in force, those that labels name ({by_labels}), and those of the new policy are \
         more than 64 together; change them in two steps, or merge some"
    )]
    TooManyZones {
        /// Those of labels that hold a bit and that no rule of the new policy uses.
        by_labels: usize,
    },
    /// More rules than there are counters.
    #[error("the policy has more than {} rules; merge some", capacity::RULES - 1)]
    TooManyRules,
    /// More limits, old and new together, than a port can name.
    #[error(
        "the limits of the policy that is in force and those of the new one are more than {} together; change them in \
         two steps",
        capacity::LIMITS - 1
    )]
    TooManyLimits,
    /// A table would overflow.
    #[error(
        "the policy and the host need {needed} entries in table `{table}`, which holds {capacity}; {advice}"
    )]
    TooLarge {
        /// The table.
        table: &'static str,
        /// Entries wanted.
        needed: usize,
        /// Entries that fit.
        capacity: usize,
        /// What to do.
        advice: &'static str,
    },
}

/// What follows from the policy alone, whatever Docker and the kernel say: worked out once, for a set may have a million
/// prefixes.
pub struct Prepared {
    zones: Zones,
    rules: RuleIds,
    /// The labels whose sets are among the zones.
    labelled: Labelled,
    /// Rules beside the file's.
    swarm: SwarmRules,
    sources: Shared<BTreeMap<Prefix, tables::Zones>>,
    denied: Shared<BTreeMap<Prefix, DenyRule>>,
    /// What of the policy's denials bans stand in for.
    covered: bans::Covered,
    /// How many of `sources` and of `denied` are single addresses.
    hosts: (usize, usize),
}

impl Prepared {
    /// What follows from this policy, with the numbers that are in force already.
    pub fn new(policy: &Policy, current: &State) -> Result<Self, DesiredError> {
        Self::beside(policy, &Labelled::default(), &SwarmRules::default(), current)
    }

    /// As [`Prepared::new`], with the sets that labels of containers use, and with what a swarm needs.
    pub fn beside(
        policy: &Policy,
        labelled: &Labelled,
        swarm: &SwarmRules,
        current: &State,
    ) -> Result<Self, DesiredError> {
        let mut zones = zones::assign(policy, labelled, swarm, current)?;
        let rules = rules::number(policy, swarm, current)?;
        let (sources, denied) = (zones.table(), rules::denied(policy, &rules));
        // They stand in the table now.
        zones.forget_contents();
        let single = |bits: u32| bits == 128;
        let hosts = (
            sources.keys().filter(|prefix| single(prefix.bits)).count(),
            denied.keys().filter(|prefix| single(prefix.bits)).count(),
        );
        let (labelled, swarm) = (labelled.clone(), swarm.clone());
        let (sources, denied, covered) = (sources.into(), denied.into(), BTreeMap::new());
        Ok(Self { zones, rules, labelled, swarm, sources, denied, covered, hosts })
    }

    /// How many of the sets' prefixes are single addresses: of sources, and of those that are denied.
    pub fn hosts(&self) -> (usize, usize) {
        self.hosts
    }

    /// Whether the numbers would be the same with what is in force now, with these labels and this swarm.
    pub fn is_of(&self, current: &State, labelled: &Labelled, swarm: &SwarmRules) -> bool {
        self.zones.complete
            && self.swarm == *swarm
            && self.labelled.uses_the_same(labelled)
            && self.names().all(|(key, name)| current.names.get(&key) == Some(&name))
    }

    fn names(&self) -> impl Iterator<Item = (NameKey, String)> + '_ {
        self.zones.names().chain(self.rules.iter().map(|(name, id)| (rule_key(*id), cut(name))))
    }
}

/// What should be in force, given what is: bans among it stay.
pub fn desired(policy: &Policy, inventory: &Inventory, current: &State) -> Result<Desired, DesiredError> {
    let labelled = Labelled::new(policy, inventory);
    let prepared = Prepared::beside(policy, &labelled, &SwarmRules::new(policy, inventory), current)?;
    let prepared = prepared.banning(banned_in(current), current)?;
    desired_with(policy, inventory, current, &prepared, labelled)
}

/// As [`desired`], with what follows from the policy alone, and from the labels of this inventory under it.
pub fn desired_with(
    policy: &Policy,
    inventory: &Inventory,
    current: &State,
    prepared: &Prepared,
    labelled: Labelled,
) -> Result<Desired, DesiredError> {
    let mut desired = Desired::default();
    uplinks::uplinks(policy, inventory, current, &mut desired);
    for network in &inventory.networks {
        managed(policy, inventory, network, &prepared.zones, &labelled, &mut desired);
    }
    reach(policy, inventory, &mut desired);
    endpoints(inventory, &mut desired);
    local_addresses(inventory, &mut desired.state);
    lan::stations(policy, inventory, &mut desired);
    links(inventory, &mut desired.state.tables);
    desired.state.names.extend(prepared.names());
    desired.state.tables.sources = prepared.sources.clone();
    desired.state.tables.denied = prepared.denied.clone();
    let (zones, rules) = (&prepared.zones, &prepared.rules);
    let (direct, left_out) = rules::direct(policy, inventory, current);
    let ports = &mut desired.state.tables.ports;
    swarm::ingress(policy, inventory, ports);
    rules::ports(policy, inventory, &direct, zones, rules, &labelled, ports);
    // Behind those of the file, which give a port that both open its name.
    prepared.swarm.ports(zones, rules, ports);
    if prepared.swarm.is_left_out(zones) {
        desired.warnings.push(
            "the nodes of the swarm reach nothing: rules and labels use all 64 sets that there may be, and the nodes are one \
             more; merge some"
                .to_owned(),
        );
    }
    for container in left_out {
        desired.warnings.push(format!(
            "container `{container}` is closed at its own addresses: such addresses have a quarter of the table `ports`; name \
             fewer ports in the rules, or raise `ports` in [tables]"
        ));
    }
    for rule in rules::cut_short(policy, inventory) {
        desired.warnings.push(format!(
            "rule `{rule}` names more than {} ports: at the own addresses of containers of networks in the gateway mode \
             nat-unprotected it opens the first of them; name fewer, or publish them",
            rules::MOST_DIRECT
        ));
    }
    outbound::rules(policy, zones, rules, &mut desired.state.tables.outbound);
    prepared.swarm.outbound(policy, zones, rules, &mut desired.state.tables.outbound);
    outbound::limits(policy, rules, &current.tables.limits, &mut desired)?;
    outbound::owners(current, &mut desired.state.tables.interfaces);
    let tables = &mut desired.state.tables;
    tables.settings = Settings {
        abi: ABI_VERSION,
        flows_abi: FLOWS_ABI,
        observe: u8::from(policy.mode == Mode::Observe),
        mark_bit: policy.marks.bit,
        deny: u8::from(!tables.denied.is_empty()),
        source_prefixes: u8::from(tables.sources.keys().any(|prefix| prefix.bits < 128)),
        outbound: u8::from(!tables.outbound.is_empty()),
        nat_owned: u8::from(policy.nat.owner == NatOwner::Fw),
        fast_path: u8::from(policy.uplink.fast_path == FastPath::On),
        flow_budget: policy.tables.flows_per_container,
        ..Settings::zeroed()
    };
    uplinks::around_uplinks(inventory, &mut desired);
    let reach = !desired.state.tables.reach.is_empty();
    desired.nat = Marks::new(policy.marks.bit)
        .ok()
        .map(|marks| nat::nat(policy, inventory, marks, &desired.output_devices, reach));
    let lan_networks = inventory.lan_networks.iter().map(|network| network.name.clone());
    let known = inventory.networks.iter().map(|network| network.name.clone()).chain(lan_networks).collect();
    let containers = inventory.endpoints.iter().map(|endpoint| endpoint.container.clone()).collect();
    desired.warnings.extend(policy.warnings(&known, &containers));
    desired.warnings.extend(labelled.warnings);
    let sizes = &policy.tables;
    fits(&desired.state, prepared.hosts, sizes)?;
    fit_together(&current.tables, &desired.state.tables, sizes)?;
    Ok(desired)
}

fn fits(state: &State, (sources, denied): (usize, usize), sizes: &TableSizes) -> Result<(), DesiredError> {
    const RANGES: &str = "write fewer or narrower port ranges, or raise it in [tables]";
    const SETS: &str = "use smaller sets, or raise it in [tables]";
    const RULES: &str = "name fewer ports and source ports together in [[out]] rules";
    const HOST: &str = "this host is larger than this version of fw allows for";
    let tables = &state.tables;
    for (table, needed, capacity, advice) in [
        ("ports", tables.ports.len(), sizes.ports as usize, RANGES),
        ("outbound", tables.outbound.len(), capacity::OUTBOUND, RULES),
        ("source_hosts", sources, sizes.hosts as usize, SETS),
        ("sources", tables.sources.len() - sources, sizes.prefixes as usize, SETS),
        ("denied_hosts", denied, sizes.hosts as usize, SETS),
        ("denied", tables.denied.len() - denied, sizes.prefixes as usize, SETS),
        ("interfaces", tables.interfaces.len(), capacity::INTERFACES, HOST),
        ("subnets", tables.subnets.len(), capacity::SUBNETS, HOST),
        ("networks", tables.networks.len(), capacity::NETWORKS, HOST),
        ("endpoints", tables.endpoints.len(), sizes.endpoints as usize, HOST),
        ("stations", tables.stations.len(), capacity::STATIONS, HOST),
        ("reach", tables.reach.len(), capacity::REACH, "let fewer networks reach each other"),
        ("links", tables.links.len(), capacity::LINKS, HOST),
        ("local_addresses", tables.local_addresses.len(), capacity::LOCAL_ADDRESSES, HOST),
        ("names", state.names.len(), capacity::NAMES, HOST),
    ] {
        if needed > capacity {
            return Err(DesiredError::TooLarge { table, needed, capacity, advice });
        }
    }
    Ok(())
}

/// On the way from one policy to another both stand in the tables.
fn fit_together(old: &Memory, new: &Memory, sizes: &TableSizes) -> Result<(), DesiredError> {
    fn union<K: Ord, V>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>, which: impl Fn(&K) -> bool) -> usize {
        // Alone, the new one has been found to fit.
        if std::ptr::eq(old, new) || old.is_empty() {
            return 0;
        }
        let kept = old.keys().filter(|key| which(key) && !new.contains_key(key));
        kept.count() + new.keys().filter(|key| which(key)).count()
    }
    const ADVICE: &str = "those of the policy in force are among them: change it in two steps";
    let host = |prefix: &Prefix| prefix.bits == 128;
    let net = |prefix: &Prefix| prefix.bits != 128;
    // Most policies need no counting.
    let most = |old: usize, new: usize| old + new > sizes.ports.min(sizes.hosts).min(sizes.prefixes) as usize;
    if !most(old.ports.len(), new.ports.len())
        && !most(old.sources.len(), new.sources.len())
        && !most(old.denied.len(), new.denied.len())
    {
        return Ok(());
    }
    for (table, needed, capacity) in [
        ("ports", union(&old.ports, &new.ports, |_| true), sizes.ports),
        ("source_hosts", union(&old.sources, &new.sources, host), sizes.hosts),
        ("sources", union(&old.sources, &new.sources, net), sizes.prefixes),
        ("denied_hosts", union(&old.denied, &new.denied, host), sizes.hosts),
        ("denied", union(&old.denied, &new.denied, net), sizes.prefixes),
    ] {
        let capacity = capacity as usize;
        if needed > capacity {
            return Err(DesiredError::TooLarge { table, needed, capacity, advice: ADVICE });
        }
    }
    Ok(())
}

fn hook(state: &mut State, ifindex: u32, hooks: &[Hook]) {
    state.hooks.extend(hooks.iter().map(|hook| HookPoint { ifindex, hook: *hook }));
}

/// A managed network: its bridge, its subnets and its ports.
fn managed(
    policy: &Policy,
    inventory: &Inventory,
    network: &inventory::Network,
    zones: &Zones,
    labelled: &Labelled,
    desired: &mut Desired,
) {
    let Some(id) = network.bridge_ifindex else {
        return;
    };
    let icc = policy.network(&network.name).icc.unwrap_or(network.icc);
    if !icc && policy.mode == Mode::Enforce {
        desired.apart.insert(network.bridge_name.clone());
    }
    // What the administrator leads to bridges of his own is vouched for by nobody.
    if policy.fallback == Fallback::Closed && policy.mode == Mode::Enforce && network.docker_id.is_some() {
        desired.closed.insert(network.bridge_name.clone());
    }
    let state = &mut desired.state;
    let spoofing = policy.network(&network.name).spoofing == Spoofing::Allow;
    let terms_of = |container| Terms {
        zones: zones.mask(policy.egress(&network.name, container).sets()),
        egress: kind(policy.egress(&network.name, container)),
        host: u8::from(policy.host(&network.name, container) == HostAccess::Allow),
        reserved: [0; 6],
    };
    let terms = terms_of(None);
    let mut restricted = terms.is_restricted();
    state.tables.networks.insert(
        id,
        Network {
            icc: u8::from(icc),
            internal: u8::from(network.internal),
            spoofing: u8::from(spoofing),
            terms,
            ..Network::zeroed()
        },
    );
    state.names.insert(NameKey { kind: name_kind::NETWORK, id }, cut(&network.name));
    for prefix in network.subnets.iter().flat_map(table_prefixes).map(prefix_of) {
        let subnet = state.tables.subnets.entry(prefix).or_insert(Subnet { network: id });
        if subnet.network != id {
            desired.warnings.push(format!(
                "network {} lies in the same prefix as another one; its containers are judged as the other's",
                network.name
            ));
        }
    }
    let bridge = Interface {
        role: role::BRIDGE,
        link_layer: link_layer::ETHERNET,
        network: id,
        l3_device: id,
        ..Interface::zeroed()
    };
    let own_mac = inventory.link(id).and_then(|link| link.mac).map(Mac::from).unwrap_or_default();
    state.tables.interfaces.insert(id, Interface { mac: own_mac, ..bridge });
    hook(state, id, &[Hook::BridgeIngress]);
    // Neighbours of one that is kept apart look for what comes from it.
    let all_talk = icc && !network.ports.iter().any(|port| labelled.is_apart(port.endpoint));
    for port in &network.ports {
        let endpoint = port.endpoint.and_then(|index| inventory.endpoints.get(index));
        let mac = endpoint.and_then(|endpoint| endpoint.mac).map(Mac::from);
        let known = mac.filter(|_| endpoint.is_some_and(|endpoint| !endpoint.addresses.is_empty()));
        let terms = labelled
            .terms(port.endpoint, zones)
            .unwrap_or_else(|| terms_of(endpoint.map(|endpoint| endpoint.container.as_str())));
        restricted |= terms.is_restricted();
        let interface = Interface {
            role: role::PORT,
            terms,
            endpoint_known: u8::from(known.is_some()),
            mac: known.unwrap_or_default(),
            apart: u8::from(icc && labelled.is_apart(port.endpoint)),
            pair: u8::from(port.is_pair),
            ..bridge
        };
        state.tables.interfaces.insert(port.ifindex, interface);
        if let Some(endpoint) = endpoint {
            let key = NameKey { kind: name_kind::ENDPOINT, id: port.ifindex };
            state.names.insert(key, cut(&endpoint.container));
        }
        hook(state, port.ifindex, port_hooks(all_talk));
    }
    let bridge = state.tables.interfaces.entry(id);
    bridge.and_modify(|bridge| bridge.records = u8::from(restricted));
    if restricted || policy.uplink.fast_path == FastPath::On {
        // Answers to what comes in must be told from what a container begins; and the fast path asks what came this far.
        hook(state, id, &[Hook::BridgeEgress]);
    }
}

/// How tables say where containers may go.
fn kind(said: &Egress) -> u8 {
    match said {
        Egress::Any => egress::ANY,
        Egress::None => 0,
        Egress::Internet => egress::INTERNET,
        Egress::To(_) => egress::ZONES,
    }
}

/// The hooks of a network's ports: both ways, unless all may talk to all.
fn port_hooks(all_talk: bool) -> &'static [Hook] {
    if all_talk { &[Hook::PortIngress] } else { &[Hook::PortIngress, Hook::PortEgress] }
}

/// The steps for a device that has just joined a bridge: hooked before anything is asked about it, as a port behind which
/// nobody is known. None if it is not one of our bridges, or if we know the device.
pub fn newcomer(current: &State, ifindex: u32, bridge: u32) -> Vec<Step> {
    let tables = &current.tables;
    let bridge = tables.interfaces.get(&bridge).filter(|interface| interface.role == role::BRIDGE);
    let network = bridge.and_then(|bridge| tables.networks.get(&bridge.network));
    let (Some(bridge), Some(network)) = (bridge, network) else { return Vec::new() };
    if tables.interfaces.contains_key(&ifindex) {
        return Vec::new();
    }
    let port = Interface { role: role::PORT, terms: network.terms, mac: Mac::default(), ..*bridge };
    let some_apart = tables.interfaces.values().any(|port| port.network == bridge.network && port.apart != 0);
    let hooks = port_hooks(network.icc != 0 && !some_apart)
        .iter()
        .map(|hook| Step::Attach(HookPoint { ifindex, hook: *hook }));
    std::iter::once(Step::Interface(ifindex, Some(port))).chain(hooks).collect()
}

/// Links matter where neighbours are kept apart.
fn links(inventory: &Inventory, tables: &mut Memory) {
    for linked in &inventory.linked {
        let network = inventory.networks.get(linked.network).and_then(|network| network.bridge_ifindex);
        let network = network.and_then(|id| tables.networks.get(&id));
        if network.is_none_or(|network| network.icc != 0) {
            continue;
        }
        let link = LinkKey::pair(linked.client.into(), linked.server.into());
        tables.links.insert(linked.port.map_or(link, |exposed| LinkKey {
            port: exposed.port,
            proto: exposed.protocol.number(),
            ..link
        }));
    }
}

/// Which networks may open connections to which. An internal one reaches nobody and is reached by nobody: Docker gives
/// its containers no route out, so that no answer would come back.
fn reach(policy: &Policy, inventory: &Inventory, desired: &mut Desired) {
    let mut refused = BTreeSet::new();
    for from in &inventory.networks {
        let named = &policy.network(&from.name).reach;
        if named.is_empty() {
            continue;
        }
        for to in inventory.networks.iter().filter(|to| named.contains(&to.name)) {
            let (Some(from_id), Some(to_id)) = (from.bridge_ifindex, to.bridge_ifindex) else { continue };
            match [from, to].into_iter().find(|network| network.internal) {
                _ if from_id == to_id => {}
                Some(internal) => _ = refused.insert((&from.name, &to.name, &internal.name)),
                None => _ = desired.state.tables.reach.insert(ReachKey { from: from_id, to: to_id }),
            }
        }
    }
    // What stands in [networks."*"] is not said of internal networks in particular.
    for (from, to, internal) in refused.into_iter().filter(|(from, ..)| policy.networks.contains_key(*from)) {
        desired.warnings.push(format!(
            "[networks.{from}]: it does not reach `{to}`, for `{internal}` is internal: its containers have no route to \
             other networks"
        ));
    }
}

fn endpoints(inventory: &Inventory, desired: &mut Desired) {
    for endpoint in &inventory.endpoints {
        let network = inventory.networks.get(endpoint.network).and_then(|network| network.bridge_ifindex);
        let (Some(network), Some(mac)) = (network, endpoint.mac) else { continue };
        let value =
            Endpoint { network, port: endpoint.port_ifindex.unwrap_or(0), mac: mac.into(), reserved: [0; 2] };
        for address in &endpoint.addresses {
            desired.state.tables.endpoints.insert(Address::from(*address), value);
        }
    }
}

fn local_addresses(inventory: &Inventory, state: &mut State) {
    let mut insert = |address: IpAddr, ifindex: u32, broadcast: u8| {
        let address = Address::from(address);
        if !address.is_loopback() {
            let value = LocalAddress { ifindex, broadcast, reserved: [0; 3] };
            state.tables.local_addresses.insert(LocalKey::new(address, ifindex), value);
        }
    };
    for local in &inventory.local_addresses {
        if let Some(broadcast) = local.broadcast {
            insert(broadcast.into(), local.ifindex, 1);
        }
        insert(local.address, local.ifindex, 0);
    }
}

fn rule_key(id: u32) -> NameKey {
    NameKey { kind: name_kind::RULE, id }
}

fn prefix_of(prefix: ipnet::Ipv6Net) -> Prefix {
    Prefix::new(Address::v6(prefix.addr().octets()), u32::from(prefix.prefix_len()))
}

/// A name as the map `names` can hold it, so that what is read back equals what was wanted.
fn cut(name: &str) -> String {
    Name::new(name).as_str().to_owned()
}

#[cfg(test)]
mod tests;

/// What the port table is keyed by, for one service and both families.
fn any_keys(proto: u8, port: u16) -> [PortKey; 2] {
    [PortKey::new(Address::ANY_V4, proto, port), PortKey::new(Address::ANY_V6, proto, port)]
}

/// Rule ids by rule name.
type RuleIds = BTreeMap<String, u32>;
