//! Reading TOML tables and values by key, with the place of each in the file and an error for each wrong type.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problems, nearest};
use super::words::Word;

/// A table of the policy file; [`Section::finish`] reports the keys that nobody took.
pub(super) struct Section<'a> {
    /// Where its keys stand, as words: `in [uplink]`.
    place: String,
    table: &'a DeTable<'a>,
    span: Range<usize>,
    taken: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn root(document: &'a Spanned<DeTable<'a>>) -> Self {
        Self::new("at the top level".to_owned(), document.get_ref(), document.span())
    }

    fn new(place: String, table: &'a DeTable<'a>, span: Range<usize>) -> Self {
        Self { place, table, span, taken: Vec::new() }
    }

    /// Where the section begins: its header.
    pub(super) fn span(&self) -> &Range<usize> {
        &self.span
    }

    /// The value of an optional key.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.taken.push(key);
        self.table.get(key).map(|value| Item::new(key.to_owned(), value))
    }

    /// The value of a key that must be there; `example` shows how it is written.
    pub(super) fn need(
        &mut self,
        key: &'static str,
        example: &str,
        problems: &mut Problems<'_>,
    ) -> Option<Item<'a>> {
        let item = self.take(key);
        if item.is_none() {
            let place = &self.place;
            problems.at(&self.span, format!("`{key}` is missing {place}; expected for example `{example}`"));
        }
        item
    }

    /// The section under an optional key that is written `[key]`.
    pub(super) fn section(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<Section<'a>> {
        self.take(key)?.section(&format!("[{key}]"), problems)
    }

    /// The sections under an optional key that is written `[[key]]`.
    pub(super) fn sections(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Vec<Section<'a>> {
        self.titled(&format!("[[{key}]]"), key, problems)
    }

    /// As [`Section::sections`], for those that are written `[[of.key]]`.
    pub(super) fn sections_of(
        &mut self,
        of: &str,
        key: &'static str,
        problems: &mut Problems<'_>,
    ) -> Vec<Section<'a>> {
        self.titled(&format!("[[{of}.{key}]]"), key, problems)
    }

    fn titled(&mut self, title: &str, key: &'static str, problems: &mut Problems<'_>) -> Vec<Section<'a>> {
        let Some(item) = self.take(key) else { return Vec::new() };
        let expected = format!("{title} with two brackets, once for each");
        let items = item.list(&expected, problems).unwrap_or_default();
        items.into_iter().filter_map(|item| item.section(title, problems)).collect()
    }

    /// Every key with its place and value, for sections whose keys are names that the operator chose.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Range<usize>, Item<'a>)> + use<'a> {
        self.table.iter().map(|(key, value)| {
            let name: &'a str = key.get_ref();
            (name, key.span(), Item::new(name.to_owned(), value))
        })
    }

    /// Reports every key that was not taken.
    pub(super) fn finish(self, problems: &mut Problems<'_>) {
        for (key, span, _) in self.entries().filter(|(key, ..)| !self.taken.contains(key)) {
            let hint = nearest(key, self.taken.iter().copied())
                .map_or_else(|| one_of(&self.taken), |near| format!("did you mean `{near}`?"));
            problems.at(&span, format!("unknown key `{}` {}; {hint}", key.escape_debug(), self.place));
        }
    }
}

/// A value of the policy file and the key that it stands under.
pub(super) struct Item<'a> {
    key: String,
    value: &'a DeValue<'a>,
    span: Range<usize>,
}

impl<'a> Item<'a> {
    fn new(key: String, value: &'a Spanned<DeValue<'a>>) -> Self {
        Self { key, value: value.get_ref(), span: value.span() }
    }

    pub(super) fn span(&self) -> &Range<usize> {
        &self.span
    }

    pub(super) fn value(&self) -> &'a DeValue<'a> {
        self.value
    }

    /// Notes that the value has the wrong type.
    pub(super) fn wrong_type(&self, expected: &str, problems: &mut Problems<'_>) {
        let (key, found) = (self.key.escape_debug(), type_name(self.value));
        problems.at(&self.span, format!("`{key}` holds {found}; expected {expected}"));
    }

    pub(super) fn string(&self, expected: &str, problems: &mut Problems<'_>) -> Option<&'a str> {
        self.typed(self.value.as_str(), expected, problems)
    }

    pub(super) fn boolean(&self, problems: &mut Problems<'_>) -> Option<bool> {
        self.typed(self.value.as_bool(), "true or false", problems)
    }

    /// An integer; one too large for the type is given as its largest value.
    pub(super) fn integer(&self, expected: &str, problems: &mut Problems<'_>) -> Option<i64> {
        self.typed(integer(self.value), expected, problems)
    }

    pub(super) fn list(&self, expected: &str, problems: &mut Problems<'_>) -> Option<Vec<Item<'a>>> {
        let array = self.typed(self.value.as_array(), expected, problems)?;
        Some(array.iter().map(|value| Item::new(self.key.clone(), value)).collect())
    }

    pub(super) fn section(&self, title: &str, problems: &mut Problems<'_>) -> Option<Section<'a>> {
        let table = self.typed(self.value.as_table(), &format!("a table, {title}"), problems)?;
        Some(Section::new(format!("in {title}"), table, self.span.clone()))
    }

    /// One of the words of `T`.
    pub(super) fn word<T: Word>(&self, problems: &mut Problems<'_>) -> Option<T> {
        let expected = or_list(T::ALL);
        let found = self.string(&expected, problems)?;
        let word = T::ALL.iter().copied().find(|variant| variant.word() == found);
        if word.is_none() {
            let key = self.key.escape_debug();
            problems.at(&self.span, format!("`{key}` is {found:?}; expected {expected}"));
        }
        word
    }

    fn typed<T>(&self, value: Option<T>, expected: &str, problems: &mut Problems<'_>) -> Option<T> {
        if value.is_none() {
            self.wrong_type(expected, problems);
        }
        value
    }
}

/// The integer in a value; one too large for the type is given as its largest or smallest value.
pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    let text = integer.as_str();
    let beyond = if text.starts_with('-') { i64::MIN } else { i64::MAX };
    Some(i64::from_str_radix(text, integer.radix()).unwrap_or(beyond))
}

fn or_list<T: Word>(words: &[T]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{:?}", word.word())).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

fn one_of(keys: &[&str]) -> String {
    let quoted: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    let choice = if keys.len() > 1 { "one of " } else { "" };
    format!("expected {choice}{}", quoted.join(", "))
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
