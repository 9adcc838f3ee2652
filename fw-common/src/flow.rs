//! Flows: what went out, so that the reply is known when it comes back.
//!
//! Only outward packets make a flow. A flow expires before conntrack forgets the same connection: were it to
//! outlive conntrack, a packet of the peer would still be a "reply" to us while NAT hands it to the host itself.
//! The figures in comments are the kernel's defaults (Documentation/networking/nf_conntrack-sysctl.rst); a host that
//! lowers those sysctls below ours loses that margin.

use bytemuck::{Pod, Zeroable};

use crate::address::Address;
use crate::wire::{Packet, proto, tcp};

/// Key of map `flows`: the tuple as the outside sees it, after MASQUERADE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct FlowKey {
    /// Our address.
    pub local: Address,
    /// The peer's address.
    pub remote: Address,
    /// Our port in host order; the identifier of an ICMP echo; 0 for protocols without ports.
    pub local_port: u16,
    /// The peer's port in host order, or 0.
    pub remote_port: u16,
    /// IP protocol number; ICMP echo of both families stands under 1.
    pub proto: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl FlowKey {
    /// The flow that this outward packet belongs to.
    #[inline(always)]
    pub fn outward(packet: &Packet) -> Self {
        Self {
            local: packet.source,
            remote: packet.destination,
            local_port: packet.source_port,
            remote_port: packet.destination_port,
            proto: packet.service_proto(),
            reserved: [0; 3],
        }
    }

    /// The flow that this inward packet would be a reply of.
    #[inline(always)]
    pub fn inward(packet: &Packet) -> Self {
        Self {
            local: packet.destination,
            remote: packet.source,
            local_port: packet.destination_port,
            remote_port: packet.source_port,
            proto: packet.service_proto(),
            reserved: [0; 3],
        }
    }
}

/// Whose flow it is: [`Flow::owner`].
pub mod owner {
    /// The host itself.
    pub const HOST: u8 = 0;
    /// A container of a managed network.
    pub const CONTAINER: u8 = 1;
    /// Something that the host forwards without our knowing it.
    pub const OTHER: u8 = 2;
    /// The peer: he connected before the hooks were there, and conntrack knew it. Nothing is vouched for, whoever he is
    /// connected to: Docker's own rules know the connection.
    pub const PEER: u8 = 3;
}

/// Numbers in [`Flow::container`] that are no container's.
pub mod counted {
    /// Beside a packet, in no flow: it took the [fast path](crate::fast), and the hook where it leaves has nothing to do
    /// with it but to take this off again.
    pub const CARRIED: u16 = 65_532;
    /// Beside a packet, in no flow: it takes the long way, to renew its fast path.
    pub const RENEWS: u16 = 65_531;
    /// Beside a packet, in no flow: what a port's hook has let go to this host, and marked so that the bridge's hook does
    /// not judge it after NAT; that hook takes the mark off again.
    pub const TO_HOST: u16 = 65_533;
    /// All containers together that no port's hook has named.
    pub const UNKNOWN: u16 = 65_534;
    /// Answers of the host's own services that are under a limit, all together.
    pub const ANSWERS: u16 = 65_535;
}

/// How far a flow has come: [`Flow::state`].
pub mod state {
    /// Nothing came back yet.
    pub const OPENING: u8 = 1;
    /// A reply came back, early.
    pub const ANSWERED: u8 = 2;
    /// Both directions are alive.
    pub const ESTABLISHED: u8 = 3;
    /// TCP: we sent FIN.
    pub const FIN_SENT: u8 = 4;
    /// The daemon has cut it, for no rule lets it be any more: what still goes out is no longer answered. Of TCP until
    /// it is opened anew; else until nothing has gone out for as long as conntrack would have kept it.
    pub const CUT: u8 = 5;
}

/// Map `flows`: a flow that went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Flow {
    /// Second of the monotonic clock in which a packet was last seen, either way.
    pub last_seen: u32,
    /// Second in which it began.
    pub started: u32,
    /// One of [`state`].
    pub state: u8,
    /// One of [`owner`].
    pub owner: u8,
    /// By whose budget it is counted: the container's [`Interface::owner`](crate::tables::Interface::owner), or one of
    /// [`counted`]; 0 if by nobody's.
    pub container: u16,
}

