//! Connections under the tables that small policies make of one host.

use std::net::IpAddr;
use std::path::Path;

use super::*;
use crate::conntrack::status::{ASSURED, SEEN_REPLY};
use crate::desired::desired;
use crate::docker::{GatewayMode, Transport};
use crate::inventory::{self, Inventory, PublishedPort, PublishedTarget};
use crate::netlink::{Link, LinkKind, LocalAddress};
use crate::policy::Policy;

const FRONT: u32 = 10;
const BACK: u32 = 20;
const HOST: &str = "198.51.100.7";
const WEB: &str = "172.18.0.2";
const DB: &str = "172.19.0.2";
const PEER: &str = "203.0.113.9";
const NOW: u32 = 1_000_000;

const OPEN: &str = "
    [[allow]]
    name = 'ssh'
    proto = 'tcp'
    ports = [22]

    [[allow]]
    name = 'web'
    proto = 'tcp'
    ports = [8080]

    [networks.front]
    reach = ['back']
";

/// One of each kind: ssh to the host, the published port, a container and the host outwards, a container to the host, and
/// one network to another.
fn all() -> Vec<Connection> {
    let out = tcp((WEB, 40_000), (PEER, 443), (PEER, 443), (HOST, 1024));
    vec![
        plain((PEER, 50_000), (HOST, 22)),
        tcp((PEER, 50_001), (HOST, 8080), (WEB, 80), (PEER, 50_001)),
        out,
        plain((HOST, 40_001), (PEER, 443)),
        plain((WEB, 40_002), ("172.18.0.1", 5000)),
        plain((WEB, 40_003), (DB, 5432)),
    ]
}

#[test]
fn a_rule_that_goes_cuts_what_it_let_in_and_nothing_else() {
    let (open, all) = (state(OPEN), all());
    assert_eq!(cut(&open, &open, &all), []);
    let found = cut(&open, &state(&OPEN.replace("[22]", "[2222]")), &all);
    let [ssh] = &found[..] else { panic!("{found:#?}") };
    assert_eq!((ssh.connection, ssh.hook, ssh.reason), (all[0], Hook::UplinkIngress, Reason::PortNotAllowed));
    assert_eq!((ssh.rule.as_deref(), ssh.container.as_deref()), (Some("ssh"), None));
    let found = cut(&open, &state(&OPEN.replace("8080]", "8080]\n    from = ['192.0.2.0/24']")), &all);
    let [web] = &found[..] else { panic!("{found:#?}") };
    assert_eq!((web.connection, web.reason), (all[1], Reason::SourceNotAllowed));
    assert_eq!((web.rule.as_deref(), web.container.as_deref()), (Some("web"), Some("web")));
}

#[test]
fn each_kind_of_narrowing_cuts_its_own() {
    let (open, all) = (state(OPEN), all());
    let cut_by = |policy: &str| -> Vec<(usize, Reason)> {
        let at = |cut: &Cut| all.iter().position(|one| *one == cut.connection).expect("one of them");
        cut(&open, &state(policy), &all).iter().map(|cut| (at(cut), cut.reason)).collect()
    };
    let front = |terms: &str| OPEN.replace("reach = ['back']", &format!("reach = ['back']\n{terms}"));
    assert_eq!(cut_by(&front("egress = 'none'")), [(2, Reason::Egress)]);
    assert_eq!(cut_by(&front("host = 'deny'")), [(4, Reason::HostDenied)]);
    assert_eq!(cut_by(&OPEN.replace("['back']", "[]")), [(5, Reason::Isolation)]);
    let outs = format!("{OPEN}\n[[out]]\nname = 'names'\nproto = 'tcp'\nports = [53]\n");
    assert_eq!(cut_by(&outs), [(3, Reason::OutNotAllowed)]);
    // Whoever is denied is answered no more either.
    let denied = format!("{OPEN}\n[[deny]]\nname = 'bad'\nfrom = ['203.0.113.0/24']\n");
    assert_eq!(cut_by(&denied), [0, 1, 2, 3].map(|at| (at, Reason::Denied)));
    assert_eq!(cut_by(&format!("mode = 'observe'\n{}", OPEN.replace("[22]", "[2222]"))), []);
}

#[test]
fn what_goes_on_for_another_reason_is_not_cut() {
    let (closed, all) = (state(""), all());
    // Neither policy lets ssh in: it is from before the hooks, and stays.
    assert_eq!(cut(&closed, &state("[networks.back]\nhost = 'deny'"), &all), []);
    assert_eq!(cut(&State::default(), &closed, &all), [], "taking over cuts nothing");
    let mut ended = all[0];
    ended.tcp = Some(TcpState::TimeWait);
    assert_eq!(cut(&state(OPEN), &closed, &[ended]), []);
}

