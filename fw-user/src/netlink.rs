//! What the kernel knows of this host's network: links, addresses, default routes, and when they change.
//!
//! A snapshot is the truth and a change is only a wake-up. Everything is seen from the network namespace
//! of the calling thread, except [`links_of`], which looks from inside a container.

mod message;
mod namespace;
mod qdisc;
mod route;
mod rule;
mod socket;
mod watch;

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

pub use self::message::Malformed;
pub(crate) use self::message::{Reader, aligned};
pub(crate) use self::namespace::inside_each;
pub use self::namespace::{ContainerLink, links_of, links_of_each};
pub use self::qdisc::{Filter, filters, has_filters, remove_clsact_if_unused};
pub use self::route::{Leads, route};
pub use self::rule::{RoutingRule, routing_rules};
pub(crate) use self::socket::{Question, Socket};
pub use self::watch::{Changed, Joined, Watch, watch};
use crate::inventory::Mac;

/// Links, addresses and default routes of a network namespace at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSnapshot {
    /// All links, by index.
    pub links: Vec<Link>,
    /// All addresses that this host answers to, by link and address.
    pub addresses: Vec<LocalAddress>,
    /// Indices of the links that a default route of the main table leads over, IPv4 and IPv6, sorted.
    pub default_route_links: Vec<u32>,
}

impl HostSnapshot {
    /// The link with that index.
    pub fn link(&self, index: u32) -> Option<&Link> {
        let at = self.links.binary_search_by_key(&index, |link| link.index).ok()?;
        self.links.get(at)
    }

    /// The link with that name.
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Number of the device in its namespace; used again only after the kernel's counter wraps.
    pub index: u32,
    /// Name of the device in its namespace.
    pub name: String,
    /// Ethernet address, of devices that have one.
    pub mac: Option<Mac>,
    /// Which driver made it.
    pub kind: LinkKind,
    /// Its frames begin with an Ethernet header.
    pub ethernet: bool,
    /// It is the loopback device.
    pub loopback: bool,
    /// It is switched on; says nothing about the cable.
    pub up: bool,
    /// Index of the bridge, bond or the like that it is a port of.
    pub master: Option<u32>,
    /// Index of the device below (VLAN, macvlan) or at the other end (veth), in that device's namespace.
    pub parent: Option<u32>,
    /// The device that `parent` names is in another network namespace.
    #[serde(default)]
    pub abroad: bool,
    /// Numbers of the XDP programs that run on it.
    #[serde(default)]
    pub xdp: Vec<u32>,
}

#[cfg(test)]
impl Link {
    /// A device that is up and speaks Ethernet, for tests to make what they need of.
    pub(crate) fn sample(index: u32, name: &str, kind: LinkKind, master: Option<u32>) -> Self {
        let name = name.to_owned();
        Self {
            index,
            name,
            mac: None,
            kind,
            ethernet: true,
            loopback: false,
            up: true,
            master,
            parent: None,
            abroad: false,
            xdp: Vec::new(),
        }
    }
}

/// The driver of a link, by the name that the kernel gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// No kind: a device of hardware (or a paravirtual one), and the loopback device.
    Physical,
    /// A bridge.
    Bridge,
    /// One end of a pair.
    Veth,
    /// A VLAN on another device.
    Vlan,
    /// A bond of devices.
    Bond,
    /// A team of devices.
    Team,
    /// A tun or tap device.
    Tun,
    /// A `WireGuard` tunnel.
    Wireguard,
    /// An address of its own on a parent device.
    Macvlan,
    /// A macvlan that ends in a character device.
    Macvtap,
    /// A device that shares its parent's Ethernet address.
    Ipvlan,
    /// A VXLAN tunnel.
    Vxlan,
    /// A device that swallows what is sent to it.
    Dummy,
    /// A routing domain.
    Vrf,
    /// Any other kind.
    Other(String),
}

