//! `cargo xtask tidy`: the rules of the source tree that no linter can check.
//!
//! A rule is a function over a [`Tree`], so that each is tested with a small tree that breaks it.

mod borders;
mod code;
mod format;
mod manifests;
mod maps;
mod purity;
mod reasons;
mod sleeps;
mod text;
mod unsafety;

use std::{collections::BTreeMap, fmt, fs, path::Path, time::Instant};

use anyhow::{Context as _, bail};

use crate::workspace;

/// A rule: the places of a tree where it is broken.
type Rule = fn(&Tree) -> Vec<Violation>;

/// All rules with the names under which they are reported, in the order in which they run.
const RULES: &[(&str, Rule)] = &[
    ("aya", borders::aya),
    ("docker client", borders::docker_client),
    ("iptables", borders::iptables),
    ("nft", borders::nft),
    ("no_std", purity::no_std),
    ("pure modules", purity::pure_modules),
    ("unsafe", unsafety::unsafe_code),
    ("reasons", reasons::reasons),
    ("maps", maps::maps),
    ("first line", format::first_line),
    ("readable", format::readable),
    ("unfinished", text::unfinished),
    ("machine paths", text::machine_paths),
    ("sleeps", sleeps::sleeps),
    ("skipped tests", sleeps::skipped_tests),
    ("dependencies", manifests::dependencies),
    ("lint table", manifests::lint_table),
    ("plain crate", manifests::plain_crate),
];

/// The text files of a source tree, by path relative to its root, with `/` between folders.
#[derive(Default)]
pub(crate) struct Tree {
    files: BTreeMap<String, String>,
}

/// A place where a rule is broken, and what mends it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    path: String,
    line: usize,
    what: String,
    mend: String,
}

/// Checks the working tree: every file that git knows or would add.
pub fn run() -> anyhow::Result<()> {
    let started = Instant::now();
    let tree = Tree::of_workspace()?;
    let mut broken = 0;
    for (name, rule) in RULES {
        for violation in rule(&tree) {
            println!("{violation}  [{name}]");
            broken += 1;
        }
    }
    let (rules, files, time) = (RULES.len(), tree.files.len(), started.elapsed());
    println!("tidy: {rules} rules, {files} files, {broken} violations, {:.1} s", time.as_secs_f32());
    if broken > 0 {
        bail!("the tree is not tidy");
    }
    Ok(())
}

impl Tree {
    fn of_workspace() -> anyhow::Result<Self> {
        let mut git = workspace::command("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let names = workspace::output(&mut git).context("tidy asks git which files belong to the tree")?;
        let mut files = BTreeMap::new();
        for name in names.split_terminator('\0') {
            let file = workspace::root().join(name);
            // A file deleted but not yet staged is still listed; a binary file has no lines to check.
            if let Ok(text) = fs::read_to_string(file) {
                files.insert(name.to_owned(), text);
            }
        }
        Ok(Self { files })
    }

    /// The text of the file at `path`.
    fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// The text of a file that a rule needs, or the violation that it is not there.
    fn required(&self, path: &str, purpose: &str) -> Result<&str, Violation> {
        self.text(path).ok_or_else(|| Violation::new(path, 1, format!("missing: {purpose}"), "write it"))
    }

    /// Every file with its text.
    fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The Rust files below `folder`; an empty one means the whole tree.
    fn rust(&self, folder: &str) -> impl Iterator<Item = (&str, &str)> {
        self.all().filter(move |(path, _)| {
            path.starts_with(folder) && Path::new(path).extension() == Some("rs".as_ref())
        })
    }
}

impl Violation {
    fn new(path: &str, line: usize, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into(), mend: mend.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, what, mend } = self;
        write!(formatter, "{path}:{line}: {what}; {mend}")
    }
}

#[cfg(test)]
fn tree(files: &[(&str, &str)]) -> Tree {
    Tree { files: files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect() }
}

/// Where a rule found `files` broken, as `path:line`.
#[cfg(test)]
fn places(rule: Rule, files: &[(&str, &str)]) -> Vec<String> {
    rule(&tree(files)).iter().map(|violation| format!("{}:{}", violation.path, violation.line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_reads_as_place_fault_and_remedy() {
        let violation = Violation::new("a/b.rs", 7, "imports aya", "move it");
        assert_eq!(violation.to_string(), "a/b.rs:7: imports aya; move it");
    }

    #[test]
    fn the_working_tree_is_read() {
        let tree = Tree::of_workspace().expect("git lists the tree");
        assert!(tree.text("xtask/src/tidy.rs").is_some());
        assert!(tree.rust("xtask/").all(|(path, _)| path.starts_with("xtask/")));
    }
}
