//! Holes of the reply rule: a container chooses its source port, and MASQUERADE keeps it.

use std::net::SocketAddrV4;
use std::time::Duration;

use xtask::lab::frame::{ACK, SYN, ip_frame, tcp, udp};
use xtask::lab::{HOST, HOST_MAC, Lab, OUTSIDE, OUTSIDE_MAC, Server, ask};

use crate::ground::{Ground, unlike_any_other};

/// W02, TCP: a flow from port 22 of a container to R's port 5000 must not let R's port 5000 connect to the host's 22.
#[test]
fn w02_a_syn_is_never_a_reply() {
    let Some(ground) = Ground::start("w02_a_syn_is_never_a_reply") else { return };
    let mut port = 5000;
    let mut attempt = || {
        // Another port each time: the last connection is still in TIME_WAIT.
        port += 1;
        let _server = ground.lab.outside().serve_tcp(&format!("[::]:{port}"), "R").expect("a server");
        let to = SocketAddrV4::new(OUTSIDE, port);
        let mut flow = ground.a1.place.connect_from(22, to).expect("a connection");
        assert!(ask(&mut flow).reached_at("R"), "the container's own connection works");
        forget(&ground.lab);
        syn_is_answered(&ground.lab, port, 22)
    };
    assert!(attempt(), "without fw the host's port 22 answers");
    let _daemon = ground.fw();
    ground.at_both_settings(|bridge_netfilter| {
        let dropped = ground.drops_during("uplink_ingress", "port-not-allowed", || {
            assert!(!attempt(), "the container has opened the host's port 22 ({bridge_netfilter})");
        });
        assert!(dropped >= 1);
    });
}

/// W02, UDP: a flow from a port that has a rule opens nothing to those whom the rule leaves out.
#[test]
fn w02_a_container_opens_no_ruled_udp_port() {
    let Some(ground) = Ground::start("w02_a_container_opens_no_ruled_udp_port") else { return };
    let lab = &ground.lab;
    let servers = || {
        let server = lab.host().serve_udp("[::]:6000", "H").expect("a server");
        (server, lab.outside().serve_udp("[::]:5001", "R").expect("a server"))
    };
    let attempt = |server: &Server, outside: &Server| {
        // What R sent to port 6000 last time would make MASQUERADE choose another port.
        forget(lab);
        let asked = unlike_any_other("W02");
        let own = ground.a1.mac.expect("a MAC address");
        let gateway = lab.host().run(&["cat", "/sys/class/net/br-A/address"]).expect("an address");
        let source = (ground.a1.ip().expect("an address"), 6000);
        let packet = udp(source, (OUTSIDE.into(), 5001), asked.as_bytes());
        let frame = ip_frame(gateway.parse().expect("a MAC address"), own, &packet);
        ground.a1.place.send_frame("eth0", &frame).expect("a frame");
        assert!(outside.hears(&asked, SHORT), "the container's own datagram gets out");
        let from = outside.heard().last().expect("a datagram").from;
        assert_eq!((from.ip(), from.port()), (HOST.into(), 6000), "MASQUERADE keeps the source port");
        forget(lab);
        let answer = unlike_any_other("W02");
        let packet = udp((OUTSIDE.into(), 5001), (HOST.into(), 6000), answer.as_bytes());
        lab.outside().send_frame("eth0", &ip_frame(HOST_MAC, OUTSIDE_MAC, &packet)).expect("a frame");
        server.hears(&answer, SHORT)
    };
    // The two answer each other for ever: as a live connection fw would take that over.
    let (server, outside) = servers();
    assert!(attempt(&server, &outside), "without fw the host's port 6000 hears it");
    drop((server, outside));
    forget(lab);
    let _daemon = ground.fw();
    let (server, outside) = servers();
    ground.at_both_settings(|bridge_netfilter| {
        let dropped = ground.drops_during("uplink_ingress", "source-not-allowed", || {
            assert!(
                !attempt(&server, &outside),
                "the container has opened the host's port 6000 ({bridge_netfilter})"
            );
        });
        assert!(dropped >= 1);
    });
}

/// Conntrack forgets; fw's own flow is still there.
fn forget(lab: &Lab) {
    lab.host().run(&["conntrack", "-F"]).expect("conntrack (package conntrack)");
}

fn syn_is_answered(lab: &Lab, from: u16, to: u16) -> bool {
    let capture = lab.outside().capture("eth0").expect("a capture");
    let packet = tcp((OUTSIDE.into(), from), (HOST.into(), to), SYN, (7_000_000, 0));
    lab.outside().send_frame("eth0", &ip_frame(HOST_MAC, OUTSIDE_MAC, &packet)).expect("a frame");
    let answer = capture.wait_for(SHORT, |frame| {
        frame.len() >= 54
            && frame[23] == 6
            && frame[34..36] == to.to_be_bytes()
            && frame[36..38] == from.to_be_bytes()
            && frame[47] & (SYN | ACK) == SYN | ACK
    });
    answer.is_some()
}

const SHORT: Duration = Duration::from_millis(900);
