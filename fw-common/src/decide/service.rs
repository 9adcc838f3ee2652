//! Services: rules for the ports of this host, and of containers that are addressed without NAT, and who may use them.

use crate::address::Address;
use crate::tables::{Port, PortKey, Tables, sources};
use crate::wire::{Packet, proto};

/// What the tables say of a service and a peer.
///
/// Eight bytes: what fits one register is all that a BPF function can return.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Service {
    /// Whether any entry stands for the port, be it a rule or only that Docker publishes it.
    pub known: bool,
    /// Whether Docker publishes the address, protocol and port that the packet names.
    pub published: bool,
    /// What the peer may.
    pub access: Access,
    /// The limit for new flows of the peer, 0 if none.
    pub limit: u8,
    /// The rule that said so, 0 if none did.
    pub rule: u32,
}

/// What a peer may do with a service.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Access {
    /// A rule holds the peer.
    Rule,
    /// Being published is enough.
    Open,
    /// There is a rule, and it does not hold the peer.
    SourceNotAllowed,
    /// There is no rule.
    Closed,
}

/// Looks up the service `(local, proto, port)` for `peer`: the entry of the exact address first, then that of any.
#[inline(never)]
pub(super) fn find<T: Tables>(
    tables: &T,
    local: &Address,
    protocol: u8,
    port: u16,
    peer: &Address,
) -> Service {
    let mut service = Service::CLOSED;
    let mut zones = None;
    let mut key = PortKey::new(*local, protocol, port);
    let mut alone = false;
    if let Some(entry) = tables.port(&key) {
        alone = entry.sources & sources::ALONE != 0;
        service.add(tables, &entry, peer, &mut zones);
    }
    if service.access != Access::Rule && !alone {
        key.address = local.any_of_family();
        if let Some(entry) = tables.port(&key) {
            service.add(tables, &entry, peer, &mut zones);
        }
    }
    service
}

/// Looks up the service at a container's own address for `peer`, who comes in by the uplink that `at` names (0: from
/// another network): the entry of the port, then that of all its ports, then what that uplink is trusted with.
///
/// Each entry says all by itself, unlike those of the host's ports: rules for any address are not asked.
#[inline(never)]
pub(super) fn find_direct<T: Tables>(tables: &T, at: &PortKey, peer: &Address) -> Service {
    let mut service = Service::CLOSED;
    let mut zones = None;
    if let Some(entry) = tables.port(&at.by(0)) {
        service.add(tables, &entry, peer, &mut zones);
    }
    if !service.is_allowed()
        && let Some(entry) = tables.port(&PortKey::all_of(at.address))
    {
        service.add(tables, &entry, peer, &mut zones);
    }
    if !service.is_allowed()
        && at.ifindex != 0
        && let Some(entry) = tables.port(at)
    {
        service.add(tables, &entry, peer, &mut zones);
    }
    service
}

impl Service {
    /// No entry stands for it.
    pub(super) const CLOSED: Self =
        Self { known: false, published: false, access: Access::Closed, limit: 0, rule: 0 };

    #[inline(always)]
    fn add<T: Tables>(&mut self, tables: &T, entry: &Port, peer: &Address, zones: &mut Option<u64>) {
        self.known = true;
        self.published |= entry.published != 0;
        let holds = match entry.sources & !sources::ALONE {
            sources::ANY => true,
            sources::ZONES => {
                let held = zones.unwrap_or_else(|| tables.zones(peer));
                *zones = Some(held);
                held & entry.zones != 0
            }
            _ => false,
        };
        if holds {
            self.access = Access::Rule;
            self.rule = entry.rule;
            self.limit = entry.limit;
        } else if entry.open != 0 && self.access != Access::Rule {
            self.access = Access::Open;
            self.limit = entry.limit;
        } else if entry.rule != 0 && self.access == Access::Closed {
            self.access = Access::SourceNotAllowed;
            self.rule = entry.rule;
        }
    }

    /// The same at an address to which Docker publishes nothing.
    #[inline(always)]
    pub(super) fn unpublished(self) -> Self {
        let access = if self.access == Access::Open { Access::Closed } else { self.access };
        Self { published: false, access, ..self }
    }

    /// Whether the peer may use the service.
    pub(super) fn is_allowed(self) -> bool {
        matches!(self.access, Access::Rule | Access::Open)
    }
}

/// Whether the packet may open a service at all: of ICMP only an echo request does.
#[inline(always)]
pub(super) fn asks_for_service(packet: &Packet) -> bool {
    match packet.protocol {
        proto::ICMP | proto::ICMPV6 => {
            use crate::wire::icmp::ECHO;
            packet.is_icmp_of(ECHO.0, ECHO.1)
        }
        _ => true,
    }
}
