//! The host on which the holes are tried: two networks, three containers, and a policy that allows little.

use xtask::lab::{self, Container, Daemon, Lab, Options, Place, Server};

/// A host with networks A (dual stack) and B, containers a1 (publishes 8080), a2, b1.
pub(crate) struct Ground {
    pub(crate) lab: Lab,
    pub(crate) a1: Container,
    pub(crate) a2: Container,
    pub(crate) b1: Container,
    _servers: Vec<Server>,
}

impl Ground {
    /// The host, or nothing (after having said why) where no lab can be made.
    pub(crate) fn start(test: &str) -> Option<Self> {
        Self::with(test, Options::default())
    }

    /// As [`Ground::start`], set up otherwise.
    pub(crate) fn with(test: &str, options: Options) -> Option<Self> {
        if !lab::available(test) {
            return None;
        }
        let lab = Lab::start(options).expect("a lab");
        lab.network("A", &["--subnet=10.1.0.0/24", "--ipv6", "--subnet=2001:db8:a::/64"]).expect("a network");
        lab.network("B", &["--subnet=10.2.0.0/24"]).expect("a network");
        let a1 = lab.container("a1", &["--network=A", "-p=8080:80"]).expect("a container");
        let a2 = lab.container("a2", &["--network=A"]).expect("a container");
        let b1 = lab.container("b1", &["--network=B"]).expect("a container");
        let serve = |place: &Place, port: u16| {
            place.serve_tcp(&format!("[::]:{port}"), place.name()).expect("a server")
        };
        let mut servers = Vec::new();
        for container in [&a1, &a2, &b1] {
            servers.extend([80, 81].map(|port| serve(&container.place, port)));
        }
        servers.extend([22, 9100].map(|port| serve(lab.host(), port)));
        servers.push(serve(lab.outside(), 443));
        Some(Self { lab, a1, a2, b1, _servers: servers })
    }

    /// Starts fw with [`POLICY`].
    pub(crate) fn fw(&self) -> Daemon<'_> {
        self.lab.fw_run(POLICY).expect("fw")
    }

    /// Does `work` at both settings of bridge netfilter.
    pub(crate) fn at_both_settings(&self, mut work: impl FnMut(bool)) {
        for bridge_netfilter in [true, false] {
            self.lab.set_bridge_netfilter(bridge_netfilter).expect("the sysctl");
            work(bridge_netfilter);
        }
    }

    /// By how much a drop counter moves while `work` is done.
    pub(crate) fn drops_during(&self, hook: &str, reason: &str, work: impl FnOnce()) -> u64 {
        let before = self.drops(hook, reason);
        work();
        self.drops(hook, reason) - before
    }

    /// A drop counter.
    pub(crate) fn drops(&self, hook: &str, reason: &str) -> u64 {
        let drops = self.lab.fw_drops().expect("the drop counters");
        drops.get(&(hook.to_owned(), reason.to_owned())).copied().unwrap_or(0)
    }
}

/// A text that no earlier packet carried.
pub(crate) fn unlike_any_other(hole: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{hole}-{}-", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The published port, tunnels and pings are allowed; UDP 6000 to others than R; port 22 has no rule.
pub(crate) const POLICY: &str = r#"
[uplink]
published = "closed"

[sets]
far-away = ["203.0.113.0/24"]

[[allow]]
name = "web"
proto = "tcp"
ports = [8080]

[[allow]]
name = "vxlan"
proto = "udp"
ports = [4789]

[[allow]]
name = "far-away-only"
proto = "udp"
ports = [6000]
from = ["far-away"]

[[allow]]
name = "ping"
proto = "icmp"
"#;
