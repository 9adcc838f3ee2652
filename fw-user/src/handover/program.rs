//! Programs of the host: found, run to their end with a deadline, and what they said.

use std::env;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::HandoverError;

/// How long a program may take. A rule set with 100 000 lines is read in about a second.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// `PATH` and the sbin directories, which the `PATH` of a plain user lacks.
pub(super) fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    dirs.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs
}

/// The first of these directories' files of that name.
pub(super) fn search(dirs: &[PathBuf], name: &str) -> Option<PathBuf> {
    dirs.iter().filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// What a program left.
pub(super) struct Output {
    /// It ended with exit code 0.
    pub(super) ok: bool,
    /// Its standard output.
    pub(super) stdout: String,
    /// Its standard error.
    pub(super) stderr: String,
}

impl Output {
    /// The failure that it reports.
    pub(super) fn error(&self, program: &Path) -> HandoverError {
        let program = program.display().to_string();
        let said: Vec<&str> = self.stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let message = if said.is_empty() { "it gave no reason".to_owned() } else { said.join(" ") };
        if message.contains("Permission denied") || message.contains("Operation not permitted") {
            HandoverError::Refused { program, message }
        } else {
            HandoverError::Failed { program, message }
        }
    }
}

/// Runs a program to its end with this input, or stops it when the time is over.
pub(super) fn run(
    program: &Path,
    arguments: &[&str],
    input: &str,
    patience: Duration,
) -> Result<Output, HandoverError> {
    let failed = |source| HandoverError::Run { program: program.display().to_string(), source };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let deadline = Instant::now() + patience;
    let mut child = command.spawn().map_err(failed)?;
    let (sender, receiver) = mpsc::channel();
    let mut pipe = child.stdin.take().expect("stdin was asked for");
    let input = input.to_owned();
    // A program that ends without reading its input says why on stderr; that the pipe broke adds nothing.
    thread::spawn(move || drop(pipe.write_all(input.as_bytes())));
    collect(0, child.stdout.take().expect("stdout was asked for"), sender.clone());
    collect(1, child.stderr.take().expect("stderr was asked for"), sender);
    let mut texts = [String::new(), String::new()];
    for _ in 0..texts.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok((which, text)) = receiver.recv_timeout(left) else {
            child.kill().and_then(|()| child.wait()).map_err(failed)?;
            let program = program.display().to_string();
            return Err(HandoverError::TimedOut { program, seconds: patience.as_secs() });
        };
        texts[which] = text.map_err(failed)?;
    }
    let ok = child.wait().map_err(failed)?.success();
    let [stdout, stderr] = texts;
    Ok(Output { ok, stdout, stderr })
}

/// Reads a pipe to its end in a thread of its own; comments of rules need not be UTF-8.
fn collect(
    which: usize,
    mut pipe: impl Read + Send + 'static,
    sender: mpsc::Sender<(usize, io::Result<String>)>,
) {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let text = pipe.read_to_end(&mut bytes).map(|_| String::from_utf8_lossy(&bytes).into_owned());
        // Nobody listens any more after a time-out.
        drop(sender.send((which, text)));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_stopped() {
        let error = run(Path::new("/bin/sleep"), &["600"], "", Duration::from_millis(20)).err();
        assert!(matches!(error, Some(HandoverError::TimedOut { .. })), "{error:?}");
    }

    #[test]
    fn a_program_that_reads_nothing_still_says_why_it_failed() {
        let input = "x".repeat(1 << 20);
        let output = run(Path::new("/bin/sh"), &["-c", "echo no such luck >&2; exit 3"], &input, PATIENCE);
        let error = output.map(|output| output.error(Path::new("sh")).to_string());
        assert_eq!(error.ok().as_deref(), Some("sh failed: no such luck"));
    }
}
