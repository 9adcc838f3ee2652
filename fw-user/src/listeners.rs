//! Who listens: the sockets of this host and of containers at which connections and datagrams of anybody arrive, with
//! the processes that hold them, as `ss -lnp` shows them (`linux/inet_diag.h`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use fw_common::Address;
use fw_common::wire::proto;
use nix::errno::Errno;

use crate::netlink::{AF_INET, AF_INET6, Malformed, NetlinkError, Question, Reader, Socket, inside_each};
use crate::view::plain;

/// A socket that takes connections, or datagrams, of anybody.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    /// The address that it is bound to; `0.0.0.0` and `::` are any of their family.
    pub address: Address,
    /// Port in host byte order.
    pub port: u16,
    /// Bound to `::`, it takes no IPv4.
    pub only_v6: bool,
    /// Index of the device that it is bound to, 0 for none.
    pub device: u32,
    /// Number of the socket.
    pub inode: u32,
}

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name (`comm`, at most fifteen bytes), on one line.
    pub name: String,
    /// The id of the container that it runs in, by its control group.
    pub container: Option<String>,
}

/// All that listen at one moment.
#[derive(Debug, Clone, Default)]
pub struct Listeners {
    /// In the network namespace of the caller.
    pub host: Vec<Listener>,
    /// In those of other processes, by process number. A process whose sockets could not be read is missing.
    pub inside: BTreeMap<u32, Vec<Listener>>,
    /// Who holds a socket of the host, by the number of the socket; those that cannot be seen are missing.
    pub holders: BTreeMap<u32, Process>,
}

impl Listener {
    /// Whether what is sent to this address and port arrives here.
    pub fn takes(&self, protocol: u8, address: &Address, port: u16) -> bool {
        let any = self.address == address.any_of_family()
            || (self.address == Address::ANY_V6 && !self.only_v6 && address.is_v4());
        self.protocol == protocol && self.port == port && (any || self.address == *address)
    }
}

/// Reads them, of this host and of the namespaces of these processes.
pub fn snapshot(pids: &BTreeSet<u32>) -> Result<Listeners, NetlinkError> {
    let host = here()?;
    let pids: Vec<u32> = pids.iter().copied().filter(|pid| *pid != 0).collect();
    let inside = inside_each(&pids, here)?.into_iter();
    let wanted = host.iter().map(|listener| listener.inode).collect();
    Ok(Listeners {
        inside: inside.filter_map(|(pid, found)| Some((pid, found.ok()?))).collect(),
        holders: holders(&wanted),
        host,
    })
}

/// Those of the calling thread's network namespace.
pub fn here() -> Result<Vec<Listener>, NetlinkError> {
    let socket = Socket::of_sockets()?;
    let mut all = Vec::new();
    for protocol in [proto::TCP, proto::UDP] {
        for family in [AF_INET, AF_INET6] {
            let mut broken = None;
            let asked =
                socket.visit(Question::Sockets, &question(family, protocol), |payload| {
                    match listener(protocol, payload) {
                        Ok(found) => all.extend(found),
                        Err(error) => broken = Some(error),
                    }
                });
            match asked {
                // A kernel that cannot tell of this protocol (without `CONFIG_INET_UDP_DIAG`) tells of others.
                Err(NetlinkError::Ask { source, .. })
                    if source.raw_os_error() == Some(Errno::ENOENT as i32) => {}
                other => other?,
            }
            if let Some(error) = broken {
                return Err(error.into());
            }
        }
    }
    all.sort();
    all.dedup();
    Ok(all)
}

/// `struct inet_diag_req_v2`: sockets that listen, and those of UDP that are not connected.
fn question(family: u8, protocol: u8) -> Vec<u8> {
    let mut bytes = vec![family, protocol, 0, 0];
    bytes.extend((1_u32 << LISTEN | 1 << CLOSE).to_ne_bytes());
    bytes.resize(56, 0);
    bytes
}

/// Reads `struct inet_diag_msg`, whose ports and addresses are in network order; `None` if nobody is meant to come in.
fn listener(protocol: u8, payload: &[u8]) -> Result<Option<Listener>, Malformed> {
    const HEADER: usize = 72;
    let read = Reader { message: "socket" };
    let header = read.header::<HEADER>(payload)?;
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let number = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| header[at + byte]));
    let address = match header[0] {
        AF_INET => Address::v4(std::array::from_fn(|byte| header[8 + byte])),
        _ => Address::v6(std::array::from_fn(|byte| header[8 + byte])),
    };
    let mut only_v6 = false;
    for attribute in read.attributes(&payload[HEADER..]) {
        let (kind, value) = attribute?;
        if kind == INET_DIAG_SKV6ONLY {
            only_v6 = value.first().is_some_and(|value| *value != 0);
        }
    }
    let waits = if protocol == proto::TCP { header[1] == LISTEN } else { port(6) == 0 };
    Ok((waits && port(4) != 0).then_some(Listener {
        protocol,
        address,
        port: port(4),
        only_v6,
        device: number(40),
        inode: number(68),
    }))
}

