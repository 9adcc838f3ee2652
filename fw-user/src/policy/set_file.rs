//! Set files: one prefix or address per line, `#` begins a comment, empty lines are skipped.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use ipnet::IpNet;

use super::problem::{NOT_UTF8, Problem, end_of_valid};
use super::{file, prefix};

/// Beyond this many problems in one file only their number is told.
const MOST_PROBLEMS: usize = 10;

/// The prefixes of a set file, or what is wrong with its lines; fails when the file cannot be read.
pub(super) fn read(path: &Path) -> io::Result<Result<BTreeSet<IpNet>, Vec<Problem>>> {
    let problem = |(line, column), message| Problem { file: path.to_owned(), line, column, message };
    Ok(match String::from_utf8(file::read(path, file::SET)?) {
        Ok(text) => parse(&text).map_err(|found| {
            found.into_iter().map(|(line, column, message)| problem((line, column), message)).collect()
        }),
        Err(error) => Err(vec![problem(end_of_valid(&error), NOT_UTF8.to_owned())]),
    })
}

/// Line and column from 1, and what is wrong there.
type Found = (u32, u32, String);

fn parse(text: &str) -> Result<BTreeSet<IpNet>, Vec<Found>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut prefixes = Vec::new();
    let mut found: Vec<Found> = Vec::new();
    let mut more = 0;
    for (line, number) in text.lines().zip(1..) {
        let content = line.split('#').next().unwrap_or_default();
        let entry = content.trim();
        if entry.is_empty() {
            continue;
        }
        match prefix::parse(entry) {
            Ok(prefix) => prefixes.push(prefix),
            Err(message) if found.len() < MOST_PROBLEMS => {
                let indent = content.chars().take_while(|c| c.is_whitespace()).count();
                found.push((number, indent as u32 + 1, message));
            }
            Err(_) => more += 1,
        }
    }
    if let Some((line, _, _)) = found.last().filter(|_| more > 0).cloned() {
        found.push((line + 1, 1, format!("from here on {more} more lines are not prefixes")));
    }
    // Collecting sorts once and builds the tree in bulk: a million lines are a matter of a second.
    if found.is_empty() { Ok(prefixes.into_iter().collect()) } else { Err(found) }
}
