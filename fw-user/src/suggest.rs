//! `fw suggest`: the least policy that would have passed what `mode = "observe"` saw, for review.
//!
//! Pure: no I/O, no clock. What was observed is sorted into wishes ([`Wish`]), each of which is one thing that a policy can
//! say; what no policy can allow, what nobody answers, and who tries many closed ports is left out, and said.

mod file;
mod gather;
mod passed;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use fw_common::Address;
use fw_common::tables::{Observed, ObservedKey, capacity};
use serde::Serialize;

use self::file::Draft;
use self::gather::{Gathered, Group, Wish};
use crate::inventory::Inventory;
use crate::policy::{Egress, Origin, Policy};
use crate::view;

/// What a suggestion is made of.
pub struct Seen<'a> {
    /// The text of the policy file.
    pub text: &'a str,
    /// What it says.
    pub policy: &'a Policy,
    /// What was observed.
    pub observed: &'a BTreeMap<ObservedKey, Observed>,
    /// Second of the monotonic clock.
    pub now: u32,
    /// Docker's and the kernel's view joined.
    pub inventory: &'a Inventory,
    /// Sockets of this host that take what comes: protocol number, address, port.
    pub listening: &'a BTreeSet<(u8, Address, u16)>,
    /// Fewer packets make no suggestion.
    pub min_packets: u64,
    /// The table is nearly full ([`NEARLY_FULL`]).
    pub full: bool,
}

/// With so many entries the least recently seen may have gone: the kernel makes room before the table is full to the last.
pub const NEARLY_FULL: usize = capacity::OBSERVED / 8 * 7;

/// What is to be said of a full table.
pub const INCOMPLETE: &str =
    "the table of what was observed is nearly full: what was seen least recently may be missing here";

/// The policy that is suggested, and why.
#[derive(Debug, Serialize)]
pub struct Suggestion {
    /// The policy file's text, with what is missing.
    pub policy: String,
    /// What was added, in the order of the text.
    pub suggested: Vec<Added>,
    /// What was observed and is not suggested.
    pub not_suggested: Vec<Left>,
    /// The table was nearly full: something may be missing.
    pub incomplete: bool,
}

/// One addition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Added {
    /// The key or section of the policy: `allow`, `out`, `reach`, `icc`, `egress`, `host`.
    pub kind: &'static str,
    /// The rule's name, or the network's or container's.
    pub name: String,
    /// What it says, as TOML.
    pub says: String,
    /// How many packets it would have passed.
    pub packets: u64,
    /// Who sent them; to whom they went, of what containers and the host itself open.
    pub peers: Vec<String>,
    /// Seconds since the first.
    pub first_seconds_ago: u32,
    /// Seconds since the last.
    pub last_seconds_ago: u32,
}

/// What is not suggested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    /// What it was.
    pub what: String,
    /// Why it is left out.
    pub why: String,
    /// How many packets.
    pub packets: u64,
    /// From whom.
    pub sources: Vec<String>,
}

/// How many prefixes a rule names; more peers than that are any.
const MOST_PREFIXES: usize = 16;

/// How many peers a comment names.
const MOST_NAMED: usize = 6;

/// What the policy lacks, as its own text with additions. The caller checks the text as any other policy.
pub fn suggest(seen: &Seen<'_>) -> Suggestion {
    let gathered = gather::gather(seen);
    let mut draft = Draft::new(seen.text);
    let mut suggested = Vec::new();
    rules(seen, &gathered, &mut draft, &mut suggested);
    for (wish, group) in &gathered.wishes {
        suggested.extend(setting(seen, wish, group, &mut draft));
    }
    let mut not_suggested: Vec<Left> = gathered
        .left
        .iter()
        .map(|((what, why), group)| Left {
            what: what.clone(),
            why: why.clone(),
            packets: group.packets,
            sources: named(&group.peers, MOST_PREFIXES),
        })
        .collect();
    not_suggested.extend(draft.refused.drain(..).map(|(what, why)| Left {
        what,
        why,
        packets: 0,
        sources: Vec::new(),
    }));
    let policy = draft.finish(&not_suggested, suggested.len(), seen.full);
    Suggestion { policy, suggested, not_suggested, incomplete: seen.full }
}

