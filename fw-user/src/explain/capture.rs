//! The packets to explain, read as they were captured: a frame in hexadecimal, a file of pcap or pcapng.

use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};

use super::frame::Unclear;

/// A packet as it was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Its bytes.
    pub bytes: Bytes,
    /// How many bytes of it the capture left out.
    pub missing: u32,
}

/// Where the bytes of a captured packet begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// With the link layer of its device.
    Frame(Vec<u8>),
    /// With the IP header: the capture had another link layer, or none.
    Packet(Vec<u8>),
}

/// A frame written in hexadecimal.
pub fn hex(text: &str) -> Result<Captured, Unclear> {
    let wrong = |what: String| Err(Unclear::Hex { what });
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace() && *c != ':').collect();
    if let Some(other) = digits.iter().find(|c| !c.is_ascii_hexdigit()) {
        return wrong(format!("there is no such file, and {other:?} is no digit"));
    }
    if digits.is_empty() || digits.len() % 2 == 1 {
        return wrong(format!("{} digits", digits.len()));
    }
    let digit = |c: char| c.to_digit(16).unwrap_or(0) as u8;
    let bytes = digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, c| byte << 4 | digit(*c))).collect();
    Ok(Captured { bytes: Bytes::Frame(bytes), missing: 0 })
}

/// The packets of a capture: pcap or pcapng. `file` is its name, for messages.
pub fn capture(file: &str, content: &[u8]) -> Result<Vec<Captured>, Unclear> {
    let failed = |what: String| Unclear::Capture { file: file.to_owned(), what };
    let mut packets = Vec::new();
    let one = |link: DataLink, data: &[u8], whole: u32| {
        let missing = whole.saturating_sub(data.len() as u32);
        let bytes = bytes(link, data)
            .ok_or_else(|| failed(format!("its link layer {link:?} is neither Ethernet nor IP")))?;
        Ok(Captured { bytes, missing })
    };
    if content.starts_with(&PCAPNG) {
        let mut reader = PcapNgReader::new(content).map_err(|error| failed(error.to_string()))?;
        let mut first = None;
        while let Some(block) = reader.next_block() {
            let (number, data, whole) = match block.map_err(|error| failed(error.to_string()))? {
                Block::EnhancedPacket(packet) => {
                    (packet.interface_id, packet.data.into_owned(), packet.original_len)
                }
                Block::SimplePacket(packet) => (0, packet.data.into_owned(), packet.original_len),
                Block::InterfaceDescription(interface) => {
                    first.get_or_insert(interface.linktype);
                    continue;
                }
                _ => continue,
            };
            let link = reader.interfaces().get(number as usize).map(|interface| interface.linktype);
            let link = link.or(first).ok_or_else(|| failed("a packet of an unknown interface".to_owned()))?;
            packets.push(one(link, &data, whole)?);
        }
    } else {
        let mut reader = PcapReader::new(content).map_err(|error| failed(error.to_string()))?;
        let link = reader.header().datalink;
        while let Some(packet) = reader.next_packet() {
            let packet = packet.map_err(|error| failed(error.to_string()))?;
            packets.push(one(link, &packet.data, packet.orig_len)?);
        }
    }
    if packets.is_empty() {
        return Err(failed("it holds no packet".to_owned()));
    }
    Ok(packets)
}

/// How a file of pcapng begins.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// `tcpdump -i any` has a header of its own before the IP header (`LINKTYPE_LINUX_SLL`, `LINKTYPE_LINUX_SLL2`).
fn bytes(link: DataLink, data: &[u8]) -> Option<Bytes> {
    let behind = |header: usize| Bytes::Packet(data.get(header..).unwrap_or_default().to_vec());
    match link {
        DataLink::ETHERNET => Some(Bytes::Frame(data.to_vec())),
        DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 => Some(behind(0)),
        DataLink::LINUX_SLL => Some(behind(16)),
        DataLink::LINUX_SLL2 => Some(behind(20)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_may_have_blanks_and_colons() {
        let bytes = Bytes::Frame(vec![0x45, 0, 0xff]);
        assert_eq!(hex("45:00 ff").map(|captured| captured.bytes), Ok(bytes));
        assert!(hex("450").is_err() && hex("").is_err() && hex("4g").is_err());
    }

    #[test]
    fn captures_of_both_forms_and_of_any_device_are_read() {
        use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
        use pcap_file::pcapng::PcapNgWriter;
        use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
        use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
        use std::borrow::Cow;
        use std::time::Duration;

        let data = [7; 24];
        for (link, expected) in [
            (DataLink::ETHERNET, Bytes::Frame(vec![7; 24])),
            (DataLink::RAW, Bytes::Packet(vec![7; 24])),
            (DataLink::LINUX_SLL, Bytes::Packet(vec![7; 8])),
            (DataLink::LINUX_SLL2, Bytes::Packet(vec![7; 4])),
        ] {
            let expected = vec![Captured { bytes: expected, missing: 6 }];
            let header = PcapHeader { datalink: link, ..PcapHeader::default() };
            let mut old = PcapWriter::with_header(Vec::new(), header).expect("a header");
            old.write_packet(&PcapPacket::new(Duration::ZERO, 30, &data)).expect("a packet");
            assert_eq!(capture("x", &old.into_writer()), Ok(expected.clone()), "{link:?}");

            let mut new = PcapNgWriter::new(Vec::new()).expect("a header");
            let interface = InterfaceDescriptionBlock { linktype: link, snaplen: 0, options: Vec::new() };
            new.write_pcapng_block(interface).expect("an interface");
            let packet = EnhancedPacketBlock {
                interface_id: 0,
                timestamp: Duration::ZERO,
                original_len: 30,
                data: Cow::Borrowed(&data),
                options: Vec::new(),
            };
            new.write_pcapng_block(packet).expect("a packet");
            assert_eq!(capture("x", &new.into_inner()), Ok(expected), "{link:?}");
        }
        assert!(capture("x", &[]).is_err());
    }

    #[test]
    fn a_file_that_is_no_capture_is_refused() {
        for content in [&b""[..], b"hello, this is no capture at all", &PCAPNG] {
            assert!(matches!(capture("x", content), Err(Unclear::Capture { .. })));
        }
    }
}
