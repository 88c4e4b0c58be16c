//! Addresses and subnets that are asked for in particular, and those that nobody may have.

use serde_json::json;

use crate::node::{Node, message};

#[test]
fn particular_addresses_and_subnets() {
    let mut node = Node::with(5);
    node.ipam = json!({"ipAddress": "10.20.0.8", "subnet": "10.20.0.0/22"});
    assert_eq!(node.add("c1"), "10.20.0.8/22");
    assert_eq!(node.refused("c2")["code"], 111);
    // The VM's own address, the gateway, and one of nobody.
    for address in ["10.20.0.4", "10.20.0.1", "10.20.0.200"] {
        node.ipam = json!({"ipAddress": address});
        let error = node.refused("c2");
        assert_eq!(error["code"], 111);
        assert!(message(&error).contains(address));
    }
    node.ipam = json!({"subnet": "10.99.0.0/16"});
    assert_eq!(node.refused("c2")["code"], 111);
}

/// The same wish in each of the places, and what is below it in rank asking for something else.
#[test]
fn the_runtime_asks_for_an_address() {
    let mut node = Node::with(9);
    node.ipam = json!({"ipAddress": "10.20.0.5"});
    let cni = json!({"cni": {"ips": ["10.20.0.7"]}});
    for (members, args, expected) in [
        (
            json!({"runtimeConfig": {"ips": ["10.20.0.6"]}, "args": cni}),
            "IP=10.20.0.8",
            "10.20.0.6/22",
        ),
        (
            json!({"args": cni}),
            "IP=10.20.0.8;K8S_POD_NAME=web",
            "10.20.0.7/22",
        ),
        (
            json!({}),
            "MAC=02:00:00:00:00:01;IP=10.20.0.8",
            "10.20.0.8/22",
        ),
        (
            json!({"runtimeConfig": {"IPs": ["10.20.0.9/24"]}}),
            "",
            "10.20.0.9/22",
        ),
        (json!({"runtimeConfig": {"ips": []}}), "", "10.20.0.5/22"),
    ] {
        node.members = members;
        node.args = args;
        assert_eq!(node.add(expected.split('/').next().unwrap()), expected);
    }
    node.ipam = json!({});
    node.members = json!({});
    assert_eq!(node.add("other"), "10.20.0.10/22");
}

#[test]
fn an_address_that_cannot_be_had_is_refused_and_none_is_taken() {
    let mut node = Node::with(3);
    node.add("c1");
    for (ips, code, text) in [
        (json!(["10.20.0.5"]), 111, "in use by container \"c1\""),
        (json!(["10.20.0.4"]), 111, "an address of this node itself"),
        (json!(["192.0.2.1/24"]), 111, "not a secondary address"),
        (json!(["10.20.0.6", "10.20.0.7"]), 2, "10.20.0.7"),
        (json!(["2001:db8::5"]), 2, "2001:db8::5"),
        (json!(["x"]), 7, "\"x\""),
    ] {
        node.members = json!({"runtimeConfig": {"ips": ips}});
        let error = node.refused("c2");
        assert_eq!(error["code"], code, "{error}");
        let message = message(&error);
        assert!(
            message.contains("runtimeConfig.ips") && message.contains(text),
            "{error}"
        );
    }
    node.members = json!({});
    node.args = "IP=10.20.0.999";
    assert_eq!(node.refused("c2")["code"], 4);
    node.args = "";
    assert_eq!(node.add("c2"), "10.20.0.6/22");
    // An attachment keeps what it has.
    node.args = "IP=10.20.0.7";
    assert_eq!(node.refused("c2")["code"], 111);
}

#[test]
fn the_nodes_own_addresses_are_nobodys() {
    let mut node = Node::with(3);
    node.ipam = json!({"queryInterval": 3600});
    node.add("c1");
    node.own = vec!["10.20.0.6"];
    assert_eq!(node.add("c2"), "10.20.0.7/22");
    node.del("c2");
    node.args = "IP=10.20.0.6";
    let error = node.refused("c2");
    assert_eq!(error["code"], 111);
    assert!(message(&error).contains("an address of this node itself"));
    node.args = "";
    node.own = vec!["10.20.0.6", "10.20.0.7"];
    for error in [node.refused("c2"), node.fails("STATUS", "")] {
        assert!(
            message(&error).contains("2 are configured on this node's own links"),
            "{error}"
        );
    }
}
