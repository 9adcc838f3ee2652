//! What a packet costs on its way through the host, with the rules of everybody in the field, in one run.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, ensure};

use super::bare;
use super::peers::{Flavour, Rules};
use super::report::{Figure, Report};
use super::sample::Spread;
use super::street::{self, Container, Path, Street};
use crate::lab::bpf::Point;
use crate::lab::tcx::Direction;
use crate::lab::{Lab, Options};
use crate::setup::{self, Part};
use crate::workspace;

/// Who filters on a street.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Written rules, without Docker.
    Rules(Rules),
    /// A real dockerd, as it comes.
    Dockerd,
    /// fw, with dockerd writing NAT.
    FwBesideDocker,
    /// fw, writing NAT itself.
    FwAlone,
    /// The same, with XDP of this kind.
    FwEarly(Early),
    /// One bare program on the uplink, and nothing else.
    Bare(Point),
}

/// Kinds of XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Early {
    Generic,
    Native,
}

impl Early {
    fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Native => "native",
        }
    }
}

impl Who {
    fn name(self) -> String {
        match self {
            Self::Rules(rules) => rules.name(),
            Self::Dockerd => "dockerd itself".to_owned(),
            Self::FwBesideDocker => "fw, nat.owner = docker".to_owned(),
            Self::FwAlone => "fw, nat.owner = fw".to_owned(),
            Self::FwEarly(early) => format!("fw, xdp = {}", early.name()),
            Self::Bare(Point::Tcx(_)) => "a bare TCX program".to_owned(),
            Self::Bare(Point::GenericXdp) => "a bare program at generic XDP".to_owned(),
            Self::Bare(Point::Xdp) => "a bare program at native XDP".to_owned(),
        }
    }

    /// A host with all its rules.
    fn host(self, networks: usize, ports: u16) -> Result<(Lab, Container)> {
        let by_docker = |arguments: &[&str]| {
            let dockerd = arguments.iter().map(ToString::to_string).collect();
            let options = Options { dockerd, userland_proxy: false, ..Options::default() };
            street::docker(options, networks, ports)
        };
        match self {
            Self::Rules(rules) => {
                let (lab, container) = street::plain()?;
                rules.write(&lab, networks, ports)?;
                Ok((lab, container))
            }
            Self::Dockerd => by_docker(&[]),
            Self::FwBesideDocker => {
                let (lab, container) = by_docker(&[])?;
                filter(&lab, ports, "off", "")?;
                Ok((lab, container))
            }
            Self::FwAlone => {
                let (lab, container) = by_docker(&["--iptables=false"])?;
                filter(&lab, ports, "off", NAT_BY_FW)?;
                Ok((lab, container))
            }
            Self::FwEarly(early) => {
                let (lab, container) = by_docker(&["--iptables=false"])?;
                filter(&lab, ports, early.name(), NAT_BY_FW)?;
                Ok((lab, container))
            }
            Self::Bare(_) => street::plain(),
        }
    }

    /// What it has beside its rules, which holds until it is closed.
    fn program(self, lab: &Lab) -> Result<Option<OwnedFd>> {
        match self {
            Self::Bare(point) => bare::attach(lab.host(), "eth0", point).map(Some),
            _ => Ok(None),
        }
    }
}

/// Has fw put its policy in force, XDP as it says, and end: what is pinned goes on.
fn filter(lab: &Lab, ports: u16, xdp: &str, further: &str) -> Result<()> {
    let last = street::PUBLISHED + ports - 1;
    let policy = format!(
        "[uplink]\nxdp = \"{xdp}\"\n[[allow]]\nname = \"published\"\nproto = \"udp\"\nports = [\"{}-{last}\"]\n{further}",
        street::PUBLISHED
    );
    let daemon = lab.fw_run(&policy)?;
    let status = lab.fw_status()?;
    let hooks = status["hooks"].as_array().context("`fw status --json` has no list `hooks`")?;
    let early = hooks.iter().find(|hook| hook["hook"] == "uplink_xdp");
    let by = early.and_then(|hook| hook["by"].as_str()).unwrap_or("xdp off");
    ensure!(by == format!("xdp {xdp}"), "the policy says xdp = {xdp:?}, fw has {by:?}:\n{}", lab.fw_log());
    daemon.terminate()
}

const NAT_BY_FW: &str = "[nat]\nowner = \"fw\"\n";

