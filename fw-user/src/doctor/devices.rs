//! Devices: uplinks that are not covered, programs of others, bridges, and what the kernel is told of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fw_common::tables::role;

use super::rules::is_global;
use super::service::guards_uplinks;
use super::{Finding, Seen, Severity, listed};
use crate::datapath::{Foreign, ForeignPlace};
use crate::health;
use crate::netlink::{Link, LinkKind};
use crate::policy::Interfaces;

pub(super) fn examine(seen: &Seen) -> Vec<Finding> {
    [uplinks(seen), programs(seen), bridge_netfilter(seen), settings(seen)].concat()
}

/// Devices through which the outside comes in, and which no hook judges.
fn uplinks(seen: &Seen) -> Vec<Finding> {
    let (Some(policy), Some(desired)) = (seen.policy(), &seen.desired) else { return Vec::new() };
    let mut found = Vec::new();
    let path = match &seen.file {
        super::PolicyFile::Read { path, .. } => path.as_str(),
        super::PolicyFile::Absent { .. } | super::PolicyFile::Invalid { .. } => return Vec::new(),
    };
    if let Interfaces::Named(names) = &policy.uplink.interfaces {
        for name in names.iter().filter(|name| seen.host.link_named(name).is_none()) {
            found.push(
                Finding::weakens(
                    "uplink-absent",
                    format!("`uplink.interfaces` names {name}, which does not exist"),
                )
                .why("a device that has another name now is judged by nobody")
                .repair(format!("ip -br link; sudoedit {path}; sudo fw reload --confirm 60s"))
                .risk(
                    "what comes in by the device that is named then is judged: have ssh in the policy first",
                ),
            );
        }
    }
    let tables = &desired.state.tables;
    let covered: BTreeSet<u32> = tables
        .interfaces
        .iter()
        .filter(|(_, interface)| interface.role == role::UPLINK)
        .flat_map(|(ifindex, interface)| [*ifindex, interface.l3_device])
        .collect();
    if covered.is_empty() {
        found.push(
            Finding::weakens("uplink-none", health::NO_UPLINK)
                .why("every port is as open as Docker and the host leave it")
                .repair(format!("ip -br address; sudoedit {path}; sudo fw reload --confirm 60s"))
                .risk(
                    "what comes in by the device that is named then is judged: have ssh in the policy first",
                ),
        );
        return found;
    }
    for link in &seen.host.links {
        let managed = tables.interfaces.contains_key(&link.index);
        if link.loopback || !link.up || covered.contains(&link.index) || managed {
            continue;
        }
        let routes = seen.host.default_route_links.contains(&link.index);
        let addresses: Vec<String> = seen
            .host
            .addresses
            .iter()
            .filter(|local| local.ifindex == link.index && reaches_far(local.address))
            .map(|local| local.address.to_string())
            .collect();
        if !routes && addresses.is_empty() || matches!(link.kind, LinkKind::Dummy | LinkKind::Vrf) {
            continue;
        }
        let name = &link.name;
        let what = match (routes, addresses.is_empty()) {
            (true, true) => "a default route".to_owned(),
            (true, false) => format!("a default route and {}", listed(&addresses)),
            (false, _) => listed(&addresses),
        };
        let (severity, why) = match link.kind {
            // Virtual machines and containers of others: behind them is this host.
            LinkKind::Bridge => (
                Severity::Notes,
                "what comes in by it is not judged: whoever is on that bridge reaches what the host and Docker leave open; [[network]] manages it",
            ),
            _ => (
                Severity::Weakens,
                "what comes in by it is not judged: all ports of the host, published or not, are as open there as without fw",
            ),
        };
        let mut names: Vec<String> = match &policy.uplink.interfaces {
            Interfaces::Named(names) => {
                names.iter().filter(|name| seen.host.link_named(name).is_some()).cloned().collect()
            }
            Interfaces::Auto => desired.output_devices.iter().cloned().collect(),
        };
        names.push(name.clone());
        let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        found.push(
            Finding::new("uplink-uncovered", severity, format!("{name} has {what}, and is no uplink of fw"))
                .why(why)
                .repair(format!("# write [uplink] interfaces = [{}] into {path}, then: sudo fw reload --confirm 60s", listed(&names)))
                .risk("only what [[allow]] rules say comes in by it then; devices that appear later are uplinks only if they are named"),
        );
    }
    found
}

/// Addresses that others can send to: global ones, those of private networks included.
fn reaches_far(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_loopback() || address.is_link_local() || address.is_unspecified())
        }
        IpAddr::V6(address) => is_global(address) || address.is_unique_local(),
    }
}

