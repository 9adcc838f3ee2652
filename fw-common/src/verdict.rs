//! Verdicts: what happens to a packet, and the numbered reason why.

/// Where a program is attached; also the second index of the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Hook {
    /// XDP on an uplink: drops early what `uplink_ingress` would surely drop, and nothing else.
    UplinkXdp = 0,
    /// TC ingress of an uplink, before Docker's DNAT.
    UplinkIngress = 1,
    /// TC egress of an uplink, after MASQUERADE.
    UplinkEgress = 2,
    /// TC ingress of a port of a managed bridge: all that a container sends.
    PortIngress = 3,
    /// TC egress of a port of a network without `icc`: the backstop for neighbours that have no hook yet.
    PortEgress = 4,
    /// TC ingress of a managed bridge: the backstop for ports that have no hook yet.
    BridgeIngress = 5,
    /// TC egress of a managed bridge whose containers may not open all connections: what comes in to them.
    BridgeEgress = 6,
}

impl Hook {
    /// Every hook that this version attaches.
    pub const ATTACHED: [Self; 7] = [
        Self::UplinkXdp,
        Self::UplinkIngress,
        Self::UplinkEgress,
        Self::PortIngress,
        Self::PortEgress,
        Self::BridgeIngress,
        Self::BridgeEgress,
    ];

    /// The name that programs, pins, counters and messages carry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UplinkXdp => "uplink_xdp",
            Self::UplinkIngress => "uplink_ingress",
            Self::UplinkEgress => "uplink_egress",
            Self::PortIngress => "port_ingress",
            Self::PortEgress => "port_egress",
            Self::BridgeIngress => "bridge_ingress",
            Self::BridgeEgress => "bridge_egress",
        }
    }

    /// The hook with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::UplinkXdp,
            1 => Self::UplinkIngress,
            2 => Self::UplinkEgress,
            3 => Self::PortIngress,
            4 => Self::PortEgress,
            5 => Self::BridgeIngress,
            6 => Self::BridgeEgress,
            _ => return None,
        })
    }
}

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Decided here: allowed.
    Accept,
    /// Not ours to decide: whoever comes next decides.
    Pass,
    /// Silently discarded.
    Drop,
}

/// The two-bit field that vouches for a packet towards Docker's own rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mark {
    /// Nothing is vouched for.
    None = 0,
    /// Towards a known endpoint.
    In = 1,
    /// Out of the host; valid only with an uplink as output device.
    Out = 2,
    /// Between two networks, not to be masqueraded.
    Reach = 3,
}

impl Mark {
    /// The mark with this number; none for any other.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::In,
            2 => Self::Out,
            3 => Self::Reach,
            _ => Self::None,
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a packet met its verdict. A number is never reused; docs/reasons.md says what to do about each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name that messages, labels and docs carry.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The reason with this number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// A frame for another machine, seen because the device is promiscuous; never counted.
    OtherHost = 0, "other-host";

    /// Not IP (ARP and the like on an uplink).
    NotIp = 1, "not-ip";
    /// Tagged for another VLAN, whose own interface judges it.
    OtherVlan = 2, "other-vlan";
    /// To an address that is neither ours nor a container's: forwarded by the host's own rules.
    NotOurs = 3, "not-ours";
    /// A later fragment to a local address; reassembly joins it to its first one, which was judged.
    LaterFragment = 4, "later-fragment";
    /// Neighbour discovery, router advertisement, multicast membership or DHCP that the host needs.
    Essential = 5, "essential";
    /// The port hook has judged this packet already.
    JudgedAtPort = 6, "judged-at-port";
    /// Sent by the host or through it; recorded so that the reply is known.
    Sent = 7, "sent";
    /// Let in to a container of a restricted network; recorded so that its answer is known.
    Delivered = 8, "delivered";

    /// An allow rule holds the source.
    AllowRule = 16, "allow-rule";
    /// Docker publishes the port and the policy says `published = "open"`.
    PublishedOpen = 17, "published-open";
    /// Reply of a flow that went out.
    Reply = 18, "reply";
    /// ICMP error about a flow that went out or about an allowed service.
    RelatedError = 19, "related-error";
    /// Stays on the network that it came from.
    SameNetwork = 20, "same-network";
    /// From a container to this host.
    ToHost = 21, "to-host";
    /// From a container to the outside.
    Outbound = 22, "outbound";
    /// From one network to another that it may reach.
    Reach = 23, "reach";
    /// Answer of a container to a connection that came in.
    Answer = 24, "answer";
    /// To a neighbour's port that the container was linked to.
    Link = 25, "link";
    /// A later fragment of a datagram whose first one was let through.
    KnownFragment = 26, "known-fragment";
    /// An outbound rule holds the destination.
    OutRule = 27, "out-rule";

