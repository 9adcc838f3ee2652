//! `fw doctor`: what on this host weakens the filter, or confuses who looks at it, each with a repair and its risk.
//!
//! [`look()`] reads and changes nothing; [`examine`] is pure: from what was seen to findings.

mod boot;
mod devices;
mod engine;
mod look;
mod marks;
mod rules;
mod seen;
mod service;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use self::look::{Answer, Where, look};
pub use self::seen::{Access, Dockerd, InForce, Kernel, PolicyFile, Process, Seen};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is open that should not be, or will be.
    Weakens,
    /// Something does not work as it looks.
    Confuses,
    /// Good to know.
    Notes,
}

impl Severity {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Weakens => "weakens",
            Self::Confuses => "confuses",
            Self::Notes => "notes",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind it is; the names do not change.
    pub name: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What was found, with its name.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// Lines to paste into a shell, in their order; what has to be written into a file stands in a comment.
    pub repair: Vec<String>,
    /// What the repair may cost; empty if there is none.
    pub risk: String,
}

impl Finding {
    fn new(name: &'static str, severity: Severity, found: impl Into<String>) -> Self {
        let (found, why, risk) = (found.into(), String::new(), String::new());
        Self { name, severity, found, why, repair: Vec::new(), risk }
    }

    fn weakens(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Severity::Weakens, found)
    }

    fn confuses(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Severity::Confuses, found)
    }

    fn notes(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Severity::Notes, found)
    }

    fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    fn repair(mut self, line: impl Into<String>) -> Self {
        self.repair.push(line.into());
        self
    }

    fn risk(mut self, risk: impl Into<String>) -> Self {
        self.risk = risk.into();
        self
    }
}

/// What follows from what was seen, the gravest first.
pub fn examine(seen: &Seen) -> Vec<Finding> {
    let mut found = [
        service::examine(seen),
        rules::examine(seen),
        marks::examine(seen),
        boot::examine(seen),
        engine::examine(seen),
        devices::examine(seen),
    ]
    .concat();
    found.sort_by_key(|finding| finding.severity);
    found
}

/// Names as a list for people.
fn listed<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")
}
