//! Lengths that packets claim, and the bytes that are there.

#[path = "decide/example/mod.rs"]
#[expect(dead_code, reason = "packets serve here, decisions do not")]
mod example;

use bytemuck::Zeroable as _;
use example::host::families;
use example::packets::{Draft, ip};
use fw_common::Reason;
use fw_common::wire::{Fragment, Packet, Parsed, ethertype, inner_of_error, parse, tcp};

/// Parses an IP packet that stands at the beginning.
fn parsed(bytes: &[u8]) -> Parsed<Packet> {
    let kind = if bytes[0] >> 4 == 6 { ethertype::IPV6 } else { ethertype::IPV4 };
    let mut packet = Packet::zeroed();
    parse(bytes, kind, 0, &mut packet).map(|()| packet)
}

fn datagrams() -> [Draft; 2] {
    families().map(|family| ip(family.remote, family.ours).udp(53, 40_000, b"data"))
}

/// BIG TCP: the aggregate is longer than the field can say, which is then 0 (kernel 6.3).
#[test]
fn a_length_of_zero_is_believed_of_an_aggregate_alone() {
    for draft in datagrams() {
        let mut bytes = draft.packet();
        let (v6, whole) = (bytes[0] >> 4 == 6, bytes.len());
        let (length, header) = if v6 { (4..6, 40) } else { (2..4, 20) };
        // Without a protocol of which more would be read than its header.
        bytes[if v6 { 6 } else { 9 }] = 59;
        bytes[length].fill(0);
        assert_eq!(
            parsed(&bytes).map(|packet| packet.end as usize),
            if v6 { Ok(40) } else { Err(Reason::MalformedHeader) }
        );
        let behind = if v6 { header } else { 0 };
        bytes.resize(behind + 0xffff, 0);
        assert_eq!(
            parsed(&bytes).map(|packet| packet.end as usize),
            if v6 { Ok(40) } else { Err(Reason::MalformedHeader) }
        );
        bytes.resize(behind + 0x1_0000, 0);
        assert_eq!(
            parsed(&bytes).map(|packet| packet.end as usize),
            Ok(behind + 0x1_0000),
            "of {whole} bytes"
        );
    }
}

#[test]
fn a_length_beyond_the_bytes_is_refused_and_one_before_their_end_is_a_trailer() {
    for draft in datagrams() {
        let bytes = draft.packet();
        assert_eq!(parsed(&bytes).map(|packet| packet.end as usize), Ok(bytes.len()));
        assert_eq!(parsed(&bytes[..bytes.len() - 1]), Err(Reason::MalformedHeader));
        let longer = [&bytes[..], &[0; 40]].concat();
        assert_eq!(parsed(&longer).map(|packet| packet.end as usize), Ok(bytes.len()));
    }
}

