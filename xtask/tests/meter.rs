//! The meters see what there is to see: a leak without fw, none with it, an answer that fails to come, and their own
//! blindness.

use std::thread;
use std::time::Duration;

use xtask::lab::meter::{Allowed, Forbidden, Leaks, Pulse};
use xtask::lab::{self, HOST, HOST6, Lab, OUTSIDE, Options, wait};

#[test]
fn meters_see_what_leaks_and_what_stops() {
    if !lab::available("meters_see_what_leaks_and_what_stops") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    lab.network("A", &["--subnet=10.1.0.0/24", "--ipv6", "--subnet=2001:db8:a::/64"]).expect("a network");
    let a1 = lab.container("a1", &["--network=A", "-p=8080:80", "-p=8080:80/udp"]).expect("a container");
    let (v4, v6) = (a1.ip().expect("IPv4"), a1.ip6().expect("IPv6"));
    let (outside, host) = (lab.outside(), lab.host());
    let forbidden = || {
        vec![
            Forbidden::datagrams(
                "R -> H:9100",
                (outside, (HOST, 9100).into()),
                (host, 9100),
                (host, (HOST, 9100).into()),
            ),
            Forbidden::datagrams(
                "R -> a1, IPv6",
                (outside, (v6, 82).into()),
                (&a1.place, 82),
                (host, (v6, 82).into()),
            ),
            Forbidden::datagrams(
                "R -> a1, IPv4",
                (outside, (v4, 82).into()),
                (&a1.place, 82),
                (host, (v4, 82).into()),
            ),
        ]
    };
    let allowed = [
        Allowed::tcp("R -> a1, TCP", (outside, (HOST, 8080).into()), (&a1.place, 80)),
        Allowed::tcp("R -> a1, TCP over IPv6", (outside, (HOST6, 8080).into()), (&a1.place, 80)),
        Allowed::udp("R -> a1, UDP", (outside, (HOST, 8080).into()), (&a1.place, 80)),
        Allowed::udp("a1 -> R", (&a1.place, (OUTSIDE, 443).into()), (outside, 443)),
    ];

    let leaks = Leaks::start(forbidden()).expect("the leak meter");
    let pulse = Pulse::start(&allowed).expect("the liveness meter");
    wait::pass(Duration::from_secs(1));
    let leaked = leaks.lap().expect("a lap");
    println!("stock Docker: {leaked}\n  {}", pulse.lap().expect("a lap"));
    assert!(leaked.arrived.contains_key("R -> H:9100"), "{leaked}");
    assert!(leaked.arrived.contains_key("R -> a1, IPv6"), "Docker 20.10 filters no IPv6: {leaked}");
    assert!(!leaked.arrived.contains_key("R -> a1, IPv4"), "{leaked}");

    drop(pulse);
    let daemon = lab.fw_run(POLICY).expect("fw");
    let pulse = Pulse::start(&allowed).expect("the liveness meter with fw");
    leaks.lap().expect("what leaked before");
    wait::pass(Duration::from_secs(2));
    let (leaked, beat) = (leaks.lap().expect("a lap"), pulse.lap().expect("a lap"));
    println!("fw: {leaked}\n  {beat}");
    assert_eq!(leaked.total(), 0, "{leaked}");
    assert!(leaked.probes >= 600 && beat.sent > 100, "{leaked}; {beat}");

    // Somebody else stops what comes from outside, for a moment.
    let rule = "PREROUTING -t raw -i eth0 -j DROP";
    host.script(&format!("iptables -w -I {rule}")).expect("a rule");
    wait::pass(Duration::from_millis(700));
    host.script(&format!("iptables -w -D {rule}")).expect("a rule");
    let beat = pulse.lap().expect("a lap");
    println!("a moment without IPv4 from outside: {beat}");
    assert!(beat.longest.as_millis() >= 700 && beat.lost > 30, "{beat}");

    // A target that hears nobody is no proof, and neither is one that is gone.
    drop(daemon);
    host.script("iptables -w -I INPUT -p udp --dport 9100 -j DROP").expect("a rule");
    lab.docker(&["kill", "a1"]).expect("docker");
    thread::scope(|scope| {
        let deaf = scope.spawn(|| leaks.lap().expect_err("the target hears nobody"));
        let silent = format!("{:#}", pulse.lap().expect_err("a1 is gone"));
        assert!(silent.contains("a1"), "{silent}");
        let deaf = format!("{:#}", deaf.join().expect("no panic"));
        assert!(deaf.contains("would not be heard if it leaked"), "{deaf}");
    });
}

const POLICY: &str = "[uplink]\npublished = \"open\"";
