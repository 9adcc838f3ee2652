//! From TOML to a [`Policy`]: each section of the file in turn, collecting what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use toml::de::DeTable;

use super::docker::swarm_rule;
use super::problem::{Problems, nearest};
use super::section::{Item, Section};
use super::words::Proto;
use super::{
    Allow, BAN_RULE, Deny, MAX_ZONES, Marks, Origin, Policy, PolicyError, Set, SetName, Sources, TableSizes,
    docker, ports, prefix, set_file, uplink,
};

/// The longest name of a rule, set or static network, in characters.
const LONGEST_NAME: usize = 64;

/// The bits that the lower bit of our mark may be: below 17 others have theirs, and the field is two bits wide.
const MARK_BITS: std::ops::RangeInclusive<u8> = 17..=30;

const FROM_EXAMPLE: &str = r#"from = ["office", "203.0.113.7"]"#;

pub(super) fn parse(
    text: &str,
    path: &Path,
    base_dir: &Path,
    kept: Option<BTreeMap<PathBuf, BTreeSet<IpNet>>>,
) -> Result<Policy, PolicyError> {
    let mut problems = Problems::new(path, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let message = error.message().trim().replace('\n', ", ");
        problems.at(&error.span().unwrap_or_default(), format!("not valid TOML: {message}"));
    }
    if !problems.is_empty() {
        // What recovery left of the document would only add errors that are not the operator's.
        return problems.or(Policy::default());
    }
    let policy = Policy::default();
    let parser = Parser { base_dir, kept, problems, policy, rules: BTreeMap::new(), zones: BTreeSet::new() };
    parser.policy(Section::root(&document))
}

/// Where a half-read value goes on failure does not matter: a problem has been noted, and the policy is
/// handed out only if there is none.
pub(super) struct Parser<'a> {
    base_dir: &'a Path,
    /// What the set files held once, which counts instead of what they hold.
    kept: Option<BTreeMap<PathBuf, BTreeSet<IpNet>>>,
    pub(super) problems: Problems<'a>,
    pub(super) policy: Policy,
    /// Names of rules and the line of each.
    rules: BTreeMap<String, u32>,
    /// Sets that `[[allow]]` and `[[out]]` rules and `egress` use.
    zones: BTreeSet<SetName>,
}

