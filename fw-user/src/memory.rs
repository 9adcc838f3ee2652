//! Memory that is free goes back to the kernel.

/// Gives back what is free. A pass takes in a few moments what it never needs again (what Docker answers about a thousand
/// containers, the kernel's types at the start); the C library would keep most of it, in holes between what stays.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number of bytes to leave at the top, and touches nothing that is in use.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
