//! How live connections fare under the tables: which of them a change would cut, which flows they need, and which are
//! there by fw's leave alone.
//!
//! Pure: no I/O, no clock. A connection is played to the same `decide` that the kernel runs: its first packet and the
//! first answer, at each hook that they cross, in a host on which nothing has happened yet.

use std::collections::{BTreeMap, BTreeSet};

use bytemuck::Zeroable as _;
use fw_common::decide::Workspace;
use fw_common::flow::{self, Flow, FlowKey, owner};
use fw_common::tables::memory::Memory;
use fw_common::tables::{Endpoint, LocalKey, NameKey, Tables as _, link_layer, name_kind, role};
use fw_common::wire::{Arrival, Audience, VlanTag, ethertype, proto, tcp};
use fw_common::{Action, Address, Hook, Mac, Reason, Verdict, decide};

use crate::conntrack::{Connection, TcpState, Tuple, status};
use crate::plan::{HookPoint, State};

/// A connection that goes on no more, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The connection.
    pub connection: Connection,
    /// Where its packets end.
    pub hook: Hook,
    /// Why.
    pub reason: Reason,
    /// The rule that let it in until now, by its name.
    pub rule: Option<String>,
    /// The container that it leads to or comes from, by its name.
    pub container: Option<String>,
}

/// Records of flows, by their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// For map `flows`.
    pub outward: BTreeMap<FlowKey, Flow>,
    /// For map `inbound_flows`.
    pub inbound: BTreeMap<FlowKey, Flow>,
}

/// The connections that could be opened under `current` and could not under `desired`, in their order. What goes on for
/// another reason, since before fw, is none of them; and none is where nothing is hooked yet, for what is taken over is
/// kept. Nor is one of a container of which Docker has yet to speak, as [`is_unnamed`] has it: an engine that starts does
/// not name all, and what is cut in vain cannot be mended.
#[must_use]
pub fn cut(current: &State, desired: &State, connections: &[Connection]) -> Vec<Cut> {
    if current.hooks.is_empty() {
        return Vec::new();
    }
    let (before, after) = (Host::new(current), Host::new(desired));
    let one = |connection: &Connection| {
        let end = after.admits(connection).err()?;
        let passed = before.admits(connection).ok()?;
        if is_unnamed(&current.tables, &desired.tables, connection) {
            return None;
        }
        Some(Cut {
            connection: *connection,
            hook: end.hook,
            reason: end.verdict.reason,
            rule: passed.iter().find_map(|passed| name(current, name_kind::RULE, passed.verdict.rule)),
            container: before
                .containers(connection)
                .find_map(|port| name(current, name_kind::ENDPOINT, port)),
        })
    };
    connections.iter().filter(|connection| is_open(connection)).filter_map(one).collect()
}

/// The connections that fw has opened against Docker's own rules, and that must not outlive it by the rule for what is
/// established: from one network to another that it may reach. `current` is taken for hooked everywhere.
#[must_use]
pub fn beyond_docker<'a>(current: &State, connections: &'a [Connection]) -> Vec<&'a Connection> {
    let host = Host::hooked(current);
    let beyond = |connection: &&Connection| {
        let passed = host.admits(connection);
        passed.is_ok_and(|passed| passed.iter().any(|passed| passed.verdict.reason == Reason::Reach))
    };
    connections.iter().filter(beyond).collect()
}

/// The flows that these connections would have left behind if the hooks of `state` had always been there, at second
/// `now` of the monotonic clock; and of those that could not be opened any more, what keeps them alive.
#[must_use]
pub fn seeds(state: &State, connections: &[Connection], now: u32) -> Records {
    let host = Host::new(state);
    let mut records = Records::default();
    for connection in connections.iter().filter(|connection| is_open(connection)) {
        let protocol = connection.original.protocol;
        for (key, begun_by) in host.outward(connection) {
            // What a rule lets in anyway needs no flow, and the first packet of somebody is no connection yet.
            if begun_by == owner::PEER && (!connection.is_answered() || host.admits(connection).is_ok()) {
                continue;
            }
            let state = flow_state(connection);
            if let Some(last_seen) = last_seen(connection, flow::timeout(protocol, state), now) {
                let flow = Flow { last_seen, started: now, state, owner: begun_by, container: 0 };
                records.outward.insert(key, flow);
            }
        }
        for (key, remote) in host.inbound(connection) {
            let state = match flow_state(connection) {
                flow::state::ANSWERED => flow::state::ESTABLISHED,
                other => other,
            };
            let flow = Flow { last_seen: now, started: now, state, owner: remote, container: 0 };
            records.inbound.insert(key, flow);
        }
    }
    records
}

