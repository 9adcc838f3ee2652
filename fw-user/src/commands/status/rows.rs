//! Hooks, networks, containers and what is reachable, as rows.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::Hook;
use fw_common::tables::{name_kind, role};
use fw_common::wire::proto;
use serde_json::{Value, json};

use crate::commands::reach::{address, leads_to, ports, process};
use crate::datapath::{self, Directory, Fill, attached_in, running_at};
use crate::exposure::{self, Closed, Open, WhyClosed};
use crate::inventory::Inventory;
use crate::netlink::{HostSnapshot, Link};
use crate::plan::{HookPoint, State};
use crate::stock::{Hole, WithFw};
use crate::view::{self, Names, Row, row};

pub(super) fn hooks(
    directory: &Directory,
    host: &HostSnapshot,
    problems: &mut Vec<String>,
) -> anyhow::Result<(Vec<Row>, BTreeSet<HookPoint>)> {
    let devices: BTreeMap<u32, String> =
        host.links.iter().map(|link| (link.index, link.name.clone())).collect();
    let mut rows = Vec::new();
    let attached = attached_in(directory.path(), &host.links)?;
    for (point, (how, alive)) in &attached {
        let device = devices.get(&point.ifindex).cloned().unwrap_or_else(|| format!("({})", point.ifindex));
        let hook = point.hook.name();
        if !alive {
            problems.push(format!("{hook} does not run on {device}; the next full pass puts it back"));
        }
        let program = if *alive { running_at(directory.path(), *point, &host.links)? } else { None };
        rows.push(row(json!({
            "device": device,
            "hook": hook,
            "by": how.name(),
            "runs": alive,
            "program": program.and_then(|program| program.id),
            "tag": program.and_then(|program| program.tag).map(|tag| format!("{tag:016x}")),
        })));
    }
    let running = attached.iter().filter(|(_, (_, alive))| *alive).map(|(point, _)| *point).collect();
    rows.extend(foreign(host, &attached.into_keys().collect()));
    Ok((rows, running))
}

/// XDP programs of others on our uplinks, which keep ours off.
fn foreign(host: &HostSnapshot, attached: &BTreeSet<HookPoint>) -> Vec<Row> {
    let on = |ifindex, hook| attached.contains(&HookPoint { ifindex, hook });
    let links = host.links.iter().filter(|link| !link.xdp.is_empty());
    let theirs = links.filter(|link| on(link.index, Hook::UplinkIngress) && !on(link.index, Hook::UplinkXdp));
    let row_of = |link: &Link| {
        let hook = Hook::UplinkXdp.name();
        row(
            json!({"device": link.name, "hook": hook, "by": "another program", "runs": false, "program": link.xdp.first(), "tag": null}),
        )
    };
    theirs.map(row_of).collect()
}

pub(super) fn networks(state: &State, names: Names<'_>, host: &HostSnapshot) -> Vec<Row> {
    let tables = &state.tables;
    let one = |(id, network): (&u32, &fw_common::tables::Network)| {
        let subnets: Vec<String> = tables
            .subnets
            .iter()
            .filter(|(_, subnet)| subnet.network == *id)
            .map(|(prefix, _)| view::prefix(prefix))
            .collect();
        let ports = |known: u8| {
            let ports = tables.interfaces.values().filter(|interface| interface.network == *id);
            ports.filter(|port| port.role == role::PORT && port.endpoint_known == known).count()
        };
        row(json!({
            "network": names.of(name_kind::NETWORK, *id),
            "bridge": host.link(*id).map(|link| link.name.clone()),
            "subnets": subnets,
            "containers": ports(1),
            "unknown_ports": ports(0),
            "icc": network.icc != 0,
            "internal": network.internal != 0,
            "egress": view::egress(&network.terms, names),
            "host": network.terms.host != 0,
            "reaches": view::reached(state, names, *id),
        }))
    };
    tables.networks.iter().map(one).collect()
}

