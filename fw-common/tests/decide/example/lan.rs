//! Containers that share an uplink with the host: macvlan, told by its MAC address, and ipvlan, told by its address.

use fw_common::flow::{owner, state};
use fw_common::tables::memory::Memory;
use fw_common::tables::{OutKey, OutRule, Port, PortKey, sources};
use fw_common::verdict::{Mark, Reason, Verdict};
use fw_common::wire::{proto, tcp};
use fw_common::{Hook, Mac};

use super::host::{
    BRIDGED_UPLINK, Family, NEIGHBOUR, PORT_A1, SHIM, STATION, UPLINK, UPLINK_BRIDGE, address, container_mac,
    mac_of, rule, share,
};
use super::packets::{Draft, ip};
use super::{Case, Scene, arriving, container, leaving, outside, tuple};

const OPEN: Verdict = Verdict::accept(Reason::AllowRule).by(rule::WEB);
const CLOSED: Verdict = Verdict::drop(Reason::PortNotAllowed);
const SENT: Verdict = Verdict::pass(Reason::Sent);
const LATER: Verdict = Verdict::pass(Reason::NotOurs);

pub(super) fn cases(f: &Family) -> Vec<Case> {
    [requests(f), replies(f), others(f), sources(f), neighbours(f), early(f), sent(f), judged(f), inside(f)]
        .concat()
}

/// A frame for the macvlan container.
fn to_station(name: &str, packet: Draft) -> Scene {
    outside(name, packet.sent_to(STATION)).with(shared)
}

/// A frame that the macvlan container sends.
fn by_station(name: &str, packet: Draft) -> Scene {
    leaving(name, 0, packet.between(Mac { bytes: [2, 0xff, 0, 0, 0, 1] }, STATION)).with(shared)
}

fn shared(tables: &mut Memory) {
    share(tables, UPLINK, UPLINK);
}

fn syn(from: std::net::IpAddr, to: std::net::IpAddr, port: u16) -> Draft {
    ip(from, to).tcp(40_000, port, tcp::SYN)
}

