//! What holds for every packet: arbitrary bytes, and examples with some of their bytes changed.

use bytemuck::Zeroable as _;
use fw_common::decide::Workspace;
use fw_common::flow::{FlowKey, owner};
use fw_common::tables::memory::Memory;
use fw_common::tables::{LocalKey, PortKey, ReachKey, link_layer, role};
use fw_common::wire::{
    Arrival, Audience, Fragment, Packet, Plain, VlanTag, ethertype, open, parse, proto, tcp,
};
use fw_common::{Action, Address, Hook, Mark, Reason, Tables as _, Verdict, decide};
use proptest::prelude::*;

use crate::example::host::{BRIDGE_NO_ICC, DEVICES, PORT_N3, mac_of, tables};
use crate::example::{Scene, arrival, cases};

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
            owner: 0,
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
fn is_sound(scene: &Scene, before: &Memory, verdict: Verdict) -> Result<(), TestCaseError> {
    prop_assert_eq!(verdict.action == Action::Drop, verdict.reason.is_drop());
    if verdict.action == Action::Drop {
        prop_assert_eq!(verdict.mark, Mark::None);
    }
    if verdict.mark != Mark::None {
        prop_assert_eq!(verdict.action, Action::Accept);
    }
    let marks: &[Mark] = match scene.hook {
        Hook::UplinkIngress => &[Mark::None, Mark::In],
        Hook::PortIngress => &[Mark::None, Mark::In, Mark::Out, Mark::Reach],
        _ => &[Mark::None],
    };
    prop_assert!(marks.contains(&verdict.mark));
    if scene.hook == Hook::UplinkXdp {
        prop_assert!(verdict.action != Action::Accept);
    }
    let judged = scene.hook == Hook::UplinkEgress
        && scene.tables.settings.outbound != 0
        && scene.arrival.ingress_ifindex == 0;
    if matches!(scene.hook, Hook::UplinkEgress | Hook::BridgeEgress) {
        prop_assert!(judged || verdict.action == Action::Pass, "{verdict:?}");
    }
    if verdict.action == Action::Drop {
        prop_assert!(scene.tables.datagrams.borrow().keys().eq(before.datagrams.borrow().keys()));
        prop_assert!(
            scene.hook != Hook::UplinkEgress
                || scene.tables.flows.borrow().keys().eq(before.flows.borrow().keys())
        );
    }
    Ok(())
}

/// The same frame as XDP sees it, and as the kernel sees it behind XDP: no tag kept aside, for whom its MAC address says.
fn twins(scene: &Scene) -> (Scene, Scene) {
    let device = scene.arrival.ifindex;
    let mut behind = Scene { hook: Hook::UplinkIngress, ..scene.clone() };
    behind.arrival = arrival(device, mac_of(device), &scene.frame);
    (Scene { hook: Hook::UplinkXdp, ..behind.clone() }, behind)
}

