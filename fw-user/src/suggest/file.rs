//! The policy file's text with additions: what stands there stays as it is written, comments included.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{INCOMPLETE, Left, counted};

/// A text that is being added to.
pub(super) struct Draft<'a> {
    text: &'a str,
    /// What takes the place of bytes of the text.
    edits: Vec<(Range<usize>, String)>,
    rules: String,
    /// Lines of sections that the text does not have, by table and name.
    sections: BTreeMap<(&'static str, String), String>,
    /// What could not be written, and why.
    pub(super) refused: Vec<(String, String)>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, edits: Vec::new(), rules: String::new(), sections: BTreeMap::new(), refused: Vec::new() }
    }

    /// Adds a rule.
    pub(super) fn rule(&mut self, comment: &str, says: &str) {
        self.rules += &format!("\n# {}\n{says}", plain(comment));
    }

    /// Sets a key of `[table.name]`; false if the text is written so that only a person can.
    pub(super) fn set(
        &mut self,
        table: &'static str,
        name: &str,
        key: &str,
        value: &str,
        comment: &str,
    ) -> bool {
        let comment = plain(comment);
        let document = DeTable::parse_recoverable(self.text).0;
        let section = document.get_ref().get(table).and_then(|table| match table.get_ref() {
            DeValue::Table(table) => table.get(name),
            _ => None,
        });
        let Some(section) = section else {
            let lines = self.sections.entry((table, name.to_owned())).or_default();
            *lines += &format!("# {comment}\n{key} = {value}\n");
            return true;
        };
        let DeValue::Table(keys) = section.get_ref() else { return false };
        if let Some(old) = keys.get(key) {
            let line = self.text[..old.span().start].rfind('\n').map_or(0, |at| at + 1);
            self.edits.push((
                line..line,
                format!("# {comment}; before: {key} = {}\n", plain(&self.text[old.span()])),
            ));
            self.edits.push((old.span(), value.to_owned()));
            return true;
        }
        let header = section.span();
        if !self.text[header.start..].starts_with('[') {
            let why = format!(
                "[{table}.{name}] is not written as a section of its own: write {key} = {value} by hand"
            );
            self.refused.push((format!("{key} of {name}"), why));
            return false;
        }
        let end = self.text[header.end..].find('\n').map_or(self.text.len(), |at| header.end + at);
        self.edits.push((end..end, format!("\n# {comment}\n{key} = {value}")));
        true
    }

    /// The whole text.
    pub(super) fn finish(mut self, left: &[Left], count: usize, full: bool) -> String {
        let mut text = self.text.to_owned();
        // From the back, so that places before stay what they are; of two at one place, the later first.
        self.edits.sort_by_key(|(range, _)| (range.start, range.end));
        for (range, with) in self.edits.iter().rev() {
            text.replace_range(range.clone(), with);
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text += &format!(
            "\n# {count} additions of `fw suggest`, each below its own comment: read them before you write mode = \"enforce\".\n"
        );
        if full {
            text += &format!("# REVIEW: {INCOMPLETE}.\n");
        }
        text += &self.rules;
        for ((table, name), lines) in &self.sections {
            text += &format!("\n[{table}.{}]\n{lines}", key(name));
        }
        if !left.is_empty() {
            text += "\n# Not suggested:\n";
        }
        for Left { what, why, packets, sources } in left {
            let from =
                if sources.is_empty() { String::new() } else { format!(" from {}", sources.join(", ")) };
            text += &format!("# - {}: {}; {}{from}\n", plain(what), plain(why), counted(*packets));
        }
        text
    }
}

/// A text that stays on its line.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A string of TOML; what JSON escapes, TOML reads the same.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A key of TOML, in quotes where it needs them.
pub(super) fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { quoted(name) }
}
