//! The policy that was confirmed last, kept beside the policy file while that holds one that is not confirmed.
//!
//! A policy that nobody has confirmed may have locked everybody out. So a start never begins with it: neither after a
//! crash while it waited, nor after a boot long after it was taken back. It takes a person who reloads, confirms, or
//! writes another file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::policy::{Origin, Policy, PolicyError};

/// A policy with the text that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// What it says.
    pub policy: Policy,
    /// The policy file as it was.
    pub text: String,
}

impl Read {
    /// Reads and checks the policy file.
    pub fn from(file: &Path) -> Result<Self, PolicyError> {
        let text = Policy::text(file)?;
        Ok(Self { policy: Policy::parse(&text, file, file.parent().unwrap_or(Path::new(".")))?, text })
    }

    /// The policy to begin with: that of the file, unless nobody has confirmed it. Says so if it is another.
    pub fn to_begin_with(file: &Path) -> Result<(Self, Option<String>), PolicyError> {
        let kept = match Kept::read(file) {
            // By its text alone: its sets may have changed since, or be gone, and it is still not confirmed.
            Ok(Some(kept)) if kept.unconfirmed == fingerprint(&Policy::text(file)?) => kept,
            Ok(_) => return Ok((Self::from(file)?, None)),
            Err(error) => {
                let note = format!("{} cannot be read ({error}) and is left alone", beside(file).display());
                return Ok((Self::from(file)?, Some(note)));
            }
        };
        let sets = kept.sets.into_iter().collect();
        let policy = Policy::parse_kept(&kept.policy, file, sets)?;
        let note = format!(
            "nobody has confirmed the policy in {file}: beginning with the one before it, which is kept in {kept}; \
             `fw reload` puts the file in force",
            file = file.display(),
            kept = beside(file).display()
        );
        Ok((Self { policy, text: kept.policy }, Some(note)))
    }

    /// The sets that stand in files of their own.
    fn sets(&self) -> impl Iterator<Item = (&PathBuf, &BTreeSet<IpNet>)> {
        self.policy.sets.values().filter_map(|set| match &set.origin {
            Origin::File(path) => Some((path, &set.prefixes)),
            Origin::List | Origin::Inline => None,
        })
    }

    /// Whether this is the policy that was taken back because nobody had confirmed it.
    pub fn is_unconfirmed(&self, file: &Path) -> bool {
        matches!(Kept::read(file), Ok(Some(kept)) if kept.unconfirmed == fingerprint(&self.text))
    }

    /// Keeps this policy beside the file, in which stands `unconfirmed`.
    pub fn keep(&self, file: &Path, unconfirmed: &Self) -> io::Result<()> {
        let kept = Kept {
            unconfirmed: fingerprint(&unconfirmed.text),
            policy: self.text.clone(),
            sets: self.sets().map(|(path, prefixes)| (path.clone(), prefixes.clone())).collect(),
        };
        let path = beside(file);
        let mut new = path.clone().into_os_string();
        new.push(".new");
        let mut writer = io::BufWriter::new(File::create(&new)?);
        writer.get_ref().set_permissions(Permissions::from_mode(0o600))?;
        serde_json::to_writer(&mut writer, &kept)?;
        writer.flush()?;
        writer.get_ref().sync_all()?;
        fs::rename(&new, &path)
    }
}

/// A digest of the text of a policy.
pub(crate) fn fingerprint(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// What stands in the file that is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Digest of the text of the policy that is not confirmed.
    unconfirmed: String,
    /// The text of the one that is.
    policy: String,
    /// The prefixes of its set files.
    sets: BTreeMap<PathBuf, BTreeSet<IpNet>>,
}

impl Kept {
    fn read(file: &Path) -> io::Result<Option<Self>> {
        match fs::read(beside(file)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Where the policy that was confirmed is kept: `policy.toml.confirmed`.
pub fn beside(file: &Path) -> PathBuf {
    let mut name: OsString = file.into();
    name.push(".confirmed");
    name.into()
}

/// Lets go of the policy that is kept: the one in the file is confirmed, or another.
pub fn let_go(file: &Path) -> io::Result<()> {
    match fs::remove_file(beside(file)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "[sets]\nhome = { file = \"home.txt\" }\n[[allow]]\nname = \"one\"\nproto = \"tcp\"\nports = [1]\nfrom = [\"home\"]\n";
    const TWO: &str = "[[allow]]\nname = \"two\"\nproto = \"tcp\"\nports = [2]\n";

    #[test]
    fn a_start_does_not_begin_with_what_nobody_has_confirmed() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, set) = (directory.path().join("policy.toml"), directory.path().join("home.txt"));
        let begun = || Read::to_begin_with(&file).expect("a policy");
        fs::write(&set, "192.0.2.0/24\n").expect("a file");
        fs::write(&file, ONE).expect("a file");
        let (one, note) = begun();
        assert_eq!(note, None);
        fs::write(&file, TWO).expect("a file");
        let two = Read::from(&file).expect("a policy");
        one.keep(&file, &two).expect("kept");
        // The set file of the confirmed policy is gone since, too.
        fs::remove_file(&set).expect("removed");
        let (found, note) = begun();
        assert_eq!(found, one);
        assert!(note.expect("a note").contains("nobody has confirmed the policy"));
        // Another file is somebody's decision.
        fs::write(&file, format!("{TWO}# again\n")).expect("a file");
        assert_eq!(begun().1, None);
        assert_eq!(begun().0.policy.allow[0].name, "two");
        fs::write(&file, TWO).expect("a file");
        assert_eq!(begun().0, one, "it is still not confirmed");
        assert!(two.is_unconfirmed(&file) && !one.is_unconfirmed(&file));
        let_go(&file).expect("gone");
        let_go(&file).expect("gone is as good");
        assert_eq!(begun().0, two);
        // What stands in its sets does not make it another one.
        fs::write(&file, ONE).expect("a file");
        fs::write(&set, "192.0.2.0/24\n").expect("a file");
        two.keep(&file, &Read::from(&file).expect("a policy")).expect("kept");
        fs::write(&set, "198.51.100.0/24\n").expect("a file");
        assert_eq!(begun().0, two);
        fs::remove_file(&set).expect("removed");
        assert_eq!(begun().0, two);
        fs::write(&file, TWO).expect("a file");
        fs::write(beside(&file), "{").expect("a file");
        let (found, note) = begun();
        assert_eq!(found, two);
        assert!(note.expect("a note").contains("cannot be read"));
    }
}
