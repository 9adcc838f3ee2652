//! What Docker says of its networks and running containers, in fw's own words.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use fw_common::wire::proto;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Membership;
use crate::inventory::Mac;

/// Docker's networks and running containers at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerSnapshot {
    /// Version of the engine, as it names itself.
    pub version: String,
    /// Highest version of the API that the engine speaks.
    pub api: String,
    /// All networks of this engine, whatever their driver, by id.
    pub networks: Vec<DockerNetwork>,
    /// All running containers, by id.
    pub containers: Vec<DockerContainer>,
    /// Whether it is in a swarm, and what it knows of it.
    #[serde(default)]
    pub swarm: Membership,
}

/// A network of Docker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerNetwork {
    /// Full id.
    pub id: String,
    /// Name; two networks may have the same one.
    pub name: String,
    /// Name of the driver: `bridge`, `host`, `null`, `macvlan`, `ipvlan`, `overlay` or a plugin's.
    pub driver: String,
    /// `local`, or `swarm` or `global` for networks that span hosts.
    pub scope: String,
    /// Name of the bridge device, which need not exist; only networks of the driver `bridge` have one.
    pub bridge: Option<String>,
    /// Name of the device whose link its containers share (macvlan, ipvlan); Docker may have been told none.
    #[serde(default)]
    pub parent: Option<String>,
    /// One container has all of that device (macvlan in mode passthru).
    #[serde(default)]
    pub passthru: bool,
    /// Prefixes that addresses are given out from.
    pub subnets: Vec<IpNet>,
    /// Gateways that Docker names; 20.10 leaves them out where it chose them itself.
    pub gateways: Vec<IpAddr>,
    /// Containers reach each other and nothing else.
    pub internal: bool,
    /// Containers of the network may talk to each other.
    pub icc: bool,
    /// The network gives out IPv6 addresses too.
    pub ipv6: bool,
    /// How containers are reached from outside over IPv4.
    pub gateway_mode_v4: GatewayMode,
    /// How containers are reached from outside over IPv6.
    pub gateway_mode_v6: GatewayMode,
    /// Links from which Docker lets the containers be addressed directly (28.2 and later).
    pub trusted_interfaces: Vec<String>,
    /// What leaves the network takes the host's address.
    pub masquerade: bool,
}

/// How a bridge network is joined to the outside (27.0 and later; before, always `Nat`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// Published ports are translated; containers are not addressed directly.
    #[default]
    Nat,
    /// No translation; published container ports are addressed directly.
    Routed,
    /// As `Nat`, and every port of a container may be addressed directly.
    NatUnprotected,
    /// The bridge has no address on the host.
    Isolated,
}

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerContainer {
    /// Full id.
    pub id: String,
    /// Name, without the leading slash.
    pub name: String,
    /// Process number on the host; 0 while a restarting container has none, or if Docker did not answer
    /// the question for this container in time (everything else is known then too).
    pub pid: u32,
    /// Labels of the container and its image.
    pub labels: BTreeMap<String, String>,
    /// `bridge`, `host`, `none`, `container:ID` or the name of a network.
    pub network_mode: String,
    /// Networks that the container is attached to, by network id; none for `host`-like modes is promised
    /// only by the network's driver.
    pub endpoints: Vec<DockerEndpoint>,
    /// Ports that Docker has opened on the host for it, sorted, each once.
    pub published: Vec<Published>,
    /// Ports of it that Docker publishes without leading a port of the host there, sorted, each once: in the gateway
    /// mode `routed` they are reached at its own address.
    pub routed: Vec<Routed>,
    /// Ports that it or its image exposes, sorted; what containers that are linked to it may reach.
    pub exposed: Vec<Exposed>,
    /// Names of the containers that it was started with `--link` to, sorted; legacy, on the default network alone.
    pub links: Vec<String>,
}

/// A port of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exposed {
    /// Protocol.
    pub protocol: Transport,
    /// Port, host byte order.
    pub port: u16,
}

/// A port of a container that is published at its own address, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Routed {
    /// Whether that address is an IPv6 one.
    pub ipv6: bool,
    /// The port.
    pub port: Exposed,
}

