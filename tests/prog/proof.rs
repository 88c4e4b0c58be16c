//! A flow that one side has made alone lives for a short time, and goes first where ports, the table or a pod's share are full.

use std::net::Ipv4Addr;

use azure_vnet_abi::{FlowFlags, Reason, Timeouts, programs};

use crate::allocator::{REMOTE_END, datagram};
use crate::flows::Tuple;
use crate::harness::{Node, Verdict};
use crate::packet::{ACK, End, Packet, RST, SYN, tcp, udp};
use crate::plan::{DATABASE, HZ, KEPT, NODE, OTHER_REMOTE, PORTS, Pod, REMOTE, TIMEOUTS, WEB};

/// All different from each other.
const TIMES: Timeouts = Timeouts {
    unproven: 500,
    ..TIMEOUTS
};
const GRACE: u32 = 2 * HZ;
const PROTECTED: u32 = 32;
const SERVER: End = (REMOTE, 443);
const LOCAL: End = (WEB.address, KEPT);

/// A node with the bounds of a real one.
fn strict() -> Node {
    let mut node = Node::new();
    node.set_timeouts(TIMES);
    node.set_belief(GRACE, PROTECTED, 1024);
    node
}

fn sends(node: &Node, packet: &Packet) -> Verdict {
    node.run(programs::TO_UPLINK, &packet.bytes()).0
}

fn comes(node: &Node, packet: &Packet) -> Verdict {
    node.run(programs::FROM_UPLINK, &packet.bytes()).0
}

/// Seconds that the entry for the pod's packets has, and whether it is proven.
fn life(node: &Node, tuple: Tuple) -> (u32, bool) {
    let flow = node.flow(tuple);
    (flow.timeout / HZ - 1, flow.flags & FlowFlags::UNPROVEN == 0)
}

#[test]
fn a_datagram_lives_shorter_until_it_is_answered() {
    let node = strict();
    let (packet, tuple) = datagram(&WEB, KEPT);
    sends(&node, &packet);
    assert_eq!(life(&node, tuple), (TIMES.unproven, false));
    sends(&node, &packet);
    assert_eq!(life(&node, tuple), (TIMES.unproven, false));
    comes(&node, &udp(REMOTE_END, (NODE, KEPT)));
    assert_eq!(life(&node, tuple), (TIMES.udp, true));
    let replies = tuple.sent_from(NODE, KEPT).reversed();
    assert_eq!(life(&node, replies), (TIMES.udp, true));
}

/// 19,760 of these, in less than half a second, closed a destination to all pods for two hours.
#[test]
fn a_bare_acknowledgment_lives_shorter_until_somebody_knows_it() {
    let tuple = Tuple::tcp(LOCAL, SERVER);
    for (answer, expected) in [
        (RST, (TIMES.unproven, false)),
        (RST | ACK, (TIMES.unproven, false)),
        (SYN | ACK, (TIMES.unproven, false)),
        (ACK, (TIMES.tcp_established, true)),
    ] {
        let node = strict();
        sends(&node, &tcp(LOCAL, SERVER, ACK).of(&WEB));
        assert_eq!(life(&node, tuple), (TIMES.unproven, false));
        comes(&node, &tcp(SERVER, (NODE, KEPT), answer));
        assert_eq!(life(&node, tuple), expected, "answered by {answer:#x}");
    }
}

/// A SYN that is answered costs its sender nothing; only the third packet does.
#[test]
fn a_handshake_proves_a_connection_and_half_of_one_does_not() {
    let tuple = Tuple::tcp(LOCAL, SERVER);
    for (third, expected) in [
        (RST, (TIMES.unproven, false)),
        (SYN, (TIMES.tcp_opening, false)),
        (ACK, (TIMES.tcp_established, true)),
    ] {
        let node = strict();
        sends(&node, &tcp(LOCAL, SERVER, SYN).of(&WEB));
        comes(&node, &tcp(SERVER, (NODE, KEPT), SYN | ACK));
        assert_eq!(life(&node, tuple), (TIMES.tcp_opening, false));
        sends(&node, &tcp(LOCAL, SERVER, third).of(&WEB));
        assert_eq!(life(&node, tuple), expected, "then {third:#x}");
    }
}

