//! What a pass would change beside the maps and hooks, for `fw plan`: rules in iptables, tables of nftables.

use super::chain;
use super::handed::{HandOver, Handed, in_nft};
use crate::desired::Desired;
use crate::handover::{Backstop, HandoverError, Marks, Nft, RuleChange};

/// What would change, and what cannot be told. `bit` is the lower bit of our marks. Blocks while iptables and nft run.
pub fn beside_maps(desired: &Desired, bit: u8) -> (Vec<RuleChange>, Vec<String>) {
    let (mut changes, mut warnings) = (Vec::new(), Vec::new());
    let mut take = |found: Result<Vec<RuleChange>, HandoverError>, what: &str| match found {
        Ok(found) => changes.extend(found),
        Err(error) => warnings.push(format!("no change of {what} is foreseen: {}", chain(&error))),
    };
    let handed = Marks::new(bit)
        .and_then(|marks| Handed::new(HandOver::of(desired), marks, in_nft(marks)))
        .and_then(|handed| handed.plan());
    take(handed, "iptables");
    let Some(nft) = Nft::find() else { return (changes, warnings) };
    let table = |wanted: Result<Backstop, HandoverError>| Ok(nft.plan(&wanted?)?.into_iter().collect());
    let apart = Marks::new(bit).and_then(|marks| Backstop::apart(marks, &desired.apart));
    take(table(apart), "nftables (table bridge fw)");
    let closed =
        Marks::new(bit).and_then(|marks| Backstop::closed(marks, &desired.output_devices, &desired.closed));
    take(table(closed), "nftables (table inet fw)");
    (changes, warnings)
}
