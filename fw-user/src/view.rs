//! Tables as people read them: one row for each entry, numbers with the names they stand for.

use std::collections::BTreeMap;

use fw_common::tables::{Endpoint, NameKey, Prefix, link_layer, name_kind, role, sources};
use fw_common::wire::proto;
use fw_common::{Address, flow};
use serde_json::{Map, Value, json};

use crate::datapath::{DatapathError, Maps};
use crate::plan::State;

/// One entry: field names and values, in the order in which they are printed.
pub type Row = Map<String, Value>;

/// The tables that `fw table` prints.
pub const TABLES: [&str; 13] = [
    "settings",
    "interfaces",
    "subnets",
    "networks",
    "local_addresses",
    "ports",
    "denied",
    "sources",
    "endpoints",
    "flows",
    "counters",
    "rules",
    "names",
];

/// The rows of a table; `None` if there is no such table.
pub fn rows(table: &str, maps: &Maps, now: u32) -> Result<Option<Vec<Row>>, DatapathError> {
    let state = maps.read()?;
    let names = Names { names: &state.names };
    Ok(Some(match table {
        "settings" => vec![settings(&state)],
        "interfaces" => interfaces(&state, names),
        "subnets" => subnets(&state, names),
        "networks" => networks(&state, names),
        "local_addresses" => local_addresses(&state),
        "ports" => ports(&state, names),
        "denied" => denied(&state, names),
        "sources" => zones(&state, names),
        "endpoints" => endpoints(&state, names),
        "flows" => flows(maps, now)?,
        "counters" => counters(maps)?,
        "rules" => rules(maps, names)?,
        "names" => state
            .names
            .iter()
            .map(|(key, name)| row(json!({"kind": key.kind, "id": key.id, "name": name})))
            .collect(),
        _ => return Ok(None),
    }))
}

/// What numbers stand for.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    /// The map `names`.
    pub names: &'a BTreeMap<NameKey, String>,
}

impl Names<'_> {
    /// The name of this number, or the number.
    pub fn of(&self, kind: u32, id: u32) -> String {
        match self.names.get(&NameKey { kind, id }) {
            // A zone's name begins with a digest of its content.
            Some(name) if kind == name_kind::ZONE => {
                name.split_once(' ').map_or(name.clone(), |(_, set)| set.to_owned())
            }
            Some(name) => name.clone(),
            None => id.to_string(),
        }
    }

    /// The sets of a mask of zones.
    pub fn zones(&self, mask: u64) -> Vec<String> {
        (0..64).filter(|bit| mask >> bit & 1 == 1).map(|bit| self.of(name_kind::ZONE, bit)).collect()
    }
}

/// A prefix as people write it.
pub fn prefix(prefix: &Prefix) -> String {
    let bits = if prefix.address.is_v4() && prefix.bits >= 96 { prefix.bits - 96 } else { prefix.bits };
    let whole = prefix.bits == 128;
    if whole { prefix.address.to_string() } else { format!("{}/{bits}", prefix.address) }
}

/// A protocol by its usual name, or its number.
pub fn protocol(number: u8) -> String {
    match number {
        proto::ICMP => "icmp".to_owned(),
        proto::IGMP => "igmp".to_owned(),
        proto::TCP => "tcp".to_owned(),
        proto::UDP => "udp".to_owned(),
        proto::GRE => "gre".to_owned(),
        proto::ICMPV6 => "icmpv6".to_owned(),
        proto::SCTP => "sctp".to_owned(),
        other => other.to_string(),
    }
}

/// The address of a port entry: `any IPv4`, `any IPv6` or the address.
pub fn local(address: &Address) -> String {
    match *address {
        Address::ANY_V4 => "0.0.0.0".to_owned(),
        Address::ANY_V6 => "::".to_owned(),
        other => other.to_string(),
    }
}

