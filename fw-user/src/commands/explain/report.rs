//! What `fw explain` prints.

use serde::Serialize;

use crate::explain::netfilter::{At, Next};
use crate::explain::{AtHook, Explanation};

/// What is printed, as JSON or in words.
#[derive(Serialize)]
pub(super) struct Report {
    /// The policy file, if it is not what is in force.
    pub(super) policy: Option<String>,
    /// Whether what is dropped is dropped: `enforce` or `observe`.
    pub(super) mode: &'static str,
    /// Whether connections may take the fast path, which is left out here.
    pub(super) fast_path: bool,
    /// Rules that only the policy file has.
    pub(super) new_rules: Vec<String>,
    /// Each packet, in the order in which they were asked about.
    pub(super) packets: Vec<Answer>,
    /// What does not fit, of the policy or the host.
    pub(super) warnings: Vec<String>,
}

/// What is said of one packet.
#[derive(Serialize)]
pub(super) struct Answer {
    /// What fw does with it.
    #[serde(flatten)]
    pub(super) explanation: Explanation,
    /// What netfilter does next, if the packet goes on into the host's IP.
    pub(super) netfilter: Option<Next>,
    /// The rule that decided is one that only the policy file has.
    pub(super) new_rule: bool,
    /// Bytes of the packet that the capture left out.
    pub(super) missing: u32,
}

impl Report {
    /// Whether any packet is dropped, or would be.
    pub(super) fn drops(&self) -> bool {
        self.packets.iter().any(|answer| ["drop", "would-drop"].contains(&answer.explanation.verdict))
    }

    /// In words.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        if let Some(file) = &self.policy {
            text += &format!("under {file}, which is not in force\n");
        }
        for (number, answer) in self.packets.iter().enumerate() {
            if self.packets.len() > 1 {
                text += &format!("{}packet {}\n", if number == 0 { "" } else { "\n" }, number + 1);
            }
            text += &answer.text(self);
        }
        text
    }
}

impl Answer {
    fn text(&self, report: &Report) -> String {
        let Explanation { packet, hooks, .. } = &self.explanation;
        let end = |address: &Option<String>, port: Option<u16>, who: &Option<String>| {
            let address = address.clone().unwrap_or_else(|| "?".to_owned());
            let at = match port {
                None => address,
                Some(port) if address.contains(':') => format!("[{address}]:{port}"),
                Some(port) => format!("{address}:{port}"),
            };
            who.as_ref().map_or_else(|| at.clone(), |who| format!("{at} ({who})"))
        };
        let mut text = String::new();
        if packet.proto.is_some() {
            text += &format!(
                "{} {} → {}",
                packet.proto.as_deref().unwrap_or("?"),
                end(&packet.source, packet.source_port, &packet.source_is),
                end(&packet.destination, packet.destination_port, &packet.destination_is),
            );
        } else {
            text += "a frame";
        }
        for part in [packet.detail.clone(), format!("{} bytes", packet.bytes)] {
            if !part.is_empty() {
                text += &format!(", {part}");
            }
        }
        text.push('\n');
        if self.missing > 0 {
            text +=
                &format!("  WARNING: the capture left out {} bytes of it, which may decide\n", self.missing);
        }
        for hook in hooks {
            text += &at_hook(hook);
        }
        text += &self.verdict(report);
        if let Some(next) = &self.netfilter {
            text += &netfilter(next, report);
        }
        text
    }

    fn verdict(&self, report: &Report) -> String {
        let Explanation {
            verdict, reason, rule, hook, device, mark, meaning, advice, would_pass_with, ..
        } = &self.explanation;
        let mut text = match (hook, reason) {
            (Some(hook), Some(reason)) => {
                let rule = rule.as_ref().map_or(String::new(), |rule| format!(", rule {rule:?}"));
                let new = if self.new_rule { " (new)" } else { "" };
                let mark = mark.map_or(String::new(), |mark| format!(", marked {}", mark.to_uppercase()));
                format!("\n{}: {reason}{rule}{new}, by {hook} on {device}{mark}\n", verdict.to_uppercase())
            }
            _ => format!("\n{}: no program of fw runs on {device}\n", verdict.to_uppercase()),
        };
        if let Some(meaning) = meaning {
            text += &format!("  {meaning}\n");
        }
        if *verdict == "would-drop" {
            text += "  The policy says mode = \"observe\": it is counted, and goes on.\n";
        }
        if let Some(advice) = advice {
            text += &format!("  {advice}\n");
        }
        if let Some(lines) = would_pass_with {
            text += "\nthese lines in the policy would let it pass:\n";
            text.extend(lines.lines().map(|line| format!("  {line}\n")));
        }
        if report.fast_path && *verdict == "accept" {
            text += "  With fast_path = \"on\" a later packet of its connection may go past all of this, as this one was judged.\n";
        }
        text
    }
}

/// One hook and its lookups.
fn at_hook(hook: &AtHook) -> String {
    let rule = hook.rule.as_ref().map_or(String::new(), |rule| format!(", rule {rule:?}"));
    let mark = hook.mark.map_or(String::new(), |mark| format!(", marked {}", mark.to_uppercase()));
    let program = match (&hook.tag, hook.same_program) {
        (Some(tag), Some(true)) => format!("the loaded program, tag {tag}"),
        (Some(tag), Some(false)) => format!("this fw's program, tag {tag}, NOT the one that runs there"),
        (Some(tag), None) => format!("this fw's program, tag {tag}"),
        (None, _) => "decide on the host".to_owned(),
    };
    let mut text = format!("\n{} on {} ({program})\n", hook.hook, hook.device);
    let width = hook.steps.iter().map(|step| step.table.chars().count()).max().unwrap_or(0);
    for step in &hook.steps {
        text += &format!("  {:width$}  {}: {}\n", step.table, step.asked, step.found);
    }
    for note in &hook.notes {
        text += &format!("  {note}\n");
    }
    text + &format!("  → {} {}{rule}{mark}\n", hook.verdict, hook.reason.unwrap_or("to the next hook"))
}

/// What comes behind fw.
fn netfilter(next: &Next, report: &Report) -> String {
    let mut text = "\nnetfilter, by the rules that stand now\n".to_owned();
    if report.policy.is_some() {
        text += "  (those that fw would write for the policy may not be among them)\n";
    }
    for At { place, hit } in &next.rules {
        text += &format!("  {place} {} {}: {}\n", hit.table, hit.chain, hit.rule);
    }
    let to = next.to.as_ref().map_or(String::new(), |to| format!(" ({to})"));
    if let Some(dnat) = &next.dnat {
        text += &format!("  its destination becomes {dnat}{to}\n");
    }
    if let Some(leaves) = &next.leaves {
        text += &format!("  routed out by {leaves}\n");
    }
    if let Some(how) = &next.source_nat {
        text += &format!("  its source is translated: {how}\n");
    }
    for note in &next.notes {
        text += &format!("  {note}\n");
    }
    let why = next.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
    text + &format!("  → {}{why}\n", next.end)
}
