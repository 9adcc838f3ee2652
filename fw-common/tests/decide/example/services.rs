//! What may come in: ports with rules, their sources, and ports that Docker publishes.

use std::net::IpAddr;

use fw_common::tables::memory::Memory;
use fw_common::tables::{LocalAddress, LocalKey, PortKey, sources};
use fw_common::verdict::{Mark, Reason, Verdict};
use fw_common::wire::{proto, tcp};

use super::host::{Family, UPLINK, allow_any, rule};
use super::packets::{Draft, ip};
use super::{Case, outside};

const CLOSED: Verdict = Verdict::drop(Reason::PortNotAllowed);

pub(super) fn cases(f: &Family) -> Vec<Case> {
    [rules(f), addresses(f), published(f), protocols(f)].concat()
}

fn allowed(rule: u32) -> Verdict {
    Verdict::accept(Reason::AllowRule).by(rule)
}

fn refused(rule: u32) -> Verdict {
    Verdict::drop(Reason::SourceNotAllowed).by(rule)
}

fn syn(source: IpAddr, destination: IpAddr, port: u16) -> Draft {
    ip(source, destination).tcp(40_000, port, tcp::SYN)
}

fn rules(f: &Family) -> Vec<Case> {
    vec![
        outside("a port open to all", syn(f.remote, f.ours, 443)).gives(allowed(rule::WEB)),
        outside("the port beside it", syn(f.remote, f.ours, 444)).gives(CLOSED),
        outside("a host in the rule's zone", syn(f.office, f.ours, 22)).gives(allowed(rule::SSH_OFFICE)),
        outside("a host in no zone", syn(f.remote, f.ours, 22)).gives(refused(rule::SSH_OFFICE)),
        outside("a host in another zone", syn(f.branch, f.ours, 22)).gives(refused(rule::SSH_OFFICE)),
        outside("a prefix in the rule's zones", syn(f.branch, f.ours, 25)).gives(allowed(rule::MAIL_BRANCH)),
        outside("the prefix around it", syn(f.region, f.ours, 25)).gives(refused(rule::MAIL_BRANCH)),
        outside("a zone by its widest prefix", syn(f.region, f.ours, 26)).gives(allowed(rule::REGION)),
        outside("a zone through a longer prefix", syn(f.branch, f.ours, 26)).gives(allowed(rule::REGION)),
        outside("a zone through a host", syn(f.office, f.ours, 26)).gives(allowed(rule::REGION)),
        outside("beyond the widest prefix", syn(f.remote, f.ours, 26)).gives(refused(rule::REGION)),
        outside("data in the opening segment", with_data(f)).gives(allowed(rule::WEB)),
        outside("ECN in the opening segment", ip(f.remote, f.ours).tcp(40_000, 443, tcp::SYN | 0xc0))
            .gives(allowed(rule::WEB)),
        outside("an ACK to an allowed port", ip(f.remote, f.ours).tcp(40_000, 443, tcp::ACK))
            .gives(allowed(rule::WEB)),
    ]
}

fn with_data(f: &Family) -> Draft {
    let header = syn(f.remote, f.ours, 443).packet();
    let length = header.len();
    ip(f.remote, f.ours).protocol(proto::TCP, &[&header[length - 20..], b"hello"].concat())
}

