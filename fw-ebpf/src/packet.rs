//! Access to the packet: its bytes, what the kernel knows about it, and how the kernel is told what becomes of it.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::tcx_action_base::{TCX_DROP, TCX_NEXT};
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::{bpf_skb_load_bytes, bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use aya_ebpf::programs::{TcContext, XdpContext};
use fw_common::wire::{Arrival, Audience, Bytes, VlanTag};

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
    /// The context as helpers want it.
    fn pointer(&self) -> *mut c_void;
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
    fn pointer(&self) -> *mut c_void {
        self.context.skb.skb.cast()
    }
}

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
    fn pointer(&self) -> *mut c_void {
        self.context.as_ptr()
    }
}
