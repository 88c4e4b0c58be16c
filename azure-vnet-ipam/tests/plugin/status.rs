//! STATUS: could an ADD get an address, and if not, why?

use std::fs::{self, File};

use serde_json::{Value, json};

use crate::{
    node::{Node, message, silent_success, stderr},
    wireserver::{Answer, nic},
};

fn ready(node: &Node) {
    let output = node.call("STATUS", "");
    silent_success(&output);
    assert_eq!(stderr(&output), "");
}

fn not_ready(node: &Node) -> Value {
    let error = node.fails("STATUS", "");
    assert_eq!(error["code"], 50, "{error}");
    error
}

#[test]
fn with_a_snapshot_nobody_is_asked_and_nothing_is_locked() {
    let mut node = Node::with(2);
    node.add("c1");
    node.ipam = json!({"queryInterval": 0});
    node.server.set(Answer::Silence);
    let lock = File::open(node.state("ipam.lock")).unwrap();
    lock.lock().unwrap();
    let before = fs::read(node.state("ipam.json")).unwrap();
    ready(&node);
    assert_eq!(node.server.requests(), 1);
    assert_eq!(fs::read(node.state("ipam.json")).unwrap(), before);
}

#[test]
fn before_the_first_add_the_source_is_asked_and_nothing_is_written() {
    let node = Node::with(1);
    ready(&node);
    assert_eq!(node.server.requests(), 1);
    assert!(!node.state("").exists());
}

#[test]
fn without_snapshot_a_source_that_does_not_answer_is_the_reason() {
    let mut node = Node::with(1);
    node.server.set(Answer::Status(503));
    assert!(message(&not_ready(&node)).contains("status 503"));
    node.server.set(Answer::Silence);
    assert!(message(&not_ready(&node)).contains("within 2 s"));
    node.server.set(Answer::Xml(nic(0)));
    assert!(message(&not_ready(&node)).contains("add ipconfigs"));
    node.ipam = json!({"wireserver": "http://127.0.0.1:1"});
    assert!(message(&not_ready(&node)).contains("is this an Azure VM"));
}

/// ADD is tried all the same, and asks the source before it gives up.
#[test]
fn an_exhausted_pool_is_not_ready_until_an_address_is_free() {
    let node = Node::with(1);
    node.add("c1");
    let error = not_ready(&node);
    assert!(message(&error).contains("all 1 pod addresses are in use"));
    node.server.set(Answer::Xml(nic(2)));
    node.add("c2");
    not_ready(&node);
    node.del("c1");
    ready(&node);
}

/// As an ADD would, when the last answer is old: more addresses may have come since, and only ADDs record that.
#[test]
fn a_full_pool_is_asked_for_more_when_the_last_answer_is_old() {
    let mut node = Node::with(1);
    node.add("c1");
    node.server.set(Answer::Xml(nic(2)));
    not_ready(&node);
    node.ipam = json!({"queryInterval": 0});
    ready(&node);
    assert_eq!(node.server.requests(), 2);
    assert_eq!(node.add("c2"), "10.20.0.6/22");
}

/// What keeps the pool full is that nobody gives back what dead pods have.
#[test]
fn a_pool_full_of_dead_pods_is_a_case_for_gc() {
    let node = Node::with(2);
    fs::create_dir_all(node.state("attachments")).unwrap();
    for (container, netns) in [("c1", "/run/netns/gone"), ("c2", "/proc/self/ns/net")] {
        node.add(container);
        let record = json!({"network": "azure", "container_id": container, "ifname": "eth0", "netns": netns,
            "host_veth": "azv00000000000", "bridge": "azure0", "address": "10.20.0.5"});
        let path = node.state(&format!("attachments/{container}.json"));
        fs::write(path, record.to_string()).unwrap();
    }
    for error in [not_ready(&node), node.refused("c3")] {
        let text = message(&error);
        assert!(
            text.contains("1 of the attachments is of a pod that is gone"),
            "{error}"
        );
        assert!(
            text.contains("`azure-vnet gc`") && !text.contains("add ipconfigs"),
            "{error}"
        );
    }
}

#[test]
fn a_damaged_record_is_no_reason_but_is_said() {
    let node = Node::with(2);
    node.add("c1");
    for name in ["ipam.json", "ipam.json.backup"] {
        fs::write(node.state(name), "{").unwrap();
    }
    let output = node.call("STATUS", "");
    silent_success(&output);
    assert!(stderr(&output).contains("made the record of pod addresses again"));
    assert_eq!(fs::read(node.state("ipam.json")).unwrap(), b"{");
}

#[test]
fn a_wrong_configuration_is_not_a_passing_state() {
    let mut node = Node::with(1);
    node.ipam = json!({"subnet": "moon"});
    assert_eq!(node.fails("STATUS", "")["code"], 7);
    node.ipam = json!({});
    node.cni_version = "1.0.0";
    assert_eq!(node.fails("STATUS", "")["code"], 1);
}
