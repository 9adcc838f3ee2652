//! The labels of containers: what their values say, in the words of the policy file.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::words::Word;
use super::{HostAccess, Origin, Policy, SetName, prefix};

/// What all labels of fw begin with.
pub(crate) const PREFIX: &str = "fw.";

/// A label of fw on a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LabelKey {
    /// `fw.allow_from`: who may use its published ports.
    AllowFrom,
    /// `fw.egress`: where it may open connections to outside.
    Egress,
    /// `fw.host`: whether it may open connections to this host.
    Host,
    /// `fw.icc`: whether it and its neighbours may talk to each other.
    Icc,
}

impl LabelKey {
    /// Every label.
    pub const ALL: [Self; 4] = [Self::AllowFrom, Self::Egress, Self::Host, Self::Icc];

    /// Its name on a container.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllowFrom => "fw.allow_from",
            Self::Egress => "fw.egress",
            Self::Host => "fw.host",
            Self::Icc => "fw.icc",
        }
    }

    /// Whether a name is one that looks like ours and is none of them.
    pub fn is_mistaken(name: &str) -> bool {
        name.starts_with(PREFIX) && Self::ALL.iter().all(|key| key.name() != name)
    }
}

/// Peers that a label names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Everybody.
    Any,
    /// Nobody.
    None,
    /// Public addresses.
    Internet,
    /// Members of sets of the policy, and of these prefixes.
    Of {
        /// Sets of the policy.
        sets: BTreeSet<SetName>,
        /// What is written in the label itself.
        prefixes: BTreeSet<IpNet>,
    },
}

/// The value of `fw.egress`.
pub fn egress(value: &str, policy: &Policy) -> Result<Peers, String> {
    peers(
        value,
        policy,
        "\"any\", \"none\", \"internet\", or names of sets and prefixes with commas between them",
    )
}

/// The value of `fw.allow_from`.
pub fn allow_from(value: &str, policy: &Policy) -> Result<Peers, String> {
    let expected = "\"any\", \"none\", or names of sets and prefixes with commas between them";
    match peers(value, policy, expected)? {
        Peers::Internet => Err(wrong(value, expected)),
        other => Ok(other),
    }
}

/// The value of `fw.host`.
pub fn host(value: &str) -> Result<HostAccess, String> {
    let word = HostAccess::ALL.iter().find(|word| Word::word(**word) == value.trim());
    word.copied().ok_or_else(|| wrong(value, "\"allow\" or \"deny\""))
}

/// The value of `fw.icc`.
pub fn icc(value: &str) -> Result<bool, String> {
    value.trim().parse().map_err(|_| wrong(value, "\"true\" or \"false\""))
}

/// Whoever writes labels must not fill the tables, which would stop everything: longer lists are the policy's.
const MOST_PREFIXES: usize = 64;

fn peers(value: &str, policy: &Policy, expected: &str) -> Result<Peers, String> {
    match value.trim() {
        "any" => return Ok(Peers::Any),
        "none" => return Ok(Peers::None),
        "internet" => return Ok(Peers::Internet),
        _ => {}
    }
    let (mut sets, mut prefixes) = (BTreeSet::new(), BTreeSet::new());
    for word in value.split([',', ' ']).filter(|word| !word.is_empty()) {
        let name = SetName(word.to_owned());
        if policy.sets.get(&name).is_some_and(|set| set.origin != Origin::Inline) {
            sets.insert(name);
        } else if prefix::looks_like_prefix(word) {
            prefixes.insert(prefix::parse(word)?);
        } else {
            return Err(format!("{word:?} is no set of the policy; expected {expected}"));
        }
    }
    if sets.is_empty() && prefixes.is_empty() {
        Err(wrong(value, expected))
    } else if prefixes.len() > MOST_PREFIXES {
        Err(format!("more than {MOST_PREFIXES} prefixes; name a set of the policy"))
    } else {
        Ok(Peers::Of { sets, prefixes })
    }
}

fn wrong(value: &str, expected: &str) -> String {
    // A label may be as long as somebody likes.
    let shown: String = value.chars().take(60).collect();
    format!("{shown:?} is none of what was expected: {expected}")
}

