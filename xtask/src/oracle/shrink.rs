//! A difference that no list allows, made small: fewer conversations, steps, rules, oddities; then a smaller host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::case::Case;
use super::policy::{Egress, Policy};
use super::replay::{Difference, Outcome, Twins};
use super::report::Report;
use super::topology::{MARKER, Topology};
use super::traffic::{Conversation, Form, Link};

/// Looks into each unlisted difference of a batch, writes a case for it, or reports that it did not show again.
pub(super) fn unlisted(
    twins: &mut Twins,
    policy: &Policy,
    batch: &[Conversation],
    outcome: &Outcome,
    report: &mut Report,
    folder: &Path,
) -> Result<()> {
    let mut seen = BTreeSet::new();
    for difference in outcome.unlisted() {
        if !seen.insert(difference.conversation) || seen.len() > MOST_CASES {
            continue;
        }
        let conversation = &batch[difference.conversation];
        println!("unlisted: {difference}\n  {conversation:?}");
        let mut search = Search { twins, policy: policy.clone(), until: Instant::now() + LIMIT };
        let Some((conversations, shown)) = search.reproduce(batch, difference)? else {
            report.unsteady(format!("{difference} in {conversation:?}"));
            continue;
        };
        let (conversations, shown) = search.minimise(conversations, shown)?;
        let policy = search.policy.clone();
        let case = Case {
            what: shown.to_string(),
            topology: twins.topology.only(&concerned(&twins.topology, &conversations)),
            policy,
            conversations,
        };
        let name = format!("seed-{}-{}-{}", report.seed, conversation.source_port, conversation.port);
        let small = shows_again(&case)?;
        let case = if small { case } else { Case { topology: twins.topology.clone(), ..case } };
        let file = case.write(folder, &name)?;
        println!("  made small: {shown}\n  {}", file.display());
        report.case(file);
    }
    Ok(())
}

/// Whether the case shows its difference on hosts of its own.
fn shows_again(case: &Case) -> Result<bool> {
    let mut twins = Twins::build(&case.topology, &case.policy)?;
    let outcome = twins.with_policy(&case.policy, |twins| twins.play(&case.conversations))?;
    Ok(outcome.unlisted().next().is_some())
}

/// Names of the containers that conversations are about: by name, by address, or by a port that they publish.
fn concerned(topology: &Topology, conversations: &[Conversation]) -> BTreeSet<String> {
    let spots = topology.spots();
    let mut names = BTreeSet::from([MARKER.to_owned()]);
    for conversation in conversations {
        let link = if let Link::Spot(name) = &conversation.link { name } else { &conversation.from };
        for (name, spot) in spots.iter().filter(|(_, spot)| spot.network.is_some()) {
            let own = |address: IpAddr| spot.address_like(address) == Some(address);
            if *name == conversation.from || name == link || own(conversation.source) || own(conversation.to)
            {
                names.insert(spot.place.clone());
            }
        }
        for container in &topology.containers {
            let ports = [conversation.port, conversation.source_port];
            if container.published.iter().any(|port| ports.contains(&port.host_port)) {
                names.insert(container.name.clone());
            }
        }
    }
    names
}

struct Search<'a> {
    twins: &'a mut Twins,
    policy: Policy,
    until: Instant,
}

/// What is still needed, and the difference that it shows.
type Found = (Vec<Conversation>, Difference);

