//! ICMP errors both ways (RFC 5508, section 4): they quote the packet they are about as the other
//! side saw it, and who gets one has to know the packet again.

use std::net::Ipv4Addr;

use azure_vnet_abi::Reason;

use crate::flows::Tuple;
use crate::harness::Node;
use crate::packet::{ACK, End, Packet, SYN, echo, echo_reply, icmp_error, tcp, timestamp, udp};
use crate::plan::{KEPT, NODE, OTHER_REMOTE, PEER, REMOTE, REPLACED, WEB, WIRESERVER};

const UNREACHABLE: u8 = 3;
/// Unreachable (also "fragmentation needed"), time exceeded, parameter problem.
const KINDS: [u8; 3] = [UNREACHABLE, 11, 12];
/// A router on the way, outside the ranges.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

const SERVICE: End = (WEB.address, 8080);
const CLIENT: End = (REMOTE, 54321);

/// How much is quoted: RFC 792's least, TCP's header up to its checksum and behind it, everything.
const QUOTED: [usize; 5] = [28, 36, 38, 40, 1500];

/// One kind of flow: a packet of it from one end to another, and the key of that.
type Kind = (fn(End, End) -> Packet, fn(End, End) -> Tuple);

const REQUESTS: [Kind; 4] = [
    (|from, to| tcp(from, to, SYN), Tuple::tcp),
    (udp, Tuple::udp),
    (|from, to| udp(from, to).without_checksum(), Tuple::udp),
    (
        |from, to| echo(from, to.0),
        |from, to| Tuple::echo(from, to.0),
    ),
];

/// Begins a masqueraded flow; returns what it is masqueraded as.
fn masquerade(node: &Node, (request, tuple): Kind, local: End, remote: End) -> End {
    let _ = node.to_uplink(&request(local, remote).of(&WEB));
    (NODE, node.flow(tuple(local, remote)).port.to_host())
}

mod to_the_pod {
    use super::*;

    #[test]
    fn an_error_about_its_packet_quotes_what_it_sent() {
        for port in [KEPT, REPLACED] {
            let node = Node::new();
            let (local, remote) = ((WEB.address, port), (REMOTE, 443));
            for kind @ (request, _) in REQUESTS {
                let public = masquerade(&node, kind, local, remote);
                for (reporter, error) in [(ROUTER, 11), (REMOTE, 3), (PEER, 12)] {
                    for quoted in QUOTED {
                        let about =
                            |packet: Packet, to| icmp_error(error, reporter, to, &packet, quoted);
                        let came = about(request(public, remote), NODE);
                        let entered = about(request(local, remote), WEB.address);
                        node.from_uplink(&came)
                            .passes(Reason::IcmpErrorIn, &entered, &[]);
                    }
                }
            }
        }
    }

    #[test]
    fn ip_options_are_no_obstacle() {
        let node = Node::new();
        let (local, remote) = ((WEB.address, KEPT), (REMOTE, 443));
        for kind @ (request, _) in REQUESTS {
            let public = masquerade(&node, kind, local, remote);
            for (outer, inner) in [(4, 0), (0, 4), (40, 40)] {
                let options = |length: usize| vec![1; length];
                let about = |from, to| {
                    let cause = request(from, remote).options(&options(inner));
                    icmp_error(11, ROUTER, to, &cause, 28 + inner).options(&options(outer))
                };
                let entered = about(local, WEB.address);
                node.from_uplink(&about(public, NODE))
                    .passes(Reason::IcmpErrorIn, &entered, &[]);
            }
        }
    }

    /// RFC 768 once more: 0 in the place of the checksum says that there is none.
    #[test]
    fn a_quoted_udp_checksum_that_becomes_zero_is_written_as_ones() {
        let node = Node::new();
        let (local, remote) = ((WEB.address, KEPT), (REMOTE, 53));
        let public = masquerade(&node, REQUESTS[1], local, remote);
        let empty = udp(local, remote).payload(&[0, 0]).bytes();
        let payload = &empty[40..42];
        let sent = udp(local, remote).payload(payload);
        assert_eq!(sent.bytes()[40..42], [0xff, 0xff]);

        let left = udp(public, remote).payload(payload);
        let came = icmp_error(UNREACHABLE, ROUTER, NODE, &left, 1500);
        let entered = icmp_error(UNREACHABLE, ROUTER, WEB.address, &sent, 1500);
        node.from_uplink(&came)
            .passes(Reason::IcmpErrorIn, &entered, &[]);
    }

