//! What netfilter does next with a packet that fw has let go on: Docker's translation and the filter rules of everybody,
//! as iptables-save prints them now, and the kernel's answer where the packet is routed. Reads only.

use std::net::IpAddr;

use fw_common::Address;
use fw_common::wire::{Fragment, Packet, proto};
use serde::Serialize;

use super::Explanation;
use super::trace::Known;
use crate::conntrack::{self, Connection, Tuple};
use crate::handover::{End, Family, HandoverError, Hit, Iptables, Locals, Nft, Passing, RuleSets};
use crate::netlink::{self, HostSnapshot, Leads};
use crate::reconcile::chain;

/// Everything that is asked, as it is at this moment.
pub struct Netfilter {
    rules: RuleSets,
    /// Tables of nftables that are not walked.
    tables: Vec<String>,
    connections: Vec<Connection>,
    notes: Vec<String>,
}

/// What netfilter does with one packet.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Next {
    /// `accept`, `drop` or `reject`; `to-host` for what comes to the host's own sockets; `cannot-tell`; `not-walked`.
    pub end: &'static str,
    /// Why it ends there, or why it cannot be told.
    pub why: Option<String>,
    /// The rules that hold it, in order.
    pub rules: Vec<At>,
    /// Where DNAT leads it.
    pub dnat: Option<String>,
    /// Who is there.
    pub to: Option<String>,
    /// The device by which it leaves; none if it ends in the host.
    pub leaves: Option<String>,
    /// How its source is translated.
    pub source_nat: Option<String>,
    /// What else is to be said.
    pub notes: Vec<String>,
}

/// A rule that holds the packet, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct At {
    /// The command whose rules it is among.
    pub place: String,
    /// Table, chain and rule.
    #[serde(flatten)]
    pub hit: Hit,
}

impl Netfilter {
    /// Reads what stands now.
    pub fn read() -> Result<Self, HandoverError> {
        let rules = Iptables::find()?.rule_sets()?;
        let tables = Nft::find().map(|nft| nft.tables()).transpose()?.unwrap_or_default();
        let mut notes = Vec::new();
        let connections = conntrack::snapshot().unwrap_or_else(|error| {
            notes.push(format!(
                "cannot ask for connections, so it counts as one that begins: {}",
                chain(&error)
            ));
            Vec::new()
        });
        Ok(Self { rules, tables, connections, notes })
    }

    /// What becomes of a packet that fw has let go on into the host's IP, coming in by the device `comes_in`.
    pub fn next(
        &self,
        known: &Known<'_>,
        host: &HostSnapshot,
        explanation: &Explanation,
        comes_in: u32,
    ) -> Next {
        let mut walk = Walk {
            netfilter: self,
            known,
            host,
            locals: host.addresses.iter().map(|local| local.address).collect(),
            comes_in,
            next: Next { notes: self.notes.clone(), ..Next::default() },
        };
        let ended = walk.run(&explanation.packet.parsed, explanation.mark_behind);
        let mut next = walk.next;
        let (end, why) = match ended {
            Ok(end) => (end, None),
            Err((end, why)) => (end, Some(why)),
        };
        (next.end, next.why) = (end, why);
        if !self.tables.is_empty() && next.end != "not-walked" {
            let tables = self.tables.join(", ");
            next.notes.push(format!(
                "tables of nftables that are not walked, and may drop it all the same: {tables}"
            ));
        }
        next
    }
}

/// One packet on its way.
struct Walk<'a> {
    netfilter: &'a Netfilter,
    known: &'a Known<'a>,
    host: &'a HostSnapshot,
    locals: Locals,
    comes_in: u32,
    next: Next,
}

