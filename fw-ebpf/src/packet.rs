//! Access to the packet: its bytes, and what the kernel knows about it.

use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use fw_common::wire::{Arrival, Audience, Bytes, VlanTag};

/// The bytes of an skb, paged parts included: a helper copies them, so that a packet whose headers are not in the
/// linear part (GRO, `IFF_NAPI_FRAGS`) is judged like any other.
pub(crate) struct Skb<'a> {
    pub(crate) context: &'a TcContext,
}

impl Bytes for Skb<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.context.len()
    }

    #[inline(always)]
    fn read<T: bytemuck::Pod>(&self, offset: u32, into: &mut T) -> bool {
        let size = const { size_of::<T>() as u32 };
        // SAFETY: the context is the kernel's, `into` is valid for `size` bytes, and `T: Pod` takes any bytes.
        let failed =
            unsafe { bpf_skb_load_bytes(self.context.skb.skb.cast(), offset, (&raw mut *into).cast(), size) };
        failed == 0
    }
}

/// What the kernel knows about the packet.
#[inline(always)]
pub(crate) fn arrival(context: &TcContext) -> Arrival {
    let skb = context.skb.skb;
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
        }
    }
}
