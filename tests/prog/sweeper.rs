//! Whoever begins a flow looks at two old ones and forgets those that are over, so that the table
//! cannot fill up with what nobody needs any more.

use azure_vnet_abi::{Be16, Reason};

use crate::flows::{Change, Tuple, inbound, masqueraded};
use crate::harness::Node;
use crate::packet::udp;
use crate::plan::{DATABASE, KEPT, NODE, REMOTE, WEB};

/// The key of the flow that `WEB` has from this port, which is kept.
fn tuple(port: u16) -> Tuple {
    Tuple::udp((WEB.address, port), (REMOTE, 53))
}

fn halves(port: u16) -> [Tuple; 2] {
    [tuple(port), tuple(port).sent_from(NODE, port).reversed()]
}

/// Begins that flow, which sweeps `gone` away.
#[track_caller]
fn begins(node: &Node, port: u16, gone: &[u16]) {
    let sent = udp((WEB.address, port), (REMOTE, 53)).of(&WEB);
    let left = udp((NODE, port), (REMOTE, 53)).leaving();
    let mut changes = masqueraded(tuple(port), &WEB, port).to_vec();
    changes.extend(removed(gone));
    node.to_uplink(&sent)
        .passes(Reason::FlowCreated, &left, &changes);
}

fn removed(ports: &[u16]) -> impl Iterator<Item = Change> {
    ports
        .iter()
        .flat_map(|port| halves(*port))
        .map(Change::Removed)
}

fn time_out(node: &mut Node, port: u16) {
    for half in halves(port) {
        node.time_out(half);
    }
}

#[test]
fn a_new_flow_forgets_two_that_are_over() {
    let mut node = Node::new();
    for port in KEPT..KEPT + 3 {
        begins(&node, port, &[]);
    }
    for port in KEPT..KEPT + 3 {
        time_out(&mut node, port);
    }
    let before = node.flows().len();
    // Which two stand first in line follows from how often each was looked at.
    let _ = node.to_uplink(&udp((WEB.address, KEPT + 10), (REMOTE, 53)).of(&WEB));
    assert_eq!(node.flows().len(), before - 2 * 2 + 2);
    let _ = node.to_uplink(&udp((WEB.address, KEPT + 11), (REMOTE, 53)).of(&WEB));
    assert_eq!(node.flows().len(), 4, "only the two new flows are left");
}

/// Nobody looks at entries that can hardly be over, unless there is no room.
#[test]
fn what_is_new_in_line_is_looked_at_when_room_is_needed() {
    let mut node = Node::new();
    begins(&node, KEPT, &[]);
    for half in halves(KEPT) {
        let mut flow = node.flow(half);
        flow.last_seen = flow.last_seen.wrapping_sub(flow.timeout + 1);
        node.set_flow(half, flow);
    }
    begins(&node, KEPT + 1, &[]);
    node.set_flows_per_pod(2);
    begins(&node, KEPT + 2, &[KEPT]);
}

#[test]
fn what_lives_stays_and_is_looked_at_again() {
    let mut node = Node::new();
    begins(&node, KEPT, &[]);
    for port in KEPT + 1..KEPT + 4 {
        begins(&node, port, &[]);
    }
    time_out(&mut node, KEPT);
    // By now it stands anywhere in line, but not further back than the four that there are.
    let mut begun = 0;
    while node.flows().contains_key(&tuple(KEPT)) {
        begun += 1;
        assert!(begun <= 4, "it was not looked at again");
        let port = KEPT + 10 + begun;
        let _ = node.to_uplink(&udp((WEB.address, port), (REMOTE, 53)).of(&WEB));
    }
    let left = node.flows();
    assert_eq!(left.len(), 2 * usize::from(3 + begun), "nothing else went");
}

#[test]
fn a_flow_that_is_over_in_one_direction_stays() {
    for half in [0, 1] {
        let mut node = Node::new();
        begins(&node, KEPT, &[]);
        node.time_out(halves(KEPT)[half]);
        for port in KEPT + 1..KEPT + 4 {
            begins(&node, port, &[]);
        }
    }
}

#[test]
fn a_packet_of_the_flow_keeps_it() {
    let mut node = Node::new();
    begins(&node, KEPT, &[]);
    time_out(&mut node, KEPT);
    let _ = node.from_uplink(&udp((REMOTE, 53), (NODE, KEPT)));
    for port in KEPT + 1..KEPT + 4 {
        begins(&node, port, &[]);
    }
}

#[test]
fn a_flow_that_came_in_is_swept_and_sweeps() {
    let mut node = Node::new();
    let recorded = |port: u16| Tuple::udp((DATABASE.address, port), (REMOTE, 53));
    let come = |node: &Node, port: u16, gone: &[Change]| {
        let came = udp((REMOTE, 53), (DATABASE.address, port));
        let added = Change::added(inbound(recorded(port), &DATABASE));
        let changes: Vec<_> = gone.iter().copied().chain([added]).collect();
        node.from_uplink(&came)
            .passes(Reason::InboundRecorded, &came, &changes);
    };
    come(&node, 80, &[]);
    node.time_out(recorded(80));
    come(&node, 81, &[Change::Removed(recorded(80))]);
    node.time_out(recorded(81));
    let _ = node.to_uplink(&udp((WEB.address, KEPT), (REMOTE, 53)).of(&WEB));
    assert!(!node.flows().contains_key(&recorded(81)));
    time_out(&mut node, KEPT);
    let gone: Vec<_> = removed(&[KEPT]).collect();
    come(&node, 82, &gone);
}

/// The reply entry belongs to a younger flow; it lives, and is left alone.
#[test]
fn a_stranger_with_the_partners_key_stays() {
    let mut node = Node::new();
    begins(&node, KEPT, &[]);
    let [out, back] = halves(KEPT);
    let mut stranger = node.flow(back);
    stranger.port = Be16::from_host(1);
    node.set_flow(back, stranger);
    node.time_out(out);
    let _ = node.to_uplink(&udp((WEB.address, KEPT + 1), (REMOTE, 53)).of(&WEB));
    assert!(!node.flows().contains_key(&out));
    assert_eq!(node.flow(back), stranger);
}

#[test]
fn a_full_table_makes_room() {
    let mut node = Node::with_flow_table(2);
    begins(&node, KEPT, &[]);
    time_out(&mut node, KEPT);
    begins(&node, KEPT + 1, &[KEPT]);
}

/// An over flow whose place one that comes in has taken leaves nothing behind that no sweep finds.
#[test]
fn no_half_of_a_flow_is_forgotten_alone() {
    let mut node = Node::new();
    begins(&node, KEPT, &[]);
    time_out(&mut node, KEPT);
    let came = udp((REMOTE, 53), (WEB.address, KEPT));
    let [_, back] = halves(KEPT);
    let (key, entry) = inbound(tuple(KEPT), &WEB);
    node.from_uplink(&came).passes(
        Reason::InboundRecorded,
        &came,
        &[Change::Changed(key, entry), Change::Removed(back)],
    );
}
