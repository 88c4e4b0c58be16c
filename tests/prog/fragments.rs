//! IP fragments: the first has the ports, the others go its way, and one whose first nobody saw does
//! not leave with the pod's address.

use std::net::Ipv4Addr;

use azure_vnet_abi::{Fragment, Reason};

use crate::flows::{Change, Tuple, inbound, masqueraded};
use crate::harness::Node;
use crate::packet::{FIRST, LATER, Packet, TCP, UDP, echo, later_fragment, udp};
use crate::plan::{DATABASE, HZ, KEPT, NODE, OTHER_REMOTE, PEER, REMOTE, WEB};

const LOCAL: (Ipv4Addr, u16) = (WEB.address, KEPT);
const REMOTE_END: (Ipv4Addr, u16) = (REMOTE, 53);

/// The fragments behind the first, of which one is in the middle and one is the last.
fn later(source: Ipv4Addr, destination: Ipv4Addr) -> [Packet; 2] {
    [FIRST | LATER, 2 * LATER].map(|field| later_fragment(UDP, source, destination).fragment(field))
}

/// A node that has seen the first fragment of a masqueraded datagram leave.
fn first_has_left() -> Node {
    let node = Node::new();
    node.to_uplink(&udp(LOCAL, REMOTE_END).fragment(FIRST).of(&WEB))
        .passes(
            Reason::FlowCreated,
            &udp((NODE, KEPT), REMOTE_END).fragment(FIRST).leaving(),
            &masqueraded(Tuple::udp(LOCAL, REMOTE_END), &WEB, KEPT),
        );
    node
}

mod out {
    use super::*;

    #[test]
    fn the_others_follow_the_first() {
        let node = first_has_left();
        for (sent, left) in later(WEB.address, REMOTE)
            .into_iter()
            .zip(later(NODE, REMOTE))
        {
            node.to_uplink(&sent.of(&WEB))
                .passes(Reason::Masqueraded, &left.leaving(), &[]);
        }
    }

    #[test]
    fn so_do_those_of_a_ping() {
        let node = Node::new();
        let local = (WEB.address, KEPT);
        node.to_uplink(&echo(local, REMOTE).fragment(FIRST).of(&WEB))
            .passes(
                Reason::FlowCreated,
                &echo((NODE, KEPT), REMOTE).fragment(FIRST).leaving(),
                &masqueraded(Tuple::echo(local, REMOTE), &WEB, KEPT),
            );
        node.to_uplink(&later_fragment(1, WEB.address, REMOTE).of(&WEB))
            .passes(
                Reason::Masqueraded,
                &later_fragment(1, NODE, REMOTE).leaving(),
                &[],
            );
    }

    #[test]
    fn those_of_another_packet_do_not() {
        let node = first_has_left();
        for stranger in [
            later_fragment(UDP, WEB.address, REMOTE).identification(0x1235),
            later_fragment(TCP, WEB.address, REMOTE),
            later_fragment(UDP, WEB.address, OTHER_REMOTE),
            later_fragment(UDP, DATABASE.address, REMOTE),
        ] {
            node.to_uplink(&stranger.of(&WEB))
                .drops(Reason::Fragment, &[]);
        }
    }

    /// An identification comes around again.
    #[test]
    fn nor_those_that_come_too_late() {
        let mut node = first_has_left();
        node.age_fragments((Fragment::LIFETIME + 1) * HZ);
        node.to_uplink(&later_fragment(UDP, WEB.address, REMOTE).of(&WEB))
            .drops(Reason::Fragment, &[]);
    }

    #[test]
    fn nor_those_that_come_before_their_first() {
        let node = Node::new();
        for fragment in later(WEB.address, REMOTE) {
            node.to_uplink(&fragment.of(&WEB))
                .drops(Reason::Fragment, &[]);
        }
    }