fn programs(seen: &Seen) -> Vec<Finding> {
    let one = |program: &Foreign| {
        let Foreign { device, place, id, name } = program;
        let called = if name.is_empty() { format!("number {id}") } else { format!("{name}, number {id}") };
        let (severity, what, why, repair) = match place {
            ForeignPlace::Xdp => (
                Severity::Confuses,
                "an XDP program",
                "it sees packets before fw: what it drops, answers or sends on elsewhere fw never judges, and fw's early drop stays off",
                format!(
                    "sudo ip link set dev {device} xdp off; sudo ip link set dev {device} xdpgeneric off"
                ),
            ),
            ForeignPlace::Before => (
                Severity::Weakens,
                "a TCX program before fw's",
                "what it passes or redirects fw does not judge",
                format!("sudo bpftool net show dev {device}; sudo bpftool link show"),
            ),
            ForeignPlace::Behind => (
                Severity::Notes,
                "a program behind fw's",
                "it sees what fw lets pass, and may drop or redirect it",
                format!("sudo bpftool net show dev {device}; sudo tc filter show dev {device} ingress"),
            ),
        };
        let finding = Finding::new(
            "program-foreign",
            severity,
            format!("{device}: {what} of somebody else's ({called})"),
        )
        .why(why);
        match place {
            ForeignPlace::Xdp => finding
                .repair(format!("sudo bpftool prog show id {id}"))
                .repair(repair)
                .risk("what it does is gone; one that is attached by a link (`bpftool link show`) goes only with its owner"),
            ForeignPlace::Before => finding
                .repair(repair)
                .repair("# stop its owner, or have it attach behind others; then: sudo systemctl restart fw")
                .risk("what it does is gone, or sees only what fw lets pass"),
            ForeignPlace::Behind => finding.repair(repair).risk("none: it only shows them"),
        }
    };
    seen.programs.iter().map(one).collect()
}

/// Bridged packets in iptables: needed by Docker's `icc=false`, harmful to others' bridges.
fn bridge_netfilter(seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    let calls = |name: &str| seen.sysctl(&format!("net/bridge/bridge-nf-call-{name}"));
    let on: Vec<&str> =
        ["iptables", "ip6tables", "arptables"].into_iter().filter(|name| calls(name) == Some(1)).collect();
    let apart: Vec<&str> = seen
        .docker
        .iter()
        .flat_map(|docker| &docker.networks)
        .filter(|network| network.bridge.is_some() && !network.icc)
        .map(|network| network.name.as_str())
        .collect();
    let turn = |names: &[&str], value: u8| {
        let settings: Vec<String> =
            names.iter().map(|name| format!("net.bridge.bridge-nf-call-{name}={value}")).collect();
        format!("sudo sysctl -w {}", settings.join(" "))
    };
    if !apart.is_empty() && calls("iptables") != Some(1) && !seen.enforces() {
        let module = calls("iptables").is_none();
        let what =
            if module { "br_netfilter is not loaded" } else { "net.bridge.bridge-nf-call-iptables = 0" };
        let finding = Finding::weakens("icc-unguarded", format!("{what}, and networks without icc rely on it: {}", listed(&apart)))
            .why("containers on them reach each other: Docker's rule against that sees no bridged packet, and fw does not filter yet");
        let finding = if module { finding.repair("sudo modprobe br_netfilter") } else { finding };
        found.push(
            finding
                .repair(turn(&["iptables", "ip6tables"], 1))
                .risk("packets on all bridges of the host visit iptables then, and Docker's FORWARD policy drops those of others; `fw run` needs none of it"),
        );
    }
    let foreign = foreign_bridges(seen);
    if !on.is_empty() && !foreign.is_empty() {
        let bridges: Vec<String> =
            foreign.iter().map(|(bridge, ports)| format!("{bridge} ({ports})")).collect();
        let finding = Finding::confuses(
            "bridge-netfilter",
            format!("packets on bridges that are not Docker's visit {}: {}", listed(&on), listed(&bridges)),
        )
        .why("Docker's FORWARD policy drops what their ports send each other, and its NAT sees them; fw does not need it");
        let finding = finding.repair(turn(&on, 0));
        let risk = if apart.is_empty() {
            "none with fw; Docker turns it on again when it makes a network without icc".to_owned()
        } else {
            format!("without fw's programs containers on {} reach each other then", listed(&apart))
        };
        found.push(finding.risk(risk));
    }
    found
}

/// Bridges that fw does not manage, with how many ports they have.
fn foreign_bridges(seen: &Seen) -> BTreeMap<&str, usize> {
    let managed: BTreeSet<u32> =
        seen.inventory.networks.iter().filter_map(|network| network.bridge_ifindex).collect();
    let dockers: BTreeSet<&str> = seen
        .docker
        .iter()
        .flat_map(|docker| &docker.networks)
        .filter_map(|network| network.bridge.as_deref())
        .collect();
    let mut found = BTreeMap::new();
    let foreign = |link: &&Link| {
        link.kind == LinkKind::Bridge
            && !managed.contains(&link.index)
            && !dockers.contains(link.name.as_str())
    };
    // Without Docker's answer every bridge would look foreign.
    for bridge in seen.host.links.iter().filter(|link| seen.docker.is_some() && foreign(link)) {
        let ports = seen.host.links.iter().filter(|port| port.master == Some(bridge.index)).count();
        if ports > 1 {
            found.insert(bridge.name.as_str(), ports);
        }
    }
    found
}

