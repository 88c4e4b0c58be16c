//! A masqueraded flow, out and back: whatever leaves, leaves from the node's address, and the reply
//! finds the pod as if nothing had happened.

use azure_vnet_abi::{Action, Mac, Reason, TcpState};

use crate::flows::{Change, Tuple, masqueraded, outgoing, replies};
use crate::harness::Node;
use crate::packet::{ACK, End, LATER, Packet, SYN, echo, echo_reply, tcp, udp};
use crate::plan::{
    CARVED_OUT, DATABASE, KEPT, NODE, OTHER_REMOTE, PORTS, Pod, REMOTE, REPLACED, TIMEOUTS, WEB,
};

/// A packet of a pod, the answer to it, and the flow they belong to; each with the ends that the
/// wire shows.
struct Exchange {
    tuple: Tuple,
    request: fn(End, End) -> Packet,
    reply: fn(End, End) -> Packet,
    local: End,
    remote: End,
}

impl Exchange {
    fn tcp(local: End) -> Self {
        let remote = (REMOTE, 443);
        Self {
            tuple: Tuple::tcp(local, remote),
            request: |local, remote| tcp(local, remote, SYN),
            reply: |local, remote| tcp(remote, local, SYN | ACK),
            local,
            remote,
        }
    }

    fn udp(local: End) -> Self {
        let remote = (REMOTE, 53);
        Self {
            tuple: Tuple::udp(local, remote),
            request: udp,
            reply: |local, remote| udp(remote, local),
            local,
            remote,
        }
    }

    fn echo(local: End) -> Self {
        Self {
            tuple: Tuple::echo(local, REMOTE),
            request: |local, remote| echo(local, remote.0),
            reply: |local, remote| echo_reply(remote.0, local),
            local,
            remote: (REMOTE, 0),
        }
    }

    fn all(local: End) -> [Self; 3] {
        [Self::tcp(local), Self::udp(local), Self::echo(local)]
    }

    /// Twice out and once back, with every packet changed by `shape`.
    #[track_caller]
    fn is_masqueraded_from(&self, node: &Node, port: u16, shape: impl Fn(Packet) -> Packet) {
        let sent = shape((self.request)(self.local, self.remote)).of(&WEB);
        let left = shape((self.request)((NODE, port), self.remote)).leaving();
        node.to_uplink(&sent).passes(
            Reason::FlowCreated,
            &left,
            &masqueraded(self.tuple, &WEB, port),
        );
        node.to_uplink(&sent)
            .passes(Reason::Masqueraded, &left, &[]);

        let came = shape((self.reply)((NODE, port), self.remote));
        let entered = shape((self.reply)(self.local, self.remote));
        node.from_uplink(&came)
            .passes(Reason::Unmasqueraded, &entered, &[]);
    }
}

#[test]
fn a_source_port_in_the_range_is_kept() {
    for port in [KEPT, *PORTS.start(), *PORTS.end()] {
        let node = Node::new();
        for exchange in Exchange::all((WEB.address, port)) {
            exchange.is_masqueraded_from(&node, port, |packet| packet);
        }
    }
}

#[test]
fn a_source_port_outside_the_range_is_replaced() {
    for port in [REPLACED, *PORTS.start() - 1, *PORTS.end() + 1, 1, 0xffff] {
        let node = Node::new();
        for exchange in Exchange::all((WEB.address, port)) {
            let sent = (exchange.request)(exchange.local, exchange.remote).of(&WEB);
            let allocated = allocated_port(&node, &sent, exchange.tuple);
            assert!(PORTS.contains(&allocated), "{allocated}");

            let left = (exchange.request)((NODE, allocated), exchange.remote).leaving();
            node.to_uplink(&sent)
                .passes(Reason::Masqueraded, &left, &[]);
            let came = (exchange.reply)((NODE, allocated), exchange.remote);
            let entered = (exchange.reply)(exchange.local, exchange.remote);
            node.from_uplink(&came)
                .passes(Reason::Unmasqueraded, &entered, &[]);
        }
    }
}

/// Sends the first packet of a flow whose port cannot be foreseen; returns the port, once packet
/// and table agree about it.
fn allocated_port(node: &Node, sent: &Packet, tuple: Tuple) -> u16 {
    let run = node.to_uplink(sent);
    let port = node.flow(tuple).port.to_host();
    let left = sent.clone().leaving().source((NODE, port));
    run.passes(Reason::FlowCreated, &left, &masqueraded(tuple, &WEB, port));
    port
}

