//! The town: the networks, containers and servers that the tests probe, the same in every test.
//!
//! | network | what | containers |
//! |---|---|---|
//! | A | IPv4 | a1 (publishes 8080, on loopback 8088 and 5000/udp, 5353/udp), a2, l1 (publishes on loopback only) |
//! | B | IPv4 | b1 (publishes 8090), e1 (8081 → 8443), e2 (8443 → 80), k1 (8101–8103 → 80–82, and 83 where Docker likes), also on A |
//! | I | internal | i1, i2 (publishes 8104), each with a default route added by hand |
//! | N | icc = false | n1, n2 (publishes 8089) |
//! | M | no masquerading | m1 |
//! | H | publishes on H's IPv4 address, MTU 1400 | h1 (publishes 8100) |
//! | 6A 6B 6I | IPv6 (6I internal) | x1 (publishes 8096), x2, y1, z1, z2 |
//! | default | icc = false | d1 (publishes 8105), svr, client (linked to svr) |
//!
//! With Docker 28 or later also, each of them reached in its own way:
//!
//! | network | what | containers |
//! |---|---|---|
//! | RT | routed, both families | r1 (publishes 80, 82) |
//! | R4 | routed | w1 (publishes 80), whose default route is A's |
//! | U | nat-unprotected | u1 (publishes 8097) |
//! | O | internal, isolated | o1, o2 |
//! | T | nat, trusts the uplink | t1 (publishes 8098) |

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result};

use super::{Container, Generation, Lab, Server};

/// The inhabitants of a lab.
#[derive(Debug)]
pub struct Town {
    containers: BTreeMap<&'static str, Container>,
    servers: BTreeMap<&'static str, Server>,
    _others: Vec<Server>,
}

impl Town {
    /// Makes networks, containers and servers in a lab whose dockerd was given [`Town::dockerd`].
    pub fn build(lab: &Lab) -> Result<Self> {
        for (name, options) in NETWORKS {
            lab.network(name, options)?;
        }
        let mut containers = BTreeMap::new();
        for (name, options) in CONTAINERS {
            containers.insert(*name, lab.container(name, options)?);
        }
        if lab.options().docker >= Generation::V28_5 {
            for (name, options) in MODES {
                lab.network(name, options)?;
            }
            let trusted = format!("com.docker.network.bridge.trusted_host_interfaces={}", lab.uplink());
            lab.network("T", &["--subnet", "10.7.8.0/24", "-o", &trusted])?;
            for (name, options) in MODES_CONTAINERS {
                containers.insert(*name, lab.container(name, options)?);
            }
            lab.docker(&["network", "connect", "--ip", "10.7.4.9", "R4", "w1"])?;
        }
        lab.docker(&["network", "connect", "A", "k1"])?;
        for name in ["i1", "i2"] {
            lab.docker(&["exec", name, "ip", "route", "replace", "default", "via", "10.3.0.1"])?;
        }
        let mut others = Vec::new();
        for (name, container) in &containers {
            for port in [80, 81, 82, 83] {
                others.push(container.place.serve_tcp(&format!("[::]:{port}"), name)?);
            }
        }
        let e1 = containers.get("e1").context("the town has e1")?;
        others.push(e1.place.serve_tcp("[::]:8443", "e1")?);
        let a2 = containers.get("a2").context("the town has a2")?;
        // What a container of `--network container:a2` would serve: the namespace is the same.
        others.push(a2.place.serve_tcp("[::]:8000", "s2")?);
        for port in [22, 2222, 2223, 2375, 9100] {
            others.push(lab.host().serve_tcp(&format!("[::]:{port}"), "H")?);
        }
        // What a container of `--network host` would.
        others.push(lab.host().serve_tcp("[::]:9101", "h1")?);
        others.push(lab.outside().serve_tcp("[::]:443", "R")?);
        others.push(lab.outside().serve_udp("[::]:443", "R")?);
        let mut servers = BTreeMap::new();
        for name in ["a1", "a2", "b1", "n2", "i1", "x1", "y1", "z1"] {
            let place = &containers.get(name).context("a container with a UDP server")?.place;
            servers.insert(name, place.serve_udp("[::]:5000", name)?);
        }
        others.push(containers.get("a1").context("the town has a1")?.place.serve_udp("[::]:5353", "a1")?);
        servers.insert("H", lab.host().serve_udp("[::]:6000", "H")?);
        servers.insert("R", lab.outside().serve_tcp("[::]:444", "R")?);
        Ok(Self { containers, servers, _others: others })
    }

    /// The container of that name.
    pub fn at(&self, name: &str) -> &Container {
        self.containers.get(name).unwrap_or_else(|| panic!("no container {name} in the town"))
    }

    /// IPv4 address of a container.
    pub fn ip(&self, name: &str) -> Result<IpAddr> {
        self.at(name).ip()
    }

    /// IPv6 address of a container.
    pub fn ip6(&self, name: &str) -> Result<IpAddr> {
        self.at(name).ip6()
    }

    /// The server that remembers what it hears: UDP 5000 of containers, UDP 6000 of H, TCP 444 of R.
    pub fn server(&self, name: &str) -> &Server {
        self.servers.get(name).unwrap_or_else(|| panic!("no remembering server {name} in the town"))
    }

