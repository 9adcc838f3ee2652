//! The reconciler: one pass takes snapshots, works out what should be in force, carries the difference out and reads
//! it back. Events only wake it; what it missed, the next pass finds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use fw_common::tables::Daemon;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::bans::{Bans, Store, wall_clock};
use crate::control::{Asked, Control};
use crate::datapath::{Datapath, DatapathError};
use crate::desired::{
    Desired, DesiredError, Labelled, Prepared, SwarmRules, desired_with, in_tables, newcomer,
};
use crate::docker::{Docker, DockerError, DockerSnapshot, Events, Membership};
use crate::handover::Standing;
use crate::inventory::{Evidence, Inventory, believe, with_bridges};
use crate::kept::{Read, fingerprint};
use crate::memory;
use crate::metrics::Meters;
use crate::netlink::{self, Changed, HostSnapshot, Joined, NetlinkError, Watch};
use crate::plan::{State, Step, plan};
use crate::policy::Policy;

mod backstop;
mod bans;
mod control;
mod fast_path;
mod foreseen;
mod handed;
mod nat;
mod rebuild;
mod spent;
mod takeover;
mod told;
mod uplinks;

use control::{Candidate, Judged, Trial, asked, until, urgent};
pub use foreseen::beside_maps;
use handed::HandOver;
use spent::{Part, Spent};
pub use uplinks::{MissingUplinks, check_uplinks};

/// Everything may be missed once; at this interval everything is looked at again.
const PERIOD: Duration = Duration::from_secs(10);
/// Between two passes: changes that come in a stream (routes of a BGP host, fifty containers) share one.
const REST: Duration = Duration::from_millis(20);
/// Sets with more prefixes than this are read at the start and after a failure alone.
const LARGE_SETS: usize = 10_000;
/// Between two hooks: others who wait for the kernel's lock of devices take it meanwhile.
const LET_OTHERS: Duration = Duration::from_micros(500);
/// Pauses before a Docker that is silent or gone is asked whether it is back.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(2)];

/// What woke the reconciler, and so what a pass has to look at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wake {
    /// A device or address changed: devices are read, Docker and iptables are not asked.
    Devices,
    /// Docker said something: Docker is asked, and its rules may have moved.
    Docker,
    /// Nothing in particular, or a new policy: everything is read, the maps too.
    Everything,
}

/// Why a pass could not be completed. What was in force stays in force.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The kernel's devices cannot be read.
    #[error("cannot see the devices of this host")]
    Netlink(#[from] NetlinkError),
    /// Docker does not answer, and what it last said is not known either.
    #[error("cannot ask Docker what runs on this host")]
    Docker(#[from] DockerError),
    /// The policy does not fit.
    #[error("cannot put the policy into tables")]
    Desired(#[from] DesiredError),
    /// A map or hook cannot be read or written.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// A ban came while the policy did not fit the host.
    #[error("the policy does not fit this host, as the daemon's log says")]
    Unprepared,
    /// What was written is not what is read.
    #[error(
        "what is in the maps is not what was written ({what}); another program writes them, or the kernel is broken: \
         see `fw table`, and `fw down` to start afresh"
    )]
    ReadBack {
        /// Which of it.
        what: String,
    },
}

