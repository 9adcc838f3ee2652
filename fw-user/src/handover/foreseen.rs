//! What edits of rules come to, for people to read: which rules would come and go. Changes nothing.

use serde::Serialize;

use super::layout::{Edit, How};
use super::save::{Save, tokenise};

/// A rule or table of the host's that would be another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleChange {
    /// The rule set: `iptables-nft`, `ip6tables-legacy`, `nft` and so on.
    pub place: String,
    /// The table's name.
    pub table: String,
    /// What would become of it.
    pub change: Becomes,
    /// The rule as iptables-save prints it, or what of the table it is.
    pub rule: String,
}

/// What would become of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Becomes {
    /// It would be there.
    New,
    /// It would be gone.
    Gone,
    /// It would be at another place, or say something else.
    Changed,
}

impl Becomes {
    /// The sign in front of a line.
    pub const fn sign(self) -> char {
        match self {
            Self::New => '+',
            Self::Gone => '-',
            Self::Changed => '~',
        }
    }
}

/// What these edits of `save`, at `place`, come to. A chain that is written as a whole counts by the rules that differ.
pub(super) fn foreseen(place: &str, save: &Save<'_>, edits: &[Edit]) -> Vec<RuleChange> {
    let line = |chain: &str, spec: &str| format!("-A {chain} {spec}");
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    for Edit { table, chain, how, spec } in edits {
        match how {
            How::Delete => gone.push((*table, line(chain, spec))),
            How::Insert(_) | How::Append => new.push((*table, line(chain, spec))),
            How::Make | How::Empty => {
                gone.extend(save.chain(table, chain).iter().map(|rule| (*table, line(chain, rule.spec))));
            }
            How::Remove => {}
        }
    }
    let mut moved = Vec::new();
    new.retain(|(table, rule)| {
        let is_it = |(of, other): &(&str, String)| of == table && tokenise(other) == tokenise(rule);
        let stays = gone.iter().position(is_it);
        moved.extend(stays.map(|at| gone.remove(at)));
        stays.is_none()
    });
    if !(gone.is_empty() && new.is_empty()) {
        // What stays in a chain that is written again is no news beside what does not.
        moved.clear();
    }
    let all = [(Becomes::Gone, gone), (Becomes::New, new), (Becomes::Changed, moved)];
    let all = all.into_iter().flat_map(|(change, rules)| rules.into_iter().map(move |rule| (change, rule)));
    all.map(|(change, (table, rule))| RuleChange {
        place: place.to_owned(),
        table: table.to_owned(),
        change,
        rule,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(how: How, spec: &str) -> Edit {
        Edit { table: "filter", chain: "FW-FORWARD", how, spec: spec.to_owned() }
    }

    fn lines(edits: &[Edit]) -> Vec<String> {
        let save = Save::parse(
            "*filter\n:FW-FORWARD - [0:0]\n-A FW-FORWARD -o a -j DROP\n-A FW-FORWARD -m comment --comment \"fw\" -j DROP\n",
        );
        let line = |change: &RuleChange| format!("{} {}", change.change.sign(), change.rule);
        foreseen("iptables-nft", &save, edits).iter().map(line).collect()
    }

    #[test]
    fn a_chain_written_anew_counts_by_what_differs() {
        let kept = edit(How::Append, "-m comment --comment fw -j DROP");
        let other = edit(How::Append, "-o b -j DROP");
        assert_eq!(
            lines(&[edit(How::Make, ""), kept.clone(), other]),
            ["- -A FW-FORWARD -o a -j DROP", "+ -A FW-FORWARD -o b -j DROP"]
        );
        let order = [edit(How::Make, ""), kept, edit(How::Append, "-o a -j DROP")];
        assert_eq!(lines(&order).len(), 2, "another order is a change");
        assert!(lines(&order).iter().all(|line| line.starts_with('~')));
        let gone = [edit(How::Empty, ""), edit(How::Remove, "")];
        assert_eq!(lines(&gone).len(), 2);
        assert_eq!(lines(&[]), Vec::<String>::new());
    }
}
