//! A flow from outside the ranges to a pod's own address is remembered, and its replies alone may
//! leave with that address.

use std::net::Ipv4Addr;

use azure_vnet_abi::{Reason, TcpState};

use crate::flows::{Change, Tuple, inbound, masqueraded, replies};
use crate::harness::Node;
use crate::packet::{ACK, FIN, Packet, RST, SYN, echo, echo_reply, tcp, udp};
use crate::plan::{DATABASE, HZ, KEPT, NODE, OTHER_REMOTE, REMOTE, TIMEOUTS, WEB};

const SERVICE: (Ipv4Addr, u16) = (WEB.address, 8080);
const CLIENT: (Ipv4Addr, u16) = (REMOTE, 54321);

/// What comes in, what the pod answers, and the tuple of the answer.
fn exchanges() -> [(Packet, Packet, Tuple); 3] {
    [
        (
            tcp(CLIENT, SERVICE, SYN),
            tcp(SERVICE, CLIENT, SYN | ACK).of(&WEB),
            Tuple::tcp(SERVICE, CLIENT),
        ),
        (
            udp(CLIENT, SERVICE),
            udp(SERVICE, CLIENT).of(&WEB),
            Tuple::udp(SERVICE, CLIENT),
        ),
        ping(77),
    ]
}

fn record(node: &Node, request: &Packet, reply: Tuple) {
    node.from_uplink(request).passes(
        Reason::InboundRecorded,
        request,
        &[Change::added(inbound(reply, &WEB))],
    );
}

#[test]
fn the_reply_leaves_with_the_pods_address() {
    let node = Node::new();
    for (request, reply, tuple) in exchanges() {
        record(&node, &request, tuple);
        for _ in 0..2 {
            node.to_uplink(&reply)
                .passes(Reason::InboundReply, &reply.clone().leaving(), &[]);
            node.from_uplink(&request)
                .passes(Reason::ToPod, &request, &[]);
        }
    }
}

#[test]
fn only_the_exact_reply_does() {
    let node = Node::new();
    record(&node, &udp(CLIENT, SERVICE), Tuple::udp(SERVICE, CLIENT));
    let others = [
        ((WEB.address, KEPT), CLIENT, &WEB),
        (SERVICE, (REMOTE, 54322), &WEB),
        (SERVICE, (OTHER_REMOTE, CLIENT.1), &WEB),
        ((DATABASE.address, SERVICE.1), CLIENT, &DATABASE),
    ];
    for (local, remote, pod) in others {
        let run = node.to_uplink(&udp(local, remote).of(pod));
        let tuple = Tuple::udp(local, remote);
        let port = node.flow(tuple).port.to_host();
        run.passes(
            Reason::FlowCreated,
            &udp((NODE, port), remote).leaving(),
            &masqueraded(tuple, pod, port),
        );
    }
}

/// Two pings that have nothing to do with each other, one each way, with the same identifier.
#[test]
fn a_ping_of_the_pod_is_no_reply_to_a_ping_of_the_remote() {
    for identifier in [1, KEPT, 0xffff] {
        let node = Node::new();
        let (came, reply, tuple) = ping(identifier);
        record(&node, &came, tuple);

        let sent = echo((WEB.address, identifier), REMOTE).of(&WEB);
        let run = node.to_uplink(&sent);
        let outgoing = Tuple::echo((WEB.address, identifier), REMOTE);
        let port = node.flow(outgoing).port.to_host();
        run.passes(
            Reason::FlowCreated,
            &sent.leaving().source((NODE, port)),
            &masqueraded(outgoing, &WEB, port),
        );
        node.to_uplink(&reply)
            .passes(Reason::InboundReply, &reply.clone().leaving(), &[]);
    }
}

/// With identifier 0 a request looks to the flow table like the reply to another's request. It is
/// none: it takes the entry over, and both leave from the node's address from then on.
#[test]
fn nor_with_identifier_0() {
    let node = Node::new();
    let (came, reply, tuple) = ping(0);
    record(&node, &came, tuple);

    let sent = echo((WEB.address, 0), REMOTE).of(&WEB);
    let run = node.to_uplink(&sent);
    let port = node.flow(tuple).port.to_host();
    let [Change::Added(_, outgoing), replies] = masqueraded(tuple, &WEB, port) else {
        unreachable!("a masqueraded flow has two new entries")
    };
    run.passes(
        Reason::FlowCreated,
        &sent.leaving().source((NODE, port)),
        &[Change::Changed(tuple, outgoing), replies],
    );
    node.to_uplink(&reply).passes(
        Reason::Masqueraded,
        &echo_reply(NODE, (REMOTE, port)).leaving(),
        &[],
    );
}

