//! The node's own traffic while its network moves to the bridge and back: a first ADD costs a node a few packets at the most, and no connection.

use azure_vnet_testbed::steady::{Steady, Tally};

use crate::fixture::{Node, TIERS};

/// Of pings that are a millisecond apart.
const MAY_BE_LOST: usize = 5;

fn during(node: &Node, what: &str, work: impl FnOnce()) {
    let traffic = Steady::start(node.vm().namespace(), &node.azure().internet).unwrap();
    work();
    let tally: Tally = traffic
        .end()
        .unwrap_or_else(|error| panic!("{:?}, {what}: {error}", node.tier));
    println!("{:?}, {what}: {tally}", node.tier);
    assert!(
        tally.lost <= MAY_BE_LOST,
        "{:?}, {what}: {tally}",
        node.tier
    );
}

#[test]
fn the_node_loses_no_connection_and_next_to_no_packet() {
    for tier in TIERS {
        let node = Node::new(tier);
        let pod = node.container();
        during(&node, "the first ADD", || drop(pod.add()));
        during(&node, "another ADD and DEL", || {
            let other = node.container();
            other.add();
            other.del().ok();
        });
        pod.del().ok();
        during(&node, "teardown", || {
            let done = node.teardown(&[]).output().unwrap();
            assert!(done.status.success(), "{done:?}");
        });
    }
}
