//! What the policy file says of a wish already.

use fw_common::{Address, Reason};
use std::net::IpAddr;

use fw_common::tables::ObservedKey;

use super::Seen;
use super::gather::Wish;
use crate::policy::{Allow, Egress, HostAccess, PortRange, Proto, SetName, Sources};

/// Why what is wished for is no addition: the file says it already, or a rule of the file has the port, but not this
/// source, which may be why it is there. `None` where the file does not speak of it.
pub(super) fn settled(seen: &Seen<'_>, wish: &Wish, key: &ObservedKey) -> Option<String> {
    if passes(seen, wish, key) {
        return Some("the policy file lets it pass already".to_owned());
    }
    let Wish::Allow { proto, port } = wish else { return None };
    let rules: Vec<String> = rules(seen, *proto, *port).map(|rule| super::file::quoted(&rule.name)).collect();
    if rules.is_empty() {
        // The file is perhaps not the one that was in force when it was seen.
        let refused = key.reason == Reason::SourceNotAllowed as u8;
        return refused.then(|| "a rule had the port, and not these sources".to_owned());
    }
    Some(format!(
        "the rule {} does not name these sources: write those that are meant into its `from`",
        rules.join(" or ")
    ))
}

/// Whether the file lets it pass as it stands.
fn passes(seen: &Seen<'_>, wish: &Wish, key: &ObservedKey) -> bool {
    let policy = seen.policy;
    match wish {
        Wish::Allow { proto, port } => {
            rules(seen, *proto, *port).any(|rule| holds(seen, &rule.from, key.source))
        }
        // A rule with source ports may mean others: which it was is not kept.
        Wish::Out { proto, port } => policy.out.iter().any(|rule| {
            let at = rule.ports.is_empty() || has(&rule.ports, *port);
            let ours = rule.proto.number() == *proto && at && rule.source_ports.is_empty();
            ours && holds(seen, &rule.to, key.destination)
        }),
        Wish::Reach { from, to } => policy.network(from).reach.contains(to),
        Wish::Icc { network } => policy.network(network).icc == Some(true),
        Wish::Egress { network, container } => match policy.egress(network, container.as_deref()) {
            Egress::Internet => key.destination.is_public(),
            Egress::To(sets) => sets.iter().any(|set| is_in(seen, set, key.destination)),
            Egress::Any => true,
            Egress::None => false,
        },
        Wish::Host { network, container } => policy.host(network, container.as_deref()) == HostAccess::Allow,
    }
}

fn holds(seen: &Seen<'_>, sources: &Sources, address: Address) -> bool {
    matches!(sources, Sources::Any) || sources.sets().iter().any(|set| is_in(seen, set, address))
}

fn is_in(seen: &Seen<'_>, set: &SetName, address: Address) -> bool {
    let address = IpAddr::from(address);
    seen.policy.sets.get(set).is_some_and(|set| set.prefixes.iter().any(|prefix| prefix.contains(&address)))
}

/// The `[[allow]]` rules for a port.
fn rules<'a>(seen: &Seen<'a>, proto: u8, port: u16) -> impl Iterator<Item = &'a Allow> {
    let rules = seen.policy.allow.iter();
    rules.filter(move |rule| {
        rule.proto.number() == proto && (rule.proto == Proto::Icmp || has(&rule.ports, port))
    })
}

fn has(ports: &[PortRange], port: u16) -> bool {
    ports.iter().any(|range| range.ports().contains(&port))
}
