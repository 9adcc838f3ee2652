//! Hosts on which the rows are asked: how dockerd is told to run there, and which rows that concerns.

use clap::ValueEnum;

use super::rows::{self, Expect, Row, X, rows, without_proxy};
use crate::lab::{Generation, Options, Town};

/// How dockerd runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Host {
    /// As it comes.
    Plain,
    /// Without docker-proxy.
    WithoutProxy,
    /// Its default network is on a bridge that somebody else has made, both families (L11).
    ExternalBridge,
    /// It writes nothing into the table `raw`, as for a kernel without (L10).
    WithoutRaw,
    /// It writes no rules at all, and nobody else does (L09).
    WithoutRules,
    /// It restarts between two passes while its containers go on (L03).
    LiveRestore,
}

impl Host {
    /// How such a host is set up.
    pub fn options(self, docker: Generation) -> Options {
        let plain = Options { dockerd: Town::dockerd(), docker, ..Options::default() };
        let told = |more: &[&str]| [Town::dockerd(), more.iter().map(ToString::to_string).collect()].concat();
        match self {
            Self::Plain => plain,
            Self::WithoutProxy => Options { userland_proxy: false, ..plain },
            Self::ExternalBridge => Options {
                before_docker: "ip link add br9 type bridge; ip addr add 10.9.9.1/24 dev br9; \
                                ip addr add 2001:db8:9::1/64 dev br9 nodad; ip link set br9 up",
                dockerd: told(&["--bridge=br9", "--ipv6", "--fixed-cidr-v6=2001:db8:9::/64"]),
                ..plain
            },
            Self::WithoutRaw => {
                Options { environment: vec!["DOCKER_INSECURE_NO_IPTABLES_RAW=1".to_owned()], ..plain }
            }
            // dockerd refuses to keep the default network's containers apart without rules of its own.
            Self::WithoutRules => {
                let dockerd = ["--iptables=false", "--ip6tables=false"].map(str::to_owned).to_vec();
                Options { dockerd, forward_accept: true, ..plain }
            }
            Self::LiveRestore => Options { dockerd: told(&["--live-restore"]), ..plain },
        }
    }

    /// What is asked there.
    pub fn rows(self, docker: Generation) -> Vec<Row> {
        match self {
            Self::Plain => rows(docker),
            // What changes the host's rules or the network of a container would be compared with its own traces. A
            // dockerd in a tree has mounts of its own: the next one does not find those of the sandboxes, and knows
            // neither their names nor the ports that it chose.
            Self::LiveRestore => {
                let lost = |row: &Row| docker.suite().is_some() && matches!(row.id, "D12d" | "L12e");
                rows(docker).into_iter().filter(|row| row.leaves_no_trace() && !lost(row)).collect()
            }
            Self::WithoutProxy => without_proxy(docker),
            Self::ExternalBridge => {
                let named = ["D01", "D19", "D30a", "D30b", "D30c", "D50g"];
                let default = rows::DEFAULT.iter().chain(rows::DEFAULT_SIX).map(|row| row.on(docker));
                rows(docker).into_iter().filter(|row| named.contains(&row.id)).chain(default).collect()
            }
            Self::WithoutRaw => with_stock(rows(docker), WITHOUT_RAW),
            // Nothing but the policy of FORWARD stands in anybody's way.
            Self::WithoutRules => with_stock(rows(docker), WITHOUT_RULES)
                .into_iter()
                .map(|row| {
                    if docker > Generation::V20_10 && row.is_unroutable() {
                        row.closed_by_docker()
                    } else {
                        row
                    }
                })
                .map(rows::accepting)
                .collect(),
        }
    }

    /// Why this generation has no such host, if so.
    pub fn missing_in(self, docker: Generation) -> Option<&'static str> {
        (self == Self::WithoutRaw && docker < Generation::V28_5)
            .then_some("it writes nothing into raw in any case")
    }
}

/// Those of `rows` that are named, with what stock Docker does there.
fn with_stock(rows: Vec<Row>, named: &[(&str, Expect)]) -> Vec<Row> {
    let stock = |row: &Row| named.iter().find(|(id, _)| *id == row.id).map(|(_, stock)| *stock);
    rows.into_iter().filter_map(|row| Some(Row { stock: stock(&row)?, ..row })).collect()
}

const R: Expect = Expect::Reach("");

/// D03, D08 and D10 are what raw is for.
const WITHOUT_RAW: &[(&str, Expect)] =
    &[("D01", R), ("D03", R), ("D08", R), ("D10", R), ("D13a", X), ("D31c", X)];

const WITHOUT_RULES: &[(&str, Expect)] = &[
    ("D01", R),
    ("D02", R),
    ("D03", R),
    ("D05a", R),
    ("D05b", R),
    ("D06b", R),
    ("D10", R),
    ("D12a", R),
    ("D13a", R),
    ("D13c", R),
    ("D14", R),
    ("D19", R),
    ("D21", R),
    ("D22a", R),
    ("D23", R),
    ("D25b", R),
    ("D25d", R),
    ("D26a", R),
    ("D26b", R),
    ("D31a", R),
    ("D31b", R),
    ("D31c", R),
    ("D31d", R),
    ("D31f", R),
    ("D31g", R),
    ("D31h", R),
    ("D46a", R),
    ("D46b", R),
    ("D50b", R),
    ("D50d", R),
    ("L12c", R),
    ("L11d", R),
    ("L11f", R),
];
