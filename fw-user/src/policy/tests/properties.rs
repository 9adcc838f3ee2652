//! Properties: no text makes the parser panic, and what is written is what is meant.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::super::{PolicyError, describe, prefix, table_prefixes};
use super::{parse, valid};

/// Pieces of policy files, whole and broken, so that random texts reach deep into the parser.
const PIECES: &[&str] = &[
    "mode",
    "fallback",
    "uplink",
    "interfaces",
    "sets",
    "allow",
    "deny",
    "networks",
    "network",
    "nat",
    "marks",
    "name",
    "proto",
    "ports",
    "from",
    "file",
    "bit",
    "bridge",
    "subnets",
    "egress",
    "reach",
    "spoofing",
    "\n",
    " = ",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "\"",
    "'",
    ",",
    ".",
    "*",
    "#",
    "80",
    "0",
    "-1",
    "\"8000-8100\"",
    "\"tcp\"",
    "\"icmp\"",
    "\"a\"",
    "\"10.0.0.0/8\"",
    "\"::/0\"",
    "[\"a\"]",
    "[[allow]]\n",
    "[sets]\n",
    "a = ",
    "true",
    "1.5",
    "1979-05-27",
    "é",
    "\u{feff}",
    "\r\n",
    "\t",
    "\"\"\"",
];

fn texts() -> impl Strategy<Value = String> {
    let pieces =
        prop::collection::vec(prop::sample::select(PIECES), 0..40).prop_map(|pieces| pieces.concat());
    prop_oneof![any::<String>(), pieces]
}

/// Lines such as the parser knows them, with values of every type.
fn assignments() -> impl Strategy<Value = String> {
    let keys = prop::sample::select(PIECES[..22].to_vec());
    let values = prop::sample::select(vec![
        "1",
        "\"a\"",
        "\"any\"",
        "[\"a\", \"10.0.0.1/8\"]",
        "[80, \"9-8\", \"1-5\", 3]",
        "true",
        "1.5",
        "{}",
        "{ a = 1 }",
        "[{ name = \"a\" }]",
        "[]",
        "[[]]",
        "99999999999999999999999",
        "\"\"",
    ]);
    let headers = prop::sample::select(vec![
        "",
        "[uplink]\n",
        "[sets]\n",
        "[[allow]]\n",
        "[[deny]]\n",
        "[networks.a]\n",
        "[[network]]\n",
        "[marks]\n",
    ]);
    prop::collection::vec((headers, keys, values), 0..8).prop_map(|lines| {
        let lines = lines.into_iter().map(|(header, key, value)| format!("{header}{key} = {value}\n"));
        lines.collect::<Vec<_>>().concat()
    })
}

/// Disjoint ranges, in any order.
fn ranges() -> impl Strategy<Value = Vec<(u16, u16)>> {
    prop::collection::btree_set(1..=u16::MAX, 1..20)
        .prop_map(|ports| {
            let ports: Vec<u16> = ports.into_iter().collect();
            ports.chunks(2).map(|pair| (pair[0], pair[pair.len() - 1])).collect::<Vec<_>>()
        })
        .prop_shuffle()
}

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
        any::<u32>().prop_map(|bits| Ipv6Addr::from_bits(u128::from(bits)).into()),
    ]
}

fn nets() -> impl Strategy<Value = IpNet> {
    (addresses(), any::<u8>()).prop_map(|(address, len)| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new_assert(address, len % (most + 1)).trunc()
    })
}

fn as_128(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Parses without a panic; an error has places within the text, a policy can be described.
fn survives(text: &str) {
    match parse(text) {
        Ok(policy) => assert!(!describe(&policy).is_empty()),
        Err(PolicyError::Invalid { problems, .. }) => {
            assert!(!problems.is_empty());
            let lines = text.split('\n').count() as u32;
            for problem in problems {
                assert!((1..=lines).contains(&problem.line), "{problem} in {text:?}");
                assert!(!problem.message.contains('\n'), "{problem} in {text:?}");
            }
        }
        Err(error @ PolicyError::Read { .. }) => panic!("nothing was to be read: {error}"),
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in texts()) {
        survives(&text);
    }

    #[test]
    fn no_assignment_makes_the_parser_panic(text in assignments()) {
        survives(&text);
    }

    #[test]
    fn ports_are_kept_and_described(ranges in ranges()) {
        let mut list = String::new();
        for (first, last) in &ranges {
            if first == last { write!(list, "{first}, ") } else { write!(list, "\"{first}-{last}\", ") }
                .expect("a string takes every text");
        }
        let policy = valid(&format!("[[allow]]\nname = \"a\"\nproto = \"udp\"\nports = [{list}]\n"));
        let mut expected = ranges;
        expected.sort_unstable();
        let found: Vec<_> = policy.allow[0].ports.iter().map(|range| (range.first(), range.last())).collect();
        prop_assert_eq!(&found, &expected);
        let shown: Vec<String> = policy.allow[0].ports.iter().map(ToString::to_string).collect();
        let service = format!("udp {}  from any", shown.join(", "));
        prop_assert!(describe(&policy).contains(&service));
    }

    #[test]
    fn ranges_overlap_exactly_when_they_share_a_port(a in ranges(), first in 1..=u16::MAX, span in 0..2000_u16) {
        let last = first.saturating_add(span);
        let list: Vec<String> = a.iter().map(|(first, last)| format!("\"{first}-{last}\"")).collect();
        let text = format!(
            "[[allow]]\nname = \"a\"\nproto = \"udp\"\nports = [{}, \"{first}-{last}\"]\n",
            list.join(", ")
        );
        let shares = a.iter().any(|(f, l)| (first..=last).contains(f) || (*f..=*l).contains(&first));
        prop_assert_eq!(parse(&text).is_err(), shares);
    }

    #[test]
    fn a_prefix_is_read_as_it_is_shown(net in nets()) {
        prop_assume!(!matches!(net, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some()));
        prop_assert_eq!(prefix::parse(&net.to_string()), Ok(net));
        prop_assert_eq!(prefix::parse(&prefix::shown(&net)), Ok(net));
    }

    #[test]
    fn table_prefixes_hold_exactly_the_addresses_of_the_prefix(net in nets(), other in addresses()) {
        let table = table_prefixes(&net);
        let mapped = |address: IpAddr| matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        for address in [other, net.network(), net.broadcast()].into_iter().filter(|a| !mapped(*a)) {
            let holders = table.iter().filter(|prefix| prefix.contains(&as_128(address))).count();
            prop_assert_eq!(holders, usize::from(net.contains(&address)), "{} in {}", address, net);
        }
    }
}
