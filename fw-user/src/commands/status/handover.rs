//! How the hand-over to iptables and NAT stand.

use fw_common::tables::{nat_health, role};
use serde_json::{Value, json};

use crate::handover::{self, Iptables, Nft};
use crate::health;
use crate::netlink::HostSnapshot;
use crate::plan::State;
use crate::reconcile::chain;

/// The rules that stand and those that are missing, who writes NAT, and what Docker's nftables rules ask for.
pub(super) fn handover(state: &State, host: &HostSnapshot, nat: u8, problems: &mut Vec<String>) -> Value {
    let interfaces = state.tables.interfaces.values();
    let uplinks = interfaces.filter(|interface| interface.role == role::UPLINK);
    let devices =
        uplinks.filter_map(|interface| host.link(interface.l3_device)).map(|link| link.name.clone());
    let found = handover::Marks::new(state.tables.settings.mark_bit)
        .and_then(|marks| handover::Desired::new(marks, devices, !state.tables.reach.is_empty()))
        .and_then(|wanted| Iptables::find()?.status(&wanted));
    let native = handover::Marks::new(state.tables.settings.mark_bit).ok().and_then(|marks| {
        let native = Nft::find()?.docker(marks).ok()??;
        Some((native, native.advice(marks, !state.tables.reach.is_empty())))
    });
    match found {
        Ok(status) => {
            let missing: usize = status.places.iter().map(|place| place.report.missing.len()).sum();
            let rules: usize = status.places.iter().map(|place| place.report.in_place.len()).sum();
            // What ends in the host is asked for each of them, whatever stands before.
            let raw: usize = status.places.iter().map(|place| place.report.raw).sum();
            let raw = if raw > 0 {
                format!(
                    "; Docker's {raw} in raw are behind one of them (docs/operations.md says what they cost)"
                )
            } else {
                String::new()
            };
            if missing > 0 && nat != nat_health::STANDS {
                problems.push(format!(
                    "{missing} of our rules are missing in iptables; the next pass puts them back"
                ));
            }
            if status.places.iter().any(|place| !place.report.reached) && nat != nat_health::STANDS {
                problems.push(health::NO_WAY.to_owned());
            }
            let own: Vec<String> =
                status.own.iter().map(|own| format!("{} rules in {}", own.rules, own.place)).collect();
            if nat == nat_health::STANDS && own.is_empty() {
                problems.push("our NAT rules are gone; the next pass puts them back".to_owned());
            }
            let summary = match (nat, status.places.is_empty(), missing) {
                (nat_health::STANDS, ..) => format!("fw writes NAT: {}", own.join(", ")),
                // What stands in DOCKER-USER, Docker's nftables rules do not ask.
                _ if native.is_some() => match native.as_ref().and_then(|(_, advice)| advice.clone()) {
                    Some(advice) => advice,
                    None => {
                        "Docker filters with nftables and takes our mark: nothing to hand over".to_owned()
                    }
                },
                (_, true, _) => "Docker has no chain DOCKER-USER: nothing to hand over".to_owned(),
                (_, false, 0) => format!("iptables holds our {rules} rules{raw}"),
                (_, false, missing) => format!("{missing} rules are missing"),
            };
            let nat = match nat {
                nat_health::NOT_OURS => "docker",
                nat_health::STANDS => "fw",
                nat_health::REFUSED => "refused",
                nat_health::GONE => "gone",
                _ => "failed",
            };
            json!({
                "summary": summary,
                "places": status.places,
                "unreadable": status.unreadable,
                "nat": nat,
                "own": status.own,
                "nftables": native.map(|(native, _)| native),
            })
        }
        Err(error) => {
            problems.push(format!("hand-over: {}", chain(&error)));
            json!({"error": chain(&error)})
        }
    }
}
