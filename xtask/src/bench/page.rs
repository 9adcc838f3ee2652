//! The parts of the benchmark as one page for readers: targets first, then pictures, then every figure.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};

use super::plot;
use super::report::{Figure, Report, Size, decimals, folder};
use super::sample::Spread;
use super::targets::TARGETS;
use crate::workspace;

/// Names of the parts, as [`Report::begin`] was told, with what readers call them.
const PARTS: [(&str, &str); 5] = [
    ("path", "A packet on its way"),
    ("sockets", "TCP through a published port"),
    ("control", "From a change to the maps"),
    ("sets", "Sets of prefixes"),
    ("scale", "Large hosts"),
];

/// What the last run of each part found.
pub(super) struct Found {
    parts: Vec<(&'static str, Report)>,
}

impl Found {
    /// Reads it from where the parts left it.
    pub(super) fn read() -> Result<Self> {
        let mut parts = Vec::new();
        for (name, title) in PARTS {
            parts.extend(Report::last(name)?.map(|report| (title, report)));
        }
        Ok(Self { parts })
    }

    #[cfg(test)]
    pub(super) fn of_parts(parts: Vec<Report>) -> Self {
        Self { parts: parts.into_iter().map(|report| ("a test", report)).collect() }
    }

    /// All of all parts.
    pub(super) fn figures(&self) -> impl Iterator<Item = &Figure> {
        self.parts.iter().flat_map(|(_, report)| &report.figures)
    }

    /// Somebody's figure that is comparable with this one, of the same rounds.
    pub(super) fn of(&self, figure: &Figure, who: &str) -> Option<&Figure> {
        let (_, report) = self
            .parts
            .iter()
            .find(|(_, report)| report.figures.iter().any(|one| std::ptr::eq(one, figure)))?;
        report.figures.iter().find(|other| other.is_beside(figure) && other.who == who)
    }

