//! What rules of netfilter cost beside fw: its own fail-safe in every layout that was thought of, its rules among Docker's,
//! and what Docker 28 and later ask in raw PREROUTING.
//!
//! The programs stay as they are, the rules change from sample to sample on one host: what differs is the rules.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};

use super::path;
use super::sample::Spread;
use super::street::{BRIDGE, FEW, Path, Street};
use crate::lab::Generation;
use crate::setup::{self, Part};
use crate::workspace;

/// The marks of a policy that names none: their field, and the bit that IN and REACH have.
const MARKS: &str = "0x3000000";
const INWARD: &str = "0x1000000";

/// Which packets: those that rules are asked about.
const PATHS: [Path; 3] = [Path::Established, Path::Reply, Path::New];

/// Samples of which the least counts: one of new flows, for each takes thousands of places in conntrack.
fn tries(path: Path) -> usize {
    if path == Path::New { 1 } else { 3 }
}

/// Rules in place of those that fw or Docker wrote, as a script for the host's shell.
struct Layout {
    name: String,
    script: String,
    /// Which host, by number.
    host: usize,
}

/// Layouts by turns, that without any first.
struct Group {
    title: &'static str,
    streets: Vec<Street>,
    layouts: Vec<Layout>,
}

/// Makes the hosts of a group, and says what is to be written on them.
type Make = fn(Generation) -> Result<(Vec<Street>, Vec<Layout>)>;

/// Measures those groups whose title contains `only`, and prints what was found.
pub(super) fn run(quick: bool, only: &str) -> Result<()> {
    setup::ensure(&[Part::Build, Part::Lab])?;
    workspace::build_fw()?;
    let rounds = if quick { 9 } else { 31 };
    let docker = Generation::default();
    let groups: [(_, _, Make); 4] = [
        ("fw, nat.owner = fw: the fail-safe, rules that come and go", docker, guards),
        ("fw, nat.owner = fw: the fail-safe, what stays", docker, of_their_own),
        ("fw, nat.owner = docker: among Docker's rules", docker, handed_over),
        ("fw, nat.owner = docker, Docker 28.5: raw PREROUTING", Generation::V28_5, raw),
    ];
    for (title, docker, make) in groups.into_iter().filter(|(title, ..)| title.contains(only)) {
        if let Some(obstacle) = docker.obstacle() {
            println!("\n{title}\n  SKIPPED: {obstacle}");
            continue;
        }
        let (mut streets, layouts) = make(docker).with_context(|| format!("cannot set up: {title}"))?;
        for street in &mut streets {
            for _ in 0..2 {
                street.greet(FEW)?;
            }
            street.calibrate()?;
        }
        measure(&Group { title, streets, layouts }, rounds)?;
    }
    Ok(())
}

/// What stands between the outside and the containers while no program does.
fn guards(docker: Generation) -> Result<(Vec<Street>, Vec<Layout>)> {
    let street = path::filtered(docker, true, &PATHS)?;
    let written = street.host().run(&["iptables-nft-save", "-t", "filter"])?;
    let clear = "for t in 'ip filter' 'inet guard' 'ip guard' 'netdev guard'; do nft delete table $t 2>/dev/null || :; done\n";
    // Of the bridges of this host; sets cost the same with five hundred.
    let bridges = format!("{{ \"{BRIDGE}\", \"docker0\" }}");
    let pairs = format!("{{ \"{BRIDGE}\" . \"{BRIDGE}\", \"docker0\" . \"docker0\" }}");
    let marked = format!("meta mark & {INWARD} != 0 accept");
    let known = "ct state established,related accept";
    let rest = format!("iifname . oifname {pairs} accept; oifname {bridges} drop");
    let chain = |family: &str, kind: &str, rules: &[&str]| {
        nft(&format!("table {family} guard {{ chain guard {{\n type {kind}\n{}\n}}\n}}", rules.join("\n")))
    };
    let forward = "filter hook forward priority filter";
    let nat = "nat hook postrouting priority 99";
    let egress = format!("filter hook egress device \"{BRIDGE}\" priority 0");
    let only_what_goes_in = format!(
        "oifname {bridges} meta mark & {INWARD} == 0 ct state != {{ established, related }} iifname . oifname != {pairs} drop"
    );
    // What leaves by the uplink is spared the question for its connection; one rule names one device.
    let inwards = written.replace("-A FORWARD -m mark", "-A FORWARD ! -o eth0 -m mark");
    ensure!(inwards != written, "fw has written other rules than were expected:\n{written}");
    let layouts = [
        ("none", String::new()),
        ("chains of iptables-nft, empty", restore("nft", "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n")),
        ("chains of iptables-nft, as fw writes them", restore("nft", &written)),
        ("chains of iptables-nft, the device first", restore("nft", &inwards)),
        ("nft, inet, forward, empty", chain("inet", forward, &[])),
        ("nft, inet, forward: marks, then states", chain("inet", forward, &[&marked, known, &rest])),
        ("nft, inet, forward: states, then marks", chain("inet", forward, &[known, &marked, &rest])),
        ("nft, inet, forward: one rule, devices first", chain("inet", forward, &[&only_what_goes_in])),
        ("nft, ip, forward, empty", chain("ip", forward, &[])),
        ("nft, ip, forward: marks, then states", chain("ip", forward, &[&marked, known, &rest])),
        ("nft, ip, nat postrouting: new connections alone", chain("ip", nat, &[&marked, &rest])),
        ("nft, netdev, egress of the bridge: marks alone", chain("netdev", &egress, &[&marked, "drop"])),
    ];
    Ok((vec![street], after(clear, layouts)))
}

