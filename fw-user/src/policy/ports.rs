//! Port ranges of a rule: parsing, order, overlap.

use std::fmt;
use std::ops::RangeInclusive;

use super::problem::Problems;
use super::section::{Item, integer};

/// What a list of ports looks like, for messages.
pub(super) const EXAMPLE: &str = r#"ports = [80, "8000-8100"]"#;

/// A range of ports, both ends included, host byte order; never empty, never port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The range, unless it is inverted or holds port 0.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || first > last { None } else { Some(Self { first, last }) }
    }

    /// The lowest port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Every port of the range, ascending.
    pub const fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    pub(super) const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// One port.
pub(super) fn single(item: &Item<'_>, expected: &str, problems: &mut Problems<'_>) -> Option<u16> {
    let number = item.integer(expected, problems)?;
    port(number).map_err(|message| problems.at(item.span(), message)).ok()
}

/// The ranges of a `ports` list, ascending and disjoint.
pub(super) fn parse(item: &Item<'_>, problems: &mut Problems<'_>) -> Vec<PortRange> {
    let Some(items) = item.list(&format!("a list, `{EXAMPLE}`"), problems) else { return Vec::new() };
    if items.is_empty() {
        problems.at(item.span(), format!("`ports` is empty; expected at least one port, `{EXAMPLE}`"));
    }
    let mut ranges: Vec<PortRange> = Vec::new();
    for item in items {
        let Some(range) = port_range(&item, problems) else { continue };
        // Sorted and disjoint, so only the neighbours of its place can overlap it.
        let place = ranges.partition_point(|other| other.last < range.first);
        match ranges.get(place).copied().filter(|other| other.overlaps(range)) {
            Some(other) => problems.at(
                item.span(),
                format!("ports {range} overlap {other} of the same rule; expected each port once"),
            ),
            None => ranges.insert(place, range),
        }
    }
    ranges
}

fn port_range(item: &Item<'_>, problems: &mut Problems<'_>) -> Option<PortRange> {
    let range = if let Some(number) = integer(item.value()) {
        port(number).map(|port| PortRange { first: port, last: port })
    } else if let Some(text) = item.value().as_str() {
        range_of_text(text)
    } else {
        item.wrong_type(&format!("port numbers and ranges, `{EXAMPLE}`"), problems);
        return None;
    };
    range.map_err(|message| problems.at(item.span(), message)).ok()
}

fn range_of_text(text: &str) -> Result<PortRange, String> {
    let not_a_range = || {
        format!(
            "{text:?} is not a port range; expected a number such as 80, or a range such as \"8000-8100\""
        )
    };
    let (first, last) = text.split_once('-').ok_or_else(not_a_range)?;
    let number = |text: &str| {
        let digits = text.trim();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(not_a_range());
        }
        port(digits.parse().unwrap_or(i64::MAX))
    };
    let (first, last) = (number(first)?, number(last)?);
    PortRange::new(first, last)
        .ok_or_else(|| format!("port range {text:?} is inverted; expected \"{last}-{first}\""))
}

fn port(number: i64) -> Result<u16, String> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("port {} is out of range; expected 1 to 65535", shown(number)))
}

fn shown(number: i64) -> String {
    match number {
        i64::MAX => "number".to_owned(),
        number => number.to_string(),
    }
}
