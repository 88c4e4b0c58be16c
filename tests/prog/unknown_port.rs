//! What comes to the NIC from the bridge and is of no pod: a port that nobody guards sends nothing out of the ranges.
//! That a pod's own port is guarded, netfilter may do to its packets what it will, is a test of `devices`.

use std::net::Ipv4Addr;

use azure_vnet_abi::Reason;

use crate::harness::Node;
use crate::packet::{ACK, FIRST, LATER, Packet, SYN, echo, echo_reply, other, tcp, timestamp, udp};
use crate::plan::{BRIDGE_IFINDEX, CLOSED, KEPT, NIC_IFINDEX, NODE, PEER, REMOTE, WEB, WIRESERVER};

/// In the pods' subnet, but no pod of this node.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 99);
const FOREIGN: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);

fn packets(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<Packet> {
    let (local, remote) = ((source, KEPT), (destination, 443));
    vec![
        tcp(local, remote, SYN),
        tcp(local, remote, ACK),
        udp(local, remote),
        udp(local, remote).options(&[1; 4]),
        udp(local, remote).fragment(FIRST),
        udp(local, remote).fragment(LATER),
        echo(local, destination),
        echo_reply(source, remote),
        timestamp(source, destination),
        other(132, source, destination),
    ]
}

#[test]
fn it_sends_nothing_out_of_the_ranges() {
    let node = Node::new();
    for source in [NOBODY, FOREIGN] {
        for destination in [REMOTE, CLOSED] {
            for packet in packets(source, destination) {
                node.to_uplink_from(BRIDGE_IFINDEX, &packet)
                    .drops(Reason::UnknownSource, &[]);
            }
        }
    }
}

#[test]
fn inside_them_and_to_what_is_exempt_it_does() {
    let node = Node::new();
    for destination in [PEER, WIRESERVER] {
        for packet in packets(NOBODY, destination) {
            let packet = packet.leaving();
            node.to_uplink_from(BRIDGE_IFINDEX, &packet)
                .passes(Reason::NotOurs, &packet, &[]);
        }
    }
}

/// The node itself, docker0, another NIC: each has somebody else to see to it.
#[test]
fn what_came_in_elsewhere_is_not_ours() {
    let node = Node::new();
    for ifindex in [0, NIC_IFINDEX, WEB.ifindex] {
        for packet in packets(FOREIGN, REMOTE) {
            let packet = packet.leaving();
            node.to_uplink_from(ifindex, &packet)
                .passes(Reason::NotOurs, &packet, &[]);
        }
    }
}

#[test]
fn pods_and_the_node_are_known() {
    let node = Node::new();
    let sent = udp((WEB.address, KEPT), (REMOTE, 53)).leaving();
    let run = node.to_uplink_from(BRIDGE_IFINDEX, &sent);
    assert_eq!(run.outcome().1, [(Reason::FlowCreated, 1)]);
    let sent = udp((NODE, KEPT), (REMOTE, 53)).leaving();
    node.to_uplink_from(BRIDGE_IFINDEX, &sent)
        .passes(Reason::NotOurs, &sent, &[]);
}
