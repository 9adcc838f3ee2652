//! Form: headers that are cut short or lie, IPv4 options, IPv6 extension headers, transport headers.

use fw_common::Hook;
use fw_common::verdict::{Reason, Verdict};
use fw_common::wire::{proto, tcp};

use super::host::{Family, PORT_A1, UPLINK, container_mac, mac_of, rule};
use super::packets::{Draft, NETWORK, PADDING, ethernet, ip};
use super::{Case, container, outside, scene};

const OPEN: Verdict = Verdict::accept(Reason::AllowRule).by(rule::WEB);
const CLOSED: Verdict = Verdict::drop(Reason::PortNotAllowed);
const MALFORMED: Verdict = Verdict::drop(Reason::MalformedHeader);
const TRANSPORT: Verdict = Verdict::drop(Reason::MalformedTransport);
const BAD_OPTION: Verdict = Verdict::drop(Reason::BadOption);
const TOO_MANY: Verdict = Verdict::drop(Reason::TooManyHeaders);

pub(super) fn cases(f: &Family) -> Vec<Case> {
    let of_family = if f.v6 { [extensions(f), Vec::new()] } else { [options(f), lengths_v4(f)] };
    [frames(f), segments(f), others(f), of_family.concat()].concat()
}

fn to(f: &Family, port: u16) -> Draft {
    ip(f.remote, f.ours).tcp(40_000, port, tcp::SYN)
}

/// The frame of an allowed packet, changed.
fn changed(f: &Family, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> super::Scene {
    let mut scene = outside(name, to(f, 443));
    change(&mut scene.frame);
    scene
}

fn frames(f: &Family) -> Vec<Case> {
    let whole = outside("", to(f, 443)).frame.len();
    let header = if f.v6 { 40 } else { 20 };
    let length_at = NETWORK + if f.v6 { 4 } else { 2 };
    vec![
        changed(f, "a frame without Ethernet header", |frame| frame.truncate(13)).gives(MALFORMED),
        changed(f, "a frame with nothing else", |frame| frame.truncate(14)).gives(MALFORMED),
        changed(f, "an IP header cut short", |frame| frame.truncate(NETWORK + header - 1)).gives(MALFORMED),
        changed(f, "a frame cut by one byte", |frame| frame.truncate(whole - 1)).gives(MALFORMED),
        changed(f, "a frame with a trailer", |frame| frame.resize(whole + 30, 0xaa)).gives(OPEN),
        changed(f, "version 5", |frame| frame[NETWORK] = 0x50 | frame[NETWORK] & 15).gives(MALFORMED),
        changed(f, "the other family's version", |frame| frame[NETWORK] ^= 0x20).gives(MALFORMED),
        changed(f, "a length beyond the frame", |frame| frame[length_at + 1] += 1).gives(MALFORMED),
        changed(f, "a length that ends in the transport header", |frame| frame[length_at + 1] -= 1)
            .gives(TRANSPORT),
        changed(f, "a transport port in the trailer only", |frame| {
            frame[length_at + 1] -= 20;
        })
        .gives(TRANSPORT),
        scene("a container's frame without Ethernet header", Hook::PortIngress, PORT_A1, vec![2; 13])
            .gives(MALFORMED),
        container("a container's cut packet", PORT_A1, ip(f.a1, f.remote).tcp(1, 1, tcp::SYN).cut(19))
            .gives(TRANSPORT),
        scene("a container's frame with nothing else", Hook::PortIngress, PORT_A1, {
            let kind = if f.v6 { 0x86dd } else { 0x0800 };
            [ethernet(mac_of(UPLINK), container_mac(PORT_A1), kind), vec![0x45]].concat()
        })
        .gives(MALFORMED),
    ]
}

fn lengths_v4(f: &Family) -> Vec<Case> {
    vec![
        changed(f, "a header of 16 bytes", |frame| frame[NETWORK] = 0x44).gives(MALFORMED),
        changed(f, "a header of no bytes", |frame| frame[NETWORK] = 0x40).gives(MALFORMED),
        changed(f, "a header of 60 bytes in a frame of 40", |frame| frame[NETWORK] = 0x4f).gives(MALFORMED),
        changed(f, "a total length below the header's", |frame| frame[NETWORK + 3] = 19).gives(MALFORMED),
        changed(f, "a total length of nothing", |frame| frame[NETWORK + 3] = 0).gives(MALFORMED),
        changed(f, "the reserved flag", |frame| frame[NETWORK + 6] |= 0x80).gives(OPEN),
        changed(f, "do not fragment", |frame| frame[NETWORK + 6] |= 0x40).gives(OPEN),
    ]
}

fn options(f: &Family) -> Vec<Case> {
    let with = |port, options: &[u8]| to(f, port).options(options);
    let igmp = || {
        let group = super::host::address("224.0.0.22");
        ip(f.elsewhere, group).protocol(proto::IGMP, &[0x22; 8])
    };
    let router_alert: &[u8] = &[148, 4, 0, 0];
    let mut cases = vec![
        outside("options of every harmless kind", with(443, &[1, 7, 3, 4, 68, 4, 5, 0, 1, 0])).gives(OPEN),
        outside("a closed port behind options", with(444, &[1, 7, 3, 4, 68, 4, 5, 0])).gives(CLOSED),
        outside("anything behind the end of options", with(443, &[0, 131, 3, 4])).gives(OPEN),
        outside("twelve options", with(443, &[1; 12])).gives(OPEN),
        outside("thirteen options", with(443, &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 7, 4, 4, 0]))
            .gives(TOO_MANY),
        outside("an option that ends with the header", with(443, &[7, 4, 4, 0])).gives(OPEN),
        outside("an option beyond the header", with(443, &[7, 5, 4, 0])).gives(BAD_OPTION),
        outside("an option without length at the end", with(443, &[1, 1, 1, 7])).gives(BAD_OPTION),
        outside("router alert with IGMP", igmp().options(router_alert))
            .gives(Verdict::pass(Reason::Essential)),
        outside("router alert with TCP", with(443, router_alert)).gives(BAD_OPTION),
    ];
    for (name, options) in [
        ("a loose source route", [131, 7, 4, 198, 18, 0, 9, 0]),
        ("a strict source route", [137, 7, 4, 198, 18, 0, 9, 0]),
        ("an unknown option", [200, 4, 0, 0, 0, 0, 0, 0]),
        ("an option of length 0", [7, 0, 0, 0, 0, 0, 0, 0]),
        ("an option of length 1", [7, 1, 0, 0, 0, 0, 0, 0]),
    ] {
        cases.push(outside(name, with(443, &options)).gives(BAD_OPTION));
    }
    cases
}

