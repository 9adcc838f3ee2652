//! Reading and writing of ctnetlink messages: only the attributes that fw asks for, by number.
//!
//! Numbers are those of `linux/netfilter/nfnetlink_conntrack.h`; unlike those of rtnetlink they are in network order.

use fw_common::Address;

use super::{Connection, TcpState, Tuple};
use crate::netlink::{AF_INET, AF_INET6, Malformed, Reader, aligned};

/// `struct nfgenmsg`: any family, version 0.
pub(super) const HEADER: [u8; 4] = [0; 4];

/// Reads the payload of `IPCTNL_MSG_CT_NEW`; `None` for one without a tuple of IP addresses, which nobody can name.
pub(super) fn connection(payload: &[u8]) -> Result<Option<Connection>, Malformed> {
    let read = Reader { message: "connection" };
    read.header::<{ HEADER.len() }>(payload)?;
    let (mut original, mut reply) = (None, None);
    let (mut tcp, mut status, mut timeout, mut mark, mut zone, mut id) = (None, 0, None, 0, 0, 0);
    for attribute in read.attributes(&payload[HEADER.len()..]) {
        let (kind, value) = attribute?;
        match kind {
            CTA_TUPLE_ORIG => original = tuple(&read, value, Direction::Original)?,
            CTA_TUPLE_REPLY => reply = tuple(&read, value, Direction::Reply)?,
            CTA_STATUS => status = be32(&read, value, "status")?,
            CTA_TIMEOUT => timeout = Some(be32(&read, value, "timeout")?),
            CTA_MARK => mark = be32(&read, value, "mark")?,
            CTA_ID => id = be32(&read, value, "id")?,
            CTA_ZONE => zone = be16(&read, value, "zone")?,
            CTA_PROTOINFO => tcp = tcp_state(&read, value)?,
            _ => {}
        }
    }
    let (Some(original), Some(reply)) = (original, reply) else { return Ok(None) };
    Ok(Some(Connection { original, reply, tcp, status, timeout, mark, zone, id }))
}

/// The message that removes this connection and no other. Its tuple must never be missing: the kernel would take that
/// for the wish to remove all.
pub(super) fn removal(connection: &Connection) -> Vec<u8> {
    let Connection { original, zone, id, .. } = connection;
    let mut bytes = HEADER.to_vec();
    bytes[0] = if original.source.is_v4() { AF_INET } else { AF_INET6 };
    let (addresses, ports) = (addresses(original), ports(original));
    let nested = [attribute(CTA_TUPLE_IP | NESTED, &addresses), attribute(CTA_TUPLE_PROTO | NESTED, &ports)];
    bytes.extend(attribute(CTA_TUPLE_ORIG | NESTED, &nested.concat()));
    if *zone != 0 {
        bytes.extend(attribute(CTA_ZONE, &zone.to_be_bytes()));
    }
    if *id != 0 {
        bytes.extend(attribute(CTA_ID, &id.to_be_bytes()));
    }
    bytes
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Original,
    Reply,
}

fn tuple(read: &Reader, bytes: &[u8], direction: Direction) -> Result<Option<Tuple>, Malformed> {
    let (mut source, mut destination) = (None, None);
    let (mut protocol, mut icmp_type, mut icmp_code) = (0, 0, 0);
    let (mut source_port, mut destination_port) = (0, 0);
    for attribute in read.attributes(bytes) {
        let (kind, value) = attribute?;
        for attribute in read.attributes(value).filter(|_| matches!(kind, CTA_TUPLE_IP | CTA_TUPLE_PROTO)) {
            let (field, value) = attribute?;
            match (kind, field) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC | CTA_IP_V6_SRC) => source = Some(read.ip(value)?.into()),
                (CTA_TUPLE_IP, CTA_IP_V4_DST | CTA_IP_V6_DST) => destination = Some(read.ip(value)?.into()),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = byte(read, value, "protocol")?,
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT) => source_port = be16(read, value, "source port")?,
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => {
                    destination_port = be16(read, value, "destination port")?;
                }
                (CTA_TUPLE_PROTO, CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID) => {
                    let id = be16(read, value, "identifier")?;
                    if direction == Direction::Original { source_port = id } else { destination_port = id }
                }
                (CTA_TUPLE_PROTO, CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE) => {
                    icmp_type = byte(read, value, "ICMP type")?;
                }
                (CTA_TUPLE_PROTO, CTA_PROTO_ICMP_CODE | CTA_PROTO_ICMPV6_CODE) => {
                    icmp_code = byte(read, value, "ICMP code")?;
                }
                _ => {}
            }
        }
    }
    let (Some(source), Some(destination)) = (source, destination) else { return Ok(None) };
    Ok(Some(Tuple { source, destination, protocol, icmp_type, icmp_code, source_port, destination_port }))
}

