//! What the daemon tells of itself: the time of each pass, its memory, that of its maps.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::lab::{Lab, wait};

/// `FW_LOG` with which it does so.
pub(super) const LOG: &str = "info,fw_user::reconcile::spent=debug";

/// One pass, as the daemon has told of it: times in microseconds, by the clock and of CPU, and how often it did what.
#[derive(Clone, Debug)]
pub(super) struct Pass(BTreeMap<String, String>);

/// The parts of a pass up to the last map write that are fw's own: neither Docker's answer nor the kernel's time for hooks.
const OWN: [&str; 8] = ["containers", "kernel", "read", "attached", "desired", "plan", "connections", "maps"];
/// Those of them that bring the tables to what they should be.
const TABLES: [&str; 4] = ["read", "desired", "plan", "maps"];

impl Pass {
    fn parse(line: &str) -> Option<Self> {
        let (_, fields) = line.split_once("pass, in us by the clock and of CPU ")?;
        let fields = fields.split_whitespace().filter_map(|field| field.split_once('='));
        Some(Self(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }

    /// A number that it tells.
    pub(super) fn number(&self, name: &str) -> Result<f64> {
        let value = self.0.get(name).with_context(|| format!("fw does not tell `{name}` of a pass"))?;
        value.parse().with_context(|| format!("`{name}` of a pass is {value}"))
    }

    /// Milliseconds of one part by the clock.
    pub(super) fn clock_ms(&self, part: &str) -> Result<f64> {
        self.took(part).map(|(clock, _)| clock)
    }

    /// Milliseconds of CPU time of one part, which other work on the machine does not lengthen.
    pub(super) fn cpu_ms(&self, part: &str) -> Result<f64> {
        self.took(part).map(|(_, cpu)| cpu)
    }

    fn took(&self, part: &str) -> Result<(f64, f64)> {
        let value = self.0.get(part).with_context(|| format!("fw does not tell `{part}` of a pass"))?;
        let both =
            value.split_once('/').and_then(|(clock, cpu)| Some((clock.parse().ok()?, cpu.parse().ok()?)));
        let (clock, cpu): (f64, f64) = both.with_context(|| format!("`{part}` of a pass is {value}"))?;
        Ok((clock / 1e3, cpu / 1e3))
    }

    /// Milliseconds of CPU time up to the last map write, without what others take.
    pub(super) fn own_ms(&self) -> Result<f64> {
        OWN.iter().map(|part| self.cpu_ms(part)).sum()
    }

    /// Milliseconds of CPU time that the tables alone take.
    pub(super) fn tables_ms(&self) -> Result<f64> {
        TABLES.iter().map(|part| self.cpu_ms(part)).sum()
    }

    /// Entries written and read back.
    pub(super) fn operations(&self) -> Result<f64> {
        Ok(self.number("writes")? + self.number("reads")?)
    }

    pub(super) fn wrote(&self) -> bool {
        self.0.get("writes").is_some_and(|writes| writes != "0")
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.get("wake").is_some_and(|wake| wake == "Everything")
    }
}

/// All passes so far.
pub(super) fn passes(lab: &Lab) -> Vec<Pass> {
    lab.fw_log().lines().filter_map(Pass::parse).collect()
}

/// Does something, and tells the passes that come of it, once there are some that wrote and none comes any more.
pub(super) fn passes_of(lab: &Lab, work: impl FnOnce() -> Result<()>) -> Result<Vec<Pass>> {
    let before = passes(lab).len();
    work()?;
    let mut last = 0;
    wait::until("fw follows", Duration::from_secs(30), || {
        let new = passes(lab).split_off(before);
        wait::pass(QUIET);
        let quiet = new.len() == std::mem::replace(&mut last, new.len());
        (quiet && new.iter().any(Pass::wrote)).then_some(new)
    })
}

/// Passes come at most so far apart that follow from the same change.
const QUIET: Duration = Duration::from_millis(150);

/// Waits until a daemon is ready; seconds that it says to have taken.
pub(super) fn ready(lab: &Lab, within: Duration) -> Result<f64> {
    let after = wait::until("fw is ready", within, || {
        let log = lab.fw_log();
        let line = log.lines().find(|line| line.contains(" ready: "))?;
        line.split_once("after=").map(|(_, after)| after.trim().to_owned())
    });
    let after = after.with_context(|| format!("its log:\n{}", lab.fw_log()))?;
    let units = [("ms", 1e-3), ("µs", 1e-6), ("s", 1.0)];
    let seconds =
        units.iter().find_map(|(unit, factor)| Some(after.strip_suffix(unit)?.parse::<f64>().ok()? * factor));
    seconds.with_context(|| format!("`after={after}` is no time"))
}

/// Forgets what daemons before have told.
pub(super) fn forget(lab: &Lab) -> Result<()> {
    lab.host().script("rm -f /run/lab/fw.log").map(drop)
}

/// Megabytes (10⁶ bytes) of memory of the daemon that are resident.
pub(super) fn resident(lab: &Lab) -> Result<f64> {
    let status = lab.host().script("cat /proc/$(cat /run/lab/fw.pid)/status")?;
    field(&status, "VmRSS:").context("a process has a VmRSS").map(|kibibytes| kibibytes * 1024.0 / 1e6)
}

/// Megabytes (10⁶ bytes) of kernel memory that its maps take, as the kernel counts them.
pub(super) fn map_memory(lab: &Lab) -> Result<f64> {
    let pid = lab.host().script("cat /run/lab/fw.pid")?;
    let folder = lab.path(&format!("/proc/{}/fdinfo", pid.trim()));
    let mut maps = BTreeMap::new();
    for file in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        // A file that is closed meanwhile is no map.
        let Ok(info) = fs::read_to_string(file?.path()) else { continue };
        if let (Some(id), Some(bytes)) = (field(&info, "map_id:"), field(&info, "memlock:")) {
            maps.insert(id.to_bits(), bytes);
        }
    }
    anyhow::ensure!(!maps.is_empty(), "the daemon holds no map");
    Ok(maps.values().sum::<f64>() / 1e6)
}

fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_read_as_it_is_told() {
        let line = "2026-11-22T12:00:00Z DEBUG pass, in us by the clock and of CPU wake=Docker docker=9/9 \
                    containers=2000/1000 kernel=1000/1000 read=0/0 attached=0/0 desired=500/500 plan=250/250 \
                    connections=0/0 maps=250/250 hooks=7000/80 rules=8/8 writes=6 reads=4 changed=1";
        let pass = Pass::parse(line).expect("a pass");
        assert_eq!(pass.own_ms().ok(), Some(3.0), "neither Docker nor hooks nor rules");
        assert_eq!(pass.tables_ms().ok(), Some(1.0));
        assert_eq!(pass.operations().ok(), Some(10.0));
        assert_eq!((pass.clock_ms("hooks").ok(), pass.cpu_ms("hooks").ok()), (Some(7.0), Some(0.08)));
        assert!(pass.wrote() && !pass.is_full());
        assert!(Pass::parse("INFO ready").is_none());
        assert!(pass.number("nothing").is_err());
    }
}
