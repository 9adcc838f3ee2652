//! Reason numbers: fixed, never reused, and documented under the same number and name.
//!
//! `reasons! { /// sentence ⏎ VariantName = 12, "variant-name"; … }` in `fw-common/src/verdict.rs` is the list; each
//! row `| 12 | variant-name | … |` of `docs/reasons.md` explains one; rows below a heading that says "retired" and
//! the numbers in `RETIRED` name those that must not come back.

use std::collections::BTreeMap;

use super::{
    Tree, Violation,
    code::{Code, Kind, string},
};

const VERDICT: &str = "fw-common/src/verdict.rs";
const DOCS: &str = "docs/reasons.md";

struct Variant {
    word: String,
    number: Option<u32>,
    name: String,
    documented: bool,
    line: usize,
}

struct Row {
    number: u32,
    name: String,
    retired: bool,
    line: usize,
}

/// Numbers and names of the reasons agree between code, list of retired ones, and documentation.
pub(super) fn reasons(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    let code =
        tree.required(VERDICT, "verdicts and their numbered reasons").map_err(|gone| found.push(gone)).ok();
    let docs =
        tree.required(DOCS, "what each reason means and what to do").map_err(|gone| found.push(gone)).ok();
    let Some(code) = code.and_then(Code::parse) else { return found };
    let variants = variants(&code);
    if variants.is_empty() {
        found.push(Violation::new(VERDICT, 1, "holds no list of reasons", "write them as `reasons! { … }`"));
    }
    let Some(retired) = retired(&code) else {
        found.push(Violation::new(VERDICT, 1, "holds no RETIRED", "write `pub const RETIRED: &[u8] = &[];`"));
        return found;
    };
    found.extend(well_formed(&variants, &retired));
    if let Some(docs) = docs {
        found.extend(documented(&variants, &retired, &rows(docs)));
    }
    found
}

fn well_formed(variants: &[Variant], retired: &[u32]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut owners: BTreeMap<u32, &str> = BTreeMap::new();
    for variant in variants {
        let Variant { word, number, name, documented, line } = variant;
        let mut fault = |what: String, mend: &str| found.push(Violation::new(VERDICT, *line, what, mend));
        if !documented {
            fault(format!("{word} has no sentence"), "say in a line `/// …` when it is met");
        }
        if *name != kebab(word) {
            fault(format!("{word} is called {name}"), &format!("call it \"{}\"", kebab(word)));
        }
        let Some(number) = *number else {
            fault(format!("{word} has no number of its own"), "give it the next free one");
            continue;
        };
        if let Some(owner) = owners.insert(number, word) {
            fault(format!("{word} has the number {number} of {owner}"), "give it the next free one");
        }
        if retired.contains(&number) {
            fault(format!("{word} has the retired number {number}"), "give it the next free one");
        }
    }
    found
}

fn documented(variants: &[Variant], retired: &[u32], rows: &[Row]) -> Vec<Violation> {
    let mut found = Vec::new();
    for Variant { word, number, name, line, .. } in variants {
        let Some(number) = *number else { continue };
        match rows.iter().filter(|row| row.number == number && !row.retired).collect::<Vec<_>>()[..] {
            [row] if row.name == *name => {}
            [row] => found.push(Violation::new(
                DOCS,
                row.line,
                format!("calls reason {number} {}", row.name),
                format!("call it {name}, as {VERDICT}:{line}"),
            )),
            [] => found.push(Violation::new(
                VERDICT,
                *line,
                format!("{word} is not documented"),
                format!("add a row `| {number} | `{name}` | … |` to {DOCS}"),
            )),
            [.., again] => {
                let what = format!("explains reason {number} twice");
                found.push(Violation::new(DOCS, again.line, what, "leave one row"));
            }
        }
    }
    for row in rows {
        let Row { number, line, .. } = *row;
        let known = if row.retired {
            retired.contains(&number)
        } else {
            variants.iter().any(|variant| variant.number == Some(number))
        };
        if !known {
            let list = if row.retired { "RETIRED" } else { "the reasons" };
            let what = format!("explains number {number}, which is not among {list} of {VERDICT}");
            found.push(Violation::new(DOCS, line, what, "retire it in both places, or mend the number"));
        }
    }
    for number in
        retired.iter().filter(|number| !rows.iter().any(|row| row.retired && row.number == **number))
    {
        let what = format!("does not name the retired number {number}");
        found.push(Violation::new(DOCS, 1, what, "add its row below the heading of retired reasons"));
    }
    found
}

/// The entries of `reasons! { … }`; the macro's own definition, `macro_rules! reasons`, is another thing.
fn variants(code: &Code) -> Vec<Variant> {
    let start = (0..code.tokens.len()).find(|at| code.reads(*at, &["reasons", "!", "{"]));
    let mut at = start.map_or(code.tokens.len(), |start| start + 3);
    let mut variants = Vec::new();
    let mut documented = false;
    while let Some(token) = code.tokens.get(at).filter(|token| token.text != "}") {
        let rest = &code.tokens[at..];
        let closing = if token.text == "#" { "]" } else { ";" };
        let end = rest.iter().position(|token| token.text == closing).unwrap_or(rest.len() - 1);
        if token.text == "#" {
            documented |= code.reads(at, &["#", "[", "doc"]);
        } else if token.kind == Kind::Word {
            variants.push(Variant {
                word: token.text.clone(),
                number: rest[..end].iter().find_map(|token| number(&token.text)),
                name: rest[..end].iter().find_map(string).unwrap_or_default().to_owned(),
                documented,
                line: token.line,
            });
            documented = false;
        }
        at += end + 1;
    }
    variants
}

