//! Runs iptables-save and iptables-restore, the only place that does: reads, writes in one transaction, reads back.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::layout::{Edit, How, Report, has_docker, plan, plan_removal, report, restore_input};
use super::program::{PATIENCE, run, search, search_path};
use super::save::Save;
use super::{Desired, Family, Flavour, HandoverError, Marks, Place, doctor_marks};

/// How long another holder of the xtables lock is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How often a write is tried when others change the tables between reading and writing.
const ATTEMPTS: u32 = 3;

/// The iptables programs of this host, for the network namespace of the calling thread.
#[derive(Clone, Debug)]
pub struct Iptables {
    tools: BTreeMap<Place, Tool>,
    lock_wait: Duration,
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
    /// Tables that may hold Docker's rules or fw's, unseen.
    pub unreadable: Vec<Unreadable>,
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
        for (family, name) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
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
        if tools.is_empty() { Err(HandoverError::NoTool) } else { Ok(Self { tools, lock_wait: LOCK_WAIT }) }
    }

    /// Waits this long for the xtables lock, in whole seconds, instead of ten.
    #[must_use]
    pub fn with_lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// Brings every rule set with Docker's rules to `desired` and reads it back; touches nothing that is right.
    /// If one rule set fails the others are still done.
    pub fn apply(&self, desired: &Desired) -> Result<Outcome, HandoverError> {
        self.write(|text| plan(text, desired))
    }

    /// Takes away every rule of fw.
    pub fn remove(&self) -> Result<Outcome, HandoverError> {
        self.write(plan_removal)
    }

    /// What of `desired` stands in each rule set with Docker's rules; changes nothing.
    pub fn status(&self, desired: &Desired) -> Result<Status, HandoverError> {
        let mut status = Status { places: Vec::new(), unreadable: Vec::new() };
        for (&place, tool) in &self.tools {
            let text = tool.read(true)?;
            status.unreadable.extend(unreadable(place, &Save::parse(&text)));
            status.places.extend(report(&text, desired).map(|report| Found { place, report }));
        }
        drop_needless(&mut status.unreadable, status.places.iter().map(|found| found.place));
        Ok(status)
    }

    /// The findings of [`doctor_marks`] in all rule sets, each with its place in front.
    pub fn doctor(&self, marks: Marks) -> Result<Vec<String>, HandoverError> {
        let mut findings = Vec::new();
        for (place, tool) in &self.tools {
            let text = tool.read(false)?;
            findings.extend(doctor_marks(&text, marks).iter().map(|finding| format!("{place}: {finding}")));
        }
        Ok(findings)
    }

    fn write(&self, plan: impl Fn(&str) -> Vec<Edit>) -> Result<Outcome, HandoverError> {
        let mut outcome = Outcome { changed: false, places: Vec::new(), unreadable: Vec::new() };
        let mut failures = Vec::new();
        for (&place, tool) in &self.tools {
            match self.settle(place, tool, &plan) {
                Ok(settled) => {
                    outcome.changed |= !settled.edits.is_empty();
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
        plan: impl Fn(&str) -> Vec<Edit>,
    ) -> Result<Settled, HandoverError> {
        let mut done = Vec::new();
        let mut last = Vec::new();
        let mut failure = None;
        for attempt in 0..=ATTEMPTS {
            let text = tool.read(false)?;
            let edits = plan(&text);
            if edits.is_empty() {
                let save = Save::parse(&text);
                let (docker, unreadable) = (has_docker(&save), unreadable(place, &save));
                return Ok(Settled { edits: done, docker, unreadable });
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

/// A rule set in which all is right.
struct Settled {
    edits: Vec<Edit>,
    docker: bool,
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

fn undo(edits: &[Edit]) -> Vec<Edit> {
    let added = edits.iter().filter(|edit| edit.how != How::Delete);
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
