//! What a row is, and how it is run: the packets, then their legitimate neighbour on the same path, then the counters.

use anyhow::{Context as _, Result, ensure};
use xtask::lab::table::Table;

use crate::packet::Shot;
use crate::world::{Counters, Ear, Path, World, moved};

/// The families in which a row has a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    Both,
    Four,
    Six,
}

impl Families {
    fn each(self) -> &'static [bool] {
        match self {
            Self::Both => &[false, true],
            Self::Four => &[false],
            Self::Six => &[true],
        }
    }
}

/// What has to become of the packets. The names are reasons of fw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// They arrive, let through for this reason.
    Arrives(&'static str),
    /// fw drops them for this reason, and no ear hears them.
    Drops(&'static str),
    /// fw lets them go on for this reason, and they do not arrive: the kernel refuses them.
    Refused(&'static str),
}

/// The reason for what icc = false stops.
pub(crate) const ICC: &str = "icc";

impl Expect {
    /// The reason whose counter moves.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Arrives(reason) | Self::Drops(reason) | Self::Refused(reason) => reason,
        }
    }
}

type Frames = fn(&Shot) -> Vec<Vec<u8>>;

/// One row: packets on a path, and what has to become of them.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    pub(crate) path: Path,
    pub(crate) families: Families,
    pub(crate) expect: Expect,
    pub(crate) packets: Frames,
    /// The legitimate neighbour, which has to arrive after them in the same run.
    pub(crate) twin: Frames,
    /// Where the packets would arrive, if not where the path leads. Of what is dropped no ear hears anything, unless
    /// this names the one that must not: of fragments the later ones may get as far as to the host.
    pub(crate) ear: Option<Ear>,
    /// The hook whose counter moves, if not the path's.
    pub(crate) hook: Option<&'static str>,
    /// By how much the counter moves at least, if not by one for each packet.
    pub(crate) count: Option<u64>,
    /// How many arrive, if not each packet.
    pub(crate) arrivals: Option<usize>,
}

/// A row whose packets need answers, clocks or sockets.
#[derive(Clone, Copy)]
pub(crate) struct Story {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    pub(crate) families: Families,
    /// Tells what was expected and seen; an error where that is not the target.
    pub(crate) run: fn(&World, bool) -> Result<Seen>,
}

/// What a story saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) expected: &'static str,
    pub(crate) got: String,
    pub(crate) counter: String,
}

impl Seen {
    pub(crate) fn new(expected: &'static str, got: impl Into<String>, counter: impl Into<String>) -> Self {
        Self { expected, got: got.into(), counter: counter.into() }
    }
}

/// A row of both families with the usual twin: a datagram to an open port of the same path.
pub(crate) const fn row(
    id: &'static str,
    what: &'static str,
    path: Path,
    expect: Expect,
    packets: Frames,
) -> Row {
    Row {
        id,
        what,
        path,
        families: Families::Both,
        expect,
        packets,
        twin: honest,
        ear: None,
        hook: None,
        count: None,
        arrivals: None,
    }
}

fn honest(shot: &Shot) -> Vec<Vec<u8>> {
    vec![shot.frame(&shot.open())]
}

impl Row {
    pub(crate) const fn four(self) -> Self {
        Self { families: Families::Four, ..self }
    }

    pub(crate) const fn six(self) -> Self {
        Self { families: Families::Six, ..self }
    }

    pub(crate) const fn twin(self, twin: Frames) -> Self {
        Self { twin, ..self }
    }

    pub(crate) const fn at(self, hook: &'static str) -> Self {
        Self { hook: Some(hook), ..self }
    }

    pub(crate) const fn heard_by(self, ear: Ear) -> Self {
        Self { ear: Some(ear), ..self }
    }

    /// The counter moves by this; where packets arrive, so many do.
    pub(crate) const fn counts(self, count: u64) -> Self {
        Self { count: Some(count), arrivals: Some(count as usize), ..self }
    }

    /// Whether it has a meaning in this family.
    pub(crate) fn is_of(&self, six: bool) -> bool {
        self.families.each().contains(&six)
    }

