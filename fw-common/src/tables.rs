//! Tables: what decisions look up, as keys and values that stand in BPF maps byte for byte.
//!
//! Every type here is plain data without padding, so that `bpftool map dump` prints each field by its name.
//! Numbers are in host byte order, addresses are bytes as on the wire. A `reserved` field is zero.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, Mac};
use crate::flow::{Flow, FlowKey};

#[cfg(feature = "std")]
pub mod memory;

/// The lookups that a decision may make. The kernel answers from BPF maps, tests from ordinary collections.
pub trait Tables {
    /// What holds for all packets.
    fn settings(&self) -> Settings;
    /// The role of this device.
    fn interface(&self, ifindex: u32) -> Option<Interface>;
    /// The managed network in whose subnet the address lies, by longest prefix.
    fn subnet(&self, address: &Address) -> Option<Subnet>;
    /// What holds for a network.
    fn network(&self, id: u32) -> Option<Network>;
    /// What we know of an address of this host.
    fn local_address(&self, key: &LocalKey) -> Option<LocalAddress>;
    /// What holds for a port of this host.
    fn port(&self, key: &PortKey) -> Option<Port>;
    /// The deny rule that holds this source.
    fn denied(&self, source: &Address) -> Option<DenyRule>;
    /// The zones (bits) that hold this source.
    fn zones(&self, source: &Address) -> u64;
    /// The container that owns this address.
    fn endpoint(&self, address: &Address) -> Option<Endpoint>;
    /// Who has this MAC address on an uplink besides the uplink itself.
    fn station(&self, mac: &Mac) -> Option<Station>;
    /// The flow of this tuple, whatever its age.
    fn flow(&self, key: &FlowKey) -> Option<Flow>;
    /// Records a flow, or replaces it.
    fn record(&self, key: &FlowKey, flow: &Flow);
    /// Replaces a flow if it is still there.
    fn refresh(&self, key: &FlowKey, flow: &Flow);
    /// Forgets a flow.
    fn forget(&self, key: &FlowKey);
    /// The flow that has this place in its owner's budget.
    fn budgeted(&self, place: &BudgetPlace) -> Option<FlowKey>;
    /// Gives a place in its owner's budget to a flow.
    fn set_budgeted(&self, place: &BudgetPlace, flow: &FlowKey);
    /// Any number.
    fn random(&self) -> u32;
    /// The flow that came in with this tuple, whatever its age.
    fn inbound_flow(&self, key: &FlowKey) -> Option<Flow>;
    /// Records a flow that came in, or replaces it.
    fn record_inbound(&self, key: &FlowKey, flow: &Flow);
    /// Whether containers of one network may open connections to those of another.
    fn reaches(&self, key: &ReachKey) -> bool;
    /// Whether a container may open connections to this port of another one although `icc` is off.
    fn linked(&self, key: &LinkKey) -> bool;
    /// The rule for connections of the host itself to this port.
    fn outbound(&self, key: &OutKey) -> Option<OutRule>;
    /// The limit with this number.
    fn limit(&self, id: u32) -> Option<Limit>;
    /// The token bucket of a peer.
    fn bucket(&self, key: &BucketKey) -> Option<Bucket>;
    /// Fills or empties a token bucket.
    fn set_bucket(&self, key: &BucketKey, bucket: &Bucket);
    /// What was decided of the first fragment of this datagram.
    fn datagram(&self, key: &DatagramKey) -> Option<Datagram>;
    /// Remembers what was decided of the first fragment of a datagram.
    fn remember(&self, key: &DatagramKey, datagram: &Datagram);
    /// Where the kernel would send a packet that arrives on `ifindex`; asked only when no table knows the address.
    fn route(&self, source: &Address, destination: &Address, ifindex: u32) -> Route;
    /// Seconds on the monotonic clock.
    fn now(&self) -> u32;
    /// Milliseconds on the same clock; wraps after 49 days.
    fn now_ms(&self) -> u32;
}

/// What the routing table says of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Delivered here, broadcast, unreachable, or forwarding is off: judged as ours.
    Local,
    /// Forwarded to somewhere else.
    Forwarded,
}

