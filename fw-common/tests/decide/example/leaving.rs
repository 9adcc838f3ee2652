//! What leaves by an uplink: nothing is dropped, and what may be answered is recorded.

use fw_common::flow::{owner, state};
use fw_common::verdict::{Reason, Verdict};
use fw_common::wire::{ethertype, proto, tcp};
use fw_common::{Hook, Mac};

use super::host::{BRIDGE_A, Family, PORT_A1, STRANGER, UPLINK, mac_of};
use super::packets::{Draft, ethernet, ip};
use super::{Case, Scene, leaving, scene, tuple};

const SENT: Verdict = Verdict::pass(Reason::Sent);

pub(super) fn cases(f: &Family) -> Vec<Case> {
    [opening(f), segments(f), services(f), others(f), form(f), cut(f)].concat()
}

fn syn(f: &Family) -> Draft {
    ip(f.ours, f.remote).tcp(40_000, 443, tcp::SYN)
}

/// Nothing that goes out on what was cut makes it live again, but a connection that is opened anew.
fn cut(f: &Family) -> Vec<Case> {
    let key = tuple(f.ours, 2222, f.remote, 443, proto::TCP);
    let sends = |name, ingress, flags| {
        leaving(name, ingress, ip(f.ours, f.remote).tcp(2222, 443, flags))
            .flow(key, state::CUT, owner::HOST, 9)
            .gives(SENT)
    };
    let query = tuple(f.ours, 40_000, f.remote, 53, proto::UDP);
    let asks = |name, age| {
        leaving(name, 0, ip(f.ours, f.remote).udp(40_000, 53, b"?"))
            .flow(query, state::CUT, owner::HOST, age)
            .gives(SENT)
    };
    vec![
        sends("a segment on what was cut", 0, tcp::ACK).leaves(key, state::CUT, owner::HOST),
        sends("a container's segment on it", PORT_A1, tcp::ACK).leaves(key, state::CUT, owner::HOST),
        sends("a reset on it", 0, tcp::RST).leaves(key, state::CUT, owner::HOST),
        sends("a SYN on it", 0, tcp::SYN).leaves(key, state::OPENING, owner::HOST),
        asks("a datagram on what was cut", 124).leaves(query, state::CUT, owner::HOST),
        asks("a datagram when it is over", 125).leaves(query, state::OPENING, owner::HOST),
    ]
}

fn opening(f: &Family) -> Vec<Case> {
    let key = tuple(f.ours, 40_000, f.remote, 443, proto::TCP);
    let by =
        |name, ingress, owner| leaving(name, ingress, syn(f)).gives(SENT).leaves(key, state::OPENING, owner);
    let query = tuple(f.ours, 40_000, f.remote, 53, proto::UDP);
    let ping = tuple(f.ours, 9, f.remote, 0, proto::ICMP);
    let routed = tuple(f.a1, 40_000, f.remote, 443, proto::TCP);
    let gre = tuple(f.ours, 0, f.remote, 0, proto::GRE);
    vec![
        by("the host opens", 0, owner::HOST),
        by("a container opens", BRIDGE_A, owner::CONTAINER),
        by("a container opens by its port", PORT_A1, owner::CONTAINER),
        by("somebody behind another uplink opens", UPLINK, owner::OTHER),
        by("somebody behind an unknown device opens", STRANGER, owner::OTHER),
        leaving("the host asks", 0, ip(f.ours, f.remote).udp(40_000, 53, b"?")).gives(SENT).leaves(
            query,
            state::OPENING,
            owner::HOST,
        ),
        leaving("the host pings", 0, ip(f.ours, f.remote).echo(9)).gives(SENT).leaves(
            ping,
            state::OPENING,
            owner::HOST,
        ),
        leaving(
            "a container of a routed network opens",
            BRIDGE_A,
            ip(f.a1, f.remote).tcp(40_000, 443, tcp::SYN),
        )
        .gives(SENT)
        .leaves(routed, state::OPENING, owner::CONTAINER),
        leaving("from an address that only the FIB knows", 0, ip(f.new, f.remote).udp(40_000, 53, b"?"))
            .gives(SENT)
            .leaves(tuple(f.new, 40_000, f.remote, 53, proto::UDP), state::OPENING, owner::HOST),
        leaving("GRE", 0, ip(f.ours, f.remote).protocol(proto::GRE, &[0; 8])).gives(SENT).leaves(
            gre,
            state::OPENING,
            owner::HOST,
        ),
        leaving("to a denied host", 0, ip(f.ours, f.denied_host).udp(40_000, 53, b"?")).gives(SENT).leaves(
            tuple(f.ours, 40_000, f.denied_host, 53, proto::UDP),
            state::OPENING,
            owner::HOST,
        ),
    ]
}

