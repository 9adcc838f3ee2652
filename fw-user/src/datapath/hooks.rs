//! Hooks: attaching, adopting and detaching programs, by TCX links that are pinned, else by clsact filters.
//!
//! A pinned link is `hooks/<hook>-<ifindex>`. The link of a device that is gone stays as a dead pin (an update says
//! ENOLINK), and ifindexes tell a device from its successor of the same name: dead pins are swept by name.
//! A clsact filter has no link; that we attached one, and whether the qdisc is ours, is read back from the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use fw_common::Hook;

use super::{DatapathError, HOOK_PINS, Programs};
use crate::netlink::{Filter, Link, NetlinkError};
use crate::plan::HookPoint;

/// Which mechanism to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// TCX where the kernel has it (6.6), else clsact.
    Auto,
    /// TCX or nothing.
    Tcx,
    /// clsact even where TCX exists.
    Clsact,
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// By a pinned TCX link.
    Tcx,
    /// By a clsact filter.
    Clsact,
    /// By a pinned XDP link, in the driver.
    XdpNative,
    /// By a pinned XDP link, in the kernel's generic path.
    XdpGeneric,
}

impl Attachment {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::XdpNative => "xdp native",
            Self::XdpGeneric => "xdp generic",
        }
    }
}

/// Our place among clsact filters: first, with a handle to know it by.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0xf1);

/// The hooks of one fw.
pub(super) struct Hooks {
    links: PathBuf,
    mode: AttachMode,
    attached: BTreeMap<HookPoint, Attachment>,
}

impl Hooks {
    pub(super) fn new(directory: &Path, mode: AttachMode) -> Self {
        Self { links: directory.join(HOOK_PINS), mode, attached: BTreeMap::new() }
    }

    pub(super) fn attached(&self) -> &BTreeMap<HookPoint, Attachment> {
        &self.attached
    }

    /// Finds what is attached. The first time, what an earlier daemon attached gets today's program, in place: never
    /// two copies, never none; without `programs` it keeps what it has. Where there is `doubt` of a device, the kernel is
    /// asked about its hooks: somebody may have taken them off.
    pub(super) fn adopt(
        &mut self,
        mut programs: Option<&mut Programs>,
        devices: &BTreeMap<u32, String>,
        doubt: impl Fn(u32) -> bool,
    ) -> Result<BTreeSet<HookPoint>, DatapathError> {
        let mut pins = pins_in(&self.links)?;
        pins.retain(|point, _| point.hook != Hook::UplinkXdp);
        self.attached.retain(|point, _| pins.contains_key(point));
        for (point, pin) in &pins {
            let alive = match devices.get(&point.ifindex) {
                None => false,
                Some(device) if doubt(point.ifindex) && !runs(*point, pin.how, device) => {
                    if self.attached.contains_key(point) {
                        tracing::warn!(
                            hook = point.hook.name(),
                            device,
                            "somebody took our program off; putting it back"
                        );
                    }
                    false
                }
                Some(_) if self.attached.contains_key(point) => true,
                Some(device) => match programs.as_deref_mut() {
                    None => true,
                    Some(programs) if pin.how == Attachment::Tcx => {
                        update_link(programs.classifier_mut(point.hook)?, &pin.path)?
                    }
                    Some(programs) => replace_filter(programs.classifier_mut(point.hook)?, *point, device)?,
                },
            };
            if alive {
                self.attached.insert(*point, pin.how);
            } else {
                remove_pin(&pin.path)?;
                self.attached.remove(point);
            }
        }
        sweep_qdiscs(&self.links, devices)?;
        Ok(self.attached.keys().copied().collect())
    }

