//! Replies of flows that went out: what counts as one, for whom, and for how long.

use fw_common::flow::{owner, state};
use fw_common::tables::PortKey;
use fw_common::verdict::{Mark, Reason, Verdict};
use fw_common::wire::{icmp, proto, tcp};

use super::host::{Family, allow_any, rule};
use super::packets::ip;
use super::{Case, outside, tuple};

const CLOSED: Verdict = Verdict::drop(Reason::PortNotAllowed);
const REPLY: Verdict = Verdict::accept(Reason::Reply);
const SYN_ACK: u8 = tcp::SYN | tcp::ACK;

pub(super) fn cases(f: &Family) -> Vec<Case> {
    [segments(f), closing(f), datagrams(f), containers(f), echo(f), cut(f), from_before(f)].concat()
}

fn segments(f: &Family) -> Vec<Case> {
    let key = tuple(f.ours, 40_000, f.remote, 443, proto::TCP);
    let opening = |name, packet| outside(name, packet).flow(key, state::OPENING, owner::HOST, 1);
    let from = |port, to_port| ip(f.remote, f.ours).tcp(port, to_port, SYN_ACK);
    vec![
        opening("the answer to our SYN", from(443, 40_000)).gives(REPLY).leaves(
            key,
            state::ESTABLISHED,
            owner::HOST,
        ),
        outside("the same without a flow", from(443, 40_000)).gives(CLOSED).leaves_no(key),
        opening("from another port", from(444, 40_000)).gives(CLOSED),
        opening("to another port", from(443, 40_001)).gives(CLOSED),
        opening("from another peer", ip(f.office, f.ours).tcp(443, 40_000, SYN_ACK)).gives(CLOSED),
        opening("to another address of ours", ip(f.remote, f.second).tcp(443, 40_000, SYN_ACK)).gives(CLOSED),
        opening("of another protocol", ip(f.remote, f.ours).udp(443, 40_000, b"")).gives(CLOSED),
        // A SYN opens, whatever went out before.
        opening("a SYN on the same tuple", ip(f.remote, f.ours).tcp(443, 40_000, tcp::SYN))
            .gives(CLOSED)
            .leaves(key, state::OPENING, owner::HOST),
        outside("a SYN on an established tuple", ip(f.remote, f.ours).tcp(443, 40_000, tcp::SYN))
            .flow(key, state::ESTABLISHED, owner::HOST, 1)
            .gives(CLOSED)
            .leaves(key, state::ESTABLISHED, owner::HOST),
        outside("a SYN with URG", ip(f.remote, f.ours).tcp(443, 40_000, tcp::SYN | tcp::URG))
            .flow(key, state::ESTABLISHED, owner::HOST, 1)
            .gives(CLOSED),
        outside("within its time", from(443, 40_000)).flow(key, state::OPENING, owner::HOST, 99).gives(REPLY),
        outside("past its time", from(443, 40_000)).flow(key, state::OPENING, owner::HOST, 100).gives(CLOSED),
        outside("established for days", ip(f.remote, f.ours).tcp(443, 40_000, tcp::ACK))
            .flow(key, state::ESTABLISHED, owner::HOST, 345_599)
            .gives(REPLY),
        outside("established and forgotten", ip(f.remote, f.ours).tcp(443, 40_000, tcp::ACK))
            .flow(key, state::ESTABLISHED, owner::HOST, 345_600)
            .gives(CLOSED),
        outside("the reply of a denied peer", ip(f.denied_host, f.ours).tcp(443, 40_000, SYN_ACK))
            .flow(tuple(f.ours, 40_000, f.denied_host, 443, proto::TCP), state::OPENING, owner::HOST, 1)
            .gives(Verdict::drop(Reason::Denied).by(rule::DENY_HOST)),
        outside("a reply to a port that is open anyway", ip(f.remote, f.ours).tcp(40_000, 443, tcp::ACK))
            .flow(tuple(f.ours, 443, f.remote, 40_000, proto::TCP), state::ESTABLISHED, owner::HOST, 1)
            .gives(Verdict::accept(Reason::AllowRule).by(rule::WEB)),
    ]
}

/// What the daemon has cut is answered no more, and nothing of the peer makes it longer or shorter.
fn cut(f: &Family) -> Vec<Case> {
    let (tcp_key, udp_key) =
        (tuple(f.ours, 2222, f.remote, 443, proto::TCP), tuple(f.ours, 40_000, f.remote, 53, proto::UDP));
    vec![
        outside("a segment of what was cut", ip(f.remote, f.ours).tcp(443, 2222, tcp::ACK))
            .flow(tcp_key, state::CUT, owner::HOST, 1)
            .gives(CLOSED)
            .leaves(tcp_key, state::CUT, owner::HOST),
        outside("a datagram of what was cut", ip(f.remote, f.ours).udp(53, 40_000, b"!"))
            .flow(udp_key, state::CUT, owner::HOST, 1)
            .gives(CLOSED)
            .leaves(udp_key, state::CUT, owner::HOST),
    ]
}