impl Flow {
    /// Whether conntrack may have forgotten this flow by `now`.
    #[inline(always)]
    pub fn is_expired(&self, proto: u8, now: u32) -> bool {
        since(self.last_seen, now) >= timeout(proto, self.state)
    }

    /// Whether a packet may belong to this flow by `now`, as what went out.
    #[inline(always)]
    pub fn is_live(&self, proto: u8, now: u32) -> bool {
        self.state != state::CUT && !self.is_expired(proto, now)
    }

    /// What the flow becomes when we send `packet`; `None` if the packet ends it or may not make one.
    #[inline(always)]
    pub fn sent(known: Option<&Self>, packet: &Packet, owner: u8, now: u32) -> Option<Self> {
        let known = match known {
            Some(flow) if !flow.is_expired(packet.protocol, now) => Some(*flow),
            _ => None,
        };
        let fresh = Self { last_seen: now, started: now, state: state::OPENING, owner, container: 0 };
        // Not even our own RST ends a cut: it may be forged by whoever wants to go on.
        if let Some(flow) = known
            && flow.state == state::CUT
        {
            return Some(if packet.opens() { fresh } else { Self { last_seen: now, ..flow } });
        }
        let owner = match known {
            Some(flow) if flow.owner == owner::PEER && !packet.opens() => owner::PEER,
            _ => owner,
        };
        let fresh = Self { owner, ..fresh };
        if packet.protocol == proto::TCP {
            return Self::sent_tcp(known, fresh, packet.tcp_flags, now);
        }
        let Some(flow) = known else { return Some(fresh) };
        let state = match flow.state {
            state::ANSWERED if flow.is_steady(now) => state::ESTABLISHED,
            other => other,
        };
        Some(Self { last_seen: now, state, owner, ..flow })
    }

    #[inline(always)]
    fn sent_tcp(known: Option<Self>, fresh: Self, flags: u8, now: u32) -> Option<Self> {
        if flags & tcp::RST != 0 {
            return None;
        }
        let opens = flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
        let Some(flow) = known else {
            // Mid-stream pick-up (a host taken over alive) makes an established flow; FIN makes none.
            return match (opens, flags & tcp::FIN != 0) {
                (true, _) => Some(fresh),
                (false, true) => None,
                (false, false) => Some(Self { state: state::ESTABLISHED, ..fresh }),
            };
        };
        if opens {
            return Some(fresh);
        }
        let closing = flags & tcp::FIN != 0 || flow.state == state::FIN_SENT;
        let state = if closing { state::FIN_SENT } else { state::ESTABLISHED };
        Some(Self { last_seen: now, state, owner: fresh.owner, ..flow })
    }

    /// What the flow becomes when its reply `packet` comes in.
    ///
    /// The peer can forge every bit of it, and conntrack, which checks sequence numbers and checksums, may not believe
    /// it: so no FIN or RST of the peer shortens a flow, and nothing but our own packets keeps one alive that is not
    /// TCP and not the host's own. (Of TCP no reply opens anything; the host's own flow leads to its own socket.)
    #[inline(always)]
    #[must_use]
    pub fn received(&self, packet: &Packet, now: u32) -> Self {
        if packet.protocol == proto::TCP {
            let reset = packet.tcp_flags & tcp::RST != 0;
            return match self.state {
                _ if reset => *self,
                state::OPENING => Self { last_seen: now, state: state::ESTABLISHED, ..*self },
                _ => Self { last_seen: now, ..*self },
            };
        }
        let state = match self.state {
            state::OPENING => state::ANSWERED,
            state::ANSWERED if self.owner == owner::HOST && self.is_steady(now) => state::ESTABLISHED,
            other => other,
        };
        let last_seen = if self.owner == owner::HOST { now } else { self.last_seen };
        Self { last_seen, state, ..*self }
    }

    /// Whether a packet may belong to this flow by `now`, as what came in.
    #[inline(always)]
    pub fn is_answerable(&self, proto: u8, now: u32) -> bool {
        self.state != state::CUT && !self.is_forgotten(proto, now)
    }