    /// Puts today's programs behind these hooks, all or none; what is gone meanwhile is forgotten.
    ///
    /// Whatever can fail is done before the first of them, but for the kernel's own refusal: then those that have gone over
    /// get back the programs that they had.
    pub(super) fn renew(
        &mut self,
        programs: &mut Programs,
        points: &BTreeSet<HookPoint>,
        devices: &BTreeMap<u32, String>,
    ) -> Result<(), DatapathError> {
        let mut before = BTreeMap::new();
        for point in points {
            let path = self.links.join(link_name(*point));
            match (self.attached.get(point), devices.get(&point.ifindex)) {
                (Some(Attachment::Tcx), Some(device)) => match behind(*point, &path, device)? {
                    Some(program) => _ = before.insert(*point, program),
                    None => self.forget(*point)?,
                },
                (Some(_), Some(_)) => match our_filter(*point)? {
                    Some(filter) => {
                        before.extend(program_in(filter, *point)?.map(|program| (*point, program)));
                    }
                    None => self.forget(*point)?,
                },
                (None, Some(_)) => {}
                (_, None) => self.forget(*point)?,
            }
        }
        let mut gone_over = Vec::new();
        for point in points {
            let Some(device) = devices.get(&point.ifindex) else { continue };
            let renewed = match self.attached.get(point) {
                Some(Attachment::Tcx) => {
                    let program = programs.classifier_mut(point.hook)?;
                    update_link(program, &self.links.join(link_name(*point)))
                }
                Some(_) => replace_filter(programs.classifier_mut(point.hook)?, *point, device),
                None => continue,
            };
            match renewed {
                Ok(true) => gone_over.push(*point),
                Ok(false) => self.forget(*point)?,
                Err(error) => {
                    for point in gone_over {
                        let (Some(program), Some(device)) =
                            (before.get_mut(&point), devices.get(&point.ifindex))
                        else {
                            continue;
                        };
                        match self.attached.get(&point) {
                            Some(Attachment::Tcx) => {
                                update_link(program, &self.links.join(link_name(point)))?;
                            }
                            _ => _ = replace_filter(program, point, device)?,
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The hook is gone: so goes its pin.
    fn forget(&mut self, point: HookPoint) -> Result<(), DatapathError> {
        match self.attached.remove(&point) {
            Some(Attachment::Clsact) => remove_pin(&self.links.join(filter_name(point))),
            _ => remove_pin(&self.links.join(link_name(point))),
        }
    }

    pub(super) fn attach(
        &mut self,
        programs: &mut Programs,
        point: HookPoint,
        devices: &BTreeMap<u32, String>,
    ) -> Result<(), DatapathError> {
        let device = name_of(point, devices)?;
        let how = match self.mode {
            AttachMode::Clsact => self.attach_clsact(programs, point, device)?,
            AttachMode::Tcx => self.attach_tcx(programs, point, device)?,
            AttachMode::Auto => match self.attach_tcx(programs, point, device) {
                Err(error) if lacks_tcx(&error) => self.attach_clsact(programs, point, device)?,
                other => other?,
            },
        };
        self.attached.insert(point, how);
        Ok(())
    }

    fn attach_tcx(
        &self,
        programs: &mut Programs,
        point: HookPoint,
        device: &str,
    ) -> Result<Attachment, DatapathError> {
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| failed("attach", point, device, source);
        let program = programs.classifier_mut(point.hook)?;
        // Coming in we stand in front: what we drop, nobody sees. Going out we stand behind: what others drop makes
        // no flow.
        let order = if direction(point.hook) == TcAttachType::Ingress {
            LinkOrder::first()
        } else {
            LinkOrder::last()
        };
        let id = program
            .attach_with_options(device, direction(point.hook), TcAttachOptions::TcxOrder(order))
            .map_err(|error| failed(error.into()))?;
        let link = program.take_link(id).map_err(|error| failed(error.into()))?;
        let link = FdLink::try_from(link).map_err(|error| failed(error.into()))?;
        std::fs::create_dir_all(&self.links).map_err(|error| failed(error.into()))?;
        let path = self.links.join(link_name(point));
        // A pin in the way is of a link that `adopt` did not take: dead.
        remove_pin(&path)?;
        link.pin(&path).map_err(|error| failed(error.into()))?;
        Ok(Attachment::Tcx)
    }

    fn attach_clsact(
        &self,
        programs: &mut Programs,
        point: HookPoint,
        device: &str,
    ) -> Result<Attachment, DatapathError> {
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| failed("attach", point, device, source);
        let shared = match tc::qdisc_add_clsact(device) {
            Ok(()) => {
                make_marker(&self.links.join(qdisc_name(point.ifindex)))
                    .map_err(|error| failed(error.into()))?;
                false
            }
            Err(error) if already_there(&error) => true,
            Err(error) => return Err(failed(error.into())),
        };
        let program = programs.classifier_mut(point.hook)?;
        let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
        let id = program
            .attach_with_options(device, direction(point.hook), TcAttachOptions::Netlink(options))
            .map_err(|error| {
                if shared { beside_another_qdisc(point, device, error) } else { failed(error.into()) }
            })?;
        keep(program.take_link(id).map_err(|error| failed(error.into()))?);
        make_marker(&self.links.join(filter_name(point))).map_err(|error| failed(error.into()))?;
        Ok(Attachment::Clsact)
    }

    pub(super) fn detach(
        &mut self,
        point: HookPoint,
        devices: &BTreeMap<u32, String>,
    ) -> Result<(), DatapathError> {
        match self.attached.remove(&point) {
            Some(Attachment::Tcx | Attachment::XdpNative | Attachment::XdpGeneric) => {
                remove_pin(&self.links.join(link_name(point)))
            }
            Some(Attachment::Clsact) => {
                remove_filter(&self.links, point, devices)?;
                remove_qdisc(&self.links, point.ifindex, devices)
            }
            None => Ok(()),
        }
    }
}

/// Takes every hook off and every pin of a hook away, whoever attached it; goes on after a failure and reports all.
pub fn remove_all(directory: &Path, devices: &BTreeMap<u32, String>) -> Vec<DatapathError> {
    let links = directory.join(HOOK_PINS);
    let mut errors = Vec::new();
    let pins = pins_in(&links).unwrap_or_else(|error| {
        errors.push(error);
        BTreeMap::new()
    });
    for (point, pin) in &pins {
        let removed = match pin.how {
            Attachment::Tcx | Attachment::XdpNative | Attachment::XdpGeneric => remove_pin(&pin.path),
            Attachment::Clsact => remove_filter(&links, *point, devices),
        };
        errors.extend(removed.err());
    }
    for ifindex in pins.keys().map(|point| point.ifindex).collect::<BTreeSet<_>>() {
        errors.extend(remove_qdisc(&links, ifindex, devices).err());
    }
    // The kernel takes a link off some milliseconds after its last pin has gone (6.18), and until then it drops and marks.
    let tcx = || pins.iter().filter(|(_, pin)| pin.how == Attachment::Tcx);
    let still_runs = || {
        tcx().any(|(point, _)| {
            devices.get(&point.ifindex).is_some_and(|name| runs(*point, Attachment::Tcx, name))
        })
    };
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE && still_runs() {
        std::thread::sleep(PATIENCE / 200);
    }
    errors
}

/// How long the kernel may take for that. Another fw on the same devices is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is attached, for those who only look: how, and whether the kernel says so as well as the pin.
pub fn attached_in(
    directory: &Path,
    devices: &[Link],
) -> Result<BTreeMap<HookPoint, (Attachment, bool)>, DatapathError> {
    let pins = pins_in(&directory.join(HOOK_PINS))?;
    let look = |(point, pin): (HookPoint, Pin)| {
        let device = devices.iter().find(|link| link.index == point.ifindex);
        let alive = device.is_some_and(|device| is_alive(point, &pin, device));
        (point, (pin.how, alive))
    };
    Ok(pins.into_iter().map(look).collect())
}

/// Whether a program of this hook runs on the device. A pin tells of a link, which may be detached behind it.
///
/// Of clsact it is asked whether the device has filters at all: the qdisc goes with all of them. A question that fails
/// (a device renamed a moment ago) is no answer: taking a pin away for it would take a live program off.
fn runs(point: HookPoint, how: Attachment, device: &str) -> bool {
    match how {
        Attachment::Tcx | Attachment::XdpNative | Attachment::XdpGeneric => {
            match SchedClassifier::query_tcx(device, direction(point.hook)) {
                Ok((_, programs)) => {
                    programs.iter().any(|program| program.name_as_str() == Some(point.hook.name()))
                }
                Err(error) => errno_of(&error) != Some(nix::errno::Errno::ENOENT as i32),
            }
        }
        Attachment::Clsact => crate::netlink::has_filters(point.ifindex).unwrap_or(true),
    }
}

/// A program of ours that runs at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its number; `None` if it cannot be told.
    pub id: Option<u32>,
    /// The digest of its instructions; `None` if it cannot be told.
    pub tag: Option<u64>,
}

/// What runs at this hook, if the kernel says so as well as the pin.
pub fn running_at(
    directory: &Path,
    point: HookPoint,
    devices: &[Link],
) -> Result<Option<Running>, DatapathError> {
    let pin = pins_in(&directory.join(HOOK_PINS))?.remove(&point);
    let device = devices.iter().find(|link| link.index == point.ifindex);
    let Some((pin, device)) = pin.zip(device) else { return Ok(None) };
    if !is_alive(point, &pin, device) {
        return Ok(None);
    }
    let id = match pin.how {
        Attachment::Clsact => our_filter(point)?.and_then(|filter| filter.program),
        Attachment::Tcx | Attachment::XdpNative | Attachment::XdpGeneric => {
            let pinned = PinnedLink::from_pin(&pin.path).ok();
            pinned.and_then(|pinned| FdLink::from(pinned).info().ok()).map(|info| info.program_id())
        }
    };
    let mut programs = aya::programs::loaded_programs().flatten();
    let tag = programs.find(|info| Some(info.id()) == id).map(|info| info.tag());
    Ok(Some(Running { id, tag }))
}

fn is_alive(point: HookPoint, pin: &Pin, device: &Link) -> bool {
    match pin.how {
        Attachment::Tcx | Attachment::Clsact => runs(point, pin.how, &device.name),
        Attachment::XdpNative | Attachment::XdpGeneric => super::early::runs(&pin.path, device),
    }
}

pub(super) struct Pin {
    pub(super) path: PathBuf,
    pub(super) how: Attachment,
}

/// The pins of hooks: links, and the markers (empty directories; a bpffs holds nothing else) of clsact filters.
pub(super) fn pins_in(links: &Path) -> Result<BTreeMap<HookPoint, Pin>, DatapathError> {
    let failed = |source: io::Error| DatapathError::Hook {
        what: format!("look for pinned links in {}", links.display()),
        source: source.into(),
    };
    let mut pins = BTreeMap::new();
    if !links.exists() {
        return Ok(pins);
    }
    for entry in std::fs::read_dir(links).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let suffixed = |suffix, how| Some((name.strip_suffix(suffix)?, how));
        let (stem, how) = suffixed(FILTER_SUFFIX, Attachment::Clsact)
            .or_else(|| suffixed(GENERIC_SUFFIX, Attachment::XdpGeneric))
            .unwrap_or((name, Attachment::Tcx));
        let known = stem.rsplit_once('-').and_then(|(hook, ifindex)| {
            let hook = Hook::ATTACHED.into_iter().find(|known| known.name() == hook)?;
            Some(HookPoint { ifindex: ifindex.parse().ok()?, hook })
        });
        if let Some(point) = known {
            let native = point.hook == Hook::UplinkXdp && how == Attachment::Tcx;
            pins.insert(point, Pin { path, how: if native { Attachment::XdpNative } else { how } });
        }
    }
    Ok(pins)
}

const FILTER_SUFFIX: &str = "_clsact";
pub(super) const GENERIC_SUFFIX: &str = "_generic";

pub(super) fn link_name(point: HookPoint) -> String {
    format!("{}-{}", point.hook.name(), point.ifindex)
}

fn filter_name(point: HookPoint) -> String {
    format!("{}{FILTER_SUFFIX}", link_name(point))
}

fn qdisc_name(ifindex: u32) -> String {
    format!("clsact-{ifindex}")
}

fn direction(hook: Hook) -> TcAttachType {
    match hook {
        Hook::UplinkXdp | Hook::UplinkIngress | Hook::PortIngress | Hook::BridgeIngress => {
            TcAttachType::Ingress
        }
        Hook::UplinkEgress | Hook::PortEgress | Hook::BridgeEgress => TcAttachType::Egress,
    }
}

fn name_of(point: HookPoint, devices: &BTreeMap<u32, String>) -> Result<&str, DatapathError> {
    devices.get(&point.ifindex).map(String::as_str).ok_or_else(|| DatapathError::Hook {
        what: format!("attach {} to device {}", point.hook.name(), point.ifindex),
        source: "the device is gone".into(),
    })
}

pub(super) fn failed(
    doing: &str,
    point: HookPoint,
    device: &str,
    source: Box<dyn std::error::Error + Send + Sync>,
) -> DatapathError {
    DatapathError::Hook {
        what: format!("{doing} {} on {device} (ifindex {})", point.hook.name(), point.ifindex),
        source,
    }
}

/// The qdisc in clsact's place was there before us; `ingress`, the older one, has no room for what leaves the host.
fn beside_another_qdisc(point: HookPoint, device: &str, error: ProgramError) -> DatapathError {
    DatapathError::Hook {
        what: format!(
            "attach {} on {device} (ifindex {}) beside a qdisc that is there already; if `tc qdisc show dev {device}` \
             says `ingress`, replace it by `clsact`, or use a kernel from 6.6 on, which needs none",
            point.hook.name(),
            point.ifindex
        ),
        source: error.into(),
    }
}

/// The program behind a pinned TCX link; `None` if the link is detached, with its device or without.
fn behind(point: HookPoint, path: &Path, device: &str) -> Result<Option<SchedClassifier>, DatapathError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| DatapathError::Hook {
        what: format!("look behind the pinned link {}", path.display()),
        source,
    };
    let pinned = PinnedLink::from_pin(path).map_err(|error| failed(error.into()))?;
    let id = FdLink::from(pinned).info().map_err(|error| failed(error.into()))?.program_id();
    let Ok((_, mut there)) = SchedClassifier::query_tcx(device, direction(point.hook)) else {
        return Ok(None);
    };
    let Some(at) = there.iter().position(|program| program.id() == id) else { return Ok(None) };
    let program = SchedClassifier::from_program_info(there.swap_remove(at), point.hook.name().into());
    program.map(Some).map_err(|error| failed(error.into()))
}

/// Puts a program behind a pinned link; false if the link is dead.
fn update_link(program: &mut SchedClassifier, path: &Path) -> Result<bool, DatapathError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| DatapathError::Hook {
        what: format!("take over the pinned link {}", path.display()),
        source,
    };
    let pinned = PinnedLink::from_pin(path).map_err(|error| failed(error.into()))?;
    let link = SchedClassifierLink::try_from(FdLink::from(pinned)).map_err(|error| failed(error.into()))?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // The pin holds the link; this handle may go.
            drop(program.take_link(id).map_err(|error| failed(error.into()))?);
            Ok(true)
        }
        Err(error) if errno_of(&error) == Some(nix::errno::Errno::ENOLINK as i32) => Ok(false),
        Err(error) => Err(failed(error.into())),
    }
}

