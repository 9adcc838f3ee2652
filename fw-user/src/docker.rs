//! Docker as a source: its networks and running containers, and when they change.
//!
//! The only module that uses the Docker client. A snapshot is the truth and an event is only a wake-up.
//! An error is never an empty snapshot: whoever asks keeps what was known before and asks again.

mod error;
mod snapshot;
mod swarm;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::FileTypeExt;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::errors::Error as ClientError;
use bollard::models;
use bollard::query_parameters::{EventsOptions, InspectContainerOptions, ListContainersOptions};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use tokio::net::UnixStream;
use tokio::time::timeout;

pub use self::error::DockerError;
use self::snapshot::BridgeOptions;
pub use self::snapshot::{
    DockerContainer, DockerEndpoint, DockerNetwork, DockerSnapshot, Exposed, GatewayMode, Published, Routed,
    Transport,
};
pub(crate) use self::swarm::DATA_PORT;
pub use self::swarm::{Membership, Swarm};
use crate::inventory::Mac;

/// The way to one Docker engine. Holds no connection: every question opens its own, so an engine that is
/// restarted or upgraded in between is simply asked again.
#[derive(Debug, Clone)]
pub struct Docker {
    client: bollard::Docker,
    address: Address,
    deadline: Duration,
    minds_swarm: bool,
}

/// Something that matters has changed in Docker: take a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wake;

impl Docker {
    /// Finds the engine at `url` (`unix:///PATH`, `/PATH`, `tcp://HOST:PORT`, `http://HOST:PORT`) and makes
    /// sure that it is one, with five seconds for each question.
    pub async fn connect(url: &str) -> Result<Self, DockerError> {
        Self::connect_within(url, DEADLINE).await
    }

    /// As [`Docker::connect`], with another deadline for each question.
    pub async fn connect_within(url: &str, deadline: Duration) -> Result<Self, DockerError> {
        let address = Address::parse(url)?;
        // Bounds the wait for the head of the answer to `/events`; the other questions have `deadline`.
        let seconds = deadline.as_secs().max(1);
        let client = match &address {
            Address::Path(path) => {
                check_socket(path, deadline).await?;
                bollard::Docker::connect_with_unix(path, seconds, bollard::API_DEFAULT_VERSION)
            }
            Address::Host(host) => {
                bollard::Docker::connect_with_http(host, seconds, bollard::API_DEFAULT_VERSION)
            }
        };
        let client = client.map_err(|_| DockerError::Url { url: url.to_owned() })?;
        let docker = Self { client, address, deadline, minds_swarm: false };
        docker.version().await?;
        Ok(docker)
    }

    /// Reads all networks and running containers. Takes up to twice the deadline, or somewhat longer with
    /// many containers that Docker does not answer for.
    ///
    /// To miss nothing, have [`Docker::events`] open first.
    pub async fn snapshot(&self) -> Result<DockerSnapshot, DockerError> {
        let (version, api) = self.version().await?;
        let networks = self.ask("networks", self.client.list_networks(None)).await?;
        if networks.is_empty() {
            // Docker has `host` and `none` from the start, Podman its own: an engine without any is not ready.
            return Err(answer("networks", "it names none at all"));
        }
        let mut networks = networks.into_iter().map(network).collect::<Result<Vec<_>, _>>()?;
        networks.sort_by(|a, b| a.id.cmp(&b.id));

        let options = ListContainersOptions { all: false, ..ListContainersOptions::default() };
        let list = self.ask("containers", self.client.list_containers(Some(options))).await?;
        // Docker holds a container's lock while it starts or stops it, and an inspection waits for that
        // lock. So they are asked for side by side, and one that hangs spoils no other.
        let mut containers = stream::iter(list)
            .map(|summary| self.container(summary))
            .buffer_unordered(INSPECTIONS)
            .filter_map(|result| std::future::ready(result.transpose()))
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        containers.sort_by(|a, b| a.id.cmp(&b.id));
        for container in &mut containers {
            by_id(container, &networks);
        }
        self.add_gateways(&networks, &mut containers).await;
        let swarm = self.membership(&networks).await;
        Ok(DockerSnapshot { version, api, networks, containers, swarm })
    }

    /// The same engine, asked about its swarm even if no network of it can be seen: for whom it was in one before.
    #[must_use]
    pub fn minding_swarm(self, minds_swarm: bool) -> Self {
        Self { minds_swarm, ..self }
    }

