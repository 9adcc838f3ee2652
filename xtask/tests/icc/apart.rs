//! icc = false at every layer: what neighbours send each other, and what they need besides.

use std::net::IpAddr;
use std::time::Duration;

use xtask::lab::frame::{ip_frame, udp};
use xtask::lab::{HOST, OUTSIDE, OUTSIDE6, Outcome, wait};

use crate::ground::{CLOSE, Ground, SHORT, arrivals, frames, mac};

/// V01 to V03, V06 to V08, V11, X19, W06 and W10: nothing arrives, whatever it is wrapped in.
#[test]
fn nothing_arrives_at_a_neighbour() {
    let Some(ground) = Ground::start("nothing_arrives_at_a_neighbour") else { return };
    let [n1, n2] = &ground.n;
    let frames = frames(n1, n2);
    let send = || {
        let capture = n2.place.capture("eth0").expect("a capture");
        for (name, frame) in &frames {
            n1.place.send_frame("eth0", frame).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
        arrivals(&capture)
    };
    ground.lab.set_bridge_netfilter(false).expect("the sysctl");
    let stock = send();
    let missed: Vec<_> = (0..frames.len()).filter(|id| !stock.contains(id)).map(|id| &frames[id].0).collect();
    assert!(missed.is_empty(), "without fw and bridge netfilter every frame arrives, but not {missed:?}");

    let _daemon = ground.fw();
    ground.at_both_settings(|bridge_netfilter| {
        let before = ground.drops("port_ingress", "icc");
        let arrived: Vec<_> = send().into_iter().map(|id| &frames[id].0).collect();
        assert!(arrived.is_empty(), "arrived ({bridge_netfilter}): {arrived:?}");
        let dropped = ground.drops("port_ingress", "icc") - before;
        // The rest goes up to the host, and stops at the neighbour's port, or is a lie.
        assert!(dropped >= 40, "{dropped} dropped as icc ({bridge_netfilter})");
        assert!(ground.drops("port_egress", "unvouched") >= 1, "none dropped as unvouched");
        over_the_gateway(&ground);
        what_else_they_need(&ground);
    });
}

/// W06: the frame is for the gateway, the packet for the neighbour.
fn over_the_gateway(ground: &Ground) {
    let [n1, n2] = &ground.n;
    let server = n2.place.serve_udp("[::]:5000", "n2").expect("a server");
    let gateway = ground.bridge_mac("br-N");
    for (from, to) in [(n1.ip(), n2.ip()), (n1.ip6(), n2.ip6())] {
        let (from, to) = (from.expect("an address"), to.expect("an address"));
        let packet = udp((from, 6001), (to, 5000), b"W06");
        n1.place.send_frame("eth0", &ip_frame(gateway, mac(n1), &packet)).expect("a frame");
        assert!(!server.hears("W06", SHORT), "{from} came over the gateway");
    }
}

fn what_else_they_need(ground: &Ground) {
    let [n1, _] = &ground.n;
    let lab = &ground.lab;
    let reach = |to: IpAddr| n1.place.tcp((to, 443).into()).expect("a probe");
    assert!(reach(OUTSIDE.into()).reached_at("R"), "the outside");
    assert!(n1.place.ping(n1.gateway.expect("a gateway").into()).expect("a ping").reached(), "the gateway");
    let gateway6: IpAddr = "2001:db8:4::1".parse().expect("an address");
    assert!(n1.place.ping(gateway6).expect("a ping").reached(), "the gateway over IPv6");
    assert!(n1.place.ping(OUTSIDE6.into()).expect("a ping").reached(), "the outside over IPv6");
    assert!(lab.outside().tcp((HOST, 8089).into()).expect("a probe").reached_at("n2"), "a published port");
    let own = n1.ip().expect("an address");
    assert!(lab.host().tcp((own, 81).into()).expect("a probe").reached_at("n1"), "from the host");
}

/// The policy has the last word, whatever Docker's own rules say, with and without bridge netfilter.
#[test]
fn the_policy_closes_and_opens_what_docker_does_not() {
    let Some(mut ground) = Ground::start("the_policy_closes_and_opens_what_docker_does_not") else { return };
    ground.lab.network("O", &["--subnet=10.5.0.0/24"]).expect("a network");
    ground.lab.network("C", &["--subnet=10.6.0.0/24", CLOSE[0], CLOSE[1]]).expect("a network");
    let [o1, o2] = ["o1", "o2"].map(|name| ground.container(name, &["--network=O"]));
    let [c1, c2] = ["c1", "c2"].map(|name| ground.container(name, &["--network=C"]));
    let _daemon = ground.fw();
    ground.at_both_settings(|bridge_netfilter| {
        let o2 = o2.ip().expect("an address");
        assert_eq!(o1.place.tcp((o2, 80).into()).expect("a probe"), Outcome::Silent, "{bridge_netfilter}");
        let c2 = c2.ip().expect("an address");
        assert!(c1.place.tcp((c2, 80).into()).expect("a probe").reached_at("c2"), "{bridge_netfilter}");
        assert!(o1.place.tcp((OUTSIDE, 443).into()).expect("a probe").reached_at("R"), "{bridge_netfilter}");
    });
}

/// The static rule is there for closed networks alone, comes back when it is flushed, and goes with fw.
#[test]
fn the_backstop_comes_and_goes() {
    let Some(ground) = Ground::start("the_backstop_comes_and_goes") else { return };
    if !ground.has_backstop() {
        eprintln!("SKIPPED: the_backstop_comes_and_goes: the kernel lacks CONFIG_NFT_BRIDGE_META");
        return;
    }
    let host = ground.lab.host();
    let table = || host.script("nft list table bridge fw 2>/dev/null || true").expect("nft");
    assert_eq!(table(), "");
    let daemon = ground.fw();
    let all_there = || {
        let text = table();
        ["\"br-N\"", "\"docker0\"", "0x03000000"].iter().all(|word| text.contains(word)).then_some(())
    };
    wait::until("the backstop", Duration::from_secs(5), all_there).unwrap_or_else(|error| {
        panic!("{error}: {}\n{}", table(), ground.lab.fw_log());
    });
    host.run(&["nft", "flush", "ruleset", "bridge"]).expect("nft");
    assert_eq!(table(), "");
    wait::until("the backstop is back", Duration::from_secs(20), all_there).expect("it is put back");
    std::fs::write(ground.lab.path("/run/lab/policy.toml"), "mode = \"observe\"\n").expect("a policy");
    daemon.signal("HUP").expect("a signal");
    wait::until("none while observing", Duration::from_secs(10), || table().is_empty().then_some(()))
        .expect("observing drops nothing");
    std::fs::write(ground.lab.path("/run/lab/policy.toml"), "").expect("a policy");
    daemon.signal("HUP").expect("a signal");
    wait::until("the backstop is back", Duration::from_secs(10), all_there).expect("it is put back");
    daemon.kill().expect("SIGKILL");
    assert!(all_there().is_some(), "it outlives the daemon");
    ground.lab.fw_down().expect("fw down");
    assert_eq!(table(), "");
}
