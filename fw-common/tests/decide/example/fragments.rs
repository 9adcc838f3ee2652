//! Fragments: the first one is judged, later ones follow it, and those that would cheat are dropped.

use std::net::IpAddr;

use fw_common::flow::{owner, state};
use fw_common::tables::memory::Memory;
use fw_common::tables::{Datagram, DatagramKey, PortKey};
use fw_common::verdict::{Mark, Reason, Verdict};
use fw_common::wire::{proto, tcp};

use super::host::{Family, PORT_A1, allow_any, rule};
use super::packets::{Draft, IDENTIFICATION, PADDING, ip};
use super::{Case, container, leaving, outside, tuple};

const BAD: Verdict = Verdict::drop(Reason::BadFragment);
const LATER: Verdict = Verdict::pass(Reason::LaterFragment);

pub(super) fn cases(f: &Family) -> Vec<Case> {
    [first(f), later(f), through(f)].concat()
}

fn datagram(f: &Family, port: u16) -> Draft {
    ip(f.remote, f.ours).udp(40_000, port, &[7; 120])
}

fn segment(f: &Family, port: u16) -> Draft {
    let header = ip(f.remote, f.ours).tcp(40_000, port, tcp::SYN).packet();
    let length = header.len();
    ip(f.remote, f.ours).protocol(proto::TCP, &[&header[length - 20..], &[0; 44]].concat())
}

fn first(f: &Family) -> Vec<Case> {
    let ping = PortKey::new(f.any(), proto::ICMP, 0);
    let pinged = |name, packet| {
        outside(name, packet).with(|tables| {
            tables.ports.insert(ping, allow_any(rule::PING));
        })
    };
    let echo = || ip(f.remote, f.ours).echo(9);
    let mut cases = vec![
        outside("the first of a datagram", datagram(f, 4789).piece(0, 64, true))
            .gives(Verdict::accept(Reason::AllowRule).by(rule::VXLAN)),
        outside("the first of a refused datagram", datagram(f, 444).piece(0, 64, true))
            .gives(Verdict::drop(Reason::PortNotAllowed)),
        outside("the first of a segment", segment(f, 443).piece(0, 24, true))
            .gives(Verdict::accept(Reason::AllowRule).by(rule::WEB)),
        outside("the first of a refused segment", segment(f, 444).piece(0, 24, true))
            .gives(Verdict::drop(Reason::PortNotAllowed)),
        // RFC 1858: too short for the flags.
        outside("a tiny first of a segment", segment(f, 443).piece(0, 8, true)).gives(BAD),
        outside("a first of a segment with flags, but not whole", segment(f, 443).piece(0, 16, true))
            .gives(BAD),
        outside("an empty first", segment(f, 443).piece(0, 0, true)).gives(BAD),
        pinged("the first of a ping", echo().piece(0, 8, true))
            .gives(Verdict::accept(Reason::AllowRule).by(rule::PING)),
        pinged("a first too short for a ping", echo().piece(0, 0, true)).gives(BAD),
        outside("the first of a reply", ip(f.remote, f.ours).udp(53, 40_000, &[7; 120]).piece(0, 64, true))
            .flow(tuple(f.ours, 40_000, f.remote, 53, proto::UDP), state::OPENING, owner::CONTAINER, 1)
            .gives(Verdict::accept(Reason::Reply).marked(Mark::In)),
    ];
    if f.v6 {
        let extended = |port| segment(f, port).extension(60, &PADDING);
        // RFC 7112: the first one holds the whole chain of headers.
        let options = ip(f.remote, f.ours).protocol(60, &[&[proto::TCP], &PADDING[..], &[0; 64]].concat());
        cases.extend([
            outside("the first behind an extension", extended(443).piece(0, 24, true))
                .gives(Verdict::accept(Reason::AllowRule).by(rule::WEB)),
            outside("a first that ends in its extensions", options.clone().piece(0, 8, true)).gives(BAD),
            outside("a first that ends within an extension", {
                ip(f.remote, f.ours).protocol(60, &[proto::TCP, 3, 1, 4, 0, 0, 0, 0]).at_offset(0, true)
            })
            .gives(BAD),
            outside("a fragment header in a fragment", {
                ip(f.remote, f.ours).protocol(44, &[proto::TCP, 0, 0, 0, 0, 0, 0, 9]).at_offset(0, true)
            })
            .gives(BAD),
        ]);
    }
    cases
}

