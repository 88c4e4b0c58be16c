//! What the programs know of the NIC they serve.

use crate::{Be32, MAX_FLOWS, Mac};

/// The only element of the `uplink` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// Primary address of the NIC: what masqueraded packets are sent from.
    pub address: Be32,
    /// MAC of the NIC: the only one whose frames Azure's fabric accepts.
    pub mac: Mac,
    /// MTU of the NIC: what is longer goes the slow way.
    pub mtu: u16,
    /// First port that is used for masquerading, host order.
    pub port_min: u16,
    /// Last port that is used for masquerading, host order; never below `port_min`.
    pub port_max: u16,
    /// Jiffies in a second.
    pub hz: u32,
    /// When idle flows end.
    pub timeouts: Timeouts,
    /// Interface index of the NIC.
    pub ifindex: u32,
    /// 1 if new flows may take the fast path, else 0.
    pub fast_path: u32,
    /// How many flows a pod may have ([`Share`](crate::Share)).
    pub flows_per_pod: u32,
    /// Interface index of the bridge, the pods' router; 0 if it is not known.
    pub bridge: u32,
    /// For how many jiffies a flow that is [unproven](crate::FlowFlags::UNPROVEN) keeps its port and its place.
    pub grace: u32,
    /// How many flows that a pod begins in that time have it; those beyond are [crowded](crate::FlowFlags::CROWDED).
    pub protected: u32,
    /// For how many of them a port is searched where nearly all are in use.
    pub searched: u32,
    /// What nobody else knows: the ports of new flows follow from it.
    pub secret: Secret,
}

/// The key of the hash that chooses ports: 128 bits, from the kernel's random source. Whoever knows it knows which port a
/// pod's next flow gets, so it has no text.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Secret(pub [u64; 2]);

impl core::fmt::Debug for Secret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Secret")
    }
}

impl Uplink {
    /// [`flows_per_pod`](Self::flows_per_pod) unless something else is asked for: half of what the flow table holds where all are masqueraded.
    pub const DEFAULT_FLOWS_PER_POD: u32 = MAX_FLOWS / 4;

    /// Seconds of [`grace`](Self::grace): what a handshake takes at most, over any path that is not broken.
    const GRACE: u32 = 2;
    /// [`protected`](Self::protected): so few that 256 pods together cannot hold the default range of ports for as long as that.
    const PROTECTED: u32 = 32;
    /// [`searched`](Self::searched): so few that one pod cannot keep the search from the others.
    const SEARCHED: u32 = 1024;

    /// Settings without a fast path.
    pub const fn new(
        address: Be32,
        mac: Mac,
        ports: core::ops::RangeInclusive<u16>,
        hz: u32,
        timeouts: Timeouts,
    ) -> Self {
        Self {
            address,
            mac,
            mtu: 0,
            port_min: *ports.start(),
            port_max: *ports.end(),
            hz,
            timeouts,
            ifindex: 0,
            fast_path: 0,
            flows_per_pod: Self::DEFAULT_FLOWS_PER_POD,
            bridge: 0,
            grace: Self::GRACE.wrapping_mul(hz),
            protected: Self::PROTECTED,
            searched: Self::SEARCHED,
            secret: Secret([0; 2]),
        }
    }

    /// With the bridge that routes what pods send.
    #[must_use]
    pub const fn routed_by(self, bridge: u32) -> Self {
        Self { bridge, ..self }
    }

    /// With other bounds for what is not proven.
    #[must_use]
    pub const fn believing(self, grace: u32, protected: u32, searched: u32) -> Self {
        Self {
            grace,
            protected,
            searched,
            ..self
        }
    }

    /// With the key that chooses ports.
    #[must_use]
    pub const fn with_secret(self, secret: Secret) -> Self {
        Self { secret, ..self }
    }

    /// With another limit for the flows of a pod.
    #[must_use]
    pub const fn with_flows_per_pod(self, flows_per_pod: u32) -> Self {
        Self {
            flows_per_pod,
            ..self
        }
    }

    /// With the NIC that packets are redirected to. Flows that took the fast path once stay on it
    /// when `fast_path` is off: connection tracking has not seen what went past it.
    #[must_use]
    pub const fn redirecting_to(self, ifindex: u32, mtu: u16, fast_path: bool) -> Self {
        Self {
            ifindex,
            mtu,
            fast_path: fast_path as u32,
            ..self
        }
    }
}

/// Idle times in seconds after which a flow's port may be taken by another.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP that never got past its first packets.
    pub tcp_opening: u32,
    /// TCP in both directions.
    pub tcp_established: u32,
    /// TCP after FIN or RST; keeps the remote's `TIME_WAIT` from meeting a new connection.
    pub tcp_closing: u32,
    /// UDP.
    pub udp: u32,
    /// ICMP echo.
    pub icmp: u32,
    /// UDP that was not answered, and TCP that neither began with a SYN nor was answered.
    pub unproven: u32,
}

impl Timeouts {
    /// netfilter's time for UDP that was not answered (`nf_conntrack_udp_timeout`).
    pub const UNPROVEN: u32 = 30;

    /// netfilter's own defaults (`nf_conntrack_tcp_timeout_*`, `_udp_timeout_stream`), except established TCP: two hours and four
    /// minutes, the least that RFC 5382 REQ-5 allows, instead of five days; and ICMP: a minute, as RFC 5508 REQ-2 has it,
    /// instead of half of one.
    pub const DEFAULT: Self = Self {
        tcp_opening: 120,
        tcp_established: 7440,
        tcp_closing: 120,
        udp: 120,
        icmp: 60,
        unproven: Self::UNPROVEN,
    };
}
