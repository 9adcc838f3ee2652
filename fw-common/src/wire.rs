//! Packets on the wire: from bytes to the facts that decisions need, and nothing that is not true of the bytes.
//!
//! Every read is bounded by the packet; a length that the packet claims is believed only after it has been compared
//! with the bytes that are there. Offsets count from the start of the frame. Numbers come out in host order.

use bytemuck::{Pod, Zeroable};

use crate::address::Address;
use crate::verdict::Reason;

mod ethernet;
mod ip;
mod plain;
mod transport;

pub use ethernet::{Arp, Frame, open};
pub use ip::parse;
pub use plain::{Head, Plain, Rewritten};
pub use transport::{icmp, inner_of_error, tcp};

/// The bytes of one packet.
pub trait Bytes {
    /// Bytes in the packet, link-layer header included.
    fn length(&self) -> u32;
    /// Copies `into` from `offset`; false, leaving `into` undefined, if the packet ends before.
    fn read<T: Pod>(&self, offset: u32, into: &mut T) -> bool;
    /// Copies the first bytes, as many as there are and fit; how many.
    fn head(&self, into: &mut Head) -> u32;
}

/// What the kernel knows of a packet besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The device at which the packet is seen.
    pub ifindex: u32,
    /// Leaving: the device that it came in by, 0 if the host sent it.
    pub ingress_ifindex: u32,
    /// `EtherType` in host order, as the kernel found it.
    pub ethertype: u16,
    /// The VLAN tag that the kernel has taken out of the frame.
    pub vlan: VlanTag,
    /// For whom the kernel thinks the frame is.
    pub audience: Audience,
    /// The mark that the packet carries.
    pub mark: u32,
    /// Leaving: the number of the container that sent it, as the hook of its port has written it beside the packet
    /// (`skb->tc_index`); 0 if no such hook has seen it.
    pub owner: u16,
}

/// A VLAN tag that the kernel keeps beside the frame (`skb->vlan_tci`).
///
/// One number instead of an `Option`: the payload of a `None` is undefined, and the verifier refuses a program that
/// copies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag(u32);

impl VlanTag {
    /// No tag.
    pub const NONE: Self = Self(0);

    /// The tag with this control information, if `present` is not zero.
    #[inline(always)]
    pub const fn new(present: u32, control: u32) -> Self {
        Self(if present != 0 { control & 0xffff | 0x1_0000 } else { 0 })
    }

    /// Whether there is a tag.
    #[inline(always)]
    pub const fn is_present(self) -> bool {
        self.0 != 0
    }

    /// The VLAN ID; 0 for a priority tag and for none.
    #[inline(always)]
    pub const fn id(self) -> u16 {
        self.0 as u16 & 0x0fff
    }
}

/// For whom a frame is, by its destination MAC address (`skb->pkt_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// For this device.
    Host,
    /// For all.
    Broadcast,
    /// For a group.
    Multicast,
    /// For another machine; seen because the device listens to everything.
    Other,
}

/// `EtherType`s, host order.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// Address resolution.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// Customer VLAN tag.
    pub const VLAN: u16 = 0x8100;
    /// Service VLAN tag.
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// IP protocol numbers.
pub mod proto {
    /// ICMP; in table keys, ICMP echo of both families.
    pub const ICMP: u8 = 1;
    /// Group membership of IPv4.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// Generic routing encapsulation.
    pub const GRE: u8 = 47;
    /// ICMP of IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}

/// Whether and how a packet is a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Whole, or an atomic fragment (RFC 6946), which is as good as whole.
    Whole,
    /// The first one, with the whole transport header.
    First,
    /// A later one: no ports.
    Later,
}

/// The facts of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroable)]
#[repr(C)]
pub struct Packet {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port; identifier of an ICMP echo request; 0 if there is none.
    pub source_port: u16,
    /// Destination port; identifier of an ICMP echo reply; 0 if there is none.
    pub destination_port: u16,
    /// Offset of the transport header.
    pub transport: u32,
    /// Offset one past the last byte of the IP packet.
    pub end: u32,
    /// What the fragments of a datagram have in common; meaningless in a whole packet.
    pub identification: u32,
    /// The upper-layer protocol, after extension headers.
    pub protocol: u8,
    /// 4 or 6.
    pub version: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// 0 whole, 1 first, 2 later, 3 atomic; ask [`Packet::fragment`].
    fragment: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
}

impl Packet {
    /// Whether and how it is a fragment.
    #[inline(always)]
    pub const fn fragment(&self) -> Fragment {
        match self.fragment {
            0 | ip::ATOMIC => Fragment::Whole,
            1 => Fragment::First,
            _ => Fragment::Later,
        }
    }

    /// Whether it came as a fragment, be it an atomic one.
    #[inline(always)]
    pub const fn has_fragment_header(&self) -> bool {
        self.fragment != 0
    }

    /// Whether this is IPv4.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.version == 4
    }

    /// ICMP of the packet's own family.
    #[inline(always)]
    pub const fn is_icmp(&self) -> bool {
        matches!((self.version, self.protocol), (4, proto::ICMP) | (6, proto::ICMPV6))
    }

    /// An ICMP message of the packet's own family and of this type, in a packet that is not a later fragment.
    #[inline(always)]
    pub const fn is_icmp_of(&self, v4_type: u8, v6_type: u8) -> bool {
        match (self.version, self.protocol, self.fragment) {
            (_, _, 2) => false,
            (4, proto::ICMP, _) => self.icmp_type == v4_type,
            (6, proto::ICMPV6, _) => self.icmp_type == v6_type,
            _ => false,
        }
    }

    /// The protocol under which the packet's service and flow stand in the tables.
    #[inline(always)]
    pub const fn service_proto(&self) -> u8 {
        if self.is_icmp() { proto::ICMP } else { self.protocol }
    }

    /// TCP SYN without ACK: opens a connection, is never a reply.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.protocol == proto::TCP && self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }
}

/// The result of parsing: the reason for a drop if the bytes are not a packet.
pub type Parsed<T> = Result<T, Reason>;

/// Reads a big-endian number of two bytes.
#[inline(always)]
fn be16(bytes: [u8; 2]) -> u16 {
    u16::from_be_bytes(bytes)
}

impl Bytes for [u8] {
    fn length(&self) -> u32 {
        self.len() as u32
    }

    fn read<T: Pod>(&self, offset: u32, into: &mut T) -> bool {
        let into = bytemuck::bytes_of_mut(into);
        let offset = offset as usize;
        let found = self.get(offset..offset + into.len());
        if let Some(bytes) = found {
            into.copy_from_slice(bytes);
        }
        found.is_some()
    }

    fn head(&self, into: &mut Head) -> u32 {
        let length = self.len().min(into.bytes.len());
        into.bytes[..length].copy_from_slice(&self[..length]);
        length as u32
    }
}