/// Puts a program into our clsact filter, in one netlink request; false if the filter is gone.
fn replace_filter(
    program: &mut SchedClassifier,
    point: HookPoint,
    device: &str,
) -> Result<bool, DatapathError> {
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| failed("take over", point, device, source);
    let link = SchedClassifierLink::attached(device, direction(point.hook), PRIORITY, HANDLE, None)
        .map_err(|error| failed(error.into()))?;
    match program.attach_to_link(link) {
        Ok(id) => {
            keep(program.take_link(id).map_err(|error| failed(error.into()))?);
            Ok(true)
        }
        Err(_) if our_filter(point)?.is_none() => Ok(false),
        Err(error) => Err(failed(error.into())),
    }
}

/// What stands in the place of our clsact filter; nothing if its device is gone.
fn our_filter(point: HookPoint) -> Result<Option<Filter>, DatapathError> {
    let egress = direction(point.hook) == TcAttachType::Egress;
    ours_among(crate::netlink::filters(point.ifindex, egress)).map_err(|error| DatapathError::Hook {
        what: format!("look for our filter for {} on ifindex {}", point.hook.name(), point.ifindex),
        source: error.into(),
    })
}

/// A question that fails is no answer: to forget a filter for it would leave a live program behind.
fn ours_among(filters: Result<Vec<Filter>, NetlinkError>) -> Result<Option<Filter>, NetlinkError> {
    let filters = match filters {
        Err(NetlinkError::Ask { source, .. })
            if source.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32) =>
        {
            return Ok(None);
        }
        filters => filters?,
    };
    let ours = |filter: &Filter| (filter.priority, filter.handle) == (PRIORITY, HANDLE.into());
    Ok(filters.into_iter().find(ours))
}