    /// Sends the packets and their twin, in one family.
    fn run(&self, world: &World, six: bool, before: &Counters) -> Result<(Seen, Counters)> {
        world.hush();
        let shot = world.shot(self.path, six)?;
        let frames = (self.packets)(&shot);
        world.send(self.path, &frames)?;
        let ear = self.ear.unwrap_or(self.path.ear());
        if let Expect::Arrives(_) = self.expect {
            let all = self.arrivals.unwrap_or(frames.len());
            let arrived = world.arrive(ear, shot.token, all);
            if arrived.is_err() {
                let after = world.counters()?;
                let (times, heard) = (world.times(ear, shot.token), world.who_heard(shot.token));
                return arrived.map(|()| unreachable!("it is an error")).with_context(|| {
                    format!("{times} of {all}, heard by {heard:?}; {}", changes(before, &after))
                });
            }
        }
        let beside = self.path.twin();
        let twin = world.shot(beside, six)?;
        world.send(beside, &(self.twin)(&twin))?;
        world.arrives(beside.ear(), twin.token).map_err(|error| error.context("its twin"))?;
        let heard = world.who_heard(shot.token);
        let after = world.counters()?;
        let hook = self.hook.unwrap_or(self.path.hook());
        let (expected, reason) = match self.expect {
            Expect::Arrives(reason) => ("arrives", reason),
            Expect::Drops(reason) => {
                let silent = self.ear.map_or(heard.is_empty(), |ear| !heard.contains(&ear));
                ensure!(silent, "heard by {heard:?}; {}", changes(before, &after));
                ("dropped", reason)
            }
            Expect::Refused(reason) => {
                ensure!(!heard.contains(&ear), "heard by {heard:?}; {}", changes(before, &after));
                ("refused by the kernel", reason)
            }
        };
        let count = moved(before, &after, hook, reason);
        let least = self.count.unwrap_or(frames.len() as u64);
        ensure!(
            count >= least,
            "{hook} {reason} moved by {count} instead of {least}; {}",
            changes(before, &after)
        );
        let got = if heard.is_empty() { "not heard".to_owned() } else { format!("heard by {heard:?}") };
        Ok((Seen::new(expected, got, format!("{hook} {reason} +{count}")), after))
    }
}

/// Which counters moved, for whoever has to find out why a row missed.
fn changes(before: &Counters, after: &Counters) -> String {
    let moved: Vec<_> = after
        .iter()
        .filter_map(|((hook, reason), count)| {
            let more = count - before.get(&(hook.clone(), reason.clone())).copied().unwrap_or(0);
            (more > 0).then(|| format!("{hook} {reason} +{more}"))
        })
        .collect();
    format!("counters: {}", moved.join(", "))
}

/// The rows of one family of rows, and its stories.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) rows: &'static [Row],
    pub(crate) stories: &'static [Story],
}

/// One line of the table.
pub(crate) struct Line {
    id: &'static str,
    what: &'static str,
    six: bool,
    seen: Result<Seen>,
}

impl Family {
    /// Every row and story, in each of its families.
    pub(crate) fn run(&self, world: &World) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        let mut before = world.counters()?;
        for row in self.rows {
            if row.path == Path::Vlan && !world.vlan {
                println!("SKIPPED: row {} ({}): no VLAN devices in this kernel", row.id, row.what);
                continue;
            }
            for six in row.families.each() {
                let seen = match row.run(world, *six, &before) {
                    Ok((seen, after)) => {
                        before = after;
                        Ok(seen)
                    }
                    Err(error) => {
                        before = world.counters()?;
                        Err(error)
                    }
                };
                lines.push(Line { id: row.id, what: row.what, six: *six, seen });
            }
        }
        for story in self.stories {
            for six in story.families.each() {
                world.hush();
                lines.push(Line {
                    id: story.id,
                    what: story.what,
                    six: *six,
                    seen: (story.run)(world, *six),
                });
            }
        }
        Ok(lines)
    }
}

/// The table of these lines, and what is wrong: rows that miss and are not pending, pending ones that miss no more.
pub(crate) fn report(lines: &[Line], pending: &[(&'static str, &'static str)]) -> (Table, Vec<String>) {
    let mut table = Table::new(&["row", "packet", "family", "expected", "got", "counter", "ok"]);
    let mut wrong = Vec::new();
    for line in lines {
        let waits = pending.iter().find(|(id, _)| *id == line.id);
        let family = if line.six { "IPv6" } else { "IPv4" };
        match (&line.seen, waits) {
            (Ok(seen), _) => {
                table.row(&[&line.id, &line.what, &family, &seen.expected, &seen.got, &seen.counter, &"ok"]);
            }
            (Err(error), Some((_, reason))) => {
                let (what, waits) = (format!("{error:#}"), format!("pending: {reason}"));
                table.row(&[&line.id, &line.what, &family, &"", &what, &"", &waits]);
            }
            (Err(error), None) => {
                let what = format!("{error:#}");
                table.row(&[&line.id, &line.what, &family, &"", &what, &"", &"MISSED"]);
                wrong.push(format!("{} ({}, {family}): {what}", line.id, line.what));
            }
        }
    }
    for (id, _) in pending {
        let mut of_row = lines.iter().filter(|line| line.id == *id).peekable();
        if of_row.peek().is_some() && of_row.all(|line| line.seen.is_ok()) {
            wrong.push(format!("{id} is at its target: take it off PENDING"));
        }
    }
    (table, wrong)
}