fn requests(f: &Family) -> Vec<Case> {
    let published = |name, port| to_station(name, syn(f.remote, f.station, port));
    let mut cases = vec![
        to_station("an open port", syn(f.remote, f.station, 443)).gives(OPEN),
        to_station("a closed port", syn(f.remote, f.station, 444)).gives(CLOSED),
        to_station("a port for others", syn(f.remote, f.station, 22))
            .gives(Verdict::drop(Reason::SourceNotAllowed).by(rule::SSH_OFFICE)),
        to_station("a port for this source", syn(f.office, f.station, 22))
            .gives(Verdict::accept(Reason::AllowRule).by(rule::SSH_OFFICE)),
        to_station("an address that nobody knows", syn(f.remote, f.elsewhere, 444)).gives(CLOSED),
        to_station("an open port of one that nobody knows", syn(f.remote, f.elsewhere, 443)).gives(OPEN),
        to_station("the host's address, in its frame", syn(f.remote, f.ours, 444)).gives(CLOSED),
        to_station("a MAC address that is on several parents", syn(f.remote, f.station, 444))
            .with(|tables| tables.stations.values_mut().for_each(|station| station.parent = 0))
            .gives(CLOSED),
        outside("all of the uplink is the container's", {
            syn(f.remote, f.elsewhere, 444).sent_to(Mac { bytes: [2, 8, 8, 8, 8, 8] })
        })
        .with(|tables| {
            shared(tables);
            tables.interfaces.values_mut().for_each(|interface| interface.shared *= 2);
        })
        .gives(CLOSED),
        to_station("a denied source", syn(f.denied_host, f.station, 443))
            .gives(Verdict::drop(Reason::Denied).by(rule::DENY_HOST)),
        to_station("UDP", ip(f.remote, f.station).udp(53, 5001, b"")).gives(CLOSED),
        to_station("a ping", ip(f.remote, f.station).echo(9)).gives(CLOSED),
        // Docker's DNAT is for the host's addresses: nothing is published here, and nobody vouched for.
        published("a published port", 8080).gives(CLOSED),
        published("a port that is open by being published", 8081).gives(CLOSED),
        published("a published port with a rule", 8082)
            .gives(Verdict::accept(Reason::AllowRule).by(rule::PUBLISHED)),
        outside("ipvlan: an open port", syn(f.remote, f.ipvlan, 443)).with(shared).gives(OPEN),
        outside("ipvlan: a closed port", syn(f.remote, f.ipvlan, 444)).with(shared).gives(CLOSED),
        outside("ipvlan: open by being published", syn(f.remote, f.ipvlan, 8081)).with(shared).gives(CLOSED),
        outside("the macvlan container's address, in the host's frame", syn(f.remote, f.station, 444))
            .with(shared)
            .gives(CLOSED),
        to_station(
            "a later fragment",
            ip(f.remote, f.station).protocol(proto::UDP, &[7; 64]).at_offset(64, false),
        )
        .gives(Verdict::pass(Reason::LaterFragment)),
    ];
    if f.v6 {
        let link = address("fe80::50");
        let to_link = |name, port| outside(name, syn(address("fe80::9"), link, port)).with(shared);
        cases.extend([
            // ipvlan has one that Docker does not tell.
            to_link("a closed port of a link-local address, in the host's frame", 444).gives(CLOSED),
            to_link("an open port of a link-local address, in the host's frame", 443).gives(OPEN),
            to_station("a closed port of its link-local address", syn(address("fe80::9"), link, 444))
                .gives(CLOSED),
            to_station("an open port of its link-local address", syn(address("fe80::9"), link, 443))
                .gives(OPEN),
            // RFC 4291 appendix A: the address that the kernel makes from the sender's MAC address.
            outside("a neighbour, link-local", {
                syn(address("fe80::42:ff:fe00:151"), link, 444).between(STATION, NEIGHBOUR)
            })
            .with(shared)
            .gives(Verdict::pass(Reason::SameNetwork)),
            outside("a neighbour's MAC under another link-local address", {
                syn(address("fe80::9"), link, 444).between(STATION, NEIGHBOUR)
            })
            .with(shared)
            .gives(CLOSED),
            to_station("a neighbour asks", ip(address("fe80::9"), link).neighbour(135, link))
                .gives(Verdict::pass(Reason::Essential)),
            to_station("a redirect", ip(address("fe80::9"), link).icmp(137, 0, &[0; 36]).hop_limit(255))
                .gives(Verdict::drop(Reason::BadDiscovery)),
        ]);
    } else {
        cases.push(
            to_station("an answer of DHCP", ip(f.remote, f.station).udp(67, 68, b"offer"))
                .gives(Verdict::pass(Reason::Essential)),
        );
    }
    cases
}

fn replies(f: &Family) -> Vec<Case> {
    let web = tuple(f.station, 40_000, f.remote, 443, proto::TCP);
    let answer = |name| to_station(name, ip(f.remote, f.station).tcp(443, 40_000, tcp::SYN | tcp::ACK));
    // At an address of its own no port is shared with the host: the answer may come to a port that has a rule there.
    let dns = tuple(f.station, 4789, f.remote, 53, proto::UDP);
    let own = tuple(f.elsewhere, 40_000, f.remote, 443, proto::TCP);
    let by_container = Verdict::accept(Reason::Reply);
    let quoted = syn(f.station, f.remote, 443).packet();
    let about = |name, packet: &[u8]| to_station(name, ip(f.region, f.station).unreachable(packet));
    let published = ip(f.station, f.remote).tcp(8081, 40_000, tcp::ACK).packet();
    vec![
        answer("an answer").flow(web, state::OPENING, owner::OTHER, 3).gives(by_container),
        answer("an answer that nobody asked for").gives(CLOSED),
        answer("of a container's flow: nobody is vouched for")
            .flow(web, state::OPENING, owner::CONTAINER, 3)
            .gives(by_container),
        to_station("to a port that has a rule", ip(f.remote, f.station).udp(53, 4789, b""))
            .flow(dns, state::OPENING, owner::OTHER, 3)
            .with(|tables| _ = tables.ports.remove(&PortKey::new(f.any(), proto::UDP, 4789)))
            .gives(by_container),
        to_station("to an address that it gave itself", {
            ip(f.remote, f.elsewhere).tcp(443, 40_000, tcp::SYN | tcp::ACK)
        })
        .flow(own, state::OPENING, owner::OTHER, 3)
        .gives(by_container),
        about("an error about its flow", &quoted)
            .flow(web, state::OPENING, owner::CONTAINER, 3)
            .gives(Verdict::accept(Reason::RelatedError)),
        about("an error about nothing", &quoted).gives(Verdict::drop(Reason::UnrelatedError)),
        about("an error about an open port", &ip(f.station, f.remote).tcp(443, 40_000, tcp::ACK).packet())
            .gives(Verdict::accept(Reason::RelatedError)),
        about("an error about what is not published here", &published)
            .gives(Verdict::drop(Reason::UnrelatedError)),
    ]
}

