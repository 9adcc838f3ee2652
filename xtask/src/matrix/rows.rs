//! The rows: who tries to reach whom, what stock Docker does, what has to become of it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::later;
use crate::lab::frame::{ip_frame, udp};
use crate::lab::{Generation, HOST, HOST_MAC, HOST6, Lab, OUTSIDE, OUTSIDE_MAC, Outcome, Town, ask, wait};

/// Hook and reason of a drop.
pub(super) type Counter = (&'static str, &'static str);

/// One line of the matrix.
#[derive(Clone, Copy)]
pub struct Row {
    /// As in the reliability matrix; parts of one row have letters.
    pub id: &'static str,
    /// Who does what.
    pub what: &'static str,
    /// With Docker alone; [`SINCE`] says where later generations differ from 20.10.
    pub stock: Expect,
    /// With fw.
    pub target: Expect,
    /// The counter that shows that fw closed it; none where Docker or the kernel does.
    pub counter: Option<Counter>,
    /// For a row that stock Docker closes too: a row that shows that the way is there.
    pub twin: Option<&'static str>,
    /// With which others it may run.
    pub when: When,
    /// Whether Docker can only do this when bridged packets visit iptables.
    pub needs_bridge_netfilter: bool,
    /// The first generation that has what it asks for.
    pub since: Generation,
    /// The probe.
    pub act: fn(&Lab, &Town) -> Result<Outcome>,
}

impl Row {
    /// Why this generation is not asked.
    pub fn missing_in(&self, generation: Generation) -> String {
        if generation < self.since {
            format!("what these rows ask for came after {generation}")
        } else {
            "not asked".to_owned()
        }
    }

    /// Whether it leads to a container of an internal IPv6 network, which has no route for its answer since 25.0.
    pub(super) fn is_unroutable(&self) -> bool {
        matches!(self.id, "D31b" | "D31d")
    }

    /// Closed by Docker without fw.
    pub(super) const fn closed_by_docker(self) -> Self {
        Self { stock: X, ..self }
    }

    /// Whether the host is afterwards as it was.
    pub(super) fn leaves_no_trace(&self) -> bool {
        self.when != When::Alone
    }

    /// As this generation has it.
    pub(super) fn on(self, generation: Generation) -> Self {
        let differs = SINCE.iter().rev().find(|(id, since, _)| *id == self.id && *since <= generation);
        Self { stock: differs.map_or(self.stock, |(.., stock)| *stock), ..self }
    }
}

/// With which other rows a row may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// With any, under FORWARD policy DROP.
    Together,
    /// With others that want FORWARD policy ACCEPT.
    ForwardAccept,
    /// By itself: it changes the host.
    Alone,
}

/// What a row has to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The server of this name answers (empty: whoever).
    Reach(&'static str),
    /// Nothing comes back.
    Silent,
    /// Turned down.
    Refused,
    /// Silence or refusal.
    Closed,
}

impl Expect {
    /// Whether it is an open row.
    pub fn is_reach(self) -> bool {
        matches!(self, Self::Reach(_))
    }

    /// Whether `outcome` is what was expected.
    pub fn met_by(self, outcome: &Outcome) -> bool {
        match self {
            Self::Reach("") => outcome.reached(),
            Self::Reach(name) => outcome.reached_at(name),
            Self::Silent => *outcome == Outcome::Silent,
            Self::Refused => *outcome == Outcome::Refused,
            Self::Closed => !outcome.reached(),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Reach(_) => "R",
            Self::Silent => "X",
            Self::Refused => "ref",
            Self::Closed => "ref or X",
        })
    }
}

/// All rows for a host with docker-proxy and this Docker.
pub fn rows(generation: Generation) -> Vec<Row> {
    let all = [
        FROM_OUTSIDE,
        FROM_HOST,
        BETWEEN,
        INTERNAL,
        ICC,
        SIX,
        LINK_LOCAL,
        HOST_AND_FOREIGN,
        PUBLISHING,
        DEFAULT,
        later::ROWS,
    ]
    .concat();
    all.into_iter().filter(|row| row.since <= generation).map(|row| row.on(generation)).collect()
}

/// The rows that are different when dockerd runs without docker-proxy.
pub fn without_proxy(generation: Generation) -> Vec<Row> {
    WITHOUT_PROXY.iter().map(|row| row.on(generation)).collect()
}

