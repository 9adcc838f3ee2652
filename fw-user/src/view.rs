//! Tables as people read them: one row for each entry, numbers with the names they stand for.

use std::borrow::Cow;
use std::collections::BTreeMap;

use fw_common::flow::{Flow, FlowKey};
use fw_common::tables::{Endpoint, NameKey, Prefix, Terms, egress, link_layer, name_kind, role, sources};
use fw_common::wire::proto;
use fw_common::{Address, Hook, Mac, Reason, flow};
use serde_json::{Map, Value, json};

use crate::datapath::{DatapathError, Maps};
use crate::plan::State;

pub(crate) mod raw;

/// One entry: field names and values, in the order in which they are printed.
pub type Row = Map<String, Value>;

/// The tables that `fw table` prints.
pub const TABLES: [&str; 30] = [
    "settings",
    "interfaces",
    "subnets",
    "networks",
    "local_addresses",
    "ports",
    "denied",
    "denied_hosts",
    "sources",
    "source_hosts",
    "endpoints",
    "stations",
    "reach",
    "links",
    "flows",
    "inbound_flows",
    "outbound",
    "limits",
    "buckets",
    "datagrams",
    "observed",
    "counters",
    "rules",
    "names",
    "budgets",
    "daemon",
    "generation",
    "fast_paths",
    "event_rate",
    "event_budget",
];

/// The rows of a table; `None` if there is no such table.
pub fn rows(table: &str, maps: &Maps, now: u32) -> Result<Option<Vec<Row>>, DatapathError> {
    let state = maps.read()?;
    let names = Names { names: &state.names };
    Ok(Some(match table {
        "flows" => flows(maps.flows()?, Flow::is_expired, now),
        "inbound_flows" => flows(maps.inbound_flows()?, Flow::is_forgotten, now),
        "buckets" => buckets(maps, &state, names)?,
        "datagrams" => datagrams(maps, now)?,
        "observed" => observed(maps, &state, now)?,
        "counters" => counters(maps)?,
        "rules" => rules(maps, names)?,
        "budgets" => raw::budgets(maps, &state, names)?,
        "daemon" => vec![raw::daemon(&maps.daemon()?)],
        "generation" => vec![row(json!({"generation": maps.generation()?}))],
        "fast_paths" => raw::fast_paths(maps, names)?,
        "event_rate" => vec![raw::event_rate(maps.event_rate()?)],
        "event_budget" => maps.event_budgets()?.iter().zip(0..).map(raw::event_budget).collect(),
        other => return Ok(rows_of(other, &state, names)),
    }))
}

/// The rows of a table that the daemon fills; `None` if there is no such table.
pub fn rows_of(table: &str, state: &State, names: Names<'_>) -> Option<Vec<Row>> {
    Some(match table {
        "settings" => vec![settings(state)],
        "interfaces" => interfaces(state, names),
        "subnets" => subnets(state, names),
        "networks" => networks(state, names),
        "local_addresses" => local_addresses(state),
        "ports" => ports(state, names),
        "denied" => denied(state, names, |_| true),
        "denied_hosts" => denied(state, names, is_host),
        "sources" => zones(state, names, |_| true),
        "source_hosts" => zones(state, names, is_host),
        "endpoints" => endpoints(state, names),
        "stations" => stations(state),
        "reach" => reach(state, names),
        "links" => links(state),
        "outbound" => outbound(state, names),
        "limits" => limits(state, names),
        "names" => state
            .names
            .iter()
            .map(|(key, name)| row(json!({"kind": key.kind, "id": key.id, "name": name})))
            .collect(),
        _ => return None,
    })
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

/// `192.0.2.1:80`, `[2001:db8::1]:80`, or the address alone where there is no port.
pub fn at(address: &Address, port: u16) -> String {
    match (port, address.is_v4()) {
        (0, _) => address.to_string(),
        (port, true) => format!("{address}:{port}"),
        (port, false) => format!("[{address}]:{port}"),
    }
}

/// Runs of numbers that follow each other, first and last of each. They come in ascending order.
pub fn runs(numbers: impl IntoIterator<Item = u16>) -> Vec<(u16, u16)> {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => runs.push((number, number)),
        }
    }
    runs
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

