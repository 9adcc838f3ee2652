//! What holds for every text of a policy file: shared by the fuzzer and the test that replays its corpus.

use std::collections::BTreeSet;
use std::path::Path;

use crate::policy::{MAX_ZONES, Policy, PolicyError, describe};

/// Reads the input as a policy file, and checks what must hold of the policy or of what is wrong with it.
pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // No set files: the input names them, and they may be anything on this machine.
    if text.contains("file") || text.contains("\\u") || text.contains("\\U") || text.contains("\\x") {
        return;
    }
    match Policy::parse(text, Path::new("policy.toml"), Path::new("/nonexistent")) {
        Ok(policy) => {
            assert!(!describe(&policy).is_empty(), "a policy without a meaning:\n{text}");
            assert!(policy.zones().len() <= MAX_ZONES, "more zones than bits:\n{text}");
            policy.warnings(&BTreeSet::new(), &BTreeSet::new());
        }
        Err(PolicyError::Invalid { problems, .. }) => {
            let lines = text.split('\n').count();
            assert!(!problems.is_empty(), "refused without a problem:\n{text}");
            for problem in problems {
                let within = problem.line >= 1 && problem.line as usize <= lines && problem.column >= 1;
                assert!(within && !problem.message.is_empty(), "{problem} of {lines} lines in\n{text}");
            }
        }
        Err(error @ PolicyError::Read { .. }) => panic!("nothing was read: {error}"),
    }
}
