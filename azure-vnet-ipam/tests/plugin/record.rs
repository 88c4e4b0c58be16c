//! The record on disk: damage, loss, and calls that do not need it.

use std::fs::{self, File};

use serde_json::{Value, json};

use crate::node::{Node, address, silent_success, stderr};

#[test]
fn a_damaged_record_is_healed_with_a_warning() {
    let node = Node::with(3);
    node.add("c1");
    fs::write(node.state("ipam.json"), [0; 64]).unwrap();
    let output = node.call("ADD", "c2");
    assert_eq!(address(&output), "10.20.0.6/22");
    let warning = stderr(&output);
    assert!(warning.contains("ipam.json") && warning.contains("backup"));
    assert_eq!(warning.lines().count(), 1, "{warning}");
    assert_eq!(stderr(&node.call("ADD", "c3")), "");
}

#[test]
fn version_and_about_need_no_lock() {
    let node = Node::with(1);
    node.add("c1");
    let lock = File::open(node.state("ipam.lock")).unwrap();
    lock.lock().unwrap();
    let output = node.call("VERSION", "");
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    let supported = [
        "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
    ];
    assert_eq!(
        reply,
        json!({"cniVersion": "1.1.0", "supportedVersions": supported})
    );
    let output = node.call("", "");
    silent_success(&output);
    assert!(stderr(&output).contains(&format!("versions supported: {}", supported.join(", "))));
}