    /// Opens the stream of events. What happens from this call on is reported, even if the stream is asked
    /// only later: Docker is told the time and repeats what it missed.
    pub fn events(&self) -> Events {
        // The engine sends the head of its answer before it subscribes, so only `since` leaves no gap.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let filter = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let options = EventsOptions {
            since: Some(now.as_secs().to_string()),
            filters: Some(HashMap::from([
                ("type".to_owned(), filter(&["container", "network", "daemon", "node", "service"])),
                ("event".to_owned(), filter(EVENTS)),
            ])),
            ..EventsOptions::default()
        };
        Events {
            stream: Box::pin(self.client.events(Some(options))),
            address: self.address.to_string(),
            removed: BTreeSet::new(),
        }
    }

    /// Whether the engine answers at all.
    pub async fn answers(&self) -> bool {
        self.version().await.is_ok()
    }

    /// Version of the engine and of its API.
    async fn version(&self) -> Result<(String, String), DockerError> {
        let version = match self.ask("its version", self.client.version()).await {
            Err(
                DockerError::Answer { reason, .. }
                | DockerError::Broken { reason, .. }
                | DockerError::Refusal { message: reason, .. },
            ) => {
                return Err(DockerError::NotDocker { address: self.address.to_string(), reason });
            }
            other => other?,
        };
        let api = version.api_version.unwrap_or_default();
        let version = version.version.unwrap_or_default();
        match parse_api(&api) {
            None => Err(DockerError::NotDocker {
                address: self.address.to_string(),
                reason: "it does not name the version of its API".to_owned(),
            }),
            Some(number) if number < OLDEST_API => Err(DockerError::TooOld { version, api }),
            Some(_) => Ok((version, api)),
        }
    }

    /// One container of the list; `None` if it has ended since.
    async fn container(
        &self,
        summary: models::ContainerSummary,
    ) -> Result<Option<DockerContainer>, DockerError> {
        let Some(id) = summary.id.clone().filter(|id| !id.is_empty()) else {
            return Err(answer("containers", "one has no id"));
        };
        let what = format!("container {}", name_in(&summary, &id));
        match self.ask(&what, self.client.inspect_container(&id, None::<InspectContainerOptions>)).await {
            Ok(found) => inspected(&what, found),
            Err(DockerError::Refusal { status: 404, .. }) => Ok(None),
            Err(DockerError::Timeout { after, .. }) => {
                tracing::warn!(
                    container = name_in(&summary, &id),
                    ?after,
                    "docker does not answer for a container, which is starting, stopping or stuck; going by the list"
                );
                listed(&what, summary).map(Some)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for the answer about `what`, up to the deadline.
    async fn ask<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, DockerError> {
        match timeout(self.deadline, call).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(ClientError::RequestTimeoutError)) | Err(_) => Err(DockerError::Timeout {
                address: self.address.to_string(),
                what: what.to_owned(),
                after: self.deadline,
            }),
            Ok(Err(error)) => Err(failure(&self.address, what, error)),
        }
    }
}

/// Events of Docker that matter to a firewall; ends with the connection.
pub struct Events {
    stream: Pin<Box<dyn Stream<Item = Result<models::EventMessage, ClientError>> + Send>>,
    address: String,
    removed: BTreeSet<String>,
}

impl Events {
    /// Waits for the next change; any number of changes that are already here is one wake-up.
    ///
    /// Safe to drop while it waits. An error is the end: connect again after a pause, open new events, and
    /// take a snapshot.
    pub async fn next(&mut self) -> Result<Wake, DockerError> {
        let Some(Ok(())) = self.stream.next().await.map(|event| self.hear(event)) else {
            return Err(DockerError::EventsEnded { address: self.address.clone() });
        };
        while let Some(Some(more)) = self.stream.next().now_or_never() {
            if self.hear(more).is_err() {
                // The next call finds the end again; what was heard before it must not be lost.
                break;
            }
        }
        Ok(Wake)
    }

    /// Ids of the networks that Docker has said to have removed, since the last time.
    pub fn removed_networks(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.removed)
    }

    /// An event that cannot be read is one all the same; any other failure is the end.
    fn hear(&mut self, event: Result<models::EventMessage, ClientError>) -> Result<(), ClientError> {
        let event = match event {
            Err(ClientError::JsonDataError { .. } | ClientError::JsonSerdeError { .. }) => return Ok(()),
            event => event?,
        };
        let of_network = event.typ == Some(models::EventMessageTypeEnum::NETWORK);
        if of_network && event.action.as_deref() == Some("destroy") {
            self.removed.extend(event.actor.and_then(|actor| actor.id));
        }
        Ok(())
    }
}

