//! What the daemon tells of itself: as text, as lines of JSON, or to systemd's journal with its fields.

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use nix::sys::stat::fstat;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Lines for people, on standard error
    Text,
    /// One JSON object a line, on standard error
    Json,
    /// systemd's journal, each field as one of its own, `FW_…`
    Journald,
}

/// Fields of an entry of the journal begin so.
const PREFIX: &str = "FW";

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to systemd's journal: {0}; is systemd-journald running? --log text needs none")]
pub struct NoJournal(#[source] io::Error);

/// Begins to tell, in the whole process. Left to itself, fw writes to the journal where standard error leads there anyway.
/// `FW_LOG` says how much.
pub fn begin(form: Option<Form>) -> Result<(), NoJournal> {
    let filter = || EnvFilter::try_from_env("FW_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let text = || {
        let lines = tracing_subscriber::fmt::layer();
        lines.with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).with_target(false)
    };
    let journal = || -> Result<_, NoJournal> {
        let layer = tracing_journald::layer().map_err(NoJournal)?;
        Ok(layer.with_field_prefix(Some(PREFIX.to_owned())).with_syslog_identifier("fw".to_owned()))
    };
    let all = tracing_subscriber::registry().with(filter());
    match form {
        Some(Form::Json) => {
            let lines = tracing_subscriber::fmt::layer().json().flatten_event(true);
            all.with(lines.with_writer(io::stderr)).init();
        }
        Some(Form::Journald) => all.with(journal()?).init(),
        None if leads_to_journal() => match journal() {
            Ok(journal) => all.with(journal).init(),
            Err(error) => {
                all.with(text()).init();
                tracing::warn!("{error}; lines of text come there all the same");
            }
        },
        Some(Form::Text) | None => all.with(text()).init(),
    }
    Ok(())
}

/// Whether standard error is the stream to the journal that systemd has named (`JOURNAL_STREAM`, systemd.exec(5)): a
/// child that inherits the variable may have been led elsewhere.
fn leads_to_journal() -> bool {
    let Some(named) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(there) = fstat(io::stderr()) else { return false };
    named_stream(&named) == Some((there.st_dev, there.st_ino))
}

/// Device and inode, in decimal.
fn named_stream(text: &str) -> Option<(u64, u64)> {
    let (device, inode) = text.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_named_by_device_and_inode() {
        assert_eq!(named_stream("8:12345"), Some((8, 12345)));
        for wrong in ["", "8", "8:", ":1", "8:0x1", "8:1:2"] {
            assert_eq!(named_stream(wrong), None, "{wrong:?}");
        }
    }
}