    /// Median of somebody's ratio to somebody else's.
    pub(super) fn ratio(&self, what: &str, at: Size, who: &str, of: &str) -> Option<f64> {
        let is = |figure: &&Figure| figure.what == what && figure.at == Some(at) && figure.who == who;
        let figure = self.figures().find(is)?;
        Some(figure.to(self.of(figure, of)?)?.median)
    }
}

/// Writes the page and its pictures to target/bench, and with `docs` into the tree.
pub(super) fn write(found: &Found, docs: bool) -> Result<()> {
    let folder = folder()?;
    let pictures = plot::draw(found, &folder)?;
    let page = page(found, &pictures);
    let mut places = vec![folder.clone()];
    if docs {
        let tree = workspace::root().join("docs");
        for picture in &pictures {
            let from = folder.join(picture.file());
            let to = tree.join(picture.file());
            fs::create_dir_all(tree.join("performance")).context("cannot make docs/performance")?;
            fs::copy(&from, &to)
                .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        }
        places.push(tree);
    }
    for place in places {
        let path = place.join("performance.md");
        fs::write(&path, &page).with_context(|| format!("cannot write {}", path.display()))?;
        println!("written: {}", path.display());
    }
    Ok(())
}

fn page(found: &Found, pictures: &[plot::Picture]) -> String {
    let mut text = INTRODUCTION.to_owned();
    text += "\n## Targets\n\n| target | must | measured | |\n|---|---|---|---|\n";
    let mut reasons: Vec<&str> = Vec::new();
    for target in TARGETS {
        let (name, must) = (target.name(), target.must());
        let (measured, stands) = match target.standing(found) {
            None => ("not in this run".to_owned(), String::new()),
            Some(measured) if measured.met => (measured.says, "met".to_owned()),
            Some(measured) => {
                let known = reasons.iter().position(|reason| *reason == target.because);
                let number = known.unwrap_or_else(|| {
                    reasons.push(target.because);
                    reasons.len() - 1
                });
                (measured.says, format!("**missed** ({})", number + 1))
            }
        };
        writeln!(text, "| {name} | {must} | {measured} | {stands} |").expect("a string");
    }
    for figure in found.figures() {
        let Some((must, spread)) = figure.must.zip(figure.spread()) else { continue };
        let (value, stands) = (rounded(&spread), if spread.median <= must { "met" } else { "**missed**" });
        let Figure { what, unit, .. } = figure;
        writeln!(text, "| {what} | ≤ {must} {unit} | {value} {unit} | {stands} |").expect("a string");
    }
    if !reasons.is_empty() {
        text += "\nWhy those that are missed are:\n\n";
        for (number, reason) in reasons.iter().enumerate() {
            writeln!(text, "{}. {reason}", number + 1).expect("a string");
        }
    }
    if !pictures.is_empty() {
        text += "\n## Against networks and ports\n";
        for picture in pictures {
            write!(text, "\n![{}]({})\n", picture.title(), picture.file()).expect("a string");
        }
    }
    for (title, report) in &found.parts {
        text += &part(title, report);
    }
    text
}

/// Every figure of a part.
fn part(title: &str, report: &Report) -> String {
    let mut text = format!(
        "\n## {title}\n\n{}, kernel {}, {}, load {} when it began; {}{} rounds by turns, medians (least to most).\n",
        report.machine,
        report.kernel,
        report.date,
        report.load,
        if report.quick { "`--quick`, " } else { "" },
        report.rounds
    );
    let mut last: Option<&Figure> = None;
    for figure in &report.figures {
        let Some(spread) = figure.spread() else { continue };
        let alone = figure.who.is_empty();
        let begins = match last {
            Some(last) => last.who.is_empty() != alone || !(alone || last.is_beside(figure)),
            None => true,
        };
        last = Some(figure);
        let value = rounded(&spread);
        if alone {
            if begins {
                text += "\n| what | measured |\n|---|---|\n";
            }
            let at = figure.at.map(|at| format!(", {at}")).unwrap_or_default();
            writeln!(text, "| {}{at} | {value} {} |", figure.what, figure.unit).expect("a string");
            continue;
        }
        let Some(first) = report.first_of(figure) else { continue };
        if begins {
            let at = figure.at.map(|at| format!(", {} networks, {} ports", at.networks, at.ports));
            let (what, at) = (&figure.what, at.unwrap_or_default());
            write!(text, "\n### {what}{at}\n\n| who | {} | of {} |\n|---|---|---|\n", figure.unit, first.who)
                .expect("a string");
        }
        let ratio = figure.to(first).map(|ratio| format!("{ratio:.3}")).unwrap_or_default();
        writeln!(text, "| {} | {value} | {ratio} |", figure.who).expect("a string");
    }
    text
}

/// With as many digits as mean something.
fn rounded(spread: &Spread) -> String {
    format!("{spread:.*}", decimals(spread.median))
}

/// How the page begins.
const INTRODUCTION: &str = "\
# What a packet costs

Written by `cargo xtask bench --docs`; not by hand. Hosts of everybody in the field are alive at once and sampled by turns;
a ratio is that of two samples of the same round.

- **The floor is NAT alone**, with the rules that Docker writes for it, in iptables-nft. It stands twice in the field: how
  far the second is from the first is the noise. `nat.owner = docker` has Docker's filter rules in place, which vetted
  packets skip; with `nat.owner = fw` there are none but fw's own few.
- **Packets** are frames of 64 bytes of UDP, made by a program in the kernel (`BPF_PROG_TEST_RUN` with live frames). They come
  in by the uplink, or for replies by the container's port, and end in a program that counts them at the other end: a
  sample in which one was lost is an error. What counts is CPU time of one core. *Established* and *reply* are 64 flows that
  the kernel knows; *new flow* is the first packet of a connection, each time; *unwanted* goes to a port that nobody serves.
  The container that is measured was there first, so that Docker's lists have it last. *Dropped at TCX*, *by generic* and
  *by native XDP* hold fw's drop against a program that parses and drops, and does nothing else.
- **TCP**: client and server take turns on one CPU, and time on the wall counts.
- Sizes are networks / published ports. Without a real NIC all ratios are larger than they would be: what a driver costs is
  in none of the figures.

Each packet visits one hook of fw on its way in and three on its way out. That cost does not grow with networks and ports;
that of Docker's rules does, up to Docker 27 for every packet. With very few networks fw costs more than they do, unless it is
told `fast_path = \"on\"`: then a connection that has lived for a second goes from device to device, and one packet a second
takes the way of the others ([policy.md](policy.md#fast_path-past-the-stack)).
";