    #[test]
    fn an_error_about_no_flow_is_the_nodes() {
        let node = Node::new();
        let (local, remote) = ((WEB.address, KEPT), (REMOTE, 443));
        let public = masquerade(&node, REQUESTS[1], local, remote);
        for cause in [
            udp((NODE, KEPT + 1), remote),
            udp(public, (REMOTE, 444)),
            udp(public, (OTHER_REMOTE, 443)),
            tcp(public, remote, ACK),
            // As it never left the node.
            udp(local, remote),
            // A reply that came in is not what the node sent.
            udp(remote, public),
        ] {
            let came = icmp_error(UNREACHABLE, ROUTER, NODE, &cause, 28);
            node.from_uplink(&came).passes(Reason::NotOurs, &came, &[]);
        }
    }

    #[test]
    fn a_quotation_without_ports_is_the_nodes() {
        let node = Node::new();
        let (local, remote) = ((WEB.address, KEPT), (REMOTE, 443));
        let public = masquerade(&node, REQUESTS[1], local, remote);
        for quoted in 0..28 {
            let came = icmp_error(UNREACHABLE, ROUTER, NODE, &udp(public, remote), quoted);
            node.from_uplink(&came).passes(Reason::NotOurs, &came, &[]);
        }
    }

    #[test]
    fn what_is_padded_behind_a_short_quotation_is_not_read() {
        let node = Node::new();
        let (local, remote) = ((WEB.address, KEPT), (REMOTE, 443));
        let public = masquerade(&node, REQUESTS[1], local, remote);
        let came = icmp_error(UNREACHABLE, ROUTER, NODE, &udp(public, remote), 27).padded(30);
        node.from_uplink(&came).passes(Reason::NotOurs, &came, &[]);
    }

    /// To its own address: nothing was translated, so nothing is.
    #[test]
    fn an_error_about_its_reply_gets_its_mac() {
        let node = Node::new();
        let _ = node.from_uplink(&udp(CLIENT, SERVICE));
        let came = icmp_error(UNREACHABLE, ROUTER, WEB.address, &udp(SERVICE, CLIENT), 28);
        node.from_uplink(&came).passes(Reason::ToPod, &came, &[]);
    }
}

mod from_the_pod {
    use super::*;

    /// What comes back in a masqueraded flow, by `REQUESTS`.
    pub const REPLIES: [fn(End, End) -> Packet; 4] = [
        |from, to| tcp(from, to, SYN | ACK),
        udp,
        |from, to| udp(from, to).without_checksum(),
        |from, to| echo_reply(from.0, to),
    ];

    #[test]
    fn an_error_about_a_reply_quotes_what_the_remote_sent() {
        for port in [KEPT, REPLACED] {
            let node = Node::new();
            let (local, remote) = ((WEB.address, port), (REMOTE, 443));
            for (kind, reply) in REQUESTS.into_iter().zip(REPLIES) {
                let public = masquerade(&node, kind, local, remote);
                for error in KINDS {
                    for quoted in QUOTED {
                        let about =
                            |packet: Packet, from| icmp_error(error, from, REMOTE, &packet, quoted);
                        let sent = about(reply(remote, local), WEB.address).of(&WEB);
                        let left = about(reply(remote, public), NODE).leaving();
                        node.to_uplink(&sent)
                            .passes(Reason::IcmpErrorOut, &left, &[]);
                    }
                }
            }
        }
    }

    #[test]
    fn an_error_about_a_packet_that_came_in_leaves_as_the_pod() {
        let node = Node::new();
        let came = udp(CLIENT, SERVICE);
        let _ = node.from_uplink(&came);
        for error in KINDS {
            let sent = icmp_error(error, WEB.address, REMOTE, &came, 28).of(&WEB);
            node.to_uplink(&sent)
                .passes(Reason::IcmpErrorOut, &sent.clone().leaving(), &[]);
        }
    }

    /// Only who sent the packet may learn that the pod has this address.
    #[test]
    fn but_only_to_whom_it_came_from() {
        let node = Node::new();
        let came = udp(CLIENT, SERVICE);
        let _ = node.from_uplink(&came);
        let _ = masquerade(&node, REQUESTS[1], (WEB.address, KEPT), CLIENT);
        for cause in [came, udp(CLIENT, (WEB.address, KEPT))] {
            let sent = icmp_error(UNREACHABLE, WEB.address, OTHER_REMOTE, &cause, 28).of(&WEB);
            node.to_uplink(&sent).drops(Reason::Malformed, &[]);
        }
    }

    #[test]
    fn and_not_when_that_flow_is_over() {
        let mut node = Node::new();
        let came = udp(CLIENT, SERVICE);
        let _ = node.from_uplink(&came);
        node.time_out(Tuple::udp(SERVICE, CLIENT));
        let sent = icmp_error(UNREACHABLE, WEB.address, REMOTE, &came, 28).of(&WEB);
        node.to_uplink(&sent)
            .drops(Reason::UnsupportedProtocol, &[]);
    }

