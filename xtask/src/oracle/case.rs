//! A case: a small host, a policy, a few packets. Those that once showed a fault are kept and played again by a test.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::policy::Policy;
use super::replay::Twins;
use super::topology::Topology;
use super::traffic::Conversation;

/// What is needed to see a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    /// What was seen.
    pub(super) what: String,
    pub(super) topology: Topology,
    pub(super) policy: Policy,
    pub(super) conversations: Vec<Conversation>,
}

impl Case {
    /// Writes it into `folder`, under a name made of `name`.
    pub(super) fn write(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        let file = folder.join(format!("{name}.toml"));
        let text = toml::to_string(self).context("cannot put a case into TOML")?;
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&file, text))
            .with_context(|| format!("cannot write the case {}", file.display()))?;
        Ok(file)
    }

    fn read(file: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read the case {}", file.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is no case", file.display()))
    }
}

/// Plays every case in `folder` again; an error tells those in which something unlisted differs.
pub fn replay_kept(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        cases.push((Case::read(&file)?, file));
    }
    let mut failed = Vec::new();
    while let Some((case, _)) = cases.first() {
        // Cases with the same host share it.
        let topology = case.topology.clone();
        let mut twins = Twins::build(&topology, &case.policy.clone())?;
        let (here, others) = cases.into_iter().partition(|(case, _)| case.topology == topology);
        cases = others;
        for (case, file) in Vec::from_iter::<Vec<(Case, PathBuf)>>(here) {
            let outcome = twins.with_policy(&case.policy, |twins| twins.play(&case.conversations))?;
            failed.extend(
                outcome
                    .unlisted()
                    .map(|difference| format!("{}: {}: {difference}", file.display(), case.what)),
            );
        }
    }
    if !failed.is_empty() {
        bail!("kept cases differ again:\n{}", failed.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::super::traffic::Traffic;
    use super::*;

    #[test]
    fn a_case_reads_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let topology = Topology::random(&mut random);
            let policy = Policy::random(&mut random, &topology);
            let mut traffic = Traffic::new(&topology);
            let conversations = (0..30).flat_map(|number| traffic.random(&mut random, number)).collect();
            let case = Case { what: "nothing".to_owned(), policy, conversations, topology: topology.clone() };
            let file = case.write(folder.path(), "case").expect("written");
            assert_eq!(Case::read(&file).expect("read"), case);
        }
    }
}
