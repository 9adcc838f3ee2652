//! XDP on an uplink: what is dropped before the kernel sees it, and what is left to the hook behind.

use fw_common::flow::{owner, state};
use fw_common::wire::{proto, tcp};
use fw_common::{Hook, Mac, Reason, Verdict};

use super::host::{BRIDGED_UPLINK, Family, PORT_A1, STRANGER, TUNNEL, rule};
use super::packets::{Draft, ip};
use super::{Case, Scene, arriving, outside, tuple};

const LATER: Verdict = Verdict::pass(Reason::NotOurs);
const CLOSED: Verdict = Verdict::drop(Reason::PortNotAllowed);

fn early(scene: Scene) -> Scene {
    Scene { hook: Hook::UplinkXdp, ..scene }
}

fn seen(name: &str, packet: Draft) -> Scene {
    early(outside(name, packet))
}

pub(super) fn cases(f: &Family) -> Vec<Case> {
    let dns = tuple(f.ours, 40_000, f.remote, 53, proto::UDP);
    let answer = || ip(f.remote, f.ours).udp(53, 40_000, b"answer");
    let syn = |from, to, port| ip(from, to).tcp(40_000, port, tcp::SYN);
    let other = Mac { bytes: [2, 8, 8, 8, 8, 8] };
    let mut cases = vec![
        seen("a closed port", syn(f.remote, f.ours, 444)).gives(CLOSED),
        seen("an open port", syn(f.remote, f.ours, 443)).gives(LATER),
        seen("a port for others", syn(f.remote, f.ours, 22))
            .gives(Verdict::drop(Reason::SourceNotAllowed).by(rule::SSH_OFFICE)),
        seen("a port for this source", syn(f.office, f.ours, 22)).gives(LATER),
        seen("TCP that opens nothing", ip(f.remote, f.ours).tcp(40_000, 444, tcp::ACK)).gives(LATER),
        seen("TCP that opens nothing, denied", ip(f.denied_net, f.ours).tcp(40_000, 444, tcp::ACK))
            .gives(Verdict::drop(Reason::Denied).by(rule::DENY_NET)),
        seen("a denied source to anywhere", syn(f.denied_host, f.elsewhere, 443))
            .gives(Verdict::drop(Reason::Denied).by(rule::DENY_HOST)),
        seen("a source inside", syn(f.a1, f.ours, 443)).gives(Verdict::drop(Reason::SourceInside)),
        seen("our own source", syn(f.second, f.ours, 443)).gives(Verdict::drop(Reason::SourceOurs)),
        seen("our own source to an address that only the routing table knows", syn(f.second, f.new, 443))
            .gives(LATER),
        seen("a closed port of an address that only the routing table knows", syn(f.remote, f.new, 444))
            .gives(LATER),
        seen("forwarded", syn(f.remote, f.elsewhere, 444)).gives(LATER),
        seen("straight to a container", syn(f.remote, f.a1, 80)).gives(Verdict::drop(Reason::DirectAccess)),
        seen("a datagram straight to a container", ip(f.remote, f.a1).udp(1, 53, b""))
            .gives(Verdict::drop(Reason::DirectAccess)),
        seen("a datagram that nobody asked for", answer()).gives(CLOSED),
        // Looked at, not renewed.
        seen("an answer", answer()).flow(dns, state::OPENING, owner::HOST, 3).gives(LATER).leaves(
            dns,
            state::OPENING,
            owner::HOST,
        ),
        seen("an answer that is too late", answer()).flow(dns, state::OPENING, owner::HOST, 30).gives(CLOSED),
        seen("a cut header", syn(f.remote, f.ours, 443).cut(8))
            .gives(Verdict::drop(Reason::MalformedTransport)),
        seen("for another machine", syn(f.remote, f.ours, 444).sent_to(other)).gives(LATER),
        early(arriving("by the port of a bridge", BRIDGED_UPLINK, syn(f.remote, f.ours, 444).sent_to(other)))
            .gives(CLOSED),
        early(arriving("a port, which has no such program", PORT_A1, syn(f.a1, f.ours, 444))).gives(LATER),
        early(arriving("a device that no table knows", STRANGER, syn(f.remote, f.ours, 444))).gives(LATER),
        early(arriving("a device without Ethernet header", TUNNEL, syn(f.remote, f.ours, 444))).gives(LATER),
    ];
    if !f.v6 {
        let broadcast = super::host::address("198.18.0.255");
        let back = ip(f.ours, broadcast).udp(9, 9, b"").sent_to(Mac { bytes: [0xff; 6] });
        // Judged by its port, as behind: what is for all may be our own.
        cases.push(seen("our own broadcast come back", back).gives(CLOSED));
    }
    cases
}
