//! Addresses: one form for IPv4 and IPv6, and the classes that decisions ask for.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// An IP address in network byte order; IPv4 is held IPv4-mapped (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
///
/// Aligned to 8 so that the BPF backend copies and compares it in two registers instead of sixteen bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Address {
    /// The sixteen bytes, most significant first.
    pub bytes: [u8; 16],
}

/// Bits in front of the IPv4 address in its mapped form; a `/24` of IPv4 is a `/120` in the tables.
pub const V4_PREFIX_BITS: u32 = 96;

impl Address {
    /// `0.0.0.0`: as a table key "any IPv4 address of ours", in a packet "no address yet".
    pub const ANY_V4: Self = Self::v4([0, 0, 0, 0]);
    /// `::`: as a table key "any IPv6 address of ours", in a packet "no address yet".
    pub const ANY_V6: Self = Self { bytes: [0; 16] };

    /// The address with these four octets, as on the wire.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self { bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] }
    }

    /// The address with these sixteen octets, as on the wire.
    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self { bytes: octets }
    }

    /// Whether this is an IPv4 address in mapped form.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        let [high, low] = self.words();
        high == 0 && low >> 32 == 0xffff
    }

    /// The key under which a rule for any local address of this family stands.
    #[inline(always)]
    #[must_use]
    pub fn any_of_family(&self) -> Self {
        if self.is_v4() { Self::ANY_V4 } else { Self::ANY_V6 }
    }

    /// `0.0.0.0` or `::`.
    #[inline(always)]
    pub fn is_unspecified(&self) -> bool {
        let [high, low] = self.words();
        high == 0 && (low == 0 || low == 0xffff_0000_0000)
    }

    /// Multicast of either family (RFC 5771, RFC 4291 section 2.7).
    #[inline(always)]
    pub fn is_multicast(&self) -> bool {
        if self.is_v4() { self.bytes[12] >> 4 == 0xe } else { self.bytes[0] == 0xff }
    }

    /// The limited broadcast address `255.255.255.255`.
    #[inline(always)]
    pub fn is_broadcast(&self) -> bool {
        let [high, low] = self.words();
        high == 0 && low == 0xffff_ffff_ffff
    }

    /// Whether it stands for a group or for all, and not for one machine.
    #[inline(always)]
    pub fn is_for_many(&self) -> bool {
        self.is_multicast() || self.is_broadcast()
    }

    /// Loopback of either family.
    #[inline(always)]
    pub fn is_loopback(&self) -> bool {
        let [high, low] = self.words();
        high == 0 && (low == 1 || low >> 24 == 0x00ff_ff7f)
    }

    /// The address by which a peer is counted: of IPv6 the first 64 bits, for one host may have all the others.
    #[inline(always)]
    #[must_use]
    pub fn counted(&self) -> Self {
        if self.is_v4() {
            return *self;
        }
        let [a, b, c, d, e, f, g, h, ..] = self.bytes;
        Self { bytes: [a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0] }
    }

    /// `fe80::/10`, valid on one link only.
    #[inline(always)]
    pub fn is_link_local_v6(&self) -> bool {
        self.bytes[0] == 0xfe && self.bytes[1] & 0xc0 == 0x80
    }

    /// Whether a router must not forward a packet that says to come from here (RFC 1812 section 5.3.7, RFC 6890):
    /// `0.0.0.0/8` but for the address "none yet", `240.0.0.0/4`, loopback, multicast, and IPv4 written inside IPv6.
    #[inline(always)]
    pub fn is_martian_source(&self, packet_is_v4: bool) -> bool {
        if self.is_loopback() || self.is_multicast() || self.is_v4() != packet_is_v4 {
            return true;
        }
        packet_is_v4 && !self.is_unspecified() && (self.bytes[12] == 0 || self.bytes[12] >= 0xf0)
    }

    /// Whether no packet may be addressed here from a wire: loopback, `0.0.0.0/8`, `::`, and IPv4 written inside IPv6.
    #[inline(always)]
    pub fn is_martian_destination(&self, packet_is_v4: bool) -> bool {
        if self.is_loopback() || self.is_v4() != packet_is_v4 || self.is_unspecified() {
            return true;
        }
        packet_is_v4 && self.bytes[12] == 0
    }

    /// Whether this is an address of the public internet: unicast, and not in a prefix that the IANA special-purpose
    /// registries (RFC 6890) keep for one site, one link, one host, or tests of equipment. Of IPv6 only `2000::/3` is
    /// public so far. Addresses that carry an IPv4 address (NAT64, 6to4, Teredo) are as public as that.
    ///
    /// The prefixes for documentation (RFC 5737, RFC 3849) count as public: nobody has a private network in them.
    #[inline(always)]
    pub const fn is_public(&self) -> bool {
        match self.bytes {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
            | [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
            | [0x20, 0x02, a, b, c, d, ..] => is_public_v4([a, b, c, d]),
            // Teredo (RFC 4380 section 4): the server's address, and the client's with every bit turned.
            [0x20, 0x01, 0, 0, a, b, c, d, _, _, _, _, e, f, g, h] => {
                is_public_v4([a, b, c, d]) && is_public_v4([!e, !f, !g, !h])
            }
            // Benchmarking (RFC 5180).
            [0x20, 0x01, 0, 2, 0, 0, ..] => false,
            [first, ..] => first >> 5 == 1,
        }
    }

    /// Whether the last 64 bits are made from a MAC address (RFC 4291 appendix A), and not from this one.
    #[inline(always)]
    pub fn is_made_from_other(&self, mac: &Mac) -> bool {
        let [.., a, b, c, high, low, d, e, f] = self.bytes;
        high == 0xff && low == 0xfe && [a ^ 2, b, c, d, e, f] != mac.bytes
    }

    /// Whether it is the link-local address that is made from this MAC address (RFC 4291 appendix A).
    #[inline(always)]
    pub fn is_made_from(&self, mac: &Mac) -> bool {
        let [.., high, low, _, _, _] = self.bytes;
        self.is_link_local_v6() && high == 0xff && low == 0xfe && !self.is_made_from_other(mac)
    }

    /// Its halves as they lie in memory, for sums in which the order of bytes does not matter.
    #[inline(always)]
    pub(crate) fn halves(&self) -> [u64; 2] {
        bytemuck::cast(*self)
    }

    /// The IPv4 address as it lies in memory.
    #[inline(always)]
    pub(crate) fn v4_word(&self) -> u32 {
        let words: [u32; 4] = bytemuck::cast(*self);
        words[3]
    }

    #[inline(always)]
    fn words(&self) -> [u64; 2] {
        let [high, low]: [[u8; 8]; 2] = bytemuck::cast(self.bytes);
        [u64::from_be_bytes(high), u64::from_be_bytes(low)]
    }
}

