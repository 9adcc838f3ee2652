//! Bans as they are asked for: in force at once, kept, and over in time.
//!
//! A ban is written into the map by itself, whatever a pass waits for; the next pass finds it among what is desired.
//! Then the connections of whoever is banned are cut, as a `[[deny]]` rule does when it is read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fw_common::tables::memory::{Memory, Shared};
use fw_common::tables::{Prefix, Subnet};
use ipnet::IpNet;
use tokio::time::Instant;

use super::{PERIOD, PassError, Reconciler, chain};
use crate::bans::{Ban, Change, wall_clock};
use crate::control::{Answer, Request};
use crate::desired::in_tables;
use crate::plan::Step;
use crate::policy::{Mode, shown_prefix};
use crate::typed_on::Connection;

/// Between two looks at the connections for such as are to be cut, at least.
const LOOK: Duration = Duration::from_secs(1);

/// So many times what a look took nobody looks again: the kernel may know a million connections, and bans may come without
/// end.
const REST: u32 = 10;

/// What a prefix of the loopback device's holds.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Whose connections are to be cut.
#[derive(Debug, Default)]
pub(super) struct ToCut {
    banned: BTreeSet<IpNet>,
    /// Some are not banned any more.
    lifted: bool,
    /// Connections are not looked at before; they may be at once if there is none.
    rested: Option<Instant>,
}

impl ToCut {
    /// When to look; never if there is nothing to do.
    pub(super) fn when(&self) -> Option<Instant> {
        let due = self.lifted || !self.banned.is_empty();
        due.then(|| self.rested.unwrap_or_else(Instant::now))
    }

    /// Connections have been looked at, and it took so long.
    fn rest(&mut self, took: Duration) {
        self.rested = Some(Instant::now() + LOOK.max(took * REST));
    }
}

/// Whoever had better not be banned, found in a time that does not grow with how many they are: a list of bans is long.
struct Guarded<'a> {
    own: BTreeSet<IpAddr>,
    subnets: &'a BTreeMap<Prefix, Subnet>,
    /// How long the prefixes of these are.
    lengths: BTreeSet<u32>,
    peer: Option<IpAddr>,
}

impl<'a> Guarded<'a> {
    fn new(tables: &'a Memory, peer: Option<IpAddr>) -> Self {
        let local = tables.local_addresses.iter().filter(|(_, local)| local.broadcast == 0);
        Self {
            own: local.map(|(key, _)| IpAddr::from(key.address)).collect(),
            subnets: &tables.subnets,
            lengths: tables.subnets.keys().map(|subnet| subnet.bits).collect(),
            peer,
        }
    }

    /// Why this one had better not be.
    fn why_not(&self, prefix: &IpNet) -> Option<String> {
        let holds = |address: &&IpAddr| prefix.contains(*address);
        Some(if prefix.prefix_len() == 0 {
            "is everybody; a policy without rules lets nobody in".to_owned()
        } else if let Some(peer) = self.peer.as_ref().filter(holds) {
            format!("holds {peer}, from where you type")
        } else if prefix.addr().is_loopback() || LOOPBACK.iter().any(|address| holds(&address)) {
            "holds addresses of the loopback device, from which nobody comes in".to_owned()
        } else if let Some(own) = self.own.range(prefix.network()..=prefix.broadcast()).next() {
            format!("holds {own}, an address of this host")
        } else if self.lies_inside(prefix) {
            "lies in a network of this host's containers, and bans are for what comes from outside".to_owned()
        } else {
            return None;
        })
    }

    fn lies_inside(&self, prefix: &IpNet) -> bool {
        let mut stand = in_tables([prefix]);
        stand.all(|it| {
            let mut shorter = self.lengths.range(..=it.bits);
            shorter.any(|bits| self.subnets.contains_key(&Prefix::new(it.address, *bits)))
        })
    }
}

