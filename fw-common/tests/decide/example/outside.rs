//! Sources and destinations that an uplink does not let in: martians, forgeries, denied sources, containers.

use std::net::IpAddr;

use fw_common::Mac;
use fw_common::flow::{owner, state};
use fw_common::verdict::{Mark, Reason, Verdict};
use fw_common::wire::{proto, tcp};

use super::host::{BRIDGED_UPLINK, Family, address, rule};
use super::packets::{Draft, ip};
use super::{Case, arriving, outside, tuple};

const OPEN: Verdict = Verdict::accept(Reason::AllowRule).by(rule::WEB);
const DIRECT: Verdict = Verdict::drop(Reason::DirectAccess);

pub(super) fn cases(f: &Family) -> Vec<Case> {
    [sources(f), own(f), denied(f), containers(f), martians(f)].concat()
}

fn web(source: IpAddr, destination: IpAddr) -> Draft {
    ip(source, destination).tcp(40_000, 443, tcp::SYN)
}

fn sources(f: &Family) -> Vec<Case> {
    let inside = Verdict::drop(Reason::SourceInside);
    let mut cases = vec![outside("a source outside", web(f.remote, f.ours)).gives(OPEN)];
    for (name, source) in [
        ("a container's", f.a1),
        ("an unknown container's", f.unknown),
        ("a gateway's", f.gateway_a),
        ("an internal container's", f.i1),
    ] {
        cases.push(outside(&format!("{name} source from outside"), web(source, f.ours)).gives(inside));
        cases.push(outside(&format!("{name} source to a container"), web(source, f.b1)).gives(inside));
        cases.push(outside(&format!("{name} source through us"), web(source, f.elsewhere)).gives(inside));
    }
    cases
}

/// Loops, two uplinks on one LAN and VRRP bring our own packets back; only those straight to us are forged.
fn own(f: &Family) -> Vec<Case> {
    let forged = Verdict::drop(Reason::SourceOurs);
    let mut cases = vec![
        outside("our own source to us", web(f.ours, f.ours)).gives(forged),
        outside("our second address to the first", web(f.second, f.ours)).gives(forged),
        outside("our own source to a group", ip(f.ours, f.group).udp(5353, 5353, b""))
            .gives(Verdict::drop(Reason::PortNotAllowed)),
        outside("our own source to somebody else", web(f.ours, f.elsewhere))
            .gives(Verdict::pass(Reason::NotOurs)),
        outside("our own source to a container", web(f.ours, f.a1)).gives(DIRECT),
        outside("our own source to us in a broadcast frame", {
            web(f.ours, f.ours).sent_to(Mac { bytes: [0xff; 6] })
        })
        .gives(forged),
    ];
    if f.v6 {
        let link = address("fe80::1");
        let elsewhere = ip(link, f.ours).tcp(40_000, 443, tcp::SYN);
        cases.extend([
            outside("our own link-local source", elsewhere.clone()).gives(forged),
            // On another link the same address is somebody else's.
            arriving("the same link-local source on another link", BRIDGED_UPLINK, elsewhere).gives(OPEN),
            outside("to our link-local address", web(f.remote, link)).gives(OPEN),
            // What no table knows of a link is ours to judge: nobody forwards it.
            outside(
                "to an unknown link-local address",
                ip(f.remote, address("fe80::77")).tcp(1, 444, tcp::SYN),
            )
            .gives(Verdict::drop(Reason::PortNotAllowed)),
            outside(
                "from the link to somebody else",
                ip(address("fe80::9"), f.elsewhere).tcp(1, 444, tcp::SYN),
            )
            .gives(Verdict::drop(Reason::PortNotAllowed)),
        ]);
    } else {
        let broadcast = address("198.18.0.255");
        cases.push(
            outside("our own broadcast come back", {
                ip(f.ours, broadcast).udp(9, 4789, b"").sent_to(Mac { bytes: [0xff; 6] })
            })
            .gives(Verdict::accept(Reason::AllowRule).by(rule::VXLAN)),
        );
    }
    cases
}

