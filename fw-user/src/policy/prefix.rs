//! Address prefixes: how they are written, and how they stand in tables of 128-bit addresses.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

/// The prefix length of the IPv4-mapped range `::ffff:0:0/96`.
const MAPPED_LEN: u8 = 96;

/// `::ffff:0:0`.
const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);

/// Reads a prefix or a bare address, which is a prefix of one; the error says what was expected.
pub fn parse(text: &str) -> Result<IpNet, String> {
    let prefix = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| not_a_prefix(text))?,
    };
    if let IpNet::V6(v6) = prefix
        && v6.prefix_len() >= MAPPED_LEN
        && let Some(v4) = v6.addr().to_ipv4_mapped()
    {
        let expected = shown(&IpNet::new_assert(v4.into(), v6.prefix_len() - MAPPED_LEN).trunc());
        return Err(format!("{text:?} is IPv4 written as IPv6; expected {expected:?}"));
    }
    if prefix.trunc() != prefix {
        let (whole, one) = (prefix.trunc(), prefix.addr());
        return Err(format!(
            "{text:?} has address bits set below the prefix; expected \"{whole}\", or \"{one}\" for the one address"
        ));
    }
    Ok(prefix)
}

/// The prefix as operators write it: a prefix of one address is the bare address.
pub fn shown(prefix: &IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() {
        prefix.addr().to_string()
    } else {
        prefix.to_string()
    }
}

/// Whether someone who wrote this meant a prefix, not the name of a set.
pub(super) fn looks_like_prefix(text: &str) -> bool {
    text.contains(['/', ':']) || text.starts_with(|first: char| first.is_ascii_digit())
}

/// The prefixes that hold exactly these addresses where an IPv4 address stands as `::ffff:a.b.c.d`.
///
/// An IPv6 prefix around `::ffff:0:0/96`, such as `::/0`, is cut into the pieces beside it: it must not match IPv4.
pub fn table_prefixes(prefix: &IpNet) -> Vec<Ipv6Net> {
    match prefix {
        IpNet::V4(v4) => {
            vec![Ipv6Net::new_assert(v4.network().to_ipv6_mapped(), MAPPED_LEN + v4.prefix_len())]
        }
        IpNet::V6(v6) if v6.prefix_len() < MAPPED_LEN && v6.contains(&MAPPED) => {
            (v6.prefix_len() + 1..=MAPPED_LEN).map(beside_mapped).collect()
        }
        IpNet::V6(v6) => vec![*v6],
    }
}

/// The prefix of this length, 1 to 96, that differs from the mapped range in its last bit alone.
fn beside_mapped(len: u8) -> Ipv6Net {
    let flipped = MAPPED.to_bits() ^ (1 << (128 - u32::from(len)));
    Ipv6Net::new_assert(Ipv6Addr::from_bits(flipped), len).trunc()
}

fn not_a_prefix(text: &str) -> String {
    if let Some((address, len)) = text.split_once('/')
        && let Ok(address) = address.parse::<IpAddr>()
    {
        let (family, most) = if address.is_ipv4() { ("IPv4", 32) } else { ("IPv6", 128) };
        return format!("{text:?} has no valid prefix length {len:?}; expected 0 to {most} for {family}");
    }
    format!(
        "{text:?} is not an address or prefix; expected for example \"203.0.113.0/24\" or \"2001:db8:12::/48\""
    )
}
