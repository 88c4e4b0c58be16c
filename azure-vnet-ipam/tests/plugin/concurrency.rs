//! Hundreds of calls at once, some of them killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Child,
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::node::{Node, address, silent_success};

const PODS: usize = 120;

/// What the record says: container and address.
fn leases(node: &Node) -> BTreeMap<String, String> {
    let record = node.record();
    let leases = record["pool"]["leases"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    leases
        .map(|lease| (text(&lease["containerId"]), text(&lease["address"])))
        .collect()
}

fn start(
    node: &Node,
    command: &str,
    containers: impl Iterator<Item = usize>,
) -> Vec<(usize, Child)> {
    containers
        .map(|container| (container, node.start(command, &format!("c{container}"))))
        .collect()
}

/// The addresses of `calls`, which must all succeed.
fn added(calls: Vec<(usize, Child)>) -> BTreeMap<String, String> {
    let result = |(container, child): (usize, Child)| {
        let output = child.wait_with_output().unwrap();
        let address = address(&output).trim_end_matches("/22").to_owned();
        (format!("c{container}"), address)
    };
    calls.into_iter().map(result).collect()
}

/// DELs, which must all succeed.
fn done(calls: Vec<(usize, Child)>) {
    for (_, child) in calls {
        silent_success(&child.wait_with_output().unwrap());
    }
}

/// 250 ADDs, then 250 calls mixed: nothing is lost, nothing is there twice, nobody is turned away.
#[test]
fn two_hundred_and_fifty_at_once() {
    let node = Node::with(250);
    let given = added(start(&node, "ADD", 0..250));
    assert_eq!(given.values().collect::<BTreeSet<_>>().len(), 250);
    assert_eq!(leases(&node), given);
    assert_eq!(node.server.requests(), 1);

    // Half go while the others' runtimes ask again.
    let goers = start(&node, "DEL", (0..250).step_by(2));
    let stayers = start(&node, "ADD", (1..250).step_by(2));
    done(goers);
    let stayed = added(stayers);
    assert_eq!(leases(&node), stayed);
    assert!(
        stayed
            .iter()
            .all(|(container, address)| given[container] == *address)
    );

    let goers = start(&node, "DEL", (0..250).chain(0..5));
    done(goers);
    assert_eq!(leases(&node), BTreeMap::new());
}

/// A kill at any moment leaves a record that is whole. What the killed have taken they get again, or give back.
#[test]
fn kills_in_the_middle_leave_no_address_twice_and_none_lost() {
    let node = Node::with(PODS);
    let mut calls = start(&node, "ADD", 0..PODS);
    let mut killed = Vec::new();
    for (index, (container, child)) in calls.iter_mut().enumerate() {
        if index % 3 == 0 {
            thread::sleep(Duration::from_micros(fastrand::u64(0..3000)));
            child.kill().unwrap();
            killed.push(*container);
        }
    }
    let (dead, alive): (Vec<_>, Vec<_>) = calls
        .into_iter()
        .partition(|(container, _)| killed.contains(container));
    for (_, mut child) in dead {
        child.wait().unwrap();
    }
    let given = added(alive);
    let recorded = leases(&node);
    assert_eq!(
        recorded.values().collect::<BTreeSet<_>>().len(),
        recorded.len()
    );
    assert!(
        given
            .iter()
            .all(|(container, address)| recorded[container] == *address)
    );

    // The runtime tries again, or gives up.
    let (again, goers) = killed.split_at(killed.len() / 2);
    let goers = start(&node, "DEL", goers.iter().copied());
    let again = added(start(&node, "ADD", again.iter().copied()));
    done(goers);
    let mut expected = given;
    expected.extend(again);
    assert_eq!(leases(&node), expected);
    assert_eq!(
        expected.values().collect::<BTreeSet<_>>().len(),
        expected.len()
    );
}
