//! How far the search for a port has come where nearly all are in use.

use crate::{Be16, Be32};

/// Key of the `searches` and the `searching` map: who a port is looked for towards.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// The remote's address.
    pub address: Be32,
    /// The remote's port; 0 where the protocol has none.
    pub port: Be16,
    /// IP protocol number.
    pub protocol: u16,
}

/// Value of the `searches` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// The place in the range where the next packet goes on; any number is one.
    pub next: u32,
    /// How many ports in a row, up to `next`, were seen in use.
    pub in_use: u32,
    /// Jiffies until which none of them can have become free.
    pub until: u32,
}
