//! Rules of iptables: two flavours at once, what stands around ours, IPv6 beside IPv4.

use std::collections::BTreeSet;

use super::service::guards_uplinks;
use super::{Finding, Seen, Severity, listed};
use crate::handover::{self, Desired, Family, Flavour, Place, Report, Save};
use crate::health;

pub(super) fn examine(seen: &Seen) -> Vec<Finding> {
    [flavours(seen), around_ours(seen), ipv6_open(seen)].concat()
}

/// Rules in both flavours of one family.
fn flavours(seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    for family in [Family::V4, Family::V6] {
        let of = |flavour| {
            let place = Place { family, flavour };
            let text = seen.rules.iter().find(|(at, _)| *at == place).map(|(_, text)| text.as_str())?;
            let save = Save::parse(text);
            (!save.is_empty() || save.drops_anything()).then_some((place, save))
        };
        let (Some(nft), Some(legacy)) = (of(Flavour::Nft), of(Flavour::Legacy)) else { continue };
        let docker =
            |(_, save): &(Place, Save<'_>)| save.has("filter", "DOCKER-USER") || save.has("nat", "DOCKER");
        // Where nobody is Docker's, the older one goes.
        let (kept, other) = if docker(&legacy) && !docker(&nft) { (legacy, nft) } else { (nft, legacy) };
        let (place, save) = other;
        let tables: BTreeSet<&str> = save.rules().map(|rule| rule.table).collect();
        let mut finding = Finding::confuses(
            "two-flavours",
            format!(
                "both flavours of {} hold rules: {} {}, {place} {} (tables {})",
                family.command(),
                kept.0,
                count(kept.1.rules().count()),
                count(save.rules().count()),
                listed(&tables.iter().collect::<Vec<_>>())
            ),
        )
        .why("every packet passes both; what one of them shows is half of what holds, and a drop in either is final")
        .repair(format!("sudo {place}-save >{place}.rules"));
        for table in ["filter", "nat", "mangle", "raw", "security"] {
            let built_in = save.chains_of(table).any(|chain| chain.to_uppercase() == chain);
            if built_in || tables.contains(table) {
                let policies: Vec<String> = ["INPUT", "FORWARD", "OUTPUT"]
                    .iter()
                    .filter(|chain| save.drops(table, chain))
                    .map(|chain| format!("sudo {place} -t {table} -P {chain} ACCEPT; "))
                    .collect();
                finding = finding.repair(format!(
                    "{}sudo {place} -t {table} -F; sudo {place} -t {table} -X",
                    policies.concat()
                ));
            }
        }
        found.push(finding.risk(format!(
            "what those rules did is gone; {place}.rules keeps them, and {} takes what is still wanted",
            kept.0
        )));
    }
    found
}

fn count(rules: usize) -> String {
    format!("{rules} rule{}", if rules == 1 { "" } else { "s" })
}

/// What stands around fw's rules: as `fw status` sees it.
fn around_ours(seen: &Seen) -> Vec<Finding> {
    let (Some(marks), Some(desired)) = (seen.marks(), &seen.desired) else { return Vec::new() };
    // With NAT of our own nothing is handed over.
    if desired.nat.as_ref().is_some_and(|nat| nat.owns) {
        return Vec::new();
    }
    let reach = !desired.state.tables.reach.is_empty();
    let Ok(wanted) = Desired::new(marks, desired.output_devices.iter().cloned(), reach) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (place, text) in &seen.rules {
        let Some(report) = handover::report(text, &wanted) else { continue };
        let command = place.to_string();
        found.extend(of_place(&command, &report, seen.enforces()));
    }
    found
}

fn of_place(place: &str, report: &Report, enforces: bool) -> Vec<Finding> {
    let delete = |rule: &str| format!("sudo {place} {}", rule.replacen("-A ", "-D ", 1));
    let mut found = Vec::new();
    if !report.reached {
        found.push(
            Finding::confuses("docker-user-unreached", format!("{place}: {}", health::NO_WAY))
                .why("what fw lets through is dropped behind it")
                .repair("sudo systemctl restart docker")
                .risk("containers stop meanwhile, unless dockerd runs with live-restore"),
        );
    }
    if enforces && !report.missing.is_empty() {
        found.push(
            Finding::confuses(
                "rules-missing",
                format!(
                    "{place}: {} of our rules are missing; the next pass puts them back",
                    report.missing.len()
                ),
            )
            .why(
                "until then Docker's own rules see what fw has vouched for, and drop where they are stricter",
            )
            .repair("sudo fw reload")
            .risk("none, if the policy file is the one in force: `sudo fw plan` tells"),
        );
    }
    if let Some(rule) = &report.blocked_by {
        found.push(
            Finding::confuses("docker-user-blocked", format!("{place}: no packet comes to our rules past `{rule}`"))
                .why("a rule of DOCKER-USER before ours decides of everything: what the policy allows is not forwarded, or is whatever fw says")
                .repair(delete(rule))
                .risk("what it dropped is decided by fw and by Docker alone; see first that the policy says what it was for"),
        );
    }
    let accepting = report.foreign.iter().filter(|rule| rule.contains("-j ACCEPT") || rule.contains("-g "));
    for rule in accepting {
        found.push(
            Finding::notes(
                "docker-user-accepts",
                format!("{place}: a rule of DOCKER-USER accepts before ours: `{rule}`"),
            )
            .why("fw still drops what its policy closes; without its programs this rule opens what it says")
            .repair(delete(rule))
            .risk("who is let in by it alone needs an [[allow]] rule first"),
        );
    }
    let others: Vec<&String> = report
        .foreign
        .iter()
        .filter(|rule| !rule.contains("-j ACCEPT") && report.blocked_by.as_ref() != Some(*rule))
        .collect();
    if !others.is_empty() {
        found.push(
            Finding::notes(
                "docker-user-foreign",
                format!("{place}: {} of others stand in DOCKER-USER before ours: {}", count(others.len()), listed(&others)),
            )
            .why("they see container addresses and ports, after NAT, and drop what fw has let pass")
            .risk("none to leave them; in the policy ([[deny]], sets) they would hold for the host's ports, too"),
        );
    }
    for rule in &report.skipped {
        found.push(
            Finding::confuses("raw-skipped", format!("{place}: what fw has vouched for skips `{rule}`"))
                .why("fw's rule at the head of raw PREROUTING spares it all that stands behind")
                .repair("# move what it does to a chain of mangle, or into the policy")
                .risk("that rule alone; Docker's in raw are meant to be skipped"),
        );
    }
    found
}

/// IPv6 that nothing filters where IPv4 is filtered.
fn ipv6_open(seen: &Seen) -> Vec<Finding> {
    let saves: Vec<(Place, Save<'_>)> =
        seen.rules.iter().map(|(place, text)| (*place, Save::parse(text))).collect();
    let filters = |family, chain: &str| {
        saves
            .iter()
            .filter(|(place, _)| place.family == family)
            .any(|(_, save)| save.drops("filter", chain) || !save.chain("filter", chain).is_empty())
    };
    let in_tables = |hook: &str| {
        seen.tables
            .iter()
            .any(|table| !table.name.starts_with("ip ") && table.text.contains(&format!("hook {hook} ")))
    };
    let mut found = Vec::new();
    let networks: Vec<&str> = seen
        .inventory
        .networks
        .iter()
        .filter(|network| network.subnets.iter().any(|subnet| matches!(subnet, ipnet::IpNet::V6(_))))
        .map(|network| network.name.as_str())
        .collect();
    if !networks.is_empty()
        && seen.forwards(true)
        && filters(Family::V4, "FORWARD")
        && !filters(Family::V6, "FORWARD")
        && !in_tables("forward")
    {
        let (severity, why) = if seen.enforces() {
            let why = "fw filters both alike; without its programs every port of these containers is open over IPv6, to whoever has a route";
            (Severity::Notes, why)
        } else {
            (Severity::Weakens, "every port of these containers is open over IPv6, to whoever has a route")
        };
        found.push(
            Finding::new(
                "ipv6-open",
                severity,
                format!("no rule filters IPv6 towards containers on {}, and IPv4 is filtered", listed(&networks)),
            )
            .why(why)
            .repair("# write \"experimental\": true, \"ip6tables\": true into /etc/docker/daemon.json (without \"experimental\" from Docker 27 on)")
            .repair("sudo systemctl restart docker")
            .risk("containers stop meanwhile; Docker masquerades IPv6 from then on, and the policy of FORWARD becomes DROP"),
        );
    }
    let global = seen
        .host
        .addresses
        .iter()
        .any(|local| matches!(local.address, std::net::IpAddr::V6(address) if is_global(address)));
    if global
        && !guards_uplinks(seen)
        && filters(Family::V4, "INPUT")
        && !filters(Family::V6, "INPUT")
        && !in_tables("input")
    {
        found.push(
            Finding::weakens("ipv6-open", "nothing filters IPv6 towards this host's own ports, and IPv4 is filtered")
                .why("every service that listens on [::] is open to the world")
                .repair("sudo systemctl enable --now fw")
                .risk("only what the policy allows is reachable then, over IPv4, too: begin with mode = \"observe\""),
        );
    }
    found
}

/// Neither link-local, unique local, loopback nor unspecified.
pub(super) fn is_global(address: std::net::Ipv6Addr) -> bool {
    !(address.is_loopback()
        || address.is_unspecified()
        || address.is_unicast_link_local()
        || address.is_unique_local())
}
