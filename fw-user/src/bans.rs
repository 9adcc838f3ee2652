//! Bans: sources that a person or a program shuts out while the daemon runs, for a time or until they are lifted.
//!
//! Their ends are told in seconds of the wall clock, for the monotonic one does not outlive a boot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod store;

pub use store::{Change, Store, beside};

/// A source that is shut out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Who.
    pub prefix: IpNet,
    /// Since this second of the wall clock (Unix time).
    pub since: u64,
    /// Up to this second; `None`: until it is lifted.
    pub until: Option<u64>,
    /// What was given as the reason.
    pub why: Option<String>,
}

impl Ban {
    /// Whether it is over at this second.
    pub fn is_over(&self, now: u64) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// All bans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bans {
    bans: BTreeMap<IpNet, Ban>,
    /// The ends of those that end.
    ends: BTreeSet<(u64, IpNet)>,
}

impl Bans {
    /// Bans, or bans for longer: of two ends the later counts, and no end is later than any. What stands then.
    pub fn put(&mut self, asked: Ban) -> &Ban {
        let ban = match self.lift(&asked.prefix) {
            None => asked,
            Some(before) => Ban {
                until: before.until.zip(asked.until).map(|(one, other)| one.max(other)),
                why: asked.why.or(before.why),
                ..before
            },
        };
        self.ends.extend(ban.until.map(|until| (until, ban.prefix)));
        self.bans.entry(ban.prefix).insert_entry(ban).into_mut()
    }

    /// Ends a ban.
    pub fn lift(&mut self, prefix: &IpNet) -> Option<Ban> {
        let ban = self.bans.remove(prefix)?;
        if let Some(until) = ban.until {
            self.ends.remove(&(until, ban.prefix));
        }
        Some(ban)
    }

    /// Ends the bans whose time is over at this second.
    pub fn end(&mut self, now: u64) -> Vec<Ban> {
        let over: Vec<IpNet> =
            self.ends.iter().take_while(|(until, _)| *until <= now).map(|(_, prefix)| *prefix).collect();
        over.iter().filter_map(|prefix| self.lift(prefix)).collect()
    }

    /// The second in which the next one ends.
    pub fn next_end(&self) -> Option<u64> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// The ban of exactly this prefix.
    pub fn get(&self, prefix: &IpNet) -> Option<&Ban> {
        self.bans.get(prefix)
    }

    /// Whether exactly this prefix is banned.
    pub fn holds(&self, prefix: &IpNet) -> bool {
        self.bans.contains_key(prefix)
    }

    /// All of them, by prefix.
    pub fn iter(&self) -> impl Iterator<Item = &Ban> {
        self.bans.values()
    }

    /// Who is banned.
    pub fn prefixes(&self) -> impl Iterator<Item = &IpNet> {
        self.bans.keys()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.bans.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bans.is_empty()
    }
}

/// The second of the wall clock.
pub fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
pub(crate) fn sample(prefix: &str, until: Option<u64>) -> Ban {
    Ban { prefix: prefix.parse().expect("a prefix"), since: 100, until, why: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_lasts_as_long_as_the_longest_that_was_asked_for() {
        let mut bans = Bans::default();
        let mut put = |until| bans.put(sample("192.0.2.1/32", until)).until;
        assert_eq!(put(Some(200)), Some(200));
        assert_eq!(put(Some(300)), Some(300));
        assert_eq!(put(Some(250)), Some(300), "asked again for less");
        assert_eq!(put(None), None);
        assert_eq!(put(Some(400)), None, "no end is later than any");
        assert_eq!(bans.next_end(), None);
        assert_eq!(bans.len(), 1);
        assert!(bans.lift(&sample("192.0.2.1/32", None).prefix).is_some());
        assert!(bans.lift(&sample("192.0.2.1/32", None).prefix).is_none());
    }

    #[test]
    fn a_reason_stays_until_another_is_given() {
        let mut bans = Bans::default();
        let with = |why: Option<&str>| Ban { why: why.map(str::to_owned), ..sample("192.0.2.1/32", None) };
        assert_eq!(bans.put(with(Some("ssh"))).why.as_deref(), Some("ssh"));
        assert_eq!(bans.put(with(None)).why.as_deref(), Some("ssh"));
        assert_eq!(bans.put(with(Some("web"))).why.as_deref(), Some("web"));
    }

    #[test]
    fn those_end_whose_time_is_over() {
        let mut bans = Bans::default();
        for (prefix, until) in [
            ("192.0.2.1/32", Some(200)),
            ("192.0.2.2/32", Some(201)),
            ("2001:db8::/64", Some(200)),
            ("192.0.2.3/32", None),
        ] {
            bans.put(sample(prefix, until));
        }
        assert_eq!(bans.next_end(), Some(200));
        assert_eq!(bans.end(199), []);
        let ended: Vec<String> = bans.end(200).iter().map(|ban| ban.prefix.to_string()).collect();
        assert_eq!(ended, ["192.0.2.1/32", "2001:db8::/64"]);
        assert_eq!((bans.len(), bans.next_end()), (2, Some(201)));
    }
}
