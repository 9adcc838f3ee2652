//! A proxy in front of Docker's socket that tells what a test wants to have told.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, poll};
use serde_json::{Value, json};

use super::Lab;

/// How the proxy answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// As Docker does.
    #[default]
    Honest,
    /// The stream of events says nothing any more; everything else is honest.
    StalledEvents,
    /// The stream of events ends after one event.
    OneEvent,
    /// The stream of events leaves out every tenth event, beginning with the first.
    TenthEventLost,
    /// Every question is refused with status 500.
    Refusing,
    /// There is no container.
    NoContainers,
    /// There is neither container nor network but for `host` and `none`.
    Bare,
    /// There is nothing at all, not even those.
    Nothing,
    /// Networks have no options and containers no endpoints, ports and labels.
    FieldsMissing,
    /// No question is answered.
    Silent,
}

/// A proxy that runs until it is dropped; its socket goes with it.
#[derive(Debug)]
pub struct Liar {
    shared: Arc<Shared>,
    socket: PathBuf,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    docker: PathBuf,
    manner: Mutex<Manner>,
    /// Events seen so far, of all streams.
    events: Mutex<u64>,
    stop: AtomicBool,
}

impl Liar {
    /// Listens on `socket`, a path inside the lab. It is a new inode, whatever was there before.
    pub fn start(lab: &Lab, socket: &str) -> Result<Self> {
        let inside = socket.to_owned();
        let socket = lab.path(socket);
        fs::create_dir_all(socket.parent().context("a socket lies in a directory")?)?;
        fs::remove_file(&socket).ok();
        let listener = UnixListener::bind(&socket).with_context(|| format!("cannot listen on {inside}"))?;
        let shared = Arc::new(Shared {
            docker: lab.path("/run/docker.sock"),
            manner: Mutex::default(),
            events: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        let thread = Some(thread::spawn(move || {
            let shared = Arc::clone(&for_thread);
            accept(&listener, &for_thread.stop, move |client| answer(client, &shared));
        }));
        Ok(Self { shared, socket, thread })
    }

    /// Answers so from now on; streams of events that are open are treated so, too.
    pub fn set(&self, manner: Manner) {
        *lock(&self.shared.manner) = manner;
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        fs::remove_file(&self.socket).ok();
    }
}

/// Hands whoever connects to a thread of his own, until `stop`.
pub(crate) fn accept(
    listener: &UnixListener,
    stop: &AtomicBool,
    answer: impl Fn(UnixStream) -> Result<()> + Clone + Send + 'static,
) {
    while !stop.load(Ordering::Relaxed) {
        let ready = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], STOP_CHECK);
        if !ready.is_ok_and(|ready| ready > 0) {
            continue;
        }
        if let Ok((client, _)) = listener.accept() {
            let answer = answer.clone();
            // Whoever asks hangs up when the answer breaks off, or is enough; there is nobody to tell.
            thread::spawn(move || _ = answer(client));
        }
    }
}

