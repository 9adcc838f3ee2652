//! Servers of the lab: they answer with their name, and remember who asked.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::place::Place;
use super::wait;

/// One that asked: whence, and what was in the datagram or line.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Source as the server saw it (a v4-mapped address is shown as IPv4).
    pub from: SocketAddr,
    /// Payload.
    pub payload: Vec<u8>,
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<Heard>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Everything heard so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a payload with this text arrives within `limit`.
    pub fn hears(&self, text: &str, limit: Duration) -> bool {
        let arrived = || {
            let found = self.heard().iter().any(|heard| contains(&heard.payload, text.as_bytes()));
            found.then_some(())
        };
        wait::until("payload", limit, arrived).is_ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Place {
    /// Starts a TCP server on `at` that answers each line with `says`.
    pub fn serve_tcp(&self, at: &str, says: &str) -> Result<Server> {
        let listener = self
            .within(|| TcpListener::bind(at))?
            .with_context(|| format!("cannot listen on {at}/tcp in {}", self.name()))?;
        setsockopt(&listener.as_fd(), sockopt::ReceiveTimeout, &TimeVal::milliseconds(STOP_CHECK))
            .context("cannot set the timeout of a listener")?;
        let says = format!("{says}\n");
        Ok(start(move |stop, heard| {
            while !stop.load(Ordering::Relaxed) {
                let Ok((stream, from)) = listener.accept() else { continue };
                let (stop, heard, says) = (Arc::clone(stop), Arc::clone(heard), says.clone());
                thread::spawn(move || converse(&stream, from, &says, &stop, &heard));
            }
        }))
    }

    /// Starts a UDP server on `at` that answers each datagram with `says`.
    pub fn serve_udp(&self, at: &str, says: &str) -> Result<Server> {
        let socket = self
            .within(|| UdpSocket::bind(at))?
            .with_context(|| format!("cannot listen on {at}/udp in {}", self.name()))?;
        socket.set_read_timeout(Some(Duration::from_millis(STOP_CHECK.unsigned_abs())))?;
        let says = format!("{says}\n");
        Ok(start(move |stop, heard| {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                remember(heard, from, &buffer[..length]);
                socket.send_to(says.as_bytes(), from).ok();
            }
        }))
    }
}

type Memory = Arc<Mutex<Vec<Heard>>>;

fn start(work: impl FnOnce(&Arc<AtomicBool>, &Memory) + Send + 'static) -> Server {
    let stop = Arc::new(AtomicBool::new(false));
    let heard = Memory::default();
    let (for_stop, for_heard) = (Arc::clone(&stop), Arc::clone(&heard));
    let thread = Some(thread::spawn(move || work(&for_stop, &for_heard)));
    Server { stop, heard, thread }
}

/// Answers line by line, so that a connection that stays open can be asked again.
fn converse(stream: &TcpStream, from: SocketAddr, says: &str, stop: &AtomicBool, heard: &Memory) {
    stream.set_read_timeout(Some(Duration::from_millis(STOP_CHECK.unsigned_abs()))).ok();
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {
                remember(heard, from, &line);
                line.clear();
                let mut writer = stream;
                if writer.write_all(says.as_bytes()).is_err() {
                    return;
                }
            }
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

fn remember(heard: &Memory, from: SocketAddr, payload: &[u8]) {
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    heard.lock().unwrap_or_else(PoisonError::into_inner).push(Heard { from, payload: payload.to_vec() });
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Milliseconds between two looks at whether the server is to stop.
const STOP_CHECK: i64 = 100;
