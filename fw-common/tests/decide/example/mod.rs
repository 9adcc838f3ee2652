//! Examples of decisions: a host, packets, and what must become of them. The tests of `decide` check them against the
//! tables in memory, and the tests of the datapath against the programs that the kernel has loaded.

use std::net::IpAddr;

use fw_common::flow::{Flow, FlowKey, owner};
use fw_common::tables::memory::Memory;
use fw_common::wire::{Arrival, Audience, VlanTag};
use fw_common::{Hook, Mac, Verdict};

pub(crate) mod host;
pub(crate) mod packets;

mod apart;
mod bridge;
mod container;
mod direct;
mod early;
mod errors;
mod essential;
mod forms;
mod fragments;
mod lan;
mod leaving;
mod limits;
mod neighbours;
mod outbound;
mod outside;
mod replies;
mod services;
mod tags;
mod terms;

use host::NOW;
use packets::Draft;

/// A packet at a hook of a host.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) name: String,
    pub(crate) hook: Hook,
    pub(crate) arrival: Arrival,
    pub(crate) frame: Vec<u8>,
    pub(crate) tables: Memory,
}

/// A scene and what must come of it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) scene: Scene,
    pub(crate) verdict: Verdict,
    /// A flow with its state and owner afterwards; `None` if it must not be there.
    pub(crate) flow: Option<(FlowKey, Option<(u8, u8)>)>,
    /// The same of a flow that came in.
    pub(crate) inbound: Option<(FlowKey, Option<(u8, u8)>)>,
}

/// Every case, in both families wherever it makes sense in both.
pub(crate) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for family in host::families() {
        let family = &family;
        for (subject, cases) in [
            ("services", services::cases(family)),
            ("replies", replies::cases(family)),
            ("errors", errors::cases(family)),
            ("forms", forms::cases(family)),
            ("fragments", fragments::cases(family)),
            ("tags", tags::cases(family)),
            ("essential", essential::cases(family)),
            ("outside", outside::cases(family)),
            ("early", early::cases(family)),
            ("container", container::cases(family)),
            ("direct", direct::cases(family)),
            ("neighbours", neighbours::cases(family)),
            ("apart", apart::cases(family)),
            ("bridge", bridge::cases(family)),
            ("leaving", leaving::cases(family)),
            ("terms", terms::cases(family)),
            ("outbound", outbound::cases(family)),
            ("limits", limits::cases(family)),
            ("lan", lan::cases(family)),
        ] {
            let suffix = if family.v6 { "v6" } else { "v4" };
            all.extend(cases.into_iter().map(|mut case| {
                case.scene.name = format!("{subject}: {} ({suffix})", case.scene.name);
                case
            }));
        }
    }
    all
}

/// A packet from outside that arrives on the uplink.
pub(crate) fn outside(name: &str, packet: Draft) -> Scene {
    arriving(name, host::UPLINK, packet)
}

/// A packet from outside that arrives on this uplink.
fn arriving(name: &str, uplink: u32, packet: Draft) -> Scene {
    let packet = packet.between(host::mac_of(uplink), Mac { bytes: [2, 0xff, 0, 0, 0, 1] });
    scene(name, Hook::UplinkIngress, uplink, packet.frame())
}

/// A packet that leaves by the uplink, having come in by `ingress` (0: the host's own).
pub(crate) fn leaving(name: &str, ingress: u32, packet: Draft) -> Scene {
    let packet = packet.between(Mac { bytes: [2, 0xff, 0, 0, 0, 1] }, host::mac_of(host::UPLINK));
    let mut scene = scene(name, Hook::UplinkEgress, host::UPLINK, packet.frame());
    scene.arrival.ingress_ifindex = ingress;
    scene
}

/// A packet that the container behind `port` sends over its gateway.
pub(crate) fn container(name: &str, port: u32, packet: Draft) -> Scene {
    let bridge = match port {
        host::PORT_N1 | host::PORT_N3 => host::BRIDGE_NO_ICC,
        _ => host::BRIDGE_A,
    };
    let packet = packet.between(host::mac_of(bridge), host::container_mac(port));
    scene(name, Hook::PortIngress, port, packet.frame())
}

