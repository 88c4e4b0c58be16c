//! What watchers are told about a packet.

/// How much of a packet is told: Ethernet, IPv4 without options, and the first words behind.
pub const EVENT_BYTES: usize = 42;

/// An element of the `events` ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// A [`Reason`](crate::Reason)'s number.
    pub reason: u32,
    /// Interface index of the hook.
    pub ifindex: u32,
    /// Length of the packet in bytes.
    pub length: u32,
    /// Its beginning, as the program leaves it; zeroes if it is shorter.
    pub head: [u8; EVENT_BYTES],
    /// Zero.
    pub padding: u16,
}
