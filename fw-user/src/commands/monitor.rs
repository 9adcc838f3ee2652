//! `fw monitor`: dropped packets as they happen, with the names of devices, networks, containers and rules.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use clap::builder::PossibleValuesParser;
use fw_common::Reason;
use fw_common::tables::name_kind;
use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::json;

use super::{Failure, Outcome, Pins};
use crate::datapath::Directory;
use crate::monitor::capture::Capture;
use crate::monitor::follow::{Follow, Going};
use crate::monitor::repeats::{Lines, Repeats};
use crate::monitor::seen::Seen;
use crate::monitor::wanted::{self, Protocol, Wanted};
use crate::view::{self, row};

/// Options of `fw monitor`.
#[derive(Debug, Args)]
pub struct Options {
    /// Also what was dropped before this command began
    #[arg(long)]
    all: bool,
    /// Only packets from or to this container; may be given several times, as the others that choose
    #[arg(long, value_name = "NAME")]
    container: Vec<String>,
    /// Only packets from or to this network
    #[arg(long, value_name = "NAME")]
    network: Vec<String>,
    /// Only packets dropped for this reason (docs/reasons.md)
    #[arg(long, value_name = "REASON", hide_possible_values = true, value_parser = reasons())]
    reason: Vec<String>,
    /// Only packets from or to an address in this prefix
    #[arg(long, value_name = "CIDR", value_parser = wanted::prefix)]
    prefix: Vec<IpNet>,
    /// Only packets from or to this port
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// Only packets of this protocol: tcp, udp, icmp, icmpv6, igmp, gre, sctp, arp or a number
    #[arg(long, value_name = "NAME", value_parser = Protocol::parse)]
    proto: Vec<Protocol>,
    /// Print one JSON object on each line, one for each packet
    #[arg(long)]
    json: bool,
    /// Write the packets to a file as pcapng, each with its reason as a comment; - for stdout, where nothing else goes then
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Print at most so many lines a second, 0 for all; 50 unless told otherwise, on a terminal
    #[arg(long, value_name = "N", conflicts_with = "json")]
    lines: Option<u32>,
    /// Have each CPU write so many events a second while this runs, in place of 200; the rest is counted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    /// End after so many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    pins: Pins,
}

fn reasons() -> PossibleValuesParser {
    PossibleValuesParser::new(
        Reason::ALL.iter().filter(|reason| reason.is_drop()).map(|reason| reason.name()),
    )
}

/// Lines a second on a terminal.
const LINES: u32 = 50;

/// How often is said what was lost or not printed.
const TICK: Duration = Duration::from_secs(1);

/// Follows the drops until it is interrupted.
pub fn run(options: &Options) -> Outcome {
    let to_stdout = options.pcap.as_deref() == Some(Path::new("-"));
    if to_stdout && options.json {
        return Err(Failure::Usage(anyhow::anyhow!(
            "--json and --pcap - both write to stdout; name a file for one of them"
        )));
    }
    if to_stdout && io::stdout().is_terminal() {
        return Err(Failure::Usage(anyhow::anyhow!(
            "--pcap - writes bytes to stdout, which is a terminal; pipe it (`fw monitor --pcap - | tcpdump -r -`)"
        )));
    }
    // Before anything is followed, so that none of them ends it halfway.
    let signals = signals()?;
    let directory = Directory::open(&options.pins.bpffs)?;
    let follow = Follow::begin(directory, options.rate, options.all)?;
    let wanted = options.wanted(&follow)?;
    let capture = options.pcap.as_deref().map(capture).transpose()?;
    let now = Instant::now();
    let most = match options.lines {
        Some(0) => None,
        Some(most) => Some(most),
        None => io::stdout().is_terminal().then_some(LINES),
    };
    let mut monitor = Monitor {
        follow,
        wanted,
        form: if to_stdout { Form::Nothing } else { Form::of(options.json) },
        capture,
        left: options.count.unwrap_or(u64::MAX),
        repeats: Repeats::default(),
        lines: Lines::new(most, now),
        tally: Tally { since: now, shown: 0, others: 0, lost: 0 },
    };
    eprintln!("fw: following drops, a sample when there are many; ^C ends");
    let ended = monitor.run(&signals);
    let over = monitor.end();
    match ended.and(over) {
        Err(error) if is_reader_gone(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

impl Options {
    /// What is asked for, if there are such containers and networks.
    fn wanted(&self, follow: &Follow) -> Result<Wanted, Failure> {
        for (what, kind, given) in [
            ("container", name_kind::ENDPOINT, &self.container),
            ("network", name_kind::NETWORK, &self.network),
        ] {
            let known = follow.known.names(kind);
            if let Some(unknown) = given.iter().find(|name| !known.contains(&name.as_str())) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Failure::Usage(anyhow::anyhow!(
                    "fw knows no {what} {unknown}; those that it knows: {known}"
                )));
            }
        }
        let numbers =
            Reason::ALL.iter().filter(|reason| self.reason.iter().any(|name| name == reason.name()));
        Ok(Wanted {
            containers: self.container.clone(),
            networks: self.network.clone(),
            reasons: numbers.map(|reason| *reason as u8).collect(),
            prefixes: self.prefix.clone(),
            ports: self.port.clone(),
            protocols: self.proto.clone(),
        })
    }
}

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Lines,
    Json,
    /// Stdout is the capture's.
    Nothing,
}

impl Form {
    fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Lines }
    }
}

