//! The control socket: what a person asks of the running daemon, and what it answers; one JSON object on each line.
//!
//! The socket lies in `/run/fw`, mode 0600, and is named after the directory of pins, so that daemons of several hosts on
//! one machine do not meet.

use std::fs;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::bans::Ban;
use crate::difference::Counts;
use crate::typed_on::Connection;

/// Where the sockets lie.
const FOLDER: &str = "/run/fw";
/// A request is a line of at most so many bytes: a list of a million bans has less.
const LONGEST: u64 = 64 << 20;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client waits for an answer: a pass waits for Docker and for locks on iptables.
const LONG_PATIENCE: Duration = Duration::from_mins(2);

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Read the policy file again and put it in force.
    Reload {
        /// Put the policy before back after so many seconds, unless it is confirmed.
        confirm_within: Option<u64>,
        /// The connection that this is typed on.
        typed_on: Option<Connection>,
        /// Also if that connection could not be opened any more.
        force: bool,
    },
    /// Keep the policy that waits for it.
    Confirm {
        /// The connection that this is typed on.
        typed_on: Option<Connection>,
        /// Also if it is the one on which the policy was reloaded.
        force: bool,
    },
    /// Say whether a policy waits to be confirmed.
    Waiting,
    /// Shut these sources out.
    Ban {
        /// Who.
        prefixes: Vec<IpNet>,
        /// For so many seconds; until it is lifted, if none are given.
        seconds: Option<u64>,
        /// What the reason is.
        why: Option<String>,
        /// The connection that this is typed on.
        typed_on: Option<Connection>,
        /// Also if that shuts out the one who asks, or this host.
        force: bool,
    },
    /// Let these sources be what the policy says again.
    Unban {
        /// Who.
        prefixes: Vec<IpNet>,
    },
    /// Say who is banned.
    Bans,
}

impl Request {
    /// Whether it waits for neither Docker nor iptables.
    fn is_urgent(&self) -> bool {
        match self {
            Self::Ban { .. } | Self::Unban { .. } | Self::Bans => true,
            Self::Reload { .. } | Self::Confirm { .. } | Self::Waiting => false,
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// The policy is in force.
    Applied {
        /// What changed, by table.
        changes: Counts,
        /// Seconds until the policy before comes back, if this one is not confirmed.
        confirm_within: Option<u64>,
        /// The connection that the request was typed on could not be opened any more.
        cuts: Option<Connection>,
    },
    /// The policy file is at fault; nothing changed.
    Refused {
        /// What is wrong, and where.
        message: String,
    },
    /// It was not done, and nothing changed.
    Declined {
        /// Why, and what to do.
        message: String,
    },
    /// It was begun and could not be completed.
    Failed {
        /// What went wrong.
        message: String,
    },
    /// The policy that waited stays in force.
    Confirmed,
    /// Whether a policy waits.
    Waiting {
        /// Seconds until the policy before comes back; `None` if none waits.
        seconds: Option<u64>,
    },
    /// They are banned, and it is in force.
    Banned {
        /// How many were not banned before.
        new: usize,
        /// How many were: for the longer of both times.
        known: usize,
        /// Why they would not outlive a restart.
        unkept: Option<String>,
        /// The policy observes: what they send is counted, and passes.
        observing: bool,
    },
    /// They are not banned, and it is in force.
    Unbanned {
        /// Those that were.
        lifted: Vec<IpNet>,
        /// Those that were not.
        unknown: Vec<IpNet>,
        /// Why a restart would ban them again.
        unkept: Option<String>,
    },
    /// Who is banned.
    Bans {
        /// By prefix.
        bans: Vec<Ban>,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No daemon listens.
    #[error("no daemon answers at {}; start `fw run`, or name its directory with --bpffs", path.display())]
    NoDaemon {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be used.
    #[error("cannot use the control socket {}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What came back is no answer.
    #[error("the daemon at {} did not answer; its log says why (journalctl -u fw)", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
    },
}

/// The socket of the daemon that pins in this directory.
pub fn socket(pins: &Path) -> io::Result<PathBuf> {
    // A directory is known by its number on its filesystem, however it is called: names may be the same on two hosts.
    let pins = fs::metadata(pins)?;
    Ok(Path::new(FOLDER).join(format!("{:x}-{:x}.sock", pins.dev(), pins.ino())))
}

/// Makes the folder of sockets, if it is not there.
pub fn make_folder() -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(FOLDER) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Removes the socket, and the folder of sockets if it was the last one.
pub fn remove(socket: &Path) {
    // Gone is as good, and a folder in which others have theirs stays.
    drop(fs::remove_file(socket));
    drop(fs::remove_dir(FOLDER));
}

/// Asks the daemon and waits for its answer.
pub fn ask(socket: &Path, request: &Request) -> Result<Answer, ControlError> {
    let path = socket.to_owned();
    let mut stream = net::UnixStream::connect(socket).map_err(|source| match source.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => ControlError::NoDaemon { path: path.clone() },
        _ => ControlError::Socket { path: path.clone(), source },
    })?;
    let patience = if *request == Request::Waiting { PATIENCE } else { LONG_PATIENCE };
    let exchange = || {
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(&line(request))?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        io::Result::Ok(answer)
    };
    let mut exchange = exchange;
    let answer = exchange().map_err(|source| ControlError::Socket { path: path.clone(), source })?;
    serde_json::from_str(&answer).map_err(|_| ControlError::NoAnswer { path })
}

fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("requests and answers have string keys alone");
    line.push(b'\n');
    line
}

/// A request, and where its answer goes.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub request: Request,
    /// Where the answer is waited for.
    pub answer: oneshot::Sender<Answer>,
}

