//! What a policy means, as data for scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;

use super::{
    Allow, ContainerPolicy, Egress, HostAccess, Interfaces, Limit, Nat, NatFrom, NetworkPolicy, Origin, Out,
    Policy, PortRange, Set, SetName, Sources,
};

/// A policy as data: what `describe` says, for `--json`. Sets are given by their size.
#[derive(Debug, Serialize)]
pub struct Summary<'a> {
    mode: &'static str,
    fallback: &'static str,
    labels: &'static str,
    uplink: UplinkSummary<'a>,
    docker: DockerSummary,
    deny: Vec<DenySummary<'a>>,
    allow: Vec<AllowSummary<'a>>,
    out: Vec<OutSummary<'a>>,
    limit: Vec<LimitSummary<'a>>,
    tables: TablesSummary,
    sets: BTreeMap<&'a str, SetSummary>,
    networks: BTreeMap<&'a str, NetworkSummary<'a>>,
    default_network: NetworkSummary<'a>,
    containers: BTreeMap<&'a str, ContainerSummary<'a>>,
    static_networks: Vec<StaticNetworkSummary<'a>>,
    nat: NatSummary<'a>,
    marks: MarksSummary,
}

#[derive(Debug, Serialize)]
struct UplinkSummary<'a> {
    interfaces: WordOr<&'a [String]>,
    xdp: &'static str,
    published: &'static str,
    fast_path: &'static str,
}

#[derive(Debug, Serialize)]
struct DockerSummary {
    swarm: &'static str,
}

/// A fixed word such as `"auto"`, or a value.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum WordOr<T> {
    Word(&'static str),
    Value(T),
}

#[derive(Debug, Serialize)]
struct DenySummary<'a> {
    name: &'a str,
    from: Vec<&'a str>,
    line: u32,
}

#[derive(Debug, Serialize)]
struct AllowSummary<'a> {
    name: &'a str,
    proto: &'static str,
    ports: Vec<RangeSummary>,
    from: WordOr<Vec<&'a str>>,
    line: u32,
}

#[derive(Debug, Serialize)]
struct OutSummary<'a> {
    name: &'a str,
    proto: &'static str,
    ports: Vec<RangeSummary>,
    source_ports: Vec<RangeSummary>,
    to: WordOr<Vec<&'a str>>,
    line: u32,
}

#[derive(Debug, Serialize)]
struct LimitSummary<'a> {
    name: &'a str,
    proto: &'static str,
    ports: Vec<RangeSummary>,
    rate: u32,
    burst: u32,
    line: u32,
}

#[derive(Debug, Serialize)]
struct TablesSummary {
    entries: BTreeMap<&'static str, u32>,
    flows_per_container: u32,
    memory_bytes: u64,
}

#[derive(Debug, Serialize)]
struct RangeSummary {
    first: u16,
    last: u16,
}

#[derive(Debug, Serialize)]
struct SetSummary {
    prefixes: usize,
    origin: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

#[derive(Debug, Serialize)]
struct NetworkSummary<'a> {
    egress: WordOr<Vec<&'a str>>,
    host: &'static str,
    icc: Option<bool>,
    reach: &'a [String],
    spoofing: &'static str,
}

#[derive(Debug, Serialize)]
struct ContainerSummary<'a> {
    egress: Option<WordOr<Vec<&'a str>>>,
    host: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct StaticNetworkSummary<'a> {
    name: &'a str,
    bridge: &'a str,
    subnets: Vec<String>,
}

#[derive(Debug, Serialize)]
struct NatSummary<'a> {
    owner: &'static str,
    redirect: Vec<RedirectSummary<'a>>,
    dnat: Vec<DnatSummary<'a>>,
}

#[derive(Debug, Serialize)]
struct RedirectSummary<'a> {
    name: &'a str,
    proto: &'static str,
    ports: Vec<RangeSummary>,
    from: Vec<&'static str>,
    to: u16,
    line: u32,
}

#[derive(Debug, Serialize)]
struct DnatSummary<'a> {
    name: &'a str,
    proto: &'static str,
    address: IpAddr,
    ports: Vec<RangeSummary>,
    from: Vec<&'static str>,
    to: IpAddr,
    to_port: Option<u16>,
    line: u32,
}

#[derive(Debug, Serialize)]
struct MarksSummary {
    bit: u8,
    mask: u32,
}

