//! Addresses and ports as they stand on the wire.

use core::net::Ipv4Addr;

/// Four bytes in network order (`__be32`): an IPv4 address.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Be32(u32);

impl Be32 {
    /// `raw` as loaded from a packet or a map, i.e. in network order whatever the CPU's is.
    #[inline]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The bits as they are stored in a packet.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// As a number.
    #[inline]
    pub const fn to_host(self) -> u32 {
        u32::from_be(self.0)
    }
}

impl From<Ipv4Addr> for Be32 {
    #[inline]
    fn from(address: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Be32> for Ipv4Addr {
    fn from(address: Be32) -> Self {
        Self::from(address.0.to_ne_bytes())
    }
}

/// Two bytes in network order (`__be16`): a port, or the identifier of an ICMP echo.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Be16(u16);

impl Be16 {
    /// `raw` as loaded from a packet or a map.
    #[inline]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The bits as they are stored in a packet.
    #[inline]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// From the number as people write it.
    #[inline]
    pub const fn from_host(value: u16) -> Self {
        Self(value.to_be())
    }

    /// The number as people write it.
    #[inline]
    pub const fn to_host(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// An Ethernet address. Aligned to two bytes like the fields of an Ethernet header behind
/// `NET_IP_ALIGN`, so that it is compared and copied in three loads.
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// What Azure's fabric answers every ARP request with, and so does the node: the pods' router.
    pub const FABRIC: Self = Self([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]);

    /// Everybody's.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Nobody's.
    pub const NONE: Self = Self([0; 6]);

    /// Whether it is of many: multicast, broadcast.
    #[inline]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}