#[inline(always)]
const fn is_public_v4(octets: [u8; 4]) -> bool {
    !matches!(
        octets,
        [0 | 10 | 127 | 224..=255, ..]
            | [100, 64..=127, ..]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            | [192, 0, 0, _]
            | [192, 168, ..]
            | [198, 18..=19, ..]
    )
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            let [.., a, b, c, d] = address.bytes;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            IpAddr::V6(Ipv6Addr::from(address.bytes))
        }
    }
}

impl core::fmt::Display for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

/// A 48-bit MAC address as on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Mac {
    /// The six bytes in transmission order.
    pub bytes: [u8; 6],
}

impl Mac {
    /// No address.
    pub const ZERO: Self = Self { bytes: [0; 6] };

    /// The addresses `01:80:c2:00:00:00` to `0f`, which a Linux bridge delivers on the port that received them
    /// instead of forwarding them (IEEE 802.1D table 7-10; `br_handle_frame`), so no hook on the bridge sees them.
    #[inline(always)]
    pub fn is_reserved(&self) -> bool {
        let [a, b, c, d, e, f] = self.bytes;
        a == 0x01 && b == 0x80 && c == 0xc2 && d == 0 && e == 0 && f & 0xf0 == 0
    }

    /// Broadcast or multicast.
    #[inline(always)]
    pub fn is_group(&self) -> bool {
        self.bytes[0] & 1 == 1
    }
}

