//! CHECK: the reservation is there, and is what ADD reported.

use serde_json::{Value, json};

use crate::node::{Node, message, silent_success, stderr};

/// An attachment, with the result of its ADD as `prevResult`.
fn attached(cni_version: &'static str) -> Node {
    let mut node = Node::with(3);
    node.cni_version = cni_version;
    let added = node.call("ADD", "c1");
    let mut result: Value = serde_json::from_slice(&added.stdout).unwrap();
    // As the network plugin and others of the chain would have it.
    result["interfaces"] = json!([{"name": "eth0", "sandbox": "/run/netns/x"}]);
    let other = json!({"version": "4", "address": "192.168.7.7/24"});
    result["ips"].as_array_mut().unwrap().insert(0, other);
    node.members = json!({"prevResult": result});
    node
}

#[test]
fn right_after_add_it_succeeds() {
    for cni_version in ["0.4.0", "1.0.0", "1.1.0"] {
        let node = attached(cni_version);
        let output = node.call("CHECK", "c1");
        silent_success(&output);
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn it_neither_asks_nor_locks_nor_writes() {
    let mut node = attached("1.0.0");
    node.ipam = json!({"queryInterval": 0});
    let lock = std::fs::File::open(node.state("ipam.lock")).unwrap();
    lock.lock().unwrap();
    let before = std::fs::read(node.state("ipam.json")).unwrap();
    silent_success(&node.call("CHECK", "c1"));
    assert_eq!(std::fs::read(node.state("ipam.json")).unwrap(), before);
    assert_eq!(node.server.requests(), 1);
}

#[test]
fn a_lost_reservation_is_an_error() {
    let node = attached("1.0.0");
    node.del("c1");
    let error = node.fails("CHECK", "c1");
    assert_eq!(error["code"], 113);
    assert!(
        message(&error).contains("no address is reserved") && message(&error).contains("\"c1\"")
    );
    let mut node = Node::with(1);
    node.members = json!({"prevResult": {"ips": [{"address": "10.20.0.5/22"}]}});
    assert_eq!(node.fails("CHECK", "c1")["code"], 113);
    assert!(!node.state("").exists(), "CHECK makes no state");
}

#[test]
fn another_address_than_the_reserved_one_is_an_error() {
    let mut node = attached("1.0.0");
    for ips in [
        json!([]),
        json!([{"address": "10.20.0.6/22"}]),
        json!([{"address": "10.20.0.5/24"}]),
    ] {
        node.members["prevResult"]["ips"] = ips;
        let error = node.fails("CHECK", "c1");
        assert_eq!(error["code"], 113);
        assert!(message(&error).contains("10.20.0.5 is reserved"), "{error}");
    }
}

#[test]
fn without_the_result_of_add_there_is_nothing_to_check() {
    let mut node = attached("0.4.0");
    for members in [json!({}), json!({"prevResult": null})] {
        node.members = members;
        assert_eq!(node.fails("CHECK", "c1")["code"], 7);
    }
    node.cni_version = "0.3.1";
    assert_eq!(node.fails("CHECK", "c1")["code"], 1);
}
