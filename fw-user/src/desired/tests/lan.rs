//! Containers that share an uplink with the host.

use fw_common::tables::Station;

use super::*;
use crate::inventory::LanNetwork;

const DB: Mac = Mac { bytes: [2, 0x42, 0, 0, 0, 9] };

/// The host of the other tests, with `db` on a network of this driver on this device.
fn sharing(driver: &str, parent: Option<u32>) -> Inventory {
    let lan = LanNetwork {
        name: "lan".into(),
        docker_id: "id of lan".into(),
        driver: driver.into(),
        parent_name: "eth0".into(),
        parent,
        passthru: false,
    };
    let db = inventory::Station {
        container: "db".into(),
        container_id: "c9".into(),
        network: 0,
        mac: (driver == "macvlan").then_some(inventory::Mac(DB.bytes)),
        labelled: false,
        addresses: vec![ip("198.51.100.50"), ip("2001:db8::50")],
    };
    Inventory { lan_networks: vec![lan], stations: vec![db], ..world() }
}

#[test]
fn in_mode_passthru_the_whole_uplink_is_the_containers() {
    let mut inventory = sharing("macvlan", Some(2));
    inventory.lan_networks[0].passthru = true;
    let found = want("", &inventory, &State::default());
    assert_eq!(found.state.tables.interfaces[&2].shared, 2);
    inventory.stations.clear();
    let idle = want("", &inventory, &State::default());
    assert_eq!(idle.state.tables.interfaces[&2].shared, 1, "nobody has it yet");
}

#[test]
fn a_mac_address_on_two_parents_counts_on_both() {
    let mut inventory = sharing("macvlan", Some(2));
    inventory.links.push(Link::sample(40, "eth1", LinkKind::Physical, None));
    inventory.lan_networks.push(LanNetwork { parent: Some(40), ..inventory.lan_networks[0].clone() });
    inventory.stations.push(inventory::Station { network: 1, ..inventory.stations[0].clone() });
    let found = want("", &inventory, &State::default());
    let shares = found.state.tables.interfaces.values().filter(|it| it.shared != 0).count();
    assert_eq!((shares, found.state.tables.stations[&DB].parent), (2, 0));
}

#[test]
fn a_macvlan_container_is_known_by_mac_and_addresses_on_its_uplink() {
    let found = want("", &sharing("macvlan", Some(2)), &State::default());
    let tables = &found.state.tables;
    assert_eq!(tables.interfaces[&2].shared, 1);
    assert_eq!(tables.stations, [(DB, Station { parent: 2, host: 0, reserved: [0; 3] })].into());
    let endpoint = Endpoint { network: 0, port: 2, mac: DB, reserved: [0; 2] };
    for text in ["198.51.100.50", "2001:db8::50"] {
        assert_eq!(tables.endpoints.get(&address(text)), Some(&endpoint));
    }
    assert!(!found.warnings.iter().any(|warning| warning.contains("lan")), "{:?}", found.warnings);
    // Nobody else is any different for it.
    let alone = want("", &world(), &State::default());
    assert_eq!(alone.state.tables.interfaces[&2].shared, 0);
    assert_eq!(alone.state.hooks, found.state.hooks);
}

#[test]
fn labels_of_such_a_container_are_said_not_to_hold() {
    let mut inventory = sharing("macvlan", Some(2));
    inventory.stations[0].labelled = true;
    let found = want("", &inventory, &State::default());
    let said = |warning: &&String| warning.contains("container db: its labels do not hold on lan");
    assert_eq!(found.warnings.iter().filter(said).count(), 1, "{:?}", found.warnings);
}

#[test]
fn an_address_of_the_hosts_stays_the_hosts() {
    let mut inventory = sharing("macvlan", Some(2));
    inventory.stations[0].addresses.push(ip("198.51.100.7"));
    let tables = want("", &inventory, &State::default()).state.tables;
    assert!(!tables.endpoints.contains_key(&address("198.51.100.7")));
    assert!(tables.endpoints.contains_key(&address("198.51.100.50")));
}

#[test]
fn a_macvlan_device_of_the_hosts_own_is_known_as_such() {
    let mut inventory = sharing("macvlan", Some(2));
    let shim = Link {
        mac: Some(inventory::Mac([2, 0, 0, 0, 0, 7])),
        ..Link::sample(70, "shim", LinkKind::Macvlan, None)
    };
    let elsewhere =
        Link { parent: Some(BACK), mac: Some(inventory::Mac([2, 0, 0, 0, 0, 8])), ..shim.clone() };
    inventory.links.extend([Link { parent: Some(2), ..shim }, elsewhere]);
    let stations = want("", &inventory, &State::default()).state.tables.stations;
    let host: Vec<_> = stations.iter().filter(|(_, station)| station.host != 0).collect();
    let shim = Mac { bytes: [2, 0, 0, 0, 0, 7] };
    assert_eq!(host, [(&shim, &Station { parent: 2, host: 1, reserved: [0; 3] })]);
    assert_eq!(stations.len(), 2);
}

#[test]
fn an_ipvlan_container_is_known_by_its_addresses_alone() {
    let found = want("", &sharing("ipvlan", Some(2)), &State::default());
    assert_eq!(found.state.tables.interfaces[&2].shared, 1);
    assert!(found.state.tables.stations.is_empty());
    let endpoint = found.state.tables.endpoints[&address("198.51.100.50")];
    assert_eq!((endpoint.network, endpoint.port, endpoint.mac), (0, 2, Mac::default()));
}

#[test]
fn the_ports_of_a_bridge_are_shared_with_it() {
    let mut inventory = sharing("macvlan", Some(3));
    inventory.links.push(Link::sample(3, "br0", LinkKind::Bridge, None));
    inventory.links[1].master = Some(3);
    let found = want("", &inventory, &State::default());
    let port = found.state.tables.interfaces[&2];
    assert_eq!((port.bridge_port, port.l3_device, port.shared), (1, 3, 1));
    assert_eq!(found.state.tables.stations[&DB].parent, 3);
}

#[test]
fn a_parent_that_is_no_uplink_is_said_and_nothing_is_judged_there() {
    let found = want("", &sharing("macvlan", Some(BACK)), &State::default());
    assert!(found.state.tables.stations.is_empty());
    assert!(!found.state.tables.endpoints.contains_key(&address("198.51.100.50")));
    assert!(
        found.warnings.iter().any(|warning| warning.contains("which is no uplink")),
        "{:?}",
        found.warnings
    );
    // Neither while it is not there at all.
    let found = want("", &sharing("macvlan", None), &State::default());
    assert!(found.state.tables.stations.is_empty());
}

#[test]
fn terms_of_such_a_network_are_said_not_to_hold() {
    let policy = "[networks.lan]\negress = \"none\"";
    let found = want(policy, &sharing("macvlan", Some(2)), &State::default());
    let said: Vec<&String> = found.warnings.iter().filter(|warning| warning.contains("lan")).collect();
    assert!(
        matches!(said[..], [only] if only.contains("nothing of what stands there is enforced")),
        "{said:?}"
    );
}
