//! Programs of others on devices where fw's run.

use std::collections::BTreeSet;

use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use fw_common::Hook;

use super::hooks::errno_of;
use crate::netlink::{self, Link};

/// A program of somebody else's on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The device's name.
    pub device: String,
    /// Where it runs.
    pub place: ForeignPlace,
    /// The kernel's number of it.
    pub id: u32,
    /// Its name; may be empty.
    pub name: String,
}

/// Where a program of somebody else's runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignPlace {
    /// XDP, before everything.
    Xdp,
    /// TCX, and asked before fw's: what it passes or redirects fw does not see.
    Before,
    /// TCX behind fw's, or a filter on a clsact qdisc: it sees what fw lets pass.
    Behind,
}

/// The programs of others on these devices. Ours are known by their names, whatever directory they are pinned in.
pub fn foreign_on<'a>(links: impl IntoIterator<Item = &'a Link>) -> Result<Vec<Foreign>, String> {
    let ours: BTreeSet<String> = Hook::ATTACHED.into_iter().map(|hook| cut(hook.name())).collect();
    let name_of = |id: u32| {
        let mut programs = aya::programs::loaded_programs().flatten();
        let info = programs.find(|info| info.id() == id);
        info.and_then(|info| info.name_as_str().map(str::to_owned)).unwrap_or_default()
    };
    let mut found = Vec::new();
    for link in links {
        let foreign = |place, id, name| Foreign { device: link.name.clone(), place, id, name };
        for id in &link.xdp {
            let name = name_of(*id);
            if !ours.contains(&name) {
                found.push(foreign(ForeignPlace::Xdp, *id, name));
            }
        }
        for (direction, egress) in [(TcAttachType::Ingress, false), (TcAttachType::Egress, true)] {
            let there = match SchedClassifier::query_tcx(&link.name, direction) {
                Ok((_, there)) => there,
                Err(error) if is_absent(&error) => Vec::new(),
                Err(error) => return Err(format!("the programs on {}: {error}", link.name)),
            };
            let names: Vec<String> =
                there.iter().map(|info| info.name_as_str().unwrap_or_default().to_owned()).collect();
            let first = names.iter().position(|name| ours.contains(name));
            for (at, info) in there.iter().enumerate().filter(|(at, _)| !ours.contains(&names[*at])) {
                let before = first.is_some_and(|first| at < first);
                let place = if before { ForeignPlace::Before } else { ForeignPlace::Behind };
                found.push(foreign(place, info.id(), names[at].clone()));
            }
            let filters = netlink::filters(link.index, egress).unwrap_or_default();
            for id in filters.iter().filter_map(|filter| filter.program) {
                let name = name_of(id);
                if !ours.contains(&name) {
                    found.push(foreign(ForeignPlace::Behind, id, name));
                }
            }
        }
    }
    Ok(found)
}

/// The kernel keeps fifteen characters of a program's name.
fn cut(name: &str) -> String {
    name.chars().take(15).collect()
}

/// Kernels before 6.6 know no TCX and answer EINVAL; a device that is gone has no programs.
fn is_absent(error: &ProgramError) -> bool {
    use nix::errno::Errno;
    match errno_of(error) {
        Some(errno) => [Errno::EINVAL, Errno::ENODEV, Errno::ENOENT].iter().any(|it| *it as i32 == errno),
        // The name leads to no device any more.
        None => matches!(error, ProgramError::TcError(_)),
    }
}
