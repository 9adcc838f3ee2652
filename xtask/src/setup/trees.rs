//! Later generations of Docker: trees of later Debian releases, made by `debootstrap` from the mirror that apt uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail};

use super::{install, is_root};
use crate::lab::Generation;
use crate::workspace;

/// What a lab runs or dockerd asks for; everything else is the release's smallest system.
const PACKAGES: &str = "docker.io,docker-cli,containerd,runc,iptables,nftables,iproute2,kmod";

/// Makes the tree of this generation, if it has one and it is missing.
pub(super) fn ensure(generation: Generation) -> anyhow::Result<()> {
    let (Some(tree), Some(suite)) = (generation.tree(), generation.suite()) else { return Ok(()) };
    if generation.obstacle().is_none() {
        println!("setup: Docker {generation} is there ({})", tree.display());
        return Ok(());
    }
    if !is_root() {
        bail!("the tree of Docker {generation} is missing, and making it needs root");
    }
    if workspace::find("debootstrap").is_none() {
        if workspace::find("apt-get").is_none() {
            bail!(
                "the tree of Docker {generation} is made by debootstrap, which is missing, and this is no Debian: install it"
            );
        }
        let mut apt = workspace::command("apt-get");
        apt.args(["install", "-y", "--no-install-recommends", "debootstrap"]);
        install("debootstrap", "makes trees of other Debian releases", "some seconds", &mut apt)?;
    }
    let started = Instant::now();
    // What was broken off has no name that a lab looks for.
    let unfinished = tree.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    fs::create_dir_all(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
    let mut debootstrap = workspace::command("debootstrap");
    debootstrap.args(["--variant=minbase", &format!("--include={PACKAGES}"), suite]).args([
        &unfinished,
        Path::new(&mirror()?),
        &script(suite),
    ]);
    let what = format!("Docker {generation} into {}", tree.display());
    install(&what, "a dockerd of that generation for labs; 600 MB", "one to two minutes", &mut debootstrap)?;
    fs::rename(&unfinished, &tree).with_context(|| format!("cannot name {}", tree.display()))?;
    println!("setup: Docker {generation} is there after {:.0} s", started.elapsed().as_secs_f32());
    Ok(())
}

/// The mirror from which apt takes Debian's packages.
fn mirror() -> anyhow::Result<String> {
    let mut apt = workspace::command("apt-get");
    apt.args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        "Origin: Debian",
        "Label: Debian",
    ]);
    let targets = workspace::output(&mut apt)?;
    let first = targets.lines().next().filter(|uri| !uri.is_empty());
    Ok(first.context("apt has no list of Debian's packages: run `apt-get update`")?.to_owned())
}

/// What debootstrap does for a release; one that it does not know yet is made like the newest.
fn script(suite: &str) -> PathBuf {
    let scripts = Path::new("/usr/share/debootstrap/scripts");
    let own = scripts.join(suite);
    if own.exists() { own } else { scripts.join("sid") }
}