/// Containers that may less, or more, than their network says, and those that say something by labels.
pub(super) fn containers(state: &State, names: Names<'_>, inventory: &Inventory) -> Vec<Row> {
    let tables = &state.tables;
    let one = |(ifindex, port): (&u32, &fw_common::tables::Interface)| {
        let network = tables.networks.get(&port.network)?;
        let name = names.of(name_kind::ENDPOINT, *ifindex);
        let place = inventory.endpoints.iter().find(|place| place.container == name);
        let labels: Vec<String> = place
            .into_iter()
            .flat_map(|place| &place.labels)
            .filter(|(name, _)| name.starts_with(crate::policy::label::PREFIX))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if labels.is_empty() && port.terms == network.terms && port.apart == 0 {
            return None;
        }
        Some(row(json!({
            "container": name,
            "network": names.of(name_kind::NETWORK, port.network),
            "egress": view::egress(&port.terms, names),
            "host": port.terms.host != 0,
            "icc": network.icc != 0 && port.apart == 0,
            "labels": labels,
        })))
    };
    let ports = tables.interfaces.iter();
    let known = ports.filter(|(_, port)| port.role == role::PORT && port.endpoint_known != 0);
    known.filter_map(one).collect()
}

/// Containers that share an uplink: by their own addresses they are reached as rules open ports of the host.
pub(super) fn stations(state: &State, inventory: &Inventory) -> Vec<Row> {
    let one = |station: &crate::inventory::Station| {
        let network = inventory.lan_networks.get(station.network)?;
        let shared =
            |it: &fw_common::tables::Interface| it.shared != 0 && Some(it.l3_device) == network.parent;
        Some(row(json!({
            "container": station.container,
            "network": network.name,
            "driver": network.driver,
            "device": network.parent_name,
            "mac": station.mac.map(|mac| mac.to_string()),
            "addresses": station.addresses,
            "judged": state.tables.interfaces.values().any(shared),
        })))
    };
    inventory.stations.iter().filter_map(one).collect()
}

/// What the outside reaches. `addresses` and `interfaces` spell out where; `listens` is null where that is unknown.
pub(super) fn exposure(open: &[Open], state: &State, names: Names<'_>, host: &HostSnapshot) -> Vec<Row> {
    let device = |index: u32| host.link(index).map_or_else(|| format!("({index})"), |link| link.name.clone());
    let uplinks: BTreeSet<String> = state
        .tables
        .interfaces
        .values()
        .filter(|interface| interface.role == role::UPLINK)
        .map(|interface| device(interface.l3_device))
        .collect();
    let one = |open: &Open| {
        let Open { key, target, .. } = open;
        let interfaces =
            if key.ifindex == 0 { uplinks.clone() } else { BTreeSet::from([device(key.ifindex)]) };
        let addresses: Vec<String> = open
            .addresses
            .iter()
            .map(|(address, by)| match by {
                0 => address.to_string(),
                by => format!("{address}%{}", device(*by)),
            })
            .collect();
        let limit = state.tables.limits.get(&open.limit.into());
        row(json!({
            "proto": view::protocol(key.proto),
            "address": address(&key.address),
            "ports": ports(key.proto, key.port, open.last),
            "from": match open.from {
                exposure::From::Any => json!("any"),
                exposure::From::Zones(zones) => json!(names.zones(zones)),
            },
            "why": match open.why {
                exposure::Why::Rule(rule) => format!("rule {}", names.of(name_kind::RULE, rule)),
                exposure::Why::Published => "published = \"open\"".to_owned(),
                exposure::Why::Trusted => "an interface that Docker trusts".to_owned(),
            },
            "leads_to": leads_to(target),
            "listens": target.listens,
            "limit": limit.map(|limit| names.of(name_kind::RULE, limit.rule)),
            "addresses": addresses,
            "interfaces": interfaces,
            "container": target.container,
            "service": target.service,
            "container_port": target.container_port,
            "process": process(target),
            "pid": target.process.as_ref().map(|process| process.pid),
        }))
    };
    open.iter().map(one).collect()
}