    /// The Ethernet, VLAN or IP header is cut short, contradicts itself or is of an unknown version.
    MalformedHeader = 64, "malformed-header";
    /// More VLAN tags or IPv6 extension headers than are looked through (eight).
    TooManyHeaders = 65, "too-many-headers";
    /// Source routing, or an IP option that is unknown or runs over its header (RFC 7126, RFC 5095).
    BadOption = 66, "bad-option";
    /// A fragment too short for its transport header, one that would overwrite it, or one past the end of a datagram.
    BadFragment = 67, "bad-fragment";
    /// The transport header is cut short or contradicts itself, or a port is zero.
    MalformedTransport = 68, "malformed-transport";
    /// TCP flags that no stack sends together.
    TcpFlags = 69, "tcp-flags";
    /// Loopback, multicast or reserved source, loopback or reserved destination.
    Martian = 70, "martian";
    /// From outside with a source inside a container network.
    SourceInside = 71, "source-inside";
    /// From outside with a source that is one of our own addresses.
    SourceOurs = 72, "source-ours";
    /// A deny rule holds the source.
    Denied = 73, "denied";
    /// From outside straight to a container's address.
    DirectAccess = 74, "direct-access";
    /// No rule for this port.
    PortNotAllowed = 75, "port-not-allowed";
    /// A rule for this port, but its sources do not hold this one.
    SourceNotAllowed = 76, "source-not-allowed";
    /// Neighbour discovery from beyond the link, fragmented, or a redirect (RFC 4861, RFC 6980).
    BadDiscovery = 77, "bad-discovery";
    /// ICMP error about nothing that we know.
    UnrelatedError = 78, "unrelated-error";
    /// To an address that a bridge never forwards but delivers on the port.
    ReservedMac = 79, "reserved-mac";
    /// The source MAC address is not the container's.
    SpoofedMac = 80, "spoofed-mac";
    /// The source address is not the container's.
    SpoofedSource = 81, "spoofed-source";
    /// ARP or neighbour advertisement for an address that is not the container's.
    SpoofedNeighbour = 82, "spoofed-neighbour";
    /// Router advertisement, redirect or DHCP server reply from a container.
    RogueRouter = 83, "rogue-router";
    /// From one network to another.
    Isolation = 84, "isolation";
    /// From an internal network to anything but itself and its gateway.
    Internal = 85, "internal";
    /// A protocol that does not concern the host, on its way up from a bridge.
    UnknownProtocol = 86, "unknown-protocol";
    /// A hook on a device that no table knows; absence is never permission.
    UnknownInterface = 87, "unknown-interface";
    /// A later fragment straight to a container's address, whose first one nobody remembers.
    UnknownFragment = 88, "unknown-fragment";
    /// To a neighbour on a network without `icc`.
    Icc = 89, "icc";
    /// From a container to where its egress policy lets it open no connection.
    Egress = 90, "egress";
    /// From a container to this host, which is closed to it.
    HostDenied = 91, "host-denied";
    /// From the host itself, and no outbound rule holds it.
    OutNotAllowed = 92, "out-not-allowed";
    /// More new flows than the limit allows this source.
    OverLimit = 93, "over-limit";
    /// From a neighbour's port and not vouched for, on a network without `icc`.
    Unvouched = 94, "unvouched";
}

impl Reason {
    /// How many counters a hook has: one for each number a reason may take.
    pub const SLOTS: u32 = 128;

    /// Whether this is a reason for a drop.
    pub const fn is_drop(self) -> bool {
        self as u8 >= 64
    }
}

/// Numbers of reasons that existed once; they stay unused for ever.
pub const RETIRED: &[u8] = &[];

/// What happens to a packet, with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a verdict that is not carried out is a hole"]
pub struct Verdict {
    /// Accept, pass or drop.
    pub action: Action,
    /// What we vouch for towards Docker's rules.
    pub mark: Mark,
    /// Why.
    pub reason: Reason,
    /// The allow or deny rule that decided, 0 if none did.
    pub rule: u32,
}

impl Verdict {
    /// Allowed, without a mark.
    #[inline(always)]
    pub const fn accept(reason: Reason) -> Self {
        Self { action: Action::Accept, mark: Mark::None, reason, rule: 0 }
    }

    /// Not ours to decide.
    #[inline(always)]
    pub const fn pass(reason: Reason) -> Self {
        Self { action: Action::Pass, mark: Mark::None, reason, rule: 0 }
    }

    /// Discarded.
    #[inline(always)]
    pub const fn drop(reason: Reason) -> Self {
        Self { action: Action::Drop, mark: Mark::None, reason, rule: 0 }
    }

    /// The same, vouched for with `mark`.
    #[inline(always)]
    pub const fn marked(self, mark: Mark) -> Self {
        Self { mark, ..self }
    }

    /// The same, by this rule.
    #[inline(always)]
    pub const fn by(self, rule: u32) -> Self {
        Self { rule, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_in_range_and_not_retired() {
        let mut seen = [false; Reason::SLOTS as usize];
        for reason in Reason::ALL {
            let number = *reason as u8;
            assert!(!seen[number as usize], "{number} is used twice");
            seen[number as usize] = true;
            assert!(!RETIRED.contains(&number), "{number} is retired");
            assert_eq!(Reason::from_number(number), Some(*reason));
        }
        for hook in Hook::ATTACHED {
            assert_eq!(Hook::from_number(hook as u8), Some(hook));
        }
    }
}