/// What keeps these connections from going on after they were cut: of TCP their own segments would else make a flow
/// again, for nothing tells them from those of a connection that is older than the hooks.
///
/// The owner tells who began, for [`lifted`]: in `inbound_flows` the container itself, or else the peer.
#[must_use]
pub fn severed<'a>(
    state: &State,
    connections: impl IntoIterator<Item = &'a Connection>,
    now: u32,
) -> Records {
    let host = Host::new(state);
    let cut = |owner| Flow { last_seen: now, started: now, state: flow::state::CUT, owner, container: 0 };
    let mut records = Records::default();
    for connection in connections {
        let begun_by = |key: &FlowKey| {
            if key.local == connection.original.source { owner::CONTAINER } else { owner::PEER }
        };
        records.outward.extend(host.outward(connection).map(|(key, owner)| (key, cut(owner))));
        records.inbound.extend(host.inbound(connection).map(|(key, _)| (key, cut(begun_by(&key)))));
    }
    records
}

/// Those of these flows, which were cut, whose connections could be opened under `state`.
///
/// What NAT had made of them is forgotten, so the flow of a container is matched with that of the outside by their peer
/// and by who began. Where several fit, one that could be opened is enough for that of the outside: containers are held
/// by their own, and by their port's hook.
#[must_use]
pub fn lifted(state: &State, cut: &Records) -> Records {
    let host = Host::new(state);
    let by_us = |flow: &Flow| flow.owner != owner::PEER;
    let by_peer = |key: &FlowKey, flow: &Flow| (key.remote, key.remote_port, key.proto, by_us(flow));
    let may_be = |outer: &FlowKey, inner: &FlowKey, flow: &Flow| {
        host.admits(&connection_of(outer, inner, by_us(flow))).is_ok()
    };
    let mut inside: BTreeMap<_, Vec<(&FlowKey, &Flow)>> = BTreeMap::new();
    for (key, flow) in &cut.inbound {
        inside.entry(by_peer(key, flow)).or_default().push((key, flow));
    }
    let mut lifted = Records::default();
    let mut matched = BTreeSet::new();
    for (key, flow) in &cut.outward {
        let Some(behind) = inside.get(&by_peer(key, flow)) else {
            // What containers may open is judged at their ports.
            let begun_here = matches!(flow.owner, owner::HOST | owner::PEER);
            lifted.outward.extend((!begun_here || may_be(key, key, flow)).then_some((*key, *flow)));
            continue;
        };
        matched.insert(by_peer(key, flow));
        let open: Vec<_> = behind.iter().filter(|(inner, flow)| may_be(key, inner, flow)).collect();
        lifted.outward.extend((!open.is_empty()).then_some((*key, *flow)));
        lifted.inbound.extend(open.into_iter().map(|(key, flow)| (**key, **flow)));
    }
    let alone = cut.inbound.iter().filter(|(key, flow)| !matched.contains(&by_peer(key, flow)));
    lifted
        .inbound
        .extend(alone.filter(|(key, flow)| may_be(key, key, flow)).map(|(key, flow)| (*key, *flow)));
    lifted
}

/// Whether a container that was known at one of its ends is not known now, although its port stands on its bridge: who has
/// ended has taken it along, and who has come in his place is known.
fn is_unnamed(before: &Memory, after: &Memory, connection: &Connection) -> bool {
    let ends = [connection.original.source, connection.reply.source];
    ends.iter().any(|end| {
        let Some(known) = before.endpoints.get(end) else { return false };
        let port = after.interfaces.get(&known.port).filter(|port| port.role == role::PORT);
        port.is_some_and(|port| port.network == known.network && port.endpoint_known == 0)
            && after.endpoints.get(end).is_none_or(|now| now.port == 0)
    })
}