/// What fw finds when it begins before the engine names all, or before the links of a container can be read.
#[test]
fn what_docker_does_not_name_yet_is_not_cut() {
    let policy = "
        [uplink]
        published = 'open'
        [networks.front]
        egress = 'none'
        [containers.web]
        egress = 'any'
    ";
    let (before, all) = (state(policy), all());
    let cut_on = |host: &Inventory| -> Vec<Connection> {
        cut(&before, &state_of(policy, host), &all).iter().map(|cut| cut.connection).collect()
    };
    let mut unnamed = host();
    (unnamed.endpoints[0].addresses, unnamed.networks[0].ports[0].endpoint) = (vec![], None);
    unnamed.published.clear();
    assert_eq!(cut_on(&unnamed), [], "Docker does not name it");
    let mut unread = host();
    (unread.endpoints[0].port_ifindex, unread.networks[0].ports[0].endpoint) = (None, None);
    assert_eq!(cut_on(&unread), [], "its links cannot be read");
    let mut gone = unnamed.clone();
    gone.networks[0].ports.clear();
    gone.links.retain(|link| link.name != "veth11");
    assert_eq!(cut_on(&gone), [all[1], all[2]], "it has ended");
    let mut unpublished = host();
    unpublished.published.clear();
    assert_eq!(cut_on(&unpublished), [all[1]], "it is known, and does not publish the port");
    let narrow = state_of("[networks.front]\negress = 'none'", &host());
    assert_eq!(cut(&before, &narrow, &all).len(), 2, "its rules went while no daemon ran");
}

#[test]
fn only_what_one_network_opened_to_another_is_beyond_docker() {
    let all = all();
    assert_eq!(beyond_docker(&state(OPEN), &all), [&all[5]]);
    assert!(beyond_docker(&state(""), &all).is_empty());
}

#[test]
fn flows_are_those_that_the_hooks_would_have_recorded() {
    let seeds = seeds(&state(""), &all(), NOW);
    let flow = |begun_by| Flow {
        last_seen: NOW,
        started: NOW,
        state: flow::state::ESTABLISHED,
        owner: begun_by,
        container: 0,
    };
    let expected = [
        // What came in, and no rule lets in: as the outside sees it, before DNAT.
        (flow_key(HOST, 22, PEER, 50_000), flow(owner::PEER)),
        (flow_key(HOST, 8080, PEER, 50_001), flow(owner::PEER)),
        // What went out: as the outside sees it, after MASQUERADE.
        (flow_key(HOST, 1024, PEER, 443), flow(owner::CONTAINER)),
        (flow_key(HOST, 40_001, PEER, 443), flow(owner::HOST)),
    ];
    assert_eq!(seeds.outward, BTreeMap::from(expected));
    let between = [flow_key(WEB, 40_003, DB, 5432), flow_key(DB, 5432, WEB, 40_003)];
    assert_eq!(seeds.inbound.keys().copied().collect::<Vec<_>>(), between, "no terms are restricted");
    let open = super::seeds(&state(OPEN), &all(), NOW);
    let out = [flow_key(HOST, 1024, PEER, 443), flow_key(HOST, 40_001, PEER, 443)];
    assert_eq!(open.outward.keys().copied().collect::<Vec<_>>(), out, "what rules let in needs none");
}

#[test]
fn under_restricted_terms_everything_that_a_container_has_is_an_answer() {
    let closed = state("[networks.front]\negress = 'none'\nhost = 'deny'");
    let found = seeds(&closed, &all(), NOW).inbound;
    let expected = [
        (flow_key(WEB, 80, PEER, 50_001), owner::OTHER),
        (flow_key(WEB, 40_000, PEER, 443), owner::OTHER),
        (flow_key(WEB, 40_002, "172.18.0.1", 5000), owner::HOST),
        (flow_key(WEB, 40_003, DB, 5432), owner::CONTAINER),
        (flow_key(DB, 5432, WEB, 40_003), owner::CONTAINER),
    ];
    let found: BTreeMap<_, _> = found.into_iter().map(|(key, flow)| (key, flow.owner)).collect();
    assert_eq!(found, BTreeMap::from(expected));
}

