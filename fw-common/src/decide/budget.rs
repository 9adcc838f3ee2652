//! The budget of flows: each container has so many places in `flows`, and a flow beyond them takes the place of another
//! one of the same container, never of a neighbour's.
//!
//! A new flow draws places until one is free. With half the budget alive, one in 256 new flows finds none and takes that
//! of a flow which nobody answered or, if there is none among those drawn, of any.

use crate::flow::{FlowKey, state};
use crate::tables::{BudgetPlace, Tables};

/// How many places a new flow draws.
const DRAWN: u32 = 8;

/// Gives a new flow a place in its owner's budget, and forgets the flow that has it.
#[inline(never)]
pub(super) fn make_room<T: Tables>(tables: &T, key: &FlowKey, owner: u16) {
    let budget = tables.settings().flow_budget;
    let now = tables.now();
    let mut place = BudgetPlace { place: 0, owner, reserved: [0; 2] };
    let mut unanswered = u32::MAX;
    for drawn in 0..=DRAWN {
        // The last one is not drawn: what has to go.
        place.place = if drawn == DRAWN && unanswered != u32::MAX {
            unanswered
        } else {
            tables.random().checked_rem(budget).unwrap_or(0)
        };
        let Some(old) = tables.budgeted(&place) else { break };
        let Some(flow) = tables.flow(&old) else { break };
        if flow.container != owner {
            break;
        }
        if drawn == DRAWN || flow.is_expired(old.proto, now) {
            tables.forget(&old);
            break;
        }
        if flow.state == state::OPENING {
            unanswered = place.place;
        }
    }
    tables.set_budgeted(&place, key);
}
