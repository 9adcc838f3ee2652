//! Labels on real containers: they narrow, open only where the policy lets them, and go with their container.

use std::cell::RefCell;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use xtask::lab::{self, Container, HOST, Lab, OUTSIDE, Options, Server, wait};

use crate::ground::{FILE, ends, fw};

const POLICY: &str = "[sets]\nelsewhere = [\"203.0.113.0/24\"]\nhere = [\"198.18.0.0/24\"]\n[[allow]]\nname = \"web\"\nproto = \"tcp\"\nports = [8080, 8081]\n";

struct Ground {
    lab: Lab,
    servers: RefCell<Vec<Server>>,
}

impl Ground {
    fn run(&self, name: &str, options: &[&str]) -> Container {
        let common: &[&str] = if options.contains(&"host") { &[] } else { &["--network", "n"] };
        let container = self.lab.container(name, &[common, options].concat()).expect("a container");
        self.servers.borrow_mut().push(container.place.serve_tcp("[::]:80", name).expect("a server"));
        container
    }

    fn settles(&self, what: &str, probe: impl Fn() -> bool) {
        wait::until(what, Duration::from_secs(12), || probe().then_some(())).unwrap_or_else(|error| {
            panic!("{error:#}\n{}\n{}", self.lab.fw(&["status"]).unwrap_or_default(), self.lab.fw_log())
        });
    }
}

fn tcp(from: &Container, to: impl Into<IpAddr>, port: u16) -> bool {
    from.place.tcp((to.into(), port).into()).expect("a probe").reached()
}

#[test]
fn labels_narrow_a_container_and_go_with_it() {
    if !lab::available("labels_narrow_a_container_and_go_with_it") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    lab.network("n", &["--subnet", "10.9.0.0/24", "--ipv6", "--subnet", "2001:db8:9::/64"])
        .expect("a network");
    let ground = Ground { lab, servers: RefCell::default() };
    for at in [("H", 9100), ("R", 443)] {
        let place = if at.0 == "H" { ground.lab.host() } else { ground.lab.outside() };
        let server = place.serve_tcp(&format!("[::]:{}", at.1), at.0).expect("a server");
        ground.servers.borrow_mut().push(server);
    }
    let plain = ground.run("plain", &[]);
    let shut = ground.run(
        "shut",
        &[
            "--ip",
            "10.9.0.50",
            "-p",
            "8080:80",
            "--label",
            "fw.egress=none",
            "--label",
            "fw.host=deny",
            "--label",
            "fw.icc=false",
            "--label",
            "fw.allow_from=elsewhere",
        ],
    );
    let wrong = ground
        .run("wrong", &["--label", "fw.egress=everywhere", "-p", "8081:80", "--label", "fw.allow_from=here"]);
    let daemon = ground.lab.fw_run(POLICY).expect("fw");
    let lab = &ground.lab;
    let from_outside = |port| lab.outside().tcp((HOST, port).into()).expect("a probe").reached();
    let shut_up = || {
        assert!(!tcp(&shut, OUTSIDE, 443), "egress");
        assert!(!tcp(&shut, HOST, 9100), "host");
        for (from, to) in [(&plain, &shut), (&shut, &plain)] {
            assert!(!tcp(from, to.ip().expect("IPv4"), 80), "neighbours, {} to {}", from.name, to.name);
            assert!(!tcp(from, to.ip6().expect("IPv6"), 80), "neighbours over IPv6");
            assert!(!from.place.ping(to.ip().expect("IPv4")).expect("a ping").reached());
            // ARP tells nothing either.
            from.place.run(&["ip", "neigh", "flush", "all"]).expect("flushed");
            let to = to.ip().expect("IPv4").to_string();
            let arp = lab.docker(&["exec", &from.name, "arping", "-c", "2", "-w", "2", "-I", "eth0", &to]);
            assert!(arp.is_err(), "{arp:?}");
        }
        assert!(!from_outside(8080), "allow_from names others");
        assert!(
            lab.host().tcp((shut.ip().expect("IPv4"), 80).into()).expect("a probe").reached(),
            "the host still reaches it"
        );
    };
    ground.settles("the labels are known", || !tcp(&plain, shut.ip().expect("IPv4"), 80));
    shut_up();
    over_the_gateway(lab, &plain, &shut);
    assert!(tcp(&plain, OUTSIDE, 443) && tcp(&plain, HOST, 9100), "others are as they were");
    assert!(tcp(&plain, wrong.ip().expect("IPv4"), 80), "others talk to each other");
    assert!(from_outside(8081), "allow_from names the prober");
    assert!(!tcp(&wrong, OUTSIDE, 443), "a wrong label closes");
    let said = lab.fw_log().matches("container wrong: label fw.egress: \"everywhere\"").count();
    assert_eq!(said, 1, "{}", lab.fw_log());
    // At the port of its neighbour, a group of one that is apart is not heard.
    let group = "busybox udhcpc -i eth0 -n -q -t 1 -T 1 -s /bin/true || true";
    lab.docker(&["exec", "shut", "sh", "-c", group]).expect("a broadcast");
    let drops = lab.fw_drops().expect("drops");
    assert!(drops.keys().any(|(hook, reason)| hook == "port_egress" && reason == "unvouched"), "{drops:?}");
    let status = lab.fw(&["status"]).expect("status");
    let of_labels = status.lines().find(|line| line.contains("fw.icc=false")).unwrap_or_default();
    assert!(of_labels.contains("shut") && of_labels.contains("none"), "{status}");

    // Its successor at the same address has nothing of it.
    lab.docker(&["rm", "-f", "shut"]).expect("gone");
    let next = ground.run("next", &["--ip", "10.9.0.50", "-p", "8080:80"]);
    assert_eq!(next.v4, shut.v4);
    ground.settles("the successor is free", || tcp(&next, OUTSIDE, 443));
    let lab = &ground.lab;
    assert!(
        tcp(&next, HOST, 9100)
            && tcp(&plain, next.ip().expect("IPv4"), 80)
            && tcp(&next, plain.ip().expect("IPv4"), 80)
    );
    ground.settles("its port is open", || lab.outside().tcp((HOST, 8080).into()).expect("a probe").reached());
    let status = lab.fw_status().expect("status");
    assert!(!status["containers"].to_string().contains("next"), "{}", status["containers"]);

    opens_only_where_it_may(&ground, &plain);
    daemon.terminate().expect("SIGTERM");
}

