//! Equal packets within a second as one line with their number, and no more lines than a person can read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fw_common::Address;

use super::seen::Seen;

/// For how long equal packets are joined.
const WINDOW: Duration = Duration::from_secs(1);

/// What makes packets equal: all but the port that a client picks.
type Key = (u8, u8, u8, u32, u32, Address, Address, u8, u16, u16);

fn key(seen: &Seen) -> Key {
    let event = &seen.event;
    (
        event.observed,
        event.hook,
        event.reason,
        event.rule,
        event.ifindex,
        event.source,
        event.destination,
        event.proto,
        event.ethertype,
        event.destination_port,
    )
}

/// The lines of the last second.
#[derive(Default)]
pub struct Repeats {
    /// When the next line of these may come, and what waits for it.
    waiting: BTreeMap<Key, (Instant, Option<Seen>)>,
}

impl Repeats {
    /// Takes a packet: the first of its kind is given back at once, the others wait.
    pub fn take(&mut self, seen: Seen, now: Instant) -> Option<Seen> {
        match self.waiting.get_mut(&key(&seen)) {
            None => {
                self.waiting.insert(key(&seen), (now + WINDOW, None));
                Some(seen)
            }
            Some((_, Some(first))) => {
                first.many_ports |= first.event.source_port != seen.event.source_port;
                first.time = seen.time;
                first.count += seen.count;
                first.bytes += seen.bytes;
                first.missed += seen.missed;
                None
            }
            Some((_, waits)) => {
                *waits = Some(seen);
                None
            }
        }
    }

    /// What has waited long enough, oldest first.
    pub fn due(&mut self, now: Instant) -> Vec<Seen> {
        let mut due = Vec::new();
        self.waiting.retain(|_, (until, waits)| {
            if *until > now {
                return true;
            }
            *until = now + WINDOW;
            let seen = waits.take();
            let goes_on = seen.is_some();
            due.extend(seen);
            goes_on
        });
        due.sort_by_key(|seen| seen.time);
        due
    }

    /// All that waits, oldest first.
    pub fn rest(&mut self) -> Vec<Seen> {
        let waiting = std::mem::take(&mut self.waiting);
        let mut rest: Vec<Seen> = waiting.into_values().filter_map(|(_, waits)| waits).collect();
        rest.sort_by_key(|seen| seen.time);
        rest
    }

    /// When something may be due next.
    pub fn next(&self) -> Option<Instant> {
        self.waiting.values().map(|(until, _)| *until).min()
    }
}

/// How many lines may be printed in a second, and what there was beyond.
pub struct Lines {
    most: Option<u32>,
    since: Instant,
    printed: u32,
    /// Lines that were not printed, and packets in them, since they were asked for.
    beyond: (u64, u64),
}

impl Lines {
    /// At most so many lines a second; `None` for any number.
    pub fn new(most: Option<u32>, now: Instant) -> Self {
        Self { most, since: now, printed: 0, beyond: (0, 0) }
    }

    /// Whether this one may be printed; if not, it is counted.
    pub fn allows(&mut self, seen: &Seen, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.printed = 0;
        }
        if self.most.is_some_and(|most| self.printed >= most) {
            self.beyond.0 += 1;
            self.beyond.1 += seen.count;
            return false;
        }
        self.printed += 1;
        true
    }

    /// Lines and packets that were not printed since this was asked last.
    pub fn take_beyond(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.beyond)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::seen::Ends;
    use crate::monitor::seen::tests::event;

    fn packet(from: u16, to: u16) -> Seen {
        Seen::one(event("203.0.113.7", from, "198.18.0.1", to), Ends::default(), i128::from(from), 1)
    }

    #[test]
    fn a_flood_is_one_line_a_second() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(repeats.take(packet(1, 22), at(0)).map(|seen| seen.count), Some(1), "the first at once");
        for from in 2..=100 {
            assert!(repeats.take(packet(from, 22), at(u64::from(from))).is_none());
        }
        assert!(repeats.take(packet(1, 23), at(500)).is_some(), "another port is another line");
        assert!(repeats.due(at(999)).is_empty());
        let due = repeats.due(at(1000));
        let [line] = &due[..] else { panic!("one line: {due:?}") };
        assert_eq!((line.count, line.bytes, line.missed, line.many_ports), (99, 99 * 74, 99, true));
        assert_eq!(line.time, 100, "when the last was seen");
        assert_eq!(repeats.next(), Some(at(1500)), "the other port may be forgotten first");
        assert!(repeats.take(packet(7, 22), at(1600)).is_none(), "it goes on");
        assert_eq!(repeats.due(at(2100)).iter().map(|seen| seen.count).collect::<Vec<_>>(), [1]);
        assert!(repeats.due(at(3200)).is_empty());
        assert_eq!(repeats.next(), None, "it is over");
        assert!(repeats.take(packet(8, 22), at(3300)).is_some());
        assert!(repeats.take(packet(8, 22), at(3301)).is_none());
        assert_eq!(
            repeats.rest().iter().map(|seen| (seen.count, seen.many_ports)).collect::<Vec<_>>(),
            [(1, false)]
        );
    }

    #[test]
    fn lines_beyond_the_most_are_counted() {
        let start = Instant::now();
        let mut lines = Lines::new(Some(2), start);
        let allowed = |lines: &mut Lines, second| {
            (0..5).filter(|port| lines.allows(&packet(1, *port), start + Duration::from_secs(second))).count()
        };
        assert_eq!(allowed(&mut lines, 0), 2);
        assert_eq!(lines.take_beyond(), (3, 3));
        assert_eq!(allowed(&mut lines, 1), 2);
        assert_eq!((lines.take_beyond(), lines.take_beyond()), ((3, 3), (0, 0)));
        assert_eq!(allowed(&mut Lines::new(None, start), 0), 5);
    }
}
