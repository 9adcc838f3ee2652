//! Reading of rtnetlink messages: only the attributes that fw asks for, by number.
//!
//! A library that decodes every attribute drops the whole message when one of them is new to it, and a
//! link that is missing from a snapshot would look like a link that is gone. So nothing else is decoded
//! here, and what is decoded must be well formed. Numbers are those of `linux/rtnetlink.h` and `linux/if_link.h`,
//! in host byte order; addresses are in network order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Link, LinkKind, LocalAddress};
use crate::inventory::Mac;

/// A message that breaks the format of rtnetlink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} of a {message} message is {found} bytes long, too short or not of the right size")]
pub struct Malformed {
    message: &'static str,
    what: &'static str,
    found: usize,
}

/// The question for all links, without the counters of each, which are most of an answer (Linux 4.6; an older kernel
/// tells them all the same).
pub(super) fn all_links() -> Vec<u8> {
    let mut payload = vec![0; 16];
    payload.extend(8u16.to_ne_bytes());
    payload.extend(IFLA_EXT_MASK.to_ne_bytes());
    payload.extend(RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    payload
}

/// The question for the unicast routes of the main table, of one family: a kernel that does not take it at its word tells
/// all routes of the family.
pub(super) fn main_routes(family: u8) -> Vec<u8> {
    let mut payload = vec![0; 12];
    (payload[0], payload[4], payload[7]) = (family, RT_TABLE_MAIN as u8, RTN_UNICAST);
    payload
}

/// What one link message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LinkReading {
    pub(super) link: Link,
    /// `IFLA_LINK_NETNSID`, the namespace that `link.parent` counts in: absent if it is the link's own.
    pub(super) parent_namespace: Option<i32>,
}

/// Reads the payload of `RTM_NEWLINK`.
pub(super) fn link(payload: &[u8]) -> Result<LinkReading, Malformed> {
    const HEADER: usize = 16;
    let read = Reader { message: "link" };
    let header = read.header::<HEADER>(payload)?;
    let hardware = u16::from_ne_bytes([header[2], header[3]]);
    let flags = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    let mut link = Link {
        index: u32::from_ne_bytes([header[4], header[5], header[6], header[7]]),
        name: String::new(),
        mac: None,
        kind: LinkKind::Physical,
        ethernet: hardware == ARPHRD_ETHER,
        loopback: flags & IFF_LOOPBACK != 0,
        up: flags & IFF_UP != 0,
        master: None,
        parent: None,
        abroad: false,
        xdp: Vec::new(),
    };
    let mut parent_namespace = None;
    for attribute in read.attributes(&payload[HEADER..]) {
        let (kind, value) = attribute?;
        match kind {
            IFLA_IFNAME => link.name = text(value),
            // Other lengths belong to links without an Ethernet address (tunnels, InfiniBand).
            IFLA_ADDRESS if link.ethernet => link.mac = value.try_into().ok().map(Mac),
            IFLA_LINK => link.parent = Some(read.number(value, "parent")?).filter(|index| *index != 0),
            IFLA_MASTER => link.master = Some(read.number(value, "master")?),
            IFLA_LINK_NETNSID => {
                parent_namespace = Some(read.number(value, "parent namespace")?.cast_signed());
            }
            IFLA_XDP => {
                for attribute in read.attributes(value) {
                    let (kind, value) = attribute?;
                    if IFLA_XDP_PROGRAMS.contains(&kind) {
                        link.xdp.push(read.number(value, "XDP program")?);
                    }
                }
            }
            IFLA_LINKINFO => {
                for attribute in read.attributes(value) {
                    let (kind, value) = attribute?;
                    if kind == IFLA_INFO_KIND {
                        link.kind = LinkKind::named(&text(value));
                    }
                }
            }
            _ => {}
        }
    }
    link.abroad = parent_namespace.is_some();
    Ok(LinkReading { link, parent_namespace })
}