/// Where an engine listens.
#[derive(Debug, Clone)]
enum Address {
    Path(String),
    Host(String),
}

impl Address {
    fn parse(url: &str) -> Result<Self, DockerError> {
        let path = url.strip_prefix("unix://").unwrap_or(url);
        if path.starts_with('/') {
            return Ok(Self::Path(path.to_owned()));
        }
        let host = url.strip_prefix("tcp://").or_else(|| url.strip_prefix("http://"));
        match host.map(|host| host.trim_end_matches('/')) {
            Some(host) if !host.is_empty() && !host.contains('/') => Ok(Self::Host(host.to_owned())),
            _ => Err(DockerError::Url { url: url.to_owned() }),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "unix://{path}"),
            Self::Host(host) => write!(f, "tcp://{host}"),
        }
    }
}

/// Tells the ways apart in which a socket can be unusable; the client reports most of them alike.
async fn check_socket(path: &str, deadline: Duration) -> Result<(), DockerError> {
    let found = std::fs::metadata(path).map_err(|error| DockerError::opening(path, &error))?;
    let kind = found.file_type();
    if !kind.is_socket() {
        let kind = if kind.is_dir() {
            "directory"
        } else if kind.is_file() {
            "file"
        } else {
            "device"
        };
        return Err(DockerError::NotASocket { path: path.to_owned(), kind });
    }
    match timeout(deadline, UnixStream::connect(path)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(DockerError::opening(path, &error)),
        Err(_) => Err(DockerError::Timeout {
            address: path.to_owned(),
            what: "a connection".to_owned(),
            after: deadline,
        }),
    }
}

fn failure(address: &Address, what: &str, error: ClientError) -> DockerError {
    let what = what.to_owned();
    match error {
        ClientError::DockerResponseServerError { status_code, message } => {
            DockerError::Refusal { what, status: status_code, message }
        }
        ClientError::JsonDataError { message, .. } => DockerError::Answer { what, reason: message },
        ClientError::JsonSerdeError { err } => DockerError::Answer { what, reason: err.to_string() },
        ClientError::HyperLegacyError { err } if err.is_connect() => {
            let reason = root(&err);
            match (address, reason.downcast_ref::<io::Error>()) {
                (Address::Path(path), Some(error)) => DockerError::opening(path, error),
                _ => DockerError::Unreachable { address: address.to_string(), reason: reason.to_string() },
            }
        }
        other => DockerError::Broken { address: address.to_string(), what, reason: root(&other).to_string() },
    }
}

/// The innermost reason; the layers around it say "client error" and repeat each other.
fn root<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut reason = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason
}

fn network(found: models::Network) -> Result<DockerNetwork, DockerError> {
    let id = found.id.filter(|id| !id.is_empty()).ok_or_else(|| answer("networks", "one has no id"))?;
    let name = found.name.unwrap_or_else(|| id.clone());
    let what = format!("network {name}");
    // The laxer of both answers is what the absence of these would mean.
    let left_out = |field: &str| answer(&what, &format!("it has no field {field}"));
    let driver = found.driver.ok_or_else(|| left_out("Driver"))?;
    let internal = found.internal.ok_or_else(|| left_out("Internal"))?;
    let ipv6 = found.enable_ipv6.ok_or_else(|| left_out("EnableIPv6"))?;
    let ipam = found.ipam.ok_or_else(|| left_out("IPAM"))?;
    let options = found.options.unwrap_or_default();
    let parent = options.get("parent").filter(|name| !name.is_empty() && on_a_parent(&driver)).cloned();
    let passthru = parent.is_some() && options.get("macvlan_mode").is_some_and(|mode| mode == "passthru");
    let options = BridgeOptions::read(&id, |option| {
        options.get(&format!("com.docker.network.bridge.{option}")).map(String::as_str)
    });
    let (mut subnets, mut gateways) = (BTreeSet::new(), BTreeSet::new());
    for config in ipam.config.unwrap_or_default() {
        if let Some(subnet) = config.subnet.filter(|subnet| !subnet.is_empty()) {
            let subnet = subnet.parse::<ipnet::IpNet>();
            subnets.insert(subnet.map_err(|error| answer(&what, &format!("subnet: {error}")))?.trunc());
        }
        if let Some(gateway) = config.gateway.filter(|gateway| !gateway.is_empty()) {
            gateways.insert(gateway_address(&what, &gateway)?);
        }
    }
    Ok(DockerNetwork {
        bridge: (driver == "bridge").then_some(options.bridge),
        id,
        name,
        driver,
        parent,
        passthru,
        scope: found.scope.unwrap_or_default(),
        subnets: subnets.into_iter().collect(),
        gateways: gateways.into_iter().collect(),
        internal,
        icc: options.icc,
        ipv6,
        gateway_mode_v4: options.gateway_mode_v4,
        gateway_mode_v6: options.gateway_mode_v6,
        trusted_interfaces: options.trusted_interfaces,
        masquerade: options.masquerade,
    })
}

