//! What iptables-save prints, read as far as the hand-over needs: tables, chains, rules, counters.

use std::collections::{BTreeMap, BTreeSet};

/// One rule set as printed by iptables-save, with or without `-c`.
pub(crate) struct Save<'a> {
    rules: Vec<Rule<'a>>,
    /// With the policy of those that have one.
    chains: BTreeMap<(&'a str, &'a str), &'a str>,
    incompatible: BTreeSet<&'a str>,
}

/// One rule; `spec` is what follows `-A CHAIN`, to be handed back to iptables-restore as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule<'a> {
    pub(crate) table: &'a str,
    pub(crate) chain: &'a str,
    pub(crate) spec: &'a str,
    /// Packets and bytes, when the text was printed with `-c`.
    pub(crate) counters: Option<(u64, u64)>,
}

impl<'a> Save<'a> {
    /// Reads the text; lines that are neither table, chain nor rule are comments.
    pub(crate) fn parse(text: &'a str) -> Self {
        let mut save = Self { rules: Vec::new(), chains: BTreeMap::new(), incompatible: BTreeSet::new() };
        let mut table = "";
        for line in text.lines().map(str::trim_end) {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(rest) = line.strip_prefix(':') {
                let mut words = rest.split(' ');
                let chain = words.next().unwrap_or(rest);
                save.chains.insert((table, chain), words.next().unwrap_or_default());
            } else if let Some(rule) = rule(table, line) {
                save.rules.push(rule);
            } else if let Some(name) = incompatible(line) {
                save.incompatible.insert(name);
            }
        }
        save
    }

    /// Whether the table has this chain.
    pub(crate) fn has(&self, table: &str, chain: &str) -> bool {
        self.chains.contains_key(&(table, chain))
    }

    /// Whether what no rule of this chain of the system has decided is dropped.
    pub(crate) fn drops(&self, table: &str, chain: &str) -> bool {
        self.chains.get(&(table, chain)) == Some(&"DROP")
    }

    /// Whether there is any rule at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// All rules, in order.
    pub(crate) fn rules<'s>(&'s self) -> impl Iterator<Item = &'s Rule<'a>> {
        self.rules.iter()
    }

    /// Whether any chain of the system drops what no rule has decided.
    pub(crate) fn drops_anything(&self) -> bool {
        self.chains.values().any(|policy| *policy == "DROP")
    }

    /// The chains of one table.
    pub(crate) fn chains_of<'s>(&'s self, table: &'s str) -> impl Iterator<Item = &'a str> + 's {
        self.chains.keys().filter(move |(of, _)| *of == table).map(|(_, chain)| *chain)
    }

    /// The rules of one chain, in order.
    pub(crate) fn chain(&self, table: &str, chain: &str) -> Vec<Rule<'a>> {
        self.rules.iter().filter(|rule| rule.table == table && rule.chain == chain).copied().collect()
    }

    /// All rules of one table, in order.
    pub(crate) fn table<'s>(&'s self, table: &'s str) -> impl Iterator<Item = &'s Rule<'a>> {
        self.rules.iter().filter(move |rule| rule.table == table)
    }

    /// Whether iptables-nft-save said that it cannot print this table.
    pub(crate) fn is_incompatible(&self, table: &str) -> bool {
        self.incompatible.contains(table)
    }
}

impl Rule<'_> {
    /// The words of the rule with quotes resolved, without comments (which do not match anything).
    pub(crate) fn conditions(&self) -> Vec<String> {
        let mut words = tokenise(self.spec);
        while let Some(at) =
            words.windows(3).position(|w| w[0] == "-m" && w[1] == "comment" && w[2] == "--comment")
        {
            words.drain(at..(at + 4).min(words.len()));
        }
        words
    }
}

/// Splits at blanks as iptables-restore does: double quotes group, and inside them a backslash takes the next character.
pub(crate) fn tokenise(spec: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = spec.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(chars.next()),
            ' ' | '\t' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn rule<'a>(table: &'a str, line: &'a str) -> Option<Rule<'a>> {
    let (counters, line) = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((counters, rest)) => (counters.split_once(':'), rest),
        None => (None, line),
    };
    let counters = counters.and_then(|(packets, bytes)| Some((packets.parse().ok()?, bytes.parse().ok()?)));
    let rest = line.strip_prefix("-A ")?;
    let (chain, spec) = rest.split_once(' ').unwrap_or((rest, ""));
    Some(Rule { table, chain, spec, counters })
}

/// iptables-nft-save 1.8 names a table in which `nft` has put what it cannot express, and prints nothing of it.
fn incompatible(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("# Table `")?;
    let (name, rest) = rest.split_once('\'')?;
    rest.trim_start().starts_with("is incompatible").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# Generated by iptables-save v1.8.9 on Sat Nov 21 09:29:43 2026
*filter
:FORWARD DROP [3:180]
:DOCKER-USER - [0:0]
[7:420] -A FORWARD -j DOCKER-USER
[0:0] -A DOCKER-USER -s 192.0.2.7/32 -m comment --comment \"a \\\"b\\\" c\" -j DROP
COMMIT
# Table `raw' is incompatible, use 'nft' tool.
*nat
:DOCKER-USER - [0:0]
-A DOCKER-USER -j RETURN
COMMIT
";

    #[test]
    fn keeps_tables_apart_and_specs_as_written() {
        let save = Save::parse(TEXT);
        assert!(save.has("filter", "FORWARD") && !save.has("nat", "FORWARD"));
        let rules = save.chain("filter", "DOCKER-USER");
        assert_eq!(rules.len(), 1);
        assert_eq!(rules[0].spec, "-s 192.0.2.7/32 -m comment --comment \"a \\\"b\\\" c\" -j DROP");
        assert_eq!(save.chain("filter", "FORWARD")[0].counters, Some((7, 420)));
        assert_eq!(save.chain("nat", "DOCKER-USER")[0].counters, None);
        assert!(save.is_incompatible("raw") && !save.is_incompatible("nat"));
    }

    #[test]
    fn comments_are_no_conditions() {
        let save = Save::parse(TEXT);
        let words = save.chain("filter", "DOCKER-USER")[0].conditions();
        assert_eq!(words, ["-s", "192.0.2.7/32", "-j", "DROP"]);
    }

    #[test]
    fn quotes_group_and_escape() {
        assert_eq!(tokenise(r#"-m x "a  \"b\" \\"  "" c"#), ["-m", "x", r#"a  "b" \"#, "", "c"]);
    }
}
