//! Finds rules of others that carry fw's mark bits into conntrack or overwrite them from there.

use super::Marks;
use super::rule::number;
use super::save::{Rule, Save};

/// The CONNMARK save and restore rules of a mangle table (text of iptables-save) whose masks hold fw's bits, each
/// with what to do. Saved, the mark would let a connection live on after `fw down`; restored, it would overwrite fw's.
pub fn doctor_marks(mangle_save: &str, marks: Marks) -> Vec<String> {
    Save::parse(mangle_save).table("mangle").filter_map(|rule| finding(rule, marks)).collect()
}

fn finding(rule: &Rule<'_>, marks: Marks) -> Option<String> {
    let words = rule.conditions();
    let target = words.iter().position(|word| word == "-j").map(|at| &words[at + 1..])?;
    if target.first()? != "CONNMARK" {
        return None;
    }
    // Without a mask iptables means all bits; `--mask` is the older spelling of both.
    let mask = |name: &str| {
        let at = target.iter().position(|word| word == name || word == "--mask");
        at.and_then(|at| number(target.get(at + 1)?)).unwrap_or(u32::MAX)
    };
    let (packet, connection) = (mask("--nfmask"), mask("--ctmask"));
    // The kernel's xt_connmark: save is ct = (ct & !ctmask) ^ (skb & nfmask), restore is skb = (skb & !nfmask) ^ (ct & ctmask).
    let (what, touched) = if target.iter().any(|word| word == "--save-mark") {
        ("saves fw's mark into conntrack", packet)
    } else if target.iter().any(|word| word == "--restore-mark") {
        ("overwrites fw's mark from conntrack", packet | connection)
    } else {
        return None;
    };
    if touched & marks.mask() == 0 {
        return None;
    }
    let others = !marks.mask();
    let advice = format!("--nfmask {:#x} --ctmask {:#x}", packet & others, connection & others);
    Some(format!("mangle {}: `{}` {what}; give it {advice}", rule.chain, rule.spec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_unmasked_rules_only() {
        let text = "*mangle\n:PREROUTING ACCEPT [0:0]\n\
            [1:2] -A PREROUTING -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff\n\
            -A PREROUTING -i wg0 -j CONNMARK --restore-mark --nfmask 0xffff --ctmask 0xffff\n\
            -A PREROUTING -j CONNMARK --set-xmark 0x1/0xffffffff\n\
            -A OUTPUT -m comment --comment \"-j CONNMARK\" -j ACCEPT\n\
            -A POSTROUTING -m mark ! --mark 0x0 -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xffffffff\n\
            -A POSTROUTING -j CONNMARK --save-mark --mask 0x60000\n\
            -A POSTROUTING -j CONNMARK --save-mark\nCOMMIT\n\
            *filter\n-A INPUT -j CONNMARK --save-mark\nCOMMIT\n";
        let found = doctor_marks(text, Marks::new(17).expect("bit 17 is allowed"));
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found[0].contains("mangle PREROUTING") && found[0].contains("overwrites"));
        assert!(found[0].ends_with("give it --nfmask 0xfff9ffff --ctmask 0xfff9ffff"), "{}", found[0]);
        assert!(
            found[1].contains("--mask 0x60000") && found[1].ends_with("give it --nfmask 0x0 --ctmask 0x0")
        );
        assert!(found[2].contains("saves"));
    }
}
