//! What every Rust file looks like.

use super::{Tree, Violation, code::Code};

/// The first line says what the file is about.
pub(super) fn first_line(tree: &Tree) -> Vec<Violation> {
    let silent = tree.rust("").filter(|(_, text)| !text.starts_with("//! "));
    let mend = "begin with one line `//! …` that states the file's one subject";
    silent.map(|(path, _)| Violation::new(path, 1, "does not say what it is about", mend)).collect()
}

/// Every file can be cut into tokens, as the other rules need.
pub(super) fn readable(tree: &Tree) -> Vec<Violation> {
    let unreadable = tree.rust("").filter(|(_, text)| Code::parse(text).is_none());
    unreadable.map(|(path, _)| Violation::new(path, 1, "is not Rust", "see what the compiler says")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn the_first_line_states_the_subject() {
        let files = [("a.rs", "//! Marks.\nfn f() {}"), ("b.rs", "use x;\n//! Late.\n"), ("c.md", "text")];
        assert_eq!(places(first_line, &files), ["b.rs:1"]);
    }

    #[test]
    fn a_file_that_is_not_rust_is_told() {
        assert_eq!(places(readable, &[("a.rs", "fn f() {"), ("b.rs", "fn f() {}")]), ["a.rs:1"]);
    }
}
