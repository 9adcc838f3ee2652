//! The section `[tables]`: how large the tables are, and what that costs.

use fw_common::tables::capacity;

use super::problem::Problems;
use super::section::Section;

/// How many entries tables hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSizes {
    /// Flows that went out.
    pub flows: u32,
    /// Flows that one container may have among them.
    pub flows_per_container: u32,
    /// Flows that came in to restricted networks.
    pub inbound_flows: u32,
    /// Ports: one for each port, family and published address.
    pub ports: u32,
    /// Single addresses in sets, and as many in denied sets.
    pub hosts: u32,
    /// Prefixes in sets, and as many in denied sets.
    pub prefixes: u32,
    /// Addresses of containers.
    pub endpoints: u32,
    /// Datagrams of which a first fragment was seen.
    pub datagrams: u32,
    /// Peers under limits.
    pub buckets: u32,
    /// Directions of connections that may take the fast path.
    pub fast_paths: u32,
    /// Tuples that `mode = "observe"` let pass.
    pub observed: u32,
}

/// A table whose size the policy says.
struct Sized {
    key: &'static str,
    /// Its maps.
    maps: &'static [&'static str],
    size: fn(&mut TableSizes) -> &mut u32,
    /// Bytes of kernel memory for an entry and map that are taken at the start; 0 where they are taken as entries come.
    bytes: u64,
}

const SMALLEST: u32 = 1_024;
const LARGEST: u32 = 16_777_216;

/// Bytes that a hash map keeps for each entry besides key and value: `struct htab_elem` and one bucket.
const HASH: u64 = 48 + 16;

const SIZED: &[Sized] = &[
    // With its place in `budgets`.
    Sized { key: "flows", maps: &["flows", "budgets"], size: |of| &mut of.flows, bytes: HASH + 52 },
    Sized {
        key: "inbound_flows",
        maps: &["inbound_flows"],
        size: |of| &mut of.inbound_flows,
        bytes: HASH + 52,
    },
    Sized { key: "ports", maps: &["ports"], size: |of| &mut of.ports, bytes: 0 },
    Sized { key: "hosts", maps: &["source_hosts", "denied_hosts"], size: |of| &mut of.hosts, bytes: 0 },
    Sized { key: "prefixes", maps: &["sources", "denied"], size: |of| &mut of.prefixes, bytes: 0 },
    Sized { key: "endpoints", maps: &["endpoints"], size: |of| &mut of.endpoints, bytes: 0 },
    Sized { key: "datagrams", maps: &["datagrams"], size: |of| &mut of.datagrams, bytes: HASH + 48 },
    Sized { key: "buckets", maps: &["buckets"], size: |of| &mut of.buckets, bytes: HASH + 32 },
    Sized { key: "fast_paths", maps: &["fast_paths"], size: |of| &mut of.fast_paths, bytes: HASH + 120 },
    Sized { key: "observed", maps: &["observed"], size: |of| &mut of.observed, bytes: HASH + 80 },
];

impl Default for TableSizes {
    fn default() -> Self {
        const fn size(capacity: usize) -> u32 {
            assert!(capacity <= LARGEST as usize);
            capacity as u32
        }
        Self {
            flows: const { size(capacity::FLOWS) },
            flows_per_container: const { size(capacity::FLOWS / 8) },
            inbound_flows: const { size(capacity::INBOUND_FLOWS) },
            ports: const { size(capacity::PORTS) },
            hosts: const { size(capacity::HOSTS) },
            prefixes: const { size(capacity::PREFIXES) },
            endpoints: const { size(capacity::ENDPOINTS) },
            datagrams: const { size(capacity::DATAGRAMS) },
            buckets: const { size(capacity::BUCKETS) },
            fast_paths: const { size(capacity::FAST_PATHS) },
            observed: const { size(capacity::OBSERVED) },
        }
    }
}

impl TableSizes {
    /// The entries of each map whose size the policy says, by the map's name.
    pub fn of_maps(mut self) -> Vec<(&'static str, u32)> {
        let maps = SIZED.iter().flat_map(|table| table.maps.iter().map(move |map| (map, table.size)));
        maps.map(|(map, size)| (*map, *size(&mut self))).collect()
    }

    /// Takes the sizes of maps from `other`, and keeps what is no map's size.
    pub fn keep_sizes(&mut self, other: &Self) {
        *self = Self { flows_per_container: self.flows_per_container.min(other.flows), ..*other };
    }

    /// Bytes of kernel memory that these tables take before anything is in them, about.
    pub fn memory(mut self) -> u64 {
        let taken = |table: &Sized| {
            let entries = u64::from(*(table.size)(&mut self));
            // Hashes that are filled as entries come have their buckets from the start; tries have nothing.
            let grows = if table.key == "prefixes" { 0 } else { 16 };
            let each = if table.bytes == 0 { grows } else { table.bytes };
            entries * each * table.maps.len() as u64
        };
        SIZED.iter().map(taken).sum()
    }

    pub(super) fn parse(mut section: Section<'_>, problems: &mut Problems<'_>) -> Self {
        let mut sizes = Self::default();
        for table in SIZED {
            if let Some(size) = entries(&mut section, table.key, SMALLEST..=LARGEST, problems) {
                *(table.size)(&mut sizes) = size;
            }
        }
        sizes.flows_per_container = sizes.flows / 8;
        let most = 1..=sizes.flows;
        if let Some(size) = entries(&mut section, "flows_per_container", most, problems) {
            sizes.flows_per_container = size;
        }
        section.finish(problems);
        sizes
    }
}

fn entries(
    section: &mut Section<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<u32>,
    problems: &mut Problems<'_>,
) -> Option<u32> {
    let item = section.take(key)?;
    let expected = format!("a number of entries, {} to {}", range.start(), range.end());
    let number = item.integer(&expected, problems)?;
    let valid = u32::try_from(number).ok().filter(|number| range.contains(number));
    if valid.is_none() {
        problems.at(item.span(), format!("`{key}` is out of range; expected {expected}"));
    }
    valid
}
