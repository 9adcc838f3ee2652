//! Fragments: what was decided of the first one, which alone has ports, holds for those that follow it.
//!
//! Only what was let through is remembered, for thirty seconds, which is not longer than anybody waits for the rest of
//! a datagram (`ipfrag_time`, `ip6frag_time`, RFC 8200 section 4.5). A later fragment that comes before its first one
//! is not known.

use crate::tables::{Datagram, DatagramKey, Tables};
use crate::verdict::Mark;
use crate::wire::{Fragment, Packet};

/// Seconds for which the first fragment of a datagram is remembered.
const REMEMBERED: u32 = 30;

/// Remembers that this packet, if it is a first fragment, is let through with this mark.
#[inline(always)]
pub(super) fn remember<T: Tables>(tables: &T, packet: &Packet, mark: Mark) {
    if packet.fragment() == Fragment::First {
        let datagram = Datagram { seen: tables.now(), mark: mark as u8, reserved: [0; 3] };
        tables.remember(&key(packet), &datagram);
    }
}

/// The mark with which the first fragment of this packet's datagram was let through; `None` if nobody remembers it.
#[inline(always)]
pub(super) fn recall<T: Tables>(tables: &T, packet: &Packet) -> Option<Mark> {
    let datagram = tables.datagram(&key(packet))?;
    if tables.now().wrapping_sub(datagram.seen) >= REMEMBERED {
        return None;
    }
    Some(Mark::from_number(datagram.mark))
}

/// RFC 791 tells datagrams apart by protocol, too; of IPv6 only the first fragment says what it carries.
#[inline(always)]
fn key(packet: &Packet) -> DatagramKey {
    DatagramKey {
        source: packet.source,
        destination: packet.destination,
        id: packet.identification,
        proto: if packet.is_v4() { packet.protocol } else { 0 },
        reserved: [0; 3],
    }
}