fn addresses(f: &Family) -> Vec<Case> {
    let dns = |to| ip(f.remote, to).udp(40_000, 53, b"?");
    let group = LocalKey::new(f.group.into(), UPLINK);
    let mut cases = vec![
        outside("a rule for one address", dns(f.second)).gives(allowed(rule::DNS_SECOND)),
        outside("another address than the rule's", dns(f.ours)).gives(CLOSED),
        outside("the exact address opens further", syn(f.remote, f.second, 2022)).gives(allowed(rule::EXACT)),
        outside("any address opens less", syn(f.remote, f.ours, 2022)).gives(refused(rule::WIDE_OFFICE)),
        outside("any address within its zone", syn(f.office, f.ours, 2022)).gives(allowed(rule::WIDE_OFFICE)),
        outside("any address opens further", syn(f.remote, f.second, 2023)).gives(allowed(rule::WIDE)),
        outside("the exact address comes first", syn(f.office, f.second, 2023))
            .gives(allowed(rule::EXACT_OFFICE)),
        outside("the exact address says all", syn(f.remote, f.second, 2023))
            .with(alone)
            .gives(refused(rule::EXACT_OFFICE)),
        outside("the exact address says all, and holds the source", syn(f.office, f.second, 2023))
            .with(alone)
            .gives(allowed(rule::EXACT_OFFICE)),
        outside("another address says nothing", syn(f.remote, f.ours, 2023))
            .with(alone)
            .gives(allowed(rule::WIDE)),
        outside("an address that only the FIB knows", syn(f.remote, f.new, 443)).gives(allowed(rule::WEB)),
        outside("a closed port of it", syn(f.remote, f.new, 444)).gives(CLOSED),
        outside("an address that the FIB forwards", syn(f.remote, f.elsewhere, 444))
            .gives(Verdict::pass(Reason::NotOurs)),
        outside("a group", ip(f.remote, f.group).udp(5353, 5353, b"")).gives(CLOSED),
        outside("a group with a rule, published as it may be", ip(f.remote, f.group).udp(5353, 5353, b""))
            .with(|tables| {
                let mut open = allow_any(rule::PUBLISHED);
                open.published = 1;
                tables.ports.insert(PortKey::new(f.any(), proto::UDP, 5353), open);
                tables.local_addresses.remove(&group);
            })
            .gives(allowed(rule::PUBLISHED)),
    ];
    if !f.v6 {
        let directed = super::host::address("198.18.0.255");
        let limited = super::host::address("255.255.255.255");
        let beyond = super::host::address("198.18.255.255");
        let broadcast = LocalAddress { ifindex: UPLINK, broadcast: 1, reserved: [0; 3] };
        cases.extend([
            outside("the directed broadcast address", ip(f.remote, directed).udp(9, 9, b"")).gives(CLOSED),
            outside("a ruled port of it", ip(f.remote, directed).udp(9, 4789, b""))
                .gives(allowed(rule::VXLAN)),
            outside("a broadcast address that no table knows", ip(f.remote, beyond).udp(9, 9, b""))
                .with(|tables| {
                    tables.routed_local.insert(beyond.into());
                })
                .gives(CLOSED),
            outside("a broadcast address of a later moment", ip(f.remote, beyond).udp(9, 4789, b""))
                .with(|tables| {
                    tables.local_addresses.insert(LocalKey::new(beyond.into(), UPLINK), broadcast);
                })
                .gives(allowed(rule::VXLAN)),
            outside("the limited broadcast address", ip(f.remote, limited).udp(9, 9, b"")).gives(CLOSED),
            outside("a ruled port of that", ip(f.remote, limited).udp(9, 4789, b""))
                .gives(allowed(rule::VXLAN)),
        ]);
    }
    cases
}

fn published(f: &Family) -> Vec<Case> {
    let to = |port| syn(f.remote, f.ours, port);
    let open = Verdict::accept(Reason::PublishedOpen).marked(Mark::In);
    let ruled = |rule| allowed(rule).marked(Mark::In);
    vec![
        outside("published, but closed", to(8080)).gives(CLOSED),
        outside("published and open", to(8081)).gives(open),
        outside("published and ruled", to(8082)).gives(ruled(rule::PUBLISHED)),
        outside("published and ruled for others", to(8083)).gives(refused(rule::PUBLISHED_OFFICE)),
        outside("published and ruled for a zone", syn(f.office, f.ours, 8083))
            .gives(ruled(rule::PUBLISHED_OFFICE)),
        outside("open, ruled for others", to(8085)).gives(open),
        outside("open, ruled for a zone", syn(f.office, f.ours, 8085)).gives(ruled(rule::PUBLISHED_OFFICE)),
        outside("allowed where it is not published", to(8084)).gives(allowed(rule::PUBLISHED)),
        outside("allowed and published there", syn(f.remote, f.second, 8084)).gives(ruled(rule::PUBLISHED)),
        // What ends in a socket or a tunnel of the host is not vouched for: the inner packet would inherit the mark.
        outside("a tunnel of the host", ip(f.remote, f.ours).udp(40_000, 4789, b"inner"))
            .gives(allowed(rule::VXLAN)),
        outside("a mark that was there is another's", to(444))
            .arriving(|arrival| arrival.mark = 0xffff_ffff)
            .gives(CLOSED),
        outside("a mark that was there is replaced", to(8081))
            .arriving(|arrival| arrival.mark = 0xffff_ffff)
            .gives(open),
    ]
}