/// Map `settings`, key 0: what holds for all packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Settings {
    /// [`crate::ABI_VERSION`] of the daemon that wrote it.
    pub abi: u32,
    /// [`crate::FLOWS_ABI`] of that daemon; layout 2 had none, and its flows are some of those of 3.
    pub flows_abi: u32,
    /// 0 enforce, 1 observe: count and report what would be dropped, and drop nothing.
    pub observe: u8,
    /// Lowest bit of the two-bit mark field (17 to 30).
    pub mark_bit: u8,
    /// 1 if `denied_hosts` or `denied` may hold anything; saves the lookups otherwise.
    pub deny: u8,
    /// 1 if `sources` may hold anything; saves the prefix lookup otherwise.
    pub source_prefixes: u8,
    /// 1 if the host itself may open only the connections that `outbound` holds.
    pub outbound: u8,
    /// 1 if fw writes NAT, so that no rule of Docker's says which networks meet where nothing is translated.
    pub nat_owned: u8,
    /// 1 if connections that the stack carries may take the [fast path](crate::fast).
    pub fast_path: u8,
    /// Zero.
    pub reserved: u8,
    /// How many entries of `flows` one container may have.
    pub flow_budget: u32,
}

/// Where containers may open connections to outside this host: [`Terms::egress`], a sum of these; 0: nowhere.
pub mod egress {
    /// Everywhere.
    pub const ANY: u8 = 1;
    /// To public addresses.
    pub const INTERNET: u8 = 2;
    /// To members of [`Terms::zones`](super::Terms::zones).
    pub const ZONES: u8 = 4;
    /// To those members of [`Terms::zones`](super::Terms::zones) that have public addresses.
    pub const PUBLIC_ZONES: u8 = 8;
}

/// What a container may open connections to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Terms {
    /// Zones whose members it may reach; meaningful where `egress` holds 4 or 8.
    pub zones: u64,
    /// A sum of [`egress`].
    pub egress: u8,
    /// 1 if this host is open to it.
    pub host: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

impl Terms {
    /// Nothing is closed.
    pub const OPEN: Self = Self { zones: 0, egress: egress::ANY, host: 1, reserved: [0; 6] };

    /// Whether anything is closed, so that answers to what came in have to be known.
    #[inline(always)]
    pub const fn is_restricted(&self) -> bool {
        self.egress & egress::ANY == 0 || self.host == 0
    }

    /// The terms that allow what either allows.
    #[must_use]
    pub const fn or(&self, other: &Self) -> Self {
        Self {
            zones: self.zones | other.zones,
            egress: self.egress | other.egress,
            host: self.host | other.host,
            reserved: [0; 6],
        }
    }
}

/// Role of a device: [`Interface::role`].
pub mod role {
    /// Towards the outside.
    pub const UPLINK: u8 = 1;
    /// A managed bridge.
    pub const BRIDGE: u8 = 2;
    /// A port of a managed bridge.
    pub const PORT: u8 = 3;
}

/// Whether containers share an uplink with the host: [`Interface::shared`].
pub mod shared {
    /// None; saves the lookups.
    pub const NO: u8 = 0;
    /// By MAC address (macvlan) or address (ipvlan).
    pub const BY_ADDRESS: u8 = 1;
    /// One has all of it (macvlan in mode passthru): every frame for a single machine is for that one.
    pub const WHOLE: u8 = 2;
}

/// Link layer of a device: [`Interface::link_layer`].
pub mod link_layer {
    /// Frames start with an Ethernet header.
    pub const ETHERNET: u8 = 1;
    /// Frames start with the network header (tun, wireguard, ppp).
    pub const NONE: u8 = 2;
}