impl Parser<'_> {
    fn policy(mut self, mut root: Section<'_>) -> Result<Policy, PolicyError> {
        let problems = &mut self.problems;
        self.policy.mode = word_or_default(root.take("mode"), problems);
        self.policy.fallback = word_or_default(root.take("fallback"), problems);
        self.policy.labels = word_or_default(root.take("labels"), problems);
        if let Some(section) = root.section("uplink", problems) {
            self.policy.uplink = uplink::parse(section, problems);
        }
        if let Some(section) = root.section("docker", problems) {
            self.policy.docker = docker::parse(section, problems);
        }
        if let Some(section) = root.section("sets", problems) {
            self.sets(&section);
        }
        let allow = root.sections("allow", &mut self.problems);
        let deny = root.sections("deny", &mut self.problems);
        for section in allow {
            self.allow(section);
        }
        for section in deny {
            self.deny(section);
        }
        for section in root.sections("out", &mut self.problems) {
            self.out(section);
        }
        for section in root.sections("limit", &mut self.problems) {
            self.limit(section);
        }
        if let Some(section) = root.section("tables", &mut self.problems) {
            self.policy.tables = TableSizes::parse(section, &mut self.problems);
        }
        if let Some(section) = root.section("networks", &mut self.problems) {
            self.networks(&section);
        }
        if let Some(section) = root.section("containers", &mut self.problems) {
            self.containers(&section);
        }
        for section in root.sections("network", &mut self.problems) {
            self.static_network(section);
        }
        if let Some(section) = root.section("nat", &mut self.problems) {
            self.nat(section);
        }
        if let Some(section) = root.section("marks", &mut self.problems) {
            self.policy.marks = marks(section, &mut self.problems);
        }
        root.finish(&mut self.problems);
        self.problems.or(self.policy)
    }

    fn sets(&mut self, section: &Section<'_>) {
        for (name, span, item) in section.entries() {
            if let Err(message) = check_name("set", name) {
                self.problems.at(&span, message);
            }
            if let Some(set) = self.set(name, &item) {
                self.policy.sets.insert(SetName(name.to_owned()), set);
            } else {
                // The name is known though its contents are wrong: rules that use it are not wrong too.
                let set = Set { prefixes: BTreeSet::new(), origin: Origin::List };
                self.policy.sets.insert(SetName(name.to_owned()), set);
            }
        }
    }

    fn set(&mut self, name: &str, item: &Item<'_>) -> Option<Set> {
        if item.value().is_table() {
            let section = item.section(&format!("set `{name}`"), &mut self.problems)?;
            return self.set_of_file(section);
        }
        let expected = "a list of prefixes, or { file = \"prefixes.txt\" }";
        let mut prefixes = BTreeSet::new();
        for item in item.list(expected, &mut self.problems)? {
            let Some(text) = item.string("prefixes as strings", &mut self.problems) else { continue };
            match prefix::parse(text) {
                Ok(prefix) => _ = prefixes.insert(prefix),
                Err(message) => self.problems.at(item.span(), message),
            }
        }
        Some(Set { prefixes, origin: Origin::List })
    }

    fn set_of_file(&mut self, mut section: Section<'_>) -> Option<Set> {
        let item = section.need("file", "file = \"prefixes.txt\"", &mut self.problems);
        section.finish(&mut self.problems);
        let item = item?;
        let path = self.base_dir.join(item.string("the name of a file", &mut self.problems)?);
        if let Some(kept) = &self.kept {
            let prefixes = kept.get(&path).cloned().unwrap_or_default();
            return Some(Set { prefixes, origin: Origin::File(path) });
        }
        match set_file::read(&path) {
            Ok(Ok(prefixes)) => return Some(Set { prefixes, origin: Origin::File(path) }),
            Ok(Err(found)) => found.into_iter().for_each(|problem| self.problems.elsewhere(problem)),
            Err(error) => {
                let what = format!("cannot read the set file {}: {error}", path.display());
                let expected = "expected a text file, relative to the policy file or absolute";
                self.problems.at(item.span(), format!("{what}; {expected}"));
            }
        }
        None
    }

    fn allow(&mut self, mut section: Section<'_>) {
        let span = section.span().clone();
        let name = self.rule_name(&mut section);
        let proto = section.need("proto", "proto = \"tcp\"", &mut self.problems);
        let proto = proto.and_then(|item| item.word::<Proto>(&mut self.problems));
        let ports = match proto {
            Some(Proto::Tcp | Proto::Udp) => section.need("ports", ports::EXAMPLE, &mut self.problems),
            Some(Proto::Icmp) | None => section.take("ports"),
        };
        if let (Some(item), Some(Proto::Icmp)) = (&ports, proto) {
            let message = "`ports` has no meaning with proto = \"icmp\", which allows echo; remove it";
            self.problems.at(item.span(), message.to_owned());
        }
        let ports = ports.map(|item| ports::parse(&item, &mut self.problems)).unwrap_or_default();
        let instead = "leave `from` out for any source";
        let from = match section.take("from") {
            Some(item) => Sources::Sets(self.sources(&item, &name, instead)),
            None => Sources::Any,
        };
        section.finish(&mut self.problems);
        self.count_zones(&span, from.sets());
        let Some(proto) = proto else { return };
        let line = self.problems.line(&span);
        self.policy.allow.push(Allow { name, proto, ports, from, line });
    }

    /// Notes that these sets are used at `span`.
    pub(super) fn count_zones(&mut self, span: &Range<usize>, sets: &[SetName]) {
        let before = self.zones.len();
        self.zones.extend(sets.iter().cloned());
        let used = self.zones.len();
        if before <= MAX_ZONES && used > MAX_ZONES {
            let message = format!(
                "with this, [[allow]] and [[out]] rules and `egress` use {used} different sets; expected at most {MAX_ZONES}: merge some"
            );
            self.problems.at(span, message);
        }
    }

    fn deny(&mut self, mut section: Section<'_>) {
        let line = self.problems.line(section.span());
        let name = self.rule_name(&mut section);
        let from = section.need("from", FROM_EXAMPLE, &mut self.problems);
        let from = from.map(|item| self.sources(&item, &name, "remove the rule")).unwrap_or_default();
        section.finish(&mut self.problems);
        self.policy.deny.push(Deny { name, from, line });
    }

    /// The `name` of a rule, which no other rule has.
    pub(super) fn rule_name(&mut self, section: &mut Section<'_>) -> String {
        let Some((name, span)) = name(section, "rule", &mut self.problems) else { return String::new() };
        let line = self.problems.line(&span);
        if swarm_rule::ALL.contains(&name.as_str()) {
            let message = format!(
                "rule `{name}` would be taken for what [docker] `swarm` lets in; expected another name"
            );
            self.problems.at(&span, message);
        }
        if name == BAN_RULE {
            let message =
                format!("rule `{name}` would be taken for what `fw ban` bans; expected another name");
            self.problems.at(&span, message);
        }
        if let Some(first) = self.rules.get(&name) {
            let message = format!("rule `{name}` stands already at line {first}; expected a name of its own");
            self.problems.at(&span, message);
        } else {
            self.rules.insert(name.clone(), line);
        }
        name
    }

    /// The sets in a list of set names and prefixes; the prefixes of the list become one more set.
    ///
    /// `instead` says what to do in place of an empty list.
    pub(super) fn sources(&mut self, item: &Item<'_>, owner: &str, instead: &str) -> Vec<SetName> {
        let expected = format!("a list of set names and prefixes, `{FROM_EXAMPLE}`");
        let Some(items) = item.list(&expected, &mut self.problems) else { return Vec::new() };
        if items.is_empty() {
            let message = format!("an empty list means nobody; expected set names or prefixes, or {instead}");
            self.problems.at(item.span(), message);
        }
        let mut names = BTreeSet::new();
        let mut inline = BTreeSet::new();
        for item in items {
            let Some(text) = item.string(&expected, &mut self.problems) else { continue };
            let name = SetName(text.to_owned());
            if self.policy.sets.get(&name).is_some_and(|set| set.origin != Origin::Inline) {
                names.insert(name);
                continue;
            }
            match prefix::parse(text) {
                Ok(prefix) => _ = inline.insert(prefix),
                Err(message) if prefix::looks_like_prefix(text) => self.problems.at(item.span(), message),
                Err(_) => self.unknown_set(text, item.span()),
            }
        }
        if !inline.is_empty() {
            names.insert(self.inline_set(inline, owner));
        }
        names.into_iter().collect()
    }

    fn unknown_set(&mut self, text: &str, span: &Range<usize>) {
        let named = self.policy.sets.iter().filter(|(_, set)| set.origin != Origin::Inline);
        let hint = match nearest(text, named.map(|(name, _)| name.as_str())) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => "expected a name that stands in [sets], or a prefix".to_owned(),
        };
        self.problems.at(span, format!("{text:?} is neither a set nor a prefix; {hint}"));
    }

    /// The set of exactly these prefixes, written inline; rules that write the same share it.
    fn inline_set(&mut self, prefixes: BTreeSet<IpNet>, owner: &str) -> SetName {
        let same = |set: &Set| set.origin == Origin::Inline && set.prefixes == prefixes;
        if let Some((name, _)) = self.policy.sets.iter().find(|(_, set)| same(set)) {
            return name.clone();
        }
        let name = match (prefixes.first(), prefixes.len()) {
            (Some(only), 1) => SetName(only.to_string()),
            _ => SetName(format!("{owner}:inline")),
        };
        self.policy.sets.insert(name.clone(), Set { prefixes, origin: Origin::Inline });
        name
    }
}

