//! Why a packet ended as it did: what the programs count and the operator reads.

/// The outcome of a packet, and the index of its counter.
///
/// The numbers are a stored format (see [`crate::ABI_VERSION`]): new ones go to the end.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Not a pod's packet, or nothing that this hook decides. Not counted: the cheap way out.
    NotOurs = 0,
    /// From a pod to a destination inside the ranges: leaves with the pod's address.
    InRange = 1,
    /// From a pod to an exempt destination (168.63.129.16): leaves with the pod's address.
    Exempt = 2,
    /// First packet of a masqueraded flow.
    FlowCreated = 3,
    /// Later packet of a masqueraded flow, from the pod.
    Masqueraded = 4,
    /// Reply of a masqueraded flow, to the pod.
    Unmasqueraded = 5,
    /// For a pod's own address: given the pod's MAC.
    ToPod = 6,
    /// As `ToPod`, the first packet of a flow from outside the ranges.
    InboundRecorded = 7,
    /// Reply to such a flow: leaves with the pod's address.
    InboundReply = 8,
    /// ARP that was given the MAC the fabric, or the pod, expects.
    ArpRewritten = 9,
    /// ARP request for an address of this node: answered here, kept from the fabric, which would answer too.
    ArpLocal = 10,
    /// From a pod with an address that is not its own.
    SpoofedAddress = 11,
    /// From a pod with the NIC's or the fabric's MAC or a group address as source.
    SpoofedMac = 12,
    /// From a pod to outside the ranges with a header that cannot be trusted.
    Malformed = 13,
    /// From a pod to a destination that the policy closes (multicast, broadcast, a rule).
    PolicyDrop = 14,
    /// From a pod to outside the ranges as an IP fragment, whose flow cannot be told.
    Fragment = 15,
    /// From a pod to outside the ranges, neither TCP, UDP nor ICMP echo.
    UnsupportedProtocol = 16,
    /// Every port of the range is in use towards this destination.
    NoPortFound = 17,
    /// The flow table takes no more entries.
    FlowTableFull = 18,
    /// IPv6 from a pod to the fabric, which has given it no IPv6 address.
    Ipv6 = 19,
    /// The programs run, but user space has not told them about the NIC.
    Unconfigured = 20,
    /// ICMP error from a pod about a packet of a recorded flow.
    IcmpErrorOut = 21,
    /// ICMP error about a packet of a masqueraded flow, to the pod.
    IcmpErrorIn = 22,
    /// As `Masqueraded`, from the pod's veth straight to the NIC; errors about the flow as well.
    MasqueradedFast = 23,
    /// As `Unmasqueraded`, from the NIC straight to the pod's veth; errors about the flow as well.
    UnmasqueradedFast = 24,
    /// From a pod to the fabric with more than one VLAN tag: what is inside cannot be judged.
    Tagged = 25,
    /// The ports that this packet looked at are in use towards this destination; the next looks at others.
    PortSearchGoesOn = 26,
    /// The pod has as many flows as a pod may have.
    PodFlowLimit = 27,
}

impl Reason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 28] = [
        Self::NotOurs,
        Self::InRange,
        Self::Exempt,
        Self::FlowCreated,
        Self::Masqueraded,
        Self::Unmasqueraded,
        Self::ToPod,
        Self::InboundRecorded,
        Self::InboundReply,
        Self::ArpRewritten,
        Self::ArpLocal,
        Self::SpoofedAddress,
        Self::SpoofedMac,
        Self::Malformed,
        Self::PolicyDrop,
        Self::Fragment,
        Self::UnsupportedProtocol,
        Self::NoPortFound,
        Self::FlowTableFull,
        Self::Ipv6,
        Self::Unconfigured,
        Self::IcmpErrorOut,
        Self::IcmpErrorIn,
        Self::MasqueradedFast,
        Self::UnmasqueradedFast,
        Self::Tagged,
        Self::PortSearchGoesOn,
        Self::PodFlowLimit,
    ];

    /// How many there are: the size of the `counters` map.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a list of some twenty names"
    )]
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// The name that operators see in counters and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotOurs => "not_ours",
            Self::InRange => "in_range",
            Self::Exempt => "exempt",
            Self::FlowCreated => "flow_created",
            Self::Masqueraded => "masqueraded",
            Self::Unmasqueraded => "unmasqueraded",
            Self::ToPod => "to_pod",
            Self::InboundRecorded => "inbound_recorded",
            Self::InboundReply => "inbound_reply",
            Self::ArpRewritten => "arp_rewritten",
            Self::ArpLocal => "arp_local",
            Self::SpoofedAddress => "spoofed_address",
            Self::SpoofedMac => "spoofed_mac",
            Self::Malformed => "malformed",
            Self::PolicyDrop => "policy_drop",
            Self::Fragment => "fragment",
            Self::UnsupportedProtocol => "unsupported_protocol",
            Self::NoPortFound => "no_port_found",
            Self::FlowTableFull => "flow_table_full",
            Self::Ipv6 => "ipv6",
            Self::Unconfigured => "unconfigured",
            Self::IcmpErrorOut => "icmp_error_out",
            Self::IcmpErrorIn => "icmp_error_in",
            Self::MasqueradedFast => "masqueraded_fast",
            Self::UnmasqueradedFast => "unmasqueraded_fast",
            Self::Tagged => "tagged",
            Self::PortSearchGoesOn => "port_search_goes_on",
            Self::PodFlowLimit => "pod_flow_limit",
        }
    }

    /// Whether the packet goes on. The one table of what is dropped; no wildcard, so that a new
    /// reason has to take a side.
    #[inline]
    pub const fn passes(self) -> bool {
        match self {
            Self::NotOurs
            | Self::InRange
            | Self::Exempt
            | Self::FlowCreated
            | Self::Masqueraded
            | Self::Unmasqueraded
            | Self::ToPod
            | Self::InboundRecorded
            | Self::InboundReply
            | Self::ArpRewritten
            | Self::IcmpErrorOut
            | Self::IcmpErrorIn
            | Self::MasqueradedFast
            | Self::UnmasqueradedFast => true,
            Self::ArpLocal
            | Self::SpoofedAddress
            | Self::SpoofedMac
            | Self::Malformed
            | Self::PolicyDrop
            | Self::Fragment
            | Self::UnsupportedProtocol
            | Self::NoPortFound
            | Self::FlowTableFull
            | Self::Ipv6
            | Self::Unconfigured
            | Self::Tagged
            | Self::PortSearchGoesOn
            | Self::PodFlowLimit => false,
        }
    }
}