impl Reconciler {
    /// Does what is asked about bans; waits for nothing.
    pub(super) fn answer_ban(&mut self, request: Request) -> Answer {
        match request {
            Request::Ban { prefixes, seconds, why, typed_on, force } => {
                let guarded = if force { Ok(()) } else { self.guard(&prefixes, typed_on) };
                let asked = |prefix| {
                    // The second that has begun is not counted: a ban is never shorter than was asked for.
                    let now = wall_clock();
                    let until = seconds.map(|seconds| now.saturating_add(1).saturating_add(seconds));
                    Ban { prefix, since: now, until, why: why.clone() }
                };
                match guarded {
                    Ok(()) => self.ban(prefixes.into_iter().map(asked).collect()),
                    Err(message) => Answer::Declined { message },
                }
            }
            Request::Unban { prefixes } => self.unban(&prefixes),
            Request::Bans => Answer::Bans { bans: self.bans.iter().cloned().collect() },
            Request::Reload { .. } | Request::Confirm { .. } | Request::Waiting => {
                Answer::Failed { message: "this is no request about bans".to_owned() }
            }
        }
    }

    /// Why these had better not be banned.
    fn guard(&mut self, prefixes: &[IpNet], typed_on: Option<Connection>) -> Result<(), String> {
        let read;
        let tables = match &self.believed {
            Some(believed) => &believed.tables,
            // While a pass is under way, or in doubt, the maps tell.
            None => match self.datapath.maps().read_who() {
                Ok(state) => {
                    read = state;
                    &read.tables
                }
                Err(error) => {
                    return Err(format!(
                        "which addresses are this host's is not known: {}. Nobody was banned; `--force` does it unseen",
                        chain(&error)
                    ));
                }
            },
        };
        let guarded = Guarded::new(tables, typed_on.map(|connection| connection.peer.ip()));
        match prefixes.iter().find_map(|prefix| Some((prefix, guarded.why_not(prefix)?))) {
            Some((prefix, why)) => {
                let prefix = shown_prefix(prefix);
                Err(format!("{prefix} {why}. Nobody was banned; `--force` does it all the same"))
            }
            None => Ok(()),
        }
    }

    fn ban(&mut self, asked: Vec<Ban>) -> Answer {
        let begun = Instant::now();
        if let Err(message) = self.room(&asked) {
            return Answer::Declined { message };
        }
        let (mut new, mut known, mut changes) = (Vec::new(), 0, Vec::new());
        for ban in asked {
            let prefix = ban.prefix;
            let before = self.bans.get(&prefix).cloned();
            let after = self.bans.put(ban);
            match &before {
                Some(_) => known += 1,
                None => new.push(prefix),
            }
            changes.extend((before.as_ref() != Some(after)).then(|| Change::Ban(after.clone())));
        }
        let in_force = self.enforce_bans(&new);
        let after = begun.elapsed();
        let unkept = self.keep_changes(&changes);
        let count = new.len();
        let first = new.first().map(shown_prefix);
        self.to_cut.banned.extend(new);
        if let Err(error) = in_force {
            return self.not_in_force(&error);
        }
        if count > 0 {
            tracing::info!(sources = count, first, in_force = ?after, kept = ?begun.elapsed(), "banned");
        }
        Answer::Banned { new: count, known, unkept, observing: self.policy.mode == Mode::Observe }
    }

    fn unban(&mut self, prefixes: &[IpNet]) -> Answer {
        let (lifted, unknown): (Vec<IpNet>, Vec<IpNet>) =
            prefixes.iter().partition(|prefix| self.bans.lift(prefix).is_some());
        let in_force = self.lift_bans(&lifted);
        let changes: Vec<Change> = lifted.iter().copied().map(Change::Lift).collect();
        let unkept = self.keep_changes(&changes);
        if let Err(error) = in_force {
            return self.not_in_force(&error);
        }
        if !lifted.is_empty() {
            let first = lifted.first().map(shown_prefix);
            tracing::info!(sources = lifted.len(), first, "banned no more");
        }
        Answer::Unbanned { lifted, unknown, unkept }
    }

    fn not_in_force(&mut self, error: &PassError) -> Answer {
        self.failed(error);
        let why = chain(error);
        let message = format!("not in force as a whole, the daemon tries again with its next pass: {why}");
        Answer::Failed { message }
    }

