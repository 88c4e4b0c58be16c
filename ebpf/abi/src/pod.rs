//! The pods of the node, by address and by the bridge port they are behind.

use crate::{Be32, Mac};

/// Value of the `pods` map, whose key is the pod's address ([`Be32`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Interface index of the pod's host veth.
    pub ifindex: u32,
    /// MAC of the pod's interface: where frames for its address go.
    pub mac: Mac,
    padding: u16,
}

impl Pod {
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

/// Value of the `ports` map, whose key is the interface index (`u32`) of a host veth: what the pod
/// behind it may send as.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// The only IPv4 source address that may come out of this port.
    pub address: Be32,
    /// The source MAC seen last.
    pub mac: Mac,
    padding: u16,
}

impl Port {
    /// An entry with its padding zeroed.
    #[inline]
    pub const fn new(address: Be32, mac: Mac) -> Self {
        Self {
            address,
            mac,
            padding: 0,
        }
    }
}
