//! Dropped packets as pcapng: one interface block for each device, the reason and all names as each packet's comment.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use fw_common::event::FRAME;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};

use super::seen::{Known, Seen};

/// Nanoseconds, as a power of ten.
const RESOLUTION: u8 = 9;

/// A capture that is being written. What is written lies in memory until it is [flushed](Capture::flush), so that a reader
/// sees whole blocks alone.
pub struct Capture<W: Write> {
    blocks: PcapNgWriter<Vec<u8>>,
    to: W,
    /// The number of each device's interface block, by ifindex and name: a number may be given to another device.
    interfaces: BTreeMap<(u32, String), u32>,
}

impl<W: Write> Capture<W> {
    /// Begins a capture.
    pub fn new(to: W) -> Result<Self, PcapError> {
        let mut capture = Self { blocks: PcapNgWriter::new(Vec::new())?, to, interfaces: BTreeMap::new() };
        capture.flush()?;
        Ok(capture)
    }

    /// Adds a packet.
    pub fn add(&mut self, seen: &Seen, known: &Known) -> Result<(), PcapError> {
        let interface_id = self.interface(seen.event.ifindex, known)?;
        let captured = usize::from(seen.event.captured).min(FRAME);
        let mut options = vec![EnhancedPacketOption::Comment(Cow::Owned(seen.comment(known)))];
        if seen.missed > 0 {
            options.push(EnhancedPacketOption::DropCount(seen.missed));
        }
        self.blocks.write_pcapng_block(EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(u64::try_from(seen.time).unwrap_or(0)),
            original_len: seen.event.length,
            data: Cow::Borrowed(&seen.event.frame[..captured]),
            options,
        })?;
        Ok(())
    }

    /// Hands on what was added.
    pub fn flush(&mut self) -> Result<(), PcapError> {
        let blocks = self.blocks.get_mut();
        self.to.write_all(blocks).and_then(|()| self.to.flush()).map_err(PcapError::IoError)?;
        blocks.clear();
        Ok(())
    }

    fn interface(&mut self, ifindex: u32, known: &Known) -> Result<u32, PcapError> {
        let name = known.device(ifindex);
        let next = self.interfaces.len() as u32;
        if let Some(number) = self.interfaces.get(&(ifindex, name.clone())) {
            return Ok(*number);
        }
        self.blocks.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: if known.is_ethernet(ifindex) { DataLink::ETHERNET } else { DataLink::RAW },
            snaplen: FRAME as u32,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(name.clone())),
                InterfaceDescriptionOption::IfTsResol(RESOLUTION),
            ],
        })?;
        self.interfaces.insert((ifindex, name), next);
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use fw_common::event::Event;
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;
    use crate::monitor::seen::tests::{event, known};

    #[test]
    fn a_capture_reads_back() {
        let known = known();
        let mut written = Vec::new();
        let mut capture = Capture::new(&mut written).expect("a capture");
        let mut first = event("203.0.113.7", 4000, "198.18.0.1", 22);
        first.frame[..4].copy_from_slice(&[1, 2, 3, 4]);
        let long = Event { length: 1500, captured: 128, ifindex: 9, ..first };
        for (event, missed) in [(first, 0), (long, 5), (Event { captured: 999, ..first }, 0)] {
            let seen = Seen::one(event, known.ends(&event), 1_700_000_000_123_456_789, missed);
            capture.add(&seen, &known).expect("a packet");
        }
        capture.flush().expect("written");
        drop(capture);
        let mut reader = PcapNgReader::new(&written[..]).expect("a capture");
        let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.expect("a whole block").into_owned() {
                Block::InterfaceDescription(block) => interfaces.push(block),
                Block::EnhancedPacket(block) => packets.push(block),
                other => panic!("{other:?}"),
            }
        }
        let names: Vec<_> = interfaces.iter().map(|block| block.options[0].clone()).collect();
        assert_eq!(names, ["eth0", "veth1"].map(|name| InterfaceDescriptionOption::IfName(name.into())));
        let [one, other, third] = &packets[..] else { panic!("{packets:?}") };
        assert_eq!(one.timestamp, Duration::from_nanos(1_700_000_000_123_456_789));
        assert_eq!((one.interface_id, one.data.len(), one.original_len), (0, 74, 74));
        assert_eq!(one.data[..5], [1, 2, 3, 4, 0]);
        let EnhancedPacketOption::Comment(comment) = &one.options[0] else { panic!("{one:?}") };
        assert_eq!(
            comment,
            "drop port-not-allowed  uplink_ingress eth0  tcp SYN  203.0.113.7:4000 -> host 198.18.0.1:22  74 bytes"
        );
        assert_eq!((other.interface_id, other.data.len(), other.original_len), (1, 128, 1500));
        assert_eq!(other.options[1], EnhancedPacketOption::DropCount(5));
        assert_eq!((third.interface_id, third.data.len()), (0, 128), "no more than there is room for");
    }
}
