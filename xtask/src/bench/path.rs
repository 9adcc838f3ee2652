//! What a packet costs on its way through the host, with the rules of everybody in the field, in one run.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::bare;
use super::peers::{self, Flavour, Prefix, Rules};
use super::report::{Figure, Report, Size};
use super::room::Room;
use super::street::{self, By, Container, Ground, Path, Street};
use crate::lab::bpf::Point;
use crate::lab::tcx::Direction;
use crate::lab::{Generation, Lab, wait};
use crate::setup::{self, Part};
use crate::workspace;

/// What is measured together, on hosts that are alive at once: so many networks and published ports, denied prefixes and
/// flows.
pub(super) struct Scene {
    networks: usize,
    ports: u16,
    prefixes: usize,
    flows: u32,
    ground: Ground,
    /// Who is measured on which paths. The first on each is the one that the others there are held against.
    who: &'static [(Who, &'static [Path])],
}

impl Scene {
    const fn of(networks: usize, ports: u16, who: &'static [(Who, &'static [Path])]) -> Self {
        Self { networks, ports, prefixes: 0, flows: street::FEW, ground: Ground::Published, who }
    }

    const fn on(ground: Ground, who: &'static [(Who, &'static [Path])]) -> Self {
        Self { ground, ..Self::of(1, 10, who) }
    }

    /// Hosts for connections.
    pub(super) const fn of_tcp(size: Size) -> Self {
        Self { ground: Ground::Tcp, ..Self::of(size.networks, size.ports, &[]) }
    }

    const fn with_flows(flows: u32) -> Self {
        Self { flows, ..Self::of(1, 10, FLOWS) }
    }

    const fn with_prefixes(prefixes: usize) -> Self {
        Self { prefixes, ..Self::of(1, 10, DENIED) }
    }

    /// What it is called, to be chosen by.
    fn title(&self) -> String {
        let Self { networks, ports, prefixes, flows, .. } = self;
        match (prefixes, flows) {
            _ if self.ground == Ground::Ipv6 => "IPv6".to_owned(),
            _ if self.ground == Ground::WithoutNat => "no NAT".to_owned(),
            _ if let Ground::Neighbours { netfilter } = self.ground => {
                format!("between neighbours, bridge-nf-call-iptables = {}", u8::from(netfilter))
            }
            (0, &street::FEW) => format!("{networks} networks, {ports} published ports"),
            (0, flows) => format!("{networks} networks, {ports} published ports, {flows} flows"),
            (prefixes, _) => format!("{prefixes} prefixes"),
        }
    }

    /// Whether a real dockerd is worth its minutes: it writes a process for each of its rules.
    fn has_dockerd(&self) -> bool {
        self.networks <= 100
    }

    /// Who of [`EVERYBODY`] is not here, and why.
    fn skipped(&self) -> Option<&'static str> {
        match self.ground {
            _ if !self.has_dockerd() => Some(
                "dockerd itself: so many networks take it minutes, and its rules are those of Docker 20-27",
            ),
            Ground::Ipv6 => {
                Some("Docker 28 and 29, DOCKER-USER lists: their rules are written for IPv4 alone")
            }
            Ground::WithoutNat => Some("Docker 28 and 29: they keep such a network apart in other ways"),
            Ground::Neighbours { .. } => Some("nftables by hand: its FORWARD is not for neighbours"),
            Ground::Published | Ground::Tcp => None,
        }
    }

    /// What a path is called here.
    fn name(&self, path: Path) -> String {
        match path {
            Path::Denied(_) => format!("{}, {} prefixes", path.name(), self.prefixes),
            Path::Neighbour => self.title(),
            Path::Established | Path::Reply if self.flows != street::FEW => {
                format!("{}, {} flows", path.name(), self.flows)
            }
            _ => path.name().to_owned(),
        }
    }
}

/// What a quick run measures.
const QUICK: &[Scene] = &[Scene::of(10, 10, EVERYBODY), Scene::with_prefixes(1_000)];