/// The name of a set that no policy has named: its prefixes, or as many as show which it is.
pub fn set_of(prefixes: &BTreeSet<IpNet>) -> SetName {
    const MOST: usize = 3;
    let mut shown: Vec<String> = prefixes.iter().take(MOST).map(prefix::shown).collect();
    if prefixes.len() > MOST {
        let mut digest = <sha2::Sha256 as sha2::Digest>::new();
        for prefix in prefixes {
            sha2::Digest::update(&mut digest, format!("{prefix}\n"));
        }
        let [a, b, c, d, ..]: [u8; 32] = sha2::Digest::finalize(digest).into();
        shown.truncate(1);
        shown.push(format!("{} more ({:08x})", prefixes.len() - 1, u32::from_be_bytes([a, b, c, d])));
    }
    // No set of the policy's own, and no inline one of one prefix, has such a name.
    SetName(format!("label: {}", shown.join(" ")))
}

/// The prefixes that lie in both: of two prefixes one holds the other, or they have nothing in common.
pub fn meet(one: &BTreeSet<IpNet>, other: &BTreeSet<IpNet>) -> BTreeSet<IpNet> {
    let (small, large) = if one.len() < other.len() { (one, other) } else { (other, one) };
    let covered = |prefix: &IpNet| {
        (0..=prefix.prefix_len())
            .any(|len| IpNet::new(prefix.addr(), len).is_ok_and(|wider| large.contains(&wider.trunc())))
    };
    let mut both: BTreeSet<IpNet> = small.iter().filter(|prefix| covered(prefix)).copied().collect();
    for prefix in small {
        let last = IpNet::new_assert(prefix.broadcast(), prefix.max_prefix_len());
        both.extend(large.range(*prefix..=last).filter(|inner| prefix.contains(*inner)));
    }
    both
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn policy() -> Policy {
        let text = "[sets]\noffice = [\"203.0.113.0/24\", \"2001:db8::/32\"]\n";
        Policy::parse(text, Path::new("policy.toml"), Path::new("/nonexistent")).expect("a policy")
    }

    fn prefixes(all: &[&str]) -> BTreeSet<IpNet> {
        all.iter().map(|text| text.parse().expect("a prefix")).collect()
    }

    #[test]
    fn values_are_those_of_the_policy_file() {
        let policy = policy();
        assert_eq!(egress(" internet ", &policy), Ok(Peers::Internet));
        assert_eq!(egress("any", &policy), Ok(Peers::Any));
        assert_eq!(allow_from("none", &policy), Ok(Peers::None));
        let sets = BTreeSet::from([SetName("office".to_owned())]);
        let of = Peers::Of { sets, prefixes: prefixes(&["10.0.0.0/8", "192.0.2.7/32"]) };
        assert_eq!(egress("office, 10.0.0.0/8 192.0.2.7", &policy), Ok(of));
        assert_eq!((host("deny"), icc("false")), (Ok(HostAccess::Deny), Ok(false)));
        for wrong in ["", ",", "offices", "10.0.0.1/8", "Any", "office;none"] {
            assert!(egress(wrong, &policy).is_err(), "{wrong:?}");
            assert!(allow_from(wrong, &policy).is_err(), "{wrong:?}");
        }
        let many = (0..=MOST_PREFIXES).map(|last| format!("192.0.2.{last}")).collect::<Vec<_>>().join(",");
        assert!(egress(&many, &policy).is_err());
        assert!(allow_from("internet", &policy).is_err() && host("no").is_err() && icc("0").is_err());
        assert!(LabelKey::is_mistaken("fw.egres") && !LabelKey::is_mistaken("fw.egress"));
        assert!(!LabelKey::is_mistaken("fwx.egress"));
    }

    #[test]
    fn sets_meet_in_what_lies_in_both() {
        let one = prefixes(&["10.0.0.0/8", "192.0.2.0/25", "2001:db8::/32", "198.51.100.7/32"]);
        let other = prefixes(&["10.1.0.0/16", "10.2.3.4/32", "192.0.2.0/24", "2001:db8:1::/48", "::/0"]);
        let both =
            prefixes(&["10.1.0.0/16", "10.2.3.4/32", "192.0.2.0/25", "2001:db8:1::/48", "2001:db8::/32"]);
        assert_eq!(meet(&one, &other), both);
        assert_eq!(meet(&other, &one), both);
        assert_eq!(meet(&one, &BTreeSet::new()), BTreeSet::new());
        assert_eq!(meet(&one, &one), one);
        assert_ne!(set_of(&one), set_of(&other));
        assert_eq!(set_of(&prefixes(&["10.0.0.0/8"])).as_str(), "label: 10.0.0.0/8");
    }
}
