//! What is reached at a container's own address, without NAT: gateway modes routed and nat-unprotected, trusted uplinks.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use super::{Endpoint, Managed, target};
use crate::docker::{DockerContainer, DockerSnapshot, Exposed, GatewayMode};
use crate::netlink::HostSnapshot;

/// A service that Docker lets the outside, or one of its devices, reach at the container's own address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct DirectPort {
    /// The container's address.
    pub address: IpAddr,
    /// The port; `None` for all that it may be asked for.
    pub port: Option<Exposed>,
    /// Index of the link that Docker trusts, by which alone it is reached; `None`: by every one.
    pub by: Option<u32>,
    /// Name of the container.
    pub container: String,
}

/// What Docker's rules let through to containers' own addresses (libnetwork, `bridge.setPerPortIptables` and
/// `filterDirectAccess` of 28.5, the golden files of 29).
///
/// In the mode routed these are published ports of the network that has the container's default route, since 29 of each of
/// its routed networks; in nat-unprotected all ports; by a trusted link those that are published in the mode nat. What is
/// published for the host's loopback address alone is for nobody outside.
pub(super) fn direct(
    docker: &DockerSnapshot,
    managed: &Managed<'_>,
    endpoints: &[Endpoint],
    host: &HostSnapshot,
) -> Vec<DirectPort> {
    let everywhere = major(&docker.version).is_some_and(|major| major >= 29);
    let mut direct = BTreeSet::new();
    for container in &docker.containers {
        for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let leads = target(any, managed, container, endpoints).map(|target| target.address);
            for place in &container.endpoints {
                let network = managed.with_id(&place.network_id);
                let address = place.addresses.iter().find(|address| address.is_ipv4() == any.is_ipv4());
                let (Some((_, network)), Some(&address)) = (network, address) else { continue };
                if network.internal {
                    continue;
                }
                let has_route = leads == Some(address);
                let mut reach = |port, by| {
                    let container = container.name.clone();
                    direct.insert(DirectPort { address, port, by, container });
                };
                match if any.is_ipv4() { network.gateway_mode_v4 } else { network.gateway_mode_v6 } {
                    GatewayMode::NatUnprotected => reach(None, None),
                    GatewayMode::Routed if has_route || everywhere => {
                        let translated = published(container, any).filter(|_| everywhere);
                        for port in routed(container, any).chain(translated) {
                            reach(Some(port), None);
                        }
                    }
                    GatewayMode::Nat if has_route => {
                        let trusted = network.trusted_interfaces.iter();
                        for link in trusted.filter_map(|name| host.link_named(name)) {
                            published(container, any).for_each(|port| reach(Some(port), Some(link.index)));
                        }
                    }
                    GatewayMode::Isolated | GatewayMode::Routed | GatewayMode::Nat => {}
                }
            }
        }
    }
    direct.into_iter().collect()
}

fn routed(container: &DockerContainer, family: IpAddr) -> impl Iterator<Item = Exposed> {
    container.routed.iter().filter(move |routed| routed.ipv6 == family.is_ipv6()).map(|routed| routed.port)
}

fn published(container: &DockerContainer, family: IpAddr) -> impl Iterator<Item = Exposed> {
    let of_family = move |host: IpAddr| host.is_ipv6() == family.is_ipv6() && !host.is_loopback();
    let published = container.published.iter().filter(move |published| of_family(published.host));
    published.map(|published| Exposed { protocol: published.protocol, port: published.container_port })
}

/// The first number of a version.
fn major(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
