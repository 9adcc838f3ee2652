//! The datapath: programs, maps, links and their pins. The only module that imports aya.
//!
//! Pinned links and maps are the truth: they outlive the daemon, and the next one adopts them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use bytemuck::Zeroable as _;
use fw_common::Hook;
use fw_common::tables::Daemon;

mod beside;
mod bpffs;
mod early;
mod foreign;
mod ground;
mod hooks;
mod layout;
#[cfg(feature = "log")]
mod log;
mod maps;
mod rebuild;
mod sample;

pub use beside::{Beside, Judged, Left};
pub use bpffs::{Directory, DirectoryError, Lock};
use early::EarlyDrop;
pub use foreign::{Foreign, ForeignPlace, foreign_on};
use ground::Ground;
use hooks::Hooks;
pub use hooks::{AttachMode, Attachment, Running, attached_in, remove_all, running_at};
pub use layout::{Fill, Occupant, fill, occupant};
pub use maps::{Drops, MAP_NAMES, Maps, events_id};
use rebuild::Rebuild;
pub use sample::{Sample, sample as map_sample, size as map_size};

use crate::desired::Early;
use crate::netlink::Link;
use crate::plan::{HookPoint, State, Step};
use crate::reconcile::monotonic_seconds;

/// The object that build.rs made of `fw-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fw-ebpf"));

/// Where in the directory of maps the pins of hooks lie; not `links`, which is a map.
const HOOK_PINS: &str = "hooks";

