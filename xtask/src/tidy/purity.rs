//! Which files do no I/O: fw-common knows no operating system, `desired` and `plan` none either.

use super::{
    Tree, Violation,
    code::{Code, Path, is_test_file},
};

/// Modules of fw-user that compute and nothing else; their submodules count.
const PURE: &[&str] = &[
    "fw-user/src/connections",
    "fw-user/src/desired",
    "fw-user/src/exposure",
    "fw-user/src/plan",
    "fw-user/src/stock",
    "fw-user/src/suggest",
];

/// What a pure module must not name, as beginnings of paths, each with what to do instead.
const IMPURE: &[(&[&str], &str)] = &[
    (&["std", "fs"], "take the content as an argument"),
    (&["std", "env"], "take the value as an argument"),
    (&["std", "process"], "return what is to be done as a value"),
    (&["std", "thread"], "return what is to be done as a value"),
    (&["std", "os"], "take the value as an argument"),
    (&["std", "io"], "return a value and let the caller write it"),
    (&["std", "net", "TcpStream"], "take the answer as an argument"),
    (&["std", "net", "TcpListener"], "take the answer as an argument"),
    (&["std", "net", "UdpSocket"], "take the answer as an argument"),
    (&["tokio"], "stay synchronous; the daemon awaits"),
    (&["nix"], "take the snapshot as an argument"),
    (&["rtnetlink"], "take the snapshot as an argument"),
    (&["bollard"], "take the snapshot as an argument"),
];

/// Names that a pure module must not use under any path: output, clocks, and collections without an order.
const NAMES: &[(&str, &str)] = &[
    ("println", "return a value and let the caller print it"),
    ("eprintln", "return a value and let the caller print it"),
    ("Instant", "take the time as an argument"),
    ("SystemTime", "take the time as an argument"),
    ("HashMap", "use BTreeMap: its order is the same in every run"),
    ("HashSet", "use BTreeSet: its order is the same in every run"),
];

/// Files of fw-common behind its feature `std`, which [`super::manifests::plain_crate`] keeps from the kernel side.
const HOST_ONLY: &[&str] = &["fw-common/src/tables/memory.rs"];

/// fw-common stands without an operating system, and so without the crates that need one.
pub(super) fn no_std(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    match tree.required("fw-common/src/lib.rs", "the root of fw-common") {
        Err(violation) => found.push(violation),
        Ok(text) if declares_no_std(text) => {}
        Ok(_) => found.push(Violation::new(
            "fw-common/src/lib.rs",
            1,
            "builds with the standard library",
            "write `#![cfg_attr(not(test), no_std)]`",
        )),
    }
    for (path, text) in
        tree.rust("fw-common/src/").filter(|(path, _)| !is_test_file(path) && !HOST_ONLY.contains(path))
    {
        for used in product_paths(text) {
            let first = used.segments[0].as_str();
            if matches!(first, "std" | "alloc" | "tokio" | "bollard") && used.segments.len() > 1 {
                let what = format!("uses {}", used.segments.join("::"));
                found.push(Violation::new(
                    path,
                    used.line,
                    what,
                    "fw-common has only `core`: the kernel runs it",
                ));
            }
        }
    }
    found
}

/// `desired` and `plan` do no I/O, read no clock and use ordered collections.
pub(super) fn pure_modules(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for module in PURE {
        let root = format!("{module}.rs");
        found.extend(tree.required(&root, "one of the pure modules").err());
        let below = format!("{module}/");
        for (path, text) in tree.rust(module).filter(|(path, _)| *path == root || path.starts_with(&below)) {
            for used in product_paths(text) {
                if let Some(instead) = impure(&used) {
                    let what = format!("uses {} in a pure module", used.segments.join("::"));
                    found.push(Violation::new(path, used.line, what, instead));
                }
            }
        }
    }
    found
}

