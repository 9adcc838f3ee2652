//! Bridges.

use std::time::Instant;

use xtask::lab::{OUTSIDE, Outcome};
use xtask::replace::POLICY;

use crate::{ground, until};

/// Z10: a network is made again under its name, and its bridge with it: internal now, without icc, on another subnet. It
/// inherits nothing.
#[test]
fn a_bridge_made_again_is_another_network() {
    let Some(ground) = ground("a_bridge_made_again_is_another_network") else { return };
    let lab = &ground.lab;
    let _outside = lab.outside().serve_tcp("[::]:446", "R").expect("a server");
    lab.network("Q", &["--subnet=10.7.0.0/24"]).expect("a network");
    let before = ["q1", "q2"].map(|name| lab.container(name, &["--network=Q"]).expect("a container"));
    let _servers = before.each_ref().map(|c| c.place.serve_tcp("[::]:80", &c.name).expect("a server"));
    let _daemon = lab.fw_run(POLICY).expect("fw");
    let meters = ground.meters().expect("the meters");
    let [q1, q2] = &before;
    assert!(q1.place.tcp((OUTSIDE, 446).into()).expect("a probe").reached_at("R"), "open before");
    assert!(
        q1.place.tcp((q2.ip().expect("an address"), 80).into()).expect("a probe").reached(),
        "icc before"
    );

    let begun = Instant::now();
    lab.docker(&["rm", "-f", "q1", "q2"]).expect("they go");
    lab.docker(&["network", "rm", "Q"]).expect("it goes");
    let closed = ["--subnet=10.8.0.0/24", "--internal", "-o", "com.docker.network.bridge.enable_icc=false"];
    lab.network("Q", &closed).expect("a network of that name");
    let after = ["q1", "q2"].map(|name| lab.container(name, &["--network=Q"]).expect("a container"));
    // From the first moment on, not when fw has caught up.
    let [q1, q2] = &after;
    let _servers = after.each_ref().map(|c| c.place.serve_tcp("[::]:80", &c.name).expect("a server"));
    q1.place.script("ip route replace default via 10.8.0.1").expect("a route");
    let at_once = [
        q1.place.tcp((q2.ip().expect("an address"), 80).into()).expect("a probe"),
        q1.place.tcp((OUTSIDE, 446).into()).expect("a probe"),
        q1.place.tcp((ground.a1.ip().expect("an address"), 80).into()).expect("a probe"),
    ];
    assert_eq!(at_once, [const { Outcome::Silent }; 3]);
    let took = until("both ports are known", || {
        let table = lab.fw(&["table", "endpoints", "--json"]).unwrap_or_default();
        table.contains("10.8.0.2") && table.contains("10.8.0.3") && !table.contains("10.7.0.")
    });
    println!("Z10  after that, known and nothing left of the old one within {} ms", took.as_millis());
    meters.row("Z10", "a network made again: internal, no icc", begun);
    // The host still reaches them: they are there.
    assert!(lab.host().tcp((q2.ip().expect("an address"), 80).into()).expect("a probe").reached_at("q2"));
    let subnets = lab.fw(&["table", "subnets", "--json"]).expect("a table");
    assert!(subnets.contains("10.8.0.0/24") && !subnets.contains("10.7.0.0/24"), "{subnets}");
    lab.one_program_per_hook().expect("one program per hook");
}