/// Where stock Docker does something else than 20.10: the row, from which generation on, and what it does.
const SINCE: &[(&str, Generation, Expect)] = &[
    // Packets for a container's own address are dropped in raw, unless they come from its bridge.
    ("D03", Generation::V28_5, X),
    ("D05a", Generation::V28_5, X),
    ("D05b", Generation::V28_5, X),
    ("D06b", Generation::V28_5, X),
    ("D08", Generation::V28_5, X),
    ("D10", Generation::V28_5, X),
    // Replies to a network without masquerading come to the container's own address, too.
    ("D49", Generation::V28_5, X),
    // Since 25.0 containers of an internal network have no default route to answer by.
    ("D31b", Generation::V26_1, X),
    ("D31d", Generation::V26_1, X),
    // 27.0 writes its rules for IPv6, too.
    ("D31a", Generation::V28_5, X),
    ("D31c", Generation::V28_5, X),
    ("D31h", Generation::V28_5, X),
    ("D33b", Generation::V28_5, X),
    ("L11d", Generation::V28_5, X),
    ("L11i", Generation::V28_5, X),
    ("L11k", Generation::V28_5, X),
];

pub(super) const X: Expect = Expect::Silent;
pub(super) const DIRECT: Counter = ("uplink_ingress", "direct-access");
pub(super) const PORT: Counter = ("uplink_ingress", "port-not-allowed");
const SOURCE: Counter = ("uplink_ingress", "source-not-allowed");
const SPOOFED: Counter = ("port_ingress", "spoofed-source");
const MARTIAN: Counter = ("uplink_ingress", "martian");
pub(super) const ISOLATION: Counter = ("port_ingress", "isolation");
pub(super) const INTERNAL_ONLY: Counter = ("port_ingress", "internal");

pub(super) type Act = fn(&Lab, &Town) -> Result<Outcome>;

/// Open before and after.
pub(super) const fn open(id: &'static str, what: &'static str, name: &'static str, act: Act) -> Row {
    Row {
        id,
        what,
        stock: Expect::Reach(name),
        target: Expect::Reach(name),
        counter: None,
        twin: None,
        when: When::Together,
        needs_bridge_netfilter: false,
        since: Generation::V20_10,
        act,
    }
}

/// Open with stock Docker, closed by fw.
pub(super) const fn closes(
    id: &'static str,
    what: &'static str,
    name: &'static str,
    counter: Counter,
    act: Act,
) -> Row {
    Row { target: X, counter: Some(counter), ..open(id, what, name, act) }
}

/// Closed before and after; `twin` is open.
pub(super) const fn closed(
    id: &'static str,
    what: &'static str,
    twin: &'static str,
    counter: Counter,
    act: Act,
) -> Row {
    Row { stock: X, target: X, counter: Some(counter), twin: Some(twin), ..open(id, what, "", act) }
}

/// Closed by Docker, before and after; `twin` is open.
pub(super) const fn left_closed(id: &'static str, what: &'static str, twin: &'static str, act: Act) -> Row {
    Row { counter: None, ..closed(id, what, twin, DIRECT, act) }
}

/// With others that want FORWARD policy ACCEPT.
pub(super) const fn accepting(row: Row) -> Row {
    Row { when: When::ForwardAccept, ..row }
}

const fn alone(row: Row) -> Row {
    Row { when: When::Alone, ..row }
}

const fn by_bridge_netfilter(row: Row) -> Row {
    Row { needs_bridge_netfilter: true, ..row }
}

