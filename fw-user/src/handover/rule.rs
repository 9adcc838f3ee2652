//! The one shape of rule that fw writes: mark matches, comment `fw`, accept.

use super::Marks;
use super::save::{Rule, tokenise};

/// The comment that all rules of fw carry.
const COMMENT: &str = "fw";

/// One rule of fw, in whatever chain: packets with this mark are accepted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MarkRule {
    kind: Kind,
    marks: Marks,
}

/// Which mark, with what else the rule asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    In,
    Reach,
    /// With this output device.
    Out(String),
    /// Any of the three.
    Any,
}

impl MarkRule {
    pub(super) fn inward(marks: Marks) -> Self {
        Self { kind: Kind::In, marks }
    }

    pub(super) fn reach(marks: Marks) -> Self {
        Self { kind: Kind::Reach, marks }
    }

    pub(super) fn outward(marks: Marks, uplink: String) -> Self {
        Self { kind: Kind::Out(uplink), marks }
    }

    pub(super) fn any(marks: Marks) -> Self {
        Self { kind: Kind::Any, marks }
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// What follows `-A CHAIN`, as iptables-save of both flavours prints it back.
    ///
    /// The comment comes last: iptables-nft compares a mark in place, and makes a call for a comment.
    pub(super) fn spec(&self) -> String {
        let (device, not, value) = match &self.kind {
            Kind::In => (String::new(), "", self.marks.inward()),
            Kind::Reach => (String::new(), "", self.marks.reach()),
            Kind::Out(uplink) => (format!("-o {uplink} "), "", self.marks.outward()),
            Kind::Any => (String::new(), "! ", 0),
        };
        let mask = self.marks.mask();
        format!("{device}-m mark {not}--mark {value:#x}/{mask:#x} -m comment --comment {COMMENT} -j ACCEPT")
    }

    /// The rule of fw that this is, of any mark bit and any uplink; `None` for everybody else's,
    /// also for one with the comment `fw` that asks for anything more or does anything else.
    pub(crate) fn recognise(rule: &Rule<'_>) -> Option<Self> {
        let (mut comment, mut mark, mut device, mut accepts, mut not) = (None, None, None, false, false);
        let words = tokenise(rule.spec);
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "-m" => matches!(words.next()?, "comment" | "mark").then_some(())?,
                "--comment" if comment.is_none() => comment = Some(words.next()?),
                "--mark" if mark.is_none() => mark = Some(words.next()?),
                "!" if mark.is_none() => {
                    (words.next()? == "--mark").then_some(())?;
                    (not, mark) = (true, Some(words.next()?));
                }
                "-o" if device.is_none() => device = Some(words.next()?),
                "-j" if !accepts => accepts = words.next()? == "ACCEPT",
                _ => return None,
            }
        }
        if comment? != COMMENT || !accepts {
            return None;
        }
        let (value, field) = mark?.split_once('/')?;
        let (value, field) = (number(value)?, number(field)?);
        let marks = Marks::new(field.trailing_zeros() as u8).ok().filter(|marks| marks.mask() == field)?;
        let kind = match device {
            None if not && value == 0 => Kind::Any,
            _ if not => return None,
            None if value == marks.inward() => Kind::In,
            None if value == marks.reach() => Kind::Reach,
            Some(uplink) if value == marks.outward() => Kind::Out(uplink.to_owned()),
            _ => return None,
        };
        Some(Self { kind, marks })
    }
}

/// A number as iptables prints it: hexadecimal with `0x`, else decimal.
pub(super) fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognise(spec: &str) -> Option<MarkRule> {
        MarkRule::recognise(&Rule { table: "filter", chain: "DOCKER-USER", spec, counters: None })
    }

    #[test]
    fn what_is_written_is_recognised() {
        let marks = Marks::new(24).expect("bit 24 is allowed");
        let out = MarkRule::outward(marks, "eth0".into());
        for rule in [MarkRule::inward(marks), MarkRule::reach(marks), out, MarkRule::any(marks)] {
            assert_eq!(recognise(&rule.spec()), Some(rule));
        }
    }

    #[test]
    fn order_and_quotes_do_not_matter() {
        let rule = recognise("-m mark --mark 0x40000/0x60000 -m comment --comment \"fw\" -o eth0 -j ACCEPT");
        assert_eq!(rule.map(|rule| rule.kind), Some(Kind::Out("eth0".into())));
    }

    #[test]
    fn a_comment_alone_makes_no_rule_of_ours() {
        for foreign in [
            "-m comment --comment fw -m mark --mark 0x20000/0x60000 -j DROP",
            "-m comment --comment fw -m mark ! --mark 0x20000/0x60000 -j ACCEPT",
            "-m comment --comment fw -m mark --mark 0x0/0x60000 -j ACCEPT",
            "-o eth0 -m comment --comment fw -m mark ! --mark 0x0/0x60000 -j ACCEPT",
            "-s 192.0.2.1/32 -m comment --comment fw -m mark --mark 0x20000/0x60000 -j ACCEPT",
            "-i eth0 -m comment --comment fw -m mark --mark 0x20000/0x60000 -j ACCEPT",
            "-o eth0 -m comment --comment fw -m mark --mark 0x20000/0x60000 -j ACCEPT",
            "! -o eth0 -m comment --comment fw -m mark --mark 0x40000/0x60000 -j ACCEPT",
            "-m comment --comment fw -m mark --mark 0x40000/0x60000 -j ACCEPT",
            "-m comment --comment fw -m mark --mark 0x1/0xff -j ACCEPT",
            "-m comment --comment fw -m mark --mark 0x1 -j ACCEPT",
            "-m comment --comment fw -m connmark --mark 0x20000/0x60000 -j ACCEPT",
            "-m comment --comment fwx -m mark --mark 0x20000/0x60000 -j ACCEPT",
            "-m mark --mark 0x20000/0x60000 -j ACCEPT",
            "-m comment --comment fw -j ACCEPT",
            "-m comment --comment fw -m mark --mark 0x0/0x0 -j ACCEPT",
            "-m comment --comment fw -m mark --mark 0x80000000/0x80000000 -j ACCEPT",
        ] {
            assert_eq!(recognise(foreign), None, "{foreign}");
        }
    }
}
