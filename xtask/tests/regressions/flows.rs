//! Flows that live longer than conntrack's, or shorter than the connection.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use xtask::lab::frame::{Mac, UDP, ip_frame, ipv6, tcp, udp};
use xtask::lab::{HOST, HOST_MAC, Lab, OUTSIDE, OUTSIDE_MAC, OUTSIDE6, wait};

use crate::ground::{Ground, unlike_any_other};

/// conntrack gives a datagram that is the first reply, however late, 30 s; fw must not give it more.
#[test]
fn late_first_answer_opens_no_host_port() {
    let Some(ground) = Ground::start("late_first_answer_opens_no_host_port") else { return };
    let lab = &ground.lab;
    let server = lab.host().serve_udp("[::]:6500", "H").expect("a server");
    let _daemon = ground.fw();
    assert!(!datagram_heard(lab, &server, false), "a closed port of the host");
    forget_all(lab);
    punch(&ground, 6500);
    wait::pass(Duration::from_secs(5));
    datagram(lab, false, "the only answer");
    wait::until("conntrack has forgotten", Duration::from_secs(45), || {
        (!conntrack(lab).contains("dport=5001")).then_some(())
    })
    .expect("conntrack forgets after 30 s");
    assert!(
        !datagram_heard(lab, &server, false),
        "R reaches a closed UDP port of the host by a container's flow"
    );
}

/// What conntrack does not count (a wrong checksum) must not keep a flow alive.
#[test]
fn wrong_checksums_keep_no_flow_alive() {
    let Some(ground) = Ground::start("wrong_checksums_keep_no_flow_alive") else { return };
    let lab = &ground.lab;
    let server = lab.host().serve_udp("[::]:6500", "H").expect("a server");
    let _daemon = ground.fw();
    forget_all(lab);
    punch(&ground, 6500);
    wait::until("conntrack has forgotten", Duration::from_mins(1), || {
        datagram(lab, true, "wrong");
        (!conntrack(lab).contains("dport=5001")).then_some(())
    })
    .expect("conntrack forgets after 30 s");
    assert!(
        !datagram_heard(lab, &server, false),
        "R kept the container's flow alive alone and uses it for the host"
    );
}

/// T06: a reset out of the window, from whoever knows or guesses the ports, does not end a connection.
#[test]
fn reset_out_of_the_window_ends_nothing() {
    let Some(ground) = Ground::start("reset_out_of_the_window_ends_nothing") else { return };
    let lab = &ground.lab;
    let _daemon = ground.fw();
    let mut pushes = Pushes::open(&ground);
    assert!(pushes.arrive("one"), "R pushes data to the container");
    let reset = tcp((OUTSIDE.into(), 5443), (HOST.into(), pushes.from), RST, (0x1234_5678, 0));
    lab.outside().send_frame("eth0", &ip_frame(HOST_MAC, OUTSIDE_MAC, &reset)).expect("a frame");
    wait::pass(Duration::from_secs(10));
    assert!(pushes.arrive("two"), "the connection lives, but what R sends is dropped: {:?}", lab.fw_drops());
}

/// A container that asks from port 123 (ntpd) on a network without masquerading shares no port with the host.
#[test]
fn low_source_ports_of_containers_with_own_addresses_work() {
    let Some(ground) = Ground::start("low_source_ports_of_containers_with_own_addresses_work") else {
        return;
    };
    let lab = &ground.lab;
    let _server = lab.outside().serve_udp("[::]:123", "R").expect("a server");
    let asks = || ground.a1.place.udp_from(123, (OUTSIDE6, 123).into()).expect("a probe").reached_at("R");
    assert!(asks(), "without fw");
    let _daemon = ground.fw();
    assert!(asks(), "ntpd in a container gets no answer: {:?}", lab.fw_drops());
}