const FROM_OUTSIDE: &[Row] = &[
    open("D01", "R -> H:8080 (published)", "a1", |l, _| l.outside().tcp(host(8080))),
    open("D02", "R (v6) -> [H]:8080, container v4 only", "a1", |l, _| l.outside().tcp((HOST6, 8080).into())),
    closes("D03", "R -> a1 IP:80 direct (published container port)", "a1", DIRECT, |l, t| {
        l.outside().tcp(to(t, "a1", 80)?)
    }),
    closed("D04a", "R -> a1 IP:81 direct, FORWARD DROP", "D11a", DIRECT, |l, t| {
        l.outside().tcp(to(t, "a1", 81)?)
    }),
    closed("D04b", "R -> a2 IP:80 direct, FORWARD DROP", "D11b", DIRECT, |l, t| {
        l.outside().tcp(to(t, "a2", 80)?)
    }),
    accepting(closes("D05a", "R -> a1 IP:81 direct, FORWARD ACCEPT", "a1", DIRECT, |l, t| {
        l.outside().tcp(to(t, "a1", 81)?)
    })),
    accepting(closes("D05b", "R -> a2 IP:80 direct, FORWARD ACCEPT", "a2", DIRECT, |l, t| {
        l.outside().tcp(to(t, "a2", 80)?)
    })),
    closed("D06a", "R ping a2 IP, FORWARD DROP", "D11c", DIRECT, |l, t| l.outside().ping(t.ip("a2")?)),
    accepting(closes("D06b", "R ping a2 IP, FORWARD ACCEPT", "", DIRECT, |l, t| {
        l.outside().ping(t.ip("a2")?)
    })),
    Row {
        stock: Expect::Refused,
        target: Expect::Closed,
        ..closed("D07", "R -> H:8088 (published on 127.0.0.1)", "D09a", PORT, |l, _| {
            l.outside().tcp(host(8088))
        })
    },
    closes(
        "D08",
        "R sends 127.0.0.2:5000/udp to H's MAC (published there)",
        "a1",
        MARTIAN,
        frame_to_loopback,
    ),
    closes("D10", "R -> loopback-published container's own IP:80", "l1", DIRECT, |l, t| {
        l.outside().tcp(to(t, "l1", 80)?)
    }),
    closed("D25a", "R -> i1:80, FORWARD DROP", "D21", DIRECT, |l, t| l.outside().tcp(to(t, "i1", 80)?)),
    accepting(closed("D25b", "R -> i1:80, FORWARD ACCEPT", "D21", DIRECT, |l, t| {
        l.outside().tcp(to(t, "i1", 80)?)
    })),
    open("D41", "R -> H:5353/udp (published)", "a1", |l, _| l.outside().udp(host(5353))),
    closed("D44a", "R -> a2 IP:8000, served by --network container:a2", "D44c", DIRECT, |l, t| {
        l.outside().tcp(to(t, "a2", 8000)?)
    }),
    Row {
        stock: Expect::Refused,
        ..closed("D44b", "R -> H:8000, served by --network container:a2", "D44c", PORT, |l, _| {
            l.outside().tcp(host(8000))
        })
    },
];

const FROM_HOST: &[Row] = &[
    open("D09a", "H -> 127.0.0.1:8088", "a1", |l, _| l.host().tcp((Ipv4Addr::LOCALHOST, 8088).into())),
    open("D09b", "H -> 127.0.0.2:5000/udp", "a1", |l, _| l.host().udp((LOOPBACK_2, 5000).into())),
    open("D11a", "H -> a1 IP:81", "a1", |l, t| l.host().tcp(to(t, "a1", 81)?)),
    open("D11b", "H -> a2 IP:80", "a2", |l, t| l.host().tcp(to(t, "a2", 80)?)),
    open("D11c", "H ping a2", "", |l, t| l.host().ping(t.ip("a2")?)),
    open("D11d", "H -> b1 IP:80", "b1", |l, t| l.host().tcp(to(t, "b1", 80)?)),
    open("D11e", "H -> i1 IP:81 (internal)", "i1", |l, t| l.host().tcp(to(t, "i1", 81)?)),
    open("D11f", "H -> n2 IP:81 (icc = false)", "n2", |l, t| l.host().tcp(to(t, "n2", 81)?)),
    open("D11g", "H -> n2 IP:5000/udp", "n2", |l, t| l.host().udp(to(t, "n2", 5000)?)),
    open("D11h", "H -> z1 IPv6:81 (internal)", "z1", |l, t| l.host().tcp((t.ip6("z1")?, 81).into())),
    open("D42a", "H -> 127.0.1.2:8077", "a1", |l, _| {
        l.host().tcp((Ipv4Addr::new(127, 0, 1, 2), 8077).into())
    }),
    open("D42b", "H -> 127.0.1.3:8077", "b1", |l, _| {
        l.host().tcp((Ipv4Addr::new(127, 0, 1, 3), 8077).into())
    }),
    open("D44c", "H -> a2 IP:8000, served by --network container:a2", "s2", |l, t| {
        l.host().tcp(to(t, "a2", 8000)?)
    }),
];

