//! Arguments for bpf-linker 0.10.3, which optimizes and generates the code.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // By default it has LLVM copy memory in order, and LLVM 22 then clears none by stores: each small struct of zeroes
    // became a call of a loop over its bytes, a quarter of what `uplink_ingress` took (kernel 6.18).
    println!("cargo:rustc-link-arg-bins=--disable-expand-memcpy-in-order");
}
