//! GC: what is not in use goes, and nothing else.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::{Container, Node, TIERS, Tier};

fn valid(containers: &[&Container<'_>]) -> Value {
    let valid: Vec<_> = containers
        .iter()
        .map(|container| json!({ "containerID": container.id, "ifname": container.ifname }))
        .collect();
    json!({ "cni.dev/valid-attachments": valid })
}

#[test]
fn only_what_is_in_use_stays() {
    for tier in TIERS {
        let (node, before) = Node::settled(tier);
        let (kept, stale, mut dead) = (node.container(), node.container(), node.container());
        let second = kept.second("eth1");
        let result = kept.add();
        stale.add();
        dead.add();
        second.add();
        dead.end_sandbox();
        node.call("GC", &valid(&[&kept])).ok();
        kept.check(&result).ok();
        for gone in [&stale, &dead, &second] {
            assert!(
                node.traces().about(&gone.host_veth()).is_empty(),
                "{:?}",
                node.traces()
            );
        }
        node.call("GC", &json!({ "cni.dev/attachments": null }))
            .ok();
        assert_eq!(node.traces(), before, "{tier:?}");
    }
}

#[test]
fn other_networks_are_none_of_its_business() {
    for tier in TIERS {
        let node = Node::new(tier);
        let (ours, theirs) = (node.container(), node.container());
        ours.add();
        let network = |name: &str| json!({ "name": name });
        let result = theirs.call("ADD", &network("other")).result();
        let before = node.traces();
        let mut nothing = valid(&[]);
        node.call("GC", &valid(&[&ours])).ok();
        assert_eq!(node.traces(), before);
        node.call("GC", &nothing).ok();
        theirs
            .call("CHECK", &json!({ "name": "other", "prevResult": result }))
            .ok();
        nothing["name"] = "other".into();
        node.call("GC", &nothing).ok();
        assert!(
            !node
                .vm()
                .links()
                .unwrap()
                .iter()
                .any(|link| link.starts_with("azv"))
        );
    }
}

/// The record is lost and the link is gone: what the datapath still knows goes all the same.
#[test]
fn traces_without_record_and_link_go() {
    for tier in TIERS {
        let (node, before) = Node::settled(tier);
        let mut container = node.container();
        container.add();
        node.sh(&format!(
            "rm /run/azure-vnet/attachments/{}.json",
            container.host_veth()
        ));
        container.end_sandbox();
        while node.vm().links().unwrap().contains(&container.host_veth()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        node.call("GC", &valid(&[])).ok();
        assert_eq!(node.traces(), before, "{tier:?}");
    }
}

/// Nobody knows whose pod is behind a veth when the state is lost: it may live.
#[test]
fn veths_without_a_record_are_left_alone() {
    let node = Node::new(Tier::Tcx);
    let container = node.container();
    let result = container.add();
    node.sh(&format!(
        "rm /run/azure-vnet/attachments/{}.json",
        container.host_veth()
    ));
    node.install_plugin("deaf", "exit 0");
    node.use_ipam("deaf");
    node.call("GC", &valid(&[])).ok();
    container.check(&result).ok();
    node.use_ipam("azure-vnet-ipam");
    container.del().ok();
}

#[test]
fn ipam_gets_the_call_as_it_came() {
    let node = Node::new(Tier::Tcx);
    let (kept, stale) = (node.container(), node.container());
    kept.add();
    stale.add();
    let script = r#"echo $CNI_COMMAND >>/run/calls; cat >/run/stdin; echo '{"code":123,"msg":"sulking"}'; exit 1"#;
    node.install_plugin("sulking", script);
    node.use_ipam("sulking");
    let mut extra = valid(&[&kept]);
    extra["unknown"] = json!({ "Key": [1, null] });
    let (code, text) = node.call("GC", &extra).error();
    assert!(code == 123 && text.contains("sulking"), "{text}");
    assert_eq!(node.sh("cat /run/calls"), "GC\n");
    let stdin: Value = serde_json::from_str(&node.sh("cat /run/stdin")).unwrap();
    assert_eq!(
        (&stdin["unknown"], &stdin["cni.dev/valid-attachments"]),
        (&extra["unknown"], &extra["cni.dev/valid-attachments"])
    );
    assert!(
        node.vm()
            .links()
            .unwrap()
            .iter()
            .all(|link| *link != stale.host_veth()),
        "its own half is done"
    );
    node.use_ipam("azure-vnet-ipam");
    node.call("GC", &valid(&[])).ok();
}

#[test]
fn without_a_list_nothing_goes() {
    let node = Node::new(Tier::Tcx);
    let container = node.container();
    let result = container.add();
    let (code, _) = node.call("GC", &json!({})).error();
    assert_eq!(code, 7);
    container.check(&result).ok();
    container.del().ok();
}
