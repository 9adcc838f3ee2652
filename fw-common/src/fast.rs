//! The fast path: connections that the whole stack has carried a moment ago go on without it.
//!
//! On its way through the host a packet of a connection that exists already is looked up again in conntrack, in the
//! routing table, in bridge and neighbour tables, and by the filter rules of everybody; of one second's packets each finds
//! what the one before it found. So the first packet of a second takes that way and is judged on it like any other; what
//! became of it is seen where it leaves, and [`FastPath`] says it of the next ones: what the frame looks like then, and the
//! device. The others are rewritten at once, and leave by that device.
//!
//! Nothing is permitted here. A path is used for [`LIFE`] after the stack carried a packet of this tuple, in this direction,
//! from hook to hook, while the tables are the same as then; only by [`Plain`](crate::wire::Plain) packets, so that
//! whatever begins or ends a connection, and whatever is odd, takes the long way; and not by longer ones than the stack
//! carried, which knows what fits the link. conntrack, neighbour entries and flows are so renewed each second, and a rule
//! of somebody else that stops the connection stops it within that second.
//!
//! Where a container's packet leaves, the one before it on this CPU at the hook of its port is it, if the number of the
//! container that stands beside it and all that cannot be changed on the way ([`Plain::token`]) are the same. It tells the
//! way back as well. What comes in by an uplink the kernel takes in lists, through one layer after another: such a packet
//! that has a path to renew carries a number beside it to say so.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, Mac};
use crate::flow::counted;
use crate::verdict::{Hook, Mark};
use crate::wire::Plain;

/// Nanoseconds for which a path is used: about a second, the resolution of the clock of flows.
pub const LIFE: u64 = 1 << 30;

/// Map `generation`, key 0: how often the tables have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Generation {
    /// The number; goes round.
    pub number: u32,
}

/// Key of map `fast_paths`: a tuple as it arrives at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct FastKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// The device by which it comes in.
    pub ifindex: u32,
    /// Source port in host order.
    pub source_port: u16,
    /// Destination port in host order.
    pub destination_port: u16,
    /// TCP or UDP.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

impl FastKey {
    /// A number that tells tuples apart, mixed up to its highest bits.
    #[inline(always)]
    pub fn tag(&self) -> u64 {
        let ports = u64::from(self.source_port) << 16 | u64::from(self.destination_port);
        let [source, destination] = [self.source.halves(), self.destination.halves()];
        let [low, high] =
            [source[0].rotate_left(17) ^ source[1], destination[0].rotate_left(17) ^ destination[1]];
        let rest = ports | u64::from(self.ifindex) << 32;
        let mixed = low.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ high.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
            ^ (rest ^ u64::from(self.protocol) << 56).wrapping_mul(0x1656_67b1_9e37_79f9);
        mixed ^ mixed >> 29
    }
}

/// Which address and port of a packet a path replaces: [`FastPath::replaces`].
pub mod replaces {
    /// Those of the source: the packet leaves the host.
    pub const SOURCE: u8 = 1;
    /// Those of the destination: the packet goes to a container.
    pub const DESTINATION: u8 = 2;
}

/// Map `fast_paths`: what the stack made of the last packet of a tuple that it carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FastPath {
    /// [`FastKey::tag`] of the key: the kernel may give the element to another while it is read.
    pub tag: u64,
    /// Nanosecond of the monotonic clock at which it did; 0: not yet.
    pub carried: u64,
    /// The address that takes the place of the one that [`replaces`] names; the same again if nothing is translated.
    pub address: Address,
    /// Destination of the frames that come in.
    pub seen_to: Mac,
    /// Source of the frames that come in; zero if any may be.
    pub seen_from: Mac,
    /// Destination of the frames that leave.
    pub to: Mac,
    /// Source of the frames that leave.
    pub from: Mac,
    /// The number in map `generation` when the packet was judged.
    pub generation: u32,
    /// The device by which the packet leaves; of a container its port.
    pub out: u32,
    /// The rule that let it in, 0 if none did.
    pub rule: u32,
    /// Bytes of the longest frame that the stack has carried.
    pub longest: u32,
    /// The port that takes the place of the one that [`replaces`] names, in host order.
    pub port: u16,
    /// One of [`replaces`].
    pub replaces: u8,
    /// The [`crate::Reason`] for which it was let in.
    pub reason: u8,
    /// Zero.
    pub reserved: [u8; 4],
}

impl FastPath {
    /// Whether it leads to the container that sends by the path `back`, by way of the same uplink.
    #[inline(always)]
    pub fn answers(&self, key: &FastKey, back: &Self) -> bool {
        self.replaces == replaces::DESTINATION
            && self.address == key.source
            && self.port == key.source_port
            && self.out == key.ifindex
            && self.to == back.seen_from
            && self.from == back.seen_to
            && self.seen_to == back.from
    }

