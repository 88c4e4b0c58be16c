//! `azure-vnet teardown`: the VM as it was before its first pod, whatever the tier.

use std::time::Duration;

use azure_vnet_testbed::process::{Error, Output};

use crate::fixture::{Node, TIERS};
use crate::picture::difference;

#[track_caller]
fn fails_with(output: &Output, words: &str) {
    assert!(!output.status.success(), "{output:?}");
    assert!(output.stderr.contains(words), "{output:?}");
}

#[track_caller]
fn is_as_before(node: &Node, before: &[String], when: &str) {
    let difference = difference(&node.picture(), before);
    assert_eq!(difference, None, "{:?}, {when}", node.tier);
}

#[test]
fn the_vm_is_as_it_was_before_its_first_pod() {
    for tier in TIERS {
        let node = Node::new(tier);
        let nothing = node.teardown(&[]).output().unwrap();
        assert!(nothing.status.success(), "{nothing:?}");
        node.sh("ip addr add 10.0.15.99/20 dev eth0 label eth0:app");
        node.sh("ip rule add pref 77 iif eth0 lookup 99");
        let before = node.picture();

        let pod = node.container();
        pod.add();
        let meanwhile = node.picture();
        let refused = node.teardown(&[]).output().unwrap();
        fails_with(&refused, "1 pod is attached to azure0");
        fails_with(&refused, &pod.host_veth());
        is_as_before(&node, &meanwhile, "refused");
        let unknown = node.teardown(&["--bridge", "br7"]).output().unwrap();
        fails_with(
            &unknown,
            "br7 is not a bridge of azure-vnet on this node (it has azure0)",
        );

        pod.del().ok();
        let done = node.teardown(&["--bridge", "azure0"]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        is_as_before(&node, &before, "after the last pod");

        // Once more, with a pod that lives; its DEL finds nothing left to do but IPAM's part.
        let pod = node.container();
        pod.add();
        let done = node.teardown(&["--force"]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        is_as_before(&node, &before, "by force");
        pod.del().ok();
        is_as_before(&node, &before, "by force, after DEL");
    }
}

#[test]
fn killed_at_any_moment_the_next_one_ends_it() {
    for tier in TIERS {
        let node = Node::new(tier);
        let before = node.picture();
        let mut killed = 0;
        for step in 1..=20 {
            let pod = node.container();
            pod.add();
            pod.del().ok();
            let limit = Duration::from_millis(2 * step);
            match node.teardown(&[]).limit(limit).output() {
                // Longer limits would be the same.
                Ok(_) if step > 5 => break,
                Ok(_) => {}
                Err(Error::TimeLimit { .. }) => killed += 1,
                Err(error) => panic!("{error}"),
            }
            if step % 2 == 0 {
                // A DEL comes first, and finds the node between two states.
                pod.del().ok();
            }
            let done = node.teardown(&[]).output().unwrap();
            assert!(
                done.status.success(),
                "{tier:?}, killed after {limit:?}: {done:?}"
            );
            is_as_before(&node, &before, &format!("killed after {limit:?}"));
        }
        assert!(killed > 0, "{tier:?}: none was killed");
    }
}
