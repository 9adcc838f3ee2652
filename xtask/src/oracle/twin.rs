//! One of the two hosts: sends what the conversations say, and remembers what arrived where.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::bytes::{Content, Packet, Quote, Seen, Tag};
use super::topology::{
    HOST_NAME, MARKER, MARKER_PORT, MARKER_SOURCE, OUTSIDE_NAME, SENDER_MARK, Spot, Topology,
};
use super::traffic::{By, Conversation, Form, Link, Step};
use crate::lab::frame::{ICMP, ICMPV6, Mac, SYN, TCP, UDP};
use crate::lab::raw::{Ear, Mouth, Wire};
use crate::lab::{HOST, Lab, OUTSIDE, Place};

/// A host with its sockets.
pub(super) struct Twin {
    pub(super) lab: Lab,
    spots: BTreeMap<String, Spot>,
    wires: BTreeMap<String, Wire>,
    ears: Vec<Ear>,
    mouths: [Mouth; 2],
    /// UDP ports behind which docker-proxy stands.
    proxied: BTreeSet<u16>,
    markers: AtomicU16,
    /// How long docker-proxy may take.
    pub(super) patience: Duration,
}

/// What became of one packet, or one fragment.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// There was nobody who could have sent it: what it answers had not arrived.
    #[default]
    NotSent,
    /// It arrived at these places; none if it was dropped.
    Arrived(BTreeSet<Arrival>),
}

/// An arrival: where, and with which addresses (ports depend on the kernel's choice). The host tells no addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrival {
    pub(super) spot: String,
    pub(super) addresses: Option<(IpAddr, IpAddr)>,
}

/// What one host saw of all conversations.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// The fate of every packet by conversation (its place in the list), step and fragment.
    pub(super) fates: BTreeMap<(usize, u8, u8), Fate>,
    /// Who sent a step, and what he wrote into it.
    pub(super) sent: BTreeMap<(usize, u8), Sent>,
}

/// A packet as it left its sender.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) spot: String,
    pub(super) source: IpAddr,
    pub(super) to: IpAddr,
    /// Source port and port, as far as there are any.
    pub(super) ports: (u16, u16),
}

impl Fate {
    pub(super) fn arrived_somewhere(&self) -> bool {
        matches!(self, Self::Arrived(at) if !at.is_empty())
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent => f.write_str("not sent"),
            Self::Arrived(at) if at.is_empty() => f.write_str("nowhere"),
            Self::Arrived(at) => {
                f.write_str(&at.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addresses {
            Some((source, to)) => write!(f, "{} ({source} > {to})", self.spot),
            None => f.write_str(&self.spot),
        }
    }
}

/// What the two sides of a conversation know.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// Next sequence numbers of the initiator and the responder.
    next: (u32, u32),
    /// Where the initiator's packets arrived, and what they looked like there.
    view: Option<(String, Seen)>,
}

/// A packet about to be sent.
struct Turn {
    /// Destination and source on the link.
    macs: (Mac, Mac),
    sent: Sent,
}

impl Twin {
    /// Builds the topology in a lab and opens its sockets.
    pub(super) fn build(lab: Lab, topology: &Topology) -> Result<Self> {
        let places = topology.build(&lab)?;
        let spots = topology.spots();
        let mut wires = BTreeMap::new();
        for (name, spot) in spots.iter().filter(|(name, _)| *name != HOST_NAME) {
            let place: &Place = places.get(&spot.place).context("each spot lies in a place")?;
            wires.insert(name.clone(), place.wire(&spot.device)?);
        }
        let host = lab.host();
        let ears = [(false, PROTOCOLS), (true, PROTOCOLS_SIX)];
        let ears = ears.into_iter().flat_map(|(six, all)| all.iter().map(move |proto| host.ear(six, *proto)));
        let ears = ears.collect::<Result<_>>()?;
        let mouths = [host.mouth(false, SENDER_MARK)?, host.mouth(true, SENDER_MARK)?];
        let published = topology.containers.iter().flat_map(|container| &container.published);
        let proxied = published.filter(|port| port.proto == UDP && topology.userland_proxy);
        let proxied = proxied.map(|port| port.host_port).collect();
        Ok(Self { spots, wires, ears, mouths, proxied, markers: AtomicU16::new(0), patience: PROXY, lab })
    }

