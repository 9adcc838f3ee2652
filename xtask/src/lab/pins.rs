//! What is pinned on the host, and what the kernel says runs: links, maps and programs by their numbers.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::tcx::Direction;
use super::{BPFFS, Lab};

/// A pinned link: its number, and that of the program behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The link.
    pub id: u64,
    /// The program.
    pub program: u64,
}

impl Lab {
    /// The links in the directory of pins, by the names of their pins.
    pub fn links(&self) -> Result<BTreeMap<String, Link>> {
        // bpftool 7.1 lists no TCX, but shows a pinned link by its numbers.
        let shown = self.host().script(&format!(
            "cd {BPFFS}/hooks; for l in *; do [ -f $l ] || continue; echo \"$l $(bpftool -j link show pinned $PWD/$l)\"; done"
        ))?;
        let link = |line: &str| {
            let (pin, link) = line.split_once(' ').context("a name and JSON")?;
            let link: Value = serde_json::from_str(link).context("bpftool prints JSON")?;
            let number = |key: &str| link[key].as_u64().with_context(|| format!("no {key} in {link}"));
            Ok((pin.to_owned(), Link { id: number("id")?, program: number("prog_id")? }))
        };
        shown.lines().map(link).collect()
    }

    /// The number of the map that is pinned under this name.
    pub fn map_id(&self, name: &str) -> Result<u64> {
        let shown =
            self.host().run(&["bpftool", "-j", "map", "show", "pinned", &format!("{BPFFS}/{name}")])?;
        let map: Value = serde_json::from_str(&shown).context("bpftool prints JSON")?;
        map["id"].as_u64().with_context(|| format!("no id in {map}"))
    }

    /// The layout that the pinned maps say they have.
    pub fn layout(&self) -> Result<u8> {
        Ok(self.settings()?[0])
    }

    /// Has the pinned maps say that they are of another layout: what a fw finds that knows another one.
    pub fn relabel(&self, layout: u8) -> Result<()> {
        self.write_settings(0, layout)
    }

    /// Has them say that their flows are of another layout, too.
    pub fn relabel_flows(&self, layout: u8) -> Result<()> {
        self.write_settings(4, layout)
    }

    fn write_settings(&self, at: usize, byte: u8) -> Result<()> {
        let mut value = self.settings()?;
        *value.get_mut(at).context("settings are longer")? = byte;
        let value: Vec<String> = value.iter().map(u8::to_string).collect();
        self.host()
            .script(&format!(
                "bpftool map update pinned {BPFFS}/settings key 0 0 0 0 value {}",
                value.join(" ")
            ))
            .map(drop)
    }

    fn settings(&self) -> Result<Vec<u8>> {
        let shown = self.host().script(&format!("bpftool -j map dump pinned {BPFFS}/settings"))?;
        let dump: Value = serde_json::from_str(&shown).context("bpftool prints JSON")?;
        let bytes = dump[0]["value"].as_array().context("a value of bytes")?;
        let byte = |byte: &Value| u8::from_str_radix(byte.as_str()?.trim_start_matches("0x"), 16).ok();
        bytes.iter().map(byte).collect::<Option<_>>().context("bytes in hexadecimal")
    }

    /// Fails unless each device has exactly the programs of which there are pins, one for each, asked from the kernel. How
    /// many there are.
    pub fn one_program_per_hook(&self) -> Result<usize> {
        let devices =
            self.host().script("cd /sys/class/net; for d in *; do echo $(cat $d/ifindex) $d; done")?;
        let links = self.links()?;
        let mut counted = 0;
        for line in devices.lines() {
            let (ifindex, device) = line.split_once(' ').context("an index and a name")?;
            for (direction, ending) in [(Direction::Ingress, "ingress"), (Direction::Egress, "egress")] {
                let pinned = links.keys().filter(|pin| pin.ends_with(&format!("{ending}-{ifindex}"))).count();
                let there = self.host().tcx_programs(device, direction)? as usize;
                ensure!(there == pinned, "{device} has {there} programs at {ending} and {pinned} pins");
                counted += there;
            }
            let pinned = links
                .keys()
                .filter(|pin| pin.trim_end_matches("_generic") == format!("uplink_xdp-{ifindex}"))
                .count();
            let xdp = self.host().run(&["ip", "-o", "link", "show", device])?.matches("prog/xdp").count();
            ensure!(xdp == pinned, "{device} has {xdp} programs at XDP and {pinned} pins");
            counted += xdp;
        }
        ensure!(counted == links.len(), "{} pins, but {counted} of them on devices: {links:?}", links.len());
        Ok(counted)
    }
}