#[test]
fn payloads_of_any_length_keep_their_checksum() {
    let node = Node::new();
    for (port, length) in (KEPT..).zip([0, 1, 2, 3, 18, 63, 64, 1399, 1400]) {
        let payload = vec![0xc3; length];
        for exchange in Exchange::all((WEB.address, port)) {
            exchange.is_masqueraded_from(&node, port, |packet| packet.payload(&payload));
        }
    }
}

#[test]
fn ip_options_stay() {
    // A router alert (RFC 2113), and as many no-operations as fit.
    for options in [&[0x94, 4, 0, 0][..], &[1; 40]] {
        let node = Node::new();
        for exchange in Exchange::all((WEB.address, KEPT)) {
            exchange.is_masqueraded_from(&node, KEPT, |packet| packet.options(options));
        }
    }
}

#[test]
fn what_ethernet_pads_with_stays() {
    let node = Node::new();
    for exchange in Exchange::all((WEB.address, KEPT)) {
        exchange.is_masqueraded_from(&node, KEPT, |packet| packet.padded(5));
    }
}

#[test]
fn udp_without_a_checksum_stays_without() {
    for port in [KEPT, REPLACED] {
        let node = Node::new();
        let (local, remote) = ((WEB.address, port), (REMOTE, 53));
        let sent = udp(local, remote).without_checksum().of(&WEB);
        let port = allocated_port(&node, &sent, Tuple::udp(local, remote));
        let came = udp(remote, (NODE, port)).without_checksum();
        let entered = udp(remote, local).without_checksum();
        node.from_uplink(&came)
            .passes(Reason::Unmasqueraded, &entered, &[]);
    }
}

/// RFC 768: a checksum that comes out as 0 is sent as 0xffff, because 0 says "none".
#[test]
fn a_udp_checksum_that_becomes_zero_is_sent_as_ones() {
    let node = Node::new();
    let (local, remote) = ((WEB.address, KEPT), (REMOTE, 53));
    let checksum = |packet: &Packet| {
        let bytes = packet.bytes();
        [bytes[40], bytes[41]]
    };
    // What the checksum is with an empty word is the word that makes it 0.
    let empty = udp((NODE, KEPT), remote).payload(&[0, 0]);
    let payload = checksum(&empty);
    let left = udp((NODE, KEPT), remote).payload(&payload).leaving();
    assert_eq!(checksum(&left), [0xff, 0xff]);

    let sent = udp(local, remote).payload(&payload).of(&WEB);
    node.to_uplink(&sent).passes(
        Reason::FlowCreated,
        &left,
        &masqueraded(Tuple::udp(local, remote), &WEB, KEPT),
    );
}

#[test]
fn a_longer_prefix_decides() {
    let node = Node::new();
    let (local, remote) = ((WEB.address, KEPT), (CARVED_OUT, 443));
    let sent = tcp(local, remote, SYN).of(&WEB);
    node.to_uplink(&sent).passes(
        Reason::FlowCreated,
        &tcp((NODE, KEPT), remote, SYN).leaving(),
        &masqueraded(Tuple::tcp(local, remote), &WEB, KEPT),
    );
}

/// A connection that is older than the table: the node's programs lost their state, the pod did not.
#[test]
fn a_tcp_flow_may_begin_in_the_middle() {
    let node = Node::new();
    let (local, remote) = ((WEB.address, KEPT), (REMOTE, 443));
    let tuple = Tuple::tcp(local, remote);
    let (out, back) = (outgoing(tuple, &WEB, KEPT), replies(tuple, &WEB, KEPT));
    // Anybody can send that: it has to be answered to live long.
    let unproven = TIMEOUTS.unproven;
    node.to_uplink(&tcp(local, remote, ACK).payload(b"more").of(&WEB))
        .passes(
            Reason::FlowCreated,
            &tcp((NODE, KEPT), remote, ACK).payload(b"more").leaving(),
            &[
                Change::Added(out.0, out.1.state(unproven, TcpState::ESTABLISHED)),
                Change::Added(back.0, back.1.state(unproven, 0)),
            ],
        );
}

