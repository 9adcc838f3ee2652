//! What can go wrong between fw and Docker, and what to do about it.

use std::io;
use std::time::Duration;

/// Why Docker's state is not known. Never to be taken for "no networks, no containers".
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// The address of the socket is of no known form.
    #[error(
        "cannot use \"{url}\" as the address of docker: expected unix:///PATH, /PATH, tcp://HOST:PORT or \
         http://HOST:PORT"
    )]
    Url {
        /// As given.
        url: String,
    },
    /// There is nothing at that path.
    #[error(
        "there is no docker socket at {path}: start docker, or name its socket with --docker unix:///PATH"
    )]
    Absent {
        /// Where the socket was looked for.
        path: String,
    },
    /// Something else than a socket is at that path.
    #[error("{path} is a {kind}, not a socket: name docker's socket with --docker unix:///PATH")]
    NotASocket {
        /// The path.
        path: String,
        /// What is there.
        kind: &'static str,
    },
    /// The socket may not be used.
    #[error("no permission to use the docker socket {path}: run fw as root or as a member of its group")]
    Permission {
        /// The path.
        path: String,
    },
    /// A socket that nobody listens on, left behind by a docker that was killed.
    #[error("nobody listens on the docker socket {path}: start docker")]
    Refused {
        /// The path.
        path: String,
    },
    /// No connection.
    #[error("cannot reach docker at {address}: {reason}; check that docker runs and that --docker is right")]
    Unreachable {
        /// Where docker was looked for.
        address: String,
        /// What the connection said.
        reason: String,
    },
    /// The connection broke in the middle: Docker is being stopped, or has crashed.
    #[error(
        "the connection to docker at {address} broke while it told about {what}: {reason}; trying again may help"
    )]
    Broken {
        /// Where docker is.
        address: String,
        /// What was asked for.
        what: String,
        /// What the connection said.
        reason: String,
    },
    /// What listens there does not speak Docker's API.
    #[error(
        "what answers at {address} is not docker: {reason}; name docker's socket with --docker unix:///PATH"
    )]
    NotDocker {
        /// Where docker was looked for.
        address: String,
        /// How it answered.
        reason: String,
    },
    /// No answer within the deadline.
    #[error(
        "docker at {address} gave no answer about {what} within {after:?}; if this lasts, restart docker"
    )]
    Timeout {
        /// Where docker is.
        address: String,
        /// What was asked for.
        what: String,
        /// How long fw waited.
        after: Duration,
    },
    /// The engine is older than 20.10.
    #[error("docker {version} speaks API {api} at most, fw needs 1.41: upgrade to docker 20.10 or later")]
    TooOld {
        /// Version of the engine.
        version: String,
        /// Highest version of its API.
        api: String,
    },
    /// Docker answered with a failure of its own.
    #[error("docker refused to tell about {what} (status {status}): {message}")]
    Refusal {
        /// What was asked for.
        what: String,
        /// Status of the HTTP answer.
        status: u16,
        /// Docker's words.
        message: String,
    },
    /// Docker answered with something that fw cannot read.
    #[error(
        "cannot understand docker's answer about {what}: {reason}; please report it with docker's version"
    )]
    Answer {
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The stream of events has ended: Docker is being stopped or restarted.
    #[error("docker at {address} has closed the stream of events: it is being stopped or restarted")]
    EventsEnded {
        /// Where docker is.
        address: String,
    },
}

impl DockerError {
    /// What a failed attempt to open the socket at `path` means.
    pub(super) fn opening(path: &str, error: &io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Absent { path },
            io::ErrorKind::PermissionDenied => Self::Permission { path },
            io::ErrorKind::ConnectionRefused => Self::Refused { path },
            _ => Self::Unreachable { address: path, reason: error.to_string() },
        }
    }
}
