//! The policy file, from any text.
#![no_main]

#[path = "../check.rs"]
mod check;
/// The module itself, without the rest of fw-user and its kernel programs.
#[path = "../../src"]
mod source {
    #[expect(dead_code, unused_imports, reason = "the daemon uses more of it")]
    pub(crate) mod policy;
}

use source::policy;

libfuzzer_sys::fuzz_target!(|input: &[u8]| check::check(input));
