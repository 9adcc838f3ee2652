//! Live flows, with the names of whom they belong to.
//!
//! Pure: tables and flows in, rows out.

use std::collections::BTreeMap;

use fw_common::flow::{Flow, FlowKey, counted};
use fw_common::tables::name_kind;
use fw_common::{Address, Tables as _};
use serde_json::json;

use crate::plan::State;
use crate::view::raw::owners;
use crate::view::{self, Names, Row, flow_owner, flow_state, protocol, row};

/// Which way a flow began, seen from this host and its containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It went out: map `flows`, the tuple as the outside sees it.
    Out,
    /// It came in to a container: map `inbound_flows`, the tuple as the container sees it.
    In,
}

/// Who is at the ends of flows.
pub struct Ends<'a> {
    state: &'a State,
    owners: BTreeMap<u16, String>,
}

impl<'a> Ends<'a> {
    /// As these tables name them.
    pub fn new(state: &'a State) -> Self {
        Self { state, owners: owners(state, Names { names: &state.names }) }
    }

    /// The container and the network of this address.
    pub fn at(&self, address: &Address) -> (Option<String>, Option<String>) {
        let names = Names { names: &self.state.names };
        let tables = &self.state.tables;
        let endpoint = tables.endpoint(address);
        let network = endpoint.map(|endpoint| endpoint.network).filter(|network| *network != 0);
        let network = network.or_else(|| tables.subnet(address).map(|subnet| subnet.network));
        let container = endpoint.filter(|endpoint| endpoint.port != 0 && endpoint.network != 0);
        (
            container.map(|endpoint| names.of(name_kind::ENDPOINT, endpoint.port)),
            network.map(|id| names.of(name_kind::NETWORK, id)),
        )
    }

    /// The container that a flow belongs to, if it is known. What went out carries the number by which it is counted, for
    /// its address is the host's.
    pub fn container(&self, key: &FlowKey, flow: &Flow) -> Option<String> {
        let known = self.owners.get(&flow.container).filter(|_| flow.container != 0).cloned();
        known.or_else(|| self.at(&key.local).0).or_else(|| match flow.container {
            counted::UNKNOWN => Some("(not known)".to_owned()),
            counted::ANSWERS => Some("(answers)".to_owned()),
            _ => None,
        })
    }

    /// A flow as a row. `exact` gives each field by itself, for machines.
    pub fn row(&self, direction: Direction, key: &FlowKey, flow: &Flow, now: u32, exact: bool) -> Row {
        let container = self.container(key, flow);
        let (far, network) = self.at(&key.remote);
        let direction = if direction == Direction::Out { "out" } else { "in" };
        let (age, idle) = (now.saturating_sub(flow.started), now.saturating_sub(flow.last_seen));
        if exact {
            return row(json!({
                "direction": direction,
                "proto": protocol(key.proto),
                "container": container,
                "local": key.local.to_string(),
                "local_port": key.local_port,
                "remote": key.remote.to_string(),
                "remote_port": key.remote_port,
                "remote_container": far,
                "remote_network": network,
                "owner": flow_owner(flow.owner),
                "state": flow_state(flow.state),
                "age_seconds": age,
                "idle_seconds": idle,
            }));
        }
        let far = far.or_else(|| network.map(|network| format!("({network})")));
        let far = far.map_or_else(String::new, |name| format!("{name} "));
        row(json!({
            "dir": direction,
            "proto": protocol(key.proto),
            "owner": container.unwrap_or_else(|| flow_owner(flow.owner).to_owned()),
            "local": view::at(&key.local, key.local_port),
            "remote": format!("{far}{}", view::at(&key.remote, key.remote_port)),
            "state": flow_state(flow.state),
            "age": format!("{age}s"),
            "idle": format!("{idle}s"),
        }))
    }
}

