//! What is sent: conversations, each a few packets between one that begins and whoever receives what he sends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::policy::interesting_ports;
use super::random::Random;
use super::topology::{HOST_NAME, MARKER, Network, OUTSIDE_NAME, OUTSIDE_SOURCES, Spot, Topology};
use crate::lab::frame::{ICMP, ICMPV6, Mac, SYN, TCP, UDP};
use crate::lab::{HOST, HOST6, OUTSIDE, OUTSIDE6};

/// Packets that belong together, apart from all others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Conversation {
    /// The spot that begins.
    pub(super) from: String,
    pub(super) source: IpAddr,
    pub(super) to: IpAddr,
    /// Destination on the link.
    #[serde(default, skip_serializing_if = "Link::is_next_hop")]
    pub(super) link: Link,
    /// Source on the link, if it is not the spot's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source_mac: Option<[u8; 6]>,
    pub(super) proto: u8,
    /// Source port; the identifier of an echo request.
    #[serde(default)]
    pub(super) source_port: u16,
    #[serde(default)]
    pub(super) port: u16,
    /// The round in which it begins.
    #[serde(default)]
    pub(super) start: usize,
    /// Number of the conversation whose tuple this one uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<usize>,
    pub(super) steps: Vec<Step>,
}

/// One packet of a conversation, sent in a round of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub(super) by: By,
    /// TCP flags.
    #[serde(default)]
    pub(super) flags: u8,
    #[serde(default, skip_serializing_if = "Form::is_plain")]
    pub(super) form: Form,
}

/// Who sends a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum By {
    /// Who begins the conversation.
    Initiator,
    /// Who has received a packet of it, with addresses and ports as he saw them; nobody has, nothing is sent.
    Responder,
    /// An ICMP error of the responder's about what he received.
    ResponderError,
    /// The same with a quote that no packet of his bore: the port that began it is another.
    ForgedError,
}

/// Destination on the link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Link {
    /// The gateway, or for R the host.
    #[default]
    NextHop,
    /// This spot.
    Spot(String),
    /// All.
    Broadcast,
    /// 01:80:c2:00:00:0X.
    Reserved(u8),
}

/// What is odd about a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Form {
    /// Nothing.
    #[default]
    Plain,
    /// So many 802.1Q tags with VLAN ID 0.
    Tags(u8),
    /// One 802.1Q tag with this VLAN ID.
    Vlan(u16),
    /// A wrong checksum of the transport header.
    BadChecksum,
    /// A wrong checksum of the IPv4 header.
    BadHeaderChecksum,
    /// These IPv4 options, padded to four bytes.
    Options(Vec<u8>),
    /// These IPv6 extension headers.
    Headers(Vec<Header>),
    /// Three fragments of equal size (a multiple of 8), sent in this order; numbers may be missing or twice.
    Fragments {
        /// Bytes of each.
        size: u16,
        /// Which is sent when.
        order: Vec<u8>,
    },
    /// A second fragment that overlaps the first by 8 bytes.
    Overlap,
    /// A first fragment of 8 bytes; the second has the rest.
    Tiny,
    /// A fragment header on a packet that is whole (IPv6).
    Atomic,
    /// An ICMP message of this type and code instead of an echo.
    Icmp(u8, u8),
    /// Neighbour discovery of this type from beyond the link.
    FarDiscovery(u8),
    /// Something else than IP by its `EtherType`.
    EtherType(u16),
    /// A hop limit other than 64.
    HopLimit(u8),
    /// A sequence number far out of the window.
    OutOfWindow,
    /// IP says that the packet is longer than the frame.
    TooLong,
    /// IP says so much less than the frame holds; padding.
    Padded(u8),
    /// The transport header's own length field (UDP) or data offset (TCP) is wrong.
    BadLength,
    /// Another IP version in the first nibble.
    Version(u8),
}

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Header {
    HopByHop,
    DestinationOptions,
    /// With this type.
    Routing(u8),
}

