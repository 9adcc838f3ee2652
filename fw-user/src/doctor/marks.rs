//! Rules of others that meet our bits of the packet mark.

use super::{Finding, Seen, Severity};
use crate::handover::{Collision, Marks, Use, collisions, doctor_marks, nft_collisions};

pub(super) fn examine(seen: &Seen) -> Vec<Finding> {
    let Some(marks) = seen.marks() else { return Vec::new() };
    let mut found = Vec::new();
    for (place, text) in &seen.rules {
        let rules = collisions(text, marks);
        found.extend(
            rules.iter().map(|collision| finding(&format!("{place} {}", collision.rule), collision, marks)),
        );
        found.extend(doctor_marks(text, marks).iter().map(|told| {
            let (what, repair) = told.split_once("; give it ").unwrap_or((told, ""));
            Finding::weakens("mark-collision", format!("{place}: {what}"))
                .why("a connection keeps the mark that fw gives to single packets, or a packet loses it")
                .repair(format!("# write that rule with {repair}, wherever it comes from"))
                .risk("whoever needs all bits of the mark has to move: `[marks] bit` moves ours instead")
        }));
    }
    // Docker's own tables ask for our mark where they were told to; where not, that is told apart.
    for table in seen.tables.iter().filter(|table| !table.name.ends_with(" docker-bridges")) {
        let rules = nft_collisions(&table.name, &table.text, marks);
        found.extend(
            rules.iter().map(|collision| finding(&format!("nftables {}", collision.rule), collision, marks)),
        );
    }
    for rule in seen.routing.iter().filter(|rule| rule.mask & marks.mask() != 0) {
        let family = if rule.ipv6 { "-6 " } else { "" };
        let what = Use::of_question(rule.mark, rule.mask, marks);
        let text = format!("ip {family}rule {}: fwmark {:#x}/{:#x}", rule.priority, rule.mark, rule.mask);
        found.push(finding(&text, &Collision { rule: String::new(), what }, marks));
    }
    found
}

fn finding(rule: &str, collision: &Collision, marks: Marks) -> Finding {
    let (severity, what, why) = match collision.what {
        Use::Sets => (
            Severity::Weakens,
            "sets",
            "packets look as if fw had vouched for them, and skip Docker's own rules",
        ),
        Use::Clears => (
            Severity::Confuses,
            "clears",
            "what fw has vouched for is dropped by Docker's own rules where they are stricter",
        ),
        Use::Asks => {
            (Severity::Confuses, "asks for", "it matches or misses packets by what fw has written for itself")
        }
        Use::Whole => (
            Severity::Notes,
            "asks for the whole mark, and so for zero in",
            "it misses packets that fw has marked; whose own packets it looks for alone (wg-quick, swarm) loses nothing",
        ),
    };
    let mask = marks.mask();
    Finding::new("mark-collision", severity, format!("a rule {what} fw's bits of the mark ({mask:#x}): {rule}"))
        .why(why)
        .repair(format!("# give that rule a mask without {mask:#x}, or the policy another field: [marks] bit = {}", free(marks)))
        .risk("another bit is in force after the next start of `fw run`; rules of fw and options of Docker that name the old one change with it")
}

/// A field that is not ours, for a suggestion.
fn free(marks: Marks) -> u8 {
    if marks.inward() == 1 << 28 { 26 } else { 28 }
}
