//! A new set of maps in place of one that today's programs cannot use: of another layout, of other sizes, or incomplete.
//!
//! What is in force stays so until the new set is whole, and each hook goes over in one step. In this order, and if the
//! daemon dies on the way:
//!
//! 1. New maps are pinned in `next/`, filled, read back; flows are carried over. Dead here: the old set is in force,
//!    and the next start throws `next/` away.
//! 2. New hooks get today's programs, then each old one, by an update of its link or filter. Dead here: some hooks
//!    run by the old tables, some by the new ones, none by none. The next start makes yet another set, and carries flows
//!    over from both.
//! 3. Flows that came meanwhile are carried over, and `next/` is renamed to `whole/`: from here on the new set is the one
//!    in force. Its maps are renamed one by one over the old ones. Dead here: the next start, of whichever version, goes
//!    on with the renaming.
//!
//! Nothing here knows what a map holds, so it serves a downgrade as well.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::DatapathError;
use super::layout::{self, Remains};
use super::maps::{Carried, Maps};
use crate::plan::{HookPoint, State};

/// Where the new set is made, in the directory for pins.
const NEXT: &str = "next";
/// The same when it is in force.
const WHOLE: &str = "whole";

/// A new set of maps that is not in force yet.
pub(super) struct Rebuild {
    directory: PathBuf,
    remains: Vec<Remains>,
    carried: Vec<Carried>,
    /// Second of the monotonic clock in which carrying over began.
    since: u32,
    /// Hooks that were there before, and run by the old set.
    pub(super) kept: BTreeSet<HookPoint>,
}

impl Rebuild {
    /// Begins a new set for this directory, and says where its maps are to be pinned.
    pub(super) fn begin(directory: &Path) -> Result<(Self, PathBuf), DatapathError> {
        let next = directory.join(NEXT);
        let mut remains = Vec::new();
        // Of a set that some hooks may have gone over to already, flows are held open before its pins go.
        for from in [directory, &next] {
            remains.extend(Remains::open(from)?);
        }
        remove_set(&next).map_err(failed("throw away the unfinished maps in", &next))?;
        fs::create_dir(&next).map_err(failed("make the directory", &next))?;
        let carried = remains.iter().map(|_| Carried::default()).collect();
        let rebuild =
            Self { directory: directory.to_owned(), remains, carried, since: 0, kept: BTreeSet::new() };
        Ok((rebuild, next))
    }

    /// Whether there is a set whose flows are laid out as ours.
    pub(super) fn carries_flows(&self) -> bool {
        !self.remains.is_empty()
    }

    /// The tables of the old set, hooks aside; `None` if this fw cannot read them.
    pub(super) fn read_old(&self) -> Option<State> {
        Maps::open(&self.directory).and_then(|maps| maps.read()).ok()
    }

    /// Carries over what packets have left so far.
    pub(super) fn carry(&mut self, maps: &mut Maps, now: u32) -> Result<(), DatapathError> {
        self.since = now.saturating_sub(1);
        for (from, carried) in self.remains.iter().zip(&mut self.carried) {
            maps.carry(from, 0, carried)?;
        }
        Ok(())
    }

    /// Carries over what came since, and forgets what ended since, now that no hook writes the old set any more.
    pub(super) fn catch_up(&mut self, maps: &mut Maps) -> Result<(), DatapathError> {
        for (from, carried) in self.remains.iter().zip(&mut self.carried) {
            maps.carry(from, self.since, carried)?;
            maps.forget_ended(from, carried)?;
        }
        Ok(())
    }

    /// Puts the new set's pins in the place of the old ones.
    pub(super) fn finish(self) -> Result<(), DatapathError> {
        let (next, whole) = (self.directory.join(NEXT), self.directory.join(WHOLE));
        fs::rename(&next, &whole).map_err(failed("rename to whole/ the directory", &next))?;
        go_on(&self.directory)
    }

    /// Throws the new set away; the old one never ceased to be in force.
    pub(super) fn abandon(self) -> Result<(), DatapathError> {
        let next = self.directory.join(NEXT);
        remove_set(&next).map_err(failed("throw away the maps in", &next))
    }
}

/// Goes on with a renaming that the death of a daemon has interrupted.
pub(super) fn go_on(directory: &Path) -> Result<(), DatapathError> {
    let whole = directory.join(WHOLE);
    if !whole.exists() {
        return Ok(());
    }
    let rename = || {
        for entry in fs::read_dir(&whole)? {
            let entry = entry?;
            fs::rename(entry.path(), directory.join(entry.file_name()))?;
        }
        fs::remove_dir(&whole)
    };
    rename().map_err(failed("put in place the maps in", &whole))
}

/// Removes what an unfinished rebuild has left.
pub(super) fn remove_leftovers(directory: &Path) -> Vec<String> {
    let leftovers = [NEXT, WHOLE].map(|name| directory.join(name));
    let removed = leftovers.iter().map(|set| remove_set(set).map_err(|error| (set, error)));
    removed
        .filter_map(Result::err)
        .map(|(set, error)| format!("cannot remove {}: {error}", set.display()))
        .collect()
}

/// Whether these maps do, or a new set has to be made.
pub(super) fn needed(directory: &Path, sizes: &[(&'static str, u32)]) -> Result<bool, DatapathError> {
    Ok(layout::fit(directory, sizes)? == layout::Fit::Other)
}

/// Whatever it holds: it may be another version's.
fn remove_set(set: &Path) -> io::Result<()> {
    if !set.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(set)? {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_dir(set)
}

fn failed(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> DatapathError {
    let what = format!("{doing} {}", path.display());
    move |source| DatapathError::Hook { what, source: source.into() }
}
