//! Another fw: today's source with another layout of its maps, as the next version might have it. It is built beside this
//! one, so that an upgrade and a downgrade are between two real binaries.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::workspace;

/// The other fw's source and build, below the workspace's root.
const FOLDER: &str = "target/other";

/// What is otherwise in it: a value that is larger, in a map that every packet asks, and the number that says so.
const EDITS: &[(&str, &str, &str)] = &[
    ("fw-common/src/lib.rs", "pub const ABI_VERSION: u32 = ", "pub const ABI_VERSION: u32 = 1000 + "),
    (
        "fw-common/src/tables.rs",
        "    pub records: u8,\n}\n\n/// Map `subnets`",
        "    pub records: u8,\n    /// Zero.\n    pub reserved: [u8; 8],\n}\n\n/// Map `subnets`",
    ),
];

/// Builds it and says where it is. A second time it takes what the first has left.
pub fn build() -> Result<PathBuf> {
    let folder = workspace::root().join(FOLDER);
    let files = workspace::output(workspace::command("git").args(["ls-files", "-z"]))
        .context("the other fw is made of the files that git knows")?;
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        let text = fs::read(workspace::root().join(file)).with_context(|| format!("cannot read {file}"))?;
        let text = edited(file, text)?;
        write_if_other(&folder.join(file), &text)?;
    }
    let target = folder.join("target");
    workspace::run(
        workspace::cargo()
            .current_dir(&folder)
            .args(["build", "--package", "fw-user", "--bin", "fw", "--target-dir"])
            .arg(&target),
    )?;
    Ok(target.join("debug/fw"))
}

fn edited(file: &str, text: Vec<u8>) -> Result<Vec<u8>> {
    let mut text = text;
    for (_, old, new) in EDITS.iter().filter(|(name, ..)| *name == file) {
        let source = String::from_utf8(text).with_context(|| format!("{file} is text"))?;
        ensure!(
            source.matches(old).count() == 1,
            "{file} has changed: mend EDITS in xtask/src/replace/other.rs"
        );
        text = source.replace(old, new).into_bytes();
    }
    Ok(text)
}

/// Cargo builds again what is newer.
fn write_if_other(path: &Path, text: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let folder = path.parent().context("a file lies in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The source still has what is edited.
    #[test]
    fn edits_fit_the_source() {
        for (file, ..) in EDITS {
            let text = fs::read(workspace::root().join(file)).expect("a file of the tree");
            assert_ne!(edited(file, text.clone()).expect("an edit"), text);
        }
        assert!(edited(EDITS[0].0, b"nothing of it".to_vec()).is_err());
    }
}
