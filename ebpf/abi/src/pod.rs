//! The pods of the node, by address and by the bridge port they are behind, and what each has of the flow table.

use crate::{Be32, Mac};

/// Value of the `pods` map, whose key is the pod's address ([`Be32`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Interface index of the pod's host veth.
    pub ifindex: u32,
    /// Names the container, which may have several interfaces.
    pub container: u32,
    /// MAC of the pod's interface: where frames for its address go.
    pub mac: Mac,
    padding: u16,
}

impl Pod {
    /// An entry with its padding zeroed.
    #[inline]
    pub const fn new(ifindex: u32, container: u32, mac: Mac) -> Self {
        Self {
            ifindex,
            container,
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
    /// The IPv4 source address of what comes out of this port.
    pub address: Be32,
    /// Names the container, whose other interfaces' addresses may come out as well.
    pub container: u32,
    /// The source MAC seen last.
    pub mac: Mac,
    padding: u16,
}

impl Port {
    /// An entry with its padding zeroed.
    #[inline]
    pub const fn new(address: Be32, container: u32, mac: Mac) -> Self {
        Self {
            address,
            container,
            mac,
            padding: 0,
        }
    }
}

/// Value of the `direct` map, whose key is the interface index (`u32`) of a host veth. A veth that is not in it is passed.
///
/// Constants and not an enum, because not every bit pattern in a map would be a valid one.
pub struct Direct;

impl Direct {
    /// Somebody has a program there, which is not looked for by every call.
    pub const HELD_BACK: u32 = 0;
    /// Packets of fast flows go straight to the pod's end.
    pub const YES: u32 = 1;
}

/// Value of the `shares` map, whose key is the pod's address ([`Be32`]): what the pod has of the flow table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Entries under keys of the pod's own packets: one for each flow. Several CPUs count at once, and a flow of an earlier pod with this
    /// address may be the one that ends, so it may be below zero for a while.
    pub flows: i64,
    /// Low half of the jiffies since when `begun` is counted.
    pub since: u32,
    /// How many flows the pod has begun since; for as long as [`grace`](crate::Uplink::grace) at most.
    pub begun: u32,
}

impl Share {
    /// A pod with so many flows.
    #[inline]
    pub const fn new(flows: i64) -> Self {
        Self {
            flows,
            since: 0,
            begun: 0,
        }
    }
}
