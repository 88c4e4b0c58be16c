//! When a flow was seen last, by which it is over one day.

use azure_vnet_abi::{Reason, programs};

use crate::flows::Tuple;
use crate::harness::{Node, Verdict};
use crate::packet::{Packet, udp};
use crate::plan::{DATABASE, HZ, KEPT, NODE, PORTS, REMOTE, TIMEOUTS, WEB};

fn flow_of(node: &Node) -> [Tuple; 2] {
    let (local, remote) = ((WEB.address, KEPT), (REMOTE, 53));
    let _ = node.to_uplink(&udp(local, remote).of(&WEB));
    let outgoing = Tuple::udp(local, remote);
    [outgoing, outgoing.sent_from(NODE, KEPT).reversed()]
}

fn packets() -> [Packet; 2] {
    let (local, remote) = ((WEB.address, KEPT), (REMOTE, 53));
    [udp(local, remote).of(&WEB), udp(remote, (NODE, KEPT))]
}

/// Whether `later` is not before `earlier`, on a clock that wraps.
fn is_not_before(later: u32, earlier: u32) -> bool {
    later.wrapping_sub(earlier) < u32::MAX / 2
}

#[test]
fn is_written_by_a_packet_of_the_same_direction() {
    let mut node = Node::new();
    let flow @ [outgoing, replies] = flow_of(&node);
    let [request, reply] = packets();
    let made = node.flow(outgoing).last_seen;
    let old = made.wrapping_sub(10 * HZ);

    for tuple in flow {
        node.age(tuple, 10 * HZ);
    }
    let _ = node.to_uplink(&request);
    assert!(is_not_before(node.flow(outgoing).last_seen, made));
    assert_eq!(node.flow(replies).last_seen, old);

    let _ = node.from_uplink(&reply);
    assert!(is_not_before(node.flow(replies).last_seen, made));
}

/// So that the CPUs of a busy flow do not fight for its cache line.
#[test]
fn is_not_written_within_a_second() {
    // A second so long that the test ends within it.
    const LONG: u32 = 1_000_000;
    let mut node = Node::new();
    node.configure(PORTS, LONG);
    let flow = flow_of(&node);
    for tuple in flow {
        node.age(tuple, LONG / 2);
    }
    let [request, reply] = packets();
    // The first one proves the flow.
    let _ = node.run(programs::FROM_UPLINK, &reply.bytes());
    let before = flow.map(|tuple| node.flow(tuple));
    let _ = node.run(programs::TO_UPLINK, &request.bytes());
    let _ = node.run(programs::FROM_UPLINK, &reply.bytes());
    assert_eq!(flow.map(|tuple| node.flow(tuple)), before);
}

/// What is not written must not shorten it: from its last packet on a flow has all of its time.
#[test]
fn a_packet_that_was_not_noted_counts() {
    const LONG: u32 = 1_000_000;
    let mut node = Node::new();
    node.configure(KEPT..=KEPT, LONG);
    let flow = flow_of(&node);
    for tuple in flow {
        node.age(tuple, LONG / 10 * 9);
    }
    let [request, reply] = packets();
    let _ = node.run(programs::TO_UPLINK, &request.bytes());
    let _ = node.run(programs::FROM_UPLINK, &reply.bytes());

    let other = udp((DATABASE.address, KEPT), (REMOTE, 53)).of(&DATABASE);
    for tuple in flow {
        node.age(tuple, TIMEOUTS.udp * LONG);
    }
    node.to_uplink(&other).finds_no_port(&other, &DATABASE);
    for tuple in flow {
        node.age(tuple, LONG);
    }
    let (verdict, counted) = {
        let run = node.to_uplink(&other);
        let (verdict, counted) = run.outcome();
        (verdict, counted.to_vec())
    };
    assert_eq!(verdict, Verdict::Passes);
    assert_eq!(counted, [(Reason::FlowCreated, 1)]);
}