const BETWEEN: &[Row] = &[
    open("D12a", "a2 -> a1:80", "a1", |_, t| from(t, "a2").tcp(to(t, "a1", 80)?)),
    open("D12b", "a2 -> a1:81", "a1", |_, t| from(t, "a2").tcp(to(t, "a1", 81)?)),
    open("D12c", "a2 ping a1", "", |_, t| from(t, "a2").ping(t.ip("a1")?)),
    open("D12d", "a2 ping a1 by name", "", |l, _| Ok(by_exec(l, &["a2", "ping", "-c1", "-W1", "a1"]))),
    closed("D13a", "a2 -> b1:80", "D11d", ISOLATION, |_, t| from(t, "a2").tcp(to(t, "b1", 80)?)),
    closed("D13b", "a2 -> b1:81", "D11d", ISOLATION, |_, t| from(t, "a2").tcp(to(t, "b1", 81)?)),
    closed("D13c", "a2 ping b1", "D12c", ISOLATION, |_, t| from(t, "a2").ping(t.ip("b1")?)),
    closed("D14", "b1 -> a1 IP:80 although published", "D12a", ISOLATION, |_, t| {
        from(t, "b1").tcp(to(t, "a1", 80)?)
    }),
    open("D15a", "b1 -> H:8080 (published by A)", "a1", |_, t| from(t, "b1").tcp(host(8080))),
    open("D15b", "b1 -> A's gateway:8080", "a1", |_, t| from(t, "b1").tcp((GATEWAY_A, 8080).into())),
    open("D15c", "y1 (v6) -> [H]:8096 (published by 6A)", "x1", |_, t| {
        from(t, "y1").tcp((HOST6, 8096).into())
    }),
    open("D17", "a2 -> H:8080 (own network's)", "a1", |_, t| from(t, "a2").tcp(host(8080))),
    open("D18", "a1 -> itself by H:8080", "a1", |_, t| from(t, "a1").tcp(host(8080))),
    closed("D19", "d1 (default bridge) -> b1:80", "D11d", ISOLATION, |_, t| {
        from(t, "d1").tcp(to(t, "b1", 80)?)
    }),
    open("D20a", "b1 ping A's gateway", "", |_, t| from(t, "b1").ping(GATEWAY_A.into())),
    open("D20b", "b1 -> A's gateway:9100 (host service)", "H", |_, t| {
        from(t, "b1").tcp((GATEWAY_A, 9100).into())
    }),
    open("D46a", "a2 -> R:443/tcp", "R", |_, t| from(t, "a2").tcp((OUTSIDE, 443).into())),
    open("D46b", "a2 -> R:443/udp", "R", |_, t| from(t, "a2").udp((OUTSIDE, 443).into())),
    open("D46c", "a2 ping R", "", |_, t| from(t, "a2").ping(OUTSIDE.into())),
    open("D49", "m1 (not masqueraded) -> R sees m1's address", "R", |_, t| unmasqueraded(t)),
];

const INTERNAL: &[Row] = &[
    open("D21", "i1 -> i2:80", "i2", |_, t| from(t, "i1").tcp(to(t, "i2", 80)?)),
    open("D22a", "i1 ping its gateway", "", |_, t| from(t, "i1").ping(Ipv4Addr::new(10, 3, 0, 1).into())),
    open("D22b", "z1 ping its IPv6 gateway", "", |_, t| from(t, "z1").ping(gateway6(t, "z1")?)),
    closed("D23", "i1 -> R:443, default route added", "D46a", INTERNAL_ONLY, |_, t| {
        from(t, "i1").tcp((OUTSIDE, 443).into())
    }),
    closes("D24", "i1 -> H's external IP:9100", "H", INTERNAL_ONLY, |_, t| from(t, "i1").tcp(host(9100))),
    closed("D25c", "b1 -> i1:80, FORWARD DROP", "D21", ISOLATION, |_, t| from(t, "b1").tcp(to(t, "i1", 80)?)),
    accepting(closed("D25d", "b1 -> i1:80, FORWARD ACCEPT", "D21", ISOLATION, |_, t| {
        from(t, "b1").tcp(to(t, "i1", 80)?)
    })),
];

