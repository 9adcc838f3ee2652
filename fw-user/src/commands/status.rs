//! `fw status`: what is in force, what the outside reaches and why, what was dropped, and whether all is well.

mod handover;
mod rows;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use fw_common::tables::memory::Memory;
use fw_common::tables::{Daemon, role};
use serde_json::{Value, json};

use super::{Engine, Outcome, Pins, is_fw, is_halted, print, reach, runtime};
use crate::control::{self, Answer, Request};
use crate::datapath::{Directory, DirectoryError, Maps};
use crate::docker::{Docker, DockerError, DockerSnapshot};
use crate::exposure::{self, Seen};
use crate::handover::{Iptables, Survey};
use crate::health::{self, Ailment};
use crate::inventory::{Inventory, with_bridges};
use crate::listeners;
use crate::netlink::{self, HostSnapshot};
use crate::reconcile::{chain, monotonic_seconds};
use crate::stock::{self, Ground};
use crate::view::{self, Names, Row};

/// Options of `fw status`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    engine: Engine,
    #[command(flatten)]
    pins: Pins,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows the status; exit 0 only if the policy is in force and a daemon keeps it so.
pub fn run(options: &Options) -> Outcome {
    let directory = match Directory::open(&options.pins.bpffs) {
        Ok(directory) => directory,
        Err(error @ DirectoryError::Empty { .. }) if options.json => {
            print(&format!("{}\n", json!({"in_force": false, "problems": [error.to_string()]})))?;
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error.into()),
    };
    let maps = Maps::open(directory.path())?;
    // The lock alone may be that of a daemon which is only starting, beside what its predecessor said of itself.
    let alive = directory.is_locked() && is_fw(maps.daemon()?.pid);
    let host = netlink::snapshot()?;
    let docker = runtime()?.block_on(ask_docker(&options.engine.docker));
    let mut report = Report::new(&directory, &maps, alive, &host, docker)?;
    if let Some(seconds) = trial(&directory) {
        report.problems.push(format!(
            "the policy is on trial: the one before comes back in {seconds} s, unless `fw confirm` comes"
        ));
    }
    if options.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&report.json())?))?;
    } else {
        print(&report.text())?;
    }
    Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Seconds that are left of the trial of a policy.
fn trial(directory: &Directory) -> Option<u64> {
    let socket = control::socket(directory.path()).ok()?;
    match control::ask(&socket, &Request::Waiting).ok()? {
        Answer::Waiting { seconds } => seconds,
        _ => None,
    }
}

async fn ask_docker(url: &str) -> Result<DockerSnapshot, DockerError> {
    Docker::connect_within(url, Duration::from_secs(2)).await?.snapshot().await
}

struct Report {
    mode: &'static str,
    daemon: Daemon,
    alive: bool,
    hooks: Vec<Row>,
    networks: Vec<Row>,
    /// Containers with labels, or with terms that are not their network's.
    containers: Vec<Row>,
    exposure: Vec<Row>,
    /// Published, or listening on the host, and not reached.
    closed: Vec<Row>,
    stations: Vec<Row>,
    /// What Docker alone would leave open.
    holes: Vec<Row>,
    /// How full maps are.
    maps: Vec<Row>,
    counters: Vec<Row>,
    rules: Vec<Row>,
    docker: Value,
    handover: Value,
    problems: Vec<String>,
}

impl Report {
    fn new(
        directory: &Directory,
        maps: &Maps,
        alive: bool,
        host: &HostSnapshot,
        docker: Result<DockerSnapshot, DockerError>,
    ) -> anyhow::Result<Self> {
        // Nothing is shown of the sets' content.
        let state = maps.read_around(&Memory::default())?;
        let names = Names { names: &state.names };
        let daemon = maps.daemon()?;
        let mut problems = problems(&daemon, alive);
        problems.extend(health::nat(daemon.nat).map(str::to_owned));
        let roles = || state.tables.interfaces.values().map(|interface| interface.role);
        if daemon.ready != 0 && !roles().any(|role| role == role::UPLINK) {
            problems.push(health::NO_UPLINK.to_owned());
        }
        let docker = docker.map(|docker| with_bridges(docker, host));
        let inventory = Inventory::new(docker.as_ref().ok(), host, &BTreeMap::new(), &[]);
        let (containers, docker) = match docker {
            Ok(docker) => {
                let answers = json!({"answers": true, "version": docker.version, "api": docker.api});
                (docker.containers, answers)
            }
            Err(error) => {
                problems.push(format!("Docker: {}", chain(&error)));
                (Vec::new(), json!({"answers": false, "error": chain(&error)}))
            }
        };
        let handover = handover::handover(&state, host, daemon.nat, &mut problems);
        let listeners = listeners::snapshot(&containers.iter().map(|container| container.pid).collect());
        let listeners =
            listeners.map_err(|error| problems.push(format!("who listens: {}", chain(&error)))).ok();
        let survey = Iptables::find().and_then(|iptables| Ok(iptables.rule_sets()?.survey()));
        let survey = survey.map_err(|error| problems.push(format!("NAT: {}", chain(&error)))).ok();
        // Docker's nftables rules are not read.
        let native = handover.get("nftables").is_some_and(|native| !native.is_null());
        let translations = survey.as_ref().filter(|_| !native);
        let seen = Seen {
            inventory: &inventory,
            containers: &containers,
            listeners: listeners.as_ref(),
            translations: translations.map(|survey: &Survey| survey.translations.as_slice()),
        };
        let open = exposure::open(&state, seen);
        let closed = exposure::closed(&state, seen);
        let (hooks, running) = rows::hooks(directory, host, &mut problems)?;
        let holes = survey.as_ref().map(|survey| {
            stock::holes(Ground {
                state: &state,
                hooks: &running,
                seen,
                survey,
                native,
                forwards: (is_on("ipv4/ip_forward"), is_on("ipv6/conf/all/forwarding")),
                bridge_netfilter: is_on("bridge/bridge-nf-call-iptables"),
                open: &open,
                closed: &closed,
            })
        });
        let maps_filled = rows::fill(directory, &state, &mut problems)?;
        Ok(Self {
            mode: if state.tables.settings.observe == 0 { "enforce" } else { "observe" },
            hooks,
            holes: rows::holes(&holes.unwrap_or_default()),
            maps: maps_filled,
            networks: rows::networks(&state, names, host),
            containers: rows::containers(&state, names, &inventory),
            exposure: rows::exposure(&open, &state, names, host),
            closed: rows::closed(&closed),
            stations: rows::stations(&state, &inventory),
            counters: view::counters(maps)?,
            rules: view::rows("rules", maps, 0)?.unwrap_or_default(),
            handover,
            daemon,
            alive,
            docker,
            problems,
        })
    }