/// X11: to a container's own address nobody joins fragments on the way; those behind an accepted first one follow it.
#[test]
fn fragmented_answers_reach_a_container_at_its_own_address() {
    let Some(ground) = Ground::start("fragmented_answers_reach_a_container_at_its_own_address") else {
        return;
    };
    let lab = &ground.lab;
    let _daemon = ground.fw();
    let outside = lab.outside().within(|| UdpSocket::bind("[::]:5445")).expect("R").expect("a socket");
    let inside = ground.a1.place.within(|| UdpSocket::bind("[::]:0")).expect("a1").expect("a socket");
    inside.set_read_timeout(Some(Duration::from_secs(3))).expect("a limit");
    inside.send_to(b"?", (OUTSIDE6, 5445)).expect("a datagram");
    let (_, asker) = outside.recv_from(&mut [0; 16]).expect("a datagram");
    outside.send_to(&[7; 4000], asker).expect("an answer");
    let mut answer = [0; 8000];
    let length = inside.recv(&mut answer).unwrap_or_else(|error| panic!("{error}: {:?}", lab.fw_drops()));
    assert_eq!(length, 4000);

    // Without its first one, no fragment arrives.
    let own = ground.a1.ip6().expect("an address");
    let lone =
        ipv6(OUTSIDE6, six(own), FRAGMENT, 64, &[&[UDP, 0, 0x01, 0x00, 0, 0, 0, 99][..], &[7; 64]].concat());
    let seen = ground.a1.place.capture("eth0").expect("a capture");
    let dropped = ground.drops_during("uplink_ingress", "unknown-fragment", || {
        lab.outside().send_frame("eth0", &ip_frame(HOST_MAC, OUTSIDE_MAC, &lone)).expect("a frame");
        let arrived = seen.wait_for(Duration::from_secs(1), |frame| frame.ends_with(&lone[40..]));
        assert!(arrived.is_none(), "a lone fragment at the container");
    });
    assert_eq!(dropped, 1);
}

fn six(address: std::net::IpAddr) -> std::net::Ipv6Addr {
    match address {
        std::net::IpAddr::V6(six) => six,
        std::net::IpAddr::V4(four) => four.to_ipv6_mapped(),
    }
}

const FRAGMENT: u8 = 44;

/// A connection from a1 to R on which only R talks.
struct Pushes {
    server: TcpStream,
    lines: BufReader<TcpStream>,
    from: u16,
}

impl Pushes {
    fn open(ground: &Ground) -> Self {
        let outside = ground.lab.outside();
        let listener = outside.within(|| TcpListener::bind("[::]:5443")).expect("R").expect("a listener");
        let client = ground.a1.place.connect((OUTSIDE, 5443).into()).expect("a connection");
        let (server, from) = listener.accept().expect("a connection");
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
        Self { server, lines: BufReader::new(client), from: from.port() }
    }

    fn arrive(&mut self, text: &str) -> bool {
        self.server.write_all(format!("{text}\n").as_bytes()).expect("a write");
        let mut line = String::new();
        self.lines.read_line(&mut line).is_ok_and(|_| line.trim() == text)
    }
}

/// The container's datagram out of `port` to R's 5001, which makes a flow of the host's address.
fn punch(ground: &Ground, port: u16) {
    let lab = &ground.lab;
    let own: Mac = ground.a1.mac.expect("a MAC address");
    let gateway = lab.host().run(&["cat", "/sys/class/net/br-A/address"]).expect("an address");
    let packet = udp((ground.a1.ip().expect("an address"), port), (OUTSIDE.into(), 5001), b"punch");
    let frame = ip_frame(gateway.parse().expect("a MAC address"), own, &packet);
    ground.a1.place.send_frame("eth0", &frame).expect("a frame");
    wait::until("a flow", Duration::from_secs(2), || conntrack(lab).contains("dport=5001").then_some(()))
        .expect("conntrack knows it");
}

fn datagram(lab: &Lab, wrong: bool, text: &str) {
    let mut packet = udp((OUTSIDE.into(), 5001), (HOST.into(), 6500), text.as_bytes());
    if wrong {
        packet[26] ^= 0x55;
    }
    lab.outside().send_frame("eth0", &ip_frame(HOST_MAC, OUTSIDE_MAC, &packet)).expect("a frame");
}

fn datagram_heard(lab: &Lab, server: &xtask::lab::Server, wrong: bool) -> bool {
    let text = unlike_any_other("FLOW");
    datagram(lab, wrong, &text);
    server.hears(&text, Duration::from_secs(1))
}

fn conntrack(lab: &Lab) -> String {
    lab.host().run(&["conntrack", "-L", "-p", "udp"]).expect("conntrack")
}

fn forget_all(lab: &Lab) {
    lab.host().run(&["conntrack", "-F"]).expect("conntrack");
}

const RST: u8 = 0x04;