fn segments(f: &Family) -> Vec<Case> {
    let key = tuple(f.ours, 40_000, f.remote, 443, proto::TCP);
    let sends = |name: &str, flags| leaving(name, 0, ip(f.ours, f.remote).tcp(40_000, 443, flags));
    let after =
        |name: &str, flags, was, age| -> Scene { sends(name, flags).flow(key, was, owner::HOST, age) };
    let fin = tcp::FIN | tcp::ACK;
    let is = |scene: Scene, now| scene.gives(SENT).leaves(key, now, owner::HOST);
    vec![
        is(sends("a connection that was there before us", tcp::ACK), state::ESTABLISHED),
        sends("a FIN of a connection that we do not know", fin).gives(SENT).leaves_no(key),
        sends("a RST of a connection that we do not know", tcp::RST).gives(SENT).leaves_no(key),
        after("a RST ends it", tcp::RST | tcp::ACK, state::ESTABLISHED, 1).gives(SENT).leaves_no(key),
        is(after("a FIN", fin, state::ESTABLISHED, 1), state::FIN_SENT),
        is(after("the last ACK", tcp::ACK, state::FIN_SENT, 1), state::FIN_SENT),
        is(after("a new connection on the old tuple", tcp::SYN, state::FIN_SENT, 1), state::OPENING),
        // An expired flow is as none: only a SYN or data begin one anew.
        after("a FIN after its time", fin, state::OPENING, 100).gives(SENT).leaves_no(key),
        is(after("data after its time", tcp::ACK, state::OPENING, 100), state::ESTABLISHED),
    ]
}

/// A busy service makes no state: its clients are let in by the rule.
fn services(f: &Family) -> Vec<Case> {
    let answers = |name, port, to| leaving(name, 0, ip(f.ours, to).tcp(port, 40_000, tcp::SYN | tcp::ACK));
    let key = |port, to| tuple(f.ours, port, to, 40_000, proto::TCP);
    let web = key(443, f.remote);
    vec![
        answers("a service to its client", 443, f.remote).gives(SENT).leaves_no(web),
        answers("a service to a client in its zone", 22, f.office).gives(SENT).leaves_no(key(22, f.office)),
        answers("a service to a stranger", 22, f.remote).gives(SENT).leaves(
            key(22, f.remote),
            state::ESTABLISHED,
            owner::HOST,
        ),
        answers("a published and open port", 8081, f.remote).gives(SENT).leaves_no(key(8081, f.remote)),
        answers("a port without a rule", 444, f.remote).gives(SENT).leaves(
            key(444, f.remote),
            state::ESTABLISHED,
            owner::HOST,
        ),
        answers("a service with a flow keeps it", 443, f.remote)
            .flow(web, state::OPENING, owner::HOST, 1)
            .gives(SENT)
            .leaves(web, state::ESTABLISHED, owner::HOST),
    ]
}

fn others(f: &Family) -> Vec<Case> {
    let none = |name, packet, key| leaving(name, 0, packet).gives(SENT).leaves_no(key);
    let ping = |identifier| tuple(f.ours, identifier, f.remote, 0, proto::ICMP);
    let quoted = ip(f.remote, f.ours).udp(1, 1, b"").packet();
    let mut cases = vec![
        none("an echo reply", ip(f.ours, f.remote).echo_reply(9), tuple(f.ours, 0, f.remote, 9, proto::ICMP)),
        none("an ICMP error", ip(f.ours, f.remote).unreachable(&quoted), ping(0)),
        none("to a group", ip(f.ours, f.group).udp(5353, 5353, b""), {
            tuple(f.ours, 5353, f.group, 5353, proto::UDP)
        }),
        // Somebody else's, whom we only bridge or route.
        none("from somebody else", ip(f.elsewhere, f.remote).udp(1, 1, b""), {
            tuple(f.elsewhere, 1, f.remote, 1, proto::UDP)
        }),
    ];
    if !f.v6 {
        let all = super::host::address("255.255.255.255");
        cases.push(none("to all", ip(f.ours, all).udp(68, 67, b""), tuple(f.ours, 68, all, 67, proto::UDP)));
    }
    cases
}

fn form(f: &Family) -> Vec<Case> {
    let key = tuple(f.ours, 40_000, f.remote, 443, proto::TCP);
    let other = Mac { bytes: [2, 0xff, 0, 0, 0, 1] };
    vec![
        leaving("a cut segment", 0, syn(f).cut(19)).gives(SENT).leaves_no(key),
        leaving("flags that no stack sends", 0, ip(f.ours, f.remote).tcp(40_000, 443, 0))
            .gives(SENT)
            .leaves_no(key),
        leaving("behind a priority tag", 0, syn(f).tag(ethertype::VLAN, 0)).gives(SENT).leaves(
            key,
            state::OPENING,
            owner::HOST,
        ),
        leaving("in another VLAN", 0, syn(f).tag(ethertype::VLAN, 5))
            .gives(Verdict::pass(Reason::OtherVlan))
            .leaves_no(key),
        scene("ARP that leaves", Hook::UplinkEgress, UPLINK, {
            [ethernet(other, mac_of(UPLINK), ethertype::ARP), vec![0; 28]].concat()
        })
        .gives(Verdict::pass(Reason::NotIp)),
        scene("from a device that no table knows", Hook::UplinkEgress, STRANGER, {
            syn(f).between(other, mac_of(STRANGER)).frame()
        })
        .gives(SENT)
        .leaves_no(key),
    ]
}
