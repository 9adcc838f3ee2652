//! `fw top`: who talks, what is dropped, whose flows there are, and how networks fare, as it happens.

use std::io::{IsTerminal as _, stdin, stdout};
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::backend::TestBackend;
use ratatui::{DefaultTerminal, Terminal};

use super::time::parse_span;
use super::{Failure, Outcome, Pins, is_fw, print};
use crate::datapath::{Directory, Maps, occupant};
use crate::flows::Ends;
use crate::plan::State;
use crate::reconcile::monotonic_seconds;
use crate::top::draw::draw;
use crate::top::sample::{Counting, monotonic_millis, sample};
use crate::top::{self, Picture, Pressed, Sample, Sweep, View, picture};

/// Options of `fw top`.
#[derive(Debug, Args)]
pub struct Options {
    /// Between two samples
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_span)]
    interval: Duration,
    /// Print one picture as text and end; its size is that of the terminal, or COLUMNS and LINES
    #[arg(long)]
    once: bool,
    /// The view to begin with, 1 to 4
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u8).range(1..=4))]
    view: u8,
    #[command(flatten)]
    pins: Pins,
    /// Print one picture as JSON and end
    #[arg(long)]
    json: bool,
}

/// So many flows are looked at with each sample.
const FLOWS: usize = 20_000;
/// So long names are believed, in milliseconds, although tables have changed.
const NAMES: u64 = 5000;

