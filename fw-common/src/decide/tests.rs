//! The mark field, and which hook may decide for which device; fw-common/tests/decide holds the decisions themselves.

use super::*;

#[test]
fn a_mark_replaces_our_field_and_nothing_else() {
    for mark_bit in 17..=30 {
        let mask = mark_mask(mark_bit);
        assert_eq!(mask.count_ones(), 2);
        for field in [Mark::None, Mark::In, Mark::Out, Mark::Reach] {
            for mark in [0, u32::MAX, 0x1234_5678] {
                let after = marked(mark, field, mark_bit);
                assert_eq!(after & !mask, mark & !mask, "other bits stay");
                assert_eq!((after & mask) >> mark_bit, field as u32);
            }
        }
    }
}

#[test]
fn a_hook_decides_for_its_own_kind_of_device() {
    use crate::tables::role::{BRIDGE, PORT, UPLINK};
    for (hook, own) in [
        (Hook::UplinkXdp, UPLINK),
        (Hook::UplinkIngress, UPLINK),
        (Hook::UplinkEgress, UPLINK),
        (Hook::PortIngress, PORT),
        (Hook::BridgeIngress, BRIDGE),
    ] {
        for device in [0, UPLINK, BRIDGE, PORT, 9] {
            assert_eq!(is_for(hook, device), device == own, "{} on {device}", hook.name());
        }
    }
}
