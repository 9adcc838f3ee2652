//! Hooks, networks, containers and what is reachable, as rows.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::Hook;
use fw_common::tables::{name_kind, role};
use fw_common::wire::proto;
use serde_json::{Value, json};

use crate::commands::reach::{address, leads_to, ports, process};
use crate::datapath::{Directory, attached_in};
use crate::exposure::{self, Closed, Open, WhyClosed};
use crate::inventory::Inventory;
use crate::netlink::{HostSnapshot, Link};
use crate::plan::{HookPoint, State};
use crate::view::{self, Names, Row, row};

pub(super) fn hooks(
    directory: &Directory,
    host: &HostSnapshot,
    problems: &mut Vec<String>,
) -> anyhow::Result<Vec<Row>> {
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
        rows.push(row(json!({
            "device": device,
            "hook": hook,
            "by": how.name(),
            "runs": alive,
        })));
    }
    rows.extend(foreign(host, &attached.into_keys().collect()));
    Ok(rows)
}

/// XDP programs of others on our uplinks, which keep ours off.
fn foreign(host: &HostSnapshot, attached: &BTreeSet<HookPoint>) -> Vec<Row> {
    let on = |ifindex, hook| attached.contains(&HookPoint { ifindex, hook });
    let links = host.links.iter().filter(|link| !link.xdp.is_empty());
    let theirs = links.filter(|link| on(link.index, Hook::UplinkIngress) && !on(link.index, Hook::UplinkXdp));
    let row_of = |link: &Link| {
        let hook = Hook::UplinkXdp.name();
        row(json!({"device": link.name, "hook": hook, "by": "another program", "runs": false}))
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
