//! BPF maps: declared in one file, each with its section in `docs/maps.md`.

use super::{
    Tree, Violation,
    code::{Code, string},
};

const MAPS: &str = "fw-ebpf/src/maps.rs";
const DOCS: &str = "docs/maps.md";

/// Every map has a heading with its name in `docs/maps.md`, and every heading in backticks is a map.
pub(super) fn maps(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    found.extend(tree.required(MAPS, "the maps of the kernel programs").err());
    let docs = tree.required(DOCS, "what each map holds").map_err(|gone| found.push(gone)).ok();
    let mut names = Vec::new();
    for (path, text) in tree.rust("fw-ebpf/src/") {
        for (name, line) in Code::parse(text).iter().flat_map(declared) {
            if path != MAPS {
                let what = format!("declares the map {name}");
                found.push(Violation::new(path, line, what, format!("declare it in {MAPS}")));
            }
            names.push((name, path, line));
        }
    }
    let Some(docs) = docs else { return found };
    let sections: Vec<(&str, usize)> = sections(docs).collect();
    for (name, path, line) in &names {
        if !sections.iter().any(|(section, _)| section == name) {
            let mend = format!("add a section headed `## `{name}`` to {DOCS}");
            found.push(Violation::new(path, *line, format!("the map {name} is not documented"), mend));
        }
    }
    for (section, line) in sections {
        if !names.iter().any(|(name, ..)| name == section) {
            let what = format!("describes the map {section}, which is not declared");
            found.push(Violation::new(DOCS, line, what, "remove the section or mend the name"));
        }
    }
    found
}

/// Names and lines of the maps in `code`: what `name = "…"` says, else the static's own.
fn declared(code: &Code) -> Vec<(String, usize)> {
    let mut names = Vec::new();
    for at in 0..code.tokens.len() {
        if !code.reads(at, &["#", "[", "btf_map"]) && !code.reads(at, &["#", "[", "map"]) {
            continue;
        }
        let item = &code.tokens[at..];
        let attribute = item.iter().take_while(|token| token.text != "]");
        let given = attribute.clone().find_map(string).map(str::to_owned);
        let own =
            item.iter().skip_while(|token| token.text != "static").skip(1).find(|token| token.text != "mut");
        if let Some(own) = own {
            names.push((given.unwrap_or_else(|| own.text.clone()), own.line));
        }
    }
    names
}

fn sections(docs: &str) -> impl Iterator<Item = (&str, usize)> {
    docs.lines().enumerate().filter_map(|(index, line)| {
        let title = line.trim_start_matches('#');
        let name = title.trim().strip_prefix('`')?.strip_suffix('`')?;
        (title.len() < line.len()).then_some((name, index + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    const CODE: &str = "#[btf_map(name = \"ports\")]\nstatic PORTS: X<Y> = X::new();\n#[btf_map]\npub static mut events: R = R::new();";
    const PAGE: &str = "# Maps\n## How to read\n## `ports`\n### `events`\n";

    #[test]
    fn documented_maps_pass() {
        let files = [(MAPS, CODE), (DOCS, PAGE), ("fw-ebpf/src/main.rs", "fn map() { iter.map(f) }")];
        assert_eq!(places(maps, &files), [""; 0]);
    }

    #[test]
    fn a_map_without_a_section_is_refused() {
        assert_eq!(places(maps, &[(MAPS, CODE), (DOCS, "## `ports`")]), ["fw-ebpf/src/maps.rs:4"]);
    }

    #[test]
    fn a_section_without_a_map_is_refused() {
        let page = format!("{PAGE}\n## `flows`\n");
        assert_eq!(places(maps, &[(MAPS, CODE), (DOCS, &page)]), ["docs/maps.md:6"]);
    }

    #[test]
    fn a_map_elsewhere_is_refused() {
        let page = format!("{PAGE}\n## `B`\n");
        let files =
            [(MAPS, CODE), (DOCS, page.as_str()), ("fw-ebpf/src/main.rs", "#[map]\nstatic B: X = y;")];
        assert_eq!(places(maps, &files), ["fw-ebpf/src/main.rs:2"]);
    }

    #[test]
    fn missing_files_are_told() {
        assert_eq!(places(maps, &[]), ["fw-ebpf/src/maps.rs:1", "docs/maps.md:1"]);
    }
}
