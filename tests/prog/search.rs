//! More ports than one packet looks at, and nearly all of them in use: packets take turns, the last port
//! is found wherever it is, and none is said to be left only when that is so.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use azure_vnet_abi::{Be16, Be32, Destination, Reason, Search, Timeouts, programs};

use crate::flows::Tuple;
use crate::harness::{Node, Verdict};
use crate::packet::{ACK, End, FIN, Packet, SYN, UDP, tcp, udp};
use crate::plan::{DATABASE, HZ, NODE, OTHER_REMOTE, PORTS, Pod, REMOTE, TIMEOUTS, WEB};

const REMOTE_END: End = (REMOTE, 53);

/// Packets that look at all of [`PORTS`] between them.
const PACKETS: usize = 4;

/// All packets of these tests want a port that is not in the range, unless they are to fill it.
const OUTSIDE: u16 = 1000;

fn datagram(pod: &Pod, port: u16) -> Packet {
    udp((pod.address, port), REMOTE_END).of(pod)
}

fn flow(pod: &Pod, port: u16) -> Tuple {
    Tuple::udp((pod.address, port), REMOTE_END)
}

fn replies(port: u16) -> Tuple {
    Tuple::udp(REMOTE_END, (NODE, port))
}

/// A node on which flows of `WEB` have all ports of the range but `free`.
fn full_but(free: &[u16]) -> Node {
    let node = Node::new();
    for port in PORTS.filter(|port| !free.contains(port)) {
        sends(&node, &datagram(&WEB, port));
    }
    node
}

fn sends(node: &Node, packet: &Packet) {
    let (verdict, _) = node.run(programs::TO_UPLINK, &packet.bytes());
    assert_eq!(verdict, Verdict::Passes, "{packet:?}");
}

/// What a packet of a new flow comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Leaves,
    GoesOn,
    NoPort,
}

fn try_once(node: &Node, packet: &Packet) -> Outcome {
    let count =
        || [Reason::PortSearchGoesOn, Reason::NoPortFound].map(|reason| node.packets(reason));
    let [goes_on, no_port] = count();
    let (verdict, _) = node.run(programs::TO_UPLINK, &packet.bytes());
    let [goes_on, no_port] = {
        let now = count();
        [now[0] - goes_on, now[1] - no_port]
    };
    match (verdict, goes_on, no_port) {
        (Verdict::Passes, 0, 0) => Outcome::Leaves,
        (verdict, 1, 0) if verdict != Verdict::Passes => Outcome::GoesOn,
        (verdict, 0, 1) if verdict != Verdict::Passes => Outcome::NoPort,
        other => panic!("{other:?}"),
    }
}

/// Sends the same packet until the search is at its end; says how, and how many packets that took.
fn insist(node: &Node, packet: &Packet) -> (Outcome, usize) {
    for packets in 1..=PACKETS {
        let outcome = try_once(node, packet);
        if outcome != Outcome::GoesOn {
            return (outcome, packets);
        }
    }
    panic!("{PACKETS} packets look at all ports");
}

#[test]
fn the_last_port_is_found_wherever_it_is() {
    for free in [50_000, 50_001, 50_255, 50_256, 50_500, 50_998, 50_999] {
        let node = full_but(&[free]);
        let (outcome, _) = insist(&node, &datagram(&DATABASE, OUTSIDE));
        assert_eq!(outcome, Outcome::Leaves, "{free} is free");
        assert_eq!(node.flow(flow(&DATABASE, OUTSIDE)).port.to_host(), free);
    }
}

#[test]
fn a_port_whose_flow_is_over_is_found_wherever_it_is() {
    for over in [50_000, 50_255, 50_256, 50_777, 50_999] {
        let mut node = full_but(&[]);
        node.time_out(flow(&WEB, over));
        node.time_out(replies(over));
        let (outcome, _) = insist(&node, &datagram(&DATABASE, OUTSIDE));
        assert_eq!(outcome, Outcome::Leaves, "{over} is over");
        assert_eq!(node.flow(flow(&DATABASE, OUTSIDE)).port.to_host(), over);
        assert!(!node.has_flow(flow(&WEB, over)));
    }
}