/// Map `interfaces`, key ifindex: the role of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Interface {
    /// Of a port: what the container behind it may open connections to, or else what its network may.
    pub terms: Terms,
    /// One of [`role`].
    pub role: u8,
    /// One of [`link_layer`].
    pub link_layer: u8,
    /// 1 if the device is a port of a bridge that is the uplink: every frame is judged, whoever it is for.
    pub bridge_port: u8,
    /// 1 if the container behind this port is known by MAC and addresses.
    pub endpoint_known: u8,
    /// Network id (ifindex of the bridge) of a bridge or port, 0 for an uplink.
    pub network: u32,
    /// The device that carries the addresses: the bridge of a port, for all others the device itself.
    pub l3_device: u32,
    /// MAC of the container behind a port, of a bridge or uplink its own; zero if unknown.
    pub mac: Mac,
    /// Number by which the flows of the container behind a port are counted; 0 if it has none.
    pub owner: u16,
    /// 1 if the container behind a port is kept apart from its neighbours, although its network is not.
    pub apart: u8,
    /// One of [`shared`].
    pub shared: u8,
    /// 1 if what is sent to this port comes in by another device in another network namespace (veth).
    pub pair: u8,
    /// 1 if a container of this bridge may not open every connection, so that answers to what comes in must be known.
    pub records: u8,
}

/// Map `subnets`, key prefix: the network to which addresses belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Subnet {
    /// Network id: the ifindex of its bridge.
    pub network: u32,
}

/// Map `networks`, key network id: what holds for all its containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Network {
    /// What its containers may open connections to, unless their port says otherwise.
    pub terms: Terms,
    /// 1 if containers may talk to each other.
    pub icc: u8,
    /// 1 if containers reach nothing but each other and their gateway.
    pub internal: u8,
    /// 1 if containers may use addresses that are not theirs.
    pub spoofing: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// Key of map `reach`: presence means that containers of `from` may open connections to those of `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct ReachKey {
    /// Network id of the one that opens.
    pub from: u32,
    /// Network id of the one that is reached.
    pub to: u32,
}

/// Maps `reach` and `links`: presence is what counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Present {
    /// 1.
    pub present: u8,
}

/// Key of map `links`: presence means that `client` may open connections to this port of `server`, its neighbour on a
/// network without `icc` (Docker's legacy `--link`). With port and protocol 0 it says only that there is a link, so that
/// the two may ask for each other's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct LinkKey {
    /// Address of the container that was started with `--link`.
    pub client: Address,
    /// Address of the container that it names.
    pub server: Address,
    /// Port in host order.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

impl LinkKey {
    /// The key of the link itself.
    #[inline(always)]
    pub const fn pair(client: Address, server: Address) -> Self {
        Self { client, server, port: 0, proto: 0, reserved: [0; 5] }
    }
}

/// Key of map `outbound`: connections of the host itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct OutKey {
    /// Destination port in host order, 0 for any; 0 for protocols without ports and for ICMP echo.
    pub port: u16,
    /// Source port in host order, 0 for any.
    pub source_port: u16,
    /// IP protocol number; ICMP echo of both families stands under 1.
    pub proto: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl OutKey {
    /// The key of connections of this protocol to this port, from this source port.
    #[inline(always)]
    pub const fn new(proto: u8, port: u16, source_port: u16) -> Self {
        Self { port, source_port, proto, reserved: [0; 3] }
    }
}

/// Map `outbound`: where the host may open such connections to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct OutRule {
    /// Zones whose members may be reached; meaningful with `destinations` = 2.
    pub zones: u64,
    /// The rule.
    pub rule: u32,
    /// One of [`sources`]: anybody or members of zones.
    pub destinations: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// Map `limits`, key limit id: how many new flows a peer may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Limit {
    /// New flows a second, averaged.
    pub rate: u32,
    /// New flows at once.
    pub burst: u32,
    /// The rule.
    pub rule: u32,
}

/// Key of map `buckets`: a peer under a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct BucketKey {
    /// The peer; of IPv6 the first 64 bits, for a host may have all the others.
    pub peer: Address,
    /// The limit.
    pub limit: u32,
    /// Zero.
    pub reserved: [u8; 4],
}

/// Map `buckets`: tokens that a peer has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Bucket {
    /// Thousandths of a token.
    pub tokens: u32,
    /// Millisecond of the monotonic clock at which it was filled last.
    pub filled: u32,
}