const ICC: &[Row] = &[
    by_bridge_netfilter(left_closed("D26a", "n1 -> n2:81 (icc = false)", "D11f", |_, t| {
        from(t, "n1").tcp(to(t, "n2", 81)?)
    })),
    by_bridge_netfilter(left_closed("D26b", "n1 ping n2", "D11f", |_, t| from(t, "n1").ping(t.ip("n2")?))),
    open("D27", "n1 -> H:8089 (n2's published port)", "n2", |_, t| from(t, "n1").tcp(host(8089))),
    open("D28a", "n1 ping its gateway", "", |_, t| from(t, "n1").ping(Ipv4Addr::new(10, 4, 0, 1).into())),
    open("D28b", "n1 -> R:443", "R", |_, t| from(t, "n1").tcp((OUTSIDE, 443).into())),
    left_closed("D29", "n1 -> n2:5000/udp by the gateway's MAC", "D11g", by_gateways_mac),
    by_bridge_netfilter(open("D30a", "client -> svr:80 (--link, exposed)", "svr", |_, t| {
        from(t, "client").tcp(to(t, "svr", 80)?)
    })),
    by_bridge_netfilter(left_closed("D30b", "client -> svr:81 (not exposed)", "D30a", |_, t| {
        from(t, "client").tcp(to(t, "svr", 81)?)
    })),
    by_bridge_netfilter(left_closed("D30c", "d1 -> svr:80 (not linked)", "D30a", |_, t| {
        from(t, "d1").tcp(to(t, "svr", 80)?)
    })),
];

const SIX: &[Row] = &[
    closes("D31a", "6A -> 6B: x2 -> y1:80", "y1", ISOLATION, |_, t| from(t, "x2").tcp(to6(t, "y1", 80)?)),
    closes("D31b", "6A -> 6I: x2 -> z1:80", "z1", ISOLATION, |_, t| from(t, "x2").tcp(to6(t, "z1", 80)?)),
    closes("D31c", "R (v6) -> x1:81 unpublished", "x1", DIRECT, |l, t| l.outside().tcp(to6(t, "x1", 81)?)),
    closes("D31d", "R (v6) -> z1:80 (internal)", "z1", DIRECT, |l, t| l.outside().tcp(to6(t, "z1", 80)?)),
    open("D31e", "x2 -> x1:81 (same network, v6)", "x1", |_, t| from(t, "x2").tcp(to6(t, "x1", 81)?)),
    open("D31f", "R (v6) -> [H]:8096 (published by 6A)", "x1", |l, _| l.outside().tcp((HOST6, 8096).into())),
    open("D31g", "x1 -> R:443 (v6)", "R", |_, t| from(t, "x1").tcp((crate::lab::OUTSIDE6, 443).into())),
    closes("D31h", "R (v6) ping x2", "", DIRECT, |l, t| l.outside().ping(t.ip6("x2")?)),
];

const HOST_AND_FOREIGN: &[Row] = &[
    alone(open("D45", "a DROP in DOCKER-USER stalls a flow that is up", "a1", |l, _| stalled_flow(l))),
    open("D47a", "R -> H:8081 (allowed; container port 8443)", "e1", |l, _| l.outside().tcp(host(8081))),
    closes("D47b", "R -> H:8443 (published, not allowed)", "e2", PORT, |l, _| l.outside().tcp(host(8443))),
    alone(closed("L08", "R (v6) -> x1:81 unpublished, ip6tables FORWARD DROP", "D31f", DIRECT, |l, t| {
        let policy = |name| l.host().run(&["ip6tables", "-w", "-P", "FORWARD", name]);
        let before = l.host().run(&["ip6tables", "-w", "-S", "FORWARD"])?;
        policy("DROP")?;
        let outcome = l.outside().tcp(to6(t, "x1", 81)?);
        if before.starts_with("-P FORWARD ACCEPT") {
            policy("ACCEPT")?;
        }
        outcome
    })),
    alone(open("D48", "R -> H:8080 with a foreign DROP at the end of FORWARD", "a1", |l, _| {
        l.host().run(&["iptables", "-w", "-A", "FORWARD", "-j", "DROP"])?;
        let outcome = l.outside().tcp(host(8080));
        l.host().run(&["iptables", "-w", "-D", "FORWARD", "-j", "DROP"])?;
        outcome
    })),
    open("D50a", "R -> H:22 (listed)", "H", |l, _| l.outside().tcp(host(22))),
    closes("D50b", "R -> H:9100 (not listed)", "H", PORT, |l, _| l.outside().tcp(host(9100))),
    closes("D50c", "R -> H:2375 (the Docker API)", "H", PORT, |l, _| l.outside().tcp(host(2375))),
    closes("D50d", "R (v6) -> [H]:9100 (not listed)", "H", PORT, |l, _| {
        l.outside().tcp((HOST6, 9100).into())
    }),
    open("D50e", "R -> H:2223 (listed for R's prefix)", "H", |l, _| l.outside().tcp(host(2223))),
    closes("D50f", "R -> H:2222 (listed for others)", "H", SOURCE, |l, _| l.outside().tcp(host(2222))),
    open("D50g", "b1 -> its gateway:9100", "H", |_, t| {
        from(t, "b1").tcp((Ipv4Addr::new(10, 2, 0, 1), 9100).into())
    }),
    open("D50h", "R ping H", "", |l, _| l.outside().ping(HOST.into())),
    open("D50i", "R (v6) ping H", "", |l, _| l.outside().ping(HOST6.into())),
    closes("D50k", "R -> H:9101 (not listed), served by --network host", "h1", PORT, |l, _| {
        l.outside().tcp(host(9101))
    }),
    open("D50j", "H -> R:443", "R", |l, _| l.host().tcp((OUTSIDE, 443).into())),
];