fn others(f: &Family) -> Vec<Case> {
    let other_host = Verdict::pass(Reason::OtherHost);
    let stranger = Mac { bytes: [2, 8, 8, 8, 8, 8] };
    let closed = || syn(f.remote, f.station, 444);
    let all = Mac { bytes: [0xff; 6] };
    vec![
        outside("for a machine that is no container", closed().sent_to(stranger))
            .with(shared)
            .gives(other_host),
        outside("on an uplink that nobody shares", closed().sent_to(STATION)).gives(other_host),
        outside("ipvlan, where nobody shares the uplink", syn(f.remote, f.ipvlan, 444)).gives(LATER),
        outside("on another uplink than its parent", closed().sent_to(STATION))
            .with(|tables| {
                share(tables, UPLINK, UPLINK_BRIDGE);
            })
            .gives(other_host),
        outside("cut short, for it", closed().sent_to(STATION).cut(8))
            .with(shared)
            .gives(Verdict::drop(Reason::MalformedTransport)),
        outside("cut short, for another machine", closed().sent_to(stranger).cut(8))
            .with(shared)
            .gives(other_host),
        // Each of them takes what is for all, or for a group.
        outside("for all, to an address that nobody knows", {
            ip(f.remote, f.elsewhere).udp(40_000, 5001, b"?").sent_to(all)
        })
        .with(shared)
        .gives(CLOSED),
        outside("for a group, to an open port of an address that nobody knows", {
            syn(f.remote, f.elsewhere, 443).sent_to(Mac { bytes: [0x33, 0x33, 0, 0, 0, 1] })
        })
        .with(shared)
        .gives(OPEN),
        outside("for all, where nobody shares the uplink", syn(f.remote, f.elsewhere, 444).sent_to(all))
            .gives(LATER),
        arriving("by the port of a bridge that is the parent", BRIDGED_UPLINK, closed().sent_to(STATION))
            .with(|tables| share(tables, BRIDGED_UPLINK, UPLINK_BRIDGE))
            .gives(CLOSED),
        outside("to the host itself", syn(f.remote, f.ours, 443)).with(shared).gives(OPEN),
        outside("to somebody else", syn(f.remote, f.elsewhere, 444)).with(shared).gives(LATER),
    ]
}

/// Who comes back by the wire with an address of this side: forged, or over a switch that reflects (VEPA).
fn sources(f: &Family) -> Vec<Case> {
    let all = Mac { bytes: [0xff; 6] };
    let forged = Verdict::drop(Reason::SourceOurs);
    vec![
        outside("its address, to the host", syn(f.station, f.ours, 443)).with(shared).gives(forged),
        outside("an ipvlan container's, to the host", syn(f.ipvlan, f.ours, 443)).with(shared).gives(forged),
        to_station("the host's address, to it", syn(f.ours, f.station, 443)).gives(forged),
        to_station("its neighbour's address, to it", syn(f.ipvlan, f.station, 443)).gives(forged),
        outside("the host's address, to all, for an address that nobody knows", {
            syn(f.ours, f.elsewhere, 443).sent_to(all)
        })
        .with(shared)
        .gives(forged),
        to_station("a managed network's, to it", syn(f.a1, f.station, 443))
            .gives(Verdict::drop(Reason::SourceInside)),
        outside("its address, where nobody shares the uplink", syn(f.station, f.ours, 443)).gives(OPEN),
    ]
}