/// Key of map `datagrams`: what the fragments of one datagram have in common (RFC 791, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct DatagramKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification in host order.
    pub id: u32,
    /// Upper-layer protocol of IPv4; of IPv6 0, for only the first fragment tells.
    pub proto: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// Map `datagrams`: what was decided of the first fragment; those that were dropped are not remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Datagram {
    /// Second of the monotonic clock in which the first fragment was seen.
    pub seen: u32,
    /// The field of the mark that it got.
    pub mark: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// Key of map `budgets`: a place that an owner has in `flows`; the value is the flow that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct BudgetPlace {
    /// The place, below [`Settings::flow_budget`].
    pub place: u32,
    /// The owner: [`Flow::container`].
    pub owner: u16,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Key of map `local_addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct LocalKey {
    /// The address.
    pub address: Address,
    /// The device of a link-local IPv6 address, 0 for every other.
    pub ifindex: u32,
    /// Zero.
    pub reserved: [u8; 4],
}

impl LocalKey {
    /// The key of `address` as seen on `ifindex`.
    #[inline(always)]
    pub fn new(address: Address, ifindex: u32) -> Self {
        let ifindex = if address.is_link_local_v6() { ifindex } else { 0 };
        Self { address, ifindex, reserved: [0; 4] }
    }
}

/// Map `local_addresses`: an address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct LocalAddress {
    /// The device that carries it.
    pub ifindex: u32,
    /// 1 if it is a directed broadcast address.
    pub broadcast: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// Key of map `ports`: a port of this host as the outside names it, before any NAT; or one of a container that is
/// addressed without NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct PortKey {
    /// A local address, or `0.0.0.0` / `::` for any one of that family. Looked up exact first, then any. Or the address
    /// of a container, which is never looked up as any.
    pub address: Address,
    /// Of a container: the uplink by which alone the entry counts, 0 for all of them. Of a local address 0.
    pub ifindex: u32,
    /// Port in host order; 0 for protocols without ports and for ICMP echo.
    pub port: u16,
    /// IP protocol number; ICMP echo of both families stands under 1. Of a container 0, with port 0, for all that it
    /// may be asked for.
    pub proto: u8,
    /// Zero.
    pub reserved: u8,
}

impl PortKey {
    /// The key of this service.
    #[inline(always)]
    pub const fn new(address: Address, proto: u8, port: u16) -> Self {
        Self { address, ifindex: 0, port, proto, reserved: 0 }
    }

    /// The key of all services of a container.
    #[inline(always)]
    pub const fn all_of(address: Address) -> Self {
        Self::new(address, 0, 0)
    }

    /// The key of the same service for what comes in by this uplink alone.
    #[inline(always)]
    #[must_use]
    pub const fn by(self, ifindex: u32) -> Self {
        Self { ifindex, ..self }
    }
}

/// Who may come in: [`Port::sources`].
pub mod sources {
    /// Nobody: the entry only says that the port is published.
    pub const NOBODY: u8 = 0;
    /// Everybody.
    pub const ANY: u8 = 1;
    /// Those in one of the zones.
    pub const ZONES: u8 = 2;
    /// Added to one of the above, in the entry of an exact address: whom it does not hold, the entry of any address is
    /// not asked about.
    pub const ALONE: u8 = 4;
}

/// Map `ports`: who may come in here, and whether Docker forwards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Port {
    /// Zones whose members may come in, one bit each; meaningful with `sources` = 2.
    pub zones: u64,
    /// The allow rule, 0 if none.
    pub rule: u32,
    /// One of [`sources`], perhaps with [`sources::ALONE`].
    pub sources: u8,
    /// 1 if Docker publishes exactly this address, protocol and port.
    pub published: u8,
    /// 1 if being published is enough (`published = "open"`, or Docker trusts the uplink).
    pub open: u8,
    /// The limit for new flows to this port, 0 if none.
    pub limit: u8,
}

/// Maps `denied_hosts` and `denied`: presence is the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DenyRule {
    /// The deny rule.
    pub rule: u32,
}

/// Maps `source_hosts` and `sources`: the zones that hold an address or prefix, closed over covering prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Zones {
    /// One bit for each zone.
    pub zones: u64,
}

/// Map `endpoints`, key address: the container that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Endpoint {
    /// Network id: the ifindex of its bridge; 0 for a container on an uplink.
    pub network: u32,
    /// ifindex of the bridge port behind which it lives, 0 if not known yet; on an uplink that of the parent device.
    pub port: u32,
    /// Its MAC address; zero with ipvlan, which has that of the parent.
    pub mac: Mac,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Map `stations`, key MAC address: who shares an uplink with the host (macvlan).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Station {
    /// ifindex of the parent device, which carries the host's own addresses there; 0 if it is on several.
    pub parent: u32,
    /// 1 if it is a macvlan device of the host's own, 0 if it is a container.
    pub host: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// Maps `counters` and `rules`: how often and how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Count {
    /// Packets (a GRO aggregate is one).
    pub packets: u64,
    /// Bytes, link-layer header included.
    pub bytes: u64,
}

/// Key of map `observed`: what `mode = "observe"` let pass although it would be dropped. Without the port that a client
/// picks, so that its connections are one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct ObservedKey {
    /// Source address; `::` if the packet was not parsed that far.
    pub source: Address,
    /// Destination address, likewise.
    pub destination: Address,
    /// The device at which it was seen: of `port_ingress` the port of the container that sent it.
    pub ifindex: u32,
    /// The deny rule or limit that decided, 0 if none.
    pub rule: u32,
    /// Destination port in host order; 0 for ICMP and protocols without ports.
    pub destination_port: u16,
    /// `EtherType` in host order.
    pub ethertype: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Number of the [`crate::verdict::Hook`].
    pub hook: u8,
    /// Number of the [`crate::verdict::Reason`].
    pub reason: u8,
    /// ICMP type; 0 for all else.
    pub icmp_type: u8,
}

/// Map `observed`: how much of it, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Observed {
    /// Packets (a GRO aggregate is one).
    pub packets: u64,
    /// Bytes, link-layer header included.
    pub bytes: u64,
    /// Packets that open a TCP connection (SYN without ACK); with TCP, what has none answers or goes on.
    pub opening: u64,
    /// Second of the monotonic clock in which the first was seen.
    pub first_seen: u32,
    /// Second in which the last was seen.
    pub last_seen: u32,
}

/// Map `event_rate`, key 0: how many events a CPU may write in a second, for as long as somebody asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct EventRate {
    /// Events a second and CPU.
    pub rate: u32,
    /// The last second of the monotonic clock in which it counts; later it is [`crate::event::EVENTS_PER_SECOND`] again.
    pub until: u32,
}

impl EventRate {
    /// How many events a CPU may write in this second.
    #[inline(always)]
    pub const fn at(&self, second: u32) -> u32 {
        if second <= self.until { self.rate } else { crate::event::EVENTS_PER_SECOND }
    }
}

/// Map `event_budget`: what becomes of one CPU's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct EventBudget {
    /// Drops of this CPU of which no event tells: over the rate, or no room in the ring. Never goes back.
    pub missed: u64,
    /// The second of the monotonic clock that `left` is for.
    pub second: u32,
    /// Events that this CPU may still write in it.
    pub left: u32,
}

/// Key of a prefix map, as the kernel's LPM trie wants it: `struct bpf_lpm_trie_key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// Leading bits that count, 0 to 128; an IPv4 prefix has 96 more than its written length.
    pub bits: u32,
    /// The address; bits beyond the prefix are zero.
    pub address: Address,
}

