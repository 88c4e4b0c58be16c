//! ADD: an address for each attachment, from a snapshot of the source.

use std::{collections::BTreeSet, process::Child};

use serde_json::{Value, json};

use crate::{
    node::{Node, address, message, silent_success},
    wireserver::{Answer, nic},
};

#[test]
fn every_version_has_its_form() {
    let mut node = Node::with(1);
    for version in [
        "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
    ] {
        node.cni_version = version;
        let output = node.call("ADD", "c1");
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        let routes = json!([{"dst": "0.0.0.0/0", "gw": "10.20.0.1"}]);
        let nic = "00:0d:3a:11:22:33";
        let dns = json!({"nameservers": ["168.63.129.16"]});
        let mut ip = json!({"address": "10.20.0.5/22", "gateway": "10.20.0.1"});
        let expected = match version {
            "0.1.0" | "0.2.0" => json!({"cniVersion": version, "dns": dns, "azure-vnet/nic": nic,
                "ip4": {"ip": "10.20.0.5/22", "gateway": "10.20.0.1", "routes": routes}}),
            _ => {
                if version < "1.0.0" {
                    ip["version"] = json!("4");
                }
                json!({"cniVersion": version, "ips": [ip], "routes": routes, "dns": dns, "azure-vnet/nic": nic})
            }
        };
        assert_eq!(result, expected);
        node.del("c1");
    }
}

#[test]
fn add_is_idempotent_and_del_makes_room_for_the_next() {
    let node = Node::with(2);
    assert_eq!(node.add("c1"), "10.20.0.5/22");
    assert_eq!(node.add("c1"), "10.20.0.5/22");
    assert_eq!(node.add("c2"), "10.20.0.6/22");
    node.del("c1");
    node.del("c1");
    node.del("never-added");
    assert_eq!(node.add("c3"), "10.20.0.5/22");
    assert_eq!(node.server.requests(), 1, "the snapshot is fresh");
}

#[test]
fn thirty_at_once_get_thirty_addresses() {
    let node = Node::with(30);
    let start = |command: &str| -> Vec<Child> {
        (0..30)
            .map(|container| node.start(command, &format!("c{container}")))
            .collect()
    };
    let adds = start("ADD").into_iter();
    let addresses: BTreeSet<String> = adds
        .map(|child| address(&child.wait_with_output().unwrap()))
        .collect();
    assert_eq!(addresses.len(), 30);
    assert_eq!(node.server.requests(), 1, "one asks for all");
    for child in start("DEL") {
        silent_success(&child.wait_with_output().unwrap());
    }
    let adds = start("ADD").into_iter();
    let again: BTreeSet<String> = adds
        .map(|child| address(&child.wait_with_output().unwrap()))
        .collect();
    assert_eq!(again, addresses);
}

#[test]
fn exhaustion_is_explained_and_ends_with_more_addresses() {
    let node = Node::with(2);
    node.add("c1");
    node.add("c2");
    let error = node.refused("c3");
    assert_eq!(error["code"], 110);
    let message = message(&error);
    assert!(message.contains("all 2 pod addresses") && message.contains("ipconfigs"));
    // An operator adds one; nobody waits for the interval.
    node.server.set(Answer::Xml(nic(3)));
    assert_eq!(node.add("c3"), "10.20.0.7/22");
}

#[test]
fn without_snapshot_a_bad_source_is_a_passing_error() {
    let node = Node::with(0);
    for (answer, text) in [
        (Answer::Status(503), "status 503"),
        (Answer::Status(301), "status 301"),
        (Answer::Xml("<html/>".into()), "<html>"),
        (Answer::Xml("not XML".into()), "expected XML"),
        (Answer::Flood, "larger than"),
    ] {
        node.server.set(answer);
        let error = node.refused("c1");
        assert_eq!(error["code"], 11, "{error}");
        assert!(message(&error).contains(text), "{error}");
    }
    node.server.set(Answer::Xml(nic(0)));
    let error = node.refused("c1");
    assert_eq!(error["code"], 110);
    assert!(message(&error).contains("no NIC"));
}

/// K8S keys, MAC and IP are known; what nobody knows is an error unless it is to be ignored.
#[test]
fn cni_args_are_those_we_know() {
    let mut node = Node::with(2);
    node.args = "FOO=1";
    let error = node.refused("c1");
    assert_eq!(error["code"], 4);
    assert!(message(&error).contains("CNI_ARGS") && message(&error).contains("\"FOO\""));
    for args in [
        "FOO=1;IgnoreUnknown=true",
        "K8S_POD_UID=u;MAC=02:00:00:00:00:01;",
    ] {
        node.args = args;
        node.add("c1");
    }
}