/// Whether anything may still be sent on it.
fn is_open(connection: &Connection) -> bool {
    !matches!(connection.tcp, Some(TcpState::TimeWait | TcpState::Close))
}

/// How far a flow would have come.
fn flow_state(connection: &Connection) -> u8 {
    use flow::state::{ANSWERED, ESTABLISHED, FIN_SENT, OPENING};
    if connection.original.protocol != proto::TCP {
        return match (connection.status & status::ASSURED != 0, connection.is_answered()) {
            (true, _) => ESTABLISHED,
            (false, true) => ANSWERED,
            (false, false) => OPENING,
        };
    }
    match connection.tcp {
        Some(TcpState::SynSent | TcpState::SynReceived) => OPENING,
        Some(
            TcpState::FinWait
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::TimeWait
            | TcpState::Close,
        ) => FIN_SENT,
        // Of a connection that hardware forwards the kernel tells no state.
        Some(TcpState::Established | TcpState::Other(_)) | None => ESTABLISHED,
    }
}

/// When a flow that lives for `timeout` was last seen, so that it ends before conntrack forgets the connection: in five
/// sixths of the time that is left, which is the margin of the flow's own timeouts. `None` if nothing is left.
fn last_seen(connection: &Connection, timeout: u32, now: u32) -> Option<u32> {
    let Some(left) = connection.timeout else { return Some(now) };
    let left = left - left.div_ceil(6);
    (left > 0).then(|| now.wrapping_sub(timeout.saturating_sub(left)))
}

/// Who is at an end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// This host.
    Host,
    /// A container of this network, known or not.
    Container { network: u32, endpoint: Option<Endpoint> },
    /// Everybody else.
    Outside,
}

/// A verdict and where it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Passed {
    hook: Hook,
    verdict: Verdict,
}

/// A host as its tables describe it, on which connections are tried.
struct Host {
    tables: Memory,
    hooks: BTreeSet<HookPoint>,
    uplinks: Vec<u32>,
}

impl Host {
    fn new(state: &State) -> Self {
        let uplinks = state.tables.interfaces.iter().filter(|(_, device)| device.role == role::UPLINK);
        Self {
            uplinks: uplinks.map(|(ifindex, _)| *ifindex).collect(),
            tables: state.tables.clone(),
            hooks: state.hooks.clone(),
        }
    }

    /// As if every device had the hooks of its role.
    fn hooked(state: &State) -> Self {
        let all = state.tables.interfaces.iter().flat_map(|(ifindex, device)| {
            let hooks: &[Hook] = match device.role {
                role::UPLINK => &[Hook::UplinkIngress, Hook::UplinkEgress],
                role::BRIDGE => &[Hook::BridgeIngress, Hook::BridgeEgress],
                _ => &[Hook::PortIngress],
            };
            hooks.iter().map(|hook| HookPoint { ifindex: *ifindex, hook: *hook })
        });
        Self { hooks: all.collect(), ..Self::new(state) }
    }

    /// Whether the connection could be opened now, by any of the uplinks; the verdicts on its way, or the first that
    /// ends it.
    fn admits(&self, connection: &Connection) -> Result<Vec<Passed>, Passed> {
        if self.tables.settings.observe != 0 {
            return Ok(Vec::new());
        }
        let mut ended = None;
        for uplink in &self.uplinks {
            match self.play(connection, *uplink) {
                Ok(passed) => return Ok(passed),
                Err(end) => _ = ended.get_or_insert(end),
            }
        }
        match ended {
            Some(end) => Err(end),
            // Without an uplink nobody is outside, and any number stands for the one that is not there.
            None => self.play(connection, 0),
        }
    }

