//! Runs iptables-save and iptables-restore, the only place that does: reads, writes in one transaction, reads back.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::foreseen::{RuleChange, foreseen};
use super::layout::{Edit, How, Report, has_docker, has_nat, plan, plan_removal, report, restore_input};
use super::nat::Chain;
use super::own::{concerns_own, docker_writes, has_own, own_rules, plan_own};
use super::program::{PATIENCE, run, search, search_path};
use super::save::Save;
use super::survey::Survey;
use super::walk::{End, Hit, Locals, Passing, walk};
use super::{Desired, Family, Flavour, HandoverError, Nat, Place};

/// How long another holder of the xtables lock is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How often a write is tried when others change the tables between reading and writing.
const ATTEMPTS: u32 = 3;

/// The iptables programs of this host, for the network namespace of the calling thread.
#[derive(Clone, Debug)]
pub struct Iptables {
    tools: BTreeMap<Place, Tool>,
    /// What the plain command of a family is, for a host where neither flavour has rules.
    plain: BTreeMap<Family, PathBuf>,
    lock_wait: Duration,
}

/// The chains of our own that are wanted.
#[derive(Default)]
struct OwnChains {
    chains: BTreeMap<Place, Vec<Chain>>,
    /// The families whose NAT is ours.
    owned: Vec<Family>,
    /// Where it was to be, and Docker's own rules stand.
    refused: Vec<Place>,
}

impl OwnChains {
    /// The edits that bring one rule set to them and to `desired`.
    fn edits(&self, desired: &Desired, place: Place, save: &Save<'_>, text: &str) -> Vec<Edit> {
        let marks = if self.owned.contains(&place.family) { plan_removal(text) } else { plan(text, desired) };
        [marks, plan_own(save, self.chains.get(&place).map(Vec::as_slice).unwrap_or_default())].concat()
    }
}

/// All rule sets at one moment, as iptables-save prints them.
#[derive(Clone, Debug, Default)]
pub struct RuleSets {
    texts: BTreeMap<Place, String>,
}

impl RuleSets {
    /// What they do besides our rules.
    pub fn survey(&self) -> Survey {
        let mut survey = Survey::default();
        for (place, text) in &self.texts {
            survey.add(place.family, &Save::parse(text));
        }
        survey
    }

    /// What this chain of the system does with a packet, in each rule set of its family: the first that does not let it
    /// go on. `hits` gets the rules that hold it, each with its place.
    pub fn walk(
        &self,
        family: Family,
        chain: (&'static str, &'static str),
        packet: &mut Passing,
        locals: &Locals,
        hits: &mut Vec<(Place, Hit)>,
    ) -> End {
        for (place, text) in self.texts.iter().filter(|(place, _)| place.family == family) {
            let mut found = Vec::new();
            let end = walk(&Save::parse(text), chain, packet, locals, &mut found);
            hits.extend(found.into_iter().map(|hit| (*place, hit)));
            if end != End::Accept {
                return end;
            }
        }
        End::Accept
    }
}

/// The two programs for one rule set.
#[derive(Clone, Debug)]
struct Tool {
    save: PathBuf,
    restore: PathBuf,
}

/// What [`Iptables::apply`] or [`Iptables::remove`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    /// Whether anything was written.
    pub changed: bool,
    /// The rule sets that hold Docker's rules or were written to. Empty: no `DOCKER-USER` on this host.
    pub places: Vec<Change>,
    /// Whether Docker's NAT leads published ports to containers, in some rule set.
    pub nat: bool,
    /// Tables that may hold Docker's rules or fw's, unseen.
    pub unreadable: Vec<Unreadable>,
    /// Where NAT was to be ours and Docker's own rules stand.
    pub refused: Vec<Place>,
}

/// What was done in one rule set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which one.
    pub place: Place,
    /// What was written; nothing if all was right.
    pub edits: Vec<Edit>,
}

/// What [`Iptables::status`] found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The rule sets that hold Docker's rules.
    pub places: Vec<Found>,
    /// Tables that may hold Docker's rules or fw's, unseen.
    pub unreadable: Vec<Unreadable>,
    /// The rule sets with chains of our own.
    pub own: Vec<Own>,
}

/// How much of our own stands in one rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Own {
    /// Which one.
    #[serde(flatten)]
    pub place: Place,
    /// Rules in our chains, and those that lead there.
    pub rules: usize,
}