/// What [`PUBLISHING`] asks for beside the town's policy.
pub(super) const POLICY: &str = r#"
[[allow]]
name = "more-web"
proto = "tcp"
ports = [8100, "8101-8102", 8105]
"#;

/// What `-p` can say, and what a network says of it.
const PUBLISHING: &[Row] = &[
    open("L11a", "R -> H:8100 (the network publishes on this address, MTU 1400)", "h1", |l, _| {
        l.outside().tcp(host(8100))
    }),
    // The rule holds for every address of the host, and nobody listens there.
    Row {
        stock: Expect::Refused,
        target: Expect::Refused,
        ..left_closed("L11b", "R (v6) -> [H]:8100 (allowed, not published there)", "L11a", |l, _| {
            l.outside().tcp((HOST6, 8100).into())
        })
    },
    open("L12a", "R -> H:8102 (one of a range, allowed)", "k1", |l, _| l.outside().tcp(host(8102))),
    closes("L12b", "R -> H:8103 (one of a range, not allowed)", "k1", PORT, |l, _| {
        l.outside().tcp(host(8103))
    }),
    closed("L12c", "R -> svr IP:80 direct (exposed, not published)", "D30a", DIRECT, |l, t| {
        l.outside().tcp(to(t, "svr", 80)?)
    }),
    closes("L12e", "R -> H:PORT of k1:83 (-P chose it, not allowed)", "k1", PORT, |l, _| {
        let shown = l.docker(&["port", "k1", "83/tcp"])?;
        let port = shown.lines().next().and_then(|line| line.rsplit(':').next()?.parse().ok());
        l.outside().tcp(host(port.with_context(|| format!("no port in {shown:?}"))?))
    }),
    alone(open("D43", "R -> H:8102 of k1 on A and B, which leaves A and comes back", "k1", |l, _| {
        moves_its_gateway(l)
    })),
    Row {
        stock: Expect::Refused,
        ..closed("L12d", "R -> H:8104 (-p on an internal network: nothing)", "L12a", PORT, |l, _| {
            l.outside().tcp(host(8104))
        })
    },
];

/// The default network, for which `dockerd --bridge` may name a bridge that somebody else has made.
pub(super) const DEFAULT: &[Row] = &[
    open("L11c", "R -> H:8105 (published on the default network)", "d1", |l, _| l.outside().tcp(host(8105))),
    accepting(closes("L11d", "R -> d1 IP:81 direct, FORWARD ACCEPT", "d1", DIRECT, |l, t| {
        l.outside().tcp(to(t, "d1", 81)?)
    })),
    open("L11e", "H -> d1 IP:81", "d1", |l, t| l.host().tcp(to(t, "d1", 81)?)),
    closed("L11f", "b1 -> d1 IP:80 (default network)", "L11e", ISOLATION, |_, t| {
        from(t, "b1").tcp(to(t, "d1", 80)?)
    }),
    open("L11g", "d1 -> R:443", "R", |_, t| from(t, "d1").tcp((OUTSIDE, 443).into())),
    open("L11h", "d1 -> its gateway:9100", "H", |_, t| {
        let gateway = t.at("d1").gateway.context("d1 has a gateway")?;
        from(t, "d1").tcp((gateway, 9100).into())
    }),
];

/// The same over IPv6, which only `--ipv6` gives to it.
pub(super) const DEFAULT_SIX: &[Row] = &[
    closes("L11i", "R (v6) -> d1:81 direct (default network)", "d1", DIRECT, |l, t| {
        l.outside().tcp(to6(t, "d1", 81)?)
    }),
    open("L11j", "d1 -> R:443 (v6)", "R", |_, t| from(t, "d1").tcp((crate::lab::OUTSIDE6, 443).into())),
    closes("L11k", "x2 -> d1:80 (v6, 6A to the default network)", "d1", ISOLATION, |_, t| {
        from(t, "x2").tcp(to6(t, "d1", 80)?)
    }),
];

