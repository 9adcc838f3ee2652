//! The section `[docker]`: what is let in and out because Docker's own work needs it.

use super::parse::word_or_default;
use super::problem::Problems;
use super::section::Section;
use super::{Docker, SetName};

/// Names of the rules that stand for the traffic between the nodes of a swarm; no rule of a file may have one of them.
pub mod swarm_rule {
    /// The data of overlays.
    pub const VXLAN: &str = "swarm-vxlan";
    /// The data of encrypted overlays.
    pub const ESP: &str = "swarm-esp";
    /// What nodes tell each other of their overlays.
    pub const GOSSIP: &str = "swarm-gossip";
    /// What managers are asked and told.
    pub const CONTROL: &str = "swarm-control";
    /// All of them.
    pub const ALL: [&str; 4] = [VXLAN, ESP, GOSSIP, CONTROL];
}

impl SetName {
    /// The set of a swarm's other nodes. No set of a file has a blank in its name.
    pub fn swarm_nodes() -> Self {
        Self("swarm nodes".to_owned())
    }
}

pub(super) fn parse(mut section: Section<'_>, problems: &mut Problems<'_>) -> Docker {
    let docker = Docker { swarm: word_or_default(section.take("swarm"), problems) };
    section.finish(problems);
    docker
}
