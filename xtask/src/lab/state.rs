//! What a host looks like to its administrator: rules, qdiscs, filters, programs and pins, to be compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::Lab;
use super::tcx::Direction;

/// Packets that each rule of a table has seen, by the rule's text.
pub type RuleCounters = BTreeMap<String, u64>;

impl Lab {
    /// Everything that `fw run` may touch, as text: equal before `fw run` and after `fw down`.
    ///
    /// `bpftool link` lists the links of the whole machine, those of other labs included; the programs on each device of
    /// this host are asked from the kernel instead.
    pub fn footprint(&self) -> Result<String> {
        let mut text = self.rules()?;
        text += &self.host().script(
            "echo '# nft'; nft -s list ruleset bridge; nft -s list ruleset inet; echo '# bpffs'; find /sys/fs/bpf | sort; \
             echo '# qdiscs'; tc qdisc show; \
             for d in $(ls /sys/class/net); do for way in ingress egress; do \
               echo \"# filters of $d $way\"; tc filter show dev $d $way 2>/dev/null || true; done; done; \
             echo '# rules of routing'; ip rule; ip -6 rule; \
             echo '# xdp'; ip -o link | grep -o '[a-z0-9@-]*:.*xdp[^ ]*' || true",
        )?;
        let devices = self.host().run(&["ls", "/sys/class/net"])?;
        for device in devices.split_whitespace() {
            for (direction, name) in [(Direction::Ingress, "ingress"), (Direction::Egress, "egress")] {
                let count = self.host().tcx_programs(device, direction)?;
                writeln!(text, "# tcx programs of {device} {name}: {count}")
                    .context("cannot write to a string")?;
            }
        }
        Ok(text)
    }

    /// `iptables-save` of both families and both flavours, without counters and dates.
    pub fn rules(&self) -> Result<String> {
        let saves =
            ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"];
        let mut text = String::new();
        for save in saves {
            writeln!(text, "# {save}").context("cannot write to a string")?;
            let all = self.host().script(&format!("{save} 2>/dev/null || true"))?;
            for line in all.lines().filter(|line| !line.starts_with('#')) {
                writeln!(text, "{}", line.split(" [").next().unwrap_or(line))
                    .context("cannot write to a string")?;
            }
        }
        Ok(text)
    }

    /// Packets per rule of the filter table, IPv4.
    pub fn filter_counters(&self) -> Result<RuleCounters> {
        let text = self.host().run(&["iptables-save", "-c", "-t", "filter"])?;
        let mut counters = RuleCounters::new();
        for line in text.lines().filter(|line| line.starts_with('[')) {
            let (count, rule) = line[1..].split_once("] ").context("a rule follows its counters")?;
            let packets = count.split(':').next().and_then(|packets| packets.parse::<u64>().ok());
            *counters.entry(rule.to_owned()).or_default() += packets.context("counters are packets:bytes")?;
        }
        Ok(counters)
    }
}