/// A row on one line: what is set, with the name of its field.
pub fn words(row: &Row) -> String {
    let set = row.iter().filter(|(_, value)| !matches!(value, Value::Null | Value::Bool(false)));
    let one = |(name, value): (&String, &Value)| match value {
        Value::Bool(true) => name.clone(),
        value => format!("{name} {}", cell(value)),
    };
    set.map(one).collect::<Vec<_>>().join(", ")
}

/// A name that somebody else has given, on one line: control characters, by which it would write over what stands
/// around it, are escaped as in JSON.
pub fn plain(name: &str) -> Cow<'_, str> {
    escaped(name, char::is_control)
}

/// Lines whose names may hold what a terminal takes for commands: control characters are escaped as in JSON, of which it
/// makes the same again.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |letter| letter.is_control() && letter != '\n' && letter != '\t')
}

fn escaped(text: &str, is_escaped: fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut whole = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_escaped(letter) {
            whole += &format!("\\u{:04x}", u32::from(letter));
        } else {
            whole.push(letter);
        }
    }
    Cow::Owned(whole)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text).into_owned(),
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
        "outbound": settings.outbound != 0,
        "flow_budget": settings.flow_budget,
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
            "shared": interface.shared != 0,
            "network": (interface.network != 0).then(|| names.of(name_kind::NETWORK, interface.network)),
            "container": (interface.endpoint_known != 0).then(|| names.of(name_kind::ENDPOINT, *ifindex)),
            "mac": (interface.mac != Mac::default()).then(|| interface.mac.to_string()),
            "egress": (interface.role == role::PORT).then(|| egress(&interface.terms, names)),
            "host": (interface.role == role::PORT).then_some(interface.terms.host != 0),
            "apart": interface.apart != 0,
            "counted_as": (interface.owner != 0).then_some(interface.owner),
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
                "egress": egress(&network.terms, names),
                "host": network.terms.host != 0,
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
                "by": (key.ifindex != 0).then_some(key.ifindex),
                "proto": protocol(key.proto),
                "port": key.port,
                "rule": (port.rule != 0).then(|| names.of(name_kind::RULE, port.rule)),
                "from": match port.sources & !sources::ALONE {
                    sources::ANY => json!("any"),
                    sources::ZONES => json!(names.zones(port.zones)),
                    _ => Value::Null,
                },
                "alone": port.sources & sources::ALONE != 0,
                "published": port.published != 0,
                "open": port.open != 0,
                "limit": (port.limit != 0).then(|| limit_name(state, names, port.limit.into())),
            }))
        })
        .collect()
}

/// Whether a prefix is a single address; those have a map of their own.
fn is_host(prefix: &Prefix) -> bool {
    prefix.bits == 128
}

fn denied(state: &State, names: Names<'_>, which: fn(&Prefix) -> bool) -> Vec<Row> {
    let denied = state.tables.denied.iter().filter(|(key, _)| which(key));
    denied
        .map(|(key, rule)| row(json!({"prefix": prefix(key), "rule": names.of(name_kind::RULE, rule.rule)})))
        .collect()
}

fn zones(state: &State, names: Names<'_>, which: fn(&Prefix) -> bool) -> Vec<Row> {
    let sources = state.tables.sources.iter().filter(|(key, _)| which(key));
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
                "network": (endpoint.network != 0).then(|| names.of(name_kind::NETWORK, endpoint.network)),
                "port_ifindex": endpoint.port,
                "mac": (endpoint.mac != Mac::default()).then(|| endpoint.mac.to_string()),
            }))
        })
        .collect()
}

