//! Static nftables tables that stand when no program does: between neighbours without `icc`, and before containers where
//! the policy says `fallback = "closed"`. The only place that runs nft.
//!
//! Each drops what lacks our mark, opens nothing, and holds whichever flavour of iptables Docker uses.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::foreseen::{Becomes, RuleChange};
use super::program::{PATIENCE, run, search, search_path};
use super::{HandoverError, Marks, Native, plain_name};

/// A table, or that it is not to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backstop {
    table: Table,
    /// Its one chain; none if the table is not wanted.
    chain: Option<String>,
}

/// The tables of fw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    /// Between ports of bridges.
    Bridge,
    /// Between the uplinks and Docker's bridges.
    Inet,
}

impl Table {
    const ALL: [Self; 2] = [Self::Bridge, Self::Inet];

    /// As nft names it.
    fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge fw",
            Self::Inet => "inet fw",
        }
    }

    /// Deleting needs a table, which the first line makes if there is none.
    fn removal(self) -> String {
        format!("table {name}\ndelete table {name}\n", name = self.name())
    }
}

/// The table as it was read back after it had been written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    wanted: Backstop,
    text: Option<String>,
}

/// A table of somebody else's, as nft lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftTable {
    /// Its family and name: `inet filter`.
    pub name: String,
    /// What is between its braces.
    pub text: String,
}

/// The tables in the text of `nft list ruleset` but for fw's own, and those of iptables-nft, which iptables prints.
pub fn nft_tables(ruleset: &str) -> Vec<NftTable> {
    let mut tables: Vec<NftTable> = Vec::new();
    let mut inside = false;
    for line in ruleset.lines() {
        if let Some(name) = line.strip_prefix("table ").and_then(|rest| rest.strip_suffix(" {")) {
            inside = !is_known(name);
            if inside {
                tables.push(NftTable { name: name.to_owned(), text: String::new() });
            }
        } else if line == "}" {
            inside = false;
        } else if inside && let Some(table) = tables.last_mut() {
            table.text += line;
            table.text.push('\n');
        }
    }
    tables
}

/// Whether a table is fw's, or one of iptables-nft's.
fn is_known(name: &str) -> bool {
    const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];
    let ours = Table::ALL.iter().any(|table| table.name() == name);
    let theirs = |(family, table): (&str, &str)| matches!(family, "ip" | "ip6") && IPTABLES.contains(&table);
    ours || name.split_once(' ').is_some_and(theirs)
}

/// The program `nft` of this host, for the network namespace of the calling thread.
#[derive(Clone, Debug)]
pub struct Nft {
    program: PathBuf,
}

impl Backstop {
    /// Keeps the ports of these bridges apart: what goes from one to another passes only if the port's hook has vouched
    /// for it. Nothing for no bridge.
    pub fn apart(marks: Marks, bridges: &BTreeSet<String>) -> Result<Self, HandoverError> {
        let rule = format!(
            "meta ibrname {} meta mark & {:#x} != {:#x} counter drop comment \"fw: neighbours without icc\"",
            listed(bridges)?,
            // The mark of what another port has vouched for is `inward`; all others are for elsewhere.
            marks.mask(),
            marks.inward(),
        );
        Ok(Self { table: Table::Bridge, chain: (!bridges.is_empty()).then_some(rule) })
    }

    /// Keeps out of these bridges what comes in by these uplinks and begins something, unless a hook has vouched for it:
    /// `fallback = "closed"`. Nothing for no bridge or no uplink.
    ///
    /// What else the host routes is not looked at. Nor is what ends in a socket of the host, which has no mark.
    pub fn closed(
        marks: Marks,
        uplinks: &BTreeSet<String>,
        bridges: &BTreeSet<String>,
    ) -> Result<Self, HandoverError> {
        let rule = format!(
            "iifname {} oifname {} ct state invalid,new,untracked meta mark & {:#x} != {:#x} counter drop comment \
             \"fw: fallback closed\"",
            listed(uplinks)?,
            listed(bridges)?,
            marks.mask(),
            marks.inward(),
        );
        let wanted = !(uplinks.is_empty() || bridges.is_empty());
        Ok(Self { table: Table::Inet, chain: wanted.then_some(rule) })
    }

    /// Whether there is nothing to keep out.
    pub fn is_empty(&self) -> bool {
        self.chain.is_none()
    }

    /// What nft is told: the old table goes and the new one comes in one transaction.
    fn script(&self) -> String {
        self.table.removal() + &self.table_text()
    }

    /// The table with its chain, as nft is told; nothing if it is not wanted.
    fn table_text(&self) -> String {
        let Some(rule) = &self.chain else { return String::new() };
        format!(
            "table {} {{\n\tchain forward {{\n\t\ttype filter hook forward priority 0; policy accept;\n\t\t{rule}\n\t}}\n}}\n",
            self.table.name()
        )
    }
}