/// Answers one question and closes the connection.
fn answer(mut client: UnixStream, shared: &Shared) -> Result<()> {
    let mut head = BufReader::new(client.try_clone()?);
    let mut request = String::new();
    head.read_line(&mut request)?;
    let path = request.split(' ').nth(1).context("a request has a path")?.to_owned();
    let manner = *lock(&shared.manner);
    if manner == Manner::Silent {
        let silent = || *lock(&shared.manner) == Manner::Silent && !shared.stop.load(Ordering::Relaxed);
        client.set_read_timeout(Some(Duration::from_millis(STOP_CHECK.into())))?;
        while silent() && !matches!(client.read(&mut [0; 4096]), Ok(0)) {}
        return Ok(());
    }
    if manner == Manner::Refusing {
        return reply(&mut client, 500, &json!({"message": "no space left on device"}).to_string());
    }
    // HTTP/1.0: the answer comes in one piece, and its end is that of the connection.
    let mut docker = UnixStream::connect(&shared.docker)?;
    write!(docker, "GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut answer = BufReader::new(docker);
    let mut line = String::new();
    answer.read_line(&mut line)?;
    let status: u16 = line.split(' ').nth(1).and_then(|code| code.parse().ok()).context("a status")?;
    while line.trim_end() != "" {
        line.clear();
        answer.read_line(&mut line)?;
    }
    if path.starts_with("/events") {
        return stream(client, answer, shared);
    }
    let mut body = String::new();
    answer.read_to_string(&mut body)?;
    let told = serde_json::from_str(&body).map_or(body, |value| told(manner, &path, value).to_string());
    reply(&mut client, status, &told)
}

fn reply(client: &mut UnixStream, status: u16, body: &str) -> Result<()> {
    write!(
        client,
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

/// Passes events on line by line, as far as the manner of the moment lets them.
fn stream(mut client: UnixStream, mut docker: BufReader<UnixStream>, shared: &Shared) -> Result<()> {
    docker.get_ref().set_read_timeout(Some(Duration::from_millis(STOP_CHECK.into())))?;
    write!(
        client,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    let mut line = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        match docker.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        }
        let event = std::mem::take(&mut line);
        let mut count = lock(&shared.events);
        *count += 1;
        let manner = *lock(&shared.manner);
        let lost = match manner {
            Manner::StalledEvents | Manner::Silent => true,
            Manner::TenthEventLost => (*count - 1).is_multiple_of(10),
            _ => false,
        };
        drop(count);
        if lost {
            continue;
        }
        write!(client, "{:x}\r\n", event.len())?;
        client.write_all(&event)?;
        client.write_all(b"\r\n")?;
        if manner == Manner::OneEvent {
            break;
        }
    }
    // No last chunk: a stream that breaks off does not take its leave.
    Ok(())
}

/// What is told instead of Docker's answer.
fn told(manner: Manner, path: &str, mut value: Value) -> Value {
    let path = path.split('?').next().unwrap_or(path);
    let bare = |network: &Value| matches!(network["Name"].as_str(), Some("host" | "none"));
    match (manner, path, value.as_array_mut()) {
        (Manner::NoContainers | Manner::Bare | Manner::Nothing, "/containers/json", Some(list)) => {
            list.clear();
        }
        (Manner::Bare, "/networks", Some(list)) => list.retain(bare),
        (Manner::Nothing, "/networks", Some(list)) => list.clear(),
        (Manner::FieldsMissing, "/networks", Some(list)) => {
            for network in list.iter_mut().filter(|network| !bare(network)) {
                // The bridge is found by its name, which stands in the options.
                network["Options"] = json!({});
                network["Internal"] = json!(false);
                network["IPAM"]["Config"] = json!([]);
            }
        }
        (Manner::FieldsMissing, path, None) if path.starts_with("/containers/") => {
            value["NetworkSettings"] = json!({});
            value["Config"] = json!({});
        }
        _ => {}
    }
    value
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds between two looks at whether the proxy is to stop.
const STOP_CHECK: u16 = 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_manner_tells_its_own() {
        let networks = json!([{"Name": "host", "Options": {}}, {"Name": "a", "Options": {"x": "y"}, "IPAM": {"Config": [1]}}]);
        let containers = json!([{"Id": "c"}]);
        assert_eq!(told(Manner::Honest, "/networks", networks.clone()), networks);
        assert_eq!(told(Manner::NoContainers, "/networks", networks.clone()), networks);
        assert_eq!(told(Manner::NoContainers, "/containers/json?all=0", containers.clone()), json!([]));
        assert_eq!(told(Manner::Bare, "/networks", networks.clone()), json!([networks[0]]));
        assert_eq!(told(Manner::Nothing, "/networks", networks.clone()), json!([]));
        let less = told(Manner::FieldsMissing, "/networks", networks.clone());
        assert_eq!((&less[0], &less[1]["Options"]), (&networks[0], &json!({})));
        let inspected = json!({"Id": "c", "NetworkSettings": {"Ports": {}}, "Config": {"Labels": {}}});
        let less = told(Manner::FieldsMissing, "/containers/c/json", inspected);
        assert_eq!(less, json!({"Id": "c", "NetworkSettings": {}, "Config": {}}));
        assert_eq!(told(Manner::FieldsMissing, "/version", json!({"Version": "1"})), json!({"Version": "1"}));
    }
}
