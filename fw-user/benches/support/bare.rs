//! The least that a program can do, to hold fw's programs against: `fw-ebpf/bench/bare.rs`, loaded for test runs alone.

use std::time::Duration;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use fw_common::tables::Prefix;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bare"));

/// One of the bare programs.
#[derive(Clone, Copy)]
pub(crate) enum Bare {
    /// Reads the source and drops.
    Drop,
    /// Asks the prefix table for the source in between.
    Prefix,
}

impl Bare {
    fn name(self) -> &'static str {
        match self {
            Self::Drop => "bare_drop",
            Self::Prefix => "bare_prefix",
        }
    }
}

/// The loaded programs and their table.
pub(crate) struct BarePrograms(Ebpf);

impl BarePrograms {
    /// Loads them, with these prefixes in the table.
    pub(crate) fn load<'a>(prefixes: impl Iterator<Item = &'a Prefix>) -> Self {
        let mut object = Ebpf::load(OBJECT).expect("the object loads");
        for bare in [Bare::Drop, Bare::Prefix] {
            let program = object.program_mut(bare.name()).expect("a program of this name");
            let program: &mut SchedClassifier = program.try_into().expect("a classifier");
            program.load().expect("the verifier takes it");
        }
        let map = object.map_mut("sources").expect("a map of this name");
        let mut table: LpmTrie<_, [u8; 16], u64> = map.try_into().expect("prefixes");
        for prefix in prefixes {
            table.insert(&Key::new(prefix.bits, prefix.address.bytes), 1, 0).expect("room");
        }
        Self(object)
    }

    /// What one of `repeat` runs on this frame takes in the mean.
    pub(crate) fn run(&self, bare: Bare, frame: &[u8], repeat: u32) -> Duration {
        let program = self.0.program(bare.name()).expect("a program of this name");
        let program: &SchedClassifier = program.try_into().expect("a classifier");
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = repeat;
        let result = program.test_run(options).expect("a run");
        assert_eq!(result.return_value, 2, "TC_ACT_SHOT: the source was read and, where asked for, found");
        result.duration
    }
}
