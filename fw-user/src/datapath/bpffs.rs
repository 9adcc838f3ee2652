//! The directory in which maps and links are pinned, and the lock that keeps a second daemon off it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// How long another may hold the lock only to see whether it is free.
const PATIENCE: Duration = Duration::from_millis(200);

/// Why a directory cannot hold pins, each with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The directory or its parent cannot be looked at.
    #[error("cannot use {} as the directory for pins: {source}; name one on a bpffs with --bpffs", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not on a bpffs.
    #[error(
        "{} does not lie on a bpffs; mount one (`mount -t bpf bpf /sys/fs/bpf`) or name another place with --bpffs",
        path.display()
    )]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// The directory cannot be looked into.
    #[error("no permission to look into {}; run this as root (sudo)", path.display())]
    Forbidden {
        /// The directory.
        path: PathBuf,
    },
    /// Another fw holds the directory.
    #[error(
        "another fw runs on {}; stop it first (SIGTERM, or `fw down`), or give this one a --bpffs of its own",
        path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// Nothing of fw is pinned here.
    #[error("nothing of fw is in force in {}; start `fw run`, or name its directory with --bpffs", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
}

/// A directory that is proved to lie on a bpffs.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    /// Whether it was absent.
    made: bool,
    /// Whether nothing of fw was pinned in it.
    empty: bool,
}

impl Directory {
    /// The directory for pins, made if it is absent.
    pub fn open_or_make(path: &Path) -> Result<Self, DirectoryError> {
        let unusable = |source| DirectoryError::Unusable { path: path.to_owned(), source };
        if path.exists() {
            let empty = !path.join("settings").exists();
            return Self::check(path, path).map(|()| Self { path: path.to_owned(), made: false, empty });
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self::check(parent, path)?;
        fs::create_dir(path).map_err(unusable)?;
        Ok(Self { path: path.to_owned(), made: true, empty: true })
    }

    /// Whether [`Directory::open_or_make`] would find a bpffs; makes nothing.
    pub fn would_hold_pins(path: &Path) -> Result<(), DirectoryError> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self::check(if path.exists() { path } else { parent }, path)
    }

    /// The directory of an fw that is or was running.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        // Any of our pins will do: somebody may have removed others.
        let pins = super::MAP_NAMES.iter().copied().chain([super::HOOK_PINS]);
        let there = path
            .join("settings")
            .try_exists()
            .map(|settings| settings || pins.into_iter().any(|name| path.join(name).exists()));
        match there {
            Ok(true) => Self::check(path, path)?,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(DirectoryError::Forbidden { path: path.to_owned() });
            }
            Ok(false) | Err(_) => return Err(DirectoryError::Empty { path: path.to_owned() }),
        }
        Ok(Self { path: path.to_owned(), made: false, empty: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was absent and this call made it.
    pub fn was_made(&self) -> bool {
        self.made
    }

    /// Takes the directory for this process alone until the lock is dropped or the process dies.
    ///
    /// Who asks whether it is taken holds it for a moment (`is_locked`), so one refusal is not yet an answer.
    pub fn lock(&self) -> Result<Lock, DirectoryError> {
        let begun = Instant::now();
        loop {
            match self.try_lock() {
                Err(DirectoryError::Locked { .. }) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(PATIENCE / 20);
                }
                other => return other,
            }
        }
    }

    fn try_lock(&self) -> Result<Lock, DirectoryError> {
        let file = File::open(&self.path)
            .map_err(|source| DirectoryError::Unusable { path: self.path.clone(), source })?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Lock { _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                Err(DirectoryError::Locked { path: self.path.clone() })
            }
            Err((_, errno)) => {
                Err(DirectoryError::Unusable { path: self.path.clone(), source: io::Error::from(errno) })
            }
        }
    }

    /// Whether a daemon is alive on the directory.
    pub fn is_locked(&self) -> bool {
        matches!(self.try_lock(), Err(DirectoryError::Locked { .. }))
    }

    fn check(existing: &Path, wanted: &Path) -> Result<(), DirectoryError> {
        let kind = statfs(existing).map_err(|errno| DirectoryError::Unusable {
            path: wanted.to_owned(),
            source: io::Error::from(errno),
        })?;
        if kind.filesystem_type() == BPF_FS_MAGIC {
            Ok(())
        } else {
            Err(DirectoryError::NotBpffs { path: wanted.to_owned() })
        }
    }
}

/// Proof that no other fw works on the directory.
#[derive(Debug)]
pub struct Lock {
    _lock: Flock<File>,
}

impl Directory {
    /// Removes what a failed first start has left; what an earlier fw pinned stays.
    pub fn remove_if_unused(&self) {
        let hooked =
            fs::read_dir(self.path.join(super::HOOK_PINS)).is_ok_and(|mut links| links.next().is_some());
        if self.empty && !hooked {
            self.remove_pins(self.made);
        }
    }

    /// Removes the pins of all maps, and the directory too if fw made it; what goes wrong comes back as text.
    pub fn remove_pins(&self, with_directory: bool) -> Vec<String> {
        let mut errors = super::rebuild::remove_leftovers(&self.path);
        let mut check = |result: io::Result<()>, path: &Path| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                errors.push(format!("cannot remove {}: {error}", path.display()));
            }
            _ => {}
        };
        for name in super::MAP_NAMES {
            let path = self.path.join(name);
            check(fs::remove_file(&path), &path);
        }
        let links = self.path.join(super::HOOK_PINS);
        check(fs::remove_dir(&links), &links);
        if with_directory {
            // Maps that another version had besides.
            for other in fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path()) {
                if !other.is_dir() {
                    check(fs::remove_file(&other), &other);
                }
            }
            check(fs::remove_dir(&self.path), &self.path);
        }
        errors
    }
}
