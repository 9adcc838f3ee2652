//! The rules of fw's own in iptables: what they need to know of the kernel's settings, and what a person should know.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::handover::{Nat, Outcome, Place};

/// `nat` with the settings of the kernel that its rules depend on.
pub(super) fn settled(mut nat: Nat) -> Nat {
    let everywhere = is_on("net/ipv4/conf/all/route_localnet");
    let bridges = nat.networks.iter().map(|network| &network.bridge);
    let localnet = bridges.filter(|bridge| {
        everywhere || is_on(Path::new("net/ipv4/conf").join(bridge.as_str()).join("route_localnet"))
    });
    nat.localnet = localnet.cloned().collect();
    nat
}

/// What keeps containers from the outside although the rules stand.
pub(super) fn warnings(nat: &Nat) -> Vec<String> {
    let mut warnings = Vec::new();
    let has = |v4: bool| {
        let owned = nat.networks.iter().filter(|network| nat.owns && network.docker && !network.internal);
        owned.flat_map(|network| &network.subnets).any(|subnet| subnet.addr().is_ipv4() == v4)
    };
    for (v4, key) in [(true, "net/ipv4/ip_forward"), (false, "net/ipv6/conf/all/forwarding")] {
        if has(v4) && !is_on(key) {
            let name = key.replace('/', ".");
            warnings.push(format!(
                "{name} is off: containers reach nothing outside and no published port reaches them; dockerd switches it \
                 on unless it runs with --ip-forward=false: `sysctl -w {name}=1`"
            ));
        }
    }
    warnings
}

/// How NAT stands after the rules were written, as `Daemon::nat` has it.
pub(super) fn health(nat: &Nat, outcome: Option<&Outcome>) -> u8 {
    use fw_common::tables::nat_health::{FAILED, NOT_OURS, REFUSED, STANDS};
    match outcome {
        _ if !nat.owns => NOT_OURS,
        None => FAILED,
        Some(outcome) if !outcome.refused.is_empty() => REFUSED,
        Some(_) => STANDS,
    }
}

/// How NAT stands where Docker writes it, as `Daemon::nat` has it: whether its rules were `seen`, and `stand`.
pub(super) fn of_docker(before: u8, seen: bool, stand: bool) -> u8 {
    use fw_common::tables::nat_health::{GONE, NOT_OURS};
    match before {
        NOT_OURS if seen && !stand => GONE,
        GONE if stand => NOT_OURS,
        other => other,
    }
}

/// What to do where Docker writes rules as well.
pub(super) fn refusal(places: &[Place]) -> Option<String> {
    let names: BTreeSet<String> = places.iter().map(ToString::to_string).collect();
    let names: Vec<String> = names.into_iter().collect();
    (!names.is_empty()).then(|| {
        format!(
            "nat.owner = \"fw\", but Docker's own rules stand in {}: both would translate, so Docker's stay in force; \
             run dockerd with --iptables=false (and --ip6tables=false), then take its rules away as docs/operations.md \
             says, or reboot",
            names.join(" and ")
        )
    })
}

/// A switch below /proc/sys; one that is not there is off.
fn is_on(key: impl AsRef<Path>) -> bool {
    fs::read_to_string(Path::new("/proc/sys").join(key)).is_ok_and(|value| value.trim() == "1")
}