/// How full each map is. From [`FULL`] on it is a problem where what does not fit is refused.
pub(super) fn fill(
    directory: &Directory,
    state: &State,
    problems: &mut Vec<String>,
) -> anyhow::Result<Vec<Row>> {
    let tables = &state.tables;
    let named = |kind| state.names.keys().filter(|key| key.kind == kind).count();
    let counted = [
        ("interfaces", tables.interfaces.len()),
        ("networks", tables.networks.len()),
        ("subnets", tables.subnets.len()),
        ("endpoints", tables.endpoints.len()),
        ("ports", tables.ports.len()),
        ("local_addresses", tables.local_addresses.len()),
        ("reach", tables.reach.len()),
        ("links", tables.links.len()),
        ("outbound", tables.outbound.len()),
        // Number 0 is no rule.
        ("rules", named(name_kind::RULE) + 1),
        ("names", state.names.len()),
    ];
    let mut rows = Vec::new();
    let zones = Fill { map: "zones", entries: named(name_kind::ZONE), size: 64, forgets: false };
    let filled = datapath::fill(directory.path(), &counted)?;
    for Fill { map, entries, size, forgets } in filled.into_iter().chain([zones]) {
        let percent = entries * 100 / size.max(1);
        if percent >= FULL && !forgets {
            problems.push(format!(
                "{map} holds {entries} of {size}; docs/policy.md says under [tables] what can be raised"
            ));
        }
        rows.push(row(json!({"map": map, "entries": entries, "size": size, "percent": percent})));
    }
    Ok(rows)
}

/// Percent from which a map is too full.
const FULL: usize = 80;

/// A map that holds something, in words.
pub(super) fn fill_in_words(row: &Row) -> Option<String> {
    let number = |key: &str| row.get(key).and_then(Value::as_u64);
    let (map, entries, size) = (row.get("map")?.as_str()?, number("entries")?, number("size")?);
    (entries > 0).then(|| format!("{map} {entries}/{size}"))
}

/// What Docker alone would leave open here.
pub(super) fn holes(holes: &[Hole]) -> Vec<Row> {
    let one = |hole: &Hole| {
        row(json!({
            "hole": hole.name,
            "with_fw": match hole.with_fw {
                WithFw::Closed => "closed",
                WithFw::Open => "open",
                WithFw::Observed => "observed",
                WithFw::Unhooked => "not closed",
            },
            "concerns": hole.concerns,
            "why": hole.why,
            "because": hole.because,
        }))
    };
    holes.iter().map(one).collect()
}

/// The holes as people read them: each in a few lines.
pub(super) fn holes_for_people(rows: &[Row]) -> String {
    let text = |row: &Row, key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let one = |row: &Row| {
        let concerns: Vec<&str> = row
            .get("concerns")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let more = concerns.len().saturating_sub(MOST_NAMED);
        let mut named = concerns.iter().take(MOST_NAMED).copied().collect::<Vec<_>>().join(", ");
        if more > 0 {
            named += &format!(" and {more} more");
        }
        let [hole, with_fw, why, because] = ["hole", "with_fw", "why", "because"].map(|key| text(row, key));
        format!("  {hole}: {why}\n    concerns {named}\n    with fw: {with_fw}; {because}\n")
    };
    rows.iter().map(one).collect()
}

/// How many names stand in a line.
const MOST_NAMED: usize = 8;

/// What is published, or listens on this host, and is closed.
pub(super) fn closed(closed: &[Closed]) -> Vec<Row> {
    let one = |closed: &Closed| {
        let Closed { protocol, port, target, .. } = closed;
        let proto = view::protocol(*protocol);
        row(json!({
            "proto": proto,
            "address": address(&closed.address),
            "ports": port.to_string(),
            "leads_to": leads_to(target),
            "why": match closed.why {
                WhyClosed::NoRule => "published, no rule",
                WhyClosed::Label => "published, a label of the container lets nobody in",
                WhyClosed::Loopback => "published for this host alone",
                WhyClosed::Host => "no rule",
            },
            "opens": match closed.why {
                WhyClosed::NoRule | WhyClosed::Host if matches!(*protocol, proto::TCP | proto::UDP) => {
                    json!(format!("[[allow]] proto = \"{proto}\", ports = [{port}]"))
                }
                WhyClosed::NoRule => json!("published = \"open\""),
                WhyClosed::Label => json!("its label fw.allow_from"),
                WhyClosed::Loopback | WhyClosed::Host => Value::Null,
            },
            "published": closed.why != WhyClosed::Host,
            "container": target.container,
            "service": target.service,
            "container_port": target.container_port,
            "process": process(target),
            "pid": target.process.as_ref().map(|process| process.pid),
        }))
    };
    closed.iter().map(one).collect()
}
