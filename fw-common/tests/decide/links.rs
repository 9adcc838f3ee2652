//! Links, one packet after the other: what the server may say depends on what the client has said.

use bytemuck::Zeroable as _;
use fw_common::decide::Workspace;
use fw_common::tables::memory::Memory;
use fw_common::wire::tcp;
use fw_common::{Hook, Mark, Reason, Verdict, decide};

use crate::example::host::{Family, PORT_N1, PORT_N3, container_mac, families, mac_of, tables};
use crate::example::packets::{Draft, ip};

const LINK: Verdict = Verdict::accept(Reason::Link).marked(Mark::In);
const ANSWER: Verdict = Verdict::accept(Reason::Answer).marked(Mark::In);
const ICC: Verdict = Verdict::drop(Reason::Icc);

#[test]
fn the_server_answers_what_came_and_opens_nothing() {
    for f in families() {
        let host = tables();
        let reply = |flags| from_server(&host, ip(f.n3, f.n1).tcp(443, 40_000, flags));
        assert_eq!(reply(tcp::SYN | tcp::ACK), ICC);
        assert_eq!(from_client(&host, &f, tcp::SYN), LINK);
        assert_eq!(reply(tcp::SYN | tcp::ACK), ANSWER);
        assert_eq!(from_client(&host, &f, tcp::ACK), LINK);
        assert_eq!(reply(tcp::ACK), ANSWER);
        assert_eq!(reply(tcp::SYN), ICC, "an opening is no answer");
        let elsewhere = |from, to| from_server(&host, ip(f.n3, f.n1).tcp(from, to, tcp::ACK));
        assert_eq!(elsewhere(443, 40_001), ICC, "to another port");
        assert_eq!(elsewhere(444, 40_000), ICC, "from another port");
        // What the client sends may be forged by its neighbours; what the server sends is its own.
        assert_eq!(from_client(&host, &f, tcp::RST), LINK);
        assert_eq!(reply(tcp::RST), ANSWER);
        let mut later = host.clone();
        later.now += 130;
        assert_eq!(from_server(&later, ip(f.n3, f.n1).tcp(443, 40_000, tcp::ACK)), ICC);
    }
}

#[test]
fn a_datagram_is_answered_in_time() {
    for f in families() {
        let mut host = tables();
        let reply = |host: &Memory| from_server(host, ip(f.n3, f.n1).udp(53, 40_000, b""));
        assert_eq!(reply(&host), ICC);
        let question = ip(f.n1, f.n3).udp(40_000, 53, b"");
        assert_eq!(
            at(&host, PORT_N1, &question.between(container_mac(PORT_N3), container_mac(PORT_N1))),
            LINK
        );
        host.now += 20;
        assert_eq!(reply(&host), ANSWER);
        host.now += 200;
        assert_eq!(reply(&host), ICC);
    }
}

fn from_client(host: &Memory, f: &Family, flags: u8) -> Verdict {
    let segment = ip(f.n1, f.n3).tcp(40_000, 443, flags);
    at(host, PORT_N1, &segment.between(container_mac(PORT_N3), container_mac(PORT_N1)))
}

fn from_server(host: &Memory, packet: Draft) -> Verdict {
    at(host, PORT_N3, &packet.between(container_mac(PORT_N1), container_mac(PORT_N3)))
}

fn at(host: &Memory, port: u32, packet: &Draft) -> Verdict {
    let frame = packet.frame();
    let arrival = crate::example::arrival(port, mac_of(port), &frame);
    decide(Hook::PortIngress, &arrival, &frame[..], host, &mut Workspace::zeroed())
}
