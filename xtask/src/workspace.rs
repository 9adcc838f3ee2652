//! Where the workspace lies, and how cargo and its tools are run in it.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

/// The folder that holds the workspace's `Cargo.toml`.
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The ignored folder into which set-up installs tools of this workspace alone.
pub fn tools() -> PathBuf {
    root().join(".cache/tools")
}

/// Value for `PATH`: the workspace's own tools first, and the folders of system programs, which a plain user's
/// `PATH` leaves out.
pub fn search_path() -> OsString {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let folders = [tools().join("bin")].into_iter().chain(env::split_paths(&inherited)).chain(system);
    // A folder whose name holds a colon cannot stand in PATH; then the inherited value must do.
    env::join_paths(folders).unwrap_or(inherited)
}

/// The first file called `program` in [`search_path`].
pub fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A command that runs at the workspace's root and finds the workspace's tools.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).env("PATH", search_path());
    command
}

/// Cargo, with the environment that a person at the prompt would give it.
///
/// `cargo xtask` hands down what `.cargo/config.toml` sets; inherited instead of configured, it would make build
/// scripts that watch such variables run again on every change between `cargo build` and `cargo xtask`.
pub fn cargo() -> Command {
    let mut cargo = command("cargo");
    cargo.env_remove("RUSTC_BOOTSTRAP");
    cargo
}

/// Runs `command` to its end; a status other than success is an error that names the command.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// What `command` writes to its standard output; a status other than success is an error that names the command.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} failed: {}", shown(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {} is not UTF-8", shown(command)))
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Builds the workspace's programs and returns the path of the `fw` binary.
pub fn build_fw() -> anyhow::Result<PathBuf> {
    run(cargo().args(["build", "--workspace", "--exclude", "fw-ebpf", "--bins"]))?;
    Ok(target_directory()?.join("debug/fw"))
}

/// Builds `fw` as it is shipped and returns its path.
pub fn build_release_fw() -> anyhow::Result<PathBuf> {
    run(cargo().args(["build", "--release", "--package", "fw-user", "--bins"]))?;
    Ok(target_directory()?.join("release/fw"))
}

/// The machine's own target, as rustc calls it. Flags for a build that names it leave build scripts and macros alone.
pub fn host() -> anyhow::Result<String> {
    Ok(output(command("rustc").args(["--print", "host-tuple"]))?.trim().to_owned())
}

fn target_directory() -> anyhow::Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let text = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Metadata =
        serde_json::from_str(&text).context("cannot read the answer of cargo metadata")?;
    Ok(metadata.target_directory)
}