fn extensions(f: &Family) -> Vec<Case> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    // Length 4 in words of four bytes, less two.
    let authentication: &[u8] = &[4, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let routing = |kind| [0, kind, 0, 0, 0, 0, 0];
    let atomic: &[u8] = &[0, 0, 0, 0, 0, 0, 7];
    let chain = |port| {
        to(f, port)
            .extension(HOP_BY_HOP, &PADDING)
            .extension(DESTINATION, &PADDING)
            .extension(ROUTING, &routing(2))
            .extension(AUTHENTICATION, authentication)
    };
    let many =
        |port, count| (0..count).fold(to(f, port), |packet, _| packet.extension(DESTINATION, &PADDING));
    let long: Vec<u8> = [&[1, 1, 12][..], &[0; 12]].concat();
    vec![
        outside("a chain before an open port", chain(443)).gives(OPEN),
        outside("a chain before a closed port", chain(444)).gives(CLOSED),
        outside("a long extension before an open port", to(f, 443).extension(DESTINATION, &long)).gives(OPEN),
        outside("a long extension before a closed port", to(f, 444).extension(DESTINATION, &long))
            .gives(CLOSED),
        outside("eight extensions before an open port", many(443, 8)).gives(OPEN),
        outside("eight extensions before a closed port", many(444, 8)).gives(CLOSED),
        outside("nine extensions", many(443, 9)).gives(TOO_MANY),
        outside("hop-by-hop options in second place", {
            to(f, 443).extension(DESTINATION, &PADDING).extension(HOP_BY_HOP, &PADDING)
        })
        .gives(MALFORMED),
        outside("hop-by-hop options twice", {
            to(f, 443).extension(HOP_BY_HOP, &PADDING).extension(HOP_BY_HOP, &PADDING)
        })
        .gives(MALFORMED),
        outside("a source route of type 0", to(f, 443).extension(ROUTING, &routing(0))).gives(BAD_OPTION),
        outside("a segment route", to(f, 443).extension(ROUTING, &routing(4))).gives(OPEN),
        outside("an atomic fragment to an open port", to(f, 443).extension(FRAGMENT, atomic)).gives(OPEN),
        outside("an atomic fragment to a closed port", to(f, 444).extension(FRAGMENT, atomic)).gives(CLOSED),
        outside("two fragment headers", to(f, 443).extension(FRAGMENT, atomic).extension(FRAGMENT, atomic))
            .gives(Verdict::drop(Reason::BadFragment)),
        outside("an extension beyond the packet", to(f, 443).extension(DESTINATION, &[9, 1, 4, 0, 0, 0, 0]))
            .gives(MALFORMED),
        outside("an extension with less than its least", ip(f.remote, f.ours).protocol(DESTINATION, &[6; 7]))
            .gives(MALFORMED),
        outside("a payload of nothing", to(f, 443).cut(0)).gives(TRANSPORT),
        changed(f, "a jumbo payload in a small frame", |frame| frame[NETWORK + 5] = 0).gives(TRANSPORT),
        outside("no next header", ip(f.remote, f.ours)).gives(CLOSED),
    ]
}

