//! What the control plane takes: from Docker's event to the last map write, resync, restart, reload, memory.
//!
//! The daemon tells the time of each pass by itself, at level debug. What is its own work is counted in CPU time, which other
//! work on the machine does not lengthen; what waits (a hook, a request, a start) by the clock.
//!
//! One network and one port are made by a real dockerd;
//! where there are hundreds, [`Crowd`] tells of them in Docker's place.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

use super::crowd::{self, Crowd, Size};
use super::sheet::Sheet;
use super::told::{self, Pass};
use crate::lab::{Lab, Options, Place, wait};
use crate::setup::{self, Part};
use crate::workspace;

/// Measures; `quick` does less, with the daemon that is built for tests: times are larger than a release build's, how
/// often maps are written is not.
pub(super) fn run(quick: bool) -> Result<()> {
    setup::ensure(&[Part::Build, Part::Lab])?;
    let fw = if quick { workspace::build_fw()? } else { workspace::build_release_fw()? };
    let mut sheet = Sheet::begin("control", quick, if quick { "debug" } else { "release" })?;
    beside_docker(&mut sheet, &fw, if quick { 3 } else { 9 })?;
    if quick {
        crowded(&mut sheet, &fw, Size { networks: 20, containers: 40, ports: 40, alive: true }, 1)?;
    } else {
        crowded(&mut sheet, &fw, Size { networks: 500, containers: 1000, ports: 1000, alive: true }, 5)?;
    }
    sheet.end()
}

/// One network and one published port more on a host with a real dockerd, and a policy of many rules.
fn beside_docker(sheet: &mut Sheet, fw: &Path, rounds: usize) -> Result<()> {
    let lab = Lab::start(Options { fw_log: Some(told::LOG), ..Options::default() })?;
    let daemon = lab.fw_run_by(fw, "", &[])?;
    Sheet::about("dockerd makes one more, on a host with a handful");
    let (mut networks, mut ports) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let (network, container, port) =
            (format!("n{round}"), format!("c{round}"), format!("-p={}:80", 8000 + round));
        networks.push(told::passes_of(&lab, || lab.network(&network, &[]))?);
        let network = format!("--network={network}");
        ports.push(told::passes_of(&lab, || lab.container(&container, &[&network, &port]).map(drop))?);
    }
    say(sheet, "a network", &networks, true)?;
    say(sheet, "a container with a published port", &ports, true)?;

    Sheet::about("`fw reload` by another policy");
    for (what, count) in [("1 rule", 1), ("4000 rules, of 10,000 ports", 4000)] {
        let policy = lab.path("/run/lab/policy.toml");
        std::fs::write(&policy, rules(count))
            .with_context(|| format!("cannot write {}", policy.display()))?;
        let before = told::passes(&lab).len();
        let begun = Instant::now();
        lab.fw(&["reload"])?;
        let took = begun.elapsed();
        let passes = told::passes(&lab).split_off(before);
        let wrote = passes.iter().find(|pass| pass.wrote()).context("another policy is written")?;
        sheet.add(
            format!("{what}: from the command to its answer"),
            "ms",
            &[took.as_secs_f64() * 1e3],
            None,
        )?;
        sheet.add(
            format!("{what}: tables read, worked out, written, read back"),
            "ms",
            &[wrote.tables_ms()?],
            None,
        )?;
        sheet.add(format!("{what}: entries written and read back"), "", &[wrote.operations()?], None)?;
    }
    daemon.terminate()
}

/// A policy of so many rules, each for two or three ports: 10,000 for 4000 of them. More than 4095 are refused.
fn rules(count: usize) -> String {
    let mut next = 10_000;
    let mut policy = String::new();
    for number in 0..count {
        let last = next + 1 + number % 2;
        policy += &format!("[[allow]]\nname = \"r{number}\"\nproto = \"tcp\"\nports = [\"{next}-{last}\"]\n");
        next = last + 1;
    }
    policy
}