/// Rows as an aligned table with a header.
pub fn aligned(rows: &[Row]) -> String {
    let Some(first) = rows.first() else {
        return "(empty)\n".to_owned();
    };
    let header: Vec<String> = first.keys().cloned().collect();
    let mut lines = vec![header];
    lines.extend(rows.iter().map(|row| row.values().map(cell).collect()));
    let columns = lines[0].len();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// A row from a JSON object.
pub fn row(value: Value) -> Row {
    match value {
        Value::Object(row) => row,
        other => Row::from_iter([("value".to_owned(), other)]),
    }
}

fn settings(state: &State) -> Row {
    let settings = &state.tables.settings;
    row(json!({
        "layout": settings.abi,
        "mode": if settings.observe == 0 { "enforce" } else { "observe" },
        "mark_bit": settings.mark_bit,
        "deny": settings.deny != 0,
        "source_prefixes": settings.source_prefixes != 0,
    }))
}

fn interfaces(state: &State, names: Names<'_>) -> Vec<Row> {
    let one = |(ifindex, interface): (&u32, &fw_common::tables::Interface)| {
        row(json!({
            "ifindex": ifindex,
            "role": match interface.role {
                role::UPLINK => "uplink",
                role::BRIDGE => "bridge",
                role::PORT => "port",
                _ => "unknown",
            },
            "ethernet": interface.link_layer == link_layer::ETHERNET,
            "bridge_port": interface.bridge_port != 0,
            "network": (interface.network != 0).then(|| names.of(name_kind::NETWORK, interface.network)),
            "container": (interface.endpoint_known != 0).then(|| names.of(name_kind::ENDPOINT, *ifindex)),
            "mac": (interface.endpoint_known != 0).then(|| interface.mac.to_string()),
        }))
    };
    state.tables.interfaces.iter().map(one).collect()
}

fn subnets(state: &State, names: Names<'_>) -> Vec<Row> {
    let subnets = state.tables.subnets.iter();
    subnets
        .map(|(key, subnet)| {
            row(json!({"prefix": prefix(key), "network": names.of(name_kind::NETWORK, subnet.network)}))
        })
        .collect()
}

fn networks(state: &State, names: Names<'_>) -> Vec<Row> {
    let networks = state.tables.networks.iter();
    networks
        .map(|(id, network)| {
            row(json!({
                "network": names.of(name_kind::NETWORK, *id),
                "bridge_ifindex": id,
                "icc": network.icc != 0,
                "internal": network.internal != 0,
                "spoofing": if network.spoofing == 0 { "drop" } else { "allow" },
            }))
        })
        .collect()
}

fn local_addresses(state: &State) -> Vec<Row> {
    let addresses = state.tables.local_addresses.iter();
    addresses
        .map(|(key, local)| {
            row(json!({
                "address": key.address.to_string(),
                "ifindex": local.ifindex,
                "broadcast": local.broadcast != 0,
            }))
        })
        .collect()
}

fn ports(state: &State, names: Names<'_>) -> Vec<Row> {
    let ports = state.tables.ports.iter();
    ports
        .map(|(key, port)| {
            row(json!({
                "address": local(&key.address),
                "proto": protocol(key.proto),
                "port": key.port,
                "rule": (port.rule != 0).then(|| names.of(name_kind::RULE, port.rule)),
                "from": match port.sources {
                    sources::ANY => json!("any"),
                    sources::ZONES => json!(names.zones(port.zones)),
                    _ => Value::Null,
                },
                "published": port.published != 0,
                "open": port.open != 0,
            }))
        })
        .collect()
}

fn denied(state: &State, names: Names<'_>) -> Vec<Row> {
    let denied = state.tables.denied.iter();
    denied
        .map(|(key, rule)| row(json!({"prefix": prefix(key), "rule": names.of(name_kind::RULE, rule.rule)})))
        .collect()
}

fn zones(state: &State, names: Names<'_>) -> Vec<Row> {
    let sources = state.tables.sources.iter();
    sources.map(|(key, held)| row(json!({"prefix": prefix(key), "sets": names.zones(held.zones)}))).collect()
}

fn endpoints(state: &State, names: Names<'_>) -> Vec<Row> {
    let container =
        |endpoint: &Endpoint| (endpoint.port != 0).then(|| names.of(name_kind::ENDPOINT, endpoint.port));
    let endpoints = state.tables.endpoints.iter();
    endpoints
        .map(|(address, endpoint)| {
            row(json!({
                "address": address.to_string(),
                "container": container(endpoint),
                "network": names.of(name_kind::NETWORK, endpoint.network),
                "port_ifindex": endpoint.port,
                "mac": endpoint.mac.to_string(),
            }))
        })
        .collect()
}

fn flows(maps: &Maps, now: u32) -> Result<Vec<Row>, DatapathError> {
    let state = |number| match number {
        flow::state::OPENING => "opening",
        flow::state::ANSWERED => "answered",
        flow::state::ESTABLISHED => "established",
        flow::state::FIN_SENT => "fin-sent",
        _ => "unknown",
    };
    let owner = |number| match number {
        flow::owner::HOST => "host",
        flow::owner::CONTAINER => "container",
        _ => "other",
    };
    let live = maps.flows()?.into_iter().filter(|(key, flow)| !flow.is_expired(key.proto, now));
    Ok(live
        .map(|(key, flow)| {
            row(json!({
                "proto": protocol(key.proto),
                "local": key.local.to_string(),
                "local_port": key.local_port,
                "remote": key.remote.to_string(),
                "remote_port": key.remote_port,
                "state": state(flow.state),
                "owner": owner(flow.owner),
                "idle_seconds": now.saturating_sub(flow.last_seen),
            }))
        })
        .collect())
}

/// Counters by hook and reason.
pub fn counters(maps: &Maps) -> Result<Vec<Row>, DatapathError> {
    let counted = maps.counters()?.into_iter();
    Ok(counted
        .map(|((hook, reason), count)| {
            row(json!({
                "hook": hook.name(),
                "reason": reason.name(),
                "drop": reason.is_drop(),
                "packets": count.packets,
                "bytes": count.bytes,
            }))
        })
        .collect())
}

fn rules(maps: &Maps, names: Names<'_>) -> Result<Vec<Row>, DatapathError> {
    let rules = names.names.iter().filter(|(key, _)| key.kind == name_kind::RULE);
    rules
        .map(|(key, name)| {
            let count = maps.rule(key.id)?;
            Ok(row(json!({"rule": name, "id": key.id, "packets": count.packets, "bytes": count.bytes})))
        })
        .collect()
}
