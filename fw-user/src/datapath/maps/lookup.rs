//! Single lookups, as a program makes them.

use aya::Pod;
use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use fw_common::Address;
use fw_common::flow::{Flow, FlowKey};
use fw_common::tables::{Bucket, BucketKey, Datagram, DatagramKey, DenyRule};

use super::{DatapathError, Hash, Maps, Trie, failed};

impl Maps {
    /// The flow of this tuple.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, DatapathError> {
        held(self.flows.get(key, 0), "flows")
    }

    /// The flow that came in with this tuple.
    pub fn inbound_flow(&self, key: &FlowKey) -> Result<Option<Flow>, DatapathError> {
        held(self.inbound_flows.get(key, 0), "inbound_flows")
    }

    /// The token bucket of a peer.
    pub fn bucket(&self, key: &BucketKey) -> Result<Option<Bucket>, DatapathError> {
        held(self.buckets.get(key, 0), "buckets")
    }

    /// What was decided of the first fragment of this datagram.
    pub fn datagram(&self, key: &DatagramKey) -> Result<Option<Datagram>, DatapathError> {
        held(self.datagrams.get(key, 0), "datagrams")
    }

    /// The deny rule that holds this source.
    pub fn denied(&self, source: &Address) -> Result<Option<DenyRule>, DatapathError> {
        longest(&self.denied_hosts, &self.denied, source, "denied")
    }

    /// The zones (bits) that hold this source.
    pub fn zones(&self, source: &Address) -> Result<u64, DatapathError> {
        let held = longest(&self.source_hosts, &self.sources, source, "sources")?;
        Ok(held.map_or(0, |held| held.zones))
    }
}

/// The value of the host, else of the longest prefix that holds it.
fn longest<V: Pod>(
    hosts: &Hash<Address, V>,
    prefixes: &Trie<V>,
    address: &Address,
    name: &str,
) -> Result<Option<V>, DatapathError> {
    match held(hosts.get(address, 0), name)? {
        Some(value) => Ok(Some(value)),
        None => held(prefixes.get(&Key::new(128, *address), 0), name),
    }
}

fn held<V>(found: Result<V, MapError>, name: &str) -> Result<Option<V>, DatapathError> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
        Err(source) => Err(failed(&format!("read map {name}"), source)),
    }
}
