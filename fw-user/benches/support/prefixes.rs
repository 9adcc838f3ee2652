//! Prefixes in numbers, the same in every run; nothing outside of this file is known here, so that `cargo xtask bench` has
//! them, too.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Lengths about as in lists of networks by country: most of IPv4 between /19 and /24, some hosts, and a fifth IPv6 if that
/// is wanted.
pub(crate) fn mixed(many: usize, ipv6: bool) -> BTreeSet<(IpAddr, u8)> {
    let mut random = Random(1);
    let mut found = BTreeSet::new();
    while found.len() < many {
        let bits = random.next();
        if random.next().is_multiple_of(5) && ipv6 {
            let length = [32, 36, 40, 44, 48, 48, 48, 56, 64, 128][(random.next() % 10) as usize];
            let address = u128::from(bits) << 64 | u128::from(random.next());
            let address = (address >> 3 | 0x2 << 124) & u128::MAX << (128 - length);
            found.insert((IpAddr::from(Ipv6Addr::from_bits(address)), length));
        } else {
            let length = [16, 19, 20, 21, 22, 22, 23, 24, 24, 24, 24, 24, 24, 28, 32, 32]
                [(random.next() % 16) as usize];
            found.insert((IpAddr::from(somewhere(bits as u32 & u32::MAX << (32 - length))), length));
        }
    }
    found
}

/// Single addresses of IPv4.
pub(crate) fn hosts(many: usize) -> BTreeSet<(IpAddr, u8)> {
    let mut random = Random(2);
    let mut found = BTreeSet::new();
    while found.len() < many {
        found.insert((IpAddr::from(somewhere(random.next() as u32)), 32));
    }
    found
}

/// Below 198.0.0.0, so that an example's own addresses are nobody's.
fn somewhere(bits: u32) -> Ipv4Addr {
    let address = if bits >> 24 >= 198 { bits & 0x7fff_ffff } else { bits };
    Ipv4Addr::from_bits(if address >> 24 == 0 { address | 1 << 24 } else { address })
}

/// The same numbers in every run (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}
