//! `fw ban`, `fw unban`, `fw bans`: sources that the daemon shuts out beside the policy, for a time or until they are
//! lifted.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::json;

use super::time::{parse_span, span};
use super::{Failure, Outcome, Pins, print, reload};
use crate::bans::{Ban, wall_clock};
use crate::control::{Answer, Request, ask, socket};
use crate::datapath::Directory;
use crate::policy::{parse_prefix, shown_prefix};
use crate::typed_on::typed_on;
use crate::view::{self, Row, row};

/// Who is meant.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Who {
    /// Addresses or prefixes
    #[arg(value_name = "CIDR", value_parser = parse_prefix)]
    prefixes: Vec<IpNet>,
    /// Also those in this file, one on each line, `#` begins a comment; `-` is standard input
    #[arg(long, value_name = "LIST")]
    file: Option<PathBuf>,
}

/// Options of `fw ban`.
#[derive(Debug, Args)]
pub struct NewBan {
    #[command(flatten)]
    who: Who,
    /// For this time (30s, 10m, 1h, 7d, or seconds); without it until `fw unban`
    #[arg(long = "for", value_name = "TIME", value_parser = parse_span)]
    time: Option<Duration>,
    /// The reason, for `fw bans`
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    /// Also whoever types this, and this host itself
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    pins: Pins,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Options of `fw unban`.
#[derive(Debug, Args)]
pub struct Unban {
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    pins: Pins,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Options of `fw bans`.
#[derive(Debug, Args)]
pub struct Bans {
    #[command(flatten)]
    pins: Pins,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The longest reason, in characters.
const LONGEST_WHY: usize = 200;

/// Bans; done if they were banned already.
pub fn ban(options: NewBan) -> Outcome {
    let prefixes = options.who.all()?;
    let why = options.why.filter(|why| !why.is_empty());
    if why.as_ref().is_some_and(|why| why.chars().count() > LONGEST_WHY || why.contains(char::is_control)) {
        let what = "expected a reason of one line, with at most 200 characters";
        return Err(Failure::Usage(anyhow::anyhow!("--why: {what}")));
    }
    let request = Request::Ban {
        prefixes,
        seconds: options.time.map(|time| time.as_secs()),
        why,
        typed_on: typed_on(),
        force: options.force,
    };
    let answer = asked(&options.pins, &request)?;
    let Answer::Banned { new, known, unkept, observing } = &answer else {
        return Err(reload::failure(answer));
    };
    warn(unkept.as_ref());
    if *observing {
        eprintln!("fw: the policy observes: what they send is counted as dropped, and passes");
    }
    if options.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
    } else {
        let already = if *known > 0 { format!(", {known} banned already") } else { String::new() };
        print(&format!("{new} banned{already}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends bans; done if they were not banned.
pub fn unban(options: &Unban) -> Outcome {
    let answer = asked(&options.pins, &Request::Unban { prefixes: options.who.all()? })?;
    let Answer::Unbanned { lifted, unknown, unkept } = &answer else {
        return Err(reload::failure(answer));
    };
    warn(unkept.as_ref());
    for prefix in unknown {
        eprintln!("fw: {} was not banned", shown_prefix(prefix));
    }
    if options.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
    } else {
        print(&format!("{} banned no more\n", lifted.len()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists the bans.
pub fn list(options: &Bans) -> Outcome {
    let answer = asked(&options.pins, &Request::Bans)?;
    let Answer::Bans { bans } = &answer else { return Err(reload::failure(answer)) };
    let now = wall_clock();
    let rows: Vec<Row> = bans.iter().map(|ban| of_ban(ban, now, options.json)).collect();
    if options.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
    } else {
        print(&view::aligned(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn of_ban(ban: &Ban, now: u64, exact: bool) -> Row {
    let left = ban.until.map(|until| until.saturating_sub(now));
    let time = |second: u64| {
        let second = i64::try_from(second).ok().and_then(|second| Timestamp::from_second(second).ok());
        second.map(|time| time.to_string())
    };
    row(json!({
        "prefix": if exact { ban.prefix.to_string() } else { shown_prefix(&ban.prefix) },
        "since": time(ban.since),
        "until": ban.until.and_then(time),
        "left": if exact { json!(left) } else { json!(left.map_or_else(|| "until unbanned".to_owned(), span)) },
        "why": ban.why,
    }))
}

fn asked(pins: &Pins, request: &Request) -> Result<Answer, Failure> {
    let directory = Directory::open(&pins.bpffs)?;
    Ok(ask(&socket(directory.path())?, request)?)
}

fn warn(unkept: Option<&String>) {
    if let Some(why) = unkept {
        eprintln!("fw: WARNING: in force, but {why}");
    }
}

impl Who {
    /// All of them, each once.
    fn all(&self) -> Result<Vec<IpNet>, Failure> {
        let mut all: BTreeSet<IpNet> = self.prefixes.iter().copied().collect();
        if let Some(file) = &self.file {
            all.extend(listed(file)?);
        }
        Ok(all.into_iter().collect())
    }
}

/// The prefixes of a list.
fn listed(file: &Path) -> Result<Vec<IpNet>, Failure> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read the list from standard input")?;
        text
    } else {
        std::fs::read_to_string(file).with_context(|| format!("cannot read the list {}", file.display()))?
    };
    let mut prefixes = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if !entry.is_empty() {
            let wrong = |message| Failure::Usage(anyhow::anyhow!("{}:{number}: {message}", file.display()));
            prefixes.push(parse_prefix(entry).map_err(wrong)?);
        }
    }
    Ok(prefixes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_where_it_is_wrong() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("list");
        std::fs::write(&file, "# scanners\n192.0.2.1 # one\n\n2001:db8::/32\n").expect("a file");
        let who = Who { prefixes: vec!["192.0.2.1/32".parse().expect("it")], file: Some(file.clone()) };
        let all = who.all().unwrap_or_else(|failure| panic!("{}", failure.text()));
        assert_eq!(all.iter().map(shown_prefix).collect::<Vec<_>>(), ["192.0.2.1", "2001:db8::/32"]);
        std::fs::write(&file, "192.0.2.1\n192.0.2.1/24\n").expect("a file");
        let failure = who.all().expect_err("bits below the prefix");
        assert_eq!(failure.code(), 2);
        assert!(failure.text().contains("list:2: "), "{}", failure.text());
    }

    #[test]
    fn a_ban_is_shown_with_what_is_left() {
        let ban = Ban { prefix: "192.0.2.1/32".parse().expect("it"), since: 0, until: Some(7300), why: None };
        let shown = |exact| serde_json::to_value(of_ban(&ban, 101, exact)).expect("JSON");
        assert_eq!(
            shown(true),
            json!({"prefix": "192.0.2.1/32", "since": "1970-01-01T00:00:00Z", "until": "1970-01-01T02:01:40Z",
                "left": 7199, "why": null})
        );
        assert_eq!((&shown(false)["prefix"], &shown(false)["left"]), (&json!("192.0.2.1"), &json!("1h 59m")));
        let for_good = of_ban(&Ban { until: None, ..ban }, 101, false);
        assert_eq!(for_good.get("left"), Some(&json!("until unbanned")));
    }
}