impl<'a> Summary<'a> {
    /// The summary of this policy.
    pub fn of(policy: &'a Policy) -> Self {
        let deny = policy.deny.iter();
        let static_networks = policy.static_networks.iter();
        Self {
            mode: policy.mode.word(),
            fallback: policy.fallback.word(),
            labels: policy.labels.word(),
            docker: DockerSummary { swarm: policy.docker.swarm.word() },
            uplink: UplinkSummary {
                interfaces: match &policy.uplink.interfaces {
                    Interfaces::Auto => WordOr::Word("auto"),
                    Interfaces::Named(names) => WordOr::Value(names),
                },
                xdp: policy.uplink.xdp.word(),
                published: policy.uplink.published.word(),
                fast_path: policy.uplink.fast_path.word(),
            },
            deny: deny
                .map(|rule| DenySummary { name: &rule.name, from: strs(&rule.from), line: rule.line })
                .collect(),
            allow: policy.allow.iter().map(AllowSummary::of).collect(),
            out: policy.out.iter().map(OutSummary::of).collect(),
            limit: policy.limits.iter().map(LimitSummary::of).collect(),
            tables: TablesSummary {
                entries: policy.tables.of_maps().into_iter().collect(),
                flows_per_container: policy.tables.flows_per_container,
                memory_bytes: policy.tables.memory(),
            },
            sets: policy.sets.iter().map(|(name, set)| (name.as_str(), SetSummary::of(set))).collect(),
            networks: policy
                .networks
                .iter()
                .map(|(name, network)| (name.as_str(), NetworkSummary::of(network)))
                .collect(),
            containers: policy
                .containers
                .iter()
                .map(|(name, container)| (name.as_str(), ContainerSummary::of(container)))
                .collect(),
            default_network: NetworkSummary::of(&policy.default_network),
            static_networks: static_networks
                .map(|network| StaticNetworkSummary {
                    name: &network.name,
                    bridge: &network.bridge,
                    subnets: network.subnets.iter().map(ToString::to_string).collect(),
                })
                .collect(),
            nat: NatSummary::of(&policy.nat),
            marks: MarksSummary { bit: policy.marks.bit, mask: policy.marks.mask() },
        }
    }
}

impl<'a> AllowSummary<'a> {
    fn of(rule: &'a Allow) -> Self {
        Self {
            name: &rule.name,
            proto: rule.proto.word(),
            ports: ranges(&rule.ports),
            from: match &rule.from {
                Sources::Any => WordOr::Word("any"),
                Sources::Sets(sets) => WordOr::Value(strs(sets)),
            },
            line: rule.line,
        }
    }
}

impl<'a> OutSummary<'a> {
    fn of(rule: &'a Out) -> Self {
        Self {
            name: &rule.name,
            proto: rule.proto.word(),
            ports: ranges(&rule.ports),
            source_ports: ranges(&rule.source_ports),
            to: match &rule.to {
                Sources::Any => WordOr::Word("any"),
                Sources::Sets(sets) => WordOr::Value(strs(sets)),
            },
            line: rule.line,
        }
    }
}

impl<'a> LimitSummary<'a> {
    fn of(rule: &'a Limit) -> Self {
        Self {
            name: &rule.name,
            proto: rule.proto.word(),
            ports: ranges(&rule.ports),
            rate: rule.rate,
            burst: rule.burst,
            line: rule.line,
        }
    }
}

impl<'a> NatSummary<'a> {
    fn of(nat: &'a Nat) -> Self {
        let words = |from: &BTreeSet<NatFrom>| from.iter().map(|from| from.word()).collect();
        let redirects = nat.redirects.iter().map(|rule| RedirectSummary {
            name: &rule.name,
            proto: rule.proto.word(),
            ports: ranges(&rule.ports),
            from: words(&rule.from),
            to: rule.to,
            line: rule.line,
        });
        let dnats = nat.dnats.iter().map(|rule| DnatSummary {
            name: &rule.name,
            proto: rule.proto.word(),
            address: rule.address,
            ports: ranges(&rule.ports),
            from: words(&rule.from),
            to: rule.to,
            to_port: rule.to_port,
            line: rule.line,
        });
        Self { owner: nat.owner.word(), redirect: redirects.collect(), dnat: dnats.collect() }
    }
}

fn ranges(ports: &[PortRange]) -> Vec<RangeSummary> {
    ports.iter().map(|range| RangeSummary { first: range.first(), last: range.last() }).collect()
}

impl SetSummary {
    fn of(set: &Set) -> Self {
        let (origin, file) = match &set.origin {
            Origin::List => ("list", None),
            Origin::File(path) => ("file", Some(path.display().to_string())),
            Origin::Inline => ("inline", None),
        };
        Self { prefixes: set.prefixes.len(), origin, file }
    }
}

impl<'a> NetworkSummary<'a> {
    fn of(network: &'a NetworkPolicy) -> Self {
        Self {
            egress: egress(&network.egress),
            host: network.host.word(),
            icc: network.icc,
            reach: &network.reach,
            spoofing: network.spoofing.word(),
        }
    }
}

impl<'a> ContainerSummary<'a> {
    fn of(container: &'a ContainerPolicy) -> Self {
        Self { egress: container.egress.as_ref().map(egress), host: container.host.map(HostAccess::word) }
    }
}

fn egress(egress: &Egress) -> WordOr<Vec<&str>> {
    match egress {
        Egress::Any => WordOr::Word("any"),
        Egress::None => WordOr::Word("none"),
        Egress::Internet => WordOr::Word("internet"),
        Egress::To(sets) => WordOr::Value(strs(sets)),
    }
}

fn strs(names: &[SetName]) -> Vec<&str> {
    names.iter().map(SetName::as_str).collect()
}