/// What stands in one rule set that holds Docker's rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Which one.
    #[serde(flatten)]
    pub place: Place,
    /// What is there and what is not.
    #[serde(flatten)]
    pub report: Report,
}

/// A table with rules that iptables cannot print; it prints nothing of such a table. Prints as a warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// The table's name.
    pub table: &'static str,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, table } = self;
        write!(
            f,
            "cannot read table {table} of {place}: it holds rules that only `nft` can show; move those to a table of their own"
        )
    }
}

impl Iptables {
    /// Looks for the programs in `PATH` and the sbin directories, which the `PATH` of a plain user lacks.
    pub fn find() -> Result<Self, HandoverError> {
        Self::find_in(&search_path())
    }

    /// Looks for the programs in these directories. Where only plain `iptables` is, it is asked for its flavour.
    pub fn find_in(dirs: &[PathBuf]) -> Result<Self, HandoverError> {
        let mut tools = BTreeMap::new();
        let mut plain_commands = BTreeMap::new();
        for family in [Family::V4, Family::V6] {
            let name = family.command();
            plain_commands.extend(search(dirs, name).map(|plain| (family, plain)));
            for (flavour, suffix) in [(Flavour::Nft, "-nft"), (Flavour::Legacy, "-legacy")] {
                if let Some(tool) = Tool::find(dirs, &format!("{name}{suffix}")) {
                    tools.insert(Place { family, flavour }, tool);
                }
            }
            let known = |flavour| tools.contains_key(&Place { family, flavour });
            if known(Flavour::Nft) && known(Flavour::Legacy) {
                continue;
            }
            if let (Some(tool), Some(plain)) = (Tool::find(dirs, name), search(dirs, name)) {
                let flavour = flavour_of(&plain)?;
                tools.entry(Place { family, flavour }).or_insert(tool);
            }
        }
        if tools.is_empty() {
            return Err(HandoverError::NoTool);
        }
        Ok(Self { tools, plain: plain_commands, lock_wait: LOCK_WAIT })
    }

    /// Waits this long for the xtables lock, in whole seconds, instead of ten.
    #[must_use]
    pub fn with_lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// Brings every rule set with Docker's rules to `desired`, and with `nat` the chains of our own to that, and reads
    /// back; touches nothing that is right. If one rule set fails the others are still done.
    ///
    /// Each family has our own chains in one flavour. Where Docker writes rules too, both would translate: there they
    /// hold what Docker has no part in, its own rules stay handed over, and the place is named in [`Outcome::refused`].
    pub fn apply(&self, desired: &Desired, nat: Option<&Nat>) -> Result<Outcome, HandoverError> {
        let (own, read) = self.own(nat)?;
        let mut outcome = self.write(read, |place, save, text| own.edits(desired, place, save, text))?;
        outcome.refused = own.refused;
        Ok(outcome)
    }

    /// What [`Iptables::apply`] would change.
    pub fn plan(&self, desired: &Desired, nat: Option<&Nat>) -> Result<Vec<RuleChange>, HandoverError> {
        let (own, mut read) = self.own(nat)?;
        let mut changes = Vec::new();
        for (&place, tool) in &self.tools {
            let text = read.remove(&place).map_or_else(|| tool.read(false), Ok)?;
            let save = Save::parse(&text);
            changes.extend(foreseen(&place.to_string(), &save, &own.edits(desired, place, &save, &text)));
        }
        Ok(changes)
    }

    /// The chains of our own, and what was read to choose their place.
    fn own(&self, nat: Option<&Nat>) -> Result<(OwnChains, BTreeMap<Place, String>), HandoverError> {
        let (mut wanted, mut read) = (OwnChains::default(), BTreeMap::new());
        let Some(nat) = nat else { return Ok((wanted, read)) };
        for family in [Family::V4, Family::V6] {
            let texts = self.texts(family)?;
            let docker = texts.iter().find(|(_, text)| docker_writes(&Save::parse(text)));
            wanted.refused.extend(docker.map(|(place, _)| *place).filter(|_| nat.owns));
            let owns = nat.owns && docker.is_none();
            let chains = if exists(family) { nat.chains(family, owns)? } else { Vec::new() };
            if owns {
                wanted.owned.push(family);
            }
            if !chains.is_empty() {
                wanted.chains.insert(self.choose(family, &texts)?, chains);
            }
            read.extend(texts);
        }
        Ok((wanted, read))
    }

    /// Takes away every rule of fw.
    pub fn remove(&self) -> Result<Outcome, HandoverError> {
        self.write(BTreeMap::new(), |_, save, text| [plan_removal(text), plan_own(save, &[])].concat())
    }

