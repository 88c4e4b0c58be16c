//! STATUS: whether an ADD could work.

use serde_json::json;

use crate::fixture::{Node, TIERS, Tier};

#[test]
fn a_healthy_node_is_ready_before_and_after_the_first_pod() {
    for tier in TIERS {
        let node = Node::new(tier);
        let before = node.traces();
        node.call("STATUS", &json!({})).ok();
        assert_eq!(node.traces(), before);
        let container = node.container();
        container.add();
        let before = node.traces();
        node.call("STATUS", &json!({})).ok();
        assert_eq!(node.traces(), before);
        container.del().ok();
    }
}

#[test]
fn it_says_what_is_in_the_way() {
    let node = Node::new(Tier::Tcx);
    node.install_plugin(
        "full",
        r#"echo '{"code":50,"msg":"all are taken"}'; exit 1"#,
    );
    for (extra, code, names) in [
        (json!({ "ipam": { "type": "full" } }), 50, "all are taken"),
        (json!({ "ipam": { "type": "missing" } }), 50, "missing"),
        (json!({ "master": "eth7" }), 50, "eth7"),
        (json!({ "mode": "transparent" }), 7, "transparent"),
    ] {
        let (found, text) = node.call("STATUS", &extra).error();
        assert!(
            found == code && text.contains(names),
            "{extra}: {found} {text}"
        );
    }
}

#[test]
fn a_node_without_its_nic_says_that_pods_suffer() {
    let node = Node::new(Tier::Tcx);
    node.container().add();
    node.sh("ip link delete eth0");
    let (code, text) = node.call("STATUS", &json!({})).error();
    assert!(code == 51 && text.contains("eth0"), "{code} {text}");
}

#[test]
fn a_tier_that_cannot_be_had_is_named() {
    let node = Node::new(Tier::Tcx);
    node.sh("umount /sys/fs/bpf");
    node.sh("mount -t tmpfs none /sys/fs");
    let (code, text) = node.call("STATUS", &json!({})).error();
    assert!(code == 50 && text.contains("/sys/fs/bpf"), "{code} {text}");
    node.call("STATUS", &json!({ "masquerade": { "datapath": "auto" } }))
        .ok();
}

/// What an ADD would ask for is asked before: ports are the eBPF tier's concern alone.
#[test]
fn ports_that_an_add_would_lack_are_named_by_status_and_asked_by_no_other_tier() {
    let node = Node::new(Tier::Tcx);
    let vm = node.vm();
    vm.set_sysctl("ipv4/ip_local_port_range", "1024 65535")
        .unwrap();
    let (code, text) = node.call("STATUS", &json!({})).error();
    assert!(
        code == 50 && text.contains("net.ipv4.ip_local_port_range"),
        "{code} {text}"
    );
    for datapath in ["auto", "netfilter", "off"] {
        node.call("STATUS", &json!({ "masquerade": { "datapath": datapath } }))
            .ok();
    }
    let (code, text) = node.container().call("ADD", &json!({})).error();
    assert!(
        code == 7 && text.contains("net.ipv4.ip_local_port_range"),
        "{code} {text}"
    );
}

#[test]
fn an_add_is_tried_whatever_it_said() {
    let node = Node::with_pool(Tier::Tcx, 1);
    let (first, second) = (node.container(), node.container());
    first.add();
    let (code, _) = node.call("STATUS", &json!({})).error();
    assert_eq!(code, 50);
    first.del().ok();
    second.add();
    second.del().ok();
}
