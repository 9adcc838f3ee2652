//! Finds rules of others that ask for fw's bits of the packet mark, or write them.

use super::Marks;
use super::nat::OWN;
use super::rule::{MarkRule, number};
use super::save::{Rule, Save, tokenise};

/// What a rule of somebody else's does with our bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// It asks for the whole mark, with zero in ours: what fw has marked is not what it looks for.
    Whole,
    /// It asks for them.
    Asks,
    /// It clears them: what fw has vouched for is as if it had not.
    Clears,
    /// It sets them: packets look as if fw had vouched for them.
    Sets,
}

impl Use {
    /// Of a question for `value` in the bits of `mask`, some of which are ours.
    pub(crate) fn of_question(value: u32, mask: u32, marks: Marks) -> Self {
        if mask == u32::MAX && value & marks.mask() == 0 { Self::Whole } else { Self::Asks }
    }
}

/// A rule that meets our bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    /// The rule, with table and chain, as its program prints it.
    pub rule: String,
    /// What it does.
    pub what: Use,
}

/// The rules of one rule set (text of iptables-save) that are not fw's and meet our bits. CONNMARK is told apart, by
/// [`super::doctor_marks`].
pub fn collisions(save_text: &str, marks: Marks) -> Vec<Collision> {
    let save = Save::parse(save_text);
    let mut found = Vec::new();
    for rule in save.rules().filter(|rule| !is_ours(rule)) {
        let Some(what) = of_rule(rule, marks) else { continue };
        let Rule { table, chain, spec, .. } = rule;
        found.push(Collision { rule: format!("-t {table} -A {chain} {spec}"), what });
    }
    found
}

/// The lines of nftables that meet our bits, each with its table; text of `nft list ruleset`, without fw's own tables.
pub fn nft_collisions(table: &str, text: &str, marks: Marks) -> Vec<Collision> {
    let mut found = Vec::new();
    let mut at_output = false;
    for line in text.lines() {
        if line.trim_start().starts_with("chain ") {
            at_output = false;
        }
        at_output |= line.contains(" hook output ");
        let words: Vec<&str> = line.split_whitespace().collect();
        // Behind `set` the old mark is a part of the new one.
        let begins =
            |at: usize| words[at..].starts_with(&["meta", "mark"]) && (at == 0 || words[at - 1] != "set");
        let what = (0..words.len()).filter(|at| begins(*at));
        let what = what.filter_map(|at| nft_use(&words[at + 2..], marks)).max();
        let what = what.filter(|what| matters(*what, at_output));
        found.extend(what.map(|what| Collision { rule: format!("{table}: {}", line.trim()), what }));
    }
    found
}

/// Of `set V`, `set mark and M or V`, `and M == V`, `== V` or `V`, which follow `meta mark`. What is not understood is
/// taken for none of ours.
fn nft_use(words: &[&str], marks: Marks) -> Option<Use> {
    let value = |word: &&str| number(word);
    let (mask, set) = match words {
        // `meta mark set meta mark & 0xff | 0x100` keeps what the mask keeps.
        ["set", rest @ ..] => {
            let rest = match rest {
                ["meta", "mark", rest @ ..] | ["mark", rest @ ..] => rest,
                ["ct", ..] => return Some(Use::Sets),
                [all, ..] => {
                    let all = value(all)?;
                    return Some(if all & marks.mask() == 0 { Use::Clears } else { Use::Sets });
                }
                [] => return None,
            };
            match rest {
                ["&" | "and", kept, "|" | "or" | "^" | "xor", set, ..] => (!value(kept)?, value(set)?),
                ["&" | "and", kept, ..] => (!value(kept)?, 0),
                ["|" | "or" | "^" | "xor", set, ..] => (value(set)?, value(set)?),
                _ => return None,
            }
        }
        ["&" | "and", mask, ..] => {
            return (value(mask)? & marks.mask() != 0).then_some(Use::Asks);
        }
        ["!=" | "==", number, ..] | [number, ..] => {
            return Some(Use::of_question(value(number)?, u32::MAX, marks));
        }
        [] => return None,
    };
    of_write(set, mask, marks)
}

/// What this host sends itself has no mark of ours yet when rules of OUTPUT see it, so there is none to ask for or clear:
/// swarm marks its own packets there (0xd0c4e3, all bits).
fn matters(what: Use, at_output: bool) -> bool {
    !at_output || what == Use::Sets
}

/// Of a write of `value` to the bits of `mask`.
fn of_write(value: u32, mask: u32, marks: Marks) -> Option<Use> {
    match () {
        () if value & marks.mask() != 0 => Some(Use::Sets),
        () if mask & marks.mask() != 0 => Some(Use::Clears),
        () => None,
    }
}