/// Every packet cut anywhere is refused, or was so before: nothing is read that is not there.
#[test]
fn a_packet_cut_anywhere_is_refused() {
    for draft in datagrams() {
        let bytes = draft.packet();
        for length in 1..bytes.len() {
            assert!(parsed(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
    }
}

/// RFC 792: an error need quote no more of a segment than its first eight bytes.
#[test]
fn an_error_quotes_at_least_eight_bytes_of_a_segment() {
    for family in families() {
        let sent = ip(family.ours, family.remote).tcp(40_000, 443, tcp::ACK).packet();
        let quoted = |of_segment: usize| {
            let quote = &sent[..sent.len() - 20 + of_segment];
            let error = ip(family.remote, family.ours).unreachable(quote).packet();
            let (packet, mut inner) = (parsed(&error).expect("an error"), Packet::zeroed());
            inner_of_error(&error[..], &packet, &mut inner)
                .then_some((inner.source_port, inner.destination_port))
        };
        for enough in [8, 19, 20] {
            assert_eq!(quoted(enough), Some((40_000, 443)), "{enough} bytes");
        }
        assert_eq!(quoted(7), None);
    }
}

#[test]
fn options_end_with_the_header() {
    let family = families()[0];
    let with = |options: &[u8]| {
        parsed(&ip(family.remote, family.ours).udp(53, 40_000, b"").options(options).packet())
    };
    assert!(with(&[1; 12]).is_ok(), "twelve of one byte");
    assert_eq!(with(&[1; 16]), Err(Reason::TooManyHeaders));
    assert!(with(&[7, 4, 4, 0]).is_ok());
    assert_eq!(with(&[7, 5, 4, 0]), Err(Reason::BadOption), "runs over the header");
    assert_eq!(with(&[7, 1, 4, 0]), Err(Reason::BadOption), "shorter than itself");
    assert_eq!(with(&[1, 1, 1, 7]), Err(Reason::BadOption), "its length lies behind the header");
    assert_eq!(with(&[131, 3, 4, 0]), Err(Reason::BadOption), "a source route");
    assert!(with(&[0, 131, 3, 4]).is_ok(), "nothing is read behind the end");
}

#[test]
fn an_option_that_records_has_room_for_its_pointer() {
    let [v4, _] = datagrams();
    let with = |options: &[u8]| parsed(&v4.clone().options(options).packet()).map(|_| ());
    assert_eq!(with(&[7, 2, 0, 0]), Err(Reason::BadOption));
    assert_eq!(with(&[7, 3, 4, 0]), Ok(()));
    // What stands behind it is looked at, too: a source route.
    assert_eq!(with(&[7, 3, 4, 131, 3, 4, 0, 0]), Err(Reason::BadOption));
}

const PADDED: [u8; 6] = [1, 4, 0, 0, 0, 0];
const DESTINATION_OPTIONS: u8 = 60;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const NO_NEXT: u8 = 59;

/// An IPv6 packet that says it is `length` long behind its header, with these bytes there.
fn ipv6(next: u8, length: u8, behind: &[u8]) -> Vec<u8> {
    let [_, v6] = datagrams();
    let mut bytes = v6.packet()[..40].to_vec();
    (bytes[5], bytes[6]) = (length, next);
    [&bytes, behind].concat()
}

#[test]
fn an_extension_header_lies_within_the_packet_not_only_within_the_frame() {
    let [fragment, options] =
        [[NO_NEXT, 0, 0, 1, 0, 0, 0, 7], [&[NO_NEXT, 0][..], &PADDED].concat().try_into().expect("eight")];
    for (kind, header) in [(FRAGMENT, fragment), (DESTINATION_OPTIONS, options)] {
        assert_eq!(parsed(&ipv6(kind, 7, &header)).map(|_| ()), Err(Reason::MalformedHeader));
        // To the last byte.
        assert_eq!(parsed(&ipv6(kind, 8, &header)).map(|packet| packet.protocol), Ok(NO_NEXT));
    }
}

#[test]
fn a_routing_header_that_leads_elsewhere_is_refused_but_for_mobile_ipv6() {
    for (kind, left, passes) in
        [(0, 0, false), (0, 1, false), (3, 0, true), (3, 1, false), (2, 0, true), (2, 1, true)]
    {
        let header = [NO_NEXT, 0, kind, left, 0, 0, 0, 0];
        let expected = if passes { Ok(()) } else { Err(Reason::BadOption) };
        assert_eq!(parsed(&ipv6(ROUTING, 8, &header)).map(|_| ()), expected, "type {kind}, {left} left");
    }
}

#[test]
fn an_atomic_fragment_is_whole_and_a_later_one_is_not_read() {
    let atomic = [&[DESTINATION_OPTIONS, 0, 0, 0, 0, 0, 0, 7][..], &[NO_NEXT, 0], &PADDED].concat();
    let packet = parsed(&ipv6(FRAGMENT, 16, &atomic)).expect("a packet");
    assert_eq!((packet.fragment(), packet.has_fragment_header()), (Fragment::Whole, true));
    assert_eq!(packet.protocol, NO_NEXT);
    let later = [&[DESTINATION_OPTIONS, 0, 0, 8, 0, 0, 0, 7][..], &[FRAGMENT, 200], &PADDED].concat();
    let packet = parsed(&ipv6(FRAGMENT, 16, &later)).expect("a packet");
    assert_eq!((packet.fragment(), packet.protocol), (Fragment::Later, DESTINATION_OPTIONS));
}

/// `tcp_valid_flags` in `net/netfilter/nf_conntrack_proto_tcp.c`: FIN 1, SYN 2, RST 4, ACK 16, URG 32.
#[test]
fn flags_are_those_that_conntrack_takes() {
    const VALID: [u8; 9] = [2, 34, 18, 4, 20, 17, 49, 16, 48];
    const WITH_ANY: u8 = 8 | 64 | 128;
    for family in families() {
        for flags in 0..=u8::MAX {
            let segment = ip(family.remote, family.ours).tcp(40_000, 443, flags).packet();
            let expected = VALID.contains(&(flags & !WITH_ANY));
            assert_eq!(parsed(&segment).is_ok(), expected, "{flags:#010b}");
        }
    }
}

#[test]
fn a_first_fragment_holds_the_whole_header_of_udp_itself() {
    let [v4, _] = datagrams();
    let mut bytes = v4.packet();
    bytes[6] = 0x20;
    for (length, expected) in [(28, Ok(())), (27, Err(Reason::BadFragment)), (24, Err(Reason::BadFragment))] {
        // What stands behind is a frame's trailer.
        bytes[3] = length;
        assert_eq!(parsed(&bytes).map(|_| ()), expected, "{length} bytes");
    }
}

#[test]
fn a_message_of_icmp_holds_its_header_itself() {
    let family = families()[0];
    let mut bytes = ip(family.remote, family.ours).echo(7).packet();
    for (length, expected) in [(28, Ok(())), (27, Err(Reason::MalformedTransport))] {
        // What stands behind is a frame's trailer.
        bytes[3] = length;
        assert_eq!(parsed(&bytes).map(|_| ()), expected, "{length} bytes");
    }
}