    /// Whether conntrack has forgotten this flow, which came in, by `now`; at least as late as it does.
    #[inline(always)]
    pub fn is_forgotten(&self, proto: u8, now: u32) -> bool {
        since(self.last_seen, now) >= inbound_timeout(proto, self.state)
    }

    /// What the flow becomes when `packet` of whoever began it comes in; `None` if it makes none and changes none.
    ///
    /// He can forge every bit: no FIN, RST or SYN of his shortens a flow that is established.
    #[inline(always)]
    pub fn came_in(known: Option<&Self>, packet: &Packet, owner: u8, now: u32) -> Option<Self> {
        let known = match known {
            Some(flow) if !flow.is_forgotten(packet.protocol, now) => Some(*flow),
            _ => None,
        };
        let fresh = Self { last_seen: now, started: now, state: state::OPENING, owner, container: 0 };
        if let Some(flow) = known
            && flow.state == state::CUT
        {
            return Some(if packet.opens() { fresh } else { Self { last_seen: now, ..flow } });
        }
        if packet.protocol != proto::TCP {
            return Some(known.map_or(fresh, |flow| Self { last_seen: now, ..flow }));
        }
        let flags = packet.tcp_flags;
        // A SYN with ACK answers what the container opened: it asks for nothing.
        if flags & tcp::RST != 0 || flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK {
            return None;
        }
        match known {
            Some(flow) if flow.state == state::ESTABLISHED => Some(Self { last_seen: now, ..flow }),
            _ if flags & tcp::SYN != 0 => Some(fresh),
            Some(flow) if flow.state == state::OPENING && flags & tcp::FIN == 0 => {
                Some(Self { last_seen: now, state: state::ESTABLISHED, ..flow })
            }
            Some(flow) => Some(Self { last_seen: now, ..flow }),
            // Mid-stream: the connection is older than the restriction, or the table was full.
            None if flags & tcp::FIN == 0 => Some(Self { state: state::ESTABLISHED, ..fresh }),
            None => None,
        }
    }

    /// What a flow that came in becomes when the container sends its answer `packet`.
    ///
    /// No answer ends it at once, not even a RST: what goes to the host is judged at the port and again at the bridge.
    #[inline(always)]
    #[must_use]
    pub fn answered(&self, packet: &Packet, now: u32) -> Self {
        let flow = Self { last_seen: now, ..*self };
        if packet.protocol != proto::TCP {
            return Self { state: state::ESTABLISHED, ..flow };
        }
        let closing = packet.tcp_flags & (tcp::FIN | tcp::RST) != 0;
        Self { state: if closing { state::FIN_SENT } else { flow.state }, ..flow }
    }

    /// conntrack calls a UDP flow a stream two seconds after it began; a second more because ours are whole ones.
    #[inline(always)]
    fn is_steady(&self, now: u32) -> bool {
        since(self.started, now) > 3
    }
}

/// Seconds from `then` to `now`; none if another CPU wrote `then` in a second that this one has not reached.
#[inline(always)]
fn since(then: u32, now: u32) -> u32 {
    u32::try_from(now.wrapping_sub(then).cast_signed()).unwrap_or(0)
}

/// Seconds after which a silent flow is gone.
#[inline(always)]
pub const fn timeout(proto: u8, flow_state: u8) -> u32 {
    if flow_state == state::CUT {
        return inbound_timeout(proto, flow_state);
    }
    if proto == proto::TCP {
        return match flow_state {
            state::ESTABLISHED => 345_600, // ESTABLISHED 432000
            _ => 100,                      // SYN_SENT, FIN_WAIT and TIME_WAIT 120
        };
    }
    match (proto, flow_state) {
        (proto::UDP | proto::UDP_LITE, state::ESTABLISHED) => 110, // stream 120
        (proto::GRE, state::ESTABLISHED) => 170,                   // stream 180
        (proto::UDP | proto::UDP_LITE | proto::GRE | proto::ICMP | proto::ICMPV6, _) => 25, // 30
        (proto::SCTP, _) => 8, // SHUTDOWN and COOKIE states 3 to 30, open 210000
        _ => 550,              // generic 600
    }
}

