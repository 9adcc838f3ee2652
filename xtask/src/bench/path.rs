//! What a packet costs on its way through the host, with the rules of everybody in the field, in one run.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::peers::{Flavour, Rules};
use super::report::{Figure, Report};
use super::sample::Spread;
use super::street::{self, Container, Path, Street};
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
}

impl Who {
    fn name(self) -> String {
        match self {
            Self::Rules(rules) => rules.name(),
            Self::Dockerd => "dockerd itself".to_owned(),
            Self::FwBesideDocker => "fw, nat.owner = docker".to_owned(),
            Self::FwAlone => "fw, nat.owner = fw".to_owned(),
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
                filter(&lab, ports, "")?;
                Ok((lab, container))
            }
            Self::FwAlone => {
                let (lab, container) = by_docker(&["--iptables=false"])?;
                filter(&lab, ports, "[nat]\nowner = \"fw\"\n")?;
                Ok((lab, container))
            }
        }
    }
}

/// Has fw put its policy in force, and end: what is pinned goes on.
fn filter(lab: &Lab, ports: u16, further: &str) -> Result<()> {
    let last = street::PUBLISHED + ports - 1;
    let policy = format!(
        "[uplink]\nxdp = \"off\"\n[[allow]]\nname = \"published\"\nproto = \"udp\"\nports = [\"{}-{last}\"]\n{further}",
        street::PUBLISHED
    );
    lab.fw_run(&policy)?.terminate()
}

/// Everybody, the floor first.
const EVERYBODY: [Who; 14] = [
    Who::Rules(Rules::Floor(Flavour::Nft)),
    Who::FwAlone,
    Who::FwBesideDocker,
    Who::Rules(Rules::Sets),
    Who::Rules(Rules::SetsAndMaps),
    Who::Dockerd,
    Who::Rules(Rules::Docker20(Flavour::Nft)),
    Who::Rules(Rules::Docker28(Flavour::Nft)),
    Who::Rules(Rules::Docker29),
    Who::Rules(Rules::UserList(Flavour::Nft)),
    Who::Rules(Rules::Floor(Flavour::Legacy)),
    Who::Rules(Rules::Docker20(Flavour::Legacy)),
    Who::Rules(Rules::Docker28(Flavour::Legacy)),
    Who::Rules(Rules::UserList(Flavour::Legacy)),
];

/// Who is worth a look where an unwanted packet is concerned, beside them.
const AGAINST_UNWANTED: [Who; 5] = [
    Who::Rules(Rules::Raw(Flavour::Nft)),
    Who::Rules(Rules::Raw(Flavour::Legacy)),
    Who::Rules(Rules::Input(Flavour::Nft)),
    Who::Rules(Rules::Input(Flavour::Legacy)),
    Who::Rules(Rules::Netdev),
];

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
    for who in EVERYBODY.into_iter().chain(AGAINST_UNWANTED) {
        if who != EVERYBODY[0] && !who.name().contains(only) {
            continue;
        }
        let street = who.host(networks, ports).and_then(|(lab, container)| Street::through(lab, &container));
        let street = street.with_context(|| format!("cannot set up: {}", who.name()))?;
        if !AGAINST_UNWANTED.contains(&who) {
            street.greet().with_context(|| who.name())?;
        }
        streets.push((who, street));
    }
    let mut found: BTreeMap<(Path, usize), Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for path in Path::ALL {
            for turn in 0..streets.len() {
                // Nobody is always behind the same neighbour.
                let number = (turn + round) % streets.len();
                let (who, street) = &streets[number];
                if path != Path::Unwanted && AGAINST_UNWANTED.contains(who) {
                    continue;
                }
                let sample = street.sample(path).with_context(|| who.name())?;
                found.entry((path, number)).or_default().push(sample);
            }
        }
    }
    for path in Path::ALL {
        let floor = found[&(path, 0)].clone();
        println!("  {}", path.name());
        for (number, (who, _)) in streets.iter().enumerate() {
            let Some(samples) = found.get(&(path, number)) else { continue };
            let figure = Figure {
                networks,
                ports,
                path: path.name(),
                who: who.name(),
                ns: Spread::of(samples.iter().copied()).context("a round")?,
                of_floor: Spread::of(samples.iter().zip(&floor).map(|(sample, floor)| sample / floor))
                    .context("a round")?,
            };
            report.add(figure);
        }
    }
    Ok(())
}