#[test]
fn what_comes_in_is_proven_by_whoever_heard_the_answer() {
    let node = strict();
    let client = (REMOTE, 54321);
    let tuple = Tuple::tcp(LOCAL, client);
    comes(&node, &tcp(client, LOCAL, SYN));
    comes(&node, &tcp(client, LOCAL, ACK));
    assert!(!life(&node, tuple).1, "the pod has said nothing");
    sends(&node, &tcp(LOCAL, client, SYN | ACK).of(&WEB));
    comes(&node, &tcp(client, LOCAL, SYN));
    assert!(!life(&node, tuple).1, "a SYN is no answer");
    sends(&node, &tcp(LOCAL, client, SYN | ACK).of(&WEB));
    comes(&node, &tcp(client, LOCAL, ACK));
    assert_eq!(life(&node, tuple), (TIMES.tcp_established, true));

    let tuple = Tuple::udp(LOCAL, client);
    comes(&node, &udp(client, LOCAL));
    comes(&node, &udp(client, LOCAL));
    sends(&node, &udp(LOCAL, client).of(&WEB));
    assert_eq!(life(&node, tuple), (TIMES.unproven, false));
    comes(&node, &udp(client, LOCAL));
    assert_eq!(life(&node, tuple), (TIMES.udp, true));
}

/// Sends until a packet has left; a search may take several.
fn gets_out(node: &Node, packet: &Packet) -> bool {
    (0..4).any(|_| sends(node, packet) == Verdict::Passes)
}

/// One pod sends a packet from each of so many ports that it holds every port of the destination, and says no more.
fn closed_by(node: &Node, pod: &Pod, packet: impl Fn(End) -> Packet) {
    for port in PORTS {
        assert!(gets_out(node, &packet((pod.address, port)).of(pod)));
    }
}

/// A packet from an end of a pod, and with what flags the remote answers it.
type Flood = (fn(End) -> Packet, Option<u8>);

/// Whatever it is that one pod alone can send, also where the remote is there and answers: another pod gets a port with its next packet.
#[test]
fn one_pod_alone_does_not_close_a_destination() {
    let kinds: [Flood; 5] = [
        (|local| udp(local, REMOTE_END), None),
        (|local| tcp(local, REMOTE_END, ACK), None),
        (|local| tcp(local, REMOTE_END, ACK), Some(RST)),
        (|local| tcp(local, REMOTE_END, SYN), None),
        (|local| tcp(local, REMOTE_END, SYN), Some(SYN | ACK)),
    ];
    for (kind, answer) in kinds {
        let node = strict();
        closed_by(&node, &WEB, kind);
        if let Some(flags) = answer {
            for port in PORTS {
                comes(&node, &tcp(REMOTE_END, (NODE, port), flags));
            }
        }
        let victim = kind((DATABASE.address, 1000)).of(&DATABASE);
        assert!(gets_out(&node, &victim), "{victim:?}");
    }
}

/// Connections that both sides have made are nobody else's to take.
#[test]
fn what_is_proven_does_not_give_way() {
    let node = strict();
    closed_by(&node, &WEB, |local| udp(local, REMOTE_END));
    for port in PORTS {
        comes(&node, &udp(REMOTE_END, (NODE, port)));
    }
    let victim = udp((DATABASE.address, 1000), REMOTE_END).of(&DATABASE);
    assert!(!gets_out(&node, &victim));
    assert!(node.packets(Reason::NoPortFound) > 0);
}

/// What a pod begins in the pace of pods has time for its answer, however scarce ports are.
#[test]
fn a_few_flows_of_a_pod_are_not_taken_at_once() {
    let mut node = Node::with_ports(KEPT..=KEPT);
    node.set_belief(GRACE, PROTECTED, 1024);
    let (held, tuple) = datagram(&WEB, KEPT);
    sends(&node, &held);
    let (other, taken) = datagram(&DATABASE, KEPT);
    // The clock goes on meanwhile, so it is set back.
    node.age(
        tuple.sent_from(NODE, KEPT).reversed(),
        (GRACE / 2).wrapping_neg(),
    );
    assert!(!gets_out(&node, &other));
    // Its own packets give it no more time: an answer does.
    node.age(tuple.sent_from(NODE, KEPT).reversed(), GRACE * 2);
    sends(&node, &held);
    assert!(gets_out(&node, &other));
    assert!(node.has_flow(taken) && !node.has_flow(tuple));
}