/// What stays in a network namespace once it was there: the older tables, and that routing knows rules. Each has a host of
/// its own, and a second host without any shows how much that alone makes.
fn of_their_own(docker: Generation) -> Result<(Vec<Street>, Vec<Layout>)> {
    let streets: Vec<Street> = (0..4).map(|_| path::filtered(docker, true, &PATHS)).collect::<Result<_>>()?;
    let written = streets[0].host().run(&["iptables-nft-save", "-t", "filter"])?;
    for street in &streets {
        street.host().script("nft delete table ip filter")?;
    }
    streets[3].host().script(&format!(
        "ip route replace unreachable 10.100.0.0/24 table 77
         ip rule add fwmark 0/{INWARD} lookup 77 priority 77"
    ))?;
    let empty = restore("legacy", "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n");
    let layout = |host, name: &str, script| Layout { name: name.to_owned(), script, host };
    let layouts = vec![
        layout(0, "none", String::new()),
        layout(1, "none, on another host", String::new()),
        layout(2, "chains of iptables-legacy, empty", empty),
        layout(2, "chains of iptables-legacy, as fw writes them", restore("legacy", &written)),
        layout(3, "a routing rule for what has no mark", String::new()),
    ];
    Ok((streets, layouts))
}

/// Where the rules for our marks stand among Docker's.
fn handed_over(docker: Generation) -> Result<(Vec<Street>, Vec<Layout>)> {
    let street = path::filtered(docker, false, &PATHS)?;
    let written = street.host().run(&["iptables-nft-save", "-t", "filter"])?;
    let is_ours = |line: &&str| line.starts_with("-A DOCKER-USER") && line.contains("--comment fw");
    let ours: String = written.lines().filter(is_ours).fold(String::new(), |all, line| all + line + "\n");
    ensure!(ours.lines().count() == 3, "fw has written other rules than were expected:\n{written}");
    let with = |rules: &str, chain: &str| {
        let kept: String =
            written.lines().filter(|line| !is_ours(line)).fold(String::new(), |all, line| all + line + "\n");
        let rules = rules.replace("DOCKER-USER", chain);
        kept.replacen(&format!("-A {chain} "), &format!("{rules}-A {chain} "), 1)
    };
    // iptables-nft asks for a comment as it does for any match, by a call, and for a mark in place.
    let comment = "-m comment --comment fw ";
    let turned = |rules: &str| rules.replace(comment, "").replace("-m mark", &format!("{comment}-m mark"));
    let joined = format!(
        "-A DOCKER-USER -m mark --mark {INWARD}/{INWARD} {comment}-j ACCEPT\n\
         -A DOCKER-USER -o eth0 -m mark --mark 0x2000000/{MARKS} {comment}-j ACCEPT\n"
    );
    let any = format!("-A DOCKER-USER -m mark ! --mark 0x0/{MARKS} {comment}-j ACCEPT\n");
    let layouts = [
        ("no filter at all", String::new()),
        ("in DOCKER-USER, as fw writes them", restore("nft", &with(&ours, "DOCKER-USER"))),
        ("in DOCKER-USER, comments before marks", restore("nft", &with(&turned(&ours), "DOCKER-USER"))),
        ("in DOCKER-USER, one for IN and REACH", restore("nft", &with(&joined, "DOCKER-USER"))),
        (
            "in DOCKER-USER, without comments",
            restore("nft", &with(&ours.replace(comment, ""), "DOCKER-USER")),
        ),
        ("at the head of FORWARD, as fw writes them", restore("nft", &with(&ours, "FORWARD"))),
        ("at the head of FORWARD, one for any mark", restore("nft", &with(&any, "FORWARD"))),
        ("Docker's own alone", restore("nft", &with("", "FORWARD"))),
    ];
    Ok((vec![street], after("nft delete table ip filter 2>/dev/null || :\n", layouts)))
}