/// What the peer had opened before the hooks were there.
fn from_before(f: &Family) -> Vec<Case> {
    let published = tuple(f.ours, 5000, f.remote, 40_000, proto::UDP);
    let datagram = || ip(f.remote, f.ours).udp(40_000, 5000, b"?");
    let ssh = tuple(f.ours, 22, f.remote, 40_000, proto::TCP);
    vec![
        outside("a datagram to a published port, connected before", datagram())
            .flow(published, state::ESTABLISHED, owner::PEER, 1)
            .gives(REPLY)
            .leaves(published, state::ESTABLISHED, owner::PEER),
        outside("the same, forgotten", datagram())
            .flow(published, state::ESTABLISHED, owner::PEER, 110)
            .gives(CLOSED),
        outside("a segment, connected before", ip(f.remote, f.ours).tcp(40_000, 22, tcp::ACK))
            .flow(ssh, state::ESTABLISHED, owner::PEER, 1)
            .gives(REPLY)
            .leaves(ssh, state::ESTABLISHED, owner::PEER),
        outside("a SYN of whoever was connected before", ip(f.remote, f.ours).tcp(40_000, 22, tcp::SYN))
            .flow(ssh, state::ESTABLISHED, owner::PEER, 1)
            .gives(Verdict::drop(Reason::SourceNotAllowed).by(rule::SSH_OFFICE)),
    ]
}

fn closing(f: &Family) -> Vec<Case> {
    let key = tuple(f.ours, 40_000, f.remote, 443, proto::TCP);
    let arrives = |name, flags, was, age| {
        outside(name, ip(f.remote, f.ours).tcp(443, 40_000, flags)).flow(key, was, owner::HOST, age)
    };
    vec![
        arrives("a FIN", tcp::FIN | tcp::ACK, state::ESTABLISHED, 1).gives(REPLY).leaves(
            key,
            state::ESTABLISHED,
            owner::HOST,
        ),
        arrives("a FIN after ours", tcp::FIN | tcp::ACK, state::FIN_SENT, 1).gives(REPLY).leaves(
            key,
            state::FIN_SENT,
            owner::HOST,
        ),
        arrives("a reset, maybe forged", tcp::RST, state::ESTABLISHED, 1).gives(REPLY).leaves(
            key,
            state::ESTABLISHED,
            owner::HOST,
        ),
        arrives("closed by us", tcp::ACK, state::FIN_SENT, 99).gives(REPLY),
        arrives("closed by us and forgotten", tcp::ACK, state::FIN_SENT, 100).gives(CLOSED),
    ]
}

fn datagrams(f: &Family) -> Vec<Case> {
    let key = tuple(f.ours, 40_000, f.remote, 53, proto::UDP);
    let answer = || ip(f.remote, f.ours).udp(53, 40_000, b"!");
    let gre = tuple(f.ours, 0, f.remote, 0, proto::GRE);
    vec![
        outside("an answer", answer()).flow(key, state::OPENING, owner::HOST, 1).gives(REPLY).leaves(
            key,
            state::ANSWERED,
            owner::HOST,
        ),
        outside("an answer that makes a stream", answer())
            .flow(key, state::ANSWERED, owner::HOST, 4)
            .gives(REPLY)
            .leaves(key, state::ESTABLISHED, owner::HOST),
        outside("an answer without a question", answer()).gives(CLOSED).leaves_no(key),
        outside("an answer in time", answer()).flow(key, state::OPENING, owner::HOST, 24).gives(REPLY),
        outside("an answer too late", answer()).flow(key, state::OPENING, owner::HOST, 25).gives(CLOSED),
        outside("a stream in time", answer()).flow(key, state::ESTABLISHED, owner::HOST, 109).gives(REPLY),
        outside("a stream too late", answer()).flow(key, state::ESTABLISHED, owner::HOST, 110).gives(CLOSED),
        outside("GRE", ip(f.remote, f.ours).protocol(proto::GRE, &[0; 8]))
            .flow(gre, state::OPENING, owner::HOST, 1)
            .gives(REPLY),
        outside("GRE to a container", ip(f.remote, f.ours).protocol(proto::GRE, &[0; 8]))
            .flow(gre, state::OPENING, owner::CONTAINER, 1)
            .gives(REPLY.marked(Mark::In)),
        outside("SCTP", ip(f.remote, f.ours).protocol(proto::SCTP, &[0, 53, 156, 64, 0, 0, 0, 0]))
            .flow(tuple(f.ours, 40_000, f.remote, 53, proto::SCTP), state::OPENING, owner::HOST, 1)
            .gives(REPLY),
    ]
}

