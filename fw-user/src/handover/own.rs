//! The chains of fw's own in one rule set: the least edits that bring them there, and take them away.

use super::layout::{Edit, How};
use super::nat::{Chain, JumpPlace, OWN};
use super::save::{Rule, Save, tokenise};

/// Chains of Docker that are reached only if dockerd writes rules; a `DOCKER-USER` may be the administrator's own.
const DOCKER: [&str; 3] = ["DOCKER", "DOCKER-FORWARD", "DOCKER-ISOLATION-STAGE-1"];

/// Where packets come to them.
const REACHED_FROM: [(&str, &str); 3] = [("nat", "PREROUTING"), ("nat", "OUTPUT"), ("filter", "FORWARD")];

/// The chains of the system that may lead to ours.
const SYSTEM: [(&str, &str); 4] =
    [("nat", "PREROUTING"), ("nat", "OUTPUT"), ("nat", "POSTROUTING"), ("filter", "FORWARD")];

/// Whether rules of Docker's own translate or filter in this rule set.
pub(super) fn docker_writes(save: &Save<'_>) -> bool {
    REACHED_FROM.iter().any(|(table, chain)| {
        save.chain(table, chain).iter().any(|rule| jump_target(rule).is_some_and(|to| DOCKER.contains(&&*to)))
    })
}

/// Whether any chain of ours stands in this rule set.
pub(super) fn has_own(save: &Save<'_>) -> bool {
    OWN.iter().any(|(table, chain)| save.has(table, chain))
}

/// How many rules of ours stand in this rule set, jumps included.
pub(super) fn own_rules(save: &Save<'_>) -> usize {
    let chains = OWN.iter().map(|(table, chain)| save.chain(table, chain).len());
    let jumps = SYSTEM
        .iter()
        .map(|(table, chain)| save.chain(table, chain).iter().filter(|rule| is_jump(rule)).count());
    chains.chain(jumps).sum()
}

/// The edits that bring the chains of ours to `wanted`; none when all is right, and for none wanted, those that take all
/// of them away. A chain is written as a whole, in one transaction with everything else of its table.
pub(super) fn plan_own(save: &Save<'_>, wanted: &[Chain]) -> Vec<Edit> {
    let wanted: Vec<&Chain> = wanted.iter().filter(|chain| is_needed(save, chain)).collect();
    let mut edits = Vec::new();
    for chain in wanted.iter().filter(|chain| !stands(save, chain)) {
        edits.push(edit(chain.table, chain.name, How::Make, ""));
    }
    let gone: Vec<_> = OWN
        .iter()
        .filter(|(table, name)| save.has(table, name))
        .filter(|(table, name)| !wanted.iter().any(|chain| (chain.table, chain.name) == (*table, *name)))
        .collect();
    edits.extend(gone.iter().map(|(table, name)| edit(table, name, How::Empty, "")));
    for chain in wanted.iter().filter(|chain| !stands(save, chain)) {
        edits.extend(chain.rules.iter().map(|rule| edit(chain.table, chain.name, How::Append, rule)));
    }
    for (table, from) in SYSTEM {
        edits.extend(jumps(save, table, from, &wanted));
    }
    edits.extend(gone.iter().map(|(table, name)| edit(table, name, How::Remove, "")));
    edits
}

/// Whether an edit is of a chain of ours, or of a rule that leads to one.
pub(super) fn concerns_own(edit: &Edit) -> bool {
    let rule = Rule { table: edit.table, chain: edit.chain, spec: &edit.spec, counters: None };
    OWN.contains(&(edit.table, edit.chain)) || is_jump(&rule)
}

/// Whether packets are to come to this chain, directly or by another one.
fn is_needed(save: &Save<'_>, chain: &Chain) -> bool {
    let tail = chain.jump.as_ref().filter(|jump| jump.place == JumpPlace::BeforeRefusal);
    tail.is_none_or(|jump| {
        let rules = save.chain(chain.table, jump.from);
        save.drops(chain.table, jump.from) || rules.iter().any(|rule| refuses_all(save, rule))
    })
}

