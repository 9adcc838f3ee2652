//! Which devices face the outside, and where XDP may drop early on them.

use std::collections::BTreeSet;

use bytemuck::Zeroable as _;
use fw_common::tables::{Interface, link_layer, role};
use fw_common::{Hook, Mac};

use super::{Desired, Early, hook};
use crate::inventory::{self, Inventory};
use crate::netlink::{Link, LinkKind};
use crate::plan::{HookPoint, State};
use crate::policy::{Interfaces, Policy, Xdp};

/// The devices that face the outside.
pub(super) fn uplinks(policy: &Policy, inventory: &Inventory, current: &State, desired: &mut Desired) {
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
        desired.warnings.push(crate::health::NO_UPLINK.to_owned());
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
                mac: link.mac.map(Mac::from).unwrap_or_default(),
                ..Interface::zeroed()
            },
        );
        early(policy, inventory, link, bridge.is_some(), desired);
        hook(&mut desired.state, ifindex, &[Hook::UplinkIngress, Hook::UplinkEgress]);
    }
}

/// Whether and how XDP drops early on an uplink.
///
/// XDP does not see a VLAN tag that the device has taken out of the frame: what is for a VLAN on top would be judged as
/// untagged. A bridge's port judges every frame so, whatever its tag. Nor does a bond show XDP its frames, but its
/// members do, as theirs. Left to itself, fw leaves alone what is no hardware: on a veth, XDP costs more than it saves.
fn early(policy: &Policy, inventory: &Inventory, link: &Link, of_bridge: bool, desired: &mut Desired) {
    let how = match policy.uplink.xdp {
        Xdp::Off => return,
        Xdp::Auto if link.kind != LinkKind::Physical => return,
        Xdp::Auto => Early::IfNative,
        Xdp::Native => Early::Native,
        Xdp::Generic => Early::Generic,
    };
    let vlan = |above: &Link| above.kind == LinkKind::Vlan && above.parent == Some(link.index);
    let obstacle = if !link.ethernet {
        "it has no Ethernet header"
    } else if matches!(link.kind, LinkKind::Bond | LinkKind::Team) {
        "XDP sees frames of a bond or team at its members only"
    } else if !of_bridge && inventory.links.iter().any(vlan) {
        "it carries a VLAN, whose tag XDP may not see"
    } else {
        desired.early.insert(link.index, how);
        return;
    };
    if policy.uplink.xdp != Xdp::Auto {
        let name = &link.name;
        desired
            .warnings
            .push(format!("no early drop on {name}: {obstacle}; uplink_ingress judges everything"));
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

/// By its role, or by its hook where the tables are made anew.
fn is_uplink(current: &State, ifindex: u32) -> bool {
    current.tables.interfaces.get(&ifindex).is_some_and(|interface| interface.role == role::UPLINK)
        || current.hooks.contains(&HookPoint { ifindex, hook: Hook::UplinkIngress })
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

/// A network around the prefix of an uplink makes everybody there a container: whoever comes from there is refused.
pub(super) fn around_uplinks(inventory: &Inventory, desired: &mut Desired) {
    let tables = &desired.state.tables;
    let uplinks = tables.interfaces.values().filter(|interface| interface.role == role::UPLINK);
    let carriers: BTreeSet<u32> = uplinks.map(|interface| interface.l3_device).collect();
    let outside = |local: &&crate::netlink::LocalAddress| carriers.contains(&local.ifindex);
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
