//! Where the rules of fw belong in one rule set, and the least edits that bring them there.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Desired;
use super::rule::{Kind, MarkRule};
use super::save::{Rule, Save};

/// Docker's chain for the rules of administrators.
const USER: &str = "DOCKER-USER";

/// The chains that fw writes to, and on which side of everybody else's rules.
const SITES: [Site; 3] = [
    Site { table: "filter", chain: USER, side: Side::Behind },
    Site { table: "raw", chain: "PREROUTING", side: Side::Head },
    Site { table: "nat", chain: "POSTROUTING", side: Side::Head },
];

/// One change to one chain. Edits of a list hold in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The table's name.
    pub table: &'static str,
    /// The chain's name.
    pub chain: &'static str,
    /// What to do with the rule.
    pub how: How,
    /// The rule, as it follows `-A CHAIN` in iptables-save.
    pub spec: String,
}

/// The kind of an [`Edit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Delete the first rule that is exactly this.
    Delete,
    /// Insert so that it becomes the rule of this number, counted from 1.
    Insert(usize),
    /// Append at the end of the chain.
    Append,
    /// Make the chain, or empty it if it is there.
    Make,
    /// Take all rules out of the chain.
    Empty,
    /// Remove the chain, which is empty and which nothing leads to.
    Remove,
}

/// What stands in one rule set and what does not, for people to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether `FORWARD` jumps to `DOCKER-USER`; without it the rules there see no packet.
    pub reached: bool,
    /// Rules of fw at their place.
    pub in_place: Vec<Placed>,
    /// Rules of fw that ought to be there, as iptables-save would print them.
    pub missing: Vec<String>,
    /// Rules of fw of an old uplink or mark, in the wrong place, or twice.
    pub stale: Vec<String>,
    /// Foreign rules in `DOCKER-USER` that are asked before ours.
    pub foreign: Vec<String>,
    /// A foreign rule among these that lets no packet come to ours, whatever its address.
    pub blocked_by: Option<String>,
    /// Foreign rules in raw that a packet with our mark skips, besides Docker's own.
    pub skipped: Vec<String>,
    /// Docker's own rules in raw, which every packet without our mark is asked for, one after the other.
    pub raw: usize,
}

/// A rule of fw at its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// The table's name.
    pub table: &'static str,
    /// As iptables-save prints it.
    pub rule: String,
    /// How many packets it has accepted, if counters were read.
    pub packets: u64,
    /// How many bytes these were.
    pub bytes: u64,
}

/// The edits that bring one rule set (text of iptables-save) to `desired`; none when all is right.
///
/// Nothing is wanted where there is no `DOCKER-USER`; what a former run left there goes.
#[must_use]
pub fn plan(save_text: &str, desired: &Desired) -> Vec<Edit> {
    let save = Save::parse(save_text);
    SITES.iter().flat_map(|site| Layout::of(&save, site, site.wanted(&save, desired)).edits(site)).collect()
}

/// The edits that take away every rule of fw from one rule set, and nothing else.
#[must_use]
pub fn plan_removal(save_text: &str) -> Vec<Edit> {
    let save = Save::parse(save_text);
    SITES.iter().flat_map(|site| Layout::of(&save, site, Vec::new()).edits(site)).collect()
}

/// What of `desired` stands in one rule set (text of iptables-save, with `-c` for counters); `None` without `DOCKER-USER`.
pub fn report(save_text: &str, desired: &Desired) -> Option<Report> {
    let save = Save::parse(save_text);
    if !has_docker(&save) {
        return None;
    }
    let mut report = Report {
        reached: save.chain("filter", "FORWARD").iter().any(|rule| rule.conditions() == ["-j", USER]),
        in_place: Vec::new(),
        missing: Vec::new(),
        stale: Vec::new(),
        foreign: Vec::new(),
        blocked_by: None,
        skipped: Vec::new(),
        raw: 0,
    };
    for site in &SITES {
        let wanted = site.wanted(&save, desired);
        let needed = !wanted.is_empty();
        let layout = Layout::of(&save, site, wanted);
        report.in_place.extend(layout.kept.iter().map(|rule| placed(site, rule)));
        report.missing.extend(layout.missing.iter().map(|(_, rule)| line(site, &rule.spec())));
        report.stale.extend(layout.stale.iter().map(|rule| line(site, rule.spec)));
        match (site.side, site.table) {
            (Side::Behind, _) => {
                report.blocked_by =
                    layout.foreign.iter().find(|rule| takes_all(rule)).map(|rule| line(site, rule.spec));
                report.foreign = layout.foreign.iter().map(|rule| line(site, rule.spec)).collect();
            }
            (Side::Head, "raw") if needed => {
                let others = layout.foreign.iter().filter(|rule| !dockers_raw(rule));
                report.raw = layout.foreign.len() - others.clone().count();
                report.skipped = others.map(|rule| line(site, rule.spec)).collect();
            }
            (Side::Head, _) => {}
        }
    }
    Some(report)
}