/// Where requests go.
#[derive(Clone, Debug)]
struct Senders {
    asked: mpsc::Sender<Asked>,
    /// Those that wait for nothing, lest a ban wait for a Docker that hangs.
    urgent: mpsc::Sender<Asked>,
}

/// The daemon's end: requests come out here, one after the other.
#[derive(Debug)]
pub struct Control {
    pins: PathBuf,
    bound: Bound,
    /// Given to each socket that takes the place of one that is gone.
    senders: Senders,
    asked: mpsc::Receiver<Asked>,
    urgent: mpsc::Receiver<Asked>,
    deadline: watch::Sender<Option<Instant>>,
}

/// A socket, and who accepts on it.
#[derive(Debug)]
struct Bound {
    path: PathBuf,
    /// Device and number of the socket, to tell it from another one of that name.
    identity: (u64, u64),
    accepting: JoinHandle<()>,
}

impl Control {
    /// Listens for the daemon that pins in this directory, and that holds its lock; what a killed one left is replaced.
    pub fn listen(pins: &Path) -> Result<Self, ControlError> {
        // Twenty may ask at once; who comes when the queue is full waits.
        let (to_asked, asked) = mpsc::channel(16);
        let (to_urgent, urgent) = mpsc::channel(16);
        let senders = Senders { asked: to_asked, urgent: to_urgent };
        let (deadline, _) = watch::channel(None);
        let bound = Bound::new(pins, &senders, &deadline)?;
        Ok(Self { pins: pins.to_owned(), bound, senders, asked, urgent, deadline })
    }

    /// Listens anew if the socket is not where it is looked for: somebody has removed it, or the pins lie on another bpffs.
    /// Whether it was so.
    pub fn mend(&mut self) -> Result<bool, ControlError> {
        if socket(&self.pins).is_ok_and(|path| path == self.bound.path) && self.bound.stands() {
            return Ok(false);
        }
        self.bound = Bound::new(&self.pins, &self.senders, &self.deadline)?;
        Ok(true)
    }

    /// The next request; none ever comes if nobody can ask any more.
    pub async fn next(&mut self) -> Asked {
        // Both stay open as long as this does, for it has a sender of each.
        tokio::select! {
            biased;
            Some(asked) = self.urgent.recv() => asked,
            Some(asked) = self.asked.recv() => asked,
        }
    }

    /// The next request that waits for nothing.
    pub async fn next_urgent(&mut self) -> Asked {
        match self.urgent.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }

    /// Says until when a policy waits to be confirmed.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        self.deadline.send_replace(deadline);
    }
}

impl Bound {
    fn new(
        pins: &Path,
        senders: &Senders,
        deadline: &watch::Sender<Option<Instant>>,
    ) -> Result<Self, ControlError> {
        let path = socket(pins)
            .map_err(|source| ControlError::Socket { path: Path::new(FOLDER).to_owned(), source })?;
        let bound = bind(&path).and_then(|listener| Ok((listener, identity(&path)?)));
        let (listener, identity) =
            bound.map_err(|source| ControlError::Socket { path: path.clone(), source })?;
        let accepting = tokio::spawn(serve(listener, senders.clone(), deadline.subscribe()));
        Ok(Self { path, identity, accepting })
    }

    fn stands(&self) -> bool {
        identity(&self.path).is_ok_and(|there| there == self.identity)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.accepting.abort();
        if self.stands() {
            remove(&self.path);
        }
    }
}

fn identity(socket: &Path) -> io::Result<(u64, u64)> {
    let socket = fs::metadata(socket)?;
    Ok((socket.dev(), socket.ino()))
}

/// A socket that nobody but its owner could ever open: made under another name, and given its own when it is so.
fn bind(path: &Path) -> io::Result<UnixListener> {
    make_folder()?;
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

async fn serve(listener: UnixListener, senders: Senders, deadline: watch::Receiver<Option<Instant>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (senders, deadline) = (senders.clone(), deadline.clone());
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &senders, &deadline).await {
                        tracing::debug!(%error, "a client of the control socket has gone");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors: others give some back.
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// One request, one answer.
async fn converse(
    mut stream: UnixStream,
    senders: &Senders,
    deadline: &watch::Receiver<Option<Instant>>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut text = String::new();
    let mut reader = tokio::io::BufReader::new(reader.take(LONGEST));
    timeout(PATIENCE, reader.read_line(&mut text)).await.map_err(io::Error::other)??;
    let answer = match serde_json::from_str(&text) {
        Ok(Request::Waiting) => Answer::Waiting { seconds: deadline.borrow().map(seconds_until) },
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            let queue = if request.is_urgent() { &senders.urgent } else { &senders.asked };
            queue.send(Asked { request, answer }).await.map_err(io::Error::other)?;
            answered.await.unwrap_or_else(|_| Answer::Failed { message: "the daemon is ending".to_owned() })
        }
        Err(error) => Answer::Declined {
            message: format!(
                "this daemon does not understand the request ({error}); is it of another version?"
            ),
        },
    };
    writer.write_all(&line(&answer)).await
}

/// Whole seconds until then, at least one.
fn seconds_until(deadline: Instant) -> u64 {
    deadline.saturating_duration_since(Instant::now()).as_secs() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_lines_that_read_back() {
        let request = Request::Reload { confirm_within: Some(60), typed_on: None, force: false };
        let written = line(&request);
        assert_eq!(written.iter().position(|byte| *byte == b'\n'), Some(written.len() - 1));
        assert_eq!(serde_json::from_slice::<Request>(&written).expect("a request"), request);
        let answer = Answer::Refused { message: "a.toml:1:1: no\nb.toml:2:2: no".to_owned() };
        let written = line(&answer);
        let end = written.iter().position(|byte| *byte == b'\n');
        assert_eq!(end, Some(written.len() - 1), "one line, whatever is in it");
        assert_eq!(serde_json::from_slice::<Answer>(&written).expect("an answer"), answer);
        assert!(serde_json::from_str::<Request>("{\"ask\":\"reload\",\"later\":1}").is_err());
    }

    #[test]
    fn the_name_is_that_of_the_directory_however_it_is_called() {
        let directory = tempfile::tempdir().expect("a directory");
        let other = tempfile::tempdir().expect("a directory");
        let dotted = directory.path().join(".");
        let name = socket(directory.path()).expect("a name");
        assert_eq!(name, socket(&dotted).expect("a name"));
        assert_ne!(name, socket(other.path()).expect("a name"));
        assert!(socket(&directory.path().join("none")).is_err());
    }
}
