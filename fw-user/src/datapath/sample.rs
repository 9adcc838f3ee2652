//! How full a map is that packets fill, at the same cost whether it holds a thousand entries or a million.
//!
//! The kernel keeps no count of a hash map's entries, and to walk them all takes a second for each million. But a batch of
//! lookups walks the buckets in their order and says before which one it stopped (`__htab_map_lookup_and_delete_batch`,
//! from kernel 5.6 on). The hash spreads entries evenly, so those of the first buckets tell of all others.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use aya::maps::{MapData, MapInfo};
use bytemuck::AnyBitPattern;
use nix::errno::Errno;
use nix::libc;

use super::DatapathError;
use super::maps::failed;

/// Entries that are looked at: of a map with more, the estimate is off by one in a hundred, about (one over the root of
/// this number).
const LOOKED_AT: u32 = 8_192;

/// The first entries of a hash map, and how much of the map they are.
pub struct Sample {
    keys: Vec<u8>,
    values: Vec<u8>,
    key_size: usize,
    value_size: usize,
    /// Entries that were read.
    read: u32,
    /// How many of the map's buckets they fill.
    looked_into: u64,
    /// How many it has.
    buckets: u64,
}

impl Sample {
    /// Entries of the map; exact if it was small enough to be read whole.
    pub fn entries(&self) -> u64 {
        self.all(self.read)
    }

    /// How many entries of the map are like so many of those that were read.
    pub fn all(&self, read: u32) -> u64 {
        // The map has 2^24 buckets at most, so nothing overflows.
        (u64::from(read) * self.buckets + self.looked_into / 2) / self.looked_into
    }

    /// The entries that were read. None if they are not of these types.
    pub fn pairs<K: AnyBitPattern, V: AnyBitPattern>(&self) -> impl Iterator<Item = (K, V)> {
        let keys = self.keys.chunks_exact(self.key_size).map(bytemuck::try_pod_read_unaligned);
        let values = self.values.chunks_exact(self.value_size).map(bytemuck::try_pod_read_unaligned);
        keys.zip(values).filter_map(|(key, value)| Some((key.ok()?, value.ok()?)))
    }
}

/// How many entries the map pinned under this name holds at most.
pub fn size(directory: &Path, map: &str) -> Result<u32, DatapathError> {
    let info = MapInfo::from_pin(directory.join(map));
    Ok(info.map_err(|source| failed(&format!("read the size of map {map}"), source))?.max_entries())
}

/// Looks at the first entries of the hash map pinned under this name.
pub fn sample(directory: &Path, map: &str) -> Result<Sample, DatapathError> {
    sample_of(directory, map, LOOKED_AT)
}

fn sample_of(directory: &Path, map: &str, most: u32) -> Result<Sample, DatapathError> {
    let of = |source| failed(&format!("read the pinned map {}", directory.join(map).display()), source);
    let data = MapData::from_pin(directory.join(map)).map_err(of)?;
    let info = data.info().map_err(of)?;
    let (key_size, value_size) = (info.key_size() as usize, info.value_size() as usize);
    let (mut keys, mut values) = (vec![0; key_size * most as usize], vec![0; value_size * most as usize]);
    let mut stopped_before = 0u32;
    let mut batch = Batch {
        begin: 0,
        end: &raw mut stopped_before as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: most,
        map_fd: data.fd().as_fd().as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel writes at most `count` keys and values of the map's sizes, for which there is room, and one
    // number of four bytes; it keeps none of the pointers.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
    let whole = match Errno::result(answer) {
        Ok(_) => false,
        // The end of the map: this is all there is.
        Err(Errno::ENOENT) => true,
        Err(errno) => {
            return Err(DatapathError::Hook {
                what: format!("look up the first entries of map {map}"),
                source: Box::new(io::Error::from(errno)),
            });
        }
    };
    let read = batch.count.min(most);
    keys.truncate(key_size * read as usize);
    values.truncate(value_size * read as usize);
    // The table of buckets has the next power of two of the map's size (`htab_map_alloc`).
    let buckets = u64::from(info.max_entries().next_power_of_two());
    let looked_into = if whole { buckets } else { u64::from(stopped_before).clamp(1, buckets) };
    Ok(Sample { keys, values, key_size, value_size, read, looked_into, buckets })
}

/// The part of `union bpf_attr` that commands on batches take (include/uapi/linux/bpf.h).
#[repr(C)]
struct Batch {
    /// Where the bucket stands to begin with; nowhere: the first.
    begin: u64,
    /// Where the number goes of the bucket that is next.
    end: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The command (include/uapi/linux/bpf.h).
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