fn stations(state: &State) -> Vec<Row> {
    let addresses = |mac: &Mac| {
        let endpoints = state.tables.endpoints.iter();
        let its = endpoints.filter(|(_, endpoint)| endpoint.network == 0 && endpoint.mac == *mac);
        its.map(|(address, _)| address.to_string()).collect::<Vec<_>>()
    };
    let stations = state.tables.stations.iter();
    stations
        .map(|(mac, station)| {
            let (mac, addresses) = (mac.to_string(), addresses(mac));
            let host = station.host != 0;
            row(json!({"mac": mac, "parent_ifindex": station.parent, "host": host, "addresses": addresses}))
        })
        .collect()
}

fn reach(state: &State, names: Names<'_>) -> Vec<Row> {
    let network = |id| names.of(name_kind::NETWORK, id);
    let reach = state.tables.reach.iter();
    reach.map(|key| row(json!({"from": network(key.from), "to": network(key.to)}))).collect()
}

/// The networks that this one reaches.
pub fn reached(state: &State, names: Names<'_>, network: u32) -> Vec<String> {
    let reached = state.tables.reach.iter().filter(|key| key.from == network);
    reached.map(|key| names.of(name_kind::NETWORK, key.to)).collect()
}

/// Where these terms let containers go outside: `any`, `none`, or a list of `internet` and sets.
pub fn egress(terms: &Terms, names: Names<'_>) -> Value {
    let holds = |kind: u8| terms.egress & kind != 0;
    if holds(egress::ANY) {
        return json!("any");
    }
    let mut places = Vec::new();
    if holds(egress::INTERNET) {
        places.push("internet".to_owned());
    }
    if holds(egress::ZONES) {
        places.extend(names.zones(terms.zones));
    }
    if holds(egress::PUBLIC_ZONES) {
        places.extend(names.zones(terms.zones).iter().map(|set| format!("public of {set}")));
    }
    if places.is_empty() { json!("none") } else { json!(places) }
}

fn links(state: &State) -> Vec<Row> {
    let ports = state.tables.links.iter().filter(|link| link.port != 0);
    ports
        .map(|link| {
            row(json!({
                "client": link.client.to_string(),
                "server": link.server.to_string(),
                "proto": protocol(link.proto),
                "port": link.port,
            }))
        })
        .collect()
}

/// How far a flow has come, in a word.
pub fn flow_state(number: u8) -> &'static str {
    match number {
        flow::state::OPENING => "opening",
        flow::state::ANSWERED => "answered",
        flow::state::ESTABLISHED => "established",
        flow::state::FIN_SENT => "fin-sent",
        flow::state::CUT => "cut",
        _ => "unknown",
    }
}

/// Whose flow it is, in a word.
pub fn flow_owner(number: u8) -> &'static str {
    match number {
        flow::owner::HOST => "host",
        flow::owner::CONTAINER => "container",
        flow::owner::PEER => "peer",
        _ => "other",
    }
}

/// The flows that are alive at `now`, by the rule of their table.
fn flows(flows: BTreeMap<FlowKey, Flow>, is_over: fn(&Flow, u8, u32) -> bool, now: u32) -> Vec<Row> {
    let live = flows.into_iter().filter(|(key, flow)| !is_over(flow, key.proto, now));
    live.map(|(key, flow)| {
        row(json!({
            "proto": protocol(key.proto),
            "local": key.local.to_string(),
            "local_port": key.local_port,
            "remote": key.remote.to_string(),
            "remote_port": key.remote_port,
            "state": flow_state(flow.state),
            "owner": flow_owner(flow.owner),
            "counted_as": (flow.container != 0).then_some(flow.container),
            "idle_seconds": now.saturating_sub(flow.last_seen),
        }))
    })
    .collect()
}

