//! The fast path: what `fw_common::fast` says of it, carried out on packets and maps.
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "what is passed by value is copied to the stack"
)]

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use fw_common::decide::marked;
use fw_common::fast::{FastKey, FastPath, LIFE, Pending, replaces};
use fw_common::flow::counted;
use fw_common::tables::{Endpoint, Interface, capacity, link_layer};
use fw_common::wire::Plain;
use fw_common::{Hook, Mark};

use crate::maps::{Desk, ENDPOINTS, FAST_CANDIDATES, FAST_PATHS, GENERATION, INTERFACES};
use crate::packet::Context;

const BPF_EXIST: u64 = 2;

/// Whether a packet that comes in has been sent on its way; if not, it is noted on the desk for the hook where it leaves.
/// Out of line for a stack frame of its own; what it has to say stands on the desk.
#[inline(never)]
pub(crate) fn carry<C: Context>(context: &C, desk: &mut Desk, hook: Hook, mark_bit: u8) -> i32 {
    let Desk { arrival, work, pending, path, .. } = desk;
    if !work.glance(arrival, context) || !pending.packet.read(&work.head, &work.packet, arrival.ifindex) {
        return C::ON;
    }
    pending.length = unit(context, &pending.packet);
    pending.generation = GENERATION.get(0).map_or(0, |generation| generation.number);
    pending.hook = hook as u8;
    pending.known = 0;
    pending.present = 1;
    if !find(&pending.packet.key, path) {
        return C::ON;
    }
    pending.known = 1;
    if !path.serves(&pending.packet, pending.length, pending.generation, now()) {
        return C::ON;
    }
    let version = pending.packet.version;
    let rewritten = work.head.rewrite(version, pending.packet.key.protocol, path);
    if !context.write(&work.head, &rewritten, version) {
        return C::ON;
    }
    pending.present = 0;
    pending.rule = path.rule;
    pending.reason = path.reason;
    let inward = path.replaces == replaces::DESTINATION;
    context.set_owner(if inward { 0 } else { counted::CARRIED });
    // What a hook before ours has set there is nobody's word for it.
    let mark = marked(arrival.mark, Mark::None, mark_bit);
    if mark != arrival.mark {
        context.set_mark(mark);
    }
    context.send(path.out, inward, arrival.audience)
}

/// Copies the path of a tuple out of the table; false if there is none.
///
/// The kernel uses the elements of such a table again at once, also while they are read: what was copied counts only if it
/// says itself that it is of this tuple, before and after.
#[inline(always)]
fn find(key: &FastKey, path: &mut FastPath) -> bool {
    let Some(known) = FAST_PATHS.get_ptr(key) else { return false };
    // SAFETY: the element's memory lives as long as the program, and every bit pattern of it is valid; volatile, so that
    // the compiler asks again.
    unsafe {
        *path = *known;
        path.tag == key.tag() && (&raw const (*known).tag).read_volatile() == path.tag
    }
}

/// Sees what was decided of a packet that [`carry`] has left to the stack, as it is noted on the desk: of the verdict itself
/// the verifier would follow every case there is. Out of line for the same reason.
#[inline(never)]
pub(crate) fn judged<C: Context>(context: &C, desk: &mut Desk, hook: Hook) -> i32 {
    let pending = &mut desk.pending;
    if !pending.is_vouched_for(hook) {
        pending.present = 0;
        return 0;
    }
    if matches!(hook, Hook::UplinkIngress) && pending.known != 0 {
        context.set_owner(counted::RENEWS);
        vouch(desk);
    }
    0
}

/// Says of the path of a packet under which tables it was judged.
#[inline(always)]
fn vouch(desk: &mut Desk) {
    let Desk { pending, path, .. } = desk;
    if !find(&pending.packet.key, path) {
        return;
    }
    if path.generation != pending.generation || path.rule != pending.rule || path.reason != pending.reason {
        path.generation = pending.generation;
        path.rule = pending.rule;
        path.reason = pending.reason;
        // Fails only if it was forgotten meanwhile.
        let _ = FAST_PATHS.insert(&pending.packet.key, &*path, BPF_EXIST);
    }
}