/// A container chooses any source port, and MASQUERADE keeps it if it can.
fn containers(f: &Family) -> Vec<Case> {
    let udp = |name, port, owner| {
        outside(name, ip(f.remote, f.ours).udp(5000, port, b"!")).flow(
            tuple(f.ours, port, f.remote, 5000, proto::UDP),
            state::OPENING,
            owner,
            1,
        )
    };
    let tcp = |name, port, flags, owner| {
        outside(name, ip(f.remote, f.ours).tcp(5000, port, flags)).flow(
            tuple(f.ours, port, f.remote, 5000, proto::TCP),
            state::OPENING,
            owner,
            1,
        )
    };
    let vouched = REPLY.marked(Mark::In);
    let refused = |rule| Verdict::drop(Reason::SourceNotAllowed).by(rule);
    vec![
        udp("to a container", 40_000, owner::CONTAINER).gives(vouched),
        udp("to what is only forwarded", 40_000, owner::OTHER).gives(REPLY),
        udp("to the host at a ruled port", 6000, owner::HOST).gives(REPLY),
        udp("to a container at a ruled port", 6000, owner::CONTAINER).gives(refused(rule::SYSLOG_OFFICE)),
        udp("to a forwarded peer at a ruled port", 6000, owner::OTHER).gives(refused(rule::SYSLOG_OFFICE)),
        udp("to a container at a published port", 5000, owner::CONTAINER).gives(CLOSED),
        udp("to the host at a published port", 5000, owner::HOST).gives(REPLY),
        udp("to a container at a port of the system", 1023, owner::CONTAINER).gives(CLOSED),
        udp("to a container at the first other port", 1024, owner::CONTAINER).gives(vouched),
        udp("to the host at a port of the system", 500, owner::HOST).gives(REPLY),
        tcp("an ACK to a container at a ruled port", 22, tcp::ACK, owner::CONTAINER).gives(vouched),
        tcp("a SYN to a container at a ruled port", 22, tcp::SYN, owner::CONTAINER)
            .gives(refused(rule::SSH_OFFICE)),
        tcp("an ACK to a container at a published port", 8080, SYN_ACK, owner::CONTAINER).gives(vouched),
        tcp("a SYN to a container at a published port", 8080, tcp::SYN, owner::CONTAINER).gives(CLOSED),
        tcp("an ACK to what is only forwarded", 40_000, tcp::ACK, owner::OTHER).gives(REPLY),
        outside("SCTP to a container at a port of the system", {
            ip(f.remote, f.ours).protocol(proto::SCTP, &[0x13, 0x88, 0, 22, 0, 0, 0, 0])
        })
        .flow(tuple(f.ours, 22, f.remote, 5000, proto::SCTP), state::OPENING, owner::CONTAINER, 1)
        .gives(CLOSED),
    ]
}

fn echo(f: &Family) -> Vec<Case> {
    let key = |identifier| tuple(f.ours, identifier, f.remote, 0, proto::ICMP);
    let pinged = |name, packet, identifier| {
        outside(name, packet).flow(key(identifier), state::OPENING, owner::HOST, 1)
    };
    let packet = || ip(f.remote, f.ours);
    let redirect = packet().of_family(icmp::REDIRECT);
    let foreign_icmp = if f.v6 { proto::ICMP } else { proto::ICMPV6 };
    vec![
        pinged("an echo reply", packet().echo_reply(9), 9).gives(REPLY).leaves(
            key(9),
            state::ANSWERED,
            owner::HOST,
        ),
        pinged("an echo reply of another identifier", packet().echo_reply(8), 9).gives(CLOSED),
        outside("an echo reply to nothing", packet().echo_reply(9)).gives(CLOSED),
        // GHSA-c66w-hq56-4q97: our own request, turned round, is no reply to itself.
        pinged("an echo request with our identifier", packet().echo(9), 9).gives(CLOSED),
        pinged("an echo reply to identifier 0", packet().echo_reply(0), 0).gives(REPLY),
        pinged("an echo request with identifier 0", packet().echo(0), 0).gives(CLOSED),
        pinged("a redirect after a ping with identifier 0", packet().icmp(redirect, 1, &[0; 40]), 0)
            .gives(Verdict::drop(Reason::BadDiscovery)),
        pinged("an unknown type after a ping with identifier 0", packet().icmp(200, 0, &[0; 4]), 0)
            .gives(CLOSED),
        pinged(
            "the other family's ICMP after a ping with identifier 0",
            packet().protocol(foreign_icmp, &[0, 0, 0, 0, 0, 0, 0, 0]),
            0,
        )
        .gives(CLOSED),
        outside("an echo reply to a container", packet().echo_reply(9))
            .flow(key(9), state::OPENING, owner::CONTAINER, 1)
            .gives(REPLY.marked(Mark::In)),
        outside("an echo reply to a container, ping being allowed", packet().echo_reply(9))
            .flow(key(9), state::OPENING, owner::CONTAINER, 1)
            .with(|tables| {
                tables.ports.insert(PortKey::new(f.any(), proto::ICMP, 0), allow_any(rule::PING));
            })
            .gives(REPLY.marked(Mark::In)),
        pinged("a ping too late", packet().echo_reply(9), 9)
            .flow(key(9), state::OPENING, owner::HOST, 25)
            .gives(CLOSED),
    ]
}