/// Whether a rule of somebody else ends the way of every packet that no rule before has accepted: by itself, or as ufw
/// does it by the chain that it leads to. (The kernel takes no chains that lead in a circle.)
fn refuses_all(save: &Save<'_>, rule: &Rule<'_>) -> bool {
    let words = rule.conditions();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["-j", "DROP" | "REJECT", ..] => true,
        ["-j" | "-g", chain] => {
            let rules = save.chain(rule.table, chain);
            let passed = rules.iter().take_while(|rule| !lets_all_go(rule));
            passed.into_iter().any(|rule| refuses_all(save, rule))
        }
        _ => false,
    }
}

/// Whether no packet comes to the rules behind this one, and none is refused.
fn lets_all_go(rule: &Rule<'_>) -> bool {
    let words = rule.conditions();
    matches!(words.iter().map(String::as_str).collect::<Vec<_>>()[..], ["-j", "ACCEPT" | "RETURN"])
}

/// Whether a chain holds exactly its rules.
fn stands(save: &Save<'_>, chain: &Chain) -> bool {
    let found = save.chain(chain.table, chain.name);
    save.has(chain.table, chain.name)
        && found.len() == chain.rules.len()
        && found.iter().zip(&chain.rules).all(|(found, wanted)| same(found.spec, wanted))
}

/// The jumps of one chain of the system: those that stand as they should are left alone, all others go.
fn jumps(save: &Save<'_>, table: &'static str, from: &'static str, wanted: &[&Chain]) -> Vec<Edit> {
    let rules = save.chain(table, from);
    let wanted = wanted.iter().filter(|chain| chain.table == table);
    let wanted: Vec<_> =
        wanted.filter_map(|chain| chain.jump.as_ref()).filter(|jump| jump.from == from).collect();
    let refusal = rules.iter().position(|rule| refuses_all(save, rule)).unwrap_or(rules.len());
    let mut kept = Vec::new();
    for jump in &wanted {
        let mut at = rules.iter().enumerate().filter(|(_, rule)| same(rule.spec, &jump.rule));
        let place = at.next().map(|(index, _)| index).filter(|_| at.next().is_none());
        let right = |index: usize| match jump.place {
            JumpPlace::Head => index == 0,
            JumpPlace::Anywhere => true,
            JumpPlace::BeforeRefusal => index < refusal,
        };
        if place.is_some_and(right) {
            kept.push(&jump.rule);
        }
    }
    let is_stale = |rule: &Rule<'_>| is_jump(rule) && !kept.iter().any(|kept| same(rule.spec, kept));
    let mut edits: Vec<Edit> = rules
        .iter()
        .filter(|rule| is_stale(rule))
        .map(|rule| edit(table, from, How::Delete, rule.spec))
        .collect();
    // The rules before the refusal, as they are when each jump's turn comes.
    let before_refusal = rules[..refusal].iter().filter(|rule| !is_stale(rule)).count();
    let missing = wanted.iter().filter(|jump| !kept.contains(&&jump.rule));
    for (jump, before_refusal) in missing.zip(before_refusal..) {
        let how = match jump.place {
            JumpPlace::Head | JumpPlace::Anywhere => How::Insert(1),
            JumpPlace::BeforeRefusal if refusal < rules.len() => How::Insert(before_refusal + 1),
            JumpPlace::BeforeRefusal => How::Append,
        };
        edits.push(edit(table, from, how, &jump.rule));
    }
    edits
}

/// Whether a rule carries the comment `fw` and leads to a chain of ours.
fn is_jump(rule: &Rule<'_>) -> bool {
    let words = tokenise(rule.spec);
    let commented = words.windows(2).any(|pair| pair[0] == "--comment" && pair[1] == "fw");
    commented && jump_target(rule).is_some_and(|to| OWN.contains(&(rule.table, to.as_str())))
}

fn jump_target(rule: &Rule<'_>) -> Option<String> {
    let words = tokenise(rule.spec);
    words.iter().position(|word| word == "-j").and_then(|at| words.get(at + 1)).cloned()
}

/// Quotes and blanks aside.
fn same(found: &str, wanted: &str) -> bool {
    found == wanted || tokenise(found) == tokenise(wanted)
}

fn edit(table: &'static str, chain: &'static str, how: How, spec: &str) -> Edit {
    Edit { table, chain, how, spec: spec.to_owned() }
}

#[cfg(test)]
mod tests;
