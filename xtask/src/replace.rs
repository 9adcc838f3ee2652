//! fw replaced by fw, under load: restarts, upgrades and downgrades, counted by what the kernel and the traffic say.

mod ground;
pub mod other;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

pub use ground::{Connections, Ground, Measured, Meters, POLICY};

use crate::lab::fw_binary;

/// Which fw comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The same one.
    Same,
    /// One with another layout of its maps.
    Other,
}

/// Starts fw again so many times, SIGTERM and SIGKILL in turns, and lets `upgrades` of these starts meet another layout
/// than their own. `other` is another fw, with which today's then takes turns; without it the maps are said to be of
/// another layout. Fails at the first leak, lost connection, and hook that has not exactly one program; prints what was
/// measured.
pub fn restarts(restarts: u32, upgrades: u32, other: Option<&PathBuf>, connections: usize) -> Result<()> {
    let ground = Ground::start()?;
    let lab = &ground.lab;
    let today = fw_binary()?;
    let mut binary = &today;
    let mut daemon = lab.fw_run_by(binary, POLICY, &[])?;
    let mut flows = ground.connections(connections)?;
    let hooks = lab.one_program_per_hook()?;
    let meters = ground.meters()?;
    let mut sums = [Sum::default(), Sum::default()];
    let all = restarts + upgrades;
    for number in 1..=all {
        // Spread over the whole.
        let next =
            if number * upgrades / all > (number - 1) * upgrades / all { Next::Other } else { Next::Same };
        let begun = Instant::now();
        let killed = number / 2 % 2 == 0;
        if killed {
            daemon.kill()?;
        } else {
            daemon.terminate()?;
        }
        let mut what = match (next, other) {
            (Next::Same, _) => "restart".to_owned(),
            (Next::Other, None) => {
                lab.relabel(OTHER_LAYOUT)?;
                "another layout".to_owned()
            }
            (Next::Other, Some(other)) => {
                binary = if binary == other { &today } else { other };
                if binary == other { "upgrade" } else { "downgrade" }.to_owned()
            }
        };
        what += if killed { " after SIGKILL" } else { " after SIGTERM" };
        daemon = lab.fw_run_by(binary, POLICY, &[])?;
        let measured = meters.measure(&number.to_string(), &what, begun)?;
        let now = lab.one_program_per_hook()?;
        ensure!(now == hooks, "{what}, start {number}: {now} programs instead of {hooks}");
        println!("{measured}");
        sums[next as usize].add(&measured);
    }
    let alive = flows.alive();
    ensure!(alive == 2 * connections, "{alive} of {} connections are alive", 2 * connections);
    for (what, sum) in ["restarts", "other layouts"].iter().zip(&sums) {
        println!("{} {what}: {}", sum.count, sum.text());
    }
    println!(
        "{hooks} hooks, one program each, after each start; {alive} of {alive} connections alive at the end"
    );
    daemon.terminate()
}

/// A layout that no fw has.
const OTHER_LAYOUT: u8 = 200;

#[derive(Default)]
struct Sum {
    count: u32,
    probes: u64,
    longest: Duration,
    held_up: Duration,
    lost: u64,
    sent: u64,
    took: Duration,
}

impl Sum {
    fn add(&mut self, measured: &Measured) {
        self.count += 1;
        self.probes += measured.probes;
        if measured.longest > self.longest {
            (self.longest, self.held_up) = (measured.longest, measured.held_up);
        }
        self.lost += measured.lost;
        self.sent += measured.sent;
        self.took = self.took.max(measured.took);
    }

    fn text(&self) -> String {
        format!(
            "leak 0 of {}, longest gap {} ms (meter held up {} ms), lost {} of {} pings, ready again after {} ms at most",
            self.probes,
            self.longest.as_millis(),
            self.held_up.as_millis(),
            self.lost,
            self.sent,
            self.took.as_millis()
        )
    }
}
