//! What listens, or is published, and is not reached from outside: who it is, and why not.

use fw_common::Address;
use fw_common::tables::{PortKey, sources};

use super::{Seen, Target, View, is_open};
use crate::plan::State;

/// A port that somebody means to be there and that the policy keeps closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// IP protocol number.
    pub protocol: u8,
    /// The address of the host; the unspecified one of its family for any.
    pub address: Address,
    /// The port of the host.
    pub port: u16,
    /// Who would answer.
    pub target: Target,
    /// Why nobody comes that far.
    pub why: Why,
}

/// Why a port is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Docker publishes it, and no rule opens it.
    NoRule,
    /// Docker publishes it, and a label of the container lets nobody in.
    Label,
    /// Docker publishes it for the host itself.
    Loopback,
    /// It is a socket of the host, and no rule opens it.
    Host,
}

/// Published ports and sockets of the host that are closed: published ones first, each in the order of the inventory.
#[must_use]
pub fn closed(state: &State, seen: Seen<'_>) -> Vec<Closed> {
    let view = View::new(state, seen);
    let ports = &state.tables.ports;
    let mut rows: Vec<Closed> = Vec::new();
    let mut add = |row: Closed| {
        if !rows.contains(&row) {
            rows.push(row);
        }
    };
    for published in &seen.inventory.published {
        let (protocol, port) = (published.protocol.number(), published.host_port);
        let address = Address::from(published.host);
        let container = seen.containers.iter().find(|container| container.name == published.container);
        let mut target = Target { container_port: Some(published.container_port), ..Target::default() };
        target.name(container);
        let exact = ports.get(&PortKey::new(address, protocol, port));
        let any = ports.get(&PortKey::new(address.any_of_family(), protocol, port));
        let alone = exact.is_some_and(|exact| exact.sources & sources::ALONE != 0);
        let opens = exact.is_some_and(is_open) || (!alone && any.is_some_and(is_open));
        let why = match (address.is_loopback(), opens) {
            (true, _) => Why::Loopback,
            (false, true) => continue,
            (false, false) if alone => Why::Label,
            (false, false) => Why::NoRule,
        };
        add(Closed { protocol, address, port, target, why });
    }
    for listener in seen.listeners.iter().flat_map(|listeners| &listeners.host) {
        let (protocol, address, port) = (listener.protocol, listener.address, listener.port);
        let far = listener.device != 0 && !view.devices.contains(&listener.device);
        if far || address.is_loopback() || super::in_subnet(state, &address).is_some() {
            continue;
        }
        let mut families = vec![address];
        if address == Address::ANY_V6 && !listener.only_v6 {
            families.push(Address::ANY_V4);
        }
        for address in families {
            let exact = ports.get(&PortKey::new(address, protocol, port));
            let any = ports.get(&PortKey::new(address.any_of_family(), protocol, port));
            if exact.is_some_and(is_open) || any.is_some_and(is_open) {
                continue;
            }
            let here =
                view.local.iter().map(|(address, _)| address).find(|it| listener.takes(protocol, it, port));
            let target = view.at_host(here.unwrap_or(&address), protocol, port);
            // Published ports are told above.
            if target.container_port.is_none() {
                add(Closed { protocol, address, port, target, why: Why::Host });
            }
        }
    }
    rows
}
