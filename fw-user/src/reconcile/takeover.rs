//! Connections that are older than what is in force: taken over when hooks are put on, cut when the policy lets them be
//! no more.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::tables::Prefix;
use fw_common::tables::memory::{Memory, Shared, longest};
use fw_common::{Address, Hook};

use super::{Reconciler, chain, monotonic_seconds};
use crate::connections::{self, Records};
use crate::conntrack::{self, Connection, Tuple};
use crate::datapath::DatapathError;
use crate::netlink::NetlinkError;
use crate::plan::{State, Step};

/// Whether the steps put a hook on an uplink that had none: what was connected before has no flows.
pub(super) fn hooks_uplink(steps: &[Step]) -> bool {
    steps.iter().any(|step| match step {
        Step::Attach(point) => matches!(point.hook, Hook::UplinkIngress | Hook::UplinkEgress),
        _ => false,
    })
}

/// Why connections could not be taken over or cut.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Conntrack(#[from] NetlinkError),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
}

impl Reconciler {
    /// Fills the tables of flows with what conntrack knows. Done before the hooks are on, so that none of them drops what
    /// was connected before, and again after, for what was connected in between.
    pub(super) fn seed(&mut self, state: &State) {
        match self.try_seed(state) {
            Ok(0) => {}
            Ok(flows) => tracing::info!(flows, "connections from before are known"),
            Err(error) => self.say(&[format!(
                "connections from before go on only as far as this host sends on them: {}",
                chain(&error)
            )]),
        }
    }

    fn try_seed(&mut self, state: &State) -> Result<usize, Failed> {
        let connections = conntrack::snapshot()?;
        let records = connections::seeds(state, &connections, now());
        Ok(self.datapath.maps().seed(&records)?)
    }

    /// Before a new policy is in force: where it restricts containers that were free, answers are known by flows that
    /// nobody has recorded. Tells the connections that go on by what their first packets said, for [`Reconciler::cut`].
    pub(super) fn keep(&mut self, before: &State, state: &State) -> BTreeSet<Tuple> {
        self.try_keep(before, state).unwrap_or_else(|error| {
            self.say(&[format!(
                "connections of containers that the policy restricts go on only when their peer sends: {}",
                chain(&error)
            )]);
            BTreeSet::new()
        })
    }

    fn try_keep(&mut self, before: &State, state: &State) -> Result<BTreeSet<Tuple>, Failed> {
        let mut connections = conntrack::snapshot()?;
        let cut: BTreeSet<Connection> =
            connections::cut(before, state, &connections).into_iter().map(|cut| cut.connection).collect();
        connections.retain(|connection| !cut.contains(connection));
        let Records { inbound, .. } = connections::seeds(state, &connections, now());
        self.datapath.maps().seed(&Records { inbound, ..Records::default() })?;
        Ok(connections.iter().map(|connection| connection.original).collect())
    }

    /// Cuts the connections that only the policy before has let in or out; those that are known to be kept are not looked
    /// at again.
    pub(super) fn cut(&mut self, before: &State, state: &State, kept: &BTreeSet<Tuple>) {
        match self.try_cut(before, state, kept) {
            Ok(0) => {}
            Ok(cut) => tracing::info!(connections = cut, "cut what the policy lets be no more"),
            Err(error) => self
                .say(&[format!("connections that the policy lets be no more may go on: {}", chain(&error))]),
        }
    }

    fn try_cut(&mut self, before: &State, state: &State, kept: &BTreeSet<Tuple>) -> Result<usize, Failed> {
        self.lift_cut(state)?;
        let mut connections = conntrack::snapshot()?;
        connections.retain(|connection| !kept.contains(&connection.original));
        self.sever(before, state, &connections)
    }

    /// Cuts what those connections still let be that were opened by or to these peers, who are denied by now.
    pub(super) fn cut_those_of(&mut self, peers: &BTreeSet<Prefix>, state: &State) {
        match self.try_cut_those_of(peers, state) {
            Ok(0) => {}
            Ok(cut) => tracing::info!(connections = cut, "cut the connections of who is banned"),
            Err(error) => self.say(&[format!(
                "connections of who is banned end only by themselves, for nothing comes in on them: {}",
                chain(&error)
            )]),
        }
    }

    fn try_cut_those_of(&mut self, peers: &BTreeSet<Prefix>, state: &State) -> Result<usize, Failed> {
        self.lift_cut(state)?;
        if peers.is_empty() {
            return Ok(0);
        }
        let peers: BTreeMap<Prefix, bool> = peers.iter().map(|prefix| (*prefix, true)).collect();
        let is_peer = |address: &Address| longest(&peers, address).is_some();
        let mut connections = conntrack::snapshot()?;
        connections
            .retain(|connection| is_peer(&connection.original.source) || is_peer(&connection.reply.source));
        // What another rule denies as well is nobody's to keep, either.
        let undenied = Memory { denied: Shared::default(), ..state.tables.clone() };
        self.sever(&State { tables: undenied, ..state.clone() }, state, &connections)
    }

    /// Allowed again: what was cut may go on at once, whichever daemon has cut it.
    fn lift_cut(&mut self, state: &State) -> Result<(), Failed> {
        if self.has_cut {
            let maps = self.datapath.maps();
            let cut = maps.cut(now())?;
            maps.lift(&connections::lifted(state, &cut))?;
            self.has_cut = cut != Records::default();
        }
        Ok(())
    }

    /// Cuts those of these connections that could be opened before and cannot be now.
    fn sever(&mut self, before: &State, state: &State, connections: &[Connection]) -> Result<usize, Failed> {
        let cut = connections::cut(before, state, connections);
        let connections = || cut.iter().map(|cut| &cut.connection);
        let Records { outward, inbound } = connections::severed(state, connections(), now());
        let maps = self.datapath.maps();
        for (key, flow) in &outward {
            maps.put_flow(key, flow)?;
        }
        conntrack::remove(connections())?;
        // Last: what came in while the others were written has been recorded there.
        for (key, flow) in &inbound {
            maps.put_inbound_flow(key, flow)?;
        }
        self.has_cut |= !cut.is_empty();
        Ok(cut.len())
    }
}

/// Seconds on the monotonic clock, as they stand in flows.
#[expect(clippy::cast_possible_truncation, reason = "flows count seconds in 32 bits, the programs likewise")]
fn now() -> u32 {
    monotonic_seconds() as u32
}