    fn is_well(&self) -> bool {
        self.alive && self.daemon.ready != 0
    }

    fn json(&self) -> Value {
        let drops: Vec<&Row> = self.drops().collect();
        json!({
            "in_force": self.daemon.ready != 0,
            "mode": self.mode,
            "daemon": {
                "alive": self.alive,
                "ready": self.alive && self.daemon.ready != 0,
                "degraded": self.daemon.degraded != 0,
                "pid": self.daemon.pid,
                "passes": self.daemon.passes,
            },
            "hooks": self.hooks,
            "networks": self.networks,
            "containers": self.containers,
            "exposure": self.exposure,
            "closed": self.closed,
            "stations": self.stations,
            "docker_alone": self.holes,
            "maps": self.maps,
            "drops": drops,
            "counters": self.counters,
            "rules": self.rules,
            "docker": self.docker,
            "handover": self.handover,
            "problems": self.problems,
        })
    }

    fn drops(&self) -> impl Iterator<Item = &Row> {
        self.counters.iter().filter(|row| row.get("drop") == Some(&Value::Bool(true)))
    }

    fn text(&self) -> String {
        let state = match (self.alive, self.daemon.ready != 0) {
            (true, true) => "in force, daemon running",
            (false, true) => "in force, but no daemon keeps it in step",
            (true, false) => "starting",
            (false, false) => "not in force",
        };
        let mut text = format!("fw: {state} (mode {})\n", self.mode);
        if self.mode == "observe" {
            text += "observing: nothing is closed; what is reachable from outside is all that Docker and the host's own rules \
                     let in, not only what is listed\n";
        }
        for problem in &self.problems {
            text += &format!("problem: {problem}\n");
        }
        let [exposure, closed] = [&self.exposure, &self.closed].map(|rows| reach::all_for_people(rows));
        let drops: Vec<Row> = self.drops().map(|row| reach::without(row, &["drop"])).collect();
        for (title, rows) in [
            ("Hooks", &self.hooks),
            ("Networks", &self.networks),
            ("Containers with labels or terms of their own", &self.containers),
            ("Reachable from outside", &exposure),
            (CLOSED, &closed),
            (STATIONS, &self.stations),
            ("Rules", &self.rules),
            (if self.mode == "enforce" { "Dropped" } else { "Would have been dropped" }, &drops),
        ] {
            // Few hosts have any.
            if rows.is_empty() && [STATIONS, CLOSED].contains(&title) {
                continue;
            }
            text += &format!("\n{title}\n");
            for line in view::aligned(rows).lines() {
                text += &format!("  {line}\n");
            }
        }
        if !self.holes.is_empty() {
            text += &format!(
                "\nWhat Docker alone would leave open here\n{}",
                rows::holes_for_people(&self.holes)
            );
        }
        let full: Vec<String> = self.maps.iter().filter_map(rows::fill_in_words).collect();
        text += &format!("\nMaps      {}\n", full.join(", "));
        let answer =
            |key: &str| self.docker.get(key).and_then(Value::as_str).unwrap_or("does not answer").to_owned();
        text += &format!("Docker    {}\nHand-over {}\n", answer("version"), summary(&self.handover));
        text
    }
}

const CLOSED: &str = "Published or listening, and closed to the outside";
const STATIONS: &str = "Containers on uplinks, behind the same rules";

/// Whether a switch of this network namespace is on. One that is not there (its module is not loaded) is off.
fn is_on(switch: &str) -> bool {
    let value = std::fs::read_to_string(format!("/proc/sys/net/{switch}"));
    value.is_ok_and(|value| value.trim() != "0")
}

fn summary(handover: &Value) -> String {
    let text = |key: &str| handover.get(key).and_then(Value::as_str).map(str::to_owned);
    text("error").or_else(|| text("summary")).unwrap_or_default()
}

fn problems(daemon: &Daemon, alive: bool) -> Vec<String> {
    let ailment = Ailment::of(daemon, alive, is_halted(daemon.pid), monotonic_seconds());
    ailment.iter().map(ToString::to_string).collect()
}
