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

/// What no ADD would mend is said, with the command; what the next ADD mends keeps no pod away.
#[test]
fn what_keeps_packets_from_their_way_is_named() {
    for tier in TIERS {
        let node = Node::new(tier);
        let container = node.container();
        container.add();
        for (broken, mended, names) in [
            (
                "iptables -P FORWARD DROP",
                "iptables -P FORWARD ACCEPT",
                "iptables-nft -A FORWARD -i azure0 -j ACCEPT",
            ),
            (
                "ip route del default",
                "ip route add default via 10.0.0.1 dev eth0",
                "no way to the world",
            ),
            (
                "ip rule add from 10.0.0.5 to 13.0.0.0/8 pref 100 prohibit",
                "ip rule del pref 100",
                "ip rule del pref 100",
            ),
        ] {
            node.sh(broken);
            let (code, text) = node.call("STATUS", &json!({})).error();
            assert!(
                code == 51 && text.contains(names),
                "{broken}: {code} {text}"
            );
            node.sh(mended);
            node.call("STATUS", &json!({})).ok();
        }
        // Whoever lets some of it through has thought of pods.
        node.sh("iptables -P FORWARD DROP");
        node.sh("iptables -A FORWARD -i azure0 -d 10.0.0.0/8 -j ACCEPT");
        node.call("STATUS", &json!({})).ok();
        node.sh("iptables -F FORWARD");
        node.sh("iptables -P FORWARD ACCEPT");
        for broken in [
            "ip route flush dev azure0",
            "sysctl -qw net.ipv4.ip_forward=0",
        ] {
            node.sh(broken);
            node.call("STATUS", &json!({})).ok();
        }
        container.del().ok();
    }
}

/// Pods of a node whose firewall was there first would have no network: said before there is one.
#[test]
fn a_forward_chain_that_drops_is_named_before_the_first_pod() {
    let node = Node::new(Tier::Tcx);
    node.sh("iptables -P FORWARD DROP");
    let (code, text) = node.call("STATUS", &json!({})).error();
    assert!(code == 51 && text.contains("FORWARD"), "{code} {text}");
    node.sh("iptables -A FORWARD -i azure0 -j ACCEPT");
    node.call("STATUS", &json!({})).ok();
}
