//! Words that no file of the tree holds: notes of unfinished work, and paths of one machine.

use super::{Tree, Violation, code::Code};

// Joined from halves: this file obeys its own rules.
const NOTES: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
const HOMES: [&str; 4] =
    [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/tmp/", "wt/")];

/// Code and configuration hold no notes of unfinished work; an issue does.
pub(super) fn unfinished(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in tree.all().filter(|(path, _)| is_source(path)) {
        for (line, note) in lines_with(text, &NOTES, |before, after| !is_word(before) && !is_word(after)) {
            found.push(Violation::new(path, line, format!("holds a note {note}"), "do it, or open an issue"));
        }
    }
    for (path, text) in tree.rust("") {
        let Some(code) = Code::parse(text) else { continue };
        for (at, token) in code.tokens.iter().enumerate() {
            if matches!(token.text.as_str(), "todo" | "unimplemented") && code.text(at + 1) == Some("!") {
                let what = format!("ends in {}!", token.text);
                found.push(Violation::new(
                    path,
                    token.line,
                    what,
                    "return an error that says what is not there",
                ));
            }
        }
    }
    found
}

/// No tracked text names a folder of somebody's machine.
pub(super) fn machine_paths(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in tree.all() {
        for (line, home) in
            lines_with(text, &HOMES, |before, _| !is_word(before) && !matches!(before, '.' | '-' | '}'))
        {
            let what = format!("names a folder below {home}");
            found.push(Violation::new(
                path,
                line,
                what,
                "write a path relative to the workspace, or take it as input",
            ));
        }
    }
    found
}

/// Lines of `text`, counted from 1, that hold one of `words` between characters of which `stands` approves.
fn lines_with<'a>(
    text: &'a str,
    words: &'a [&'static str],
    stands: impl Fn(char, char) -> bool + 'a,
) -> impl Iterator<Item = (usize, &'static str)> + 'a {
    text.lines().enumerate().filter_map(move |(index, line)| {
        let word = words.iter().find(|word| {
            line.match_indices(**word).any(|(at, _)| {
                let before = line[..at].chars().next_back().unwrap_or(' ');
                let after = line[at + word.len()..].chars().next().unwrap_or(' ');
                stands(before, after)
            })
        })?;
        Some((index + 1, *word))
    })
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn is_source(path: &str) -> bool {
    [".rs", ".toml", ".sh"].iter().any(|end| path.ends_with(end)) || path.starts_with(".ci/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn finished_code_passes() {
        let text = "//! AUTODOC, XXXL, todo: a list\nfn todo() { unimplemented() }";
        assert_eq!(places(unfinished, &[("a.rs", text), ("b.md", NOTES[0])]), [""; 0]);
    }

    #[test]
    fn notes_of_unfinished_work_are_refused() {
        let noted = format!("\n# {}: later", NOTES[1]);
        let files =
            [("a.rs", "fn f() {\n todo!() }\nfn g() { unimplemented! {} }"), ("b.toml", noted.as_str())];
        assert_eq!(places(unfinished, &files), ["b.toml:2", "a.rs:2", "a.rs:3"]);
    }

    #[test]
    fn paths_of_one_machine_are_refused() {
        let named = format!("see\n`{}me/x`", HOMES[2]);
        let folder = format!("DIR{}overlay and https://example.org{0}x", HOMES[0]);
        assert_eq!(places(machine_paths, &[("a.md", &named), ("b.md", &folder)]), ["a.md:2"]);
    }
}
