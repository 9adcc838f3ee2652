//! Where `unsafe` may stand.

use super::{Tree, Violation, code::Code};

/// The files with `unsafe`, each with what it is needed for.
const ALLOWED: &[(&str, &str)] = &[
    ("fw-common/src/pod.rs", "markers that let aya copy plain data, bounded by bytemuck"),
    ("fw-ebpf/bench/bare.rs", "the bytes of the packet, and the licence, of programs to compare with"),
    ("fw-ebpf/src/action.rs", "counters of this CPU, and the kernel's clock"),
    ("fw-ebpf/src/fast.rs", "values in maps, and the kernel's clock"),
    ("fw-ebpf/src/main.rs", "name and section of the licence that the kernel reads"),
    ("fw-ebpf/src/maps.rs", "values in maps, and helpers that ask the FIB and the clock"),
    ("fw-ebpf/src/packet.rs", "bytes of the packet, and what the kernel knows about it"),
    ("fw-ebpf/src/observed.rs", "additions to numbers that other CPUs add to"),
    ("fw-user/src/datapath/sample.rs", "a system call that aya does not have: a batch of lookups"),
    ("fw-user/src/memory.rs", "a call of the C library that no crate has: to give memory back"),
    ("fw-user/src/netlink/socket.rs", "an option of netlink that no library has"),
    ("fw-user/build.rs", "a variable for the compiler of the kernel programs"),
    ("xtask/src/lab/offload.rs", "system calls that no library has: a device's offloads"),
    (
        "xtask/src/lab/bpf.rs",
        "system calls that no library has: foreign programs, and frames made in the kernel",
    ),
    ("xtask/src/bench/sample.rs", "a system call that no library has: to run before other work"),
    ("xtask/src/lab/raw.rs", "a link address in the kernel's form, and sockets of protocols without a name"),
    ("xtask/src/lab/tun.rs", "system calls that no library has: devices whose far end is here"),
];

/// `unsafe` stands only in the listed files, and every listed file needs its place.
pub(super) fn unsafe_code(tree: &Tree) -> Vec<Violation> {
    unsafe_outside(tree, ALLOWED)
}

fn unsafe_outside(tree: &Tree, allowed: &[(&str, &str)]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in tree.rust("") {
        let Some(code) = Code::parse(text) else { continue };
        let lines = code.tokens.iter().filter(|token| token.text == "unsafe").map(|token| token.line);
        if allowed.iter().any(|(file, _)| *file == path) {
            if lines.count() == 0 {
                let mend = "take it off the list in xtask/src/tidy/unsafety.rs";
                found.push(Violation::new(path, 1, "holds no `unsafe` but may", mend));
            }
            continue;
        }
        for line in lines {
            let mend = "use a safe interface, or name the file with a reason in xtask/src/tidy/unsafety.rs";
            found.push(Violation::new(path, line, "`unsafe` outside the files that may", mend));
        }
    }
    let gone = allowed.iter().filter(|(path, _)| tree.text(path).is_none());
    let mend = "write it, or take it off the list in xtask/src/tidy/unsafety.rs";
    found.extend(gone.map(|(path, purpose)| Violation::new(path, 1, format!("missing: {purpose}"), mend)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree;

    const LIST: &[(&str, &str)] = &[("a/pod.rs", "markers")];
    const POD: (&str, &str) = ("a/pod.rs", "unsafe impl Pod for X {}");

    fn places(files: &[(&str, &str)]) -> Vec<String> {
        let found = unsafe_outside(&tree(files), LIST);
        found.iter().map(|violation| format!("{}:{}", violation.path, violation.line)).collect()
    }

    #[test]
    fn a_listed_file_passes() {
        let words = "//! unsafe\n#![deny(unsafe_op_in_unsafe_fn)]\nconst S: &str = \"unsafe\"; // unsafe\n";
        assert_eq!(places(&[POD, ("a/b.rs", words)]), [""; 0]);
    }

    #[test]
    fn other_files_are_refused() {
        let text = "fn f() {\n    unsafe { g() }\n}\n#[cfg(test)]\nmod t { unsafe fn h() {} }";
        assert_eq!(places(&[POD, ("a/b.rs", text)]), ["a/b.rs:2", "a/b.rs:5"]);
    }

    #[test]
    fn a_stale_list_is_refused() {
        assert_eq!(places(&[("a/pod.rs", "fn f() {}")]), ["a/pod.rs:1"]);
        assert_eq!(places(&[]), ["a/pod.rs:1"]);
    }
}