/// A host with many: started, resynced, one more of each, started again.
fn crowded(sheet: &mut Sheet, fw: &Path, size: Size, rounds: usize) -> Result<()> {
    let Size { networks, containers, ports, .. } = size;
    let begun = Instant::now();
    let crowd = Crowd::gather(size, told::LOG)?;
    Sheet::about(&format!(
        "{networks} networks, {containers} containers, {ports} published ports (gathered in {} s)",
        begun.elapsed().as_secs()
    ));
    let last = crowd::FIRST_PORT as usize + ports - 1;
    let policy = format!(
        "[[allow]]\nname = \"published\"\nproto = \"tcp\"\nports = [\"{}-{last}\"]\n",
        crowd::FIRST_PORT
    );
    let many = Many { crowd, fw, policy };
    // What must be is said of this size.
    let must = (networks == 500).then_some(25.0);
    many.first_starts(sheet, rounds, must)?;
    let mut full = Vec::new();
    wait::until("passes of the period", Duration::from_mins(2), || {
        full = told::passes(many.lab()).into_iter().filter(Pass::is_full).skip(1).collect();
        (full.len() >= rounds.min(3)).then_some(())
    })?;
    pass_in_full(sheet, &full)?;
    sheet.add("memory of the idle daemon (RSS)", "MB", &[told::resident(many.lab())?], must)?;
    sheet.add("memory of the maps", "MB", &[told::map_memory(many.lab())?], None)?;
    many.one_more(sheet, rounds, last + 1)?;
    many.starts_again(sheet, rounds)?;
    many.lab().fw_down()
}

/// A crowd, and the daemon that filters for it.
struct Many<'a> {
    crowd: Crowd,
    fw: &'a Path,
    policy: String,
}

impl Many<'_> {
    fn lab(&self) -> &Lab {
        self.crowd.lab()
    }

    /// Starts the daemon; seconds until it was ready, its first pass, and how long others waited for the kernel.
    fn start(&self, how: &str) -> Result<(f64, Pass, f64)> {
        told::forget(self.lab())?;
        let (ready, waited) = held_up(self.lab().host(), || {
            let arguments = ["--docker", crowd::SOCKET, "--attach", how];
            // It goes on when this handle is gone: it is ended by its number.
            std::mem::forget(self.lab().fw_begin(self.fw, &self.policy, &arguments)?);
            told::ready(self.lab(), Duration::from_mins(5))
        })?;
        let first = told::passes(self.lab()).into_iter().next().context("a first pass")?;
        Ok((ready, first, waited))
    }

    fn end(&self) -> Result<()> {
        self.lab().host().script("kill -TERM $(cat /run/lab/fw.pid)")?;
        let pid = std::fs::read_to_string(self.lab().path("/run/lab/fw.pid"))?;
        let process = self.lab().path(&format!("/proc/{}", pid.trim()));
        wait::until("fw ends", Duration::from_secs(30), || (!process.exists()).then_some(()))
    }

    /// Starts on a host without fw, by clsact and at last by TCX, which takes long. The daemon runs on.
    fn first_starts(&self, sheet: &mut Sheet, rounds: usize, must: Option<f64>) -> Result<()> {
        let ((), idle) = held_up(self.lab().host(), || {
            wait::pass(Duration::from_secs(5));
            Ok(())
        })?;
        sheet.add("longest wait of a netlink request while nothing starts", "ms", &[idle], None)?;
        let mut resyncs = Vec::new();
        for (how, rounds) in [("clsact", rounds), ("tcx", 1)] {
            let (mut readies, mut each, mut waits, mut hooks) =
                (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for round in 0..rounds {
                if round > 0 || how == "tcx" {
                    self.end()?;
                    self.lab().fw_down()?;
                }
                let (ready, first, waited) = self.start(how)?;
                ensure!(first.wrote(), "a first start writes all tables");
                readies.push(ready);
                each.push(first.clock_ms("hooks")? / first.number("changed")?);
                waits.push(waited);
                hooks.push(first.number("changed")?);
                resyncs.push(first.tables_ms()?);
            }
            let start = format!("first start by {how}");
            sheet.add(format!("{start}: hooks"), "", &hooks, None)?;
            sheet.add(format!("{start}: until ready"), "s", &readies, None)?;
            sheet.add(format!("{start}: one hook"), "ms", &each, None)?;
            sheet.add(
                format!("{start}: longest wait of another's netlink request"),
                "ms",
                &waits,
                Some(50.0),
            )?;
        }
        sheet.add("all tables read, worked out, written, read back (CPU)", "ms", &resyncs, must)
    }

    /// One network and one container with a port more.
    fn one_more(&self, sheet: &mut Sheet, rounds: usize, first_port: usize) -> Result<()> {
        let (mut networks, mut ports) = (Vec::new(), Vec::new());
        for port in first_port..first_port + rounds {
            networks.push(told::passes_of(self.lab(), || {
                self.crowd.add_networks(1)?;
                self.crowd.tell("network", "create");
                Ok(())
            })?);
            let port = u16::try_from(port).context("a port")?;
            ports.push(told::passes_of(self.lab(), || {
                self.crowd.add_containers(&[vec![port]], true)?;
                self.crowd.tell("container", "start");
                Ok(())
            })?);
        }
        say(sheet, "one network more", &networks, false)?;
        say(sheet, "one container with a published port more", &ports, false)
    }

    /// Starts again where everything is in force. No daemon runs behind it.
    fn starts_again(&self, sheet: &mut Sheet, rounds: usize) -> Result<()> {
        let (mut readies, mut tables, mut waits) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            self.end()?;
            let (ready, first, waited) = self.start("tcx")?;
            readies.push(ready);
            tables.push(first.tables_ms()?);
            waits.push(waited);
        }
        sheet.add("start again, adopting: until ready", "s", &readies, None)?;
        sheet.add("start again: tables read, worked out, difference written (CPU)", "ms", &tables, None)?;
        sheet.add("start again: longest wait of another's netlink request", "ms", &waits, Some(50.0))?;
        self.end()
    }
}