fn protocols(f: &Family) -> Vec<Case> {
    let packet = || ip(f.remote, f.ours);
    let ports: &[u8] = &[156, 64, 1, 187, 0, 0, 0, 0, 0, 0, 0, 0];
    let udp_lite: &[u8] = &[156, 64, 1, 187, 0, 8, 0, 0];
    let gre = PortKey::new(f.any(), proto::GRE, 0);
    let ping = PortKey::new(f.any(), proto::ICMP, 0);
    let with_ping = |name, packet| {
        outside(name, packet).with(|tables| {
            tables.ports.insert(ping, allow_any(rule::PING));
        })
    };
    let foreign_icmp = if f.v6 { proto::ICMP } else { proto::ICMPV6 };
    vec![
        // One protocol's rule is not another's (CVE-2014-8160).
        outside("UDP to a port open for TCP", packet().udp(40_000, 443, b"")).gives(CLOSED),
        outside("UDP-Lite to a port open for TCP", packet().protocol(proto::UDP_LITE, udp_lite))
            .gives(CLOSED),
        outside("SCTP to a port open for TCP", packet().protocol(proto::SCTP, ports)).gives(CLOSED),
        outside("SCTP to its own rule", packet().protocol(proto::SCTP, ports))
            .with(|tables| {
                tables.ports.insert(PortKey::new(f.any(), proto::SCTP, 443), allow_any(rule::WIDE));
            })
            .gives(allowed(rule::WIDE)),
        outside("TCP to a port open for UDP", packet().tcp(40_000, 4789, tcp::SYN)).gives(CLOSED),
        outside("GRE", packet().protocol(proto::GRE, &[0; 8])).gives(CLOSED),
        outside("GRE with a rule", packet().protocol(proto::GRE, &[0; 8]))
            .with(|tables| {
                tables.ports.insert(gre, allow_any(rule::WIDE));
            })
            .gives(allowed(rule::WIDE)),
        outside("ESP", packet().protocol(50, &[0; 8])).gives(CLOSED),
        outside("an unknown protocol without content", packet().protocol(253, &[])).gives(CLOSED),
        outside("an echo request", packet().echo(9)).gives(CLOSED),
        with_ping("an echo request with a rule", packet().echo(9)).gives(allowed(rule::PING)),
        with_ping("an echo reply with a rule for requests", packet().echo_reply(9)).gives(CLOSED),
        with_ping("a timestamp request", packet().icmp(if f.v6 { 200 } else { 13 }, 0, &[0; 16]))
            .gives(CLOSED),
        with_ping("an obsolete source quench", packet().icmp(if f.v6 { 100 } else { 4 }, 0, &[0; 4]))
            .gives(CLOSED),
        with_ping("an echo request of the other family", packet().protocol(foreign_icmp, &echo_of_other(f)))
            .gives(CLOSED),
    ]
}

/// An echo request as the other family writes it.
fn echo_of_other(f: &Family) -> [u8; 8] {
    [if f.v6 { 8 } else { 128 }, 0, 0, 0, 0, 9, 0, 1]
}

/// The entries of exact addresses are asked alone.
fn alone(tables: &mut Memory) {
    for (key, port) in &mut tables.ports {
        if key.address != key.address.any_of_family() {
            port.sources |= sources::ALONE;
        }
    }
}
