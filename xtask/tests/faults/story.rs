//! Faults one after the other, while both meters run; and the table of what they showed.

use std::time::{Duration, Instant};

use xtask::lab::liar::Liar;
use xtask::lab::meter::{Beat, Leaked, Leaks, Pulse};
use xtask::lab::table::Table;
use xtask::lab::{Container, Daemon, Lab, wait};

use crate::ground::{Ground, POLICY};
use crate::{daemon, engine, kernel, lies};

#[test]
fn faults_leak_nothing_and_heal() {
    let Some(ground) = Ground::start("faults_leak_nothing_and_heal", &["--live-restore"], &[]) else {
        return;
    };
    let mut story = Story::begin(&ground);
    daemon::rows(&mut story);
    engine::rows(&mut story);
    lies::rows(&mut story);
    kernel::rows(&mut story);
    story.end();
}

/// The meters, the daemon, and the rows so far.
pub(crate) struct Story<'g> {
    pub(crate) ground: &'g Ground,
    pub(crate) liar: Option<Liar>,
    pub(crate) daemon: Option<Daemon<'g>>,
    leaks: Leaks,
    pub(crate) pulse: Option<Pulse>,
    table: Table,
    failures: Vec<String>,
    skipped: Vec<String>,
}

/// What a fault showed besides the meters.
#[derive(Default)]
pub(crate) struct Shown {
    /// Until `fw status` spoke of it.
    pub(crate) told: Option<Duration>,
    /// Until all was as before.
    pub(crate) healed: Option<Duration>,
}

