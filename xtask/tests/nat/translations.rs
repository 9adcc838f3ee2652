//! `[[nat.redirect]]` and `[[nat.dnat]]`.

use std::net::Ipv4Addr;

use xtask::lab::{OUTSIDE, OUTSIDE6};

use crate::ground::{Ground, closed, open};
use crate::ways::host;

/// What containers ask of name servers anywhere ends at a resolver of this host, and one server stands in for another.
const TRANSLATIONS: &str = r#"
[[nat.redirect]]
name = "dns to ours"
proto = "udp"
ports = [53]
to = 5300

[[nat.redirect]]
name = "old port"
proto = "tcp"
ports = ["7000-7001"]
from = ["uplinks"]
to = 9200

[[nat.dnat]]
name = "old database"
proto = "tcp"
address = "203.0.113.10"
ports = [5432]
to = "198.18.0.2:443"

[[allow]]
name = "what is redirected"
proto = "tcp"
ports = ["7000-7001"]
"#;

#[test]
fn redirect_and_dnat() {
    let Some(ground) = Ground::start("redirect_and_dnat", true) else { return };
    let _resolver = ground.lab.host().serve_udp("[::]:5300", "resolver").expect("a server");
    let _service = ground.lab.host().serve_tcp("[::]:9200", "H9200").expect("a server");
    let _neighbour = ground.a1.place.serve_udp("[::]:53", "a1").expect("a server");
    let _outside = ground.lab.outside().serve_udp("[::]:53", "R").expect("a server");
    let _daemon = ground.fw(TRANSLATIONS);
    for bridge_netfilter in [true, false] {
        ground.lab.set_bridge_netfilter(bridge_netfilter).expect("the sysctl");
        ground.walk(
            &format!("bridge-nf-call-iptables = {bridge_netfilter}"),
            &[
                open("a2 -> R:53/udp", "resolver", |g| g.a2.place.udp((OUTSIDE, 53).into())),
                open("a2 -> its gateway:53/udp", "resolver", |g| g.a2.place.udp(([10, 1, 0, 1], 53).into())),
                open("x1 -> R:53/udp over IPv6", "resolver", |g| g.x1.place.udp((OUTSIDE6, 53).into())),
                open("a2 -> a1:53/udp, its neighbour", "a1", |g| g.a2.place.udp((g.a1.ip()?, 53).into())),
                open("H -> R:53/udp: our own resolver asks", "R", |g| g.lab.host().udp((OUTSIDE, 53).into())),
                open("R -> H:7001", "H9200", |g| g.lab.outside().tcp(host(7001))),
                closed("R -> H:9200, not allowed by itself", |g| g.lab.outside().tcp(host(9200))),
                open("b1 -> old database", "R", |g| g.b1.place.tcp((OLD_DATABASE, 5432).into())),
                open("H -> old database", "R", |g| g.lab.host().tcp((OLD_DATABASE, 5432).into())),
                open("D01: R -> H:8080", "a1", |g| g.lab.outside().tcp(host(8080))),
            ],
        );
    }
}

const OLD_DATABASE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
