//! New and removed addresses, and a source that does not answer: no ADD that can be served waits for it.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    node::{Node, address, message, silent_success, stderr},
    wireserver::{Answer, Gate, nic},
};

/// A node that has asked once, and finds every snapshot too old from now on.
fn always_due(pods: usize) -> Node {
    let mut node = Node::with(pods);
    node.add("c1");
    node.ipam = json!({"queryInterval": 0});
    node
}

/// The ADD is over before the source has answered, and the answer is there for the next one.
#[test]
fn an_add_that_can_be_served_does_not_wait_for_the_source() {
    let node = always_due(2);
    let gate = Arc::new(Gate::default());
    node.server
        .set(Answer::XmlBehind(Arc::clone(&gate), nic(3)));
    let before = node.record()["fetchedAt"].clone();
    let output = node.call("ADD", "c2");
    assert_eq!(address(&output), "10.20.0.6/22");
    assert_eq!(stderr(&output), "");
    assert_eq!(node.record()["fetchedAt"], before, "the gate is closed");
    gate.open();
    node.eventually(|record| record["fetchedAt"] != before);
    assert_eq!(node.server.requests(), 2);
    assert_eq!(node.add("c3"), "10.20.0.7/22", "the new ipconfig");
}

#[test]
fn of_many_adds_that_find_the_snapshot_old_one_asks() {
    let mut node = Node::with(30);
    node.add("c0");
    node.ipam = json!({"queryInterval": 3600});
    // An old snapshot, as far as anybody can tell.
    let path = node.state("ipam.json");
    let (old, new) = (&node.record()["askedAt"], json!(1));
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace(&format!("\"askedAt\":{old}"), &format!("\"askedAt\":{new}"));
    std::fs::write(&path, resealed(&text)).unwrap();
    let calls: Vec<_> = (1..30)
        .map(|number| node.start("ADD", &format!("c{number}")))
        .collect();
    for call in calls {
        address(&call.wait_with_output().unwrap());
    }
    node.eventually(|record| record["fetchedAt"] == record["askedAt"]);
    assert_eq!(node.server.requests(), 2);
}

/// The record with its checksum put right.
pub fn resealed(text: &str) -> String {
    let (_, state) = text.split_once("\"state\":").unwrap();
    let state = state.trim_end().strip_suffix('}').unwrap();
    let crc32 = crc32fast::hash(state.as_bytes());
    format!("{{\"version\":1,\"crc32\":{crc32},\"state\":{state}}}\n")
}

/// Nobody is there to read what a call in the background has to say, so the next one says it, once.
#[test]
fn an_unreachable_source_is_replaced_by_the_snapshot() {
    let mut node = always_due(5);
    node.ipam = json!({"wireserver": "http://127.0.0.1:1", "queryInterval": 0});
    assert_eq!(node.add("c2"), "10.20.0.6/22");
    node.eventually(|record| record["problem"] != "");
    node.ipam = json!({"queryInterval": 3600});
    let warning = stderr(&node.call("ADD", "c3"));
    assert!(
        warning.contains(" WARN no answer from the wireserver"),
        "{warning}"
    );
    assert!(warning.contains("Connection refused"), "{warning}");
    assert_eq!(warning.lines().count(), 1, "{warning}");
    assert_eq!(stderr(&node.call("ADD", "c4")), "");
}

#[test]
fn a_silent_source_costs_no_call_anything() {
    let node = always_due(5);
    node.server.set(Answer::Silence);
    for container in ["c2", "c3", "c4"] {
        let output = node.call("ADD", container);
        address(&output);
        // Had it waited, it would say what for.
        assert_eq!(stderr(&output), "");
        assert_eq!(node.record()["problem"], "");
    }
    node.del("c1");
}

/// With nothing left, there is something to wait for.
#[test]
fn an_exhausted_pool_asks_at_once() {
    let mut node = Node::with(1);
    node.add("c1");
    node.ipam = json!({"queryInterval": 3600});
    node.server.set(Answer::Xml(nic(2)));
    assert_eq!(node.add("c2"), "10.20.0.6/22");
    node.server.set(Answer::Status(404));
    assert_eq!(node.refused("c3")["code"], 110);
}

#[test]
fn a_removed_ipconfig_is_not_given_out_and_its_pod_is_reported() {
    let mut node = always_due(1);
    let result = node.call("ADD", "c1").stdout;
    let only = nic(3).replace("10.20.0.5", "10.20.0.9");
    node.server.set(Answer::Xml(only));
    let before = node.record()["fetchedAt"].clone();
    // The pool is exhausted, so this asks itself.
    let output = node.call("ADD", "c2");
    assert_eq!(address(&output), "10.20.0.6/22");
    assert_ne!(node.record()["fetchedAt"], before);
    let report = stderr(&output);
    assert!(
        report.contains("10.20.0.5 is not an ipconfig of this VM any more"),
        "{report}"
    );
    assert!(report.contains("\"c1\""), "{report}");

    let status = node.call("STATUS", "");
    silent_success(&status);
    assert!(stderr(&status).contains("10.20.0.5"));
    node.members = json!({"prevResult": serde_json::from_slice::<Value>(&result).unwrap()});
    let error = node.fails("CHECK", "c1");
    assert_eq!(error["code"], 113);
    assert!(message(&error).contains("not an ipconfig"), "{error}");

    // The pod keeps it, as long as it lives; nobody gets it after that.
    assert_eq!(node.add("c1"), "10.20.0.5/22");
    node.del("c1");
    assert_eq!(node.add("c3"), "10.20.0.7/22");
    assert_eq!(node.add("c4"), "10.20.0.9/22");
    assert_eq!(node.refused("c5")["code"], 110);
}
