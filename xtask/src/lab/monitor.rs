//! A running `fw monitor`, and what it says.

use std::fs;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{BPFFS, Lab, fw_binary, wait};

const OUT: &str = "/run/lab/monitor.out";
const ERR: &str = "/run/lab/monitor.err";
const PID: &str = "/run/lab/monitor.pid";

/// A running `fw monitor`; killed when dropped.
pub struct Monitor<'a> {
    lab: &'a Lab,
    child: Child,
}

/// What it has said, and how it ended.
pub struct Said {
    /// Its exit code, if it has ended.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl<'a> Monitor<'a> {
    /// Starts it with these arguments on the lab's host, and waits until it follows.
    pub fn start(lab: &'a Lab, arguments: &str) -> Result<Self> {
        for file in [OUT, ERR, PID] {
            fs::remove_file(lab.path(file)).ok();
        }
        let fw = fw_binary()?;
        // The pid file holds the number inside the lab's process namespace; `exec` keeps it.
        let line = format!(
            "echo $$ >{PID}; exec {} monitor --bpffs {BPFFS} {arguments} >{OUT} 2>{ERR}",
            fw.display()
        );
        let child =
            lab.host().command("sh").args(["-ec", &line]).spawn().context("cannot start fw monitor")?;
        let monitor = Self { lab, child };
        monitor.until("fw monitor follows", |said| said.err.contains("following drops"))?;
        Ok(monitor)
    }

    /// Waits until what it has said is as it should be.
    pub fn until(&self, what: &str, holds: impl Fn(&Said) -> bool) -> Result<()> {
        let waited = wait::until(what, Duration::from_secs(20), || holds(&self.said()).then_some(()));
        waited.with_context(|| {
            let said = self.said();
            format!("fw monitor says:\n{}{}", said.out, said.err)
        })
    }

    /// Waits for its end.
    pub fn ends(mut self) -> Result<Said> {
        let ended =
            wait::until("fw monitor ends", Duration::from_secs(20), || self.child.try_wait().ok().flatten())?;
        Ok(Said { code: ended.code(), ..self.said() })
    }

    /// Ends it as ^C does.
    pub fn interrupt(self) -> Result<Said> {
        self.lab.host().script(&format!("kill -INT $(cat {PID})"))?;
        self.ends()
    }

    /// CPU time that it has taken so far.
    pub fn spent(&self) -> Result<Duration> {
        let stat = self.lab.host().script(&format!("cat /proc/$(cat {PID})/stat"))?;
        // proc(5): after the name, which may hold anything, utime and stime are the 12th and 13th word.
        let (_, fields) = stat.rsplit_once(')').context("no line of /proc/PID/stat")?;
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
        // The kernel tells CPU time in hundredths of a second (USER_HZ).
        Ok(Duration::from_millis(10) * u32::try_from(ticks)?)
    }

    fn said(&self) -> Said {
        let read = |file| fs::read_to_string(self.lab.path(file)).unwrap_or_default();
        Said { code: None, out: read(OUT), err: read(ERR) }
    }
}

impl Drop for Monitor<'_> {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.lab.host().script(&format!("kill -KILL $(cat {PID})")).ok();
            self.child.wait().ok();
        }
    }
}

impl Said {
    /// Drops that were shown, that were not asked for, and of which no event told: what its last line says.
    pub fn tally(&self) -> Result<[u64; 3]> {
        let summary = self.err.lines().last().unwrap_or_default();
        let before = |word: &str| -> Option<u64> {
            let (text, _) = summary.split_once(word)?;
            text.rsplit(' ').next()?.parse().ok()
        };
        let shown = before(" drops in").with_context(|| format!("no summary: {}", self.err))?;
        let others = before(" not of ").unwrap_or(0);
        let lost = before(" without an event").with_context(|| format!("no summary: {}", self.err))?;
        Ok([shown, others, lost])
    }
}