    /// When the next ban is over.
    pub(super) fn bans_end(&self) -> Option<Instant> {
        let end = UNIX_EPOCH + Duration::from_secs(self.bans.next_end()?);
        // The wall clock may be set meanwhile: this is asked anew at least at each full pass.
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        Some(Instant::now() + left.min(PERIOD))
    }

    /// Ends the bans whose time is over.
    pub(super) fn end_bans(&mut self) {
        let over: Vec<IpNet> = self.bans.end(wall_clock()).into_iter().map(|ban| ban.prefix).collect();
        // While nothing is prepared, the pass that is due leaves them out.
        if over.is_empty() || self.prepared.is_none() {
            return;
        }
        match self.lift_bans(&over) {
            Ok(()) => {
                let first = over.first().map(shown_prefix);
                tracing::info!(sources = over.len(), first, "bans are over");
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Writes the file of bans if that has failed before.
    pub(super) fn keep_bans(&mut self) {
        if self.kept_bans.is_stale()
            && let Some(why) = self.keep_changes(&[])
        {
            self.say(&[why]);
        }
    }

    /// Why the changes would not outlive a restart, if so.
    fn keep_changes(&mut self, changes: &[Change]) -> Option<String> {
        if changes.is_empty() && !self.kept_bans.is_stale() {
            return None;
        }
        let error = self.kept_bans.write(changes, &self.bans).err()?;
        let path = self.kept_bans.path().display();
        Some(format!("a restart would not know the bans of now: cannot write {path}: {error}"))
    }

    /// Cuts the connections of whoever was banned, and lets those go on that a ban had cut.
    pub(super) fn cut_banned(&mut self) {
        let begun = Instant::now();
        // In doubt about what is in force nothing is cut; a pass is due.
        let Some(state) = self.believed.clone() else { return self.to_cut.rest(Duration::ZERO) };
        self.to_cut.lifted = false;
        let banned = std::mem::take(&mut self.to_cut.banned);
        let banned = banned.into_iter().filter(|prefix| self.bans.holds(prefix)).collect::<BTreeSet<_>>();
        self.cut_those_of(&in_tables(&banned).collect(), &state);
        self.to_cut.rest(begun.elapsed());
    }

    /// Whether the tables have room for them.
    fn room(&self, asked: &[Ban]) -> Result<(), String> {
        let Some(prepared) = &self.prepared else { return Ok(()) };
        let new: BTreeSet<&IpNet> =
            asked.iter().map(|ban| &ban.prefix).filter(|prefix| !self.bans.holds(prefix)).collect();
        let hosts = in_tables(new.iter().copied()).filter(|prefix| prefix.bits == 128).count();
        let prefixes = in_tables(new).count() - hosts;
        let (denied_hosts, denied) = prepared.denials();
        let sizes = &self.policy.tables;
        for (needed, room, table, key) in [
            (denied_hosts + hosts, sizes.hosts, "denied_hosts", "hosts"),
            (denied + prefixes, sizes.prefixes, "denied", "prefixes"),
        ] {
            if needed > room as usize {
                return Err(format!(
                    "with these {needed} entries would stand in table `{table}`, which holds {room}; nobody was banned. \
                     Ban prefixes in place of single addresses, or raise `{key}` in [tables]"
                ));
            }
        }
        Ok(())
    }

    /// Puts new bans in force, whatever a pass waits for.
    fn enforce_bans(&mut self, new: &[IpNet]) -> Result<(), PassError> {
        // Nothing is prepared where the last pass could not: the next one does, and this with it.
        let Some(prepared) = &mut self.prepared else { return Err(PassError::Unprepared) };
        let steps = if let Some(believed) = &mut self.believed {
            // While it is shared a table of a million denials would be copied to be changed.
            believed.tables.denied = Shared::default();
            let steps = prepared.ban(in_tables(new), believed);
            believed.tables.denied = prepared.denied().clone();
            steps?
        } else {
            let found = self.datapath.maps().read_around(&Memory::default())?;
            prepared.ban(in_tables(new), &found)?
        };
        self.carry_out_bans(&steps)
    }

    /// Ends bans.
    fn lift_bans(&mut self, lifted: &[IpNet]) -> Result<(), PassError> {
        let Some(prepared) = &mut self.prepared else { return Err(PassError::Unprepared) };
        if let Some(believed) = &mut self.believed {
            believed.tables.denied = Shared::default();
        }
        let steps = prepared.lift(in_tables(lifted));
        if let Some(believed) = &mut self.believed {
            believed.tables.denied = prepared.denied().clone();
        }
        self.to_cut.lifted |= !steps.is_empty();
        self.carry_out_bans(&steps)
    }

    fn carry_out_bans(&mut self, steps: &[Step]) -> Result<(), PassError> {
        if steps.is_empty() {
            return Ok(());
        }
        if let Some(believed) = &mut self.believed {
            for step in steps {
                match step {
                    Step::Settings(settings) => believed.tables.settings = *settings,
                    Step::Name(key, Some(name)) => _ = believed.names.insert(*key, name.clone()),
                    _ => {}
                }
            }
        }
        let maps = self.datapath.maps();
        maps.apply_all(steps)?;
        match maps.first_not_held(steps)? {
            Some(step) => Err(PassError::ReadBack { what: format!("{step:?}") }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable as _;
    use fw_common::tables::{LocalAddress, LocalKey};

    #[test]
    fn whoever_had_better_not_be_banned_is_found() {
        let mut tables = Memory::default();
        let key = |text: &str| LocalKey {
            address: text.parse::<IpAddr>().expect("an address").into(),
            ..LocalKey::zeroed()
        };
        tables.local_addresses.insert(key("198.51.100.1"), LocalAddress::zeroed());
        tables.local_addresses.insert(key("2001:db8::1"), LocalAddress::zeroed());
        let broadcast = LocalAddress { broadcast: 1, ..LocalAddress::zeroed() };
        tables.local_addresses.insert(key("198.51.100.255"), broadcast);
        let subnets = ["172.17.0.0/16", "fd00:1::/64"].map(|text| text.parse::<IpNet>().expect("a prefix"));
        tables.subnets.extend(in_tables(&subnets).map(|prefix| (prefix, Subnet::zeroed())));
        let guarded = Guarded::new(&tables, Some("192.0.2.7".parse().expect("an address")));
        for (prefix, why) in [
            ("0.0.0.0/0", Some("everybody")),
            ("192.0.2.0/28", Some("from where you type")),
            ("127.0.0.0/7", Some("loopback")),
            ("198.51.0.0/16", Some("holds 198.51.100.1,")),
            ("2001:db8::/32", Some("holds 2001:db8::1,")),
            ("172.17.0.0/16", Some("containers")),
            ("172.17.3.4/32", Some("containers")),
            ("fd00:1::9/128", Some("containers")),
            ("172.16.0.0/15", None),
            ("198.51.100.255/32", None),
            ("203.0.113.9/32", None),
            ("fd00::/16", None),
        ] {
            let said = guarded.why_not(&prefix.parse().expect("a prefix"));
            let as_wanted =
                why.map_or(said.is_none(), |why| said.as_ref().is_some_and(|it| it.contains(why)));
            assert!(as_wanted, "{prefix}: {said:?}");
        }
    }

    #[test]
    fn the_longer_a_look_takes_the_longer_is_the_rest() {
        let mut to_cut = ToCut { lifted: true, ..ToCut::default() };
        assert!(to_cut.when().is_some_and(|due| due <= Instant::now()), "at once");
        for (took, rest) in [(0, 1), (3, 30)] {
            let begun = Instant::now();
            to_cut.rest(Duration::from_secs(took));
            assert!(to_cut.when().is_some_and(|due| due >= begun + Duration::from_secs(rest)), "{took}");
        }
        to_cut.lifted = false;
        assert_eq!(to_cut.when(), None);
    }
}