impl core::fmt::Display for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.bytes;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString as _;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn families_are_told_apart_and_round_trip() {
        for text in ["0.0.0.0", "127.0.0.1", "198.51.100.7", "::", "::1", "2001:db8::1", "fe80::1"] {
            assert_eq!(address(text).to_string(), text);
            assert_eq!(address(text).is_v4(), !text.contains(':'), "{text}");
        }
        assert_eq!(address("10.1.2.3").any_of_family(), Address::ANY_V4);
        assert_eq!(address("2001:db8::1").any_of_family(), Address::ANY_V6);
    }

    #[test]
    fn classes() {
        let loopback = |text| address(text).is_loopback();
        assert!(loopback("127.0.0.1") && loopback("127.255.0.9") && loopback("::1"));
        assert!(!loopback("128.0.0.1") && !loopback("::2") && !loopback("0.0.0.1") && !loopback("::"));
        assert!(address("224.0.0.1").is_multicast() && address("239.1.1.1").is_multicast());
        assert!(address("ff02::1").is_multicast() && !address("240.0.0.1").is_multicast());
        assert!(address("255.255.255.255").is_broadcast() && !address("255.255.255.254").is_broadcast());
        assert!(address("0.0.0.0").is_unspecified() && address("::").is_unspecified());
        assert!(!address("::1").is_unspecified() && !address("0.0.0.1").is_unspecified());
        assert!(address("fe80::1").is_link_local_v6() && address("febf::1").is_link_local_v6());
        assert!(!address("fec0::1").is_link_local_v6() && !address("169.254.1.1").is_link_local_v6());
    }

    #[test]
    fn martians() {
        for text in ["127.0.0.1", "224.0.0.1", "0.1.2.3", "240.0.0.1", "255.255.255.255"] {
            assert!(address(text).is_martian_source(true), "{text}");
        }
        for text in ["::1", "ff02::1", "::ffff:10.0.0.1"] {
            let mapped = Address::v6(text.parse::<Ipv6Addr>().unwrap().octets());
            assert!(mapped.is_martian_source(false), "{text}");
        }
        for text in ["0.0.0.0", "10.0.0.1", "169.254.1.1"] {
            assert!(!address(text).is_martian_source(true), "{text}");
        }
        assert!(!address("::").is_martian_source(false));
        assert!(address("0.0.0.0").is_martian_destination(true));
        assert!(address("127.0.0.2").is_martian_destination(true));
        assert!(!address("255.255.255.255").is_martian_destination(true));
        assert!(!address("ff02::1").is_martian_destination(false));
    }

    #[test]
    fn public_is_what_belongs_to_no_site_link_or_host() {
        for text in [
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.0.1",
            "192.168.255.255",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::10.0.0.1",
            "::8.8.8.8",
            "100::1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2001:2::1",
            "2002:a00:1::1",
            "2002:c0a8:101::1",
            "2001:0:a00:1::f7f7:f7f7",
            "2001:0:808:808::f5ff:fffe",
            // 172.16.5.5, 192.168.0.1 and 192.0.0.5, each private by another of its octets.
            "2001:0:808:808::53ef:fafa",
            "2001:0:808:808::3f57:fffe",
            "2001:0:808:808::3fff:fffa",
            "fc00::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "5f00::1",
        ] {
            assert!(!address(text).is_public(), "{text}");
        }
        for text in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "203.0.113.9",
            "223.255.255.255",
            "64:ff9b::8.8.8.8",
            "2001:db8::1",
            "2001:4860:4860::8888",
            "2002:808:808::1",
            "2001:0:808:808::f7f7:f7f7",
            "2606:4700::1111",
        ] {
            assert!(address(text).is_public(), "{text}");
        }
    }

    #[test]
    fn reserved_macs() {
        assert!(Mac { bytes: [1, 0x80, 0xc2, 0, 0, 0xe] }.is_reserved());
        assert!(!Mac { bytes: [1, 0x80, 0xc2, 0, 0, 0x10] }.is_reserved());
        assert!(!Mac { bytes: [0, 0x80, 0xc2, 0, 0, 0] }.is_reserved());
    }
}
