//! The fuzzer's corpus of policy files, read again: every text that once reached something new or broke something.

#[path = "../fuzz/check.rs"]
mod check;

use std::path::Path;

use fw_user::policy;

#[test]
fn the_corpus_is_read_or_refused_with_a_place() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut read = 0;
    for file in std::fs::read_dir(folder).expect("the corpus") {
        let input = std::fs::read(file.expect("a file").path()).expect("an input");
        check::check(&input);
        read += 1;
    }
    assert!(read > 50, "{read} texts are no corpus");
}
