//! What should be in force: from the policy and the inventory to tables, names and hooks.
//!
//! Pure: no I/O, no clock, ordered collections. What is in force already is asked only for numbers that should stay:
//! rule ids (their counters belong to them), zone bits, and uplinks that were found before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bytemuck::Zeroable as _;
use fw_common::tables::memory::Memory;
use fw_common::tables::{
    Endpoint, Interface, LocalAddress, LocalKey, Name, NameKey, Network, PortKey, Prefix, Settings, Subnet,
    capacity, link_layer, name_kind, role,
};
use fw_common::{ABI_VERSION, Address, Hook, Mac};

use crate::inventory::{self, Inventory};
use crate::netlink::{Link, LinkKind};
use crate::plan::{HookPoint, State};
use crate::policy::{Interfaces, Mode, Policy, Spoofing, table_prefixes};

mod rules;
mod zones;

/// What should be in force, and what a person should know about it.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Tables, names and hooks.
    pub state: State,
    /// Names of the devices by which packets leave towards the outside: a bridge for uplinks that are its ports.
    pub output_devices: BTreeSet<String>,
    /// Parts of the policy that match nothing, uplinks that are missing.
    pub warnings: Vec<String>,
}

/// A policy that cannot be put into tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DesiredError {
    /// More sets in use, old and new together, than there are bits.
    #[error(
        "the sets of the policy that is in force and those of the new one are more than 64 together; \
         change them in two steps, or merge some"
    )]
    TooManyZones,
    /// More rules than there are counters.
    #[error("the policy has more than {} rules; merge some", capacity::RULES - 1)]
    TooManyRules,
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

/// What should be in force, given what is.
pub fn desired(policy: &Policy, inventory: &Inventory, current: &State) -> Result<Desired, DesiredError> {
    let mut desired = Desired::default();
    uplinks(policy, inventory, current, &mut desired);
    for network in &inventory.networks {
        managed(policy, inventory, network, &mut desired);
    }
    endpoints(inventory, &mut desired);
    local_addresses(inventory, &mut desired.state);
    let zones = zones::assign(policy, current)?;
    let rules = rules::number(policy, current)?;
    desired.state.names.extend(zones.names());
    desired.state.names.extend(rules.iter().map(|(name, id)| (rule_key(*id), cut(name))));
    desired.state.tables.sources = zones.table();
    desired.state.tables.denied = rules::denied(policy, &rules);
    rules::ports(policy, inventory, &zones, &rules, &mut desired.state.tables.ports);
    let tables = &mut desired.state.tables;
    tables.settings = Settings {
        abi: ABI_VERSION,
        observe: u8::from(policy.mode == Mode::Observe),
        mark_bit: policy.marks.bit,
        deny: u8::from(!tables.denied.is_empty()),
        source_prefixes: u8::from(tables.sources.keys().any(|prefix| prefix.bits < 128)),
    };
    around_uplinks(inventory, &mut desired);
    let known = inventory.networks.iter().map(|network| network.name.clone()).collect();
    desired.warnings.extend(policy.warnings(&known));
    fits(&desired.state)?;
    fit_together(&current.tables, &desired.state.tables)?;
    Ok(desired)
}

/// A network around the prefix of an uplink makes everybody there a container: whoever comes from there is refused.
fn around_uplinks(inventory: &Inventory, desired: &mut Desired) {
    let tables = &desired.state.tables;
    let outside = |local: &&crate::netlink::LocalAddress| {
        tables
            .interfaces
            .values()
            .any(|interface| interface.role == role::UPLINK && interface.l3_device == local.ifindex)
    };
    for local in inventory.local_addresses.iter().filter(outside) {
        let around = |network: &&inventory::Network| {
            network.subnets.iter().any(|subnet| subnet.contains(&local.address))
        };
        for network in inventory.networks.iter().filter(around) {
            desired.warnings.push(format!(
                "network {} lies around {}, an address of an uplink: everybody in its prefix counts as a container and \
                 is refused from outside; give the network another subnet",
                network.name, local.address
            ));
        }
    }
}