fn outbound(state: &State, names: Names<'_>) -> Vec<Row> {
    let any = |port: u16| (port != 0).then_some(port);
    let rules = state.tables.outbound.iter();
    rules
        .map(|(key, rule)| {
            row(json!({
                "proto": protocol(key.proto),
                "port": any(key.port),
                "source_port": any(key.source_port),
                "rule": names.of(name_kind::RULE, rule.rule),
                "to": match rule.destinations {
                    sources::ANY => json!("any"),
                    sources::ZONES => json!(names.zones(rule.zones)),
                    _ => Value::Null,
                },
            }))
        })
        .collect()
}

fn limits(state: &State, names: Names<'_>) -> Vec<Row> {
    let limits = state.tables.limits.iter();
    limits
        .map(|(id, limit)| {
            row(json!({
                "limit": names.of(name_kind::RULE, limit.rule),
                "id": id,
                "rate": limit.rate,
                "burst": limit.burst,
            }))
        })
        .collect()
}

/// The rule behind the number of a limit.
fn limit_name(state: &State, names: Names<'_>, id: u32) -> String {
    let limit = state.tables.limits.get(&id);
    limit.map_or_else(|| id.to_string(), |limit| names.of(name_kind::RULE, limit.rule))
}

fn buckets(maps: &Maps, state: &State, names: Names<'_>) -> Result<Vec<Row>, DatapathError> {
    let buckets = maps.buckets()?.into_iter();
    Ok(buckets
        .map(|(key, bucket)| {
            let peer = key.peer.to_string();
            row(json!({
                "limit": limit_name(state, names, key.limit),
                "peer": if key.peer.is_v4() { peer } else { format!("{peer}/64") },
                "flows_left": bucket.tokens / 1000,
            }))
        })
        .collect())
}

fn datagrams(maps: &Maps, now: u32) -> Result<Vec<Row>, DatapathError> {
    let datagrams = maps.datagrams()?.into_iter();
    Ok(datagrams
        .map(|(key, datagram)| {
            row(json!({
                "source": key.source.to_string(),
                "destination": key.destination.to_string(),
                "id": key.id,
                "proto": key.source.is_v4().then(|| protocol(key.proto)),
                "mark": datagram.mark,
                "age_seconds": now.saturating_sub(datagram.seen),
            }))
        })
        .collect())
}

fn observed(maps: &Maps, state: &State, now: u32) -> Result<Vec<Row>, DatapathError> {
    let names = Names { names: &state.names };
    let observed = maps.observed()?.into_iter();
    Ok(observed
        .map(|(key, seen)| {
            row(json!({
                "source": key.source.to_string(),
                "destination": key.destination.to_string(),
                "proto": protocol(key.proto),
                "port": (key.destination_port != 0).then_some(key.destination_port),
                "icmp_type": matches!(key.proto, proto::ICMP | proto::ICMPV6).then_some(key.icmp_type),
                "ethertype": format!("{:04x}", key.ethertype),
                "hook": Hook::from_number(key.hook).map(Hook::name),
                "ifindex": key.ifindex,
                "reason": Reason::from_number(key.reason).map(Reason::name),
                "rule": (key.rule != 0).then(|| names.of(name_kind::RULE, key.rule)),
                "packets": seen.packets,
                "bytes": seen.bytes,
                "opening": seen.opening,
                "first_seconds_ago": now.saturating_sub(seen.first_seen),
                "last_seconds_ago": now.saturating_sub(seen.last_seen),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_forge_no_rows() {
        let rows = [row(json!({"process": "x\nmine\u{1b}[2J", "port": 1}))];
        assert_eq!(aligned(&rows), "process               port\nx\\u000amine\\u001b[2J  1\n");
        assert_eq!(words(&rows[0]), "process x\\u000amine\\u001b[2J, port 1");
        assert_eq!(lines("a\tb\n\u{9b}2J\r"), "a\tb\n\\u009b2J\\u000d");
        assert_eq!(plain("web-1 (é)"), "web-1 (é)");
    }
}