    /// The first packet and the first answer, at one hook after the other.
    fn play(&self, connection: &Connection, uplink: u32) -> Result<Vec<Passed>, Passed> {
        self.forget();
        let Connection { original, reply, .. } = connection;
        let (sender, receiver) = (self.side(&original.source), self.side(&reply.source));
        let translated = turned(reply, original.icmp_type);
        let untranslated = turned(original, reply.icmp_type);
        let mut passed = Vec::new();
        self.enter(sender, original, tcp::SYN, uplink, &mut passed)?;
        self.leave(receiver, sender, &translated, tcp::SYN, uplink, &mut passed)?;
        self.enter(receiver, reply, tcp::SYN | tcp::ACK, uplink, &mut passed)?;
        self.leave(sender, receiver, &untranslated, tcp::SYN | tcp::ACK, uplink, &mut passed)?;
        Ok(passed)
    }

    /// What earlier packets have left.
    fn forget(&self) {
        self.tables.flows.borrow_mut().clear();
        self.tables.inbound_flows.borrow_mut().clear();
        self.tables.buckets.borrow_mut().clear();
        self.tables.budgets.borrow_mut().clear();
    }

    /// A packet comes from that side, before any NAT.
    fn enter(
        &self,
        from: Side,
        tuple: &Tuple,
        flags: u8,
        uplink: u32,
        passed: &mut Vec<Passed>,
    ) -> Result<(), Passed> {
        match from {
            Side::Host => Ok(()),
            Side::Outside => self.at(Hook::UplinkIngress, uplink, 0, tuple, flags, passed),
            Side::Container { network, endpoint } => {
                let port = endpoint.map_or(0, |endpoint| endpoint.port);
                let hook = HookPoint { ifindex: port, hook: Hook::PortIngress };
                if self.hooks.contains(&hook) {
                    return self.at(Hook::PortIngress, port, 0, tuple, flags, passed);
                }
                let stays = self.tables.subnet(&tuple.destination).is_some_and(|to| to.network == network);
                if stays { Ok(()) } else { self.at(Hook::BridgeIngress, network, 0, tuple, flags, passed) }
            }
        }
    }

    /// A packet goes to that side, after all NAT.
    fn leave(
        &self,
        to: Side,
        from: Side,
        tuple: &Tuple,
        flags: u8,
        uplink: u32,
        passed: &mut Vec<Passed>,
    ) -> Result<(), Passed> {
        let ingress = match from {
            Side::Host => 0,
            Side::Container { network, .. } => network,
            Side::Outside => uplink,
        };
        match (to, from) {
            (Side::Outside, _) => self.at(Hook::UplinkEgress, uplink, ingress, tuple, flags, passed),
            (Side::Container { network, .. }, Side::Container { network: other, .. }) if network == other => {
                Ok(())
            }
            (Side::Container { network, .. }, _) => {
                self.at(Hook::BridgeEgress, network, ingress, tuple, flags, passed)
            }
            (Side::Host, _) => Ok(()),
        }
    }

    /// Judges the packet at a hook, if there is one.
    fn at(
        &self,
        hook: Hook,
        ifindex: u32,
        ingress_ifindex: u32,
        tuple: &Tuple,
        flags: u8,
        passed: &mut Vec<Passed>,
    ) -> Result<(), Passed> {
        if !self.hooks.contains(&HookPoint { ifindex, hook }) {
            return Ok(());
        }
        let ethertype = if tuple.source.is_v4() { ethertype::IPV4 } else { ethertype::IPV6 };
        let arrival = Arrival {
            ifindex,
            ingress_ifindex,
            ethertype,
            vlan: VlanTag::NONE,
            audience: Audience::Host,
            mark: 0,
            owner: 0,
        };
        let mut frame = Vec::with_capacity(80);
        let device = self.tables.interfaces.get(&ifindex);
        if device.is_none_or(|device| device.link_layer != link_layer::NONE) {
            let (destination, source) = self.macs(tuple);
            frame.extend([destination.bytes, source.bytes].concat());
            frame.extend(ethertype.to_be_bytes());
        }
        frame.extend(packet(tuple, flags));
        let verdict = decide(hook, &arrival, &frame[..], &self.tables, &mut Workspace::zeroed());
        let here = Passed { hook, verdict };
        if verdict.action == Action::Drop {
            return Err(here);
        }
        passed.push(here);
        Ok(())
    }

