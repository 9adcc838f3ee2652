//! The policy file: what may come in and from where, as types that hold only valid values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

pub use describe::describe;
pub use docker::swarm_rule;
pub use ports::PortRange;
pub use prefix::{parse as parse_prefix, shown as shown_prefix, table_prefixes};
pub use problem::{PolicyError, Problem};
pub use summary::Summary;
pub use tables::TableSizes;
pub use words::{
    Fallback, FastPath, HostAccess, Labels, Mode, NatFrom, NatOwner, NatProto, Proto, Published, Spoofing,
    SwarmNodes, Xdp,
};

mod describe;
mod docker;
mod file;
pub mod label;
mod nat;
mod networks;
mod outbound;
mod parse;
mod ports;
mod prefix;
mod problem;
mod section;
mod set_file;
mod summary;
mod tables;
mod uplink;
mod words;

#[cfg(test)]
mod tests;

/// How many sets the `[[allow]]` rules and `egress` may use together: each is one bit of a 64-bit mask in the tables.
pub const MAX_ZONES: usize = 64;

/// The name of the rule that stands for bans; no rule of a file may have it.
pub const BAN_RULE: &str = "ban";

/// A valid policy. The default is what an empty file means: enforce, and nothing is allowed in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Whether packets are dropped or only reported.
    pub mode: Mode,
    /// What holds for packets that no program of fw has seen.
    pub fallback: Fallback,
    /// What container labels may do.
    pub labels: Labels,
    /// The interfaces to the outside.
    pub uplink: Uplink,
    /// What Docker's own work needs.
    pub docker: Docker,
    /// Every set that a rule may name, those written inline in a rule included.
    pub sets: BTreeMap<SetName, Set>,
    /// What may come in, in the order of the file.
    pub allow: Vec<Allow>,
    /// What may never come in, in the order of the file; asked before every allow.
    pub deny: Vec<Deny>,
    /// What the host itself may open connections to, in the order of the file; none: everything.
    pub out: Vec<Out>,
    /// How many new flows each source may open, in the order of the file; no two for one port.
    pub limits: Vec<Limit>,
    /// How large the tables are.
    pub tables: TableSizes,
    /// Networks with a section of their own, by name; what it leaves out is taken from `default_network`.
    pub networks: BTreeMap<String, NetworkPolicy>,
    /// Every other network: the section `[networks."*"]`.
    pub default_network: NetworkPolicy,
    /// Containers with a section of their own, by name.
    pub containers: BTreeMap<String, ContainerPolicy>,
    /// Bridges that Docker does not manage, in the order of the file.
    pub static_networks: Vec<StaticNetwork>,
    /// Who writes the NAT rules.
    pub nat: Nat,
    /// Where our mark lies in the packet mark.
    pub marks: Marks,
}

