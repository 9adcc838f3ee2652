//! Flows over time: what each packet makes of them, second by second.

use bytemuck::Zeroable as _;
use fw_common::flow::{Flow, owner, state, timeout};
use fw_common::wire::{Packet, proto, tcp};

const BEGUN: u32 = 1000;

fn packet(protocol: u8, flags: u8) -> Packet {
    let mut packet = Packet::zeroed();
    (packet.protocol, packet.tcp_flags) = (protocol, flags);
    packet
}

fn flow(state: u8, owner: u8, last_seen: u32) -> Flow {
    Flow { last_seen, started: BEGUN, state, owner, container: 0 }
}

#[test]
fn what_we_send_again_keeps_the_state_until_it_was_answered() {
    let datagram = packet(proto::UDP, 0);
    let again = |known: Flow, now| Flow::sent(Some(&known), &datagram, owner::CONTAINER, now);
    let opening = flow(state::OPENING, owner::HOST, BEGUN);
    assert_eq!(
        again(opening, 1010),
        Some(flow(state::OPENING, owner::CONTAINER, 1010)),
        "whoever sent last owns it"
    );
    let answered = flow(state::ANSWERED, owner::HOST, BEGUN);
    assert_eq!(
        again(answered, 1003),
        Some(flow(state::ANSWERED, owner::CONTAINER, 1003)),
        "not yet a stream"
    );
    assert_eq!(again(answered, 1004), Some(flow(state::ESTABLISHED, owner::CONTAINER, 1004)));
    assert_eq!(again(answered, 1024).map(|flow| flow.started), Some(BEGUN));
    assert_eq!(again(answered, 1025).map(|flow| flow.started), Some(1025), "expired: another one begins");
}

#[test]
fn what_comes_back_answers_and_of_the_hosts_own_refreshes() {
    let datagram = packet(proto::UDP, 0);
    let opening = flow(state::OPENING, owner::HOST, BEGUN);
    assert_eq!(opening.received(&datagram, 1001), flow(state::ANSWERED, owner::HOST, 1001));
    let answered = flow(state::ANSWERED, owner::HOST, BEGUN);
    assert_eq!(answered.received(&datagram, 1003), flow(state::ANSWERED, owner::HOST, 1003));
    assert_eq!(answered.received(&datagram, 1004), flow(state::ESTABLISHED, owner::HOST, 1004));
    for owner in [owner::CONTAINER, owner::OTHER] {
        let answered = flow(state::ANSWERED, owner, BEGUN);
        assert_eq!(answered.received(&datagram, 1004), answered, "the peer alone keeps it alive");
    }
}

#[test]
fn a_segment_keeps_a_connection_alive_either_way() {
    let open = flow(state::ESTABLISHED, owner::HOST, BEGUN);
    let ours = Flow::sent(Some(&open), &packet(proto::TCP, tcp::ACK), owner::CONTAINER, 1010);
    assert_eq!(ours, Some(flow(state::ESTABLISHED, owner::CONTAINER, 1010)), "whoever sent last owns it");
    let theirs = |known: Flow, flags| known.received(&packet(proto::TCP, flags), 1010);
    assert_eq!(theirs(open, tcp::ACK), flow(state::ESTABLISHED, owner::HOST, 1010));
    assert_eq!(theirs(open, tcp::RST), open, "a reset may be forged");
    let opening = flow(state::OPENING, owner::HOST, BEGUN);
    assert_eq!(theirs(opening, tcp::SYN | tcp::ACK), flow(state::ESTABLISHED, owner::HOST, 1010));
    assert_eq!(theirs(opening, tcp::RST | tcp::ACK), opening);
}

#[test]
fn a_segment_makes_of_a_connection_what_its_flags_say() {
    let sent = |known: Option<Flow>, flags, now| {
        Flow::sent(known.as_ref(), &packet(proto::TCP, flags), owner::HOST, now)
    };
    let known = |state| Some(flow(state, owner::HOST, BEGUN));
    assert_eq!(sent(None, tcp::SYN, BEGUN), known(state::OPENING));
    assert_eq!(sent(None, tcp::SYN | tcp::ACK, BEGUN), known(state::ESTABLISHED), "we answer: picked up");
    assert_eq!(sent(None, tcp::ACK, BEGUN), known(state::ESTABLISHED), "picked up");
    assert_eq!(sent(None, tcp::FIN | tcp::ACK, BEGUN), None);
    assert_eq!(sent(None, tcp::RST, BEGUN), None);
    assert_eq!(sent(known(state::ESTABLISHED), tcp::RST | tcp::ACK, 1001), None);
    for (before, flags, after) in [
        (state::OPENING, tcp::ACK, state::ESTABLISHED),
        (state::OPENING, tcp::FIN | tcp::ACK, state::FIN_SENT),
        (state::ESTABLISHED, tcp::ACK, state::ESTABLISHED),
        (state::ESTABLISHED, tcp::FIN | tcp::ACK, state::FIN_SENT),
        (state::FIN_SENT, tcp::ACK, state::FIN_SENT),
    ] {
        let found = sent(known(before), flags, 1001).map(|flow| (flow.state, flow.started, flow.last_seen));
        assert_eq!(found, Some((after, BEGUN, 1001)), "state {before}, flags {flags:#x}");
    }
    assert_eq!(
        sent(known(state::FIN_SENT), tcp::SYN, 1001).map(|flow| (flow.state, flow.started)),
        Some((state::OPENING, 1001))
    );
}

/// One second less than each, and it is still alive.
#[test]
fn a_silent_flow_ends_after_the_time_of_its_protocol_and_state() {
    for (protocol, state, seconds) in [
        (proto::TCP, state::OPENING, 100),
        (proto::TCP, state::ESTABLISHED, 345_600),
        (proto::TCP, state::FIN_SENT, 100),
        (proto::UDP, state::OPENING, 25),
        (proto::UDP, state::ANSWERED, 25),
        (proto::UDP, state::ESTABLISHED, 110),
        (proto::UDP_LITE, state::OPENING, 25),
        (proto::UDP_LITE, state::ESTABLISHED, 110),
        (proto::GRE, state::OPENING, 25),
        (proto::GRE, state::ESTABLISHED, 170),
        (proto::ICMP, state::ESTABLISHED, 25),
        (proto::ICMPV6, state::ESTABLISHED, 25),
        (proto::SCTP, state::ESTABLISHED, 8),
        (50, state::ESTABLISHED, 550),
    ] {
        assert_eq!(timeout(protocol, state), seconds, "protocol {protocol}, state {state}");
        let flow = flow(state, owner::HOST, BEGUN);
        assert!(
            !flow.is_expired(protocol, BEGUN + seconds - 1) && flow.is_expired(protocol, BEGUN + seconds)
        );
    }
}

/// The clock of 32 bits goes round after 136 years; what another CPU wrote a second ahead is not old.
#[test]
fn seconds_are_counted_around_the_end_of_the_clock() {
    let late = flow(state::OPENING, owner::HOST, u32::MAX - 5);
    assert!(!late.is_expired(proto::UDP, 18) && late.is_expired(proto::UDP, 19));
    assert!(!flow(state::OPENING, owner::HOST, 1001).is_expired(proto::UDP, 1000));
}
