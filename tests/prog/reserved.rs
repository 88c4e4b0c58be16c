//! Ports of the range that the node needs itself: no new flow gets one, whichever way it comes to a port, and flows that have one go
//! on.

use azure_vnet_abi::Reason;

use crate::allocator::{REMOTE_END, datagram, gets};
use crate::flows::Tuple;
use crate::harness::Node;
use crate::packet::{SYN, echo, tcp, udp};
use crate::plan::{DATABASE, KEPT, NODE, PORTS, Pod, REMOTE, WEB};

/// Packets that look at all of [`PORTS`] between them.
const PACKETS: usize = 4;

#[track_caller]
fn finds_none(node: &Node, pod: &Pod, port: u16) {
    let (packet, _) = datagram(pod, port);
    node.to_uplink(&packet).finds_no_port(&packet, pod);
}

#[test]
fn a_pods_own_port_is_not_kept_where_it_is_reserved() {
    let mut node = Node::new();
    node.set_reserved([KEPT, KEPT + 2]);
    let local = (WEB.address, KEPT);
    for (packet, tuple) in [
        datagram(&WEB, KEPT),
        (
            tcp(local, REMOTE_END, SYN).of(&WEB),
            Tuple::tcp(local, REMOTE_END),
        ),
        (echo(local, REMOTE).of(&WEB), Tuple::echo(local, REMOTE)),
    ] {
        gets(&node, (packet, tuple), &WEB, KEPT + 1);
    }
    gets(&node, datagram(&DATABASE, KEPT), &DATABASE, KEPT + 3);
}

#[test]
fn neighbours_are_not_meant() {
    for port in [1024, 50_047, 50_048, 50_111, 50_112, 0xffff] {
        let mut node = Node::with_ports(port..=port);
        node.set_reserved([port.wrapping_sub(1), port.wrapping_add(1), port ^ 64]);
        gets(&node, datagram(&WEB, port), &WEB, port);
        let mut node = Node::with_ports(port..=port);
        node.set_reserved([port]);
        finds_none(&node, &WEB, port);
        finds_none(&node, &WEB, 1);
    }
}

/// "No port" is true: what is neither reserved nor in use is found, and after that there is none.
#[test]
fn the_ports_between_are_found_to_the_last() {
    let mut node = Node::with_ports(50_000..=50_099);
    let free = [50_007, 50_042, 50_099];
    node.set_reserved((50_000..=50_099).filter(|port| !free.contains(port)));
    let mut taken: Vec<u16> = (1..=3)
        .map(|port| {
            let (packet, tuple) = datagram(&WEB, port);
            let _ = node.to_uplink(&packet);
            node.flow(tuple).port.to_host()
        })
        .collect();
    taken.sort_unstable();
    assert_eq!(taken, free);
    finds_none(&node, &DATABASE, 1);
    finds_none(&node, &DATABASE, 50_042);
}

/// More than one packet looks at; and no longer than they are reserved.
#[test]
fn where_all_are_reserved_there_is_none() {
    let mut node = Node::new();
    node.set_reserved(PORTS);
    for packet in 1..=PACKETS + 2 {
        let is_known = packet >= PACKETS;
        let (sent, _) = datagram(&WEB, KEPT);
        let run = node.to_uplink(&sent);
        if is_known {
            run.finds_no_port(&sent, &WEB);
        } else {
            run.drops(Reason::PortSearchGoesOn, &[]);
        }
    }
    node.set_reserved(PORTS.filter(|port| *port != KEPT + 1));
    gets(&node, datagram(&WEB, KEPT), &WEB, KEPT + 1);
}

#[test]
fn a_flow_that_has_one_goes_on_and_leaves_it_to_nobody() {
    let mut node = Node::with_ports(KEPT..=KEPT);
    let (packet, tuple) = datagram(&WEB, KEPT);
    gets(&node, (packet.clone(), tuple), &WEB, KEPT);
    node.set_reserved([KEPT]);
    let left = packet.clone().leaving().source((NODE, KEPT));
    node.to_uplink(&packet)
        .passes(Reason::Masqueraded, &left, &[]);
    let entered = udp(REMOTE_END, (WEB.address, KEPT));
    node.from_uplink(&udp(REMOTE_END, (NODE, KEPT)))
        .passes(Reason::Unmasqueraded, &entered, &[]);

    for half in [tuple, tuple.sent_from(NODE, KEPT).reversed()] {
        node.time_out(half);
    }
    // It is swept away, and its port stays where it is.
    let (packet, _) = datagram(&DATABASE, KEPT);
    let run = node.to_uplink(&packet);
    assert_eq!(run.outcome().1, [(Reason::NoPortFound, 1)]);
    assert!(node.flows().is_empty());
    finds_none(&node, &DATABASE, KEPT);
}