    /// Plays all conversations, one step of each in each round; `base` is the number of the first on the wire.
    pub(super) fn play(&self, conversations: &[Conversation], base: u32) -> Result<Record> {
        let mut record = Record::default();
        let mut progress = vec![Progress::default(); conversations.len()];
        let rounds = conversations.iter().map(Conversation::end).max().unwrap_or(0);
        for (number, progress) in progress.iter_mut().enumerate() {
            let number = u32::try_from(number).unwrap_or(0);
            progress.next = (1000 + number.wrapping_mul(7919), 500_000 + number.wrapping_mul(104_729));
        }
        for round in 0..rounds {
            for (number, conversation) in conversations.iter().enumerate() {
                let Some(step) =
                    round.checked_sub(conversation.start).filter(|step| *step < conversation.steps.len())
                else {
                    continue;
                };
                let tag = Tag {
                    conversation: (base + u32::try_from(number).unwrap_or(0)) & CONVERSATIONS,
                    step: u8::try_from(step).unwrap_or(0),
                    fragment: 0,
                };
                let Some(turn) = self.turn(conversation, &conversation.steps[step], &progress[number])?
                else {
                    record.fates.insert((number, tag.step, 0), Fate::NotSent);
                    continue;
                };
                for tag in
                    self.step(conversation, &conversation.steps[step], &turn, tag, &mut progress[number])?
                {
                    record.fates.insert((number, tag.step, tag.fragment), Fate::Arrived(BTreeSet::new()));
                }
                record.sent.insert((number, tag.step), turn.sent);
            }
            let mut views: BTreeMap<usize, BTreeMap<usize, (String, Seen)>> = BTreeMap::new();
            let number =
                |tag: &Tag| tag.conversation.checked_sub(base & CONVERSATIONS).map(|number| number as usize);
            let passed_on = |tag: &Tag| {
                let conversation = number(tag).and_then(|number| conversations.get(number));
                conversation.is_some_and(|it| it.proto == UDP && self.proxied.contains(&it.port))
            };
            for (tag, arrival, seen) in self.settle(&passed_on)? {
                let Some(number) = number(&tag) else { continue };
                let Some(conversation) = conversations.get(number) else { continue };
                let Some(Fate::Arrived(at)) = record.fates.get_mut(&(number, tag.step, tag.fragment)) else {
                    continue;
                };
                at.insert(arrival.clone());
                let begun = conversation
                    .steps
                    .get(usize::from(tag.step))
                    .is_some_and(|step| step.by == By::Initiator);
                let seen = if arrival.spot == HOST_NAME { Some(heard(conversation)) } else { seen };
                if let (true, Some(rank), Some(seen)) = (begun, self.rank(&arrival), seen) {
                    views.entry(number).or_default().insert(rank, (arrival.spot, seen));
                }
            }
            for (number, views) in views {
                if let (None, Some((_, view))) = (&progress[number].view, views.into_iter().next()) {
                    progress[number].view = Some(view);
                }
            }
        }
        Ok(record)
    }

    /// Who answers of those to whom something came: the container that it names, else the outside, else the host
    /// (docker-proxy may pass on what came to the host). Others only overhear it.
    fn rank(&self, arrival: &Arrival) -> Option<usize> {
        match (arrival.spot.as_str(), arrival.addresses) {
            (HOST_NAME, _) => Some(2),
            (OUTSIDE_NAME, _) => Some(1),
            (name, Some((_, to))) => {
                let spot = self.spots.get(name)?;
                (spot.address_like(to) == Some(to)).then_some(0)
            }
            (_, None) => None,
        }
    }

    /// Whose turn it is to send a step; none if what it answers did not arrive.
    fn turn(&self, conversation: &Conversation, step: &Step, progress: &Progress) -> Result<Option<Turn>> {
        if step.by == By::Initiator {
            let spot = self.spot(&conversation.from)?;
            let mac = conversation.source_mac.map_or(spot.mac, Mac);
            let sent = Sent {
                spot: conversation.from.clone(),
                source: conversation.source,
                to: conversation.to,
                ports: (conversation.source_port, conversation.port),
            };
            return Ok(Some(Turn { macs: (self.link(spot, &conversation.link)?, mac), sent }));
        }
        let Some((name, seen)) = &progress.view else { return Ok(None) };
        let Some((theirs, ours)) = seen.ports else { return Ok(None) };
        let sent = Sent { spot: name.clone(), source: seen.to, to: seen.source, ports: (ours, theirs) };
        Ok(Some(Turn { macs: (seen.mac, self.spot(name)?.mac), sent }))
    }