fn impure(used: &Path) -> Option<&'static str> {
    let begins = |with: &[&str]| {
        used.segments.len() >= with.len().max(2) && used.segments.iter().zip(with).all(|(a, b)| a == b)
    };
    let by_path = IMPURE.iter().find(|(path, _)| begins(path));
    let by_name = NAMES.iter().find(|(name, _)| used.segments.iter().any(|segment| segment == name));
    by_path.map(|(_, instead)| *instead).or(by_name.map(|(_, instead)| *instead))
}

fn product_paths(text: &str) -> Vec<Path> {
    let paths = Code::parse(text).map(|code| code.paths()).unwrap_or_default();
    paths.into_iter().filter(|path| !path.in_test).collect()
}

/// Whether the file has `no_std` in an attribute of its own, plain or under a condition.
fn declares_no_std(text: &str) -> bool {
    Code::parse(text).is_some_and(|code| {
        let attributes = (0..code.tokens.len()).filter(|at| code.reads(*at, &["#", "!", "["]));
        let mut words = attributes.map(|at| code.tokens[at..].iter().take_while(|token| token.text != "]"));
        words.any(|mut words| words.any(|token| token.text == "no_std"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    const ROOT: (&str, &str) = ("fw-common/src/lib.rs", "//! x\n#![cfg_attr(not(test), no_std)]\n");
    const DESIRED: (&str, &str) =
        ("fw-user/src/desired.rs", "use std::{collections::BTreeMap, net::IpAddr, time::Duration};");
    /// The other pure modules.
    const OTHERS: [(&str, &str); 4] = [
        ("fw-user/src/connections.rs", "//! x\n"),
        ("fw-user/src/exposure.rs", "//! x\n"),
        ("fw-user/src/stock.rs", "//! x\n"),
        ("fw-user/src/suggest.rs", "//! x\n"),
    ];
    const PLAN: (&str, &str) =
        ("fw-user/src/plan.rs", "fn tokio() {}\n#[cfg(test)] mod tests { use std::fs; }");

    #[test]
    fn a_core_only_crate_passes() {
        let files = [
            ROOT,
            ("fw-common/src/wire.rs", "use core::fmt;\n#[cfg(test)] mod tests { use std::fs; }"),
            ("fw-common/src/wire/tests.rs", "use std::fs;"),
            ("fw-common/src/tables/memory.rs", "use std::cell::RefCell;"),
        ];
        assert_eq!(places(no_std, &files), [""; 0]);
    }

    #[test]
    fn std_in_fw_common_is_refused() {
        let files = [ROOT, ("fw-common/src/wire.rs", "// std::x\nuse std::fmt;\nfn f() { tokio::spawn() }")];
        assert_eq!(places(no_std, &files), ["fw-common/src/wire.rs:2", "fw-common/src/wire.rs:3"]);
        assert_eq!(places(no_std, &[("fw-common/src/lib.rs", "//! x\n")]), ["fw-common/src/lib.rs:1"]);
        assert_eq!(places(no_std, &[]), ["fw-common/src/lib.rs:1"]);
    }

    #[test]
    fn pure_modules_pass() {
        let named_alike = ("fw-user/src/planning.rs", "use std::fs;");
        assert_eq!(places(pure_modules, &[&OTHERS[..], &[DESIRED, PLAN, named_alike]].concat()), [""; 0]);
    }

    #[test]
    fn io_clocks_and_unordered_collections_are_refused() {
        let text =
            "use std::{fs, collections::HashMap};\nfn f() { Instant::now() }\nuse std::net::UdpSocket;";
        let files = [&OTHERS[..], &[DESIRED, PLAN, ("fw-user/src/plan/steps.rs", text)]].concat();
        let lines = [1, 1, 2, 3].map(|line| format!("fw-user/src/plan/steps.rs:{line}"));
        assert_eq!(places(pure_modules, &files), lines);
        assert_eq!(places(pure_modules, &[&OTHERS[..], &[DESIRED]].concat()), ["fw-user/src/plan.rs:1"]);
    }
}