/// One rule for each endpoint, which Docker 28.2 and later ask about every packet.
fn raw(docker: Generation) -> Result<(Vec<Street>, Vec<Layout>)> {
    let street = path::filtered(docker, false, &PATHS)?;
    let written = street.host().run(&["iptables-nft-save", "-t", "raw"])?;
    let inward = format!("-A PREROUTING -m mark --mark {INWARD}/{MARKS} -m comment --comment fw -j ACCEPT\n");
    let outward =
        format!("-A PREROUTING -m mark --mark 0x2000000/{MARKS} -m comment --comment fw -j ACCEPT\n");
    let any = format!("-A PREROUTING -m mark ! --mark 0x0/{MARKS} -m comment --comment fw -j ACCEPT\n");
    ensure!(written.contains(&any), "fw has written other rules than were expected:\n{written}");
    let mut layouts = vec![("none, as with allow-direct-routing".to_owned(), String::new())];
    for endpoints in [1, 10, 100, 500] {
        let mut dockers = String::new();
        for number in 0..endpoints {
            let (third, fourth) = (number / 250, 2 + number % 250);
            writeln!(dockers, "-A PREROUTING -d 10.100.{third}.{fourth}/32 ! -i {BRIDGE} -j DROP")
                .expect("a string");
        }
        let all = [
            ("without a rule of fw's", String::new()),
            ("behind one for IN", inward.clone()),
            ("behind one for IN and one for OUT", inward.clone() + &outward),
            ("behind fw's, for any mark", any.clone()),
        ];
        layouts.extend(all.map(|(what, ours)| {
            let text = format!("*raw\n:PREROUTING ACCEPT [0:0]\n{ours}{dockers}COMMIT\n");
            (format!("{endpoints} endpoints, {what}"), restore("nft", &text))
        }));
    }
    Ok((vec![street], after("nft delete table ip raw 2>/dev/null || :\n", layouts)))
}

/// A table as nft reads it, as a script.
fn nft(table: &str) -> String {
    format!("nft -f - <<'END'\n{table}\nEND\n")
}

/// A table as iptables-restore reads it, as a script.
fn restore(flavour: &str, text: &str) -> String {
    format!("iptables-{flavour}-restore <<'END'\n{text}END\n")
}

/// Layouts, each of which begins by taking the one before away.
fn after(clear: &str, layouts: impl IntoIterator<Item = (impl Into<String>, String)>) -> Vec<Layout> {
    let layout = |(name, script): (_, String)| Layout {
        name: Into::into(name),
        script: format!("{clear}{script}true"),
        host: 0,
    };
    layouts.into_iter().map(layout).collect()
}

fn measure(Group { title, streets, layouts }: &Group, rounds: usize) -> Result<()> {
    println!("\n{title}");
    let mut found: BTreeMap<(Path, usize), Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for turn in 0..layouts.len() {
            let number = (turn + round) % layouts.len();
            let Layout { name, script, host } = &layouts[number];
            let street = &streets[*host];
            street.host().script(script).with_context(|| format!("cannot set up: {name}"))?;
            for path in PATHS {
                // What else the machine does only ever adds.
                let samples: Vec<f64> = (0..tries(path))
                    .map(|_| street.sample(path))
                    .collect::<Result<_>>()
                    .with_context(|| name.clone())?;
                found
                    .entry((path, number))
                    .or_default()
                    .push(samples.into_iter().fold(f64::INFINITY, f64::min));
            }
        }
    }
    for path in PATHS {
        println!("  {}", path.name());
        let least = &found[&(path, 0)];
        for (number, Layout { name, .. }) in layouts.iter().enumerate() {
            let samples = &found[&(path, number)];
            let ns = Spread::of(samples.iter().copied()).context("a round")?;
            let more = samples.iter().zip(least).map(|(sample, least)| sample - least);
            let more = Spread::of(more).context("a round")?;
            println!(
                "    {name:52} {:7.0} ns  {:+6.0} ({:+.0} to {:+.0})",
                ns.median, more.median, more.least, more.most
            );
        }
    }
    Ok(())
}