/// The processes that hold these sockets, of those that this one can see. Where several do (a server and its
/// children), the one with the lowest number.
fn holders(wanted: &BTreeSet<u32>) -> BTreeMap<u32, Process> {
    let mut holders = BTreeMap::new();
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    for pid in pids {
        let mut process = None;
        for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            // The number of the socket is that of its file; the link's text is made anew for each look.
            let Ok(link) = fs::read_link(descriptor.path()) else { continue };
            let inode =
                link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            let Some(inode) = inode.filter(|inode| wanted.contains(inode) && !holders.contains_key(inode))
            else {
                continue;
            };
            let process = process.get_or_insert_with(|| Process {
                pid,
                name: name(&fs::read(format!("/proc/{pid}/comm")).unwrap_or_default()),
                container: container_of(
                    &fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default(),
                ),
            });
            holders.insert(inode, process.clone());
        }
        if holders.len() == wanted.len() {
            break;
        }
    }
    holders
}

/// A process gives itself its name, whatever its bytes: on one line here.
fn name(comm: &[u8]) -> String {
    plain(String::from_utf8_lossy(comm.strip_suffix(b"\n").unwrap_or(comm)).as_ref()).into_owned()
}

/// The id of a container in the path of a control group: `…/docker-ID.scope`, `…/ID`.
fn container_of(groups: &str) -> Option<String> {
    let words = groups.split(['/', '-', '.', ':', '\n']);
    let mut ids = words.filter(|word| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()));
    ids.next().map(str::to_owned)
}

const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
/// Of a socket of IPv6 that listens or is not connected: whether it takes IPv6 alone.
const INET_DIAG_SKV6ONLY: u16 = 11;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, TcpListener, UdpSocket};

    fn found(all: &[Listener], protocol: u8, at: std::net::SocketAddr) -> Vec<&Listener> {
        all.iter().filter(|one| one.takes(protocol, &at.ip().into(), at.port())).collect()
    }

    /// The sockets of this very process, asked from the kernel.
    #[test]
    fn who_listens_is_found_with_its_process() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let connected = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        connected.connect("127.0.0.1:9").expect("a peer");
        let all = snapshot(&BTreeSet::new()).expect("sockets");
        for (protocol, at) in [(proto::TCP, tcp.local_addr()), (proto::UDP, udp.local_addr())] {
            let at = at.expect("an address");
            let found = found(&all.host, protocol, at);
            assert_eq!(found.len(), 1, "{at}: {:#?}", all.host);
            let holder = all.holders.get(&found[0].inode).expect("its process");
            assert_eq!(holder.pid, std::process::id());
            let elsewhere: IpAddr = "127.0.0.2".parse().expect("an address");
            assert!(!found[0].takes(protocol, &elsewhere.into(), at.port()));
        }
        let at = connected.local_addr().expect("an address");
        assert!(found(&all.host, proto::UDP, at).is_empty(), "what is connected takes from one peer alone");
    }

    #[test]
    fn both_families_are_taken_unless_the_socket_says_otherwise() {
        let Ok(both) = TcpListener::bind("[::]:0") else {
            eprintln!("SKIPPED: this host has no IPv6");
            return;
        };
        let at = both.local_addr().expect("an address");
        let all = snapshot(&BTreeSet::new()).expect("sockets").host;
        let v4 = ("198.51.100.7".parse::<IpAddr>().expect("an address"), at.port()).into();
        assert_eq!(found(&all, proto::TCP, v4).len(), 1);
        let mut only = found(&all, proto::TCP, v4)[0].clone();
        only.only_v6 = true;
        assert!(!only.takes(proto::TCP, &v4.ip().into(), at.port()));
        let v6: IpAddr = "2001:db8::7".parse().expect("an address");
        assert!(only.takes(proto::TCP, &v6.into(), at.port()));
    }

    #[test]
    fn a_process_has_its_name_on_one_line() {
        assert_eq!(name(b"nginx\n"), "nginx");
        assert_eq!(name(b"a\nb\x1b[2J\xff\n"), "a\\u000ab\\u001b[2J\u{fffd}");
    }

    #[test]
    fn a_container_is_told_by_its_control_group() {
        let id = "0123456789abcdef".repeat(4);
        for path in [format!("0::/system.slice/docker-{id}.scope"), format!("5:cpu:/docker/{id}\n0::/")] {
            assert_eq!(container_of(&path).as_deref(), Some(id.as_str()), "{path}");
        }
        assert_eq!(container_of("0::/system.slice/ssh.service"), None);
    }
}
