//! What is wrong with a policy file, and where: collected, so that one run reports all of it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::string::FromUtf8Error;
use std::{fmt, io};

/// Beyond this many problems only their number is told.
const MOST_PROBLEMS: usize = 100;

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read; the reason is the source.
    #[error(
        "cannot read the policy file {}: {source}; write one as docs/policy.md says, or name another (`fw run --policy FILE`)",
        path.display()
    )]
    Read {
        /// The policy file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file was read and is not a valid policy.
    #[error("{}", lines(problems, *more))]
    Invalid {
        /// What is wrong, in the order of the file; at least one.
        problems: Vec<Problem>,
        /// How many more there are.
        more: usize,
    },
}

impl PolicyError {
    pub(super) fn not_utf8(path: &Path, error: &FromUtf8Error) -> Self {
        let (line, column) = end_of_valid(error);
        let message = NOT_UTF8.to_owned();
        Self::Invalid { problems: vec![Problem { file: path.to_owned(), line, column, message }], more: 0 }
    }
}

/// One thing that is wrong; shown as `file:line:column: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The policy file, or a set file that it names.
    pub file: PathBuf,
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.message)
    }
}

/// The problems found so far in one policy file.
pub(super) struct Problems<'a> {
    path: &'a Path,
    text: &'a str,
    line_starts: Vec<usize>,
    found: Vec<Problem>,
    more: usize,
}

impl<'a> Problems<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { path, text, line_starts, found: Vec::new(), more: 0 }
    }

    /// Notes a problem at these bytes of the policy file.
    pub(super) fn at(&mut self, span: &Range<usize>, message: String) {
        if self.found.len() >= MOST_PROBLEMS {
            self.more += 1;
            return;
        }
        let line = self.line_index(span);
        let before = self.line_starts[line]..span.start.min(self.text.len());
        let column = self.text.get(before).map_or(0, |text| text.chars().count()) as u32 + 1;
        self.found.push(Problem { file: self.path.to_owned(), line: line as u32 + 1, column, message });
    }

    /// Notes a problem in another file.
    pub(super) fn elsewhere(&mut self, problem: Problem) {
        if self.found.len() >= MOST_PROBLEMS {
            self.more += 1;
        } else {
            self.found.push(problem);
        }
    }

    /// The line of the policy file where these bytes begin, from 1.
    pub(super) fn line(&self, span: &Range<usize>) -> u32 {
        self.line_index(span) as u32 + 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The value, if nothing is wrong.
    pub(super) fn or<T>(mut self, value: T) -> Result<T, PolicyError> {
        if self.found.is_empty() {
            return Ok(value);
        }
        let elsewhere = |problem: &Problem| problem.file != self.path;
        self.found.sort_by(|a, b| {
            (elsewhere(a), &a.file, a.line, a.column).cmp(&(elsewhere(b), &b.file, b.line, b.column))
        });
        Err(PolicyError::Invalid { problems: self.found, more: self.more })
    }

    fn line_index(&self, span: &Range<usize>) -> usize {
        self.line_starts.partition_point(|start| *start <= span.start).saturating_sub(1)
    }
}

/// What is said of a file that is not text.
pub(super) const NOT_UTF8: &str = "not valid UTF-8; expected a text file in UTF-8";

/// Line and column, both from 1, of the first byte that is not UTF-8.
pub(super) fn end_of_valid(error: &FromUtf8Error) -> (u32, u32) {
    let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
    let last = valid.rsplit('\n').next().unwrap_or_default();
    (valid.matches('\n').count() as u32 + 1, last.chars().count() as u32 + 1)
}

/// The candidate that `word` is most likely a misspelling of.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Long words cannot be near and would cost their length squared.
    let short = word.len() <= 64;
    candidates
        .into_iter()
        .filter(|_| short)
        .map(|candidate| (strsim::damerau_levenshtein(&word.to_lowercase(), candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn lines(problems: &[Problem], more: usize) -> String {
    let mut lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}
