//! The host on which terms are tried: a network for each kind, and an outside of public and private addresses.

use super::*;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Addresses of R, IPv4 and IPv6: a public one, one in the set `friends`, a private one.
pub(crate) const PUBLIC: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 0x10)),
];
pub(crate) const FRIEND: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 9)),
];
pub(crate) const PRIVATE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 168, 99, 9)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 9))];
/// An address that becomes the host's by a route alone.
pub(crate) const OFF_LINK: &str = "203.0.113.200";
/// A service of the host, TCP and UDP.
pub(crate) const HOST_PORT: u16 = 9053;
/// A published UDP port behind which nobody listens.
pub(crate) const CLOSED_UDP: u16 = 5354;

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Udp,
    Ping,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Ping];

    pub(crate) fn probe(self, from: &Place, to: IpAddr, port: u16) -> Outcome {
        let outcome = match self {
            Self::Tcp => from.tcp((to, port).into()),
            Self::Udp => from.udp((to, port).into()),
            Self::Ping => from.ping(to),
        };
        outcome.expect("a probe")
    }

    /// The port on which every container serves this.
    pub(crate) const fn container_port(self) -> u16 {
        match self {
            Self::Tcp => 80,
            Self::Udp | Self::Ping => 53,
        }
    }
}

/// A host with containers on networks of every kind.
pub(crate) struct Ground {
    pub(crate) lab: Lab,
    pub(crate) none: Container,
    pub(crate) free: Container,
    pub(crate) internet: Container,
    pub(crate) sets: Container,
    pub(crate) open: Container,
    pub(crate) shy: Container,
    pub(crate) closed: Container,
    _servers: Vec<Server>,
}

impl Ground {
    /// The host, or nothing (after having said why) where no lab can be made.
    pub(crate) fn start(test: &str) -> Option<Self> {
        if !lab::available(test) {
            return None;
        }
        let lab = Lab::start(Options::default()).expect("a lab");
        for (name, number) in [("none", 1), ("internet", 2), ("sets", 3), ("open", 4), ("closed", 5)] {
            network(&lab, name, number, &[]);
        }
        let container = |name: &str, options: &[&str]| lab.container(name, options).expect("a container");
        let none =
            container("none", &["--network=none-net", "-p=8080:80", "-p=5353:53/udp", "-p=5354:54/udp"]);
        let ground = Self {
            free: container("free", &["--network=none-net"]),
            internet: container("internet", &["--network=internet-net"]),
            sets: container("sets", &["--network=sets-net"]),
            open: container("open", &["--network=open-net"]),
            shy: container("shy", &["--network=open-net"]),
            closed: container("closed", &["--network=closed-net", "-p=8081:80"]),
            none,
            _servers: Vec::new(),
            lab,
        };
        let outside = ground.lab.outside();
        let mut servers = Vec::new();
        for address in [PUBLIC, FRIEND, PRIVATE].concat() {
            let bits = if address.is_ipv4() { "32" } else { "128" };
            let nodad = if address.is_ipv4() { "" } else { "nodad" };
            outside.script(&format!("ip addr add {address}/{bits} dev lo {nodad}")).expect("an address");
            // A datagram's answer comes from the address that was asked only if the socket is bound to it.
            servers.extend(serve(
                outside,
                SocketAddr::from((address, 443)),
                SocketAddr::from((address, 443)),
                "R",
            ));
        }
        for container in [&ground.none, &ground.closed] {
            servers.extend(serve_any(&container.place, 80, 53));
        }
        let host = ground.lab.host();
        servers.push(host.serve_tcp(&format!("[::]:{HOST_PORT}"), "H").expect("a server"));
        for container in [&ground.none, &ground.open, &ground.closed] {
            for v6 in [false, true] {
                let at = SocketAddr::from((gateway(container, v6), HOST_PORT));
                servers.push(host.serve_udp(&at.to_string(), "H").expect("a server"));
            }
        }
        let at = SocketAddr::from((HOST, HOST_PORT));
        servers.push(host.serve_udp(&at.to_string(), "H").expect("a server"));
        Some(Self { _servers: servers, ..ground })
    }

    /// Starts fw with [`POLICY`].
    pub(crate) fn fw(&self) -> Daemon<'_> {
        self.lab.fw_run(POLICY).expect("fw")
    }

    /// Has the daemon take another policy.
    pub(crate) fn reload(&self, daemon: &Daemon<'_>, policy: &str) {
        std::fs::write(self.lab.path("/run/lab/policy.toml"), policy).expect("the lab's policy");
        daemon.signal("HUP").expect("a signal");
    }

    /// A drop counter.
    pub(crate) fn drops(&self, hook: &str, reason: &str) -> u64 {
        drops(&self.lab, hook, reason)
    }
}

/// A drop counter.
pub(crate) fn drops(lab: &Lab, hook: &str, reason: &str) -> u64 {
    let drops = dropped(lab);
    drops.get(&(hook.to_owned(), reason.to_owned())).copied().unwrap_or(0)
}

/// The counters are there without a daemon, too: `fw table` does not ask for one.
fn dropped(lab: &Lab) -> lab::Drops {
    let text = lab.fw(&["table", "--json", "counters"]).expect("the counters");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
    let count = |row: &serde_json::Value| {
        let text = |key: &str| row[key].as_str().expect("a name").to_owned();
        ((text("hook"), text("reason")), row["packets"].as_u64().expect("a number"))
    };
    rows.iter().filter(|row| row["drop"] == true).map(count).collect()
}

/// The host's address on a container's network: the first of the subnet.
pub(crate) fn gateway(container: &Container, v6: bool) -> IpAddr {
    if v6 {
        let mut segments = container.v6.expect("an address").segments();
        segments[7] = 1;
        return Ipv6Addr::from(segments).into();
    }
    container.gateway.expect("a gateway").into()
}

/// A dual-stack network `NAME-net`.
pub(crate) fn network(lab: &Lab, name: &str, number: u8, options: &[&str]) {
    let subnets = [format!("--subnet=10.{number}.0.0/24"), format!("--subnet=2001:db8:{number}::/64")];
    let mut arguments = vec!["--ipv6", &subnets[0], &subnets[1]];
    arguments.extend(options);
    lab.network(&format!("{name}-net"), &arguments).expect("a network");
}

/// TCP and UDP servers with the place's name.
pub(crate) fn serve_any(place: &Place, tcp: u16, udp: u16) -> [Server; 2] {
    let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    serve(place, any(tcp), any(udp), place.name())
}

fn serve(place: &Place, tcp: SocketAddr, udp: SocketAddr, says: &str) -> [Server; 2] {
    [place.serve_tcp(&tcp.to_string(), says), place.serve_udp(&udp.to_string(), says)]
        .map(|server| server.expect("a server"))
}

pub(crate) const POLICY: &str = r#"
[sets]
friends = ["203.0.113.9", "2001:db8:99::9"]

[[allow]]
name = "web"
proto = "tcp"
ports = [8080]

[[allow]]
name = "dns"
proto = "udp"
ports = [5353, 5354]

[networks.none-net]
egress = "none"

[networks.internet-net]
egress = "internet"

[networks.sets-net]
egress = ["friends"]

[networks.closed-net]
host = "deny"

[containers.free]
egress = "any"

[containers.shy]
egress = "none"
host = "deny"
"#;
