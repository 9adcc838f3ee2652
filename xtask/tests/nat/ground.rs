//! The host on which NAT is tried: a dockerd that writes no rules, and containers behind published ports.

use std::thread;

use anyhow::{Context as _, Result, ensure};
use xtask::lab::{self, Container, Daemon, Lab, Options, Outcome, Server};

/// | network | what | containers |
/// |---|---|---|
/// | A | IPv4 | a1 (publishes 8080, 8070 on H's address, 8088 on 127.0.0.1, 8077 on 127.0.1.2, 5353/udp), a2 |
/// | B | IPv4 | b1 (publishes 8443, 8077 on 127.0.1.3) |
/// | I | internal | i1 |
/// | M | not masqueraded | m1 |
/// | S | IPv4 and IPv6 | x1 (publishes 8096) |
pub(crate) struct Ground {
    pub(crate) lab: Lab,
    pub(crate) a1: Container,
    pub(crate) a2: Container,
    pub(crate) b1: Container,
    pub(crate) i1: Container,
    pub(crate) m1: Container,
    pub(crate) x1: Container,
    /// a1's port 80, which remembers.
    pub(crate) web: Server,
    /// R's port 443, which remembers.
    pub(crate) remote: Server,
    _servers: Vec<Server>,
}

impl Ground {
    /// The host, or nothing (after having said why) where no lab can be made.
    pub(crate) fn start(test: &str, userland_proxy: bool) -> Option<Self> {
        if !lab::available(test) {
            return None;
        }
        let dockerd = vec!["--iptables=false".to_owned()];
        let lab = Lab::start(Options { dockerd, userland_proxy, ..Options::default() }).expect("a lab");
        Some(Self::furnish(lab).expect("networks, containers and servers"))
    }

    fn furnish(lab: Lab) -> Result<Self> {
        lab.network("A", &["--subnet=10.1.0.0/24"])?;
        lab.network("B", &["--subnet=10.2.0.0/24"])?;
        lab.network("I", &["--subnet=10.3.0.0/24", "--internal"])?;
        let unmasked = "com.docker.network.bridge.enable_ip_masquerade=false";
        lab.network("M", &["--subnet=10.5.0.0/24", "-o", unmasked])?;
        lab.network("S", &["--subnet=10.6.0.0/24", "--ipv6", "--subnet=fd00:a::/64"])?;
        let own = ["-p=198.18.0.1:8070:80", "-p=127.0.0.1:8088:80", "-p=127.0.1.2:8077:80"];
        let a1 = [&["--network=A", "-p=8080:80", "-p=5353:5353/udp"], &own[..]].concat();
        let a1 = lab.container("a1", &a1)?;
        let a2 = lab.container("a2", &["--network=A"])?;
        let b1 = lab.container("b1", &["--network=B", "-p=8443:80", "-p=127.0.1.3:8077:80"])?;
        let i1 = lab.container("i1", &["--network=I"])?;
        let m1 = lab.container("m1", &["--network=M"])?;
        let x1 = lab.container("x1", &["--network=S", "-p=8096:80"])?;
        // Docker 20.10 gives containers of internal networks a route; later ones do not.
        lab.docker(&["exec", "i1", "ip", "route", "replace", "default", "via", "10.3.0.1"])?;
        let mut servers = Vec::new();
        for container in [&a2, &b1, &i1, &m1, &x1] {
            servers.push(container.place.serve_tcp("[::]:80", &container.name)?);
        }
        let web = a1.place.serve_tcp("[::]:80", "a1")?;
        servers.push(a1.place.serve_tcp("[::]:81", "a1")?);
        servers.push(a1.place.serve_udp("[::]:5353", "a1")?);
        servers.push(lab.host().serve_tcp("[::]:9100", "H")?);
        let remote = lab.outside().serve_tcp("[::]:443", "R")?;
        servers.push(lab.outside().serve_udp("[::]:443", "R")?);
        Ok(Self { lab, a1, a2, b1, i1, m1, x1, web, remote, _servers: servers })
    }

    /// Starts fw with [`POLICY`] and `more`.
    pub(crate) fn fw(&self, more: &str) -> Daemon<'_> {
        self.lab.fw_run(&format!("{POLICY}{more}")).expect("fw")
    }

    /// Walks all ways at once; fails with a list of those that did not end as they should.
    pub(crate) fn walk(&self, when: &str, ways: &[Way]) {
        let outcomes: Vec<Result<()>> = thread::scope(|scope| {
            let walks: Vec<_> = ways.iter().map(|way| scope.spawn(|| way.walk(self))).collect();
            walks.into_iter().map(|walk| walk.join().expect("a probe does not panic")).collect()
        });
        let wrong: Vec<String> = outcomes
            .into_iter()
            .filter_map(|outcome| outcome.err().map(|error| format!("{error:#}")))
            .collect();
        assert!(
            wrong.is_empty(),
            "{when}:\n{}\ndropped: {:?}\nfw's log:\n{}\nrules:\n{}",
            wrong.join("\n"),
            self.lab.fw_drops(),
            self.lab.fw_log(),
            self.rules()
        );
    }

    /// What `iptables-save` of every kind prints.
    pub(crate) fn rules(&self) -> String {
        let all = "for t in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy; do echo == $t; $t-save 2>/dev/null; done";
        self.lab.host().script(all).expect("the rules")
    }
}

/// Who reaches for whom.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    /// As in the reliability matrix, and in words.
    pub(crate) what: &'static str,
    /// Who has to answer; `None`: nobody may.
    pub(crate) by: Option<&'static str>,
    /// The attempt.
    pub(crate) act: fn(&Ground) -> Result<Outcome>,
}

impl Way {
    /// One that ought to be open gets a second chance: the machine may be busy. A closed one is judged by its first.
    fn walk(&self, ground: &Ground) -> Result<()> {
        let met = |outcome: &Outcome| match self.by {
            Some("") => outcome.reached(),
            Some(name) => outcome.reached_at(name),
            None => !outcome.reached(),
        };
        let mut outcome = (self.act)(ground).with_context(|| self.what)?;
        if self.by.is_some() && !met(&outcome) {
            outcome = (self.act)(ground).with_context(|| self.what)?;
        }
        ensure!(met(&outcome), "{}: expected {:?}, saw {outcome:?}", self.what, self.by);
        Ok(())
    }
}

pub(crate) const fn open(what: &'static str, by: &'static str, act: fn(&Ground) -> Result<Outcome>) -> Way {
    Way { what, by: Some(by), act }
}

pub(crate) const fn closed(what: &'static str, act: fn(&Ground) -> Result<Outcome>) -> Way {
    Way { what, by: None, act }
}

/// What is published and named here is open, what is published and not named is closed.
pub(crate) const POLICY: &str = r#"
[nat]
owner = "fw"

[[allow]]
name = "web"
proto = "tcp"
ports = [8070, 8080, 8096]

[[allow]]
name = "dns"
proto = "udp"
ports = [5353]

[[allow]]
name = "ping"
proto = "icmp"
"#;