/// The program in a filter; `None` in one of another kind, which somebody has put in the place of ours.
fn program_in(filter: Filter, point: HookPoint) -> Result<Option<SchedClassifier>, DatapathError> {
    let mut programs = aya::programs::loaded_programs().flatten();
    let Some(info) = programs.find(|info| Some(info.id()) == filter.program) else { return Ok(None) };
    let program = SchedClassifier::from_program_info(info, point.hook.name().into());
    program.map(Some).map_err(|error| DatapathError::Hook {
        what: format!("look into our filter for {} on ifindex {}", point.hook.name(), point.ifindex),
        source: error.into(),
    })
}

/// A netlink attachment stays when its handle goes without detaching; the handle's `Drop` would detach.
fn keep(link: SchedClassifierLink) {
    std::mem::forget(link);
}

fn remove_filter(
    links: &Path,
    point: HookPoint,
    devices: &BTreeMap<u32, String>,
) -> Result<(), DatapathError> {
    if let Some(device) = devices.get(&point.ifindex) {
        match tc::qdisc_detach_program(device, direction(point.hook), point.hook.name()) {
            Ok(()) => {}
            Err(tc::TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("detach", point, device, error.into())),
        }
    }
    remove_pin(&links.join(filter_name(point)))
}

/// Removes the clsact qdisc of a device if it is ours and neither we nor anybody else has a filter on it.
fn remove_qdisc(links: &Path, ifindex: u32, devices: &BTreeMap<u32, String>) -> Result<(), DatapathError> {
    let marker = links.join(qdisc_name(ifindex));
    let ours = pins_in(links)?
        .into_iter()
        .any(|(point, pin)| point.ifindex == ifindex && pin.how == Attachment::Clsact);
    if !marker.exists() || ours {
        return Ok(());
    }
    if devices.contains_key(&ifindex) {
        crate::netlink::remove_clsact_if_unused(ifindex).map_err(|error| DatapathError::Hook {
            what: format!("remove the clsact qdisc of ifindex {ifindex}"),
            source: error.into(),
        })?;
    }
    remove_pin(&marker)
}

