//! What the host's own network needs: neighbour discovery, group membership, DHCP, each only from where it may come.

use std::net::IpAddr;

use fw_common::verdict::{Reason, Verdict};
use fw_common::wire::{icmp, proto};

use super::host::{Family, address, rule};
use super::packets::{Draft, PADDING, ip};
use super::{Case, outside};

const NEEDED: Verdict = Verdict::pass(Reason::Essential);
const BAD: Verdict = Verdict::drop(Reason::BadDiscovery);
const CLOSED: Verdict = Verdict::drop(Reason::PortNotAllowed);

pub(super) fn cases(f: &Family) -> Vec<Case> {
    if f.v6 { [discovery(f), listeners(f), dhcp_v6(f)].concat() } else { v4(f) }
}

fn v4(f: &Family) -> Vec<Case> {
    let group = address("224.0.0.22");
    let nobody = address("255.255.255.255");
    let igmp = |to| ip(f.elsewhere, to).protocol(proto::IGMP, &[0x22; 8]);
    let dhcp = |to, source_port, port| ip(f.elsewhere, to).udp(source_port, port, &[2; 240]);
    vec![
        outside("IGMP to its group", igmp(group)).gives(NEEDED),
        outside("IGMP to the host", igmp(f.ours)).gives(BAD),
        outside("a DHCP answer", dhcp(f.ours, 67, 68)).gives(NEEDED),
        outside("a DHCP answer to all", dhcp(nobody, 67, 68)).gives(NEEDED),
        outside("a DHCP answer from a denied server", ip(f.denied_host, f.ours).udp(67, 68, b""))
            .gives(Verdict::drop(Reason::Denied).by(rule::DENY_HOST)),
        outside("a DHCP question", dhcp(nobody, 68, 67)).gives(CLOSED),
        outside("to the DHCP client from elsewhere", dhcp(f.ours, 66, 68)).gives(CLOSED),
        outside("from a DHCP server to elsewhere", dhcp(f.ours, 67, 69)).gives(CLOSED),
        outside("a redirect", ip(f.elsewhere, f.ours).icmp(icmp::REDIRECT.0, 1, &[0; 32])).gives(BAD),
    ]
}

fn from_link(to: IpAddr) -> Draft {
    ip(address("fe80::9"), to).hop_limit(255)
}

fn discovery(f: &Family) -> Vec<Case> {
    let link_local = address("fe80::1");
    let all_nodes = address("ff02::1");
    let message = |kind: u8| from_link(link_local).icmp(kind, 0, &[0; 20]);
    let mut cases = Vec::new();
    for kind in icmp::ROUTER_SOLICITATION..=icmp::NEIGHBOUR_ADVERTISEMENT {
        let name = |what| format!("type {kind} {what}");
        cases.extend([
            outside(&name("from the link"), message(kind)).gives(NEEDED),
            outside(&name("to all nodes"), from_link(all_nodes).icmp(kind, 0, &[0; 20])).gives(NEEDED),
            outside(&name("from beyond"), message(kind).hop_limit(254)).gives(BAD),
            outside(&name("in a fragment"), message(kind).at_offset(0, true)).gives(BAD),
            outside(&name("in an atomic fragment"), message(kind).extension(44, &[0, 0, 0, 0, 0, 0, 7]))
                .gives(BAD),
            outside(&name("behind an extension"), message(kind).extension(60, &PADDING)).gives(NEEDED),
        ]);
    }
    let redirect = from_link(link_local).icmp(icmp::REDIRECT.1, 0, &[0; 36]);
    cases.push(outside("a redirect", redirect).gives(BAD));
    let global = ip(f.elsewhere, f.ours).neighbour(icmp::NEIGHBOUR_SOLICITATION, f.ours);
    cases.push(outside("a solicitation from a global address", global).gives(NEEDED));
    cases
}

fn listeners(f: &Family) -> Vec<Case> {
    let alert: &[u8] = &[0, 5, 2, 0, 0, 1, 0];
    let group = address("ff02::16");
    let report = |from, kind| ip(from, group).hop_limit(1).icmp(kind, 0, &[0; 20]).extension(0, alert);
    let mut cases = Vec::new();
    for kind in icmp::MULTICAST_LISTENER {
        let name = |what| format!("listener message {kind} {what}");
        cases.extend([
            outside(&name("from the link"), report(address("fe80::9"), kind)).gives(NEEDED),
            outside(&name("before there is an address"), report(address("::"), kind)).gives(NEEDED),
            outside(&name("from a global address"), report(f.remote, kind)).gives(BAD),
            outside(&name("in a fragment"), report(address("fe80::9"), kind).at_offset(0, true)).gives(BAD),
        ]);
    }
    cases
}

fn dhcp_v6(f: &Family) -> Vec<Case> {
    let link_local = address("fe80::1");
    let from = |source, source_port, port| ip(source, link_local).udp(source_port, port, &[7; 40]);
    vec![
        outside("a DHCPv6 answer", from(address("fe80::9"), 547, 546)).gives(NEEDED),
        outside("a DHCPv6 answer from beyond", from(f.elsewhere, 547, 546)).gives(CLOSED),
        outside("a DHCPv6 question", from(address("fe80::9"), 546, 547)).gives(CLOSED),
        outside("to the DHCPv6 client from another port", from(address("fe80::9"), 545, 546)).gives(CLOSED),
    ]
}
