//! Containers that share an uplink with the host: judged there, by the rules for the host's ports.

use std::collections::BTreeSet;

use fw_common::tables::{Endpoint, LocalKey, Station, role, shared};
use fw_common::{Address, Mac};

use super::Desired;
use crate::inventory::{Inventory, LanNetwork};
use crate::netlink::LinkKind;
use crate::policy::Policy;

/// Says which uplinks are shared, and with whom.
pub(super) fn stations(policy: &Policy, inventory: &Inventory, desired: &mut Desired) {
    for (number, network) in inventory.lan_networks.iter().enumerate() {
        let Some(parent) = network.parent else { continue };
        let interfaces = desired.state.tables.interfaces.values_mut();
        let uplinks = interfaces.filter(|it| it.role == role::UPLINK && it.l3_device == parent);
        // The kernel gives the device away when a container starts, not when the network is made.
        let whole = network.passthru && inventory.stations.iter().any(|station| station.network == number);
        let how = if whole { shared::WHOLE } else { shared::BY_ADDRESS };
        let mut judged = false;
        for uplink in uplinks {
            uplink.shared = uplink.shared.max(how);
            judged = true;
        }
        if !judged {
            desired.warnings.push(format!(
                "network {} is on {}, which is no uplink: what comes in to its containers is not judged; name the \
                 device in `uplink.interfaces`",
                network.name, network.parent_name
            ));
        }
        unenforced(policy, network, desired);
    }
    let tables = &mut desired.state.tables;
    let parents: BTreeSet<u32> =
        tables.interfaces.values().filter(|it| it.shared != shared::NO).map(|it| it.l3_device).collect();
    for station in &inventory.stations {
        let network = inventory.lan_networks.get(station.network);
        let parent = network.and_then(|network| network.parent).filter(|parent| parents.contains(parent));
        if station.labelled
            && let Some(network) = network
        {
            desired.warnings.push(format!(
                "container {}: its labels do not hold on {}, which is not behind a bridge of this host",
                station.container, network.name
            ));
        }
        let Some(parent) = parent else { continue };
        let mac = station.mac.map(Mac::from).unwrap_or_default();
        if station.mac.is_some() {
            let station = Station { parent, host: 0, reserved: [0; 3] };
            let known = tables.stations.entry(mac).or_insert(station);
            // The same MAC address on two parents, which nobody forbids: it counts on all.
            if known.parent != parent {
                known.parent = 0;
            }
        }
        for address in station.addresses.iter().map(|address| Address::from(*address)) {
            // Docker does not know which addresses of its subnet are taken. What is the host's stays the host's.
            if tables.local_addresses.contains_key(&LocalKey::new(address, parent)) {
                continue;
            }
            let endpoint = Endpoint { network: 0, port: parent, mac, reserved: [0; 2] };
            tables.endpoints.entry(address).or_insert(endpoint);
        }
    }
    own_devices(inventory, &parents, desired);
}

/// Macvlan devices of the host's own on shared uplinks: over them it and the containers meet.
fn own_devices(inventory: &Inventory, parents: &BTreeSet<u32>, desired: &mut Desired) {
    let stations = &mut desired.state.tables.stations;
    for link in inventory.links.iter().filter(|link| link.kind == LinkKind::Macvlan) {
        let parent = link.parent.filter(|parent| parents.contains(parent));
        let (Some(parent), Some(mac)) = (parent, link.mac) else { continue };
        stations.entry(Mac::from(mac)).or_insert(Station { parent, host: 1, reserved: [0; 3] });
    }
}

/// What these containers send leaves by the parent device without passing a bridge of the host's.
fn unenforced(policy: &Policy, network: &LanNetwork, desired: &mut Desired) {
    if policy.networks.contains_key(&network.name) {
        desired.warnings.push(format!(
            "[networks.{}]: a {} network is not behind a bridge of this host; nothing of what stands there is enforced",
            network.name, network.driver
        ));
    }
}
