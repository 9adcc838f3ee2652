//! A Docker host on which every kind of connection is open, and its policies.

use std::net::{IpAddr, SocketAddr};

use xtask::lab::{self, Container, Daemon, HOST, HOST6, Lab, OUTSIDE, OUTSIDE6, Options};

use crate::talks::{Kind, Opening};

/// What is not named here is closed: 22 and 8080 are open, 2222, 8081, 5353/udp and 6000/udp not. `shut` may open nothing.
pub(crate) const POLICY: &str = r#"
[[allow]]
name = "ssh"
proto = "tcp"
ports = [22]

[[allow]]
name = "web"
proto = "tcp"
ports = [8080]

[networks.shut]
egress = "none"
host = "deny"
"#;

pub(crate) struct Ground {
    pub(crate) lab: Lab,
    pub(crate) web: Container,
    pub(crate) shut: Container,
    pub(crate) other: Container,
    pub(crate) six: Container,
}

/// Under which `changes.rs` opens its connections; [`NARROW`] lets fewer of them be.
pub(crate) const WIDE: &str = r#"
[[allow]]
name = "ssh"
proto = "tcp"
ports = [22]

[[allow]]
name = "web"
proto = "tcp"
ports = [8080]

[[allow]]
name = "passing"
proto = "tcp"
ports = [2222, 8081]

[[allow]]
name = "datagrams"
proto = "udp"
ports = [5353, 6000]

[networks.web]
reach = ["shut"]
"#;

/// Without the rules `passing` and `datagrams`, and without `reach`; `shut` and `six` may open less.
pub(crate) const NARROW: &str = r#"
[[allow]]
name = "ssh"
proto = "tcp"
ports = [22]

[[allow]]
name = "web"
proto = "tcp"
ports = [8080]

[networks.shut]
host = "deny"

[networks.six]
egress = "none"
"#;

impl Ground {
    /// The host, or nothing (after having said why) where no lab can be made.
    pub(crate) fn start(test: &str) -> Option<Self> {
        let ground = Self::untracked(test)?;
        ground
            .lab
            .host()
            .script(
                "for chain in INPUT OUTPUT FORWARD; do \
                 ip6tables -w -A $chain -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; done",
            )
            .expect("an administrator's rules");
        Some(ground)
    }

    /// The same as Docker 20.10 makes it, which writes no IPv6 rules: without one that asks, the kernel tracks no
    /// connections of IPv6.
    pub(crate) fn untracked(test: &str) -> Option<Self> {
        if !lab::available(test) {
            return None;
        }
        let lab = Lab::start(Options::default()).expect("a lab");
        for (name, options) in [
            ("web", &["--subnet", "10.1.0.0/24"][..]),
            ("shut", &["--subnet", "10.2.0.0/24"]),
            ("six", &["--subnet", "10.3.0.0/24", "--ipv6", "--subnet", "2001:db8:6::/64"]),
        ] {
            lab.network(name, options).expect("a network");
        }
        let container = |name: &str, options: &[&str]| lab.container(name, options).expect("a container");
        let published = ["--network=web", "-p=8080:80", "-p=8081:81", "-p=5353:53/udp"];
        Some(Self {
            web: container("web", &published),
            other: container("other", &["--network=web"]),
            shut: container("shut", &["--network=shut", "-p=8082:82"]),
            six: container("six", &["--network=six"]),
            lab,
        })
    }

