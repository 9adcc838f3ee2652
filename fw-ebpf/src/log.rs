//! Each verdict as a line in the daemon's log: only in builds with the feature `log`, for who works on the programs.

use aya_log_ebpf::debug;
use fw_common::{Hook, Verdict};

/// Tells a verdict. Out of line for a stack frame of its own.
#[inline(never)]
pub(crate) fn verdict(hook: Hook, verdict: Verdict, ifindex: u32) {
    let (hook, action, reason) = (hook as u8, verdict.action as u8, verdict.reason as u8);
    let (mark, rule) = (verdict.mark as u8, verdict.rule);
    debug!(
        &(),
        "hook {} ifindex {} action {} reason {} mark {} rule {}", hook, ifindex, action, reason, mark, rule
    );
}
