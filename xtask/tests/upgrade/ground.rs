//! The host on which fw is replaced: two networks, traffic on the pairs that may talk, probes on those that may not.

use std::time::Instant;

use xtask::lab::meter::{Allowed, Forbidden, Leaks, Pulse};
use xtask::lab::{self, Container, HOST, Lab, OUTSIDE, Options};

/// A host with networks A (a1, publishes 8080, and a2) and B (b1).
pub(crate) struct Ground {
    pub(crate) lab: Lab,
    pub(crate) a1: Container,
    pub(crate) a2: Container,
    pub(crate) b1: Container,
}

impl Ground {
    /// The host, or nothing (after having said why) where no lab can be made.
    pub(crate) fn start(test: &str) -> Option<Self> {
        if !lab::available(test) {
            return None;
        }
        let lab = Lab::start(Options::default()).expect("a lab");
        lab.network("A", &["--subnet=10.1.0.0/24", "--ipv6", "--subnet=2001:db8:a::/64"]).expect("a network");
        lab.network("B", &["--subnet=10.2.0.0/24"]).expect("a network");
        let a1 = lab.container("a1", &["--network=A", "-p=8080:80", "-p=8080:80/udp"]).expect("a container");
        let a2 = lab.container("a2", &["--network=A"]).expect("a container");
        let b1 = lab.container("b1", &["--network=B"]).expect("a container");
        Some(Self { lab, a1, a2, b1 })
    }

    /// Traffic and probes, from now on.
    pub(crate) fn meters(&self) -> Meters {
        let Self { lab, a1, a2, b1 } = self;
        let (outside, host) = (lab.outside(), lab.host());
        let (a1_v4, a1_v6) = (a1.ip().expect("IPv4"), a1.ip6().expect("IPv6"));
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
        let pulse = Pulse::start(&allowed).expect("the liveness meter");
        let leaks = Leaks::start(forbidden).expect("the leak meter");
        // What leaked before fw ran is not asked.
        leaks.lap().expect("a lap");
        pulse.lap().expect("a lap");
        Meters { pulse, leaks }
    }
}

/// Both meters.
pub(crate) struct Meters {
    pulse: Pulse,
    leaks: Leaks,
}

impl Meters {
    /// Fails if anything leaked since the last time; prints a row, with the longest gap and how long `since` is ago.
    pub(crate) fn row(&self, row: &str, what: &str, since: Instant) {
        let took = since.elapsed();
        let (leaked, beat) = (self.leaks.lap().expect("a lap"), self.pulse.lap().expect("a lap"));
        println!(
            "{row:<4} {what:<44} leak {} of {}, gap {} ms (meter held up {} ms), lost {} of {}, took {} ms",
            leaked.total(),
            leaked.probes,
            beat.longest.as_millis(),
            beat.held_up.as_millis(),
            beat.lost,
            beat.sent,
            took.as_millis()
        );
        assert_eq!(leaked.total(), 0, "{row} {what}: {leaked}");
    }
}

/// What the meters' pairs need, and no more.
pub(crate) const POLICY: &str = "
[uplink]
xdp = \"native\"

[[allow]]
name = \"web\"
proto = \"tcp\"
ports = [8080]

[[allow]]
name = \"web-udp\"
proto = \"udp\"
ports = [8080]
";