/// What the kernel hands round on the parent, from one macvlan device to another.
fn neighbours(f: &Family) -> Vec<Case> {
    let between = |name, to, from, packet: Draft| outside(name, packet.between(to, from)).with(shared);
    let same = Verdict::pass(Reason::SameNetwork);
    let forged = Verdict::drop(Reason::SourceOurs);
    let closed = |source| syn(source, f.station, 444);
    vec![
        between("a neighbour opens a port of its", STATION, NEIGHBOUR, closed(f.neighbour)).gives(same),
        between("it answers", NEIGHBOUR, STATION, ip(f.station, f.neighbour).tcp(444, 40_000, tcp::ACK))
            .gives(same),
        between("its MAC under an address of the LAN's", STATION, NEIGHBOUR, closed(f.elsewhere))
            .gives(CLOSED),
        between("the same, to an open port", STATION, NEIGHBOUR, syn(f.elsewhere, f.station, 443))
            .gives(OPEN),
        between("a neighbour that is denied outside", STATION, NEIGHBOUR, closed(f.denied_host))
            .gives(Verdict::drop(Reason::Denied).by(rule::DENY_HOST)),
        between("a neighbour under its own address", STATION, NEIGHBOUR, closed(f.station)).gives(forged),
        between("a neighbour under an ipvlan container's", STATION, NEIGHBOUR, closed(f.ipvlan))
            .gives(forged),
        between("a neighbour as the host", STATION, NEIGHBOUR, closed(f.ours)).gives(forged),
        between("a neighbour as a container of a network", STATION, NEIGHBOUR, closed(f.a1))
            .gives(Verdict::drop(Reason::SourceInside)),
        between("its address from a stranger's MAC", NEIGHBOUR, mac_of(0x77), closed(f.station))
            .gives(forged),
        between("the host, over a macvlan device of its own", STATION, SHIM, closed(f.ours)).gives(same),
        between("somebody else's address over that", STATION, SHIM, closed(f.remote)).gives(CLOSED),
        between("its own address over that", STATION, SHIM, closed(f.station)).gives(forged),
        between("to that device: its own hook judges", SHIM, STATION, syn(f.station, f.ours, 444))
            .gives(Verdict::pass(Reason::OtherHost)),
        between("a neighbour, to the host", mac_of(UPLINK), NEIGHBOUR, syn(f.station, f.ours, 443))
            .gives(forged),
        between("a neighbour where nobody shares the uplink", STATION, NEIGHBOUR, closed(f.neighbour))
            .with(|tables| tables.interfaces.values_mut().for_each(|interface| interface.shared = 0))
            .gives(Verdict::pass(Reason::OtherHost)),
        leaving("the host asks over a macvlan device of its own", 0, {
            ip(f.ours, f.remote).udp(40_000, 53, b"?").between(mac_of(0x77), SHIM)
        })
        .with(shared)
        .gives(SENT)
        .leaves(tuple(f.ours, 40_000, f.remote, 53, proto::UDP), state::OPENING, owner::HOST),
    ]
}

fn early(f: &Family) -> Vec<Case> {
    let early = |scene: Scene| Scene { hook: Hook::UplinkXdp, ..scene };
    let stranger = Mac { bytes: [2, 8, 8, 8, 8, 8] };
    vec![
        early(to_station("XDP: a closed port", syn(f.remote, f.station, 444))).gives(CLOSED),
        early(to_station("XDP: an open port", syn(f.remote, f.station, 443))).gives(LATER),
        early(to_station("XDP: an address that nobody knows", syn(f.remote, f.elsewhere, 444))).gives(CLOSED),
        early(to_station("XDP: what is not published here", syn(f.remote, f.station, 8081))).gives(CLOSED),
        early(to_station("XDP: the host's source", syn(f.ours, f.station, 443)))
            .gives(Verdict::drop(Reason::SourceOurs)),
        early(
            outside("XDP: a neighbour", syn(f.neighbour, f.station, 444).between(STATION, NEIGHBOUR))
                .with(shared),
        )
        .gives(LATER),
        early(outside("XDP: ipvlan", syn(f.remote, f.ipvlan, 444)).with(shared)).gives(CLOSED),
        early(outside("XDP: another machine", syn(f.remote, f.station, 444).sent_to(stranger)).with(shared))
            .gives(LATER),
    ]
}

