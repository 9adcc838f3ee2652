//! Docker's own nftables rules (29 and later, `--firewall-backend=nftables`).
//!
//! The tables `docker-bridges` are Docker's alone: nothing is written there, and an `accept` of another table at the same
//! hook is not final. What they ask for our mark is an option of the daemon. Where it is missing, Docker's rules decide of
//! every packet, as they would without fw.

use serde::Serialize;

use super::Marks;

/// What Docker's nftables rules make of packets with our marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Native {
    /// Whether they accept what fw vouches for towards a container.
    pub accepts_mark: bool,
    /// Whether they drop what is addressed to containers directly, before they look at marks.
    pub drops_direct: bool,
}

impl Native {
    /// Reads the text of Docker's tables, as nft lists them; `None` if there are none.
    pub(crate) fn read(tables: &str, marks: Marks) -> Option<Self> {
        if !tables.contains("docker-bridges") {
            return None;
        }
        let has = |comment: &str| tables.contains(&format!("comment \"{comment}\""));
        let accepts = tables.lines().filter(|line| line.contains("comment \"ALLOW FW MARK\"")).any(|line| {
            accepted(line).is_some_and(|(mask, value)| {
                [marks.inward(), marks.reach()].iter().all(|mark| mark & mask == value)
                    && marks.outward() & mask != value
            })
        });
        Some(Self {
            accepts_mark: accepts || !has("UNPUBLISHED PORT DROP"),
            drops_direct: has("DROP DIRECT ACCESS") || has("SUBNET DROP EXTERNAL"),
        })
    }

    /// What to give dockerd, if anything: `reach` says whether networks reach each other.
    pub fn advice(&self, marks: Marks, reach: bool) -> Option<String> {
        let direct = reach && self.drops_direct;
        if self.accepts_mark && !direct {
            return None;
        }
        let mut options = Vec::new();
        if !self.accepts_mark {
            options.push(option(marks));
        }
        if direct {
            options.push("--allow-direct-routing".to_owned());
        }
        Some(format!(
            "Docker filters with its nftables backend, where its rules see also what fw has let through: give dockerd {} \
             (docs/operations.md has the lines for daemon.json)",
            options.join(" ")
        ))
    }
}

/// dockerd's option for packets that fw vouches for towards a container: IN and REACH have the lower bit, OUT has not.
fn option(marks: Marks) -> String {
    let bit = marks.inward();
    format!("--bridge-accept-fwmark={bit:#x}/{bit:#x}")
}

/// Mask and value of `meta mark & MASK == VALUE`, or of `meta mark VALUE`.
fn accepted(rule: &str) -> Option<(u32, u32)> {
    let words: Vec<&str> = rule.split_whitespace().skip_while(|word| *word != "mark").skip(1).collect();
    match words[..] {
        ["&" | "and", mask, "==", value, ..] => Some((number(mask)?, number(value)?)),
        [value, ..] => Some((u32::MAX, number(value)?)),
        [] => None,
    }
}

fn number(text: &str) -> Option<u32> {
    super::rule::number(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Docker 29 writes them for one network (moby, `nftabler`, golden files), cut to what is asked.
    const TABLE: &str = "table ip docker-bridges {
	chain raw-PREROUTING {
		ip daddr 192.168.0.2 iifname != \"br-dummy\" counter drop comment \"DROP DIRECT ACCESS\"
	}
	chain filter-forward-in__br-dummy {
		ct state established,related counter accept
		MARK
		counter drop comment \"UNPUBLISHED PORT DROP\"
	}
}";

    fn native(mark: &str) -> Option<Native> {
        Native::read(&TABLE.replace("MARK", mark), Marks::new(24).ok()?)
    }

    #[test]
    fn the_mark_is_accepted_where_docker_was_told_so() {
        for (rule, accepts) in [
            ("meta mark & 0x01000000 == 0x01000000 counter accept comment \"ALLOW FW MARK\"", true),
            ("meta mark and 16777216 == 16777216 counter accept comment \"ALLOW FW MARK\"", true),
            // All three marks, one alone, and somebody else's.
            ("meta mark & 0x03000000 != 0x00000000 counter accept comment \"ALLOW FW MARK\"", false),
            ("meta mark & 0x03000000 == 0x01000000 counter accept comment \"ALLOW FW MARK\"", false),
            ("meta mark 0x01000000 counter accept comment \"ALLOW FW MARK\"", false),
            ("meta mark & 0x00000003 == 0x00000002 counter accept comment \"ALLOW FW MARK\"", false),
            ("", false),
        ] {
            let found = native(rule);
            assert_eq!(found, Some(Native { accepts_mark: accepts, drops_direct: true }), "{rule}");
        }
        assert_eq!(Native::read("", Marks::new(24).expect("a bit")), None);
    }

    #[test]
    fn the_advice_names_the_options_that_are_missing() {
        let marks = Marks::new(20).expect("a bit");
        let advice = |accepts_mark, drops_direct, reach| {
            let advice = Native { accepts_mark, drops_direct }.advice(marks, reach);
            advice.map(|text| {
                text.split(" (docs").next().unwrap_or("").rsplit("dockerd ").next().unwrap_or("").to_owned()
            })
        };
        assert_eq!(advice(true, true, false), None);
        assert_eq!(advice(true, false, true), None);
        assert_eq!(advice(false, true, false).as_deref(), Some("--bridge-accept-fwmark=0x100000/0x100000"));
        assert_eq!(
            advice(false, true, true).as_deref(),
            Some("--bridge-accept-fwmark=0x100000/0x100000 --allow-direct-routing")
        );
        assert_eq!(advice(true, true, true).as_deref(), Some("--allow-direct-routing"));
    }
}
