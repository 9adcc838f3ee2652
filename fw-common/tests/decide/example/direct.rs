//! Containers that are reached at their own addresses: gateway modes routed and nat-unprotected, and by an uplink that
//! Docker trusts.

use std::net::IpAddr;

use bytemuck::Zeroable as _;
use fw_common::flow::{owner, state};
use fw_common::tables::memory::Memory;
use fw_common::tables::{Limit, Network, Port, PortKey, Terms};
use fw_common::verdict::{Mark, Reason, Verdict};
use fw_common::wire::{proto, tcp};

use super::host::{
    BRIDGE_A, BRIDGED_UPLINK, Family, PORT_A1, PORT_B1, PORT_I1, TUNNEL, UPLINK, UPLINK_BRIDGE, allow_any,
    rule,
};
use super::packets::{Draft, ip};
use super::{Case, Scene, arriving, container, leaving, outside, tuple};

const RULE: Verdict = Verdict::accept(Reason::AllowRule).by(rule::PUBLISHED);
const OPEN: Verdict = Verdict::accept(Reason::PublishedOpen);
const DIRECT: Verdict = Verdict::drop(Reason::DirectAccess);
const CLOSED: Verdict = Verdict::drop(Reason::PortNotAllowed);

pub(super) fn cases(f: &Family) -> Vec<Case> {
    [routed(f), unprotected(f), trusted(f), errors(f), fragments(f), leave(f), between(f)].concat()
}

/// b1 publishes 80 and 5000/udp for everybody, 82 for the office, 84 for nobody.
fn with_routed(f: &Family, tables: &mut Memory) {
    let b1 = f.b1.into();
    let published = Port { published: 1, ..Port::zeroed() };
    let everybody = Port { published: 1, ..allow_any(rule::PUBLISHED) };
    let office = Port { published: 1, ..tables.ports[&PortKey::new(f.any(), proto::TCP, 8083)] };
    tables.ports.extend([
        (PortKey::new(b1, proto::TCP, 80), everybody),
        (PortKey::new(b1, proto::UDP, 5000), everybody),
        (PortKey::new(b1, proto::TCP, 82), office),
        (PortKey::new(b1, proto::TCP, 84), published),
        (PortKey::new(b1, proto::ICMP, 0), everybody),
    ]);
}

fn opens(source: IpAddr, destination: IpAddr, port: u16) -> Draft {
    ip(source, destination).tcp(40_000, port, tcp::SYN)
}

fn to_routed(f: &Family, name: &str, packet: Draft) -> Scene {
    outside(name, packet).with(|tables| with_routed(f, tables))
}

fn routed(f: &Family) -> Vec<Case> {
    let key = tuple(f.b1, 80, f.remote, 40_000, proto::TCP);
    let limited = |tokens| {
        move |tables: &mut Memory| {
            tables.limits.insert(1, Limit { rate: 1, burst: tokens, rule: rule::LIMIT });
            for (key, port) in &mut tables.ports {
                port.limit = u8::from(key.port == 80);
            }
        }
    };
    vec![
        to_routed(f, "a container port with a rule", opens(f.remote, f.b1, 80)).gives(RULE.marked(Mark::In)),
        to_routed(f, "the next packet of the connection", ip(f.remote, f.b1).tcp(40_000, 80, tcp::ACK))
            .gives(RULE.marked(Mark::In))
            .leaves_no(key),
        to_routed(f, "by UDP", ip(f.remote, f.b1).udp(9, 5000, b"")).gives(RULE.marked(Mark::In)),
        to_routed(f, "the same port by the other protocol", ip(f.remote, f.b1).udp(9, 80, b"")).gives(DIRECT),
        to_routed(f, "a ping", ip(f.remote, f.b1).echo(9)).gives(RULE.marked(Mark::In)),
        to_routed(f, "one that has a rule for the office, from there", opens(f.office, f.b1, 82))
            .gives(Verdict::accept(Reason::AllowRule).by(rule::PUBLISHED_OFFICE).marked(Mark::In)),
        to_routed(f, "and from elsewhere", opens(f.remote, f.b1, 82))
            .gives(Verdict::drop(Reason::SourceNotAllowed).by(rule::PUBLISHED_OFFICE)),
        to_routed(f, "one without a rule", opens(f.remote, f.b1, 84)).gives(CLOSED),
        to_routed(f, "one that is not published", opens(f.remote, f.b1, 81)).gives(DIRECT),
        // A rule for any address is one for the host's.
        to_routed(f, "one that has a rule on the host", opens(f.remote, f.b1, 443)).gives(DIRECT),
        to_routed(f, "a denied host", opens(f.denied_host, f.b1, 80))
            .gives(Verdict::drop(Reason::Denied).by(rule::DENY_HOST)),
        to_routed(f, "a source inside", opens(f.a1, f.b1, 80)).gives(Verdict::drop(Reason::SourceInside)),
        to_routed(f, "a container that is not known any more", opens(f.remote, f.b1, 80))
            .with(|tables| _ = tables.endpoints.remove(&f.b1.into()))
            .gives(RULE),
        to_routed(f, "within a limit", opens(f.remote, f.b1, 80))
            .with(limited(2))
            .gives(RULE.marked(Mark::In)),
        to_routed(f, "over a limit", opens(f.remote, f.b1, 80))
            .with(limited(1))
            .with(|tables| {
                let key = fw_common::tables::BucketKey {
                    peer: fw_common::Address::from(f.remote).counted(),
                    limit: 1,
                    reserved: [0; 4],
                };
                let empty = fw_common::tables::Bucket { tokens: 0, filled: tables.now_ms };
                tables.buckets.borrow_mut().insert(key, empty);
            })
            .gives(Verdict::drop(Reason::OverLimit).by(rule::LIMIT)),
        outside("open because it is published", opens(f.remote, f.b1, 80))
            .with(|tables| {
                let open = Port { published: 1, open: 1, ..Port::zeroed() };
                tables.ports.insert(PortKey::new(f.b1.into(), proto::TCP, 80), open);
            })
            .gives(OPEN.marked(Mark::In)),
    ]
}

