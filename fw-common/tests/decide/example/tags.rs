//! Frames: VLAN tags, protocols that are not IP, frames for others, devices without Ethernet header.

use fw_common::verdict::{Reason, Verdict};
use fw_common::wire::{Arrival, Audience, VlanTag, ethertype, proto, tcp};
use fw_common::{Hook, Mac};

use super::host::{
    BRIDGED_UPLINK, Family, PORT_A1, PORT_N1, STRANGER, TUNNEL, UPLINK, container_mac, mac_of, rule,
};
use super::packets::{Draft, ethernet, ip};
use super::{Case, Scene, arriving, container, outside, scene};

const OPEN: Verdict = Verdict::accept(Reason::AllowRule).by(rule::WEB);
const CLOSED: Verdict = Verdict::drop(Reason::PortNotAllowed);
const TOO_MANY: Verdict = Verdict::drop(Reason::TooManyHeaders);

pub(super) fn cases(f: &Family) -> Vec<Case> {
    [stacks(f), kept_aside(f), containers(f), others(f), bare(f)].concat()
}

fn to(f: &Family, port: u16) -> Draft {
    ip(f.remote, f.ours).tcp(40_000, port, tcp::SYN)
}

fn tagged(packet: Draft, count: usize) -> Draft {
    (0..count).fold(packet, |packet, _| packet.tag(ethertype::VLAN, 0))
}

fn stacks(f: &Family) -> Vec<Case> {
    let mut cases = Vec::new();
    for count in [1, 2, 3, 4, 5, 8] {
        let name = |port| format!("{port} behind {count} priority tags");
        cases.push(outside(&name("an open port"), tagged(to(f, 443), count)).gives(OPEN));
        cases.push(outside(&name("a closed port"), tagged(to(f, 444), count)).gives(CLOSED));
    }
    let priority = 0xf000;
    let service = || to(f, 443).tag(ethertype::SERVICE_VLAN, 0).tag(ethertype::VLAN, priority);
    let cut = |length: usize| {
        let mut scene = outside(&format!("a tag cut after {length} bytes"), tagged(to(f, 443), 1));
        scene.frame.truncate(length);
        scene.gives(Verdict::drop(Reason::MalformedHeader))
    };
    cases.extend([
        outside("nine priority tags", tagged(to(f, 443), 9)).gives(TOO_MANY),
        outside("service and customer tags with priorities", service()).gives(OPEN),
        outside("a VLAN of its own", to(f, 444).tag(ethertype::VLAN, 5))
            .gives(Verdict::pass(Reason::OtherVlan)),
        outside(
            "a VLAN behind a priority tag",
            to(f, 444).tag(ethertype::VLAN, priority).tag(ethertype::VLAN, 5),
        )
        .gives(Verdict::pass(Reason::OtherVlan)),
        cut(15),
        cut(17),
    ]);
    cases
}

/// The kernel takes the outermost tag out of the frame.
fn kept_aside(f: &Family) -> Vec<Case> {
    let aside = |control: u32| move |arrival: &mut Arrival| arrival.vlan = VlanTag::new(1, control);
    vec![
        outside("a priority tag kept aside", to(f, 443)).arriving(aside(0xe000)).gives(OPEN),
        outside("a closed port with a tag kept aside", to(f, 444)).arriving(aside(0)).gives(CLOSED),
        outside("one kept aside and seven", tagged(to(f, 443), 7)).arriving(aside(0)).gives(OPEN),
        outside("one kept aside and eight", tagged(to(f, 443), 8)).arriving(aside(0)).gives(TOO_MANY),
        outside("a VLAN kept aside", to(f, 444)).arriving(aside(5)).gives(Verdict::pass(Reason::OtherVlan)),
    ]
}

fn containers(f: &Family) -> Vec<Case> {
    let across = |count| tagged(ip(f.a1, f.b1).tcp(1, 1, tcp::SYN), count);
    let forged = || ip(f.a2, f.remote).tcp(1, 1, tcp::SYN);
    let isolated = Verdict::drop(Reason::Isolation);
    vec![
        container("to another network", PORT_A1, across(0)).gives(isolated),
        container("to another network behind one tag", PORT_A1, across(1)).gives(isolated),
        container("to another network behind eight tags", PORT_A1, across(8)).gives(isolated),
        container("to another network behind nine tags", PORT_A1, across(9)).gives(TOO_MANY),
        container("a forged source behind tags", PORT_A1, tagged(forged(), 2))
            .gives(Verdict::drop(Reason::SpoofedSource)),
        container("to the sibling behind a service tag", PORT_N1, {
            ip(f.n1, f.n2).tcp(1, 1, tcp::SYN).tag(ethertype::SERVICE_VLAN, 0)
        })
        .gives(Verdict::drop(Reason::Icc)),
        container("a VLAN between containers", PORT_A1, across(0).tag(ethertype::VLAN, 5))
            .gives(Verdict::pass(Reason::SameNetwork)),
        container("a tag kept aside", PORT_A1, across(0))
            .arriving(|arrival| arrival.vlan = VlanTag::new(1, 0))
            .gives(isolated),
    ]
}

