//! Metrics on a host with many containers and flows: how many series there are, and what a scrape takes.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fw_common::flow::state;

use crate::lab::{BPFFS, Lab, Options, http, wait};

/// Where the daemon serves them.
pub(crate) const ADDRESS: &str = "127.0.0.1:9768";
/// Pages of one sample.
const PAGES: usize = 15;
/// Flows that are written by one run of bpftool.
const CHUNK: usize = 50_000;

/// Makes so many containers, in networks of twenty, and so many flows. Fails if there are more series than before, or if the
/// number of flows is estimated wrongly.
pub fn metrics(containers: usize, flows: usize) -> Result<()> {
    let lab = Lab::start(Options::default())?;
    let policy = format!(
        "[tables]\nflows = {}\n[[allow]]\nname = \"published\"\nproto = \"tcp\"\nports = [\"20000-29999\"]\n",
        (flows * 5 / 4).max(1024)
    );
    let daemon = lab.fw_run_with(&policy, &["--metrics", ADDRESS])?;
    lab.container("first", &["-p", "20000:80"])?;
    known(&lab, 1)?;
    let before = sample(&lab, "1 container")?;
    for number in 0..containers {
        let network = format!("n{}", number / 20);
        if number % 20 == 0 {
            lab.network(&network, &[])?;
        }
        let port = format!("{}:80", 20_001 + number);
        lab.container(&format!("c{number}"), &["--network", &network, "-p", &port])?;
    }
    known(&lab, containers + 1)?;
    let after = sample(&lab, &format!("{containers} containers more"))?;
    ensure!(before == after, "{before} series became {after}");
    write_flows(&lab, flows)?;
    let (entries, live) = flows_told(&lab)?;
    sample(&lab, &format!("{flows} flows, half of them over"))?;
    println!("  told of them: {entries} entries, {live} alive");
    for (told, is) in [(entries, flows), (live, flows / 2)] {
        ensure!(told.abs_diff(is) * 20 <= is, "{told} flows are told, and there are {is}");
    }
    daemon.terminate()
}

/// Waits until so many containers are known.
fn known(lab: &Lab, containers: usize) -> Result<()> {
    wait::until("the containers are known", Duration::from_mins(2), || {
        (number(&page(lab).ok()?, "fw_endpoints ")? == containers).then_some(())
    })
}

/// Gets pages, and prints what they took; how many series there are.
fn sample(lab: &Lab, when: &str) -> Result<usize> {
    let Scrapes { series, bytes, read, cpu } = scrape(lab)?;
    let [read, cpu] = [read, cpu].map(|mut all| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    });
    println!(
        "{when}: {series} series beside reasons to pass and accept, {} kB; a scrape takes {read:.1} ms to read, and {cpu:.1} ms of CPU in all (medians of {PAGES})",
        bytes / 1000
    );
    Ok(series)
}

/// What some scrapes took.
pub(crate) struct Scrapes {
    /// Those of [`series`].
    pub(crate) series: usize,
    /// Its size.
    pub(crate) bytes: usize,
    /// Milliseconds for what is read, by the clock.
    pub(crate) read: Vec<f64>,
    /// Milliseconds of CPU from one page to the next.
    pub(crate) cpu: Vec<f64>,
}

/// Gets pages of the daemon that serves them at [`ADDRESS`].
pub(crate) fn scrape(lab: &Lab) -> Result<Scrapes> {
    let (mut read, mut cpu) = (Vec::new(), Vec::new());
    let mut text = page(lab)?;
    for _ in 0..PAGES {
        let used = real(&text, "process_cpu_seconds_total ")?;
        text = page(lab)?;
        cpu.push((real(&text, "process_cpu_seconds_total ")? - used) * 1e3);
        read.push(real(&text, "fw_scrape_duration_seconds ")? * 1e3);
    }
    let series = series(&text);
    Ok(Scrapes { series, bytes: text.len(), read, cpu })
}

/// How many series a page has, but for reasons to let packets go on, which come when they are first given.
pub fn series(page: &str) -> usize {
    let comes_later = |line: &str| line.contains("verdict=\"pass\"") || line.contains("verdict=\"accept\"");
    page.lines().filter(|line| !line.starts_with('#') && !comes_later(line)).count()
}

/// Writes so many flows into the kernel's map, the second half of them over.
pub fn write_flows(lab: &Lab, flows: usize) -> Result<()> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    let now = u32::try_from(now.tv_sec()).context("the clock of a machine that was started this century")?;
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| format!("{text} {byte:02x}"));
    let seen = [now, 1].map(|second| hex(&[second.to_le_bytes(), second.to_le_bytes()].concat()));
    // One that is kept for ten minutes, and SCTP, which is for eight seconds.
    let protocols = [253, 132];
    for chunk in (0..flows).step_by(CHUNK) {
        let mut batch = String::new();
        for number in chunk..flows.min(chunk + CHUNK) {
            let peer = hex(&u32::try_from(number)?.to_be_bytes());
            let over = usize::from(number >= flows / 2);
            let (seen, protocol) = (&seen[over], protocols[over]);
            // ::ffff:198.18.0.1, ::ffff:<number>, ports 4096 and 53.
            writeln!(
                batch,
                "map update pinned {BPFFS}/flows key hex 00 00 00 00 00 00 00 00 00 00 ff ff c6 12 00 01 \
                 00 00 00 00 00 00 00 00 00 00 ff ff{peer} 00 10 35 00 {protocol:02x} 00 00 00 value hex{seen} {:02x} 01 00 00",
                state::ANSWERED
            )?;
        }
        fs::write(lab.path("/run/lab/batch"), batch).context("cannot write a batch for bpftool")?;
        lab.host().script("bpftool batch file /run/lab/batch >/run/lab/batch.said 2>&1")?;
    }
    Ok(())
}

/// How many entries of the map of flows the page tells of, and how many of them are alive.
pub fn flows_told(lab: &Lab) -> Result<(usize, usize)> {
    let page = page(lab)?;
    let of = |name: &str| number(&page, name).with_context(|| format!("no {name} on the page"));
    Ok((of("fw_map_entries{map=\"flows\"} ")?, of("fw_flows{map=\"flows\"} ")?))
}

fn page(lab: &Lab) -> Result<String> {
    let stream = lab.host().within(|| TcpStream::connect(ADDRESS))?.context("cannot reach fw's metrics")?;
    Ok(http::ask(stream, "GET", "/metrics", &[])?.body)
}

fn number(page: &str, sample: &str) -> Option<usize> {
    page.lines().find_map(|line| line.strip_prefix(sample))?.parse().ok()
}

fn real(page: &str, sample: &str) -> Result<f64> {
    let value = page.lines().find_map(|line| line.strip_prefix(sample)).and_then(|value| value.parse().ok());
    value.with_context(|| format!("no {sample} on the page"))
}
