//! Without programs there is no mark, and without a mark nothing new is forwarded to a container.

use std::time::Duration;

use xtask::lab::tcx::Direction;
use xtask::lab::{BPFFS, OUTSIDE, ask, wait};

use crate::ground::{Ground, POLICY, closed, open};
use crate::ways::host;

/// Observing, nothing is dropped that Docker's rules would let pass.
#[test]
fn observing_leaves_published_ports_open() {
    let Some(ground) = Ground::start("observing_leaves_published_ports_open", true) else { return };
    let policy = format!("mode = \"observe\"\n{POLICY}");
    let _daemon = ground.lab.fw_run(&policy).expect("fw");
    ground.walk(
        "observing",
        &[
            open("R -> H:8443, published, no rule", "b1", |g| g.lab.outside().tcp(host(8443))),
            open("R -> H:9100, no rule", "H", |g| g.lab.outside().tcp(host(9100))),
            closed("R -> b1:80 direct", |g| g.lab.outside().tcp((g.b1.ip()?, 80).into())),
            closed("a2 -> b1:80 direct", |g| g.a2.place.tcp((g.b1.ip()?, 80).into())),
        ],
    );
}

#[test]
fn without_programs_nothing_reaches_a_container_from_outside() {
    let Some(ground) = Ground::start("without_programs_nothing_reaches_a_container_from_outside", true)
    else {
        return;
    };
    let daemon = ground.fw("");
    let mut alive = ground.lab.outside().connect(host(8080)).expect("a connection");
    assert!(ask(&mut alive).reached_at("a1"));
    daemon.kill().expect("SIGKILL");
    ground.lab.host().script(&format!("rm -r {BPFFS}/hooks")).expect("hooks detached");
    // The kernel takes them off a moment after the last pin is gone.
    let place = ground.lab.host();
    let gone = |device: &str, way| place.tcx_programs(device, way).is_ok_and(|count| count == 0);
    let detached = || {
        let devices = place.run(&["ls", "/sys/class/net"]).ok()?;
        let ways = [Direction::Ingress, Direction::Egress];
        devices.split_whitespace().all(|device| ways.iter().all(|way| gone(device, *way))).then_some(())
    };
    wait::until("programs detached", Duration::from_secs(5), detached).expect("no programs");
    ground.walk(
        "programs detached",
        &[
            closed("R -> H:8080, published", |g| g.lab.outside().tcp(host(8080))),
            closed("R -> H:8443, published", |g| g.lab.outside().tcp(host(8443))),
            closed("R -> a1:80 direct", |g| g.lab.outside().tcp((g.a1.ip()?, 80).into())),
            closed("R -> i1:80 direct", |g| g.lab.outside().tcp((g.i1.ip()?, 80).into())),
            closed("R -> x1:80 direct over IPv6", |g| g.lab.outside().tcp((g.x1.ip6()?, 80).into())),
            closed("R ping a2", |g| g.lab.outside().ping(g.a2.ip()?)),
            closed("b1 -> a1:80 direct", |g| g.b1.place.tcp((g.a1.ip()?, 80).into())),
            closed("i1 -> R:443", |g| g.i1.place.tcp((OUTSIDE, 443).into())),
            open("a2 -> a1:80, same network", "a1", |g| g.a2.place.tcp((g.a1.ip()?, 80).into())),
            open("a2 -> R:443", "R", |g| g.a2.place.tcp((OUTSIDE, 443).into())),
            open("b1 -> H:8080, published by A, by docker-proxy", "a1", |g| g.b1.place.tcp(host(8080))),
            open("H -> 127.0.0.1:8088", "a1", |g| g.lab.host().tcp(([127, 0, 0, 1], 8088).into())),
        ],
    );
    assert!(ask(&mut alive).reached_at("a1"), "what was open goes on");
}
