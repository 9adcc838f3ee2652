//! The fuzzer's corpus, judged again: every input that once reached something new or broke something.

#[path = "decide/example/mod.rs"]
#[expect(dead_code, reason = "the host serves here, its cases do not")]
mod example;
#[path = "../fuzz/judge.rs"]
mod judge;
#[path = "random/mod.rs"]
#[expect(dead_code, reason = "the fuzzer makes the frames")]
mod random;

use std::path::Path;

#[test]
fn the_corpus_is_decided_soundly() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut judged = 0;
    for file in std::fs::read_dir(folder).expect("the corpus") {
        let input = std::fs::read(file.expect("a file").path()).expect("an input");
        judge::judge(&input);
        judged += 1;
    }
    assert!(judged > 50, "{judged} inputs are no corpus");
}