    /// Sends one step; the tags that were sent.
    fn step(
        &self,
        conversation: &Conversation,
        step: &Step,
        turn: &Turn,
        tag: Tag,
        progress: &mut Progress,
    ) -> Result<Vec<Tag>> {
        let Turn { macs, sent: Sent { spot, source, to, ports } } = turn;
        let content = content(conversation, step, (*source, *to), *ports, progress);
        let (proto, form) = (conversation.proto, &step.form);
        let packet = Packet { macs: *macs, source: *source, to: *to, proto, content, form, tag };
        let frames = packet.frames();
        for (_, frame) in &frames {
            self.send(spot, frame, *to)?;
        }
        Ok(frames.into_iter().map(|(tag, _)| tag).collect())
    }

    fn spot(&self, name: &str) -> Result<&Spot> {
        self.spots.get(name).with_context(|| format!("there is no spot {name}"))
    }

    fn link(&self, from: &Spot, link: &Link) -> Result<Mac> {
        Ok(match link {
            Link::NextHop => from.next_hop,
            Link::Spot(name) => self.spot(name)?.mac,
            Link::Broadcast => Mac::BROADCAST,
            Link::Reserved(last) => Mac::reserved(*last),
        })
    }

    fn send(&self, spot: &str, frame: &[u8], to: IpAddr) -> Result<()> {
        if spot == HOST_NAME {
            // What the kernel refuses to send arrives nowhere, on both twins.
            self.mouths[usize::from(to.is_ipv6())].send(frame.get(14..).unwrap_or(&[]), to);
            return Ok(());
        }
        let wire = self.wires.get(spot).with_context(|| format!("there is no wire of {spot}"))?;
        wire.send(frame).with_context(|| format!("from {spot}"))
    }

    /// Waits until everything sent so far has arrived or is lost, and returns what has arrived.
    ///
    /// Packets are forwarded in the sender's context, and queues between devices keep their order: behind a marker
    /// from each side nothing is left but what docker-proxy has in hands, `passed_on`, which is given some time.
    fn settle(&self, passed_on: &dyn Fn(&Tag) -> bool) -> Result<Vec<(Tag, Arrival, Option<Seen>)>> {
        let marker = self.markers.fetch_add(1, Ordering::Relaxed);
        let [step, fragment] = marker.to_be_bytes();
        let out = Tag { conversation: MARKERS, step, fragment };
        let inward = Tag { conversation: MARKERS - 1, step, fragment };
        self.mark(&format!("{MARKER}/{MARKER}"), (None, OUTSIDE.into()), out)?;
        self.mark(OUTSIDE_NAME, (Some(MARKER_SOURCE.into()), HOST.into()), inward)?;
        let mut arrived = Vec::new();
        let mut missing = BTreeSet::from([out, inward]);
        let mut in_hands = BTreeSet::new();
        let started = Instant::now();
        loop {
            let before = arrived.len();
            self.read(&mut arrived);
            for (tag, Arrival { spot, .. }, _) in &arrived[before..] {
                missing.remove(tag);
                if spot == HOST_NAME && passed_on(tag) {
                    in_hands.insert(*tag);
                }
            }
            for (tag, ..) in arrived.iter().filter(|(_, arrival, _)| arrival.spot != HOST_NAME) {
                in_hands.remove(tag);
            }
            if arrived.len() > before {
                continue;
            }
            if !missing.is_empty() && started.elapsed() > PATIENCE {
                bail!(
                    "the oracle's markers got lost in lab {}: it cannot tell what has arrived",
                    self.lab.name()
                );
            }
            let waiting = !missing.is_empty() || (!in_hands.is_empty() && started.elapsed() < self.patience);
            let news = self.wait_for_news(if waiting { self.patience } else { SILENCE })?;
            if !waiting && !news {
                return Ok(arrived);
            }
        }
    }

    fn mark(&self, from: &str, (source, to): (Option<IpAddr>, IpAddr), tag: Tag) -> Result<()> {
        let spot = self.spot(from)?;
        let source = source.unwrap_or(spot.v4.into());
        let packet = Packet {
            macs: (spot.next_hop, spot.mac),
            source,
            to,
            proto: UDP,
            content: Content::Datagram((19_999, MARKER_PORT)),
            form: &Form::Plain,
            tag,
        };
        packet.frames().iter().try_for_each(|(_, frame)| self.send(from, frame, to))
    }

    fn read(&self, arrived: &mut Vec<(Tag, Arrival, Option<Seen>)>) {
        let mut buffer = vec![0; 1 << 16];
        for (name, wire) in &self.wires {
            while let Some(length) = wire.receive(&mut buffer) {
                let frame = &buffer[..length];
                let mut tags = Tag::all(frame).peekable();
                if tags.peek().is_none() {
                    continue;
                }
                let seen = Seen::read(frame);
                let addresses = seen.as_ref().map(|seen| (seen.source, seen.to));
                let arrival = Arrival { spot: name.clone(), addresses };
                let view = seen.filter(|seen| seen.ports.is_some());
                arrived.extend(tags.map(|tag| (tag, arrival.clone(), view.clone())));
            }
        }
        for ear in &self.ears {
            while let Some(length) = ear.receive(&mut buffer) {
                let arrival = Arrival { spot: HOST_NAME.to_owned(), addresses: None };
                arrived.extend(Tag::all(&buffer[..length]).map(|tag| (tag, arrival.clone(), None)));
            }
        }
    }

