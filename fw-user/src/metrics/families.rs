//! Every family of metrics, and what its samples are made of. docs/metrics.md has a row for each.
//!
//! How many samples there are follows from fw, its hooks, reasons and maps, and from the policy's rules; never from how many
//! containers, networks, addresses or ports there are.

use std::collections::BTreeMap;

use fw_common::flow::Flow;
use fw_common::tables::{Count, nat_health};
use fw_common::{ABI_VERSION, Hook, Reason};

use super::page::{Family, Kind, Page, Sample, Value};
use super::read::{Reading, Tables};
use super::told::{Host, Reload, Xdp};

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, labels, help }
}

macro_rules! families {
    ($($family:ident = $value:expr;)+) => {
        $(static $family: Family = $value;)+

        /// All families, in the order of the page.
        pub static ALL: &[&Family] = &[$(&$family,)+];
    };
}

families! {
    BUILD = gauge("fw_build_info", &["version", "layout"], "1, with the version of fw and the number of the layout of its maps.");
    READY = gauge("fw_ready", &[], "1 if this daemon has put the policy in force (its first full pass is done).");
    DEGRADED = gauge("fw_degraded", &[], "1 if the last pass was not complete, or failed; the log says why.");
    OBSERVING = gauge("fw_observing", &[], "1 if mode is observe: what is counted as dropped is let through.");
    TABLES_READABLE = gauge("fw_tables_readable", &[], "1 if this scrape could read the maps; 0: families that come from them are missing.");
    DOCKER = gauge("fw_docker_up", &[], "1 while Docker answers.");
    HANDOVER = gauge("fw_handover_up", &[], "1 while fw's rules stand in iptables as they should.");
    NAT = gauge("fw_nat", &["state"], "1 for the state that NAT is in: docker (Docker writes it), fw (fw writes it, and it stands), refused, failed, gone; 0 for the others.");
    PASSES = counter("fw_passes", &["result"], "Passes of the daemon, done or failed.");
    PASS_SECONDS = Family { name: "fw_pass_duration_seconds", kind: Kind::Histogram, labels: &[], help: "How long passes took that were done, waiting for Docker and iptables included." };
    LAST_PASS = gauge("fw_last_pass_timestamp_seconds", &[], "When the last pass was done, in seconds since 1970; 0 before the first.");
    POLICY = gauge("fw_policy_info", &["sha256"], "1, with the beginning of the digest of the text of the policy in force.");
    RELOADS = counter("fw_policy_reloads", &["result"], "Policies read again: applied, refused, or taken-back because nobody confirmed them.");
    ON_TRIAL = gauge("fw_policy_on_trial", &[], "1 while the policy waits for `fw confirm`.");
    PACKETS = counter("fw_packets", &["hook", "verdict", "reason"], "Packets judged, by hook, verdict (pass, accept, drop) and reason; a packet that several hooks see counts at each.");
    BYTES = counter("fw_bytes", &["hook", "verdict", "reason"], "Bytes of these packets, link-layer headers included.");
    RULE_PACKETS = counter("fw_rule_packets", &["rule"], "Packets that a rule decided, by its name; rules beyond the first 200 are one, `(other)`.");
    RULE_BYTES = counter("fw_rule_bytes", &["rule"], "Bytes of these packets.");
    EVENTS_LOST = counter("fw_events_lost", &[], "Drops that `fw monitor` could not show, because there were more than events may be written; they are counted all the same.");
    BANS = gauge("fw_bans", &[], "Prefixes that are banned (`fw ban`), as of the last pass.");
    LIVE_FLOWS = gauge("fw_flows", &["map"], "Flows that are alive: those that went out (flows), those that came in to containers with restricted terms (inbound_flows); an estimate where the map has more than 8192 entries.");
    ENTRIES = gauge("fw_map_entries", &["map"], "Entries of a map; of those that packets fill an estimate, where there are more than 8192.");
    MOST_ENTRIES = gauge("fw_map_max_entries", &["map"], "Entries that a map holds at most.");
    NETWORKS = gauge("fw_networks", &[], "Networks that fw manages.");
    ENDPOINTS = gauge("fw_endpoints", &[], "Ports of managed bridges behind which fw knows the container.");
    UNKNOWN_PORTS = gauge("fw_unknown_ports", &[], "Ports of managed bridges behind which fw knows nobody.");
    PORTS = gauge("fw_ports", &["state"], "Services in the table of ports: open to somebody outside, or published by Docker and closed (published-closed).");
    HOOKS_WANTED = gauge("fw_hooks_wanted", &["hook"], "Devices on which the program of a hook should run.");
    HOOKS_ATTACHED = gauge("fw_hooks_attached", &["hook"], "Those on which it does, as the last pass left them.");
    UPLINKS = gauge("fw_uplinks", &["xdp"], "Uplinks, by how XDP drops early on them: native (in the driver), generic (in the kernel's generic path), off.");
    SCRAPE_SECONDS = gauge("fw_scrape_duration_seconds", &[], "How long it took to read what this page shows.");
    CPU = counter("process_cpu_seconds", &[], "Seconds of CPU that the daemon has used.");
    MEMORY = gauge("process_resident_memory_bytes", &[], "Memory of the daemon that is resident; its maps lie in the kernel and do not count.");
    FILES = gauge("process_open_fds", &[], "Files that the daemon has open.");
    STARTED = gauge("process_start_time_seconds", &[], "When the daemon was started, in seconds since 1970.");
}

