//! What the policy file can say and this version does not enforce: refused, never silently accepted.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::problem::Problems;

/// The one list of refusals. A release that enforces a line deletes it; the types are there already.
const NOT_ENFORCED: &[(&[&str], When)] = &[(&["labels"], When::Present)];

/// Stands for every key of a table.
const ANY_NAME: &str = "*";

/// Longer values are shortened in messages.
const LONGEST_SHOWN: usize = 60;

/// Which values of a key are refused.
#[derive(Clone, Copy)]
enum When {
    /// All.
    Present,
    /// These words.
    Is(&'static [&'static str]),
}

impl When {
    fn holds(self, value: &DeValue<'_>) -> bool {
        match self {
            Self::Present => true,
            Self::Is(words) => value.as_str().is_some_and(|word| words.contains(&word)),
        }
    }
}

/// Reports everything in the document that is on the list.
pub(super) fn refuse(document: &DeTable<'_>, problems: &mut Problems<'_>) {
    for (path, when) in NOT_ENFORCED {
        refuse_under(document, path, path, *when, problems);
    }
}

/// Walks `rest`, what is left of `path`, down from `table`.
fn refuse_under(table: &DeTable<'_>, rest: &[&str], path: &[&str], when: When, problems: &mut Problems<'_>) {
    let Some((wanted, rest)) = rest.split_first() else { return };
    for (key, value) in table {
        if *wanted != ANY_NAME && *wanted != key.get_ref() {
            continue;
        }
        match value.get_ref() {
            DeValue::Table(inner) if !rest.is_empty() => refuse_under(inner, rest, path, when, problems),
            found if rest.is_empty() && when.holds(found) => {
                let what = shown(path, wanted, found, &value.span(), problems);
                problems.at(&key.span(), format!("`{what}` is not enforced by this version; remove it"));
            }
            _ => {}
        }
    }
}

fn shown(
    path: &[&str],
    key: &str,
    value: &DeValue<'_>,
    span: &Range<usize>,
    problems: &Problems<'_>,
) -> String {
    let text = problems.text(span);
    match value {
        DeValue::Array(_) if text.starts_with("[[") => format!("[[{}]]", path.join(".")),
        DeValue::Table(_) => format!("[{}]", path.join(".")),
        _ if text.len() > LONGEST_SHOWN || text.contains('\n') => format!("{key} = …"),
        _ => format!("{key} = {text}"),
    }
}
