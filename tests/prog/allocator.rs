//! Ports when they are scarce: which one is next, when one may change hands, and what happens when
//! there is none. What must be unique is the tuple that replies carry.

use std::net::Ipv4Addr;

use azure_vnet_abi::{Be16, Reason};

use crate::flows::{Change, Tuple, masqueraded, outgoing, replies};
use crate::harness::Node;
use crate::packet::{ACK, FIN, Packet, RST, SYN, echo, tcp, udp};
use crate::plan::{DATABASE, KEPT, NODE, OTHER_REMOTE, PORTS, Pod, REMOTE, WEB};

pub const REMOTE_END: (Ipv4Addr, u16) = (REMOTE, 53);

/// A packet of the pod's to [`REMOTE_END`], and its tuple.
pub fn datagram(pod: &Pod, port: u16) -> (Packet, Tuple) {
    let local = (pod.address, port);
    (
        udp(local, REMOTE_END).of(pod),
        Tuple::udp(local, REMOTE_END),
    )
}

/// The keys of both entries.
fn halves(tuple: Tuple, port: u16) -> [Tuple; 2] {
    [tuple, tuple.sent_from(NODE, port).reversed()]
}

/// The packet begins a flow that leaves from `port`.
#[track_caller]
pub fn gets(node: &Node, (packet, tuple): (Packet, Tuple), pod: &Pod, port: u16) {
    let left = packet.clone().leaving().source((NODE, port));
    node.to_uplink(&packet)
        .passes(Reason::FlowCreated, &left, &masqueraded(tuple, pod, port));
}

/// The flow of this [`datagram`], which kept its `port`, goes on in both directions.
#[track_caller]
pub fn goes_on(node: &Node, packet: &Packet, pod: &Pod, port: u16) {
    let left = packet.clone().leaving().source((NODE, port));
    node.to_uplink(packet)
        .passes(Reason::Masqueraded, &left, &[]);
    node.from_uplink(&udp(REMOTE_END, (NODE, port))).passes(
        Reason::Unmasqueraded,
        &udp(REMOTE_END, (pod.address, port)),
        &[],
    );
}

/// As `gets`, but from the flow `old` of `old_pod`, of which nothing stays.
#[track_caller]
fn takes_over(node: &Node, (packet, tuple): (Packet, Tuple), pod: &Pod, port: u16, old: Tuple) {
    let left = packet.clone().leaving().source((NODE, port));
    node.to_uplink(&packet).passes(
        Reason::FlowCreated,
        &left,
        &[
            Change::Removed(old),
            Change::added(outgoing(tuple, pod, port)),
            Change::changed(replies(tuple, pod, port)),
        ],
    );
}

#[test]
fn a_taken_port_gives_way_to_the_next() {
    let node = Node::new();
    gets(&node, datagram(&WEB, KEPT), &WEB, KEPT);
    gets(&node, datagram(&WEB, KEPT + 1), &WEB, KEPT + 1);
    gets(&node, datagram(&DATABASE, KEPT), &DATABASE, KEPT + 2);
    gets(&node, datagram(&DATABASE, KEPT + 2), &DATABASE, KEPT + 3);
}

#[test]
fn after_the_last_port_comes_the_first() {
    let node = Node::new();
    let (first, last) = (*PORTS.start(), *PORTS.end());
    gets(&node, datagram(&WEB, last), &WEB, last);
    gets(&node, datagram(&DATABASE, last), &DATABASE, first);
}

#[test]
fn the_last_port_of_all_may_be_in_the_range() {
    let node = Node::with_ports(0xffff..=0xffff);
    gets(&node, datagram(&WEB, 0xffff), &WEB, 0xffff);
    let (packet, _) = datagram(&DATABASE, 0xffff);
    node.to_uplink(&packet).finds_no_port(&packet, &DATABASE);
}

#[test]
fn without_a_free_port_nothing_leaves() {
    let node = Node::with_ports(50_000..=50_003);
    // From outside the range, so that the order in which they are taken is nobody's business.
    let taken: Vec<u16> = (1..=4)
        .map(|port| {
            let (packet, tuple) = datagram(&WEB, port);
            let _ = node.to_uplink(&packet);
            node.flow(tuple).port.to_host()
        })
        .collect();
    for port in 50_000..=50_003 {
        assert!(taken.contains(&port), "{port} is not among {taken:?}");
    }
    for (pod, port) in [(WEB, 5), (WEB, 50_000), (DATABASE, 5), (DATABASE, 50_003)] {
        let (packet, _) = datagram(&pod, port);
        node.to_uplink(&packet).finds_no_port(&packet, &pod);
    }
}