    /// Destination and source MAC of a container's packet: its own, and its neighbour's or the gateway's.
    fn macs(&self, tuple: &Tuple) -> (Mac, Mac) {
        let Some(source) = self.tables.endpoint(&tuple.source) else {
            return (Mac::default(), Mac::default());
        };
        let neighbour = self.tables.endpoint(&tuple.destination).filter(|to| to.network == source.network);
        let gateway = || self.tables.interface(source.network).map_or(Mac::default(), |bridge| bridge.mac);
        (neighbour.map_or_else(gateway, |neighbour| neighbour.mac), source.mac)
    }

    fn side(&self, address: &Address) -> Side {
        if self.is_local(address) {
            return Side::Host;
        }
        match self.tables.subnet(address) {
            Some(subnet) => {
                Side::Container { network: subnet.network, endpoint: self.tables.endpoint(address) }
            }
            None => Side::Outside,
        }
    }

    /// Whether the address is the host's on whichever device: connections do not say which.
    fn is_local(&self, address: &Address) -> bool {
        let on = |ifindex| LocalKey { address: *address, ifindex, reserved: [0; 4] };
        address.is_loopback() || self.tables.local_addresses.range(on(0)..=on(u32::MAX)).next().is_some()
    }

    /// The ports of the containers at its ends.
    fn containers(&self, connection: &Connection) -> impl Iterator<Item = u32> {
        let ends = [connection.reply.source, connection.original.source];
        ends.into_iter().filter_map(|end| self.tables.endpoint(&end)).map(|endpoint| endpoint.port)
    }

    /// The keys in map `flows` of a connection with the outside, each with whoever began it: as the outside sees it, on
    /// either side of the host.
    fn outward(&self, connection: &Connection) -> impl Iterator<Item = (FlowKey, u8)> + use<> {
        let Connection { original, reply, .. } = connection;
        let (sender, receiver) = (self.side(&original.source), self.side(&reply.source));
        let ours = |address: &Address| self.side(address) != Side::Outside;
        let begun_by = match sender {
            Side::Host => owner::HOST,
            Side::Container { .. } => owner::CONTAINER,
            Side::Outside => owner::OTHER,
        };
        let went_out = receiver == Side::Outside && ours(&reply.destination);
        // A flow answers no echo request.
        let came_in = sender == Side::Outside && ours(&original.destination) && !is_icmp(original);
        let out = went_out.then(|| (key(reply), begun_by));
        let back = came_in.then(|| (key(original), owner::PEER));
        out.into_iter().chain(back)
    }

    /// The keys in map `inbound_flows` of a connection of a container that may not open every connection, or may not
    /// open this one, each with whoever is at the other end.
    fn inbound(&self, connection: &Connection) -> impl Iterator<Item = (FlowKey, u8)> + use<> {
        let Connection { original, reply, .. } = connection;
        let ends =
            [(original, turned(original, original.icmp_type)), (reply, turned(reply, reply.icmp_type))];
        let keys = ends.map(|(sent, received)| {
            let Side::Container { network, endpoint } = self.side(&sent.source) else { return None };
            let remote = self.side(&sent.destination);
            let terms = endpoint.and_then(|endpoint| self.tables.interface(endpoint.port));
            let terms = terms.map(|port| port.terms).or_else(|| Some(self.tables.network(network)?.terms));
            let closed = match remote {
                Side::Container { network: other, .. } if other == network => {
                    self.tables.network(network).is_some_and(|network| network.icc == 0)
                }
                Side::Container { .. } => true,
                Side::Host | Side::Outside => terms.is_none_or(|terms| terms.is_restricted()),
            };
            let owner = match remote {
                Side::Host => owner::HOST,
                Side::Container { .. } => owner::CONTAINER,
                Side::Outside => owner::OTHER,
            };
            (closed && !sent.destination.is_for_many()).then(|| (key(&received), owner))
        });
        keys.into_iter().flatten()
    }
}