/// Sees a packet leave towards its container, and renews the path for those that follow. Out of line for a stack frame of
/// its own.
#[inline(never)]
pub(crate) fn renew<C: Context>(context: &C, desk: &mut Desk) -> i32 {
    let Desk { arrival, work, leaving, path, back, key, .. } = desk;
    if !work.glance(arrival, context) || !leaving.read(&work.head, &work.packet, arrival.ifindex) {
        return 0;
    }
    // SAFETY: the references end with this function; an entry that is replaced meanwhile is freed by RCU only afterwards.
    let endpoint: Option<&Endpoint> = unsafe { ENDPOINTS.get(&leaving.key.destination) };
    let Some(endpoint) = endpoint else { return 0 };
    Pending::answers(leaving, key);
    key.ifindex = endpoint.port;
    if !find(key, back) {
        return 0;
    }
    leaving.key.destination = back.address;
    leaving.key.destination_port = back.port;
    leaving.key.ifindex = back.out;
    if find(&leaving.key, path)
        && path.answers(key, back)
        && leaving.to == path.to
        && leaving.from == path.from
    {
        path.renew(unit(context, leaving), now());
        let _ = FAST_PATHS.insert(&leaving.key, &*path, BPF_EXIST);
    }
    0
}

/// Sees a container's packet leave, and makes or renews the paths of those that follow and of their answers. Out of line
/// for a stack frame of its own.
#[inline(never)]
pub(crate) fn learn<C: Context>(context: &C, desk: &mut Desk) -> i32 {
    let Desk { arrival, work, pending, leaving, path, back, key, .. } = desk;
    pending.present = 0;
    if pending.hook != Hook::PortIngress as u8
        || arrival.owner != pending.owner
        || !work.glance(arrival, context)
        || !leaving.read(&work.head, &work.packet, arrival.ifindex)
        || !pending.is(leaving)
    {
        return 0;
    }
    let now = now();
    if (pending.known == 0 && !has_lived(&pending.packet, now)) || !is_ethernet(arrival.ifindex) {
        return 0;
    }
    pending.outward(leaving, now, path);
    // A table that is full forgets what was not asked for longest; an insert that fails costs speed.
    let _ = FAST_PATHS.insert(&pending.packet.key, &*path, 0);
    // Only a veth has another end to come in by.
    if !leads_to_pair(pending.packet.key.ifindex) {
        return 0;
    }
    Pending::answers(leaving, key);
    if find(key, back) && back.answers(&pending.packet.key, path) {
        return 0;
    }
    pending.inward(leaving, path, key.tag());
    let _ = FAST_PATHS.insert(&*key, &*path, 0);
    0
}

/// Nanoseconds on the monotonic clock, as of the last tick.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes no arguments and has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Bytes of the frame, or of those that it will be cut into.
#[inline(always)]
fn unit<C: Context>(context: &C, packet: &Plain) -> u32 {
    let segment = context.segment();
    if segment == 0 { packet.end } else { packet.headers + segment }
}

#[inline(always)]
fn leads_to_pair(ifindex: u32) -> bool {
    interface(ifindex).is_some_and(|port| port.pair != 0)
}

/// Whether what looks like an Ethernet header is one.
#[inline(always)]
fn is_ethernet(ifindex: u32) -> bool {
    interface(ifindex).is_some_and(|uplink| uplink.link_layer == link_layer::ETHERNET)
}

#[inline(always)]
fn interface<'a>(ifindex: u32) -> Option<&'a Interface> {
    // SAFETY: the reference ends with the program; an entry that is replaced meanwhile is freed by RCU only afterwards.
    unsafe { INTERFACES.get(&ifindex) }
}

/// Whether this CPU has seen the connection a second ago: most do not live that long, and cost nothing more than this.
#[inline(always)]
fn has_lived(packet: &Plain, now: u64) -> bool {
    let tuple = packet.key.tag();
    let place = (tuple >> (64 - capacity::FAST_CANDIDATES.trailing_zeros())) as u32;
    let Some(candidate) = FAST_CANDIDATES.get_ptr_mut(place) else { return false };
    // SAFETY: the slot is this CPU's own and lives as long as the program; TC programs run with bottom halves disabled.
    let candidate = unsafe { &mut *candidate };
    if candidate.tuple == tuple {
        return now.wrapping_sub(candidate.since) >= LIFE;
    }
    candidate.tuple = tuple;
    candidate.since = now;
    false
}
