//! What the policy file says of a wish already.

use fw_common::Reason;
use fw_common::tables::ObservedKey;
use fw_common::wire::proto;

use super::Seen;
use super::gather::Wish;
use crate::policy::{Allow, PortRange, Proto};

/// Why what is wished for is no addition: a rule of the file has the port, but not this source, which may be why it is
/// there. `None` where no rule speaks of it.
pub(super) fn kept_out(seen: &Seen<'_>, wish: &Wish, key: &ObservedKey) -> Option<String> {
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

/// The `[[allow]]` rules for a port.
fn rules<'a>(seen: &Seen<'a>, proto: u8, port: u16) -> impl Iterator<Item = &'a Allow> {
    let rules = seen.policy.allow.iter();
    rules.filter(move |rule| {
        number(rule.proto) == proto && (rule.proto == Proto::Icmp || has(&rule.ports, port))
    })
}

fn has(ports: &[PortRange], port: u16) -> bool {
    ports.iter().any(|range| range.ports().contains(&port))
}

fn number(proto: Proto) -> u8 {
    match proto {
        Proto::Tcp => proto::TCP,
        Proto::Udp => proto::UDP,
        Proto::Icmp => proto::ICMP,
    }
}
