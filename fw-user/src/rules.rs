//! Rules as they are in force, with their counters, in the order in which they are asked.
//!
//! Pure. It is told what the tables hold, not what the policy file says: where two rules open the same port, the entry
//! has the name of one.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::tables::{Count, DenyRule, Prefix, name_kind, sources};
use fw_common::wire::proto;
use fw_common::{Address, Hook, Reason};
use serde_json::{Value, json};

use crate::plan::State;
use crate::policy::BAN_RULE;
use crate::view::{self, Names, Row, prefix, protocol, row};

/// So many prefixes are shown; of more their number.
const SHOWN: usize = 3;

/// What a rule does, in the order in which rules are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Deny,
    Allow,
    Limit,
    Out,
    Nothing,
}

#[derive(Default)]
struct Told {
    protocols: BTreeSet<u8>,
    ports: BTreeSet<(u8, u16)>,
    /// Who may come in, or where the host may go.
    peers: BTreeSet<String>,
    anybody: bool,
    /// Of a rule for containers' own addresses alone.
    addresses: BTreeSet<Address>,
    denied: Vec<String>,
    denials: usize,
    rate: Option<(u32, u32)>,
}

/// The rules: one row each.
pub fn rows(state: &State, denied: &BTreeMap<Prefix, DenyRule>, count: impl Fn(u32) -> Count) -> Vec<Row> {
    let names = Names { names: &state.names };
    let tables = &state.tables;
    let mut told: BTreeMap<(Target, u32), Told> = BTreeMap::new();
    for (key, rule) in denied {
        let told = told.entry((Target::Deny, rule.rule)).or_default();
        told.denials += 1;
        if told.denied.len() < SHOWN {
            told.denied.push(prefix(key));
        }
    }
    for (key, port) in &tables.ports {
        let limit = tables.limits.get(&port.limit.into()).filter(|_| port.limit != 0);
        let rules = [(Target::Allow, port.rule), (Target::Limit, limit.map_or(0, |limit| limit.rule))];
        for (target, rule) in rules.into_iter().filter(|(_, rule)| *rule != 0) {
            let told = told.entry((target, rule)).or_default();
            told.protocols.insert(key.proto);
            told.ports.insert((key.proto, key.port));
            told.addresses.insert(key.address);
            match port.sources & !sources::ALONE {
                sources::ANY => told.anybody = true,
                sources::ZONES => told.peers.extend(names.zones(port.zones)),
                _ => told.anybody |= port.open != 0,
            }
        }
    }
    for limit in tables.limits.values() {
        told.entry((Target::Limit, limit.rule)).or_default().rate = Some((limit.rate, limit.burst));
    }
    for (key, rule) in &tables.outbound {
        let told = told.entry((Target::Out, rule.rule)).or_default();
        told.protocols.insert(key.proto);
        told.ports.insert((key.proto, key.port));
        match rule.destinations {
            sources::ANY => told.anybody = true,
            _ => told.peers.extend(names.zones(rule.zones)),
        }
    }
    let shown: BTreeSet<u32> = told.keys().map(|(_, rule)| *rule).collect();
    let all = state.names.keys().filter(|key| key.kind == name_kind::RULE).map(|key| key.id);
    for id in all.filter(|id| !shown.contains(id)) {
        let is_ban = names.of(name_kind::RULE, id) == BAN_RULE;
        told.entry((if is_ban { Target::Deny } else { Target::Nothing }, id)).or_default();
    }
    told.iter()
        .map(|((target, id), told)| told.row(*target, &names.of(name_kind::RULE, *id), count(*id)))
        .collect()
}

impl Told {
    fn row(&self, target: Target, name: &str, count: Count) -> Row {
        let peers = match (target, self.anybody, self.denials) {
            (Target::Deny, ..) if self.denials > SHOWN => json!(format!("{} prefixes", self.denials)),
            (Target::Deny, _, 0) | (Target::Nothing, ..) => json!("nobody"),
            (Target::Deny, ..) => json!(self.denied),
            (_, true, _) => json!("any"),
            (_, false, _) if self.peers.is_empty() => json!("nobody"),
            (_, false, _) => json!(self.peers),
        };
        let any = json!("any");
        let (from, to) =
            if target == Target::Out { (json!("host"), peers) } else { (peers, self.destination()) };
        let protocols: Vec<String> = self.protocols.iter().map(|number| protocol(*number)).collect();
        row(json!({
            "packets": count.packets,
            "bytes": count.bytes,
            "target": match target {
                Target::Deny => "DROP".to_owned(),
                Target::Allow | Target::Out => "ACCEPT".to_owned(),
                Target::Limit => self.rate.map_or_else(
                    || "LIMIT".to_owned(),
                    |(rate, burst)| format!("LIMIT {rate}/s burst {burst}"),
                ),
                Target::Nothing => "-".to_owned(),
            },
            "prot": if protocols.is_empty() { any } else { json!(protocols) },
            "source": from,
            "destination": to,
            "ports": self.port_ranges(),
            "rule": name,
        }))
    }

