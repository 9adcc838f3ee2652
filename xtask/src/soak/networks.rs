//! Networks and containers that come and go at full speed: when they are in force, and what is left of them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::lab::{BPFFS, Lab, Options, wait};

/// Makes so many networks with a container each, removes them, and again, `rounds` times. Fails if anything of them is
/// left in maps, pins or file descriptors.
pub fn networks(count: usize, rounds: usize) -> Result<()> {
    let lab = Lab::start(Options::default())?;
    let daemon = lab.fw_run("")?;
    // The first of each kind may cost something that stays.
    round(&lab, 1)?;
    let (before, memory) = (settled(&lab, None)?, resident(&lab)?);
    for number in 1..=rounds {
        let begun = Instant::now();
        let mut late = round(&lab, count)?;
        late.sort_unstable();
        let at = |share: usize| late[(late.len() - 1) * share / 100].as_millis();
        println!(
            "round {number}: {count} networks and containers made and removed in {} s; in force after Docker's answer \
             within p50 {} ms, p99 {} ms, at most {} ms",
            begun.elapsed().as_secs(),
            at(50),
            at(99),
            at(100)
        );
        settled(&lab, Some(&before)).context("something is left")?;
        println!("  left: nothing; memory of the daemon {memory} KiB before, {} KiB after", resident(&lab)?);
    }
    daemon.terminate()
}

/// Makes and removes them; after which time each container was known to fw, counted from Docker's answer.
fn round(lab: &Lab, count: usize) -> Result<Vec<Duration>> {
    let seen: Mutex<BTreeMap<String, Instant>> = Mutex::default();
    let stop = AtomicBool::new(false);
    let mut made = BTreeMap::new();
    thread::scope(|scope| -> Result<()> {
        let look = scope.spawn(|| watch(lab, &stop, &seen));
        let work = (|| {
            for number in 0..count {
                let network = format!("soak{number}");
                lab.docker(&["network", "create", &network])?;
                let name = format!("c{number}");
                let run =
                    ["run", "-d", "--name", &name, "--network", &network, "fwlab", "tail", "-f", "/dev/null"];
                lab.docker(&run)?;
                let answered = Instant::now();
                made.insert(lab.inspect(&name)?.ip()?.to_string(), answered);
            }
            let missing = || made.keys().any(|address| !lock(&seen).contains_key(address));
            wait::until("every container is known", Duration::from_secs(30), || (!missing()).then_some(()))
        })();
        stop.store(true, Ordering::Relaxed);
        look.join().expect("the watch does not panic")?;
        work
    })?;
    for number in 0..count {
        lab.docker(&["rm", "-f", &format!("c{number}")])?;
        lab.docker(&["network", "rm", &format!("soak{number}")])?;
    }
    let seen = lock(&seen);
    Ok(made.iter().map(|(address, answered)| seen[address].saturating_duration_since(*answered)).collect())
}

/// Notes when each address is first found in the table of endpoints; a little later than it is there.
fn watch(lab: &Lab, stop: &AtomicBool, seen: &Mutex<BTreeMap<String, Instant>>) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let table = lab.fw(&["table", "endpoints"])?;
        let now = Instant::now();
        let mut seen = lock(seen);
        for word in table.split_whitespace().filter(|word| word.starts_with("10.")) {
            seen.entry(word.to_owned()).or_insert(now);
        }
    }
    Ok(())
}

/// What the daemon holds, once that is what it was before; or when it has stopped to change.
fn settled(lab: &Lab, before: Option<&String>) -> Result<String> {
    let mut last = None;
    let found = wait::until("the daemon holds what it held before", Duration::from_secs(30), || {
        let now = held(lab);
        let (same, old) = match (&now, before) {
            (Ok(now), Some(before)) => (now == before, None),
            (Ok(now), None) => (last.as_ref() == Some(now), Some(now.clone())),
            (Err(_), _) => (false, None),
        };
        last = old.or(last.take());
        same.then_some(now)
    });
    match (found, before) {
        (Ok(now), _) => now,
        (Err(error), Some(before)) => {
            let now = held(lab)?;
            let more: Vec<_> = now.lines().filter(|line| !before.contains(line)).collect();
            Err(error).with_context(|| more.join("\n"))
        }
        (Err(error), None) => Err(error),
    }
}

/// Entries of the maps that follow Docker, pins, and open files, as text.
fn held(lab: &Lab) -> Result<String> {
    let mut text =
        lab.host().script(&format!("find {BPFFS} | sort; ls /proc/$(cat /run/lab/fw.pid)/fd | wc -l"))?;
    for table in ["interfaces", "networks", "subnets", "local_addresses", "endpoints", "ports"] {
        text += &lab.fw(&["table", table])?;
    }
    Ok(text)
}

/// Memory of the daemon that is resident, in KiB.
fn resident(lab: &Lab) -> Result<u64> {
    let status = lab.host().script("cat /proc/$(cat /run/lab/fw.pid)/status")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has a VmRSS")?;
    let number = line.split_whitespace().next().and_then(|word| word.parse().ok());
    number.with_context(|| format!("cannot read {line}"))
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
