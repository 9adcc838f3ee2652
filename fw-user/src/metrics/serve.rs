//! The HTTP server of the metrics: one page, for few clients at a time.
//!
//! Whoever may connect may be slow, many, or hostile, and must not hurt the daemon: at most [`CLIENTS`] are served at once,
//! each has [`PATIENCE`] and one request, and pages are made one after the other with a [`PAUSE`] between two.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::families::page;
use super::listen::{Client, Listening};
use super::page::Format;
use super::read::read;
use super::told::Meters;

/// Clients that are served at once; others wait until the kernel lets them in, or give up.
const CLIENTS: usize = 8;
/// How long a client may take to ask and to read the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two pages: a client that asks without end gets no more than so many of them.
const PAUSE: Duration = Duration::from_millis(100);

/// Metrics are served until this is dropped; a socket file goes with it.
#[derive(Debug)]
pub struct Serving(JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves what the maps pinned in `directory` hold, and what is told to `meters`.
pub fn serve(listening: Listening, directory: PathBuf, meters: Meters) -> Serving {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let source = Arc::new(Source {
        directory,
        meters,
        started,
        blind: AtomicBool::new(false),
        next: Arc::new(Mutex::new(Instant::now())),
    });
    Serving(tokio::spawn(accept(listening, source)))
}

/// Where pages come from.
struct Source {
    directory: PathBuf,
    meters: Meters,
    started: f64,
    /// The last scrape could not read the maps.
    blind: AtomicBool,
    /// When the next page may be made; held while one is, even if who asked for it has gone.
    next: Arc<Mutex<Instant>>,
}

async fn accept(listening: Listening, source: Arc<Source>) {
    let room = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let client = match listening.accept().await {
            Ok(client) => client,
            Err(error) => {
                // Out of descriptors: others give some back.
                tracing::warn!(%error, "cannot accept on the socket of the metrics");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let source = Arc::clone(&source);
        tokio::spawn(async move {
            match client {
                Client::Tcp(stream) => converse(stream, source).await,
                Client::Unix(stream) => converse(stream, source).await,
            }
            drop(place);
        });
    }
}

/// One request, one answer, and no longer than a client may take.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, source: Arc<Source>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&source)));
    let connection = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    match timeout(PATIENCE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a client of the metrics has gone"),
        Err(_) => tracing::debug!("a client of the metrics was too slow"),
    }
}

async fn answer(
    request: Request<Incoming>,
    source: Arc<Source>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    let say = |response: &mut Response<Full<Bytes>>, status, words: &'static str| {
        *response.status_mut() = status;
        *response.body_mut() = Full::from(words);
    };
    if request.uri().path() != "/metrics" {
        say(&mut response, StatusCode::NOT_FOUND, "fw serves /metrics and nothing else\n");
        return Ok(response);
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        say(&mut response, StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let accept = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::of(&accept.collect::<Vec<_>>().join(","));
    match source.page(format).await {
        Some(text) => {
            let kind = hyper::header::HeaderValue::from_static(format.content_type());
            response.headers_mut().insert(CONTENT_TYPE, kind);
            *response.body_mut() = Full::from(text);
        }
        None => say(&mut response, StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made\n"),
    }
    Ok(response)
}

impl Source {
    /// The page as of now, or as of a moment later if others have just been made.
    async fn page(self: Arc<Self>, format: Format) -> Option<String> {
        let mut next = Arc::clone(&self.next).lock_owned().await;
        sleep_until(*next).await;
        let source = Arc::clone(&self);
        // Reading maps takes milliseconds of system calls, for which no other task has to wait.
        let made = tokio::task::spawn_blocking(move || {
            let reading = read(&source.directory, &source.meters, source.started);
            source.say(reading.tables.as_ref().err());
            let text = page(&reading).text(format).ok();
            // It is held here, for nothing ends this before it is done.
            *next = Instant::now() + PAUSE;
            text
        });
        made.await.ok().flatten()
    }

    /// Says once that the maps cannot be read, and why: whoever scrapes must not fill the log.
    fn say(&self, unreadable: Option<&String>) {
        let before = self.blind.swap(unreadable.is_some(), Ordering::Relaxed);
        if let Some(error) = unreadable.filter(|_| !before) {
            tracing::warn!(error, "metrics without the tables, which cannot be read");
        }
    }
}