/// Two pods that fill the table leave room for a third, and an answered flow of a third is untouched.
#[test]
fn pods_together_do_not_close_the_table() {
    let mut node = Node::with_flow_table(512);
    node.set_belief(GRACE, PROTECTED, 1024);
    let (mine, tuple) = datagram(&DATABASE, KEPT);
    sends(&node, &mine);
    comes(&node, &udp(REMOTE_END, (NODE, KEPT)));
    for port in 1..400 {
        sends(
            &node,
            &udp((WEB.address, port), (OTHER_REMOTE, 53)).of(&WEB),
        );
    }
    for port in 1..5 {
        let more = udp((DATABASE.address, port), REMOTE_END).of(&DATABASE);
        assert_eq!(sends(&node, &more), Verdict::Passes, "{port}");
    }
    assert!(node.has_flow(tuple));
}

/// Whoever sends from outside what is never answered, or not by him again, takes nothing of the pod's share: neither from flows that the pod begins,
/// nor from those that come in and are meant.
#[test]
fn packets_from_outside_do_not_take_a_pods_share() {
    const SHARE: u32 = 100;
    let mut node = strict();
    node.set_flows_per_pod(SHARE);
    for number in 0..2 * SHARE {
        let [.., high, low] = number.to_be_bytes();
        let spoofed = (Ipv4Addr::new(198, 18, high, low), 1000);
        let kind = [udp(spoofed, LOCAL), tcp(spoofed, LOCAL, SYN)];
        let answer = [
            udp(LOCAL, spoofed).of(&WEB),
            tcp(LOCAL, spoofed, SYN | ACK).of(&WEB),
        ];
        let which = usize::try_from(number % 2).unwrap();
        comes(&node, &kind[which]);
        sends(&node, &answer[which]);
    }
    let (own, tuple) = datagram(&WEB, KEPT + 1);
    assert_eq!(sends(&node, &own), Verdict::Passes);
    assert!(node.has_flow(tuple));
    let client = (REMOTE, 54321);
    comes(&node, &tcp(client, LOCAL, SYN));
    assert_eq!(
        sends(&node, &tcp(LOCAL, client, SYN | ACK).of(&WEB)),
        Verdict::Passes
    );
    assert!(node.shares()[&WEB.address] <= SHARE.into());
    assert_eq!(node.packets(Reason::PodFlowLimit), 0);
}

/// A pod that has used up its share takes no room from others' flows, proven or not.
#[test]
fn a_greedy_pod_makes_room_among_its_own() {
    let mut node = strict();
    node.set_flows_per_pod(2);
    let (others, tuple) = datagram(&DATABASE, KEPT);
    sends(&node, &others);
    for port in [KEPT + 1, KEPT + 2] {
        sends(&node, &datagram(&WEB, port).0);
        comes(&node, &udp(REMOTE_END, (NODE, port)));
    }
    node.age(tuple.sent_from(NODE, KEPT).reversed(), GRACE * 2);
    for _ in 0..10 {
        assert_eq!(sends(&node, &datagram(&WEB, KEPT + 3).0), Verdict::Dropped);
    }
    assert!(node.has_flow(tuple));
}

/// A pod that floods where ports are scarce gets what is at hand, and leaves the search to others.
#[test]
fn no_pod_searches_without_an_end() {
    let mut node = Node::new();
    for port in PORTS {
        sends(&node, &datagram(&WEB, port).0);
    }
    node.set_belief(i32::MAX.cast_unsigned(), PROTECTED, 4);
    let before = node.searches();
    for port in 1..10 {
        assert_ne!(sends(&node, &datagram(&WEB, port).0), Verdict::Passes);
    }
    assert_eq!(node.searches(), before);
    sends(&node, &datagram(&DATABASE, 1).0);
    assert_ne!(node.searches(), before);
}
