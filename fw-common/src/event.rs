//! Events: the sampled record of a drop, as it stands in the ring buffer.

use bytemuck::{Pod, Zeroable};

use crate::address::Address;

/// One dropped (or, observing, would-be dropped) packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Event {
    /// Nanoseconds on the monotonic clock.
    pub time: u64,
    /// Drops of this CPU so far of which no event tells ([`crate::tables::EventBudget::missed`]): the difference to the
    /// event before it on this CPU lies between the two.
    pub missed: u64,
    /// Source address; `::` if the packet was not parsed that far.
    pub source: Address,
    /// Destination address, likewise.
    pub destination: Address,
    /// Device on which it was seen.
    pub ifindex: u32,
    /// Bytes, link-layer header included.
    pub length: u32,
    /// Allow or deny rule that decided, 0 if none.
    pub rule: u32,
    /// The CPU that wrote it.
    pub cpu: u32,
    /// Source port, ICMP echo identifier or 0.
    pub source_port: u16,
    /// Destination port or 0.
    pub destination_port: u16,
    /// `EtherType` in host order.
    pub ethertype: u16,
    /// How many bytes of `frame` are the packet's.
    pub captured: u16,
    /// IP protocol.
    pub proto: u8,
    /// Number of the [`crate::verdict::Hook`].
    pub hook: u8,
    /// Number of the [`crate::verdict::Reason`].
    pub reason: u8,
    /// 1 if `mode = "observe"` let it pass.
    pub observed: u8,
    /// TCP flags, or ICMP type.
    pub detail: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The first bytes of the frame, as the hook sees it; zeros beyond those that there are.
    pub frame: [u8; FRAME],
}

/// Bytes of the frame that an event carries: room for Ethernet, IPv6 and the longest TCP header (114).
pub const FRAME: usize = 128;

/// How many events a CPU writes in a second unless [`crate::tables::EventRate`] says otherwise; what exceeds it is only
/// counted.
pub const EVENTS_PER_SECOND: u32 = 200;
