//! What lies pinned in a directory, whichever fw pinned it: whether today's programs can use it, who runs on it, and
//! which of it a new set of maps takes over.
//!
//! Of maps of another layout only the heads of two are read: `settings` and `daemon` begin alike in every version.

use std::path::Path;

use aya::Pod;
use aya::maps::{Array, Map, MapData, MapError, MapInfo};
use fw_common::flow::{Flow, FlowKey};
use fw_common::tables::{Datagram, DatagramKey};
use fw_common::{ABI_VERSION, FLOWS_ABI};

use super::maps::{Hash, failed, pinned, typed};
use super::sample::{sample, size};
use super::{DatapathError, MAP_NAMES};

/// Whether the maps that are pinned in a directory do for this fw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// No map is pinned there.
    Nothing,
    /// All maps are there, with this layout and these sizes.
    Same,
    /// They are another version's, of another size, or not all there: new ones have to take their place.
    Other,
}

/// Looks at the maps that are pinned in `directory`; `sizes` says how many entries maps of these names are to hold.
pub(super) fn fit(directory: &Path, sizes: &[(&'static str, u32)]) -> Result<Fit, DatapathError> {
    let there = MAP_NAMES.iter().filter(|name| directory.join(name).exists()).count();
    if there == 0 {
        return Ok(Fit::Nothing);
    }
    if there < MAP_NAMES.len() || abi(directory)? != Some(ABI_VERSION) {
        return Ok(Fit::Other);
    }
    for (map, wanted) in sizes {
        let path = directory.join(map);
        let of = |source| failed(&format!("read the size of the pinned map {}", path.display()), source);
        if MapData::from_pin(&path).map_err(of)?.info().map_err(of)?.max_entries() != *wanted {
            return Ok(Fit::Other);
        }
    }
    Ok(Fit::Same)
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Its name.
    pub map: &'static str,
    /// Entries that it holds.
    pub entries: usize,
    /// Entries that it can hold.
    pub size: usize,
    /// What is oldest makes room for what is new, so that it is full in the long run and nothing is wrong.
    pub forgets: bool,
}

/// How full these maps are, whose entries have been counted, and those that packets fill, about. Sets are left out, for they may
/// have a million entries: whether they fit is said when a policy is applied.
pub fn fill(directory: &Path, counted: &[(&'static str, usize)]) -> Result<Vec<Fill>, DatapathError> {
    let mut filled = Vec::new();
    for (map, entries) in counted {
        let size = size(directory, map)? as usize;
        filled.push(Fill { map, entries: *entries, size, forgets: false });
    }
    for map in ["flows", "inbound_flows", "buckets", "datagrams"] {
        let size = size(directory, map)? as usize;
        // An estimate may be beyond what the map can hold.
        let entries = usize::try_from(sample(directory, map)?.entries()).unwrap_or(usize::MAX).min(size);
        filled.push(Fill { map, entries, size, forgets: true });
    }
    Ok(filled)
}

/// The layout of the maps in `directory`: the [`ABI_VERSION`] of the daemon that filled them, 0 if none has. `None` if
/// there is no `settings`.
pub(super) fn abi(directory: &Path) -> Result<Option<u32>, DatapathError> {
    Ok(head(directory, "settings")?.map(|head| word(&head, 0)))
}

/// What a daemon of any version says of itself in a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupant {
    /// Its process.
    pub pid: u32,
    /// Whether fw made the directory.
    pub made_directory: bool,
    /// How NAT stands: one of [`fw_common::tables::nat_health`].
    pub nat: u8,
}

/// Who runs, or ran last, on the maps of this directory; nobody if no daemon has said so.
pub fn occupant(directory: &Path) -> Result<Occupant, DatapathError> {
    let head = head(directory, "daemon")?.unwrap_or_default();
    Ok(Occupant { pid: word(&head, 0), made_directory: head[MADE_DIRECTORY] != 0, nat: head[NAT] })
}

/// Where in [`fw_common::tables::Daemon`] they stand.
const MADE_DIRECTORY: usize = 8;
const NAT: usize = 9;

/// What a new set of maps takes over from an old one: what packets have left in it, not what a daemon wrote.
pub(super) struct Remains {
    pub(super) flows: Walked<FlowKey, Flow>,
    pub(super) inbound_flows: Walked<FlowKey, Flow>,
    pub(super) datagrams: Walked<DatagramKey, Datagram>,
}

impl Remains {
    /// Those of the maps in `directory`; `None` if theirs are laid out otherwise, or are not there.
    pub(super) fn open(directory: &Path) -> Result<Option<Self>, DatapathError> {
        let Some(head) = head(directory, "settings")? else { return Ok(None) };
        let flows_abi = match word(&head, 0) {
            0 => return Ok(None),
            // It had no field for it; what its flows can be, ours can be, too.
            2 => FLOWS_ABI,
            _ => word(&head, 4),
        };
        let there = ["flows", "inbound_flows", "datagrams"].iter().all(|name| directory.join(name).exists());
        if flows_abi != FLOWS_ABI || !there {
            return Ok(None);
        }
        Ok(Some(Self {
            flows: Walked::open(directory, "flows")?,
            inbound_flows: Walked::open(directory, "inbound_flows")?,
            datagrams: Walked::open(directory, "datagrams")?,
        }))
    }
}

/// A map that programs write while it is read.
pub(super) struct Walked<K, V> {
    pub(super) map: Hash<K, V>,
    size: usize,
}

impl<K: Pod, V: Pod> Walked<K, V> {
    fn open(directory: &Path, name: &str) -> Result<Self, DatapathError> {
        let map = pinned(directory, name)?;
        let info = MapInfo::from_pin(directory.join(name));
        let info = info.map_err(|source| failed(&format!("read the size of map {name}"), source))?;
        Ok(Self { map: typed(map, name)?, size: info.max_entries() as usize })
    }

    /// Its entries. Where one goes just when it is its turn the kernel begins again, some come twice, and under a flood
    /// there is no end: so it ends.
    pub(super) fn walk(&self) -> impl Iterator<Item = (K, V)> {
        self.map.iter().take(2 * self.size).flatten()
    }
}

/// The first bytes of a map's first value, whatever follows them; `None` without a pin. Zeros of one that is shorter or
/// longer than any version's.
fn head(directory: &Path, name: &str) -> Result<Option<[u8; HEAD]>, DatapathError> {
    if !directory.join(name).exists() {
        return Ok(None);
    }
    let map = pinned(directory, name)?;
    let of = |source| failed(&format!("read the pinned map {}", directory.join(name).display()), source);
    let Map::Array(data) = &map else { return Ok(Some([0; HEAD])) };
    let size = data.info().map_err(of)?.value_size();
    /// A value's size is part of its type.
    macro_rules! of_size {
        ($($words:literal)*) => {
            match size {
                $(size if size == $words * 4 => first::<{ $words * 4 }>(map),)*
                _ => Ok([0; HEAD]),
            }
        };
    }
    of_size!(3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32)
        .map(Some)
        .map_err(of)
}

fn first<const SIZE: usize>(map: Map) -> Result<[u8; HEAD], MapError>
where
    [u8; SIZE]: Pod,
{
    let array: Array<MapData, [u8; SIZE]> = map.try_into()?;
    let value = array.get(&0, 0)?;
    Ok(value.first_chunk::<HEAD>().copied().unwrap_or_default())
}

fn word(head: &[u8; HEAD], at: usize) -> u32 {
    head[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// As many bytes as stay what they are in every version.
const HEAD: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable as _;
    use fw_common::tables::{Daemon, Settings};

    /// Other versions read them here.
    #[test]
    fn heads_stay_where_they_are() {
        let settings = Settings { abi: 7, flows_abi: 9, ..Settings::zeroed() };
        let head = bytemuck::bytes_of(&settings).first_chunk().expect("long enough");
        assert_eq!((word(head, 0), word(head, 4)), (7, 9));
        let daemon = Daemon { pid: 7, made_directory: 1, nat: 3, ..Daemon::zeroed() };
        let head: &[u8; HEAD] = bytemuck::bytes_of(&daemon).first_chunk().expect("long enough");
        assert_eq!((word(head, 0), head[MADE_DIRECTORY], head[NAT]), (7, 1, 3));
    }
}
