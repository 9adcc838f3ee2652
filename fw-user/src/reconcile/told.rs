//! What a pass tells the metrics: what it found and left, as counts.

use std::collections::BTreeMap;

use fw_common::tables::{PortKey, name_kind, role, sources};

use super::Reconciler;
use crate::desired::{Early, Prepared};
use crate::exposure::is_open;
use crate::metrics::{Counted, Host, Xdp};
use crate::plan::State;

impl Reconciler {
    /// Tells of the pass that ends. `changed` says whether it changed tables, `early` how XDP should drop on uplinks.
    pub(super) fn tell(&self, changed: bool, early: &BTreeMap<u32, Early>) {
        let Some(state) = &self.believed else { return };
        let mut host = Host { observing: state.tables.settings.observe != 0, ..Host::default() };
        for point in &state.hooks {
            host.hooks.entry(point.hook).or_default().0 += 1;
        }
        let attached = self.datapath.attachments().keys().filter(|point| state.hooks.contains(point));
        for point in attached {
            host.hooks.entry(point.hook).or_default().1 += 1;
        }
        let dropping = self.datapath.dropping_early();
        for (ifindex, interface) in &state.tables.interfaces {
            match interface.role {
                role::UPLINK => {
                    let how = match early.get(ifindex).filter(|_| dropping.contains(ifindex)) {
                        Some(Early::Native | Early::IfNative) => Xdp::Native,
                        Some(Early::Generic) => Xdp::Generic,
                        None => Xdp::Off,
                    };
                    *host.uplinks.entry(how).or_default() += 1;
                }
                role::PORT if interface.endpoint_known != 0 => host.endpoints += 1,
                role::PORT => host.unknown_ports += 1,
                _ => {}
            }
        }
        host.bans = self.bans.len();
        host.networks = state.tables.networks.len();
        host.entries = self.entries(state);
        self.meters.passed(self.spent.time(), changed, host, || counted(state));
    }

    /// How many entries the tables have that the daemon fills, by map.
    fn entries(&self, state: &State) -> BTreeMap<&'static str, usize> {
        let tables = &state.tables;
        let (sources, denied) = self.prepared.as_ref().map_or((0, 0), Prepared::hosts);
        BTreeMap::from([
            ("interfaces", tables.interfaces.len()),
            ("subnets", tables.subnets.len()),
            ("networks", tables.networks.len()),
            ("local_addresses", tables.local_addresses.len()),
            ("ports", tables.ports.len()),
            ("denied_hosts", denied),
            ("denied", tables.denied.len().saturating_sub(denied)),
            ("source_hosts", sources),
            ("sources", tables.sources.len().saturating_sub(sources)),
            ("endpoints", tables.endpoints.len()),
            ("stations", tables.stations.len()),
            ("reach", tables.reach.len()),
            ("links", tables.links.len()),
            ("outbound", tables.outbound.len()),
            ("limits", tables.limits.len()),
            ("names", state.names.len()),
        ])
    }
}

fn counted(state: &State) -> Counted {
    let mut counted = Counted::default();
    let tables = &state.tables;
    for (key, port) in &tables.ports {
        counted.open += usize::from(is_open(port));
        // A container's own address is never looked up as any.
        let alone = port.sources & sources::ALONE != 0 || tables.endpoints.contains_key(&key.address);
        let any = PortKey::new(key.address.any_of_family(), key.proto, key.port);
        let opened = is_open(port) || (!alone && tables.ports.get(&any).is_some_and(is_open));
        counted.published_closed += usize::from(port.published != 0 && !opened);
    }
    let rules = state.names.iter().filter(|(key, _)| key.kind == name_kind::RULE);
    counted.rules = rules.map(|(key, name)| (key.id, name.clone())).collect();
    counted
}