fn fits(state: &State) -> Result<(), DesiredError> {
    const RANGES: &str = "allow fewer or narrower port ranges";
    const SETS: &str = "use smaller sets";
    const HOST: &str = "this host is larger than this version of fw allows for";
    let tables = &state.tables;
    let hosts = |prefix: &&Prefix| prefix.bits == 128;
    let sources = tables.sources.keys().filter(hosts).count();
    let denied = tables.denied.keys().filter(hosts).count();
    for (table, needed, capacity, advice) in [
        ("ports", tables.ports.len(), capacity::PORTS, RANGES),
        ("source_hosts", sources, capacity::HOSTS, SETS),
        ("sources", tables.sources.len() - sources, capacity::PREFIXES, SETS),
        ("denied_hosts", denied, capacity::HOSTS, SETS),
        ("denied", tables.denied.len() - denied, capacity::PREFIXES, SETS),
        ("interfaces", tables.interfaces.len(), capacity::INTERFACES, HOST),
        ("subnets", tables.subnets.len(), capacity::SUBNETS, HOST),
        ("networks", tables.networks.len(), capacity::NETWORKS, HOST),
        ("endpoints", tables.endpoints.len(), capacity::ENDPOINTS, HOST),
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
fn fit_together(old: &Memory, new: &Memory) -> Result<(), DesiredError> {
    fn union<K: Ord, V>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>, which: impl Fn(&K) -> bool) -> usize {
        if old.len() + new.len() <= SURELY_FITS {
            return 0;
        }
        let kept = old.keys().filter(|key| which(key) && !new.contains_key(key));
        kept.count() + new.keys().filter(|key| which(key)).count()
    }
    // The smallest of these tables; most policies need no counting.
    const SURELY_FITS: usize = capacity::PORTS;
    const ADVICE: &str = "those of the policy in force are among them: change it in two steps";
    let host = |prefix: &Prefix| prefix.bits == 128;
    let net = |prefix: &Prefix| prefix.bits != 128;
    for (table, needed, capacity) in [
        ("ports", union(&old.ports, &new.ports, |_| true), capacity::PORTS),
        ("source_hosts", union(&old.sources, &new.sources, host), capacity::HOSTS),
        ("sources", union(&old.sources, &new.sources, net), capacity::PREFIXES),
        ("denied_hosts", union(&old.denied, &new.denied, host), capacity::HOSTS),
        ("denied", union(&old.denied, &new.denied, net), capacity::PREFIXES),
    ] {
        if needed > capacity {
            return Err(DesiredError::TooLarge { table, needed, capacity, advice: ADVICE });
        }
    }
    Ok(())
}

/// The devices that face the outside.
fn uplinks(policy: &Policy, inventory: &Inventory, current: &State, desired: &mut Desired) {
    let managed: BTreeSet<u32> =
        inventory.networks.iter().filter_map(|network| network.bridge_ifindex).collect();
    let mut devices = BTreeSet::new();
    match &policy.uplink.interfaces {
        Interfaces::Named(names) => {
            for name in names {
                let found = inventory.links.iter().find(|link| link.name == *name);
                let Some(link) = found else {
                    desired
                        .warnings
                        .push(format!("uplink {name} does not exist; it is hooked when it appears"));
                    // It may go by another name now: what is an uplink stays one.
                    devices.extend(
                        inventory.links.iter().map(|link| link.index).filter(|it| is_uplink(current, *it)),
                    );
                    continue;
                };
                add_uplink(inventory, link, &managed, &mut devices);
            }
        }
        Interfaces::Auto => {
            for link in inventory.links.iter().filter(|link| faces_outside(inventory, link, current)) {
                add_uplink(inventory, link, &managed, &mut devices);
            }
        }
    }
    if devices.is_empty() {
        desired
            .warnings
            .push("there is no uplink: nothing from outside is judged; see `uplink.interfaces`".to_owned());
    }
    for ifindex in devices {
        let Some(link) = inventory.link(ifindex) else { continue };
        let bridge = master(inventory, link).filter(|master| master.kind == LinkKind::Bridge);
        let carrier = bridge.unwrap_or(link);
        desired.output_devices.insert(carrier.name.clone());
        desired.state.tables.interfaces.insert(
            ifindex,
            Interface {
                role: role::UPLINK,
                link_layer: link_layer_of(link),
                bridge_port: u8::from(bridge.is_some()),
                l3_device: carrier.index,
                ..Interface::zeroed()
            },
        );
        hook(&mut desired.state, ifindex, &[Hook::UplinkIngress, Hook::UplinkEgress]);
    }
}

/// Physical NICs, the devices of default routes, and what was an uplink before: a route that vanished for a moment
/// (DHCP, VPN) must not open its device.
fn faces_outside(inventory: &Inventory, link: &Link, current: &State) -> bool {
    !link.loopback
        && (link.kind == LinkKind::Physical
            || inventory.default_route_links.contains(&link.index)
            || is_uplink(current, link.index))
}

fn is_uplink(current: &State, ifindex: u32) -> bool {
    current.tables.interfaces.get(&ifindex).is_some_and(|interface| interface.role == role::UPLINK)
}

/// Adds the device where packets are first seen: the ports of a bridge, where no DNAT has run yet, and the bond or
/// team of its members. A VLAN or macvlan on an uplink is an uplink of its own: what it receives passes its parent as
/// another VLAN's or another machine's.
fn add_uplink(inventory: &Inventory, link: &Link, managed: &BTreeSet<u32>, devices: &mut BTreeSet<u32>) {
    if link.master.is_some_and(|master| managed.contains(&master)) || managed.contains(&link.index) {
        return;
    }
    match master(inventory, link).map(|master| (&master.kind, master)) {
        Some((LinkKind::Bond | LinkKind::Team, above)) => add_uplink(inventory, above, managed, devices),
        _ if link.kind == LinkKind::Bridge => {
            let ports = || inventory.links.iter().filter(|port| port.master == Some(link.index));
            let physical = |port: &&Link| {
                matches!(port.kind, LinkKind::Physical | LinkKind::Bond | LinkKind::Team | LinkKind::Vlan)
            };
            let towards_outside: Vec<_> = ports().filter(physical).collect();
            // A bridge without a physical port (a lab, a container as host): any port may lead outside.
            let chosen = if towards_outside.is_empty() { ports().collect() } else { towards_outside };
            devices.extend(chosen.iter().map(|port| port.index));
        }
        _ => {
            devices.insert(link.index);
        }
    }
    let on_top = |above: &&Link| {
        matches!(above.kind, LinkKind::Vlan | LinkKind::Macvlan) && above.parent == Some(link.index)
    };
    for above in inventory.links.iter().filter(on_top) {
        add_uplink(inventory, above, managed, devices);
    }
}

fn master<'a>(inventory: &'a Inventory, link: &Link) -> Option<&'a Link> {
    link.master.and_then(|master| inventory.link(master))
}

