//! Why a packet ended as it did: what the programs count and the operator reads.

/// The outcome of a packet, and the index of its counter.
///
/// The numbers are a stored format (see [`crate::ABI_VERSION`]).
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
    /// From the fabric for a pod's own address.
    ToPod = 6,
    /// As `ToPod`, the first packet of a flow from outside the ranges.
    InboundRecorded = 7,
    /// Reply to such a flow: leaves with the pod's address.
    InboundReply = 8,
    /// ICMP error about a packet of a recorded flow, from the pod, or from the node, which could not deliver it.
    IcmpErrorOut = 9,
    /// ICMP error about a packet of a masqueraded flow, to the pod.
    IcmpErrorIn = 10,
    /// As `Masqueraded`, from the pod's veth straight to the NIC; errors about the flow as well.
    MasqueradedFast = 11,
    /// As `Unmasqueraded`, from the NIC straight to the pod's veth; errors about the flow as well.
    UnmasqueradedFast = 12,
    /// From the node to a pod that has another MAC than the node knows: given that, straight to its veth.
    ToNewMac = 13,
    /// At one NIC with the address of another: sent out by that one, which is where the fabric takes it.
    ByOtherNic = 14,
    /// ARP request of a pod, answered with the router's MAC whoever was asked for.
    ArpAnswered = 15,
    /// ARP of a pod that nobody needs: probe, announcement, reply, request for its own address.
    ArpIgnored = 16,
    /// From a pod with an address that is not its own.
    SpoofedAddress = 17,
    /// From a pod with the NIC's or the fabric's MAC, a group's or none as source.
    SpoofedMac = 18,
    /// From a pod to a group MAC, but for ARP to all: nothing is flooded.
    ToGroup = 19,
    /// IPv6 from a pod, to which Azure has given no IPv6 address.
    Ipv6 = 20,
    /// From a pod with a VLAN tag: what is inside cannot be judged.
    Tagged = 21,
    /// From a pod, neither IPv4 nor ARP.
    EtherType = 22,
    /// From the bridge to outside the ranges, of no pod and by a port that `from_pod` does not guard.
    UnknownSource = 23,
    /// From a pod with a header that cannot be trusted.
    Malformed = 24,
    /// From a pod to a destination that the policy closes (multicast, broadcast, a rule).
    PolicyDrop = 25,
    /// From a pod to outside the ranges as an IP fragment, whose flow cannot be told.
    Fragment = 26,
    /// From a pod to outside the ranges, neither TCP, UDP nor ICMP echo.
    UnsupportedProtocol = 27,
    /// Every port of the range is in use towards this destination.
    NoPortFound = 28,
    /// The ports that this packet looked at are in use towards this destination; the next looks at others.
    PortSearchGoesOn = 29,
    /// The flow table takes no more entries.
    FlowTableFull = 30,
    /// The pod has as many flows as a pod may have.
    PodFlowLimit = 31,
    /// The programs run, but user space has not told them about the NIC.
    Unconfigured = 32,
    /// From a pod to 127.0.0.0/8, which the kernel may route (`route_localnet`).
    Loopback = 33,
    /// From the fabric for an address of the pool that no pod has. The node's routes drop it, unless netfilter translates it.
    FreeAddress = 34,
}

impl Reason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 35] = [
        Self::NotOurs,
        Self::InRange,
        Self::Exempt,
        Self::FlowCreated,
        Self::Masqueraded,
        Self::Unmasqueraded,
        Self::ToPod,
        Self::InboundRecorded,
        Self::InboundReply,
        Self::IcmpErrorOut,
        Self::IcmpErrorIn,
        Self::MasqueradedFast,
        Self::UnmasqueradedFast,
        Self::ToNewMac,
        Self::ByOtherNic,
        Self::ArpAnswered,
        Self::ArpIgnored,
        Self::SpoofedAddress,
        Self::SpoofedMac,
        Self::ToGroup,
        Self::Ipv6,
        Self::Tagged,
        Self::EtherType,
        Self::UnknownSource,
        Self::Malformed,
        Self::PolicyDrop,
        Self::Fragment,
        Self::UnsupportedProtocol,
        Self::NoPortFound,
        Self::PortSearchGoesOn,
        Self::FlowTableFull,
        Self::PodFlowLimit,
        Self::Unconfigured,
        Self::Loopback,
        Self::FreeAddress,
    ];

    /// How many there are: the size of the `counters` map.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a list of some thirty names"
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
            Self::IcmpErrorOut => "icmp_error_out",
            Self::IcmpErrorIn => "icmp_error_in",
            Self::MasqueradedFast => "masqueraded_fast",
            Self::UnmasqueradedFast => "unmasqueraded_fast",
            Self::ToNewMac => "to_new_mac",
            Self::ByOtherNic => "by_other_nic",
            Self::ArpAnswered => "arp_answered",
            Self::ArpIgnored => "arp_ignored",
            Self::SpoofedAddress => "spoofed_address",
            Self::SpoofedMac => "spoofed_mac",
            Self::ToGroup => "to_group",
            Self::Ipv6 => "ipv6",
            Self::Tagged => "tagged",
            Self::EtherType => "ether_type",
            Self::UnknownSource => "unknown_source",
            Self::Malformed => "malformed",
            Self::PolicyDrop => "policy_drop",
            Self::Fragment => "fragment",
            Self::UnsupportedProtocol => "unsupported_protocol",
            Self::NoPortFound => "no_port_found",
            Self::PortSearchGoesOn => "port_search_goes_on",
            Self::FlowTableFull => "flow_table_full",
            Self::PodFlowLimit => "pod_flow_limit",
            Self::Unconfigured => "unconfigured",
            Self::Loopback => "loopback",
            Self::FreeAddress => "free_address",
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
            | Self::IcmpErrorOut
            | Self::IcmpErrorIn
            | Self::MasqueradedFast
            | Self::UnmasqueradedFast
            | Self::ToNewMac
            | Self::ByOtherNic
            | Self::ArpAnswered
            | Self::FreeAddress => true,
            Self::ArpIgnored
            | Self::SpoofedAddress
            | Self::SpoofedMac
            | Self::ToGroup
            | Self::Ipv6
            | Self::Tagged
            | Self::EtherType
            | Self::UnknownSource
            | Self::Malformed
            | Self::PolicyDrop
            | Self::Fragment
            | Self::UnsupportedProtocol
            | Self::NoPortFound
            | Self::PortSearchGoesOn
            | Self::FlowTableFull
            | Self::PodFlowLimit
            | Self::Unconfigured
            | Self::Loopback => false,
        }
    }
}
