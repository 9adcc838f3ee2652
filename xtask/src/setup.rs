//! `cargo xtask setup`: what building, testing and checking need, installed where it is missing.
//!
//! Each step says what it installs, why, and how long that takes. Run again, it finds everything in place.
//! A prebuilt `fw` needs none of this.

mod packages;
mod trees;

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::lab::Generation;
use crate::workspace;

/// What `cargo xtask setup` is told.
#[derive(Args)]
pub struct Arguments {
    /// Install nothing; print the commands, for a user without root or without Debian.
    #[arg(long)]
    print: bool,
}

/// What something is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Building `fw` with its kernel programs.
    Build,
    /// The demo and the tests on a real Docker host in network namespaces.
    Lab,
    /// Checks beyond the compiler's, as in `.ci/run`.
    Checks,
    /// `cargo xtask coverage`.
    Coverage,
    /// `cargo xtask mutants`.
    Mutants,
}

/// A program that cargo installs into the workspace's own folder, in one fixed version.
struct Tool {
    name: &'static str,
    version: &'static str,
    /// What asks for its version.
    version_by: &'static [&'static str],
    options: &'static [&'static str],
    why: &'static str,
    time: &'static str,
}

/// Uses the LLVM 22 that rustc 1.95 brings along, so no LLVM of the system's is asked for. Later releases want 23.
const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.10.3",
    version_by: &["--version"],
    options: &["--no-default-features", "--features", "rust-llvm-22"],
    why: "links the kernel programs",
    time: "about one minute",
};

const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    version_by: &["--version"],
    // What it does takes a moment however it was compiled, and optimizing it takes minutes.
    options: &["--profile", "dev", "--config", "profile.dev.debug=0"],
    why: "checks licences and origins of dependencies in .ci/run",
    time: "about a minute",
};

const CARGO_MUTANTS: Tool = Tool {
    name: "cargo-mutants",
    version: "27.1.0",
    version_by: &["mutants", "--version"],
    options: &[],
    why: "changes the code and asks whether a test notices, for `cargo xtask mutants`",
    time: "one to two minutes",
};

/// Carries out `cargo xtask setup`.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.print {
        print!("{Equivalent}");
        return Ok(());
    }
    ensure(&[Part::Build, Part::Lab, Part::Checks])?;
    if path_lacks_tools() {
        let bin = workspace::tools().join("bin");
        println!(
            "setup: `cargo xtask` finds its tools by itself; for a plain `cargo build` put them into your PATH:"
        );
        println!("       export PATH=\"{}:$PATH\"", bin.display());
    }
    Ok(())
}

/// Installs what `parts` need and what is missing, and says so.
pub fn ensure(parts: &[Part]) -> anyhow::Result<()> {
    if parts.contains(&Part::Build) {
        rust_source()?;
        BPF_LINKER.ensure()?;
    }
    if parts.contains(&Part::Checks) {
        CARGO_DENY.ensure()?;
    }
    if parts.contains(&Part::Coverage) {
        llvm_tools()?;
    }
    if parts.contains(&Part::Mutants) {
        CARGO_MUTANTS.ensure()?;
    }
    if parts.contains(&Part::Lab) {
        packages::ensure()?;
    }
    Ok(())
}

/// Installs these generations of Docker where they are missing, and says so.
pub fn ensure_generations(generations: &[Generation]) -> anyhow::Result<()> {
    generations.iter().try_for_each(|generation| trees::ensure(*generation))
}

/// Whether this process is root's, as whatever makes network namespaces or loads programs must be.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// `core` is compiled for the BPF target, for which no compiled one is distributed.
fn rust_source() -> anyhow::Result<()> {
    let file = "lib/rustlib/src/rust/library/core/Cargo.toml";
    component(
        "rust-src",
        "`core` is compiled for the kernel programs",
        "a few seconds",
        &sysroot()?.join(file),
    )
}

