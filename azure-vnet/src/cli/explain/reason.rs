//! What the reasons mean, for somebody who has not read the programs.

use azure_vnet_abi::Reason;

/// A sentence. No wildcard: a new reason has to be explained.
pub fn meaning(reason: Reason) -> &'static str {
    match reason {
        Reason::NotOurs => "not a packet of a pod, or nothing that this hook decides",
        Reason::InRange => {
            "the destination is in a range of nonMasqueradeCIDRs or in the pool's own subnet"
        }
        Reason::Exempt => {
            "a rule of masquerade.rules exempts the destination (168.63.129.16 unless configured)"
        }
        Reason::FlowCreated => {
            "outside the ranges, and no rule exempts it: a new flow from the node's address"
        }
        Reason::Masqueraded => "a packet of a flow that is masqueraded already",
        Reason::Unmasqueraded => "the reply of a masqueraded flow",
        Reason::ToPod => "for a pod's own address",
        Reason::InboundRecorded => "the first packet of a flow from outside the ranges to a pod",
        Reason::InboundReply => {
            "the reply in a flow that came in from outside: it keeps the pod's address"
        }
        Reason::ToNewMac => "from the node to a pod that has changed its MAC",
        Reason::ByOtherNic => "the source is an address of another NIC: it leaves by that one",
        Reason::ArpAnswered => "an ARP request, answered with the router's MAC",
        Reason::ArpIgnored => "ARP that asks for nobody else's address",
        Reason::SpoofedAddress => "the source is not the pod's own address",
        Reason::SpoofedMac => "the source MAC is the NIC's, the fabric's, a group's or none",
        Reason::ToGroup => "sent to a group MAC: nothing is flooded",
        Reason::UnknownSource => {
            "the source is no pod's, and it came from the bridge by a port that no program guards"
        }
        Reason::Malformed => "the header cannot be trusted",
        Reason::PolicyDrop => {
            "the policy closes the destination: multicast, broadcast, or a rule with drop"
        }
        Reason::Fragment => "a fragment whose first one was not seen",
        Reason::UnsupportedProtocol => {
            "neither TCP, UDP nor ICMP echo: nothing else leaves the ranges"
        }
        Reason::NoPortFound => "every port of the range is in use towards this destination",
        Reason::PortSearchGoesOn => {
            "nearly every port of the range is in use towards this destination: the next packet finds the last, if there is one"
        }
        Reason::FlowTableFull => "the flow table is full",
        Reason::PodFlowLimit => "the pod has as many flows as one pod may have (flowsPerPod)",
        Reason::Ipv6 => "IPv6, of which Azure has given the pod no address",
        Reason::EtherType => "neither IPv4 nor ARP",
        Reason::Loopback => "for the node's loopback network, which is the node's alone",
        Reason::FreeAddress => "for an address of the pool that no pod has: a route drops it",
        Reason::Unconfigured => "the programs have not been told about the NIC",
        Reason::IcmpErrorOut => "an ICMP error about a packet of a flow",
        Reason::MasqueradedFast => {
            "a packet of a flow that is masqueraded already, on the fast path"
        }
        Reason::UnmasqueradedFast => "the reply of a masqueraded flow, on the fast path",
        Reason::Tagged => "a VLAN tag: what is inside cannot be judged",
        Reason::IcmpErrorIn => "an ICMP error about a packet of a flow, to the pod",
    }
}
