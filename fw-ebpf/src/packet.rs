//! Access to the packet: its bytes, what the kernel knows about it, and how the kernel is told what becomes of it.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::tcx_action_base::{TCX_DROP, TCX_NEXT};
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::{
    bpf_csum_update, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_peer, bpf_skb_change_type,
    bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
};
use aya_ebpf::programs::{TcContext, XdpContext};
use fw_common::event::FRAME;
use fw_common::wire::{Arrival, Audience, Bytes, Head, Rewritten, VlanTag};

/// A packet as a program of one kind is given it.
pub(crate) trait Context: Bytes {
    /// The kernel's code for a packet that goes on.
    const ON: i32;
    /// The kernel's code for a packet that is dropped.
    const DROP: i32;
    /// What becomes of a packet while the maps say nothing yet.
    const UNPREPARED: i32;

    /// What the kernel knows about the packet.
    fn arrival(&self) -> Arrival;
    /// Gives the packet this mark, where packets have one.
    fn set_mark(&self, mark: u32);
    /// Writes the container's number beside the packet, where packets have room for it.
    fn set_owner(&self, owner: u16);
    /// Copies the first bytes, as many as there are and fit; how many.
    fn frame(&self, into: &mut [u8; FRAME]) -> u16;
    /// The context as helpers want it.
    fn pointer(&self) -> *mut c_void;
    /// Payload bytes of the packets that this one will be cut into on its way out (GSO), 0 if it will not be.
    fn segment(&self) -> u32;
    /// Writes a rewritten head back, with the transport's checksum; false if nothing was written.
    fn write(&self, head: &Head, rewritten: &Rewritten, version: u8) -> bool;
    /// Sends the packet out by a device, or with `pair` in by the device at the other end of it; the kernel's code.
    /// `audience` is what the kernel thinks of the frame so far.
    fn send(&self, ifindex: u32, pair: bool, audience: Audience) -> i32;
}

/// The bytes of an skb, paged parts included: a helper copies them, so that a packet whose headers are not in the
/// linear part (GRO, `IFF_NAPI_FRAGS`) is judged like any other.
pub(crate) struct Skb {
    pub(crate) context: TcContext,
}

impl Bytes for Skb {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.context.len()
    }

    #[inline(always)]
    fn read<T: bytemuck::Pod>(&self, offset: u32, into: &mut T) -> bool {
        let size = const { size_of::<T>() as u32 };
        // SAFETY: the context is the kernel's, `into` is valid for `size` bytes, and `T: Pod` takes any bytes.
        let failed = unsafe { bpf_skb_load_bytes(self.pointer(), offset, (&raw mut *into).cast(), size) };
        failed == 0
    }

    #[inline(always)]
    fn head(&self, into: &mut Head) -> u32 {
        let size = self.context.len().min(Head::ROOM);
        if size == 0 {
            return 0;
        }
        // SAFETY: the context is the kernel's, and `into` has room for `size` bytes.
        let failed = unsafe { bpf_skb_load_bytes(self.pointer(), 0, into.bytes.as_mut_ptr().cast(), size) };
        if failed == 0 { size } else { 0 }
    }
}

impl Context for Skb {
    /// Never `TCX_PASS`, which would skip the programs and filters behind ours. As clsact's direct action the same
    /// number (-1) is `TC_ACT_UNSPEC`, "continue with the next filter".
    const ON: i32 = TCX_NEXT;
    const DROP: i32 = TCX_DROP;
    const UNPREPARED: i32 = TCX_DROP;