/// Shows it until it is ended, or once.
pub fn run(options: &Options) -> Outcome {
    let is_terminal = stdin().is_terminal() && stdout().is_terminal();
    if !is_terminal && !options.once && !options.json {
        let what = "this is no terminal; `fw top --once` prints one picture, `--json` for machines";
        return Err(Failure::Usage(anyhow::anyhow!(what)));
    }
    let directory = Directory::open(&options.pins.bpffs)?;
    let mut view =
        View { colour: std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()), ..View::default() };
    view.press(Pressed::Char(char::from(b'0' + options.view)));
    if options.once || options.json {
        let picture = once(&directory, options.interval)?;
        if options.json {
            print(&format!("{}\n", serde_json::to_string_pretty(&picture)?))?;
        } else {
            print(&as_text(&picture, &view)?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let signals = signals()?;
    let mut screen = Screen::enter()?;
    let mut directory = directory;
    // A daemon of another version puts maps of its own in the place of those.
    while let Followed::Replaced = follow(&directory, options.interval, &mut view, &signals, &mut screen)? {
        directory = Directory::open(&options.pins.bpffs)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Two samples with the time between them, and all flows.
fn once(directory: &Directory, interval: Duration) -> anyhow::Result<Picture> {
    let maps = Maps::open(directory.path())?;
    let names = maps.read_names()?;
    let before = take(directory, &maps, &names)?;
    let begun = monotonic_millis();
    let mut counting = Counting::begin();
    let (ends, now) = (Ends::new(&names), now());
    maps.each_flow()?.for_each(|flow| counting.add(&ends, flow, now));
    let sweep = counting.end();
    let spent = Duration::from_millis(monotonic_millis().saturating_sub(begun));
    std::thread::sleep(interval.saturating_sub(spent));
    let after = take(directory, &maps, &names)?;
    Ok(picture(&names, &before, &after, Some(&sweep)))
}

fn take(directory: &Directory, maps: &Maps, names: &State) -> anyhow::Result<Sample> {
    let alive = directory.is_locked() && is_fw(maps.daemon()?.pid);
    Ok(sample(maps, names, alive)?)
}

fn as_text(picture: &Picture, view: &View) -> anyhow::Result<String> {
    let given = |name: &str| {
        std::env::var(name).ok().and_then(|text| text.parse::<u16>().ok()).filter(|size| *size > 0)
    };
    let of_terminal = crossterm::terminal::size().ok().filter(|_| stdout().is_terminal());
    let (width, height) = of_terminal.unwrap_or((80, 24));
    let size = (given("COLUMNS").unwrap_or(width), given("LINES").unwrap_or(height));
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1))?;
    terminal.draw(|frame| draw(frame, picture, view))?;
    Ok(top::draw::text(terminal.backend().buffer()))
}

/// The terminal, which is what it was when this goes, whatever happens: ratatui's hook gives it back before a panic is
/// told.
struct Screen(Option<DefaultTerminal>);

impl Screen {
    fn enter() -> anyhow::Result<Self> {
        let mut screen = Self(None);
        screen.take()?;
        Ok(screen)
    }

    fn take(&mut self) -> anyhow::Result<()> {
        self.0 = Some(ratatui::try_init().context("cannot draw on this terminal")?);
        Ok(())
    }

    fn draw(&mut self, picture: &Picture, view: &View) -> anyhow::Result<()> {
        if let Some(terminal) = &mut self.0 {
            terminal.draw(|frame| draw(frame, picture, view)).context("cannot draw")?;
        }
        Ok(())
    }

    /// Stops until the shell lets it go on.
    fn suspend(&mut self) -> anyhow::Result<()> {
        self.0 = None;
        ratatui::restore();
        raise(Signal::SIGTSTP).context("cannot stop")?;
        self.take()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Signals that end or redraw are read like keys, so that nothing is left half drawn.
fn signals() -> anyhow::Result<SignalFd> {
    let mut wanted = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGWINCH] {
        wanted.add(signal);
    }
    wanted.thread_block().context("cannot hold signals back")?;
    SignalFd::with_flags(&wanted, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("cannot read signals")
}

/// Why nothing is followed any more.
enum Followed {
    /// It was asked to end.
    Ended,
    /// The maps are not those that are pinned.
    Replaced,
}

fn follow(
    directory: &Directory,
    interval: Duration,
    view: &mut View,
    signals: &SignalFd,
    screen: &mut Screen,
) -> anyhow::Result<Followed> {
    let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    let maps = Maps::open(directory.path())?;
    let mut names = Named::read(&maps)?;
    let mut before = take(directory, &maps, &names.state)?;
    let mut shown = picture(&names.state, &before, &before, None);
    let mut sweep: Option<Sweep> = None;
    let (mut counting, mut flows) = (Counting::begin(), maps.each_flow()?);
    loop {
        screen.draw(&shown, view)?;
        let due = before.at.saturating_add(interval);
        let was_paused = view.paused;
        match wait(signals, due)? {
            Woken::End => return Ok(Followed::Ended),
            Woken::Keys => match press(view)? {
                // What was counted during the pause is no part of the rates after it.
                top::Outcome::Draw if was_paused && !view.paused => {
                    before = take(directory, &maps, &names.state)?;
                }
                top::Outcome::Draw => {}
                top::Outcome::End => return Ok(Followed::Ended),
                top::Outcome::Suspend => screen.suspend()?,
            },
            Woken::Resized => {}
            Woken::Due if view.paused => before.at = monotonic_millis(),
            Woken::Due if occupant(directory.path())?.pid != maps.daemon()?.pid => {
                return Ok(Followed::Replaced);
            }
            Woken::Due => {
                names.renew(&maps)?;
                let ends = Ends::new(&names.state);
                let now = now();
                let mut looked_at = 0;
                while looked_at < FLOWS {
                    let Some(flow) = flows.next() else {
                        sweep = Some(std::mem::replace(&mut counting, Counting::begin()).end());
                        flows = maps.each_flow()?;
                        break;
                    };
                    counting.add(&ends, flow, now);
                    looked_at += 1;
                }
                let after = take(directory, &maps, &names.state)?;
                shown = picture(&names.state, &before, &after, sweep.as_ref());
                before = after;
            }
        }
    }
}

/// What numbers stand for, read again when tables have changed.
struct Named {
    state: State,
    generation: u32,
    read: u64,
}

impl Named {
    fn read(maps: &Maps) -> anyhow::Result<Self> {
        let generation = maps.generation()?;
        Ok(Self { state: maps.read_names()?, generation, read: monotonic_millis() })
    }

    fn renew(&mut self, maps: &Maps) -> anyhow::Result<()> {
        let is_old = monotonic_millis().saturating_sub(self.read) >= NAMES;
        if is_old && maps.generation()? != self.generation {
            *self = Self::read(maps)?;
        }
        Ok(())
    }
}

/// What ends waiting.
enum Woken {
    Due,
    Keys,
    Resized,
    End,
}

fn wait(signals: &SignalFd, due: u64) -> anyhow::Result<Woken> {
    let left = due.saturating_sub(monotonic_millis());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    let stdin = stdin();
    let mut ready =
        [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    match poll(&mut ready, timeout) {
        Ok(0) => return Ok(Woken::Due),
        Ok(_) => {}
        Err(nix::errno::Errno::EINTR) => return Ok(Woken::Resized),
        Err(error) => return Err(error).context("cannot wait for keys"),
    }
    let mut resized = false;
    while let Some(signal) = signals.read_signal().context("cannot read signals")? {
        if signal.ssi_signo != Signal::SIGWINCH as u32 {
            return Ok(Woken::End);
        }
        resized = true;
    }
    // A terminal that has gone is always ready, and says no more.
    let of_stdin = ready[0].revents().unwrap_or(PollFlags::empty());
    if of_stdin.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
        return Ok(Woken::End);
    }
    Ok(if resized && of_stdin.is_empty() { Woken::Resized } else { Woken::Keys })
}

/// Does what the keys that were pressed mean.
fn press(view: &mut View) -> anyhow::Result<top::Outcome> {
    while event::poll(Duration::ZERO).context("cannot read keys")? {
        let Event::Key(key) = event::read().context("cannot read keys")? else { continue };
        let Some(key) = pressed(key) else { continue };
        match view.press(key) {
            top::Outcome::Draw => {}
            other => return Ok(other),
        }
    }
    Ok(top::Outcome::Draw)
}

fn pressed(key: KeyEvent) -> Option<Pressed> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    Some(match key.code {
        KeyCode::Char(letter) if key.modifiers.contains(KeyModifiers::CONTROL) => Pressed::Control(letter),
        KeyCode::Char(letter) => Pressed::Char(letter),
        KeyCode::Enter => Pressed::Enter,
        KeyCode::Esc => Pressed::Escape,
        KeyCode::Backspace => Pressed::Backspace,
        KeyCode::Tab => Pressed::Tab,
        KeyCode::Up => Pressed::Up,
        KeyCode::Down => Pressed::Down,
        _ => return None,
    })
}

fn now() -> u32 {
    u32::try_from(monotonic_seconds()).unwrap_or(u32::MAX)
}
