//! The rows of the reachability matrix that NAT makes, with and without docker-proxy.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use xtask::lab::{HOST, HOST6, OUTSIDE, OUTSIDE6, Outcome};

use crate::ground::{Ground, Way, closed, open};

#[test]
fn with_docker_proxy() {
    let Some(ground) = Ground::start("with_docker_proxy", true) else { return };
    let apart = "com.docker.network.bridge.enable_icc=false";
    ground.lab.network("N", &["--subnet=10.4.0.0/24", "-o", apart]).expect("a network");
    ground.lab.container("n1", &["--network=N"]).expect("a container");
    let n2 = ground.lab.container("n2", &["--network=N", "-p=8089:80"]).expect("a container");
    let _server = n2.place.serve_tcp("[::]:80", "n2").expect("a server");
    let _daemon = ground.fw("");
    at_both_settings(&ground, &[COMMON, WITH_PROXY, LOOPBACK, APART].concat());
}

#[test]
fn without_docker_proxy() {
    let Some(ground) = Ground::start("without_docker_proxy", false) else { return };
    let _daemon = ground.fw("");
    at_both_settings(&ground, &[COMMON, LOOPBACK, WITHOUT_PROXY].concat());
}

fn at_both_settings(ground: &Ground, ways: &[Way]) {
    for bridge_netfilter in [true, false] {
        ground.lab.set_bridge_netfilter(bridge_netfilter).expect("the sysctl");
        ground.walk(&format!("bridge-nf-call-iptables = {bridge_netfilter}"), ways);
    }
}

pub(crate) const COMMON: &[Way] = &[
    open("D01: R -> H:8080 (published), and a1 sees R's own address", "a1", |g| {
        let outcome = g.lab.outside().tcp(host(8080))?;
        let seen = g.web.heard().iter().any(|heard| heard.from.ip() == IpAddr::from(OUTSIDE));
        ensure!(seen || !outcome.reached(), "a1 never saw R's address: {:?}", g.web.heard());
        Ok(outcome)
    }),
    open("D01: R -> H:8070 (published on H's address)", "a1", |g| g.lab.outside().tcp(host(8070))),
    closed("R -> H:8443 (published, not allowed)", |g| g.lab.outside().tcp(host(8443))),
    closed("D03: R -> a1:80 direct", |g| g.lab.outside().tcp((g.a1.ip()?, 80).into())),
    closed("D07: R -> H:8088 (published on 127.0.0.1)", |g| g.lab.outside().tcp(host(8088))),
    open("H -> its own address:8080", "a1", |g| g.lab.host().tcp(host(8080))),
    open("D11: H -> a1:81", "a1", |g| g.lab.host().tcp((g.a1.ip()?, 81).into())),
    open("D12: a2 -> a1:81", "a1", |g| g.a2.place.tcp((g.a1.ip()?, 81).into())),
    closed("D13: a2 -> b1:80", |g| g.a2.place.tcp((g.b1.ip()?, 80).into())),
    open("D18: a1 -> itself by H:8080", "a1", |g| g.a1.place.tcp(host(8080))),
    closed("D23: i1 -> R:443", |g| g.i1.place.tcp((OUTSIDE, 443).into())),
    closed("i1 -> its own gateway:8080, published by A", |g| g.i1.place.tcp(([10, 3, 0, 1], 8080).into())),
    closed("D25: R -> i1:80", |g| g.lab.outside().tcp((g.i1.ip()?, 80).into())),
    closed("D31: R -> x1:80 direct over IPv6", |g| g.lab.outside().tcp((g.x1.ip6()?, 80).into())),
    open("D31: R -> [H]:8096 (published by S)", "x1", |g| g.lab.outside().tcp((HOST6, 8096).into())),
    open("D31: x1 -> R:443 over IPv6, masqueraded", "R", |g| {
        let outcome = g.x1.place.tcp((OUTSIDE6, 443).into())?;
        let seen = g.remote.heard().iter().any(|heard| heard.from.ip() == IpAddr::from(HOST6));
        ensure!(seen || !outcome.reached(), "R never saw H's address: {:?}", g.remote.heard());
        Ok(outcome)
    }),
    open("D41: R -> H:5353/udp", "a1", |g| g.lab.outside().udp(host(5353))),
    open("D46: a2 -> R:443, masqueraded", "R", |g| {
        let outcome = g.a2.place.tcp((OUTSIDE, 443).into())?;
        let seen = g.remote.heard().iter().any(|heard| heard.from.ip() == IpAddr::from(HOST));
        ensure!(seen || !outcome.reached(), "R never saw H's address: {:?}", g.remote.heard());
        Ok(outcome)
    }),
    open("D46: a2 -> R:443/udp", "R", |g| g.a2.place.udp((OUTSIDE, 443).into())),
    open("D46: a2 ping R", "", |g| g.a2.place.ping(OUTSIDE.into())),
    open("D49: m1 -> R:443, not masqueraded", "R", |g| {
        let (own, outcome) = (g.m1.ip()?, g.m1.place.tcp((OUTSIDE, 443).into())?);
        let seen = g.remote.heard().iter().any(|heard| heard.from.ip() == own);
        ensure!(seen || !outcome.reached(), "R never saw m1's address: {:?}", g.remote.heard());
        Ok(outcome)
    }),
    open("D50: b1 -> its gateway:9100", "H", |g| g.b1.place.tcp(([10, 2, 0, 1], 9100).into())),
    closed("D50: R -> H:9100", |g| g.lab.outside().tcp(host(9100))),
];

