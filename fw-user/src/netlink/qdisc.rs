//! The clsact qdisc, where programs stand on kernels without TCX: aya adds it and never removes it.

use super::NetlinkError;
use super::message::{Malformed, Reader};
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

/// A filter on a clsact qdisc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    /// Its place among others of its device and direction.
    pub priority: u16,
    /// What tells it from others of its priority.
    pub handle: u32,
    /// The kernel's number of the program that it runs; `None` if it is not of BPF.
    pub program: Option<u32>,
}

/// The filters of a device, of what leaves it or of what comes in.
pub fn filters(ifindex: u32, egress: bool) -> Result<Vec<Filter>, NetlinkError> {
    let place = if egress { EGRESS } else { INGRESS };
    let list = Socket::open()?.list_of(Question::Filters, &message(ifindex, 0, place))?;
    let mut filters = Vec::new();
    for payload in list {
        filters.push(filter(&payload)?);
    }
    Ok(filters)
}

fn filter(payload: &[u8]) -> Result<Filter, Malformed> {
    let read = Reader { message: "filter" };
    let header = read.header::<HEADER>(payload)?;
    let word = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    // `tcm_info` holds the priority above, the protocol below.
    let mut filter = Filter { priority: (word(16) >> 16) as u16, handle: word(8), program: None };
    for attribute in read.attributes(&payload[HEADER..]) {
        let (TCA_OPTIONS, options) = attribute? else { continue };
        for attribute in read.attributes(options) {
            // Of another kind of filter this may be anything; its length alone tells no number.
            if let (TCA_BPF_ID, value) = attribute? {
                filter.program = value.try_into().ok().map(u32::from_ne_bytes);
            }
        }
    }
    Ok(filter)
}

/// Length of `struct tcmsg`.
const HEADER: usize = 20;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_ID: u16 = 11;

/// `struct tcmsg`.
fn message(ifindex: u32, handle: u32, parent: u32) -> Vec<u8> {
    [0, ifindex, handle, parent, 0].into_iter().flat_map(u32::to_ne_bytes).collect()
}
