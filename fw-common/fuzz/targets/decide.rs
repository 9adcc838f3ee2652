//! `decide` on any packet, with any tables.
#![no_main]

#[path = "../../tests/decide/example/mod.rs"]
#[expect(dead_code, reason = "the host serves here, its cases do not")]
mod example;
#[path = "../judge.rs"]
mod judge;
#[path = "../../tests/random/mod.rs"]
#[expect(dead_code, reason = "the fuzzer makes the frames")]
mod random;

libfuzzer_sys::fuzz_target!(|input: &[u8]| judge::judge(input));