/// Profiles are read by the tools of the LLVM that wrote them.
fn llvm_tools() -> anyhow::Result<()> {
    component("llvm-tools", "reads which lines were run", "a few seconds", &llvm_folder()?.join("llvm-cov"))
}

/// A program of the toolchain's LLVM, which [`Part::Coverage`] installs.
pub(crate) fn llvm(program: &str) -> anyhow::Result<Command> {
    Ok(workspace::command(&llvm_folder()?.join(program).display().to_string()))
}

fn llvm_folder() -> anyhow::Result<PathBuf> {
    Ok(sysroot()?.join("lib/rustlib").join(workspace::host()?).join("bin"))
}

fn sysroot() -> anyhow::Result<PathBuf> {
    let sysroot = workspace::output(workspace::command("rustc").args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(sysroot.trim()))
}

/// A part of the toolchain that rustup installs; `file` is there if it is.
fn component(name: &str, why: &str, time: &str, file: &Path) -> anyhow::Result<()> {
    if file.is_file() {
        println!("setup: {name} is there");
        return Ok(());
    }
    if workspace::find("rustup").is_none() {
        bail!(
            "{name} is missing ({why}), and rustup, which would install it, is not there; install the package that \
             belongs to this very compiler, so that there is {}",
            file.display()
        );
    }
    let mut add = workspace::command("rustup");
    add.args(["component", "add", name]);
    install(name, why, time, &mut add)
}

impl Tool {
    fn ensure(&self) -> anyhow::Result<()> {
        if self.is_there() {
            println!("setup: {self} is there");
            return Ok(());
        }
        let mut cargo = workspace::cargo();
        cargo.args(self.arguments()).arg("--root").arg(workspace::tools());
        install(&self.to_string(), self.why, self.time, &mut cargo)
    }

    /// Whether the program found first answers with the fixed version.
    fn is_there(&self) -> bool {
        let answer = workspace::command(self.name).args(self.version_by).output();
        answer.is_ok_and(|answer| String::from_utf8_lossy(&answer.stdout).trim() == self.to_string())
    }

    fn arguments(&self) -> impl Iterator<Item = &'static str> {
        let fixed = ["install", self.name, "--version", self.version, "--locked"];
        fixed.into_iter().chain(self.options.iter().copied())
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.name, self.version)
    }
}

/// Runs `command`, which installs `what`.
fn install(what: &str, why: &str, time: &str, command: &mut Command) -> anyhow::Result<()> {
    println!("setup: installing {what} ({why}; takes {time}):");
    println!("       {}", workspace::shown(command));
    let started = Instant::now();
    workspace::run(command)
        .with_context(|| format!("cannot install {what}; `cargo xtask setup --print` shows how"))?;
    println!("setup: installed {what} in {:.0} s", started.elapsed().as_secs_f32());
    Ok(())
}

fn path_lacks_tools() -> bool {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let own = workspace::tools().join("bin");
    let found = std::env::split_paths(&inherited).any(|folder| folder.join(BPF_LINKER.name).is_file());
    own.join(BPF_LINKER.name).is_file() && !found
}

/// All of set-up as commands to type.
struct Equivalent;

impl fmt::Display for Equivalent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "# To build. No root needed.")?;
        writeln!(
            formatter,
            "rustup component add rust-src   # the source of `core`, compiled for the kernel programs"
        )?;
        for tool in [BPF_LINKER, CARGO_DENY] {
            let words: Vec<&str> = tool.arguments().collect();
            writeln!(formatter, "cargo {}   # {}; {}", words.join(" "), tool.why, tool.time)?;
        }
        writeln!(formatter)?;
        write!(formatter, "{}", packages::Equivalent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_equivalent_names_every_step() {
        let text = Equivalent.to_string();
        for part in [
            "rustup component add rust-src",
            "cargo install bpf-linker --version 0.10.3 --locked --no-default-features --features rust-llvm-22",
            "cargo install cargo-deny --version",
            "apt-get install -y --no-install-recommends docker.io",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }
}