/// As `exchanges`, for a ping with this identifier.
fn ping(identifier: u16) -> (Packet, Packet, Tuple) {
    let remote = (REMOTE, identifier);
    (
        echo(remote, WEB.address),
        echo_reply(WEB.address, remote).of(&WEB),
        Tuple::echo_reply(WEB.address, remote),
    )
}

mod over {
    use super::*;

    /// Never with the pod's address: as the first packet of a masqueraded flow, which the remote
    /// will not know what to do with.
    #[test]
    fn a_late_reply_does_not_leave_with_the_pods_address() {
        for (request, reply, tuple) in &exchanges()[..2] {
            let mut node = Node::new();
            record(&node, request, *tuple);
            node.time_out(*tuple);
            let run = node.to_uplink(reply);
            let port = node.flow(*tuple).port.to_host();
            let [outgoing, replies] = masqueraded(*tuple, &WEB, port);
            let Change::Added(_, entry) = outgoing else {
                panic!("{outgoing:?}")
            };
            run.passes(
                Reason::FlowCreated,
                &reply.clone().leaving().source((NODE, port)),
                &[Change::Changed(*tuple, entry), replies],
            );
        }
    }

    #[test]
    fn a_late_echo_reply_does_not_leave_at_all() {
        let [.., (request, reply, tuple)] = exchanges();
        let mut node = Node::new();
        record(&node, &request, tuple);
        node.time_out(tuple);
        node.to_uplink(&reply)
            .drops(Reason::UnsupportedProtocol, &[Change::Removed(tuple)]);
    }

    #[test]
    fn a_reply_within_the_time_keeps_the_flow() {
        for (request, reply, tuple) in exchanges() {
            let mut node = Node::new();
            record(&node, &request, tuple);
            for _ in 0..3 {
                node.nearly_time_out(tuple);
                node.to_uplink(&reply)
                    .passes(Reason::InboundReply, &reply.clone().leaving(), &[]);
            }
        }
    }

    #[test]
    fn so_does_the_next_packet_that_comes_in() {
        for (request, reply, tuple) in exchanges() {
            let mut node = Node::new();
            record(&node, &request, tuple);
            for _ in 0..3 {
                node.nearly_time_out(tuple);
                node.from_uplink(&request)
                    .passes(Reason::ToPod, &request, &[]);
            }
            node.to_uplink(&reply)
                .passes(Reason::InboundReply, &reply.clone().leaving(), &[]);
        }
    }

    /// Whoever comes in after all that time begins a new flow with the same tuple.
    #[test]
    fn the_remote_may_begin_anew() {
        for (request, reply, tuple) in exchanges() {
            let mut node = Node::new();
            record(&node, &request, tuple);
            node.time_out(tuple);
            node.from_uplink(&request)
                .passes(Reason::ToPod, &request, &[]);
            node.to_uplink(&reply)
                .passes(Reason::InboundReply, &reply.clone().leaving(), &[]);
        }
    }
}

/// One entry sees both directions.
#[test]
fn a_connection_opens_lives_and_closes() {
    let node = Node::new();
    let tuple = Tuple::tcp(SERVICE, CLIENT);
    let state = |timeout, bits| {
        let (tuple, entry) = inbound(tuple, &WEB);
        [Change::Changed(tuple, entry.state(timeout, bits))]
    };
    let established = TcpState::ESTABLISHED;
    let closing = TcpState::ESTABLISHED | TcpState::CLOSING;
    let came = |flags| {
        let packet = tcp(CLIENT, SERVICE, flags);
        let entered = packet.clone();
        (node.from_uplink(&packet), entered)
    };
    let sent = |flags| {
        let packet = tcp(SERVICE, CLIENT, flags).of(&WEB);
        let left = packet.clone().leaving();
        (node.to_uplink(&packet), left)
    };

    record(&node, &tcp(CLIENT, SERVICE, SYN), tuple);
    let (run, left) = sent(SYN | ACK);
    run.passes(Reason::InboundReply, &left, &[]);
    let (run, entered) = came(ACK);
    let opened = state(TIMEOUTS.tcp_established, established);
    run.passes(Reason::ToPod, &entered, &opened);
    let (run, left) = sent(ACK);
    run.passes(Reason::InboundReply, &left, &[]);
    let (run, left) = sent(FIN | ACK);
    let closed = state(TIMEOUTS.tcp_closing, closing);
    run.passes(Reason::InboundReply, &left, &closed);
    let (run, entered) = came(FIN | ACK);
    run.passes(Reason::ToPod, &entered, &[]);
    let (run, entered) = came(RST);
    run.passes(Reason::ToPod, &entered, &[]);
    let (run, entered) = came(SYN);
    let anew = state(TIMEOUTS.tcp_opening, 0);
    run.passes(Reason::ToPod, &entered, &anew);
}