fn link_layer_of(link: &Link) -> u8 {
    if link.ethernet { link_layer::ETHERNET } else { link_layer::NONE }
}

fn hook(state: &mut State, ifindex: u32, hooks: &[Hook]) {
    state.hooks.extend(hooks.iter().map(|hook| HookPoint { ifindex, hook: *hook }));
}

/// A managed network: its bridge, its subnets and its ports.
fn managed(policy: &Policy, inventory: &Inventory, network: &inventory::Network, desired: &mut Desired) {
    let Some(id) = network.bridge_ifindex else {
        return;
    };
    let state = &mut desired.state;
    let spoofing = policy.network(&network.name).spoofing == Spoofing::Allow;
    state.tables.networks.insert(
        id,
        Network {
            icc: u8::from(network.icc),
            internal: u8::from(network.internal),
            spoofing: u8::from(spoofing),
            reserved: 0,
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
    state.tables.interfaces.insert(id, bridge);
    hook(state, id, &[Hook::BridgeIngress]);
    for port in &network.ports {
        let endpoint = port.endpoint.and_then(|index| inventory.endpoints.get(index));
        let mac = endpoint.and_then(|endpoint| endpoint.mac).map(Mac::from);
        let known = mac.filter(|_| endpoint.is_some_and(|endpoint| !endpoint.addresses.is_empty()));
        let interface = Interface {
            role: role::PORT,
            endpoint_known: u8::from(known.is_some()),
            mac: known.unwrap_or_default(),
            ..bridge
        };
        state.tables.interfaces.insert(port.ifindex, interface);
        if let Some(endpoint) = endpoint {
            let key = NameKey { kind: name_kind::ENDPOINT, id: port.ifindex };
            state.names.insert(key, cut(&endpoint.container));
        }
        hook(state, port.ifindex, &[Hook::PortIngress]);
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