/// A container's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerEndpoint {
    /// Id of the network.
    pub network_id: String,
    /// Id of the endpoint; Podman has none, and leaves it empty.
    pub endpoint_id: String,
    /// Ethernet address that Docker gave it.
    pub mac: Option<Mac>,
    /// Addresses that Docker gave it: IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Which of several networks the container's default route and published ports take: the highest
    /// (28.0 and later; before, always 0).
    pub gateway_priority: i64,
}

/// A port of the host that Docker leads to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Published {
    /// Address on the host; the unspecified address of a family means any address of that family.
    pub host: IpAddr,
    /// Protocol.
    pub protocol: Transport,
    /// Port on the host, host byte order.
    pub host_port: u16,
    /// Port in the container, host byte order.
    pub container_port: u16,
}

/// The protocols whose ports Docker publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP, protocol 6.
    Tcp,
    /// UDP, protocol 17.
    Udp,
    /// SCTP, protocol 132.
    Sctp,
}

impl Transport {
    /// The protocol with Docker's name for it.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            "sctp" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// Its number in the IP header (IANA's protocol numbers).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => proto::TCP,
            Self::Udp => proto::UDP,
            Self::Sctp => proto::SCTP,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// The options of a bridge network that matter to a firewall, read with Docker's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BridgeOptions {
    pub(super) bridge: String,
    pub(super) icc: bool,
    pub(super) masquerade: bool,
    pub(super) gateway_mode_v4: GatewayMode,
    pub(super) gateway_mode_v6: GatewayMode,
    pub(super) trusted_interfaces: Vec<String>,
}

impl BridgeOptions {
    /// Reads the options of the network `id`; `option` looks up one by the last part of its name.
    pub(super) fn read<'a>(id: &str, option: impl Fn(&str) -> Option<&'a str>) -> Self {
        let set = |name| option(name).filter(|value| !value.is_empty());
        let short: String = id.chars().take(12).collect();
        Self {
            bridge: set("name").map_or_else(|| format!("br-{short}"), str::to_owned),
            icc: switch(set("enable_icc"), true),
            masquerade: switch(set("enable_ip_masquerade"), true),
            gateway_mode_v4: gateway_mode(set("gateway_mode_ipv4")),
            gateway_mode_v6: gateway_mode(set("gateway_mode_ipv6")),
            trusted_interfaces: set("trusted_host_interfaces")
                .map(|names| names.split(':').filter(|name| !name.is_empty()).map(str::to_owned).collect())
                .unwrap_or_default(),
        }
    }
}

/// Docker reads its switches with Go's `strconv.ParseBool` and refuses what that does not know.
fn switch(value: Option<&str>, default: bool) -> bool {
    match value {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        _ => default,
    }
}

/// A mode that fw does not know yet is read as `Nat`, which opens nothing.
fn gateway_mode(value: Option<&str>) -> GatewayMode {
    match value {
        Some("routed") => GatewayMode::Routed,
        Some("nat-unprotected") => GatewayMode::NatUnprotected,
        Some("isolated") => GatewayMode::Isolated,
        _ => GatewayMode::Nat,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_absent_or_empty_have_docker_s_defaults() {
        let id = "0123456789abcdef";
        let defaults = BridgeOptions::read(id, |_| None);
        assert_eq!(defaults.bridge, "br-0123456789ab");
        assert!(defaults.icc && defaults.masquerade && defaults.trusted_interfaces.is_empty());
        assert_eq!((defaults.gateway_mode_v4, defaults.gateway_mode_v6), Default::default());
        assert_eq!(BridgeOptions::read(id, |_| Some("")), defaults);
    }

    #[test]
    fn options_are_read_as_docker_reads_them() {
        let options = BridgeOptions::read("0123456789abcdef", |name| match name {
            "name" => Some("docker0"),
            "enable_icc" => Some("F"),
            "enable_ip_masquerade" => Some("0"),
            "gateway_mode_ipv4" => Some("routed"),
            "gateway_mode_ipv6" => Some("isolated"),
            "trusted_host_interfaces" => Some("eth0:wg0"),
            _ => None,
        });
        assert_eq!(
            options,
            BridgeOptions {
                bridge: "docker0".into(),
                icc: false,
                masquerade: false,
                gateway_mode_v4: GatewayMode::Routed,
                gateway_mode_v6: GatewayMode::Isolated,
                trusted_interfaces: vec!["eth0".into(), "wg0".into()],
            }
        );
    }
}