impl Policy {
    /// Reads and checks the policy file at `path`; the set files that it names are looked for beside it.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        Self::parse(&Self::text(path)?, path, base_dir(path))
    }

    /// The text of the policy file at `path`.
    pub fn text(path: &Path) -> Result<String, PolicyError> {
        let bytes = file::read(path, file::POLICY)
            .map_err(|source| PolicyError::Read { path: path.to_owned(), source })?;
        String::from_utf8(bytes).map_err(|error| PolicyError::not_utf8(path, &error))
    }

    /// Checks the text that a policy file had once, with the sets that its set files held then.
    pub fn parse_kept(
        text: &str,
        path: &Path,
        sets: BTreeMap<PathBuf, BTreeSet<IpNet>>,
    ) -> Result<Self, PolicyError> {
        parse::parse(text, path, base_dir(path), Some(sets))
    }

    /// Checks the text of a policy file; `path` is its name in errors, set files are looked for in `base_dir`.
    pub fn parse(text: &str, path: &Path, base_dir: &Path) -> Result<Self, PolicyError> {
        parse::parse(text, path, base_dir, None)
    }

    /// What is valid but is perhaps not meant; `known_networks` are the names of Docker's networks, `known_containers`
    /// those of the containers on them.
    pub fn warnings(
        &self,
        known_networks: &BTreeSet<String>,
        known_containers: &BTreeSet<String>,
    ) -> Vec<String> {
        let known = |name: &str| {
            known_networks.contains(name) || self.static_networks.iter().any(|network| network.name == name)
        };
        let mut warnings = Vec::new();
        if self.allow.is_empty() && self.uplink.published == Published::Closed {
            warnings
                .push("the policy has no [[allow]] rule: no new connection from outside is accepted".into());
        }
        for (name, set) in &self.sets {
            if set.prefixes.is_empty() {
                warnings.push(format!("set `{name}` is empty: it matches nobody"));
            }
        }
        let mut unknown_network = |section: &str, name: &String| {
            if !known(name) {
                warnings.push(format!(
                    "[networks.{section}]: Docker knows no network `{name}` yet; what is said about it \
                     takes effect when it appears"
                ));
            }
        };
        self.default_network.reach.iter().for_each(|name| unknown_network("\"*\"", name));
        for (section, network) in &self.networks {
            unknown_network(section, section);
            if network.reach != self.default_network.reach {
                network.reach.iter().for_each(|name| unknown_network(section, name));
            }
        }
        for name in self.containers.keys().filter(|name| !known_containers.contains(*name)) {
            warnings.push(format!(
                "[containers.{name}]: Docker knows no container `{name}` on a managed network yet; what is said \
                 about it takes effect when it appears"
            ));
        }
        warnings
    }

    /// What holds for the network of this name.
    pub fn network(&self, name: &str) -> &NetworkPolicy {
        self.networks.get(name).unwrap_or(&self.default_network)
    }

    /// Where the container of this name, on the network of this name, may open connections to outside.
    pub fn egress(&self, network: &str, container: Option<&str>) -> &Egress {
        let own = container.and_then(|name| self.containers.get(name));
        own.and_then(|own| own.egress.as_ref()).unwrap_or(&self.network(network).egress)
    }

    /// Whether the container of this name, on the network of this name, may open connections to this host.
    pub fn host(&self, network: &str, container: Option<&str>) -> HostAccess {
        let own = container.and_then(|name| self.containers.get(name));
        own.and_then(|own| own.host).unwrap_or(self.network(network).host)
    }

    /// The sets that `[[allow]]` and `[[out]]` rules and `egress` use, at most [`MAX_ZONES`], in ascending order of name.
    pub fn zones(&self) -> Vec<&SetName> {
        let from = self.allow.iter().flat_map(|rule| rule.from.sets());
        let to = self.out.iter().flat_map(|rule| rule.to.sets());
        let networks = self.networks.values().chain([&self.default_network]).map(|network| &network.egress);
        let containers = self.containers.values().filter_map(|container| container.egress.as_ref());
        let egress = networks.chain(containers).flat_map(Egress::sets);
        let used: BTreeSet<&SetName> = from.chain(to).chain(egress).collect();
        used.into_iter().collect()
    }
}

/// Where the set files are looked for that a policy file names.
fn base_dir(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// The interfaces to the outside and what is asked of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uplink {
    /// Which they are.
    pub interfaces: Interfaces,
    /// Whether the early drop at XDP is wanted.
    pub xdp: Xdp,
    /// Whether a port that Docker publishes needs an allow rule.
    pub published: Published,
    /// Whether connections that the stack carries go on without it.
    pub fast_path: FastPath,
}

/// What is let in and out because Docker's own work needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Docker {
    /// Whether the other nodes of this host's swarm may reach what they need.
    pub swarm: SwarmNodes,
}

/// How the uplinks are found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Interfaces {
    /// Physical interfaces and those of default routes.
    #[default]
    Auto,
    /// These, by name; at least one.
    Named(Vec<String>),
}

/// The name of a set: as written in `[sets]`; an inline set is named by its prefix, or after its rule.
///
/// Names of `[sets]` begin with a letter or `_` and hold no `:` and no `/`, so the two kinds never meet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetName(String);

impl SetName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A named collection of prefixes; IPv4 and IPv6 may be mixed, prefixes may lie inside each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// The prefixes; no address bits are set below a prefix, and none is an IPv4-mapped IPv6 prefix.
    pub prefixes: BTreeSet<IpNet>,
    /// Where they were written.
    pub origin: Origin,
}

/// Where a set was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In `[sets]`, as a list.
    List,
    /// In `[sets]`, as the name of this file.
    File(PathBuf),
    /// In a rule, as prefixes in place of a set name.
    Inline,
}

/// Sources that a rule holds for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sources {
    /// Every source.
    Any,
    /// Members of any of these sets; at least one set, ascending, each in [`Policy::sets`].
    Sets(Vec<SetName>),
}

impl Sources {
    /// The sets; none for [`Sources::Any`].
    pub fn sets(&self) -> &[SetName] {
        match self {
            Self::Any => &[],
            Self::Sets(names) => names,
        }
    }
}

/// One `[[allow]]` rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    /// Its name, unique among all rules.
    pub name: String,
    /// The protocol.
    pub proto: Proto,
    /// Destination ports: ascending, disjoint; empty for ICMP and for nothing else.
    pub ports: Vec<PortRange>,
    /// Who may connect.
    pub from: Sources,
    /// The line of the policy file where the rule begins, from 1.
    pub line: u32,
}

/// One `[[deny]]` rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deny {
    /// Its name, unique among all rules.
    pub name: String,
    /// Whose packets are dropped; at least one set, ascending, each in [`Policy::sets`].
    pub from: Vec<SetName>,
    /// The line of the policy file where the rule begins, from 1.
    pub line: u32,
}

