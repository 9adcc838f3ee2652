//! Soaks: what must go on for minutes while the kernel forgets and asks again.

mod churn;
mod metrics;
mod networks;
pub mod scan;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;

pub use self::churn::{Speech, churn, speak};
pub(crate) use self::metrics::{ADDRESS, Scrapes, scrape};
pub use self::metrics::{flows_told, metrics, series, write_flows};
pub use self::networks::networks;
use crate::lab::{Lab, OUTSIDE, OUTSIDE6, Options, wait};
use crate::{replace, workspace};

/// What `cargo xtask soak` does.
#[derive(Subcommand)]
pub enum Soak {
    /// The gateway stays reachable on a network without icc while neighbours expire every 30 seconds.
    Neighbours {
        /// How long.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// fw is started again and again under load, also by another fw whose maps are laid out otherwise.
    Restarts {
        /// How often by the same fw.
        #[arg(long, default_value_t = 50)]
        restarts: u32,
        /// How often by another one, up and down in turns.
        #[arg(long, default_value_t = 10)]
        upgrades: u32,
    },
    /// Containers whose first act is to send what is forbidden deliver nothing.
    Churn {
        /// How many.
        #[arg(long, default_value_t = 500)]
        containers: usize,
        /// How many run at the same time.
        #[arg(long, default_value_t = 50)]
        at_once: usize,
    },
    /// Networks and containers come and go: when they are in force, and what is left of them.
    Networks {
        /// How many of each.
        #[arg(long, default_value_t = 200)]
        count: usize,
        /// How often.
        #[arg(long, default_value_t = 1)]
        rounds: usize,
    },
    /// Every port of a host with thirty containers is scanned from outside: `fw status` says the same.
    Scan,
    /// How many series the metrics have on a host with many containers, and what a scrape takes, with many flows too.
    Metrics {
        /// How many containers.
        #[arg(long, default_value_t = 200)]
        containers: usize,
        /// How many flows.
        #[arg(long, default_value_t = 1_000_000)]
        flows: usize,
    },
}

/// Runs a soak.
pub fn run(soak: &Soak) -> Result<()> {
    match soak {
        Soak::Neighbours { minutes } => neighbours(Duration::from_secs(minutes * 60), Expiry::LONG),
        Soak::Restarts { restarts, upgrades } => {
            workspace::build_fw()?;
            let other = replace::other::build()?;
            replace::restarts(*restarts, *upgrades, Some(&other), 100)
        }
        Soak::Churn { containers, at_once } => {
            churn(&std::env::current_exe().context("cannot find this program")?, *containers, *at_once)
        }
        Soak::Networks { count, rounds } => networks(*count, *rounds),
        Soak::Scan => {
            workspace::build_fw()?;
            scan::scan()
        }
        Soak::Metrics { containers, flows } => metrics(*containers, *flows),
    }
}

/// After how long neighbours are asked for again.
#[derive(Clone, Copy, Debug)]
pub struct Expiry {
    reachable: Duration,
    stale: Duration,
    pause: Duration,
}

impl Expiry {
    /// Thirty seconds.
    pub const LONG: Self = Self {
        reachable: Duration::from_secs(30),
        stale: Duration::from_secs(30),
        pause: Duration::from_secs(5),
    };
    /// One second.
    pub const SHORT: Self = Self {
        reachable: Duration::from_secs(1),
        stale: Duration::from_secs(1),
        pause: Duration::from_millis(700),
    };
}

/// Has a container of a network without icc reach its gateway and the outside for so long, over both families, both at
/// its end and at the host's with short-lived neighbours; fails at the first answer that does not come.
pub fn neighbours(span: Duration, expiry: Expiry) -> Result<()> {
    let lab = Lab::start(Options { bridge_netfilter: false, ..Options::default() })?;
    let closed = "com.docker.network.bridge.enable_icc=false";
    lab.network("N", &["--subnet=10.4.0.0/24", "--ipv6", "--subnet=2001:db8:4::/64", "-o", closed])?;
    let n1 = lab.container("n1", &["--network=N"])?;
    lab.container("n2", &["--network=N"])?;
    let server = lab.outside().serve_tcp("[::]:443", "R")?;
    let daemon = lab.fw_run("")?;
    for (place, device) in [(&n1.place, "eth0"), (lab.host(), "br-N")] {
        let (reachable, stale) = (expiry.reachable.as_millis(), expiry.stale.as_secs());
        place.script(&format!(
            "for v in ipv4 ipv6; do cd /proc/sys/net/$v/neigh/{device}; echo {reachable} >base_reachable_time_ms; \
             echo {stale} >gc_stale_time; echo 1 >delay_first_probe_time; done"
        ))?;
    }
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < span {
        let when = || format!("after {} s and {rounds} rounds", begun.elapsed().as_secs());
        for gateway in ["10.4.0.1", "2001:db8:4::1"] {
            let reached = n1.place.ping(gateway.parse()?)?.reached();
            ensure!(reached, "gateway {gateway} does not answer {}", when());
        }
        ensure!(n1.place.tcp((OUTSIDE, 443).into())?.reached(), "the outside does not answer {}", when());
        ensure!(
            n1.place.ping(OUTSIDE6.into())?.reached(),
            "the outside does not answer over IPv6 {}",
            when()
        );
        let own = n1.v4.context("n1 has an address")?;
        ensure!(lab.host().ping(own.into())?.reached(), "the container does not answer the host {}", when());
        rounds += 1;
        wait::pass(expiry.pause);
    }
    let innocent = ["spoofed-neighbour", "spoofed-source", "spoofed-mac", "bad-discovery", "icc"];
    for ((hook, reason), packets) in lab.fw_drops()? {
        ensure!(!innocent.contains(&reason.as_str()), "{hook} dropped {packets} as {reason}");
    }
    println!("{rounds} rounds in {} s: every answer came", begun.elapsed().as_secs());
    drop(server);
    daemon.terminate()
}