/// The words of a table, sorted: numbers by their value, punctuation and names of what stands for a number aside.
fn words(table: &str) -> Vec<String> {
    let split = |c: char| c.is_whitespace() || "{},;\"".contains(c);
    let number = |word: &str| {
        let value = word.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
        value.map_or_else(|| word.to_owned(), |value| value.to_string())
    };
    let words = table.split(split).filter(|word| !word.is_empty() && *word != "filter" && *word != "0");
    let mut words: Vec<String> = words.map(number).collect();
    words.sort_unstable();
    words
}

/// Names of devices as an anonymous set.
fn listed(names: &BTreeSet<String>) -> Result<String, HandoverError> {
    // A `*` at the end would be a wildcard.
    if let Some(name) = names.iter().find(|name| !plain_name(name) || name.contains('*')) {
        return Err(HandoverError::Bridge { name: name.clone() });
    }
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    Ok(format!("{{ {} }}", names.join(", ")))
}

impl Nft {
    /// Looks for the program in `PATH` and the sbin directories.
    pub fn find() -> Option<Self> {
        search(&search_path(), "nft").map(|program| Self { program })
    }

    /// Brings the table to `wanted`, in one transaction; touches nothing that is as it was read back the last time.
    pub fn apply(&self, wanted: &Backstop, before: Option<&Standing>) -> Result<Standing, HandoverError> {
        let found = self.read(wanted.table)?;
        let stands = before.is_some_and(|before| before.wanted == *wanted && before.text == found);
        let needless = wanted.is_empty() && found.is_none();
        if !(stands || needless) {
            self.write(&wanted.script())?;
        }
        let text = if stands { found } else { self.read(wanted.table)? };
        if text.is_none() != wanted.is_empty() {
            return Err(HandoverError::Failed {
                program: self.program.display().to_string(),
                message: format!(
                    "`table {}` was not as written when read back; another program rewrites it",
                    wanted.table.name()
                ),
            });
        }
        Ok(Standing { wanted: wanted.clone(), text })
    }

    /// What [`Nft::apply`] would change; its error, if the kernel does not take the table. A table counts as the wanted
    /// one if the words of its rule are those, in whatever order and form nft prints them.
    pub fn plan(&self, wanted: &Backstop) -> Result<Option<RuleChange>, HandoverError> {
        let found = self.read(wanted.table)?;
        let change = match (found, &wanted.chain) {
            (None, None) => return Ok(None),
            (None, Some(_)) => Becomes::New,
            (Some(_), None) => Becomes::Gone,
            (Some(found), Some(_)) if words(&found) == words(&wanted.table_text()) => return Ok(None),
            (Some(_), Some(_)) => Becomes::Changed,
        };
        if change != Becomes::Gone {
            // The kernel says whether it can.
            self.run(&["-c", "-f", "-"], &wanted.script())?;
        }
        Ok(Some(RuleChange {
            place: "nft".to_owned(),
            table: wanted.table.name().to_owned(),
            change,
            rule: wanted.chain.clone().unwrap_or_else(|| "all of it".to_owned()),
        }))
    }

    /// Takes the tables away, if they are there.
    pub fn remove(&self) -> Result<(), HandoverError> {
        for table in Table::ALL {
            if self.read(table)?.is_some() {
                self.write(&table.removal())?;
            }
        }
        Ok(())
    }

    /// All tables, as nft lists them, without counters.
    pub fn ruleset(&self) -> Result<String, HandoverError> {
        Ok(self.ask(&["-s", "list", "ruleset"])?.unwrap_or_default())
    }

    /// The tables of nftables that iptables does not show, by family and name.
    pub fn tables(&self) -> Result<Vec<String>, HandoverError> {
        let tables = self.ask(&["list", "tables"])?.unwrap_or_default();
        let names = tables.lines().filter_map(|line| line.strip_prefix("table "));
        Ok(names.filter(|name| !is_of_iptables(name)).map(str::to_owned).collect())
    }

    /// What Docker's own nftables rules make of our marks; `None` where it has none (they translate, where it has any).
    ///
    /// Without them it is one run of nft.
    pub fn docker(&self, marks: Marks) -> Result<Option<Native>, HandoverError> {
        let tables = self.ask(&["list", "tables"])?.unwrap_or_default();
        let theirs = ["ip docker-bridges", "ip6 docker-bridges"];
        let stand = |table: &&str| tables.lines().any(|line| line.strip_prefix("table ") == Some(*table));
        let texts: Vec<_> =
            theirs.into_iter().filter(stand).map(|table| self.list(table)).collect::<Result<_, _>>()?;
        Ok(Native::read(&texts.into_iter().flatten().collect::<String>(), marks))
    }