/// IPv6 within a link, and on a network that has none.
const LINK_LOCAL: &[Row] = &[
    open("D32a", "x2 ping x1 by its link-local address", "", |_, t| ping_on_link(t, "x2", "x1")),
    open("D32b", "z1 ping z2 by its link-local address (internal)", "", |_, t| ping_on_link(t, "z1", "z2")),
    left_closed("D33a", "a2 has an IPv6 address on A, which has none", "D31e", |_, t| has_ipv6(t, "a2")),
    closes("D33b", "a2 takes one, and sends to y1:5000/udp over its gateway", "y1", SPOOFED, ipv6_of_its_own),
];

const WITHOUT_PROXY: &[Row] = &[
    open("D01", "R -> H:8080 (published)", "a1", |l, _| l.outside().tcp(host(8080))),
    left_closed("D16", "b1 -> H:8080 (published by A): as the running Docker", "D17", |_, t| {
        from(t, "b1").tcp(host(8080))
    }),
    // Switched off after dockerd's start, the answer of the sibling goes past the DNAT: stock Docker breaks it too.
    by_bridge_netfilter(open("D17", "a2 -> H:8080 (own network's)", "a1", |_, t| {
        from(t, "a2").tcp(host(8080))
    })),
    open("D18", "a1 -> itself by H:8080", "a1", |_, t| from(t, "a1").tcp(host(8080))),
    open("D09a", "H -> 127.0.0.1:8088", "a1", |l, _| l.host().tcp((Ipv4Addr::LOCALHOST, 8088).into())),
    open("D09b", "H -> 127.0.0.2:5000/udp", "a1", |l, _| l.host().udp((LOOPBACK_2, 5000).into())),
    open("D09c", "H -> 127.0.0.1:8080", "a1", |l, _| l.host().tcp((Ipv4Addr::LOCALHOST, 8080).into())),
    open("D42b", "H -> 127.0.1.3:8077", "b1", |l, _| {
        l.host().tcp((Ipv4Addr::new(127, 0, 1, 3), 8077).into())
    }),
    closes("D03", "R -> a1 IP:80 direct", "a1", DIRECT, |l, t| l.outside().tcp(to(t, "a1", 80)?)),
    closed("D13a", "a2 -> b1:80", "D17", ISOLATION, |_, t| from(t, "a2").tcp(to(t, "b1", 80)?)),
    open("D46a", "a2 -> R:443/tcp", "R", |_, t| from(t, "a2").tcp((OUTSIDE, 443).into())),
];

const LOOPBACK_2: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const GATEWAY_A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

pub(super) fn host(port: u16) -> SocketAddr {
    (HOST, port).into()
}

pub(super) fn to(town: &Town, name: &str, port: u16) -> Result<SocketAddr> {
    Ok((town.ip(name)?, port).into())
}

pub(super) fn to6(town: &Town, name: &str, port: u16) -> Result<SocketAddr> {
    Ok((town.ip6(name)?, port).into())
}

pub(super) fn from<'town>(town: &'town Town, name: &str) -> &'town crate::lab::Place {
    &town.at(name).place
}

fn by_exec(lab: &Lab, command: &[&str]) -> Outcome {
    let arguments: Vec<_> = std::iter::once("exec").chain(command.iter().copied()).collect();
    lab.docker(&arguments).map_or(Outcome::Silent, |_| Outcome::Reach("by name".to_owned()))
}

/// The first address of the container's prefix is Docker's gateway.
fn gateway6(town: &Town, name: &str) -> Result<IpAddr> {
    let IpAddr::V6(address) = town.ip6(name)? else { anyhow::bail!("{name} has an IPv6 address") };
    let mut segments = address.segments();
    segments[4..].copy_from_slice(&[0, 0, 0, 1]);
    Ok(IpAddr::from(segments))
}

/// moby#45610: a neighbour writes a loopback address into a frame.
fn frame_to_loopback(lab: &Lab, town: &Town) -> Result<Outcome> {
    let text = unlike_any_other("D08");
    let packet = udp((OUTSIDE.into(), 5001), (LOOPBACK_2.into(), 5000), text.as_bytes());
    lab.outside().send_frame("eth0", &ip_frame(HOST_MAC, OUTSIDE_MAC, &packet))?;
    Ok(heard(town, "a1", &text))
}

