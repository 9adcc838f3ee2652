//! Which devices face the outside.

use super::*;

#[test]
fn uplinks_are_found_by_what_they_are() {
    for Case { what, policy, links, default_routes, uplinks, outputs } in cases() {
        let inventory = Inventory { links, default_route_links: default_routes, ..Inventory::default() };
        let found = want(policy, &inventory, &State::default());
        let interfaces = &found.state.tables.interfaces;
        let as_uplinks: Vec<_> = interfaces
            .iter()
            .map(|(ifindex, interface)| {
                assert_eq!(interface.role, role::UPLINK, "{what}");
                (*ifindex, interface.bridge_port, interface.l3_device)
            })
            .collect();
        assert_eq!(as_uplinks, uplinks, "{what}");
        assert_eq!(found.output_devices.iter().map(String::as_str).collect::<Vec<_>>(), outputs, "{what}");
        for (ifindex, ..) in uplinks {
            for hook in [Hook::UplinkIngress, Hook::UplinkEgress] {
                assert!(found.state.hooks.contains(&HookPoint { ifindex: *ifindex, hook }), "{what}");
            }
        }
        assert_eq!(found.state.hooks.len(), 2 * uplinks.len(), "{what}");
    }
}

#[test]
fn an_uplink_without_ethernet_header_says_so() {
    let tunnel = Link { ethernet: false, ..Link::sample(3, "wg0", LinkKind::Wireguard, None) };
    let inventory = Inventory { links: vec![tunnel], default_route_links: vec![3], ..Inventory::default() };
    let found = want("", &inventory, &State::default());
    assert_eq!(found.state.tables.interfaces[&3].link_layer, link_layer::NONE);
}

#[test]
fn an_uplink_stays_when_its_route_vanishes() {
    let mut inventory = world();
    inventory.links.push(Link::sample(3, "wg0", LinkKind::Wireguard, None));
    inventory.default_route_links = vec![3];
    let before = want("", &inventory, &State::default());
    inventory.default_route_links.clear();
    let after = want("", &inventory, &before.state);
    assert_eq!(after.state.tables.interfaces[&3].role, role::UPLINK);
    let named = want("[uplink]\ninterfaces = [\"eth0\"]", &inventory, &before.state);
    assert!(!named.state.tables.interfaces.contains_key(&3), "the policy says otherwise");
}

#[test]
fn what_belongs_to_a_managed_bridge_is_no_uplink() {
    let mut inventory = world();
    inventory.links.push(Link::sample(13, "eth7", LinkKind::Physical, Some(FRONT)));
    inventory.networks[0].ports.push(port(13, None));
    inventory.default_route_links = vec![2, FRONT];
    for policy in ["", "[uplink]\ninterfaces = [\"eth0\", \"eth7\", \"br-front\"]"] {
        let found = want(policy, &inventory, &State::default());
        let roles: Vec<_> = [2, 13, FRONT].map(|ifindex| found.state.tables.interfaces[&ifindex].role).into();
        assert_eq!(roles, [role::UPLINK, role::PORT, role::BRIDGE], "{policy}");
    }
}

#[test]
fn an_uplink_that_is_missing_or_not_there_at_all_is_said() {
    let found = want("[uplink]\ninterfaces = [\"eth9\"]", &world(), &State::default());
    let warnings = found.warnings.join("\n");
    assert!(warnings.contains("uplink eth9 does not exist"), "{warnings}");
    assert!(warnings.contains("there is no uplink"), "{warnings}");
}

/// Devices of a host, and which of them are its uplinks.
struct Case {
    what: &'static str,
    policy: &'static str,
    links: Vec<Link>,
    default_routes: Vec<u32>,
    /// ifindex, whether it is a port of a bridge, and the device that carries the addresses.
    uplinks: &'static [(u32, u8, u32)],
    outputs: &'static [&'static str],
}

const AUTO: &str = "";

