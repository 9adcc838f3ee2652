//! One packet after the other: what the second one meets depends on what the first one has left behind.

use bytemuck::Zeroable as _;
use fw_common::decide::Workspace;
use fw_common::flow::{Flow, owner, state};
use fw_common::tables::memory::Memory;
use fw_common::tables::{Limit, OutKey, OutRule, Terms, sources};
use fw_common::wire::{proto, tcp};
use fw_common::{Mark, Reason, Verdict, decide};

use crate::example::host::{NOW, PORT_A1, families, rule, tables};
use crate::example::packets::ip;
use crate::example::{Scene, container, leaving, outside, tuple};

/// Decides the packet of a scene on these tables, which keep what it leaves behind.
fn meets(host: &Memory, scene: &Scene) -> Verdict {
    decide(scene.hook, &scene.arrival, &scene.frame[..], host, &mut Workspace::zeroed())
}

const fn seen(state: u8, owner: u8) -> Flow {
    Flow { last_seen: NOW - 1, started: NOW - 1, state, owner, container: 0 }
}

#[test]
fn a_later_fragment_to_a_container_follows_a_first_one_that_was_let_through() {
    for f in families() {
        let host = tables();
        let key = tuple(f.a1, 40_000, f.remote, 53, proto::UDP);
        let whole = || ip(f.remote, f.a1).udp(53, 40_000, &[7; 64]);
        let later = outside("later", whole().piece(32, 64, false));
        let unknown = Verdict::drop(Reason::UnknownFragment);
        assert_eq!(meets(&host, &later), unknown);
        // Refused, so that what follows is refused, too.
        let first = outside("first", whole().piece(0, 32, true));
        assert_eq!(meets(&host, &first), Verdict::drop(Reason::DirectAccess));
        assert_eq!(meets(&host, &later), unknown);
        host.flows.borrow_mut().insert(key, seen(state::OPENING, owner::CONTAINER));
        // What is whole leaves nothing to follow.
        assert_eq!(meets(&host, &outside("whole", whole())).reason, Reason::Reply);
        assert_eq!(meets(&host, &later), unknown);
        assert_eq!(meets(&host, &first), Verdict::accept(Reason::Reply).marked(Mark::In));
        assert_eq!(meets(&host, &later), Verdict::accept(Reason::KnownFragment).marked(Mark::In));
    }
}

#[test]
fn a_later_fragment_of_a_closed_container_follows_the_first_one_of_an_answer() {
    for f in families() {
        let host = closed();
        let whole = || ip(f.a1, f.remote).udp(53, 5000, &[7; 64]);
        let later = container("later", PORT_A1, whole().piece(32, 64, false));
        let first = container("first", PORT_A1, whole().piece(0, 32, true));
        let refused = Verdict::drop(Reason::Egress);
        assert_eq!((meets(&host, &first), meets(&host, &later)), (refused, refused));
        let asked = tuple(f.a1, 53, f.remote, 5000, proto::UDP);
        host.inbound_flows.borrow_mut().insert(asked, seen(state::OPENING, owner::OTHER));
        assert_eq!(meets(&host, &later), refused, "it came first");
        let answer = Verdict::accept(Reason::Answer).marked(Mark::Out);
        assert_eq!((meets(&host, &first), meets(&host, &later)), (answer, answer));
    }
}

/// Identifiers of other messages than echoes read as 0, which a ping may have chosen.
#[test]
fn of_icmp_only_an_echo_reply_answers_a_ping() {
    for f in families() {
        let host = closed();
        host.inbound_flows
            .borrow_mut()
            .insert(tuple(f.a1, 0, f.remote, 0, proto::ICMP), seen(state::OPENING, owner::OTHER));
        let from = |draft| container("", PORT_A1, draft);
        let timestamp = if f.v6 { 139 } else { 13 };
        let other = from(ip(f.a1, f.remote).icmp(timestamp, 0, &[0; 16]));
        assert_eq!(meets(&host, &other).reason, Reason::Egress);
        assert_eq!(meets(&host, &from(ip(f.a1, f.remote).echo(0))).reason, Reason::Egress);
        assert_eq!(meets(&host, &from(ip(f.a1, f.remote).echo_reply(0))).reason, Reason::Answer);
    }
}

#[test]
fn a_limit_lets_in_its_burst_and_then_its_rate() {
    for f in families() {
        let mut host = tables();
        host.limits.insert(1, Limit { rate: 2, burst: 3, rule: rule::LIMIT });
        host.ports.values_mut().for_each(|port| port.limit = 1);
        let syn = outside("", ip(f.remote, f.ours).tcp(40_000, 443, tcp::SYN));
        let mut let_in = |milliseconds: u32| {
            host.now_ms += milliseconds;
            (0..10).take_while(|_| meets(&host, &syn).reason == Reason::AllowRule).count()
        };
        assert_eq!(let_in(0), 3, "the burst");
        assert_eq!(let_in(499), 0);
        assert_eq!(let_in(1), 1, "two a second");
        assert_eq!(let_in(1000), 2);
        assert_eq!(let_in(60_000), 3, "no more than the burst gathers");
    }
}

#[test]
fn a_later_fragment_of_the_host_follows_a_first_one_that_a_rule_let_out() {
    for f in families() {
        let mut host = tables();
        host.settings.outbound = 1;
        let rule = OutRule { destinations: sources::ANY, zones: 0, rule: rule::OUT_BOTH, reserved: [0; 3] };
        host.outbound.insert(OutKey::new(proto::UDP, 53, 0), rule);
        let whole = |port| ip(f.ours, f.remote).udp(40_000, port, &[7; 64]);
        let later = leaving("later", 0, whole(53).piece(32, 64, false));
        let refused = leaving("refused", 0, whole(54).piece(0, 32, true));
        assert_eq!(meets(&host, &refused).reason, Reason::OutNotAllowed);
        assert_eq!(meets(&host, &later).reason, Reason::UnknownFragment);
        assert_eq!(meets(&host, &leaving("first", 0, whole(53).piece(0, 32, true))).reason, Reason::OutRule);
        assert_eq!(meets(&host, &later).reason, Reason::KnownFragment);
    }
}

/// Network A may open nothing outside.
fn closed() -> Memory {
    let mut host = tables();
    let terms = Terms { egress: 0, ..Terms::OPEN };
    host.interfaces.get_mut(&PORT_A1).expect("a port").terms = terms;
    host
}