/// Key of map `names`: what a number stands for, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct NameKey {
    /// One of [`name_kind`].
    pub kind: u32,
    /// Network id, ifindex of a port, rule id or zone bit.
    pub id: u32,
}

/// Kinds of names: [`NameKey::kind`].
pub mod name_kind {
    /// A network.
    pub const NETWORK: u32 = 1;
    /// The container behind a port.
    pub const ENDPOINT: u32 = 2;
    /// An allow or deny rule.
    pub const RULE: u32 = 3;
    /// A zone, named after its content.
    pub const ZONE: u32 = 4;
}

/// Map `names`: UTF-8, zero-padded, cut at 64 bytes. Only people read it; no decision does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Name {
    /// The bytes.
    pub text: [u8; 64],
}

impl Name {
    /// The name, cut to what fits.
    pub fn new(text: &str) -> Self {
        let mut name = Self::zeroed();
        let mut length = text.len().min(name.text.len());
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        name.text[..length].copy_from_slice(&text.as_bytes()[..length]);
        name
    }

    /// The text without its padding.
    pub fn as_str(&self) -> &str {
        let end = self.text.iter().position(|&byte| byte == 0).unwrap_or(self.text.len());
        core::str::from_utf8(&self.text[..end]).unwrap_or("")
    }
}

