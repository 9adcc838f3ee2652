//! Generations of Docker: this machine's own, and those of later Debian releases in trees of their own.
//!
//! `cargo xtask setup` leaves the trees alone; `cargo xtask matrix` makes those that it is asked for.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::docker::which;
use crate::workspace;

/// A generation of Docker, in the order of their releases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// The `dockerd` of this machine; Debian 12 has 20.10.
    #[default]
    V20_10,
    /// Debian 13 (trixie).
    V26_1,
    /// Debian 14 (forky).
    V28_5,
}

impl Generation {
    /// All of them, oldest first.
    pub const ALL: [Self; 3] = [Self::V20_10, Self::V26_1, Self::V28_5];

    /// Version, as far as it matters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V20_10 => "20.10",
            Self::V26_1 => "26.1",
            Self::V28_5 => "28.5",
        }
    }

    /// The Debian release whose tree has it; this machine's own needs none.
    pub const fn suite(self) -> Option<&'static str> {
        match self {
            Self::V20_10 => None,
            Self::V26_1 => Some("trixie"),
            Self::V28_5 => Some("forky"),
        }
    }

    /// The folder with that release.
    pub fn tree(self) -> Option<PathBuf> {
        self.suite().map(|_| workspace::root().join(".cache/docker").join(self.name()))
    }

    /// Why no lab can run it, if so.
    pub fn obstacle(self) -> Option<String> {
        match self.tree() {
            None => which("dockerd")
                .is_none()
                .then(|| "missing: dockerd (`cargo xtask setup` installs it)".to_owned()),
            Some(tree) => (!tree.join("usr/sbin/dockerd").is_file())
                .then(|| format!("no Docker {self} here (`cargo xtask matrix --docker {self}` installs it)")),
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Generation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|generation| generation.name() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("no generation of Docker is called {text:?}: expected one of {known}")
        })
    }
}