    #[inline(always)]
    fn arrival(&self) -> Arrival {
        let skb = self.context.skb.skb;
        // SAFETY: the kernel hands every program a valid context; the verifier rewrites each field access.
        unsafe {
            Arrival {
                ifindex: (*skb).ifindex,
                ingress_ifindex: (*skb).ingress_ifindex,
                ethertype: u16::from_be((*skb).protocol as u16),
                vlan: VlanTag::new((*skb).vlan_present, (*skb).vlan_tci),
                audience: match (*skb).pkt_type {
                    1 => Audience::Broadcast,
                    2 => Audience::Multicast,
                    3 => Audience::Other,
                    _ => Audience::Host,
                },
                mark: (*skb).mark,
                owner: (*skb).tc_index as u16,
            }
        }
    }

    #[inline(always)]
    fn set_mark(&self, mark: u32) {
        self.context.set_mark(mark);
    }

    #[inline(always)]
    fn set_owner(&self, owner: u16) {
        // SAFETY: the context is the kernel's; the verifier rewrites the access.
        unsafe { (*self.context.skb.skb).tc_index = u32::from(owner) };
    }

    #[inline(always)]
    fn frame(&self, into: &mut [u8; FRAME]) -> u16 {
        let size = self.context.len().min(FRAME as u32);
        if size == 0 {
            return 0;
        }
        // SAFETY: the context is the kernel's, and `into` has room for `size` bytes.
        let failed = unsafe { bpf_skb_load_bytes(self.pointer(), 0, into.as_mut_ptr().cast(), size) };
        if failed == 0 { size as u16 } else { 0 }
    }

    #[inline(always)]
    fn pointer(&self) -> *mut c_void {
        self.context.skb.skb.cast()
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: the context is the kernel's; the verifier rewrites the access.
        unsafe { (*self.context.skb.skb).gso_size }
    }

    #[inline(always)]
    fn write(&self, head: &Head, rewritten: &Rewritten, version: u8) -> bool {
        let skb = self.context.skb.skb;
        let bytes = head.bytes.as_ptr().cast();
        // Two constants, which the verifier can follow.
        let length = if version == 4 { const { Head::REWRITTEN_V4 } } else { const { Head::REWRITTEN_V6 } };
        // SAFETY: the context is the kernel's, and the head holds more than `length` bytes.
        if unsafe { bpf_skb_store_bytes(skb, 0, bytes, length, 0) } != 0 {
            return false;
        }
        let datagram = if rewritten.is_udp { MANGLED_ZERO } else { 0 };
        if rewritten.address != 0 && rewritten.address != u32::MAX {
            let flags = PSEUDO_HEADER | datagram;
            // SAFETY: as above; a size of 0 says that the difference is given.
            unsafe { bpf_l4_csum_replace(skb, rewritten.checksum, 0, u64::from(rewritten.address), flags) };
        }
        if rewritten.port_before != rewritten.port {
            const SIZE: u64 = 2;
            let (from, to) = (u64::from(rewritten.port_before), u64::from(rewritten.port));
            // SAFETY: as above.
            unsafe { bpf_l4_csum_replace(skb, rewritten.checksum, from, to, SIZE | datagram) };
        }
        if version == 6 {
            // Where the device has summed up the whole packet (CHECKSUM_COMPLETE; anything else is refused): of IPv4 the
            // header's checksum makes up for what changes in it, of IPv6 nothing does.
            // SAFETY: as above.
            unsafe { bpf_csum_update(skb, rewritten.header) };
        }
        true
    }

    #[inline(always)]
    fn send(&self, ifindex: u32, pair: bool, audience: Audience) -> i32 {
        const PACKET_HOST: u32 = 0;
        // At a port of a bridge a frame for the bridge's address is somebody else's, and kernels before 6.15 let the
        // container believe so of its own (c43272299488, "bpf: Scrub packet on bpf_redirect_peer").
        if pair && audience != Audience::Host {
            // SAFETY: the context is the kernel's.
            unsafe { bpf_skb_change_type(self.context.skb.skb, PACKET_HOST) };
        }
        // SAFETY: these helpers only note where the packet is to go.
        let code = unsafe { if pair { bpf_redirect_peer(ifindex, 0) } else { bpf_redirect(ifindex, 0) } };
        code as i32
    }
}

