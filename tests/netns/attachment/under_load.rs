//! The node's own traffic while its network moves to the bridge and back: a first ADD costs a node a few packets at the most, a
//! teardown as many as the kernel drops at a port that leaves, and neither a connection.

use azure_vnet_testbed::steady::{Steady, Tally};

use crate::fixture::{Node, TIERS, Tier};

/// Of pings that are a millisecond apart.
const MAY_BE_LOST: usize = 5;

/// How many nodes may lose more. A busy machine may keep the plugin waiting between two steps for as long as it likes, and
/// that is no news about the steps.
const TRIES: usize = 3;

fn during(node: &Node, what: &str, work: impl FnOnce()) -> Tally {
    let traffic = Steady::start(node.vm().namespace(), &node.azure().internet).unwrap();
    work();
    let tally: Tally = traffic
        .end()
        .unwrap_or_else(|error| panic!("{:?}, {what}: {error}", node.tier));
    println!("{:?}, {what}: {tally}", node.tier);
    tally
}

/// A node whose network has moved to the bridge.
fn moved(tier: Tier) -> Node {
    let mut tallies = Vec::new();
    for _ in 0..TRIES {
        let node = Node::new(tier);
        let pod = node.container();
        let first = during(&node, "the first ADD", || drop(pod.add()));
        pod.del().ok();
        if first.lost <= MAY_BE_LOST {
            drop(pod);
            return node;
        }
        tallies.push(first.to_string());
    }
    panic!("{tier:?}: {tallies:?}");
}

#[test]
fn the_node_loses_no_connection_and_next_to_no_packet() {
    for tier in TIERS {
        let node = moved(tier);
        let another = during(&node, "another ADD and DEL", || {
            let other = node.container();
            other.add();
            other.del().ok();
        });
        assert_eq!(another.lost, 0, "{tier:?}: {another}");
        // How many are lost is for the kernel to say: what comes in between the end of the port's forwarding and that of the port
        // (`del_nbp`) is dropped, and it waits for RCU in between.
        during(&node, "teardown", || {
            let done = node.teardown(&[]).output().unwrap();
            assert!(done.status.success(), "{done:?}");
        });
    }
}
