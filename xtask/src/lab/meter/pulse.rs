//! The liveness meter: pings every ten milliseconds over pairs that may talk, and the longest time without an answer.

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::super::place::Place;
use super::super::wait;
use super::{ANSWERS, Running, lock, until_tick};

/// A pair that may talk.
#[derive(Clone, Debug)]
pub struct Allowed {
    what: String,
    tcp: bool,
    from: (Place, SocketAddr),
    at: (Place, u16),
}

impl Allowed {
    /// One TCP connection from `from.0` to `from.1`, at whose end `at.0` listens on port `at.1`. It has to last.
    pub fn tcp(what: &str, from: (&Place, SocketAddr), at: (&Place, u16)) -> Self {
        Self::new(what, true, from, at)
    }

    /// As [`Allowed::tcp`], datagrams of one socket.
    pub fn udp(what: &str, from: (&Place, SocketAddr), at: (&Place, u16)) -> Self {
        Self::new(what, false, from, at)
    }

    fn new(what: &str, tcp: bool, from: (&Place, SocketAddr), at: (&Place, u16)) -> Self {
        Self { what: what.to_owned(), tcp, from: (from.0.clone(), from.1), at: (at.0.clone(), at.1) }
    }
}

/// Pings over allowed pairs until it is dropped.
#[derive(Debug)]
pub struct Pulse {
    running: Running<State>,
    names: Vec<String>,
}

/// What a lap of the liveness meter saw, all pairs together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// How many pings were sent.
    pub sent: u64,
    /// How many of them stayed without an answer; of TCP none does.
    pub lost: u64,
    /// The longest time between two answers of a pair.
    pub longest: Duration,
    /// The pair of that gap.
    pub pair: String,
    /// The longest time for which the machine did not run the meter itself: no gap is known better than this.
    pub held_up: Duration,
}

impl fmt::Display for Beat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, lost, longest, pair, held_up } = self;
        let (longest, held_up) = (longest.as_millis(), held_up.as_millis());
        write!(
            f,
            "longest gap {longest} ms ({pair}; meter held up {held_up} ms), {lost} of {sent} pings lost"
        )
    }
}

impl Pulse {
    /// Opens connections and begins. Every pair has answered before this returns.
    pub fn start(pairs: &[Allowed]) -> Result<Self> {
        let lines: Result<Vec<_>> = pairs
            .iter()
            .map(|pair| Line::open(pair).with_context(|| format!("cannot ping over {}", pair.what)))
            .collect();
        let lines = lines?;
        let now = Instant::now();
        let state = State { pairs: vec![Count::new(now); pairs.len()], held_up: Duration::ZERO };
        let running = Running::start(state, move |stop, state| work(stop, state, lines));
        let pulse = Self { running, names: pairs.iter().map(|pair| pair.what.clone()).collect() };
        pulse.all_answer()?;
        pulse.running.shared().begin(Instant::now());
        Ok(pulse)
    }

    /// What was seen since the last lap, or the start. Waits until every pair answers, so that a gap is seen to its end;
    /// an error if one does not, or if its connection broke.
    pub fn lap(&self) -> Result<Beat> {
        self.all_answer()?;
        let mut state = self.running.shared();
        let mut beat = Beat { held_up: state.held_up, ..Beat::default() };
        for (name, pair) in self.names.iter().zip(&state.pairs) {
            beat.sent += pair.answered - pair.from;
            beat.lost += (pair.answered - pair.from).saturating_sub(pair.answers);
            if pair.longest >= beat.longest {
                (beat.longest, beat.pair) = (pair.longest, name.clone());
            }
        }
        state.begin(Instant::now());
        Ok(beat)
    }

    /// Waits until every pair has answered something that was asked after this call.
    fn all_answer(&self) -> Result<()> {
        let asked: Vec<u64> = self.running.shared().pairs.iter().map(|pair| pair.asked).collect();
        let silent = || {
            let state = self.running.shared();
            let mut pairs = self.names.iter().zip(&state.pairs).zip(&asked);
            pairs.find(|((_, pair), asked)| pair.answered <= **asked).map(|((name, pair), _)| {
                format!("{name} {}", if pair.broken { "lost its connection" } else { "does not answer" })
            })
        };
        wait::until("every allowed pair answers", ANSWERS, || silent().is_none().then_some(()))
            .with_context(|| silent().unwrap_or_default())
    }
}

#[derive(Debug)]
struct State {
    pairs: Vec<Count>,
    held_up: Duration,
}

impl State {
    /// A lap begins; a gap that is open goes on in it.
    fn begin(&mut self, now: Instant) {
        self.held_up = Duration::ZERO;
        for pair in &mut self.pairs {
            pair.from = pair.answered;
            pair.answers = 0;
            pair.longest = now.saturating_duration_since(pair.last);
        }
    }
}

#[derive(Clone, Debug)]
struct Count {
    /// Number of the last ping.
    asked: u64,
    /// Number of the last ping that was answered, and of the one at the lap's begin.
    answered: u64,
    from: u64,
    /// Answers in this lap.
    answers: u64,
    last: Instant,
    longest: Duration,
    broken: bool,
}

impl Count {
    fn new(now: Instant) -> Self {
        Self { asked: 0, answered: 0, from: 0, answers: 0, last: now, longest: Duration::ZERO, broken: false }
    }