/// `[[allow]]` and `[[out]]` rules: ports of one service with the same peers are one rule.
fn rules(seen: &Seen<'_>, gathered: &Gathered, draft: &mut Draft<'_>, suggested: &mut Vec<Added>) {
    /// Whether it goes out, protocol, who answers, peers.
    type Service = (bool, u8, String, Option<Vec<String>>);
    let mut joined: BTreeMap<Service, (Vec<u16>, Group)> = BTreeMap::new();
    for (wish, group) in &gathered.wishes {
        let (out, proto, port, owner) = match wish {
            Wish::Allow { proto, port } => (false, *proto, *port, owner(seen, *proto, *port)),
            Wish::Out { proto, port } => (true, *proto, *port, "out".to_owned()),
            Wish::Reach { .. } | Wish::Icc { .. } | Wish::Egress { .. } | Wish::Host { .. } => continue,
        };
        let (ports, all) = joined.entry((out, proto, owner, prefixes(&group.peers))).or_default();
        ports.push(port);
        all.join(group);
    }
    let policy = seen.policy;
    let mut names: BTreeSet<String> = policy.allow.iter().map(|rule| rule.name.clone()).collect();
    names.extend(policy.deny.iter().map(|rule| rule.name.clone()));
    names.extend(policy.out.iter().map(|rule| rule.name.clone()));
    names.extend(policy.limits.iter().map(|rule| rule.name.clone()));
    for ((out, proto, owner, peers), (ports, group)) in joined {
        let word = view::protocol(proto);
        let first =
            if proto == fw_common::wire::proto::ICMP { String::new() } else { format!(" {}", ports[0]) };
        let wanted: String = format!("{} {word}{first}", owner.chars().take(40).collect::<String>());
        let name = (2..).map(|n| format!("{wanted} ({n})"));
        let name = std::iter::once(wanted.clone()).chain(name).find(|name| names.insert(name.clone()));
        let name = name.expect("there are endless numbers");
        let (kind, direction) = if out { ("out", "to") } else { ("allow", "from") };
        let mut says = format!("[[{kind}]]\nname = {}\nproto = \"{word}\"\n", file::quoted(&name));
        if proto != fw_common::wire::proto::ICMP {
            says += &format!("ports = [{}]\n", ranges(&ports).join(", "));
        }
        match &peers {
            Some(peers) => {
                let peers: Vec<String> = peers.iter().map(|peer| file::quoted(peer)).collect();
                says += &format!("{direction} = [{}]\n", peers.join(", "));
            }
            None => {
                says += &format!(
                    "# REVIEW: {direction} any: {} addresses, too many and too far apart to name; with this rule \
                     everybody may: is it meant for all?\n",
                    group.peers.len()
                );
            }
        }
        let owner = if out { "opened by this host".to_owned() } else { answered(&owner, &group) };
        draft.rule(&format!("{}; {owner}", told(&group, seen.now, direction)), &says);
        suggested.push(added(kind, name, says, &group, seen.now));
    }
}

/// Keys of `[networks.NAME]` and `[containers.NAME]`.
fn setting(seen: &Seen<'_>, wish: &Wish, group: &Group, draft: &mut Draft<'_>) -> Option<Added> {
    let policy = seen.policy;
    let place = |network: &String, container: &Option<String>| match container {
        Some(container) => ("containers", container.clone()),
        None => ("networks", network.clone()),
    };
    let (kind, (table, name), value) = match wish {
        Wish::Allow { .. } | Wish::Out { .. } => return None,
        Wish::Reach { from, .. } => {
            // All that it reaches is one key: the first of its wishes writes it.
            let mut reached: BTreeSet<&String> = policy.network(from).reach.iter().collect();
            let mine = gather::reached_from(&group.beside, from);
            if mine.is_empty() {
                return None;
            }
            reached.extend(mine);
            let names: Vec<String> = reached.iter().map(|name| file::quoted(name)).collect();
            ("reach", ("networks", from.clone()), format!("[{}]", names.join(", ")))
        }
        Wish::Icc { network } => ("icc", ("networks", network.clone()), "true".to_owned()),
        Wish::Host { network, container } => ("host", place(network, container), "\"allow\"".to_owned()),
        Wish::Egress { network, container } => {
            let now = policy.egress(network, container.as_deref());
            let value = match (prefixes(&group.peers), now) {
                (Some(peers), Egress::None | Egress::To(_)) => {
                    // What stands there as prefixes is a set without a name of its own.
                    let before = now.sets().iter().flat_map(|name| match policy.sets.get(name) {
                        Some(set) if set.origin == Origin::Inline => {
                            set.prefixes.iter().map(ToString::to_string).collect()
                        }
                        Some(_) | None => vec![name.to_string()],
                    });
                    let all: BTreeSet<String> = before.chain(peers).collect();
                    let all: Vec<String> = all.iter().map(|peer| file::quoted(peer)).collect();
                    format!("[{}]", all.join(", "))
                }
                (None, Egress::None | Egress::To(_)) if group.peers.iter().all(Address::is_public) => {
                    "\"internet\"".to_owned()
                }
                (_, Egress::None | Egress::To(_) | Egress::Internet | Egress::Any) => "\"any\"".to_owned(),
            };
            ("egress", place(network, container), value)
        }
    };
    let direction = if kind == "egress" { "to" } else { "from" };
    let comment = told(group, seen.now, direction);
    draft.set(table, &name, kind, &value, &comment).then(|| {
        let says = format!("[{table}.{}]\n{kind} = {value}\n", file::key(&name));
        added(kind, name, says, group, seen.now)
    })
}