/// Keeps the datapath in step with policy, Docker and kernel.
pub struct Reconciler {
    policy_file: PathBuf,
    policy: Policy,
    /// The same with its text.
    read: Read,
    /// A policy read again, until it is seen to fit.
    candidate: Option<Candidate>,
    /// What became of the last one.
    judged: Option<Judged>,
    /// The policy is on trial.
    trial: Option<Trial>,
    /// What a person asks comes in here.
    control: Option<Control>,
    /// What follows from the policy and the bans alone.
    prepared: Option<Prepared>,
    /// Who is banned.
    bans: Bans,
    /// Where that is kept.
    kept_bans: Store,
    /// How many bans are not in force, for want of room.
    left_out: usize,
    /// What bans have still to cut.
    to_cut: bans::ToCut,
    docker: Docker,
    /// What Docker said last.
    said_docker: Option<DockerSnapshot>,
    /// What of it is believed, and what stands although Docker does not name it.
    last_docker: Option<DockerSnapshot>,
    /// Networks that Docker said to have removed.
    removed: BTreeSet<String>,
    datapath: Datapath,
    /// What the maps hold according to the last pass; read again whenever there is doubt.
    believed: Option<State>,
    /// The hand-over that stands.
    handed_over: Option<HandOver>,
    /// What was in force before a policy that was read again, or before this daemon, until what is let be no more is cut.
    due: Option<State>,
    /// Docker's NAT rules have been seen.
    nat_seen: bool,
    /// The backstop between neighbours that stands.
    apart: Option<Standing>,
    /// The backstop before containers that stands.
    closed: Option<Standing>,
    /// Hears of devices; none before the first pass, or after it has broken.
    watch: Option<Watch>,
    /// Something has changed since the devices were read.
    stale: bool,
    /// Devices that have gone since: they may be back without their hooks.
    doubt: BTreeSet<u32>,
    said: BTreeSet<String>,
    /// Among the flows there may be some that were cut; a daemon before may have left them.
    has_cut: bool,
    status: Daemon,
    /// Time and work of the pass that runs.
    spent: Spent,
    /// What metrics tell of this daemon.
    meters: Meters,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    /// Steps carried out.
    pub steps: usize,
    /// Hooks attached now.
    pub hooks: usize,
    /// Managed networks.
    pub networks: usize,
    /// Ports with a rule or published.
    pub ports: usize,
}

impl Reconciler {
    /// A reconciler for this datapath; `made_directory` says whether `fw down` has to remove the directory.
    pub fn new(
        policy_file: PathBuf,
        read: Read,
        docker: Docker,
        datapath: Datapath,
        made_directory: bool,
    ) -> Self {
        let status = Daemon {
            pid: std::process::id(),
            made_directory: u8::from(made_directory),
            ..bytemuck::Zeroable::zeroed()
        };
        let (kept_bans, bans, note) = Store::open(&policy_file, wall_clock());
        if let Some(note) = note {
            tracing::error!("{note}");
        }
        let meters = Meters::default();
        meters.set_policy(fingerprint(&read.text));
        Self {
            policy_file,
            bans,
            kept_bans,
            left_out: 0,
            to_cut: bans::ToCut::default(),
            policy: read.policy.clone(),
            read,
            candidate: None,
            judged: None,
            trial: None,
            control: None,
            prepared: None,
            docker,
            said_docker: None,
            last_docker: None,
            removed: BTreeSet::new(),
            datapath,
            believed: None,
            handed_over: None,
            due: None,
            nat_seen: false,
            apart: None,
            closed: None,
            watch: None,
            stale: false,
            doubt: BTreeSet::new(),
            said: BTreeSet::new(),
            has_cut: true,
            status,
            spent: Spent::begin(),
            meters,
        }
    }

    /// What it tells, to be read while it runs.
    pub fn meters(&self) -> Meters {
        self.meters.clone()
    }

    /// The first pass. If it fails, what was in force before is put back; nothing is left of a first start.
    pub async fn start(&mut self) -> Result<Passed, PassError> {
        let devices = devices()?;
        let previous = self.datapath.maps().daemon()?;
        self.status.made_directory |= previous.made_directory;
        self.report();
        let before = self.datapath.read(&devices)?;
        let anew = self.datapath.is_rebuilding();
        match self.pass(Wake::Everything).await {
            Ok(passed) => Ok(passed),
            Err(error) if self.datapath.is_rebuilding() => {
                if let Err(error) = self.datapath.abandon(&devices) {
                    tracing::error!(error = chain(&error), "cannot take the new maps away; `fw down` can");
                }
                Err(error)
            }
            // The hooks have gone over to new maps, which hold all that is wanted; those before were empty.
            Err(error) if anew => Err(error),
            Err(error) => {
                self.put_back(&before, &devices);
                self.status = previous;
                self.report();
                Err(error)
            }
        }
    }