/// What goes wrong between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The object cannot be loaded.
    #[error(
        "cannot load the kernel programs; fw needs a kernel from 5.11 on with BTF and root (CAP_BPF, CAP_NET_ADMIN)"
    )]
    Load(#[source] Box<EbpfError>),
    /// The verifier refused a program, or the kernel lacks what it needs.
    #[error("cannot load program {program}; `fw` needs a kernel from 5.11 on with CONFIG_BPF_JIT and BTF")]
    Program {
        /// The program's name.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<ProgramError>,
    },
    /// The pinned maps are another version's.
    #[error(
        "the maps pinned in {directory} have layout {found}, this fw knows {expected}; ask the fw that wrote them, or \
         start `fw run` of this one, which puts its own in their place"
    )]
    Layout {
        /// Where they are.
        directory: String,
        /// Their layout.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// A map cannot be opened, read or written.
    #[error("cannot {what}")]
    Map {
        /// What was being done, and to what.
        what: String,
        /// What the kernel said.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// A program cannot be attached, adopted or detached.
    #[error("cannot {what}")]
    Hook {
        /// What was being done, and to what.
        what: String,
        /// What the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Whether the next start would make new maps in place of those pinned in `directory`: of these sizes, or another layout.
pub fn would_rebuild(directory: &Directory, sizes: &[(&'static str, u32)]) -> Result<bool, DatapathError> {
    rebuild::needed(directory.path(), sizes)
}

/// Loaded programs, the pinned maps behind them, and the hooks on which they run.
pub struct Datapath {
    programs: Programs,
    maps: Maps,
    hooks: Hooks,
    early: EarlyDrop,
    ground: Ground,
    /// While the maps are not yet those in force.
    rebuild: Option<Rebuild>,
}

impl Datapath {
    /// Loads the programs with the maps of `directory`, adopting those that are pinned there and pinning the rest. If those
    /// are of another layout or size, all are made anew beside them, and take their place in [`Datapath::renew`].
    /// Nothing is attached yet, and what was attached before still runs the programs it had.
    ///
    /// `sizes` says how many entries maps of these names hold.
    pub fn load(
        directory: &Directory,
        mode: AttachMode,
        sizes: &[(&'static str, u32)],
    ) -> Result<Self, DatapathError> {
        let directory = directory.path();
        rebuild::go_on(directory)?;
        let (rebuild, pins) = if rebuild::needed(directory, sizes)? {
            let (rebuild, next) = Rebuild::begin(directory)?;
            (Some(rebuild), next)
        } else {
            (None, directory.to_owned())
        };
        let loaded = Programs::load(Some(&pins), sizes).and_then(|(programs, mut maps)| {
            if rebuild.is_some() {
                let Occupant { pid, made_directory, .. } = occupant(directory)?;
                let made_directory = u8::from(made_directory);
                maps.set_daemon(Daemon { pid, made_directory, ..Daemon::zeroed() })?;
            }
            Ok((programs, maps, Ground::new(directory, &pins)?))
        });
        match loaded {
            Ok((programs, maps, ground)) => {
                let (hooks, early) = (Hooks::new(directory, mode), EarlyDrop::new(directory));
                Ok(Self { programs, maps, hooks, early, ground, rebuild })
            }
            Err(error) => {
                rebuild.map_or(Ok(()), Rebuild::abandon)?;
                Err(error)
            }
        }
    }

    /// Whether the maps are new ones that are not in force yet.
    pub fn is_rebuilding(&self) -> bool {
        self.rebuild.is_some()
    }

    /// Whether new maps take over the flows of those in force.
    pub fn carries_flows(&self) -> bool {
        self.rebuild.as_ref().is_some_and(Rebuild::carries_flows)
    }

    /// What is in force until a plan that begins with `current` is carried out: `current`, unless the maps are new ones.
    /// `None` where nothing is hooked, and where those before cannot be read: they are of another layout, or not whole.
    pub fn superseded(&self, current: &State) -> Option<State> {
        let hooked = (!current.hooks.is_empty()).then(|| current.clone())?;
        match &self.rebuild {
            None => Some(hooked),
            Some(rebuild) => Some(State { hooks: hooked.hooks, ..rebuild.read_old()? }),
        }
    }

    /// Puts the new maps in force, when they are filled and new hooks are attached: every hook that an earlier daemon
    /// attached gets today's program, in one step each. If one refuses, those before it get back what they had.
    pub fn renew(&mut self, devices: &BTreeMap<u32, String>) -> Result<(), DatapathError> {
        let Some(rebuild) = &mut self.rebuild else { return Ok(()) };
        rebuild.carry(&mut self.maps, monotonic_seconds() as u32)?;
        self.hooks.renew(&mut self.programs, &rebuild.kept, devices)?;
        // All hooks run on the new maps: from here on there is no way back, and none is needed.
        if let Err(error) = rebuild.catch_up(&mut self.maps) {
            tracing::warn!(%error, "flows of the last moment were not carried over to the new maps");
        }
        self.rebuild.take().map_or(Ok(()), Rebuild::finish)
    }

    /// Gives the new maps up: the old ones are in force, as they were.
    pub fn abandon(&mut self, devices: &BTreeMap<u32, String>) -> Result<(), DatapathError> {
        let Some(rebuild) = self.rebuild.take() else { return Ok(()) };
        for point in self.hooks.attached().keys().copied().collect::<Vec<_>>() {
            if !rebuild.kept.contains(&point) {
                self.hooks.detach(point, devices)?;
            }
        }
        rebuild.abandon()
    }

    /// The maps.
    pub fn maps(&mut self) -> &mut Maps {
        &mut self.maps
    }

    /// The programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// What is in force: tables read from the maps, hooks found attached. A hook that an earlier daemon attached gets
    /// today's program in place of the one it had. `devices` are the names of all devices by ifindex.
    pub fn read(&mut self, devices: &BTreeMap<u32, String>) -> Result<State, DatapathError> {
        let mut state = self.maps.read()?;
        state.hooks = self.found(devices)?;
        Ok(state)
    }

    /// The hooks that the kernel confirms. While the maps are not in force yet, they keep the programs they have.
    pub fn found(&mut self, devices: &BTreeMap<u32, String>) -> Result<BTreeSet<HookPoint>, DatapathError> {
        let Some(rebuild) = &mut self.rebuild else {
            self.ground.mend()?;
            return self.hooks.adopt(Some(&mut self.programs), devices, |_| true);
        };
        rebuild.kept = self.hooks.adopt(None, devices, |_| true)?;
        Ok(rebuild.kept.clone())
    }

    /// The hooks alone, as the last look left them, but for devices that are gone and for those in `doubt`.
    pub fn hooks(
        &mut self,
        devices: &BTreeMap<u32, String>,
        doubt: &BTreeSet<u32>,
    ) -> Result<BTreeSet<HookPoint>, DatapathError> {
        self.ground.mend()?;
        self.hooks.adopt(Some(&mut self.programs), devices, |ifindex| doubt.contains(&ifindex))
    }

    /// Carries out one step.
    pub fn apply(&mut self, step: &Step, devices: &BTreeMap<u32, String>) -> Result<(), DatapathError> {
        match step {
            Step::Attach(point) => self.hooks.attach(&mut self.programs, *point, devices),
            Step::Detach(point) => self.hooks.detach(*point, devices),
            other => self.maps.apply(other),
        }
    }

    /// Has XDP drop early on these devices and on no other, as far as they let it. No plan needs it: it drops only what
    /// the hook behind it would drop by the same tables.
    pub fn drop_early(&mut self, wanted: &BTreeMap<u32, Early>, links: &[Link]) -> Result<(), DatapathError> {
        self.early.follow(&mut self.programs, wanted, links)
    }

    /// Devices on which XDP drops early.
    pub fn dropping_early(&self) -> &BTreeSet<u32> {
        self.early.attached()
    }

    /// Lets devices that refused XDP be asked again.
    pub fn forget_refusals(&mut self) {
        self.early.forget_refusals();
    }

    /// How each hook is attached.
    pub fn attachments(&self) -> &BTreeMap<HookPoint, Attachment> {
        self.hooks.attached()
    }
}

/// The loaded programs.
pub struct Programs {
    object: Ebpf,
}

impl Programs {
    /// Loads the programs, all but that of XDP, and their maps, those named in `sizes` with so many entries; without
    /// `pins` nobody else sees the maps (tests, measurements).
    pub fn load(pins: Option<&Path>, sizes: &[(&'static str, u32)]) -> Result<(Self, Maps), DatapathError> {
        let mut loader = EbpfLoader::new();
        for (name, entries) in sizes {
            loader.map_max_entries(name, *entries);
        }
        if let Some(directory) = pins {
            for name in MAP_NAMES {
                loader.map_pin_path(name, directory.join(name));
            }
        }
        let mut object = loader.load(OBJECT).map_err(|source| DatapathError::Load(Box::new(source)))?;
        let maps = Maps::from_source(|name| Ok(object.take_map(name)))?;
        #[cfg(feature = "log")]
        log::follow(&mut object);
        let mut programs = Self { object };
        for hook in Hook::ATTACHED.into_iter().filter(|hook| *hook != Hook::UplinkXdp) {
            programs.classifier_mut(hook)?.load().map_err(|source| DatapathError::Program {
                program: hook.name(),
                source: Box::new(source),
            })?;
        }
        Ok((programs, maps))
    }

    /// Loads a program of XDP, which kernels before 5.18 refuse (`bpf_xdp_load_bytes`).
    pub fn load_early(&mut self, how: Early) -> Result<(), DatapathError> {
        let program = self.xdp_mut(how)?;
        if program.fd().is_ok() {
            return Ok(());
        }
        program.load().map_err(|source| DatapathError::Program {
            program: Hook::UplinkXdp.name(),
            source: Box::new(source),
        })
    }

    /// Runs a program on a frame that arrives on `ifindex`, `repeat` times (`BPF_PROG_TEST_RUN`), without sending it.
    pub fn test_run(
        &self,
        hook: Hook,
        frame: &[u8],
        ifindex: u32,
        repeat: u32,
    ) -> Result<TestRun, DatapathError> {
        self.test_run_of(hook, frame, Seen { ifindex, ..Seen::default() }, repeat)
    }

    /// Like [`Programs::test_run`], with more of what the kernel knows of the frame.
    pub fn test_run_of(
        &self,
        hook: Hook,
        frame: &[u8],
        seen: Seen,
        repeat: u32,
    ) -> Result<TestRun, DatapathError> {
        let failed = |source: ProgramError| DatapathError::Hook {
            what: format!("run {} on a frame of {} bytes", hook.name(), frame.len()),
            source: Box::new(source),
        };
        if hook == Hook::UplinkXdp {
            return self.test_run_early(frame, seen.ifindex, repeat).map_err(failed);
        }
        let mut context_in = [0u8; SK_BUFF];
        for (at, value) in [
            (SK_BUFF_MARK, seen.mark),
            (SK_BUFF_INGRESS_IFINDEX, seen.ingress_ifindex),
            (SK_BUFF_IFINDEX, seen.ifindex),
        ] {
            context_in[at..][..4].copy_from_slice(&value.to_ne_bytes());
        }
        let mut context_out = [0u8; SK_BUFF];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&context_in);
        options.ctx_out = Some(&mut context_out);
        options.repeat = repeat;
        let result = self.classifier(hook)?.test_run(options).map_err(failed)?;
        let mark = context_out[SK_BUFF_MARK..][..4].try_into().map_or(0, u32::from_ne_bytes);
        Ok(TestRun { action: result.return_value.cast_signed(), mark, time: result.duration })
    }

    fn test_run_early(&self, frame: &[u8], ifindex: u32, repeat: u32) -> Result<TestRun, ProgramError> {
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let length = frame.len() as u32;
        let context_in: Vec<u8> =
            [0, length, 0, ifindex, 0, 0].iter().flat_map(|field| field.to_ne_bytes()).collect();
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&context_in);
        options.repeat = repeat;
        let program: &Xdp = self
            .object
            .program(Hook::UplinkXdp.name())
            .and_then(|program| program.try_into().ok())
            .ok_or(ProgramError::NotLoaded)?;
        let result = program.test_run(options)?;
        Ok(TestRun { action: result.return_value.cast_signed(), mark: 0, time: result.duration })
    }

    /// Instructions that the verifier walked for a program; 0 on kernels before 5.16, which do not tell.
    pub fn verified_instructions(&self, hook: Hook) -> Result<u32, DatapathError> {
        let info =
            self.object.program(hook.name()).ok_or_else(|| missing(hook))?.info().map_err(|source| {
                DatapathError::Program { program: hook.name(), source: Box::new(source) }
            })?;
        Ok(info.verified_instruction_count().unwrap_or(0))
    }

    fn classifier(&self, hook: Hook) -> Result<&SchedClassifier, DatapathError> {
        self.object
            .program(hook.name())
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| missing(hook))
    }

    fn xdp_mut(&mut self, how: Early) -> Result<&mut Xdp, DatapathError> {
        let name = if how == Early::Generic { "uplink_xdp_skb" } else { Hook::UplinkXdp.name() };
        self.object
            .program_mut(name)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| missing(Hook::UplinkXdp))
    }

    fn classifier_mut(&mut self, hook: Hook) -> Result<&mut SchedClassifier, DatapathError> {
        self.object
            .program_mut(hook.name())
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| missing(hook))
    }
}

fn missing(hook: Hook) -> DatapathError {
    DatapathError::Hook {
        what: format!("find program {} in the embedded object", hook.name()),
        source: "the build is broken: rebuild fw".into(),
    }
}

/// What the kernel is told of a frame that a program is run on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// The device at which it is seen.
    pub ifindex: u32,
    /// Leaving: the device that it came in by, 0 if the host sent it.
    pub ingress_ifindex: u32,
    /// The mark that it carries.
    pub mark: u32,
}

/// What a test run brought.
#[derive(Clone, Copy, Debug)]
pub struct TestRun {
    /// The kernel's return code: -1 next, 2 drop; of XDP 2 next, 1 drop.
    pub action: i32,
    /// The packet mark afterwards; 0 of XDP, where packets have none yet.
    pub mark: u32,
    /// Average time of one run.
    pub time: std::time::Duration,
}

/// Size of `struct __sk_buff`, and where in it the fields stand (include/uapi/linux/bpf.h, kernel 6.18).
const SK_BUFF: usize = 192;
const SK_BUFF_MARK: usize = 8;
const SK_BUFF_INGRESS_IFINDEX: usize = 36;
const SK_BUFF_IFINDEX: usize = 40;
