//! Builds the kernel programs and leaves the object where `datapath` embeds it.

use anyhow::Context as _;

/// The compiler of rust-toolchain.toml: bpf-linker reads the bitcode of exactly this LLVM.
const TOOLCHAIN: &str = "1.95.0";

fn main() -> anyhow::Result<()> {
    // SAFETY: a build script has one thread.
    unsafe {
        // The BPF target needs `-Z build-std=core`, an unstable flag.
        std::env::set_var("RUSTC_BOOTSTRAP", "1");
        // aya-build 0.2.0 repeats every line of the inner cargo as a warning; only real ones should come through.
        std::env::set_var("CARGO_TERM_QUIET", "true");
        // Where `cargo xtask setup` puts bpf-linker, so that a plain `cargo build` finds it, too.
        let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/../.cache/tools/bin");
        let path = std::env::var("PATH").unwrap_or_default();
        std::env::set_var("PATH", format!("{tools}:{path}"));
    };
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../fw-ebpf");
    println!("cargo:rerun-if-changed={root}/src");
    println!("cargo:rerun-if-changed={root}/../fw-common/src");
    // A feature of ours is one of the programs' as well.
    let features: &[&str] = if std::env::var_os("CARGO_FEATURE_LOG").is_some() { &["log"] } else { &[] };
    aya_build::build_ebpf(
        [aya_build::Package { name: "fw-ebpf", root_dir: root, features, ..Default::default() }],
        aya_build::Toolchain::Custom(TOOLCHAIN),
    )
    .context("cannot build the kernel programs; `cargo xtask setup` installs what that needs (rust-src, bpf-linker)")
}
