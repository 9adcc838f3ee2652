//! What is handed over to iptables: our mark skips Docker's filter chains, and rules of our own.

use std::collections::BTreeSet;

use fw_common::Address;
use fw_common::tables::nat_health;

use super::{Reconciler, backend, chain, nat};
use crate::desired::Desired;
use crate::handover::{self, HandoverError, Iptables, Nat, Outcome, RuleChange};

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

/// The same as rules, and the programs that write them.
pub(super) struct Handed {
    iptables: Iptables,
    rules: handover::Desired,
    nat: Option<Nat>,
    /// Docker's nftables backend writes NAT.
    by_nft: bool,
}

impl Handed {
    /// For marks whose lower bit is `bit`.
    pub(super) fn new(HandOver { devices, reach, nat }: HandOver, bit: u8) -> Result<Self, HandoverError> {
        let rules = handover::Desired::new(handover::Marks::new(bit)?, devices, reach)?;
        let iptables = Iptables::find()?;
        let Some(nat) = nat else { return Ok(Self { iptables, rules, nat: None, by_nft: false }) };
        let (nat, by_nft) = nat::beside_nft(nat)?;
        Ok(Self { iptables, rules, nat: Some(nat), by_nft })
    }

    fn apply(&self) -> Result<Applied, HandoverError> {
        let mut outcome = self.iptables.apply(&self.rules, self.nat.as_ref())?;
        let unknown = look_further(&mut outcome.nat, nat::by_nft).err();
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
    /// Docker's nftables backend writes NAT.
    by_nft: bool,
    /// Why it is not known whether Docker's NAT rules stand: our own do all the same.
    unknown: Option<HandoverError>,
}

/// Docker's NAT that iptables does not hold may be in nftables: a dockerd that was told to use these takes it out of there.
fn look_further(
    stands: &mut bool,
    by_nft: impl FnOnce() -> Result<bool, HandoverError>,
) -> Result<(), HandoverError> {
    if !*stands {
        *stands = by_nft()?;
    }
    Ok(())
}

impl Reconciler {
    /// Has iptables let packets with our mark skip Docker's filter chains, and writes the rules of our own.
    pub(super) async fn hand_over(&mut self, wanted: HandOver, local: &BTreeSet<Address>) {
        let bit = self.policy.marks.bit;
        let (reach, rules) = (wanted.reach, wanted.clone());
        let applied = tokio::task::spawn_blocking(move || Handed::new(rules, bit)?.apply());
        let applied = self.beside(applied).await;
        let applied = applied.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
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
        let advice = self.beside(tokio::task::spawn_blocking(move || backend::advice(bit, reach))).await;
        self.say(advice.ok().flatten().as_slice());
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
    fn nft_is_asked_only_for_what_iptables_does_not_hold() {
        let fails = || Err(HandoverError::NoBridgeMeta);
        let mut stands = true;
        assert!(look_further(&mut stands, fails).is_ok() && stands, "it is not asked");
        let mut gone = false;
        assert!(look_further(&mut gone, fails).is_err() && !gone);
        assert!(look_further(&mut gone, || Ok(true)).is_ok() && gone);
    }
}