/// A container addresses its sibling, but hands the frame to the gateway, who routes it back.
fn by_gateways_mac(lab: &Lab, town: &Town) -> Result<Outcome> {
    let text = unlike_any_other("D29");
    let n1 = town.at("n1");
    let packet = udp((n1.ip()?, 5001), (town.ip("n2")?, 5000), text.as_bytes());
    let gateway = lab.host().run(&["cat", "/sys/class/net/br-N/address"])?;
    let gateway = gateway.parse().map_err(anyhow::Error::msg)?;
    let own = n1.mac.context("n1 has a MAC address")?;
    n1.place.send_frame("eth0", &ip_frame(gateway, own, &packet))?;
    Ok(heard(town, "n2", &text))
}

fn ping_on_link(town: &Town, who: &str, whom: &str) -> Result<Outcome> {
    let shown = from(town, whom).run(&["ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"])?;
    let address = shown.split_whitespace().find_map(|word| word.strip_suffix("/64")?.parse().ok());
    let address = address.with_context(|| format!("{whom} has no link-local address: {shown:?}"))?;
    from(town, who).ping_by(address, Some("eth0"))
}

fn has_ipv6(town: &Town, name: &str) -> Result<Outcome> {
    let shown = from(town, name).run(&["ip", "-6", "-o", "addr", "show", "dev", "eth0"])?;
    Ok(if shown.trim().is_empty() { Outcome::Silent } else { Outcome::Reach(shown) })
}

/// Whoever may set addresses in a container needs no leave of Docker's for IPv6.
fn ipv6_of_its_own(lab: &Lab, town: &Town) -> Result<Outcome> {
    let text = unlike_any_other("D33b");
    let a2 = town.at("a2");
    let own = (Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 2).into(), 5001);
    let packet = udp(own, (town.ip6("y1")?, 5000), text.as_bytes());
    let gateway = lab.host().run(&["cat", "/sys/class/net/br-A/address"])?;
    let gateway = gateway.parse().map_err(anyhow::Error::msg)?;
    a2.place.send_frame("eth0", &ip_frame(gateway, a2.mac.context("a2 has a MAC address")?, &packet))?;
    Ok(heard(town, "y1", &text))
}

/// A container on two networks loses the one by which it is published, and gets it back.
fn moves_its_gateway(lab: &Lab) -> Result<Outcome> {
    let reached = || {
        let mut last = Ok(Outcome::Silent);
        let again = || {
            last = lab.outside().tcp(host(8102));
            last.as_ref().is_ok_and(|outcome| outcome.reached_at("k1")).then_some(())
        };
        wait::until("k1 reached over its other network", FOLLOWS, again).ok();
        last
    };
    lab.docker(&["network", "disconnect", "A", "k1"])?;
    let away = reached();
    lab.docker(&["network", "connect", "A", "k1"])?;
    let away = away?;
    if away.reached_at("k1") { reached() } else { Ok(away) }
}

/// How soon rules follow a container.
const FOLLOWS: Duration = Duration::from_secs(2);

fn heard(town: &Town, name: &str, text: &str) -> Outcome {
    let heard = town.server(name).hears(text, Duration::from_secs(1));
    if heard { Outcome::Reach(name.to_owned()) } else { Outcome::Silent }
}

/// Payloads of an earlier pass must not count.
fn unlike_any_other(row: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{row}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

fn unmasqueraded(town: &Town) -> Result<Outcome> {
    let own = town.ip("m1")?;
    let outcome = from(town, "m1").tcp((OUTSIDE, 444).into())?;
    let seen = town.server("R").heard().last().map(|heard| heard.from.ip());
    ensure!(!outcome.reached() || seen == Some(own), "R saw {seen:?} instead of m1's address {own}");
    Ok(outcome)
}

/// Open, stalled by the administrator's rule, and open again when it is gone.
fn stalled_flow(lab: &Lab) -> Result<Outcome> {
    let mut flow = lab.outside().connect(host(8080))?;
    let open = ask(&mut flow);
    if !open.reached() {
        return Ok(open);
    }
    let rule = ["DOCKER-USER", "-i", lab.uplink(), "-j", "DROP"];
    let change = |verb| lab.host().run(&[&["iptables", "-w", verb], &rule[..]].concat());
    change("-I")?;
    let stalled = ask(&mut flow);
    change("-D")?;
    ensure!(stalled == Outcome::Silent, "the flow did not stall: {stalled:?}");
    // What was sent in vain is sent again by TCP; the answer to it comes first.
    Ok(ask(&mut flow))
}
