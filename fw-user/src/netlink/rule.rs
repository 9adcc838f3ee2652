//! Rules of policy routing (`ip rule`) that ask for bits of the packet mark.

use super::message::{Malformed, Reader};
use super::socket::{Question, Socket};
use super::{AF_INET, AF_INET6, NetlinkError};

/// A rule that chooses a routing table by the packet's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutingRule {
    /// Whether it holds for IPv6.
    pub ipv6: bool,
    /// Its place among the others, lower first.
    pub priority: u32,
    /// What the bits of `mask` have to be.
    pub mark: u32,
    /// The bits that are looked at.
    pub mask: u32,
}

/// The rules of both families that ask for a mark.
pub fn routing_rules() -> Result<Vec<RoutingRule>, NetlinkError> {
    let socket = Socket::open()?;
    let mut rules = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut question = vec![0; HEADER];
        question[0] = family;
        rules.extend(socket.read_list(Question::RoutingRules, &question, rule)?.into_iter().flatten());
    }
    Ok(rules)
}

/// Reads the payload of `RTM_NEWRULE`; `None` for a rule that asks for no mark.
fn rule(payload: &[u8]) -> Result<Option<RoutingRule>, Malformed> {
    let read = Reader { message: "rule" };
    let header = read.header::<HEADER>(payload)?;
    // The kernel tells a mask with every mark; without one all bits count.
    let mut rule = RoutingRule { ipv6: header[0] == AF_INET6, priority: 0, mark: 0, mask: u32::MAX };
    let mut asks = false;
    for attribute in read.attributes(&payload[HEADER..]) {
        match attribute? {
            (FRA_PRIORITY, value) => rule.priority = read.number(value, "priority")?,
            (FRA_FWMARK, value) => (asks, rule.mark) = (true, read.number(value, "mark")?),
            (FRA_FWMASK, value) => (asks, rule.mask) = (true, read.number(value, "mask")?),
            _ => {}
        }
    }
    Ok((asks && rule.mask != 0).then_some(rule))
}

/// Length of `struct fib_rule_hdr` (`linux/fib_rules.h`).
const HEADER: usize = 12;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_FWMASK: u16 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: &[(u16, u32)]) -> Vec<u8> {
        let mut bytes = vec![AF_INET; 1];
        bytes.resize(HEADER, 0);
        for (kind, value) in attributes {
            bytes.extend(8u16.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn only_rules_with_a_mark() {
        assert_eq!(rule(&message(&[(FRA_PRIORITY, 32766)])), Ok(None));
        let found = rule(&message(&[(FRA_PRIORITY, 7), (FRA_FWMARK, 0x100), (FRA_FWMASK, 0xff00)]));
        let expected = RoutingRule { ipv6: false, priority: 7, mark: 0x100, mask: 0xff00 };
        assert_eq!(found, Ok(Some(expected)));
        assert!(rule(&[0; 3]).is_err(), "cut short");
    }
}
