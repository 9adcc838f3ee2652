//! The link layer: Ethernet, VLAN tags and ARP.

use bytemuck::{Pod, Zeroable};

use super::{Arrival, Bytes, Parsed, be16, ethertype};
use crate::address::{Address, Mac};
use crate::tables::link_layer;
use crate::verdict::Reason;

/// How many VLAN tags with VLAN ID 0 are looked through.
const TAGS: u32 = 8;

/// VLAN ID in the control information of a tag; 0 only carries a priority (IEEE 802.1Q section 6.9).
const VLAN_ID: u16 = 0x0fff;

/// A frame, opened as far as its network header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Destination MAC; zero on a device without link layer.
    pub destination: Mac,
    /// Source MAC; zero on a device without link layer.
    pub source: Mac,
    /// `EtherType` behind the tags that were looked through, host order; below 0x600 it is a length (802.3).
    pub ethertype: u16,
    /// Whether one of the tags names a VLAN of its own.
    pub other_vlan: bool,
    /// Offset of the network header.
    pub network: u32,
}

impl Frame {
    /// Offset of the network header in a frame without tags.
    pub const UNTAGGED: u32 = size_of::<Header>() as u32;
}

/// Opens a frame, looking through its tags. The kernel strips those with VLAN ID 0 before IP sees the packet, so a
/// hook that took them for "not IP" would be walked around (VU#855201).
///
/// # Errors
/// A header that is cut short or is not that of the packet, or more than eight tags.
#[inline(always)]
pub fn open<B: Bytes + ?Sized>(bytes: &B, arrival: &Arrival, link: u8) -> Parsed<Frame> {
    if link == link_layer::NONE {
        return Ok(Frame {
            destination: Mac::zeroed(),
            source: Mac::zeroed(),
            ethertype: arrival.ethertype,
            other_vlan: false,
            network: 0,
        });
    }
    let mut header = Header::zeroed();
    if !bytes.read(0, &mut header) {
        return Err(Reason::MalformedHeader);
    }
    let mut frame = Frame {
        destination: header.destination,
        source: header.source,
        ethertype: be16(header.ethertype),
        other_vlan: false,
        network: size_of::<Header>() as u32,
    };
    let mut seen = u32::from(arrival.vlan.is_present());
    frame.other_vlan = arrival.vlan.id() != 0;
    while matches!(frame.ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN) {
        if seen >= TAGS {
            return Err(Reason::TooManyHeaders);
        }
        let mut tag = Tag::zeroed();
        if !bytes.read(frame.network, &mut tag) {
            return Err(Reason::MalformedHeader);
        }
        frame.other_vlan |= be16(tag.control) & VLAN_ID != 0;
        frame.ethertype = be16(tag.ethertype);
        frame.network += size_of::<Tag>() as u32;
        seen += 1;
    }
    // The kernel has read the type of this very frame. If it is another, the frame does not begin where it seems to: on
    // kernels that lose `mac_len` when a program of generic XDP that knows frags runs before us (seen on 6.18).
    let says_ip = matches!(arrival.ethertype, ethertype::IPV4 | ethertype::IPV6);
    if says_ip && frame.ethertype != arrival.ethertype {
        return Err(Reason::MalformedHeader);
    }
    Ok(frame)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    destination: Mac,
    source: Mac,
    ethertype: [u8; 2],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Tag {
    control: [u8; 2],
    ethertype: [u8; 2],
}

/// An ARP message for IPv4 over Ethernet (RFC 826): who claims to own what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// The sender's MAC.
    pub sender: Mac,
    /// The sender's IPv4 address; `0.0.0.0` in a probe (RFC 5227).
    pub address: Address,
    /// The IPv4 address that is asked for, or of whoever is answered.
    pub target: Address,
}

impl Arp {
    /// Reads the message at `offset`.
    ///
    /// # Errors
    /// A message that is cut short or not about IPv4 over Ethernet.
    #[inline(always)]
    pub fn read<B: Bytes + ?Sized>(bytes: &B, offset: u32) -> Parsed<Self> {
        let mut message = Message::zeroed();
        if !bytes.read(offset, &mut message) || message.fixed != [0, 1, 8, 0, 6, 4] {
            return Err(Reason::MalformedHeader);
        }
        Ok(Self {
            sender: message.sender,
            address: Address::v4(message.address),
            target: Address::v4(message.target),
        })
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Message {
    /// Hardware type 1, protocol type 0x0800, lengths 6 and 4.
    fixed: [u8; 6],
    operation: [u8; 2],
    sender: Mac,
    address: [u8; 4],
    target_mac: Mac,
    target: [u8; 4],
}