    fn put_back(&mut self, before: &State, devices: &BTreeMap<u32, String>) {
        let steps = match self.datapath.read(devices) {
            Ok(now) => plan(&now, before),
            Err(error) => return tracing::error!(%error, "cannot put back what was in force"),
        };
        for step in &steps {
            if let Err(error) = self.datapath.apply(step, devices) {
                tracing::error!(error = chain(&error), "cannot put back what was in force");
            }
        }
    }

    /// Runs until SIGTERM or SIGINT; everything stays in force behind it.
    ///
    /// `watch` and `events` have been listening since before the first pass.
    pub async fn run(mut self, watch: Watch, events: Events) -> std::io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        let mut events = Some(events);
        let mut failures = 0;
        let mut again_at = Instant::now();
        self.watch = Some(watch);
        loop {
            let trial_ends = self.deadline();
            let (bans_end, cut_at) = (self.bans_end(), self.to_cut.when());
            let wake = tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    self.reload();
                    Wake::Everything
                }
                asked = asked(&mut self.control) => {
                    self.answer(asked).await;
                    continue;
                }
                () = until(trial_ends) => {
                    self.take_back();
                    Wake::Everything
                }
                () = until(bans_end) => {
                    self.end_bans();
                    continue;
                }
                () = until(cut_at) => {
                    self.cut_banned();
                    continue;
                }
                _ = tick.tick() => {
                    if self.watch.is_none() {
                        self.watch = netlink::watch().ok();
                    }
                    Wake::Everything
                }
                changed = changed(&mut self.watch) => {
                    self.welcome(&changed);
                    Wake::Devices
                }
                () = std::future::ready(()), if self.stale => Wake::Devices,
                () = sleep_until(again_at), if events.is_none() || self.status.docker == 0 => {
                    again_at = Instant::now() + PAUSES[failures.min(PAUSES.len() - 1)];
                    failures += 1;
                    let docker = self.docker.clone();
                    if !self.beside(async move { docker.answers().await }).await {
                        continue;
                    }
                    events.get_or_insert_with(|| self.docker.events());
                    Wake::Docker
                }
                alive = next(&mut events) => {
                    self.removed.extend(events.iter_mut().flat_map(Events::removed_networks));
                    if alive {
                        failures = 0;
                    } else {
                        events = None;
                        again_at = Instant::now() + PAUSES[failures.min(PAUSES.len() - 1)];
                        failures += 1;
                    }
                    Wake::Docker
                }
            };
            match self.pass(wake).await {
                Ok(passed) if passed.steps > 0 => {
                    tracing::info!(steps = passed.steps, "tables follow the host");
                }
                Ok(_) => {}
                Err(error) => self.failed(&error),
            }
            if wake == Wake::Everything {
                self.keep_listening();
                self.keep_bans();
            }
            self.beside(sleep(REST)).await;
        }
        self.end_trial().await;
        tracing::info!("ending; everything stays pinned and in force (`fw down` takes it away)");
        Ok(())
    }

    /// Waits for `work`, and hooks newcomers and bans meanwhile: neither Docker's answer nor a lock on iptables keeps a
    /// port open, or a source.
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            let bans_end = self.bans_end();
            tokio::select! {
                done = &mut work => return done,
                changed = changed(&mut self.watch) => self.welcome(&changed),
                Asked { request, answer } = urgent(&mut self.control) => {
                    drop(answer.send(self.answer_ban(request)));
                }
                () = until(bans_end) => self.end_bans(),
            }
        }
    }

    /// Hooks devices that have just become ports of managed bridges, ahead of the pass that finds out what they are.
    fn welcome(&mut self, Changed { joined, gone }: &Changed) {
        self.stale = true;
        self.doubt.extend(gone);
        for Joined { index, name, master } in joined {
            let Some(believed) = &mut self.believed else { return };
            let device = BTreeMap::from([(*index, name.clone())]);
            for step in newcomer(believed, *index, *master) {
                if let Err(error) = self.datapath.apply(&step, &device) {
                    // It may be gone again; if not, the pass that follows says what is wrong.
                    tracing::debug!(device = name, error = chain(&error), "new port not hooked at once");
                    break;
                }
                match step {
                    Step::Interface(key, Some(port)) => _ = believed.tables.interfaces.insert(key, port),
                    Step::Attach(point) => _ = believed.hooks.insert(point),
                    _ => {}
                }
            }
        }
    }

    /// A pass that could not be completed: what was in force stays, and everything is looked at again.
    fn failed(&mut self, error: &PassError) {
        tracing::error!(error = chain(error), "pass failed; what was in force stays in force");
        self.status.degraded = 1;
        self.meters.failed();
        self.believed = None;
        // What failed now fails at once again: the next event or the next ten seconds.
        self.stale = false;
        self.report();
    }

    /// One pass.
    async fn pass(&mut self, wake: Wake) -> Result<Passed, PassError> {
        self.spent = Spent::begin();
        // Docker first: a device that its answer names is then surely in the snapshot of devices.
        if wake >= Wake::Docker {
            self.ask_docker().await?;
        }
        self.spent.on(Part::Docker);
        let container_links = self.container_links().await?;
        self.spent.on(Part::Containers);
        // From here to the hooks nothing is waited for: whoever is hooked in between is in this snapshot.
        self.stale = false;
        let host = netlink::snapshot()?;
        let devices: BTreeMap<u32, String> =
            host.links.iter().map(|link| (link.index, link.name.clone())).collect();
        self.spent.on(Part::Kernel);
        let current = self.in_force(wake, &devices)?;
        self.spent.on(Part::Attached);
        // A pass that fails on its way leaves the cut to the next one. The first pass of a daemon judges by what the one
        // before has left in force: policy and containers may be others since.
        if self.due.is_none() && (self.candidate.is_some() || self.status.passes == 0) {
            self.due = self.datapath.superseded(&current);
        }
        let doubts = self.believe_docker(&host, &container_links, &current);
        let mut wanted = self.wanted(&host, &container_links, &current)?;
        fast_path::prepare(&mut wanted);
        self.say(&wanted.warnings);
        self.spent.on(Part::Desired);
        let mut steps = plan(&current, &wanted.state);
        self.spent.on(Part::Plan);
        let due = self.due.take();
        let kept = due.as_ref().map_or_else(BTreeSet::new, |before| self.keep(before, &wanted.state));
        self.spent.on(Part::Connections);
        let carried = if self.datapath.is_rebuilding() {
            rebuild::order(&mut steps);
            self.carry_out_anew(&steps, &wanted.state, &devices)
        } else {
            self.carry_out(&steps, &wanted.state, &devices)
        };
        let degraded = match carried {
            Ok(degraded) => degraded,
            Err(error) => {
                self.due = due;
                return Err(error);
            }
        };
        if let Some(before) = &due {
            self.cut(before, &wanted.state, &kept);
        }
        self.spent.on(Part::Connections);
        if let Err(error) = self.datapath.drop_early(&wanted.early, &host.links) {
            self.say(&[format!("no early drop: {}", chain(&error))]);
        }
        self.spent.on(Part::Hooks);
        let passed = Passed {
            steps: steps.len(),
            hooks: wanted.state.hooks.len(),
            networks: wanted.state.tables.networks.len(),
            ports: wanted.state.tables.ports.len(),
        };
        let wanted_rules = HandOver::of(&wanted);
        let output_devices = wanted.output_devices;
        self.believed = Some(wanted.state);
        if wake >= Wake::Docker || self.handed_over.as_ref() != Some(&wanted_rules) {
            let local = host.addresses.iter().map(|local| local.address.into()).collect();
            self.hand_over(wanted_rules, &local).await;
        }
        let (apart, closed) = (wanted.apart, wanted.closed);
        self.keep_apart(wake, &apart).await;
        self.keep_closed(wake, &output_devices, &closed).await;
        let unclosed = !closed.is_empty() && self.closed.is_none();
        let degraded = degraded
            || doubts
            || unclosed
            || self.left_out > 0
            || self.status.handover == 0
            || self.status.docker == 0;
        self.status.degraded = u8::from(degraded);
        self.status.ready = 1;
        self.status.passes += 1;
        self.status.last_pass = monotonic_seconds();
        self.report();
        self.spent.on(Part::Rules);
        self.tell(passed.steps > 0, &wanted.early);
        if wake == Wake::Everything {
            memory::give_back();
        }
        self.spent.say(wake);
        Ok(passed)
    }

    /// What should be in force. A policy that was read again takes the place of the one before only if it fits.
    fn wanted(
        &mut self,
        host: &HostSnapshot,
        links: &BTreeMap<u32, Vec<netlink::ContainerLink>>,
        current: &State,
    ) -> Result<Desired, PassError> {
        let inventory = |docker: Option<&DockerSnapshot>, policy: &Policy| {
            Inventory::new(docker, host, links, &policy.static_networks)
        };
        if let Some(candidate) = self.candidate.take() {
            let policy = &candidate.read.policy;
            let inventory = inventory(self.last_docker.as_ref(), policy);
            let labelled = Labelled::new(policy, &inventory);
            let swarm = SwarmRules::new(policy, &inventory);
            let fitting = Prepared::beside(policy, &labelled, &swarm, current).and_then(|prepared| {
                // A policy that leaves no room for bans is not taken, unless they had none before.
                let prepared = if self.left_out == 0 {
                    prepared.banning(in_tables(self.bans.prefixes()), current)?
                } else {
                    prepared.banning_what_fits(self.bans.prefixes(), current, &policy.tables)?.0
                };
                Ok((desired_with(policy, &inventory, current, &prepared, labelled)?, prepared))
            });
            if let Some(wanted) = self.judge(candidate, fitting, current) {
                return Ok(wanted);
            }
        }
        let inventory = inventory(self.last_docker.as_ref(), &self.policy);
        let labelled = Labelled::new(&self.policy, &inventory);
        let swarm = SwarmRules::new(&self.policy, &inventory);
        let prepared =
            match self.prepared.take().filter(|prepared| prepared.is_of(current, &labelled, &swarm)) {
                Some(prepared) if self.left_out == 0 => prepared,
                // There may be room by now; and at a start bans must not keep the policy out of force.
                prepared => {
                    let prepared = match prepared {
                        Some(prepared) => prepared,
                        None => Prepared::beside(&self.policy, &labelled, &swarm, current)?,
                    };
                    self.banning_what_fits(prepared, current)?
                }
            };
        let wanted = desired_with(&self.policy, &inventory, current, &prepared, labelled);
        self.prepared = Some(prepared);
        Ok(wanted?)
    }

    /// Says of bans that have no room when they become more or fewer.
    fn banning_what_fits(&mut self, prepared: Prepared, current: &State) -> Result<Prepared, DesiredError> {
        let sizes = &self.policy.tables;
        let (prepared, left_out) = prepared.banning_what_fits(self.bans.prefixes(), current, sizes)?;
        if left_out > 0 && left_out != self.left_out {
            tracing::error!(
                bans = left_out,
                "bans are not in force, for the tables have no room for them beside the policy's denials: raise `hosts` and \
                 `prefixes` in [tables], or use smaller sets"
            );
        }
        self.left_out = left_out;
        Ok(prepared)
    }

    /// What is in force: read from the maps if there is doubt, else as the last pass left them. Hooks are always looked
    /// for, because devices take theirs with them.
    fn in_force(&mut self, wake: Wake, devices: &BTreeMap<u32, String>) -> Result<State, PassError> {
        match self.believed.take() {
            Some(believed) if wake < Wake::Everything => {
                let doubt = std::mem::take(&mut self.doubt);
                Ok(State { hooks: self.datapath.hooks(devices, &doubt)?, ..believed })
            }
            // Sets of a million prefixes take a second to read, and nobody writes them but us.
            believed => {
                let large = |held: &State| held.tables.sources.len() + held.tables.denied.len() > LARGE_SETS;
                let tables = match believed.filter(large) {
                    Some(believed) => self.datapath.maps().read_around(&believed.tables)?,
                    None => self.datapath.maps().read()?,
                };
                self.spent.on(Part::Read);
                Ok(State { hooks: self.datapath.found(devices)?, ..tables })
            }
        }
    }

    async fn ask_docker(&mut self) -> Result<(), PassError> {
        let in_swarm = |docker: &DockerSnapshot| docker.swarm != Membership::None;
        let docker = self.docker.clone().minding_swarm(self.last_docker.as_ref().is_some_and(in_swarm));
        match self.beside(async move { docker.snapshot().await }).await {
            Ok(snapshot) => {
                if self.status.docker == 0 && self.status.passes > 0 {
                    tracing::info!("Docker answers again");
                }
                self.status.docker = 1;
                self.said_docker = Some(snapshot);
            }
            // Absence is not emptiness: without anything to go by, what is in force is not touched.
            Err(error) if self.said_docker.is_none() => return Err(error.into()),
            Err(error) => {
                if self.status.docker == 1 {
                    tracing::warn!(
                        error = chain(&error),
                        "Docker does not answer; its last state stays in force"
                    );
                }
                self.status.docker = 0;
            }
        }
        Ok(())
    }

    /// Holds what Docker said against what the kernel shows; whether they differ. Looked at in every pass, for what
    /// stands may have gone since.
    fn believe_docker(
        &mut self,
        host: &HostSnapshot,
        links: &BTreeMap<u32, Vec<netlink::ContainerLink>>,
        current: &State,
    ) -> bool {
        let Some(said) = self.said_docker.clone() else { return false };
        let said = with_bridges(said, host);
        let Some(before) = self.last_docker.take() else {
            self.last_docker = Some(said);
            return false;
        };
        let bridges = current.tables.networks.keys().copied().collect();
        let evidence = Evidence { before: &before, removed: &self.removed, bridges: &bridges, host, links };
        let (believed, doubts) = believe(said, &evidence);
        self.removed.retain(|id| believed.networks.iter().any(|network| network.id == *id));
        self.last_docker = Some(believed);
        self.say(&doubts);
        !doubts.is_empty()
    }

    /// The links inside each running container; one that cannot be read is not matched to its port, which is then
    /// judged by addresses and vouched for by nobody.
    async fn container_links(&mut self) -> Result<BTreeMap<u32, Vec<netlink::ContainerLink>>, PassError> {
        let docker = self.said_docker.iter().chain(&self.last_docker);
        let pids = docker.flat_map(|docker| &docker.containers).map(|container| container.pid);
        let pids: BTreeSet<u32> = pids.filter(|pid| *pid != 0).collect();
        let pids = pids.into_iter().collect();
        let mut links = BTreeMap::new();
        for (pid, found) in self.beside(netlink::links_of_each(pids)).await? {
            match found {
                Ok(found) => {
                    links.insert(pid, found);
                }
                Err(NetlinkError::ProcessGone { .. }) => {}
                Err(error) => {
                    tracing::warn!(pid, error = chain(&error), "cannot see the links of a container");
                }
            }
        }
        Ok(links)
    }

    /// Carries the steps out: tables, read back, then hooks; around those of an uplink, the flows of what was there
    /// before. Whether a hook could not be changed.
    fn carry_out(
        &mut self,
        steps: &[Step],
        wanted: &State,
        devices: &BTreeMap<u32, String>,
    ) -> Result<bool, PassError> {
        let first_hook = steps.iter().position(|step| matches!(step, Step::Attach(_))).unwrap_or(steps.len());
        let (tables, rest) = steps.split_at(first_hook);
        let mut failed = false;
        failed |= self.carry_out_all(tables, devices)?;
        self.read_back(tables)?;
        let takes_over = takeover::hooks_uplink(rest);
        if takes_over {
            self.seed(wanted);
            self.spent.on(Part::Connections);
        }
        failed |= self.carry_out_all(rest, devices)?;
        if takes_over {
            self.seed(wanted);
            self.spent.on(Part::Connections);
        }
        Ok(failed)
    }

    fn read_back(&mut self, steps: &[Step]) -> Result<(), PassError> {
        let not_held = self.datapath.maps().first_not_held(steps)?;
        self.spent.reads += steps.iter().filter(|step| !step.is_hook()).count();
        self.spent.on(Part::Maps);
        match not_held {
            Some(step) => Err(PassError::ReadBack { what: format!("{step:?}") }),
            None => Ok(()),
        }
    }

    fn carry_out_all(&mut self, steps: &[Step], devices: &BTreeMap<u32, String>) -> Result<bool, PassError> {
        let mut failed = false;
        for run in steps.chunk_by(|one, other| !one.is_hook() && !other.is_hook()) {
            match run {
                [step] if step.is_hook() => {
                    // The kernel attaches under the lock of all devices, some milliseconds each, and whoever lets go of it and
                    // takes it again at once is before those who wait: Docker would make no link until all are attached.
                    if self.spent.hooks > 0 {
                        std::thread::sleep(LET_OTHERS);
                    }
                    failed |= self.carry_out_one(step, devices)?;
                    self.spent.hooks += 1;
                    self.spent.on(Part::Hooks);
                }
                run => {
                    self.datapath.maps().apply_all(run)?;
                    self.spent.writes += run.len();
                    self.spent.on(Part::Maps);
                }
            }
        }
        Ok(failed)
    }

    /// Carries one step out. Whether it was a hook that could not be changed: a device may vanish between the snapshot
    /// and now, and the next pass knows. At the start nothing may fail.
    fn carry_out_one(&mut self, step: &Step, devices: &BTreeMap<u32, String>) -> Result<bool, PassError> {
        match self.datapath.apply(step, devices) {
            Ok(()) => Ok(false),
            Err(error) if self.status.passes > 0 && step.is_hook() => {
                tracing::warn!(error = chain(&error), "hook not changed; trying again with the next pass");
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Says each thing once, until the policy is read again.
    fn say(&mut self, warnings: &[String]) {
        for warning in warnings {
            if self.said.insert(warning.clone()) {
                tracing::warn!("{warning}");
            }
        }
    }

    fn report(&mut self) {
        let status = self.status;
        if let Err(error) = self.datapath.maps().set_daemon(status) {
            tracing::error!(error = chain(&error), "cannot tell `fw status` how it goes");
        }
    }
}

/// Waits for the next change of devices: for ever if nobody listens. A watch that breaks is thrown away.
async fn changed(watch: &mut Option<Watch>) -> Changed {
    let Some(listening) = watch else { return std::future::pending().await };
    listening.changed().await.unwrap_or_else(|error| {
        tracing::warn!(error = chain(&error), "changes of devices are not reported; looking every 10 s");
        *watch = None;
        Changed::default()
    })
}

/// Waits for Docker's next event; false if the stream has ended.
async fn next(events: &mut Option<Events>) -> bool {
    match events {
        Some(events) => events.next().await.is_ok(),
        None => std::future::pending().await,
    }
}

/// Names of the devices of this host by ifindex.
pub fn devices() -> Result<BTreeMap<u32, String>, NetlinkError> {
    Ok(netlink::snapshot()?.links.into_iter().map(|link| (link.index, link.name)).collect())
}

/// Seconds on the monotonic clock, as the programs count them.
pub fn monotonic_seconds() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| now.tv_sec().unsigned_abs())
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
