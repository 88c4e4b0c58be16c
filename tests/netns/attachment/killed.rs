//! ADDs that are killed: the DEL that a runtime sends next leaves nothing.

use std::time::{Duration, Instant};

use crate::fixture::{Node, TIERS};

#[test]
fn killed_at_any_moment_it_leaves_nothing_behind_del() {
    for tier in TIERS {
        let (node, before) = Node::settled(tier);
        let took = time_of_an_add(&node);
        let mut killed = 0;
        for step in 1..=40 {
            let container = node.container();
            let limit = took * step / 30;
            killed += usize::from(container.add_or_kill(limit));
            container.del().ok();
            assert_eq!(node.traces(), before, "{tier:?}, killed after {limit:?}");
        }
        assert!(killed > 3, "only {killed} of 40 were killed");
    }
}

/// How long an ADD takes here and now.
fn time_of_an_add(node: &Node) -> Duration {
    let container = node.container();
    let start = Instant::now();
    assert!(!container.add_or_kill(Duration::from_mins(1)));
    let took = start.elapsed();
    container.del().ok();
    took
}
