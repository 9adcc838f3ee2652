//! Bans among the denials: they share the table with the policy's, under a rule of their own.
//!
//! Where a ban and a rule of the policy deny the same prefix, it stands there as the ban's until that is over: so what is
//! in force tells by itself what is banned.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::tables::{DenyRule, NameKey, Prefix, capacity, name_kind};
use ipnet::IpNet;

use super::{DesiredError, Prepared, prefix_of, rule_key};
use crate::plan::{State, Step};
use crate::policy::{BAN_RULE, TableSizes, table_prefixes};

/// The denials of the policy that bans stand in for.
pub(super) type Covered = BTreeMap<Prefix, DenyRule>;

/// What is banned in what is in force.
pub fn banned_in(state: &State) -> BTreeSet<Prefix> {
    let Some(rule) = known(&state.names) else { return BTreeSet::new() };
    let denied = state.tables.denied.iter();
    denied.filter(|(_, denied)| denied.rule == rule).map(|(prefix, _)| *prefix).collect()
}

/// These prefixes as they stand in tables.
pub fn in_tables<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>) -> impl Iterator<Item = Prefix> {
    prefixes.into_iter().flat_map(table_prefixes).map(prefix_of)
}

/// The number of the rule of bans, once there was one.
fn known(names: &BTreeMap<NameKey, String>) -> Option<u32> {
    let ban = |(key, name): &(&NameKey, &String)| key.kind == name_kind::RULE && *name == BAN_RULE;
    names.iter().find(ban).map(|(key, _)| key.id)
}

/// How many single addresses and prefixes are denied.
#[derive(Clone, Copy, Default)]
struct Room {
    hosts: usize,
    prefixes: usize,
}

impl Room {
    fn add(&mut self, is_host: bool) {
        *(if is_host { &mut self.hosts } else { &mut self.prefixes }) += 1;
    }

    fn is_within(&self, sizes: &TableSizes) -> bool {
        self.hosts <= sizes.hosts as usize && self.prefixes <= sizes.prefixes as usize
    }
}

impl Prepared {
    /// The same, with these prefixes banned. Once numbered the rule stays: its counters belong to it.
    pub fn banning(
        mut self,
        bans: impl IntoIterator<Item = Prefix>,
        current: &State,
    ) -> Result<Self, DesiredError> {
        if let Some(rule) = known(&current.names) {
            self.rules.insert(BAN_RULE.to_owned(), rule);
        }
        self.ban(bans, current)?;
        Ok(self)
    }

