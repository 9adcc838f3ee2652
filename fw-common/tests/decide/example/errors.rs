//! ICMP errors: believed only about what went out from the address that they come to.

use std::net::IpAddr;

use fw_common::flow::{owner, state};
use fw_common::tables::PortKey;
use fw_common::verdict::{Mark, Reason, Verdict};
use fw_common::wire::{icmp, proto, tcp};

use super::host::{Family, allow_any, rule};
use super::packets::{Draft, NETWORK, ip};
use super::{Case, Scene, outside, tuple};

const RELATED: Verdict = Verdict::accept(Reason::RelatedError);
const UNRELATED: Verdict = Verdict::drop(Reason::UnrelatedError);

pub(super) fn cases(f: &Family) -> Vec<Case> {
    [flows(f), services(f), quotes(f), containers(f)].concat()
}

/// Somebody on the way says that a packet from `from` did not arrive.
fn about(f: &Family, name: &str, from: IpAddr, quoted: &Draft) -> Scene {
    outside(name, ip(f.elsewhere, from).unreachable(&quoted.packet()))
}

fn flows(f: &Family) -> Vec<Case> {
    let key = tuple(f.ours, 40_000, f.remote, 53, proto::UDP);
    let sent = ip(f.ours, f.remote).udp(40_000, 53, b"?");
    let of = |name, owner, age| about(f, name, f.ours, &sent).flow(key, state::OPENING, owner, age);
    let kinds: &[u8] = if f.v6 { &[1, 2, 3, 4] } else { &[3, 11, 12] };
    let redirect = ip(f.elsewhere, f.ours);
    let redirect_kind = redirect.of_family(icmp::REDIRECT);
    let mut cases = vec![
        of("about a flow of the host", owner::HOST, 1).gives(RELATED).leaves(
            key,
            state::OPENING,
            owner::HOST,
        ),
        of("about a flow of a container", owner::CONTAINER, 1).gives(RELATED.marked(Mark::In)),
        of("about a flow that is only forwarded", owner::OTHER, 1).gives(RELATED),
        of("about a flow that is over", owner::HOST, 25).gives(UNRELATED),
        about(f, "about nothing", f.ours, &sent).gives(UNRELATED),
        about(f, "about another port's flow", f.ours, &ip(f.ours, f.remote).udp(40_001, 53, b"?"))
            .flow(key, state::OPENING, owner::HOST, 1)
            .gives(UNRELATED),
        // The quote must be of a packet from the very address that the error comes to.
        outside("to another address of ours", ip(f.elsewhere, f.second).unreachable(&sent.packet()))
            .flow(key, state::OPENING, owner::HOST, 1)
            .gives(UNRELATED),
        outside("to a container", ip(f.elsewhere, f.a1).unreachable(&sent.packet()))
            .flow(key, state::OPENING, owner::CONTAINER, 1)
            .gives(UNRELATED),
        outside(
            "a redirect that quotes a flow",
            redirect.icmp(redirect_kind, 1, &[&[0; 4], &sent.packet()[..]].concat()),
        )
        .flow(key, state::OPENING, owner::HOST, 1)
        .gives(Verdict::drop(Reason::BadDiscovery)),
    ];
    for kind in kinds {
        let packet = ip(f.elsewhere, f.ours).icmp(*kind, 0, &[&[0; 4], &sent.packet()[..]].concat());
        let name = format!("an error of type {kind}");
        cases.push(outside(&name, packet.clone()).flow(key, state::OPENING, owner::HOST, 1).gives(RELATED));
        cases.push(outside(&format!("{name} about nothing"), packet).gives(UNRELATED));
    }
    cases
}

/// A busy service keeps no state of its clients; the rule says whom it may have answered.
fn services(f: &Family) -> Vec<Case> {
    let answer = |port, to| ip(f.ours, to).tcp(port, 40_000, tcp::ACK);
    let of = |name, port, to| about(f, name, f.ours, &answer(port, to));
    vec![
        of("about a service open to all", 443, f.remote).gives(RELATED),
        of("about a closed port", 444, f.remote).gives(UNRELATED),
        of("about a service and its client", 22, f.office).gives(RELATED),
        of("about a service and a stranger", 22, f.remote).gives(UNRELATED),
        of("about a published and open port", 8081, f.remote).gives(RELATED.marked(Mark::In)),
        of("about a published and closed port", 8080, f.remote).gives(UNRELATED),
        about(f, "about a service of another protocol", f.ours, &ip(f.ours, f.remote).udp(443, 40_000, b""))
            .gives(UNRELATED),
    ]
}

