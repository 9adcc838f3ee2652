//! The backstop between neighbours: one static nftables table, for networks without `icc` alone, that drops what goes from
//! port to port of their bridges without our mark. The only place that runs nft.
//!
//! It stands before a new port has its hook, and when the daemon is dead; it opens nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::program::{PATIENCE, run, search, search_path};
use super::{HandoverError, Marks, plain_name};

/// Which bridges keep their ports apart, and what passes all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backstop {
    marks: Marks,
    bridges: BTreeSet<String>,
}

/// The table as it was read back after it had been written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    wanted: Backstop,
    text: Option<String>,
}

/// The program `nft` of this host, for the network namespace of the calling thread.
#[derive(Clone, Debug)]
pub struct Nft {
    program: PathBuf,
}

impl Backstop {
    /// The table for the bridges of these names; none for no bridge.
    pub fn new(marks: Marks, bridges: BTreeSet<String>) -> Result<Self, HandoverError> {
        // A `*` at the end would be a wildcard.
        match bridges.iter().find(|name| !plain_name(name) || name.contains('*')) {
            Some(name) => Err(HandoverError::Bridge { name: name.clone() }),
            None => Ok(Self { marks, bridges }),
        }
    }

    /// Whether there is nothing to keep apart.
    pub fn is_empty(&self) -> bool {
        self.bridges.is_empty()
    }

    /// What nft is told: the old table goes and the new one comes in one transaction.
    fn script(&self) -> String {
        let names: Vec<String> = self.bridges.iter().map(|name| format!("\"{name}\"")).collect();
        let mut script = REMOVAL.to_owned();
        // The mark of what another port has vouched for is `inward`; all others are for elsewhere.
        let written = write!(
            script,
            "{TABLE} {{\n\tchain forward {{\n\t\ttype filter hook forward priority 0; policy accept;\n\t\t\
             meta ibrname {{ {} }} meta mark & {:#x} != {:#x} counter drop comment \"fw: neighbours without icc\"\n\
             \t}}\n}}\n",
            names.join(", "),
            self.marks.mask(),
            self.marks.inward(),
        );
        written.expect("a string takes what is written to it");
        script
    }
}

impl Nft {
    /// Looks for the program in `PATH` and the sbin directories.
    pub fn find() -> Option<Self> {
        search(&search_path(), "nft").map(|program| Self { program })
    }

    /// Brings the table to `wanted`, in one transaction; touches nothing that is as it was read back the last time.
    pub fn apply(&self, wanted: &Backstop, before: Option<&Standing>) -> Result<Standing, HandoverError> {
        let found = self.read()?;
        let stands = before.is_some_and(|before| before.wanted == *wanted && before.text == found);
        let needless = wanted.is_empty() && found.is_none();
        if !(stands || needless) {
            self.write(&if wanted.is_empty() { REMOVAL.to_owned() } else { wanted.script() })?;
        }
        let text = if stands { found } else { self.read()? };
        if text.is_none() != wanted.is_empty() {
            return Err(HandoverError::Failed {
                program: self.program.display().to_string(),
                message: format!("`{TABLE}` was not as written when read back; another program rewrites it"),
            });
        }
        Ok(Standing { wanted: wanted.clone(), text })
    }

    /// Takes the table away, if it is there.
    pub fn remove(&self) -> Result<(), HandoverError> {
        if self.read()?.is_some() { self.write(REMOVAL) } else { Ok(()) }
    }

    /// Whether Docker's own tables translate (29 and later, with its nftables backend).
    pub fn docker_writes(&self) -> Result<bool, HandoverError> {
        let output = run(&self.program, &["list", "tables"], "", PATIENCE)?;
        if !output.ok {
            return Err(output.error(&self.program));
        }
        Ok(output.stdout.lines().any(|line| line.ends_with(" docker-bridges")))
    }

    /// The table without its counters; `None` if there is none, or a kernel that has none for bridges.
    fn read(&self) -> Result<Option<String>, HandoverError> {
        let arguments = ["-s", "list", "table", "bridge", "fw"];
        let output = run(&self.program, &arguments, "", PATIENCE)?;
        if output.ok {
            return Ok(Some(output.stdout));
        }
        let absent = ["No such file or directory", "not supported"];
        if absent.iter().any(|words| output.stderr.contains(words)) {
            return Ok(None);
        }
        Err(output.error(&self.program))
    }

    fn write(&self, script: &str) -> Result<(), HandoverError> {
        let output = run(&self.program, &["-f", "-"], script, PATIENCE)?;
        match output.stderr.contains("not supported") {
            _ if output.ok => Ok(()),
            true => Err(HandoverError::NoBridgeMeta),
            false => Err(output.error(&self.program)),
        }
    }
}

impl Standing {
    /// Whether this is what was wanted.
    pub fn is(&self, wanted: &Backstop) -> bool {
        self.wanted == *wanted
    }
}

const TABLE: &str = "table bridge fw";
/// Deleting needs a table, which the first line makes if there is none.
const REMOVAL: &str = "table bridge fw\ndelete table bridge fw\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn backstop(bit: u8, names: &[&str]) -> Result<Backstop, HandoverError> {
        Backstop::new(Marks::new(bit)?, names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_nft_is_told() {
        let script = backstop(24, &["docker0", "br-n"]).map(|wanted| wanted.script());
        let expected = "table bridge fw\ndelete table bridge fw\ntable bridge fw {\n\tchain forward {\n\
                        \t\ttype filter hook forward priority 0; policy accept;\n\
                        \t\tmeta ibrname { \"br-n\", \"docker0\" } meta mark & 0x3000000 != 0x1000000 counter drop \
                        comment \"fw: neighbours without icc\"\n\t}\n}\n";
        assert_eq!(script.expect("plain names"), expected);
    }

    #[test]
    fn a_name_that_would_mean_something_else_is_refused() {
        for name in ["br*", "br\"x", "a b", ""] {
            let found = backstop(24, &[name]);
            assert!(matches!(found, Err(HandoverError::Bridge { .. })), "{name}: {found:?}");
        }
    }
}
