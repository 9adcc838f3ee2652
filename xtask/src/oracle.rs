//! `cargo xtask oracle`: the kernel's own connection tracking and Docker's own filter as judges of fw.
//!
//! Two hosts with the same networks, containers and addresses get the same packets: one has stock Docker and an
//! administrator's iptables, the other fw with the same policy. Every packet bears a tag of its own, so that it is known
//! where it arrived. Each difference has to be of a kind that [`allowed`] lists; one that is not is made small and written
//! down as a case for `xtask/tests/oracle`.

mod allowed;
mod bytes;
mod case;
mod policy;
mod random;
mod replay;
mod report;
mod shrink;
mod topology;
mod traffic;
mod twin;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::setup::{self, Part};
use crate::workspace;
use policy::Policy;
use random::Random;
use replay::{Counters, Outcome, Twins};
use report::Report;
use topology::Topology;
use traffic::{Conversation, Traffic};

pub use case::replay_kept;

/// What `cargo xtask oracle` is told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// At least so many packets.
    #[arg(long, default_value_t = 10_000)]
    pub packets: usize,
    /// Choices at random begin with this number; the same number repeats them.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Keep the two hosts after the last packet, until the end of standard input.
    #[arg(long)]
    pub keep: bool,
    /// Where a case is written for each difference that no list allows; relative to the workspace.
    #[arg(long, default_value = "target/oracle")]
    pub cases: PathBuf,
}

/// Sets up, builds fw, and runs the oracle.
pub fn command(arguments: &Arguments) -> Result<()> {
    ensure!(setup::is_root(), "the oracle makes network namespaces, which needs root: run it with sudo");
    setup::ensure(&[Part::Build, Part::Lab])?;
    if std::env::var_os("FW_BIN").is_none() {
        workspace::build_fw()?;
    }
    run(arguments)
}

/// Plays, compares, reports; an error if there is a difference that no list allows.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut random = Random::new(arguments.seed);
    let mut report = Report::new(arguments.seed);
    while report.packets < arguments.packets {
        let topology = Topology::random(&mut random);
        let wanted = (arguments.packets - report.packets).min(PER_TOPOLOGY);
        let keep = arguments.keep && report.packets + wanted >= arguments.packets;
        let cases = workspace::root().join(&arguments.cases);
        of_topology(&topology, wanted, &mut random, &mut report, (&cases, keep))?;
    }
    println!("{report}");
    report.verdict()
}

/// Two hosts, several policies. Cases go to a folder; whether the hosts are kept at the end.
fn of_topology(
    topology: &Topology,
    wanted: usize,
    random: &mut Random,
    report: &mut Report,
    (cases, keep): (&Path, bool),
) -> Result<()> {
    println!("{topology}");
    let policy = Policy::random(random, topology);
    let started = Instant::now();
    let mut twins = Twins::build(topology, &policy)?;
    report.building += started.elapsed();
    let end = report.packets + wanted;
    while report.packets < end {
        let policy = Policy::random(random, topology);
        let until = end.min(report.packets + PER_POLICY);
        let found = twins.with_policy(&policy, |twins| {
            let found = of_policy(twins, until, random, report)?;
            report.count(twins.counters()?);
            if keep && report.packets >= end {
                let [stock, fw] = twins.labs();
                println!("without fw: {}\nwith fw: {}\nenter ends both", stock.enter()?, fw.enter()?);
                std::io::stdin().read_line(&mut String::new()).context("cannot wait on standard input")?;
            }
            Ok(found)
        })?;
        for (batch, outcome) in found {
            shrink::unlisted(&mut twins, &policy, &batch, &outcome, report, cases)?;
        }
    }
    Ok(())
}

/// Plays until enough packets were sent, or until something was found; returns what to look into.
fn of_policy(
    twins: &Twins,
    until: usize,
    random: &mut Random,
    report: &mut Report,
) -> Result<Vec<(Vec<Conversation>, Outcome)>> {
    let topology = twins.topology.clone();
    let mut traffic = Traffic::new(&topology);
    let mut counted = twins.counters()?;
    let mut found = Vec::new();
    let started = Instant::now();
    while report.packets < until && found.len() < MOST_FOUND {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let more = traffic.random(random, batch.len());
            batch.extend(more);
        }
        let outcome = twins.play(&batch)?;
        let now = twins.counters()?;
        check_reasons(&batch, &outcome, &counted, &now)?;
        counted = now;
        report.add(&outcome);
        if outcome.unlisted().next().is_some() {
            found.push((batch, outcome));
        }
    }
    report.playing += started.elapsed();
    Ok(found)
}

/// fw must have counted a drop for each packet that was allowed to differ, with a reason of an entry that allows it.
fn check_reasons(
    batch: &[Conversation],
    outcome: &Outcome,
    before: &Counters,
    after: &Counters,
) -> Result<()> {
    let mut packets: BTreeMap<(usize, u8), BTreeSet<&str>> = BTreeMap::new();
    for difference in outcome.differences.iter().filter(|difference| !difference.allowed.is_empty()) {
        // An entry without reasons: the stock host drops, or nobody can tell.
        if difference.allowed.iter().all(|entry| !entry.reasons.is_empty()) {
            let reasons = difference.allowed.iter().flat_map(|entry| entry.reasons).copied();
            packets.entry((difference.conversation, difference.step)).or_default().extend(reasons);
        }
    }
    let counted = |counters: &Counters, reasons: &BTreeSet<&str>| -> u64 {
        let of = counters.iter().filter(|((_, reason), _)| reasons.contains(reason.as_str()));
        of.map(|(_, packets)| packets).sum()
    };
    let sets: BTreeSet<_> = packets.values().cloned().collect();
    for reasons in sets {
        let of: Vec<_> =
            packets.iter().filter(|(_, own)| own.is_subset(&reasons)).map(|(packet, _)| packet).collect();
        let dropped = counted(after, &reasons) - counted(before, &reasons);
        if dropped < of.len() as u64 {
            let shown: Vec<_> =
                of.iter().map(|(number, step)| format!("step {step} of {:?}", batch[*number])).collect();
            bail!(
                "{} packets are allowed to differ because fw drops them as {reasons:?}, but it has dropped {dropped} so:\n{}",
                of.len(),
                shown.join("\n")
            );
        }
    }
    Ok(())
}

/// Conversations in flight at a time.
const BATCH: usize = 96;
/// Packets with one policy, and on one pair of hosts.
const PER_POLICY: usize = 4_000;
const PER_TOPOLOGY: usize = 24_000;
/// With one policy, so many batches with something unlisted are enough.
const MOST_FOUND: usize = 3;
