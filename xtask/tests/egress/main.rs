//! What containers may open connections to: the outside, the host, other networks; per network and per container.
//!
//! One host, every kind of terms on a network of its own, both families, TCP, UDP and ping. Each refusal is told by its
//! counter and has a twin that passes: the same packet from another container, or to another place.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use xtask::lab::{self, Container, Daemon, HOST, Lab, Options, Outcome, Place, Server, ask, wait};

mod ground;
mod reach;

use ground::{CLOSED_UDP, FRIEND, Ground, HOST_PORT, Kind, OFF_LINK, PRIVATE, PUBLIC, gateway};

/// Who goes where: `None` passes, else the reason of the drop at the port.
type Row<'a> = (&'a Container, IpAddr, Option<&'static str>);

fn rows(ground: &Ground) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for family in 0..2 {
        let (public, friend, private) = (PUBLIC[family], FRIEND[family], PRIVATE[family]);
        let egress = Some("egress");
        rows.extend([
            (&ground.none, public, egress),
            (&ground.none, private, egress),
            (&ground.free, public, None),
            (&ground.free, private, None),
            (&ground.internet, public, None),
            (&ground.internet, friend, None),
            (&ground.internet, private, egress),
            (&ground.sets, friend, None),
            (&ground.sets, public, egress),
            (&ground.open, public, None),
            (&ground.open, private, None),
            (&ground.shy, public, egress),
            (&ground.shy, friend, egress),
            (&ground.closed, public, None),
        ]);
    }
    rows
}

/// The same for this host: `host = "deny"` of a network, of a container, and neither.
fn host_rows(ground: &Ground) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for (container, reason) in [
        (&ground.open, None),
        (&ground.none, None),
        (&ground.closed, Some("host-denied")),
        (&ground.shy, Some("host-denied")),
    ] {
        for address in [gateway(container, false), gateway(container, true), HOST.into()] {
            rows.push((container, address, reason));
        }
    }
    rows
}

