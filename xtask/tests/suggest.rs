//! `fw suggest`: a day's traffic is observed, what is suggested is enforced, and the same traffic passes; all else is closed.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use xtask::lab::{self, Container, HOST, HOST6, Lab, OUTSIDE, Options, Place, SOCKET, Server, ask};

#[test]
fn what_was_observed_passes_and_nothing_else() {
    if !lab::available("what_was_observed_passes_and_nothing_else") {
        return;
    }
    let ground = Ground::start();
    let lab = &ground.lab;
    let _daemon = lab.fw_run(POLICY).expect("fw");
    // Docker's own isolation and its network without icc close two of them until the policy says otherwise.
    let closed_by_docker = ["shop to back", "q1 to q2"];
    for round in 0..2 {
        for flow in ground.flows() {
            let closed = closed_by_docker.contains(&flow.name);
            assert!(closed && round > 0 || flow.reached(&ground) != closed, "{} in round {round}", flow.name);
        }
    }
    ground.evil();

    let arguments = ["suggest", "--docker", SOCKET, "--policy", FILE];
    let suggested = lab.fw(&arguments).expect("a suggestion");
    for part in [
        "proto = \"tcp\"\nports = [22]\nfrom = [\"198.18.0.11\", \"2001:db8:18::11\"]",
        "proto = \"tcp\"\nports = [8082]\nfrom = [\"198.18.0.11\", \"198.18.0.12\"]",
        "ports = [8081]\n# REVIEW: from any: 20 addresses",
        "answered by web2",
        "reach = [\"back\"]",
        "icc = true",
        "host = \"allow\"",
        "egress = [\"198.18.0.2\"]",
        "# a comment of mine",
        "nobody answers there, and the source has tried many; 26 packets from 203.0.113.66",
        "source-inside: no policy lets it pass",
        "direct-access: no policy lets it pass",
    ] {
        assert!(suggested.contains(part), "{part:?} is not in:\n{suggested}");
    }
    let rules = suggested.split("# Not suggested").next().unwrap_or_default();
    assert!(!rules.contains("203.0.113.66"), "a scanner is let in:\n{suggested}");
    let new = "/run/lab/new.toml";
    fs::write(lab.path(new), &suggested).expect("a file");
    lab.host()
        .run(&[&lab::fw_binary().expect("fw").display().to_string(), "check", new])
        .expect("a valid policy");
    let json = lab.fw(&[&arguments[..], &["--json", "--min-packets", "2"]].concat()).expect("JSON");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(
        json["suggested"]
            .as_array()
            .is_some_and(|added| added.iter().all(|it| it["packets"].as_u64() > Some(1)))
    );

    let enforced = suggested.replace("mode = \"observe\"", "mode = \"enforce\"");
    fs::write(lab.path(FILE), enforced).expect("a policy");
    lab.fw(&["reload"]).expect("it is in force");
    let before = lab.fw_drops().expect("counters");
    for flow in ground.flows() {
        assert!(flow.reached(&ground), "{}: {:?}", flow.name, lab.fw_drops());
    }
    assert_eq!(lab.fw_drops().expect("counters"), before, "nothing of it is dropped");

    for (name, from, to) in [
        ("another source", "198.18.0.12", (HOST, 22)),
        ("the scanner", "203.0.113.66", (HOST, 22)),
        ("the scanner at a container", "203.0.113.66", (HOST, 8082)),
        ("a port that nobody asked for", "198.18.0.11", (HOST, 9999)),
    ] {
        assert!(!tcp(lab.outside(), address(from), to.into()), "{name} comes in");
    }
    assert!(
        !ground
            .web1
            .place
            .tcp((ground.quiet[1].ip().expect("an address"), 80).into())
            .expect("a probe")
            .reached()
    );
}

struct Ground {
    lab: Lab,
    web1: Container,
    web2: Container,
    db: Container,
    job: Container,
    quiet: [Container; 2],
    _servers: Vec<Server>,
}

/// Traffic that somebody needs.
struct Flow {
    name: &'static str,
    from: Vec<&'static str>,
    what: What,
}

enum What {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Ping,
    /// From a container, over TCP.
    Of(Container, SocketAddr),
}

impl Flow {
    fn reached(&self, ground: &Ground) -> bool {
        let outside = ground.lab.outside();
        match &self.what {
            What::Tcp(to) => self.from.iter().all(|from| tcp(outside, address(from), *to)),
            What::Udp(to) => self.from.iter().all(|from| udp(outside, address(from), *to)),
            What::Ping => outside.ping(HOST.into()).expect("a ping").reached(),
            What::Of(container, to) => container.place.tcp(*to).expect("a probe").reached(),
        }
    }
}