fn sent(f: &Family) -> Vec<Case> {
    let flow = |from, port| tuple(from, port, f.remote, 53, proto::UDP);
    let ask = |from, port| ip(from, f.remote).udp(port, 53, b"?");
    let opens = |name, from| {
        by_station(name, ask(from, 40_000)).gives(SENT).leaves(
            flow(from, 40_000),
            state::OPENING,
            owner::OTHER,
        )
    };
    let makes_none =
        |name, from| by_station(name, ask(from, 40_000)).gives(SENT).leaves_no(flow(from, 40_000));
    vec![
        opens("it asks", f.station),
        opens("it asks from an address that it gave itself", f.elsewhere),
        leaving("an ipvlan container asks", 0, ask(f.ipvlan, 40_000)).with(shared).gives(SENT).leaves(
            flow(f.ipvlan, 40_000),
            state::OPENING,
            owner::OTHER,
        ),
        leaving("over the host", BRIDGED_UPLINK, ask(f.station, 40_000)).with(shared).gives(SENT).leaves(
            flow(f.station, 40_000),
            state::OPENING,
            owner::OTHER,
        ),
        makes_none("it asks as the host", f.ours),
        makes_none("it asks as its neighbour", f.ipvlan),
        makes_none("it asks as a container of a network", f.a1),
        // The answer to a rule's port needs no flow; to a port that is only open by being published it does.
        by_station("a service answers", ask(f.station, 4789)).gives(SENT).leaves_no(flow(f.station, 4789)),
        by_station("from a port that Docker publishes at the host", {
            ip(f.station, f.remote).tcp(8081, 443, tcp::SYN)
        })
        .gives(SENT)
        .leaves(tuple(f.station, 8081, f.remote, 443, proto::TCP), state::OPENING, owner::OTHER),
        leaving("the host asks", 0, ask(f.ours, 40_000)).with(shared).gives(SENT).leaves(
            flow(f.ours, 40_000),
            state::OPENING,
            owner::HOST,
        ),
    ]
}

/// Rules for what the host opens are not for them.
fn judged(f: &Family) -> Vec<Case> {
    let restrict = |tables: &mut Memory| {
        tables.settings.outbound = 1;
        let web = OutRule { destinations: sources::ANY, zones: 0, rule: rule::OUT_WEB, reserved: [0; 3] };
        tables.outbound = [(OutKey::new(proto::TCP, 443, 0), web)].into();
    };
    let refused = Verdict::drop(Reason::OutNotAllowed);
    vec![
        by_station("it opens what the host may not", syn(f.station, f.remote, 444))
            .with(restrict)
            .gives(SENT),
        by_station("it opens it as the host", syn(f.ours, f.remote, 444)).with(restrict).gives(SENT),
        leaving("an ipvlan container opens it", 0, syn(f.ipvlan, f.remote, 444))
            .with(shared)
            .with(restrict)
            .gives(SENT),
        leaving("the host opens it", 0, syn(f.ours, f.remote, 444))
            .with(shared)
            .with(restrict)
            .gives(refused),
        leaving("nobody shares the uplink", 0, syn(f.ipvlan, f.remote, 444)).with(restrict).gives(refused),
    ]
}

/// To a container on a bridge they are somebody outside.
fn inside(f: &Family) -> Vec<Case> {
    vec![
        container("a container on a bridge opens to it", PORT_A1, syn(f.a1, f.station, 443))
            .with(shared)
            .gives(Verdict::accept(Reason::Outbound).marked(Mark::Out)),
        container("a container takes its address", PORT_A1, {
            syn(f.station, f.remote, 443).between(mac_of(super::host::BRIDGE_A), container_mac(PORT_A1))
        })
        .with(shared)
        .gives(Verdict::drop(Reason::SpoofedSource)),
        outside("published by the host, as before", syn(f.remote, f.ours, 8081))
            .with(shared)
            .gives(Verdict::accept(Reason::PublishedOpen).marked(Mark::In)),
        outside("a rule for the host alone", syn(f.remote, f.station, 445))
            .with(shared)
            .with(|tables| {
                let rule = Port { rule: 40, sources: sources::ANY, ..bytemuck::Zeroable::zeroed() };
                tables.ports.insert(PortKey::new(f.ours.into(), proto::TCP, 445), rule);
            })
            .gives(CLOSED),
    ]
}