    /// One connection of every kind.
    pub(crate) fn open_all(&self, opening: &mut Opening) {
        let (host, outside) = (self.lab.host(), self.lab.outside());
        let at = |address: IpAddr, port: u16| SocketAddr::from((address, port));
        let hosts: [IpAddr; 2] = [HOST.into(), HOST6.into()];
        let outsides: [IpAddr; 2] = [OUTSIDE.into(), OUTSIDE6.into()];
        let web = &self.web.place;
        for kind in [Kind::Tcp, Kind::Pushed] {
            let how = if kind == Kind::Tcp { "" } else { ", pushed" };
            let mut open =
                |what: &str, from, to, end| opening.open(&format!("{what}{how}"), kind, from, to, end);
            open("published, open", outside, at(hosts[0], 8080), (web, 80));
            open("published, closed", outside, at(hosts[0], 8081), (web, 81));
            open(
                "published, closed, of a container that may open nothing",
                outside,
                at(hosts[0], 8082),
                (&self.shut.place, 82),
            );
            for (family, address) in ["v4", "v6"].iter().zip(hosts) {
                open(&format!("port of the host, open, {family}"), outside, at(address, 22), (host, 22));
                open(
                    &format!("port of the host, closed, {family}"),
                    outside,
                    at(address, 2222),
                    (host, 2222),
                );
            }
            for (family, address) in ["v4", "v6"].iter().zip(outsides) {
                open(&format!("from the host, {family}"), host, at(address, 443), (outside, 443));
            }
            open("from a container, masqueraded", web, at(outsides[0], 443), (outside, 443));
            open("from a container, v6", &self.six.place, at(outsides[1], 443), (outside, 443));
            open(
                "from a container that may open nothing",
                &self.shut.place,
                at(outsides[0], 443),
                (outside, 443),
            );
            let gateway = |container: &Container| container.gateway.expect("a gateway").into();
            open("from a container to the host", web, at(gateway(&self.web), 9000), (host, 9000));
            open(
                "from a container to the host, closed to it",
                &self.shut.place,
                at(gateway(&self.shut), 9000),
                (host, 9000),
            );
            open(
                "between neighbours",
                &self.other.place,
                at(self.web.ip().expect("an address"), 85),
                (web, 85),
            );
            open(
                "from the host to a container that may open nothing",
                host,
                at(self.shut.ip().expect("an address"), 86),
                (&self.shut.place, 86),
            );
        }
        let mut udp = |what: &str, from, to, end| opening.open(what, Kind::Udp, from, to, end);
        udp("datagrams, published, closed", outside, at(hosts[0], 5353), (web, 53));
        udp("datagrams to the host, closed", outside, at(hosts[0], 6000), (host, 6000));
        udp("datagrams from a container, masqueraded", web, at(outsides[0], 4433), (outside, 4433));
        udp(
            "datagrams from a container that may open nothing",
            &self.shut.place,
            at(outsides[0], 4433),
            (outside, 4433),
        );
        udp("datagrams from the host", host, at(outsides[0], 4433), (outside, 4433));
        udp("datagrams to the host, closed, v6", outside, at(hosts[1], 6006), (host, 6006));
        udp("datagrams from a container, v6", &self.six.place, at(outsides[1], 4436), (outside, 4436));
        udp("datagrams from the host, v6", host, at(outsides[1], 4436), (outside, 4436));
        let mut ping = |what: &str, from, to| opening.open(what, Kind::Ping, from, at(to, 0), (outside, 0));
        ping("pings from a container, masqueraded", web, outsides[0]);
        ping("pings from the host", host, outsides[0]);
        ping("pings from a container, v6", &self.six.place, outsides[1]);
        ping("pings from the host, v6", host, outsides[1]);
    }

    /// Has the daemon take another policy.
    pub(crate) fn reload(&self, daemon: &Daemon<'_>, policy: &str) {
        std::fs::write(self.lab.path("/run/lab/policy.toml"), policy).expect("the lab's policy");
        let passes = |status: &serde_json::Value| status["daemon"]["passes"].as_u64();
        let before = passes(&self.lab.fw_status().expect("a status"));
        daemon.signal("HUP").expect("a signal");
        lab::wait::until("the policy is read again", crate::talks::PATIENCE, || {
            (passes(&self.lab.fw_status().ok()?) > before).then_some(())
        })
        .expect("a pass");
    }
}