impl Search<'_> {
    /// The difference again, from the conversation alone or from the whole batch.
    fn reproduce(&mut self, batch: &[Conversation], difference: &Difference) -> Result<Option<Found>> {
        let number = difference.conversation;
        let others: Vec<usize> = (0..batch.len()).filter(|other| linked(batch, number, *other)).collect();
        if let Some(found) = self.shows(&choose(batch, &others))? {
            return Ok(Some(found));
        }
        let Some(found) = self.shows(batch)? else { return Ok(None) };
        // Halves, quarters, … are left out as long as something unlisted shows.
        let mut current = found;
        let mut size = current.0.len() / 2;
        while size > 0 && Instant::now() < self.until {
            let mut start = 0;
            while start < current.0.len() && Instant::now() < self.until {
                let keep: Vec<usize> =
                    (0..current.0.len()).filter(|number| !(start..start + size).contains(number)).collect();
                match self.shows(&choose(&current.0, &keep))? {
                    Some(found) if !keep.is_empty() => current = found,
                    _ => start += size,
                }
            }
            size /= 2;
        }
        Ok(Some(current))
    }

    /// Leaves out what can be left out, until nothing can or the time is over.
    fn minimise(&mut self, conversations: Vec<Conversation>, shown: Difference) -> Result<Found> {
        let mut current = (conversations, shown);
        'again: while Instant::now() < self.until {
            for simpler in simpler(&current.0) {
                if Instant::now() >= self.until {
                    break;
                }
                if let Some(found) = self.shows(&simpler)? {
                    current = found;
                    continue 'again;
                }
            }
            for policy in simpler_policies(&self.policy) {
                if Instant::now() >= self.until {
                    break;
                }
                let before = std::mem::replace(&mut self.policy, policy);
                if let Some(found) = self.shows(&current.0)? {
                    current = found;
                    continue 'again;
                }
                self.policy = before;
            }
            break;
        }
        Ok(current)
    }

    /// Plays on hosts that remember nothing, patiently.
    fn shows(&mut self, conversations: &[Conversation]) -> Result<Option<Found>> {
        self.twins.set_patience(PATIENT);
        let outcome = self.twins.with_policy(&self.policy, |twins| twins.play(conversations));
        self.twins.set_patience(super::twin::PROXY);
        let shown = outcome?.unlisted().next().cloned();
        Ok(shown.map(|shown| (conversations.to_vec(), shown)))
    }
}

/// Whether one uses the other's tuple, or is it.
fn linked(batch: &[Conversation], number: usize, other: usize) -> bool {
    number == other || batch[number].after == Some(other) || batch[other].after == Some(number)
}

/// Those with these numbers; what uses the tuple of one that is left out stands alone.
fn choose(conversations: &[Conversation], numbers: &[usize]) -> Vec<Conversation> {
    let again = |conversation: &Conversation| {
        let after = conversation.after.and_then(|other| numbers.iter().position(|number| *number == other));
        Conversation { after, ..conversation.clone() }
    };
    numbers.iter().map(|number| again(&conversations[*number])).collect()
}

/// Everything that is one thing simpler.
fn simpler(conversations: &[Conversation]) -> Vec<Vec<Conversation>> {
    let mut all = Vec::new();
    let numbers = || 0..conversations.len();
    if conversations.len() > 1 {
        for without in numbers() {
            all.push(choose(
                conversations,
                &numbers().filter(|number| *number != without).collect::<Vec<_>>(),
            ));
        }
    }
    for number in numbers() {
        let conversation = &conversations[number];
        let mut with = |changed: Conversation| {
            let mut next = conversations.to_vec();
            next[number] = changed;
            all.push(next);
        };
        for step in 0..conversation.steps.len() {
            let mut changed = conversation.clone();
            changed.steps.remove(step);
            if !changed.steps.is_empty() {
                with(changed);
            }
            if !conversation.steps[step].form.is_plain() {
                let mut changed = conversation.clone();
                changed.steps[step].form = Form::Plain;
                with(changed);
            }
        }
        if conversation.start > 0 && conversation.after.is_none() {
            with(Conversation { start: 0, ..conversation.clone() });
        }
        if conversation.source_mac.is_some() {
            with(Conversation { source_mac: None, ..conversation.clone() });
        }
        if conversation.link != Link::NextHop {
            with(Conversation { link: Link::NextHop, ..conversation.clone() });
        }
    }
    all
}