    /// The table without its counters; `None` if there is none, or a kernel that has none of its family.
    fn read(&self, table: Table) -> Result<Option<String>, HandoverError> {
        self.list(table.name())
    }

    fn list(&self, table: &str) -> Result<Option<String>, HandoverError> {
        self.ask(&["-s", "list", "table"].into_iter().chain(table.split(' ')).collect::<Vec<_>>())
    }

    /// What nft prints; `None` for what is not there.
    fn ask(&self, arguments: &[&str]) -> Result<Option<String>, HandoverError> {
        let output = run(&self.program, arguments, "", PATIENCE)?;
        if output.ok {
            return Ok(Some(output.stdout));
        }
        let absent = ["No such file or directory", "not supported"];
        if absent.iter().any(|words| output.stderr.contains(words)) {
            return Ok(None);
        }
        Err(output.error(&self.program))
    }

    fn write(&self, script: &str) -> Result<(), HandoverError> {
        self.run(&["-f", "-"], script)
    }

    fn run(&self, arguments: &[&str], script: &str) -> Result<(), HandoverError> {
        let output = run(&self.program, arguments, script, PATIENCE)?;
        match output.stderr.contains("not supported") {
            _ if output.ok => Ok(()),
            true => Err(HandoverError::NoBridgeMeta),
            false => Err(output.error(&self.program)),
        }
    }
}

/// Whether iptables-nft keeps its rules in this table.
fn is_of_iptables(table: &str) -> bool {
    let name = table.strip_prefix("ip ").or_else(|| table.strip_prefix("ip6 "));
    name.is_some_and(|name| ["raw", "mangle", "nat", "filter", "security"].contains(&name))
}

impl Standing {
    /// Whether this is what was wanted.
    pub fn is(&self, wanted: &Backstop) -> bool {
        self.wanted == *wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn marks() -> Marks {
        Marks::new(24).expect("bit 24 is allowed")
    }

    #[test]
    fn what_nft_is_told() {
        let script = Backstop::apart(marks(), &names(&["docker0", "br-n"])).map(|wanted| wanted.script());
        let expected = "table bridge fw\ndelete table bridge fw\ntable bridge fw {\n\tchain forward {\n\
                        \t\ttype filter hook forward priority 0; policy accept;\n\
                        \t\tmeta ibrname { \"br-n\", \"docker0\" } meta mark & 0x3000000 != 0x1000000 counter drop \
                        comment \"fw: neighbours without icc\"\n\t}\n}\n";
        assert_eq!(script.expect("plain names"), expected);
        let closed = Backstop::closed(marks(), &names(&["eth0"]), &names(&["docker0"])).map(|it| it.script());
        let expected = "table inet fw\ndelete table inet fw\ntable inet fw {\n\tchain forward {\n\
                        \t\ttype filter hook forward priority 0; policy accept;\n\
                        \t\tiifname { \"eth0\" } oifname { \"docker0\" } ct state invalid,new,untracked \
                        meta mark & 0x3000000 != 0x1000000 counter drop comment \"fw: fallback closed\"\n\t}\n}\n";
        assert_eq!(closed.expect("plain names"), expected);
        let none = Backstop::closed(marks(), &names(&["eth0"]), &names(&[])).expect("nothing");
        assert!(none.is_empty());
        assert_eq!(none.script(), "table inet fw\ndelete table inet fw\n");
    }

    #[test]
    fn tables_of_others() {
        let text = "# Warning: table ip filter is managed by iptables-nft, do not touch!\ntable ip filter {\n\tchain a {\n\t}\n}\n\
                    table inet fw {\n\tchain b {\n\t}\n}\ntable inet filter {\n\tchain c {\n\t\tmeta mark 0x1 drop\n\t}\n}\n";
        let found = nft_tables(text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].name, "inet filter");
        assert_eq!(found[0].text, "\tchain c {\n\t\tmeta mark 0x1 drop\n\t}\n");
        // nft 1.0 lets a table of that name be anybody's in a family that iptables has none of.
        assert_eq!(nft_tables("table bridge filter {\n}\n").len(), 1);
    }

    #[test]
    fn a_name_that_would_mean_something_else_is_refused() {
        for name in ["br*", "br\"x", "a b", ""] {
            let found = Backstop::apart(marks(), &names(&[name]));
            assert!(matches!(found, Err(HandoverError::Bridge { .. })), "{name}: {found:?}");
            assert!(Backstop::closed(marks(), &names(&[name]), &names(&["br"])).is_err(), "{name}");
            assert!(Backstop::closed(marks(), &names(&["eth0"]), &names(&[name])).is_err(), "{name}");
        }
    }
}