/// Rules with samples of their own.
const RULES_SHOWN: usize = 200;
/// The name of all other rules together.
const OTHER_RULES: &str = "(other)";

/// Maps that packets fill; all others the daemon fills, and knows how far.
pub(super) const FROM_PACKETS: [&str; 7] =
    ["flows", "inbound_flows", "budgets", "buckets", "datagrams", "observed", "fast_paths"];

/// Whether a flow's time is over.
type IsOver = fn(&Flow, u8, u32) -> bool;
/// Those with flows, each with the rule by which one of them is over.
pub(super) const FLOWS: [(&str, IsOver); 2] =
    [("flows", Flow::is_expired), ("inbound_flows", Flow::is_forgotten)];

const NAT_STATES: [(&str, u8); 5] = [
    ("docker", nat_health::NOT_OURS),
    ("fw", nat_health::STANDS),
    ("refused", nat_health::REFUSED),
    ("failed", nat_health::FAILED),
    ("gone", nat_health::GONE),
];

/// The page of a scrape.
pub(super) fn page(reading: &Reading) -> Page {
    let Reading { told, tables, process, took } = reading;
    let tables = tables.as_ref().ok();
    let daemon = tables.and_then(|tables| tables.daemon);
    let mut page = Page::default();
    let layout = ABI_VERSION.to_string();
    page.add(&BUILD, [sample([env!("CARGO_PKG_VERSION"), layout.as_str()], 1u64)]);
    page.one(&READY, daemon.is_some_and(|daemon| daemon.ready != 0));
    page.one(&TABLES_READABLE, tables.is_some());
    if let Some(daemon) = daemon.filter(|daemon| daemon.ready != 0) {
        page.one(&DEGRADED, daemon.degraded != 0);
        page.one(&DOCKER, daemon.docker != 0);
        page.one(&HANDOVER, daemon.handover != 0);
        page.add(&NAT, NAT_STATES.map(|(name, state)| sample([name], daemon.nat == state)));
    }
    page.add(&PASSES, [sample(["done"], told.passes.count), sample(["failed"], told.failures)]);
    page.one(&PASS_SECONDS, Value::Spread(told.passes.clone()));
    page.one(&LAST_PASS, told.last_pass);
    page.add(&POLICY, [sample([told.policy.get(..16).unwrap_or(&told.policy)], 1u64)]);
    let reloads = |what: Reload| told.reloads.get(&what).copied().unwrap_or(0);
    page.add(&RELOADS, Reload::ALL.map(|what| sample([what.name()], reloads(what))));
    page.one(&ON_TRIAL, told.on_trial);
    if let Some(tables) = tables {
        judged(&mut page, tables);
        rules(&mut page, tables, &told.host);
        page.one(&EVENTS_LOST, tables.events_lost);
        page.add(&LIVE_FLOWS, tables.flows.iter().map(|(map, flows)| sample([*map], *flows)));
        let entries = told.host.entries.iter().map(|(map, entries)| sample([*map], *entries));
        let filled = tables.filled.iter().map(|(map, entries)| sample([*map], *entries));
        page.add(&ENTRIES, entries.chain(filled));
        page.add(&MOST_ENTRIES, tables.sizes.iter().map(|(map, most)| sample([*map], *most)));
    }
    if told.passes.count > 0 {
        host(&mut page, &told.host);
    }
    page.one(&SCRAPE_SECONDS, *took);
    page.one(&CPU, process.cpu);
    page.one(&MEMORY, process.memory);
    page.one(&FILES, process.files);
    page.one(&STARTED, process.started);
    page
}

