//! Where metrics are served: a loopback address, or a socket in the file system; nothing that another machine reaches.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::control;

/// What `--metrics` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A port of a loopback address.
    Tcp(SocketAddr),
    /// A socket in the file system, for its owner alone.
    Unix(PathBuf),
}

/// Why an argument of `--metrics` is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// Neither form.
    #[error("expected ADDRESS:PORT of this host's loopback (127.0.0.1:9768, [::1]:9768) or unix:/PATH")]
    Form,
    /// Others would read it.
    #[error(
        "{0} is not a loopback address: metrics tell who is dropped and why, without a password and in the clear; use \
         127.0.0.1 or [::1], and a reverse proxy or an agent on this host for a Prometheus elsewhere"
    )]
    NotLoopback(SocketAddr),
    /// Whoever scrapes could not know it.
    #[error("port 0 is any port: name one")]
    NoPort,
    /// A path that depends on where fw was started.
    #[error("the path of a socket begins with /: unix:/run/fw/metrics.sock")]
    Relative,
    /// The kernel takes 107 bytes.
    #[error("the path of a socket has at most 107 bytes, and this one is of another length")]
    Length,
}

impl FromStr for Endpoint {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = Path::new(path);
            if !path.is_absolute() || path.file_name().is_none() {
                return Err(BadAddress::Relative);
            }
            // It is made under another name, which is longer.
            return match net::SocketAddr::from_pathname(beside(path)) {
                Ok(_) => Ok(Self::Unix(path.to_owned())),
                Err(_) => Err(BadAddress::Length),
            };
        }
        let address: SocketAddr = text.parse().map_err(|_| BadAddress::Form)?;
        if !address.ip().is_loopback() {
            return Err(BadAddress::NotLoopback(address));
        }
        if address.port() == 0 {
            return Err(BadAddress::NoPort);
        }
        Ok(Self::Tcp(address))
    }
}

/// Why nobody can be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken, or not there.
    #[error(
        "cannot serve metrics on {address}; if the address is in use, `ss -ltnp` says by whom: stop it, or name another \
         port with --metrics"
    )]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("cannot serve metrics on unix:{}; name another path with --metrics", path.display())]
    Unix {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something that is not ours to replace.
    #[error("cannot serve metrics on unix:{}: there is a file that is no socket; remove it, or name another path", path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
    },
    /// Another daemon serves there.
    #[error("cannot serve metrics on unix:{}: another process answers there; stop it, or name another path", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
}

/// A socket on which clients come in.
#[derive(Debug)]
pub enum Listening {
    /// On loopback.
    Tcp(TcpListener),
    /// In the file system.
    Unix(UnixListener, Placed),
}

/// A client.
pub(super) enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listening {
    /// Takes the address for this process; to be called inside a runtime.
    pub async fn new(endpoint: &Endpoint) -> Result<Self, ListenError> {
        match endpoint {
            Endpoint::Tcp(address) => {
                let listener = TcpListener::bind(address).await;
                let of = |source| ListenError::Tcp { address: *address, source };
                Ok(Self::Tcp(listener.map_err(of)?))
            }
            Endpoint::Unix(path) => {
                let of = |source| ListenError::Unix { path: path.clone(), source };
                make_room(path)?;
                let listener = bind(path).map_err(of)?;
                let placed = Placed { path: path.clone(), identity: identity(path).map_err(of)? };
                Ok(Self::Unix(listener, placed))
            }
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Client> {
        Ok(match self {
            Self::Tcp(listener) => Client::Tcp(listener.accept().await?.0),
            Self::Unix(listener, _) => Client::Unix(listener.accept().await?.0),
        })
    }
}

/// A socket file, removed when this is dropped, unless another one has taken its place.
#[derive(Debug)]
pub struct Placed {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for Placed {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|there| there == self.identity) {
            control::remove(&self.path);
        }
    }
}

fn identity(socket: &Path) -> io::Result<(u64, u64)> {
    let socket = fs::symlink_metadata(socket)?;
    Ok((socket.dev(), socket.ino()))
}

/// Sees to it that what stands at this path may be replaced: nothing, or a socket that nobody serves any more.
fn make_room(path: &Path) -> Result<(), ListenError> {
    let of = |source| ListenError::Unix { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(of(error)),
        Ok(there) if !there.file_type().is_socket() => Err(ListenError::Occupied { path: path.to_owned() }),
        Ok(_) => match net::UnixStream::connect(path) {
            Ok(_) => Err(ListenError::InUse { path: path.to_owned() }),
            Err(_) => Ok(()),
        },
    }
}

/// Made under another name, and given its own when nobody but its owner can open it.
fn bind(path: &Path) -> io::Result<UnixListener> {
    // `/run/fw` is made here if the control socket is not there yet; whatever else is missing is a mistyped path.
    if let Some(folder) = path.parent() {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let new = beside(path);
    match fs::symlink_metadata(&new) {
        Ok(left) if left.file_type().is_socket() => fs::remove_file(&new)?,
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_on_this_host() {
        let good = |text: &str| text.parse::<Endpoint>().expect(text);
        assert_eq!(good("127.0.0.1:9768"), Endpoint::Tcp(([127, 0, 0, 1], 9768).into()));
        assert!(matches!(good("[::1]:9768"), Endpoint::Tcp(address) if address.is_ipv6()));
        assert_eq!(good("unix:/run/fw/metrics.sock"), Endpoint::Unix("/run/fw/metrics.sock".into()));

        let bad = |text: &str| text.parse::<Endpoint>().expect_err(text);
        assert_eq!(bad("0.0.0.0:9768"), BadAddress::NotLoopback(([0, 0, 0, 0], 9768).into()));
        assert!(matches!(bad("[::]:9768"), BadAddress::NotLoopback(_)));
        assert!(matches!(bad("198.51.100.1:9768"), BadAddress::NotLoopback(_)));
        assert!(matches!(bad("[::ffff:198.51.100.1]:9768"), BadAddress::NotLoopback(_)));
        assert_eq!(bad("127.0.0.1:0"), BadAddress::NoPort);
        for text in ["", "9768", ":9768", "127.0.0.1", "localhost:9768", "127.0.0.1:99999", "/run/x.sock"] {
            assert_eq!(bad(text), BadAddress::Form, "{text}");
        }
        for text in ["unix:", "unix:metrics.sock", "unix:/"] {
            assert_eq!(bad(text), BadAddress::Relative, "{text}");
        }
        assert_eq!(bad(&format!("unix:/{}", "x".repeat(107))), BadAddress::Length);
    }

    #[tokio::test]
    async fn a_socket_is_private_replaces_a_stale_one_and_goes_with_its_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("metrics.sock");
        let endpoint = Endpoint::Unix(path.clone());
        drop(net::UnixListener::bind(&path).expect("a socket that nobody serves"));

        let first = Listening::new(&endpoint).await.expect("it takes the place");
        let mode = fs::metadata(&path).expect("a socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1, "nothing else is left");
        assert!(matches!(Listening::new(&endpoint).await, Err(ListenError::InUse { .. })));
        drop(first);
        assert!(!path.exists());

        fs::write(&path, "mine").expect("a file");
        assert!(matches!(Listening::new(&endpoint).await, Err(ListenError::Occupied { .. })));
        assert_eq!(fs::read_to_string(&path).expect("the file"), "mine");
    }
}