/// What a full run measures: networks and ports at the sizes of the targets, then one thing after the other.
const FULL: &[Scene] = &[
    Scene::of(1, 10, EVERYBODY),
    Scene::of(10, 10, EVERYBODY),
    Scene::of(100, 10, EVERYBODY),
    Scene::of(500, 1000, EVERYBODY),
    Scene::of(1, 100, UNWANTED),
    Scene::of(1, 1000, UNWANTED),
    Scene::of(1, 10_000, UNWANTED),
    Scene::with_prefixes(10),
    Scene::with_prefixes(1_000),
    Scene::with_prefixes(100_000),
    Scene::with_prefixes(1_000_000),
    Scene::on(Ground::WithoutNat, WITHOUT_NAT),
    Scene::on(Ground::Ipv6, OVER_IPV6),
    Scene::on(Ground::Neighbours { netfilter: true }, NEIGHBOURS),
    Scene::on(Ground::Neighbours { netfilter: false }, NEIGHBOURS),
    Scene::with_flows(4_096),
    Scene::with_flows(1 << 20),
];

const EVERYBODY: &[(Who, &[Path])] = &[
    (Who::Rules(Rules::Floor(Flavour::Nft)), ALL),
    (Who::FloorAgain, ALL),
    (BARE_TCX, &[Path::Unwanted(By::Tcx)]),
    (Who::Bare(Point::GenericXdp), &[Path::Unwanted(By::GenericXdp)]),
    (Who::Bare(Point::Xdp), &[Path::Unwanted(By::NativeXdp)]),
    (
        Who::FwAlone,
        &[Path::Established, Path::Reply, Path::New, Path::Unwanted(By::Anybody), Path::Unwanted(By::Tcx)],
    ),
    (Who::FwBesideDocker, ALL),
    (Who::FwFastAlone, FAST),
    (Who::FwFastBesideDocker, FAST),
    (Who::FwDropping(Xdp::Generic), &[Path::Unwanted(By::GenericXdp)]),
    (Who::FwDropping(Xdp::Native), &[Path::Unwanted(By::NativeXdp)]),
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
    (Who::Rules(Rules::Raw(Flavour::Nft)), ANYBODY),
    (Who::Rules(Rules::Raw(Flavour::Legacy)), ANYBODY),
    (Who::Rules(Rules::RawSet), ANYBODY),
    (Who::Rules(Rules::Input(Flavour::Nft)), ANYBODY),
    (Who::Rules(Rules::Input(Flavour::Legacy)), ANYBODY),
    (Who::Rules(Rules::Netdev), ANYBODY),
];

/// Lists of ports, the longer the more there are.
const UNWANTED: &[(Who, &[Path])] = &[
    (BARE_TCX, ANYBODY),
    (Who::Bare(Point::Xdp), &[Path::Unwanted(By::NativeXdp)]),
    (Who::FwDropping(Xdp::Off), ANYBODY),
    (Who::FwDropping(Xdp::Native), &[Path::Unwanted(By::NativeXdp)]),
    (Who::Rules(Rules::Netdev), ANYBODY),
    (Who::Rules(Rules::RawSet), ANYBODY),
    (Who::Rules(Rules::Raw(Flavour::Nft)), ANYBODY),
    (Who::Rules(Rules::Raw(Flavour::Legacy)), ANYBODY),
];

/// Sets of prefixes.
const DENIED: &[(Who, &[Path])] = &[
    (BARE_TCX, &[Path::Denied(By::Anybody)]),
    (Who::Bare(Point::GenericXdp), &[Path::Denied(By::GenericXdp)]),
    (Who::Bare(Point::Xdp), &[Path::Denied(By::NativeXdp)]),
    (Who::FwDropping(Xdp::Off), &[Path::Denied(By::Anybody)]),
    (Who::FwDropping(Xdp::Generic), &[Path::Denied(By::GenericXdp)]),
    (Who::FwDropping(Xdp::Native), &[Path::Denied(By::NativeXdp)]),
    (Who::Rules(Rules::DeniedByNetdev), &[Path::Denied(By::Anybody)]),
    (Who::Rules(Rules::DeniedByIpset), &[Path::Denied(By::Anybody)]),
];

/// A network whose addresses are seen outside.
const WITHOUT_NAT: &[(Who, &[Path])] = &[
    (Who::Rules(Rules::None), BOTH_WITHOUT_NAT),
    (Who::Rules(Rules::Floor(Flavour::Nft)), BOTH_WITHOUT_NAT),
    (Who::FwAlone, BOTH_WITHOUT_NAT),
    (Who::FwBesideDocker, BOTH_WITHOUT_NAT),
    (Who::FwFastAlone, BOTH_WITHOUT_NAT),
    (Who::FwFastBesideDocker, BOTH_WITHOUT_NAT),
    (Who::Rules(Rules::Sets), BOTH_WITHOUT_NAT),
    (Who::Dockerd, BOTH_WITHOUT_NAT),
    (Who::Rules(Rules::Docker20(Flavour::Nft)), BOTH_WITHOUT_NAT),
    (Who::Rules(Rules::Docker20(Flavour::Legacy)), BOTH_WITHOUT_NAT),
];

