//! Swarm: its nodes reach what they need of each other by name, and nobody else does.

mod ground;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ground::{Ground, end_second, inspect_second, reasons, second, start_second};
use xtask::lab::{HOST, OUTSIDE, wait};

/// Everything is closed on both hosts, outbound too: what passes, passes as the swarm's.
#[test]
fn nodes_of_a_swarm_reach_each_other_and_strangers_do_not() {
    let Some(mut ground) = Ground::start("nodes_of_a_swarm_reach_each_other_and_strangers_do_not") else {
        return;
    };
    let lab = &ground.lab;
    ground.becomes(true);

    let daemon = lab.fw_run(&format!("{OFF}{CLOSED}")).expect("fw");
    let before = ground.refused("port-not-allowed");
    assert!(!accepts(&ground, 2377), "no rule for it");
    assert!(ground.refused("port-not-allowed") > before);
    assert!(ground.reasons().is_empty(), "{:?}", ground.reasons());

    reload(&ground, CLOSED);
    ground.second_fw(CLOSED).expect("fw of the other host");
    let all = ["rule swarm-control", "rule swarm-esp", "rule swarm-gossip", "rule swarm-vxlan"];
    assert_eq!(ground.reasons(), all, "a manager");
    let of_worker = reasons(&ground.second_status().expect("fw status"));
    assert_eq!(of_worker, all[1..], "a worker");
    ground.becomes(true);
    assert!([2377, 7946].iter().all(|port| accepts(&ground, *port)), "{:?}", lab.fw_drops());

    // What listens there does not say its name: that each is refused, and for who asks, the counter tells.
    for port in [2377, 7946] {
        let before = ground.refused("source-not-allowed");
        assert!(ground.stranger.connect((IpAddr::from(HOST), port).into()).is_err(), "TCP {port}");
        assert!(ground.refused("source-not-allowed") > before, "TCP {port} is refused for who asks");
    }
    for port in [4789, 7946] {
        let before = ground.refused("source-not-allowed");
        assert!(!ground.stranger.udp((HOST, port).into()).expect("a probe").reached());
        assert!(ground.refused("source-not-allowed") > before, "UDP {port} is refused for who asks");
    }
    assert!(!lab.host().tcp((OUTSIDE, 22).into()).expect("a probe").reached(), "outbound is closed");

    // A node that was away comes back, though nothing but the swarm's own rules would let it.
    second(lab, &["kill", "there"]).expect("nothing to wait for");
    end_second(lab).expect("the other dockerd ends");
    start_second(lab).expect("the other dockerd starts");
    let state = ["node", "ls", "--format", "{{.Status}} {{.ManagerStatus}}"];
    wait::until("all nodes are ready", Duration::from_secs(30), || {
        let nodes = lab.docker(&state).ok()?;
        nodes.lines().all(|node| node.starts_with("Ready")).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:?}\n{}", lab.fw_drops(), ground.second_log()));
    second(lab, &["start", "there"]).expect("its container");
    ground.there = inspect_second(lab, "there").expect("its addresses");
    ground.becomes(true);

    reload(&ground, &format!("{OFF}{CLOSED}"));
    // One ping, for nodes that do not hear of each other for some seconds take each other for dead.
    let there = ground.there.ip().expect("an address").to_string();
    assert!(!ground.here.place.succeeds(&["busybox", "ping", "-c", "1", "-W", "1", &there]), "off");
    assert!(ground.reasons().is_empty());
    reload(&ground, CLOSED);
    ground.becomes(true);

    // From here on R may send what it likes.
    ground.second_reload("").expect("fw reload of the other host");
    second(lab, &["swarm", "leave"]).expect("the worker leaves");
    let worker = ["node", "ls", "-q", "--filter", "role=worker"];
    let worker = lab.docker(&worker).expect("the worker");
    lab.docker(&["node", "rm", "--force", &worker]).expect("the worker is no node any more");
    let left = Instant::now();
    wait::until("no rule of the swarm", Duration::from_secs(11), || {
        ground.reasons().is_empty().then_some(())
    })
    .expect("it loses its access within a pass");
    println!("a node that left lost its access after {:?}", left.elapsed());
    let before = ground.refused("port-not-allowed");
    assert!(!accepts(&ground, 2377));
    assert!(ground.refused("port-not-allowed") > before);

    // Whoever is to join is a stranger until it has, and needs a rule.
    reload(&ground, JOINING);
    ground.join().expect("the worker joins again");
    let again = || ground.reasons().iter().any(|why| why == "rule swarm-vxlan");
    wait::until("the rules of the swarm", Duration::from_secs(11), || again().then_some(()))
        .expect("it is a node again");
    daemon.terminate().expect("SIGTERM");
    lab.fw_down().expect("fw down");
    assert!(accepts(&ground, 2377), "after fw down");
}

/// A container on an overlay reaches the outside, and is reached from there, over `docker_gwbridge`.
#[test]
fn containers_of_an_overlay_are_judged_at_the_bridge_to_the_outside() {
    let Some(ground) = Ground::start("containers_of_an_overlay_are_judged_at_the_bridge_to_the_outside")
    else {
        return;
    };
    let lab = &ground.lab;
    let service = [
        "service",
        "create",
        "--detach",
        "--quiet",
        "--no-resolve-image",
        "--name=web",
        "--network=mesh",
        "--constraint=node.role==manager",
        "--publish=mode=host,published=8081,target=80",
        "fwlab",
        "tail",
        "-f",
        "/dev/null",
    ];
    lab.docker(&service).expect("a service");
    let web = wait::until("its container", Duration::from_secs(30), || {
        let name = lab.docker(&[
            "ps",
            "--filter",
            "label=com.docker.swarm.service.name=web",
            "--format",
            "{{.Names}}",
        ]);
        lab.inspect(&name.ok()?).ok()
    });
    let web = web.expect("its container");
    let _server = web.place.serve_tcp("0.0.0.0:80", "web").expect("a server");
    let _outside = lab.outside().serve_tcp("0.0.0.0:444", "R").expect("a server");
    let published = || lab.outside().tcp((HOST, 8081).into()).expect("a probe");
    let leaves = || ground.here.place.tcp((OUTSIDE, 444).into()).expect("a probe");
    wait::until("the published port", Duration::from_secs(10), || {
        published().reached_at("web").then_some(())
    })
    .expect("Docker leads it");
    assert!(leaves().reached_at("R"));

    let daemon = lab.fw_run("").expect("fw");
    assert!(!published().reached(), "it needs a rule");
    assert!(leaves().reached_at("R"), "{:?}", lab.fw_drops());
    let table = lab.fw(&["table", "interfaces", "--json"]).expect("the table");
    for name in [&ground.here.name, &web.name] {
        assert!(table.contains(name.as_str()), "{name} is known behind its port: {table}");
    }
    reload(&ground, WEB);
    assert!(published().reached_at("web"), "{:?}", lab.fw_drops());
    assert!(!leaves().reached(), "egress of docker_gwbridge");
    let drops = lab.fw_drops().expect("the drop counters");
    assert!(
        drops.keys().any(|(hook, reason)| hook == "port_ingress" && reason.contains("egress")),
        "{drops:?}"
    );
    ground.becomes(true);
    daemon.terminate().expect("SIGTERM");
    lab.fw_down().expect("fw down");
    assert!(leaves().reached_at("R"), "after fw down");
}

/// Whether R may open a connection to this port of H; what listens there does not say its name.
fn accepts(ground: &Ground, port: u16) -> bool {
    ground.lab.outside().connect((IpAddr::from(HOST), port).into()).is_ok()
}

fn reload(ground: &Ground, policy: &str) {
    std::fs::write(ground.lab.path("/run/lab/policy.toml"), policy).expect("a policy");
    ground.lab.fw(&["reload"]).expect("fw reload");
}

const CLOSED: &str = r#"
[[out]]
name = "dns"
proto = "udp"
ports = [53]
"#;

const JOINING: &str = r#"
[[allow]]
name = "nodes to be"
proto = "tcp"
ports = [2377]
from = ["198.18.0.0/24"]
"#;

const OFF: &str = "[docker]\nswarm = \"off\"\n";

const WEB: &str = r#"
[[allow]]
name = "web"
proto = "tcp"
ports = [8081]

[networks.docker_gwbridge]
egress = "none"
"#;