/// Whether containers on networks of this driver share a device of the host.
fn on_a_parent(driver: &str) -> bool {
    matches!(driver, "macvlan" | "ipvlan")
}

/// Networks made by some versions name their gateway with a prefix length.
fn gateway_address(what: &str, gateway: &str) -> Result<IpAddr, DockerError> {
    let address = gateway.split('/').next().unwrap_or(gateway);
    address.parse().map_err(|error| answer(what, &format!("gateway {gateway}: {error}")))
}

/// A container from its inspection; `None` if it does not run.
fn inspected(
    what: &str,
    found: models::ContainerInspectResponse,
) -> Result<Option<DockerContainer>, DockerError> {
    let state = found.state.ok_or_else(|| answer(what, "it has no state"))?;
    if !state.running.ok_or_else(|| answer(what, "it does not say whether it runs"))? {
        return Ok(None);
    }
    let id = found.id.ok_or_else(|| answer(what, "it has no id"))?;
    let settings = found.network_settings.ok_or_else(|| answer(what, "it has no network settings"))?;
    let (mut published, mut routed) = (BTreeSet::new(), BTreeSet::new());
    for (port, bindings) in settings.ports.unwrap_or_default() {
        let (number, protocol) = container_port(what, &port)?;
        for binding in bindings.unwrap_or_default() {
            let hosts = host_addresses(what, binding.host_ip.as_deref())?;
            // Docker names no host port where it leads none here: in the gateway mode `routed`.
            let host_port = binding.host_port.as_deref().unwrap_or_default();
            if matches!(host_port, "" | "0") {
                let port = Exposed { protocol, port: number };
                routed.extend(hosts.iter().map(|host| Routed { ipv6: host.is_ipv6(), port }));
                continue;
            }
            let host_port = host_port.parse().map_err(|_| answer(what, &format!("host port {host_port}")))?;
            for host in hosts {
                published.insert(Published { host, protocol, host_port, container_port: number });
            }
        }
    }
    let mut exposed = BTreeSet::new();
    let (ports, labels) =
        found.config.map(|config| (config.exposed_ports, config.labels)).unwrap_or_default();
    for port in ports.unwrap_or_default() {
        let (port, protocol) = container_port(what, &port)?;
        exposed.insert(Exposed { protocol, port });
    }
    let (links, network_mode) =
        found.host_config.map(|config| (config.links, config.network_mode)).unwrap_or_default();
    Ok(Some(DockerContainer {
        name: found.name.map_or_else(|| id.clone(), |name| name.trim_start_matches('/').to_owned()),
        id,
        pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default(),
        labels: labels.unwrap_or_default().into_iter().collect(),
        network_mode: network_mode.unwrap_or_default(),
        endpoints: endpoints(what, settings.networks)?,
        published: published.into_iter().collect(),
        routed: routed.into_iter().collect(),
        exposed: exposed.into_iter().collect(),
        links: links
            .iter()
            .flatten()
            .filter_map(|link| linked_name(link))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
    }))
}

/// Docker writes `/server:/client/alias`.
fn linked_name(link: &str) -> Option<String> {
    let (server, _) = link.split_once(':')?;
    Some(server.trim_start_matches('/').to_owned())
}

/// A container from the list alone, without its process and its links.
fn listed(what: &str, found: models::ContainerSummary) -> Result<DockerContainer, DockerError> {
    let id = found.id.clone().ok_or_else(|| answer(what, "it has no id"))?;
    let (mut published, mut routed) = (BTreeSet::new(), BTreeSet::new());
    for port in found.ports.iter().flatten() {
        let protocol = port.typ.map(|protocol| protocol.to_string());
        let protocol = protocol.as_deref().and_then(Transport::named);
        let Some(protocol) = protocol else { continue };
        // One that is only exposed has no address.
        let Some(host) = port.ip.as_deref() else { continue };
        for host in host_addresses(what, Some(host))? {
            let container_port = port.private_port;
            if let Some(host_port) = port.public_port {
                published.insert(Published { host, protocol, host_port, container_port });
            } else {
                let port = Exposed { protocol, port: container_port };
                routed.insert(Routed { ipv6: host.is_ipv6(), port });
            }
        }
    }
    Ok(DockerContainer {
        name: name_in(&found, &id),
        id,
        pid: 0,
        labels: found.labels.unwrap_or_default().into_iter().collect(),
        network_mode: found.host_config.and_then(|config| config.network_mode).unwrap_or_default(),
        endpoints: endpoints(what, found.network_settings.and_then(|settings| settings.networks))?,
        published: published.into_iter().collect(),
        routed: routed.into_iter().collect(),
        exposed: Vec::new(),
        links: Vec::new(),
    })
}