/// Whether `uplink_ingress` must be asked: XDP does not see, or does not look up, what the verdict depends on.
fn is_left_to_tc(scene: &Scene) -> bool {
    let tables = &scene.tables;
    let Some(interface) = tables.interface(scene.arrival.ifindex) else { return true };
    if interface.role != role::UPLINK || interface.link_layer == link_layer::NONE {
        return true;
    }
    if open(&scene.frame[..], &scene.arrival, interface.link_layer).is_err() {
        return true;
    }
    let Some(packet) = packet_of(scene) else { return false };
    let key = |address| LocalKey::new(address, interface.l3_device);
    let group = packet.destination.is_multicast() || packet.destination.is_broadcast();
    let known = group
        || tables.subnet(&packet.destination).is_some()
        || tables.local_address(&key(packet.destination)).is_some();
    let waits = packet.protocol == proto::TCP && !packet.opens();
    let denied = tables.denied(&packet.source).is_some();
    (!known && tables.local_address(&key(packet.source)).is_some()) || (!denied && (!known || waits))
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
        let before = scene.tables.clone();
        is_sound(&scene, &before, decided(&scene).0)?;
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
        let before = scene.tables.clone();
        is_sound(&scene, &before, decided(&scene).0)?;
    }

    #[test]
    fn xdp_drops_what_the_hook_behind_would_drop_and_for_the_same_reason(scene in scenes()) {
        let (early, behind) = twins(&scene);
        let (dropped, would_be) = (decided(&early).0, decided(&behind).0);
        if dropped.action == Action::Drop {
            prop_assert_eq!(dropped, would_be);
        } else {
            // A token that is taken is taken once.
            let only_there = would_be.action != Action::Drop
                || would_be.reason == Reason::OverLimit
                || is_left_to_tc(&behind);
            prop_assert!(only_there, "{would_be:?} could have been dropped early");
        }
        // Whatever it decides, it changes no flow.
        let before = scene.tables.flows.borrow();
        prop_assert_eq!(&*before, &*early.tables.flows.borrow());
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
        let (verdict, Workspace { packet, inner, .. }) = decided(&scene);
        if verdict.mark == Mark::In {
            let tables = &scene.tables;
            let known = tables.endpoint(&packet.destination).is_some()
                || is_published(tables, packet.destination, packet.protocol, packet.destination_port)
                || is_container_flow(tables, &FlowKey::inward(&packet));
            let about = verdict.reason == Reason::RelatedError
                && (is_published(tables, inner.source, inner.protocol, inner.source_port)
                    || is_container_flow(tables, &FlowKey::outward(&inner)));
            // ARP along a link; `without_icc_nothing_but_a_link_leads_to_a_neighbour` says where it may go.
            let asks = verdict.reason == Reason::Link && packet.version == 0;
            prop_assert!(known || about || asks, "{verdict:?} of {packet:?}");
        }
    }

    #[test]
    fn a_container_speaks_for_itself_and_stays_where_it_may(scene in scenes()) {
        let (verdict, _) = decided(&scene);
        let at_bridge = matches!(scene.hook, Hook::PortIngress | Hook::BridgeIngress);
        let vetted = scene.hook == Hook::BridgeIngress && scene.arrival.mark & (3 << 17) != 0;
        let aside = vetted || verdict.reason == Reason::OtherHost;
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
        // A port that Docker lets the outside reach at a container's own address is as open to other networks.
        let ruled = matches!(verdict.reason, Reason::AllowRule | Reason::PublishedOpen)
            && (verdict.mark == Mark::None || tables.settings.nat_owned != 0);
        let direct = ruled && tables.ports.keys().any(|key| key.address == packet.destination);
        let reached = direct || matches!(verdict.reason, Reason::Reach | Reason::Answer);
        prop_assert!(!elsewhere || ours.is_some() || reached, "to {}", packet.destination);
        if network.internal != 0 {
            let destination = packet.destination;
            let on_link = destination.is_link_local_v6() || destination.is_multicast() || destination.is_broadcast();
            let gateway = ours.is_some_and(|local| local.ifindex == interface.network);
            let answer = verdict.reason == Reason::Answer && elsewhere;
            prop_assert!(gateway || on_link || in_network(destination) || answer, "to {destination}");
        }
        if verdict.mark == Mark::Out {
            prop_assert!(!on_link && interface.endpoint_known != 0 && network.internal == 0);
            prop_assert!(!in_network(packet.destination) || ours.is_some());
        }
    }

    /// Whatever the frame: past the port of a network without icc goes only what a link lets through.
    #[test]
    fn without_icc_nothing_but_a_link_leads_to_a_neighbour(scene in scenes()) {
        let device = scene.tables.interface(scene.arrival.ifindex);
        let apart = device.is_some_and(|device| device.role == role::PORT && device.network == BRIDGE_NO_ICC);
        if scene.hook != Hook::PortIngress || !apart {
            return Ok(());
        }
        let (verdict, _) = decided(&scene);
        if verdict.action == Action::Drop {
            return Ok(());
        }
        let to: [u8; 6] = scene.frame[..6].try_into().expect("a frame with addresses");
        let to_host = to == mac_of(BRIDGE_NO_ICC).bytes;
        let vouched = verdict.mark == Mark::In;
        prop_assert!(!vouched || matches!(verdict.reason, Reason::Link | Reason::Answer), "{verdict:?}");
        prop_assert!(vouched || to_host || to[0] & 1 == 1, "{verdict:?} to {to:?}");
        // What goes on unvouched, to a group, is stopped at every other port.
        let there = Arrival {
            ifindex: PORT_N3,
            ingress_ifindex: scene.arrival.ifindex,
            audience: if to_host { Audience::Other } else { Audience::Multicast },
            mark: (verdict.mark as u32) << 17,
            ..scene.arrival
        };
        let leaving = Scene { hook: Hook::PortEgress, arrival: there, ..scene };
        let (left, _) = decided(&leaving);
        prop_assert!(vouched || left.reason == Reason::Unvouched, "{left:?}");
    }

    #[test]
    fn an_answer_answers_what_came_in(scene in scenes()) {
        let before = scene.tables.inbound_flows.borrow().clone();
        let (verdict, Workspace { packet, inner, .. }) = decided(&scene);
        if verdict.reason == Reason::Answer {
            let key = if packet.is_icmp_error() { FlowKey::inward(&inner) } else { FlowKey::outward(&packet) };
            let follows = packet.fragment() == Fragment::Later && !scene.tables.datagrams.borrow().is_empty();
            prop_assert!(follows || (before.contains_key(&key) && !packet.opens()), "{packet:?}");
        } else if scene.hook != Hook::BridgeEgress
            && !matches!(verdict.reason, Reason::Reach | Reason::Link | Reason::AllowRule | Reason::PublishedOpen)
        {
            prop_assert!(*scene.tables.inbound_flows.borrow() == before, "{verdict:?} of {packet:?}");
        }
    }

    #[test]
    fn from_one_network_to_another_only_what_reaches_or_answers(scene in scenes()) {
        let (verdict, Workspace { packet, .. }) = decided(&scene);
        if verdict.reason == Reason::Reach || verdict.mark == Mark::Reach {
            let tables = &scene.tables;
            let from = tables.interface(scene.arrival.ifindex).expect("not dropped").network;
            let to = tables.subnet(&packet.destination).expect("not dropped").network;
            let reaches = tables.reaches(&ReachKey { from, to });
            prop_assert!(from != to && (reaches || verdict.reason == Reason::Answer), "{packet:?}");
            let known = tables.endpoint(&packet.destination).is_some();
            prop_assert!(verdict.mark == Mark::None || known, "{packet:?}");
        }
    }

    /// What is read at a glance is what parsing makes of it, and what takes the fast path is among it.
    #[test]
    fn a_glance_sees_what_parsing_sees(scene in scenes()) {
        let mut work = Workspace::zeroed();
        if work.glance(&scene.arrival, scene.frame.as_slice()) {
            let frame = open(scene.frame.as_slice(), &scene.arrival, link_layer::ETHERNET);
            let frame = frame.expect("a plain packet stands in a whole frame");
            prop_assert_eq!((frame.destination, frame.source), (work.head.to(), work.head.from()));
            prop_assert!(!frame.other_vlan);
            let mut packet = Packet::zeroed();
            prop_assert_eq!(parse(scene.frame.as_slice(), frame.ethertype, frame.network, &mut packet), Ok(()));
            prop_assert_eq!(packet, work.packet);
            let mut plain = Plain::zeroed();
            if plain.read(&work.head, &packet, scene.arrival.ifindex) {
                prop_assert!(packet.fragment() == Fragment::Whole && packet.source_port != 0);
                prop_assert_eq!((plain.key.source, plain.key.destination), (packet.source, packet.destination));
                prop_assert!(packet.protocol == proto::UDP || packet.tcp_flags & 0x37 == tcp::ACK);
            }
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
        let mut longer = scene.clone();
        let (verdict, _) = decided(&scene);
        // Only what lacks bytes may find them there.
        if packet_of(&scene).is_some() {
            longer.frame.extend(trailer);
            prop_assert_eq!(decided(&longer).0, verdict);
        }
    }

    #[test]
    fn the_same_packet_again_meets_the_same_verdict(scene in scenes()) {
        let (verdict, _) = decided(&scene);
        // A token is spent, and what a rule let out goes on as a flow.
        let spent = !scene.tables.limits.is_empty() || scene.tables.settings.outbound != 0;
        if !spent {
            prop_assert_eq!(decided(&scene).0, verdict);
        }
    }
}
