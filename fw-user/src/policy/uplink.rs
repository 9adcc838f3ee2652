//! The section `[uplink]`, and what the name of an interface may be.

use super::parse::word_or_default;
use super::problem::Problems;
use super::section::{Item, Section};
use super::{Interfaces, Uplink};

/// IFNAMSIZ of the kernel less the closing zero, in bytes.
const LONGEST_INTERFACE: usize = 15;

pub(super) fn parse(mut section: Section<'_>, problems: &mut Problems<'_>) -> Uplink {
    let interfaces = section.take("interfaces");
    let uplink = Uplink {
        interfaces: interfaces.map(|item| interfaces_of(&item, problems)).unwrap_or_default(),
        xdp: word_or_default(section.take("xdp"), problems),
        published: word_or_default(section.take("published"), problems),
        fast_path: word_or_default(section.take("fast_path"), problems),
    };
    section.finish(problems);
    uplink
}

fn interfaces_of(item: &Item<'_>, problems: &mut Problems<'_>) -> Interfaces {
    let expected = "\"auto\", or a list of interface names such as [\"eth0\"]";
    if let Some(word) = item.value().as_str() {
        if word != "auto" {
            problems.at(item.span(), format!("`interfaces` is {word:?}; expected {expected}"));
        }
        return Interfaces::Auto;
    }
    let Some(items) = item.list(expected, problems) else { return Interfaces::Auto };
    if items.is_empty() {
        problems.at(item.span(), format!("`interfaces` is an empty list; expected {expected}"));
    }
    let mut names: Vec<String> = Vec::new();
    for item in items {
        let Some(name) = interface(&item, problems) else { continue };
        if names.contains(&name) {
            problems.at(item.span(), format!("interface {name:?} is listed twice; expected each once"));
        } else {
            names.push(name);
        }
    }
    Interfaces::Named(names)
}

/// The name of a network device, by the rules of the kernel's `dev_valid_name`.
pub(super) fn interface(item: &Item<'_>, problems: &mut Problems<'_>) -> Option<String> {
    let name = item.string("the name of an interface, such as \"eth0\"", problems)?;
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == ':';
    let wrong = if name.is_empty() {
        "is empty"
    } else if name.len() > LONGEST_INTERFACE {
        "is longer than 15 bytes"
    } else if name.contains(forbidden) {
        "holds a character that no interface name has"
    } else if name == "." || name == ".." {
        "is not possible"
    } else {
        return Some(name.to_owned());
    };
    let expected = "expected 1 to 15 bytes without '/', ':' and white space";
    problems.at(item.span(), format!("interface name {name:?} {wrong}; {expected}"));
    None
}
