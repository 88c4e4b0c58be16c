//! The node's own traffic while its network moves to the bridge and back: a first ADD costs a node a few packets at the most, a
//! teardown as many as the kernel drops at a port that leaves, and neither a connection.

use azure_vnet_testbed::steady::{Steady, Tally};

use crate::fixture::{Node, TIERS};

/// Of pings that are a millisecond apart.
const MAY_BE_LOST: usize = 5;

fn during(node: &Node, what: &str, work: impl FnOnce()) -> Tally {
    let traffic = Steady::start(node.vm().namespace(), &node.azure().internet).unwrap();
    work();
    let tally: Tally = traffic
        .end()
        .unwrap_or_else(|error| panic!("{:?}, {what}: {error}", node.tier));
    println!("{:?}, {what}: {tally}", node.tier);
    tally
}

#[test]
fn the_node_loses_no_connection_and_next_to_no_packet() {
    for tier in TIERS {
        let node = Node::new(tier);
        let pod = node.container();
        let first = during(&node, "the first ADD", || drop(pod.add()));
        assert!(first.lost <= MAY_BE_LOST, "{tier:?}: {first}");
        let another = during(&node, "another ADD and DEL", || {
            let other = node.container();
            other.add();
            other.del().ok();
        });
        assert_eq!(another.lost, 0, "{tier:?}: {another}");
        pod.del().ok();
        // How many are lost is for the kernel to say: what comes in between the end of the port's forwarding and that of the port
        // (`del_nbp`) is dropped, and it waits for RCU in between.
        during(&node, "teardown", || {
            let done = node.teardown(&[]).output().unwrap();
            assert!(done.status.success(), "{done:?}");
        });
    }
}
