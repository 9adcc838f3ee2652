//! The rules of fw's own in iptables: what they need to know of the kernel's settings, and what a person should know.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use fw_common::Address;
use fw_common::wire::proto;

use super::{Reconciler, chain};
use crate::conntrack::{self, Connection, status};
use crate::docker::Transport;
use crate::handover::{Nat, Outcome, Place};
use crate::netlink::NetlinkError;

impl Reconciler {
    /// Once published ports lead elsewhere: whoever goes on sending to one would for ever be led to where it led before,
    /// and one day that is another container. TCP ends by itself; of UDP the kernel knows no end.
    pub(super) fn forget_stale(&mut self, before: Option<&Nat>, now: &Nat, local: &BTreeSet<Address>) {
        if !now.owns || before.is_some_and(|before| before.ports == now.ports) {
            return;
        }
        match remove_stale(before, now, local) {
            Ok(0) => {}
            Ok(connections) => tracing::info!(connections, "forgot where published UDP ports led before"),
            Err(error) => self.say(&[format!(
                "whoever sends to a UDP port that was published anew may still be led to where it led before: {}",
                chain(&error)
            )]),
        }
    }
}

fn remove_stale(before: Option<&Nat>, now: &Nat, local: &BTreeSet<Address>) -> Result<usize, NetlinkError> {
    let connections = conntrack::snapshot()?;
    conntrack::remove(connections.iter().filter(|connection| is_stale(before, now, local, connection)))
}

/// Whether a connection to a published UDP port of this host ends elsewhere than our rules lead.
fn is_stale(
    before: Option<&Nat>,
    now: &Nat,
    local: &BTreeSet<Address>,
    Connection { original, reply, status, .. }: &Connection,
) -> bool {
    if original.protocol != proto::UDP || !local.contains(&original.destination) {
        return false;
    }
    let ends = (reply.source, reply.source_port);
    let leads = |nat: &Nat| leads(nat, original.destination, original.destination_port);
    match leads(now) {
        // docker-proxy serves containers and this host itself.
        Some(target) => {
            let translated = status & status::DESTINATION_NAT != 0;
            ends != target
                && (translated || !(local.contains(&original.source) || inside(now, original.source)))
        }
        None => before.and_then(leads) == Some(ends),
    }
}

/// Where a UDP port of this host leads.
fn leads(nat: &Nat, address: Address, number: u16) -> Option<(Address, u16)> {
    let ports = nat.ports.iter().filter(|port| port.protocol == Transport::Udp && port.host_port == number);
    let mut ports = ports.filter(|port| {
        let host = Address::from(port.host);
        host == address || (port.host.is_unspecified() && host.is_v4() == address.is_v4())
    });
    ports.next().map(|port| (Address::from(port.target), port.target_port))
}

fn inside(nat: &Nat, source: Address) -> bool {
    let source: std::net::IpAddr = source.into();
    nat.networks.iter().flat_map(|network| &network.subnets).any(|subnet| subnet.contains(&source))
}

/// `nat` with the settings of the kernel that its rules depend on.
pub(super) fn settled(mut nat: Nat) -> Nat {
    let everywhere = is_on("net/ipv4/conf/all/route_localnet");
    let bridges = nat.networks.iter().map(|network| &network.bridge);
    let localnet = bridges.filter(|bridge| {
        everywhere || is_on(Path::new("net/ipv4/conf").join(bridge.as_str()).join("route_localnet"))
    });
    nat.localnet = localnet.cloned().collect();
    nat
}

/// What keeps containers from the outside although the rules stand.
pub(super) fn warnings(nat: &Nat) -> Vec<String> {
    let mut warnings = Vec::new();
    let has = |v4: bool| {
        let owned = nat.networks.iter().filter(|network| nat.owns && network.docker && !network.internal);
        owned.flat_map(|network| &network.subnets).any(|subnet| subnet.addr().is_ipv4() == v4)
    };
    for (v4, key) in [(true, "net/ipv4/ip_forward"), (false, "net/ipv6/conf/all/forwarding")] {
        if has(v4) && !is_on(key) {
            let name = key.replace('/', ".");
            warnings.push(format!(
                "{name} is off: containers reach nothing outside and no published port reaches them; dockerd switches it \
                 on unless it runs with --ip-forward=false: `sysctl -w {name}=1`"
            ));
        }
    }
    warnings
}

/// How NAT stands after the rules were written, as `Daemon::nat` has it.
pub(super) fn health(nat: &Nat, outcome: Option<&Outcome>) -> u8 {
    use fw_common::tables::nat_health::{FAILED, NOT_OURS, REFUSED, STANDS};
    match outcome {
        _ if !nat.owns => NOT_OURS,
        None => FAILED,
        Some(outcome) if !outcome.refused.is_empty() => REFUSED,
        Some(_) => STANDS,
    }
}