/// IPv6, with NAT as in IPv4, by those who have it. Docker 20.10 needs `--ip6tables`.
const OVER_IPV6: &[(Who, &[Path])] = &[
    (Who::Rules(Rules::Floor(Flavour::Nft)), BOTH_OVER_IPV6),
    (Who::FwAlone, BOTH_OVER_IPV6),
    (Who::FwBesideDocker, BOTH_OVER_IPV6),
    (Who::FwFastAlone, BOTH_OVER_IPV6),
    (Who::FwFastBesideDocker, BOTH_OVER_IPV6),
    (Who::Rules(Rules::Sets), BOTH_OVER_IPV6),
    (Who::Rules(Rules::SetsAndMaps), BOTH_OVER_IPV6),
    (Who::Dockerd, BOTH_OVER_IPV6),
    (Who::Rules(Rules::Docker20(Flavour::Nft)), BOTH_OVER_IPV6),
    (Who::Rules(Rules::Docker20(Flavour::Legacy)), BOTH_OVER_IPV6),
];

/// Containers on one bridge.
const NEIGHBOURS: &[(Who, &[Path])] = &[
    (Who::Rules(Rules::None), &[Path::Neighbour]),
    (Who::Rules(Rules::Floor(Flavour::Nft)), &[Path::Neighbour]),
    (Who::FwAlone, &[Path::Neighbour]),
    (Who::FwBesideDocker, &[Path::Neighbour]),
    (Who::Dockerd, &[Path::Neighbour]),
    (Who::Rules(Rules::Docker20(Flavour::Nft)), &[Path::Neighbour]),
    (Who::Rules(Rules::Docker28(Flavour::Nft)), &[Path::Neighbour]),
    (Who::Rules(Rules::Docker20(Flavour::Legacy)), &[Path::Neighbour]),
];

/// Many flows.
const FLOWS: &[(Who, &[Path])] = &[
    (Who::Rules(Rules::Floor(Flavour::Nft)), BOTH),
    (Who::FwAlone, BOTH),
    (Who::FwBesideDocker, BOTH),
    (Who::FwFastAlone, BOTH),
    (Who::FwFastBesideDocker, BOTH),
    (Who::Rules(Rules::Sets), BOTH),
    (Who::Rules(Rules::Docker20(Flavour::Nft)), BOTH),
];

const FAST: &[Path] = &[Path::Established, Path::Reply, Path::New];
const BOTH: &[Path] = &[Path::Established, Path::Reply];
const BOTH_OVER_IPV6: &[Path] = &[Path::Established6, Path::Reply6];
const BOTH_WITHOUT_NAT: &[Path] = &[Path::OutWithoutNat, Path::InWithoutNat];
/// Ways through every host that forwards.
const ALL: &[Path] = &[Path::Established, Path::Reply, Path::New, Path::Unwanted(By::Anybody)];
const ANYBODY: &[Path] = &[Path::Unwanted(By::Anybody)];
const BARE_TCX: Who = Who::Bare(Point::Tcx(Direction::Ingress));

/// Who filters on a street.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Written rules, without Docker.
    Rules(Rules),
    /// The floor on a second host: how far it is from the first is the noise of a run.
    FloorAgain,
    /// A real dockerd, as it comes.
    Dockerd,
    /// fw, with dockerd writing NAT.
    FwBesideDocker,
    /// fw, writing NAT itself.
    FwAlone,
    /// fw with the fast path, with dockerd writing NAT.
    FwFastBesideDocker,
    /// fw with the fast path, writing NAT itself.
    FwFastAlone,
    /// fw, with XDP, where Docker has one network and publishes ten ports, whatever the policy's rules name.
    FwDropping(Xdp),
    /// One bare program on the uplink, and nothing else.
    Bare(Point),
}

/// What the policy says of XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Xdp {
    Off,
    Generic,
    Native,
}

impl Xdp {
    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Generic => "generic",
            Self::Native => "native",
        }
    }
}