    /// Whether something comes within `limit`.
    fn wait_for_news(&self, limit: Duration) -> Result<bool> {
        let wires = self.wires.values().map(|wire| wire.as_fd());
        let all = wires.chain(self.ears.iter().map(|ear| ear.as_fd()));
        let mut watched: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        Ok(poll(&mut watched, limit).context("cannot wait for packets")? > 0)
    }
}

/// What the host saw of a packet that it delivered to itself: what was sent, for nothing translates it there.
fn heard(conversation: &Conversation) -> Seen {
    let ports = match conversation.proto {
        ICMP | ICMPV6 => (conversation.source_port, conversation.source_port),
        _ => (conversation.source_port, conversation.port),
    };
    // The host sends by its routes: nobody asks for the MAC address.
    Seen { source: conversation.source, to: conversation.to, ports: Some(ports), mac: Mac::BROADCAST }
}

fn content(
    conversation: &Conversation,
    step: &Step,
    (source, to): (IpAddr, IpAddr),
    ports: (u16, u16),
    progress: &mut Progress,
) -> Content {
    let six = to.is_ipv6();
    if matches!(step.by, By::ResponderError | By::ForgedError) {
        let theirs = if step.by == By::ForgedError { forged(ports.1) } else { ports.1 };
        // The quoted packet was the other's: from where this one goes.
        let quote = Quote { source: to, to: source, proto: conversation.proto, ports: (theirs, ports.0) };
        // Port unreachable.
        let (kind, code) = if six { (1, 4) } else { (3, 3) };
        return Content::Error(kind, code, Box::new(quote));
    }
    match conversation.proto {
        TCP => {
            let (initiator, responder) = &mut progress.next;
            let (own, other) =
                if step.by == By::Initiator { (initiator, *responder) } else { (responder, *initiator) };
            let sequence = if step.form == Form::OutOfWindow { own.wrapping_add(1 << 30) } else { *own };
            let counted = step.flags & (SYN | FIN);
            *own = own.wrapping_add(payload_of(&step.form) + counted.count_ones());
            Content::Segment(ports, (sequence, if step.flags & ACK == 0 { 0 } else { other }), step.flags)
        }
        UDP => Content::Datagram(ports),
        ICMP | ICMPV6 => {
            let (request, reply) = if six { (128, 129) } else { (8, 0) };
            let (kind, code) = match step.form {
                Form::Icmp(kind, code) => (kind, code),
                Form::FarDiscovery(kind) => (kind, 0),
                _ if step.by == By::Initiator => (request, 0),
                _ => (reply, 0),
            };
            let identifier = if step.by == By::Initiator { conversation.source_port } else { ports.0 };
            Content::Message(kind, code, identifier)
        }
        _ => Content::Other(ports),
    }
}

/// The port that a forged quote names instead: for one that means something on the host its neighbour, which may mean
/// something too; else one that no conversation has.
pub(super) fn forged(port: u16) -> u16 {
    if port < 10_000 { port ^ 1 } else { port ^ 0x4000 }
}

/// Bytes behind the TCP header.
fn payload_of(form: &Form) -> u32 {
    match form {
        Form::Fragments { size, .. } => 3 * u32::from(*size) - 20,
        Form::Overlap => 144 - 20,
        _ => 8,
    }
}

const FIN: u8 = 0x01;
const ACK: u8 = 0x10;

/// Numbers of conversations on the wire; those above are the markers'.
const CONVERSATIONS: u32 = 0x7f_ffff;
const MARKERS: u32 = 0xff_ffff;

/// IP protocols that the host listens to.
const PROTOCOLS: &[u8] = &[ICMP, TCP, UDP, 2, 47, 132, 136, 253];
const PROTOCOLS_SIX: &[u8] = &[ICMPV6, TCP, UDP, 47, 132, 136, 253];

/// Behind the markers nothing should come any more.
const SILENCE: Duration = Duration::from_millis(1);
/// How long docker-proxy may take.
pub(super) const PROXY: Duration = Duration::from_millis(60);
const PATIENCE: Duration = Duration::from_secs(10);
