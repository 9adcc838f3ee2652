//! The budget of flows: a container that opens ever more of them takes its own places, and nobody else's.

use bytemuck::Zeroable as _;
use fw_common::decide;
use fw_common::decide::Workspace;
use fw_common::flow::{counted, state};
use fw_common::tables::memory::Memory;
use fw_common::wire::tcp;
use fw_common::{Hook, Reason};

use crate::example::arrival;
use crate::example::host::{BRIDGE_A, Family, PORT_A1, UPLINK, container_mac, families, mac_of, tables};
use crate::example::packets::{Draft, ip};

const BUDGET: u32 = 64;

/// What leaves the uplink, sent by the container of this number; 0 with `ingress` 0: by the host.
fn leaves(tables: &Memory, ingress: u32, owner: u16, packet: Draft) {
    let frame = packet.between(container_mac(PORT_A1), mac_of(UPLINK)).frame();
    let mut arrival = arrival(UPLINK, mac_of(UPLINK), &frame);
    (arrival.ingress_ifindex, arrival.owner) = (ingress, owner);
    let verdict = decide(Hook::UplinkEgress, &arrival, &frame[..], tables, &mut Workspace::zeroed());
    assert_eq!(verdict.reason, Reason::Sent);
}

fn flows_of(tables: &Memory, owner: u16) -> usize {
    tables.flows.borrow().values().filter(|flow| flow.container == owner).count()
}

fn ground(family: &Family) -> Memory {
    let mut tables = tables();
    tables.settings.flow_budget = BUDGET;
    // A neighbour, the host itself, and a connection of the flooder's own that is alive.
    leaves(&tables, BRIDGE_A, 2, ip(family.ours, family.remote).udp(30_000, 53, b"?"));
    leaves(&tables, 0, 0, ip(family.ours, family.remote).tcp(30_001, 443, tcp::SYN));
    leaves(&tables, BRIDGE_A, 1, ip(family.ours, family.remote).tcp(30_002, 443, tcp::ACK));
    tables
}

#[test]
fn a_flood_stays_within_its_budget_and_leaves_the_others_alone() {
    for family in families() {
        let tables = ground(&family);
        for port in 1..20_000 {
            leaves(&tables, BRIDGE_A, 1, ip(family.ours, family.remote).udp(31_000, port, b"?"));
            assert!(flows_of(&tables, 1) <= BUDGET as usize);
        }
        assert!(flows_of(&tables, 1) > BUDGET as usize / 2, "the budget is used");
        assert_eq!((flows_of(&tables, 2), flows_of(&tables, 0)), (1, 1));
        let mine = tables.flows.borrow();
        let alive = mine.values().filter(|flow| flow.container == 1 && flow.state == state::ESTABLISHED);
        assert_eq!(alive.count(), 1, "what was answered outlives what was not");
    }
}

#[test]
fn within_the_budget_nothing_goes() {
    for family in families() {
        let tables = ground(&family);
        for port in 1..=BUDGET as u16 / 4 {
            leaves(&tables, BRIDGE_A, 1, ip(family.ours, family.remote).udp(31_000, port, b"?"));
        }
        assert_eq!(flows_of(&tables, 1), BUDGET as usize / 4 + 1);
    }
}

#[test]
fn the_host_has_no_budget_and_unknown_containers_share_one() {
    for family in families() {
        let tables = ground(&family);
        for port in 1..500 {
            leaves(&tables, 0, 0, ip(family.ours, family.remote).udp(32_000, port, b"?"));
            leaves(&tables, BRIDGE_A, 0, ip(family.ours, family.remote).udp(33_000, port, b"?"));
        }
        assert_eq!(flows_of(&tables, 0), 500);
        assert!(flows_of(&tables, counted::UNKNOWN) <= BUDGET as usize);
    }
}

#[test]
fn what_another_container_has_taken_over_is_not_forgotten_for_the_first() {
    for family in families() {
        let tables = ground(&family);
        let again = |owner| {
            leaves(&tables, BRIDGE_A, owner, ip(family.ours, family.remote).udp(34_000, 53, b"?"));
        };
        again(1);
        again(3);
        for port in 1..2_000 {
            leaves(&tables, BRIDGE_A, 1, ip(family.ours, family.remote).udp(31_000, port, b"?"));
        }
        assert_eq!(flows_of(&tables, 3), 1);
    }
}
