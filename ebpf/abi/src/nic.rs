//! The node's other NICs.

use crate::Mac;

/// Value of the `nics` map, whose key is an address of another NIC ([`Be32`](crate::Be32)): where what has it has to leave.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nic {
    /// Interface index of the NIC.
    pub ifindex: u32,
    /// Its MAC.
    pub mac: Mac,
    padding: u16,
}

impl Nic {
    /// An entry with its padding zeroed.
    #[inline]
    pub const fn new(ifindex: u32, mac: Mac) -> Self {
        Self {
            ifindex,
            mac,
            padding: 0,
        }
    }
}