    #[test]
    fn an_error_about_no_flow_does_not_leave() {
        let node = Node::new();
        let _ = node.from_uplink(&udp(CLIENT, SERVICE));
        for cause in [
            udp((REMOTE, 54322), SERVICE),
            udp(CLIENT, (WEB.address, 8081)),
            tcp(CLIENT, SERVICE, SYN),
        ] {
            let sent = icmp_error(UNREACHABLE, WEB.address, REMOTE, &cause, 28).of(&WEB);
            node.to_uplink(&sent)
                .drops(Reason::UnsupportedProtocol, &[]);
        }
    }

    #[test]
    fn nor_one_about_a_packet_that_the_pod_did_not_get() {
        let node = Node::new();
        let _ = node.from_uplink(&udp(CLIENT, SERVICE));
        for cause in [udp(SERVICE, CLIENT), udp(CLIENT, (NODE, SERVICE.1))] {
            let sent = icmp_error(UNREACHABLE, WEB.address, REMOTE, &cause, 28).of(&WEB);
            node.to_uplink(&sent).drops(Reason::Malformed, &[]);
        }
    }

    #[test]
    fn nor_one_that_quotes_too_little() {
        let node = Node::new();
        let came = udp(CLIENT, SERVICE);
        let _ = node.from_uplink(&came);
        for quoted in 0..28 {
            let sent = icmp_error(UNREACHABLE, WEB.address, REMOTE, &came, quoted);
            for sent in [sent.clone(), sent.padded(40)] {
                node.to_uplink(&sent.of(&WEB)).drops(Reason::Malformed, &[]);
            }
        }
    }

    #[test]
    fn nor_other_messages() {
        let node = Node::new();
        let sent = timestamp(WEB.address, REMOTE).of(&WEB);
        node.to_uplink(&sent)
            .drops(Reason::UnsupportedProtocol, &[]);
    }

    #[test]
    fn where_its_address_may_be_seen_everything_leaves_as_it_is() {
        let node = Node::new();
        for (destination, reason) in [(PEER, Reason::InRange), (WIRESERVER, Reason::Exempt)] {
            let cause = udp((destination, 53), SERVICE);
            let sent = icmp_error(UNREACHABLE, WEB.address, destination, &cause, 28).of(&WEB);
            node.to_uplink(&sent)
                .passes(reason, &sent.clone().leaving(), &[]);
        }
    }
}

/// The node routes, so it may be the one who complains: a reply that would live no longer, or that is too long for the pod.
mod from_the_node {
    use super::*;

    #[test]
    fn an_error_about_a_reply_quotes_what_the_remote_sent() {
        for port in [KEPT, REPLACED] {
            let node = Node::new();
            let (local, remote) = ((WEB.address, port), (REMOTE, 443));
            for (kind, reply) in REQUESTS.into_iter().zip(from_the_pod::REPLIES) {
                let public = masquerade(&node, kind, local, remote);
                for error in KINDS {
                    for quoted in QUOTED {
                        let about =
                            |to| icmp_error(error, NODE, REMOTE, &reply(remote, to), quoted);
                        node.to_uplink(&about(local).leaving()).passes(
                            Reason::IcmpErrorOut,
                            &about(public).leaving(),
                            &[],
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn all_else_is_its_own() {
        let node = Node::new();
        let local = (WEB.address, KEPT);
        let _ = node.from_uplink(&udp(CLIENT, SERVICE));
        let public = masquerade(&node, REQUESTS[1], local, CLIENT);
        let about = |cause: Packet, quoted| icmp_error(UNREACHABLE, NODE, REMOTE, &cause, quoted);
        for packet in [
            // A flow that came in: the remote knows the pod.
            about(udp(CLIENT, SERVICE), 28),
            // The node's own.
            about(udp(CLIENT, public), 28),
            about(udp(CLIENT, (NODE, 22)), 28),
            about(udp(CLIENT, (WEB.address, KEPT + 1)), 28),
            about(udp(CLIENT, local), 27),
            about(udp(CLIENT, local), 0),
            icmp_error(UNREACHABLE, NODE, OTHER_REMOTE, &udp(CLIENT, local), 28),
            about(udp(CLIENT, local), 28).fragment(crate::packet::LATER),
            echo((NODE, KEPT), REMOTE),
            echo_reply(NODE, (REMOTE, KEPT)),
            timestamp(NODE, REMOTE),
        ] {
            let packet = packet.leaving();
            node.to_uplink(&packet)
                .passes(Reason::NotOurs, &packet, &[]);
        }
    }
}
