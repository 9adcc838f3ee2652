//! `Cargo.toml` files: versions and lints stand in the workspace's, and fw-common depends on next to nothing.

use toml::{Table, Value};

use super::{Tree, Violation};

const ROOT: &str = "Cargo.toml";
const COMMON: &str = "fw-common/Cargo.toml";
const KERNEL: &str = "fw-ebpf/Cargo.toml";
const KINDS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Crates take their dependencies from the workspace's table, which turns default features off.
pub(super) fn dependencies(tree: &Tree) -> Vec<Violation> {
    let (manifests, mut found) = manifests(tree);
    for (path, text, manifest) in &manifests {
        for (name, dependency) in sections(manifest).flatten() {
            // A crate's tests may ask for more features of the crate itself.
            let itself = dependency.get("path").and_then(Value::as_str) == Some(".");
            if !itself && dependency.get("workspace").and_then(Value::as_bool) != Some(true) {
                let mend =
                    format!("write `{name}.workspace = true`, with the version in the workspace's table");
                found.push(Violation::new(
                    path,
                    line_of(text, name),
                    format!("{name} has a version of its own"),
                    mend,
                ));
            }
        }
        if *path != ROOT {
            continue;
        }
        let table = manifest
            .get("workspace")
            .and_then(|workspace| workspace.get("dependencies"))
            .and_then(Value::as_table);
        for (name, dependency) in table.into_iter().flatten() {
            let plain = dependency.get("default-features").and_then(Value::as_bool) == Some(false);
            if !plain && dependency.get("path").is_none() {
                let what = format!("{name} comes with its default features");
                let mend = "write `default-features = false` and name the features in use";
                found.push(Violation::new(path, line_of(text, name), what, mend));
            }
        }
    }
    found
}

/// Every crate is under the workspace's lints.
pub(super) fn lint_table(tree: &Tree) -> Vec<Violation> {
    let (manifests, _) = manifests(tree);
    let crates = manifests.into_iter().filter(|(_, _, manifest)| manifest.contains_key("package"));
    let loose = crates.filter(|(_, _, manifest)| {
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        lints.and_then(Value::as_bool) != Some(true)
    });
    let mend = "write `[lints]` with `workspace = true`";
    loose.map(|(path, ..)| Violation::new(path, 1, "is not under the workspace's lints", mend)).collect()
}

/// fw-common depends on bytemuck, and on aya for the daemon's sake alone; the kernel side asks for no more of it.
pub(super) fn plain_crate(tree: &Tree) -> Vec<Violation> {
    let (manifests, mut found) = manifests(tree);
    found.extend(tree.required(COMMON, "the manifest of fw-common").err());
    for (path, text, manifest) in manifests.iter().filter(|(path, ..)| *path == KERNEL) {
        let common = manifest.get("dependencies").and_then(|table| table.get("fw-common"));
        if common.is_some_and(|common| common.get("features").is_some()) {
            let what = "asks for features of fw-common";
            let mend = "the kernel side has only `core`: take what is needed out of the feature";
            found.push(Violation::new(path, line_of(text, "fw-common"), what, mend));
        }
    }
    for (path, text, manifest) in manifests.iter().filter(|(path, ..)| *path == COMMON) {
        for kind in ["dependencies", "build-dependencies"] {
            for (name, dependency) in manifest.get(kind).and_then(Value::as_table).into_iter().flatten() {
                let optional = dependency.get("optional").and_then(Value::as_bool) == Some(true);
                if name == "bytemuck" || (name == "aya" && optional) {
                    continue;
                }
                let what = format!("fw-common depends on {name}");
                let mend = "the kernel runs it: only bytemuck, and aya as an optional one, are dependencies";
                found.push(Violation::new(path, line_of(text, name), what, mend));
            }
        }
    }
    found
}

/// The manifests of the tree but for those that head a workspace of their own (fuzzing), and those that cannot be read
/// as violations.
fn manifests(tree: &Tree) -> (Vec<(&str, &str, Table)>, Vec<Violation>) {
    let mut manifests = Vec::new();
    let mut found = Vec::new();
    for (path, text) in tree.all().filter(|(path, _)| *path == ROOT || path.ends_with("/Cargo.toml")) {
        match text.parse::<Table>() {
            Ok(manifest) if path != ROOT && manifest.contains_key("workspace") => {}
            Ok(manifest) => manifests.push((path, text, manifest)),
            Err(error) => found.push(Violation::new(path, 1, "is not TOML", error.message())),
        }
    }
    (manifests, found)
}