impl Link {
    fn is_next_hop(&self) -> bool {
        *self == Self::NextHop
    }
}

impl Form {
    pub(super) fn is_plain(&self) -> bool {
        *self == Self::Plain
    }
}

impl Conversation {
    /// The first round in which nothing of it is sent any more.
    pub(super) fn end(&self) -> usize {
        self.start + self.steps.len()
    }
}

/// Makes conversations at random, no two with the same tuple by chance.
pub(super) struct Traffic<'a> {
    topology: &'a Topology,
    spots: BTreeMap<String, Spot>,
    containers: Vec<String>,
    ports: Vec<u16>,
    counter: u16,
    /// Who speaks with whom without ports.
    portless: BTreeSet<(u8, IpAddr, IpAddr)>,
}

impl<'a> Traffic<'a> {
    pub(super) fn new(topology: &'a Topology) -> Self {
        let spots = topology.spots();
        let marker = |spot: &Spot| spot.network.is_none() || spot.network.as_deref() == Some(MARKER);
        let containers =
            spots.iter().filter(|(_, spot)| !marker(spot)).map(|(name, _)| name.clone()).collect();
        Self {
            topology,
            spots,
            containers,
            ports: interesting_ports(topology),
            counter: 0,
            portless: BTreeSet::new(),
        }
    }

    /// A conversation, and sometimes others that use its tuple; `number` is that of the first.
    pub(super) fn random(&mut self, random: &mut Random, number: usize) -> Vec<Conversation> {
        self.counter = self.counter.wrapping_add(1) % 40_000;
        let mut first = match random.weighted(&[(50, 0), (42, 1), (8, 2)]) {
            0 => self.by_outside(random),
            1 => self.by_container(random),
            _ => self.by_host(random),
        };
        // Connection tracking tells such conversations apart by their addresses alone, whoever began.
        let (one, other) = (first.source.min(first.to), first.source.max(first.to));
        if matches!(first.proto, 47 | 253) && !self.portless.insert((first.proto, one, other)) {
            first.proto = UDP;
        }
        let mut all = vec![first];
        let first = &all[0];
        if random.chance(12) && first.to.is_ipv4() && matches!(first.proto, TCP | UDP | ICMP) {
            let follower = Self::follower(random, first, number);
            all.extend(follower);
        }
        all
    }

    fn by_outside(&self, random: &mut Random) -> Conversation {
        let six = random.chance(30);
        let to = if six { self.outside_target_six(random) } else { self.outside_target(random) };
        let source = if six { self.outside_source_six(random) } else { self.outside_source(random) };
        let link = match random.below(60) {
            0 => Link::Broadcast,
            _ => Link::NextHop,
        };
        let port = *random.pick(&self.ports);
        self.conversation(random, OUTSIDE_NAME, (source, to), link, port)
    }

    fn outside_target(&self, random: &mut Random) -> IpAddr {
        let network = random.pick(&self.topology.networks);
        let [a, b, c, _] = network.gateway().octets();
        match random.weighted(&[(55, 0), (20, 1), (7, 2), (3, 3), (3, 4), (2, 5), (2, 6), (2, 7), (3, 8)]) {
            0 => HOST.into(),
            1 => self.container(random).v4.into(),
            2 => network.gateway().into(),
            3 => Ipv4Addr::LOCALHOST.into(),
            4 => Ipv4Addr::new(127, 0, 0, 2).into(),
            5 => Ipv4Addr::new(198, 18, 0, 255).into(),
            6 => Ipv4Addr::new(a, b, c, 255).into(),
            7 => Ipv4Addr::new(224, 0, 0, 251).into(),
            _ => Ipv4Addr::new(203, 0, 113, 99).into(),
        }
    }