    /// Notes that the stack has carried a packet to its container: `length` as for [`FastPath::serves`]. Within the life of
    /// a path it is a longer one; the next life begins with what then is carried.
    #[inline(always)]
    pub fn renew(&mut self, length: u32, now: u64) {
        self.longest = length;
        self.carried = now;
    }

    /// Whether a packet may take this path now; `length` is that of its frame, or of the frames that it will be cut into.
    #[inline(always)]
    pub fn serves(&self, packet: &Plain, length: u32, generation: u32, now: u64) -> bool {
        self.generation == generation
            && now.wrapping_sub(self.carried) < LIFE
            && length <= self.longest
            && packet.hop_limit > 1
            && packet.to == self.seen_to
            && (packet.from == self.seen_from || self.seen_from == Mac::ZERO)
    }
}

/// A packet on its way from the hook where it came in to the one where it leaves, on this CPU.
#[derive(Clone, Copy, Debug, Zeroable, Pod)]
#[repr(C)]
pub struct Pending {
    /// The packet as it came in.
    pub packet: Plain,
    /// [`FastPath::generation`] to be.
    pub generation: u32,
    /// [`FastPath::rule`] to be.
    pub rule: u32,
    /// Bytes of its frame, or of those that it will be cut into.
    pub length: u32,
    /// The number of the container that sent it.
    pub owner: u16,
    /// [`FastPath::reason`] to be.
    pub reason: u8,
    /// The number of the hook where it came in.
    pub hook: u8,
    /// 1 if somebody is on his way.
    pub present: u8,
    /// 1 if there is a path for it, which it will renew.
    pub known: u8,
    /// The field of the mark that it was given.
    pub mark: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

impl Pending {
    /// Notes what was decided of the packet, in the numbers of a [`Verdict`](crate::Verdict); the number of the container
    /// that sent it stands in `owner`.
    #[inline(always)]
    pub fn note(&mut self, rule: u32, reason: u8, mark: u8, owner: u16) {
        self.rule = rule;
        self.reason = reason;
        self.mark = mark;
        self.owner = owner;
    }

    /// Whether the packet is vouched for on its way through the host: only such are followed.
    #[inline(always)]
    pub fn is_vouched_for(&self, hook: Hook) -> bool {
        match hook {
            Hook::UplinkIngress => self.mark == Mark::In as u8,
            Hook::PortIngress => {
                self.mark == Mark::Out as u8 && self.owner != 0 && self.owner < counted::RENEWS
            }
            _ => false,
        }
    }

    /// Whether this is the packet, seen where it leaves by an uplink: forwarded, and changed in nothing but its source.
    #[inline(always)]
    pub fn is(&self, leaving: &Plain) -> bool {
        let (came, leaves) = (&self.packet.key, &leaving.key);
        came.destination == leaves.destination
            && came.destination_port == leaves.destination_port
            && came.protocol == leaves.protocol
            && self.packet.token == leaving.token
            && self.packet.hop_limit.wrapping_sub(1) == leaving.hop_limit
            && self.packet.version == leaving.version
    }

    /// The path of the packets that follow a container's packet, which is `leaving` by an uplink at `now`.
    #[inline(always)]
    pub fn outward(&self, leaving: &Plain, now: u64, path: &mut FastPath) {
        path.tag = self.packet.key.tag();
        path.carried = now;
        path.address = leaving.key.source;
        path.port = leaving.key.source_port;
        path.replaces = replaces::SOURCE;
        path.out = leaving.key.ifindex;
        path.seen_to = self.packet.to;
        path.seen_from = self.packet.from;
        path.to = leaving.to;
        path.from = leaving.from;
        path.generation = self.generation;
        path.rule = self.rule;
        path.reason = self.reason;
        path.longest = self.length;
        path.reserved = [0; 4];
    }

    /// The tuple of the packets that answer it, as they will come in.
    #[inline(always)]
    pub fn answers(leaving: &Plain, key: &mut FastKey) {
        key.source = leaving.key.destination;
        key.destination = leaving.key.source;
        key.source_port = leaving.key.destination_port;
        key.destination_port = leaving.key.source_port;
        key.ifindex = leaving.key.ifindex;
        key.protocol = leaving.key.protocol;
        key.reserved = [0; 7];
    }

    /// The path of those packets, which the stack has not carried yet. From which neighbour their frames come does not
    /// matter: a router may send from another address than it listens at.
    #[inline(always)]
    pub fn inward(&self, leaving: &Plain, path: &mut FastPath, tag: u64) {
        path.tag = tag;
        path.carried = 0;
        path.address = self.packet.key.source;
        path.port = self.packet.key.source_port;
        path.replaces = replaces::DESTINATION;
        path.out = self.packet.key.ifindex;
        path.seen_to = leaving.from;
        path.seen_from = Mac::ZERO;
        path.to = self.packet.from;
        path.from = self.packet.to;
        path.generation = self.generation;
        path.rule = 0;
        path.reason = 0;
        path.longest = 0;
        path.reserved = [0; 4];
    }
}
