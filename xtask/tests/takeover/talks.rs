//! Conversations that go on for the whole test: who still answers, and the longest silence.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use xtask::lab::{Place, wait};

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// TCP; whoever opened it asks.
    Tcp,
    /// TCP; whoever accepted it asks, and the other end says nothing by itself.
    Pushed,
    Udp,
    Ping,
}

/// What whoever opened it sent first: protocol, from where, to where; of pings the identifier is the source's port.
pub(crate) type Tuple = (String, SocketAddr, SocketAddr);

/// How many there are of each name, and the longest silence of any of them.
pub(crate) type Lap = BTreeMap<String, (usize, Duration)>;

/// Conversations that are open, all served by one thread.
pub(crate) struct Talks {
    names: Vec<String>,
    tuples: Vec<Tuple>,
    shared: Arc<Mutex<Vec<Count>>>,
    quiet: Vec<bool>,
    hush: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Conversations before they begin.
#[derive(Default)]
pub(crate) struct Opening {
    /// Whether what is opened from now on says nothing while the others are told to hush.
    pub(crate) quiet: bool,
    names: Vec<String>,
    tuples: Vec<Tuple>,
    lines: Vec<Line>,
    are_quiet: Vec<bool>,
    listeners: BTreeMap<(String, u16), TcpListener>,
    echoes: BTreeMap<(String, u16), UdpSocket>,
}

impl Opening {
    /// Opens one from `from` to `to`, at whose end `at` listens on the port with it.
    pub(crate) fn open(&mut self, what: &str, kind: Kind, from: &Place, to: SocketAddr, at: (&Place, u16)) {
        let key = (at.0.name().to_owned(), at.1);
        let (line, source) = match kind {
            Kind::Tcp | Kind::Pushed => {
                let listener = self.listeners.entry(key).or_insert_with(|| listen(at.0, at.1));
                let opened = from.connect(to).unwrap_or_else(|error| panic!("{what}: {error:#}"));
                let (accepted, _) = listener.accept().unwrap_or_else(|error| panic!("{what}: {error}"));
                for end in [&opened, &accepted] {
                    end.set_nodelay(true).expect("a socket option");
                    end.set_nonblocking(true).expect("a socket option");
                }
                let source = opened.local_addr().expect("an address");
                let (asks, answers) = if kind == Kind::Tcp { (opened, accepted) } else { (accepted, opened) };
                (Line::Tcp { asks, answers, read: Vec::new() }, source)
            }
            Kind::Udp => {
                self.echoes.entry(key).or_insert_with(|| {
                    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
                    let any: IpAddr = any.parse().expect("an address");
                    let echo = at.0.within(|| UdpSocket::bind((any, at.1))).expect("a place");
                    let echo = echo.unwrap_or_else(|error| panic!("{what}: {error}"));
                    echo.set_nonblocking(true).expect("a socket option");
                    echo
                });
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = from.within(|| UdpSocket::bind(any)).expect("a place").expect("a socket");
                socket.connect(to).expect("a route");
                socket.set_nonblocking(true).expect("a socket option");
                let source = socket.local_addr().expect("an address");
                (Line::Datagrams { socket, header: Vec::new() }, source)
            }
            Kind::Ping => ping(from, to.ip()),
        };
        let protocol = match kind {
            Kind::Tcp | Kind::Pushed => "tcp",
            Kind::Udp => "udp",
            Kind::Ping if to.is_ipv4() => "icmp",
            Kind::Ping => "icmpv6",
        };
        self.tuples.push((protocol.to_owned(), source, to));
        let quiet = if self.quiet { ", quiet meanwhile" } else { "" };
        self.names.push(format!("{what}{quiet}"));
        self.are_quiet.push(self.quiet);
        self.lines.push(line);
    }

