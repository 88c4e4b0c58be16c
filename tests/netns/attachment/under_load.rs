//! The node's own traffic beside its first pod, another, and a teardown: the NIC is not touched, so none of it is lost.

use azure_vnet_testbed::steady::Steady;

use crate::fixture::{Node, TIERS, Tier};

/// The queueing discipline that filters hang on is another matter: while it comes or goes the kernel stops the NIC's queues
/// (`qdisc_graft`) and waits for RCU, for as long as a busy machine takes. Connections outlive that.
fn may_lose(tier: Tier) -> bool {
    tier == Tier::ClsBpf
}

fn nothing_is_lost(node: &Node, what: &str, work: impl FnOnce()) {
    let traffic = Steady::start(node.vm().namespace(), &node.azure().internet).unwrap();
    work();
    let tally = traffic
        .end()
        .unwrap_or_else(|error| panic!("{:?}, {what}: {error}", node.tier));
    println!("{:?}, {what}: {tally}", node.tier);
    assert!(
        tally.lost == 0 || may_lose(node.tier),
        "{:?}, {what}: {tally}",
        node.tier
    );
}

#[test]
fn the_node_loses_no_connection_and_no_packet() {
    for tier in TIERS {
        let node = Node::new(tier);
        for what in ["the first pod", "another"] {
            nothing_is_lost(&node, what, || {
                let pod = node.container();
                pod.add();
                pod.del().ok();
            });
        }
        nothing_is_lost(&node, "teardown", || {
            let done = node.teardown(&[]).output().unwrap();
            assert!(done.status.success(), "{done:?}");
        });
    }
}
