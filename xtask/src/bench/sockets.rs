//! What TCP costs through a published port: round trips, whole connections, bulk.
//!
//! Client and server take turns on one CPU. On two, a round trip is mostly the time in which an idle CPU wakes up, which
//! on a virtual machine is the hypervisor's. What counts is CPU time of both: all that the kernel does for a packet between
//! them it does on one of their accounts.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::path::{Scene, Who};
use super::peers::{Flavour, Rules};
use super::report::{Figure, Report, Size};
use super::sample::{alone, spent};
use super::street::{CONTAINER_PORT, PUBLISHED};
use crate::lab::{HOST, Lab};
use crate::setup::{self, Part};
use crate::workspace;

/// A few of the field, the floor first.
const FIELD: [Who; 9] = [
    Who::Rules(Rules::Floor(Flavour::Nft)),
    Who::FloorAgain,
    Who::FwAlone,
    Who::FwBesideDocker,
    Who::FwFastAlone,
    Who::FwFastBesideDocker,
    Who::Rules(Rules::Sets),
    Who::Rules(Rules::Docker20(Flavour::Nft)),
    Who::Rules(Rules::Docker28(Flavour::Nft)),
];

const SIZES: [Size; 2] = [Size { networks: 10, ports: 10 }, Size { networks: 100, ports: 10 }];

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    /// A byte there and one back, on a connection that stands.
    RoundTrip,
    /// A connection, a byte there and one back, and its end.
    Connection,
    /// As much as goes, one way.
    Bulk,
}

impl Deed {
    const ALL: [Self; 3] = [Self::RoundTrip, Self::Connection, Self::Bulk];

    fn name(self) -> &'static str {
        match self {
            Self::RoundTrip => "TCP round trip",
            Self::Connection => "TCP connection",
            Self::Bulk => "TCP bulk",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::RoundTrip | Self::Connection => "µs",
            Self::Bulk => "µs for a MiB",
        }
    }

    /// How often in one sample: 20 to 50 ms, for the kernel stops real-time threads that take 950 ms of a second.
    fn times(self) -> u32 {
        match self {
            Self::RoundTrip => 3000,
            Self::Connection => 800,
            Self::Bulk => 48,
        }
    }
}

/// Measures those whose name contains `only`, prints what was found, and keeps it.
pub(super) fn run(quick: bool, only: &str) -> Result<()> {
    setup::ensure(&[Part::Build, Part::Lab])?;
    workspace::build_fw()?;
    let sizes = if quick { &SIZES[..1] } else { &SIZES[..] };
    let rounds = if quick { 9 } else { 21 };
    let mut report = Report::begin("sockets", quick, rounds)?;
    for &size in sizes {
        println!("\n{} networks, {} published TCP ports", size.networks, size.ports);
        measure(&mut report, only, size, rounds)?;
    }
    report.end()
}

fn measure(report: &mut Report, only: &str, size: Size, rounds: usize) -> Result<()> {
    let mut pairs = Vec::new();
    for who in FIELD {
        if !FIELD[..2].contains(&who) && !who.name().contains(only) {
            continue;
        }
        let pair = Pair::over(who, size).with_context(|| format!("cannot set up: {}", who.name()))?;
        pairs.push((who, pair));
    }
    let mut found: BTreeMap<(Deed, usize), Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for deed in Deed::ALL {
            for turn in 0..pairs.len() {
                // Nobody is always behind the same neighbour.
                let number = (turn + round) % pairs.len();
                let (who, pair) = &pairs[number];
                let took = pair.sample(deed).with_context(|| format!("{}, {}", deed.name(), who.name()))?;
                found
                    .entry((deed, number))
                    .or_default()
                    .push(took.as_secs_f64() * 1e6 / f64::from(deed.times()));
            }
        }
    }
    for ((deed, number), samples) in found {
        report.add(Figure {
            what: deed.name().to_owned(),
            at: Some(size),
            who: pairs[number].0.name(),
            unit: deed.unit().to_owned(),
            samples,
            must: None,
        })?;
    }
    Ok(())
}

/// A client outside and a server in the container of one host.
struct Pair {
    lab: Lab,
    listener: TcpListener,
    /// A connection that stands: the client's end and the server's.
    standing: (TcpStream, TcpStream),
}

impl Pair {
    fn over(who: Who, size: Size) -> Result<Self> {
        let (lab, container) = who.host(&Scene::of_tcp(size), &[])?;
        let listener =
            container.place.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, CONTAINER_PORT)))?;
        let listener = listener.context("cannot listen in the container")?;
        // Room for every connection of a run: each keeps its port for a minute.
        lab.outside().script("echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range")?;
        let client = lab.outside().connect(PORT).context("the published port does not answer")?;
        setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::new(LIMIT.as_secs().try_into()?, 0))?;
        let (server, _) = listener.accept().context("no connection came to the container")?;
        for stream in [&client, &server] {
            prepare(stream)?;
        }
        Ok(Self { lab, listener, standing: (client, server) })
    }

    /// CPU time of all of one sample.
    fn sample(&self, deed: Deed) -> Result<Duration> {
        thread::scope(|scope| {
            let server = scope.spawn(|| alone(|| self.serve(deed)));
            // New sockets are the outside's.
            let client = self.lab.outside().within(|| alone(|| self.ask(deed)))??;
            let server = match server.join() {
                Ok(done) => done?,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            // A server waits in vain for a client that failed.
            Ok(client.context("the client")? + server.context("the server")?)
        })
    }

    /// The client's part, and its CPU time.
    fn ask(&self, deed: Deed) -> Result<Duration> {
        let mut standing = &self.standing.0;
        let buffer = vec![0; 1 << 20];
        let took = again_and_again(deed, || match deed {
            Deed::RoundTrip => round_trip(standing),
            Deed::Connection => {
                let stream = TcpStream::connect(PORT)?;
                prepare(&stream)?;
                round_trip(&stream)
            }
            Deed::Bulk => standing.write_all(&buffer),
        })?;
        if deed == Deed::Bulk {
            // The next sample begins when all of this one has arrived.
            standing.read_exact(&mut [0])?;
        }
        Ok(took)
    }

    /// The server's.
    fn serve(&self, deed: Deed) -> Result<Duration> {
        let mut standing = &self.standing.1;
        let mut buffer = vec![0; 1 << 20];
        let took = again_and_again(deed, || match deed {
            Deed::RoundTrip => answer(standing),
            Deed::Connection => {
                let (stream, _) = self.listener.accept()?;
                prepare(&stream)?;
                answer(&stream)?;
                // The client ends it.
                (&stream).read_to_end(&mut Vec::new()).map(drop)
            }
            Deed::Bulk => standing.read_exact(&mut buffer),
        })?;
        if deed == Deed::Bulk {
            standing.write_all(&[0])?;
        }
        Ok(took)
    }
}

/// CPU time of doing it as often as a sample has it. A first time is not counted: the other may not be there yet.
fn again_and_again(deed: Deed, mut once: impl FnMut() -> std::io::Result<()>) -> Result<Duration> {
    once()?;
    let begun = spent()?;
    for _ in 0..deed.times() {
        once()?;
    }
    Ok(spent()?.saturating_sub(begun))
}

fn round_trip(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.write_all(&[0])?;
    stream.read_exact(&mut [0])
}

fn answer(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)
}

/// A byte goes at once, and who waits in vain fails.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))
}

/// The published port, as the outside sees it.
const PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(HOST), PUBLISHED);
/// Far beyond what an answer takes, also where others have the CPU before all ordinary work.
const LIMIT: Duration = Duration::from_mins(1);
