//! Decisions that take several conditions: each of them alone is not enough, or is.

use std::net::IpAddr;

use bytemuck::Zeroable as _;
use fw_common::decide::Workspace;
use fw_common::flow::{Flow, counted, owner, state};
use fw_common::tables::memory::Memory;
use fw_common::tables::{BudgetPlace, Limit, Terms, egress};
use fw_common::wire::{Packet, ethertype, icmp, parse, proto, tcp};
use fw_common::{Address, Hook, Mac, Mark, Reason, Verdict, decide};

use crate::example::host::{
    BRIDGE_A, BRIDGE_SPOOFING, Family, PORT_A1, PORT_A2, PORT_S1, UPLINK, address, container_mac, families,
    rule, tables,
};
use crate::example::packets::{arp, ip};
use crate::example::{Scene, bridge, container, leaving, outside, scene, tuple};

fn meets(host: &Memory, scene: &Scene) -> Verdict {
    decide(scene.hook, &scene.arrival, &scene.frame[..], host, &mut Workspace::zeroed())
}

fn everybody(f: &Family) -> IpAddr {
    if f.v6 { address("ff02::1:2") } else { address("255.255.255.255") }
}

#[test]
fn a_mark_is_what_it_was_given_as() {
    for mark in [Mark::None, Mark::In, Mark::Out, Mark::Reach] {
        assert_eq!(Mark::from_number(mark as u8), mark);
        assert_eq!(Verdict::accept(Reason::Link).marked(mark).mark, mark);
    }
    assert_eq!(Verdict::drop(Reason::Denied).by(7).rule, 7);
}

#[test]
fn an_answer_of_dhcp_is_told_by_both_ports() {
    for f in families() {
        let host = tables();
        let (server, client) = if f.v6 { (547, 546) } else { (67, 68) };
        let sent =
            |from, to| meets(&host, &container("", PORT_A1, ip(f.a1, f.remote).udp(from, to, b"x"))).reason;
        assert_eq!(sent(server, client), Reason::RogueRouter);
        assert_eq!((sent(server, 5000), sent(5000, client)), (Reason::Outbound, Reason::Outbound));
    }
}

#[test]
fn without_an_address_only_a_question_of_dhcp_is_sent_by_udp() {
    let (host, none) = (tables(), address("0.0.0.0"));
    let sent = |from, to| {
        let packet = ip(none, address("255.255.255.255")).udp(from, to, b"x");
        meets(&host, &container("", PORT_A1, packet)).reason
    };
    assert_eq!(sent(68, 67), Reason::SameNetwork);
    assert_eq!((sent(68, 53), sent(53, 67)), (Reason::SpoofedSource, Reason::SpoofedSource));
}

#[test]
fn with_icc_a_neighbour_may_be_asked_for() {
    let f = families()[0];
    let (host, own) = (tables(), container_mac(PORT_A1));
    let asks = scene("", Hook::PortIngress, PORT_A1, arp(own, own, f.a1, f.a2));
    assert_eq!(meets(&host, &asks), Verdict::pass(Reason::SameNetwork));
}

/// Anycast of routers, or a broadcast address that no table holds: what the bridge hands to the host.
#[test]
fn an_address_of_the_network_that_is_the_host_s_is_closed_at_the_bridge_where_the_host_is() {
    for f in families() {
        for (closed, at_the_bridge) in [(false, Reason::SameNetwork), (true, Reason::HostDenied)] {
            let mut host = tables();
            host.routed_local.insert(f.unknown.into());
            if closed {
                close_host(&mut host);
            }
            let to = || ip(f.a1, f.unknown).udp(5000, 5000, b"x");
            assert_eq!(meets(&host, &bridge("", BRIDGE_A, PORT_A1, to())).reason, at_the_bridge);
            // A neighbour may have it as well: the port lets it go to both.
            assert_eq!(meets(&host, &container("", PORT_A1, to())).reason, Reason::SameNetwork);
        }
    }
}

fn close_host(host: &mut Memory) {
    let closed = Terms { host: 0, ..Terms::OPEN };
    for port in [PORT_A1, PORT_A2] {
        host.interfaces.get_mut(&port).expect("a port").terms = closed;
    }
    host.networks.get_mut(&BRIDGE_A).expect("a network").terms = closed;
}