#[test]
fn a_full_table_lets_the_packet_in_and_keeps_the_reply_here() {
    let node = Node::with_flow_table(1);
    record(&node, &udp(CLIENT, SERVICE), Tuple::udp(SERVICE, CLIENT));
    // Whoever asks again has heard the answer.
    let _ = node.to_uplink(&udp(SERVICE, CLIENT).of(&WEB));
    let _ = node.from_uplink(&udp(CLIENT, SERVICE));
    let request = tcp(CLIENT, SERVICE, SYN);
    node.from_uplink(&request)
        .passes(Reason::ToPod, &request, &[]);
    node.to_uplink(&tcp(SERVICE, CLIENT, SYN | ACK).of(&WEB))
        .drops(Reason::FlowTableFull, &[]);
}

/// A flow of the pod's own to a remote that writes to it directly, on the same ports.
mod beside_a_masqueraded_flow {
    use super::*;

    const LOCAL: (Ipv4Addr, u16) = (WEB.address, KEPT);

    /// A node with that flow, as TCP, and the key of the entry for the pod's packets.
    fn masquerading() -> (Node, Tuple) {
        let node = Node::new();
        let tuple = Tuple::tcp(LOCAL, CLIENT);
        node.to_uplink(&tcp(LOCAL, CLIENT, SYN).of(&WEB)).passes(
            Reason::FlowCreated,
            &tcp((NODE, KEPT), CLIENT, SYN).leaving(),
            &masqueraded(tuple, &WEB, KEPT),
        );
        (node, tuple)
    }

    #[test]
    fn what_comes_in_changes_nothing_about_it() {
        let (mut node, tuple) = masquerading();
        node.age(tuple, 10 * HZ);
        let before = node.flow(tuple);
        for flags in [SYN, ACK, FIN | ACK, RST] {
            let came = tcp(CLIENT, LOCAL, flags);
            node.from_uplink(&came).passes(Reason::ToPod, &came, &[]);
        }
        assert_eq!(node.flow(tuple), before);
        node.to_uplink(&tcp(LOCAL, CLIENT, SYN).of(&WEB)).passes(
            Reason::Masqueraded,
            &tcp((NODE, KEPT), CLIENT, SYN).leaving(),
            &[],
        );
    }

    #[test]
    fn once_that_is_over_a_connection_may_come_in() {
        let (mut node, tuple) = masquerading();
        let (back, _) = replies(tuple, &WEB, KEPT);
        node.time_out(tuple);
        node.time_out(back);
        let came = tcp(CLIENT, LOCAL, SYN);
        let (_, entry) = inbound(tuple, &WEB);
        node.from_uplink(&came).passes(
            Reason::InboundRecorded,
            &came,
            &[Change::Changed(tuple, entry), Change::Removed(back)],
        );
        let reply = tcp(LOCAL, CLIENT, SYN | ACK).of(&WEB);
        node.to_uplink(&reply)
            .passes(Reason::InboundReply, &reply.clone().leaving(), &[]);
    }

    #[test]
    fn but_nothing_else_takes_its_place() {
        let (mut node, tuple) = masquerading();
        let (back, _) = replies(tuple, &WEB, KEPT);
        node.time_out(tuple);
        node.time_out(back);
        let came = tcp(CLIENT, LOCAL, ACK);
        node.from_uplink(&came).passes(Reason::ToPod, &came, &[]);
    }
}
