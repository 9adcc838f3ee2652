//! What holds for every packet: arbitrary bytes, and examples with some of their bytes changed.

use bytemuck::Zeroable as _;
use fw_common::decide::Workspace;
use fw_common::flow::{FlowKey, owner};
use fw_common::tables::memory::Memory;
use fw_common::tables::{LocalKey, PortKey, link_layer, role};
use fw_common::wire::{Arrival, Audience, Packet, VlanTag, ethertype, open, parse};
use fw_common::{Action, Address, Hook, Mark, Reason, Tables as _, Verdict, decide};
use proptest::prelude::*;

use crate::example::host::{DEVICES, tables};
use crate::example::{Scene, cases};

const HOOKS: [Hook; 7] = [
    Hook::UplinkXdp,
    Hook::UplinkIngress,
    Hook::UplinkEgress,
    Hook::PortIngress,
    Hook::PortEgress,
    Hook::BridgeIngress,
    Hook::BridgeEgress,
];

/// Decides, and lends what was parsed on the way.
fn decided(scene: &Scene) -> (Verdict, Workspace) {
    let mut work = Workspace::zeroed();
    let verdict = decide(scene.hook, &scene.arrival, &scene.frame[..], &scene.tables, &mut work);
    (verdict, work)
}

/// The packet of a scene that the decision must have read to its end.
fn packet_of(scene: &Scene) -> Option<Packet> {
    let interface = scene.tables.interface(scene.arrival.ifindex)?;
    let frame = open(&scene.frame[..], &scene.arrival, interface.link_layer).ok()?;
    if frame.other_vlan || !matches!(frame.ethertype, ethertype::IPV4 | ethertype::IPV6) {
        return None;
    }
    let mut packet = Packet::zeroed();
    parse(&scene.frame[..], frame.ethertype, frame.network, &mut packet).ok()?;
    Some(packet)
}

fn arrivals() -> impl Strategy<Value = Arrival> {
    let audience =
        prop::sample::select(vec![Audience::Host, Audience::Broadcast, Audience::Multicast, Audience::Other]);
    let device = prop::sample::select(DEVICES.to_vec());
    let kind = prop::sample::select(vec![ethertype::IPV4, ethertype::IPV6, ethertype::ARP]);
    let vlan = (0u32..2, prop::sample::select(vec![0u32, 0xe000, 5]));
    (device, prop::sample::select(DEVICES.to_vec()), kind, vlan, audience, any::<u32>()).prop_map(
        |(ifindex, ingress_ifindex, ethertype, (present, control), audience, mark)| Arrival {
            ifindex,
            ingress_ifindex,
            ethertype,
            vlan: VlanTag::new(present, control),
            audience,
            mark,
        },
    )
}

/// Noise, some of which begins like a frame.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(vec![&[8u8, 0, 0x45][..], &[0x86, 0xdd, 0x60], &[0x81, 0, 0], &[]]);
    (any::<[u8; 12]>(), kind, prop::collection::vec(any::<u8>(), 0..200), 0usize..300).prop_map(
        |(macs, kind, rest, length)| {
            let mut bytes = [&macs[..], kind, &rest].concat();
            bytes.truncate(length);
            bytes
        },
    )
}

/// An example with up to six bytes changed, and now and then another length.
fn scenes() -> impl Strategy<Value = Scene> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let length = prop::option::weighted(0.1, 0usize..160);
    let scenes: Vec<Scene> = cases().into_iter().map(|case| case.scene).collect();
    (any::<prop::sample::Index>(), changes, length).prop_map(move |(which, changes, length)| {
        let mut scene = which.get(&scenes).clone();
        if let Some(length) = length {
            scene.frame.resize(length, 0);
        }
        for (at, byte) in changes {
            if !scene.frame.is_empty() {
                let at = at.index(scene.frame.len());
                scene.frame[at] = byte;
            }
        }
        scene
    })
}

/// What holds whatever the hook.
fn is_sound(scene: &Scene, verdict: Verdict) -> Result<(), TestCaseError> {
    prop_assert_eq!(verdict.action == Action::Drop, verdict.reason.is_drop());
    if verdict.action == Action::Drop {
        prop_assert_eq!(verdict.mark, Mark::None);
    }
    if verdict.mark != Mark::None {
        prop_assert_eq!(verdict.action, Action::Accept);
    }
    let marks: &[Mark] = match scene.hook {
        Hook::UplinkIngress => &[Mark::None, Mark::In],
        Hook::PortIngress => &[Mark::None, Mark::In, Mark::Out],
        _ => &[Mark::None],
    };
    prop_assert!(marks.contains(&verdict.mark));
    if matches!(scene.hook, Hook::UplinkEgress | Hook::UplinkXdp | Hook::PortEgress | Hook::BridgeEgress) {
        prop_assert_eq!(verdict.action, Action::Pass);
    }
    Ok(())
}

/// Whether Docker publishes this tuple's local end, by its own address or by any.
fn is_published(tables: &Memory, local: Address, proto: u8, port: u16) -> bool {
    [local, local.any_of_family()].into_iter().any(|address| {
        tables.port(&PortKey::new(address, proto, port)).is_some_and(|entry| entry.published != 0)
    })
}