/// What a number stands for.
fn name(state: &State, kind: u32, id: u32) -> Option<String> {
    state.names.get(&NameKey { kind, id }).filter(|_| id != 0).cloned()
}

fn is_icmp(tuple: &Tuple) -> bool {
    matches!(tuple.protocol, proto::ICMP | proto::ICMPV6)
}

/// The same tuple, seen from the other end.
fn turned(tuple: &Tuple, icmp_type: u8) -> Tuple {
    Tuple {
        source: tuple.destination,
        destination: tuple.source,
        source_port: tuple.destination_port,
        destination_port: tuple.source_port,
        icmp_type,
        ..*tuple
    }
}

/// The key of the flow to which a packet that comes in with this tuple belongs.
fn key(inward: &Tuple) -> FlowKey {
    let (local_port, remote_port) = match inward.protocol {
        proto::TCP | proto::UDP | proto::UDP_LITE | proto::SCTP => {
            (inward.destination_port, inward.source_port)
        }
        // The identifier stands at our end, whoever asks.
        proto::ICMP | proto::ICMPV6 => (inward.destination_port | inward.source_port, 0),
        _ => (0, 0),
    };
    FlowKey {
        local: inward.destination,
        remote: inward.source,
        local_port,
        remote_port,
        proto: if is_icmp(inward) { proto::ICMP } else { inward.protocol },
        reserved: [0; 3],
    }
}

/// The connection of which the outside knows `outer`, and whoever is at its end here `inner`: without NAT the same.
fn connection_of(outer: &FlowKey, inner: &FlowKey, by_us: bool) -> Connection {
    let tuple = |key: &FlowKey, outward: bool| {
        let (protocol, [asks, answers]) = match (key.proto, key.local.is_v4()) {
            (proto::ICMP, true) => (proto::ICMP, [8, 0]),
            (proto::ICMP, false) => (proto::ICMPV6, [128, 129]),
            (other, _) => (other, [0, 0]),
        };
        let sent = Tuple {
            source: key.local,
            destination: key.remote,
            protocol,
            icmp_type: if outward == by_us { asks } else { answers },
            icmp_code: 0,
            source_port: key.local_port,
            destination_port: key.remote_port,
        };
        if outward { sent } else { turned(&sent, sent.icmp_type) }
    };
    let (sent, received) = (tuple(inner, true), tuple(outer, false));
    let (original, reply) = if by_us { (sent, received) } else { (received, sent) };
    Connection { original, reply, tcp: None, status: 0, timeout: None, mark: 0, zone: 0, id: 0 }
}

/// An IP packet with this tuple, whole and well formed but for its checksums, which no hook looks at.
pub(crate) fn packet(tuple: &Tuple, flags: u8) -> Vec<u8> {
    let [source, destination] = [tuple.source_port, tuple.destination_port].map(u16::to_be_bytes);
    let ports = [source, destination].concat();
    let transport = match tuple.protocol {
        proto::TCP => [&ports[..], &[0; 8], &[5 << 4, flags], &[0; 6]].concat(),
        proto::UDP | proto::UDP_LITE => [&ports[..], &[0, 8, 0, 0]].concat(),
        proto::SCTP => [&ports[..], &[0; 8]].concat(),
        proto::ICMP | proto::ICMPV6 => {
            let id = tuple.source_port | tuple.destination_port;
            [&[tuple.icmp_type, tuple.icmp_code, 0, 0][..], &id.to_be_bytes(), &[0; 2]].concat()
        }
        _ => vec![0; 8],
    };
    let length = transport.len() as u16;
    let (from, to) = (tuple.source.bytes, tuple.destination.bytes);
    let mut bytes = if tuple.source.is_v4() {
        let total = (length + 20).to_be_bytes();
        let start = [0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, tuple.protocol, 0, 0];
        [&start[..], &from[12..], &to[12..]].concat()
    } else {
        let payload = length.to_be_bytes();
        [&[0x60, 0, 0, 0, payload[0], payload[1], tuple.protocol, 64][..], &from, &to].concat()
    };
    bytes.extend(transport);
    bytes
}

#[cfg(test)]
mod tests;
