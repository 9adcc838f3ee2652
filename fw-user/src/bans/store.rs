//! The file of bans, beside the policy file: what a restart and a boot must not forget.
//!
//! One JSON object on each line says what was banned or lifted, in this order: a ban costs a line and not the file. It
//! is written anew when half of it is history. The end of a ban needs no line, for it stands in the ban.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Ban, Bans};

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// This holds from here on.
    Ban(Ban),
    /// This is not banned from here on.
    Lift(IpNet),
}

/// More lines than this beside those that count, and the file is written anew.
const SLACK: usize = 1000;

/// The file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    lines: usize,
    /// The file is not what it should be: it is written anew with the next change.
    stale: bool,
}

impl Store {
    /// Reads the bans that are not over at this second. Lines that are no bans are left out, and told.
    pub fn open(policy_file: &Path, now: u64) -> (Self, Bans, Option<String>) {
        let path = beside(policy_file);
        let mut store = Self { path, lines: 0, stale: false };
        let text = match fs::read(&store.path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => return (store, Bans::default(), None),
            Err(error) => {
                let path = store.path.display();
                let note = format!("the bans in {path} are not in force: cannot read it ({error})");
                store.stale = true;
                return (store, Bans::default(), Some(note));
            }
        };
        let mut bans = Bans::default();
        let mut wrong = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            match serde_json::from_str(line) {
                Ok(Change::Ban(ban)) => {
                    bans.lift(&ban.prefix);
                    bans.put(ban);
                }
                Ok(Change::Lift(prefix)) => _ = bans.lift(&prefix),
                Err(_) => wrong.push(number),
            }
            store.lines = number;
        }
        bans.end(now);
        // A daemon that was killed while it wrote has left a part of a line.
        let torn = !text.is_empty() && !text.ends_with('\n');
        store.stale = torn;
        wrong.retain(|number| !torn || *number != store.lines);
        let note = (!wrong.is_empty()).then(|| {
            let path = store.path.display();
            format!("lines of {path} that are no bans are not in force: {wrong:?}")
        });
        (store, bans, note)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a change has not come into the file.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Writes what has changed; `bans` is all that holds now. What could not be written is, with the next change.
    pub fn write(&mut self, changes: &[Change], bans: &Bans) -> io::Result<()> {
        let lines = self.lines + changes.len();
        let written = if self.stale || lines > 2 * bans.len() + SLACK {
            self.write_anew(bans)
        } else {
            self.append(changes)
        };
        self.stale = written.is_err();
        written
    }

    fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        let is_new = !self.path.exists();
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        file.write_all(&text(changes)?)?;
        file.sync_data()?;
        self.lines += changes.len();
        if is_new { self.sync_directory() } else { Ok(()) }
    }

    fn write_anew(&mut self, bans: &Bans) -> io::Result<()> {
        let all: Vec<Change> = bans.iter().cloned().map(Change::Ban).collect();
        let new = with_suffix(&self.path, ".new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text(&all)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        self.lines = all.len();
        self.sync_directory()
    }

    /// A name is on the disk when its directory is.
    fn sync_directory(&self) -> io::Result<()> {
        match self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => File::open(".")?.sync_all(),
        }
    }
}

fn text(changes: &[Change]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for change in changes {
        serde_json::to_writer(&mut text, change)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// Where the bans are kept: `policy.toml.bans`.
pub fn beside(policy_file: &Path) -> PathBuf {
    with_suffix(policy_file, ".bans")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.into();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::bans::sample;

    fn ban(store: &mut Store, bans: &mut Bans, prefix: &str, until: Option<u64>) {
        let change = Change::Ban(bans.put(sample(prefix, until)).clone());
        store.write(&[change], bans).expect("written");
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("policy.toml");
        let (mut store, mut bans, note) = Store::open(&file, 0);
        assert_eq!((bans.len(), note), (0, None));
        ban(&mut store, &mut bans, "192.0.2.1/32", Some(200));
        ban(&mut store, &mut bans, "2001:db8::/64", None);
        ban(&mut store, &mut bans, "192.0.2.1/32", Some(300));
        ban(&mut store, &mut bans, "192.0.2.2/32", None);
        let lifted = bans.lift(&sample("192.0.2.2/32", None).prefix).expect("a ban");
        store.write(&[Change::Lift(lifted.prefix)], &bans).expect("written");
        let mode = fs::metadata(store.path()).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Store::open(&file, 250).1, bans);
        let (_, later, _) = Store::open(&file, 300);
        assert_eq!(later.prefixes().map(ToString::to_string).collect::<Vec<_>>(), ["2001:db8::/64"]);
    }

    #[test]
    fn a_file_of_history_is_written_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut store, mut bans, _) = Store::open(&directory.path().join("policy.toml"), 0);
        for until in 0..=(SLACK as u64 + 2) {
            ban(&mut store, &mut bans, "192.0.2.1/32", Some(1000 + until));
        }
        let text = fs::read_to_string(store.path()).expect("a file");
        assert_eq!((text.lines().count(), store.lines), (1, 1), "{text}");
        assert_eq!(Store::open(&directory.path().join("policy.toml"), 0).1, bans);
    }

    #[test]
    fn a_line_cut_short_is_not_glued_to_the_next() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("policy.toml");
        let (mut store, mut bans, _) = Store::open(&file, 0);
        ban(&mut store, &mut bans, "192.0.2.1/32", None);
        let whole = fs::read_to_string(store.path()).expect("a file");
        fs::write(store.path(), format!("{whole}{}", &whole[..20])).expect("a file");
        let (mut store, mut bans, note) = Store::open(&file, 0);
        assert_eq!((bans.len(), note), (1, None), "the end of a crash is nobody's fault");
        ban(&mut store, &mut bans, "192.0.2.2/32", None);
        assert_eq!(Store::open(&file, 0).1, bans);
        fs::write(store.path(), format!("no ban\n{whole}")).expect("a file");
        let (_, bans, note) = Store::open(&file, 0);
        assert_eq!(bans.len(), 1);
        assert!(note.expect("a note").ends_with("[1]"));
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let directory = tempfile::tempdir().expect("a directory");
        let folder = directory.path().join("etc");
        let (mut store, mut bans, _) = Store::open(&folder.join("policy.toml"), 0);
        let first = Change::Ban(bans.put(sample("192.0.2.1/32", None)).clone());
        assert!(store.write(&[first], &bans).is_err() && store.is_stale());
        fs::create_dir(&folder).expect("a directory");
        ban(&mut store, &mut bans, "192.0.2.2/32", None);
        assert_eq!(Store::open(&folder.join("policy.toml"), 0).1, bans);
    }
}
