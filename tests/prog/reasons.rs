//! One packet for every reason: the list that a new reason has to be added to.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use azure_vnet_abi::{Mac, Reason, programs};

use crate::flows::Tuple;
use crate::harness::{Node, Run, Verdict};
use crate::packet::{Arp, LATER, Packet, ethernet, icmp_error, ipv6, other, tagged, udp};
use crate::plan::{
    BRIDGE_IFINDEX, BROADCAST, CLOSED, ELSEWHERE, FABRIC, FREE, KEPT, NIC, NODE, OTHER_NIC, PEER,
    PORTS, REMOTE, REPLACED, WEB, WIRESERVER,
};

#[test]
fn every_reason_has_a_packet_that_is_counted_under_it_alone() {
    for reason in Reason::ALL {
        let (verdict, run) = packet_for(reason);
        let counted: &[_] = match reason {
            Reason::NotOurs => &[],
            _ => &[(reason, 1)],
        };
        assert_eq!(run.outcome(), (verdict, counted), "{}", reason.name());
    }
}

#[test]
fn numbers_and_names_are_those_of_the_list() {
    let names: BTreeSet<_> = Reason::ALL.map(Reason::name).into();
    assert_eq!(names.len(), Reason::ALL.len(), "a name is used twice");
    for (number, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, number, "{}", reason.name());
    }
}

/// No wildcard, so that a new reason does not compile without its packet.
fn packet_for(reason: Reason) -> (Verdict, Run) {
    use Verdict::{Dropped, Passes, Redirected};

    let node = Node::new();
    let (local, remote) = ((WEB.address, KEPT), (REMOTE, 53));
    let sent = udp(local, remote).of(&WEB);
    let to = |destination| udp(local, (destination, 53)).of(&WEB);
    let came = udp(remote, local);
    match reason {
        Reason::NotOurs => (Passes, node.to_uplink(&udp((NODE, 53), remote))),
        Reason::InRange => (Passes, node.to_uplink(&to(PEER))),
        Reason::Exempt => (Passes, node.to_uplink(&to(WIRESERVER))),
        Reason::FlowCreated => (Passes, node.to_uplink(&sent)),
        Reason::Masqueraded => {
            let _ = node.to_uplink(&sent);
            (Passes, node.to_uplink(&sent))
        }
        Reason::Unmasqueraded => {
            let _ = node.to_uplink(&sent);
            (Passes, node.from_uplink(&udp(remote, (NODE, KEPT))))
        }
        Reason::ToPod => (Passes, node.from_uplink(&udp((PEER, 53), local))),
        Reason::InboundRecorded => (Passes, node.from_uplink(&came)),
        Reason::InboundReply => {
            let _ = node.from_uplink(&came);
            (Passes, node.to_uplink(&sent))
        }
        Reason::ToNewMac => (Redirected, node.to_pods(&came.frame(FABRIC, NIC))),
        Reason::FreeAddress => (
            Passes,
            node.from_uplink_beside_routes(&udp(remote, (FREE, 53))),
        ),
        Reason::ByOtherNic => (Redirected, of_two_nics(&udp((ELSEWHERE, 53), remote))),
        Reason::ArpAnswered => (Redirected, node.from_pod(&WEB, &question(PEER))),
        Reason::ArpIgnored => (Dropped, node.from_pod(&WEB, &question(WEB.address))),
        Reason::SpoofedAddress => (
            Dropped,
            node.from_pod(&WEB, &udp((NODE, 53), remote).of(&WEB)),
        ),
        Reason::SpoofedMac => (Dropped, node.from_pod(&WEB, &sent.frame(NIC, FABRIC))),
        Reason::ToGroup => (
            Dropped,
            node.from_pod(&WEB, &sent.frame(WEB.mac, BROADCAST)),
        ),
        Reason::EtherType => {
            let lldp = ethernet(WEB.mac, FABRIC, 0x88cc, b"LLDP");
            (Dropped, node.from_pod(&WEB, lldp))
        }
        Reason::UnknownSource => {
            let unknown = udp((PEER, 53), remote);
            (Dropped, node.to_uplink_from(BRIDGE_IFINDEX, &unknown))
        }
        Reason::Malformed => (Dropped, node.to_uplink(sent.bytes().slice(..40))),
        Reason::PolicyDrop => (Dropped, node.to_uplink(&to(CLOSED))),
        Reason::Fragment => (Dropped, node.to_uplink(&sent.fragment(LATER))),
        Reason::UnsupportedProtocol => {
            let sent = other(50, WEB.address, REMOTE).of(&WEB);
            (Redirected, node.to_uplink(&sent))
        }
        Reason::NoPortFound => {
            let node = Node::with_ports(KEPT..=KEPT);
            let _ = node.to_uplink(&sent);
            let second = udp((WEB.address, KEPT + 1), remote).of(&WEB);
            // The pod is told so.
            (Redirected, node.to_uplink(&second))
        }
        Reason::PortSearchGoesOn => {
            let node = Node::new();
            let from = |port| udp((WEB.address, port), remote).of(&WEB);
            for port in PORTS {
                let _ = node.run(programs::TO_UPLINK, &from(port).bytes());
            }
            (Dropped, node.to_uplink(&from(REPLACED)))
        }
        Reason::FlowTableFull => {
            let node = Node::with_flow_table(1);
            (Dropped, node.to_uplink(&sent))
        }
        Reason::PodFlowLimit => {
            let mut node = Node::new();
            node.set_flows_per_pod(0);
            (Dropped, node.to_uplink(&sent))
        }
        Reason::Ipv6 => (Dropped, node.from_pod(&WEB, ipv6(WEB.mac, FABRIC))),
        Reason::IcmpErrorOut => {
            let _ = node.from_uplink(&came);
            let error = icmp_error(3, WEB.address, REMOTE, &came, 28).of(&WEB);
            (Passes, node.to_uplink(&error))
        }
        Reason::IcmpErrorIn => {
            let _ = node.to_uplink(&sent);
            let error = icmp_error(3, REMOTE, NODE, &udp((NODE, KEPT), remote), 28);
            (Passes, node.from_uplink(&error))
        }
        Reason::MasqueradedFast => (Redirected, fast(&sent).from_pod(&WEB, &sent)),
        Reason::UnmasqueradedFast => {
            let reply = udp(remote, (NODE, KEPT));
            (Redirected, fast(&sent).from_uplink(&reply))
        }
        Reason::Tagged => (Dropped, node.from_pod(&WEB, tagged(&sent.bytes(), 5))),
        Reason::Unconfigured => (Dropped, Node::unconfigured().to_uplink(&sent)),
        Reason::Loopback => (Dropped, node.from_pod(&WEB, &to(Ipv4Addr::LOCALHOST))),
    }
}

/// Routed to one NIC of a node that has another.
fn of_two_nics(sent: &Packet) -> Run {
    let mut node = Node::new();
    node.add_nic(ELSEWHERE, OTHER_NIC);
    node.to_uplink(sent)
}

/// A node on which the flow of `sent`, which keeps its port, is on the fast path.
fn fast(sent: &Packet) -> Node {
    let mut node = Node::new();
    let _ = node.to_uplink(sent);
    let tuple = Tuple::udp((WEB.address, KEPT), (REMOTE, 53));
    node.make_fast([tuple, tuple.sent_from(NODE, KEPT).reversed()]);
    node
}

fn question(target: Ipv4Addr) -> Arp {
    Arp {
        from: WEB.mac,
        to: BROADCAST,
        operation: Arp::REQUEST,
        sender: (WEB.mac, WEB.address),
        target: (Mac([0; 6]), target),
    }
}