/// How NAT stands where Docker writes it, as `Daemon::nat` has it: whether its rules were `seen`, and `stand`.
pub(super) fn of_docker(before: u8, seen: bool, stand: bool) -> u8 {
    use fw_common::tables::nat_health::{GONE, NOT_OURS};
    match before {
        NOT_OURS if seen && !stand => GONE,
        GONE if stand => NOT_OURS,
        other => other,
    }
}

/// What to do where Docker writes rules as well.
pub(super) fn refusal(places: &[Place]) -> Option<String> {
    let names: BTreeSet<String> = places.iter().map(ToString::to_string).collect();
    let names: Vec<String> = names.into_iter().collect();
    (!names.is_empty()).then(|| {
        format!(
            "nat.owner = \"fw\", but Docker's own rules stand in {}: both would translate, so Docker's stay in force; \
             run dockerd with --iptables=false (and --ip6tables=false), then take its rules away as docs/operations.md \
             says, or reboot",
            names.join(" and ")
        )
    })
}

/// A switch below /proc/sys; one that is not there is off.
fn is_on(key: impl AsRef<Path>) -> bool {
    fs::read_to_string(Path::new("/proc/sys").join(key)).is_ok_and(|value| value.trim() == "1")
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::conntrack::Tuple;
    use crate::handover::{Marks, Network, Port};

    const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
    const PEER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
    const OLD: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
    const NEW: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);

    fn nat(target: Option<Ipv4Addr>) -> Nat {
        let port = |target: Ipv4Addr| Port {
            host: Ipv4Addr::UNSPECIFIED.into(),
            protocol: Transport::Udp,
            host_port: 53,
            bridge: "br-a".into(),
            target: target.into(),
            target_port: 5353,
        };
        Nat {
            owns: true,
            observe: false,
            marks: Marks::new(24).expect("bit 24 is allowed"),
            reach: false,
            networks: vec![Network {
                bridge: "br-a".into(),
                docker: true,
                subnets: vec!["10.1.0.0/24".parse().expect("a prefix")],
                internal: false,
                masquerade_v4: true,
                masquerade_v6: true,
            }],
            ports: target.map(port).into_iter().collect(),
            uplinks: BTreeSet::new(),
            redirects: Vec::new(),
            dnats: Vec::new(),
            localnet: BTreeSet::new(),
        }
    }

    fn connection(from: Ipv4Addr, to: Ipv4Addr, ends: (Ipv4Addr, u16)) -> Connection {
        let address = |address: Ipv4Addr| Address::from(IpAddr::from(address));
        let original = Tuple {
            source: address(from),
            destination: address(to),
            protocol: proto::UDP,
            icmp_type: 0,
            icmp_code: 0,
            source_port: 5001,
            destination_port: 53,
        };
        let reply = Tuple {
            source: address(ends.0),
            destination: original.source,
            source_port: ends.1,
            destination_port: original.source_port,
            ..original
        };
        let status = if ends == (to, 53) { 0 } else { status::DESTINATION_NAT };
        Connection { original, reply, tcp: None, status, timeout: None, mark: 0, zone: 0, id: 0 }
    }

    #[test]
    fn what_leads_elsewhere_is_forgotten_and_nothing_else() {
        let local = BTreeSet::from([Address::from(IpAddr::from(HOST))]);
        let (old, new, none) = (nat(Some(OLD)), nat(Some(NEW)), nat(None));
        let stale = |before, now, connection| is_stale(before, now, &local, &connection);
        let to_old = || connection(PEER, HOST, (OLD, 5353));
        assert!(stale(Some(&old), &new, to_old()), "the port has moved");
        assert!(stale(None, &new, to_old()), "it moved while no daemon ran");
        assert!(stale(Some(&old), &none, to_old()), "the port is gone");
        assert!(!stale(Some(&old), &old, to_old()), "nothing has changed");
        assert!(!stale(Some(&none), &none, to_old()), "somebody else's rule leads there");
        let untranslated = |from| connection(from, HOST, (HOST, 53));
        assert!(stale(Some(&none), &new, untranslated(PEER)), "from before the port was published");
        assert!(!stale(Some(&none), &new, untranslated(OLD)), "a container's, by docker-proxy");
        assert!(!stale(Some(&none), &new, untranslated(HOST)), "the host's own, by docker-proxy");
        let elsewhere = connection(OLD, PEER, (PEER, 53));
        assert!(!stale(Some(&old), &new, elsewhere), "to port 53 of somebody else");
    }
}