/// Reads the payload of `RTM_NEWADDR`; `None` for an address that duplicate detection has refused, which
/// belongs to another host.
pub(super) fn address(payload: &[u8]) -> Result<Option<LocalAddress>, Malformed> {
    const HEADER: usize = 8;
    let read = Reader { message: "address" };
    let header = read.header::<HEADER>(payload)?;
    if header[2] & IFA_F_DADFAILED != 0 {
        return Ok(None);
    }
    let ifindex = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    let (mut local, mut address, mut broadcast) = (None, None, None);
    for attribute in read.attributes(&payload[HEADER..]) {
        let (kind, value) = attribute?;
        match kind {
            IFA_LOCAL => local = Some(read.ip(value)?),
            IFA_ADDRESS => address = Some(read.ip(value)?),
            IFA_BROADCAST => {
                if let IpAddr::V4(found) = read.ip(value)? {
                    broadcast = Some(found);
                }
            }
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the peer's address and IFA_LOCAL ours.
    Ok(local.or(address).map(|address| LocalAddress { ifindex, address, prefix_len: header[1], broadcast }))
}

/// Reads the payload of `RTM_NEWROUTE`: the links of a default route of the main table, else none.
pub(super) fn default_route_links(payload: &[u8]) -> Result<Vec<u32>, Malformed> {
    const HEADER: usize = 12;
    let read = Reader { message: "route" };
    let header = read.header::<HEADER>(payload)?;
    let (prefix_len, kind) = (header[1], header[7]);
    let flags = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    let mut table = u32::from(header[4]);
    let mut links = Vec::new();
    if prefix_len != 0 || kind != RTN_UNICAST || flags & RTM_F_CLONED != 0 {
        return Ok(links);
    }
    for attribute in read.attributes(&payload[HEADER..]) {
        let (kind, value) = attribute?;
        match kind {
            RTA_TABLE => table = read.number(value, "table")?,
            RTA_OIF => links.push(read.number(value, "output link")?),
            RTA_MULTIPATH => links.extend(next_hop_links(&read, value)?),
            _ => {}
        }
    }
    Ok(if table == RT_TABLE_MAIN { links } else { Vec::new() })
}

/// Reads the id of a namespace from `RTM_NEWNSID`; `None` if it has none.
pub(super) fn namespace_id(payload: &[u8]) -> Result<Option<i32>, Malformed> {
    const HEADER: usize = 4;
    let read = Reader { message: "namespace" };
    read.header::<HEADER>(payload)?;
    for attribute in read.attributes(&payload[HEADER..]) {
        let (kind, value) = attribute?;
        if kind == NETNSA_NSID {
            return Ok(Some(read.number(value, "id")?.cast_signed()).filter(|id| *id >= 0));
        }
    }
    Ok(None)
}

/// The attribute that names a namespace by an open file of the asking process, for `RTM_GETNSID`.
pub(super) fn namespace_by_file(descriptor: i32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(8u16.to_ne_bytes());
    bytes.extend(NETNSA_FD.to_ne_bytes());
    bytes.extend(descriptor.to_ne_bytes());
    bytes
}

fn next_hop_links(read: &Reader, mut value: &[u8]) -> Result<Vec<u32>, Malformed> {
    let mut links = Vec::new();
    while !value.is_empty() {
        let header = read.header::<8>(value)?;
        links.push(u32::from_ne_bytes([header[4], header[5], header[6], header[7]]));
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        if length < header.len() {
            return Err(read.malformed("next hop", length));
        }
        value = value.get(aligned(length)..).unwrap_or_default();
    }
    Ok(links)
}

/// Names the message in errors.
pub(crate) struct Reader {
    pub(crate) message: &'static str,
}

impl Reader {
    pub(crate) fn header<const N: usize>(&self, payload: &[u8]) -> Result<[u8; N], Malformed> {
        payload.first_chunk::<N>().copied().ok_or_else(|| self.malformed("header", payload.len()))
    }

    pub(super) fn number(&self, value: &[u8], what: &'static str) -> Result<u32, Malformed> {
        value.try_into().map(u32::from_ne_bytes).map_err(|_| self.malformed(what, value.len()))
    }

    pub(crate) fn ip(&self, value: &[u8]) -> Result<IpAddr, Malformed> {
        if let Ok(octets) = <[u8; 4]>::try_from(value) {
            return Ok(Ipv4Addr::from(octets).into());
        }
        let octets = <[u8; 16]>::try_from(value).map_err(|_| self.malformed("address", value.len()))?;
        Ok(Ipv6Addr::from(octets).into())
    }

    /// Walks the attributes: type without its flag bits, and value.
    pub(crate) fn attributes<'a>(
        &self,
        mut bytes: &'a [u8],
    ) -> impl Iterator<Item = Result<(u16, &'a [u8]), Malformed>> + use<'a> {
        let message = self.message;
        std::iter::from_fn(move || {
            if bytes.is_empty() {
                return None;
            }
            let rest = std::mem::take(&mut bytes);
            let found = rest.len();
            let malformed = Malformed { message, what: "attribute", found };
            let Some(header) = rest.first_chunk::<4>() else { return Some(Err(malformed)) };
            let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
            let Some(value) = rest.get(header.len()..length) else { return Some(Err(malformed)) };
            bytes = rest.get(aligned(length)..).unwrap_or_default();
            Some(Ok((kind, value)))
        })
    }

    pub(crate) fn malformed(&self, what: &'static str, found: usize) -> Malformed {
        Malformed { message: self.message, what, found }
    }
}

/// Attributes and messages begin at multiples of four bytes.
pub(crate) const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

const NLA_TYPE_MASK: u16 = 0x3fff;
const ARPHRD_ETHER: u16 = 1;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_XDP: u16 = 43;
/// `IFLA_XDP_PROG_ID`, `_DRV_`, `_SKB_` and `_HW_PROG_ID`.
const IFLA_XDP_PROGRAMS: [u16; 4] = [4, 5, 6, 7];
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFA_F_DADFAILED: u8 = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTN_UNICAST: u8 = 1;
const RT_TABLE_MAIN: u32 = 254;
const RTM_F_CLONED: u32 = 0x200;
const RTA_OIF: u16 = 4;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_s_veth_names_its_peer_and_the_peer_s_namespace() {
        let mut payload = vec![0, 0, 1, 0, 6, 0, 0, 0, 0x43, 0x10, 1, 0, 0, 0, 0, 0];
        payload.extend(attribute(IFLA_IFNAME, b"eth0\0"));
        payload.extend(attribute(IFLA_ADDRESS, &[2, 0x42, 10, 0, 0, 2]));
        payload.extend(attribute(IFLA_LINK, &7u32.to_ne_bytes()));
        payload.extend(attribute(IFLA_LINK_NETNSID, &0i32.to_ne_bytes()));
        // NLA_F_NESTED (0x8000) on the type must not hide the attribute.
        payload.extend(attribute(IFLA_LINKINFO | 0x8000, &attribute(IFLA_INFO_KIND, b"veth\0")));
        // Attached in the driver: how (1 byte), then the program, twice.
        let program = |kind| attribute(kind, &12u32.to_ne_bytes());
        payload.extend(attribute(IFLA_XDP, &[attribute(2, &[1]), program(4), program(5)].concat()));
        // An attribute number of the future, of a size that nobody expects.
        payload.extend(attribute(9999, &[1, 2, 3]));
        let reading = link(&payload).expect("a well-formed link");
        assert_eq!(reading.parent_namespace, Some(0));
        assert_eq!(
            reading.link,
            Link {
                index: 6,
                name: "eth0".into(),
                mac: Some(Mac([2, 0x42, 10, 0, 0, 2])),
                kind: LinkKind::Veth,
                ethernet: true,
                loopback: false,
                up: true,
                master: None,
                parent: Some(7),
                abroad: true,
                xdp: vec![12, 12],
            }
        );
    }

    #[test]
    fn broken_messages_are_errors_and_never_half_read() {
        assert!(link(&[0; 15]).is_err());
        let mut payload = vec![0; 16];
        payload.extend(attribute(IFLA_MASTER, &[1, 2]));
        assert!(link(&payload).is_err());
        let mut payload = vec![0; 16];
        payload.extend([200, 0, 3, 0]);
        assert!(link(&payload).is_err());
        let mut payload = vec![0; 16];
        payload.extend([2, 0, 3, 0]);
        assert!(link(&payload).is_err());
    }

    #[test]
    fn a_point_to_point_address_is_the_local_one_and_a_refused_one_is_nobody_s() {
        let mut payload = vec![2, 32, 0, 0, 3, 0, 0, 0];
        payload.extend(attribute(IFA_ADDRESS, &[10, 0, 0, 2]));
        payload.extend(attribute(IFA_LOCAL, &[10, 0, 0, 1]));
        let found = address(&payload).expect("a well-formed address").expect("one of ours");
        assert_eq!(
            (found.ifindex, found.address, found.prefix_len),
            (3, Ipv4Addr::new(10, 0, 0, 1).into(), 32)
        );
        payload[2] = IFA_F_DADFAILED;
        assert_eq!(address(&payload), Ok(None));
    }

    #[test]
    fn default_routes_count_in_the_main_table_only_with_all_their_next_hops() {
        let route =
            |table: u8, prefix_len: u8, kind: u8| vec![2, prefix_len, 0, 0, table, 0, 0, kind, 0, 0, 0, 0];
        let mut plain = route(254, 0, RTN_UNICAST);
        plain.extend(attribute(RTA_OIF, &4u32.to_ne_bytes()));
        assert_eq!(default_route_links(&plain), Ok(vec![4]));
        plain.extend(attribute(RTA_TABLE, &51820u32.to_ne_bytes()));
        assert_eq!(default_route_links(&plain), Ok(vec![]));
        let mut unreachable = route(254, 0, 7);
        unreachable.extend(attribute(RTA_OIF, &1u32.to_ne_bytes()));
        assert_eq!(default_route_links(&unreachable), Ok(vec![]));
        let mut hops = vec![16, 0, 0, 0, 5, 0, 0, 0];
        hops.extend(attribute(5, &[10, 0, 0, 1]));
        hops.extend([8, 0, 0, 0, 6, 0, 0, 0]);
        let mut multipath = route(254, 0, RTN_UNICAST);
        multipath.extend(attribute(RTA_MULTIPATH, &hops));
        assert_eq!(default_route_links(&multipath), Ok(vec![5, 6]));
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).expect("a short value");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }
}