fn is_container_flow(tables: &Memory, key: &FlowKey) -> bool {
    tables.flow(key).is_some_and(|flow| flow.owner == owner::CONTAINER)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn noise_is_decided_like_anything_else(
        hook in prop::sample::select(HOOKS.to_vec()),
        arrival in arrivals(),
        frame in noise(),
    ) {
        let scene = Scene { name: String::new(), hook, arrival, frame, tables: tables() };
        is_sound(&scene, decided(&scene).0)?;
    }

    #[test]
    fn what_is_parsed_lies_within_the_bytes(bytes in noise(), offset in 0u32..20, six in any::<bool>()) {
        let kind = if six { ethertype::IPV6 } else { ethertype::IPV4 };
        let mut packet = Packet::zeroed();
        if parse(&bytes[..], kind, offset, &mut packet).is_ok() {
            prop_assert!(offset < packet.transport);
            prop_assert!(packet.transport <= packet.end);
            prop_assert!(packet.end as usize <= bytes.len());
            prop_assert_eq!(packet.version, if six { 6 } else { 4 });
        }
    }

    #[test]
    fn a_changed_example_is_decided_soundly(scene in scenes()) {
        is_sound(&scene, decided(&scene).0)?;
    }

    #[test]
    fn a_container_address_never_comes_in_from_outside(scene in scenes()) {
        let (verdict, _) = decided(&scene);
        let judged = scene.hook == Hook::UplinkIngress && verdict.reason != Reason::OtherHost;
        if let (true, Some(packet)) = (judged, packet_of(&scene)) {
            let inside = scene.tables.subnet(&packet.source).is_some();
            prop_assert!(!inside || verdict.action == Action::Drop, "{verdict:?} of {packet:?}");
            let denied = scene.tables.denied(&packet.source).is_some();
            prop_assert!(!denied || verdict.action == Action::Drop, "{verdict:?} of {packet:?}");
        }
    }

    #[test]
    fn a_syn_is_no_reply(scene in scenes()) {
        let (verdict, work) = decided(&scene);
        prop_assert!(verdict.reason != Reason::Reply || !work.packet.opens());
        // Nor is anything without a flow, or of another tuple.
        if verdict.reason == Reason::Reply {
            prop_assert!(scene.tables.flow(&FlowKey::inward(&work.packet)).is_some());
        }
    }

    #[test]
    fn what_is_vouched_for_inwards_has_a_known_end(scene in scenes()) {
        let (verdict, Workspace { packet, inner }) = decided(&scene);
        if verdict.mark == Mark::In {
            let tables = &scene.tables;
            let known = tables.endpoint(&packet.destination).is_some()
                || is_published(tables, packet.destination, packet.protocol, packet.destination_port)
                || is_container_flow(tables, &FlowKey::inward(&packet));
            let about = verdict.reason == Reason::RelatedError
                && (is_published(tables, inner.source, inner.protocol, inner.source_port)
                    || is_container_flow(tables, &FlowKey::outward(&inner)));
            prop_assert!(known || about, "{verdict:?} of {packet:?}");
        }
    }

    #[test]
    fn a_container_speaks_for_itself_and_stays_where_it_may(scene in scenes()) {
        let (verdict, _) = decided(&scene);
        let at_bridge = matches!(scene.hook, Hook::PortIngress | Hook::BridgeIngress);
        let aside = matches!(verdict.reason, Reason::JudgedAtPort | Reason::OtherHost);
        let (true, false, Some(packet)) = (at_bridge, aside, packet_of(&scene)) else { return Ok(()) };
        if verdict.action == Action::Drop {
            return Ok(());
        }
        let tables = &scene.tables;
        let interface = tables.interface(scene.arrival.ifindex).expect("not dropped");
        prop_assert!(matches!(interface.role, role::PORT | role::BRIDGE));
        let network = tables.network(interface.network).expect("not dropped");
        let in_network =
            |address| tables.subnet(&address).is_some_and(|subnet| subnet.network == interface.network);
        let source = packet.source;
        let on_link = source.is_link_local_v6() || source.is_unspecified();
        prop_assert!(network.spoofing != 0 || on_link || in_network(source), "from {source}");
        let ours = tables.local_address(&LocalKey::new(packet.destination, interface.l3_device));
        let elsewhere = tables.subnet(&packet.destination).is_some() && !in_network(packet.destination);
        prop_assert!(!elsewhere || ours.is_some(), "to {}", packet.destination);
        if network.internal != 0 {
            let destination = packet.destination;
            let on_link = destination.is_link_local_v6() || destination.is_multicast() || destination.is_broadcast();
            let gateway = ours.is_some_and(|local| local.ifindex == interface.network);
            prop_assert!(gateway || on_link || in_network(destination), "to {destination}");
        }
        if verdict.mark == Mark::Out {
            prop_assert!(!on_link && interface.endpoint_known != 0);
            prop_assert!(!in_network(packet.destination) && ours.is_none());
        }
    }

    #[test]
    fn priority_tags_change_nothing(scene in scenes(), count in 1usize..=8) {
        let interface = scene.tables.interface(scene.arrival.ifindex);
        let tagged_already = matches!(scene.frame.get(12..14), Some([0x81, 0] | [0x88, 0xa8]));
        let bare = interface.is_none_or(|interface| interface.link_layer == link_layer::NONE);
        if bare || tagged_already || scene.arrival.vlan.is_present() || scene.frame.len() < 14 {
            return Ok(());
        }
        let mut tagged = scene.clone();
        let tags = [0x81, 0, 0, 0].repeat(count);
        tagged.frame.splice(12..12, tags);
        prop_assert_eq!(decided(&tagged).0, decided(&scene).0);
    }

    #[test]
    fn a_trailer_changes_nothing(scene in scenes(), trailer in prop::collection::vec(any::<u8>(), 1..60)) {
        let (verdict, _) = decided(&scene);
        // Only what lacks bytes may find them there.
        if packet_of(&scene).is_some() {
            let mut longer = scene.clone();
            longer.frame.extend(trailer);
            prop_assert_eq!(decided(&longer).0, verdict);
        }
    }

    #[test]
    fn the_same_packet_again_meets_the_same_verdict(scene in scenes()) {
        let (verdict, _) = decided(&scene);
        prop_assert_eq!(decided(&scene).0, verdict);
    }
}