    /// What each rule set of a family holds.
    fn texts(&self, family: Family) -> Result<Vec<(Place, String)>, HandoverError> {
        let tools = self.tools.iter().filter(|(place, _)| place.family == family);
        tools.map(|(place, tool)| Ok((*place, tool.read(false)?))).collect()
    }

    /// The rule set of a family that is in use: Docker's, the one where our chains stand, the only one with rules, or that
    /// of the plain command.
    fn choose(&self, family: Family, texts: &[(Place, String)]) -> Result<Place, HandoverError> {
        let saves: Vec<_> = texts.iter().map(|(place, text)| (*place, Save::parse(text))).collect();
        let only = |which: &dyn Fn(&Save<'_>) -> bool| {
            let mut found = saves.iter().filter(|(_, save)| which(save));
            found.next().filter(|_| found.next().is_none()).map(|(place, _)| *place)
        };
        let in_use =
            only(&docker_writes).or_else(|| only(&has_own)).or_else(|| only(&|save| !save.is_empty()));
        if let Some(place) = in_use {
            return Ok(place);
        }
        let plain = self.plain.get(&family).map(|plain| flavour_of(plain)).transpose()?;
        let plain =
            plain.map(|flavour| Place { family, flavour }).filter(|place| self.tools.contains_key(place));
        let place = plain.or_else(|| saves.first().map(|(place, _)| *place));
        place.ok_or(HandoverError::NoFamily { family: family.command() })
    }

    /// What of `desired` stands in each rule set with Docker's rules; changes nothing.
    pub fn status(&self, desired: &Desired) -> Result<Status, HandoverError> {
        let mut status = Status { places: Vec::new(), unreadable: Vec::new(), own: Vec::new() };
        for (&place, tool) in &self.tools {
            let text = tool.read(true)?;
            let save = Save::parse(&text);
            status.unreadable.extend(unreadable(place, &save));
            let rules = own_rules(&save);
            status.own.extend((rules > 0).then_some(Own { place, rules }));
            status.places.extend(report(&text, desired).map(|report| Found { place, report }));
        }
        drop_needless(&mut status.unreadable, status.places.iter().map(|found| found.place));
        Ok(status)
    }

    /// What each rule set of the host holds, as iptables-save prints it; an error where one cannot be read.
    pub fn read_all(&self) -> Vec<(Place, Result<String, HandoverError>)> {
        self.tools.iter().map(|(place, tool)| (*place, tool.read(false))).collect()
    }

    /// What stands now, whole; changes nothing.
    pub fn rule_sets(&self) -> Result<RuleSets, HandoverError> {
        let read = self.read_all().into_iter().map(|(place, text)| Ok((place, text?)));
        Ok(RuleSets { texts: read.collect::<Result<_, HandoverError>>()? })
    }

