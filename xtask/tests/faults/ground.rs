//! The host on which faults happen: its networks and containers, who may not talk, and who does all the time.

use std::net::{IpAddr, SocketAddr};

use xtask::lab::frame::{Mac, ip_frame, tagged, udp};
use xtask::lab::meter::{Allowed, Forbidden, Leaks, Pulse};
use xtask::lab::{self, Container, HOST, HOST6, Lab, OUTSIDE, OUTSIDE6, Options, Outcome, Place, Server};

/// Networks A and B (both families), I (internal), N (without icc); a1 publishes 8070 and 8443/udp to 7070 and 7001, and
/// 8080; b1 publishes 8090.
pub(crate) struct Ground {
    pub(crate) lab: Lab,
    pub(crate) a1: Container,
    pub(crate) a2: Container,
    pub(crate) b1: Container,
    i1: Container,
    n: [Container; 2],
    servers: Vec<Server>,
}

impl Ground {
    /// The host, or nothing (after having said why) where no lab can be made. `options` are for every container.
    pub(crate) fn start(test: &str, dockerd: &[&str], options: &[&str]) -> Option<Self> {
        if !lab::available(test) {
            return None;
        }
        let dockerd = dockerd.iter().map(ToString::to_string).collect();
        let lab = Lab::start(Options { dockerd, ..Options::default() }).expect("a lab");
        for (name, number, more) in
            [("A", 1, &[][..]), ("B", 2, &[]), ("I", 3, &["--internal"]), ("N", 4, &["-o", CLOSED])]
        {
            let subnets =
                [format!("--subnet=10.{number}.0.0/24"), format!("--subnet=2001:db8:{number}::/64")];
            let arguments = [&["--ipv6", &subnets[0], &subnets[1]], more].concat();
            lab.network(name, &arguments).expect("a network");
        }
        let container =
            |name: &str, more: &[&str]| lab.container(name, &[more, options].concat()).expect("a container");
        let published = ["-p=8070:7070", "-p=8070:7070/udp", "-p=8443:7001/udp", "-p=8080:80"];
        let a1 = container("a1", &[&["--network=A"][..], &published].concat());
        let a2 = container("a2", &["--network=A"]);
        let b1 = container("b1", &["--network=B", "-p=8090:80"]);
        let i1 = container("i1", &["--network=I"]);
        let n = ["n1", "n2"].map(|name| container(name, &["--network=N"]));
        let mut ground = Self { lab, a1, a2, b1, i1, n, servers: Vec::new() };
        ground.settle();
        Some(ground)
    }

    /// Serves in the containers, and gives i1 the routes that Docker does not.
    fn settle(&mut self) {
        self.i1
            .place
            .script("ip route replace default via 10.3.0.1; ip -6 route replace default via 2001:db8:3::1")
            .expect("routes");
        let outside = self.lab.outside().serve_tcp("[::]:443", "R").expect("a server");
        self.servers = vec![serve(&self.a1), serve(&self.b1), outside];
    }

    /// Begins to probe everything that must not pass.
    pub(crate) fn leaks(&self) -> Leaks {
        let (lab, outside, host) = (&self.lab, self.lab.outside(), self.lab.host());
        let mut pairs = Vec::new();
        let mut forbid = |what: &str, from: &Place, to: SocketAddr, at: &Place, twin: SocketAddr| {
            pairs.push(Forbidden::datagrams(what, (from, to), (at, twin.port()), (host, twin)));
        };
        for (family, host_address, outside_address) in
            [("IPv4", IpAddr::from(HOST), IpAddr::from(OUTSIDE)), ("IPv6", HOST6.into(), OUTSIDE6.into())]
        {
            let of = |container: &Container| {
                if family == "IPv4" { container.ip() } else { container.ip6() }.expect("an address")
            };
            let named = |what: &str| format!("{what}, {family}");
            let closed = SocketAddr::new(host_address, 9100);
            forbid(&named("R -> H:9100"), outside, closed, host, closed);
            let away = SocketAddr::new(outside_address, 7002);
            forbid(&named("i1 -> R"), &self.i1.place, away, outside, away);
            forbid(&named("i1 -> H"), &self.i1.place, closed, host, closed);
            for (what, from, to) in [
                ("R -> a1", outside, &self.a1),
                ("R -> i1", outside, &self.i1),
                ("a2 -> b1", &self.a2.place, &self.b1),
                ("b1 -> a1", &self.b1.place, &self.a1),
                ("a1 -> i1", &self.a1.place, &self.i1),
                ("i1 -> a1", &self.i1.place, &self.a1),
            ] {
                let there = SocketAddr::new(of(to), 7001);
                forbid(&named(what), from, there, &to.place, there);
            }
        }
        let a1 = SocketAddr::new(self.a1.ip().expect("IPv4"), 7001);
        forbid("R -> H:8443, published", outside, (HOST, 8443).into(), &self.a1.place, a1);
        pairs.extend(self.neighbours());
        Leaks::start(pairs).unwrap_or_else(|error| panic!("the leak meter of {}: {error:#}", lab.name()))
    }

