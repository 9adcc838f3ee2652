//! The rules of fw's own in iptables: what they need to know of the kernel's settings, and what a person should know.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use fw_common::Address;
use fw_common::wire::proto;
use tokio::time::sleep;

use super::{Reconciler, chain};
use crate::conntrack::{self, Connection, Tuple};
use crate::docker::Transport;
use crate::handover::{Nat, Outcome};
use crate::netlink::NetlinkError;

/// How often connections are looked through after ports have changed, and the time between.
const ROUNDS: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);

impl Reconciler {
    /// Once published ports lead elsewhere: whoever goes on sending to one would for ever be led to where it led before,
    /// and one day that is another container. TCP ends by itself; of UDP the kernel knows no end.
    pub(super) async fn forget_stale(&mut self, before: Option<&Nat>, now: &Nat, local: &BTreeSet<Address>) {
        let udp = |nat: &'_ Nat| {
            let ports = nat.ports.iter().filter(|port| port.protocol == Transport::Udp);
            ports.cloned().collect::<Vec<_>>()
        };
        // The whole of conntrack is read only if it may matter.
        if !now.owns || before.map(udp).unwrap_or_default() == udp(now) {
            return;
        }
        // An answer that is on its way begins another one: look until there is none.
        for _ in 0..ROUNDS {
            match remove_stale(before, now, local) {
                Ok(0) => return,
                Ok(connections) => tracing::info!(connections, "forgot where published UDP ports led before"),
                Err(error) => {
                    return self.say(&[format!(
                        "whoever sends to a UDP port that was published anew may still be led to where it led before: {}",
                        chain(&error)
                    )]);
                }
            }
            self.beside(sleep(PAUSE)).await;
        }
    }
}

fn remove_stale(before: Option<&Nat>, now: &Nat, local: &BTreeSet<Address>) -> Result<usize, NetlinkError> {
    let connections = conntrack::snapshot()?;
    conntrack::remove(connections.iter().filter(|connection| is_stale(before, now, local, connection)))
}

/// Whether packets to a published UDP port of this host are led elsewhere by this connection than our rules lead them.
///
/// Whoever answers late (docker-proxy, a container that is going) begins a connection of its own, for which what comes to
/// the port is the answer.
fn is_stale(
    before: Option<&Nat>,
    now: &Nat,
    local: &BTreeSet<Address>,
    Connection { original, reply, .. }: &Connection,
) -> bool {
    let ours = |tuple: &Tuple| tuple.protocol == proto::UDP && local.contains(&tuple.destination);
    let (towards, back) = if ours(original) {
        (original, reply)
    } else if ours(reply) {
        (reply, original)
    } else {
        return false;
    };
    let ends = (back.source, back.source_port);
    let leads = |nat: &Nat| leads(nat, towards.destination, towards.destination_port);
    match leads(now) {
        // docker-proxy serves containers and this host itself, and nobody else once our rules stand.
        Some(target) => {
            let by_proxy = local.contains(&ends.0);
            ends != target && !(by_proxy && (local.contains(&towards.source) || inside(now, towards.source)))
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
pub(super) fn health(nat: &Nat, written: bool, refused: bool) -> u8 {
    use fw_common::tables::nat_health::{FAILED, NOT_OURS, REFUSED, STANDS};
    match (nat.owns, written, refused) {
        (false, ..) => NOT_OURS,
        (true, false, _) => FAILED,
        (true, true, true) => REFUSED,
        (true, true, false) => STANDS,
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

/// Where Docker's own rules stand although NAT should be ours.
pub(super) fn refusing(outcome: &Outcome, by_nft: bool) -> Vec<String> {
    let places = outcome.refused.iter().map(ToString::to_string);
    places.chain(by_nft.then(|| "nftables (docker-bridges)".to_owned())).collect()
}

/// What to do where Docker writes rules as well.
pub(super) fn refusal(places: &[String]) -> Option<String> {
    (!places.is_empty()).then(|| {
        format!(
            "nat.owner = \"fw\", but Docker's own rules stand in {}: both would translate, so Docker's stay in force; \
             run dockerd with --iptables=false (and --ip6tables=false), then take its rules away as docs/operations.md \
             says, or reboot",
            places.join(" and ")
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
        Connection { original, reply, tcp: None, status: 0, timeout: None, mark: 0, zone: 0, id: 0 }
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
        let late = |from, source: Ipv4Addr, port| {
            let mut late = connection(from, PEER, (PEER, 4000));
            late.original.source_port = port;
            (late.reply.destination, late.reply.destination_port) = (Address::from(IpAddr::from(source)), 53);
            late
        };
        assert!(stale(Some(&none), &new, late(HOST, HOST, 53)), "an answer of docker-proxy");
        assert!(stale(Some(&none), &new, late(OLD, HOST, 5353)), "a late answer of the container before");
        assert!(stale(Some(&old), &none, late(OLD, HOST, 5353)), "the same while nobody has the port");
        assert!(!stale(Some(&none), &new, late(NEW, HOST, 5353)), "an answer of the new one");
        assert!(!stale(Some(&none), &none, late(OLD, HOST, 5353)), "nobody has the port");
        let elsewhere = connection(OLD, PEER, (PEER, 53));
        assert!(!stale(Some(&old), &new, elsewhere), "to port 53 of somebody else");
    }
}
