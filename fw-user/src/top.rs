//! `fw top`: what two samples say of the time between them, and which part of it is looked at.
//!
//! Pure: samples in, a picture out. What reads is in `sample`, what draws in `draw`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use fw_common::tables::{Count, Daemon, name_kind, nat_health, role};
use fw_common::{Hook, Reason};
use serde::Serialize;

use crate::plan::State;
use crate::view::Names;

pub mod draw;
mod keys;
pub mod sample;

pub use keys::{Outcome, Pressed, Tab, View};

/// Packets and bytes that a device has received and sent since it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received: of a container's port what the container has sent.
    pub received: Count,
    /// Sent: of a container's port what was sent to the container.
    pub sent: Count,
}

/// What is counted, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Milliseconds on the monotonic clock.
    pub at: u64,
    /// Devices by ifindex.
    pub devices: BTreeMap<u32, (String, Traffic)>,
    /// Verdicts by hook and reason.
    pub counters: BTreeMap<(Hook, Reason), Count>,
    /// Verdicts by rule.
    pub rules: BTreeMap<u32, Count>,
    /// What the daemon says of itself.
    pub daemon: Option<Daemon>,
    /// Whether it runs.
    pub alive: bool,
}

/// How many flows of whom, by a look at all of them, which may take several samples.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// Went out, came in, cut; by container, or who else.
    pub counts: BTreeMap<String, [u64; 3]>,
    /// Milliseconds that the look has taken.
    pub took: u64,
}

/// A rate: packets and bytes in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rate {
    /// Packets in a second.
    pub packets: f64,
    /// Bytes in a second.
    pub bytes: f64,
}

/// A container and what it sends and gets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Talker {
    /// The container.
    pub container: String,
    /// Its network.
    pub network: String,
    /// The device of its port.
    pub device: String,
    /// To the container.
    pub to: Rate,
    /// From the container.
    pub from: Rate,
}

/// A reason for which packets are dropped, or a rule that decides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdicts {
    /// The reason, or the rule.
    pub name: String,
    /// Where; of a rule nothing.
    pub hook: Option<&'static str>,
    /// In a second.
    pub rate: Rate,
    /// Packets since the start.
    pub packets: u64,
}

/// Whose flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowsOf {
    /// The container, or who else.
    pub owner: String,
    /// That went out.
    pub out: u64,
    /// That came in.
    pub came: u64,
    /// Of both, cut by the daemon.
    pub cut: u64,
}

/// A network and what its containers send and get.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Net {
    /// Its name.
    pub network: String,
    /// Its bridge.
    pub bridge: String,
    /// Containers on it that are known.
    pub containers: usize,
    /// To its containers, from each other, too.
    pub to: Rate,
    /// From them.
    pub from: Rate,
}

/// The time between two samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Picture {
    /// `enforce` or `observe`.
    pub mode: &'static str,
    /// Whether a daemon runs, in words.
    pub daemon: String,
    /// What is not as it should be.
    pub problems: Vec<String>,
    /// Seconds between the samples.
    pub seconds: f64,
    /// In by the uplinks.
    pub uplink_in: Rate,
    /// Out by the uplinks.
    pub uplink_out: Rate,
    /// Dropped, at all hooks; observing, what would have been.
    pub dropped: Rate,
    /// Containers.
    pub talkers: Vec<Talker>,
    /// Drops by reason and hook.
    pub drops: Vec<Verdicts>,
    /// Rules.
    pub rules: Vec<Verdicts>,
    /// Flows.
    pub flows: Vec<FlowsOf>,
    /// Milliseconds that the look at all flows has taken; `None` while the first is not finished.
    pub flows_took_ms: Option<u64>,
    /// Networks.
    pub networks: Vec<Net>,
}

impl Rate {
    /// Of two counters, over so many seconds; one that has begun anew counts from nothing.
    fn between(before: Count, after: Count, seconds: f64) -> Self {
        let grown = |before: u64, after: u64| {
            let grown = if after < before { after } else { after - before };
            if seconds > 0.0 { as_float(grown) / seconds } else { 0.0 }
        };
        Self { packets: grown(before.packets, after.packets), bytes: grown(before.bytes, after.bytes) }
    }

