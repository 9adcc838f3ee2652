//! Regressions: what decisions once got wrong, each by the smallest example.

#[path = "decide/example/mod.rs"]
#[expect(dead_code, reason = "the host and the packets are shared, the cases are not used here")]
mod example;

use bytemuck::Zeroable as _;
use example::host::{
    BRIDGE_A, BRIDGE_NO_ICC, BRIDGED_UPLINK, PORT_A1, PORT_N1, container_mac, families, mac_of,
};
use example::packets::{Draft, ip};
use fw_common::decide::Workspace;
use fw_common::flow::{Flow, owner, state, timeout};
use fw_common::tables::memory::Memory;
use fw_common::wire::{Packet, ethertype, proto, tcp};
use fw_common::{Action, Hook, Mac, decide};

/// conntrack refreshes with the time of a stream only from the packet *after* the first reply on.
#[test]
fn first_reply_makes_no_stream_however_late() {
    let packet = udp();
    let sent = Flow::sent(None, &packet, owner::CONTAINER, 1000).expect("a flow");
    let answered = sent.received(&packet, 1005);
    let expires = timeout(proto::UDP, answered.state);
    assert!(expires < 30, "conntrack forgets 30 s after this reply, the flow lives {expires} s");
}

/// A flow that another CPU has refreshed a moment ago, one second later by its clock, has not expired.
#[test]
fn flow_seen_by_another_cpu_is_alive() {
    let flow =
        Flow { last_seen: 1001, started: 900, state: state::ESTABLISHED, owner: owner::HOST, container: 0 };
    assert!(!flow.is_expired(proto::TCP, 1000));
}

/// T06, T07: what anybody may forge (conntrack checks sequence numbers, we cannot) shortens no connection for good.
#[test]
fn forged_fin_does_not_shorten_a_connection_that_goes_on() {
    let open =
        Flow { last_seen: 1000, started: 900, state: state::ESTABLISHED, owner: owner::HOST, container: 0 };
    let forged = open.received(&segment(tcp::FIN | tcp::ACK), 1001);
    let goes_on = (0..100).fold(forged, |flow, second| {
        let now = 1002 + second;
        Flow::sent(Some(&flow), &segment(tcp::ACK), owner::HOST, now)
            .expect("alive")
            .received(&segment(tcp::ACK), now)
    });
    let expires = timeout(proto::TCP, goes_on.state);
    assert!(
        expires > 3600,
        "after 100 s of traffic both ways the connection may be silent for {expires} s only"
    );
}

/// A bridge that filters VLANs untags its own VLAN (1 by default) and hands it to the host.
#[test]
fn vlan_of_the_uplink_bridge_is_judged() {
    let family = families()[0];
    let packet = ip(family.remote, family.ours).tcp(40_000, 9100, tcp::SYN);
    let draft = packet.between(mac_of(BRIDGED_UPLINK), Mac { bytes: [2, 0xff, 0, 0, 0, 1] });
    let verdict = decided(Hook::UplinkIngress, BRIDGED_UPLINK, &draft.tag(ethertype::VLAN, 1).frame());
    assert_eq!(verdict.action, Action::Drop, "{verdict:?}");
}

/// A container that cannot be matched to its port is judged by addresses: its own address is its own in NDP, too.
#[test]
fn container_at_an_unmatched_port_answers_for_its_own_address() {
    let family = families()[1];
    let mac = Mac { bytes: [2, 0x42, 0, 0, 0, 200] };
    let draft = ip(family.n2, family.gateway_n).neighbour(136, family.n2).between(mac_of(BRIDGE_NO_ICC), mac);
    let mut tables = example::host::tables();
    let port = tables.interfaces.get_mut(&PORT_N1).expect("the port");
    (port.endpoint_known, port.mac) = (0, Mac::zeroed());
    let frame = draft.frame();
    let arrival = example::arrival(PORT_N1, mac_of(PORT_N1), &frame);
    let verdict = decide(Hook::PortIngress, &arrival, &frame[..], &tables, &mut Workspace::zeroed());
    assert_ne!(verdict.action, Action::Drop, "{verdict:?}");
}

