//! GC: what dead attachments had is free again, and nothing else is touched.

use serde_json::{Value, json};

use crate::node::{Node, message, silent_success, stderr};

const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// `c1` with two interfaces and `c2` in the network, `c2` in another one as well.
fn used() -> Node {
    let mut node = Node::with(9);
    node.add("c1");
    node.add("c2");
    node.ifname = "eth1";
    node.add("c1");
    node.ifname = "eth0";
    node.network = "other";
    node.add("c2");
    node.network = "azure";
    node
}

/// The attachments that have an address.
fn holders(node: &Node) -> Vec<String> {
    let record = std::fs::read(node.state("ipam.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    let leases = record["state"]["pool"]["leases"].as_array().unwrap().iter();
    let text = |lease: &Value, key: &str| lease[key].as_str().unwrap().to_owned();
    let names =
        leases.map(|lease| ["network", "containerId", "ifname"].map(|key| text(lease, key)));
    let mut names: Vec<String> = names.map(|names| names.join("/")).collect();
    names.sort();
    names
}

fn gc(node: &mut Node, members: Value) -> String {
    node.members = members;
    let output = node.call("GC", "");
    silent_success(&output);
    stderr(&output)
}

#[test]
fn the_dead_lose_their_addresses_under_either_key() {
    for keys in [&KEYS[..1], &KEYS[1..], &KEYS[..]] {
        let mut node = used();
        let valid = json!([{"containerID": "c1", "ifname": "eth0"}]);
        let members = keys.iter().map(|key| ((*key).to_owned(), valid.clone()));
        let log = gc(&mut node, Value::Object(members.collect()));
        assert_eq!(holders(&node), ["azure/c1/eth0", "other/c2/eth0"]);
        assert!(log.contains("10.20.0.6") && log.contains("\"c2\""), "{log}");
        assert_eq!(log.lines().count(), 2, "{log}");
        node.members = json!({});
        assert_eq!(node.add("c3"), "10.20.0.9/22", "the freed ones come last");
    }
}

#[test]
fn no_valid_attachment_is_none() {
    for empty in [json!(null), json!([])] {
        let mut node = used();
        gc(&mut node, json!({"cni.dev/valid-attachments": empty}));
        assert_eq!(holders(&node), ["other/c2/eth0"]);
        assert_eq!(gc(&mut node, json!({"cni.dev/attachments": []})), "");
    }
}

#[test]
fn a_malformed_call_frees_nothing() {
    let mut node = used();
    for members in [
        json!({}),
        json!({"cni.dev/attachments": {}}),
        json!({"cni.dev/attachments": [{"containerID": "c1"}]}),
    ] {
        node.members = members;
        let error = node.fails("GC", "");
        assert_eq!(error["code"], 7);
        assert!(message(&error).contains("nothing was removed"), "{error}");
        assert_eq!(holders(&node).len(), 4);
    }
    node.cni_version = "1.0.0";
    node.members = json!({"cni.dev/attachments": []});
    assert_eq!(node.fails("GC", "")["code"], 1);
}

#[test]
fn without_any_state_there_is_nothing_to_do() {
    let mut node = Node::with(1);
    gc(&mut node, json!({"cni.dev/attachments": []}));
    assert!(!node.state("").exists());
    assert_eq!(node.server.requests(), 0);
}