fn retired(code: &Code) -> Option<Vec<u32>> {
    let start = (0..code.tokens.len()).find(|at| code.reads(*at, &["const", "RETIRED"]))?;
    let rest = code.tokens[start..].iter().skip_while(|token| token.text != "=");
    Some(rest.take_while(|token| token.text != ";").filter_map(|token| number(&token.text)).collect())
}

fn rows(docs: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut retired = false;
    for (index, text) in docs.lines().enumerate() {
        if text.starts_with('#') {
            retired = text.to_lowercase().contains("retired");
        }
        let mut cells = text.trim().strip_prefix('|').unwrap_or_default().split('|').map(str::trim);
        let (number, name) = (cells.next().and_then(number), cells.next().unwrap_or_default());
        if let Some(number) = number {
            rows.push(Row { number, name: name.trim_matches('`').to_owned(), retired, line: index + 1 });
        }
    }
    rows
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}

fn kebab(word: &str) -> String {
    let mut name = String::new();
    for character in word.chars() {
        if character.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(character.to_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree;

    const CODE: &str = "macro_rules! reasons { ($x:ident = $n:literal) => { $x = $n, } }\n\
        reasons! {\n\
        /// Not IP.\n\
        NotIp = 1, \"not-ip\";\n\
        /// Direct access, `published = \"open\"` or not.\n\
        DirectAccess = 74, \"direct-access\";\n\
        }\n\
        pub const RETIRED: &[u8] = &[9];\n";
    const PAGE: &str = "# Reasons\n| number | name | meaning |\n|---|---|---|\n| 1 | `not-ip` | a |\n\
        | 74 | direct-access | b |\n## Retired\n| 9 | `old` | c |\n";

    /// The faults of the sound pair after replacing `from` by `to` in the code and in the page.
    fn faults(from: &str, to: &str) -> Vec<String> {
        assert!(from.is_empty() || CODE.contains(from) || PAGE.contains(from), "{from} stands nowhere");
        let change = |text: &str| if from.is_empty() { text.to_owned() } else { text.replace(from, to) };
        let (code, page) = (change(CODE), change(PAGE));
        reasons(&tree(&[(VERDICT, &code), (DOCS, &page)])).iter().map(ToString::to_string).collect()
    }

    fn only(faults: &[String], place: &str, what: &str) {
        assert!(faults.len() == 1 && faults[0].starts_with(place) && faults[0].contains(what), "{faults:?}");
    }

    #[test]
    fn a_sound_pair_passes() {
        assert_eq!(faults("", ""), [""; 0]);
    }

    #[test]
    fn every_reason_has_its_own_number_sentence_and_name() {
        only(&faults("/// Not IP.\n", "\n"), "fw-common/src/verdict.rs:4", "no sentence");
        only(&faults("NotIp = 1, \"not-ip\"", "Ip = 1, \"not-ip\""), "fw-common/src/verdict.rs:4", "\"ip\"");
        let twice = faults("DirectAccess = 74", "DirectAccess = 1");
        assert!(twice[0].contains("number 1 of NotIp"), "{twice:?}");
        assert!(faults("NotIp = 1", "NotIp = X")[0].contains("no number"));
    }

    #[test]
    fn retired_numbers_do_not_come_back() {
        assert!(faults("= 74,", "= 9,")[0].contains("retired number 9"));
        only(&faults("&[9]", "&[]"), "docs/reasons.md:7", "number 9");
        only(&faults("&[9]", "&[9, 10]"), "docs/reasons.md:1", "retired number 10");
        only(&faults("const RETIRED", "const OLD"), "fw-common/src/verdict.rs:1", "RETIRED");
    }

    #[test]
    fn the_page_holds_the_same_reasons() {
        only(&faults("| 1 | `not-ip` | a |\n", "\n"), "fw-common/src/verdict.rs:4", "not documented");
        only(&faults("| 1 | `not-ip`", "| 1 | `no-ip`"), "docs/reasons.md:4", "no-ip");
        only(
            &faults("| 1 | `not-ip` | a |", "| 1 | not-ip | a |\n| 2 | x | y |"),
            "docs/reasons.md:5",
            "number 2",
        );
        only(
            &faults("| 1 | `not-ip` | a |", "| 1 | not-ip | a |\n| 1 | not-ip | y |"),
            "docs/reasons.md:5",
            "twice",
        );
    }

    #[test]
    fn missing_files_are_told() {
        let lines: Vec<String> = reasons(&tree(&[])).iter().map(|violation| violation.path.clone()).collect();
        assert_eq!(lines, [VERDICT, DOCS]);
        assert!(faults("reasons! {\n", "other! {\n")[0].contains("no list"));
    }
}