    /// Begins; every one of them has answered before this returns.
    pub(crate) fn begin(self) -> Talks {
        let Self { names, tuples, lines, are_quiet: quiet, listeners, echoes, .. } = self;
        let count = Count { asked: 0, answered: 0, last: Instant::now(), longest: Duration::ZERO };
        let shared = Arc::new(Mutex::new(vec![count; lines.len()]));
        let stop = Arc::new(AtomicBool::new(false));
        let hush = Arc::new(AtomicBool::new(false));
        let (for_shared, for_stop, for_hush) = (Arc::clone(&shared), Arc::clone(&stop), Arc::clone(&hush));
        let for_quiet = quiet.clone();
        let thread = thread::spawn(move || {
            let echoes: Vec<UdpSocket> = echoes.into_values().collect();
            serve(&for_stop, &for_shared, lines, &echoes, |line| {
                for_quiet[line] && for_hush.load(Ordering::Relaxed)
            });
            drop(listeners);
        });
        let talks = Talks { names, tuples, shared, quiet, hush, stop, thread: Some(thread) };
        assert_eq!(talks.silent(PATIENCE), Vec::<String>::new(), "before anything was done");
        talks.lap();
        talks
    }
}

impl Talks {
    /// Has those that were opened as quiet say nothing, or speak again. Their silence meanwhile is no gap.
    pub(crate) fn hush(&self, hush: bool) {
        self.hush.store(hush, Ordering::Relaxed);
        let mut counts = self.counts();
        for (count, _) in counts.iter_mut().zip(&self.quiet).filter(|(_, quiet)| **quiet && !hush) {
            count.last = Instant::now();
        }
    }

    /// Those that answer nothing of what is asked from now on within `patience`.
    pub(crate) fn silent(&self, patience: Duration) -> Vec<String> {
        self.silent_at(patience).into_iter().map(|at| self.names[at].clone()).collect()
    }

    /// As [`Talks::silent`], each with what was sent first on it.
    pub(crate) fn silent_tuples(&self, patience: Duration) -> Vec<(String, Tuple)> {
        let silent = self.silent_at(patience).into_iter();
        silent.map(|at| (self.names[at].clone(), self.tuples[at].clone())).collect()
    }

    fn silent_at(&self, patience: Duration) -> Vec<usize> {
        let asked: Vec<u64> = self.counts().iter().map(|count| count.asked).collect();
        let silent = || {
            let counts = self.counts();
            let of = counts.iter().zip(&asked).enumerate();
            let silent = of.filter(|(_, (count, asked))| count.answered <= **asked);
            silent.map(|(at, _)| at).collect::<Vec<_>>()
        };
        wait::until("all answer", patience, || silent().is_empty().then_some(())).ok();
        silent()
    }

    /// What was heard since the last lap. Of one that is silent now the silence is not known.
    pub(crate) fn lap(&self) -> Lap {
        let mut laps = Lap::new();
        let mut counts = self.counts();
        for (name, count) in self.names.iter().zip(counts.iter_mut()) {
            let lap = laps.entry(name.clone()).or_default();
            *lap = (lap.0 + 1, lap.1.max(count.longest));
            count.longest = Duration::ZERO;
        }
        laps
    }

    fn counts(&self) -> MutexGuard<'_, Vec<Count>> {
        lock(&self.shared)
    }
}

impl Drop for Talks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[derive(Clone, Debug)]
struct Count {
    asked: u64,
    answered: u64,
    last: Instant,
    longest: Duration,
}

enum Line {
    Tcp {
        asks: TcpStream,
        answers: TcpStream,
        read: Vec<u8>,
    },
    /// What is sent is a header and a number; the number comes back last.
    Datagrams {
        socket: UdpSocket,
        header: Vec<u8>,
    },
}

impl Line {
    fn ask(&mut self, number: u64) {
        let number = number.to_be_bytes();
        match self {
            Self::Tcp { asks, .. } => _ = asks.write_all(&number),
            Self::Datagrams { socket, header } => {
                let bytes = [&header[..], &number].concat();
                // An ICMP error is told to the next call, and the datagram then is not sent.
                _ = socket.send(&bytes).or_else(|_| socket.send(&bytes));
            }
        }
    }