    /// This host, but for rules that open containers' own addresses alone.
    fn destination(&self) -> Value {
        let any = self.addresses.iter().any(|address| *address == address.any_of_family());
        if any || self.addresses.is_empty() { json!("any") } else { json!("containers") }
    }

    fn port_ranges(&self) -> Value {
        let ports: BTreeSet<u16> = self.ports.iter().map(|(_, port)| *port).collect();
        if ports.is_empty() || self.protocols.iter().all(|number| *number == proto::ICMP) {
            return Value::Null;
        }
        let one = |(first, last): &(u16, u16)| match (first, last) {
            (0, 0) => "any".to_owned(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}:{last}"),
        };
        json!(view::runs(ports).iter().map(one).collect::<Vec<_>>().join(","))
    }
}

/// What no rule has let pass: drops by reason and hook, most packets first.
pub fn defaults(counters: &BTreeMap<(Hook, Reason), Count>) -> Vec<Row> {
    let mut drops: Vec<_> = counters.iter().filter(|((_, reason), _)| reason.is_drop()).collect();
    drops.sort_by_key(|(key, count)| (std::cmp::Reverse(count.packets), **key));
    let one = |((hook, reason), count): (&(Hook, Reason), &Count)| {
        row(json!({
            "packets": count.packets,
            "bytes": count.bytes,
            "target": "DROP",
            "hook": hook.name(),
            "reason": reason.name(),
        }))
    };
    drops.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use fw_common::tables::{Limit, NameKey, OutKey, OutRule, Port, PortKey};

    use super::*;

    fn named(state: &mut State, kind: u32, names: &[(u32, &str)]) {
        state.names.extend(names.iter().map(|(id, name)| (NameKey { kind, id: *id }, (*name).to_owned())));
    }

    #[test]
    fn rules_stand_in_the_order_in_which_they_are_asked() {
        let mut state = State::default();
        named(
            &mut state,
            name_kind::RULE,
            &[
                (1, "web"),
                (2, "scanners"),
                (3, "https"),
                (4, "slow"),
                (5, "ban"),
                (6, "shadowed"),
                (7, "ping"),
            ],
        );
        named(&mut state, name_kind::ZONE, &[(0, "0123 office")]);
        let open = Port { zones: 0, rule: 1, sources: sources::ANY, published: 0, open: 0, limit: 0 };
        for port in [80, 443, 8000, 8001] {
            state.tables.ports.insert(PortKey::new(Address::ANY_V4, proto::TCP, port), open);
            let limited = Port { limit: u8::from(port == 80), ..open };
            state.tables.ports.insert(PortKey::new(Address::ANY_V6, proto::TCP, port), limited);
        }
        let ping = Port { zones: 1, rule: 7, sources: sources::ZONES, ..open };
        state.tables.ports.insert(PortKey::new(Address::ANY_V4, proto::ICMP, 0), ping);
        state.tables.limits.insert(1, Limit { rate: 5, burst: 9, rule: 4 });
        let out = OutRule { zones: 0, rule: 3, destinations: sources::ANY, reserved: [0; 3] };
        state.tables.outbound.insert(OutKey::new(proto::TCP, 443, 0), out);
        let deny = |bits, rule| (Prefix::new(Address::v4([192, 0, 2, bits as u8]), bits), DenyRule { rule });
        let denied = BTreeMap::from([deny(128, 2), deny(120, 2)]);
        let count = |id: u32| Count { packets: id.into(), bytes: 0 };
        let rows = rows(&state, &denied, count);
        let text = |row: &Row| {
            let cell = |key: &str| match &row[key] {
                Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("+"),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            ["packets", "target", "prot", "source", "destination", "ports", "rule"].map(cell).join(" ")
        };
        assert_eq!(
            rows.iter().map(text).collect::<Vec<_>>(),
            [
                "2 DROP any 192.0.2.0/24+192.0.2.128 any null scanners",
                "5 DROP any nobody any null ban",
                "1 ACCEPT tcp any any 80,443,8000:8001 web",
                "7 ACCEPT icmp office any null ping",
                "4 LIMIT 5/s burst 9 tcp any any 80 slow",
                "3 ACCEPT tcp host any 443 https",
                "6 - any nobody any null shadowed",
            ]
        );
    }
}