/// What one network or port more took, of the passes that followed; the pass counts that wrote most.
fn say(sheet: &mut Sheet, what: &str, rounds: &[Vec<Pass>], must: bool) -> Result<()> {
    let (mut own, mut operations, mut hooks, mut each) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for passes in rounds {
        let wrote = passes.iter().filter(|pass| pass.wrote());
        let wrote: Vec<(f64, f64)> =
            wrote.map(|pass| Ok((pass.operations()?, pass.own_ms()?))).collect::<Result<_>>()?;
        let largest = wrote.iter().max_by(|one, other| one.0.total_cmp(&other.0));
        own.push(largest.context("a pass wrote")?.1);
        operations.push(wrote.iter().map(|(operations, _)| operations).sum());
        let changed: f64 = passes.iter().map(|pass| pass.number("changed")).sum::<Result<_>>()?;
        if changed > 0.0 {
            let took: f64 = passes.iter().map(|pass| pass.clock_ms("hooks")).sum::<Result<_>>()?;
            hooks.push(changed);
            each.push(took / changed);
        }
    }
    sheet.add(format!("{what}: own CPU time to the last map write"), "ms", &own, must.then_some(1.0))?;
    sheet.add(format!("{what}: entries written and read back"), "", &operations, Some(50.0))?;
    // A port's are attached at once, when it joins its bridge.
    if !hooks.is_empty() {
        sheet.add(format!("{what}: one hook of {}", hooks[0]), "ms", &each, None)?;
    }
    Ok(())
}

/// The parts of the pass that looks at everything again, every ten seconds.
fn pass_in_full(sheet: &mut Sheet, passes: &[Pass]) -> Result<()> {
    for (part, what) in [
        ("docker", "Docker asked (it answers at once here)"),
        ("containers", "links inside containers"),
        ("kernel", "devices, addresses, routes"),
        ("read", "tables read"),
        ("attached", "every hook asked about"),
        ("desired", "worked out"),
        ("plan", "compared"),
        ("rules", "iptables, nftables"),
    ] {
        let samples = passes.iter().map(|pass| pass.cpu_ms(part)).collect::<Result<Vec<_>>>()?;
        sheet.add(format!("full pass, every 10 s, CPU: {what}"), "ms", &samples, None)?;
    }
    Ok(())
}

/// Does it, and tells the longest that somebody else's request about a device has waited meanwhile, in milliseconds. It is
/// the request with which Docker begins as well: change a link, here in nothing.
fn held_up<T>(place: &Place, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| place.within(|| longest_wait(&stop)));
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let longest = asking.join().expect("asking does not panic")??;
        Ok((done?, longest.as_secs_f64() * 1e3))
    })
}

fn longest_wait(stop: &AtomicBool) -> Result<Duration> {
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    // `struct nlmsghdr` and `struct ifinfomsg`: RTM_SETLINK, with an answer, of the loopback device, no flag changed.
    let mut request = [0_u8; 32];
    request[..4].copy_from_slice(&32_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&19_u16.to_ne_bytes());
    request[6..8].copy_from_slice(&5_u16.to_ne_bytes());
    request[20..24].copy_from_slice(&1_i32.to_ne_bytes());
    let mut longest = Duration::ZERO;
    let mut answer = [0_u8; 256];
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        send(netlink.as_raw_fd(), &request, MsgFlags::empty())?;
        let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        longest = longest.max(begun.elapsed());
        let refused = answer.get(16..length).and_then(|status| status.first_chunk::<4>());
        let refused = refused.map_or(-1, |status| i32::from_ne_bytes(*status));
        ensure!(refused == 0, "a change of nothing is refused: {}", io::Error::from_raw_os_error(-refused));
        // Nothing comes: a pause between two.
        poll(&mut [PollFd::new(netlink.as_fd(), PollFlags::POLLIN)], 1_u16)?;
    }
    Ok(longest)
}