/// The tables of dependencies of a crate, those of single targets too.
fn sections(manifest: &Table) -> impl Iterator<Item = &Table> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let of_targets = targets.into_iter().flat_map(|table| table.values().filter_map(Value::as_table));
    let holders = std::iter::once(manifest).chain(of_targets);
    holders.flat_map(|holder| KINDS.iter().filter_map(|kind| holder.get(*kind).and_then(Value::as_table)))
}

fn line_of(text: &str, name: &str) -> usize {
    let named = |line: &str| {
        let key = line.trim_start().strip_prefix(name);
        key.is_some_and(|rest| rest.starts_with([' ', '=', '.']))
            || line.contains(&format!("dependencies.{name}]"))
    };
    text.lines().position(named).map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    const WORKSPACE: &str = "[workspace.dependencies]\nserde = { version = \"1\", default-features = false }\n\
        own = { path = \"own\" }\n";
    const CRATE: &str = "[package]\nname = \"a\"\n[dependencies]\nserde.workspace = true\n\
        own = { workspace = true, features = [\"x\"] }\n[dev-dependencies]\na = { path = \".\" }\n[lints]\nworkspace = true\n";

    #[test]
    fn versions_in_the_workspace_pass() {
        let files = [(ROOT, WORKSPACE), ("a/Cargo.toml", CRATE)];
        assert_eq!(places(dependencies, &files), [""; 0]);
        assert_eq!(places(lint_table, &files), [""; 0]);
    }

    #[test]
    fn versions_in_a_crate_are_refused() {
        let text = "[package]\nname = \"a\"\n[dependencies]\nserde = \"1\"\n[dev-dependencies.own]\npath = \"../own\"\n\
            [target.x.build-dependencies]\ncc = { version = \"1\" }\n";
        let lines = [4, 5, 8].map(|line| format!("a/Cargo.toml:{line}"));
        assert_eq!(places(dependencies, &[(ROOT, WORKSPACE), ("a/Cargo.toml", text)]), lines);
        assert_eq!(places(lint_table, &[("a/Cargo.toml", text)]), ["a/Cargo.toml:1"]);
        let own = format!("[workspace]\n{text}");
        assert_eq!(places(dependencies, &[(ROOT, WORKSPACE), ("a/Cargo.toml", &own)]), [""; 0]);
    }

    #[test]
    fn default_features_are_refused() {
        let text = "[workspace.dependencies]\n\nserde = \"1\"\nclap = { version = \"4\" }\n";
        let mut found = places(dependencies, &[(ROOT, text)]);
        found.sort();
        assert_eq!(found, ["Cargo.toml:3", "Cargo.toml:4"]);
        assert_eq!(places(dependencies, &[(ROOT, "not toml")]), ["Cargo.toml:1"]);
    }

    #[test]
    fn fw_common_depends_on_bytemuck_alone() {
        let sound = "[dependencies]\nbytemuck.workspace = true\naya = { workspace = true, optional = true }\n\
            [dev-dependencies]\nproptest.workspace = true\n";
        assert_eq!(places(plain_crate, &[(COMMON, sound)]), [""; 0]);
        let laden =
            "[dependencies]\nbytemuck.workspace = true\naya.workspace = true\nserde.workspace = true\n";
        assert_eq!(
            places(plain_crate, &[(COMMON, laden)]),
            ["fw-common/Cargo.toml:3", "fw-common/Cargo.toml:4"]
        );
        assert_eq!(places(plain_crate, &[]), ["fw-common/Cargo.toml:1"]);
        let kernel = "[dependencies]\nfw-common = { workspace = true, features = [\"std\"] }\n";
        assert_eq!(places(plain_crate, &[(COMMON, sound), (KERNEL, kernel)]), ["fw-ebpf/Cargo.toml:2"]);
    }
}
