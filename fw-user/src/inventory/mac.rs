//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An Ethernet address, in the order of the wire; written `02:42:0a:00:00:02`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// A text that is not an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an ethernet address: expected six bytes in hexadecimal with colons between them")]
pub struct NotAMac(String);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fw_common::Mac::from(*self).fmt(f)
    }
}

/// As it stands in the tables.
impl From<Mac> for fw_common::Mac {
    fn from(mac: Mac) -> Self {
        Self { bytes: mac.0 }
    }
}

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let not_a_mac = || NotAMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(not_a_mac)?;
        }
        parts.next().is_none().then_some(Self(bytes)).ok_or_else(not_a_mac)
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_address_are_the_same_both_ways() {
        let mac: Mac = "02:42:0A:00:00:fe".parse().expect("an address");
        assert_eq!(mac, Mac([2, 0x42, 10, 0, 0, 0xfe]));
        assert_eq!(mac.to_string(), "02:42:0a:00:00:fe");
        let json = serde_json::to_string(&mac).expect("text");
        assert_eq!(serde_json::from_str::<Mac>(&json).expect("the same"), mac);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "02:42:0a:00:00",
            "02:42:0a:00:00:02:03",
            "2:42:a:0:0:2",
            "+2:42:0a:00:00:02",
            "02-42-0a-00-00-02",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