#[test]
fn packets_take_turns_whichever_pod_sends_them() {
    let node = full_but(&[]);
    let outcomes = [&WEB, &DATABASE, &WEB, &DATABASE, &WEB, &DATABASE]
        .map(|pod| try_once(&node, &datagram(pod, OUTSIDE)));
    let (searching, known) = outcomes.split_at(PACKETS - 1);
    assert_eq!(searching, [Outcome::GoesOn; PACKETS - 1]);
    // And without another look, as long as nothing can have changed.
    assert_eq!(known, [Outcome::NoPort; 3]);
    assert!(!node.is_searching());
}

#[test]
fn other_destinations_are_searched_by_themselves() {
    let node = full_but(&[]);
    assert_eq!(
        insist(&node, &datagram(&DATABASE, OUTSIDE)).0,
        Outcome::NoPort
    );
    let local = (DATABASE.address, OUTSIDE);
    for packet in [
        udp(local, (REMOTE, 54)),
        udp(local, (OTHER_REMOTE, 53)),
        tcp(local, REMOTE_END, SYN),
    ] {
        sends(&node, &packet.of(&DATABASE));
    }
}

/// The port of the flow that ends first is found when it has ended, and nothing is looked for before.
#[test]
fn what_is_known_holds_until_the_first_flow_can_have_ended() {
    let mut node = full_but(&[]);
    for half in [flow(&WEB, 50_321), replies(50_321)] {
        // All but 600 seconds.
        node.nearly_time_out(half);
    }
    let packet = datagram(&DATABASE, OUTSIDE);
    assert_eq!(insist(&node, &packet), (Outcome::NoPort, PACKETS));
    node.age_all(590 * HZ);
    assert_eq!(try_once(&node, &packet), Outcome::NoPort);
    node.age_all(11 * HZ);
    let (outcome, _) = insist(&node, &packet);
    assert_eq!(outcome, Outcome::Leaves);
    assert_eq!(node.flow(flow(&DATABASE, OUTSIDE)).port.to_host(), 50_321);
}

/// A packet keeps a flow: what was known is looked at again, and is as before.
#[test]
fn a_flow_that_goes_on_is_seen_again() {
    let mut node = full_but(&[]);
    let first = [flow(&WEB, 50_321), replies(50_321)];
    for half in first {
        node.nearly_time_out(half);
    }
    let packet = datagram(&DATABASE, OUTSIDE);
    assert_eq!(insist(&node, &packet), (Outcome::NoPort, PACKETS));
    sends(&node, &datagram(&WEB, 50_321));
    node.age_all(601 * HZ);
    assert_eq!(insist(&node, &packet), (Outcome::NoPort, PACKETS));
}

/// Only the way out of one flow is not over: that is looked at as well.
#[test]
fn a_flow_is_over_when_both_directions_are() {
    let mut node = full_but(&[]);
    node.time_out(replies(50_321));
    let packet = datagram(&DATABASE, OUTSIDE);
    assert_eq!(insist(&node, &packet), (Outcome::NoPort, PACKETS));
    assert_eq!(try_once(&node, &packet), Outcome::NoPort);
}

/// Connections have hours, and lose them with a FIN of one side, or where both begin anew.
#[test]
fn a_connection_that_ends_early_is_noticed_in_time() {
    let segment = |pod: &Pod, port, flags| tcp((pod.address, port), REMOTE_END, flags).of(pod);
    let reply = |port, flags| tcp(REMOTE_END, (NODE, port), flags).bytes();
    let ended = 50_321;
    for (out, back, seconds) in [
        (FIN | ACK, ACK, TIMEOUTS.tcp_closing),
        (SYN, SYN | ACK, TIMEOUTS.tcp_opening),
    ] {
        let mut node = Node::new();
        for port in PORTS {
            sends(&node, &segment(&WEB, port, SYN));
            sends(&node, &segment(&WEB, port, ACK));
            let _ = node.run(programs::FROM_UPLINK, &reply(port, ACK));
        }
        let syn = segment(&DATABASE, OUTSIDE, SYN);
        assert_eq!(insist(&node, &syn), (Outcome::NoPort, PACKETS));
        sends(&node, &segment(&WEB, ended, out));
        let _ = node.run(programs::FROM_UPLINK, &reply(ended, back));
        node.age_all((seconds + 1) * HZ + 1);
        assert_eq!(insist(&node, &syn).0, Outcome::Leaves);
        let tuple = Tuple::tcp((DATABASE.address, OUTSIDE), REMOTE_END);
        assert_eq!(node.flow(tuple).port.to_host(), ended);
    }
}

