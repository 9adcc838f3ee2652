//! Rust text as its words and paths, without comments, strings or guesses by indentation.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// A Rust file cut into tokens.
pub(super) struct Code {
    /// All tokens in order; the brackets of a group are tokens too, documentation is a `doc` attribute.
    pub(super) tokens: Vec<Token>,
}

/// One token of a [`Code`].
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// As written: a string literal keeps its quotes.
    pub(super) text: String,
    /// Counted from 1.
    pub(super) line: usize,
    /// Whether it stands in an item under `#[test]` or `#[cfg(test)]`.
    pub(super) in_test: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    Literal,
    Mark,
}

/// A path such as `std::fs::read`, with the imports of a `use` list spelled out one by one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
    pub(super) in_test: bool,
}

impl Code {
    /// Cuts `text`; `None` if it is not Rust. [`super::format::readable`] reports that, once for all rules.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let stream: TokenStream = text.parse().ok()?;
        let mut tokens = Vec::new();
        flatten(stream, false, &mut tokens);
        Some(Self { tokens })
    }

    /// Every path of the file; a single word is a path of one segment.
    pub(super) fn paths(&self) -> Vec<Path> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            at = self.path_at(at, &[], &mut found);
        }
        found
    }

    /// Whether the tokens from `at` on read as `words`.
    pub(super) fn reads(&self, at: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(offset, word)| self.text(at + offset) == Some(word))
    }

    /// The text of the token at `at`.
    pub(super) fn text(&self, at: usize) -> Option<&str> {
        self.tokens.get(at).map(|token| token.text.as_str())
    }

    /// Reads the path that starts at `at`, if one does, and returns the place behind what was read.
    fn path_at(&self, mut at: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
        let first = &self.tokens[at];
        let mut segments = prefix.to_vec();
        while self.tokens.get(at).is_some_and(|token| token.kind == Kind::Word || token.text == "*") {
            segments.push(self.tokens[at].text.clone());
            at += 1;
            if !self.reads(at, &[":", ":"]) {
                break;
            }
            at += 2;
            if self.text(at) == Some("{") {
                return self.list_at(at + 1, &segments, found);
            }
        }
        if segments.len() == prefix.len() {
            return at + 1;
        }
        found.push(Path { segments, line: first.line, in_test: first.in_test });
        at
    }

    /// Reads the `use` list whose first token is at `at`, up to and with its closing brace.
    fn list_at(&self, mut at: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
        while let Some(text) = self.text(at) {
            if text == "}" {
                return at + 1;
            }
            at = self.path_at(at, prefix, found);
        }
        at
    }
}

/// The content of a plain string literal; `None` for any other token.
pub(super) fn string(token: &Token) -> Option<&str> {
    (token.kind == Kind::Literal).then_some(())?;
    token.text.strip_prefix('"')?.strip_suffix('"')
}

/// Whether the file at `path` holds nothing but tests.
pub(super) fn is_test_file(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs")
}

fn flatten(stream: TokenStream, in_test: bool, tokens: &mut Vec<Token>) {
    let mut item_in_test = false;
    let mut rest_in_test = in_test;
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        let starts_attribute = matches!(&tree, TokenTree::Punct(mark) if mark.as_char() == '#');
        if starts_attribute {
            match trees.peek() {
                Some(TokenTree::Group(group)) if says_test(group.stream()) => item_in_test = true,
                // `#![cfg(test)]`: the mark of an inner attribute joins it to nothing behind it.
                Some(TokenTree::Punct(mark)) if mark.as_char() == '!' && mark.spacing() == Spacing::Alone => {
                    rest_in_test |= {
                        let mut ahead = trees.clone();
                        ahead.next();
                        matches!(ahead.next(), Some(TokenTree::Group(group)) if says_test(group.stream()))
                    };
                }
                _ => {}
            }
        }
        let ends_item = match &tree {
            TokenTree::Punct(mark) => mark.as_char() == ';',
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            _ => false,
        };
        push(tree, rest_in_test || item_in_test, tokens);
        item_in_test &= !ends_item;
    }
}

fn push(tree: TokenTree, in_test: bool, tokens: &mut Vec<Token>) {
    let mut token = |kind, text: String, span: proc_macro2::Span| {
        tokens.push(Token { kind, text, line: span.start().line, in_test });
    };
    match tree {
        TokenTree::Ident(word) => token(Kind::Word, word.to_string(), word.span()),
        TokenTree::Literal(literal) => token(Kind::Literal, literal.to_string(), literal.span()),
        TokenTree::Punct(mark) => token(Kind::Mark, mark.as_char().to_string(), mark.span()),
        TokenTree::Group(group) => {
            let (open, close) = match group.delimiter() {
                Delimiter::Parenthesis => ("(", ")"),
                Delimiter::Brace => ("{", "}"),
                Delimiter::Bracket => ("[", "]"),
                Delimiter::None => ("", ""),
            };
            token(Kind::Mark, open.to_owned(), group.span_open());
            flatten(group.stream(), in_test, tokens);
            let close_span = group.span_close();
            tokens.push(Token {
                kind: Kind::Mark,
                text: close.to_owned(),
                line: close_span.start().line,
                in_test,
            });
        }
    }
}

/// Whether an attribute's content is `test`, `…::test`, or a `cfg` that asks for tests.
fn says_test(attribute: TokenStream) -> bool {
    let words: Vec<String> = attribute.into_iter().map(|tree| tree.to_string()).collect();
    match words.as_slice() {
        [name, condition] if name == "cfg" => condition == "(test)" || condition.starts_with("(all (test"),
        [.., last] => last == "test" || words.iter().rev().nth(1).is_some_and(|word| word == "test"),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<(String, usize, bool)> {
        let code = Code::parse(text).expect("Rust");
        code.paths().into_iter().map(|path| (path.segments.join("::"), path.line, path.in_test)).collect()
    }

    #[test]
    fn lists_of_imports_are_spelled_out() {
        let found = paths("use std::{fs, net::{self, TcpStream as S}, io::*};\nlet x = y;");
        let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        for name in ["std::fs", "std::net::self", "std::net::TcpStream", "std::io::*", "x", "y"] {
            assert!(names.contains(&name), "{name} is missing in {names:?}");
        }
        assert!(found.contains(&("y".to_owned(), 2, false)));
    }

    #[test]
    fn comments_and_strings_are_not_words() {
        let text =
            "// aya::one\n/* aya /* nested */ */ /// aya\nfn f() { g(\"aya\", r#\"aya\"#, 'a', b\"aya\"); }";
        assert!(paths(text).iter().all(|(name, ..)| name != "aya"));
    }

    #[test]
    fn generic_arguments_are_paths_of_their_own() {
        let names: Vec<String> = paths("a::<b::C>::d()").into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["a", "b::C", "d"]);
    }

    #[test]
    fn items_under_test_attributes_are_told_apart() {
        let text = "fn a() {}\n#[cfg(test)]\nmod t { fn b() {} }\n#[tokio::test(flavor = \"x\")]\nasync fn c() { d() }\n\
                    #[cfg(not(test))]\nfn e() {}\n#[cfg(test)] use f::{g, h};\nfn i() {}";
        let found = paths(text);
        let in_test = |word: &str| found.iter().find(|(name, ..)| name == word).expect("present").2;
        for word in ["b", "c", "d", "f::g", "f::h"] {
            assert!(in_test(word), "{word}");
        }
        for word in ["a", "e", "i"] {
            assert!(!in_test(word), "{word}");
        }
        assert!(paths("#![cfg(test)]\nfn a() {}").iter().any(|found| found == &("a".to_owned(), 2, true)));
    }
}
