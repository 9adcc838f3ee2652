//! Tests wait for what they need, and say so when they cannot run.

use super::{
    Tree, Violation,
    code::{Code, is_test_file},
};

/// Files that may sleep between two looks at a condition.
const POLLS: &[&str] = &["xtask/src/lab/wait.rs", "fw-user/tests/sources.rs"];

/// Tests and the lab wait for a condition with a deadline, never for a time.
pub(super) fn sleeps(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in tree.rust("").filter(|(path, _)| !POLLS.contains(path)) {
        let Some(code) = Code::parse(text) else { continue };
        let all = is_test_file(path) || path.starts_with("xtask/");
        for used in code.paths().into_iter().filter(|used| all || used.in_test) {
            let sleeps = matches!(used.segments.last().map(String::as_str), Some("sleep" | "sleep_until"));
            if sleeps && used.segments.len() > 1 {
                let mend = format!("wait for a condition with a deadline ({})", POLLS[0]);
                found.push(Violation::new(path, used.line, "a test sleeps", mend));
            }
        }
    }
    found
}

/// A test that cannot run says why; none is switched off, and none passes because something panicked.
pub(super) fn skipped_tests(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in tree.rust("") {
        let Some(code) = Code::parse(text) else { continue };
        for at in 0..code.tokens.len() {
            for (name, mend) in [
                ("ignore", "print `SKIPPED: why` and return when it cannot run"),
                ("should_panic", "assert the error that is returned"),
            ] {
                if code.reads(at, &["#", "[", name]) {
                    found.push(Violation::new(
                        path,
                        code.tokens[at].line,
                        format!("a test under #[{name}]"),
                        mend,
                    ));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn waiting_for_a_condition_passes() {
        let files = [
            ("xtask/src/lab/wait.rs", "std::thread::sleep(PAUSE);"),
            ("xtask/src/lab.rs", "wait::until(|| ready()); Command::new(\"sleep\"); sleep;"),
            ("fw-user/src/daemon.rs", "tokio::time::sleep(backoff).await;"),
        ];
        assert_eq!(places(sleeps, &files), [""; 0]);
    }

    #[test]
    fn sleeping_tests_are_refused() {
        let files = [
            (
                "fw-user/src/daemon.rs",
                "fn f() {}\n#[cfg(test)] mod tests {\n use std::thread::{self, sleep}; }",
            ),
            ("fw-user/tests/a.rs", "fn f() { thread::sleep(x) }"),
            ("xtask/src/lab.rs", "\n\ntokio::time::sleep_until(x)"),
        ];
        assert_eq!(
            places(sleeps, &files),
            ["fw-user/src/daemon.rs:3", "fw-user/tests/a.rs:1", "xtask/src/lab.rs:3"]
        );
    }

    #[test]
    fn tests_switched_off_are_refused() {
        let text = "//! #[ignore]\n#[test]\n#[ignore = \"slow\"]\nfn a() {}\n#[should_panic(expected = \"x\")]\nfn b() {}";
        assert_eq!(places(skipped_tests, &[("a.rs", text)]), ["a.rs:3", "a.rs:5"]);
        assert_eq!(places(skipped_tests, &[("a.rs", "#[test]\nfn ignore() {}")]), [""; 0]);
    }
}
