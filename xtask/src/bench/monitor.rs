//! What a flood of drops costs with and without somebody who follows them, and what they see of it.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::path;
use super::sample::Spread;
use super::street::{By, FEW, Path, Street};
use crate::lab::{Generation, Monitor};
use crate::setup::{self, Part};
use crate::workspace;

/// Drops at the uplink, of some thousand tuples.
const PATH: Path = Path::Unwanted(By::Tcx);

/// Who follows: what it is called, and the arguments of `fw monitor`. `None` follows nothing.
const FOLLOWERS: [(&str, Option<&str>); 6] = [
    ("nobody", None),
    ("nobody, again", None),
    ("fw monitor", Some("")),
    ("fw monitor --json", Some("--json")),
    ("fw monitor --pcap", Some("--pcap /run/lab/flood.pcapng")),
    ("fw monitor --json --rate 10000", Some("--json --rate 10000")),
];

/// For so long each sample is a flood.
const FLOOD: Duration = Duration::from_secs(2);

/// What was found of one of them.
#[derive(Default)]
struct Found {
    nanoseconds: Vec<f64>,
    shown: Vec<f64>,
    lost: Vec<f64>,
    /// CPU of the follower, in a thousandth of one.
    cpu: Vec<f64>,
}

/// Measures by turns, and prints what was found.
pub(super) fn run(quick: bool) -> Result<()> {
    setup::ensure(&[Part::Build, Part::Lab])?;
    workspace::build_fw()?;
    let rounds = if quick { 3 } else { 9 };
    let mut street = path::filtered(Generation::default(), true, &[PATH])?;
    street.greet(FEW)?;
    street.calibrate()?;
    let mut found: [Found; FOLLOWERS.len()] = Default::default();
    for round in 0..rounds {
        for turn in 0..FOLLOWERS.len() {
            let number = (turn + round) % FOLLOWERS.len();
            sample(&street, FOLLOWERS[number].1, &mut found[number])?;
        }
    }
    println!("\na flood of drops at TCX, each sample {} s; {rounds} rounds by turns", FLOOD.as_secs());
    println!("medians, and least to most; events and CPU for each second of flood");
    println!("{:32} {:>24} {:>26} {:>12} {:>10}", "who follows", "ns a drop", "shown", "lost", "its CPU");
    for ((who, _), found) in FOLLOWERS.iter().zip(found) {
        let Some(nanoseconds) = Spread::of(found.nanoseconds) else { continue };
        print!("{who:32} {nanoseconds:10.1}");
        let (shown, lost, cpu) = (Spread::of(found.shown), Spread::of(found.lost), Spread::of(found.cpu));
        if let (Some(shown), Some(lost), Some(cpu)) = (shown, lost, cpu) {
            print!("  {shown:10.0} {:14.0} {:8.1} %", lost.median, cpu.median / 10.0);
        }
        println!();
    }
    Ok(())
}

/// One flood.
#[expect(clippy::cast_precision_loss, reason = "counts of one flood are far below 2^52")]
fn sample(street: &Street, follower: Option<&str>, found: &mut Found) -> Result<()> {
    let monitor = follower.map(|arguments| Monitor::start(street.lab(), arguments)).transpose()?;
    let before = monitor.as_ref().map(Monitor::spent).transpose()?.unwrap_or_default();
    let begun = Instant::now();
    let mut took = Vec::new();
    while begun.elapsed() < FLOOD {
        took.push(street.sample(PATH)?);
    }
    let lasted = begun.elapsed().as_secs_f64();
    found.nanoseconds.push(took.iter().sum::<f64>() / took.len() as f64);
    if let Some(monitor) = monitor {
        let spent = monitor.spent()?.saturating_sub(before);
        let [shown, others, lost] = monitor.interrupt()?.tally()?;
        found.cpu.push(spent.as_secs_f64() * 1e3 / lasted);
        found.shown.push((shown + others) as f64 / lasted);
        found.lost.push(lost as f64 / lasted);
    }
    Ok(())
}