fn sweep_qdiscs(links: &Path, devices: &BTreeMap<u32, String>) -> Result<(), DatapathError> {
    let Ok(entries) = std::fs::read_dir(links) else {
        return Ok(());
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let gone = name.strip_prefix("clsact-").and_then(|ifindex| ifindex.parse::<u32>().ok());
        if gone.is_some_and(|ifindex| !devices.contains_key(&ifindex)) {
            remove_pin(&path)?;
        }
    }
    Ok(())
}

fn make_marker(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

pub(super) fn remove_pin(path: &Path) -> Result<(), DatapathError> {
    let removed = if path.is_dir() { std::fs::remove_dir(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DatapathError::Hook {
            what: format!("remove the pin {}", path.display()),
            source: error.into(),
        }),
        _ => Ok(()),
    }
}

pub(super) fn errno_of(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// Kernels before 6.6 answer the unknown attach type with EINVAL.
fn lacks_tcx(error: &DatapathError) -> bool {
    let DatapathError::Hook { source, .. } = error else {
        return false;
    };
    let errno = source.downcast_ref::<ProgramError>().and_then(errno_of);
    errno == Some(nix::errno::Errno::EINVAL as i32)
}

fn already_there(error: &tc::TcError) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(this) = source {
        if let Some(error) = this.downcast_ref::<io::Error>() {
            return error.raw_os_error() == Some(nix::errno::Errno::EEXIST as i32);
        }
        source = this.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_filter_that_is_absent_is_gone() {
        let ours = Filter { priority: PRIORITY, handle: HANDLE.into(), program: Some(1) };
        let other = Filter { priority: 2, ..ours };
        let failed = |errno: nix::errno::Errno| {
            Err(NetlinkError::Ask { what: "filters", source: io::Error::from_raw_os_error(errno as i32) })
        };
        assert!(matches!(ours_among(Ok(vec![other, ours])), Ok(Some(found)) if found == ours));
        assert!(matches!(ours_among(Ok(vec![other])), Ok(None)));
        assert!(matches!(ours_among(failed(nix::errno::Errno::ENODEV)), Ok(None)));
        assert!(ours_among(failed(nix::errno::Errno::ENOBUFS)).is_err(), "the kernel was short of memory");
    }
}