fn quotes(f: &Family) -> Vec<Case> {
    let key = tuple(f.ours, 40_000, f.remote, 53, proto::UDP);
    let sent = || ip(f.ours, f.remote).udp(40_000, 53, b"a longer question");
    let flow = |scene: Scene| scene.flow(key, state::OPENING, owner::HOST, 1);
    let cut = |length: usize| {
        let whole = sent().packet();
        let header = whole.len() - 25;
        outside("", ip(f.elsewhere, f.ours).unreachable(&whole[..header + length]))
    };
    let named = |name: &str, scene: Scene| flow(Scene { name: name.to_owned(), ..scene });
    let ping = tuple(f.ours, 9, f.remote, 0, proto::ICMP);
    let gre = tuple(f.ours, 0, f.remote, 0, proto::GRE);
    let later = ip(f.ours, f.remote).protocol(proto::GRE, &[0; 16]).at_offset(64, false);
    let mut cases = vec![
        named("quoting eight bytes of transport", cut(8)).gives(RELATED),
        named("quoting seven bytes of transport", cut(7)).gives(UNRELATED),
        named("quoting no transport", cut(0)).gives(UNRELATED),
        outside("quoting nothing", ip(f.elsewhere, f.ours).unreachable(&[])).gives(UNRELATED),
        flow(about(f, "quoting a first fragment", f.ours, &sent().piece(0, 16, true))).gives(RELATED),
        flow(about(f, "quoting a later fragment", f.ours, &sent().piece(16, 25, false))).gives(UNRELATED),
        about(f, "quoting our echo request", f.ours, &ip(f.ours, f.remote).echo(9))
            .flow(ping, state::OPENING, owner::HOST, 1)
            .gives(RELATED),
        about(f, "quoting an echo request that we did not send", f.ours, &ip(f.ours, f.remote).echo(8))
            .flow(ping, state::OPENING, owner::HOST, 1)
            .gives(UNRELATED),
        about(
            f,
            "quoting an echo request that we did not send, ping being allowed",
            f.ours,
            &ip(f.ours, f.remote).echo(0),
        )
        .with(|tables| {
            tables.ports.insert(PortKey::new(f.any(), proto::ICMP, 0), allow_any(rule::PING));
        })
        .gives(UNRELATED),
        about(f, "quoting GRE", f.ours, &ip(f.ours, f.remote).protocol(proto::GRE, &[0; 16]))
            .flow(gre, state::OPENING, owner::HOST, 1)
            .gives(RELATED),
        about(f, "quoting a later fragment of GRE", f.ours, &later)
            .flow(gre, state::OPENING, owner::HOST, 1)
            .gives(UNRELATED),
        about(f, "quoting our echo reply", f.ours, &ip(f.ours, f.remote).echo_reply(9))
            .flow(ping, state::OPENING, owner::HOST, 1)
            .gives(UNRELATED),
        flow(about(f, "quoting an error", f.ours, &ip(f.ours, f.remote).unreachable(&sent().packet())))
            .gives(UNRELATED),
        flow(outside("in a fragment", {
            let whole = ip(f.elsewhere, f.ours).unreachable(&sent().packet());
            whole.at_offset(0, true)
        }))
        .gives(UNRELATED),
        flow(outside_cut(f, "quoting what stands in the frame's trailer", &sent(), 18)).gives(UNRELATED),
        flow(outside_cut(f, "quoting less than there is", &sent(), 17)).gives(RELATED),
        flow(outside("quoting the other family", {
            let mut quoted = sent().packet();
            quoted[0] ^= 0x20;
            ip(f.elsewhere, f.ours).unreachable(&quoted)
        }))
        .gives(UNRELATED),
    ];
    if f.v6 {
        let extended = sent().extension(60, &super::packets::PADDING);
        cases.push(flow(about(f, "quoting extension headers", f.ours, &extended)).gives(RELATED));
    } else {
        let record_route = sent().options(&[7, 7, 4, 0, 0, 0, 0]);
        cases.push(flow(about(f, "quoting options", f.ours, &record_route)).gives(RELATED));
        let source_route = sent().options(&[131, 7, 4, 0, 0, 0, 0]);
        cases.push(flow(about(f, "quoting any options", f.ours, &source_route)).gives(RELATED));
    }
    cases
}

/// An error whose IP length leaves out the last `bytes` of the frame.
fn outside_cut(f: &Family, name: &str, quoted: &Draft, bytes: u8) -> Scene {
    let mut scene = about(f, name, f.ours, quoted);
    let length = NETWORK + if f.v6 { 4 } else { 2 };
    scene.frame[length + 1] -= bytes;
    scene
}

/// Routed networks: the peers know the containers by their own addresses.
fn containers(f: &Family) -> Vec<Case> {
    let key = tuple(f.a1, 40_000, f.remote, 53, proto::UDP);
    let sent = ip(f.a1, f.remote).udp(40_000, 53, b"?");
    let unknown = tuple(f.unknown, 40_000, f.remote, 53, proto::UDP);
    let sent_by_unknown = ip(f.unknown, f.remote).udp(40_000, 53, b"?");
    vec![
        about(f, "to a container about its flow", f.a1, &sent)
            .flow(key, state::OPENING, owner::CONTAINER, 1)
            .gives(RELATED.marked(Mark::In)),
        about(f, "to a container about nothing", f.a1, &sent).gives(UNRELATED),
        // A rule opens a port of the host; it says nothing of the containers' own addresses.
        about(f, "to a container about a ruled port", f.a1, &ip(f.a1, f.remote).tcp(443, 40_000, tcp::ACK))
            .gives(UNRELATED),
        outside(
            "to a container about its neighbour's flow",
            ip(f.elsewhere, f.a2).unreachable(&sent.packet()),
        )
        .flow(key, state::OPENING, owner::CONTAINER, 1)
        .gives(UNRELATED),
        about(f, "to an unknown container about its flow", f.unknown, &sent_by_unknown)
            .flow(unknown, state::OPENING, owner::CONTAINER, 1)
            .gives(RELATED),
    ]
}
