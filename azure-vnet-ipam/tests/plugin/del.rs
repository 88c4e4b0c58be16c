//! DEL: nothing keeps an attachment from giving its address back.

use serde_json::json;

use crate::node::Node;

#[test]
fn del_without_any_state_leaves_none() {
    let node = Node::with(1);
    node.del("c1");
    assert!(!node.state("").exists());
    assert_eq!(node.server.requests(), 0);
}

#[test]
fn del_works_with_a_wrong_ipam_section() {
    let mut node = Node::with(1);
    node.add("c1");
    node.ipam = json!({"environment": "moon", "subnet": [], "queryInterval": {}});
    assert_eq!(node.refused("c2")["code"], 7);
    node.del("c1");
    node.ipam = json!({});
    assert_eq!(node.add("c2"), "10.20.0.5/22");
}

#[test]
fn nothing_in_cni_args_matters() {
    let mut node = Node::with(1);
    for args in ["FOO=1", "A=B=C", ";;", "IP=x", "K8S_POD_NAME=web"] {
        node.add("c1");
        node.args = args;
        node.del("c1");
        node.args = "";
    }
}

#[test]
fn one_interface_of_a_container_is_one() {
    let mut node = Node::with(2);
    node.add("c1");
    node.ifname = "eth1";
    assert_eq!(node.add("c1"), "10.20.0.6/22");
    node.del("c1");
    node.ifname = "eth0";
    assert_eq!(node.add("c1"), "10.20.0.5/22");
}

/// containerd would take a failed DEL that says so for a success; see `failed_del` in azure-vnet-cni.
#[test]
fn a_failed_del_does_not_say_not_found() {
    let mut node = Node::with(1);
    node.network = "not found/no such file or directory";
    for version in ["1.1.0", "0.3.1"] {
        node.cni_version = version;
        let error = node.fails("DEL", "c1").to_string().to_lowercase();
        assert!(!error.contains("not found"), "{error}");
        assert!(!error.contains("no such file or directory"), "{error}");
    }
}