    fn outside_target_six(&self, random: &mut Random) -> IpAddr {
        match random.weighted(&[(60, 0), (25, 1), (5, 2), (2, 3), (3, 4)]) {
            0 => HOST6.into(),
            1 => self.container(random).v6.unwrap_or(HOST6).into(),
            2 => random.pick(&self.topology.networks).gateway6().into(),
            3 => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
            _ => Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 0x77).into(),
        }
    }

    fn outside_source(&self, random: &mut Random) -> IpAddr {
        match random.weighted(&[
            (40, 0),
            (15, 1),
            (12, 2),
            (12, 3),
            (6, 4),
            (4, 5),
            (2, 6),
            (2, 7),
            (1, 8),
            (1, 9),
        ]) {
            0 => OUTSIDE.into(),
            1 => Ipv4Addr::new(198, 18, 0, 3).into(),
            2 => Ipv4Addr::new(203, 0, 113, 7).into(),
            3 => Ipv4Addr::new(203, 0, 113, 200).into(),
            4 => Ipv4Addr::new(192, 0, 2, 9).into(),
            5 => self.container(random).v4.into(),
            6 => HOST.into(),
            7 => random.pick(&self.topology.networks).gateway().into(),
            8 => Ipv4Addr::LOCALHOST.into(),
            _ => *random.pick(&[
                IpAddr::from(Ipv4Addr::UNSPECIFIED),
                IpAddr::from(Ipv4Addr::new(224, 0, 0, 1)),
                IpAddr::from(Ipv4Addr::BROADCAST),
            ]),
        }
    }

    fn outside_source_six(&self, random: &mut Random) -> IpAddr {
        match random.weighted(&[(45, 0), (15, 1), (15, 2), (10, 3), (5, 4), (2, 5), (1, 6)]) {
            0 => OUTSIDE6.into(),
            1 => Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 3).into(),
            2 => Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 1).into(),
            3 => Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0x8000, 0, 0, 0, 1).into(),
            4 => self.container(random).v6.unwrap_or(OUTSIDE6).into(),
            5 => HOST6.into(),
            _ => Ipv6Addr::LOCALHOST.into(),
        }
    }

    fn by_container(&self, random: &mut Random) -> Conversation {
        let name = random.pick(&self.containers).clone();
        let spot = self.spots[&name].clone();
        let six = spot.v6.is_some() && random.chance(40);
        let own = spot.v6.filter(|_| six).map_or(IpAddr::from(spot.v4), IpAddr::from);
        let network = spot.network.as_deref().and_then(|name| self.topology.network(name));
        let other_name = random.pick(&self.containers).clone();
        let other = &self.spots[&other_name];
        let of_family =
            |four: Ipv4Addr, other: Ipv6Addr| if six { IpAddr::from(other) } else { IpAddr::from(four) };
        let gateway = network.map_or(own, |network| of_family(network.gateway(), network.gateway6()));
        let elsewhere = random.pick(&self.topology.networks);
        let mut to = match random.weighted(&[
            (24, 0),
            (38, 1),
            (7, 2),
            (4, 3),
            (14, 4),
            (2, 5),
            (2, 6),
            (1, 7),
            (8, 8),
        ]) {
            0 => of_family(OUTSIDE, OUTSIDE6),
            8 => far(random, six),
            1 => other.address_like(own).unwrap_or(of_family(OUTSIDE, OUTSIDE6)),
            2 => gateway,
            3 => of_family(elsewhere.gateway(), elsewhere.gateway6()),
            4 => of_family(HOST, HOST6),
            5 => of_family(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
            6 => of_family(Ipv4Addr::new(224, 0, 0, 251), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb)),
            _ => of_family(Ipv4Addr::BROADCAST, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
        };
        if to == own {
            to = of_family(OUTSIDE, OUTSIDE6);
        }
        let source = if random.chance(88) {
            own
        } else {
            match random.below(7) {
                0 | 1 => other.address_like(own).unwrap_or(own),
                6 => of_family(Ipv4Addr::new(224, 0, 0, 1), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
                2 => of_family(
                    Ipv4Addr::new(203, 0, 113, 7),
                    Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 1),
                ),
                3 => gateway,
                4 => of_family(HOST, HOST6),
                _ => of_family(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
            }
        };
        let neighbour = other.network == spot.network && to == other.address_like(own).unwrap_or(own);
        let link = match random.weighted(&[(92, 0), (3, 1), (2, 2), (2, 3)]) {
            _ if neighbour && random.chance(75) => Link::Spot(other_name),
            1 if other.network == spot.network => Link::Spot(other_name),
            2 => Link::Broadcast,
            3 => Link::Reserved(u8::try_from(random.below(16)).unwrap_or(0)),
            _ => Link::NextHop,
        };
        let port = if to == of_family(OUTSIDE, OUTSIDE6) {
            *random.pick(&[443, 53, 5000])
        } else {
            *random.pick(&self.ports)
        };
        let mut conversation = self.conversation(random, &name, (source, to), link, port);
        if random.chance(3) {
            let forged = *random.pick(&[other.mac, Mac([0x02, 1, 2, 3, 4, 5]), spot.next_hop]);
            conversation.source_mac = Some(forged.0).filter(|forged| *forged != spot.mac.0);
        }
        if random.chance(15) && to == of_family(OUTSIDE, OUTSIDE6) && matches!(conversation.proto, TCP | UDP)
        {
            // A source port that means something on the host; the other port keeps the tuple apart.
            conversation.source_port = *random.pick(&self.ports);
            conversation.port = 10_000 + self.counter;
        }
        conversation
    }

    fn by_host(&self, random: &mut Random) -> Conversation {
        let target = self.container(random);
        let network = target.network.as_deref().and_then(|name| self.topology.network(name));
        let gateway = network.map_or(HOST, Network::gateway);
        let gateway6 = network.map_or(HOST6, Network::gateway6);
        let (source, to): (IpAddr, IpAddr) = match (random.below(6), target.v6) {
            (0, _) => (HOST.into(), OUTSIDE.into()),
            (1, _) => (HOST.into(), far(random, false)),
            (2, _) => (HOST6.into(), OUTSIDE6.into()),
            (3, Some(six)) => (gateway6.into(), six.into()),
            (4, _) => (HOST.into(), HOST.into()),
            (_, _) => (gateway.into(), target.v4.into()),
        };
        let port = *random.pick(&self.ports);
        self.conversation(random, HOST_NAME, (source, to), Link::NextHop, port)
    }

    fn container(&self, random: &mut Random) -> Spot {
        self.spots[random.pick(&self.containers)].clone()
    }

    fn conversation(
        &self,
        random: &mut Random,
        from: &str,
        (source, to): (IpAddr, IpAddr),
        link: Link,
        port: u16,
    ) -> Conversation {
        let six = to.is_ipv6();
        let icmp = if six { ICMPV6 } else { ICMP };
        let proto =
            random.weighted(&[(45, TCP), (40, UDP), (12, icmp), (1, 132), (1, 47), (1, 136), (1, 253)]);
        let mut conversation = Conversation {
            from: from.to_owned(),
            source,
            to,
            link,
            source_mac: None,
            proto,
            source_port: 20_000 + self.counter,
            port,
            start: random.below(3),
            after: None,
            steps: match proto {
                TCP => segments(random),
                _ if proto == icmp => echo(random),
                _ => datagrams(random),
            },
        };
        if matches!(proto, 47 | 253) {
            self.set_apart(&mut conversation);
        }
        let host = from == HOST_NAME;
        for step in &mut conversation.steps {
            let error = matches!(step.by, By::ResponderError | By::ForgedError);
            if !error && random.chance(22) {
                step.form = form(random, six, proto, host || step.by == By::Responder);
            }
        }
        conversation
    }

    /// Without ports it is the outside's address that tells conversations apart.
    fn set_apart(&self, conversation: &mut Conversation) {
        let [high, low] = self.counter.to_be_bytes();
        let own: IpAddr = if conversation.to.is_ipv6() {
            Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, self.counter).into()
        } else {
            Ipv4Addr::new(100, 64, high, low).into()
        };
        for address in [&mut conversation.source, &mut conversation.to] {
            if OUTSIDE_SOURCES.contains(address) {
                *address = own;
            }
        }
    }

    /// A conversation that uses the tuple of another: by the same two, the other way round, or by a third.
    fn follower(random: &mut Random, first: &Conversation, number: usize) -> Option<Conversation> {
        let mut follower = Conversation {
            link: Link::NextHop,
            source_mac: None,
            start: first.end(),
            after: Some(number),
            ..first.clone()
        };
        for step in &mut follower.steps {
            step.form = Form::Plain;
        }
        follower.steps.truncate(2);
        if first.to == IpAddr::from(OUTSIDE) {
            // MASQUERADE keeps the source port if it can: this is what a reply would look like.
            OUTSIDE_NAME.clone_into(&mut follower.from);
            follower.source =
                if random.chance(70) { OUTSIDE.into() } else { Ipv4Addr::new(198, 18, 0, 3).into() };
            follower.to = if random.chance(90) { HOST.into() } else { first.source };
            (follower.source_port, follower.port) = (first.port, first.source_port);
            if first.proto == ICMP {
                follower.source_port = first.source_port;
            }
            if first.proto == TCP && random.chance(50) {
                follower.steps = vec![Step { by: By::Initiator, flags: SYN, form: Form::Plain }];
            }
            return Some(follower);
        }
        if first.from == OUTSIDE_NAME && first.to == IpAddr::from(HOST) {
            // A new beginning on the old tuple (T09), or the same by a third.
            if random.chance(30) {
                follower.source = Ipv4Addr::new(203, 0, 113, 7).into();
            }
            return Some(follower);
        }
        None
    }
}