fn tcp_state(read: &Reader, bytes: &[u8]) -> Result<Option<TcpState>, Malformed> {
    for attribute in read.attributes(bytes) {
        let (kind, value) = attribute?;
        for attribute in read.attributes(value).filter(|_| kind == CTA_PROTOINFO_TCP) {
            let (kind, value) = attribute?;
            if kind == CTA_PROTOINFO_TCP_STATE {
                return Ok(Some(TcpState::numbered(byte(read, value, "TCP state")?)));
            }
        }
    }
    Ok(None)
}

fn byte(read: &Reader, value: &[u8], what: &'static str) -> Result<u8, Malformed> {
    <[u8; 1]>::try_from(value).map(|[byte]| byte).map_err(|_| read.malformed(what, value.len()))
}

fn be16(read: &Reader, value: &[u8], what: &'static str) -> Result<u16, Malformed> {
    value.try_into().map(u16::from_be_bytes).map_err(|_| read.malformed(what, value.len()))
}

fn be32(read: &Reader, value: &[u8], what: &'static str) -> Result<u32, Malformed> {
    value.try_into().map(u32::from_be_bytes).map_err(|_| read.malformed(what, value.len()))
}

fn addresses(tuple: &Tuple) -> Vec<u8> {
    let v4 = tuple.source.is_v4();
    let one = |kind, address: &Address| {
        let bytes = &address.bytes;
        attribute(kind, if v4 { &bytes[12..] } else { bytes })
    };
    let (source, destination) =
        if v4 { (CTA_IP_V4_SRC, CTA_IP_V4_DST) } else { (CTA_IP_V6_SRC, CTA_IP_V6_DST) };
    [one(source, &tuple.source), one(destination, &tuple.destination)].concat()
}

/// What tells connections of one protocol apart, as the kernel wants it: attributes that a protocol does not have are
/// not looked at.
fn ports(tuple: &Tuple) -> Vec<u8> {
    let mut bytes = attribute(CTA_PROTO_NUM, &[tuple.protocol]);
    let icmp = match tuple.protocol {
        ICMP => Some((CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE)),
        ICMPV6 => Some((CTA_PROTO_ICMPV6_ID, CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_ICMPV6_CODE)),
        _ => None,
    };
    if let Some((id, kind, code)) = icmp {
        bytes.extend(attribute(id, &tuple.source_port.to_be_bytes()));
        bytes.extend(attribute(kind, &[tuple.icmp_type]));
        bytes.extend(attribute(code, &[tuple.icmp_code]));
    } else {
        bytes.extend(attribute(CTA_PROTO_SRC_PORT, &tuple.source_port.to_be_bytes()));
        bytes.extend(attribute(CTA_PROTO_DST_PORT, &tuple.destination_port.to_be_bytes()));
    }
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = value.len() as u16 + 4;
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(aligned(bytes.len()), 0);
    bytes
}

