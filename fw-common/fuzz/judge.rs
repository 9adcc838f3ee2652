//! What holds for every packet, whatever the tables: shared by the fuzzer and the test that replays its corpus.
//!
//! An input is six bytes (hook, device, for whom the frame is, the tag kept aside, the device that it came in by, the
//! number of bytes by which the tables are chosen; 0 for those of the example host), those bytes, and the frame.

use bytemuck::Zeroable as _;
use fw_common::decide::Workspace;
use fw_common::flow::{FlowKey, owner};
use fw_common::tables::PortKey;
use fw_common::tables::memory::Memory;
use fw_common::wire::{Arrival, Audience, Packet, VlanTag};
use fw_common::{Action, Address, Hook, Mark, Reason, Tables as _, Verdict, decide};

use crate::example;
use crate::example::host::{DEVICES, mac_of};
use crate::random::{Random, world};

/// Decides what an input describes, and checks what must hold of any decision.
pub(crate) fn judge(input: &[u8]) {
    let Some((&[hook, device, audience, tag, ingress, chosen], rest)) = input.split_first_chunk() else {
        return;
    };
    let Some(hook) = Hook::from_number(hook) else { return };
    let (choices, frame) = rest.split_at(usize::from(chosen).min(rest.len()));
    let tables =
        if chosen == 0 { example::host::tables() } else { world::tables(&mut Random::from_bytes(choices)) };
    let ifindex = DEVICES[usize::from(device) % DEVICES.len()];
    let seen = example::arrival(ifindex, mac_of(ifindex), frame);
    let arrival = Arrival {
        ingress_ifindex: DEVICES.get(usize::from(ingress)).copied().unwrap_or(0),
        vlan: VlanTag::new(u32::from(tag & 1), u32::from(tag >> 1)),
        audience: match audience {
            0 => Audience::Host,
            1 => Audience::Broadcast,
            2 => Audience::Multicast,
            3 => Audience::Other,
            _ => seen.audience,
        },
        ..seen
    };
    let mut work = Workspace::zeroed();
    let verdict = decide(hook, &arrival, frame, &tables, &mut work);
    is_sound(hook, verdict);
    is_about(hook, verdict, &tables, &work);
    // What leaves nothing new behind meets the same verdict again.
    let before = tables.clone();
    if decide(hook, &arrival, frame, &tables, &mut work) != verdict {
        assert_ne!(before, tables, "two verdicts for one packet, the first {verdict:?}");
    }
}

/// What holds of every verdict.
fn is_sound(hook: Hook, verdict: Verdict) {
    assert_eq!(verdict.action == Action::Drop, verdict.reason.is_drop(), "{verdict:?}");
    assert!(verdict.mark == Mark::None || verdict.action == Action::Accept, "{verdict:?}");
    let marks: &[Mark] = match hook {
        Hook::UplinkIngress => &[Mark::None, Mark::In],
        Hook::PortIngress => &[Mark::None, Mark::In, Mark::Out, Mark::Reach],
        Hook::UplinkXdp
        | Hook::UplinkEgress
        | Hook::PortEgress
        | Hook::BridgeIngress
        | Hook::BridgeEgress => &[Mark::None],
    };
    assert!(marks.contains(&verdict.mark), "{verdict:?} at {}", hook.name());
    let actions: &[Action] = match hook {
        Hook::UplinkXdp | Hook::PortEgress => &[Action::Pass, Action::Drop],
        Hook::BridgeEgress => &[Action::Pass],
        Hook::UplinkIngress | Hook::UplinkEgress | Hook::PortIngress | Hook::BridgeIngress => {
            &[Action::Accept, Action::Pass, Action::Drop]
        }
    };
    assert!(actions.contains(&verdict.action), "{verdict:?} at {}", hook.name());
    if verdict.mark == Mark::Reach {
        let known = [Reason::Reach, Reason::Answer].contains(&verdict.reason);
        assert!(known, "{verdict:?} at {}", hook.name());
    }
}

/// What holds of a verdict and the packet that it is about.
fn is_about(hook: Hook, verdict: Verdict, tables: &Memory, Workspace { packet, inner, .. }: &Workspace) {
    // Of a known fragment its first one was judged, and ARP is not parsed as a packet.
    if verdict.mark == Mark::In && verdict.reason != Reason::KnownFragment && parsed(packet) {
        let known = tables.endpoint(&packet.destination).is_some()
            || is_published(tables, packet.destination, packet.service_proto(), packet.destination_port)
            || is_containers(tables, &FlowKey::inward(packet));
        let about = verdict.reason == Reason::RelatedError
            && (is_published(tables, inner.source, inner.protocol, inner.source_port)
                || is_containers(tables, &FlowKey::outward(inner)));
        assert!(known || about, "{verdict:?} of {packet:?}");
    }
    if verdict.reason == Reason::Reply {
        assert!(
            !packet.opens() && tables.flow(&FlowKey::inward(packet)).is_some(),
            "a reply to nothing: {packet:?}"
        );
    }
    let passes = verdict.action != Action::Drop && parsed(packet);
    if hook == Hook::UplinkEgress && verdict.action == Action::Drop {
        assert_ne!(tables.settings.outbound, 0, "dropped on its way out: {verdict:?} of {packet:?}");
    }
    if hook == Hook::UplinkIngress && passes && verdict.reason != Reason::OtherHost {
        assert!(tables.subnet(&packet.source).is_none(), "from inside, at an uplink: {packet:?}");
        assert!(tables.denied(&packet.source).is_none(), "denied: {packet:?}");
    }
}

/// Whether the decision read the packet to its end; what it never parsed is all zeroes.
fn parsed(packet: &Packet) -> bool {
    packet.version != 0
}

fn is_published(tables: &Memory, local: Address, proto: u8, port: u16) -> bool {
    [local, local.any_of_family()].into_iter().any(|address| {
        tables.port(&PortKey::new(address, proto, port)).is_some_and(|entry| entry.published != 0)
    })
}

fn is_containers(tables: &Memory, key: &FlowKey) -> bool {
    tables.flow(key).is_some_and(|flow| flow.owner == owner::CONTAINER)
}