/// Map `daemon`, key 0: what the daemon last said of itself; no decision reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Daemon {
    /// Its process.
    pub pid: u32,
    /// 1 from the first full pass on.
    pub ready: u8,
    /// 1 while Docker answers.
    pub docker: u8,
    /// 1 while our rules stand in iptables as they should.
    pub handover: u8,
    /// 1 if the last pass failed in part; the log says how.
    pub degraded: u8,
    /// 1 if fw made the directory in which this map is pinned.
    pub made_directory: u8,
    /// How NAT stands: one of [`nat_health`].
    pub nat: u8,
    /// Zero.
    pub reserved: [u8; 6],
    /// Passes made since it started.
    pub passes: u64,
    /// Second of the monotonic clock in which the last pass ended.
    pub last_pass: u64,
}

/// Values of [`Daemon::nat`].
pub mod nat_health {
    /// Docker writes it.
    pub const NOT_OURS: u8 = 0;
    /// We write it, and it stands.
    pub const STANDS: u8 = 1;
    /// We should write it, but Docker's own rules stand and would translate as well.
    pub const REFUSED: u8 = 2;
    /// We should write it and could not; the log says why.
    pub const FAILED: u8 = 3;
    /// Docker writes it; its rules stood while this daemon ran, and do not any more.
    pub const GONE: u8 = 4;
}

/// Sizes of the maps; the daemon may enlarge those that its policy file names.
pub mod capacity {
    /// `interfaces`.
    pub const INTERFACES: usize = 16_384;
    /// `subnets`.
    pub const SUBNETS: usize = 16_384;
    /// `networks`.
    pub const NETWORKS: usize = 8_192;
    /// `local_addresses`.
    pub const LOCAL_ADDRESSES: usize = 65_536;
    /// `ports`: a rule for a range takes one entry for each port and family.
    pub const PORTS: usize = 524_288;
    /// `denied_hosts` and `source_hosts`.
    pub const HOSTS: usize = 1_048_576;
    /// `denied` and `sources`.
    pub const PREFIXES: usize = 1_048_576;
    /// `endpoints`.
    pub const ENDPOINTS: usize = 65_536;
    /// `stations`.
    pub const STATIONS: usize = 16_384;
    /// `flows`.
    pub const FLOWS: usize = 262_144;
    /// `budgets`: as many as flows.
    pub const BUDGETS: usize = FLOWS;
    /// `inbound_flows`.
    pub const INBOUND_FLOWS: usize = 65_536;
    /// `reach`.
    pub const REACH: usize = 65_536;
    /// `links`.
    pub const LINKS: usize = 65_536;
    /// `outbound`.
    pub const OUTBOUND: usize = 65_536;
    /// `limits`: one for each number that a port can name, and 0.
    pub const LIMITS: u32 = 256;
    /// `buckets`.
    pub const BUCKETS: usize = 65_536;
    /// `datagrams`.
    pub const DATAGRAMS: usize = 16_384;
    /// `observed`.
    pub const OBSERVED: usize = 65_536;
    /// `fast_paths`: two for each connection.
    pub const FAST_PATHS: usize = 65_536;
    /// `fast_candidates`, on each CPU; a power of two.
    pub const FAST_CANDIDATES: u32 = 8_192;
    /// `rules`.
    pub const RULES: u32 = 4_096;
    /// `names`.
    pub const NAMES: usize = 65_536;
    /// `events`, in bytes.
    pub const EVENTS: usize = 1 << 18;
    /// `counters`: hooks times reasons.
    pub const COUNTERS: u32 = 8 * crate::verdict::Reason::SLOTS;
}

/// Place of a counter in map `counters`.
#[inline(always)]
pub const fn counter_index(hook: crate::verdict::Hook, reason: u8) -> u32 {
    hook as u32 * crate::verdict::Reason::SLOTS + reason as u32
}