#[test]
fn exhaustion_is_of_one_destination_and_protocol() {
    let node = Node::with_ports(KEPT..=KEPT);
    let local = (DATABASE.address, KEPT);
    gets(&node, datagram(&WEB, KEPT), &WEB, KEPT);
    for (packet, tuple) in [
        (udp(local, (REMOTE, 54)), Tuple::udp(local, (REMOTE, 54))),
        (
            udp(local, (OTHER_REMOTE, 53)),
            Tuple::udp(local, (OTHER_REMOTE, 53)),
        ),
        (tcp(local, REMOTE_END, SYN), Tuple::tcp(local, REMOTE_END)),
        (echo(local, REMOTE), Tuple::echo(local, REMOTE)),
    ] {
        gets(&node, (packet.of(&DATABASE), tuple), &DATABASE, KEPT);
    }
    let (packet, _) = datagram(&DATABASE, KEPT);
    node.to_uplink(&packet).finds_no_port(&packet, &DATABASE);
}

mod over {
    use super::*;

    /// A node with one port, which a flow of `WEB` has.
    fn full() -> (Node, Tuple) {
        let node = Node::with_ports(KEPT..=KEPT);
        let (packet, tuple) = datagram(&WEB, KEPT);
        gets(&node, (packet, tuple), &WEB, KEPT);
        (node, tuple)
    }

    #[test]
    fn a_port_changes_hands_when_both_directions_are() {
        let (mut node, old) = full();
        for half in halves(old, KEPT) {
            node.time_out(half);
        }
        takes_over(&node, datagram(&DATABASE, KEPT), &DATABASE, KEPT, old);

        let reply = udp(REMOTE_END, (NODE, KEPT));
        let entered = udp(REMOTE_END, (DATABASE.address, KEPT));
        node.from_uplink(&reply)
            .passes(Reason::Unmasqueraded, &entered, &[]);
        // Its old holder has none now.
        let (packet, _) = datagram(&WEB, KEPT);
        node.to_uplink(&packet).finds_no_port(&packet, &WEB);
    }

    #[test]
    fn it_does_not_when_only_one_is() {
        for half in [0, 1] {
            let (mut node, old) = full();
            node.time_out(halves(old, KEPT)[half]);
            node.nearly_time_out(halves(old, KEPT)[1 - half]);
            let (packet, _) = datagram(&DATABASE, KEPT);
            node.to_uplink(&packet).finds_no_port(&packet, &DATABASE);
        }
    }

    #[test]
    fn a_packet_of_either_direction_keeps_the_port() {
        let request = datagram(&WEB, KEPT).0;
        let reply = udp(REMOTE_END, (NODE, KEPT));
        for keep in [
            |node: &Node, request: &Packet, _: &Packet| node.to_uplink(request),
            |node: &Node, _: &Packet, reply: &Packet| node.from_uplink(reply),
        ] {
            let (mut node, old) = full();
            for half in halves(old, KEPT) {
                node.time_out(half);
            }
            let _ = keep(&node, &request, &reply);
            let (packet, _) = datagram(&DATABASE, KEPT);
            node.to_uplink(&packet).finds_no_port(&packet, &DATABASE);
        }
    }

    /// The clock goes on while a packet is looked at, and other CPUs see packets meanwhile.
    #[test]
    fn it_does_not_when_a_packet_comes_at_that_moment() {
        for half in [0, 1] {
            let (mut node, old) = full();
            node.age(halves(old, KEPT)[half], 100_u32.wrapping_neg());
            node.time_out(halves(old, KEPT)[1 - half]);
            let (packet, _) = datagram(&DATABASE, KEPT);
            node.to_uplink(&packet).finds_no_port(&packet, &DATABASE);
        }
    }