#[test]
fn a_flow_is_over_before_conntrack_forgets() {
    let out = |state, timeout| {
        let mut connection = plain((HOST, 40_000), (PEER, 443));
        (connection.tcp, connection.timeout) = (Some(state), timeout);
        seeds(&self::state(""), &[connection], NOW).outward.into_values().next()
    };
    for (state, timeout) in [
        (TcpState::SynSent, 120),
        (TcpState::SynSent, 12),
        (TcpState::Established, 432_000),
        (TcpState::Established, 600),
        (TcpState::FinWait, 119),
        (TcpState::CloseWait, 60),
        (TcpState::LastAck, 7),
    ] {
        let flow = out(state, Some(timeout)).unwrap_or_else(|| panic!("{state:?} {timeout}"));
        assert!(flow.is_live(proto::TCP, NOW), "{state:?} {timeout}");
        assert!(flow.is_expired(proto::TCP, NOW + timeout), "{state:?} {timeout}");
    }
    assert_eq!(out(TcpState::LastAck, Some(1)), None, "nothing is left");
    assert_eq!(out(TcpState::TimeWait, Some(100)), None);
    assert!(out(TcpState::Other(0), None).is_some_and(|flow| flow.last_seen == NOW));
}

#[test]
fn datagrams_and_pings_are_taken_over() {
    let udp = |status| Connection {
        tcp: None,
        timeout: Some(25),
        status,
        original: Tuple { protocol: proto::UDP, ..plain((PEER, 5000), (HOST, 53)).original },
        reply: Tuple { protocol: proto::UDP, ..plain((PEER, 5000), (HOST, 53)).reply },
        ..plain((PEER, 5000), (HOST, 53))
    };
    let states = |connection| -> Vec<_> {
        let found = seeds(&state(""), &[connection], NOW).outward;
        found.into_values().map(|flow| (flow.state, flow.owner)).collect()
    };
    assert_eq!(states(udp(SEEN_REPLY | ASSURED)), [(flow::state::ESTABLISHED, owner::PEER)]);
    assert_eq!(states(udp(SEEN_REPLY)), [(flow::state::ANSWERED, owner::PEER)]);
    assert_eq!(states(udp(0)), [], "a first packet is no connection");

    let mut ping = plain((WEB, 77), (PEER, 0));
    ping.tcp = None;
    (ping.original.protocol, ping.original.icmp_type) = (proto::ICMP, 8);
    ping.reply = Tuple { destination: address(HOST), destination_port: 78, ..turned(&ping.original, 0) };
    let found = seeds(&state(""), &[ping], NOW).outward;
    let key = FlowKey { proto: proto::ICMP, ..flow_key(HOST, 78, PEER, 0) };
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [key]);
    let inward = Connection { original: ping.reply, reply: ping.original, ..ping };
    assert_eq!(seeds(&state(""), &[inward], NOW).outward.len(), 0, "no flow answers an echo request");
}

#[test]
fn what_is_severed_stands_where_its_flows_would() {
    let all = all();
    let closed = state("[networks.front]\negress = 'none'\nhost = 'deny'");
    let (seeded, severed) = (seeds(&closed, &all, NOW), severed(&closed, &all, NOW));
    assert!(seeded.outward.keys().eq(severed.outward.keys()));
    assert!(seeded.inbound.keys().eq(severed.inbound.keys()));
    assert!(severed.outward.values().chain(severed.inbound.values()).all(|flow| {
        flow.state == flow::state::CUT && !flow.is_live(proto::TCP, NOW) && flow.container == 0
    }));
}

/// Whatever NAT did to them: the flows alone tell what may go on.
#[test]
fn what_was_cut_is_lifted_by_the_policy_that_allows_it_and_by_no_other() {
    let (open, all) = (state(OPEN), all());
    let outs = format!("{OPEN}\n[[out]]\nname = 'names'\nproto = 'tcp'\nports = [53]\n");
    let front = |terms: &str| OPEN.replace("reach = ['back']", &format!("reach = ['back']\n{terms}"));
    for (at, narrow) in [
        (0, OPEN.replace("[22]", "[2222]")),
        (1, format!("{}\negress = 'none'", OPEN.replace("[8080]", "[8081]"))),
        (1, OPEN.replace("[8080]", "[8081]")),
        (2, front("egress = 'none'")),
        (3, outs),
        (4, front("host = 'deny'")),
        (5, OPEN.replace("['back']", "[]")),
    ] {
        let closed = state(&narrow);
        let cut = severed(&closed, [&all[at]], NOW);
        assert_ne!(cut, Records::default(), "{at}");
        assert_eq!(lifted(&closed, &cut), Records::default(), "{at} under {narrow}");
        assert_eq!(lifted(&open, &cut), cut, "{at}");
    }
}

