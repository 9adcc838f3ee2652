//! From verdict to action: once for each packet, with its counters, its mark and, for a sample of drops, an event.

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use fw_common::decide::{Workspace, glance, marked};
use fw_common::event::{EVENTS_PER_SECOND, Event, FRAME};
use fw_common::flow::counted;
use fw_common::tables::{EventRate, counter_index};
use fw_common::wire::Arrival;
use fw_common::{Action, Hook, Reason, Tables, Verdict, decide};

use crate::maps::{self, COUNTERS, Desk, EVENT_BUDGET, EVENT_RATE, EVENTS, Maps, RULES, now};
use crate::packet::Context;
use crate::{fast, observed};

/// Decides the packet at this hook and says to the kernel what happens to it.
///
/// A packet ends in one counted reason: XDP counts what it drops, and leaves all else to `uplink_ingress`; observing, it
/// leaves everything.
#[inline(always)]
pub(crate) fn run<C: Context>(hook: Hook, context: &C) -> i32 {
    let Some(maps) = Maps::open(context) else {
        return C::UNPREPARED;
    };
    let settings = maps.settings();
    let observing = maps.observes();
    let early = matches!(hook, Hook::UplinkXdp);
    if early && observing {
        return C::ON;
    }
    let Some(desk) = maps::desk() else {
        return C::UNPREPARED;
    };
    desk.arrival = context.arrival();
    // Whatever the packet before left on the desk: it may have gone without a decision.
    desk.work.glance = glance::NONE;
    let fast = settings.fast_path != 0 && !observing;
    if matches!(hook, Hook::UplinkEgress) && fast && desk.arrival.owner == counted::CARRIED {
        context.set_owner(0);
        return C::ON;
    }
    let comes_in = matches!(hook, Hook::UplinkIngress | Hook::PortIngress);
    if comes_in {
        desk.pending.present = 0;
        if fast {
            let length = context.length();
            let code = fast::carry(context, desk, hook, settings.mark_bit);
            if code != C::ON {
                count(hook, desk.pending.reason, desk.pending.rule, length);
                return code;
            }
        }
    }
    // Before the decision, which changes nothing in the packet: what is known here is one state to the verifier, not many.
    match hook {
        Hook::UplinkEgress if desk.pending.present != 0 => _ = fast::learn(context, desk),
        Hook::BridgeEgress if desk.arrival.owner == counted::RENEWS => {
            context.set_owner(0);
            fast::renew(context, desk);
        }
        _ => {}
    }
    let Desk { work, arrival, pending, .. } = &mut *desk;
    let verdict = decide(hook, arrival, context, &maps, work);
    #[cfg(feature = "log")]
    crate::log::verdict(hook, verdict, arrival.ifindex);
    let observing = maps.observes();
    if !early || matches!(verdict.action, Action::Drop) {
        count(hook, verdict.reason as u8, verdict.rule, context.length());
    }
    // The bridge hook keeps what the port hook vouched for, but on the way to a socket; a packet leaving keeps what it
    // carries.
    let ends_here = matches!((hook, verdict.reason), (Hook::BridgeIngress, Reason::ToHost));
    if matches!(hook, Hook::UplinkIngress | Hook::PortIngress) || ends_here {
        let field = if observing { fw_common::Mark::None } else { verdict.mark };
        let mark = marked(arrival.mark, field, settings.mark_bit);
        if mark != arrival.mark {
            context.set_mark(mark);
        }
    }
    stamp(hook, context, &verdict, work, observing);
    if verdict.action == Action::Drop {
        if observing {
            let why = observed::Why::new(hook, verdict);
            observed::count(why, arrival, work, context.length());
        }
        report(hook, arrival, &verdict, &maps, work);
        return if observing { C::ON } else { C::DROP };
    }
    if comes_in && pending.present != 0 {
        pending.note(verdict.rule, verdict.reason as u8, verdict.mark as u8, work.owner);
        fast::judged(context, desk, hook);
    }
    C::ON
}

/// Writes the container's number beside the packet, where bridge, routing, NAT and fragmentation leave it alone, for
/// `uplink_egress` to count the flow by. What a container has written there itself, which a veth lets through, goes: at
/// its port, and for a port without a hook at the bridge.
#[inline(always)]
fn stamp<C: Context>(hook: Hook, context: &C, verdict: &Verdict, work: &Workspace, observing: bool) {
    let owner = match hook {
        Hook::PortIngress => work.owner,
        Hook::BridgeIngress if verdict.reason != Reason::JudgedAtPort && !observing => 0,
        Hook::UplinkXdp
        | Hook::UplinkIngress
        | Hook::UplinkEgress
        | Hook::PortEgress
        | Hook::BridgeIngress
        | Hook::BridgeEgress => return,
    };
    context.set_owner(owner);
}

#[inline(always)]
fn count(hook: Hook, reason: u8, rule: u32, length: u32) {
    if reason == Reason::OtherHost as u8 {
        return;
    }
    if let Some(count) = COUNTERS.get_ptr_mut(counter_index(hook, reason)) {
        add(count, length);
    }
    if rule != 0
        && let Some(count) = RULES.get_ptr_mut(rule)
    {
        add(count, length);
    }
}

#[inline(always)]
fn add(count: *mut fw_common::tables::Count, length: u32) {
    // SAFETY: the pointer is to this CPU's slot of a per-CPU array, which lives as long as the program; programs of
    // one CPU do not interleave within an update (TC runs with bottom halves disabled).
    unsafe {
        (*count).packets += 1;
        (*count).bytes += u64::from(length);
    }
}

/// Records a drop, or observing one that would be, from what the decision has parsed. An event is written while this CPU's
/// budget for the second lasts; what has none is counted.
#[inline(always)]
fn report<C: Context>(
    hook: Hook,
    arrival: &Arrival,
    verdict: &Verdict,
    maps: &Maps<'_, C>,
    work: &Workspace,
) {
    let Some(budget) = EVENT_BUDGET.get_ptr_mut(0) else { return };
    // SAFETY: as for the counters, the slot is this CPU's own and lives as long as the program.
    let budget = unsafe { &mut *budget };
    let second = now();
    if budget.second != second {
        budget.second = second;
        budget.left = EVENT_RATE.get(0).map_or(EVENTS_PER_SECOND, |rate: &EventRate| rate.at(second));
    }
    if budget.left == 0 {
        budget.missed += 1;
        return;
    }
    budget.left -= 1;
    let Some(mut entry) = EVENTS.reserve_untyped::<Event>(0) else {
        budget.missed += 1;
        return;
    };
    let packet = &work.packet;
    let event = entry.write(Event {
        // SAFETY: the helper takes no arguments and has no preconditions.
        time: unsafe { bpf_ktime_get_ns() },
        missed: budget.missed,
        source: packet.source,
        destination: packet.destination,
        ifindex: arrival.ifindex,
        length: maps.context.length(),
        rule: verdict.rule,
        // SAFETY: as above.
        cpu: unsafe { bpf_get_smp_processor_id() } as u32,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        ethertype: arrival.ethertype,
        captured: 0,
        proto: packet.protocol,
        hook: hook as u8,
        reason: verdict.reason as u8,
        observed: maps.settings().observe,
        detail: packet.icmp_type | packet.tcp_flags,
        reserved: [0; 3],
        frame: [0; FRAME],
    });
    event.captured = maps.context.frame(&mut event.frame);
    entry.submit(0);
}