impl Who {
    pub(super) fn name(self) -> String {
        match self {
            Self::Rules(rules) => rules.name(),
            Self::FloorAgain => FLOOR_AGAIN.to_owned(),
            Self::Dockerd => "dockerd itself".to_owned(),
            Self::FwBesideDocker => "fw, nat.owner = docker".to_owned(),
            Self::FwAlone => "fw, nat.owner = fw".to_owned(),
            Self::FwFastBesideDocker => "fw, fast path, nat.owner = docker".to_owned(),
            Self::FwFastAlone => "fw, fast path, nat.owner = fw".to_owned(),
            Self::FwDropping(xdp) => format!("fw, xdp = {}", xdp.name()),
            Self::Bare(Point::Tcx(_)) => "a bare TCX program".to_owned(),
            Self::Bare(Point::GenericXdp) => "a bare program at generic XDP".to_owned(),
            Self::Bare(Point::Xdp) => "a bare program at native XDP".to_owned(),
        }
    }

    /// A host with all its rules.
    pub(super) fn host(self, scene: &Scene, denied: &[Prefix]) -> Result<(Lab, Container)> {
        let Scene { networks, ports, ground, .. } = *scene;
        let stock: &[&str] = if ground == Ground::Ipv6 { &["--experimental", "--ip6tables"] } else { &[] };
        let without_iptables = &["--iptables=false"];
        match self {
            Self::Rules(rules) => {
                let (lab, container) = street::plain(ground)?;
                rules.write(&lab, ground, networks, ports, denied)?;
                Ok((lab, container))
            }
            Self::FloorAgain => Self::Rules(Rules::Floor(Flavour::Nft)).host(scene, denied),
            Self::Bare(_) => street::plain(ground),
            Self::Dockerd => street::docker(ground, stock, networks, ports),
            Self::FwBesideDocker | Self::FwFastBesideDocker => {
                let (lab, container) = street::docker(ground, stock, networks, ports)?;
                filter(&lab, scene, denied, Xdp::Off, self.is_fast(), "")?;
                Ok((lab, container))
            }
            Self::FwAlone | Self::FwFastAlone => {
                let (lab, container) = street::docker(ground, without_iptables, networks, ports)?;
                filter(&lab, scene, denied, Xdp::Off, self.is_fast(), NAT_BY_FW)?;
                Ok((lab, container))
            }
            Self::FwDropping(xdp) => {
                let (lab, container) = street::docker(ground, without_iptables, 1, 10)?;
                filter(&lab, scene, denied, xdp, false, NAT_BY_FW)?;
                Ok((lab, container))
            }
        }
    }

    fn is_fast(self) -> bool {
        matches!(self, Self::FwFastBesideDocker | Self::FwFastAlone)
    }

    /// What it has beside its rules, which holds until it is closed.
    fn program(self, lab: &Lab, denied: &[Prefix]) -> Result<Option<OwnedFd>> {
        match self {
            Self::Bare(point) => bare::attach(lab.host(), "eth0", point, denied).map(Some),
            _ => Ok(None),
        }
    }
}

/// What reports call [`Who::FloorAgain`].
pub(super) const FLOOR_AGAIN: &str = "NAT alone (nft), again";

/// Has fw put its policy in force, XDP and the fast path as it says, and end: what is pinned goes on.
fn filter(lab: &Lab, scene: &Scene, denied: &[Prefix], xdp: Xdp, fast: bool, further: &str) -> Result<()> {
    let (first, last) = (street::PUBLISHED, street::PUBLISHED + scene.ports - 1);
    let (protocol, xdp) = (scene.ground.protocol(), xdp.name());
    let fast = if fast { "on" } else { "off" };
    let mut policy = format!(
        "[uplink]\nxdp = \"{xdp}\"\nfast_path = \"{fast}\"\n[[allow]]\nname = \"published\"\nproto = \"{protocol}\"\nports = [\"{first}-{last}\"]\n{further}"
    );
    if !denied.is_empty() {
        fs::write(lab.path("/run/lab/denied.txt"), peers::lines(denied)).context("cannot write prefixes")?;
        policy +=
            "[sets]\nmany = { file = \"denied.txt\" }\n[[deny]]\nname = \"denied\"\nfrom = [\"many\"]\n";
    }
    let mut daemon = lab.fw_run(&policy)?;
    let status = lab.fw_status()?;
    let hooks = status["hooks"].as_array().context("`fw status --json` has no list `hooks`")?;
    let early = hooks.iter().find(|hook| hook["hook"] == "uplink_xdp");
    let by = early.and_then(|hook| hook["by"].as_str()).unwrap_or("xdp off");
    ensure!(by == format!("xdp {xdp}"), "the policy says xdp = {xdp:?}, fw has {by:?}:\n{}", lab.fw_log());
    // With hundreds of networks a pass may be on its way.
    daemon.signal("TERM")?;
    daemon.ends().map(drop)
}

