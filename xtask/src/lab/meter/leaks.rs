//! The leak meter: forbidden pairs probed a hundred times a second, and what arrives of it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::poll::{PollFd, PollFlags, poll};

use super::super::place::Place;
use super::super::raw::{Listener, Sender};
use super::super::wait;
use super::{ANSWERS, Running, lock, until_tick};

/// A pair between which nothing may pass.
pub struct Forbidden {
    what: String,
    from: Place,
    way: Way,
    at: Place,
    hears: Hears,
    twin: (Place, SocketAddr),
}

enum Way {
    Datagrams(SocketAddr),
    Frames { device: String, frame: Frame },
}

type Frame = Box<dyn Fn(&[u8]) -> Vec<u8> + Send>;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Hears {
    Port(u16),
    Device(String),
}

impl Forbidden {
    /// UDP datagrams from a socket of `from.0` to `from.1`, where `at.0` listens on port `at.1`. The twin is one that may
    /// reach the same listener, by the address with it: it shows that whoever gets there is heard.
    ///
    /// Behind a neighbour whose MAC address is not known a datagram never leaves: for those there are frames.
    pub fn datagrams(
        what: &str,
        from: (&Place, SocketAddr),
        at: (&Place, u16),
        twin: (&Place, SocketAddr),
    ) -> Self {
        Self {
            what: what.to_owned(),
            from: from.0.clone(),
            way: Way::Datagrams(from.1),
            at: at.0.clone(),
            hears: Hears::Port(at.1),
            twin: (twin.0.clone(), twin.1),
        }
    }

    /// Whole frames out of a device of `from.0`, made by `frame` around a payload; `at.0` listens to all that comes in by
    /// its device `at.1`, in front of its own filters. The twin's datagrams have to come in there, too.
    pub fn frames(
        what: &str,
        from: (&Place, &str),
        frame: impl Fn(&[u8]) -> Vec<u8> + Send + 'static,
        at: (&Place, &str),
        twin: (&Place, SocketAddr),
    ) -> Self {
        Self {
            what: what.to_owned(),
            from: from.0.clone(),
            way: Way::Frames { device: from.1.to_owned(), frame: Box::new(frame) },
            at: at.0.clone(),
            hears: Hears::Device(at.1.to_owned()),
            twin: (twin.0.clone(), twin.1),
        }
    }
}

/// Probes forbidden pairs until it is dropped.
pub struct Leaks {
    running: Running<State>,
    names: Vec<String>,
}

/// What a lap of the leak meter saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaked {
    /// How many probes were sent.
    pub probes: u64,
    /// How many of them arrived, by pair; pairs of which none did are not named.
    pub arrived: BTreeMap<String, u64>,
}

impl Leaked {
    /// How many probes arrived, all pairs together.
    pub fn total(&self) -> u64 {
        self.arrived.values().sum()
    }
}

impl fmt::Display for Leaked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} probes arrived", self.total(), self.probes)?;
        for (pair, count) in &self.arrived {
            write!(f, "; {count} of {pair}")?;
        }
        Ok(())
    }
}

impl Leaks {
    /// Opens all sockets and begins. Every twin is heard before this returns.
    pub fn start(pairs: Vec<Forbidden>) -> Result<Self> {
        ensure!(!pairs.is_empty(), "a leak meter has pairs to probe");
        let mut names = Vec::new();
        let mut mouths = Vec::new();
        let mut ears: BTreeMap<(String, Hears), Ear> = BTreeMap::new();
        for pair in pairs {
            let what = pair.what.clone();
            let opened = (|| {
                if let Entry::Vacant(ear) = ears.entry((pair.at.name().to_owned(), pair.hears.clone())) {
                    ear.insert(Ear::open(&pair.at, &pair.hears)?);
                }
                Mouth::open(pair)
            })();
            mouths.push(opened.with_context(|| format!("cannot probe {what}"))?);
            names.push(what);
        }
        let state = State { pairs: vec![Counts::default(); names.len()], lap: 1, since: Instant::now() };
        let ears: Vec<Ear> = ears.into_values().collect();
        let run = format!("{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let running = Running::start(state, move |stop, state| work(stop, state, &mouths, &ears, &run));
        let leaks = Self { running, names };
        leaks.twins()?;
        Ok(leaks)
    }

    /// What was seen since the last lap, or the start. An error if a pair was probed less than a hundred times a second,
    /// or if its target does not hear the twin.
    pub fn lap(&self) -> Result<Leaked> {
        self.running.shared().lap += 1;
        self.twins()?;
        let mut state = self.running.shared();
        let span = state.since.elapsed();
        state.since = Instant::now();
        let mut leaked = Leaked::default();
        for (name, pair) in self.names.iter().zip(&mut state.pairs) {
            ensure!(
                u128::from(pair.sent) >= span.as_millis() * LEAST / 1000,
                "{name} was probed only {} times in {} s; {} could not be sent",
                pair.sent,
                span.as_secs_f32(),
                pair.refused
            );
            leaked.probes += pair.sent;
            if pair.arrived > 0 {
                leaked.arrived.insert(name.clone(), pair.arrived);
            }
            (pair.sent, pair.refused, pair.arrived) = (0, 0, 0);
        }
        Ok(leaked)
    }

    /// Waits until the target of every pair has heard the twin's word of this lap.
    fn twins(&self) -> Result<()> {
        let deaf = || {
            let state = self.running.shared();
            let deaf = self.names.iter().zip(&state.pairs).find(|(_, pair)| pair.heard < state.lap);
            deaf.map(|(name, _)| name.clone())
        };
        wait::until("the twin of each forbidden pair is heard", ANSWERS, || deaf().is_none().then_some(()))
            .with_context(|| format!("{} would not be heard if it leaked", deaf().unwrap_or_default()))
    }
}

struct State {
    pairs: Vec<Counts>,
    /// The twins say this number until it is heard.
    lap: u64,
    since: Instant,
}

#[derive(Clone, Default)]
struct Counts {
    sent: u64,
    refused: u64,
    arrived: u64,
    heard: u64,
}

struct Mouth {
    way: Open,
    twin: (UdpSocket, SocketAddr),
}

enum Open {
    Datagrams(UdpSocket, SocketAddr),
    Frames(Sender, Frame),
}

impl Mouth {
    fn open(pair: Forbidden) -> Result<Self> {
        let way = match pair.way {
            Way::Datagrams(to) => Open::Datagrams(socket(&pair.from, to)?, to),
            Way::Frames { device, frame } => Open::Frames(pair.from.sender(&device)?, frame),
        };
        Ok(Self { way, twin: (socket(&pair.twin.0, pair.twin.1)?, pair.twin.1) })
    }