fn unprotected(f: &Family) -> Vec<Case> {
    let scene = |name, open, packet| {
        outside(name, packet).with(|tables| {
            let all = Port { published: 1, open, ..Port::zeroed() };
            tables.ports.insert(PortKey::all_of(f.b1.into()), all);
            let ruled = Port { published: 1, ..allow_any(rule::PUBLISHED) };
            tables.ports.insert(PortKey::new(f.b1.into(), proto::TCP, 80), ruled);
        })
    };
    vec![
        scene("all ports, one with a rule", 0, opens(f.remote, f.b1, 80)).gives(RULE.marked(Mark::In)),
        scene("all ports, one without", 0, opens(f.remote, f.b1, 81)).gives(CLOSED),
        scene("all ports, and published is enough", 1, opens(f.remote, f.b1, 81))
            .gives(OPEN.marked(Mark::In)),
        scene("GRE, and published is enough", 1, ip(f.remote, f.b1).protocol(proto::GRE, &[0; 8]))
            .gives(OPEN.marked(Mark::In)),
        scene("a ping, and published is enough", 1, ip(f.remote, f.b1).echo(7)).gives(OPEN.marked(Mark::In)),
        scene("an echo reply to nobody", 1, ip(f.remote, f.b1).echo_reply(7)).gives(DIRECT),
        scene("the gateway beside it", 1, opens(f.remote, f.gateway_b, 80)).gives(DIRECT),
        scene("its neighbour", 1, opens(f.remote, f.a1, 80)).gives(DIRECT),
    ]
}

fn trusted(f: &Family) -> Vec<Case> {
    let scene = |name, uplink, by, packet| {
        arriving(name, uplink, packet).with(|tables| {
            let open = Port { published: 1, open: 1, ..Port::zeroed() };
            tables.ports.insert(PortKey::new(f.a1.into(), proto::TCP, 80).by(by), open);
        })
    };
    vec![
        scene("by the trusted uplink", UPLINK, UPLINK, opens(f.remote, f.a1, 80))
            .gives(OPEN.marked(Mark::In)),
        scene("by another one", UPLINK, TUNNEL, opens(f.remote, f.a1, 80)).gives(DIRECT),
        scene("another port of it", UPLINK, UPLINK, opens(f.remote, f.a1, 81)).gives(DIRECT),
        scene("a denied host by it", UPLINK, UPLINK, opens(f.denied_host, f.a1, 80))
            .gives(Verdict::drop(Reason::Denied).by(rule::DENY_HOST)),
        // Docker's rules name the bridge, not its ports.
        scene("by a port of the trusted bridge", BRIDGED_UPLINK, UPLINK_BRIDGE, opens(f.remote, f.a1, 80))
            .gives(OPEN.marked(Mark::In)),
        scene("by a port that is named itself", BRIDGED_UPLINK, BRIDGED_UPLINK, opens(f.remote, f.a1, 80))
            .gives(DIRECT),
    ]
}

