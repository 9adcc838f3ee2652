//! Limits: how many new flows a peer may open, by a bucket of tokens for each peer.
//!
//! A bucket is read and written, not locked: CPUs that look at the same moment may each let in a flow for one token.
//! That many more than the limit says, at most, get in at a moment; a peer whose packets one queue delivers gets none.

use crate::flow::FlowKey;
use crate::tables::{Bucket, BucketKey, Limit, Tables};
use crate::wire::{Packet, proto};

/// Thousandths of a token: what a new flow costs.
const FLOW: u64 = 1000;

/// The rule of the limit if this packet would begin a flow beyond it; 0 if it may pass, a token paid.
///
/// Of TCP a SYN begins a flow. Of anything else every packet does whose answer was not seen yet: of ports under a limit
/// the answers are recorded.
#[inline(never)]
pub(super) fn exceeded<T: Tables>(tables: &T, packet: &Packet, id: u8) -> u32 {
    let Some(limit) = tables.limit(u32::from(id)) else { return 0 };
    if limit.burst == 0 || !begins(tables, packet) {
        return 0;
    }
    let key = BucketKey { peer: packet.source.counted(), limit: u32::from(id), reserved: [0; 4] };
    let now = tables.now_ms();
    let tokens = match tables.bucket(&key) {
        Some(bucket) => filled(&bucket, &limit, now),
        None => most(&limit),
    };
    if tokens < FLOW {
        // Not written: what has trickled in since is counted from the same moment again.
        return limit.rule;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a bucket holds no more than fits: see `most`")]
    let bucket = Bucket { tokens: (tokens - FLOW) as u32, filled: now };
    tables.set_bucket(&key, &bucket);
    0
}

#[inline(always)]
fn begins<T: Tables>(tables: &T, packet: &Packet) -> bool {
    if packet.protocol == proto::TCP {
        return packet.opens();
    }
    match tables.flow(&FlowKey::inward(packet)) {
        Some(flow) => !flow.is_live(packet.protocol, tables.now()),
        None => true,
    }
}

/// What a full bucket holds.
#[inline(always)]
fn most(limit: &Limit) -> u64 {
    let most = u64::from(limit.burst) * FLOW;
    if most > u64::from(u32::MAX) { u64::from(u32::MAX) } else { most }
}

/// What the bucket holds by now: a rate of so many a second is as many thousandths a millisecond. No time has passed
/// if another CPU filled it in a millisecond that this one has not reached; by more than a second none is ahead, and a
/// bucket that seems so is weeks old, for the clock goes round.
#[inline(always)]
fn filled(bucket: &Bucket, limit: &Limit, now: u32) -> u64 {
    const AHEAD: u32 = 1000;
    let passed = now.wrapping_sub(bucket.filled);
    let passed = if passed > u32::MAX - AHEAD { 0 } else { passed };
    let tokens = u64::from(bucket.tokens) + u64::from(passed) * u64::from(limit.rate);
    let most = most(limit);
    if tokens > most { most } else { tokens }
}
