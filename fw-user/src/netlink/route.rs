//! Where the kernel would send one packet: rules, tables and neighbours of routing included, as for a packet that came in.

use std::io;
use std::net::IpAddr;

use super::message::{Malformed, Reader, aligned};
use super::socket::{Question, Socket};
use super::{AF_INET, AF_INET6, NetlinkError};

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leads {
    /// To a socket of this host.
    Here,
    /// Out of the host, by the link with this index.
    Out(u32),
    /// Nowhere, and why.
    Nowhere(String),
}

/// Where a packet from `source` to `destination` goes that came in by the link `comes_in` and carries this mark.
pub fn route(source: IpAddr, destination: IpAddr, comes_in: u32, mark: u32) -> Result<Leads, NetlinkError> {
    match Socket::open()?.single(Question::Routes, &question(source, destination, comes_in, mark)) {
        Ok(answer) => Ok(leads(&answer)?),
        Err(NetlinkError::Ask { source, .. }) => Ok(Leads::Nowhere(why(&source))),
        Err(error) => Err(error),
    }
}

fn why(error: &io::Error) -> String {
    // What `ip_route_input` says of a source that should not come in there (`rp_filter`, martians).
    const ODD: [i32; 2] = [nix::libc::EXDEV, nix::libc::EINVAL];
    if error.raw_os_error().is_some_and(|number| ODD.contains(&number)) {
        return format!(
            "the kernel takes no such source from this device (rp_filter, or a martian): {error}"
        );
    }
    format!("the kernel has no route for it: {error}")
}

fn question(source: IpAddr, destination: IpAddr, comes_in: u32, mark: u32) -> Vec<u8> {
    let octets = |address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let family = if destination.is_ipv4() { AF_INET } else { AF_INET6 };
    let bits = if destination.is_ipv4() { 32 } else { 128 };
    let mut payload = vec![family, bits, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (kind, value) in [
        (RTA_DST, octets(destination)),
        (RTA_SRC, octets(source)),
        (RTA_IIF, comes_in.to_ne_bytes().to_vec()),
        (RTA_MARK, mark.to_ne_bytes().to_vec()),
    ] {
        payload.extend((4 + value.len() as u16).to_ne_bytes());
        payload.extend(kind.to_ne_bytes());
        payload.extend(&value);
        payload.resize(aligned(payload.len()), 0);
    }
    payload
}

fn leads(answer: &[u8]) -> Result<Leads, Malformed> {
    const HEADER: usize = 12;
    let read = Reader { message: "route" };
    let header = read.header::<HEADER>(answer)?;
    match header[7] {
        RTN_UNICAST => {}
        RTN_LOCAL | RTN_BROADCAST | RTN_MULTICAST => return Ok(Leads::Here),
        kind => return Ok(Leads::Nowhere(format!("the route is one of type {kind}, which leads nowhere"))),
    }
    for attribute in read.attributes(&answer[HEADER..]) {
        let (kind, value) = attribute?;
        if kind == RTA_OIF {
            return Ok(Leads::Out(read.number(value, "output link")?));
        }
    }
    Ok(Leads::Nowhere("the route names no device".to_owned()))
}

// Numbers of `linux/rtnetlink.h`.
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTN_BROADCAST: u8 = 3;
const RTN_MULTICAST: u8 = 5;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_IIF: u16 = 3;
const RTA_OIF: u16 = 4;
const RTA_MARK: u16 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_where_it_leads() {
        let route = |kind: u8| {
            let mut bytes = vec![2, 32, 0, 0, 254, 0, 0, kind, 0, 0, 0, 0];
            bytes.extend([8, 0, 4, 0]);
            bytes.extend(7_u32.to_ne_bytes());
            bytes
        };
        assert_eq!(leads(&route(RTN_UNICAST)), Ok(Leads::Out(7)));
        assert_eq!(leads(&route(RTN_LOCAL)), Ok(Leads::Here));
        assert!(matches!(leads(&route(7)), Ok(Leads::Nowhere(_))));
        assert!(leads(&route(RTN_UNICAST)[..11]).is_err());
    }
}