/// An address behind the outside: public, or of somebody's own network.
fn far(random: &mut Random, six: bool) -> IpAddr {
    if six {
        let public = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0x8000, 0, 0, 0, 1);
        let own = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);
        let own_translated = Ipv6Addr::new(0x2002, 0x0a00, 1, 0, 0, 0, 0, 1);
        return (*random.pick(&[public, own, own_translated])).into();
    }
    let all =
        [[203, 0, 113, 7], [203, 0, 113, 200], [192, 168, 77, 1], [100, 64, 0, 1], [169, 254, 169, 254]];
    Ipv4Addr::from(*random.pick(&all)).into()
}

fn segments(random: &mut Random) -> Vec<Step> {
    use By::{ForgedError, Initiator, Responder, ResponderError};
    let step = |by, flags| Step { by, flags, form: Form::Plain };
    let mut steps = vec![
        step(Initiator, SYN),
        step(Responder, SYN | ACK),
        step(Initiator, ACK),
        step(Responder, ACK | PSH),
        step(Initiator, ACK | FIN),
        step(Responder, ACK | FIN),
        step(Initiator, ACK),
    ];
    match random.below(12) {
        0 => steps.truncate(1),
        1 => steps.truncate(2),
        2 => steps.truncate(3),
        3 => steps.truncate(4),
        4 => {
            // Picked up in the middle.
            steps.drain(..2);
        }
        5 => {
            let flags = *random.pick(&[
                0,
                FIN,
                SYN | FIN,
                SYN | RST,
                FIN | PSH | URG,
                0x3f,
                RST,
                SYN | ACK,
                ACK,
                RST | ACK,
                FIN | ACK,
            ]);
            steps = vec![step(Initiator, flags), step(Responder, ACK)];
        }
        6 => {
            steps.truncate(4);
            steps.push(step(Initiator, RST));
            steps.push(step(Responder, ACK));
        }
        7 => {
            steps.truncate(4);
            steps.push(step(Responder, RST | ACK));
            steps.push(step(Responder, ACK));
        }
        8 => {
            steps.truncate(3);
            steps.push(step(ResponderError, 0));
            steps.push(step(Initiator, ACK));
        }
        9 => {
            steps.truncate(2);
            steps.push(step(ForgedError, 0));
        }
        10 => {
            // Simultaneous open.
            steps.truncate(1);
            steps.push(step(Responder, SYN));
        }
        _ => {}
    }
    steps
}

