//! Containers whose first act is to send what is forbidden: nothing of it arrives, however many come at once.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::lab::frame::{Mac, ip_frame, tagged, udp};
use crate::lab::raw::{Listener, sender_here};
use crate::lab::{Container, Lab, Options, wait};

/// Runs so many containers to their end, `at_once` at a time, and fails if anything arrives that may not.
///
/// They are on a network without icc, and speak to a neighbour (plain, behind tags, over the gateway) and to another
/// network, over both families. `xtask` is the program that speaks in them. Before fw runs, two of them show that the
/// same acts do arrive with Docker alone.
pub fn churn(xtask: &Path, containers: usize, at_once: usize) -> Result<()> {
    // With bridge netfilter Docker's own rules would keep IPv4 neighbours apart.
    let lab = Lab::start(Options { bridge_netfilter: false, ..Options::default() })?;
    let closed = "com.docker.network.bridge.enable_icc=false";
    lab.network("N", &["--subnet=10.4.0.0/20", "--ipv6", "--subnet=2001:db8:4::/64", "-o", closed])?;
    lab.network("B", &["--subnet=10.2.0.0/24", "--ipv6", "--subnet=2001:db8:2::/64"])?;
    let [neighbour, stranger] =
        [lab.container("n1", &["--network=N"])?, lab.container("b1", &["--network=B"])?];
    let targets = [Target::at(&neighbour)?, Target::at(&stranger)?];
    let act = act(xtask, &lab, &neighbour, &stranger)?;

    run_all(&lab, "stock", 2, 2, &act)?;
    let [near, far] = targets.each_ref().map(Target::heard);
    println!("Docker alone, 2 containers: {near} at the neighbour, {far} on the other network");
    ensure!(near > 0 && far > 0, "what is forbidden has to arrive without fw");

    let daemon = lab.fw_run("")?;
    let before: u64 = lab.fw_drops()?.values().sum();
    let begun = Instant::now();
    run_all(&lab, "born", containers, at_once, &act)?;
    let [near, far] = targets.each_ref().map(Target::heard);
    let dropped = lab.fw_drops()?.values().sum::<u64>() - before;
    println!(
        "{containers} containers, {at_once} at a time, in {} s: {} of {} delivered, {dropped} packets dropped",
        begun.elapsed().as_secs(),
        near + far,
        containers * FRAMES
    );
    ensure!(near + far == 0, "{near} packets arrived at the neighbour, {far} on the other network");
    ensure!(dropped >= containers as u64, "only {dropped} packets were dropped: did they speak at all?");
    for (target, container) in targets.iter().zip([&neighbour, &stranger]) {
        let to = (container.ip()?, PORT);
        lab.host().within(|| UdpSocket::bind("0.0.0.0:0")?.send_to(WORDS.as_bytes(), to))??;
        target.hears().with_context(|| format!("{} hears nobody", container.name))?;
    }
    daemon.terminate()
}

/// The words are told from everything else that comes in.
struct Target(Listener);

impl Target {
    fn at(container: &Container) -> Result<Self> {
        Ok(Self(container.place.listen("eth0", None)?))
    }

    /// How many frames with the words have come since the last time.
    fn heard(&self) -> usize {
        let speaks = |frame: &&Vec<u8>| frame.windows(WORDS.len()).any(|window| window == WORDS.as_bytes());
        self.0.take().iter().filter(speaks).count()
    }

    fn hears(&self) -> Result<()> {
        wait::until("the words arrive", Duration::from_secs(5), || (self.heard() > 0).then_some(()))
    }
}

/// What each container does first: it finds out who it is, and lets [`speak`] speak for it.
fn act(xtask: &Path, lab: &Lab, neighbour: &Container, stranger: &Container) -> Result<String> {
    let gateway = lab.host().run(&["cat", "/sys/class/net/br-N/address"])?;
    let mac = neighbour.mac.context("the neighbour has a MAC address")?;
    Ok(format!(
        "set -- $(cat /sys/class/net/eth0/address) \
           $(ip -o addr show dev eth0 scope global | sed 's,.*inet6* \\([^/]*\\)/.*,\\1,'); \
         exec chroot /machine {} lab speak --gateway {} --near {mac} --own $1 --from $2 --from $3 \
           --to {} --to {} --to {} --to {}",
        xtask.display(),
        gateway.trim(),
        neighbour.ip()?,
        neighbour.ip6()?,
        stranger.ip()?,
        stranger.ip6()?
    ))
}

/// What a container says.
#[derive(Args)]
pub struct Speech {
    /// MAC address of the network's bridge.
    #[arg(long)]
    gateway: Mac,
    /// MAC address of the neighbour.
    #[arg(long)]
    near: Mac,
    /// The speaker's own.
    #[arg(long)]
    own: Mac,
    /// The speaker's addresses.
    #[arg(long)]
    from: Vec<IpAddr>,
    /// Addresses of the neighbour and of the stranger.
    #[arg(long)]
    to: Vec<IpAddr>,
}

/// Says the words out of `eth0` to everyone, in every way.
pub fn speak(speech: &Speech) -> Result<()> {
    let Speech { gateway, near, own, from, to } = speech;
    let sender = sender_here("eth0")?;
    let mut count = 0;
    for to in to {
        let from =
            from.iter().find(|from| from.is_ipv4() == to.is_ipv4()).context("a speaker has both families")?;
        let packet = udp((*from, 6001), (*to, PORT), WORDS.as_bytes());
        for whom in [gateway, near] {
            for tags in [&[][..], &[0], &[0, 0]] {
                sender.send(&tagged(&ip_frame(*whom, *own, &packet), tags))?;
                count += 1;
            }
        }
    }
    ensure!(count == FRAMES, "{count} frames were sent instead of {FRAMES}");
    Ok(())
}

/// Runs containers to their end; the first that cannot be run is an error.
fn run_all(lab: &Lab, name: &str, count: usize, at_once: usize, act: &str) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            let name = format!("{name}{number}");
            let run = ["run", "--rm", "--name", &name, "--volume=/:/machine:ro", "--network=N", "fwlab"];
            lab.docker(&[&run[..], &["sh", "-c", act]].concat())?;
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.min(count)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
}

const WORDS: &str = "fw-forbidden";
const PORT: u16 = 5000;
/// Four addresses, two MAC addresses, three kinds of tags.
const FRAMES: usize = 24;
