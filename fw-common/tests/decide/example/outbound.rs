//! What the host itself opens, where the policy has rules for it.

use fw_common::flow::{owner, state};
use fw_common::tables::memory::Memory;
use fw_common::tables::{OutKey, OutRule, sources};
use fw_common::verdict::{Reason, Verdict};
use fw_common::wire::{proto, tcp};

use super::host::{BRIDGE_A, Family, NOW, UPLINK, rule};
use super::packets::{Draft, ip};
use super::{Case, Scene, leaving, tuple};

const SENT: Verdict = Verdict::pass(Reason::Sent);
const REFUSED: Verdict = Verdict::drop(Reason::OutNotAllowed);
const OFFICE: u64 = 1;

pub(super) fn cases(f: &Family) -> Vec<Case> {
    [rules(f), keys(f), answers(f), flows(f), needed(f), fragments(f), others(f)].concat()
}

/// A packet of the host, with rules: HTTPS to all, SMTP and ping to the office, NTP from port 123, DNS from 10053 to 53.
fn sent(name: &str, packet: Draft) -> Scene {
    leaving(name, 0, packet).with(restrict)
}

fn restrict(tables: &mut Memory) {
    let to = |destinations, zones, rule| OutRule { destinations, zones, rule, reserved: [0; 3] };
    tables.settings.outbound = 1;
    tables.outbound = [
        (OutKey::new(proto::TCP, 443, 0), to(sources::ANY, 0, rule::OUT_WEB)),
        (OutKey::new(proto::TCP, 25, 0), to(sources::ZONES, OFFICE, rule::OUT_OFFICE)),
        (OutKey::new(proto::ICMP, 0, 0), to(sources::ZONES, OFFICE, rule::OUT_OFFICE)),
        (OutKey::new(proto::UDP, 0, 123), to(sources::ANY, 0, rule::OUT_SOURCE)),
        (OutKey::new(proto::UDP, 53, 10_053), to(sources::ANY, 0, rule::OUT_BOTH)),
    ]
    .into();
}

fn by(rule: u32) -> Verdict {
    Verdict::accept(Reason::OutRule).by(rule)
}

fn rules(f: &Family) -> Vec<Case> {
    let syn = |to, port| ip(f.ours, to).tcp(40_000, port, tcp::SYN);
    let key = |to, port, proto| tuple(f.ours, 40_000, to, port, proto);
    let refused = |name, packet, key| sent(name, packet).gives(REFUSED).leaves_no(key);
    vec![
        sent("a port that a rule opens", syn(f.remote, 443)).gives(by(rule::OUT_WEB)).leaves(
            key(f.remote, 443, proto::TCP),
            state::OPENING,
            owner::HOST,
        ),
        refused("another port", syn(f.remote, 444), key(f.remote, 444, proto::TCP)),
        refused("another protocol", ip(f.ours, f.remote).udp(40_000, 443, b"?"), {
            key(f.remote, 443, proto::UDP)
        }),
        sent("a destination that the rule holds", syn(f.office, 25)).gives(by(rule::OUT_OFFICE)),
        refused("one that it does not", syn(f.remote, 25), key(f.remote, 25, proto::TCP)),
        sent("a ping to whom the rule holds", ip(f.ours, f.office).echo(9)).gives(by(rule::OUT_OFFICE)),
        refused("a ping to another one", ip(f.ours, f.remote).echo(9), {
            tuple(f.ours, 9, f.remote, 0, proto::ICMP)
        }),
        refused(
            "a protocol for which there are no rules",
            ip(f.ours, f.remote).protocol(proto::GRE, &[0; 8]),
            tuple(f.ours, 0, f.remote, 0, proto::GRE),
        ),
        sent("to a group", ip(f.ours, f.group).udp(5353, 5353, b"?")).gives(REFUSED),
        leaving("without rules everything", 0, syn(f.remote, 444)).gives(SENT),
        sent("a rule for all ports", syn(f.remote, 444))
            .with(|tables| {
                let all = OutRule { destinations: sources::ANY, zones: 0, rule: 40, reserved: [0; 3] };
                tables.outbound.insert(OutKey::new(proto::TCP, 0, 0), all);
            })
            .gives(by(40)),
    ]
}

fn keys(f: &Family) -> Vec<Case> {
    let ask = |name, from, to| sent(name, ip(f.ours, f.remote).udp(from, to, b"?"));
    vec![
        ask("from the source port", 123, 5000).gives(by(rule::OUT_SOURCE)),
        ask("from another one", 124, 5000).gives(REFUSED),
        ask("from and to", 10_053, 53).gives(by(rule::OUT_BOTH)),
        ask("from and to elsewhere", 10_053, 54).gives(REFUSED),
        ask("to and from elsewhere", 10_054, 53).gives(REFUSED),
    ]
}

