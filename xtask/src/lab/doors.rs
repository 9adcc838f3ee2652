//! Doors of the town: a short list of ways in and across, for tests that ask whether fw still holds.

use anyhow::{Context as _, Result, ensure};

use super::{HOST, HOST6, Lab, OUTSIDE, Outcome, Town};

/// A way to a server.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// Who reaches for what.
    pub what: &'static str,
    /// Whether it is open with fw and [`super::POLICY`]; with stock Docker alone all are.
    pub open: bool,
    /// The attempt.
    pub knock: fn(&Lab, &Town) -> Result<Outcome>,
}

/// Doors that stock Docker 20.10 leaves open: some are meant to be, the others are what fw is for.
pub const DOORS: &[Door] = &[
    open("R -> H:8080, published and allowed", |l, _| l.outside().tcp((HOST, 8080).into())),
    open("R -> H:8096 over IPv6, published and allowed", |l, _| l.outside().tcp((HOST6, 8096).into())),
    open("R -> H:5353/udp, published and allowed", |l, _| l.outside().udp((HOST, 5353).into())),
    open("R -> H:22, allowed", |l, _| l.outside().tcp((HOST, 22).into())),
    open("R ping H", |l, _| l.outside().ping(HOST.into())),
    open("a2 -> a1:81, same network", |_, t| t.at("a2").place.tcp((t.ip("a1")?, 81).into())),
    open("a2 -> R:443", |_, t| t.at("a2").place.tcp((OUTSIDE, 443).into())),
    open("a2 -> R:443/udp", |_, t| t.at("a2").place.udp((OUTSIDE, 443).into())),
    open("H -> b1:81", |l, t| l.host().tcp((t.ip("b1")?, 81).into())),
    open("H -> R:443", |l, _| l.host().tcp((OUTSIDE, 443).into())),
    closed("R -> H:8443, published and not allowed", |l, _| l.outside().tcp((HOST, 8443).into())),
    closed("R -> H:9100, not allowed", |l, _| l.outside().tcp((HOST, 9100).into())),
    closed("R -> a1:80, container address", |l, t| l.outside().tcp((t.ip("a1")?, 80).into())),
    closed("R -> x1:81, container address, IPv6", |l, t| l.outside().tcp((t.ip6("x1")?, 81).into())),
    closed("x2 -> y1:80, other network, IPv6", |_, t| t.at("x2").place.tcp((t.ip6("y1")?, 80).into())),
    closed("i1 -> H:9100, from an internal network", |_, t| t.at("i1").place.tcp((HOST, 9100).into())),
];

/// Fails unless every door is as it is with stock Docker.
pub fn all_open(lab: &Lab, town: &Town, when: &str) -> Result<()> {
    each(lab, town, when, |_| true)
}

/// Fails unless every door is as it has to be with fw.
pub fn held(lab: &Lab, town: &Town, when: &str) -> Result<()> {
    each(lab, town, when, |door| door.open)
}

const fn open(what: &'static str, knock: fn(&Lab, &Town) -> Result<Outcome>) -> Door {
    Door { what, open: true, knock }
}

const fn closed(what: &'static str, knock: fn(&Lab, &Town) -> Result<Outcome>) -> Door {
    Door { what, open: false, knock }
}

fn each(lab: &Lab, town: &Town, when: &str, expected: fn(&Door) -> bool) -> Result<()> {
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let knocks: Vec<_> =
            DOORS.iter().map(|door| scope.spawn(|| knock(door, lab, town, expected(door)))).collect();
        knocks.into_iter().map(|knock| knock.join().expect("a knock does not panic")).collect()
    });
    for (door, outcome) in DOORS.iter().zip(outcomes) {
        let outcome = outcome.with_context(|| format!("{} ({when})", door.what))?;
        let right = if expected(door) { outcome.reached() } else { outcome == Outcome::Silent };
        ensure!(
            right,
            "{when}: {}: expected {}, saw {outcome:?}",
            door.what,
            ["silence", "an answer"][usize::from(expected(door))]
        );
    }
    Ok(())
}

/// A door that ought to open gets a second chance: the machine may be busy.
fn knock(door: &Door, lab: &Lab, town: &Town, open: bool) -> Result<Outcome> {
    let first = (door.knock)(lab, town)?;
    if open && !first.reached() { (door.knock)(lab, town) } else { Ok(first) }
}