/// Flags of `bpf_l4_csum_replace`: the sum is made over the addresses, too; and a UDP checksum of 0 means none.
const PSEUDO_HEADER: u64 = aya_ebpf::bindings::BPF_F_PSEUDO_HDR as u64;
const MANGLED_ZERO: u64 = aya_ebpf::bindings::BPF_F_MARK_MANGLED_0 as u64;

/// The bytes of a frame before it is an skb, those in further buffers included.
pub(crate) struct Early {
    pub(crate) context: XdpContext,
}

impl Bytes for Early {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context is the kernel's.
        unsafe { bpf_xdp_get_buff_len(self.context.ctx) as u32 }
    }

    #[inline(always)]
    fn read<T: bytemuck::Pod>(&self, offset: u32, into: &mut T) -> bool {
        let size = const { size_of::<T>() as u32 };
        // SAFETY: as for an skb.
        let failed = unsafe { bpf_xdp_load_bytes(self.context.ctx, offset, (&raw mut *into).cast(), size) };
        failed == 0
    }

    #[inline(always)]
    fn head(&self, into: &mut Head) -> u32 {
        // SAFETY: the context is the kernel's.
        let length = unsafe { bpf_xdp_get_buff_len(self.context.ctx) };
        // Compared as it came, in 64 bits: of a copy the verifier would not know what it knows of this.
        let size = if length > u64::from(Head::ROOM) { Head::ROOM } else { length as u32 };
        if size == 0 {
            return 0;
        }
        // SAFETY: as for an skb.
        let failed = unsafe { bpf_xdp_load_bytes(self.context.ctx, 0, into.bytes.as_mut_ptr().cast(), size) };
        if failed == 0 { size } else { 0 }
    }
}

impl Context for Early {
    const ON: i32 = XDP_PASS.cast_signed();
    const DROP: i32 = XDP_DROP.cast_signed();
    /// The hook behind drops it.
    const UNPREPARED: i32 = XDP_PASS.cast_signed();

    /// For whom the frame is, and a tag that the device has taken out, nobody knows yet; a mark it has none.
    #[inline(always)]
    fn arrival(&self) -> Arrival {
        let mut ethertype = [0u8; 2];
        // What ends before it is no frame, and the hook behind says so.
        let _ = self.read(12, &mut ethertype);
        Arrival {
            ifindex: self.context.ingress_ifindex() as u32,
            ingress_ifindex: 0,
            ethertype: u16::from_be_bytes(ethertype),
            vlan: VlanTag::NONE,
            audience: Audience::Host,
            mark: 0,
            owner: 0,
        }
    }

    #[inline(always)]
    fn set_mark(&self, _mark: u32) {}

    #[inline(always)]
    fn set_owner(&self, _owner: u16) {}

    #[inline(always)]
    fn frame(&self, into: &mut [u8; FRAME]) -> u16 {
        // SAFETY: the context is the kernel's.
        let length = unsafe { bpf_xdp_get_buff_len(self.context.ctx) };
        // As for `head`.
        let size = if length > FRAME as u64 { FRAME as u32 } else { length as u32 };
        if size == 0 {
            return 0;
        }
        // SAFETY: as for an skb.
        let failed = unsafe { bpf_xdp_load_bytes(self.context.ctx, 0, into.as_mut_ptr().cast(), size) };
        if failed == 0 { size as u16 } else { 0 }
    }

    #[inline(always)]
    fn pointer(&self) -> *mut c_void {
        self.context.as_ptr()
    }

    /// Nothing is carried so early, here as in what follows.
    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn write(&self, _head: &Head, _rewritten: &Rewritten, _version: u8) -> bool {
        false
    }

    #[inline(always)]
    fn send(&self, _ifindex: u32, _pair: bool, _audience: Audience) -> i32 {
        Self::ON
    }
}