fn datagrams(random: &mut Random) -> Vec<Step> {
    use By::{ForgedError, Initiator, Responder, ResponderError};
    let step = |by| Step { by, flags: 0, form: Form::Plain };
    match random.below(6) {
        0 => vec![step(Initiator)],
        1 => vec![step(Initiator), step(ResponderError)],
        2 => vec![step(Initiator), step(ForgedError), step(Responder)],
        3 => vec![step(Initiator), step(Initiator), step(Responder), step(Initiator)],
        _ => vec![step(Initiator), step(Responder)],
    }
}

fn echo(random: &mut Random) -> Vec<Step> {
    let step = |by, form| Step { by, flags: 0, form };
    let plain = || Form::Plain;
    match random.below(5) {
        0 => vec![step(By::Initiator, plain()), step(By::ResponderError, plain())],
        1 => {
            let kind = *random.pick(&[0, 3, 4, 5, 8, 11, 12, 13, 17, 42, 1, 2, 129, 133, 134, 135, 136, 137]);
            vec![step(By::Initiator, Form::Icmp(kind, 0))]
        }
        2 => vec![
            step(By::Initiator, plain()),
            step(By::Responder, plain()),
            step(By::Responder, Form::Icmp(8, 0)),
        ],
        _ => vec![step(By::Initiator, plain()), step(By::Responder, plain())],
    }
}