fn later(f: &Family) -> Vec<Case> {
    let piece = |at: u16, protocol| ip(f.remote, f.ours).protocol(protocol, &[7; 64]).at_offset(at, true);
    let last = |at: u16| ip(f.remote, f.ours).protocol(proto::UDP, &[7; 64]).at_offset(at, false);
    let small = |at: u16, length: usize| {
        ip(f.remote, f.ours).protocol(proto::UDP, &vec![7; length]).at_offset(at, false)
    };
    let mut cases = vec![
        outside("a later one", piece(64, proto::UDP)).gives(LATER),
        outside("the last one", last(64)).gives(LATER),
        outside("a later one of a closed port is as good", piece(1480, proto::TCP)).gives(LATER),
        // RFC 1858 and 3128: it would overwrite flags or ports.
        outside("a segment's at offset 8", piece(8, proto::TCP)).gives(BAD),
        outside("a segment's at offset 16", piece(16, proto::TCP)).gives(BAD),
        outside("a segment's at offset 24", piece(24, proto::TCP)).gives(LATER),
        outside("a datagram's at offset 8", piece(8, proto::UDP)).gives(LATER),
        outside("a ping's at offset 8", piece(8, proto::ICMP)).gives(LATER),
        outside("up to the end of the largest datagram", small(65_528, 7)).gives(LATER),
        outside("beyond the largest datagram", small(65_528, 8)).gives(BAD),
        outside("a ping of death", small(65_520, 64)).gives(BAD),
        outside("a later one from a denied source", {
            ip(f.denied_net, f.ours).protocol(proto::UDP, &[7; 64]).at_offset(64, true)
        })
        .gives(Verdict::drop(Reason::Denied).by(rule::DENY_NET)),
        outside("a later one with a martian source", {
            let nobody = super::host::address(if f.v6 { "::1" } else { "127.0.0.1" });
            ip(nobody, f.ours).protocol(proto::UDP, &[7; 64]).at_offset(64, true)
        })
        .gives(Verdict::drop(Reason::Martian)),
        outside("a later one to whom we forward", {
            ip(f.remote, f.elsewhere).protocol(proto::UDP, &[7; 64]).at_offset(64, true)
        })
        .gives(Verdict::pass(Reason::NotOurs)),
    ];
    if f.v6 {
        let atomic: [u8; 7] = [0, 0, 0, 0, 0, 0, 7];
        cases.push(outside("a later one behind an atomic one", last(64).extension(44, &atomic)).gives(BAD));
    }
    cases
}

/// The first fragment of a UDP datagram between these two was let through in this second, marked IN.
pub(super) fn remembered(tables: &mut Memory, source: IpAddr, destination: IpAddr, seen: u32) {
    let proto = if source.is_ipv4() { proto::UDP } else { 0 };
    let id = IDENTIFICATION;
    let key =
        DatagramKey { source: source.into(), destination: destination.into(), id, proto, reserved: [0; 3] };
    let datagram = Datagram { seen, mark: Mark::In as u8, reserved: [0; 3] };
    tables.datagrams.borrow_mut().insert(key, datagram);
}

fn through(f: &Family) -> Vec<Case> {
    let piece = |from, to, at| ip(from, to).protocol(proto::UDP, &[7; 64]).at_offset(at, true);
    let key = tuple(f.a1, 40_000, f.remote, 53, proto::UDP);
    let own = tuple(f.ours, 40_000, f.remote, 53, proto::UDP);
    let follows = |name: &str, age: u32| {
        outside(name, piece(f.remote, f.a1, 64))
            .with(|tables| remembered(tables, f.remote, f.a1, super::host::NOW - age))
    };
    vec![
        follows("a later one straight to a container, its first let through", 29)
            .gives(Verdict::accept(Reason::KnownFragment).marked(Mark::In)),
        follows("the same, too late", 30).gives(Verdict::drop(Reason::UnknownFragment)),
        outside(
            "a later one of another protocol",
            ip(f.remote, f.a1).protocol(proto::TCP, &[7; 64]).at_offset(64, true),
        )
        .with(|tables| remembered(tables, f.remote, f.a1, super::host::NOW))
        // Of IPv6 only the first fragment says what the datagram carries.
        .gives(if f.v6 {
            Verdict::accept(Reason::KnownFragment).marked(Mark::In)
        } else {
            Verdict::drop(Reason::UnknownFragment)
        }),
        outside("a later one of another sender", piece(f.office, f.a1, 64))
            .with(|tables| remembered(tables, f.remote, f.a1, super::host::NOW))
            .gives(Verdict::drop(Reason::UnknownFragment)),
        outside("a later one straight to a container", piece(f.remote, f.a1, 64))
            .flow(key, state::OPENING, owner::CONTAINER, 1)
            .gives(Verdict::drop(Reason::UnknownFragment)),
        outside("the first one of it", ip(f.remote, f.a1).udp(53, 40_000, &[7; 120]).piece(0, 64, true))
            .flow(key, state::OPENING, owner::CONTAINER, 1)
            .gives(Verdict::accept(Reason::Reply).marked(Mark::In)),
        container("a container's later one", PORT_A1, piece(f.a1, f.remote, 64))
            .gives(Verdict::accept(Reason::Outbound).marked(Mark::Out)),
        container("a container's later one to another network", PORT_A1, piece(f.a1, f.b1, 64))
            .gives(Verdict::drop(Reason::Isolation)),
        container("a container's later one with a forged source", PORT_A1, piece(f.a2, f.remote, 64))
            .gives(Verdict::drop(Reason::SpoofedSource)),
        leaving("a later one that leaves", 0, piece(f.ours, f.remote, 64))
            .gives(Verdict::pass(Reason::Sent))
            .leaves_no(tuple(f.ours, 0, f.remote, 0, proto::UDP)),
        leaving("the first one that leaves", 0, {
            ip(f.ours, f.remote).udp(40_000, 53, &[7; 120]).piece(0, 64, true)
        })
        .gives(Verdict::pass(Reason::Sent))
        .leaves(own, state::OPENING, owner::HOST),
    ]
}