/// The bridge's hook knows a container by port and MAC address. Whom it would not know is stopped at the port.
#[test]
fn to_a_group_a_closed_container_is_stopped_where_it_is_still_known() {
    for f in families() {
        let mut host = tables();
        host.interfaces.get_mut(&PORT_S1).expect("a port").terms = Terms { host: 0, ..Terms::OPEN };
        let sent = |from| {
            let packet = ip(f.s1, everybody(&f)).udp(5000, 5000, b"x");
            let mut scene = container("", PORT_S1, packet);
            scene.frame[6..12].copy_from_slice(&container_mac(from).bytes);
            meets(&host, &scene).reason
        };
        assert_eq!(host.networks[&BRIDGE_SPOOFING].terms.host, 1);
        assert_eq!((sent(PORT_S1), sent(PORT_A1)), (Reason::SameNetwork, Reason::HostDenied));
    }
}

#[test]
fn reports_of_groups_pass_where_the_host_is_closed() {
    let f = families()[0];
    let mut host = tables();
    close_host(&mut host);
    let report = ip(f.a1, address("224.0.0.22")).protocol(proto::IGMP, &[0x22, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(meets(&host, &bridge("", BRIDGE_A, PORT_A1, report)).reason, Reason::SameNetwork);
}

#[test]
fn egress_to_a_set_is_to_its_members() {
    for f in families() {
        let mut host = tables();
        let office = host.ports.values().find(|port| port.rule == rule::SSH_OFFICE).expect("a rule").zones;
        let terms = Terms { egress: egress::ZONES, zones: office, ..Terms::OPEN };
        host.interfaces.get_mut(&PORT_A1).expect("a port").terms = terms;
        let to = |peer| meets(&host, &container("", PORT_A1, ip(f.a1, peer).tcp(5000, 443, tcp::SYN))).reason;
        assert_eq!(
            [f.office, f.branch, f.remote].map(to),
            [Reason::Outbound, Reason::Egress, Reason::Egress]
        );
    }
}

#[test]
fn who_is_not_allowed_takes_no_token() {
    for f in families() {
        let mut host = tables();
        host.limits.insert(1, Limit { rate: 1, burst: 1, rule: rule::LIMIT });
        host.ports.values_mut().for_each(|port| port.limit = 1);
        for _ in 0..3 {
            let knock = outside("", ip(f.remote, f.ours).tcp(5000, 22, tcp::SYN));
            assert_eq!(meets(&host, &knock).reason, Reason::SourceNotAllowed);
        }
        let mut early = outside("", ip(f.office, f.ours).tcp(5000, 22, tcp::SYN));
        early.hook = Hook::UplinkXdp;
        for _ in 0..3 {
            assert!(!meets(&host, &early).reason.is_drop(), "the hook behind takes the token");
        }
        assert!(host.buckets.borrow().is_empty());
    }
}

#[test]
fn an_address_of_ours_comes_back_to_one_that_only_the_routing_table_knows() {
    for f in families() {
        let back = outside("", ip(f.ours, f.new).tcp(5000, 443, tcp::SYN));
        assert_eq!(meets(&tables(), &back).reason, Reason::SourceOurs);
    }
}

#[test]
fn only_what_leaves_by_an_uplink_makes_a_flow() {
    for f in families() {
        let host = tables();
        let mut sent = leaving("", 0, ip(f.ours, f.remote).udp(5000, 53, b"?"));
        sent.arrival.ifindex = BRIDGE_A;
        assert_eq!(meets(&host, &sent).reason, Reason::Sent);
        assert!(host.flows.borrow().is_empty());
        sent.arrival.ifindex = UPLINK;
        assert_eq!(meets(&host, &sent).reason, Reason::Sent);
        assert_eq!(host.flows.borrow().len(), 1);
    }
}

#[test]
fn a_flow_is_counted_by_whoever_sends_it_now() {
    for f in families() {
        let host = tables();
        let key = tuple(f.ours, 5000, f.remote, 53, proto::UDP);
        let sent = |by: u16| {
            let mut sent = leaving("", BRIDGE_A, ip(f.ours, f.remote).udp(5000, 53, b"?"));
            sent.arrival.owner = by;
            assert_eq!(meets(&host, &sent).reason, Reason::Sent);
            let places = host.budgets.borrow().clone();
            let owns = |(place, flow): (&BudgetPlace, &_)| *flow == key && place.owner == by;
            (host.flows.borrow()[&key].container, places.iter().any(owns))
        };
        assert_eq!(sent(6), (6, true));
        assert_eq!(sent(5), (5, true));
    }
}

#[test]
fn answers_of_a_limited_service_are_counted_together_and_the_host_s_own_flows_are_not() {
    for f in families() {
        let mut host = tables();
        host.limits.insert(1, Limit { rate: 1, burst: 1, rule: rule::LIMIT });
        host.ports.values_mut().for_each(|port| port.limit = 1);
        let sent = |port, remote_port| {
            for _ in 0..2 {
                let sent = leaving("", 0, ip(f.ours, f.remote).udp(port, remote_port, b"x"));
                assert_eq!(meets(&host, &sent).reason, Reason::Sent);
            }
            let flow = host.flows.borrow()[&tuple(f.ours, port, f.remote, remote_port, proto::UDP)];
            assert_eq!((flow.owner, flow.state), (owner::HOST, state::OPENING));
            flow.container
        };
        assert_eq!((sent(4789, 5000), sent(5000, 53)), (counted::ANSWERS, 0));
    }
}

/// The type of a later fragment is not known; 0 would be an echo reply.
#[test]
fn a_later_fragment_of_icmp_is_no_echo_reply() {
    let f = families()[0];
    let host = tables();
    let key = tuple(f.a1, 0, f.remote, 0, proto::ICMP);
    host.flows.borrow_mut().insert(
        key,
        Flow {
            last_seen: host.now,
            started: host.now,
            state: state::OPENING,
            owner: owner::CONTAINER,
            container: 0,
        },
    );
    let whole = || ip(f.remote, f.a1).icmp(icmp::ECHO_REPLY.0, 0, &[0; 64]);
    assert_eq!(meets(&host, &outside("", whole().piece(32, 32, false))).reason, Reason::UnknownFragment);
    let mut packet = Packet::zeroed();
    let frame = whole().piece(32, 32, false).frame();
    parse(&frame[..], ethertype::IPV4, 14, &mut packet).expect("a packet");
    assert!(!packet.is_icmp_of(icmp::ECHO_REPLY.0, icmp::ECHO_REPLY.1));
}

#[test]
fn a_quote_is_no_longer_than_it_says() {
    for f in families() {
        let host = tables();
        host.flows.borrow_mut().insert(
            tuple(f.ours, 5000, f.remote, 53, proto::UDP),
            Flow {
                last_seen: host.now,
                started: host.now,
                state: state::OPENING,
                owner: owner::HOST,
                container: 0,
            },
        );
        let told = |length: Option<u8>| {
            let mut quoted = ip(f.ours, f.remote).udp(5000, 53, b"question").frame()[14..].to_vec();
            if let Some(length) = length {
                let (at, length) = if f.v6 { (5, length) } else { (3, length + 20) };
                quoted[at] = length;
            }
            meets(&host, &outside("", ip(f.remote, f.ours).unreachable(&quoted))).reason
        };
        assert_eq!((told(None), told(Some(3))), (Reason::RelatedError, Reason::UnrelatedError));
    }
}

#[test]
fn an_address_made_from_a_mac_address_turns_its_bit() {
    let mac = Mac { bytes: [0, 0x11, 0x22, 0x33, 0x44, 0x55] };
    let own = Address::from(address("fe80::211:22ff:fe33:4455"));
    assert!(!own.is_made_from_other(&mac));
    assert!(Address::from(address("fe80::11:22ff:fe33:4455")).is_made_from_other(&mac));
}

/// XDP runs before the kernel has looked for whom a frame is.
#[test]
fn for_whom_a_frame_is_xdp_reads_itself() {
    for f in families() {
        let host = tables();
        let mut knock = outside("", ip(f.remote, f.ours).tcp(5000, 9999, tcp::SYN));
        knock.hook = Hook::UplinkXdp;
        assert_eq!(meets(&host, &knock).reason, Reason::PortNotAllowed);
        knock.frame[..6].copy_from_slice(&container_mac(PORT_A1).bytes);
        assert!(!meets(&host, &knock).reason.is_drop(), "somebody else's");
    }
}

/// Who connected before fw was there is let be, and Docker's own rules know the connection.
#[test]
fn what_the_peer_began_is_not_vouched_for_at_a_container_s_own_address() {
    for f in families() {
        for (owner, mark) in [(owner::PEER, Mark::None), (owner::CONTAINER, Mark::In)] {
            let host = tables();
            let key = tuple(f.a1, 80, f.remote, 5000, proto::TCP);
            let flow = Flow {
                last_seen: host.now,
                started: host.now,
                state: state::ESTABLISHED,
                owner,
                container: 0,
            };
            host.flows.borrow_mut().insert(key, flow);
            let segment = outside("", ip(f.remote, f.a1).tcp(5000, 80, tcp::ACK));
            assert_eq!(meets(&host, &segment), Verdict::accept(Reason::Reply).marked(mark));
        }
    }
}