fn holds(ground: &Ground, rows: &[Row<'_>], port: u16, when: &str) {
    let before = ["egress", "host-denied"].map(|reason| ground.drops("port_ingress", reason));
    std::thread::scope(|scope| {
        for (container, address, reason) in rows {
            for kind in Kind::ALL {
                scope.spawn(move || {
                    let outcome = kind.probe(&container.place, *address, port);
                    let name = &container.name;
                    match reason {
                        None => {
                            assert!(outcome.reached(), "{when}: {name} -> {address} {kind:?}: {outcome:?}");
                        }
                        Some(_) => {
                            assert_eq!(outcome, Outcome::Silent, "{when}: {name} -> {address} {kind:?}");
                        }
                    }
                });
            }
        }
    });
    for (reason, before) in ["egress", "host-denied"].into_iter().zip(before) {
        let tries = rows.iter().filter(|(.., expected)| *expected == Some(reason)).count() as u64;
        let dropped = ground.drops("port_ingress", reason) - before;
        assert!(dropped >= 3 * tries, "{when}: {dropped} dropped as {reason} in {tries} rows of three");
    }
}

/// What comes in to containers that may open nothing is answered.
fn answers_hold(ground: &Ground, when: &str) {
    let outside = ground.lab.outside();
    let host = ground.lab.host();
    let published = |port: u16| SocketAddr::from((HOST, port));
    let tcp = outside.tcp(published(8080)).expect("a probe");
    assert!(tcp.reached_at("none"), "{when}: outside -> the published port: {tcp:?}");
    let udp = outside.udp(published(5353)).expect("a probe");
    assert!(udp.reached_at("none"), "{when}: outside -> the published UDP port: {udp:?}");
    // The container's own error about the datagram comes back.
    let refused = outside.udp(published(CLOSED_UDP)).expect("a probe");
    assert_eq!(refused, Outcome::Refused, "{when}: the error of a closed port");
    // docker-proxy and the host itself open connections to a container that may open none to the host.
    let proxied = host.tcp("127.0.0.1:8081".parse().expect("an address")).expect("a probe");
    assert!(proxied.reached_at("closed"), "{when}: docker-proxy: {proxied:?}");
    for address in [ground.closed.ip(), ground.closed.ip6()] {
        let address = address.expect("an address");
        for kind in Kind::ALL {
            let outcome = kind.probe(host, address, kind.container_port());
            assert!(outcome.reached(), "{when}: host -> {address} {kind:?}: {outcome:?}");
        }
    }
}

#[test]
fn containers_open_what_their_terms_allow_and_answer_what_came_in() {
    let test = "containers_open_what_their_terms_allow_and_answer_what_came_in";
    let Some(ground) = Ground::start(test) else { return };
    let (rows, hosts) = (rows(&ground), host_rows(&ground));
    // Without fw everything passes: what is silent later is so because of fw.
    std::thread::scope(|scope| {
        for (rows, port) in [(&rows, 443), (&hosts, HOST_PORT)] {
            for (container, address, _) in rows {
                scope.spawn(move || {
                    for kind in Kind::ALL {
                        let outcome = kind.probe(&container.place, *address, port);
                        let name = &container.name;
                        assert!(outcome.reached(), "without fw: {name} -> {address} {kind:?}: {outcome:?}");
                    }
                });
            }
        }
    });
    let mut from_outside = ground.lab.outside().connect((HOST, 8080).into()).expect("a connection");
    let mut from_inside = ground.none.place.connect((PUBLIC[0], 443).into()).expect("a connection");
    assert!(ask(&mut from_outside).reached_at("none") && ask(&mut from_inside).reached());

    let daemon = ground.fw();
    assert!(ask(&mut from_outside).reached_at("none"), "a connection that came in before fw goes on");
    assert!(ask(&mut from_inside).reached_at("R"), "one that the container had opened does, too");
    for bridge_netfilter in [true, false] {
        ground.lab.set_bridge_netfilter(bridge_netfilter).expect("the sysctl");
        let when = format!("bridge-nf-call-iptables {bridge_netfilter}");
        holds(&ground, &rows, 443, &when);
        holds(&ground, &hosts, HOST_PORT, &when);
        answers_hold(&ground, &when);
    }
    // The tables hold it, not the daemon.
    daemon.kill().expect("SIGKILL");
    holds(&ground, &rows, 443, "the daemon is dead");
    holds(&ground, &hosts, HOST_PORT, "the daemon is dead");
    answers_hold(&ground, "the daemon is dead");
}

/// An address that no table knows, and that only the routing table leads to the host.
#[test]
fn a_closed_host_is_closed_by_every_address() {
    let Some(ground) = Ground::start("a_closed_host_is_closed_by_every_address") else { return };
    let _daemon = ground.fw();
    ground.lab.host().script(&format!("ip route add local {OFF_LINK}/32 dev lo")).expect("a route");
    let address: IpAddr = OFF_LINK.parse().expect("an address");
    let open = ground.open.place.tcp((address, HOST_PORT).into()).expect("a probe");
    assert!(open.reached_at("H"), "{open:?}");
    let before = ground.drops("port_ingress", "host-denied");
    let closed = ground.closed.place.tcp((address, HOST_PORT).into()).expect("a probe");
    assert_eq!(closed, Outcome::Silent);
    assert!(ground.drops("port_ingress", "host-denied") > before);
}

/// A container's own section counts from the moment in which it is known, and goes with it.
#[test]
fn terms_follow_the_policy_and_the_container() {
    let Some(ground) = Ground::start("terms_follow_the_policy_and_the_container") else { return };
    let daemon = ground.fw();
    let public: SocketAddr = (PUBLIC[0], 443).into();
    let becomes = |container: &Container, reached: bool, what: &str| {
        wait::until(what, Duration::from_secs(15), || {
            (container.place.tcp(public).ok()?.reached() == reached).then_some(())
        })
        .expect(what);
    };
    becomes(&ground.none, false, "egress none");
    ground.reload(&daemon, &ground::POLICY.replace("egress = \"none\"", "egress = \"internet\""));
    becomes(&ground.none, true, "egress internet after a reload");
    ground.reload(&daemon, ground::POLICY);
    becomes(&ground.none, false, "egress none once more");
    let late = ground.lab.container("late", &["--network=open-net"]).expect("a container");
    becomes(&late, true, "a container without a section");
    ground.reload(&daemon, &format!("{}\n[containers.late]\negress = \"none\"\n", ground::POLICY));
    becomes(&late, false, "a container with a section");
    ground.lab.docker(&["rm", "-f", "late"]).expect("no container");
    let late = ground.lab.container("late", &["--network=open-net"]).expect("a container");
    becomes(&late, false, "the next container of that name");
    let another = ground.lab.container("another", &["--network=open-net"]).expect("a container");
    becomes(&another, true, "a container of another name");
}
