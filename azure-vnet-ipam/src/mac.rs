//! The MAC address of a NIC: what Azure and the kernel both know it by.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use azure_vnet_cni::foreign;
use serde::{Deserialize, Serialize};

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

/// The text is not six hexadecimal bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a MAC address")]
pub struct NotAMac(String);

impl Mac {
    /// What a pod of the network plugin has unless the runtime asks for another.
    pub fn of_pod(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Mac([0x0a, 0x58, a, b, c, d])
    }

    /// Its bytes.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl From<[u8; 6]> for Mac {
    fn from(bytes: [u8; 6]) -> Self {
        Mac(bytes)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mac = self.0;
        write!(
            f,
            "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
            mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]
        )
    }
}

impl FromStr for Mac {
    type Err = NotAMac;

    /// As Azure writes it (`000D3A010203`), as Linux does (`00:0d:3a:01:02:03`) and as Windows does (with `-`).
    fn from_str(text: &str) -> Result<Self, NotAMac> {
        bytes(text)
            .map(Mac)
            .ok_or_else(|| NotAMac(foreign::excerpt(text).into_owned()))
    }
}

fn bytes(text: &str) -> Option<[u8; 6]> {
    let is_digit = |byte: &u8| !matches!(byte, b':' | b'-');
    let mut digits = text.bytes().filter(is_digit).map(digit);
    let mut bytes = [0; 6];
    for byte in &mut bytes {
        *byte = (digits.next()?? << 4) | digits.next()??;
    }
    digits.next().is_none().then_some(bytes)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16)?.try_into().ok()
}

impl TryFrom<String> for Mac {
    type Error = NotAMac;

    fn try_from(text: String) -> Result<Self, NotAMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn every_way_to_write_it_is_the_same() {
        for text in [
            "000D3A0102FF",
            "000d3a0102ff",
            "00:0d:3a:01:02:ff",
            "00-0D-3A-01-02-FF",
        ] {
            let mac: Mac = text.parse().unwrap();
            assert_eq!(mac.to_string(), "00:0d:3a:01:02:ff");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "*",
            "000D3A0102F",
            "000D3A0102FF0",
            "+10D3A0102FF",
            "00é3A0102FF",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
