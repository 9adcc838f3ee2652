//! `cargo xtask fuzz`: libFuzzer on what reads bytes of others, the packet and the policy file.
//!
//! The targets need nothing but the crate `libfuzzer-sys`: coverage of the code under test is switched on by flags of
//! the compiler, those that cargo-fuzz gives it. No sanitizer: the code under test has no `unsafe`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::workspace;

/// What `cargo xtask fuzz` is told.
#[derive(Args)]
pub struct Arguments {
    /// How long, for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Afterwards, write the smallest set of inputs that reaches all that was reached over the corpus in the tree.
    #[arg(long)]
    keep: bool,
    /// Which; all unless given.
    target: Option<Target>,
}

/// What is fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// `decide`, with any packet and tables.
    Decide,
    /// The policy file, with any text.
    Policy,
}

/// Fuzzes; an input that breaks what must hold is an error that names the file in which it is.
pub fn run(arguments: &Arguments) -> Result<()> {
    if workspace::find("c++").is_none() {
        bail!("libFuzzer is written in C++ and there is no `c++`: install a C++ compiler (Debian: `g++`)");
    }
    for target in Target::value_variants() {
        if arguments.target.is_none_or(|wanted| wanted == *target) {
            target.fuzz(arguments)?;
        }
    }
    Ok(())
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Decide => "decide",
            Self::Policy => "policy",
        }
    }

    /// The folder of the target's own workspace.
    fn folder(self) -> PathBuf {
        workspace::root().join(match self {
            Self::Decide => "fw-common/fuzz",
            Self::Policy => "fw-user/fuzz",
        })
    }

    /// Longer inputs say nothing that shorter ones do not.
    fn longest(self) -> u32 {
        match self {
            Self::Decide => 512,
            Self::Policy => 2048,
        }
    }

    fn fuzz(self, arguments: &Arguments) -> Result<()> {
        let binary = self.build()?;
        let (kept, scratch) =
            (self.folder().join("corpus"), workspace::root().join("target/fuzz").join(self.name()));
        let found = scratch.join("inputs");
        fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        println!("fuzz: {} for {} s", self.name(), arguments.seconds);
        let libfuzzer = || {
            let mut command = workspace::command(&binary.display().to_string());
            command.arg(format!("-max_len={}", self.longest()));
            command.arg(format!("-artifact_prefix={}/", scratch.display()));
            command
        };
        let mut run = libfuzzer();
        run.arg(format!("-max_total_time={}", arguments.seconds))
            .args(["-print_final_stats=1", "-verbosity=0"]);
        workspace::run(run.args([&found, &kept])).with_context(|| {
            format!(
                "{} breaks on the input in {}; mend it and put the input into {}",
                self.name(),
                scratch.display(),
                kept.display()
            )
        })?;
        if arguments.keep {
            let smallest = scratch.join("smallest");
            fs::remove_dir_all(&smallest).ok();
            fs::create_dir_all(&smallest).with_context(|| format!("cannot make {}", smallest.display()))?;
            // By edges alone: how often each is taken would keep ten times as many.
            let merge = ["-set_cover_merge=1", "-use_counters=0"];
            workspace::run(libfuzzer().args(merge).args([&smallest, &found, &kept]))?;
            fs::remove_dir_all(&kept)
                .and_then(|()| copy(&smallest, &kept))
                .with_context(|| format!("cannot write {}", kept.display()))?;
        }
        Ok(())
    }

    fn build(self) -> Result<PathBuf> {
        let (host, output) = (workspace::host()?, workspace::root().join("target/fuzz/build"));
        let mut cargo = workspace::cargo();
        cargo
            .args(["build", "--quiet", "--locked", "--release", "--target", &host])
            .env("RUSTFLAGS", COVERAGE.join(" "));
        cargo.arg("--manifest-path").arg(self.folder().join("Cargo.toml"));
        workspace::run(cargo.arg("--target-dir").arg(&output))?;
        let binary = output.join(host).join("release").join(self.name());
        ensure!(binary.is_file(), "cargo built no {}", binary.display());
        Ok(binary)
    }
}

fn copy(from: &PathBuf, to: &PathBuf) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// What libFuzzer learns from: edges taken, and what was compared with what.
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
];
