//! Uplinks that a policy names and the host does not have: most likely a slip, and one that opens the host.

use std::collections::BTreeSet;

use crate::netlink::Link;
use crate::policy::{Interfaces, Policy};

/// The policy names uplinks that do not exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the policy names uplinks that do not exist: {}; this host has {}; correct `uplink.interfaces`, or let \"auto\" \
     find them",
    missing.join(", "),
    there.join(", ")
)]
pub struct MissingUplinks {
    /// The names that no device has.
    pub missing: Vec<String>,
    /// The devices that there are, without loopback.
    pub there: Vec<String>,
}

/// Refuses a policy that names a device which does not exist. One that the policy in force names already may be gone
/// for a while: it is hooked again when it comes back.
pub fn check_uplinks(
    policy: &Policy,
    in_force: Option<&Policy>,
    links: &[Link],
) -> Result<(), MissingUplinks> {
    let known: BTreeSet<&String> = in_force.into_iter().flat_map(names).collect();
    let exists = |name: &String| links.iter().any(|link| link.name == *name);
    let missing: Vec<String> =
        names(policy).iter().filter(|name| !exists(name) && !known.contains(name)).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let there = links.iter().filter(|link| !link.loopback).map(|link| link.name.clone()).collect();
    Err(MissingUplinks { missing, there })
}

fn names(policy: &Policy) -> &[String] {
    match &policy.uplink.interfaces {
        Interfaces::Named(names) => names,
        Interfaces::Auto => &[],
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::netlink::LinkKind;

    #[test]
    fn only_a_new_name_without_a_device_is_refused() {
        let policy = |uplink: &str| {
            let text = format!("[uplink]\ninterfaces = {uplink}");
            Policy::parse(&text, Path::new("policy.toml"), Path::new("/nonexistent")).expect("a policy")
        };
        let link = |index, name: &str, loopback| Link {
            index,
            name: name.to_owned(),
            mac: None,
            kind: LinkKind::Physical,
            ethernet: true,
            loopback,
            up: true,
            master: None,
            parent: None,
            abroad: false,
            xdp: vec![],
        };
        let links = [link(1, "lo", true), link(2, "eth0", false)];
        let both = policy("[\"eth0\", \"eth1\"]");
        let refused = check_uplinks(&both, None, &links).expect_err("there is no eth1");
        assert_eq!(
            refused,
            MissingUplinks { missing: vec!["eth1".to_owned()], there: vec!["eth0".to_owned()] }
        );
        assert_eq!(check_uplinks(&both, Some(&policy("\"auto\"")), &links), Err(refused));
        assert_eq!(
            check_uplinks(&both, Some(&policy("[\"eth1\"]")), &links),
            Ok(()),
            "it may be gone for a while"
        );
        assert_eq!(check_uplinks(&policy("\"auto\""), None, &[]), Ok(()));
    }
}