/// An address that no table knows, of one that is kept apart: the gateway does not learn who has it.
fn over_the_gateway(lab: &Lab, from: &Container, to: &Container) {
    let server = to.place.serve_udp("[::]:5099", "heard").expect("a server");
    to.place.run(&["ip", "address", "add", "10.9.0.99/24", "dev", "eth0"]).expect("an address of its own");
    from.place.run(&["ip", "route", "add", "10.9.0.99", "via", "10.9.0.1"]).expect("a route");
    let unlisted = ([10, 9, 0, 99], 5099).into();
    assert!(!from.place.udp(unlisted).expect("a probe").reached());
    assert!(!server.hears("who", Duration::from_secs(1)), "it came over the gateway");
    let known = (to.ip().expect("IPv4"), 5099).into();
    assert!(lab.host().udp(known).expect("a probe").reached() && server.hears("who", Duration::from_secs(1)));
    to.place.run(&["ip", "address", "del", "10.9.0.99/24", "dev", "eth0"]).expect("as it was");
    from.place.run(&["ip", "route", "del", "10.9.0.99"]).expect("as it was");
}

/// What a label opens, it opens only where the policy lets it.
fn opens_only_where_it_may(ground: &Ground, plain: &Container) {
    let closed = "[networks.n]\negress = \"none\"\nhost = \"deny\"\n";
    let lab = &ground.lab;
    fs::write(lab.path(FILE), format!("{POLICY}{closed}")).expect("a policy");
    ends(&fw(lab, &["reload"], None), 0, &[]);
    let open = ground.run(
        "open",
        &[
            "--label",
            "fw.egress=any",
            "--label",
            "fw.host=allow",
            "-p",
            "8082:80",
            "--label",
            "fw.allow_from=here",
        ],
    );
    ground.settles("it is known", || {
        lab.fw_status().is_ok_and(|status| status["containers"].to_string().contains("open"))
    });
    assert!(!tcp(&open, OUTSIDE, 443) && !tcp(&open, HOST, 9100), "a label does not open");
    assert!(!lab.outside().tcp((HOST, 8082).into()).expect("a probe").reached());
    fs::write(lab.path(FILE), format!("labels = \"may-open\"\n{POLICY}{closed}")).expect("a policy");
    ends(&fw(lab, &["reload"], None), 0, &[]);
    assert!(tcp(&open, OUTSIDE, 443) && tcp(&open, HOST, 9100), "now it does");
    assert!(lab.outside().tcp((HOST, 8082).into()).expect("a probe").reached());
    assert!(!tcp(plain, OUTSIDE, 443), "others are as the file says");
}
