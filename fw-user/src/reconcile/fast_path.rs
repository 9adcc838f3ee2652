//! What the fast path asks of the kernel beside its programs.

use std::fs;
use std::path::Path;

use crate::desired::Desired;

/// Lets conntrack bear that it does not see every segment (`net.netfilter.nf_conntrack_tcp_be_liberal`): it counts a
/// window from those that it sees, and calls what lies beyond it invalid, which no NAT touches. RST is still looked at.
/// The kernel's own flowtables do the same for each connection that they take (`flow_offload_fixup_tcp`).
const LIBERAL: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

/// Makes conntrack ready for the fast path; where it cannot be, every packet takes the way of the stack.
///
/// It stays so when fw goes: connections that had the fast path would else be taken for invalid, and end.
pub(super) fn prepare(wanted: &mut Desired) {
    if wanted.state.tables.settings.fast_path == 0 {
        return;
    }
    let path = Path::new(LIBERAL);
    let ready = fs::read_to_string(path)
        .and_then(|value| if value.trim() == "1" { Ok(()) } else { fs::write(path, "1") });
    if let Err(error) = ready {
        wanted.state.tables.settings.fast_path = 0;
        wanted.warnings.push(format!(
            "the fast path stays off: cannot switch on {LIBERAL}: {error}; without conntrack there is no NAT to be spared, \
             load it (`modprobe nf_conntrack`), or say fast_path = \"off\""
        ));
    }
}
