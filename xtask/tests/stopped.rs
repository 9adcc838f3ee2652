//! Networks and containers made while fw cannot see them: nothing passes that stock Docker would have stopped.

use xtask::lab::{self, Container, HOST, Lab, Options, Outcome, POLICY, Place, Server, Town, doors, wait};

use std::net::IpAddr;
use std::time::Duration;

#[test]
fn made_while_fw_is_halted() {
    newcomers_are_kept_apart("made_while_fw_is_halted", "STOP");
}

#[test]
fn made_while_fw_is_not_running() {
    newcomers_are_kept_apart("made_while_fw_is_not_running", "KILL");
}

fn newcomers_are_kept_apart(test: &str, signal: &str) {
    if !lab::available(test) {
        return;
    }
    let lab = Lab::start(Options { dockerd: Town::dockerd(), ..Options::default() }).expect("a lab");
    let town = Town::build(&lab).expect("the town");
    let policy = POLICY.replace("ports = [8080,", "ports = [8080, 8097,");
    let daemon = lab.fw_run(&policy).expect("fw");

    daemon.signal(signal).expect("a signal");
    let newcomers = Newcomers::arrive(&lab);
    for bridge_netfilter in [true, false] {
        lab.set_bridge_netfilter(bridge_netfilter).expect("the sysctl");
        newcomers.are_there(&lab);
        newcomers.are_kept_apart(&lab, &town);
    }
    doors::held(&lab, &town, "newcomers are there, fw is stopped").expect("the others are as before");

    // The other daemon, or the same one again, sees them and lets in what the policy allows.
    let _daemon = if signal == "STOP" {
        daemon.signal("CONT").expect("a signal");
        daemon
    } else {
        drop(daemon);
        lab.fw_run(&policy).expect("fw once more")
    };
    wait::until("the newcomer's published port is open", Duration::from_secs(10), || {
        let outcome = lab.outside().tcp((HOST, 8097).into()).ok()?;
        outcome.reached_at("new-z").then_some(())
    })
    .expect("fw catches up");
    newcomers.are_kept_apart(&lab, &town);
}

/// A network with a container, and a container on a network that was there.
struct Newcomers {
    z: Container,
    a: Container,
    _servers: Vec<Server>,
}

impl Newcomers {
    fn arrive(lab: &Lab) -> Self {
        lab.network("Z", &["--ipv6", "--subnet", "10.9.0.0/24", "--subnet", "2001:db8:9::/64"])
            .expect("a network");
        let z = lab.container("new-z", &["--network=Z", "-p=8097:80"]).expect("a container");
        let a = lab.container("new-a", &["--network=A"]).expect("a container");
        let serve = |container: &Container, port: u16| {
            container.place.serve_tcp(&format!("[::]:{port}"), &container.name).expect("a server")
        };
        let servers = vec![serve(&z, 80), serve(&z, 81), serve(&a, 80), serve(&a, 81)];
        Self { z, a, _servers: servers }
    }

    /// The positive twin: their servers answer.
    fn are_there(&self, lab: &Lab) {
        for newcomer in [&self.z, &self.a] {
            let address = newcomer.ip().expect("an address");
            let outcome = lab.host().tcp((address, 81).into()).expect("a probe");
            assert!(outcome.reached_at(&newcomer.name), "{}: {outcome:?}", newcomer.name);
        }
    }

    fn are_kept_apart(&self, lab: &Lab, town: &Town) {
        let (z, a) = (self.z.ip().expect("an address"), self.a.ip().expect("an address"));
        let a1 = town.ip("a1").expect("an address");
        let b1 = town.ip("b1").expect("an address");
        let i1 = town.ip("i1").expect("an address");
        let tries: Vec<(&Place, IpAddr, u16)> = vec![
            (&town.at("a1").place, z, 80),
            (&town.at("b1").place, z, 81),
            (&town.at("i1").place, z, 80),
            (&self.z.place, a1, 80),
            (&self.z.place, a1, 81),
            (&self.z.place, b1, 80),
            (&self.z.place, i1, 80),
            (&self.z.place, a, 80),
            (&self.a.place, b1, 80),
            (&self.a.place, i1, 80),
            (&self.a.place, z, 81),
            (lab.outside(), z, 81),
            (lab.outside(), a, 80),
            (lab.outside(), a, 81),
        ];
        std::thread::scope(|scope| {
            for (place, address, port) in &tries {
                scope.spawn(move || {
                    let outcome = place.tcp((*address, *port).into()).expect("a probe");
                    assert_eq!(outcome, Outcome::Silent, "{} -> {address}:{port}", place.name());
                });
            }
        });
    }
}