fn sample<const N: usize>(labels: [&str; N], value: impl Into<Value>) -> Sample {
    Sample { labels: labels.map(str::to_owned).to_vec(), value: value.into() }
}

/// What may be dropped is there from the beginning, at zero, so that a first drop is seen as an increase; other verdicts are
/// there once they have been given.
fn judged(page: &mut Page, tables: &Tables) {
    let mut counted: Vec<(Hook, Reason, Count)> = Vec::new();
    for hook in Hook::ATTACHED {
        for reason in Reason::ALL {
            match tables.counters.get(&(hook, *reason)) {
                Some(count) => counted.push((hook, *reason, *count)),
                None if reason.is_drop() => counted.push((hook, *reason, Count::default())),
                None => {}
            }
        }
    }
    let of = |value: fn(&Count) -> u64| {
        let one = move |(hook, reason, count): &(Hook, Reason, Count)| {
            sample([hook.name(), verdict(*reason), reason.name()], value(count))
        };
        counted.iter().map(one).collect::<Vec<_>>()
    };
    page.add(&PACKETS, of(|count| count.packets));
    page.add(&BYTES, of(|count| count.bytes));
}

/// What becomes of a packet for this reason, as docs/reasons.md has them apart.
const fn verdict(reason: Reason) -> &'static str {
    match reason as u8 {
        0..16 => "pass",
        16..64 => "accept",
        _ => "drop",
    }
}

fn rules(page: &mut Page, tables: &Tables, host: &Host) {
    let in_order = host.counted.iter().flat_map(|counted| &counted.rules);
    let mut named: BTreeMap<&str, Count> = BTreeMap::new();
    for (place, (id, name)) in in_order.enumerate() {
        let name = if place < RULES_SHOWN { name.as_str() } else { OTHER_RULES };
        let count = tables.rules.get(id).copied().unwrap_or_default();
        let all = named.entry(name).or_default();
        all.packets += count.packets;
        all.bytes += count.bytes;
    }
    page.add(&RULE_PACKETS, named.iter().map(|(name, count)| sample([*name], count.packets)));
    page.add(&RULE_BYTES, named.iter().map(|(name, count)| sample([*name], count.bytes)));
}