fn answers(f: &Family) -> Vec<Case> {
    let segment = |name, from, to, flags| sent(name, ip(f.ours, to).tcp(from, 40_000, flags));
    let datagram = |name, from, to| sent(name, ip(from, to).udp(53, 40_000, b"!"));
    let pong = |name| sent(name, ip(f.ours, f.remote).echo_reply(9));
    vec![
        segment("a service answers", 443, f.remote, tcp::SYN | tcp::ACK).gives(SENT),
        // Only a SYN opens a connection; whatever else a socket sends, one was there.
        segment("a segment of a connection from before the rules", 40_001, f.remote, tcp::ACK)
            .gives(SENT)
            .leaves(tuple(f.ours, 40_001, f.remote, 40_000, proto::TCP), state::ESTABLISHED, owner::HOST),
        segment("a reset", 444, f.remote, tcp::RST | tcp::ACK).gives(SENT),
        segment("a SYN from a service's port", 443, f.remote, tcp::SYN).gives(REFUSED),
        datagram("a UDP service answers", f.second, f.remote).gives(SENT),
        datagram("no service there", f.ours, f.remote).gives(REFUSED),
        pong("a pong where pings are allowed")
            .with(|tables| {
                let key = fw_common::tables::PortKey::new(f.any(), proto::ICMP, 0);
                tables.ports.insert(key, super::host::allow_any(rule::PING));
            })
            .gives(SENT),
        pong("a pong where they are not").gives(REFUSED),
    ]
}

fn flows(f: &Family) -> Vec<Case> {
    let key = tuple(f.ours, 40_000, f.remote, 5000, proto::UDP);
    let ask = |name: &str, of, age| {
        sent(name, ip(f.ours, f.remote).udp(40_000, 5000, b"?")).flow(key, state::OPENING, of, age)
    };
    let connection = tuple(f.ours, 40_000, f.remote, 444, proto::TCP);
    vec![
        ask("of a flow that was recorded", owner::HOST, 1).gives(SENT).leaves(
            key,
            state::OPENING,
            owner::HOST,
        ),
        ask("of one that is over", owner::HOST, 25).gives(REFUSED),
        ask("of a container's flow", owner::CONTAINER, 1).gives(REFUSED),
        sent("a SYN on a connection that is there", ip(f.ours, f.remote).tcp(40_000, 444, tcp::SYN))
            .flow(connection, state::ESTABLISHED, owner::HOST, 1)
            .gives(REFUSED)
            .leaves(connection, state::ESTABLISHED, owner::HOST),
    ]
}

fn needed(f: &Family) -> Vec<Case> {
    let quoted = ip(f.remote, f.ours).udp(1, 1, b"").packet();
    let mut cases = vec![
        sent("an ICMP error", ip(f.ours, f.remote).unreachable(&quoted)).gives(SENT),
        // A container's traffic is not judged here.
        leaving("a container opens", BRIDGE_A, ip(f.ours, f.remote).tcp(40_000, 444, tcp::SYN))
            .with(restrict)
            .gives(SENT),
        leaving("forwarded for somebody else", UPLINK, ip(f.elsewhere, f.remote).tcp(40_000, 444, tcp::SYN))
            .with(restrict)
            .gives(SENT),
    ];
    if f.v6 {
        let icmp = |kind| ip(f.ours, f.group).icmp(kind, 0, &[0; 20]);
        for (name, kind) in
            [("router solicitation", 133), ("neighbour solicitation", 135), ("group report", 143)]
        {
            cases.push(sent(name, icmp(kind)).gives(SENT));
        }
        cases.push(sent("a redirect", icmp(137)).gives(REFUSED));
        cases.push(sent("DHCP", ip(f.ours, f.group).udp(546, 547, b"?")).gives(SENT));
        cases.push(sent("from its port to another", ip(f.ours, f.remote).udp(546, 548, b"?")).gives(REFUSED));
    } else {
        let all = super::host::address("255.255.255.255");
        let nobody = super::host::address("0.0.0.0");
        cases.push(sent("DHCP", ip(nobody, all).udp(68, 67, b"?")).gives(SENT));
        cases.push(sent("something else to all", ip(f.ours, all).udp(69, 67, b"?")).gives(REFUSED));
        cases.push(sent("IGMP", ip(f.ours, f.group).protocol(proto::IGMP, &[0; 8])).gives(SENT));
    }
    cases
}

fn fragments(f: &Family) -> Vec<Case> {
    let first = |name, port| {
        let whole = ip(f.ours, f.remote).udp(123, port, &[7; 120]);
        sent(name, whole.piece(0, 64, true))
    };
    let later = |name| sent(name, ip(f.ours, f.remote).protocol(proto::UDP, &[7; 64]).at_offset(64, false));
    let known = |scene: Scene, age| {
        scene.with(|tables| super::fragments::remembered(tables, f.ours, f.remote, NOW - age))
    };
    vec![
        first("the first fragment", 5000).gives(by(rule::OUT_SOURCE)),
        known(later("a later one"), 29).gives(Verdict::accept(Reason::KnownFragment)),
        known(later("a later one, too late"), 30).gives(Verdict::drop(Reason::UnknownFragment)),
        later("a later one whose first was refused").gives(Verdict::drop(Reason::UnknownFragment)),
    ]
}

fn others(f: &Family) -> Vec<Case> {
    let cut = |name| leaving(name, 0, ip(f.ours, f.remote).tcp(40_000, 443, tcp::SYN).cut(19));
    vec![
        cut("cut short, where everything may go").gives(SENT),
        cut("cut short").with(restrict).gives(Verdict::drop(Reason::MalformedTransport)),
    ]
}