    fn say(&self, words: &[u8]) -> bool {
        match &self.way {
            Open::Datagrams(socket, to) => socket.send_to(words, to).is_ok(),
            Open::Frames(sender, frame) => sender.send(&frame(words)).is_ok(),
        }
    }
}

/// Not connected, so that an ICMP error does not make the next probe fail.
fn socket(place: &Place, to: SocketAddr) -> Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = place.within(|| UdpSocket::bind(any))?.context("cannot open a socket")?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

enum Ear {
    Port(UdpSocket),
    Device(Listener),
}

impl Ear {
    fn open(at: &Place, hears: &Hears) -> Result<Self> {
        match hears {
            Hears::Port(port) => {
                let socket = at.within(|| UdpSocket::bind(("::", *port)))?;
                let socket =
                    socket.with_context(|| format!("cannot listen on {port}/udp in {}", at.name()))?;
                socket.set_nonblocking(true)?;
                Ok(Self::Port(socket))
            }
            Hears::Device(device) => Ok(Self::Device(at.listen(device, None)?)),
        }
    }

    fn take(&self, mut each: impl FnMut(&[u8])) {
        match self {
            Self::Port(socket) => {
                let mut buffer = [0; 2048];
                while let Ok(length) = socket.recv(&mut buffer) {
                    each(&buffer[..length]);
                }
            }
            Self::Device(listener) => listener.take().iter().for_each(|frame| each(frame)),
        }
    }
}

fn work(stop: &AtomicBool, state: &Mutex<State>, mouths: &[Mouth], ears: &[Ear], run: &str) {
    let begun = Instant::now();
    let mut sent = 0;
    let mut next = begun;
    while !stop.load(Ordering::Relaxed) {
        // Behind its time it catches up, for the probes of a second belong to it.
        let due = begun.elapsed().as_millis() / PAUSE.as_millis();
        for _ in 0..BURST {
            if sent < due {
                say(state, mouths, &format!("{run} {sent}"));
                sent += 1;
            }
        }
        next = (next + PAUSE).max(Instant::now());
        let mut sockets: Vec<_> = ears
            .iter()
            .filter_map(|ear| match ear {
                Ear::Port(socket) => Some(PollFd::new(socket.as_fd(), PollFlags::POLLIN)),
                Ear::Device(_) => None,
            })
            .collect();
        poll(&mut sockets, until_tick(next)).ok();
        for ear in ears {
            ear.take(|bytes| hear(state, bytes, run));
        }
    }
}

/// Each pair says its word, and each twin that was not heard in this lap.
fn say(state: &Mutex<State>, mouths: &[Mouth], words: &str) {
    let mut state = lock(state);
    let lap = state.lap;
    for (number, (mouth, pair)) in mouths.iter().zip(&mut state.pairs).enumerate() {
        if mouth.say(format!("{LEAK}{number} {words}").as_bytes()) {
            pair.sent += 1;
        } else {
            pair.refused += 1;
        }
        if pair.heard < lap {
            let (socket, to) = &mouth.twin;
            socket.send_to(format!("{TWIN}{number} {words} {lap}").as_bytes(), to).ok();
        }
    }
}

fn hear(state: &Mutex<State>, bytes: &[u8], run: &str) {
    for mark in [LEAK, TWIN] {
        let Some(at) = bytes.windows(mark.len()).position(|window| window == mark.as_bytes()) else {
            continue;
        };
        let text = String::from_utf8_lossy(&bytes[at + mark.len()..]);
        let mut words = text.split([' ', '\0']);
        let pair = words.next().and_then(|word| word.parse::<usize>().ok());
        if words.next() != Some(run) {
            continue;
        }
        let last = words.nth(1).and_then(|word| word.parse::<u64>().ok());
        let mut state = lock(state);
        let Some(pair) = pair.and_then(|pair| state.pairs.get_mut(pair)) else { continue };
        if mark == LEAK {
            pair.arrived += 1;
        } else {
            pair.heard = pair.heard.max(last.unwrap_or_default());
        }
    }
}

/// No two meters say the same.
static RUNS: AtomicU32 = AtomicU32::new(0);
const LEAK: &str = "fw-leak ";
const TWIN: &str = "fw-twin ";
/// Probes a second that a pair has to get.
const LEAST: u128 = 100;
/// Probes of a pair in one go, when the machine was busy elsewhere.
const BURST: usize = 25;
/// Between two probes of a pair.
const PAUSE: Duration = Duration::from_millis(8);