fn endpoints(
    what: &str,
    found: Option<HashMap<String, models::EndpointSettings>>,
) -> Result<Vec<DockerEndpoint>, DockerError> {
    let mut by_network = BTreeMap::new();
    for settings in found.unwrap_or_default().into_values() {
        // A network that the container is to join, but has not, has no endpoint yet.
        // Podman names no endpoint at all, but an address.
        let Some(network_id) = settings.network_id.filter(|id| !id.is_empty()) else { continue };
        let endpoint_id = settings.endpoint_id.unwrap_or_default();
        let mut addresses = Vec::new();
        for address in [settings.ip_address, settings.global_ipv6_address].into_iter().flatten() {
            if !address.is_empty() {
                let parsed = address.parse::<IpAddr>();
                addresses.push(parsed.map_err(|error| answer(what, &format!("address {address}: {error}")))?);
            }
        }
        if endpoint_id.is_empty() && addresses.is_empty() {
            continue;
        }
        let mac = settings.mac_address.filter(|mac| !mac.is_empty());
        let mac = mac.map(|mac| mac.parse::<Mac>()).transpose();
        let endpoint = DockerEndpoint {
            network_id: network_id.clone(),
            endpoint_id,
            mac: mac.map_err(|error| answer(what, &error.to_string()))?,
            addresses,
            gateway_priority: settings.gw_priority.unwrap_or_default(),
        };
        by_network.insert(network_id, endpoint);
    }
    Ok(by_network.into_values().collect())
}

/// Podman calls the networks of a container by their names.
fn by_id(container: &mut DockerContainer, networks: &[DockerNetwork]) {
    for endpoint in &mut container.endpoints {
        let known = networks.iter().any(|network| network.id == endpoint.network_id);
        let named = networks.iter().find(|network| !known && network.name == endpoint.network_id);
        if let Some(network) = named {
            endpoint.network_id.clone_from(&network.id);
        }
    }
    container.endpoints.sort_by(|a, b| a.network_id.cmp(&b.network_id));
}

/// Docker writes `80/tcp`; without a protocol it means TCP.
fn container_port(what: &str, port: &str) -> Result<(u16, Transport), DockerError> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    number
        .parse()
        .ok()
        .zip(Transport::named(protocol))
        .ok_or_else(|| answer(what, &format!("container port {port}")))
}

/// An empty address is any of both families.
fn host_addresses(what: &str, address: Option<&str>) -> Result<Vec<IpAddr>, DockerError> {
    match address.unwrap_or_default() {
        "" => Ok(vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]),
        address => {
            let parsed = address.parse();
            parsed.map(|address| vec![address]).map_err(|_| answer(what, &format!("host address {address}")))
        }
    }
}

fn name_in(summary: &models::ContainerSummary, id: &str) -> String {
    // A container has one more name for each link that another container has made to it: `/other/alias`.
    let names = summary.names.iter().flatten().filter_map(|name| name.strip_prefix('/'));
    names.min_by_key(|name| name.matches('/').count()).unwrap_or(id).to_owned()
}

fn answer(what: &str, reason: &str) -> DockerError {
    DockerError::Answer { what: what.to_owned(), reason: reason.to_owned() }
}

fn parse_api(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

const DEADLINE: Duration = Duration::from_secs(5);
const INSPECTIONS: usize = 16;
/// Docker 20.10.
const OLDEST_API: (u32, u32) = (1, 41);
/// Health checks and `exec` are events too, several a second on a busy host, and change nothing here.
const EVENTS: &[&str] = &[
    "create",
    "start",
    "restart",
    "die",
    "stop",
    "destroy",
    "rename",
    "update",
    "connect",
    "disconnect",
    "remove",
    "prune",
    "reload",
];

#[cfg(test)]
mod tests;