/// One `[[out]]` rule: what the host itself may open connections to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Out {
    /// Its name, unique among all rules.
    pub name: String,
    /// The protocol.
    pub proto: Proto,
    /// Destination ports: ascending, disjoint; empty for any.
    pub ports: Vec<PortRange>,
    /// Source ports: ascending, disjoint; empty for any.
    pub source_ports: Vec<PortRange>,
    /// Who may be reached.
    pub to: Sources,
    /// The line of the policy file where the rule begins, from 1.
    pub line: u32,
}

/// One `[[limit]]` rule: how many new flows each source may open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Its name, unique among all rules.
    pub name: String,
    /// The protocol.
    pub proto: Proto,
    /// The ports, all under one bucket: ascending, disjoint; empty for ICMP and for nothing else.
    pub ports: Vec<PortRange>,
    /// New flows a second, averaged.
    pub rate: u32,
    /// New flows at once.
    pub burst: u32,
    /// The line of the policy file where the rule begins, from 1.
    pub line: u32,
}

/// What containers of a network may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkPolicy {
    /// What they may open connections to, outside this host.
    pub egress: Egress,
    /// Whether they may open connections to this host.
    pub host: HostAccess,
    /// Whether they may reach each other; `None` is what Docker says of the network.
    pub icc: Option<bool>,
    /// Networks that they may open connections to, ascending.
    pub reach: Vec<String>,
    /// What is done with packets whose source address is not the sender's.
    pub spoofing: Spoofing,
}

/// What the containers of a network may open connections to, outside this host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Egress {
    /// Everything.
    #[default]
    Any,
    /// Nothing.
    None,
    /// Everything but private, link-local and metadata addresses.
    Internet,
    /// Members of these sets; at least one, ascending, each in [`Policy::sets`].
    To(Vec<SetName>),
}

impl Egress {
    /// The sets; none unless it is [`Egress::To`].
    pub fn sets(&self) -> &[SetName] {
        match self {
            Self::To(names) => names,
            Self::Any | Self::None | Self::Internet => &[],
        }
    }
}

/// What one container may do, on all its networks; `None` is what its network says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerPolicy {
    /// What it may open connections to, outside this host.
    pub egress: Option<Egress>,
    /// Whether it may open connections to this host.
    pub host: Option<HostAccess>,
}

/// A bridge that Docker does not manage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticNetwork {
    /// Its name for `[networks.NAME]` and in messages.
    pub name: String,
    /// The bridge device.
    pub bridge: String,
    /// Its prefixes; at least one, disjoint from those of the other static networks.
    pub subnets: Vec<IpNet>,
}

/// Who writes the NAT rules, and what is translated besides published ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nat {
    /// The writer.
    pub owner: NatOwner,
    /// What is led to a port of this host, in the order of the file.
    pub redirects: Vec<Redirect>,
    /// What is led from one server to another, in the order of the file; no two for one port of one address.
    pub dnats: Vec<Dnat>,
}

/// One `[[nat.redirect]]`: connections to a port, wherever they lead, end at a port of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// Its name, unique among all rules.
    pub name: String,
    /// The protocol.
    pub proto: NatProto,
    /// Destination ports as the sender writes them: ascending, disjoint; at least one.
    pub ports: Vec<PortRange>,
    /// Whose connections; never [`NatFrom::Host`], whose resolver would ask itself.
    pub from: BTreeSet<NatFrom>,
    /// Port of this host, host byte order.
    pub to: u16,
    /// The line of the policy file where the rule begins, from 1.
    pub line: u32,
}

/// One `[[nat.dnat]]`: connections to one server's address and port end at another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dnat {
    /// Its name, unique among all rules.
    pub name: String,
    /// The protocol.
    pub proto: NatProto,
    /// The address that the sender writes.
    pub address: IpAddr,
    /// Destination ports as the sender writes them: ascending, disjoint; at least one.
    pub ports: Vec<PortRange>,
    /// Whose connections.
    pub from: BTreeSet<NatFrom>,
    /// The server that gets them, of the same family as `address`.
    pub to: IpAddr,
    /// Its port, host byte order; `None` keeps the one that was asked for.
    pub to_port: Option<u16>,
    /// The line of the policy file where the rule begins, from 1.
    pub line: u32,
}

/// Where our two-bit field lies in the packet mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// The lower bit of the two, 17 to 30, counted from 0.
    pub bit: u8,
}

impl Marks {
    /// Both bits of the field, as a mask of the packet mark.
    pub const fn mask(self) -> u32 {
        0b11 << self.bit
    }
}

impl Default for Marks {
    /// Bit 24: clear of kube-proxy (0x4000, 0x8000), Tailscale (0xff0000), Cilium (0x0f00 and below) and
    /// Docker's overlay networks (0xd0c4e3).
    fn default() -> Self {
        Self { bit: 24 }
    }
}