fn simpler_policies(policy: &Policy) -> Vec<Policy> {
    let mut all = Vec::new();
    for rule in 0..policy.allow.len() {
        let mut without = policy.clone();
        without.allow.remove(rule);
        all.push(without);
        if policy.allow[rule].ports.len() > 1 {
            for port in 0..policy.allow[rule].ports.len() {
                let mut without = policy.clone();
                without.allow[rule].ports.remove(port);
                all.push(without);
            }
        }
        if !policy.allow[rule].from.is_empty() {
            let mut anybody = policy.clone();
            anybody.allow[rule].from.clear();
            all.push(anybody);
        }
    }
    if !policy.deny.is_empty() {
        all.push(Policy { deny: Vec::new(), ..policy.clone() });
    }
    if !policy.spoofing.is_empty() {
        all.push(Policy { spoofing: Vec::new(), ..policy.clone() });
    }
    let clear: [fn(&mut Policy); 6] = [
        |policy| policy.out.clear(),
        |policy| policy.icc.clear(),
        |policy| policy.reach.clear(),
        |policy| policy.networks.clear(),
        |policy| policy.containers.clear(),
        |policy| policy.xdp = None,
    ];
    for clear in clear {
        let mut without = policy.clone();
        clear(&mut without);
        all.push(without);
    }
    let names = |all: &BTreeMap<String, _>| all.keys().cloned().collect::<Vec<_>>();
    for name in names(&policy.networks) {
        let mut without = policy.clone();
        without.networks.remove(&name);
        all.push(without);
    }
    for name in names(&policy.containers) {
        let mut without = policy.clone();
        without.containers.remove(&name);
        all.push(without);
    }
    all.retain(|simpler| simpler != policy);
    if !policy.careful {
        all.push(Policy { careful: true, ..policy.clone() });
    }
    if policy.published_open {
        all.push(Policy { published_open: false, ..policy.clone() });
    }
    let used = |name: &String| {
        let terms = policy.networks.values().chain(policy.containers.values());
        policy.deny.contains(name)
            || policy.allow.iter().any(|rule| rule.from.contains(name))
            || policy.out.iter().any(|rule| rule.to.contains(name))
            || terms
                .into_iter()
                .any(|terms| matches!(&terms.egress, Some(Egress::Sets(names)) if names.contains(name)))
    };
    if policy.sets.keys().any(|name| !used(name)) {
        let mut without = policy.clone();
        without.sets.retain(|name, _| used(name));
        all.insert(0, without);
    }
    all
}

/// Time to make one difference small, and differences of one batch that are looked into.
const LIMIT: Duration = Duration::from_secs(45);
const MOST_CASES: usize = 4;
/// How long docker-proxy may take when it matters.
const PATIENT: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::super::traffic::Traffic;
    use super::*;

    #[test]
    fn whatever_is_simpler_is_another() {
        let mut random = Random::new(3);
        let topology = Topology::random(&mut random);
        let mut traffic = Traffic::new(&topology);
        let all: Vec<_> = (0..40).flat_map(|number| traffic.random(&mut random, number)).collect();
        assert!(simpler(&all).iter().all(|next| *next != all));
        let policy = Policy::random(&mut random, &topology);
        assert!(simpler_policies(&policy).iter().all(|next| *next != policy));
    }

    #[test]
    fn whoever_uses_a_tuple_finds_it_under_its_new_number() {
        let mut random = Random::new(5);
        let topology = Topology::random(&mut random);
        let mut traffic = Traffic::new(&topology);
        let mut all = Vec::new();
        while !all.iter().any(|it: &Conversation| it.after.is_some()) {
            let more = traffic.random(&mut random, all.len());
            all.extend(more);
        }
        let number = all.iter().position(|it| it.after.is_some()).expect("one that follows");
        let first = all[number].after.expect("it follows");
        let chosen = choose(&all, &[first, number]);
        assert_eq!(chosen[1].after, Some(0));
        assert_eq!(choose(&all, &[number])[0].after, None);
    }
}