    fn plus(self, other: Self) -> Self {
        Self { packets: self.packets + other.packets, bytes: self.bytes + other.bytes }
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates are shown with three digits")]
fn as_float(number: u64) -> f64 {
    number as f64
}

/// What has happened between two samples, with the names that these tables tell.
pub fn picture(names: &State, before: &Sample, after: &Sample, flows: Option<&Sweep>) -> Picture {
    let seconds = as_float(after.at.saturating_sub(before.at)) / 1000.0;
    let of_device = |ifindex: u32| {
        let (name, now) = after.devices.get(&ifindex)?;
        let then = before.devices.get(&ifindex).map_or(*now, |(_, then)| *then);
        let received = Rate::between(then.received, now.received, seconds);
        Some((name.clone(), received, Rate::between(then.sent, now.sent, seconds)))
    };
    let name_of = |kind, id| Names { names: &names.names }.of(kind, id);
    let mut picture = Picture {
        mode: if names.tables.settings.observe == 0 { "enforce" } else { "observe" },
        daemon: daemon(after),
        problems: problems(after),
        seconds,
        ..Picture::default()
    };
    let mut nets: BTreeMap<u32, Net> = BTreeMap::new();
    for id in names.tables.networks.keys() {
        let bridge = after.devices.get(id).map_or_else(|| id.to_string(), |(name, _)| name.clone());
        let net = Net {
            network: name_of(name_kind::NETWORK, *id),
            bridge,
            containers: 0,
            to: Rate::default(),
            from: Rate::default(),
        };
        nets.insert(*id, net);
    }
    for (ifindex, interface) in &names.tables.interfaces {
        let Some((device, received, sent)) = of_device(*ifindex) else { continue };
        match interface.role {
            role::UPLINK => {
                picture.uplink_in = picture.uplink_in.plus(received);
                picture.uplink_out = picture.uplink_out.plus(sent);
            }
            role::PORT => {
                let known = interface.endpoint_known != 0;
                let container =
                    if known { name_of(name_kind::ENDPOINT, *ifindex) } else { "(not known)".to_owned() };
                let network = name_of(name_kind::NETWORK, interface.network);
                if let Some(net) = nets.get_mut(&interface.network) {
                    net.containers += usize::from(known);
                    net.to = net.to.plus(sent);
                    net.from = net.from.plus(received);
                }
                picture.talkers.push(Talker { container, network, device, to: sent, from: received });
            }
            _ => {}
        }
    }
    picture.networks = nets.into_values().collect();
    for ((hook, reason), now) in after.counters.iter().filter(|((_, reason), _)| reason.is_drop()) {
        let then = before.counters.get(&(*hook, *reason)).copied().unwrap_or_default();
        let rate = Rate::between(then, *now, seconds);
        picture.dropped = picture.dropped.plus(rate);
        let name = reason.name().to_owned();
        picture.drops.push(Verdicts { name, hook: Some(hook.name()), rate, packets: now.packets });
    }
    for (id, now) in &after.rules {
        let then = before.rules.get(id).copied().unwrap_or_default();
        let rate = Rate::between(then, *now, seconds);
        let name = name_of(name_kind::RULE, *id);
        picture.rules.push(Verdicts { name, hook: None, rate, packets: now.packets });
    }
    picture.rules.sort_by_key(|rule| (Reverse(rule.packets), rule.name.clone()));
    if let Some(sweep) = flows {
        picture.flows_took_ms = Some(sweep.took);
        let one = |(owner, [out, came, cut]): (&String, &[u64; 3])| FlowsOf {
            owner: owner.clone(),
            out: *out,
            came: *came,
            cut: *cut,
        };
        picture.flows = sweep.counts.iter().map(one).collect();
    }
    picture
}

fn daemon(sample: &Sample) -> String {
    match (&sample.daemon, sample.alive) {
        (Some(daemon), true) => format!("daemon {}", daemon.pid),
        _ => "NO DAEMON".to_owned(),
    }
}

fn problems(sample: &Sample) -> Vec<String> {
    let Some(daemon) = &sample.daemon else { return vec!["nothing is in force".to_owned()] };
    let nat = match daemon.nat {
        nat_health::REFUSED | nat_health::FAILED => Some("NAT of fw does not stand"),
        nat_health::GONE => Some("Docker's NAT rules are gone"),
        _ => None,
    };
    let all = [
        (!sample.alive).then_some("no daemon keeps the tables in step"),
        (sample.alive && daemon.ready == 0).then_some("the first pass is not finished"),
        (sample.alive && daemon.docker == 0).then_some("Docker does not answer"),
        (sample.alive && daemon.handover == 0).then_some("the rules in iptables do not stand"),
        nat,
        (sample.alive && daemon.degraded != 0).then_some("the last pass was not complete"),
    ];
    all.into_iter().flatten().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