    /// As [`Prepared::banning`], without the bans for which the tables have no room beside the policy's denials, what is in
    /// force still among them; and how many those are.
    pub fn banning_what_fits<'a>(
        self,
        bans: impl IntoIterator<Item = &'a IpNet>,
        current: &State,
        sizes: &TableSizes,
    ) -> Result<(Self, usize), DesiredError> {
        let mut bans = bans.into_iter().peekable();
        if bans.peek().is_none() {
            // Most hosts need no counting.
            return Ok((self.banning([], current)?, 0));
        }
        let is_host = |prefix: &Prefix| prefix.bits == 128;
        let mut denied = Room::default();
        self.denied.keys().for_each(|prefix| denied.add(is_host(prefix)));
        // On the way from what is in force to what is wanted both stand in the tables.
        let mut together = denied;
        let stale = current.tables.denied.keys().filter(|prefix| !self.denied.contains_key(prefix));
        stale.for_each(|prefix| together.add(is_host(prefix)));
        let (mut fitting, mut left_out) = (Vec::new(), 0);
        for ban in bans {
            let (mut denied_with, mut together_with) = (denied, together);
            for prefix in in_tables([ban]).filter(|prefix| !self.denied.contains_key(prefix)) {
                denied_with.add(is_host(&prefix));
                if !current.tables.denied.contains_key(&prefix) {
                    together_with.add(is_host(&prefix));
                }
            }
            if denied_with.is_within(sizes) && together_with.is_within(sizes) {
                (denied, together) = (denied_with, together_with);
                fitting.push(ban);
            } else {
                left_out += 1;
            }
        }
        Ok((self.banning(in_tables(fitting), current)?, left_out))
    }

    /// Bans these prefixes, too; the steps that put it in force.
    pub fn ban(
        &mut self,
        prefixes: impl IntoIterator<Item = Prefix>,
        current: &State,
    ) -> Result<Vec<Step>, DesiredError> {
        let mut steps = Vec::new();
        for prefix in prefixes {
            let rule = self.ban_rule(current)?;
            if self.denied.get(&prefix) == Some(&DenyRule { rule }) {
                continue;
            }
            match self.denied.insert(prefix, DenyRule { rule }) {
                Some(before) => _ = self.covered.insert(prefix, before),
                None => self.hosts.1 += usize::from(prefix.bits == 128),
            }
            steps.push(Step::Denied(prefix, Some(DenyRule { rule })));
        }
        if steps.is_empty() {
            return Ok(steps);
        }
        let rule = self.ban_rule(current)?;
        let mut settings = current.tables.settings;
        settings.deny = 1;
        let before = [
            (known(&current.names) != Some(rule))
                .then(|| Step::Name(rule_key(rule), Some(BAN_RULE.to_owned()))),
            (settings != current.tables.settings).then_some(Step::Settings(settings)),
        ];
        Ok(before.into_iter().flatten().chain(steps).collect())
    }

    /// Ends the ban of these prefixes; the steps that put it in force. What the policy denies stays denied.
    pub fn lift(&mut self, prefixes: impl IntoIterator<Item = Prefix>) -> Vec<Step> {
        let Some(rule) = self.rules.get(BAN_RULE).copied() else { return Vec::new() };
        let mut steps = Vec::new();
        for prefix in prefixes {
            if self.denied.get(&prefix) != Some(&DenyRule { rule }) {
                continue;
            }
            let before = self.covered.remove(&prefix);
            if let Some(before) = before {
                self.denied.insert(prefix, before);
            } else {
                self.denied.remove(&prefix);
                self.hosts.1 -= usize::from(prefix.bits == 128);
            }
            steps.push(Step::Denied(prefix, before));
        }
        steps
    }

    /// How many of the denials are single addresses, and how many are prefixes.
    pub fn denials(&self) -> (usize, usize) {
        (self.hosts.1, self.denied.len() - self.hosts.1)
    }

    /// The denials, the policy's and bans.
    pub fn denied(&self) -> &fw_common::tables::memory::Shared<BTreeMap<Prefix, DenyRule>> {
        &self.denied
    }

    fn ban_rule(&mut self, current: &State) -> Result<u32, DesiredError> {
        if let Some(rule) = self.rules.get(BAN_RULE) {
            return Ok(*rule);
        }
        let named = current.names.keys().filter(|key| key.kind == name_kind::RULE).map(|key| key.id);
        let taken: BTreeSet<u32> = named.chain(self.rules.values().copied()).collect();
        let free = (1..capacity::RULES).find(|id| !taken.contains(id));
        let rule = free.ok_or(DesiredError::TooManyRules)?;
        self.rules.insert(BAN_RULE.to_owned(), rule);
        Ok(rule)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::Policy;

    const DENY: &str = "[[deny]]\nname = \"scanners\"\nfrom = [\"192.0.2.1\", \"198.51.100.0/24\"]\n";

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    fn prepared_policy() -> Policy {
        Policy::parse(DENY, Path::new("p"), Path::new(".")).expect("a policy")
    }

    fn prepared(current: &State) -> Prepared {
        Prepared::new(&prepared_policy(), current).expect("it fits")
    }

    /// What is in force after these steps.
    fn carry_out(state: &mut State, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Denied(key, Some(value)) => _ = state.tables.denied.insert(key, value),
                Step::Denied(key, None) => _ = state.tables.denied.remove(&key),
                Step::Name(key, Some(name)) => _ = state.names.insert(key, name),
                Step::Settings(settings) => state.tables.settings = settings,
                other => panic!("no step of a ban: {other:?}"),
            }
        }
    }

    #[test]
    fn what_the_policy_denies_stays_denied_when_a_ban_is_over() {
        let mut state = State::default();
        let mut prepared = prepared(&state);
        let of_policy = prepared.denied().clone();
        state.tables.denied = of_policy.clone();
        let bans = [net("192.0.2.1/32"), net("203.0.113.0/24"), net("2001:db8::1/128")];
        let steps = prepared.ban(in_tables(&bans), &state).expect("room");
        assert!(matches!(steps[..2], [Step::Name(..), Step::Settings(_)]), "{steps:?}");
        carry_out(&mut state, steps);
        assert_eq!(state.tables.denied, *prepared.denied());
        assert_eq!(state.tables.settings.deny, 1);
        assert_eq!(banned_in(&state), in_tables(&bans).collect());
        assert_eq!(prepared.denials(), (2, 2));
        assert_eq!(prepared.ban(in_tables(&bans), &state), Ok(Vec::new()), "once is enough");

        carry_out(&mut state, prepared.lift(in_tables(&bans)));
        assert_eq!(state.tables.denied, *prepared.denied());
        assert_eq!(*state.tables.denied, *of_policy);
        assert_eq!(prepared.lift(in_tables(&bans)), [], "and no more than that");
        assert_eq!(prepared.denials(), (1, 1));
    }

    #[test]
    fn bans_without_room_are_left_out() {
        let state = State::default();
        let bans = ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32", "203.0.113.0/24"].map(net);
        let mut sizes = TableSizes { hosts: 2, prefixes: 2, ..prepared_policy().tables };
        let fits = |sizes: &TableSizes, state: &State| {
            let (prepared, left_out) =
                prepared(state).banning_what_fits(&bans, state, sizes).expect("numbers");
            (prepared.denials(), left_out)
        };
        assert_eq!(fits(&sizes, &state), ((2, 2), 1), "one of them is the policy's, too");
        let mut earlier = State::default();
        earlier
            .tables
            .denied
            .insert(in_tables(&[net("198.18.0.1/32")]).next().expect("it"), DenyRule { rule: 1 });
        assert_eq!(fits(&sizes, &earlier), ((1, 2), 2), "what is in force stands beside it");
        sizes.hosts = 4;
        assert_eq!(fits(&sizes, &earlier), ((3, 2), 0));
    }

    #[test]
    fn the_rule_of_bans_keeps_its_number() {
        let mut state = State::default();
        let mut first = prepared(&state);
        let steps = first.ban(in_tables(&[net("192.0.2.7/32")]), &state).expect("room");
        carry_out(&mut state, steps);
        let number = known(&state.names).expect("a number");
        state.names.insert(rule_key(1), "scanners".to_owned());
        let again = prepared(&state).banning([], &state).expect("room");
        assert_eq!(again.rules.get(BAN_RULE), Some(&number));
        assert_eq!(again.denials(), (1, 1), "nobody is banned by it");
    }
}
