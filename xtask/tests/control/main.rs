//! What an operator types to change the policy, and what stands when the programs of fw are gone.

mod again;
mod fallback;
mod ground;
mod labels;
mod plan;
mod reload;
