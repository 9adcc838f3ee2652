//! XDP on uplinks: pinned links, as those of TCX, but no part of a plan. Whatever goes wrong here costs speed alone:
//! the hook behind judges everything that is not dropped early.
//!
//! A pinned link is `hooks/uplink_xdp-<ifindex>`, with `_generic` behind it in the kernel's generic path.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aya::programs::XdpMode;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use fw_common::Hook;

use super::hooks::{Attachment, GENERIC_SUFFIX, Pin, errno_of, failed, link_name, pins_in, remove_pin};
use super::{DatapathError, HOOK_PINS, Programs};
use crate::desired::Early;
use crate::netlink::Link;
use crate::plan::HookPoint;
use crate::reconcile::chain;

/// The early drop of one fw.
pub(super) struct EarlyDrop {
    links: PathBuf,
    /// Devices that run today's program.
    attached: BTreeSet<u32>,
    /// Devices that refused it; not asked again before the policy is read again.
    refused: BTreeSet<u32>,
    /// Devices on which somebody else's program runs.
    foreign: BTreeSet<u32>,
}

impl EarlyDrop {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            links: directory.join(HOOK_PINS),
            attached: BTreeSet::new(),
            refused: BTreeSet::new(),
            foreign: BTreeSet::new(),
        }
    }

    pub(super) fn attached(&self) -> &BTreeSet<u32> {
        &self.attached
    }

    pub(super) fn forget_refusals(&mut self) {
        self.refused.clear();
        self.foreign.clear();
    }

    /// Brings the links to what is wanted. What an earlier daemon attached gets today's program, in place; a link of
    /// another mode, of a device that is gone, or one that somebody detached behind its pin, goes.
    pub(super) fn follow(
        &mut self,
        programs: &mut Programs,
        wanted: &BTreeMap<u32, Early>,
        links: &[Link],
    ) -> Result<(), DatapathError> {
        let mut held = BTreeSet::new();
        let mut pins = BTreeMap::new();
        for (point, pin) in pins_in(&self.links)? {
            if point.hook == Hook::UplinkXdp {
                pins.insert(point.ifindex, pin);
            }
        }
        for (ifindex, pin) in &pins {
            let device = links.iter().find(|link| link.index == *ifindex);
            let stays = wanted.get(ifindex).is_some_and(|mode| Attachment::from(*mode) == pin.how)
                && device.is_some_and(|device| runs(&pin.path, device))
                && (self.attached.contains(ifindex) || replace(programs, pin)?);
            if stays {
                held.insert(*ifindex);
            } else {
                remove(&pin.path)?;
            }
        }
        let before = std::mem::replace(&mut self.attached, held);
        self.refused.retain(|ifindex| wanted.contains_key(ifindex));
        self.foreign.retain(|ifindex| wanted.contains_key(ifindex));
        for (ifindex, mode) in wanted {
            if self.attached.contains(ifindex) || self.refused.contains(ifindex) {
                continue;
            }
            let Some(device) = links.iter().find(|link| link.index == *ifindex) else { continue };
            // What runs there was ours until a moment ago if we have just taken it off.
            let ours = before.contains(ifindex) || pins.contains_key(ifindex);
            if !device.xdp.is_empty() && !ours {
                self.is_foreign(device);
                continue;
            }
            match self.attach(programs, *mode, device) {
                Ok(()) => {
                    self.foreign.remove(ifindex);
                    self.attached.insert(*ifindex);
                    tracing::info!(device = device.name, by = Attachment::from(*mode).name(), "drops early");
                }
                Err(error) if is_taken(&error) && ours => {}
                Err(error) if is_taken(&error) => self.is_foreign(device),
                Err(error) => self.is_refused(device, *mode, &error),
            }
        }
        Ok(())
    }

    fn is_foreign(&mut self, device: &Link) {
        if self.foreign.insert(device.index) {
            tracing::warn!(
                device = device.name,
                "another XDP program runs there and is left alone: no early drop, uplink_ingress judges everything"
            );
        }
    }

    fn is_refused(&mut self, device: &Link, mode: Early, error: &DatapathError) {
        self.refused.insert(device.index);
        let said =
            "no early drop: uplink_ingress judges everything; tried again when the policy is read again";
        let (device, error) = (&device.name, chain(error));
        if mode == Early::IfNative {
            tracing::info!(device, error, "{said}");
        } else {
            tracing::warn!(device, error, "{said}");
        }
    }

    fn attach(&self, programs: &mut Programs, mode: Early, device: &Link) -> Result<(), DatapathError> {
        let point = HookPoint { ifindex: device.index, hook: Hook::UplinkXdp };
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
            failed(Attachment::from(mode).name(), point, &device.name, source)
        };
        programs.load_early(mode)?;
        let program = programs.xdp_mut(mode)?;
        // Never the kernel's own choice, which is the generic path where the driver has none.
        let kernel_mode = if mode == Early::Generic { XdpMode::Skb } else { XdpMode::Driver };
        let id =
            program.attach_to_if_index(device.index, kernel_mode).map_err(|error| failed(error.into()))?;
        let link = program.take_link(id).map_err(|error| failed(error.into()))?;
        let link = FdLink::try_from(link).map_err(|error| failed(error.into()))?;
        std::fs::create_dir_all(&self.links).map_err(|error| failed(error.into()))?;
        let suffix = if mode == Early::Generic { GENERIC_SUFFIX } else { "" };
        let path = self.links.join(format!("{}{suffix}", link_name(point)));
        link.pin(&path).map_err(|error| failed(error.into()))?;
        Ok(())
    }
}

impl From<Early> for Attachment {
    fn from(mode: Early) -> Self {
        match mode {
            Early::Native | Early::IfNative => Self::XdpNative,
            Early::Generic => Self::XdpGeneric,
        }
    }
}

/// Whether the program behind a pinned link is one that the device runs; somebody may have detached the link.
pub(super) fn runs(pin: &Path, device: &Link) -> bool {
    let program = PinnedLink::from_pin(pin).ok().and_then(|pinned| FdLink::from(pinned).info().ok());
    program.is_some_and(|info| device.xdp.contains(&info.program_id()))
}

/// Takes the program off at once. The kernel puts off what the removal of a pin leaves to do, but not what the last open
/// file does, and until it is done the device has no room for another program.
fn remove(pin: &Path) -> Result<(), DatapathError> {
    let open = PinnedLink::from_pin(pin);
    remove_pin(pin)?;
    drop(open);
    Ok(())
}

/// Puts today's program behind a pinned link; false if the link is dead.
fn replace(programs: &mut Programs, Pin { path, how }: &Pin) -> Result<bool, DatapathError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| DatapathError::Hook {
        what: format!("take over the pinned link {}", path.display()),
        source,
    };
    let how = if *how == Attachment::XdpGeneric { Early::Generic } else { Early::Native };
    programs.load_early(how)?;
    let pinned = PinnedLink::from_pin(path).map_err(|error| failed(error.into()))?;
    let link = XdpLink::try_from(FdLink::from(pinned)).map_err(|error| failed(error.into()))?;
    let program = programs.xdp_mut(how)?;
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

/// Whether the device has a program of somebody else's: in this mode (EBUSY) or in the other one (EEXIST).
fn is_taken(error: &DatapathError) -> bool {
    use nix::errno::Errno;
    let DatapathError::Hook { source, .. } = error else { return false };
    let errno = source.downcast_ref().and_then(errno_of);
    [Some(Errno::EBUSY as i32), Some(Errno::EEXIST as i32)].contains(&errno)
}