/// A street on which fw filters without the fast path, beside this Docker or with NAT of its own: one network, ten ports.
pub(super) fn filtered(docker: Generation, owns: bool, paths: &[Path]) -> Result<Street> {
    let (arguments, further): (&[_], _) = if owns { (&["--iptables=false"], NAT_BY_FW) } else { (&[], "") };
    let (lab, container) = street::docker_of(docker, Ground::Published, arguments, 1, 10)?;
    filter(&lab, &Scene::of(1, 10, &[]), &[], Xdp::Off, false, further)?;
    Street::through(lab, container, paths, street::FEW)
}

/// A connection takes the fast path when it has lived so long.
const A_SECOND: Duration = Duration::from_millis(1_500);

const NAT_BY_FW: &str = "[nat]\nowner = \"fw\"\n";

/// Measures scenes whose title contains `only`, or in all of them those whose name does; prints what was found, and keeps
/// it.
pub(super) fn run(quick: bool, only: &str) -> Result<()> {
    setup::ensure(&[Part::Build, Part::Lab])?;
    workspace::build_fw()?;
    let (scenes, rounds) = if quick { (QUICK, 7) } else { (FULL, 9) };
    let mut report = Report::begin("path", quick, rounds)?;
    let by_title = scenes.iter().any(|scene| scene.title().contains(only));
    for scene in scenes {
        if by_title && !scene.title().contains(only) {
            continue;
        }
        println!("\n{}", scene.title());
        if let Some(skipped) = scene.skipped() {
            println!("  SKIPPED: {skipped}");
        }
        measure(&mut report, if by_title { "" } else { only }, scene, rounds)?;
        report.save()?;
    }
    report.end()
}

/// Measures a scene.
fn measure(report: &mut Report, only: &str, scene: &Scene, rounds: usize) -> Result<()> {
    let begun = Instant::now();
    let denied = peers::denied(scene.prefixes);
    let _room = if scene.flows > street::FEW { Some(Room::make(2 * scene.flows)?) } else { None };
    let mut streets = Vec::new();
    let mut held_against = BTreeMap::new();
    for (place, (who, paths)) in scene.who.iter().enumerate() {
        let mut is_first = false;
        for path in *paths {
            is_first |= *held_against.entry(*path).or_insert(place) == place;
        }
        let is_named = *who == Who::FloorAgain || who.name().contains(only);
        if !is_first && !is_named || *who == Who::Dockerd && !scene.has_dockerd() {
            continue;
        }
        let street = who.host(scene, &denied).and_then(|(lab, container)| {
            let program = who.program(&lab, &denied)?;
            Ok((Street::through(lab, container, paths, scene.flows)?, program))
        });
        let (street, program) = street.with_context(|| format!("cannot set up: {}", who.name()))?;
        streets.push((who, street, program));
    }
    println!("  {} hosts made in {} s", streets.len(), begun.elapsed().as_secs());
    // By turns, so that nobody's are at the head of all of the kernel's lists. Twice, so that each has had an answer.
    let greet = || {
        for _ in 0..2 * scene.flows.div_ceil(street::BURST) {
            for (who, street, _) in &streets {
                street.greet(scene.flows).with_context(|| who.name())?;
            }
        }
        anyhow::Ok(())
    };
    greet()?;
    if streets.iter().any(|(who, ..)| who.is_fast()) {
        wait::pass(A_SECOND);
        greet()?;
    }
    for (who, street, _) in &mut streets {
        street.calibrate().with_context(|| who.name())?;
    }
    let mut found: BTreeMap<(Path, usize), Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for path in held_against.keys() {
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
    for path in held_against.into_keys() {
        for (number, (who, ..)) in streets.iter().enumerate() {
            let Some(samples) = found.remove(&(path, number)) else { continue };
            report.add(Figure {
                what: scene.name(path),
                at: Some(Size { networks: scene.networks, ports: scene.ports }),
                who: who.name(),
                unit: "ns".to_owned(),
                samples,
                must: None,
            })?;
        }
    }
    Ok(())
}