/// What goes to the host passes two hooks: a RST must not end its right to pass the second one at the first, or whoever
/// asks a closed port of a container waits in vain.
#[test]
fn a_containers_reset_reaches_the_host_that_is_closed_to_it() {
    for family in families() {
        let mut tables = example::host::tables();
        tables.networks.get_mut(&BRIDGE_A).expect("the network").terms.host = 0;
        tables.interfaces.get_mut(&PORT_A1).expect("the port").terms.host = 0;
        let asks = ip(family.gateway_a, family.a1).tcp(40_000, 443, tcp::SYN);
        let asks = asks.between(container_mac(PORT_A1), mac_of(BRIDGE_A));
        assert_eq!(at(&tables, Hook::BridgeEgress, BRIDGE_A, &asks).action, Action::Pass);
        let reset = ip(family.a1, family.gateway_a).tcp(443, 40_000, tcp::RST | tcp::ACK);
        let reset = reset.between(mac_of(BRIDGE_A), container_mac(PORT_A1));
        let verdicts = [(Hook::PortIngress, PORT_A1), (Hook::BridgeIngress, BRIDGE_A)]
            .map(|(hook, device)| at(&tables, hook, device, &reset));
        assert_eq!(verdicts.map(|verdict| verdict.reason), [fw_common::Reason::Answer; 2]);
    }
}

/// Only the port knows the terms of a container whose source no table knows: the bridge would judge it by its network's.
#[test]
fn groups_from_a_link_local_source_do_not_reach_the_host_that_is_closed_to_this_container() {
    let family = families()[1];
    let mut tables = example::host::tables();
    tables.interfaces.get_mut(&PORT_A1).expect("the port").terms.host = 0;
    let own = example::host::address("fe80::42:ff:fe00:1f");
    for (source, passes_port) in [(own, false), (family.a1, true)] {
        let packet = ip(source, family.group).udp(5353, 5353, b"?");
        let packet = packet.between(Mac { bytes: [0x33, 0x33, 0, 0, 0, 0xfb] }, container_mac(PORT_A1));
        let port = at(&tables, Hook::PortIngress, PORT_A1, &packet).action;
        assert_eq!(port != Action::Drop, passes_port);
        if passes_port {
            // Neighbours may hear it; the bridge keeps it from the host.
            assert_eq!(at(&tables, Hook::BridgeIngress, BRIDGE_A, &packet).action, Action::Drop);
        }
    }
}

/// Addresses of the network that the kernel delivers to the host and no table holds: the anycast address of routers
/// (RFC 4291 section 2.6.1), a broadcast address that nobody wrote down.
#[test]
fn the_closed_host_is_closed_by_addresses_that_only_the_kernel_knows() {
    for family in families() {
        let mut tables = example::host::tables();
        tables.networks.get_mut(&BRIDGE_A).expect("the network").terms.host = 0;
        tables.interfaces.get_mut(&PORT_A1).expect("the port").terms.host = 0;
        let hidden = example::host::address(if family.v6 { "fd00:1::" } else { "10.1.0.255" });
        tables.routed_local.insert(hidden.into());
        let packet = ip(family.a1, hidden).udp(5000, 53, b"?");
        let packet = packet.between(mac_of(BRIDGE_A), container_mac(PORT_A1));
        let verdict = at(&tables, Hook::BridgeIngress, BRIDGE_A, &packet);
        assert_eq!(verdict, fw_common::Verdict::drop(fw_common::Reason::HostDenied));
    }
}

fn at(tables: &Memory, hook: Hook, device: u32, packet: &Draft) -> fw_common::Verdict {
    let frame = packet.frame();
    let arrival = example::arrival(device, mac_of(device), &frame);
    decide(hook, &arrival, &frame[..], tables, &mut Workspace::zeroed())
}

fn decided(hook: Hook, device: u32, frame: &[u8]) -> fw_common::Verdict {
    let arrival = example::arrival(device, mac_of(device), frame);
    decide(hook, &arrival, frame, &example::host::tables(), &mut Workspace::zeroed())
}

fn udp() -> Packet {
    let mut packet = Packet::zeroed();
    packet.protocol = proto::UDP;
    packet
}

fn segment(flags: u8) -> Packet {
    let mut packet = Packet::zeroed();
    (packet.protocol, packet.tcp_flags) = (proto::TCP, flags);
    packet
}