    /// `read` holds what has been read a moment ago.
    fn write(
        &self,
        mut read: BTreeMap<Place, String>,
        plan: impl Fn(Place, &Save<'_>, &str) -> Vec<Edit>,
    ) -> Result<Outcome, HandoverError> {
        let mut outcome = Outcome {
            changed: false,
            places: Vec::new(),
            nat: false,
            unreadable: Vec::new(),
            refused: Vec::new(),
        };
        let mut failures = Vec::new();
        for (&place, tool) in &self.tools {
            match self.settle(place, tool, read.remove(&place), &plan) {
                Ok(settled) => {
                    outcome.changed |= !settled.edits.is_empty();
                    outcome.nat |= settled.nat;
                    outcome.unreadable.extend(settled.unreadable);
                    if settled.docker || !settled.edits.is_empty() {
                        outcome.places.push(Change { place, edits: settled.edits });
                    }
                }
                Err(error) => failures.push(error),
            }
        }
        drop_needless(&mut outcome.unreadable, outcome.places.iter().map(|change| change.place));
        match failures.len() {
            0 => Ok(outcome),
            1 => Err(failures.remove(0)),
            _ => Err(HandoverError::Several(failures)),
        }
    }

    /// Writes until what is read back is what was wanted.
    fn settle(
        &self,
        place: Place,
        tool: &Tool,
        mut read: Option<String>,
        plan: impl Fn(Place, &Save<'_>, &str) -> Vec<Edit>,
    ) -> Result<Settled, HandoverError> {
        let mut done = Vec::new();
        let mut last = Vec::new();
        let mut failure = None;
        for attempt in 0..=ATTEMPTS {
            let text = read.take().map_or_else(|| tool.read(false), Ok)?;
            let save = Save::parse(&text);
            let edits = plan(place, &save, &text);
            if edits.is_empty() {
                let (docker, nat) = (has_docker(&save), has_nat(&save));
                return Ok(Settled { edits: done, docker, nat, unreadable: unreadable(place, &save) });
            }
            if edits == last {
                // What was written is not recognised, or is gone again: take it back, lest every pass adds another.
                // Where it is gone the deletion fails, which is as good.
                let _gone = tool.write(place, &undo(&last), self.lock_wait);
            }
            if attempt == ATTEMPTS {
                break;
            }
            // The tables may have changed since they were read, which can make a number or a rule invalid: once more.
            match tool.write(place, &edits, self.lock_wait) {
                Ok(()) => {
                    done.extend_from_slice(&edits);
                    last = edits;
                }
                Err(error @ HandoverError::Failed { .. }) => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or(HandoverError::Restless { place, attempts: ATTEMPTS }))
    }
}

/// Whether the kernel forwards this family at all (IPv6 may be switched off at boot).
fn exists(family: Family) -> bool {
    family == Family::V4 || Path::new("/proc/net/if_inet6").exists()
}

/// A rule set in which all is right.
struct Settled {
    edits: Vec<Edit>,
    docker: bool,
    nat: bool,
    unreadable: Option<Unreadable>,
}

/// The first table in this rule set that matters and cannot be seen.
fn unreadable(place: Place, save: &Save<'_>) -> Option<Unreadable> {
    let vital: &[&'static str] = if has_docker(save) { &["raw", "nat"] } else { &["filter"] };
    vital.iter().find(|table| save.is_incompatible(table)).map(|table| Unreadable { place, table })
}

/// A filter table that cannot be read is of no interest where Docker's rules stand in the other flavour.
fn drop_needless(unreadable: &mut Vec<Unreadable>, docker: impl Iterator<Item = Place>) {
    let families: Vec<Family> = docker.map(|place| place.family).collect();
    unreadable.retain(|missed| missed.table != "filter" || !families.contains(&missed.place.family));
}

impl Tool {
    fn find(dirs: &[PathBuf], name: &str) -> Option<Self> {
        let [save, restore] = ["save", "restore"].map(|verb| search(dirs, &format!("{name}-{verb}")));
        Some(Self { save: save?, restore: restore? })
    }

    /// The text of iptables-save. Unlike `iptables -S` and `-L` it makes no table that is not there.
    fn read(&self, counters: bool) -> Result<String, HandoverError> {
        let arguments: &[&str] = if counters { &["-c"] } else { &[] };
        let output = run(&self.save, arguments, "", PATIENCE)?;
        if output.ok {
            Ok(output.stdout)
        } else if output.stderr.contains("not supported") {
            // A kernel without this flavour or family holds no rules in it.
            Ok(String::new())
        } else {
            Err(output.error(&self.save))
        }
    }

    /// Makes the edits in one transaction per table.
    fn write(&self, place: Place, edits: &[Edit], lock_wait: Duration) -> Result<(), HandoverError> {
        let wait = format!("--wait={}", lock_wait.as_secs());
        let output = run(&self.restore, &["--noflush", &wait], &restore_input(edits), lock_wait + PATIENCE)?;
        if output.ok {
            Ok(())
        } else if output.stderr.contains("xtables lock") {
            Err(HandoverError::Locked { place, seconds: lock_wait.as_secs() })
        } else {
            Err(output.error(&self.restore))
        }
    }
}

/// Chains of our own are written as a whole and never pile up; without them there would be no NAT at all.
fn undo(edits: &[Edit]) -> Vec<Edit> {
    let added = edits.iter().filter(|edit| matches!(edit.how, How::Insert(_) | How::Append));
    let added = added.filter(|edit| !concerns_own(edit));
    added.map(|edit| Edit { how: How::Delete, ..edit.clone() }).collect()
}

/// `iptables v1.8.9 (nf_tables)`; before 1.8 there was one flavour and no word for it.
fn flavour_of(plain: &Path) -> Result<Flavour, HandoverError> {
    let output = run(plain, &["--version"], "", PATIENCE)?;
    if !output.ok {
        return Err(output.error(plain));
    }
    Ok(if output.stdout.contains("nf_tables") { Flavour::Nft } else { Flavour::Legacy })
}
