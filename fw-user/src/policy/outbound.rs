//! The sections `[[out]]` and `[[limit]]`.

use super::parse::Parser;
use super::section::{Item, Section};
use super::words::Proto;
use super::{Limit, Out, PortRange, Sources, ports};

/// The most new flows a second, and at once, that a limit can be for: beyond, it limits nothing.
const MOST_FLOWS: u32 = 1_000_000;

/// How many `[[limit]]` rules there may be: a port names its own by one byte.
const MOST_LIMITS: usize = 255;

impl Parser<'_> {
    pub(super) fn out(&mut self, mut section: Section<'_>) {
        let span = section.span().clone();
        let name = self.rule_name(&mut section);
        let proto = section.need("proto", "proto = \"tcp\"", &mut self.problems);
        let proto = proto.and_then(|item| item.word::<Proto>(&mut self.problems));
        let ports = section.take("ports");
        let ports = self.ports_of(proto, ports.as_ref());
        let source_ports = section.take("source_ports");
        let source_ports = self.ports_of(proto, source_ports.as_ref());
        let to = match section.take("to") {
            Some(item) => Sources::Sets(self.sources(&item, &name, "leave `to` out for any destination")),
            None => Sources::Any,
        };
        section.finish(&mut self.problems);
        self.count_zones(&span, to.sets());
        let Some(proto) = proto else { return };
        let line = self.problems.line(&span);
        self.policy.out.push(Out { name, proto, ports, source_ports, to, line });
    }

    pub(super) fn limit(&mut self, mut section: Section<'_>) {
        let span = section.span().clone();
        let name = self.rule_name(&mut section);
        let proto = section.need("proto", "proto = \"tcp\"", &mut self.problems);
        let proto = proto.and_then(|item| item.word::<Proto>(&mut self.problems));
        let ports = match proto {
            Some(Proto::Tcp | Proto::Udp) => section.need("ports", ports::EXAMPLE, &mut self.problems),
            Some(Proto::Icmp) | None => section.take("ports"),
        };
        let ports = self.ports_of(proto, ports.as_ref());
        let rate = section.need("rate", "rate = 10", &mut self.problems);
        let rate = rate.and_then(|item| self.flows(&item));
        let burst = section.take("burst").map_or(rate, |item| self.flows(&item));
        section.finish(&mut self.problems);
        if self.policy.limits.len() == MOST_LIMITS {
            let message = format!("this is one [[limit]] too many; expected at most {MOST_LIMITS}");
            self.problems.at(&span, message);
        }
        let (Some(proto), Some(rate), Some(burst)) = (proto, rate, burst) else { return };
        let line = self.problems.line(&span);
        let limit = Limit { name, proto, ports, rate, burst, line };
        if let Some(other) = self.policy.limits.iter().find(|other| other.shares_a_port(&limit)) {
            let message = format!(
                "limit `{}` has a port in common with limit `{}` at line {}; expected one limit for each port",
                limit.name, other.name, other.line
            );
            self.problems.at(&span, message);
        }
        self.policy.limits.push(limit);
    }

    /// The ports of a rule, none if it names none; ICMP has none to name.
    fn ports_of(&mut self, proto: Option<Proto>, item: Option<&Item<'_>>) -> Vec<PortRange> {
        let Some(item) = item else { return Vec::new() };
        if proto == Some(Proto::Icmp) {
            let message = "ports have no meaning with proto = \"icmp\", which stands for echo; remove them";
            self.problems.at(item.span(), message.to_owned());
        }
        ports::parse(item, &mut self.problems)
    }

    fn flows(&mut self, item: &Item<'_>) -> Option<u32> {
        let expected = format!("a number of new flows, 1 to {MOST_FLOWS}");
        let number = item.integer(&expected, &mut self.problems)?;
        let valid = u32::try_from(number).ok().filter(|number| (1..=MOST_FLOWS).contains(number));
        if valid.is_none() {
            self.problems.at(item.span(), format!("{number} is out of range; expected {expected}"));
        }
        valid
    }
}

impl Limit {
    fn shares_a_port(&self, other: &Self) -> bool {
        let overlap =
            |a: &PortRange| other.ports.iter().any(|b| a.first() <= b.last() && b.first() <= a.last());
        self.proto == other.proto && (self.proto == Proto::Icmp || self.ports.iter().any(overlap))
    }
}
