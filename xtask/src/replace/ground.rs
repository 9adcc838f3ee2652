//! The host on which fw is replaced: two networks, traffic on the pairs that may talk, probes on those that may not.

use std::fmt;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::lab::meter::{Allowed, Forbidden, Leaks, Pulse};
use crate::lab::{Container, HOST, Lab, OUTSIDE, Options, Server, ask, wait};

/// A host with networks A (a1, publishes 8080, and a2) and B (b1).
pub struct Ground {
    /// The host.
    pub lab: Lab,
    /// Published by TCP and UDP, with IPv6.
    pub a1: Container,
    /// Its neighbour.
    pub a2: Container,
    /// On another network.
    pub b1: Container,
}

impl Ground {
    /// The host.
    pub fn start() -> Result<Self> {
        let lab = Lab::start(Options::default())?;
        lab.network("A", &["--subnet=10.1.0.0/24", "--ipv6", "--subnet=2001:db8:a::/64"])?;
        lab.network("B", &["--subnet=10.2.0.0/24"])?;
        let a1 = lab.container("a1", &["--network=A", "-p=8080:80", "-p=8080:80/udp", "-p=8081:84"])?;
        let a2 = lab.container("a2", &["--network=A"])?;
        let b1 = lab.container("b1", &["--network=B"])?;
        Ok(Self { lab, a1, a2, b1 })
    }

    /// Traffic and probes, from now on.
    pub fn meters(&self) -> Result<Meters> {
        let Self { lab, a1, a2, b1 } = self;
        let (outside, host) = (lab.outside(), lab.host());
        let (a1_v4, a1_v6) = (a1.ip()?, a1.ip6()?);
        let allowed = [
            Allowed::tcp("R -> a1:80 published, TCP", (outside, (HOST, 8080).into()), (&a1.place, 80)),
            Allowed::udp("R -> a1:80 published, UDP", (outside, (HOST, 8080).into()), (&a1.place, 80)),
            Allowed::tcp("a2 -> R, TCP", (&a2.place, (OUTSIDE, 443).into()), (outside, 443)),
            Allowed::udp("b1 -> R, UDP", (&b1.place, (OUTSIDE, 443).into()), (outside, 443)),
            Allowed::tcp("H -> R, TCP", (host, (OUTSIDE, 444).into()), (outside, 444)),
            Allowed::tcp("a2 -> a1, same network", (&a2.place, (a1_v4, 81).into()), (&a1.place, 81)),
        ];
        let forbidden = vec![
            Forbidden::datagrams(
                "R -> H:9100",
                (outside, (HOST, 9100).into()),
                (host, 9100),
                (host, (HOST, 9100).into()),
            ),
            Forbidden::datagrams(
                "R -> a1, IPv6",
                (outside, (a1_v6, 82).into()),
                (&a1.place, 82),
                (&a2.place, (a1_v6, 82).into()),
            ),
            Forbidden::datagrams(
                "b1 -> a1, another network",
                (&b1.place, (a1_v4, 83).into()),
                (&a1.place, 83),
                (&a2.place, (a1_v4, 83).into()),
            ),
        ];
        let pulse = Pulse::start(&allowed)?;
        let leaks = Leaks::start(forbidden)?;
        // What leaked before fw ran is not asked; a lap of a moment would have no probes to speak of.
        wait::pass(LAP);
        leaks.lap()?;
        pulse.lap()?;
        Ok(Meters { pulse, leaks })
    }

    /// So many connections from outside to the published port, and as many from a container to the outside.
    pub fn connections(&self, each: usize) -> Result<Connections> {
        let servers =
            vec![self.a1.place.serve_tcp("[::]:84", "a1")?, self.lab.outside().serve_tcp("[::]:445", "R")?];
        let mut open = Vec::new();
        for _ in 0..each {
            open.push(self.lab.outside().connect((HOST, 8081).into())?);
            open.push(self.a2.place.connect((OUTSIDE, 445).into())?);
        }
        let mut connections = Connections { open, _servers: servers };
        let alive = connections.alive();
        ensure!(alive == 2 * each, "{alive} of {} connections answer", 2 * each);
        Ok(connections)
    }
}

/// Connections that stay open.
pub struct Connections {
    open: Vec<TcpStream>,
    _servers: Vec<Server>,
}

impl Connections {
    /// How many of them answer.
    pub fn alive(&mut self) -> usize {
        self.open.iter_mut().filter_map(|stream| ask(stream).reached().then_some(())).count()
    }
}

/// Both meters.
pub struct Meters {
    pulse: Pulse,
    leaks: Leaks,
}

impl Meters {
    /// What was measured since the last time; `since` is when began what is measured. An error if anything leaked.
    pub fn measure(&self, row: &str, what: &str, since: Instant) -> Result<Measured> {
        let took = since.elapsed();
        wait::pass(LAP.saturating_sub(took));
        let leaked = self.leaks.lap().context("the leak meter")?;
        let beat = self.pulse.lap().with_context(|| format!("the liveness meter, {row} {what}"))?;
        ensure!(leaked.total() == 0, "{row} {what}: {leaked}");
        Ok(Measured {
            row: row.to_owned(),
            what: what.to_owned(),
            probes: leaked.probes,
            longest: beat.longest,
            held_up: beat.held_up,
            lost: beat.lost,
            sent: beat.sent,
            took,
        })
    }

    /// As [`Meters::measure`], for tests: prints it.
    pub fn row(&self, row: &str, what: &str, since: Instant) {
        println!("{}", self.measure(row, what, since).unwrap_or_else(|error| panic!("{error:#}")));
    }
}

/// What the meters saw while one thing was done to fw; nothing leaked.
pub struct Measured {
    row: String,
    what: String,
    /// Forbidden probes.
    pub probes: u64,
    /// The longest gap of a pair.
    pub longest: Duration,
    /// For how long the machine kept the meter itself from running.
    pub held_up: Duration,
    /// Pings without an answer.
    pub lost: u64,
    /// Pings.
    pub sent: u64,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<4} {:<46} leak 0 of {}, gap {} ms (meter held up {} ms), lost {} of {}, took {} ms",
            self.row,
            self.what,
            self.probes,
            self.longest.as_millis(),
            self.held_up.as_millis(),
            self.lost,
            self.sent,
            self.took.as_millis()
        )
    }
}

/// The shortest lap.
const LAP: Duration = Duration::from_millis(600);

/// What the meters' pairs need, and no more.
pub const POLICY: &str = "
[uplink]
xdp = \"native\"

[[allow]]
name = \"web\"
proto = \"tcp\"
ports = [8080, 8081]

[[allow]]
name = \"web-udp\"
proto = \"udp\"
ports = [8080]
";
