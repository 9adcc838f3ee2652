//! The hand-over to iptables: the few rules, each conditional on fw's mark, that let vetted packets skip Docker's filters.
//!
//! Alone they open nothing: no program, no mark, and Docker's own chains decide. They stand in the flavour and
//! family in which Docker's rules stand, behind every foreign rule of `DOCKER-USER`, and carry the comment `fw`.
//! [`plan`], [`plan_removal`] and [`report`] are pure; only [`Iptables`] and [`Nft`] run programs.

mod collisions;
mod connmark;
mod foreseen;
mod iptables;
mod layout;
mod nat;
mod native;
mod nft;
mod own;
mod program;
mod rule;
mod save;
mod survey;
mod walk;

use std::fmt;

use serde::Serialize;
use thiserror::Error;

pub use self::collisions::{Collision, Use, collisions, nft_collisions};
pub use self::connmark::doctor_marks;
pub use self::foreseen::{Becomes, RuleChange};
pub use self::iptables::{Change, Found, Iptables, Outcome, Own, RuleSets, Status, Unreadable};
pub use self::layout::{Edit, How, Placed, Report, plan, plan_removal, report, restore_input};
pub(crate) use self::nat::OWN;
pub use self::nat::{Nat, Network, Port};
pub use self::native::Native;
pub use self::nft::{Backstop, Nft, NftTable, Standing, nft_tables};
pub(crate) use self::rule::MarkRule;
pub(crate) use self::save::Save;
pub use self::survey::{Forwarding, Survey, Translation};
pub use self::walk::{End, Hit, Locals, Passing};

/// The two-bit field of the packet mark that fw owns, by the number of its lower bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Marks {
    bit: u8,
}

impl Marks {
    /// The field at `bit` and `bit + 1`; from 17 on, below lie the bits of kube-proxy and others.
    pub fn new(bit: u8) -> Result<Self, HandoverError> {
        if (17..=30).contains(&bit) { Ok(Self { bit }) } else { Err(HandoverError::Bit { bit }) }
    }

    /// Both bits.
    pub fn mask(self) -> u32 {
        3 << self.bit
    }

    /// Towards a known endpoint.
    pub fn inward(self) -> u32 {
        1 << self.bit
    }

    /// From a container to the outside; valid only with an uplink as output device.
    pub fn outward(self) -> u32 {
        2 << self.bit
    }

    /// Between networks, not to be masqueraded.
    pub fn reach(self) -> u32 {
        3 << self.bit
    }
}

/// What the rules are to be; the same for both families and flavours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    rules: Vec<MarkRule>,
    marks: Marks,
    reach: bool,
}

impl Desired {
    /// The rules for these marks and uplinks; `reach` adds what traffic between networks needs in raw and nat.
    pub fn new(
        marks: Marks,
        uplinks: impl IntoIterator<Item = impl Into<String>>,
        reach: bool,
    ) -> Result<Self, HandoverError> {
        let mut names: Vec<String> = uplinks.into_iter().map(Into::into).collect();
        names.sort();
        names.dedup();
        if let Some(name) = names.iter().find(|name| !plain_name(name)) {
            return Err(HandoverError::Uplink { name: name.clone() });
        }
        let mut rules = vec![MarkRule::inward(marks), MarkRule::reach(marks)];
        rules.extend(names.into_iter().map(|name| MarkRule::outward(marks, name)));
        Ok(Self { rules, marks, reach })
    }
}

/// A name that iptables takes as it is: no blank, no quote, and no `+` at the end, which it reads as a wildcard.
fn plain_name(name: &str) -> bool {
    let special = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '\\' | '/');
    (1..=15).contains(&name.len())
        && !name.contains(special)
        && !name.ends_with('+')
        && !name.starts_with(['-', '!'])
}

/// The address family of a rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4: `iptables`.
    V4,
    /// IPv6: `ip6tables`.
    V6,
}

/// The kernel interface that holds a rule set; packets pass through both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    /// `nf_tables` behind the iptables commands.
    Nft,
    /// The original `x_tables` interface.
    Legacy,
}

/// One rule set of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Which kernel interface.
    pub flavour: Flavour,
}

impl Family {
    /// The command of this family.
    pub const fn command(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = self.family.command();
        let flavour = match self.flavour {
            Flavour::Nft => "nft",
            Flavour::Legacy => "legacy",
        };
        write!(f, "{family}-{flavour}")
    }
}

/// Why the hand-over could not be made, read or taken back.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// The mark field does not fit.
    #[error("cannot use mark bits {bit} and up: choose a bit from 17 to 30")]
    Bit {
        /// The lower bit that was asked for.
        bit: u8,
    },
    /// The name would mean something else to iptables.
    #[error(
        "cannot write a rule for uplink {name:?}: iptables takes 1 to 15 characters without blanks, quotes or a final `+`; rename the device"
    )]
    Uplink {
        /// The device's name.
        name: String,
    },
    /// The name would mean something else to nft.
    #[error(
        "cannot write a rule for the device {name:?}: nft takes 1 to 15 characters without blanks, quotes or `*`; rename it, or give the network a bridge of another name"
    )]
    Bridge {
        /// The device's name.
        name: String,
    },
    /// The kernel lacks what our tables ask for.
    #[error(
        "this kernel's nftables lack what the table asks for: the module nft_meta_bridge (CONFIG_NFT_BRIDGE_META) to tell which bridge a frame is on, or nft_ct"
    )]
    NoBridgeMeta,
    /// No iptables of one family.
    #[error(
        "cannot find the programs of {family} in PATH or the sbin directories: install the package `iptables`"
    )]
    NoFamily {
        /// `iptables` or `ip6tables`.
        family: &'static str,
    },
    /// No iptables on this host.
    #[error(
        "cannot find iptables-save and iptables-restore in PATH or the sbin directories: install the package `iptables`"
    )]
    NoTool,
    /// The program could not be started or spoken to.
    #[error("cannot run {program}")]
    Run {
        /// Its path.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The program did not end in time and was killed.
    #[error(
        "{program} did not finish within {seconds} s and was stopped: run it by hand to see what holds it"
    )]
    TimedOut {
        /// Its path.
        program: String,
        /// How long it was given.
        seconds: u64,
    },
    /// Somebody else holds the lock of the legacy tables.
    #[error(
        "cannot change {place}: another program has held the xtables lock for {seconds} s; find it with `fuser /run/xtables.lock` and try again"
    )]
    Locked {
        /// Where.
        place: Place,
        /// How long was waited.
        seconds: u64,
    },
    /// Not root, or without the capability.
    #[error("{program} was refused by the kernel: run fw as root or with CAP_NET_ADMIN ({message})")]
    Refused {
        /// Its path.
        program: String,
        /// What it said.
        message: String,
    },
    /// The program failed otherwise.
    #[error("{program} failed: {message}")]
    Failed {
        /// Its path.
        program: String,
        /// What it said.
        message: String,
    },
    /// The rules were written and were not there when read back.
    #[error(
        "the rules of fw in {place} were not in place when read back, {attempts} times: something else is rewriting the tables"
    )]
    Restless {
        /// Where.
        place: Place,
        /// How often it was tried.
        attempts: u32,
    },
    /// More than one place failed; the others were done.
    #[error("{}", list(.0))]
    Several(Vec<HandoverError>),
}

fn list(errors: &[HandoverError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("; ")
}