/// A packet of the container behind `port` that goes up from its bridge to the host.
pub(crate) fn bridge(name: &str, bridge: u32, port: u32, packet: Draft) -> Scene {
    let packet = packet.between(host::mac_of(bridge), host::container_mac(port));
    scene(name, Hook::BridgeIngress, bridge, packet.frame())
}

/// A packet that goes down from the host to the containers of a bridge.
fn down(name: &str, bridge: u32, packet: Draft) -> Scene {
    let packet = packet.between(host::container_mac(host::PORT_A1), host::mac_of(bridge));
    scene(name, Hook::BridgeEgress, bridge, packet.frame())
}

/// Any frame at any hook, on the example host.
pub(crate) fn scene(name: &str, hook: Hook, device: u32, frame: Vec<u8>) -> Scene {
    let arrival = arrival(device, host::mac_of(device), &frame);
    Scene { name: name.to_owned(), hook, arrival, frame, tables: host::tables() }
}

/// What the kernel knows of a frame on a device with this MAC address (`eth_type_trans`).
pub(crate) fn arrival(device: u32, mac: Mac, frame: &[u8]) -> Arrival {
    let bytes = frame.get(..6).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    let destination = Mac { bytes };
    let audience = match destination {
        to if to == mac => Audience::Host,
        to if to.bytes == [0xff; 6] => Audience::Broadcast,
        to if to.is_group() => Audience::Multicast,
        _ => Audience::Other,
    };
    let ethertype = frame.get(12..14).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_be_bytes);
    Arrival {
        ifindex: device,
        ingress_ifindex: 0,
        ethertype,
        vlan: VlanTag::NONE,
        audience,
        mark: 0,
        owner: 0,
    }
}

impl Scene {
    /// The same with other tables.
    fn with(mut self, change: impl FnOnce(&mut Memory)) -> Self {
        change(&mut self.tables);
        self
    }

    /// The same, where the kernel knows something else of the packet.
    fn arriving(mut self, change: impl FnOnce(&mut Arrival)) -> Self {
        change(&mut self.arrival);
        self
    }

    /// The same with a flow that was last seen this many seconds ago.
    fn flow(self, key: FlowKey, state: u8, owner: u8, age: u32) -> Self {
        let seen = NOW - age;
        let flow = Flow { last_seen: seen, started: seen, state, owner, container: 0 };
        self.tables.flows.borrow_mut().insert(key, flow);
        self
    }

    /// The same with a flow that came in and was last seen this many seconds ago.
    fn inbound(self, key: FlowKey, state: u8, age: u32) -> Self {
        let seen = NOW - age;
        let flow = Flow { last_seen: seen, started: seen, state, owner: owner::OTHER, container: 0 };
        self.tables.inbound_flows.borrow_mut().insert(key, flow);
        self
    }

    /// What must come of it.
    fn gives(self, verdict: Verdict) -> Case {
        Case { scene: self, verdict, flow: None, inbound: None }
    }
}

impl Case {
    /// The flow is there afterwards, in this state, of this owner.
    fn leaves(self, key: FlowKey, state: u8, owner: u8) -> Self {
        Self { flow: Some((key, Some((state, owner)))), ..self }
    }

    /// What came in is known afterwards, in this state, of this owner.
    fn leaves_inbound(self, key: FlowKey, state: u8, owner: u8) -> Self {
        Self { inbound: Some((key, Some((state, owner)))), ..self }
    }

    /// What came in is not known afterwards.
    fn leaves_no_inbound(self, key: FlowKey) -> Self {
        Self { inbound: Some((key, None)), ..self }
    }

    /// The flow is not there afterwards.
    fn leaves_no(self, key: FlowKey) -> Self {
        Self { flow: Some((key, None)), ..self }
    }
}

/// The flow between one of our addresses and ports and a peer's.
pub(crate) fn tuple(local: IpAddr, local_port: u16, remote: IpAddr, remote_port: u16, proto: u8) -> FlowKey {
    FlowKey { local: local.into(), remote: remote.into(), local_port, remote_port, proto, reserved: [0; 3] }
}
