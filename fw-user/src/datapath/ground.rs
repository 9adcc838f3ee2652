//! The ground that pins stand on: a directory that may lose pins, or be gone with its bpffs, while the daemon runs.
//!
//! A bpffs that is unmounted lives on as long as somebody has a file of it open, and with it what is pinned there. The
//! daemon has the directory open; when there is a bpffs in its place again, everything moves over.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapInfo};
use aya::programs::links::{FdLink, PinnedLink};

use super::{DatapathError, Directory, HOOK_PINS, Lock, MAP_NAMES};

/// The directory of pins, and what is to be pinned in it.
pub(super) struct Ground {
    path: PathBuf,
    /// The directory itself, wherever it is reached from.
    held: File,
    /// The maps by their numbers in the kernel.
    maps: Vec<(&'static str, u32)>,
    /// Of directories that took the place of the one before.
    locks: Vec<Lock>,
}

impl Ground {
    /// The directory in which these programs run, with maps that are pinned in `maps`.
    pub(super) fn new(directory: &Path, maps: &Path) -> Result<Self, DatapathError> {
        let held = File::open(directory).map_err(failed("open the directory", directory))?;
        let id = |name: &'static str| {
            let info =
                MapInfo::from_pin(maps.join(name)).map_err(|error| broken("find the pin of", name, error))?;
            Ok((name, info.id()))
        };
        let maps = MAP_NAMES.into_iter().map(id).collect::<Result<_, DatapathError>>()?;
        Ok(Self { path: directory.to_owned(), held, maps, locks: Vec::new() })
    }

    /// Puts back what is missing: pins of maps that somebody removed, or all of them, on another bpffs in the place of the
    /// one that they stood on. An error as long as there is none: a new hook could not be pinned.
    pub(super) fn mend(&mut self) -> Result<(), DatapathError> {
        if !self.stands()? {
            self.move_over()?;
        }
        for (name, id) in &self.maps {
            let path = self.path.join(name);
            if path.exists() {
                continue;
            }
            let map = MapData::from_id(*id).map_err(|error| broken("find the map", name, error))?;
            map.pin(&path).map_err(|error| broken("pin again the map", name, error))?;
            tracing::warn!(map = name, "somebody removed the pin of a map; it is pinned again");
        }
        Ok(())
    }

    /// Whether the path still leads to the directory that is held.
    fn stands(&self) -> Result<bool, DatapathError> {
        let held = self.held.metadata().map_err(failed("look at the directory", &self.path))?;
        match fs::metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (held.dev(), held.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("look at the directory", &self.path)(error)),
        }
    }

    /// Pins the links of hooks in the directory that is there now, and maps with the next step of [`Ground::mend`].
    fn move_over(&mut self) -> Result<(), DatapathError> {
        let lost = |source: super::DirectoryError| DatapathError::Hook {
            what: format!(
                "keep pins in {}, whose bpffs was unmounted; what is in force lasts no longer than this process: mount it again",
                self.path.display()
            ),
            source: source.into(),
        };
        let directory = Directory::open_or_make(&self.path).map_err(lost)?;
        let lock = directory.lock().map_err(lost)?;
        let held = File::open(&self.path).map_err(failed("open the directory", &self.path))?;
        // The way to what no path leads to any more.
        let old = PathBuf::from(format!("/proc/self/fd/{}", self.held.as_raw_fd())).join(HOOK_PINS);
        let new = self.path.join(HOOK_PINS);
        fs::create_dir_all(&new).map_err(failed("make the directory", &new))?;
        for entry in fs::read_dir(&old).into_iter().flatten() {
            let name = entry.map_err(failed("look for pinned links in", &old))?.file_name();
            let (from, to) = (old.join(&name), new.join(&name));
            if from.is_dir() {
                fs::create_dir_all(&to).map_err(failed("make the directory", &to))?;
                fs::remove_dir(&from).map_err(failed("remove the directory", &from))?;
                continue;
            }
            let shown = name.to_string_lossy();
            let link = PinnedLink::from_pin(&from).map_err(|error| broken("find the link", &shown, error))?;
            FdLink::from(link).pin(&to).map_err(|error| broken("pin again the link", &shown, error))?;
            // Two pins would be two lives.
            fs::remove_file(&from).map_err(failed("remove the pin", &from))?;
        }
        tracing::warn!(directory = %self.path.display(), "pins moved to the bpffs that was mounted in place of theirs");
        self.held = held;
        self.locks.push(lock);
        Ok(())
    }
}

fn failed(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> DatapathError {
    let what = format!("{doing} {}", path.display());
    move |source| DatapathError::Hook { what, source: source.into() }
}

fn broken(doing: &str, name: &str, error: impl std::error::Error + Send + Sync + 'static) -> DatapathError {
    DatapathError::Hook { what: format!("{doing} {name}"), source: error.into() }
}
