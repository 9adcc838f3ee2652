//! Words for what is reachable, which `fw status` and `fw plan` have in common.

use fw_common::Address;
use fw_common::wire::proto;
use serde_json::{Value, json};

use crate::exposure::Target;
use crate::view::Row;

/// What another column says in fewer words, or that is for programs.
const TOLD: [&str; 8] =
    ["addresses", "interfaces", "service", "container_port", "process", "pid", "published", "limit"];

/// Rows as people read them. Where some of the host's addresses lead elsewhere than others, they are named.
pub(super) fn all_for_people(rows: &[Row]) -> Vec<Row> {
    let count = |row: &Row| row.get("addresses").and_then(Value::as_array).map_or(0, Vec::len);
    let all = |row: &Row| {
        let same = rows.iter().filter(|other| other.get("address") == row.get("address"));
        same.map(count).max().unwrap_or(0)
    };
    let one = |row: &Row| {
        let mut shown = for_people(row);
        if (1..all(row)).contains(&count(row)) {
            shown.insert("address".to_owned(), row.get("addresses").cloned().unwrap_or_default());
        }
        shown
    };
    rows.iter().map(one).collect()
}

/// A row as people read it: who is there in one column, and no column that says it again.
pub(super) fn for_people(row: &Row) -> Row {
    let text = |key: &str| row.get(key).and_then(Value::as_str);
    let mut who = text("leads_to").unwrap_or_default().to_owned();
    if let Some(service) = text("service") {
        who += &format!(" ({service})");
    }
    if let (Some(process), Some(pid)) = (text("process"), row.get("pid")) {
        who += &format!(", {process} ({pid})");
    }
    let limit = text("limit").map(str::to_owned);
    let mut row = row.clone();
    row.retain(|key, _| !TOLD.contains(&key.as_str()));
    if let (Some(limit), Some(why)) = (limit, row.get_mut("why").filter(|why| why.is_string())) {
        *why = json!(format!("{}, limit {limit}", why.as_str().unwrap_or_default()));
    }
    if row.contains_key("leads_to") {
        row.remove("container");
        row.insert("leads_to".to_owned(), json!(who));
    }
    if let Some(listens) = row.get_mut("listens") {
        *listens = json!(match listens {
            Value::Bool(true) => "yes",
            Value::Bool(false) => "nothing listens",
            _ => "unknown",
        });
    }
    row
}

/// The row without these fields.
pub(super) fn without(row: &Row, keys: &[&str]) -> Row {
    row.iter()
        .filter(|(key, _)| !keys.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The address of a key of table `ports`.
pub(super) fn address(address: &Address) -> String {
    match *address {
        Address::ANY_V4 => "any IPv4".to_owned(),
        Address::ANY_V6 => "any IPv6".to_owned(),
        other => other.to_string(),
    }
}

/// Ports, of protocols that have some.
pub(super) fn ports(protocol: u8, first: u16, last: u16) -> String {
    match protocol {
        proto::ICMP => "echo".to_owned(),
        0 => "all".to_owned(),
        _ if first == last => first.to_string(),
        _ => format!("{first}-{last}"),
    }
}

/// The container and its port, whoever else packets are sent to, or the host itself.
pub(super) fn leads_to(target: &Target) -> String {
    match (&target.container, target.elsewhere, target.container_port) {
        (Some(container), _, Some(port)) if port != 0 => format!("{container}:{port}"),
        (Some(container), ..) => container.clone(),
        (None, Some(elsewhere), Some(port)) => std::net::SocketAddr::new(elsewhere, port).to_string(),
        (None, Some(elsewhere), None) => elsewhere.to_string(),
        (None, None, _) => "host".to_owned(),
    }
}

/// The name of the process that holds the socket.
pub(super) fn process(target: &Target) -> Option<&str> {
    target.process.as_ref().map(|process| process.name.as_str())
}
