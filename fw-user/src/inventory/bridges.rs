//! Bridges of networks whose engine does not tell their names: Podman's, which makes them with the first container.

use super::Bridges;
use super::belief::default_bridge;
use crate::docker::DockerSnapshot;
use crate::netlink::{HostSnapshot, LinkKind};

/// Names the bridges that are not called what Docker would call them: a network without a word about its bridge, and
/// without a device of that name, has the bridge that carries the address of its gateway.
#[must_use]
pub fn with_bridges(mut said: DockerSnapshot, host: &HostSnapshot) -> DockerSnapshot {
    let known = Bridges::of(host);
    for network in &mut said.networks {
        let untold = network.bridge == Some(default_bridge(network));
        if !untold || network.bridge.as_deref().is_some_and(|name| known.index(name).is_some()) {
            continue;
        }
        let carries = |index: u32| {
            host.addresses
                .iter()
                .any(|local| local.ifindex == index && network.gateways.contains(&local.address))
        };
        let mut bridges =
            host.links.iter().filter(|link| link.kind == LinkKind::Bridge && carries(link.index));
        if let (Some(only), None) = (bridges.next(), bridges.next()) {
            network.bridge = Some(only.name.clone());
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::super::tests::world;
    use super::*;
    use crate::netlink::{Link, LocalAddress};

    #[test]
    fn a_bridge_that_is_not_named_is_found_by_its_gateway() {
        let (mut docker, mut host, _) = world();
        let gateway = "10.88.0.1".parse().expect("an address");
        let network = &mut docker.networks[0];
        network.id = "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9".into();
        network.bridge = Some("br-2f259bab93aa".into());
        network.gateways = vec![gateway];
        let name = |docker: &DockerSnapshot, host: &HostSnapshot| {
            with_bridges(docker.clone(), host).networks[0].bridge.clone().unwrap_or_default()
        };
        assert_eq!(name(&docker, &host), "br-2f259bab93aa", "there is none yet");
        host.links.push(Link::sample(30, "podman0", LinkKind::Bridge, None));
        host.links.push(Link::sample(31, "eth9", LinkKind::Physical, None));
        let local = |ifindex| LocalAddress { ifindex, address: gateway, prefix_len: 16, broadcast: None };
        host.addresses.push(local(31));
        assert_eq!(name(&docker, &host), "br-2f259bab93aa", "a device that is no bridge");
        host.addresses.push(local(30));
        assert_eq!(name(&docker, &host), "podman0");
        let mut twice = host.clone();
        twice.addresses.push(local(20));
        assert_eq!(name(&docker, &twice), "br-2f259bab93aa", "nobody knows which");
        host.links.push(Link::sample(32, "br-2f259bab93aa", LinkKind::Bridge, None));
        assert_eq!(name(&docker, &host), "br-2f259bab93aa", "its own is there");
        docker.networks[0].bridge = Some("named".into());
        assert_eq!(name(&docker, &host), "named", "Docker has told a name");
    }
}