    /// Arguments that dockerd needs for this town.
    pub fn dockerd() -> Vec<String> {
        vec!["--icc=false".to_owned()]
    }
}

/// The policy under which the town is probed: what is not named here is closed.
pub const POLICY: &str = r#"
[uplink]
published = "closed"

[sets]
neighbours = ["198.18.0.0/24", "2001:db8:18::/64"]
far-away = ["203.0.113.0/24"]

[[allow]]
name = "web"
proto = "tcp"
ports = [8080, 8081, "8089-8090", 8096]

[[allow]]
name = "dns"
proto = "udp"
ports = [5353]

[[allow]]
name = "ssh"
proto = "tcp"
ports = [22]

[[allow]]
name = "far-away-only"
proto = "tcp"
ports = [2222]
from = ["far-away"]

[[allow]]
name = "neighbours-only"
proto = "tcp"
ports = [2223]
from = ["neighbours"]

[[allow]]
name = "ping"
proto = "icmp"
"#;

const NETWORKS: &[(&str, &[&str])] = &[
    ("A", &["--subnet", "10.1.0.0/24"]),
    ("B", &["--subnet", "10.2.0.0/24"]),
    ("I", &["--subnet", "10.3.0.0/24", "--internal"]),
    ("N", &["--subnet", "10.4.0.0/24", "-o", "com.docker.network.bridge.enable_icc=false"]),
    ("M", &["--subnet", "10.5.0.0/24", "-o", "com.docker.network.bridge.enable_ip_masquerade=false"]),
    (
        "H",
        &[
            "--subnet",
            "10.5.1.0/24",
            "-o",
            "com.docker.network.bridge.host_binding_ipv4=198.18.0.1",
            "-o",
            "com.docker.network.driver.mtu=1400",
        ],
    ),
    ("6A", &["--subnet", "10.6.1.0/24", "--ipv6", "--subnet", "2001:db8:a::/64"]),
    ("6B", &["--subnet", "10.6.2.0/24", "--ipv6", "--subnet", "2001:db8:b::/64"]),
    ("6I", &["--subnet", "10.6.3.0/24", "--ipv6", "--subnet", "2001:db8:1::/64", "--internal"]),
];

const CONTAINERS: &[(&str, &[&str])] = &[
    (
        "a1",
        &[
            "--network=A",
            "-p=8080:80",
            "-p=127.0.0.1:8088:80",
            "-p=127.0.0.2:5000:5000/udp",
            "-p=5353:5353/udp",
            "-p=127.0.1.2:8077:80",
        ],
    ),
    ("a2", &["--network=A"]),
    ("l1", &["--network=A", "-p=127.0.0.1:8091:80"]),
    ("b1", &["--network=B", "-p=8090:80", "-p=127.0.1.3:8077:80"]),
    ("e1", &["--network=B", "-p=8081:8443"]),
    ("e2", &["--network=B", "-p=8443:80"]),
    ("i1", &["--network=I"]),
    ("i2", &["--network=I", "-p=8104:80"]),
    ("h1", &["--network=H", "-p=8100:80"]),
    ("k1", &["--network=B", "-p=8101-8103:80-82", "-P", "--expose=83"]),
    ("n1", &["--network=N"]),
    ("n2", &["--network=N", "-p=8089:80"]),
    ("m1", &["--network=M"]),
    ("x1", &["--network=6A", "-p=8096:80"]),
    ("x2", &["--network=6A"]),
    ("y1", &["--network=6B"]),
    ("z1", &["--network=6I"]),
    ("z2", &["--network=6I"]),
    ("d1", &["-p=8105:80"]),
    ("svr", &["--expose=80"]),
    ("client", &["--link=svr:alias"]),
];

const MODES: &[(&str, &[&str])] = &[
    (
        "RT",
        &[
            "--subnet",
            "10.7.1.0/24",
            "--ipv6",
            "--subnet",
            "2001:db8:7::/64",
            "-o",
            "com.docker.network.bridge.gateway_mode_ipv4=routed",
            "-o",
            "com.docker.network.bridge.gateway_mode_ipv6=routed",
        ],
    ),
    ("R4", &["--subnet", "10.7.4.0/24", "-o", "com.docker.network.bridge.gateway_mode_ipv4=routed"]),
    ("U", &["--subnet", "10.7.5.0/24", "-o", "com.docker.network.bridge.gateway_mode_ipv4=nat-unprotected"]),
    (
        "O",
        &[
            "--subnet",
            "10.7.6.0/24",
            "--internal",
            "-o",
            "com.docker.network.bridge.gateway_mode_ipv4=isolated",
        ],
    ),
];

const MODES_CONTAINERS: &[(&str, &[&str])] = &[
    ("r1", &["--network=RT", "-p=80", "-p=82"]),
    ("w1", &["--network=A", "-p=80"]),
    ("u1", &["--network=U", "-p=8097:80"]),
    ("o1", &["--network=O"]),
    ("o2", &["--network=O"]),
    ("t1", &["--network=T", "-p=8098:80"]),
];