impl LinkKind {
    /// The kind with that name in `IFLA_INFO_KIND`.
    pub fn named(name: &str) -> Self {
        match name {
            "bridge" => Self::Bridge,
            "veth" => Self::Veth,
            "vlan" => Self::Vlan,
            "bond" => Self::Bond,
            "team" => Self::Team,
            "tun" => Self::Tun,
            "wireguard" => Self::Wireguard,
            "macvlan" => Self::Macvlan,
            "macvtap" => Self::Macvtap,
            "ipvlan" => Self::Ipvlan,
            "vxlan" => Self::Vxlan,
            "dummy" => Self::Dummy,
            "vrf" => Self::Vrf,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// An address of this host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LocalAddress {
    /// Index of the link that carries it.
    pub ifindex: u32,
    /// The address itself.
    pub address: IpAddr,
    /// Length of the prefix of its subnet, in bits.
    pub prefix_len: u8,
    /// Broadcast address of its subnet, if it was given one.
    pub broadcast: Option<Ipv4Addr>,
}

/// Why the kernel's view of the network could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a socket to the kernel (AF_NETLINK): {0}")]
    Open(#[source] io::Error),
    /// The kernel refused, or the socket broke.
    #[error("cannot ask the kernel for the {what} of this network namespace: {source}")]
    Ask {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The list changed each time while it was being read.
    #[error(
        "the list of {what} changed during each of {attempts} attempts to read it; trying later may help"
    )]
    Unsteady {
        /// What was asked for.
        what: &'static str,
        /// How many times.
        attempts: usize,
    },
    /// An answer without content.
    #[error("the kernel gave no {what}")]
    NoAnswer {
        /// What was asked for.
        what: &'static str,
    },
    /// An answer longer than the kernel's own limit.
    #[error("the answer about {what} is {length} bytes long, more than a routing message may have")]
    TooLong {
        /// What was asked for.
        what: &'static str,
        /// Bytes.
        length: usize,
    },
    /// An answer that is not a sequence of netlink messages.
    #[error("the answer about {what} is not a sequence of netlink messages")]
    Framing {
        /// What was asked for.
        what: &'static str,
    },
    /// A message that does not hold what it must.
    #[error("cannot understand the kernel: {0}")]
    Malformed(#[from] Malformed),
    /// The process has ended.
    #[error("process {pid} has ended")]
    ProcessGone {
        /// Its number.
        pid: u32,
    },
    /// The namespace of a process cannot be entered.
    #[error(
        "cannot enter the network namespace of process {pid}: {source}; fw needs CAP_SYS_ADMIN and \
         CAP_SYS_PTRACE, and the host's process numbers"
    )]
    Enter {
        /// Number of the process.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The worker thread did not finish.
    #[error("the thread that reads {what} ended early")]
    Thread {
        /// What it was reading.
        what: &'static str,
    },
}

/// Reads links, addresses and default routes of the network namespace of the calling thread.
///
/// Routes through next-hop objects count as long as the kernel spells them out
/// (`net.ipv4.nexthop_compat_mode`, on by default).
pub fn snapshot() -> Result<HostSnapshot, NetlinkError> {
    let socket = Socket::open_strict()?;
    let mut links = socket.read_list(Question::Links, &message::all_links(), |payload| {
        message::link(payload).map(|reading| reading.link)
    })?;
    links.sort_by_key(|link| link.index);

    let addresses =
        socket.read_list(Question::Addresses, &[AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0], message::address)?;
    let mut addresses: Vec<LocalAddress> = addresses.into_iter().flatten().collect();
    addresses.sort();

    let mut default_route_links = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let routes = &message::main_routes(family);
        match socket.read_list(Question::Routes, routes, message::default_route_links) {
            Ok(found) => default_route_links.extend(found.into_iter().flatten()),
            // There is no table before its first route.
            Err(NetlinkError::Ask { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    default_route_links.sort_unstable();
    default_route_links.dedup();
    Ok(HostSnapshot { links, addresses, default_route_links })
}

const AF_UNSPEC: u8 = 0;
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;