impl Ground {
    fn start() -> Self {
        let lab = Lab::start(Options::default()).expect("a lab");
        for network in ["shop", "back", "jobs"] {
            lab.network(network, &[]).expect("a network");
        }
        lab.network("quiet", &["-o", "com.docker.network.bridge.enable_icc=false"]).expect("a network");
        let container = |name: &str, options: &[&str]| lab.container(name, options).expect("a container");
        let web1 = container("web1", &["--network", "shop", "-p", "8081:80"]);
        let web2 = container("web2", &["--network", "shop", "-p", "8082:80", "-p", "5300:53/udp"]);
        let db = container("db", &["--network", "back", "-p", "8443:443", "-p", "5301:5301/udp"]);
        let job = container("job", &["--network", "jobs"]);
        let quiet = ["q1", "q2"].map(|name| container(name, &["--network", "quiet"]));
        let tcp = |place: &Place, port: u16| {
            place.serve_tcp(&format!("[::]:{port}"), place.name()).expect("a server")
        };
        let udp = |place: &Place, port: u16| {
            place.serve_udp(&format!("0.0.0.0:{port}"), place.name()).expect("a server")
        };
        let host = lab.host();
        let servers = vec![
            tcp(host, 22),
            tcp(host, 9100),
            udp(host, 5400),
            tcp(&web1.place, 80),
            tcp(&web2.place, 80),
            udp(&web2.place, 53),
            tcp(&db.place, 443),
            tcp(&db.place, 5432),
            udp(&db.place, 5301),
            tcp(&quiet[1].place, 80),
            tcp(lab.outside(), 443),
        ];
        let script = "for a in 198.18.0.11/24 198.18.0.12/24 198.18.0.13/24 203.0.113.66/32 10.200.0.77/32; do \
                      ip addr add $a dev eth0; done; ip addr add 2001:db8:18::11/64 dev eth0 nodad; \
                      for n in $(seq 1 20); do ip addr add 100.70.$n.1/32 dev eth0; done";
        lab.outside().script(script).expect("more sources");
        Self { lab, web1, web2, db, job, quiet, _servers: servers }
    }

    fn flows(&self) -> Vec<Flow> {
        const CROWD: [&str; 20] = [
            "100.70.1.1",
            "100.70.2.1",
            "100.70.3.1",
            "100.70.4.1",
            "100.70.5.1",
            "100.70.6.1",
            "100.70.7.1",
            "100.70.8.1",
            "100.70.9.1",
            "100.70.10.1",
            "100.70.11.1",
            "100.70.12.1",
            "100.70.13.1",
            "100.70.14.1",
            "100.70.15.1",
            "100.70.16.1",
            "100.70.17.1",
            "100.70.18.1",
            "100.70.19.1",
            "100.70.20.1",
        ];
        let (a, b, c) = ("198.18.0.11", "198.18.0.12", "198.18.0.13");
        let to = |port: u16| SocketAddr::from((HOST, port));
        let flow = |name, from: &[&'static str], what| Flow { name, from: from.to_vec(), what };
        let of =
            |container: &Container, ip: IpAddr, port: u16| What::Of(container.clone(), (ip, port).into());
        let ip = |container: &Container| container.ip().expect("an address");
        vec![
            flow("ssh", &[a], What::Tcp(to(22))),
            flow("ssh over IPv6", &["2001:db8:18::11"], What::Tcp((HOST6, 22).into())),
            flow("the web", &CROWD, What::Tcp(to(8081))),
            flow("web2", &[a, b], What::Tcp(to(8082))),
            flow("the interface of db", &[c], What::Tcp(to(8443))),
            flow("names", &[a, b], What::Udp(to(5300))),
            flow("games", &[c], What::Udp(to(5301))),
            flow("metrics", &[b], What::Tcp(to(9100))),
            flow("syslog", &[a], What::Udp(to(5400))),
            flow("ping", &[], What::Ping),
            flow("shop to back", &[], of(&self.web2, ip(&self.db), 5432)),
            flow("q1 to q2", &[], of(&self.quiet[0], ip(&self.quiet[1]), 80)),
            flow("job to the outside", &[], of(&self.job, OUTSIDE.into(), 443)),
            flow("job to the host", &[], of(&self.job, HOST.into(), 9100)),
        ]
    }

    /// A scan of closed and of open ports, a source that lies, and direct access.
    fn evil(&self) {
        let outside = self.lab.outside();
        for port in (23..49).chain([22, 8082, 9100]) {
            tcp(outside, address("203.0.113.66"), (HOST, port).into());
        }
        outside
            .within(|| UdpSocket::bind("10.200.0.77:0").and_then(|socket| socket.send_to(b"x", (HOST, 5300))))
            .expect("the outside")
            .expect("a datagram");
        let to = (self.web1.ip().expect("an address"), 80).into();
        outside.tcp(to).expect("a probe");
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Whether a server answers a connection from this source.
fn tcp(place: &Place, from: IpAddr, to: SocketAddr) -> bool {
    let opened = place.within(|| {
        let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // It bounds the wait for the connection, too.
        setsockopt(&socket, sockopt::SendTimeout, &TimeVal::milliseconds(1500))?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::from((from, 0))))?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok::<_, nix::Error>(TcpStream::from(socket))
    });
    opened.expect("a place").is_ok_and(|mut stream| ask(&mut stream).reached())
}

/// Whether a server answers a datagram from this source, or one of two more.
fn udp(place: &Place, from: IpAddr, to: SocketAddr) -> bool {
    let asked = place.within(|| {
        let socket = UdpSocket::bind((from, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(700)))?;
        socket.connect(to)?;
        let mut buffer = [0; 64];
        Ok::<_, std::io::Error>((0..3).any(|_| {
            socket.send(b"anybody there?").is_ok() && socket.recv(&mut buffer).is_ok_and(|length| length > 0)
        }))
    });
    asked.expect("a place").unwrap_or(false)
}

const FILE: &str = "/run/lab/policy.toml";
const POLICY: &str = "mode = \"observe\"

# a comment of mine
[networks.jobs]
egress = \"none\"
host = \"deny\"
";
