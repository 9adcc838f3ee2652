//! The first pass where the maps in force are another version's or of another size: it fills new ones, and what is in
//! force goes over to them as a whole.

use std::collections::BTreeMap;

use super::{PassError, Reconciler, chain, takeover};
use crate::plan::{State, Step};

/// Nobody reads the new maps yet, so no packet sees the order of their steps; hooks come behind all of them, and those
/// that go at the very end.
pub(super) fn order(steps: &mut [Step]) {
    steps.sort_by_key(|step| match step {
        Step::Attach(_) => 1,
        Step::Detach(_) => 2,
        _ => 0,
    });
}

impl Reconciler {
    /// Carries out steps in this order: tables, read back, then new hooks, then old ones go over, then those go that are
    /// not wanted. Whether one of these could not be taken off.
    pub(super) fn carry_out_anew(
        &mut self,
        steps: &[Step],
        wanted: &State,
        devices: &BTreeMap<u32, String>,
    ) -> Result<bool, PassError> {
        let (tables, hooks) = steps.split_at(steps.partition_point(|step| !step.is_hook()));
        let (new, unwanted) = hooks.split_at(hooks.partition_point(|step| matches!(step, Step::Attach(_))));
        self.datapath.maps().apply_all(tables)?;
        self.read_back(tables)?;
        let carries = self.datapath.carries_flows();
        if !carries {
            self.seed(wanted);
        }
        self.carry_out_all(new, devices)?;
        self.datapath.renew(devices)?;
        // Behind the flows that are carried over, which know better.
        if !carries || takeover::hooks_uplink(new) {
            self.seed(wanted);
        }
        tracing::info!(
            "the maps that were in force have other sizes or another layout; new ones took their place"
        );
        let mut failed = false;
        for step in unwanted {
            if let Err(error) = self.datapath.apply(step, devices) {
                tracing::warn!(error = chain(&error), "hook not removed; trying again with the next pass");
                failed = true;
            }
        }
        Ok(failed)
    }
}

#[cfg(test)]
mod tests {
    use fw_common::Hook;
    use fw_common::tables::Settings;

    use super::*;
    use crate::plan::HookPoint;

    #[test]
    fn hooks_come_behind_tables_and_go_last() {
        let point = |ifindex| HookPoint { ifindex, hook: Hook::PortIngress };
        let settings = |mark_bit| Step::Settings(Settings { mark_bit, ..bytemuck::Zeroable::zeroed() });
        let mut steps = vec![
            Step::Detach(point(1)),
            settings(17),
            Step::Attach(point(2)),
            Step::Network(7, None),
            Step::Attach(point(1)),
            settings(18),
        ];
        order(&mut steps);
        assert_eq!(
            steps,
            [
                settings(17),
                Step::Network(7, None),
                settings(18),
                Step::Attach(point(2)),
                Step::Attach(point(1)),
                Step::Detach(point(1)),
            ]
        );
    }
}