/// The input of `iptables-restore --noflush` that makes these edits, table by table.
pub fn restore_input(edits: &[Edit]) -> String {
    let mut tables: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for Edit { table, chain, how, spec } in edits {
        tables.entry(table).or_default().push(match how {
            How::Delete => format!("-D {chain} {spec}\n"),
            How::Insert(number) => format!("-I {chain} {number} {spec}\n"),
            How::Append => format!("-A {chain} {spec}\n"),
            How::Make => format!(":{chain} - [0:0]\n"),
            How::Empty => format!("-F {chain}\n"),
            How::Remove => format!("-X {chain}\n"),
        });
    }
    let commits =
        tables.into_iter().map(|(table, lines)| ["*", table, "\n", &lines.concat(), "COMMIT\n"].concat());
    commits.collect()
}

/// Whether Docker's own rules stand in this rule set.
pub(super) fn has_docker(save: &Save<'_>) -> bool {
    save.has("filter", USER)
}

/// Whether Docker's NAT leads published ports to containers in this rule set.
pub(super) fn has_nat(save: &Save<'_>) -> bool {
    let leads = |rule: &Rule<'_>| rule.conditions().windows(2).any(|words| words == ["-j", "DOCKER"]);
    save.chain("nat", "PREROUTING").iter().any(leads)
}

/// A chain that fw writes to.
struct Site {
    table: &'static str,
    chain: &'static str,
    side: Side,
}

/// Where in a chain the rules of fw stand.
#[derive(Clone, Copy)]
enum Side {
    /// Before all others.
    Head,
    /// Behind all others up to the first unconditional `RETURN` (Docker up to 28.2 ends `DOCKER-USER` with one).
    Behind,
}

impl Site {
    fn wanted(&self, save: &Save<'_>, desired: &Desired) -> Vec<MarkRule> {
        let rules = save.chain(self.table, self.chain);
        let needed = has_docker(save)
            && match self.table {
                "raw" => rules.iter().any(dockers_raw),
                // An empty chain masquerades nothing, and iptables-nft would have to make it.
                "nat" => desired.reach && rules.iter().any(|rule| self.recognise(rule).is_none()),
                _ => true,
            };
        if !needed {
            return Vec::new();
        }
        match self.table {
            // What Docker drops there is addressed to a container or to 127.0.0.0/8. OUT is for neither, and what a
            // container sends would else be asked for every one of them.
            "raw" => vec![MarkRule::any(desired.marks)],
            "nat" => vec![MarkRule::reach(desired.marks)],
            _ => desired.rules.clone(),
        }
    }

    /// The rule of fw, if it is one that fw writes into this chain.
    fn recognise(&self, rule: &Rule<'_>) -> Option<MarkRule> {
        MarkRule::recognise(rule).filter(|ours| match (self.table, ours.kind()) {
            ("filter", Kind::In | Kind::Out(_)) | ("raw", Kind::In | Kind::Any) | (_, Kind::Reach) => true,
            (_, Kind::In | Kind::Out(_) | Kind::Any) => false,
        })
    }
}

/// One chain, sorted out: which rules of fw stay, which go, which are missing.
struct Layout<'a> {
    /// Foreign rules of the part of the chain that packets pass through.
    foreign: Vec<Rule<'a>>,
    kept: Vec<Rule<'a>>,
    stale: Vec<Rule<'a>>,
    /// With the number that each gets, once the stale ones are gone and the missing ones before it are in.
    missing: Vec<(usize, MarkRule)>,
    length: usize,
}