fn added(kind: &'static str, name: String, says: String, group: &Group, now: u32) -> Added {
    Added {
        kind,
        name,
        says,
        packets: group.packets,
        peers: group.peers.iter().map(ToString::to_string).collect(),
        first_seconds_ago: now.saturating_sub(group.first),
        last_seconds_ago: now.saturating_sub(group.last),
    }
}

/// Who answers, and where it was asked for: a rule has no address of this host, and opens the port at all of them.
fn answered(owner: &str, group: &Group) -> String {
    format!("answered by {owner}, asked for at {}", named(&group.at, MOST_NAMED).join(", "))
}

/// Who answers at a port of this host.
fn owner(seen: &Seen<'_>, proto: u8, port: u16) -> String {
    let containers: BTreeSet<&str> = seen
        .inventory
        .published
        .iter()
        .filter(|published| published.protocol.number() == proto && published.host_port == port)
        .map(|published| published.container.as_str())
        .collect();
    if containers.is_empty() {
        "host".to_owned()
    } else {
        containers.into_iter().collect::<Vec<_>>().join(" and ")
    }
}

/// What a person wants to know of a group.
fn told(group: &Group, now: u32, direction: &str) -> String {
    let ago = |second: u32| {
        let seconds = now.saturating_sub(second);
        match seconds {
            0..120 => format!("{seconds} s"),
            120..7200 => format!("{} min", seconds / 60),
            7200..172_800 => format!("{} h", seconds / 3600),
            _ => format!("{} days", seconds / 86_400),
        }
    };
    let senders = if group.senders.is_empty() {
        String::new()
    } else {
        format!(", sent by {}", group.senders.iter().cloned().collect::<Vec<_>>().join(", "))
    };
    format!(
        "{} {direction} {}{senders}; first {} ago, last {} ago",
        counted(group.packets),
        named(&group.peers, MOST_NAMED).join(", "),
        ago(group.first),
        ago(group.last)
    )
}

/// So many packets, in words.
fn counted(packets: u64) -> String {
    format!("{packets} packet{}", if packets == 1 { "" } else { "s" })
}

/// The first few, and how many more.
fn named(peers: &BTreeSet<Address>, most: usize) -> Vec<String> {
    let mut names: Vec<String> = peers.iter().take(most).map(ToString::to_string).collect();
    if peers.len() > most {
        names.push(format!("and {} more", peers.len() - most));
    }
    names
}

/// The addresses, or the /24 and /64 that they lie in, if these are few; `None` if they are many.
fn prefixes(peers: &BTreeSet<Address>) -> Option<Vec<String>> {
    if peers.len() <= MOST_PREFIXES {
        return Some(peers.iter().map(ToString::to_string).collect());
    }
    let around = |address: &Address| {
        let mut address = *address;
        let (keep, bits) = if address.is_v4() { (15, 24) } else { (8, 64) };
        address.bytes[keep..].fill(0);
        format!("{address}/{bits}")
    };
    let around: BTreeSet<String> = peers.iter().map(around).collect();
    (around.len() <= MOST_PREFIXES).then(|| around.into_iter().collect())
}

/// Ports as the policy writes them: runs as ranges. They come in ascending order.
fn ranges(ports: &[u16]) -> Vec<String> {
    let written = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("\"{first}-{last}\"") }
    };
    view::runs(ports.iter().copied()).iter().map(written).collect()
}