/// Who is measured on which paths. The first on each is the one that the others there are held against.
const EVERYBODY: [(Who, &[Path]); 24] = [
    (Who::Rules(Rules::Floor(Flavour::Nft)), ALL),
    (Who::Bare(Point::Tcx(Direction::Ingress)), &[Path::UnwantedAtTcx]),
    (Who::Bare(Point::GenericXdp), &[Path::UnwantedAtGenericXdp]),
    (Who::Bare(Point::Xdp), &[Path::UnwantedAtNativeXdp]),
    (Who::FwAlone, &[Path::Established, Path::Reply, Path::New, Path::Unwanted, Path::UnwantedAtTcx]),
    (Who::FwBesideDocker, ALL),
    (Who::FwEarly(Early::Generic), &[Path::UnwantedAtGenericXdp]),
    (Who::FwEarly(Early::Native), &[Path::UnwantedAtNativeXdp]),
    (Who::Rules(Rules::Sets), ALL),
    (Who::Rules(Rules::SetsAndMaps), ALL),
    (Who::Dockerd, ALL),
    (Who::Rules(Rules::Docker20(Flavour::Nft)), ALL),
    (Who::Rules(Rules::Docker28(Flavour::Nft)), ALL),
    (Who::Rules(Rules::Docker29), ALL),
    (Who::Rules(Rules::UserList(Flavour::Nft)), ALL),
    (Who::Rules(Rules::Floor(Flavour::Legacy)), ALL),
    (Who::Rules(Rules::Docker20(Flavour::Legacy)), ALL),
    (Who::Rules(Rules::Docker28(Flavour::Legacy)), ALL),
    (Who::Rules(Rules::UserList(Flavour::Legacy)), ALL),
    (Who::Rules(Rules::Raw(Flavour::Nft)), &[Path::Unwanted]),
    (Who::Rules(Rules::Raw(Flavour::Legacy)), &[Path::Unwanted]),
    (Who::Rules(Rules::Input(Flavour::Nft)), &[Path::Unwanted]),
    (Who::Rules(Rules::Input(Flavour::Legacy)), &[Path::Unwanted]),
    (Who::Rules(Rules::Netdev), &[Path::Unwanted]),
];

/// Ways through every host that forwards.
const ALL: &[Path] = &[Path::Established, Path::Reply, Path::New, Path::Unwanted];

/// Networks and ports: those of the targets.
const SIZES: [(usize, u16); 4] = [(1, 10), (10, 10), (100, 10), (500, 1000)];

/// Measures those whose name contains `only`, prints what was found, and writes it down, with `docs` for readers, too.
pub(super) fn run(quick: bool, only: &str, docs: bool) -> Result<()> {
    setup::ensure(&[Part::Build, Part::Lab])?;
    workspace::build_fw()?;
    let sizes = if quick { &SIZES[..2] } else { &SIZES[..] };
    let rounds = if quick { 7 } else { 15 };
    let mut report = Report::begin(quick, rounds)?;
    for &(networks, ports) in sizes {
        println!("\n{networks} networks, {ports} published ports");
        measure(&mut report, only, networks, ports, rounds)?;
    }
    report.end(docs)
}

fn measure(report: &mut Report, only: &str, networks: usize, ports: u16, rounds: usize) -> Result<()> {
    let mut streets = Vec::new();
    let mut held_against = BTreeMap::new();
    for (place, (who, paths)) in EVERYBODY.into_iter().enumerate() {
        let first =
            paths.iter().filter(|path| *held_against.entry(**path).or_insert(place) == place).count() > 0;
        if !first && !who.name().contains(only) {
            continue;
        }
        let street = who.host(networks, ports).and_then(|(lab, container)| {
            let program = who.program(&lab)?;
            Ok((Street::through(lab, container, paths)?, program))
        });
        let (street, program) = street.with_context(|| format!("cannot set up: {}", who.name()))?;
        street.greet().with_context(|| who.name())?;
        streets.push((who, street, program));
    }
    let paths: BTreeSet<Path> = EVERYBODY.iter().flat_map(|(_, paths)| paths.iter().copied()).collect();
    let mut found: BTreeMap<(Path, usize), Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for path in &paths {
            for turn in 0..streets.len() {
                // Nobody is always behind the same neighbour.
                let number = (turn + round) % streets.len();
                let (who, street, _) = &streets[number];
                if street.has(*path) {
                    let sample = street.sample(*path).with_context(|| who.name())?;
                    found.entry((*path, number)).or_default().push(sample);
                }
            }
        }
    }
    for path in paths {
        println!("  {}", path.name());
        let mut first = None;
        for (number, (who, ..)) in streets.iter().enumerate() {
            let Some(samples) = found.remove(&(path, number)) else { continue };
            let first = first.get_or_insert_with(|| samples.clone());
            report.add(Figure {
                networks,
                ports,
                path: path.name(),
                who: who.name(),
                ns: Spread::of(samples.iter().copied()).context("a round")?,
                of_first: Spread::of(samples.iter().zip(first).map(|(sample, first)| sample / *first))
                    .context("a round")?,
            });
        }
    }
    Ok(())
}