/// Seconds after which a silent flow that came in is forgotten: an answer of which conntrack still knows must pass, so
/// each figure is that of conntrack or a little more (the longest of its states that are one of ours).
#[inline(always)]
pub const fn inbound_timeout(proto: u8, flow_state: u8) -> u32 {
    let flow_state = if flow_state == state::CUT { state::ESTABLISHED } else { flow_state };
    match (proto, flow_state) {
        (proto::TCP, state::ESTABLISHED) => 432_010, // ESTABLISHED 432000
        (proto::TCP, _) => 130,                      // SYN_RECV 60, FIN_WAIT and TIME_WAIT 120
        (proto::UDP | proto::UDP_LITE, state::ESTABLISHED) => 125, // stream 120
        (proto::GRE, state::ESTABLISHED) => 190,     // stream 180
        (proto::SCTP, state::ESTABLISHED) => 210_010, // ESTABLISHED 210000
        (proto::UDP | proto::UDP_LITE | proto::GRE | proto::SCTP | proto::ICMP | proto::ICMPV6, _) => 40, // 30
        _ => 610, // generic 600
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;

    fn packet(protocol: u8, tcp_flags: u8) -> Packet {
        let mut packet = Packet::zeroed();
        (packet.protocol, packet.tcp_flags) = (protocol, tcp_flags);
        packet
    }

    fn begun(protocol: u8, flags: u8) -> Option<Flow> {
        Flow::sent(None, &packet(protocol, flags), owner::HOST, 1000)
    }

    #[test]
    fn rst_and_fin_make_no_flow_and_rst_ends_one() {
        assert!(begun(proto::TCP, tcp::RST).is_none());
        assert!(begun(proto::TCP, tcp::FIN | tcp::ACK).is_none());
        let open = begun(proto::TCP, tcp::SYN).unwrap();
        assert!(Flow::sent(Some(&open), &packet(proto::TCP, tcp::RST), owner::HOST, 1001).is_none());
    }

    #[test]
    fn our_fin_closes_and_a_syn_reopens() {
        let open =
            begun(proto::TCP, tcp::SYN).unwrap().received(&packet(proto::TCP, tcp::SYN | tcp::ACK), 1000);
        assert_eq!(open.state, state::ESTABLISHED);
        let closed = Flow::sent(Some(&open), &packet(proto::TCP, tcp::FIN | tcp::ACK), 0, 1001).unwrap();
        assert_eq!(closed.state, state::FIN_SENT);
        let last = Flow::sent(Some(&closed), &packet(proto::TCP, tcp::ACK), 0, 1002).unwrap();
        assert_eq!(last.state, state::FIN_SENT);
        assert!(!last.is_expired(proto::TCP, 1101) && last.is_expired(proto::TCP, 1102));
        let again = Flow::sent(Some(&last), &packet(proto::TCP, tcp::SYN), 0, 1003).unwrap();
        assert_eq!(again.state, state::OPENING);
    }

    #[test]
    fn what_the_peer_may_forge_shortens_nothing() {
        let open = begun(proto::TCP, tcp::ACK).unwrap();
        assert_eq!(open.received(&packet(proto::TCP, tcp::RST), 1001), open);
        assert_eq!(open.received(&packet(proto::TCP, tcp::FIN | tcp::ACK), 1001).state, state::ESTABLISHED);
    }

    #[test]
    fn a_containers_datagrams_alone_keep_its_flow_alive() {
        let sent = Flow::sent(None, &packet(proto::UDP, 0), owner::CONTAINER, 1000).unwrap();
        let late = sent.received(&packet(proto::UDP, 0), 1020);
        assert_eq!((late.state, late.last_seen), (state::ANSWERED, 1000));
        assert_eq!(late.received(&packet(proto::UDP, 0), 1024), late);
        let again = Flow::sent(Some(&late), &packet(proto::UDP, 0), owner::CONTAINER, 1024).unwrap();
        assert_eq!((again.state, again.last_seen), (state::ESTABLISHED, 1024));
    }

    #[test]
    fn udp_lives_short_until_it_is_a_stream() {
        let sent = begun(proto::UDP, 0).unwrap();
        let answered = sent.received(&packet(proto::UDP, 0), 1001);
        assert_eq!(answered.state, state::ANSWERED);
        assert!(answered.is_expired(proto::UDP, 1026));
        let stream = Flow::sent(Some(&answered), &packet(proto::UDP, 0), 0, 1010).unwrap();
        assert_eq!(stream.state, state::ESTABLISHED);
        assert!(!stream.is_expired(proto::UDP, 1119) && stream.is_expired(proto::UDP, 1120));
    }

    #[test]
    fn an_expired_flow_is_as_none() {
        let old = begun(proto::TCP, tcp::SYN).unwrap();
        assert!(Flow::sent(Some(&old), &packet(proto::TCP, tcp::FIN | tcp::ACK), 0, 1100).is_none());
    }

    #[test]
    fn what_is_cut_stays_cut_until_it_is_opened_anew() {
        let cut =
            Flow { last_seen: 1000, started: 1000, state: state::CUT, owner: owner::HOST, container: 0 };
        assert!(!cut.is_live(proto::TCP, 1000));
        for flags in [tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST, tcp::SYN | tcp::ACK] {
            let next = Flow::sent(Some(&cut), &packet(proto::TCP, flags), owner::CONTAINER, 2000);
            assert_eq!(next, Some(Flow { last_seen: 2000, ..cut }), "{flags:#x}");
            let next = Flow::came_in(Some(&cut), &packet(proto::TCP, flags), owner::OTHER, 2000);
            assert_eq!(next, Some(Flow { last_seen: 2000, ..cut }), "{flags:#x}");
        }
        let open = packet(proto::TCP, tcp::SYN);
        assert!(Flow::sent(Some(&cut), &open, owner::HOST, 2000).unwrap().is_live(proto::TCP, 2000));
        assert!(Flow::came_in(Some(&cut), &open, owner::HOST, 2000).unwrap().is_answerable(proto::TCP, 2000));
        // Five days, as conntrack: whoever is silent for less cannot come back by it.
        assert!(!cut.is_expired(proto::TCP, 433_000) && cut.is_expired(proto::TCP, 433_010));
    }

    #[test]
    fn datagrams_stay_cut_for_as_long_as_they_are_sent() {
        let cut =
            Flow { last_seen: 1000, started: 1000, state: state::CUT, owner: owner::HOST, container: 0 };
        let datagram = packet(proto::UDP, 0);
        let next = Flow::sent(Some(&cut), &datagram, owner::HOST, 1124).unwrap();
        assert_eq!(next, Flow { last_seen: 1124, ..cut });
        let later = Flow::sent(Some(&next), &datagram, owner::HOST, 1249).unwrap();
        assert_eq!(later.state, state::OPENING);
        assert!(!cut.is_answerable(proto::UDP, 1001));
    }

    #[test]
    fn what_the_peer_began_before_us_stays_his_until_we_open_it_anew() {
        let taken = Flow {
            last_seen: 1000,
            started: 1000,
            state: state::ESTABLISHED,
            owner: owner::PEER,
            container: 0,
        };
        for protocol in [proto::TCP, proto::UDP] {
            let sent = Flow::sent(Some(&taken), &packet(protocol, tcp::ACK), owner::CONTAINER, 1001).unwrap();
            assert_eq!((sent.owner, sent.state), (owner::PEER, state::ESTABLISHED));
        }
        let ours = Flow::sent(Some(&taken), &packet(proto::TCP, tcp::SYN), owner::HOST, 1001).unwrap();
        assert_eq!(ours.owner, owner::HOST);
    }

    #[test]
    fn what_comes_in_and_its_answers_keep_a_flow_alive() {
        let seen = |state| Flow { last_seen: 1000, started: 1000, state, owner: owner::OTHER, container: 0 };
        for (protocol, flags, before) in [
            (proto::UDP, 0, state::OPENING),
            (proto::TCP, tcp::ACK, state::ESTABLISHED),
            (proto::TCP, tcp::ACK, state::OPENING),
            (proto::TCP, tcp::FIN | tcp::ACK, state::OPENING),
            (proto::TCP, tcp::ACK, state::FIN_SENT),
        ] {
            let packet = packet(protocol, flags);
            let next = Flow::came_in(Some(&seen(before)), &packet, owner::OTHER, 1007).unwrap();
            assert_eq!((next.last_seen, next.started), (1007, 1000), "{protocol} {flags:#x}");
            assert_eq!(seen(before).answered(&packet, 1008).last_seen, 1008);
        }
    }

    #[test]
    fn every_timeout_is_below_conntracks() {
        for (protocol, flow_state, conntrack) in [
            (proto::TCP, state::OPENING, 120),
            (proto::TCP, state::ESTABLISHED, 432_000),
            (proto::TCP, state::FIN_SENT, 120),
            (proto::UDP, state::OPENING, 30),
            (proto::UDP, state::ESTABLISHED, 120),
            (proto::ICMP, state::OPENING, 30),
            (proto::GRE, state::OPENING, 30),
            (99, state::OPENING, 600),
        ] {
            assert!(timeout(protocol, flow_state) < conntrack, "{protocol} {flow_state}");
        }
    }

    fn arrived(known: Option<&Flow>, protocol: u8, flags: u8, now: u32) -> Option<Flow> {
        Flow::came_in(known, &packet(protocol, flags), owner::OTHER, now)
    }

    #[test]
    fn what_comes_in_makes_a_flow_unless_it_is_an_end_or_an_answer() {
        for flags in [tcp::RST, tcp::RST | tcp::ACK, tcp::FIN | tcp::ACK, tcp::SYN | tcp::ACK] {
            assert!(arrived(None, proto::TCP, flags, 1000).is_none(), "{flags:#x}");
        }
        assert_eq!(arrived(None, proto::TCP, tcp::SYN, 1000).unwrap().state, state::OPENING);
        assert_eq!(arrived(None, proto::TCP, tcp::ACK, 1000).unwrap().state, state::ESTABLISHED);
        assert_eq!(arrived(None, proto::UDP, 0, 1000).unwrap().state, state::OPENING);
    }

    #[test]
    fn who_began_a_flow_cannot_cut_it_and_who_answers_can() {
        let open = arrived(None, proto::TCP, tcp::SYN, 1000).unwrap();
        let open = open.answered(&packet(proto::TCP, tcp::SYN | tcp::ACK), 1000);
        let open = arrived(Some(&open), proto::TCP, tcp::ACK, 1000).unwrap();
        assert_eq!(open.state, state::ESTABLISHED);
        for flags in [tcp::SYN, tcp::FIN | tcp::ACK, tcp::ACK] {
            assert_eq!(arrived(Some(&open), proto::TCP, flags, 1000), Some(open), "{flags:#x}");
        }
        assert_eq!(arrived(Some(&open), proto::TCP, tcp::RST, 1000), None);
        let closed = open.answered(&packet(proto::TCP, tcp::FIN | tcp::ACK), 1001);
        assert_eq!(open.answered(&packet(proto::TCP, tcp::RST), 1001), closed);
        let last = arrived(Some(&closed), proto::TCP, tcp::FIN | tcp::ACK, 1002).unwrap();
        assert_eq!((last.state, last.last_seen), (state::FIN_SENT, 1002));
        assert_eq!(arrived(Some(&last), proto::TCP, tcp::SYN, 1003).unwrap().state, state::OPENING);
    }

    #[test]
    fn what_came_in_is_forgotten_no_sooner_than_by_conntrack() {
        for (protocol, flow_state, conntrack) in [
            (proto::TCP, state::OPENING, 60),
            (proto::TCP, state::ESTABLISHED, 432_000),
            (proto::TCP, state::FIN_SENT, 120),
            (proto::UDP, state::OPENING, 30),
            (proto::UDP, state::ESTABLISHED, 120),
            (proto::ICMP, state::OPENING, 30),
            (proto::GRE, state::ESTABLISHED, 180),
            (proto::SCTP, state::ESTABLISHED, 210_000),
            (99, state::OPENING, 600),
        ] {
            assert!(inbound_timeout(protocol, flow_state) > conntrack, "{protocol} {flow_state}");
        }
        let asked = arrived(None, proto::UDP, 0, 1000).unwrap();
        assert!(!asked.is_forgotten(proto::UDP, 1039) && asked.is_forgotten(proto::UDP, 1040));
    }
}
