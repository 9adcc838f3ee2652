//! The SSH connection on which a command was typed, and whether a policy would let it be opened again.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use bytemuck::{Pod, Zeroable as _};
use fw_common::decide::Workspace;
use fw_common::tables::memory::Memory;
use fw_common::tables::{Interface, LocalKey, link_layer, role};
use fw_common::wire::{Arrival, Audience, Bytes, Head, VlanTag, ethertype, proto};
use fw_common::{Action, Address, Hook, Tables as _, decide};
use serde::{Deserialize, Serialize};

/// A TCP connection that somebody outside has opened to this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Who has opened it.
    pub peer: SocketAddr,
    /// Where to.
    pub local: SocketAddr,
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.peer, self.local)
    }
}

/// What sshd gives to those it starts (`man ssh`).
const VARIABLE: &str = "SSH_CONNECTION";

/// The SSH connection of this process: of its own environment, or of the nearest ancestor's that has one, for `sudo`
/// takes it away.
pub fn typed_on() -> Option<Connection> {
    let own = std::env::var(VARIABLE).ok();
    own.as_deref().and_then(parse).or_else(|| ancestors().find_map(environment))
}

/// `PEER PORT LOCAL PORT`.
fn parse(value: &str) -> Option<Connection> {
    let words: Vec<&str> = value.split_whitespace().collect();
    let [peer, peer_port, local, local_port] = words[..] else { return None };
    // sshd writes a link-local address with its scope.
    let address = |text: &str| text.split('%').next().and_then(|text| text.parse::<IpAddr>().ok());
    let end =
        |text: &str, port: &str| Some(SocketAddr::new(address(text)?.to_canonical(), port.parse().ok()?));
    Some(Connection { peer: end(peer, peer_port)?, local: end(local, local_port)? })
}

/// The parent of this process, its parent, and so on.
fn ancestors() -> impl Iterator<Item = u32> {
    let parent = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        line.trim().parse::<u32>().ok().filter(|pid| *pid != 0)
    };
    std::iter::successors(Some(std::os::unix::process::parent_id()), move |pid| parent(*pid))
}

fn environment(pid: u32) -> Option<Connection> {
    let all = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut values = all.split(|byte| *byte == 0).filter_map(|entry| {
        let value = entry.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"=")?;
        std::str::from_utf8(value).ok()
    });
    values.find_map(parse)
}

/// The kernel's number for the loopback device of a network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// Whether these tables keep the peer from opening this connection once more, were it closed.
///
/// Only a connection by an uplink is judged: from a container or from this host itself no rule of the policy's is asked.
pub fn would_cut(tables: &Memory, connection: &Connection) -> bool {
    let (peer, local) = (Address::from(connection.peer.ip()), Address::from(connection.local.ip()));
    if tables.settings.observe != 0 || local.is_loopback() || tables.subnet(&peer).is_some() {
        return false;
    }
    let uplinks: Vec<(u32, Interface)> = tables
        .interfaces
        .iter()
        .filter(|(_, interface)| interface.role == role::UPLINK)
        .map(|(index, interface)| (*index, *interface))
        .collect();
    // That of the address, if it is one; a peer may come in by another.
    let home = tables.local_address(&LocalKey::new(local, 0)).map(|found| found.ifindex);
    let at_home = |(_, uplink): &&(u32, Interface)| home.is_none() || home == Some(uplink.l3_device);
    let judged: Vec<&(u32, Interface)> = match uplinks.iter().filter(at_home).collect::<Vec<_>>() {
        // An address of the loopback device comes in by any uplink; that of a VPN by the VPN, which nobody judges.
        none if none.is_empty() && home.is_none_or(|home| home == LOOPBACK) => uplinks.iter().collect(),
        some => some,
    };
    // A decision writes to the tables: it gets its own.
    let tables = tables.clone();
    !judged.is_empty() && judged.iter().all(|(index, uplink)| drops(&tables, *index, uplink, connection))
}

fn drops(tables: &Memory, ifindex: u32, uplink: &Interface, connection: &Connection) -> bool {
    let frame = opening(connection, uplink);
    let arrival = Arrival {
        ifindex,
        ingress_ifindex: 0,
        ethertype: if connection.peer.is_ipv4() { ethertype::IPV4 } else { ethertype::IPV6 },
        vlan: VlanTag::NONE,
        audience: Audience::Host,
        mark: 0,
        owner: 0,
    };
    let verdict = decide(Hook::UplinkIngress, &arrival, &Frame(&frame), tables, &mut Workspace::zeroed());
    verdict.action == Action::Drop
}

