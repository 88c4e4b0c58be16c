//! The flow table: one entry per packet direction of a masqueraded flow, one for a flow that came in.

use crate::{Be16, Be32, Mac};

/// A packet's five-tuple exactly as the packet shows it on the pod's side of the translation
/// (outgoing packets) or on the wire (incoming packets).
///
/// For an ICMP echo the identifier stands where the pod's (or the node's) port would be and the
/// other port is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKey {
    /// Source address of the packet.
    pub source: Be32,
    /// Destination address of the packet.
    pub destination: Be32,
    /// Source port of the packet.
    pub source_port: Be16,
    /// Destination port of the packet.
    pub destination_port: Be16,
    /// IP protocol number.
    pub protocol: u8,
    // Scalars, because zeroing an array becomes a call to memset.
    padding: u8,
    more_padding: u16,
}

impl FlowKey {
    /// A key with its padding zeroed: hash maps compare every byte.
    #[inline]
    pub const fn new(
        protocol: u8,
        source: Be32,
        source_port: Be16,
        destination: Be32,
        destination_port: Be16,
    ) -> Self {
        Self {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
            padding: 0,
            more_padding: 0,
        }
    }

    /// The key of the packets that go the other way.
    #[must_use]
    #[inline]
    pub const fn reversed(&self) -> Self {
        Self::new(
            self.protocol,
            self.destination,
            self.destination_port,
            self.source,
            self.source_port,
        )
    }
}

/// Element of the `sweep` queue: a flow that is to be looked at again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// The key of the flow's entry for the pod's packets.
    pub key: FlowKey,
    /// Low half of the jiffies when it was put in line.
    pub since: u32,
}

/// What an entry does to the packets it matches; the value of [`Flow::kind`].
///
/// Constants and not an enum, because not every bit pattern in a map would be a valid one.
pub struct FlowKind;

impl FlowKind {
    /// Pod to remote: the source becomes [`Flow::address`]:[`Flow::port`].
    pub const MASQUERADE: u8 = 1;
    /// Remote to node: the destination becomes [`Flow::address`]:[`Flow::port`], a pod.
    pub const UNMASQUERADE: u8 = 2;
    /// Pod to remote, in answer to a flow that came in from there, or in a connection that an earlier
    /// policy let out with the pod's address: nothing is rewritten.
    pub const INBOUND: u8 = 3;
}

/// How far a flow got; bits of [`Flow::tcp_state`]. For other protocols than TCP only [`HEARD`](Self::HEARD) is ever set.
pub struct TcpState;

impl TcpState {
    /// A packet without SYN was seen in this entry's direction: past the handshake's first step.
    pub const ESTABLISHED: u8 = 1;
    /// One side has said FIN or RST, and it may be so.
    pub const CLOSING: u8 = 2;
    /// Whoever did not begin the flow has answered.
    pub const HEARD: u8 = 4;
    /// The pod has said FIN.
    pub const FIN_OUT: u8 = 8;
    /// The remote has said FIN.
    pub const FIN_IN: u8 = 16;
    /// [`Flow::acknowledged`] says something.
    pub const ACKNOWLEDGED: u8 = 32;
}

/// How a flow's packets travel, and what it is worth; bits of [`Flow::flags`].
pub struct FlowFlags;

impl FlowFlags {
    /// Past bridge and netfilter: nobody but us translates this flow, and nothing shapes what the pod
    /// sends.
    pub const FAST: u8 = 1;
    /// Who began it was not answered, or has not shown yet that it heard the answer: anybody may make such flows. They live
    /// shorter, and go first where ports or room are scarce.
    pub const UNPROVEN: u8 = 2;
    /// One of so many that began at once that it may go at once as well, as long as it is unproven.
    pub const CROWDED: u8 = 4;
}

/// Value of the flow table. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Low half of the jiffies at the last packet, written at most once a second.
    pub last_seen: u32,
    /// Jiffies without a packet after which the flow is over; follows from protocol and state.
    pub timeout: u32,
    /// Address that is written into the packet, see [`FlowKind`].
    pub address: Be32,
    /// Port (or ICMP identifier) that is written into the packet.
    pub port: Be16,
    /// One of [`FlowKind`].
    pub kind: u8,
    /// Bits of [`TcpState`].
    pub tcp_state: u8,
    /// TCP, in the entry for the pod's packets: the sequence number that the pod expects, as it acknowledged last; if there is
    /// [`TcpState::ACKNOWLEDGED`]. Until ABI 8 a random number, the same in both entries.
    pub acknowledged: Be32,
    /// Interface index of the pod's host veth.
    pub ifindex: u32,
    /// The pod's MAC, for frames that go to it.
    pub mac: Mac,
    /// Bits of [`FlowFlags`].
    pub flags: u8,
    padding: u8,
}

impl Flow {
    /// A new entry; `now` and `timeout` in jiffies.
    #[inline]
    pub const fn new(
        kind: u8,
        address: Be32,
        port: Be16,
        ifindex: u32,
        mac: Mac,
        now: u32,
        timeout: u32,
    ) -> Self {
        Self {
            last_seen: now,
            timeout,
            address,
            port,
            kind,
            tcp_state: 0,
            acknowledged: Be32::from_raw(0),
            ifindex,
            mac,
            flags: 0,
            padding: 0,
        }
    }

    /// How much later than `now` another CPU may have seen a packet, in jiffies: `now` is read once for
    /// a packet, and the clock goes on.
    const AHEAD: u32 = 1000;

    /// Whether the flow is over at `now`, in jiffies.
    #[inline]
    pub const fn is_over(&self, now: u32) -> bool {
        let age = now.wrapping_sub(self.last_seen).wrapping_add(Self::AHEAD);
        age > self.timeout.wrapping_add(Self::AHEAD)
    }

    /// Jiffies at `now` until the flow is over, if no packet comes; 0 if it is.
    #[inline]
    pub const fn time_left(&self, now: u32) -> u32 {
        if self.is_over(now) {
            0
        } else {
            self.timeout
                .wrapping_sub(now.wrapping_sub(self.last_seen))
                .wrapping_add(1)
        }
    }
}