/// What `/proc/sys` says that opens or confuses.
fn settings(seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    let uplinks: Vec<&str> =
        seen.desired.iter().flat_map(|desired| desired.output_devices.iter().map(String::as_str)).collect();
    let of_device =
        |family: &str, device: &str, name: &str| seen.sysctl(&format!("net/{family}/conf/{device}/{name}"));
    let all = of_device("ipv4", "all", "route_localnet") == Some(1);
    let local: Vec<&str> = uplinks
        .iter()
        .filter(|device| all || of_device("ipv4", device, "route_localnet") == Some(1))
        .copied()
        .collect();
    if !local.is_empty() {
        let devices: Vec<&str> = if all { vec!["all"] } else { local.clone() };
        let lines: Vec<String> =
            devices.iter().map(|device| format!("net.ipv4.conf.{device}.route_localnet=0")).collect();
        let severity = if guards_uplinks(seen) { Severity::Confuses } else { Severity::Weakens };
        found.push(
            Finding::new("route-localnet", severity, format!("route_localnet = 1 on {}", listed(&local)))
                .why("packets from outside to 127.0.0.0/8 are taken for the host's own: fw drops them as martians, without its programs what listens on 127.0.0.1 is open to the LAN")
                .repair(format!("sudo sysctl -w {}", lines.join(" ")))
                .risk("whoever redirects to 127.0.0.1 from outside (some Kubernetes set-ups do) needs another address"),
        );
    }
    let bridges = seen.inventory.networks.iter().map(|network| network.bridge_name.as_str());
    let believing: Vec<&str> =
        bridges.filter(|bridge| of_device("ipv6", bridge, "accept_ra") == Some(2)).collect();
    if !believing.is_empty() {
        let lines: Vec<String> =
            believing.iter().map(|bridge| format!("net.ipv6.conf.{bridge}.accept_ra=0")).collect();
        let severity = if seen.enforces() { Severity::Confuses } else { Severity::Weakens };
        found.push(
            Finding::new("accept-ra", severity, format!("the host believes router advertisements on {}", listed(&believing)))
                .why("a container may give the host a default route and addresses; fw drops what containers send as routers, nothing else does")
                .repair(format!("sudo sysctl -w {}", lines.join(" ")))
                .risk("none: no router is behind a bridge of containers"),
        );
    }
    let deaf: Vec<&str> = uplinks
        .iter()
        .filter(|device| seen.forwards(true) && of_device("ipv6", device, "accept_ra") == Some(1))
        .copied()
        .collect();
    if !deaf.is_empty() {
        let lines: Vec<String> =
            deaf.iter().map(|device| format!("net.ipv6.conf.{device}.accept_ra=2")).collect();
        found.push(
            Finding::notes(
                "accept-ra",
                format!(
                    "forwarding is on, so router advertisements on {} are not believed (accept_ra = 1)",
                    listed(&deaf)
                ),
            )
            .why("an IPv6 default route that came by one runs out, and the host is gone over IPv6")
            .repair(format!("sudo sysctl -w {}", lines.join(" ")))
            .risk("none where the route came so before; a static route needs nothing of it"),
        );
    }
    let strict = |device: &str| {
        let highest = of_device("ipv4", "all", "rp_filter").max(of_device("ipv4", device, "rp_filter"));
        highest == Some(1)
    };
    if uplinks.len() > 1 {
        let strict: Vec<&str> = uplinks.iter().filter(|device| strict(device)).copied().collect();
        if !strict.is_empty() {
            let lines: Vec<String> =
                strict.iter().map(|device| format!("net.ipv4.conf.{device}.rp_filter=2")).collect();
            found.push(
                Finding::notes("rp-filter", format!("rp_filter is strict on {}, one of {} uplinks", listed(&strict), uplinks.len()))
                    .why("what comes in by another uplink than the answer would take is dropped by the kernel behind fw, uncounted")
                    .repair(format!("sudo sysctl -w {}", lines.join(" ")))
                    .risk("sources are checked less strictly; fw drops those that belong to containers and to the host itself"),
            );
        }
    }
    if let (Some(count), Some(most)) =
        (seen.sysctl("net/netfilter/nf_conntrack_count"), seen.sysctl("net/netfilter/nf_conntrack_max"))
        && most > 0
        && count.saturating_mul(10) >= most.saturating_mul(9)
    {
        found.push(
            Finding::confuses("conntrack-full", format!("conntrack holds {count} connections of at most {most}"))
                .why("when it is full the kernel drops new connections, with and without fw (`nf_conntrack: table full` in its log)")
                .repair(format!("sudo sysctl -w net.netfilter.nf_conntrack_max={}", most.saturating_mul(2)))
                .risk("some 320 bytes of kernel memory for each connection"),
        );
    }
    found
}