const LOOPBACK: &[Way] = &[
    open("D09: H -> 127.0.0.1:8088", "a1", |g| g.lab.host().tcp((Ipv4Addr::LOCALHOST, 8088).into())),
    open("D09: H -> 127.0.0.1:8080", "a1", |g| g.lab.host().tcp((Ipv4Addr::LOCALHOST, 8080).into())),
    open("D42: H -> 127.0.1.2:8077", "a1", |g| g.lab.host().tcp((Ipv4Addr::new(127, 0, 1, 2), 8077).into())),
    open("D42: H -> 127.0.1.3:8077", "b1", |g| g.lab.host().tcp((Ipv4Addr::new(127, 0, 1, 3), 8077).into())),
];

/// Docker keeps neighbours apart by rules alone; without them fw does.
const APART: &[Way] = &[
    closed("D26: n1 -> n2:80", |g| g.lab.inspect("n1")?.place.tcp(([10, 4, 0, 3], 80).into())),
    open("D27: n1 -> H:8089 (n2's published port)", "n2", |g| g.lab.inspect("n1")?.place.tcp(host(8089))),
    open("D28: n1 -> R:443", "R", |g| g.lab.inspect("n1")?.place.tcp((OUTSIDE, 443).into())),
    open("D11: H -> n2:80", "n2", |g| g.lab.host().tcp(([10, 4, 0, 3], 80).into())),
];

const WITH_PROXY: &[Way] = &[
    open("D02: R -> [H]:8080, which docker-proxy serves", "a1", |g| {
        g.lab.outside().tcp((HOST6, 8080).into())
    }),
    open("D15: b1 -> H:8080 (published by A)", "a1", |g| g.b1.place.tcp(host(8080))),
    open("D15: b1 -> A's gateway:8080", "a1", |g| g.b1.place.tcp((GATEWAY_A, 8080).into())),
    open("D15: m1 (not masqueraded) -> H:8080", "a1", |g| g.m1.place.tcp(host(8080))),
    open("D17: a2 -> H:8080 (its own network's)", "a1", |g| g.a2.place.tcp(host(8080))),
];

const WITHOUT_PROXY: &[Way] = &[
    closed("D16: b1 -> H:8080 (published by A), as Docker up to 28 has it", |g| g.b1.place.tcp(host(8080))),
    open("D17: a2 -> H:8080 (its own network's)", "a1", |g| g.a2.place.tcp(host(8080))),
    // W13: with route_localnet on the bridge, 127.0.0.0/8 must stay this host's own.
    closed("W13: a2 -> 127.0.0.1:8088, routed to H", |g| {
        let route = "ip link set lo down; ip route replace 127.0.0.0/8 via 10.1.0.1 2>/dev/null || true";
        g.a2.place.script(&format!("echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet; {route}"))?;
        let outcome = g.a2.place.tcp((Ipv4Addr::LOCALHOST, 8088).into())?;
        g.a2.place.script("ip link set lo up")?;
        Ok(outcome)
    }),
];

const GATEWAY_A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

pub(crate) fn host(port: u16) -> SocketAddr {
    (HOST, port).into()
}

/// An answer, whoever gives it.
pub(crate) fn reached(outcome: Result<Outcome>) -> bool {
    outcome.is_ok_and(|outcome| outcome.reached())
}
