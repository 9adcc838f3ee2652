//! Without programs there is no mark, and without a mark nothing new is forwarded to a container.

use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use xtask::lab::frame::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use xtask::lab::tcx::Direction;
use xtask::lab::{BPFFS, Container, HOST_MAC, OUTSIDE, OUTSIDE_MAC, OUTSIDE6, ask, wait};

use crate::ground::{Ground, POLICY, closed, open};
use crate::ways::host;

/// Source port of segments that belong to nothing.
const STRAY: u16 = 7777;

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
    detach(&ground);
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
    strays(&ground, &mut alive);
}

/// Takes every program of fw off its hook; waits until the kernel has.
fn detach(ground: &Ground) {
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
}

/// What conntrack says of no connection, or is told not to look at, is not forwarded either.
fn strays(ground: &Ground, alive: &mut TcpStream) {
    let untracked = "table inet t { chain c { type filter hook prerouting priority raw\nip daddr 10.1.0.0/24 notrack\n\
                     ip6 daddr fd00:a::/64 notrack\n}\n}\n";
    let [a1, x1] = [&ground.a1, &ground.x1];
    let four = (IpAddr::from(OUTSIDE), a1.ip().expect("an address"));
    let six = (IpAddr::from(OUTSIDE6), x1.ip6().expect("an address"));
    let heard = [
        a1.place.listen("eth0", Some(ETHERTYPE_IPV4)).expect("a listener"),
        x1.place.listen("eth0", Some(ETHERTYPE_IPV6)).expect("a listener"),
    ];
    let sender = ground.lab.outside().sender("eth0").expect("a sender");
    let strays = || {
        // SYN and ACK, RST, FIN, all that a scanner sets at once, and none.
        for flags in [0x12, 0x04, 0x11, 0x29, 0x00] {
            for (source, container) in [four, six] {
                let segment = frame::tcp((source, STRAY), (container, 80), flags, (1, 1));
                sender.send(&frame::ip_frame(HOST_MAC, OUTSIDE_MAC, &segment)).expect("sent");
            }
        }
    };
    strays();
    ground.lab.host().script(&format!("nft -f - <<'END'\n{untracked}END\n")).expect("untracked");
    strays();
    ground.walk(
        "untracked",
        &[
            closed("R -> a1:80 direct", |g| g.lab.outside().tcp((g.a1.ip()?, 80).into())),
            closed("R -> x1:80 direct over IPv6", |g| g.lab.outside().tcp((g.x1.ip6()?, 80).into())),
        ],
    );
    ground.lab.host().run(&["nft", "delete", "table", "inet", "t"]).expect("tracked");
    // What comes behind them by the same way has arrived.
    assert!(ask(alive).reached_at("a1"), "what was open goes on");
    // Where the same comes from a neighbour, it is heard.
    let neighbour = ground.a2.place.sender("eth0").expect("a sender");
    let mac = |container: &Container| container.mac.expect("a MAC address");
    let segment = frame::tcp((ground.a2.ip().expect("an address"), STRAY), (four.1, 80), 0x12, (1, 1));
    neighbour.send(&frame::ip_frame(mac(a1), mac(&ground.a2), &segment)).expect("sent");
    let from = |frames: &[Vec<u8>], port: usize| {
        frames.iter().filter(|frame| frame.get(port..port + 2) == Some(&STRAY.to_be_bytes())).count()
    };
    let mut at_a1 = Vec::new();
    let arrived = || {
        at_a1.extend(heard[0].take());
        (from(&at_a1, 34) > 0).then_some(())
    };
    wait::until("the neighbour's segment", Duration::from_secs(5), arrived).expect("it arrives");
    assert_eq!(from(&at_a1, 34), 1, "the neighbour's alone: {at_a1:02x?}");
    let over_six = heard[1].take();
    assert_eq!(from(&over_six, 54), 0, "{over_six:02x?}");
}