    /// n1 -> n2, plain and behind a tag.
    fn neighbours(&self) -> Vec<Forbidden> {
        let [n1, n2] = &self.n;
        let macs = (n2.mac.expect("a MAC address"), n1.mac.expect("a MAC address"));
        let twin = SocketAddr::new(n2.ip().expect("IPv4"), 7001);
        let frame =
            |(to, from): (Mac, Mac), (source, destination): (IpAddr, IpAddr), tags: &'static [u16]| {
                move |words: &[u8]| {
                    tagged(&ip_frame(to, from, &udp((source, 6001), (destination, 7001), words)), tags)
                }
            };
        let v4 = (n1.ip().expect("IPv4"), n2.ip().expect("IPv4"));
        let v6 = (n1.ip6().expect("IPv6"), n2.ip6().expect("IPv6"));
        let kinds: [(&str, (IpAddr, IpAddr), &'static [u16]); 4] = [
            ("n1 -> n2, IPv4", v4, &[]),
            ("n1 -> n2, IPv4 behind a tag", v4, &[0]),
            ("n1 -> n2, IPv6", v6, &[]),
            ("n1 -> n2, IPv6 behind a tag", v6, &[0]),
        ];
        kinds
            .into_iter()
            .map(|(what, pair, tags)| {
                Forbidden::frames(
                    what,
                    (&n1.place, "eth0"),
                    frame(macs, pair, tags),
                    (&n2.place, "eth0"),
                    (self.lab.host(), twin),
                )
            })
            .collect()
    }

    /// Begins to ping over what may pass.
    pub(crate) fn pulse(&self) -> Pulse {
        let (outside, host) = (self.lab.outside(), self.lab.host());
        let [a1, a2] = [&self.a1, &self.a2];
        let there = |container: &Container, port| SocketAddr::new(container.ip().expect("IPv4"), port);
        let there6 = |container: &Container, port| SocketAddr::new(container.ip6().expect("IPv6"), port);
        let pairs = [
            Allowed::tcp("R -> a1, published", (outside, (HOST, 8070).into()), (&a1.place, 7070)),
            Allowed::udp("R -> a1, published, UDP", (outside, (HOST, 8070).into()), (&a1.place, 7070)),
            Allowed::tcp("a1 -> R", (&a1.place, (OUTSIDE, 7004).into()), (outside, 7004)),
            Allowed::udp("a1 -> R, UDP", (&a1.place, (OUTSIDE, 7004).into()), (outside, 7004)),
            Allowed::tcp("a1 -> R, IPv6", (&a1.place, (OUTSIDE6, 7006).into()), (outside, 7006)),
            Allowed::udp("a1 -> R, UDP over IPv6", (&a1.place, (OUTSIDE6, 7006).into()), (outside, 7006)),
            Allowed::tcp("a2 -> a1", (&a2.place, there(a1, 7071)), (&a1.place, 7071)),
            Allowed::tcp("a2 -> a1, IPv6", (&a2.place, there6(a1, 7072)), (&a1.place, 7072)),
            Allowed::tcp("H -> b1, IPv6", (host, there6(&self.b1, 7073)), (&self.b1.place, 7073)),
        ];
        Pulse::start(&pairs).unwrap_or_else(|error| panic!("the liveness meter: {error:#}"))
    }

    /// Whether what is published is reached by new connections, and the outside by containers.
    pub(crate) fn opens(&self) -> bool {
        let tcp = |place: &Place, port: u16, name: &str| {
            let to = if name == "R" { OUTSIDE } else { HOST };
            place.tcp((to, port).into()).is_ok_and(|outcome| outcome.reached_at(name))
        };
        let outside = self.lab.outside();
        tcp(outside, 8080, "a1") && tcp(outside, 8090, "b1") && tcp(&self.a2.place, 443, "R")
    }

    /// A further container on A whose port 80 is published as `port`, with a server.
    pub(crate) fn newcomer(&self, name: &str, port: u16) -> (Container, Server) {
        let published = format!("-p={port}:80");
        let container = self.lab.container(name, &["--network=A", &published]).expect("a container");
        let server = serve(&container);
        (container, server)
    }

    /// Whether that container is reached from outside.
    pub(crate) fn reaches(&self, name: &str, port: u16) -> bool {
        let outcome = self.lab.outside().tcp((HOST, port).into()).expect("a probe");
        assert!(matches!(outcome, Outcome::Reach(_) | Outcome::Silent), "{name}: {outcome:?}");
        outcome.reached_at(name)
    }
}

fn serve(container: &Container) -> Server {
    container.place.serve_tcp("[::]:80", &container.name).expect("a server")
}

const CLOSED: &str = "com.docker.network.bridge.enable_icc=false";

/// What is not named here is closed: 8443 is published all the same.
pub(crate) const POLICY: &str = r#"
[[allow]]
name = "web"
proto = "tcp"
ports = [8070, 8080, 8090, "8100-8199"]

[[allow]]
name = "pings"
proto = "udp"
ports = [8070]
"#;
