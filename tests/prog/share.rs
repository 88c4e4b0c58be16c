//! No pod has more of the flow table than its share. That what is counted is what there is, is looked at after every packet of all of
//! these tests (`Node::observe`).

use std::net::Ipv4Addr;

use azure_vnet_abi::Reason;

use crate::allocator::{datagram, gets, goes_on};
use crate::flows::{Change, Tuple, inbound, masqueraded};
use crate::harness::Node;
use crate::packet::{ACK, SYN, tcp};
use crate::plan::{DATABASE, KEPT, NODE, Pod, REMOTE, WEB};

const CLIENT: (Ipv4Addr, u16) = (REMOTE, 54321);
const SERVICE: (Ipv4Addr, u16) = (WEB.address, 8080);

#[track_caller]
fn begins(node: &Node, pod: &Pod, port: u16) {
    gets(node, datagram(pod, port), pod, port);
}

#[track_caller]
fn is_refused(node: &Node, pod: &Pod, port: u16) {
    let (packet, _) = datagram(pod, port);
    node.to_uplink(&packet).drops(Reason::PodFlowLimit, &[]);
}

fn with_limit(flows: u32) -> Node {
    let mut node = Node::new();
    node.set_flows_per_pod(flows);
    node
}

#[test]
fn a_pod_that_has_its_share_gets_no_more_and_others_do() {
    let node = with_limit(2);
    begins(&node, &WEB, KEPT);
    begins(&node, &WEB, KEPT + 1);
    for port in [KEPT + 2, 1, KEPT + 2] {
        is_refused(&node, &WEB, port);
    }
    begins(&node, &DATABASE, KEPT + 2);
    begins(&node, &DATABASE, KEPT + 3);
    is_refused(&node, &DATABASE, KEPT + 4);
}

#[test]
fn the_flows_that_it_has_go_on() {
    let node = with_limit(1);
    begins(&node, &WEB, KEPT);
    is_refused(&node, &WEB, KEPT + 1);
    goes_on(&node, &datagram(&WEB, KEPT).0, &WEB, KEPT);
}

/// The packet that would be refused looks at old flows first.
#[test]
fn a_flow_that_is_over_makes_room() {
    let mut node = with_limit(1);
    begins(&node, &WEB, KEPT);
    let (_, old) = datagram(&WEB, KEPT);
    let halves = [old, old.sent_from(NODE, KEPT).reversed()];
    for half in halves {
        node.time_out(half);
    }
    let (packet, tuple) = datagram(&WEB, KEPT + 1);
    let left = packet.clone().leaving().source((NODE, KEPT + 1));
    let mut changes = masqueraded(tuple, &WEB, KEPT + 1).to_vec();
    changes.extend(halves.map(Change::Removed));
    node.to_uplink(&packet)
        .passes(Reason::FlowCreated, &left, &changes);
}

/// What comes in is not kept out by it: the pod hears of it, and cannot answer.
#[test]
fn flows_from_outside_are_a_part_of_it() {
    let node = with_limit(1);
    let connect = |port| tcp((CLIENT.0, port), SERVICE, SYN);
    let answer = |port| tcp(SERVICE, (CLIENT.0, port), SYN | ACK).of(&WEB);
    let first = Tuple::tcp(SERVICE, CLIENT);
    node.from_uplink(&connect(CLIENT.1)).passes(
        Reason::InboundRecorded,
        &connect(CLIENT.1),
        &[Change::added(inbound(first, &WEB))],
    );
    let _ = node.to_uplink(&answer(CLIENT.1));
    let _ = node.from_uplink(&tcp(CLIENT, SERVICE, ACK));
    let other = CLIENT.1 + 1;
    node.from_uplink(&connect(other))
        .passes(Reason::ToPod, &connect(other), &[]);
    node.to_uplink(&answer(other))
        .drops(Reason::PodFlowLimit, &[]);
    is_refused(&node, &WEB, KEPT);
    let more = tcp(SERVICE, CLIENT, ACK).of(&WEB);
    node.to_uplink(&more)
        .passes(Reason::InboundReply, &more.clone().leaving(), &[]);
}

/// An earlier pod's flow ended after the address was given to another: that one has room for one more, not for none.
#[test]
fn a_count_below_zero_is_room() {
    let mut node = with_limit(1);
    node.set_share(&WEB, -1);
    begins(&node, &WEB, KEPT);
    begins(&node, &WEB, KEPT + 1);
    is_refused(&node, &WEB, KEPT + 2);
}