fn cases() -> Vec<Case> {
    let eth0 = || Link::sample(2, "eth0", LinkKind::Physical, None);
    vec![
        Case {
            what: "a physical device, but never loopback",
            policy: AUTO,
            links: vec![Link { loopback: true, ..Link::sample(1, "lo", LinkKind::Physical, None) }, eth0()],
            default_routes: vec![],
            uplinks: &[(2, 0, 2)],
            outputs: &["eth0"],
        },
        Case {
            what: "a device of a default route, whatever its kind",
            policy: AUTO,
            links: vec![
                Link::sample(3, "wg0", LinkKind::Wireguard, None),
                Link::sample(4, "wg1", LinkKind::Wireguard, None),
            ],
            default_routes: vec![3],
            uplinks: &[(3, 0, 3)],
            outputs: &["wg0"],
        },
        Case {
            what: "a bridge is hooked at its physical ports, not at those of virtual machines",
            policy: AUTO,
            links: vec![
                Link::sample(5, "br0", LinkKind::Bridge, None),
                Link::sample(2, "eth0", LinkKind::Physical, Some(5)),
                Link::sample(6, "vnet0", LinkKind::Tun, Some(5)),
            ],
            default_routes: vec![5],
            uplinks: &[(2, 1, 5)],
            outputs: &["br0"],
        },
        Case {
            what: "a bridge without physical port is hooked at every port",
            policy: "[uplink]\ninterfaces = [\"br0\"]",
            links: vec![
                Link::sample(5, "br0", LinkKind::Bridge, None),
                Link::sample(6, "veth0", LinkKind::Veth, Some(5)),
            ],
            default_routes: vec![],
            uplinks: &[(6, 1, 5)],
            outputs: &["br0"],
        },
        Case {
            what: "members of a bond are hooked at the bond",
            policy: AUTO,
            links: vec![
                Link::sample(2, "eth0", LinkKind::Physical, Some(7)),
                Link::sample(3, "eth1", LinkKind::Physical, Some(7)),
                Link::sample(7, "bond0", LinkKind::Bond, None),
            ],
            default_routes: vec![7],
            uplinks: &[(7, 0, 7)],
            outputs: &["bond0"],
        },
        Case {
            what: "a bond in a bridge",
            policy: AUTO,
            links: vec![
                Link::sample(2, "eth0", LinkKind::Physical, Some(7)),
                Link::sample(5, "br0", LinkKind::Bridge, None),
                Link::sample(7, "bond0", LinkKind::Bond, Some(5)),
            ],
            default_routes: vec![5],
            uplinks: &[(7, 1, 5)],
            outputs: &["br0"],
        },
        Case {
            what: "a VLAN on an uplink is an uplink of its own",
            policy: "[uplink]\ninterfaces = [\"eth0\"]",
            links: vec![eth0(), Link { parent: Some(2), ..Link::sample(8, "eth0.5", LinkKind::Vlan, None) }],
            default_routes: vec![],
            uplinks: &[(2, 0, 2), (8, 0, 8)],
            outputs: &["eth0", "eth0.5"],
        },
        Case {
            what: "named devices are all there is",
            policy: "[uplink]\ninterfaces = [\"eth1\"]",
            links: vec![eth0(), Link::sample(3, "eth1", LinkKind::Physical, None)],
            default_routes: vec![2],
            uplinks: &[(3, 0, 3)],
            outputs: &["eth1"],
        },
    ]
}

#[test]
fn xdp_runs_where_it_sees_what_the_hook_behind_sees() {
    let eth0 =
        || Link { mac: Some(inventory::Mac(MAC.bytes)), ..Link::sample(2, "eth0", LinkKind::Physical, None) };
    let veth = || Link::sample(2, "eth0", LinkKind::Veth, None);
    let vlan = || Link { parent: Some(2), ..Link::sample(8, "eth0.5", LinkKind::Vlan, None) };
    let member = || Link { master: Some(7), ..eth0() };
    let bond = || Link::sample(7, "eth0", LinkKind::Bond, None);
    let bridge = || Link::sample(5, "br0", LinkKind::Bridge, None);
    let tunnel = || Link { ethernet: false, ..Link::sample(2, "eth0", LinkKind::Tun, None) };
    let bridged = || Link { master: Some(5), ..eth0() };
    let named = "interfaces = [\"eth0\"]";
    for (what, mode, uplinks, links, early, warned) in [
        ("hardware", "auto", named, vec![eth0()], &[(2, Early::IfNative)][..], ""),
        ("hardware, as told", "native", named, vec![eth0()], &[(2, Early::Native)], ""),
        ("hardware, off", "off", named, vec![eth0()], &[], ""),
        ("a veth", "auto", named, vec![veth()], &[], ""),
        ("a veth, as told", "native", named, vec![veth()], &[(2, Early::Native)], ""),
        ("a veth, generic", "generic", named, vec![veth()], &[(2, Early::Generic)], ""),
        ("a tunnel", "generic", named, vec![tunnel()], &[], "no Ethernet header"),
        ("a bond", "native", named, vec![bond(), Link { name: "eth1".into(), ..member() }], &[], "members"),
        ("a bond, auto", "auto", named, vec![bond()], &[], ""),
        ("below a VLAN", "auto", named, vec![eth0(), vlan()], &[], ""),
        ("below a VLAN, as told", "generic", named, vec![eth0(), vlan()], &[(8, Early::Generic)], "a VLAN"),
        (
            "a bridge's port, where tags do not count",
            "auto",
            "interfaces = [\"br0\"]",
            vec![bridged(), bridge(), vlan()],
            &[(2, Early::IfNative)],
            "",
        ),
    ] {
        let inventory = Inventory { links, ..Inventory::default() };
        let policy = format!("[uplink]\nxdp = \"{mode}\"\n{uplinks}\n");
        let found = want(&policy, &inventory, &State::default());
        assert_eq!(found.early, early.iter().copied().collect(), "{what}");
        let warnings: Vec<_> = found.warnings.iter().filter(|text| text.contains("early drop")).collect();
        assert_eq!(warnings.len(), usize::from(!warned.is_empty()), "{what}: {warnings:?}");
        assert!(warnings.iter().all(|text| text.contains(warned)), "{what}: {warnings:?}");
        let mac = found.state.tables.interfaces.get(&2).map(|interface| interface.mac);
        let known = inventory.link(2).filter(|_| mac.is_some()).and_then(|link| link.mac).map(Mac::from);
        assert_eq!(mac.unwrap_or_default(), known.unwrap_or_default(), "{what}: for whom frames are");
    }
}