fn segments(f: &Family) -> Vec<Case> {
    let flags = |name: &str, flags| outside(name, ip(f.remote, f.ours).tcp(40_000, 443, flags));
    let wrong = Verdict::drop(Reason::TcpFlags);
    vec![
        flags("no flags", 0).gives(wrong),
        flags("FIN alone", tcp::FIN).gives(wrong),
        flags("FIN, URG and PSH", tcp::FIN | tcp::URG | 8).gives(wrong),
        flags("SYN and FIN", tcp::SYN | tcp::FIN).gives(wrong),
        flags("SYN and RST", tcp::SYN | tcp::RST).gives(wrong),
        flags("FIN and RST", tcp::FIN | tcp::RST | tcp::ACK).gives(wrong),
        flags("all flags", 0xff).gives(wrong),
        flags("FIN and ACK", tcp::FIN | tcp::ACK).gives(OPEN),
        flags("RST", tcp::RST).gives(OPEN),
        flags("ACK and PSH", tcp::ACK | 8).gives(OPEN),
        outside("a segment of 19 bytes", to(f, 443).cut(19)).gives(TRANSPORT),
        outside("a TCP header of 16 bytes", to(f, 443).with_byte(12, 0x40)).gives(TRANSPORT),
        outside("a TCP header beyond the segment", to(f, 443).with_byte(12, 0x60)).gives(TRANSPORT),
        outside("TCP to port 0", to(f, 0)).gives(TRANSPORT),
        outside("TCP from port 0", ip(f.remote, f.ours).tcp(0, 443, tcp::SYN)).gives(TRANSPORT),
    ]
}

fn others(f: &Family) -> Vec<Case> {
    let open = Verdict::accept(Reason::AllowRule).by(rule::VXLAN);
    let udp = || ip(f.remote, f.ours).udp(40_000, 4789, b"data");
    let raw = |protocol, payload: &[u8]| ip(f.remote, f.ours).protocol(protocol, payload);
    let icmp = if f.v6 { proto::ICMPV6 } else { proto::ICMP };
    vec![
        outside("a datagram", udp()).gives(open),
        outside("a datagram of 7 bytes", udp().cut(7)).gives(TRANSPORT),
        outside("a datagram's length of 0", udp().with_byte(5, 0)).gives(TRANSPORT),
        outside("a datagram's length of 7", udp().with_byte(5, 7)).gives(TRANSPORT),
        outside("a datagram's length of 8", udp().with_byte(5, 8)).gives(open),
        outside("a datagram's length beyond the packet", udp().with_byte(5, 13)).gives(TRANSPORT),
        outside("UDP to port 0", ip(f.remote, f.ours).udp(40_000, 0, b"")).gives(TRANSPORT),
        outside("UDP from port 0", ip(f.remote, f.ours).udp(0, 4789, b"")).gives(open),
        outside("UDP-Lite that covers nothing", raw(proto::UDP_LITE, &[0, 1, 18, 181, 0, 0, 0, 0]))
            .gives(CLOSED),
        outside("UDP-Lite of 7 bytes", raw(proto::UDP_LITE, &[1; 7])).gives(TRANSPORT),
        outside("SCTP of 7 bytes", raw(proto::SCTP, &[1; 7])).gives(TRANSPORT),
        outside("ICMP of 7 bytes", raw(icmp, &[8; 7])).gives(TRANSPORT),
        outside("ICMP of 8 bytes", raw(icmp, &[200; 8])).gives(CLOSED),
    ]
}
