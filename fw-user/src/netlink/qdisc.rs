//! The clsact qdisc, where programs stand on kernels without TCX: aya adds it and never removes it.

use super::NetlinkError;
use super::socket::{Question, Socket};

/// `TC_H_CLSACT`, and the places of filters on it (`linux/pkt_sched.h`).
const CLSACT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// The handle that a clsact qdisc always has.
const HANDLE: u32 = 0xffff_0000;

/// Removes the clsact qdisc of a device, unless somebody has a filter on it.
pub fn remove_clsact_if_unused(ifindex: u32) -> Result<(), NetlinkError> {
    if has_filters(ifindex)? {
        return Ok(());
    }
    Socket::open()?.request(Question::RemoveQdisc, &message(ifindex, HANDLE, CLSACT))
}

/// Whether a device has filters on its clsact qdisc.
pub fn has_filters(ifindex: u32) -> Result<bool, NetlinkError> {
    let socket = Socket::open()?;
    for place in [INGRESS, EGRESS] {
        if !socket.list_of(Question::Filters, &message(ifindex, 0, place))?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `struct tcmsg`.
fn message(ifindex: u32, handle: u32, parent: u32) -> Vec<u8> {
    [0, ifindex, handle, parent, 0].into_iter().flat_map(u32::to_ne_bytes).collect()
}