/// What became of all drops since this began.
struct Tally {
    since: Instant,
    shown: u64,
    /// Not what was asked for.
    others: u64,
    /// Without an event, as far as it was said.
    lost: u64,
}

struct Monitor {
    follow: Follow,
    wanted: Wanted,
    form: Form,
    capture: Option<Capture<Box<dyn Write>>>,
    /// Packets that may still be shown.
    left: u64,
    repeats: Repeats,
    lines: Lines,
    tally: Tally,
}

impl Monitor {
    fn run(&mut self, signals: &SignalFd) -> anyhow::Result<()> {
        let mut tick = Instant::now() + TICK;
        loop {
            let more = self.take()?;
            let now = Instant::now();
            for seen in self.repeats.due(now) {
                self.print_line(&seen)?;
            }
            if self.left == 0 {
                return Ok(());
            }
            if now >= tick {
                tick = now + TICK;
                match self.follow.go_on()? {
                    Going::On => self.say_losses()?,
                    Going::Anew => eprintln!("fw: the maps were made anew; following the new ones"),
                    Going::Gone => anyhow::bail!(
                        "fw was taken away (`fw down`), and with it what was followed; start `fw run` and this again"
                    ),
                }
            }
            if more {
                continue;
            }
            let next = self.repeats.next().map_or(tick, |due| due.min(tick));
            let wait = next.saturating_duration_since(Instant::now());
            // A moment more than that: what is due then is due.
            let wait = PollTimeout::try_from(wait.as_millis() as u64 + 1).unwrap_or(PollTimeout::MAX);
            let mut ready = [
                PollFd::new(self.follow.fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut ready, wait).context("cannot wait for events")?;
            if ready[1].any().unwrap_or(false) {
                return Ok(());
            }
        }
    }

    /// Shows what is waiting; whether there may be more.
    fn take(&mut self) -> anyhow::Result<bool> {
        let taken = self.follow.take()?;
        let some = !taken.is_empty();
        for seen in taken {
            if self.left == 0 || !self.wanted.holds(&seen.event, &seen.ends) {
                self.tally.others += 1;
                continue;
            }
            self.left -= 1;
            self.tally.shown += 1;
            self.show(seen)?;
        }
        if let Some(capture) = self.capture.as_mut().filter(|_| some) {
            capture.flush().context("cannot write the capture")?;
        }
        Ok(some)
    }

    fn show(&mut self, seen: Seen) -> anyhow::Result<()> {
        if let Some(capture) = &mut self.capture {
            capture.add(&seen, &self.follow.known).context("cannot write the capture")?;
        }
        match self.form {
            Form::Nothing => Ok(()),
            Form::Json => say(&format!("{}\n", serde_json::to_string(&seen.row(&self.follow.known))?)),
            Form::Lines => match self.repeats.take(seen, Instant::now()) {
                Some(first) => self.print_line(&first),
                None => Ok(()),
            },
        }
    }

    fn print_line(&mut self, seen: &Seen) -> anyhow::Result<()> {
        if self.lines.allows(seen, Instant::now()) { say(&seen.line(&self.follow.known)) } else { Ok(()) }
    }

    /// Says of which drops no event told, and which lines were not printed, since this was said last.
    fn say_losses(&mut self) -> anyhow::Result<()> {
        let total = self.follow.lost()?;
        let lost = total - self.tally.lost;
        self.tally.lost = total;
        let (lines, packets) = self.lines.take_beyond();
        if lines > 0 {
            eprintln!("fw: {lines} more lines with {packets} drops were not printed (--lines)");
        }
        if lost > 0 && self.form == Form::Json {
            let object = row(json!({"verdict": "lost", "count": lost}));
            say(&format!("{}\n", serde_json::to_string(&object)?))?;
        } else if lost > 0 {
            let which = if self.wanted.is_everything() { "" } else { ", of whatever kind" };
            eprintln!("fw: {lost} more drops without an event{which}: over the rate (--rate), or unread");
        }
        Ok(())
    }

    /// Says what is left to say. What waits in the ring is taken, so that every drop until now is shown, not asked for, or
    /// lost.
    fn end(mut self) -> anyhow::Result<()> {
        // A flood may write faster than this reads.
        for _ in 0..16 {
            if self.left == 0 || !self.take()? {
                break;
            }
        }
        for seen in self.repeats.rest() {
            self.print_line(&seen)?;
        }
        self.say_losses()?;
        let Tally { since, shown, others, lost } = self.tally;
        let others = match others {
            0 => String::new(),
            others => format!(", {others} not of what was asked for"),
        };
        eprintln!("fw: {shown} drops in {} s{others}, {lost} without an event", since.elapsed().as_secs());
        self.follow.end()
    }
}

/// The capture that is to be written.
fn capture(file: &Path) -> anyhow::Result<Capture<Box<dyn Write>>> {
    let to: Box<dyn Write> = if file == Path::new("-") {
        Box::new(io::stdout())
    } else {
        Box::new(File::create(file).with_context(|| {
            format!("cannot write the capture {}; name a file that this user may write", file.display())
        })?)
    };
    Capture::new(to).context("cannot write the capture")
}

/// Blocks the signals that end the command, and has them come as something to read.
fn signals() -> anyhow::Result<SignalFd> {
    let set = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    set.thread_block().context("cannot block signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).context("cannot wait for signals")
}

/// Writes a line to stdout at once. Unlike [`super::print`] it fails if the reader is gone: nothing else ends this command.
fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(view::lines(text).as_bytes())
        .and_then(|()| stdout.flush())
        .context("cannot write to stdout")
}

fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>();
        io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