    #[test]
    fn a_reply_entry_without_a_partner_is_over_by_itself() {
        let (mut node, old) = full();
        let [out, back] = halves(old, KEPT);
        node.remove_flow(out);
        node.time_out(back);
        let (packet, tuple) = datagram(&DATABASE, KEPT);
        let left = packet.clone().leaving().source((NODE, KEPT));
        node.to_uplink(&packet).passes(
            Reason::FlowCreated,
            &left,
            &[
                Change::added(outgoing(tuple, &DATABASE, KEPT)),
                Change::changed(replies(tuple, &DATABASE, KEPT)),
            ],
        );
    }

    /// The pod has another flow with the same tuple now; it lives, and is left alone.
    #[test]
    fn a_stranger_with_the_partners_key_is_no_partner() {
        let (mut node, old) = full();
        let [out, back] = halves(old, KEPT);
        let mut stranger = node.flow(out);
        stranger.port = Be16::from_host(1);
        node.set_flow(out, stranger);
        node.time_out(back);
        let (packet, tuple) = datagram(&DATABASE, KEPT);
        let left = packet.clone().leaving().source((NODE, KEPT));
        node.to_uplink(&packet).passes(
            Reason::FlowCreated,
            &left,
            &[
                Change::added(outgoing(tuple, &DATABASE, KEPT)),
                Change::changed(replies(tuple, &DATABASE, KEPT)),
            ],
        );
        assert_eq!(node.flow(out), stranger);
    }

    #[test]
    fn free_ports_come_first() {
        let mut node = Node::with_ports(50_000..=50_001);
        let (packet, old) = datagram(&WEB, 50_000);
        gets(&node, (packet, old), &WEB, 50_000);
        for half in halves(old, 50_000) {
            node.time_out(half);
        }
        let (packet, tuple) = datagram(&DATABASE, 50_000);
        let left = packet.clone().leaving().source((NODE, 50_001));
        let [out, back] = halves(old, 50_000);
        let mut changes = masqueraded(tuple, &DATABASE, 50_001).to_vec();
        // And whoever begins a flow forgets one that is over.
        changes.extend([Change::Removed(out), Change::Removed(back)]);
        node.to_uplink(&packet)
            .passes(Reason::FlowCreated, &left, &changes);
    }

    /// The remote may be in `TIME_WAIT`, or has not heard of the end yet.
    #[test]
    fn a_closed_connection_keeps_its_port_for_a_while() {
        for flags in [FIN | ACK, RST] {
            let mut node = Node::with_ports(KEPT..=KEPT);
            let segment = |pod: &Pod, flags| tcp((pod.address, KEPT), REMOTE_END, flags).of(pod);
            let tuple = |pod: &Pod| Tuple::tcp((pod.address, KEPT), REMOTE_END);
            gets(&node, (segment(&WEB, SYN), tuple(&WEB)), &WEB, KEPT);
            let _ = node.to_uplink(&segment(&WEB, flags));
            for half in halves(tuple(&WEB), KEPT) {
                node.nearly_time_out(half);
            }
            let syn = segment(&DATABASE, SYN);
            node.to_uplink(&syn).finds_no_port(&syn, &DATABASE);
            for half in halves(tuple(&WEB), KEPT) {
                node.time_out(half);
            }
            let new = (segment(&DATABASE, SYN), tuple(&DATABASE));
            takes_over(&node, new, &DATABASE, KEPT, tuple(&WEB));
        }
    }
}

mod full_table {
    use super::*;

    /// Two entries or none: with room for one, that one is given back.
    #[test]
    fn no_flow_begins_and_nothing_is_left_behind() {
        for entries in [1, 2, 3] {
            let node = Node::with_flow_table(entries);
            if entries >= 2 {
                gets(&node, datagram(&WEB, KEPT), &WEB, KEPT);
            }
            for port in [KEPT, KEPT + 1, 1] {
                let (packet, _) = datagram(&DATABASE, port);
                node.to_uplink(&packet).drops(Reason::FlowTableFull, &[]);
            }
        }
    }

    #[test]
    fn known_flows_go_on() {
        let node = Node::with_flow_table(2);
        let (packet, tuple) = datagram(&WEB, KEPT);
        gets(&node, (packet.clone(), tuple), &WEB, KEPT);
        let _ = node.to_uplink(&datagram(&DATABASE, KEPT).0);
        goes_on(&node, &packet, &WEB, KEPT);
    }
}