/// The flows of both tables that are alive at second `now` of the monotonic clock; `only` those of one container.
pub fn rows(
    state: &State,
    outward: &BTreeMap<FlowKey, Flow>,
    inbound: &BTreeMap<FlowKey, Flow>,
    now: u32,
    only: Option<&str>,
    exact: bool,
) -> Vec<Row> {
    let ends = Ends::new(state);
    let out = outward
        .iter()
        .filter(|(key, flow)| !flow.is_expired(key.proto, now))
        .map(|(key, flow)| (Direction::Out, key, flow));
    let came = inbound
        .iter()
        .filter(|(key, flow)| !flow.is_forgotten(key.proto, now))
        .map(|(key, flow)| (Direction::In, key, flow));
    let concerns = |key: &FlowKey, flow: &Flow| {
        only.is_none_or(|name| {
            ends.container(key, flow).as_deref() == Some(name)
                || ends.at(&key.remote).0.as_deref() == Some(name)
        })
    };
    out.chain(came)
        .filter(|(_, key, flow)| concerns(key, flow))
        .map(|(direction, key, flow)| ends.row(direction, key, flow, now, exact))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use bytemuck::Zeroable as _;
    use fw_common::flow::{owner, state};
    use fw_common::tables::{Endpoint, Interface, NameKey, role};
    use fw_common::wire::proto;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect("an address").into()
    }

    fn key(local: (&str, u16), remote: (&str, u16)) -> FlowKey {
        FlowKey {
            local: address(local.0),
            remote: address(remote.0),
            local_port: local.1,
            remote_port: remote.1,
            proto: proto::TCP,
            reserved: [0; 3],
        }
    }

    /// Container `web` (number 7) behind port 9 of network `front`.
    fn host() -> State {
        let mut host = State::default();
        let port =
            Interface { role: role::PORT, network: 4, owner: 7, endpoint_known: 1, ..Interface::zeroed() };
        host.tables.interfaces.insert(9, port);
        let endpoint = Endpoint { network: 4, port: 9, ..Endpoint::zeroed() };
        host.tables.endpoints.insert(address("10.1.0.2"), endpoint);
        host.names.insert(NameKey { kind: name_kind::ENDPOINT, id: 9 }, "web".to_owned());
        host.names.insert(NameKey { kind: name_kind::NETWORK, id: 4 }, "front".to_owned());
        host
    }

    #[test]
    fn flows_have_the_names_of_their_containers() {
        let flow = |owner, container| Flow {
            last_seen: 90,
            started: 70,
            state: state::ESTABLISHED,
            owner,
            container,
        };
        let outward = BTreeMap::from([
            (key(("192.0.2.1", 40000), ("198.51.100.1", 443)), flow(owner::CONTAINER, 7)),
            (key(("2001:db8::1", 40001), ("2001:db8:9::1", 443)), flow(owner::HOST, 0)),
            (key(("192.0.2.1", 1), ("198.51.100.2", 2)), Flow { last_seen: 0, ..flow(owner::HOST, 0) }),
        ]);
        let inbound = BTreeMap::from([(key(("10.1.0.2", 80), ("203.0.113.5", 5000)), flow(owner::PEER, 0))]);
        let now = 400_000;
        let fresh = |flows: &BTreeMap<FlowKey, Flow>| {
            flows
                .iter()
                .map(|(key, flow)| {
                    (*key, Flow { last_seen: flow.last_seen.saturating_sub(1) + now - 100, ..*flow })
                })
                .collect()
        };
        let (mut outward, inbound): (BTreeMap<_, _>, BTreeMap<_, _>) = (fresh(&outward), fresh(&inbound));
        outward.insert(
            key(("192.0.2.1", 1), ("198.51.100.2", 2)),
            Flow { last_seen: 0, ..flow(owner::HOST, 0) },
        );
        let told = |only, exact| rows(&host(), &outward, &inbound, now, only, exact);
        let all = told(None, true);
        assert_eq!(all.len(), 3, "what is over is not told: {all:?}");
        let its = told(Some("web"), false);
        let cells = |row: &Row| {
            ["dir", "owner", "local", "remote", "state"]
                .map(|cell| row[cell].as_str().unwrap_or("").to_owned())
        };
        assert_eq!(
            its.iter().map(cells).collect::<Vec<_>>(),
            [
                ["out", "web", "192.0.2.1:40000", "198.51.100.1:443", "established"],
                ["in", "web", "10.1.0.2:80", "203.0.113.5:5000", "established"],
            ]
        );
        assert_eq!(told(Some("db"), true), []);
        let hosts = told(None, false).into_iter().find(|row| row["owner"] == "host").expect("the host's");
        assert_eq!(hosts["local"], "[2001:db8::1]:40001");
    }
}