/// Where a configuration gives connections less than handshakes, one may end early that is answered.
#[test]
fn a_connection_that_opens_may_shorten_its_time() {
    let segment = |pod: &Pod, port, flags| tcp((pod.address, port), REMOTE_END, flags).of(pod);
    let opened = 50_321;
    let mut node = Node::new();
    let seconds = TIMEOUTS.tcp_opening / 10;
    node.set_timeouts(Timeouts {
        tcp_established: seconds,
        ..TIMEOUTS
    });
    for port in PORTS {
        sends(&node, &segment(&WEB, port, SYN));
    }
    let syn = segment(&DATABASE, OUTSIDE, SYN);
    assert_eq!(insist(&node, &syn), (Outcome::NoPort, PACKETS));
    sends(&node, &segment(&WEB, opened, ACK));
    let reply = tcp(REMOTE_END, (NODE, opened), ACK).bytes();
    let _ = node.run(programs::FROM_UPLINK, &reply);
    node.age_all((seconds + 1) * HZ + 1);
    assert_eq!(insist(&node, &syn).0, Outcome::Leaves);
    let tuple = Tuple::tcp((DATABASE.address, OUTSIDE), REMOTE_END);
    assert_eq!(node.flow(tuple).port.to_host(), opened);
}

fn destination() -> Destination {
    Destination {
        address: Be32::from(REMOTE),
        port: Be16::from_host(REMOTE_END.1),
        protocol: UDP.into(),
    }
}

#[test]
fn of_two_cpus_one_searches() {
    let mut node = full_but(&[]);
    let packet = datagram(&DATABASE, OUTSIDE);
    assert_eq!(try_once(&node, &packet), Outcome::GoesOn);
    let searches = node.searches();
    assert_eq!(searches.len(), 1);
    node.set_searching(destination(), true);
    for _ in 0..PACKETS {
        assert_eq!(try_once(&node, &packet), Outcome::GoesOn);
    }
    assert_eq!(node.searches(), searches);
    node.set_searching(destination(), false);
    assert_eq!(insist(&node, &packet), (Outcome::NoPort, PACKETS - 1));
}

/// A port that is given back because there is no room for the other half of the flow.
#[test]
fn a_port_that_is_given_back_voids_what_is_known() {
    let mut node = Node::with_flow_table(1);
    let known = Search {
        in_use: 1000,
        until: u32::MAX / 4,
        ..Search::default()
    };
    node.set_search(destination(), known);
    let packet = datagram(&DATABASE, OUTSIDE);
    node.to_uplink(&packet).drops(Reason::FlowTableFull, &[]);
    assert_eq!(node.searches(), []);
}

/// Four CPUs want more ports than there are: each is given once, and nobody goes without while there is
/// one.
#[test]
fn cpus_share_the_ports_out() {
    const CPUS: u16 = 4;
    const FLOWS: u16 = 300;
    let node = Node::new();
    let (left, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for cpu in 0..CPUS {
            let (node, left, refused) = (&node, &left, &refused);
            scope.spawn(move || {
                for flow in 0..FLOWS {
                    let frame = datagram(&WEB, OUTSIDE + cpu * FLOWS + flow).bytes();
                    // Others may search in the place of this one, so there is no telling how often.
                    let is_out = (0..1000).any(|_| {
                        let (verdict, _) = node.run(programs::TO_UPLINK, &frame);
                        verdict == Verdict::Passes
                    });
                    let count = if is_out { left } else { refused };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (left, refused) = (left.into_inner(), refused.into_inner());
    assert_eq!(
        (left, refused),
        (PORTS.len(), usize::from(CPUS * FLOWS) - PORTS.len())
    );
    let flows = node.flows();
    assert_eq!(flows.len(), 2 * PORTS.len());
    let flows_of_web = i64::try_from(PORTS.len()).unwrap();
    assert_eq!(node.shares()[&WEB.address], flows_of_web);
    for (tuple, flow) in flows
        .iter()
        .filter(|(tuple, _)| tuple.source().0 == WEB.address)
    {
        let replies = tuple.sent_from(NODE, flow.port.to_host()).reversed();
        assert_eq!(
            (
                Ipv4Addr::from(flows[&replies].address),
                flows[&replies].port.to_host()
            ),
            tuple.source()
        );
    }
    assert!(!node.is_searching());
}