/// The segment with which the connection would begin.
fn opening(connection: &Connection, uplink: &Interface) -> Vec<u8> {
    let Connection { peer, local } = connection;
    let mut frame = Vec::new();
    if uplink.link_layer == link_layer::ETHERNET {
        frame.extend(uplink.mac.bytes);
        frame.extend([2, 0, 0, 0, 0, 1]);
        let kind = if peer.is_ipv4() { ethertype::IPV4 } else { ethertype::IPV6 };
        frame.extend(kind.to_be_bytes());
    }
    match (peer.ip(), local.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, proto::TCP, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (source, destination) => {
            frame.extend([0x60, 0, 0, 0, 0, 20, proto::TCP, 64]);
            frame.extend(Address::from(source).bytes);
            frame.extend(Address::from(destination).bytes);
        }
    }
    frame.extend(peer.port().to_be_bytes());
    frame.extend(local.port().to_be_bytes());
    // Sequence and acknowledgement, offset and SYN, window, checksum and urgent pointer.
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

struct Frame<'a>(&'a [u8]);

impl Bytes for Frame<'_> {
    fn length(&self) -> u32 {
        self.0.len() as u32
    }

    fn read<T: Pod>(&self, offset: u32, into: &mut T) -> bool {
        let begin = offset as usize;
        let found = self.0.get(begin..begin.saturating_add(size_of::<T>()));
        found.inspect(|found| bytemuck::bytes_of_mut(into).copy_from_slice(found)).is_some()
    }

    fn head(&self, into: &mut Head) -> u32 {
        self.0.head(into)
    }
}

#[cfg(test)]
mod tests {
    use fw_common::tables::{Port, PortKey, Settings, sources};

    use super::*;

    fn connection(text: &str) -> Connection {
        parse(text).expect("a connection")
    }

    fn host(ports: &[u16]) -> Memory {
        let mut tables =
            Memory { settings: Settings { mark_bit: 24, ..Settings::zeroed() }, ..Memory::default() };
        for (index, link_layer) in [(2, link_layer::ETHERNET), (3, link_layer::NONE)] {
            let uplink =
                Interface { role: role::UPLINK, link_layer, l3_device: index, ..Interface::zeroed() };
            tables.interfaces.insert(index, uplink);
        }
        for (address, ifindex) in [("192.0.2.1", 2), ("2001:db8::1", 3)] {
            let address: IpAddr = address.parse().expect("an address");
            let value = fw_common::tables::LocalAddress { ifindex, broadcast: 0, reserved: [0; 3] };
            tables.local_addresses.insert(LocalKey::new(address.into(), ifindex), value);
        }
        for port in ports {
            for address in [Address::ANY_V4, Address::ANY_V6] {
                let open = Port { zones: 0, rule: 1, sources: sources::ANY, published: 0, open: 0, limit: 0 };
                tables.ports.insert(PortKey::new(address, proto::TCP, *port), open);
            }
        }
        tables
    }

    #[test]
    fn what_sshd_writes_is_read() {
        let found = connection("203.0.113.9 50000 192.0.2.1 22");
        assert_eq!(found.to_string(), "203.0.113.9:50000 to 192.0.2.1:22");
        assert_eq!(connection("fe80::1%eth0 1 fe80::2%eth0 22").local, "[fe80::2]:22".parse().expect("it"));
        assert_eq!(connection("::ffff:203.0.113.9 5 ::ffff:192.0.2.1 22").peer.to_string(), "203.0.113.9:5");
        for wrong in ["", "203.0.113.9 50000 192.0.2.1", "UNKNOWN 65535 UNKNOWN 65535", "a b c d e"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_connection_is_cut_by_a_policy_without_its_port() {
        for text in ["203.0.113.9 50000 192.0.2.1 22", "2001:db8:9::9 50000 2001:db8::1 22"] {
            let connection = connection(text);
            assert!(!would_cut(&host(&[22]), &connection), "{text}");
            assert!(would_cut(&host(&[23]), &connection), "{text}");
            // A VPN brings what is for its own address, and nobody judges it; that of the loopback comes by an uplink.
            for (ifindex, cut) in [(7, false), (LOOPBACK, true)] {
                let mut elsewhere = host(&[23]);
                elsewhere.local_addresses.clear();
                let value = fw_common::tables::LocalAddress { ifindex, broadcast: 0, reserved: [0; 3] };
                let key = LocalKey::new(connection.local.ip().into(), ifindex);
                elsewhere.local_addresses.insert(key, value);
                assert_eq!(would_cut(&elsewhere, &connection), cut, "{text} on {ifindex}");
            }
            let mut observing = host(&[]);
            observing.settings.observe = 1;
            assert!(!would_cut(&observing, &connection), "observing drops nothing");
        }
        assert!(!would_cut(&host(&[]), &connection("127.0.0.1 5 127.0.0.1 22")), "not by an uplink");
        assert!(!would_cut(&Memory::default(), &connection("203.0.113.9 5 192.0.2.1 22")), "no uplink");
    }
}