    /// The largest number that came back.
    fn answered(&mut self) -> Option<u64> {
        let mut buffer = [0; 4096];
        match self {
            Self::Tcp { asks, answers, read } => {
                while let Ok(length @ 1..) = answers.read(&mut buffer) {
                    answers.write_all(&buffer[..length]).ok();
                }
                while let Ok(length @ 1..) = asks.read(&mut buffer) {
                    read.extend(&buffer[..length]);
                }
                let whole = read.len() / 8 * 8;
                read.drain(..whole).as_slice().chunks(8).filter_map(number).max()
            }
            Self::Datagrams { socket, .. } => {
                let mut found = None;
                for _ in 0..64 {
                    match socket.recv(&mut buffer) {
                        Ok(length) => found = found.max(number(&buffer[length.saturating_sub(8)..length])),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(_) => {}
                    }
                }
                found
            }
        }
    }

    fn ends(&self) -> Vec<PollFd<'_>> {
        let ends = match self {
            Self::Tcp { asks, answers, .. } => vec![asks.as_fd(), answers.as_fd()],
            Self::Datagrams { socket, .. } => vec![socket.as_fd()],
        };
        ends.into_iter().map(|end| PollFd::new(end, PollFlags::POLLIN)).collect()
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().map(u64::from_be_bytes).ok()
}

fn serve(
    stop: &AtomicBool,
    shared: &Mutex<Vec<Count>>,
    mut lines: Vec<Line>,
    echoes: &[UdpSocket],
    is_hushed: impl Fn(usize) -> bool,
) {
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if Instant::now() >= next {
            next = Instant::now() + PAUSE;
            for (at, (line, count)) in lines.iter_mut().zip(lock(shared).iter_mut()).enumerate() {
                if is_hushed(at) {
                    continue;
                }
                count.asked += 1;
                line.ask(count.asked);
            }
        }
        let left = next.saturating_duration_since(Instant::now()).as_millis() as u16 + 1;
        let mut ends: Vec<PollFd<'_>> = lines.iter().flat_map(Line::ends).collect();
        ends.extend(echoes.iter().map(|echo| PollFd::new(echo.as_fd(), PollFlags::POLLIN)));
        poll(&mut ends, left).ok();
        let mut buffer = [0; 4096];
        for echo in echoes {
            while let Ok((length, from)) = echo.recv_from(&mut buffer) {
                echo.send_to(&buffer[..length], from).ok();
            }
        }
        for (line, at) in lines.iter_mut().zip(0..) {
            let Some(number) = line.answered() else { continue };
            let (mut counts, now) = (lock(shared), Instant::now());
            let count: &mut Count = &mut counts[at];
            count.longest = count.longest.max(now - count.last);
            (count.answered, count.last) = (count.answered.max(number), now);
        }
    }
}

fn lock(shared: &Mutex<Vec<Count>>) -> MutexGuard<'_, Vec<Count>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(at: &Place, port: u16) -> TcpListener {
    let listener = at.within(|| TcpListener::bind(("::", port))).expect("a place");
    let listener = listener.unwrap_or_else(|error| panic!("{port}/tcp in {}: {error}", at.name()));
    let patience = TimeVal::seconds(PATIENCE.as_secs().cast_signed());
    setsockopt(&listener.as_fd(), sockopt::ReceiveTimeout, &patience).expect("a socket option");
    listener
}

/// An echo request for each number, all with the identifier of one socket.
fn ping(from: &Place, to: IpAddr) -> (Line, SocketAddr) {
    let socket = from.within(|| {
        // Who may open such a socket; closed to all in a new namespace.
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")?;
        let (family, protocol) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let socket = socket::socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
        match SocketAddr::new(to, 0) {
            SocketAddr::V4(to) => socket::connect(socket.as_raw_fd(), &SockaddrIn::from(to))?,
            SocketAddr::V6(to) => socket::connect(socket.as_raw_fd(), &SockaddrIn6::from(to))?,
        }
        Ok::<_, std::io::Error>(socket)
    });
    let socket = UdpSocket::from(socket.expect("a place").expect("a socket for echo requests"));
    socket.set_nonblocking(true).expect("a socket option");
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let source = socket.local_addr().expect("an address");
    (Line::Datagrams { socket, header: vec![kind, 0, 0, 0, 0, 0, 0, 1] }, source)
}

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);
/// How long an answer that has to come may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