fn denied(f: &Family) -> Vec<Case> {
    let host = Verdict::drop(Reason::Denied).by(rule::DENY_HOST);
    let net = Verdict::drop(Reason::Denied).by(rule::DENY_NET);
    vec![
        outside("a denied host to an open port", web(f.denied_host, f.ours)).gives(host),
        outside("a denied prefix to an open port", web(f.denied_net, f.ours)).gives(net),
        outside("a denied host to a container", web(f.denied_host, f.a1)).gives(host),
        outside("a denied host to whom we forward", web(f.denied_host, f.elsewhere)).gives(host),
        outside("a denied host to a published and open port", {
            ip(f.denied_host, f.ours).tcp(40_000, 8081, tcp::SYN)
        })
        .gives(host),
        outside("beside the denied host", web(f.elsewhere, f.ours)).gives(OPEN),
    ]
}

fn containers(f: &Family) -> Vec<Case> {
    let key = |container| tuple(container, 40_000, f.remote, 443, proto::TCP);
    let answer = |container, flags| ip(f.remote, container).tcp(443, 40_000, flags);
    let routed = |name, container, flags| {
        outside(name, answer(container, flags)).flow(key(container), state::OPENING, owner::CONTAINER, 1)
    };
    let reply = Verdict::accept(Reason::Reply);
    let syn_ack = tcp::SYN | tcp::ACK;
    let dns = tuple(f.a1, 53, f.remote, 5000, proto::UDP);
    vec![
        outside("a container's open port", web(f.remote, f.a1)).gives(DIRECT),
        outside("a container by UDP", ip(f.remote, f.a1).udp(1, 4789, b"")).gives(DIRECT),
        outside("a container by ping", ip(f.remote, f.a1).echo(9)).gives(DIRECT),
        outside("a container that we do not know", web(f.remote, f.unknown)).gives(DIRECT),
        outside("a gateway", web(f.remote, f.gateway_a)).gives(DIRECT),
        outside("an internal container", web(f.remote, f.i1)).gives(DIRECT),
        routed("a reply to a container", f.a1, syn_ack).gives(reply.marked(Mark::In)),
        routed("a reply to a container that we do not know", f.unknown, syn_ack).gives(reply),
        routed("a SYN to a container that has a flow", f.a1, tcp::SYN).gives(DIRECT),
        outside("a reply to a container without a flow", answer(f.a1, syn_ack)).gives(DIRECT),
        outside("a reply to a container that is too late", answer(f.a1, syn_ack))
            .flow(key(f.a1), state::OPENING, owner::CONTAINER, 100)
            .gives(DIRECT),
        outside("a reply to a container's port of the system", ip(f.remote, f.a1).udp(5000, 53, b""))
            .flow(dns, state::OPENING, owner::CONTAINER, 1)
            .gives(reply.marked(Mark::In)),
        outside("an echo reply to a container", ip(f.remote, f.a1).echo_reply(9))
            .flow(tuple(f.a1, 9, f.remote, 0, proto::ICMP), state::OPENING, owner::CONTAINER, 1)
            .gives(reply.marked(Mark::In)),
        outside("an echo request to a container that pings", ip(f.remote, f.a1).echo(9))
            .flow(tuple(f.a1, 9, f.remote, 0, proto::ICMP), state::OPENING, owner::CONTAINER, 1)
            .gives(DIRECT),
    ]
}

fn martians(f: &Family) -> Vec<Case> {
    let martian = Verdict::drop(Reason::Martian);
    let sources: &[&str] = if f.v6 {
        &["::1", "::", "ff02::9", "::ffff:203.0.113.9"]
    } else {
        &["127.0.0.1", "127.9.9.9", "0.0.0.0", "224.0.0.9", "0.1.2.3", "240.0.0.1", "255.255.255.255"]
    };
    let destinations: &[&str] =
        if f.v6 { &["::1", "::", "::ffff:198.18.0.1"] } else { &["127.0.0.1", "0.0.0.0", "0.1.2.3"] };
    let from = |text: &&str| outside(&format!("from {text}"), web(address(text), f.ours)).gives(martian);
    let to = |text: &&str| outside(&format!("to {text}"), web(f.remote, address(text))).gives(martian);
    let mut cases: Vec<_> = sources.iter().map(from).chain(destinations.iter().map(to)).collect();
    if !f.v6 {
        cases.push(outside("from a link-local address", web(address("169.254.1.1"), f.ours)).gives(OPEN));
    }
    cases
}
