//! What the first fragment of a packet tells about those that follow without ports.

use crate::{Be16, Be32, Mac};

/// What all fragments of one packet share (RFC 791, section 3.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentKey {
    /// Source address before translation.
    pub source: Be32,
    /// Destination address before translation.
    pub destination: Be32,
    /// IPv4 identification.
    pub identification: Be16,
    /// IP protocol number.
    pub protocol: u8,
    padding: u8,
}

impl FragmentKey {
    /// A key with its padding zeroed.
    #[inline]
    pub const fn new(source: Be32, destination: Be32, identification: Be16, protocol: u8) -> Self {
        Self {
            source,
            destination,
            identification,
            protocol,
            padding: 0,
        }
    }
}

/// Value of the `fragments` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Low half of the jiffies when the first fragment went by.
    pub seen: u32,
    /// What the translated address becomes; the address itself where none is translated.
    pub address: Be32,
    /// The pod's MAC, for fragments that go to it.
    pub mac: Mac,
    padding: u16,
    /// Interface index of the pod's host veth if the packet went past the bridge, else 0.
    pub ifindex: u32,
}

impl Fragment {
    /// Seconds after which an identification may mean another packet (`net.ipv4.ipfrag_time`).
    pub const LIFETIME: u32 = 30;

    /// An entry with its padding zeroed.
    #[inline]
    pub const fn new(address: Be32, mac: Mac, ifindex: u32, seen: u32) -> Self {
        Self {
            seen,
            address,
            mac,
            padding: 0,
            ifindex,
        }
    }
}