/// An error about what a container's service sent passes, like those about the host's services.
fn errors(f: &Family) -> Vec<Case> {
    let about = |quoted: Draft| ip(f.elsewhere, f.b1).unreachable(&quoted.packet());
    let sent = |port| ip(f.b1, f.remote).tcp(port, 40_000, tcp::ACK);
    vec![
        to_routed(f, "an error about its answer", about(sent(80)))
            .gives(Verdict::accept(Reason::RelatedError).marked(Mark::In)),
        to_routed(f, "an error about what it never said", about(sent(81)))
            .gives(Verdict::drop(Reason::UnrelatedError)),
    ]
}

fn fragments(f: &Family) -> Vec<Case> {
    let datagram = || ip(f.remote, f.b1).udp(9, 5000, &[0; 64]);
    vec![
        to_routed(f, "a first fragment", datagram().piece(0, 32, true)).gives(RULE.marked(Mark::In)),
        to_routed(f, "a later fragment of nothing known", datagram().piece(32, 72, false))
            .gives(Verdict::drop(Reason::UnknownFragment)),
    ]
}

/// What a service at a container's address answers makes no flow; what the container opens does.
fn leave(f: &Family) -> Vec<Case> {
    let sent = |name, port, remote_port| {
        leaving(name, super::host::BRIDGE_B, ip(f.b1, f.remote).tcp(port, remote_port, tcp::SYN | tcp::ACK))
            .with(|tables| with_routed(f, tables))
    };
    let answer = tuple(f.b1, 80, f.remote, 40_000, proto::TCP);
    let own = tuple(f.b1, 443, f.remote, 40_000, proto::TCP);
    vec![
        sent("the answer of a routed port", 80, 40_000).gives(Verdict::pass(Reason::Sent)).leaves_no(answer),
        // The host's rule for 443 lets nobody in at a container's address.
        sent("from a port that has a rule on the host", 443, 40_000)
            .gives(Verdict::pass(Reason::Sent))
            .leaves(own, state::ESTABLISHED, owner::CONTAINER),
    ]
}

/// From another network, what is open to everybody is open as well; unmarked, for Docker says whether it is.
fn between(f: &Family) -> Vec<Case> {
    let scene = |name, port, packet| container(name, port, packet).with(|tables| with_routed(f, tables));
    let isolated = Verdict::drop(Reason::Isolation);
    let key = tuple(f.b1, 80, f.a1, 40_000, proto::TCP);
    let close = |tables: &mut Memory| {
        let terms = Terms { egress: 0, ..Terms::OPEN };
        let network = tables.networks[&BRIDGE_A];
        tables.networks.insert(BRIDGE_A, Network { terms, ..network });
        let port = tables.interfaces[&PORT_A1];
        tables.interfaces.insert(PORT_A1, fw_common::tables::Interface { terms, ..port });
    };
    let (gateway_b, own) = (super::host::mac_of(super::host::BRIDGE_B), super::host::container_mac(PORT_B1));
    let (gateway_i, i1) =
        (super::host::mac_of(super::host::BRIDGE_INTERNAL), super::host::container_mac(PORT_I1));
    let from_b = |packet: Draft| packet.between(gateway_b, own);
    vec![
        scene("a neighbour network's routed port", PORT_A1, opens(f.a1, f.b1, 80))
            .gives(RULE)
            .leaves_inbound(key, state::OPENING, owner::CONTAINER),
        scene("a ping of it", PORT_A1, ip(f.a1, f.b1).echo(7)).gives(RULE),
        scene("the same where Docker writes no rules", PORT_A1, opens(f.a1, f.b1, 80))
            .with(|tables| tables.settings.nat_owned = 1)
            .gives(RULE.marked(Mark::In)),
        scene("and to a container that is not known any more", PORT_A1, opens(f.a1, f.b1, 80))
            .with(|tables| {
                tables.settings.nat_owned = 1;
                tables.endpoints.remove(&f.b1.into());
            })
            .gives(RULE),
        scene("one that is not published", PORT_A1, opens(f.a1, f.b1, 81)).gives(isolated),
        scene("one that has no rule", PORT_A1, opens(f.a1, f.b1, 84)).gives(isolated),
        scene("one that is for the office", PORT_A1, opens(f.a1, f.b1, 82)).gives(isolated),
        scene("from where nothing may go out", PORT_A1, opens(f.a1, f.b1, 80)).with(close).gives(isolated),
        super::scene(
            "from an internal network",
            fw_common::Hook::PortIngress,
            PORT_I1,
            opens(f.i1, f.b1, 80).between(gateway_i, i1).frame(),
        )
        .with(|tables| with_routed(f, tables))
        .gives(isolated),
        super::scene(
            "back from the routed network",
            fw_common::Hook::PortIngress,
            PORT_B1,
            from_b(opens(f.b1, f.a1, 80)).frame(),
        )
        .with(|tables| with_routed(f, tables))
        .gives(isolated),
    ]
}