/// How a walk ends before its end, and why.
type Stopped = (&'static str, String);

impl Walk<'_> {
    fn run(&mut self, packet: &Packet, mark: u32) -> Result<&'static str, Stopped> {
        let not_walked = |why: &str| Err(("not-walked", why.to_owned()));
        if packet.version == 0 {
            return not_walked("it is no IP packet");
        }
        if self.netfilter.tables.iter().any(|table| table.ends_with(" docker-bridges")) {
            let tables = self.netfilter.tables.join(", ");
            return not_walked(&format!(
                "Docker keeps its rules in nftables, which is not walked; tables: {tables}"
            ));
        }
        if packet.fragment() != Fragment::Whole {
            return not_walked("conntrack joins it to the other fragments first");
        }
        let is_error = packet.is_icmp() && !packet.is_icmp_of(8, 128) && !packet.is_icmp_of(0, 129);
        if is_error || packet.destination.is_for_many() {
            return not_walked("groups, broadcasts and ICMP errors are not walked");
        }
        let family = if packet.is_v4() { Family::V4 } else { Family::V6 };
        let connection = self.connection(packet);
        if connection.is_none() && packet.protocol == proto::TCP && !packet.opens() {
            return not_walked("it belongs to no connection that conntrack knows, and begins none");
        }
        let established = connection.is_some_and(|(connection, answers)| answers || connection.is_answered());
        let mut passing = Passing {
            protocol: packet.protocol,
            source: (packet.source.into(), if packet.is_icmp() { 0 } else { packet.source_port }),
            destination: (
                packet.destination.into(),
                if packet.is_icmp() { 0 } else { packet.destination_port },
            ),
            flags: packet.tcp_flags,
            icmp_type: packet.icmp_type,
            comes_in: self.known.device(self.comes_in),
            leaves: None,
            mark: Some(mark),
            established,
            translated: connection.is_some_and(|(connection, _)| is_translated(&connection)),
        };
        for table in ["raw", "mangle"] {
            self.at(family, (table, "PREROUTING"), &mut passing)?;
        }
        self.lead(family, packet, connection, &mut passing)?;
        self.forward(family, &mut passing, connection.is_some())
    }

    /// Destination NAT: by the connection, if there is one, else by the rules.
    fn lead(
        &mut self,
        family: Family,
        packet: &Packet,
        connection: Option<(Connection, bool)>,
        passing: &mut Passing,
    ) -> Result<(), Stopped> {
        let before = passing.destination;
        if let Some((connection, answers)) = connection {
            let to = if answers { far(&connection.original) } else { far_of_answer(&connection.reply) };
            passing.destination.0 = to.0;
            if packet.destination_port != 0 && !packet.is_icmp() {
                passing.destination.1 = to.1;
            }
            self.next.notes.push("its connection exists: NAT follows that, not the rules".to_owned());
        } else {
            let mut hits = Vec::new();
            let rules = &self.netfilter.rules;
            let end = rules.walk(family, ("nat", "PREROUTING"), passing, &self.locals, &mut hits);
            self.hits(hits);
            match end {
                End::Destination(address, port) => {
                    passing.destination = (address, port.unwrap_or(before.1));
                    passing.translated = true;
                }
                End::Redirect(port) => {
                    let addresses = self.host.addresses.iter().filter(|local| local.ifindex == self.comes_in);
                    let mut addresses = addresses.map(|local| local.address);
                    let own = addresses.find(|own| own.is_ipv4() == before.0.is_ipv4());
                    let nowhere = || ("drop", "a redirect needs an address of the device".to_owned());
                    passing.destination = (own.ok_or_else(nowhere)?, port.unwrap_or(before.1));
                    passing.translated = true;
                }
                End::Accept => {}
                other => return self.stopped(other),
            }
        }
        if passing.destination != before {
            let (address, port) = passing.destination;
            self.next.dnat = Some(match port {
                0 => address.to_string(),
                port => std::net::SocketAddr::new(address, port).to_string(),
            });
        }
        self.next.to = self.known.who(&Address::from(passing.destination.0));
        Ok(())
    }

    /// Routing, and what stands behind it.
    fn forward(
        &mut self,
        family: Family,
        passing: &mut Passing,
        connected: bool,
    ) -> Result<&'static str, Stopped> {
        let (source, destination) = (passing.source.0, passing.destination.0);
        let leads = netlink::route(source, destination, self.comes_in, passing.mark.unwrap_or(0));
        let out = match leads.map_err(|error| ("cannot-tell", chain(&error)))? {
            Leads::Nowhere(why) => return Err(("drop", why)),
            Leads::Here => {
                for table in ["mangle", "filter"] {
                    self.at(family, (table, "INPUT"), passing)?;
                }
                return Ok("to-host");
            }
            Leads::Out(out) => out,
        };
        let device = self.host.link(out).map_or_else(|| out.to_string(), |link| link.name.clone());
        self.next.leaves = Some(device.clone());
        passing.leaves = Some(device);
        for table in ["mangle", "filter"] {
            self.at(family, (table, "FORWARD"), passing)?;
        }
        self.at(family, ("mangle", "POSTROUTING"), passing)?;
        if !connected {
            let mut hits = Vec::new();
            let rules = &self.netfilter.rules;
            let end = rules.walk(family, ("nat", "POSTROUTING"), passing, &self.locals, &mut hits);
            self.hits(hits);
            match end {
                End::Source(how) => self.next.source_nat = Some(how),
                End::Accept => {}
                other => return self.stopped(other).map(|()| "accept"),
            }
        }
        Ok("accept")
    }

    /// A chain in which nothing is translated.
    fn at(
        &mut self,
        family: Family,
        chain: (&'static str, &'static str),
        passing: &mut Passing,
    ) -> Result<(), Stopped> {
        let mut hits = Vec::new();
        let end = self.netfilter.rules.walk(family, chain, passing, &self.locals, &mut hits);
        self.hits(hits);
        if end == End::Accept { Ok(()) } else { self.stopped(end) }
    }

    fn hits(&mut self, hits: Vec<(crate::handover::Place, Hit)>) {
        self.next.rules.extend(hits.into_iter().map(|(place, hit)| At { place: place.to_string(), hit }));
    }

    fn stopped(&self, end: End) -> Result<(), Stopped> {
        let last = || {
            let at = self.next.rules.last();
            at.map_or_else(String::new, |At { hit, .. }| format!("{} {}: {}", hit.table, hit.chain, hit.rule))
        };
        Err(match end {
            End::Drop(false) => ("drop", last()),
            End::Drop(true) => ("reject", last()),
            End::Unknown(rule) => {
                ("cannot-tell", format!("what this rule does with it is not known here: {rule}"))
            }
            End::Accept | End::Destination(..) | End::Redirect(_) | End::Source(_) => ("cannot-tell", last()),
        })
    }

    /// The connection of the packet, and whether it is on the way back.
    fn connection(&self, packet: &Packet) -> Option<(Connection, bool)> {
        let is = |tuple: &Tuple| {
            let ends = (tuple.source, tuple.destination) == (packet.source, packet.destination);
            let ports =
                (tuple.source_port, tuple.destination_port) == (packet.source_port, packet.destination_port);
            // The identifier of ICMP stands at one end or the other.
            let identifier = tuple.source_port | tuple.destination_port;
            let same = packet.is_icmp()
                && identifier == packet.source_port | packet.destination_port
                && tuple.icmp_type == packet.icmp_type;
            ends && tuple.protocol == packet.protocol && (same || ports && !packet.is_icmp())
        };
        self.netfilter.connections.iter().find_map(|connection| match connection {
            Connection { original, .. } if is(original) => Some((*connection, false)),
            Connection { reply, .. } if is(reply) => Some((*connection, true)),
            _ => None,
        })
    }
}

/// Whoever began the connection: there its answers go.
fn far(original: &Tuple) -> (IpAddr, u16) {
    (original.source.into(), original.source_port)
}

/// Where the connection really ends.
fn far_of_answer(reply: &Tuple) -> (IpAddr, u16) {
    (reply.source.into(), reply.source_port)
}

fn is_translated(connection: &Connection) -> bool {
    connection.status & conntrack::status::DESTINATION_NAT != 0
}