#[test]
fn of_two_that_were_cut_alike_each_is_lifted_by_itself() {
    let closed = "[networks.front]\negress = 'none'\n[networks.back]\negress = 'none'";
    // Two containers that asked the same server, and MASQUERADE kept neither port.
    let two = [(WEB, 1024), (DB, 1025)]
        .map(|(from, seen)| tcp((from, 40_000), (PEER, 53), (PEER, 53), (HOST, seen)));
    let cut = severed(&state(closed), &two, NOW);
    assert_eq!((cut.outward.len(), cut.inbound.len()), (2, 2));
    let half = lifted(&state("[networks.front]\negress = 'none'"), &cut);
    assert_eq!(half.inbound.keys().copied().collect::<Vec<_>>(), [flow_key(DB, 40_000, PEER, 53)]);
    assert!(half.outward.contains_key(&flow_key(HOST, 1025, PEER, 53)));
}

/// A connection without NAT.
fn plain(from: (&str, u16), to: (&str, u16)) -> Connection {
    tcp(from, to, to, from)
}

/// An established connection from `from` to `to`, which ends at `end` and seems to come from `seen`.
fn tcp(from: (&str, u16), to: (&str, u16), end: (&str, u16), seen: (&str, u16)) -> Connection {
    let tuple = |source: (&str, u16), destination: (&str, u16)| Tuple {
        source: address(source.0),
        destination: address(destination.0),
        protocol: proto::TCP,
        icmp_type: 0,
        icmp_code: 0,
        source_port: source.1,
        destination_port: destination.1,
    };
    Connection {
        original: tuple(from, to),
        reply: tuple(end, seen),
        tcp: Some(TcpState::Established),
        status: SEEN_REPLY | ASSURED,
        timeout: Some(432_000),
        mark: 0,
        zone: 0,
        id: 0,
    }
}

fn flow_key(local: &str, local_port: u16, remote: &str, remote_port: u16) -> FlowKey {
    let (local, remote) = (address(local), address(remote));
    FlowKey { local, remote, local_port, remote_port, proto: proto::TCP, reserved: [0; 3] }
}

fn address(text: &str) -> Address {
    ip(text).into()
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The tables of the host for this policy, everything hooked.
fn state(policy: &str) -> State {
    state_of(policy, &host())
}

fn state_of(policy: &str, host: &Inventory) -> State {
    let policy = Policy::parse(policy, Path::new("policy.toml"), Path::new("/nonexistent"))
        .unwrap_or_else(|error| panic!("{error}\n---\n{policy}"));
    desired(&policy, host, &State::default()).expect("tables").state
}

fn host() -> Inventory {
    let mac = |ifindex: u32| inventory::Mac([2, 0, 0, 0, 0, ifindex as u8]);
    let network = |name: &str, bridge: u32, subnet: &str, port: u32, endpoint| inventory::Network {
        name: name.into(),
        docker_id: None,
        bridge_name: format!("br-{name}"),
        bridge_ifindex: Some(bridge),
        subnets: vec![subnet.parse().expect("a prefix")],
        gateways: vec![],
        internal: false,
        icc: true,
        ipv6: false,
        gateway_mode_v4: GatewayMode::Nat,
        gateway_mode_v6: GatewayMode::Nat,
        trusted: vec![],
        masquerade: true,
        ports: vec![inventory::Port {
            ifindex: port,
            name: format!("veth{port}"),
            endpoint: Some(endpoint),
            is_pair: true,
        }],
    };
    let endpoint = |container: &str, network, address, port| inventory::Endpoint {
        container: container.into(),
        container_id: container.into(),
        labels: BTreeMap::new(),
        network,
        mac: Some(mac(port)),
        addresses: vec![ip(address)],
        port_ifindex: Some(port),
    };
    let local =
        |ifindex, address| LocalAddress { ifindex, address: ip(address), prefix_len: 24, broadcast: None };
    let link =
        |index, name, kind, master| Link { mac: Some(mac(index)), ..Link::sample(index, name, kind, master) };
    Inventory {
        networks: vec![
            network("front", FRONT, "172.18.0.0/16", 11, 0),
            network("back", BACK, "172.19.0.0/16", 21, 1),
        ],
        endpoints: vec![endpoint("web", 0, WEB, 11), endpoint("db", 1, DB, 21)],
        published: vec![PublishedPort {
            host: ip("0.0.0.0"),
            protocol: Transport::Tcp,
            host_port: 8080,
            container_port: 80,
            container: "web".into(),
            target: Some(PublishedTarget { endpoint: 0, address: ip(WEB) }),
        }],
        local_addresses: vec![local(2, HOST), local(FRONT, "172.18.0.1"), local(BACK, "172.19.0.1")],
        links: vec![
            link(2, "eth0", LinkKind::Physical, None),
            link(FRONT, "br-front", LinkKind::Bridge, None),
            link(11, "veth11", LinkKind::Veth, Some(FRONT)),
            link(BACK, "br-back", LinkKind::Bridge, None),
            link(21, "veth21", LinkKind::Veth, Some(BACK)),
        ],
        default_route_links: vec![2],
        ..Inventory::default()
    }
}
