//! ARP at each hook (RFC 826): a pod speaks for itself only, the fabric hears the NIC only, and the
//! pod that asked gets the answer.

use std::net::Ipv4Addr;

use azure_vnet_abi::{Mac, Reason};
use bytes::Bytes;

use crate::harness::Node;
use crate::packet::Arp;
use crate::plan::{BROADCAST, DATABASE, FABRIC, NIC, NODE, PEER, Pod, WEB};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 1);
const NOBODY: Mac = Mac([0; 6]);

fn request(pod: &Pod, target: Ipv4Addr) -> Arp {
    Arp {
        from: pod.mac,
        to: BROADCAST,
        operation: Arp::REQUEST,
        sender: (pod.mac, pod.address),
        target: (NOBODY, target),
    }
}

/// RFC 5227: the question whether an address is free, from nobody.
fn probe(pod: &Pod, target: Ipv4Addr) -> Arp {
    Arp {
        sender: (pod.mac, Ipv4Addr::UNSPECIFIED),
        ..request(pod, target)
    }
}

fn reply(from: Mac, sender: Ipv4Addr, to: Mac, target: Ipv4Addr) -> Arp {
    Arp {
        from,
        to,
        operation: Arp::REPLY,
        sender: (from, sender),
        target: (to, target),
    }
}

/// As the packet has to leave the NIC.
fn leaving(arp: Arp) -> Arp {
    Arp {
        from: NIC,
        sender: (NIC, arp.sender.1),
        ..arp
    }
}

mod from_pod {
    use super::*;

    #[test]
    fn a_pod_may_speak_for_itself() {
        let node = Node::new();
        for arp in [
            request(&WEB, GATEWAY),
            request(&WEB, WEB.address),
            probe(&WEB, WEB.address),
            reply(WEB.mac, WEB.address, NIC, NODE),
        ] {
            node.from_pod(&WEB, &arp).passes(Reason::NotOurs, &arp, &[]);
        }
    }

    #[test]
    fn not_for_the_address_of_another() {
        let node = Node::new();
        for address in [NODE, DATABASE.address, GATEWAY] {
            let mut arp = request(&WEB, GATEWAY);
            arp.sender.1 = address;
            node.from_pod(&WEB, &arp).drops(Reason::SpoofedAddress, &[]);
            let arp = reply(WEB.mac, address, NIC, NODE);
            node.from_pod(&WEB, &arp).drops(Reason::SpoofedAddress, &[]);
        }
    }

    #[test]
    fn nor_with_another_mac_inside_than_outside() {
        let node = Node::new();
        for mac in [NIC, DATABASE.mac, BROADCAST] {
            let mut arp = request(&WEB, GATEWAY);
            arp.sender.0 = mac;
            node.from_pod(&WEB, &arp).drops(Reason::SpoofedMac, &[]);
        }
    }

    #[test]
    fn every_truncation_is_malformed() {
        let node = Node::new();
        let whole = Bytes::from(&request(&WEB, GATEWAY));
        for length in 14..whole.len() {
            node.from_pod(&WEB, whole.slice(..length))
                .drops(Reason::Malformed, &[]);
        }
    }
}

mod to_uplink {
    use super::*;

    #[test]
    fn what_a_pod_says_leaves_as_if_the_nic_had_said_it() {
        let node = Node::new();
        for arp in [
            request(&WEB, GATEWAY),
            request(&WEB, PEER),
            probe(&WEB, PEER),
            reply(WEB.mac, WEB.address, FABRIC, PEER),
        ] {
            node.to_uplink(&arp)
                .passes(Reason::ArpRewritten, &leaving(arp), &[]);
        }
    }

    #[test]
    fn what_the_node_says_passes_unchanged() {
        let node = Node::new();
        let arp = leaving(request(&WEB, GATEWAY));
        node.to_uplink(&arp).passes(Reason::NotOurs, &arp, &[]);
    }

    #[test]
    fn a_question_for_an_address_of_this_node_stays_here() {
        let node = Node::new();
        for address in [NODE, WEB.address, DATABASE.address] {
            for arp in [
                request(&WEB, address),
                probe(&WEB, address),
                leaving(request(&WEB, address)),
            ] {
                node.to_uplink(&arp).drops(Reason::ArpLocal, &[]);
            }
        }
    }

    #[test]
    fn every_truncation_is_malformed() {
        let node = Node::new();
        let whole = Bytes::from(&request(&WEB, GATEWAY));
        for length in 14..whole.len() {
            node.to_uplink(whole.slice(..length))
                .drops(Reason::Malformed, &[]);
        }
    }
}

mod from_uplink {
    use super::*;

    #[test]
    fn the_answer_reaches_the_pod_that_asked() {
        let node = Node::new();
        for pod in [WEB, DATABASE] {
            let arp = reply(FABRIC, GATEWAY, NIC, pod.address);
            let expected = reply(FABRIC, GATEWAY, pod.mac, pod.address);
            node.from_uplink(&arp)
                .passes(Reason::ArpRewritten, &expected, &[]);
        }
    }

    #[test]
    fn everything_else_is_the_nodes() {
        let node = Node::new();
        let question = |target| Arp {
            from: FABRIC,
            ..request(&WEB, target)
        };
        for arp in [
            reply(FABRIC, GATEWAY, NIC, NODE),
            reply(FABRIC, GATEWAY, NIC, PEER),
            question(NODE),
            question(WEB.address),
        ] {
            node.from_uplink(&arp).passes(Reason::NotOurs, &arp, &[]);
        }
    }

    #[test]
    fn every_truncation_is_malformed() {
        let node = Node::new();
        let whole = Bytes::from(&reply(FABRIC, GATEWAY, NIC, WEB.address));
        for length in 14..whole.len() {
            node.from_uplink(whole.slice(..length))
                .drops(Reason::Malformed, &[]);
        }
    }
}