fn others(f: &Family) -> Vec<Case> {
    let other = Mac { bytes: [2, 0, 0, 0, 0, 0xee] };
    let everybody = Mac { bytes: [0xff; 6] };
    let frame = |name: &str, kind, payload: &[u8]| {
        let head = ethernet(everybody, Mac { bytes: [2, 0xff, 0, 0, 0, 1] }, kind);
        scene(name, Hook::UplinkIngress, UPLINK, [&head, payload].concat())
    };
    let not_ip = Verdict::pass(Reason::NotIp);
    vec![
        frame("ARP", ethertype::ARP, &[0; 28]).gives(not_ip),
        frame("LLDP", 0x88cc, &[2, 7, 4]).gives(not_ip),
        frame("an 802.3 length", 46, &[0xaa; 46]).gives(not_ip),
        frame("a protocol behind a priority tag", ethertype::VLAN, &[0, 0, 8, 6, 0, 0]).gives(not_ip),
        // The network header where the frame's should be.
        Scene { frame: to(f, 444).packet(), ..outside("a frame that lost its header", to(f, 444)) }
            .gives(Verdict::drop(Reason::MalformedHeader)),
        outside("to another machine", to(f, 444).sent_to(other)).gives(Verdict::pass(Reason::OtherHost)),
        outside("to another machine, and malformed", to(f, 444).sent_to(other).cut(3))
            .gives(Verdict::pass(Reason::OtherHost)),
        // A bridge is given every frame that its port sees.
        arriving("to another machine, by the port of a bridge", BRIDGED_UPLINK, to(f, 444).sent_to(other))
            .gives(CLOSED),
        arriving("to the bridge, by its port", BRIDGED_UPLINK, to(f, 443).sent_to(other)).gives(OPEN),
        outside("to all machines", to(f, 443).sent_to(everybody)).gives(OPEN),
        outside("to all machines, closed", to(f, 444).sent_to(everybody)).gives(CLOSED),
        scene("a device that no table knows", Hook::UplinkIngress, STRANGER, {
            to(f, 443).between(mac_of(STRANGER), other).frame()
        })
        .gives(Verdict::drop(Reason::UnknownInterface)),
        scene("an uplink's hook on a port", Hook::UplinkIngress, PORT_A1, {
            to(f, 443).between(mac_of(PORT_A1), container_mac(PORT_A1)).frame()
        })
        .gives(Verdict::drop(Reason::UnknownInterface)),
        scene("a port's hook on an uplink", Hook::PortEgress, UPLINK, to(f, 444).frame())
            .gives(Verdict::drop(Reason::UnknownInterface)),
    ]
}

/// A tunnel's packets begin with the network header.
fn bare(f: &Family) -> Vec<Case> {
    let kind = if f.v6 { ethertype::IPV6 } else { ethertype::IPV4 };
    let arrived = |name: &str, kind, packet: Draft| -> Scene {
        scene(name, Hook::UplinkIngress, TUNNEL, packet.packet()).arriving(|arrival| {
            arrival.ethertype = kind;
            arrival.audience = Audience::Host;
        })
    };
    // As the kernel's test run sees it: the two bytes where a frame has its type are part of the source address.
    let source = if f.v6 { "2001:db8:86dd::9" } else { "8.0.0.9" };
    let seen = |name: &str, port| {
        let packet = ip(super::host::address(source), f.ours).tcp(40_000, port, tcp::SYN);
        scene(name, Hook::UplinkIngress, TUNNEL, packet.packet())
    };
    vec![
        arrived("an open port on a tunnel", kind, to(f, 443)).gives(OPEN),
        arrived("a closed port on a tunnel", kind, to(f, 444)).gives(CLOSED),
        arrived("another protocol on a tunnel", 0x8847, to(f, 444)).gives(Verdict::pass(Reason::NotIp)),
        arrived("a cut packet on a tunnel", kind, to(f, 443).cut(8))
            .gives(Verdict::drop(Reason::MalformedTransport)),
        arrived("a denied source on a tunnel", kind, ip(f.denied_host, f.ours).udp(1, 4789, b""))
            .gives(Verdict::drop(Reason::Denied).by(rule::DENY_HOST)),
        arrived("another protocol number on a tunnel", kind, ip(f.remote, f.ours).protocol(proto::GRE, &[]))
            .gives(CLOSED),
        seen("an open port on a tunnel, from a fitting source", 443).gives(OPEN),
        seen("a closed port on a tunnel, from a fitting source", 444).gives(CLOSED),
    ]
}