impl<'g> Story<'g> {
    /// Starts fw behind the proxy, and the meters.
    pub(crate) fn begin(ground: &'g Ground) -> Self {
        let liar = Liar::start(&ground.lab, SOCKET).expect("a proxy");
        let daemon = ground.lab.fw_run_with(POLICY, &BY_PROXY).expect("fw");
        let columns =
            ["row", "fault", "leaked", "probes", "longest gap", "lost", "told after", "healed after"];
        Self {
            ground,
            liar: Some(liar),
            daemon: Some(daemon),
            leaks: ground.leaks(),
            pulse: Some(ground.pulse()),
            table: Table::new(&columns),
            failures: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// One fault: `work` makes it happen and end. If it takes the pulse away, for connections will not outlive the fault,
    /// new ones are pinged from the next row on. `FW_FAULTS` names a row that is wanted alone. Then every pair that may talk must do so, new connections come about,
    /// and `fw status` finds nothing wrong.
    pub(crate) fn row(&mut self, row: &str, what: &str, work: impl FnOnce(&mut Self) -> Shown) {
        if std::env::var("FW_FAULTS").is_ok_and(|only| !row.contains(&only)) {
            return;
        }
        let shown = work(self);
        let ground = self.ground;
        let opens = wait::until("new connections", PATIENCE, || ground.opens().then_some(()));
        let well = wait::until("no problem", PATIENCE, || self.problems().is_empty().then_some(()));
        let beat = self.pulse.as_ref().map_or_else(|| Ok(Beat::default()), Pulse::lap);
        let leaked = self.leaks.lap();
        for failure in
            [opens.err(), well.err(), beat.as_ref().err().map(|error| anyhow::anyhow!("{error:#}"))]
                .into_iter()
                .flatten()
        {
            self.failures.push(format!("{row} {what}: {failure:#}; {:?}", self.problems()));
        }
        let leaked = leaked.unwrap_or_else(|error| {
            self.failures.push(format!("{row} {what}: {error:#}"));
            Leaked::default()
        });
        if leaked.total() > 0 {
            self.failures.push(format!("{row} {what}: {leaked}"));
        }
        let beat = beat.unwrap_or_default();
        let span =
            |span: Option<Duration>| span.map_or("-".to_owned(), |span| format!("{} ms", span.as_millis()));
        self.table.row(&[
            &row,
            &what,
            &leaked.total(),
            &leaked.probes,
            &self
                .pulse
                .as_ref()
                .map_or("-".into(), |_| format!("{} ms ({})", beat.longest.as_millis(), beat.pair)),
            &beat.lost,
            &span(shown.told),
            &span(shown.healed),
        ]);
        println!("{row} {what}: {leaked}; {beat}");
        self.pulse.get_or_insert_with(|| ground.pulse());
    }

    /// A row that cannot be shown here.
    pub(crate) fn skip(&mut self, row: &str, why: &str) {
        self.skipped.push(format!("SKIPPED: {row}: {why}"));
    }

    /// Prints the table; fails if a row did.
    pub(crate) fn end(self) {
        println!("{}", self.table);
        for line in &self.skipped {
            println!("{line}");
        }
        assert!(self.failures.is_empty(), "{}", self.failures.join("\n"));
    }

    /// What `fw status` finds wrong, asked as a monitor would ask.
    pub(crate) fn problems(&self) -> Vec<String> {
        problems(&self.ground.lab, &["--docker", URL])
    }

    /// How long it takes until `fw status` finds something wrong that has these words.
    pub(crate) fn tells(&self, words: &str) -> Duration {
        self.until(words, || self.problems().iter().any(|problem| problem.contains(words)))
    }

    /// How long it takes until `fw status` finds nothing wrong.
    pub(crate) fn heals(&self) -> Duration {
        self.until("no problem", || self.problems().is_empty())
    }

    /// How long it takes until fw knows a container, and lets it be reached from outside.
    pub(crate) fn knows(&self, container: &Container, port: u16) -> Duration {
        let address = container.ip().expect("an address").to_string();
        let took = self.until("fw knows the new container", || {
            let endpoints = self.ground.lab.fw(&["table", "endpoints"]).expect("a table");
            endpoints.split_whitespace().any(|word| word == address)
        });
        self.until("the new container is reached", || self.ground.reaches(&container.name, port));
        took
    }

    pub(crate) fn until(&self, what: &str, condition: impl Fn() -> bool) -> Duration {
        let begun = Instant::now();
        if let Err(error) = wait::until(what, PATIENCE, || condition().then_some(())) {
            let tail: Vec<_> = self.ground.lab.fw_log().lines().rev().take(12).map(str::to_owned).collect();
            panic!("{error:#}; {:?}; log, the newest first:\n{}", self.problems(), tail.join("\n"));
        }
        begun.elapsed()
    }

    pub(crate) fn signal(&self, name: &str) {
        self.daemon.as_ref().expect("fw runs").signal(name).expect("a signal");
    }

    pub(crate) fn liar(&self) -> &Liar {
        self.liar.as_ref().expect("the proxy runs")
    }

    /// Starts fw again.
    pub(crate) fn run(&mut self) {
        self.daemon = Some(self.ground.lab.fw_run_with(POLICY, &BY_PROXY).expect("fw"));
    }
}

/// What `fw status` finds wrong.
pub(crate) fn problems(lab: &Lab, arguments: &[&str]) -> Vec<String> {
    let all = [&["status", "--json"], arguments].concat();
    let output = lab.fw_command(&all).expect("a command").output().expect("fw");
    let status: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&output.stderr)));
    let list = status["problems"].as_array().expect("a list of problems");
    let mut problems: Vec<_> = list.iter().map(|text| text.as_str().unwrap_or_default().to_owned()).collect();
    if !output.status.success() && problems.is_empty() {
        problems.push("fw status failed".to_owned());
    }
    problems
}

/// Where the proxy listens, inside the lab.
pub(crate) const SOCKET: &str = "/run/proxy/docker.sock";
pub(crate) const URL: &str = "unix:///run/proxy/docker.sock";
const BY_PROXY: [&str; 2] = ["--docker", URL];
/// Longer than fw ever looks away.
const PATIENCE: Duration = Duration::from_secs(25);
