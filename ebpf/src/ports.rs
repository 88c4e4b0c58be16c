//! The ports that flows leave from.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use azure_vnet_abi::{Be16, ReservedPorts, Uplink};

#[btf_map(name = "reserved")]
static RESERVED: Array<ReservedPorts, 1> = Array::new();

/// Whether somebody else on the node uses a port of the range, so that no new flow may have it.
#[inline(always)]
pub fn is_reserved(port: u16) -> bool {
    RESERVED
        .get(0)
        .is_some_and(|reserved| reserved.contains(port))
}

/// Whether a port is one that replies to masqueraded flows may carry.
#[inline(always)]
pub fn is_in_range(port: u16, uplink: &Uplink) -> bool {
    port >= uplink.port_min && port <= uplink.port_max
}

/// The ports of the range, one after the other and around.
#[derive(Clone, Copy)]
pub struct Range {
    min: u32,
    /// How many there are.
    pub size: u32,
}

impl Range {
    #[inline(always)]
    pub fn of(uplink: &Uplink) -> Self {
        let min = u32::from(uplink.port_min);
        Self {
            min,
            size: u32::from(uplink.port_max) - min + 1,
        }
    }

    /// The place of a port; outside the range it is none that matters.
    #[inline(always)]
    pub fn place(self, port: Be16) -> u32 {
        u32::from(port.to_host()).wrapping_sub(self.min)
    }

    /// Any number as a place.
    #[inline(always)]
    pub fn within(self, number: u32) -> u32 {
        // BPF divides by zero without harm, and user space sends no empty range.
        number.checked_rem(self.size).unwrap_or(0)
    }

    /// The port at a place, which may be any number.
    #[inline(always)]
    pub fn port(self, place: u32) -> u32 {
        self.min + self.within(place)
    }
}
