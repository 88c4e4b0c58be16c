//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An Ethernet (MAC) address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

/// The text is not six hexadecimal bytes with colons between them.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a MAC address like 00:0d:3a:01:02:03")]
pub struct NotAMacAddress(String);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddress {
    type Err = NotAMacAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|byte| {
                // `from_str_radix` would take "+1" too.
                let is_hex = byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
                is_hex.then(|| u8::from_str_radix(byte, 16).ok()).flatten()
            })
            .collect();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| NotAMacAddress(text.to_owned()))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = NotAMacAddress;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::MacAddress;

    #[test]
    fn text_and_back() {
        let mac = MacAddress([0x00, 0x0d, 0x3a, 0xff, 0x02, 0x03]);
        assert_eq!(mac.to_string(), "00:0d:3a:ff:02:03");
        assert_eq!(mac.to_string().parse::<MacAddress>().unwrap(), mac);
    }

    #[test]
    fn what_is_not_a_mac_is_refused() {
        for text in [
            "",
            "0:d:3a:1:2:3",
            "00:0d:3a:01:02",
            "00:0d:3a:01:02:03:04",
            "00-0d-3a-01-02-03",
            "+1:00:00:00:00:00",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text:?}");
        }
    }
}
