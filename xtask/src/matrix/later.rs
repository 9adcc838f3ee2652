//! Rows for what came after Docker 26: gateway modes (27.0), trusted interfaces (28.2), isolated networks (28.0).

use std::net::{IpAddr, Ipv4Addr};

use super::rows::{DIRECT, ISOLATION, PORT, Row, closed, closes, from, host, left_closed, open, to, to6};
use crate::lab::Generation;

/// What the rows ask for beside the town's policy: container ports that may be addressed directly.
pub(super) const POLICY: &str = r#"
[[allow]]
name = "direct"
proto = "tcp"
ports = [80, 83]
"#;

/// Where w1 is on the network R4, which does not have its default route.
const W1_ON_R4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 7, 4, 9));

pub(super) const ROWS: &[Row] = &[
    since_28(open("D34a", "R -> r1 IP:80 (routed, published, allowed)", "r1", |l, t| {
        l.outside().tcp(to(t, "r1", 80)?)
    })),
    since_28(closed("D34b", "R -> r1 IP:81 (routed, not published)", "D34a", DIRECT, |l, t| {
        l.outside().tcp(to(t, "r1", 81)?)
    })),
    since_28(open("D34c", "R ping r1", "", |l, t| l.outside().ping(t.ip("r1")?))),
    since_28(open("D34d", "R (v6) -> r1:80", "r1", |l, t| l.outside().tcp(to6(t, "r1", 80)?))),
    since_28(closes("D34e", "R -> r1 IP:82 (routed, published, not allowed)", "r1", PORT, |l, t| {
        l.outside().tcp(to(t, "r1", 82)?)
    })),
    since_28(open("D34f", "r1 -> R:443, by its own address", "R", |_, t| {
        from(t, "r1").tcp((crate::lab::OUTSIDE, 443).into())
    })),
    since_28(open("D35a", "R -> u1 IP:80 (nat-unprotected, published)", "u1", |l, t| {
        l.outside().tcp(to(t, "u1", 80)?)
    })),
    since_28(open("D35b", "R -> u1 IP:83 (nat-unprotected, allowed)", "u1", |l, t| {
        l.outside().tcp(to(t, "u1", 83)?)
    })),
    since_28(open("D35c", "R ping u1", "", |l, t| l.outside().ping(t.ip("u1")?))),
    since_28(closes("D35d", "R -> u1 IP:81 (nat-unprotected, not allowed)", "u1", PORT, |l, t| {
        l.outside().tcp(to(t, "u1", 81)?)
    })),
    since_28(open("D36a", "a2 -> r1 IP:80 (nat -> routed)", "r1", |_, t| {
        from(t, "a2").tcp(to(t, "r1", 80)?)
    })),
    since_28(closed("D36b", "a2 -> r1 IP:81 (nat -> routed)", "D36a", ISOLATION, |_, t| {
        from(t, "a2").tcp(to(t, "r1", 81)?)
    })),
    since_28(closed("D36c", "r1 -> a1 IP:80 (routed -> nat)", "D12a", ISOLATION, |_, t| {
        from(t, "r1").tcp(to(t, "a1", 80)?)
    })),
    since_28(closes("D36d", "i1 -> r1 IP:80 (internal -> routed)", "r1", ISOLATION, |_, t| {
        from(t, "i1").tcp(to(t, "r1", 80)?)
    })),
    since_28(closed(
        "D37",
        "R -> w1 IP:80 on routed R4, its default route elsewhere",
        "D34a",
        DIRECT,
        |l, _| l.outside().tcp((W1_ON_R4, 80).into()),
    )),
    since_28(open("D38a", "o1 -> o2:80 (isolated)", "o2", |_, t| from(t, "o1").tcp(to(t, "o2", 80)?))),
    since_28(left_closed("D38b", "o1 -> H:9100 (isolated: no address on the host)", "D38a", |_, t| {
        from(t, "o1").tcp(host(9100))
    })),
    since_28(left_closed("D38c", "H -> o2:80 (isolated)", "D38a", |l, t| l.host().tcp(to(t, "o2", 80)?))),
    since_28(open("D39a", "R -> t1 IP:80 by a trusted interface (published)", "t1", |l, t| {
        l.outside().tcp(to(t, "t1", 80)?)
    })),
    since_28(closed(
        "D39b",
        "R -> t1 IP:81 by a trusted interface (not published)",
        "D39a",
        DIRECT,
        |l, t| l.outside().tcp(to(t, "t1", 81)?),
    )),
];

const fn since_28(row: Row) -> Row {
    Row { since: Generation::V28_5, ..row }
}
