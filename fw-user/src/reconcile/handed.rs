//! What is handed over to iptables: our mark skips Docker's filter chains, and rules of our own.

use std::collections::BTreeSet;

use fw_common::Address;
use fw_common::tables::nat_health;

use super::{Reconciler, chain, nat};
use crate::desired::Desired;
use crate::handover::{self, HandoverError, Iptables, Marks, Nat, Native, Nft, Outcome, RuleChange};

/// What iptables should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HandOver {
    /// Names of the devices by which packets leave.
    pub(super) devices: BTreeSet<String>,
    /// Whether networks reach each other.
    pub(super) reach: bool,
    /// The rules of our own.
    pub(super) nat: Option<Nat>,
}

impl HandOver {
    /// What it should hold for what should be in force, under the kernel's settings of this moment.
    pub(super) fn of(desired: &Desired) -> Self {
        Self {
            devices: desired.output_devices.clone(),
            reach: !desired.state.tables.reach.is_empty(),
            nat: desired.nat.clone().map(nat::settled),
        }
    }
}

/// Docker's rules in nftables, if it writes any; its error, if nft does not answer.
type InNft = Result<Option<Native>, HandoverError>;

/// Asks nft for Docker's rules: once in a pass. Blocks while it runs.
pub(super) fn in_nft(marks: Marks) -> InNft {
    Nft::find().map_or(Ok(None), |nft| nft.docker(marks))
}

/// The same as rules, and the programs that write them.
pub(super) struct Handed {
    iptables: Iptables,
    rules: handover::Desired,
    nat: Option<Nat>,
    in_nft: InNft,
    /// NAT should be ours, and Docker's nftables backend writes it.
    by_nft: bool,
}

impl Handed {
    /// With what Docker has written into nftables. Where NAT is ours, it has to be known: both would translate.
    pub(super) fn new(
        HandOver { devices, reach, nat }: HandOver,
        marks: Marks,
        in_nft: InNft,
    ) -> Result<Self, HandoverError> {
        let rules = handover::Desired::new(marks, devices, reach)?;
        let iptables = Iptables::find()?;
        let Some(nat) = nat else { return Ok(Self { iptables, rules, nat, in_nft, by_nft: false }) };
        let in_nft = if nat.owns { Ok(in_nft?) } else { in_nft };
        let by_nft = nat.owns && matches!(in_nft, Ok(Some(_)));
        let nat = Some(Nat { owns: nat.owns && !by_nft, ..nat });
        Ok(Self { iptables, rules, nat, in_nft, by_nft })
    }

    fn apply(self) -> Result<Applied, HandoverError> {
        let mut outcome = self.iptables.apply(&self.rules, self.nat.as_ref())?;
        let unknown = look_further(&mut outcome.nat, self.in_nft);
        Ok(Applied { outcome, by_nft: self.by_nft, unknown })
    }

    /// What [`Handed::apply`] would change.
    pub(super) fn plan(&self) -> Result<Vec<RuleChange>, HandoverError> {
        self.iptables.plan(&self.rules, self.nat.as_ref())
    }
}

/// What came of writing them.
struct Applied {
    outcome: Outcome,
    /// As [`Handed::by_nft`].
    by_nft: bool,
    /// Why it is not known whether Docker's NAT rules stand: our own do all the same.
    unknown: Option<HandoverError>,
}

/// Docker's NAT that iptables does not hold may be in nftables: a dockerd that was told to use these takes it out of there.
fn look_further(stands: &mut bool, in_nft: InNft) -> Option<HandoverError> {
    if *stands {
        return None;
    }
    match in_nft {
        Ok(native) => {
            *stands = native.is_some();
            None
        }
        Err(error) => Some(error),
    }
}

impl Reconciler {
    /// Has iptables let packets with our mark skip Docker's filter chains, and writes the rules of our own.
    pub(super) async fn hand_over(&mut self, wanted: HandOver, local: &BTreeSet<Address>) {
        let bit = self.policy.marks.bit;
        let (reach, rules) = (wanted.reach, wanted.clone());
        let applied = tokio::task::spawn_blocking(move || {
            let marks = match Marks::new(bit) {
                Ok(marks) => marks,
                Err(error) => return (Err(error), None),
            };
            let in_nft = in_nft(marks);
            let advice = in_nft.as_ref().ok().and_then(|native| native.as_ref()?.advice(marks, reach));
            (Handed::new(rules, marks, in_nft).and_then(Handed::apply), advice)
        });
        let applied = self.beside(applied).await;
        let (applied, advice) = applied.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let refused = applied.as_ref().map(|applied| nat::refusing(&applied.outcome, applied.by_nft));
        let refused = refused.unwrap_or_default();
        let was_gone = self.status.nat == nat_health::GONE;
        self.status.handover = u8::from(applied.is_ok() && refused.is_empty());
        if let Some(nat) = &wanted.nat {
            self.status.nat = nat::health(nat, applied.is_ok(), !refused.is_empty());
            self.say(&nat::warnings(nat));
        }
        let before = self.handed_over.take().and_then(|before| before.nat);
        match applied {
            Ok(Applied { outcome, unknown, .. }) => {
                if let Some(nat) = &wanted.nat {
                    self.forget_stale(before.as_ref(), nat, local).await;
                }
                self.handed_over = Some(wanted);
                if outcome.changed {
                    tracing::info!("iptables holds our rules");
                }
                self.nat_seen |= outcome.nat;
                // Whoever cannot be asked has not gone, nor come back.
                let stands = outcome.nat || unknown.is_some() && !was_gone;
                self.status.nat = nat::of_docker(self.status.nat, self.nat_seen, stands);
                self.say(unknown.as_ref().map(unasked).as_slice());
                let unreadable =
                    outcome.unreadable.iter().map(|place| format!("iptables cannot show all of {place:?}"));
                self.say(&unreadable.collect::<Vec<_>>());
                self.say(nat::refusal(&refused).as_slice());
            }
            Err(error) => self.say(&[format!("our rules in iptables do not stand: {}", chain(&error))]),
        }
        self.say(advice.as_slice());
    }
}

/// What to do where nft does not answer.
fn unasked(error: &HandoverError) -> String {
    format!(
        "cannot look whether Docker's NAT rules stand in nftables (docker-bridges): {}; our rules in iptables stand, but \
         `fw status` does not see Docker's go until `nft list ruleset` works again",
        chain(error)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_iptables_does_not_hold_may_stand_in_nftables() {
        let native = || Ok(Some(Native { accepts_mark: true, drops_direct: true }));
        let mut stands = true;
        let unanswered = || Err(HandoverError::NoBridgeMeta);
        assert!(look_further(&mut stands, unanswered()).is_none() && stands, "it does not matter");
        let mut gone = false;
        assert!(look_further(&mut gone, unanswered()).is_some() && !gone);
        assert!(look_further(&mut gone, Ok(None)).is_none() && !gone);
        assert!(look_further(&mut gone, native()).is_none() && gone);
    }
}