fn of_rule(rule: &Rule<'_>, marks: Marks) -> Option<Use> {
    let words = rule.conditions();
    // Without a mask iptables means all bits.
    let field = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        let (value, mask) = words.get(at + 1)?.split_once('/').unwrap_or((words.get(at + 1)?, "0xffffffff"));
        Some((number(value)?, number(mask)?))
    };
    let of_packet = !words.windows(2).any(|pair| pair[0] == "-m" && pair[1] == "connmark");
    let asks = field("--mark")
        .filter(|(_, mask)| of_packet && mask & marks.mask() != 0)
        .map(|(value, mask)| Use::of_question(value, mask, marks));
    let target = words.iter().position(|word| word == "-j").and_then(|at| words.get(at + 1));
    let writes = match target.map(String::as_str) {
        // xt_mark: mark = (mark & !mask) ^ value.
        Some("MARK") => field("--set-xmark").and_then(|(value, mask)| of_write(value, mask, marks)),
        Some("TPROXY") => field("--tproxy-mark").and_then(|(value, mask)| of_write(value, mask, marks)),
        _ => None,
    };
    writes.max(asks).filter(|what| matters(*what, rule.chain == "OUTPUT"))
}

/// Ours: a rule of the hand-over, in a chain of ours, or what leads to one.
fn is_ours(rule: &Rule<'_>) -> bool {
    // Others may have chains whose names begin as ours do (FW-INPUT).
    let own = |chain: &str| OWN.contains(&(rule.table, chain));
    MarkRule::recognise(rule).is_some()
        || own(rule.chain)
        || tokenise(rule.spec).windows(2).any(|pair| pair[0] == "-j" && own(&pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks() -> Marks {
        Marks::new(24).expect("bit 24 is allowed")
    }

    #[test]
    fn rules_of_others_that_meet_our_bits() {
        for (rule, expected) in [
            ("PREROUTING -j MARK --set-xmark 0x1000000/0xff000000", Some(Use::Sets)),
            ("PREROUTING -j MARK --set-xmark 0x1/0xffffffff", Some(Use::Clears)),
            ("PREROUTING -j MARK --set-xmark 0x4000/0x4000", None),
            ("FORWARD -m mark --mark 0x2000000/0x2000000 -j ACCEPT", Some(Use::Asks)),
            ("FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT", None),
            ("POSTROUTING -p udp -m mark --mark 0xca6c -j CONNMARK --save-mark", Some(Use::Whole)),
            ("FORWARD -m mark --mark 0x1000000 -j ACCEPT", Some(Use::Asks)),
            ("OUTPUT -p udp -j MARK --set-xmark 0xd0c4e3/0xffffffff", None),
            ("OUTPUT -j MARK --set-xmark 0x1000000/0xffffffff", Some(Use::Sets)),
            ("FORWARD -m connmark --mark 0x1000000 -j ACCEPT", None),
            ("FORWARD -m mark --mark 0x1000000/0x3000000 -m comment --comment fw -j ACCEPT", None),
            ("FORWARD -m mark --mark 0x0/0x1000000 -m comment --comment fw -j FW-FORWARD", None),
            ("FW-FORWARD -o eth0 -m mark --mark 0x2000000/0x3000000 -j RETURN", None),
            ("FW-INPUT -m mark --mark 0x2000000/0x3000000 -j RETURN", Some(Use::Asks)),
            ("OUTPUT -m comment --comment \"--mark 0x1000000\" -j ACCEPT", None),
        ] {
            let table = if rule.contains("FW-FORWARD") { "filter" } else { "mangle" };
            let text = format!("*{table}\n:PREROUTING ACCEPT [0:0]\n-A {rule}\nCOMMIT\n");
            let found = collisions(&text, marks());
            assert_eq!(found.first().map(|found| found.what), expected, "{rule}");
        }
    }

    #[test]
    fn lines_of_nftables_that_meet_our_bits() {
        for (line, expected) in [
            ("meta mark set 0x01000000", Some(Use::Sets)),
            ("meta mark set 0x00000001", Some(Use::Clears)),
            ("meta mark set meta mark & 0xffff0000 | 0x00000004", None),
            ("meta mark set meta mark and 0x00ffffff or 0x02000000", Some(Use::Sets)),
            ("meta mark set meta mark | 0x00004000", None),
            ("iifname \"wg0\" meta mark & 0x03000000 == 0x01000000 accept", Some(Use::Asks)),
            ("meta mark & 0x0000ff00 == 0x00000400 accept", None),
            ("meta mark 0x00000007 accept", Some(Use::Whole)),
            ("meta mark 0x01000007 accept", Some(Use::Asks)),
            ("ct mark set meta mark", None),
            ("tcp dport 22 accept", None),
        ] {
            let found = nft_collisions("inet other", line, marks());
            assert_eq!(found.first().map(|found| found.what), expected, "{line}");
        }
        let chains = "chain out {\n\ttype route hook output priority -150; policy accept;\n\tmeta mark set 0x1\n}\n\
                      chain in {\n\tmeta mark set 0x2\n}\n";
        let found: Vec<String> =
            nft_collisions("inet other", chains, marks()).into_iter().map(|found| found.rule).collect();
        assert_eq!(found, ["inet other: meta mark set 0x2"], "the host's own have no mark of ours");
    }
}