    #[test]
    fn a_packet_that_is_whole_has_no_others() {
        let node = Node::new();
        let _ = node.to_uplink(&udp(LOCAL, REMOTE_END).of(&WEB));
        node.to_uplink(&later_fragment(UDP, WEB.address, REMOTE).of(&WEB))
            .drops(Reason::Fragment, &[]);
    }

    #[test]
    fn inside_the_ranges_all_leave_as_the_pod() {
        let node = Node::new();
        for fragment in later(WEB.address, PEER) {
            let left = fragment.clone().leaving();
            node.to_uplink(&fragment.of(&WEB))
                .passes(Reason::InRange, &left, &[]);
        }
    }
}

mod back {
    use super::*;

    /// A node that has seen the first fragment of a reply come in.
    fn first_has_come() -> Node {
        let node = first_has_left();
        node.from_uplink(&udp(REMOTE_END, (NODE, KEPT)).fragment(FIRST))
            .passes(
                Reason::Unmasqueraded,
                &udp(REMOTE_END, LOCAL).fragment(FIRST),
                &[],
            );
        node
    }

    #[test]
    fn the_others_follow_the_first() {
        let node = first_has_come();
        for (came, entered) in later(REMOTE, NODE)
            .into_iter()
            .zip(later(REMOTE, WEB.address))
        {
            node.from_uplink(&came)
                .passes(Reason::Unmasqueraded, &entered, &[]);
        }
    }

    #[test]
    fn all_else_is_the_nodes() {
        let mut node = first_has_come();
        for stranger in [
            later_fragment(UDP, REMOTE, NODE).identification(0x1235),
            later_fragment(TCP, REMOTE, NODE),
            later_fragment(UDP, OTHER_REMOTE, NODE),
        ] {
            node.from_uplink(&stranger)
                .passes(Reason::NotOurs, &stranger, &[]);
        }
        node.age_fragments((Fragment::LIFETIME + 1) * HZ);
        let late = later_fragment(UDP, REMOTE, NODE);
        node.from_uplink(&late).passes(Reason::NotOurs, &late, &[]);
    }
}

/// The pod's fragmented answer to a flow that came in.
mod reply {
    use super::*;

    /// A node that has seen the first fragment of such an answer leave.
    fn first_has_left() -> Node {
        let node = Node::new();
        let came = udp(REMOTE_END, LOCAL);
        node.from_uplink(&came).passes(
            Reason::InboundRecorded,
            &came,
            &[Change::added(inbound(Tuple::udp(LOCAL, REMOTE_END), &WEB))],
        );
        let reply = udp(LOCAL, REMOTE_END).fragment(FIRST).of(&WEB);
        node.to_uplink(&reply)
            .passes(Reason::InboundReply, &reply.clone().leaving(), &[]);
        node
    }

    #[test]
    fn the_others_follow_the_first() {
        let node = first_has_left();
        for fragment in later(WEB.address, REMOTE) {
            let left = fragment.clone().leaving();
            node.to_uplink(&fragment.of(&WEB))
                .passes(Reason::InboundReply, &left, &[]);
        }
    }

    #[test]
    fn those_of_another_packet_do_not() {
        let node = first_has_left();
        for stranger in [
            later_fragment(UDP, WEB.address, REMOTE).identification(0x1235),
            later_fragment(UDP, WEB.address, OTHER_REMOTE),
        ] {
            node.to_uplink(&stranger.of(&WEB))
                .drops(Reason::Fragment, &[]);
        }
    }
}

#[test]
fn a_request_in_fragments_is_recorded_by_its_first() {
    let node = Node::new();
    let first = udp(REMOTE_END, LOCAL).fragment(FIRST);
    node.from_uplink(&first).passes(
        Reason::InboundRecorded,
        &first,
        &[Change::added(inbound(Tuple::udp(LOCAL, REMOTE_END), &WEB))],
    );
    for fragment in later(REMOTE, WEB.address) {
        node.from_uplink(&fragment)
            .passes(Reason::ToPod, &fragment, &[]);
    }
}