    fn answer(&mut self, number: u64, now: Instant) {
        self.longest = self.longest.max(now.saturating_duration_since(self.last));
        self.last = now;
        self.answers += 1;
        self.answered = self.answered.max(number);
    }
}

/// Both ends of a pair.
enum Line {
    Tcp { near: TcpStream, far: TcpStream, read: Vec<u8> },
    Udp { near: UdpSocket, far: UdpSocket },
}

impl Line {
    fn open(pair: &Allowed) -> Result<Self> {
        let (from, to) = &pair.from;
        let (at, port) = &pair.at;
        if pair.tcp {
            let listener = at.within(|| TcpListener::bind(("::", *port)))?;
            let listener =
                listener.with_context(|| format!("cannot listen on {port}/tcp in {}", at.name()))?;
            let patience = TimeVal::seconds(ANSWERS.as_secs().cast_signed());
            setsockopt(&listener.as_fd(), sockopt::ReceiveTimeout, &patience)?;
            let near = from.connect(*to).with_context(|| format!("cannot connect to {to}"))?;
            let (far, _) = listener.accept().context("the connection did not arrive")?;
            for end in [&near, &far] {
                end.set_nodelay(true)?;
                end.set_nonblocking(true)?;
            }
            return Ok(Self::Tcp { near, far, read: Vec::new() });
        }
        let far = at.within(|| UdpSocket::bind(("::", *port)))?;
        let far = far.with_context(|| format!("cannot listen on {port}/udp in {}", at.name()))?;
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let near = from.within(|| UdpSocket::bind(any))?.context("cannot open a socket")?;
        near.connect(to)?;
        for end in [&near, &far] {
            end.set_nonblocking(true)?;
        }
        Ok(Self::Udp { near, far })
    }

    /// Whether it could be asked; if not, the connection is over.
    fn ask(&mut self, number: u64) -> bool {
        match self {
            Self::Tcp { near, .. } => near.write_all(&number.to_be_bytes()).is_ok(),
            Self::Udp { near, .. } => {
                // An ICMP error is told to the next call, and the datagram then is not sent.
                let bytes = number.to_be_bytes();
                near.send(&bytes).or_else(|_| near.send(&bytes)).ok();
                true
            }
        }
    }

    /// The far end answers what it has heard.
    fn echo(&mut self) {
        let mut buffer = [0; 4096];
        match self {
            Self::Tcp { far, .. } => {
                while let Ok(length @ 1..) = far.read(&mut buffer) {
                    far.write_all(&buffer[..length]).ok();
                }
            }
            Self::Udp { far, .. } => {
                while let Ok((length, from)) = far.recv_from(&mut buffer) {
                    far.send_to(&buffer[..length], from).ok();
                }
            }
        }
    }

    /// Numbers that came back; none if the connection is over.
    fn answers(&mut self) -> Option<Vec<u64>> {
        let mut buffer = [0; 4096];
        let mut numbers = Vec::new();
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).ok();
        match self {
            Self::Tcp { near, read, .. } => loop {
                match near.read(&mut buffer) {
                    Ok(0) => return None,
                    Ok(length) => read.extend(&buffer[..length]),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                        let whole = read.len() / 8 * 8;
                        numbers.extend(read.drain(..whole).as_slice().chunks(8).filter_map(number));
                        return Some(numbers);
                    }
                    Err(_) => return None,
                }
            },
            Self::Udp { near, .. } => {
                // An ICMP error stands in front of what came after it.
                let mut failures = 0;
                while failures < 2 {
                    match near.recv(&mut buffer) {
                        Ok(length) => numbers.extend(number(&buffer[..length])),
                        Err(_) => failures += 1,
                    }
                }
                Some(numbers)
            }
        }
    }

    fn ends(&self) -> [PollFd<'_>; 2] {
        let [near, far] = match self {
            Self::Tcp { near, far, .. } => [near.as_fd(), far.as_fd()],
            Self::Udp { near, far } => [near.as_fd(), far.as_fd()],
        };
        [near, far].map(|end| PollFd::new(end, PollFlags::POLLIN))
    }
}

fn work(stop: &AtomicBool, state: &Mutex<State>, lines: Vec<Line>) {
    // A connection that is over is asked no more, and would only keep the meter from waiting.
    let mut lines: Vec<Option<Line>> = lines.into_iter().map(Some).collect();
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next {
            let mut state = lock(state);
            state.held_up = state.held_up.max(now - next);
            next = now + PAUSE;
            for (line, pair) in lines.iter_mut().zip(&mut state.pairs) {
                let Some(open) = line else { continue };
                pair.asked += 1;
                if !open.ask(pair.asked) {
                    (*line, pair.broken) = (None, true);
                }
            }
        }
        poll(&mut lines.iter().flatten().flat_map(Line::ends).collect::<Vec<_>>(), until_tick(next)).ok();
        for (line, at) in lines.iter_mut().zip(0..) {
            let Some(open) = line else { continue };
            open.echo();
            let answers = open.answers();
            let (mut state, now) = (lock(state), Instant::now());
            let pair = &mut state.pairs[at];
            if let Some(numbers) = answers {
                for number in numbers {
                    pair.answer(number, now);
                }
            } else {
                (*line, pair.broken) = (None, true);
            }
        }
    }
}

/// Between two pings of a pair.
const PAUSE: Duration = Duration::from_millis(10);