fn host(page: &mut Page, host: &Host) {
    page.one(&OBSERVING, host.observing);
    page.one(&BANS, host.bans);
    page.one(&NETWORKS, host.networks);
    page.one(&ENDPOINTS, host.endpoints);
    page.one(&UNKNOWN_PORTS, host.unknown_ports);
    if let Some(counted) = &host.counted {
        let states = [("open", counted.open), ("published-closed", counted.published_closed)];
        page.add(&PORTS, states.map(|(state, ports)| sample([state], ports)));
    }
    let hooks = |of: fn(&(usize, usize)) -> usize| {
        let hooks = Hook::ATTACHED.into_iter().filter(|hook| *hook != Hook::UplinkXdp);
        hooks.map(move |hook| sample([hook.name()], host.hooks.get(&hook).map_or(0, of)))
    };
    page.add(&HOOKS_WANTED, hooks(|(wanted, _)| *wanted));
    page.add(&HOOKS_ATTACHED, hooks(|(_, attached)| *attached));
    let uplinks = |xdp: Xdp| host.uplinks.get(&xdp).copied().unwrap_or(0);
    page.add(&UPLINKS, Xdp::ALL.map(|xdp| sample([xdp.name()], uplinks(xdp))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::page::Format;
    use crate::metrics::read::Process;
    use crate::metrics::told::{Counted, Told};

    const DOCUMENT: &str = include_str!("../../../docs/metrics.md");
    const RULES: &str = include_str!("../../../packaging/prometheus/fw.rules.yml");
    const DASHBOARD: &str = include_str!("../../../packaging/grafana/fw.json");

    #[test]
    fn the_document_has_a_row_for_each_family_and_none_else() {
        let row = |family: &&Family| {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
            format!("| `{}` | {} | {labels} | {} |", family.sample_name(), family.kind.name(), family.help)
        };
        let rows: Vec<String> = ALL.iter().map(row).collect();
        let written = DOCUMENT.lines().filter(|line| {
            let kind = line.split(" | ").nth(1);
            [Kind::Counter, Kind::Gauge, Kind::Histogram].map(|known| Some(known.name())).contains(&kind)
        });
        assert_eq!(written.collect::<Vec<_>>(), rows);
    }

    #[test]
    fn alerts_and_dashboard_ask_for_what_there_is() {
        let names: Vec<String> = ALL.iter().map(|family| family.sample_name()).collect();
        let bucket = |word: &str| names.iter().any(|name| word == format!("{name}_bucket"));
        let word = |letter: char| !letter.is_ascii_alphanumeric() && letter != '_';
        let queries = |text: &'static str| {
            let words =
                text.split(word).filter(|word| word.starts_with("fw_") || word.starts_with("process_"));
            words.collect::<Vec<_>>()
        };
        for asked in [queries(RULES), queries(DASHBOARD)].concat() {
            assert!(names.iter().any(|name| name == asked) || bucket(asked), "{asked}");
        }
    }

    fn reading(rules: u32) -> Reading {
        let counted = Counted {
            rules: (1..=rules).map(|id| (id, format!("rule {id}"))).collect(),
            ..Counted::default()
        };
        let told = Told { host: Host { counted: Some(counted), ..Host::default() }, ..Told::default() };
        let count = Count { packets: 2, bytes: 100 };
        let tables = Tables { rules: (1..=rules).map(|id| (id, count)).collect(), ..Tables::default() };
        Reading { told, tables: Ok(tables), process: Process::default(), took: 0.0 }
    }

    fn text(reading: &Reading) -> String {
        page(reading).text(Format::Text).expect("text")
    }

    #[test]
    fn rules_beyond_the_bound_are_one() {
        let text = text(&reading(205));
        assert!(text.contains("fw_rule_packets_total{rule=\"rule 200\"} 2\n"), "{text}");
        assert!(!text.contains("rule 201") && text.contains("fw_rule_packets_total{rule=\"(other)\"} 10\n"));
        assert!(text.contains("fw_rule_bytes_total{rule=\"(other)\"} 500\n"));
    }

    #[test]
    fn names_that_are_alike_when_cut_are_one_sample() {
        let mut reading = reading(2);
        if let Some(counted) = &mut reading.told.host.counted {
            counted.rules.values_mut().for_each(|name| name.replace_range(.., "same"));
        }
        let text = text(&reading);
        assert_eq!(text.matches("fw_rule_packets_total{rule=\"same\"} 4").count(), 1, "{text}");
    }

    #[test]
    fn a_drop_that_never_was_is_there_at_zero() {
        let mut reading = reading(0);
        if let Ok(tables) = &mut reading.tables {
            let seen = Count { packets: 7, bytes: 700 };
            tables.counters.insert((Hook::UplinkIngress, Reason::PortNotAllowed), seen);
            tables.counters.insert((Hook::UplinkEgress, Reason::Sent), seen);
            tables.counters.insert((Hook::UplinkIngress, Reason::AllowRule), seen);
        }
        let text = text(&reading);
        for (sample, count) in [
            ("hook=\"uplink_ingress\",verdict=\"drop\",reason=\"port-not-allowed\"", 7),
            ("hook=\"port_ingress\",verdict=\"drop\",reason=\"spoofed-mac\"", 0),
            ("hook=\"uplink_egress\",verdict=\"pass\",reason=\"sent\"", 7),
            ("hook=\"uplink_ingress\",verdict=\"accept\",reason=\"allow-rule\"", 7),
        ] {
            assert!(text.contains(&format!("fw_packets_total{{{sample}}} {count}\n")), "{sample}");
        }
        assert!(!text.contains("reason=\"reply\""), "accepted nowhere yet");
    }

    #[test]
    fn what_is_not_known_is_missing_and_not_zero() {
        let starting = Reading { told: Told::default(), ..reading(0) };
        let starting = text(&starting);
        assert!(starting.contains("fw_ready 0\n") && starting.contains("fw_tables_readable 1\n"));
        for family in ["fw_degraded", "fw_docker_up", "fw_nat", "fw_networks", "fw_hooks_attached"] {
            assert!(!starting.contains(family), "{family}");
        }
        let blind = text(&Reading { tables: Err("no pin".to_owned()), ..reading(3) });
        assert!(blind.contains("fw_tables_readable 0\n") && !blind.contains("fw_packets"));
    }
}