impl<'a> Layout<'a> {
    fn of(save: &Save<'a>, site: &Site, wanted: Vec<MarkRule>) -> Self {
        let rules: Vec<(Rule<'a>, Option<MarkRule>)> = save
            .chain(site.table, site.chain)
            .into_iter()
            .map(|rule| (rule, site.recognise(&rule)))
            .collect();
        let ours = |(_, ours): &(Rule<'a>, Option<MarkRule>)| ours.is_some();
        let end = match site.side {
            Side::Head => rules.len(),
            Side::Behind => rules.iter().position(|(rule, _)| returns(rule)).unwrap_or(rules.len()),
        };
        let foreign: Vec<_> = rules[..end].iter().filter(|rule| !ours(rule)).map(|(rule, _)| *rule).collect();
        // The one run of our rules that may stay: at the head, or behind the last foreign rule.
        let (run, base) = match site.side {
            Side::Head => (0..rules.iter().take_while(|rule| ours(rule)).count(), 0),
            Side::Behind => {
                (end - rules[..end].iter().rev().take_while(|rule| ours(rule)).count()..end, foreign.len())
            }
        };
        let twice = repeated(rules.iter().filter_map(|(_, ours)| ours.as_ref()));
        let mut kept = Vec::new();
        let mut stale = Vec::new();
        let mut present = BTreeSet::new();
        let mut next = 0;
        for (index, (rule, ours)) in rules.iter().enumerate() {
            let Some(ours) = ours else { continue };
            let place = wanted[next..].iter().position(|wanted| wanted == ours);
            match place {
                Some(offset) if run.contains(&index) && !twice.contains(ours) => {
                    next += offset + 1;
                    present.insert(ours.clone());
                    kept.push(*rule);
                }
                _ => stale.push(*rule),
            }
        }
        let numbered = wanted.into_iter().enumerate().map(|(index, rule)| (base + index + 1, rule));
        let missing = numbered.filter(|(_, rule)| !present.contains(rule)).collect();
        Self { foreign, kept, stale, missing, length: rules.len() }
    }

    fn edits(&self, site: &Site) -> Vec<Edit> {
        let edit = |how, spec: String| Edit { table: site.table, chain: site.chain, how, spec };
        let mut edits: Vec<Edit> =
            self.stale.iter().map(|rule| edit(How::Delete, rule.spec.to_owned())).collect();
        // The length of the chain when it is the rule's turn, as they go in one after the other.
        for ((number, rule), length) in self.missing.iter().zip(self.length - self.stale.len()..) {
            let how = if *number > length { How::Append } else { How::Insert(*number) };
            edits.push(edit(how, rule.spec()));
        }
        edits
    }
}

/// The rules that occur more than once. None of them is kept: deleting by rule takes the first, which may be the wrong one.
fn repeated<'r>(rules: impl Iterator<Item = &'r MarkRule>) -> BTreeSet<MarkRule> {
    let mut seen = BTreeSet::new();
    rules.filter(|rule| !seen.insert(*rule)).cloned().collect()
}

/// Whether every packet returns here.
fn returns(rule: &Rule<'_>) -> bool {
    rule.conditions() == ["-j", "RETURN"]
}

/// Whether every packet ends here.
fn takes_all(rule: &Rule<'_>) -> bool {
    let words = rule.conditions();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    matches!(words[..], ["-j", "ACCEPT" | "DROP" | "REJECT" | "QUEUE" | "NFQUEUE", ..])
}

/// Docker's refusal of direct access, 28.0 and later: `-d ADDRESS [-p PROTO --dport PORT] ! -i BRIDGE -j DROP`.
/// The one with `lo` guards ports published on 127.0.0.0/8, which no marked packet goes to.
fn dockers_raw(rule: &Rule<'_>) -> bool {
    let words = rule.conditions();
    let followed = |first: &str| words.iter().position(|word| word == first).and_then(|at| words.get(at + 1));
    let not_from = words.windows(2).position(|pair| pair[0] == "!" && pair[1] == "-i");
    let bridge = not_from.and_then(|at| words.get(at + 2));
    bridge.is_some_and(|name| name != "lo")
        && followed("-d").is_some()
        && followed("-j").is_some_and(|target| target == "DROP")
}

fn placed(site: &Site, rule: &Rule<'_>) -> Placed {
    let (packets, bytes) = rule.counters.unwrap_or_default();
    Placed { table: site.table, rule: line(site, rule.spec), packets, bytes }
}

fn line(site: &Site, spec: &str) -> String {
    format!("-A {} {spec}", site.chain)
}

#[cfg(test)]
mod tests;