/// Something odd that the protocol knows; `simple` where the sender builds no frame of his own or answers.
fn form(random: &mut Random, six: bool, proto: u8, simple: bool) -> Form {
    let fragments = Form::Fragments {
        size: *random.pick(&[48, 64, 512]),
        order: random
            .pick(&[[0, 1, 2].as_slice(), &[2, 1, 0], &[1, 0, 2], &[0, 2], &[1, 2], &[0, 1, 1, 2]])
            .to_vec(),
    };
    if simple {
        return match random.below(3) {
            0 => Form::BadChecksum,
            1 if proto == TCP => Form::OutOfWindow,
            _ => fragments,
        };
    }
    match random.below(16) {
        0 => Form::Tags(u8::try_from(random.between(1, 9)).unwrap_or(1)),
        1 => Form::Vlan(5),
        2 => Form::BadChecksum,
        3 if !six => Form::BadHeaderChecksum,
        4 | 5 => fragments,
        6 => Form::Overlap,
        7 if six => Form::Atomic,
        8 => Form::HopLimit(*random.pick(&[1, 2, 255])),
        9 if proto == TCP => Form::OutOfWindow,
        10 => Form::Tiny,
        11 if six && proto == ICMPV6 => Form::FarDiscovery(*random.pick(&[133, 134, 135, 136])),
        11 => Form::EtherType(*random.pick(&[0x88cc, 0x8847, 0x8863])),
        12 => random.pick(&[Form::TooLong, Form::Padded(9), Form::BadLength, Form::Version(5)]).clone(),
        _ if six => Form::Headers(
            random
                .pick(&[
                    [Header::HopByHop].as_slice(),
                    &[Header::DestinationOptions],
                    &[Header::DestinationOptions, Header::HopByHop],
                    &[Header::HopByHop, Header::DestinationOptions, Header::DestinationOptions],
                    &[Header::Routing(0)],
                    &[Header::Routing(4)],
                    &[Header::DestinationOptions; 9],
                ])
                .to_vec(),
        ),
        _ => Form::Options(
            random
                .pick(&[
                    // No operation; record route; time stamp; router alert; loose source route; unknown; overrun.
                    [1, 1, 1, 0].as_slice(),
                    &[7, 7, 4, 0, 0, 0, 0],
                    &[68, 8, 5, 0, 0, 0, 0, 0],
                    &[148, 4, 0, 0],
                    &[131, 7, 4, 203, 0, 113, 9],
                    &[0x9e, 4, 0, 0],
                    &[7, 40, 4, 0],
                ])
                .to_vec(),
        ),
    }
}

const FIN: u8 = 0x01;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