const ICMP: u8 = fw_common::wire::proto::ICMP;
const ICMPV6: u8 = fw_common::wire::proto::ICMPV6;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masqueraded_connection_keeps_both_tuples() {
        let tuple = |kind, from: [u8; 4], to: [u8; 4], ports: [u16; 2]| {
            let addresses = [attribute(CTA_IP_V4_SRC, &from), attribute(CTA_IP_V4_DST, &to)].concat();
            let [source, destination] = ports.map(u16::to_be_bytes);
            let ports = [
                attribute(CTA_PROTO_NUM, &[6]),
                attribute(CTA_PROTO_SRC_PORT, &source),
                attribute(CTA_PROTO_DST_PORT, &destination),
            ];
            let nested = [
                attribute(CTA_TUPLE_IP | NESTED, &addresses),
                attribute(CTA_TUPLE_PROTO | NESTED, &ports.concat()),
            ];
            attribute(kind | NESTED, &nested.concat())
        };
        let mut payload = vec![AF_INET, 0, 0, 0];
        payload.extend(tuple(CTA_TUPLE_ORIG, [172, 17, 0, 2], [203, 0, 113, 9], [40_000, 443]));
        payload.extend(tuple(CTA_TUPLE_REPLY, [203, 0, 113, 9], [198, 18, 0, 1], [443, 1024]));
        payload.extend(attribute(CTA_STATUS, &0x19eu32.to_be_bytes()));
        payload.extend(attribute(CTA_TIMEOUT, &431_998u32.to_be_bytes()));
        payload.extend(attribute(CTA_MARK, &0x2_0000u32.to_be_bytes()));
        payload.extend(attribute(CTA_ID, &77u32.to_be_bytes()));
        let state = attribute(CTA_PROTOINFO_TCP_STATE, &[3]);
        payload.extend(attribute(CTA_PROTOINFO | NESTED, &attribute(CTA_PROTOINFO_TCP | NESTED, &state)));
        payload.extend(attribute(999, &[1, 2, 3]));
        let found = connection(&payload).expect("a well-formed message").expect("a connection");
        assert_eq!((found.original.source_port, found.original.destination_port), (40_000, 443));
        assert_eq!(found.reply.destination, Address::v4([198, 18, 0, 1]));
        assert_eq!((found.reply.source_port, found.reply.destination_port), (443, 1024));
        assert_eq!(
            (found.tcp, found.timeout, found.mark),
            (Some(TcpState::Established), Some(431_998), 0x2_0000)
        );
        assert!(found.is_answered());
    }

    #[test]
    fn a_ping_names_its_identifier_where_a_packet_does() {
        let tuple = |kind, icmp_type: u8| {
            let addresses = [attribute(CTA_IP_V6_SRC, &[1; 16]), attribute(CTA_IP_V6_DST, &[2; 16])].concat();
            let ports = [
                attribute(CTA_PROTO_NUM, &[ICMPV6]),
                attribute(CTA_PROTO_ICMPV6_ID, &[0x12, 0x34]),
                attribute(CTA_PROTO_ICMPV6_TYPE, &[icmp_type]),
                attribute(CTA_PROTO_ICMPV6_CODE, &[0]),
            ];
            let nested =
                [attribute(CTA_TUPLE_IP, &addresses), attribute(CTA_TUPLE_PROTO, &ports.concat())].concat();
            attribute(kind, &nested)
        };
        let payload = [vec![AF_INET6, 0, 0, 0], tuple(CTA_TUPLE_ORIG, 128), tuple(CTA_TUPLE_REPLY, 129)];
        let found = connection(&payload.concat()).expect("a well-formed message").expect("a connection");
        assert_eq!((found.original.source_port, found.original.destination_port), (0x1234, 0));
        assert_eq!((found.reply.source_port, found.reply.destination_port), (0, 0x1234));
    }

    #[test]
    fn a_removal_always_names_a_tuple() {
        let tuple = Tuple {
            source: Address::v4([10, 0, 0, 1]),
            destination: Address::v4([10, 0, 0, 2]),
            protocol: ICMP,
            icmp_type: 8,
            icmp_code: 0,
            source_port: 7,
            destination_port: 0,
        };
        let wanted = Connection {
            original: tuple,
            reply: tuple,
            tcp: None,
            status: 0,
            timeout: None,
            mark: 0,
            zone: 3,
            id: 9,
        };
        let message = [removal(&wanted), attribute(CTA_TUPLE_REPLY, &[])].concat();
        assert_eq!(message[0], AF_INET);
        let read = Reader { message: "connection" };
        let attributes: Vec<_> = read.attributes(&message[4..]).map(|one| one.expect("whole").0).collect();
        assert_eq!(attributes, [CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID, CTA_TUPLE_REPLY]);
        let (_, named) = read.attributes(&message[4..]).next().expect("a tuple").expect("whole");
        let named = super::tuple(&read, named, Direction::Original).expect("well formed");
        assert_eq!(named, Some(tuple));
    }

    #[test]
    fn broken_messages_are_errors() {
        assert!(connection(&[2, 0]).is_err());
        let short = [vec![2, 0, 0, 0], attribute(CTA_STATUS, &[1, 2])].concat();
        assert!(connection(&short).is_err());
        let nobodys = [vec![2, 0, 0, 0], attribute(CTA_STATUS, &[0; 4])].concat();
        assert_eq!(connection(&nobodys), Ok(None));
    }
}
