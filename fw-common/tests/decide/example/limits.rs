//! Limits: how many new flows a peer may open.

use fw_common::Address;
use fw_common::flow::{owner, state};
use fw_common::tables::memory::Memory;
use fw_common::tables::{Bucket, BucketKey, Limit, PortKey};
use fw_common::verdict::{Mark, Reason, Verdict};
use fw_common::wire::{proto, tcp};

use super::host::{Family, allow_any, rule};
use super::packets::ip;
use super::{Case, Scene, leaving, outside, tuple};

/// One flow a second, two at once.
const LIMIT: Limit = Limit { rate: 1, burst: 2, rule: rule::LIMIT };
const OVER: Verdict = Verdict::drop(Reason::OverLimit).by(rule::LIMIT);

pub(super) fn cases(f: &Family) -> Vec<Case> {
    [buckets(f), kinds(f), answers(f)].concat()
}

/// Every port of the host under the limit.
fn limited(scene: Scene) -> Scene {
    scene.with(|tables| {
        tables.limits.insert(1, LIMIT);
        tables.ports.values_mut().for_each(|port| port.limit = 1);
    })
}

/// With so many thousandths of a token, as of so many milliseconds ago.
fn left(scene: Scene, peer: std::net::IpAddr, tokens: u32, age: u32) -> Scene {
    scene.with(|tables| fill(tables, peer.into(), tokens, age))
}

fn fill(tables: &mut Memory, peer: Address, tokens: u32, age: u32) {
    let key = BucketKey { peer: peer.counted(), limit: 1, reserved: [0; 4] };
    let filled = tables.now_ms.wrapping_sub(age);
    tables.buckets.borrow_mut().insert(key, Bucket { tokens, filled });
}

fn buckets(f: &Family) -> Vec<Case> {
    let accept = Verdict::accept(Reason::AllowRule).by(rule::WEB);
    let syn = |name: &str| limited(outside(name, ip(f.remote, f.ours).tcp(40_000, 443, tcp::SYN)));
    let mut cases = vec![
        syn("the first flow of a peer").gives(accept),
        left(syn("a token is left"), f.remote, 1_500, 0).gives(accept),
        left(syn("none is left"), f.remote, 0, 0).gives(OVER),
        left(syn("not yet"), f.remote, 0, 500).gives(OVER),
        left(syn("a second later"), f.remote, 0, 1_500).gives(accept),
        left(syn("the part of a token that was there counts"), f.remote, 600, 500).gives(accept),
        left(syn("filled by a CPU that is ahead"), f.remote, 0, 5_u32.wrapping_neg()).gives(OVER),
        left(syn("weeks later, when the clock has half gone round"), f.remote, 0, 1 << 31).gives(accept),
        left(syn("somebody else's bucket"), f.office, 0, 0).gives(accept),
        syn("a limit that is not there").with(|tables| tables.limits.clear()).gives(accept),
    ];
    if f.v6 {
        let neighbour = super::host::address("2001:db8:9::7777");
        cases.push(left(syn("its neighbour's, in the same /64"), neighbour, 0, 0).gives(OVER));
    }
    cases
}

fn kinds(f: &Family) -> Vec<Case> {
    let empty = |scene| left(limited(scene), f.remote, 0, 0);
    let segment = |name, flags| empty(outside(name, ip(f.remote, f.ours).tcp(40_000, 443, flags)));
    let tunnel = |name| empty(outside(name, ip(f.remote, f.ours).udp(40_000, 4789, b"?")));
    let key = tuple(f.ours, 4789, f.remote, 40_000, proto::UDP);
    let ping = |scene: Scene| {
        scene.with(|tables| {
            tables.ports.insert(PortKey::new(f.any(), proto::ICMP, 0), allow_any(rule::PING));
        })
    };
    let published = |name| outside(name, ip(f.remote, f.ours).tcp(40_000, 8081, tcp::SYN));
    vec![
        segment("data of a connection costs nothing", tcp::ACK)
            .gives(Verdict::accept(Reason::AllowRule).by(rule::WEB)),
        segment("a SYN does", tcp::SYN).gives(OVER),
        tunnel("a datagram that begins something").gives(OVER),
        tunnel("one of an exchange that is alive")
            .flow(key, state::OPENING, owner::HOST, 1)
            .gives(Verdict::accept(Reason::AllowRule).by(rule::VXLAN)),
        tunnel("one of an exchange that is over").flow(key, state::OPENING, owner::HOST, 25).gives(OVER),
        empty(ping(outside("a ping", ip(f.remote, f.ours).echo(9)))).gives(OVER),
        empty(published("published and open")).gives(OVER),
        limited(published("published and open, with tokens"))
            .gives(Verdict::accept(Reason::PublishedOpen).marked(Mark::In)),
        // Who may not come in needs no limit.
        left(
            limited(outside("refused anyway", ip(f.region, f.ours).tcp(40_000, 22, tcp::SYN))),
            f.region,
            0,
            0,
        )
        .gives(Verdict::drop(Reason::SourceNotAllowed).by(rule::SSH_OFFICE)),
    ]
}

/// What answers a service under a limit makes a flow, so that the exchange costs no more tokens.
fn answers(f: &Family) -> Vec<Case> {
    let sent = Verdict::pass(Reason::Sent);
    let answer = |name| leaving(name, 0, ip(f.ours, f.remote).udp(4789, 40_000, b"!"));
    let key = tuple(f.ours, 4789, f.remote, 40_000, proto::UDP);
    let connection = tuple(f.ours, 443, f.remote, 40_000, proto::TCP);
    vec![
        limited(answer("an answer under a limit")).gives(sent).leaves(key, state::OPENING, owner::HOST),
        answer("an answer without one").gives(sent).leaves_no(key),
        limited(leaving("an answer over TCP under a limit", 0, {
            ip(f.ours, f.remote).tcp(443, 40_000, tcp::SYN | tcp::ACK)
        }))
        .gives(sent)
        .leaves_no(connection),
    ]
}