#[test]
fn only_the_exact_reply_is_the_pods() {
    let node = Node::new();
    let (local, remote) = ((WEB.address, KEPT), (REMOTE, 53));
    let _ = node.to_uplink(&udp(local, remote).of(&WEB));
    for stranger in [
        udp((OTHER_REMOTE, 53), (NODE, KEPT)),
        udp((REMOTE, 54), (NODE, KEPT)),
        udp((REMOTE, 53), (NODE, KEPT + 1)),
        tcp((REMOTE, 53), (NODE, KEPT), SYN | ACK),
        echo_reply(REMOTE, (NODE, KEPT)),
        udp(remote, (NODE, KEPT)).fragment(LATER),
    ] {
        node.from_uplink(&stranger)
            .passes(Reason::NotOurs, &stranger, &[]);
    }
}

#[test]
fn two_pods_on_the_same_port_are_told_apart() {
    let node = Node::new();
    let remote = (REMOTE, 53);
    for (pod, port) in [(WEB, KEPT), (DATABASE, KEPT + 1)] {
        let local = (pod.address, KEPT);
        node.to_uplink(&udp(local, remote).of(&pod)).passes(
            Reason::FlowCreated,
            &udp((NODE, port), remote).leaving(),
            &masqueraded(Tuple::udp(local, remote), &pod, port),
        );
    }
    for (pod, port) in [(WEB, KEPT), (DATABASE, KEPT + 1)] {
        node.from_uplink(&udp(remote, (NODE, port))).passes(
            Reason::Unmasqueraded,
            &udp(remote, (pod.address, KEPT)),
            &[],
        );
    }
}

#[test]
fn a_port_serves_every_destination_and_protocol_at_once() {
    let node = Node::new();
    let local = (DATABASE.address, KEPT);
    let flows: [(Packet, Tuple); 4] = [
        (udp(local, (REMOTE, 53)), Tuple::udp(local, (REMOTE, 53))),
        (udp(local, (REMOTE, 54)), Tuple::udp(local, (REMOTE, 54))),
        (
            udp(local, (OTHER_REMOTE, 53)),
            Tuple::udp(local, (OTHER_REMOTE, 53)),
        ),
        (
            tcp(local, (REMOTE, 53), SYN),
            Tuple::tcp(local, (REMOTE, 53)),
        ),
    ];
    for (packet, tuple) in flows {
        let left = packet.clone().leaving().source((NODE, KEPT));
        node.to_uplink(&packet.of(&DATABASE)).passes(
            Reason::FlowCreated,
            &left,
            &masqueraded(tuple, &DATABASE, KEPT),
        );
    }
}

/// The policy is asked once per flow; a known flow goes on as it began.
#[test]
fn a_new_policy_is_for_flows_that_begin_after_it() {
    let mut node = Node::new();
    let (local, remote) = ((WEB.address, KEPT), (REMOTE, 53));
    let sent = udp(local, remote).of(&WEB);
    let left = udp((NODE, KEPT), remote).leaving();
    let tuple = Tuple::udp(local, remote);
    node.to_uplink(&sent)
        .passes(Reason::FlowCreated, &left, &masqueraded(tuple, &WEB, KEPT));
    node.set_policy(REMOTE, 32, Action::DROP);
    node.to_uplink(&sent)
        .passes(Reason::Masqueraded, &left, &[]);
    node.to_uplink(&udp((WEB.address, KEPT + 1), remote).of(&WEB))
        .drops(Reason::PolicyDrop, &[]);
}

#[test]
fn a_new_mac_of_the_pod_reaches_flows_that_begin_after_it() {
    const NEW: Mac = Mac([0x0a, 0, 0, 0, 0, 0x99]);
    let node = Node::new();
    let moved = Pod { mac: NEW, ..WEB };
    let (local, remote) = ((WEB.address, KEPT), (REMOTE, 53));
    let sent = udp(local, remote).of(&moved);
    node.from_pod(&WEB, &sent)
        .passes(Reason::NotOurs, &sent, &[]);
    node.to_uplink(&sent).passes(
        Reason::FlowCreated,
        &udp((NODE, KEPT), remote).leaving(),
        &masqueraded(Tuple::udp(local, remote), &moved, KEPT),
    );
    node.from_uplink(&udp(remote, (NODE, KEPT))).passes(
        Reason::Unmasqueraded,
        &udp(remote, local),
        &[],
    );
}