fn marks(mut section: Section<'_>, problems: &mut Problems<'_>) -> Marks {
    let mut marks = Marks::default();
    let expected = format!("a bit number, {} to {}", MARK_BITS.start(), MARK_BITS.end());
    if let Some(item) = section.take("bit")
        && let Some(number) = item.integer(&expected, problems)
    {
        match u8::try_from(number).ok().filter(|bit| MARK_BITS.contains(bit)) {
            Some(bit) => marks = Marks { bit },
            None => problems.at(item.span(), format!("`bit` is out of range; expected {expected}")),
        }
    }
    section.finish(problems);
    marks
}

/// The `name` of a rule or network, and where it stands.
pub(super) fn name(
    section: &mut Section<'_>,
    kind: &str,
    problems: &mut Problems<'_>,
) -> Option<(String, Range<usize>)> {
    let item = section.need("name", "name = \"web\"", problems)?;
    let name = item.string("a string", problems)?;
    match check_name(kind, name) {
        Ok(()) => Some((name.to_owned(), item.span().clone())),
        Err(message) => {
            problems.at(item.span(), message);
            None
        }
    }
}

/// Names of sets and networks stand beside prefixes in lists and must not look like one; a rule's name only has to
/// fit one line and the map `names`.
fn check_name(kind: &str, name: &str) -> Result<(), String> {
    let fits = !name.is_empty() && name.len() <= LONGEST_NAME;
    if kind == "rule" {
        let plain = name.trim() == name && !name.contains(char::is_control);
        return if fits && plain {
            Ok(())
        } else {
            Err(format!(
                "{name:?} cannot name a rule; expected one line of text, at most {LONGEST_NAME} bytes"
            ))
        };
    }
    let first = name.starts_with(|first: char| first.is_alphabetic() || first == '_');
    let rest = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if fits && first && rest {
        return Ok(());
    }
    Err(format!(
        "{name:?} cannot name a {kind}; expected a letter, then letters, digits, '-', '_' and '.', at most {LONGEST_NAME} bytes in all"
    ))
}

pub(super) fn word_or_default<T: super::words::Word + Default>(
    item: Option<Item<'_>>,
    problems: &mut Problems<'_>,
) -> T {
    item.and_then(|item| item.word(problems)).unwrap_or_default()
}
