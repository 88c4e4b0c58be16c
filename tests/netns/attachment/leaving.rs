//! DEL, whatever is left of the attachment.

use serde_json::{Value, json};

use crate::fixture::{Container, Node, TIERS, Tier, address, ip};

/// A situation before DEL, and the DEL that finds it.
type Situation = (
    &'static str,
    fn(&Node, &mut Container<'_>),
    fn(&Container<'_>),
);

fn del(container: &Container<'_>) {
    container.del().ok();
}

fn del_without_netns(container: &Container<'_>) {
    container.del_without_netns().ok();
}

const NOTHING_HAPPENED: fn(&Node, &mut Container<'_>) = |_, _| {};

const SITUATIONS: [Situation; 11] = [
    ("as it was made", NOTHING_HAPPENED, del),
    (
        "no namespace named, which lives",
        NOTHING_HAPPENED,
        del_without_netns,
    ),
    (
        "namespace gone",
        |_, container| container.end_sandbox(),
        del,
    ),
    (
        "namespace gone and not named",
        |_, container| container.end_sandbox(),
        del_without_netns,
    ),
    (
        "a plain file for a namespace",
        |node, container| {
            container.end_sandbox();
            node.vm().write_file(&container.netns, "").unwrap();
        },
        del,
    ),
    (
        "interface gone",
        |_, container| {
            crate::fixture::sh(container.namespace(), "ip link delete eth0");
        },
        del,
    ),
    (
        "record lost",
        |node, container| {
            node.sh(&format!(
                "rm /run/azure-vnet/attachments/{}.json",
                container.host_veth()
            ));
        },
        del,
    ),
    (
        "record unreadable",
        |node, container| {
            let path = format!("/run/azure-vnet/attachments/{}.json", container.host_veth());
            node.vm().write_file(&path, "{\"network\":").unwrap();
        },
        del,
    ),
    (
        "record and choice of the tier lost",
        |node, container| {
            node.sh(&format!(
                "rm /run/azure-vnet/attachments/{}.json /run/azure-vnet/datapath-azure0.json",
                container.host_veth()
            ));
        },
        del,
    ),
    ("arguments malformed", NOTHING_HAPPENED, |container| {
        container.call_with_args("DEL", "A=B=C;;", &json!({})).ok();
    }),
    (
        "previous result is nonsense",
        NOTHING_HAPPENED,
        |container| container.call("DEL", &json!({ "prevResult": [7] })).ok(),
    ),
];

#[test]
fn nothing_is_left_in_any_situation() {
    for tier in TIERS {
        let (node, before) = Node::settled(tier);
        let stays = node.container();
        let result = stays.add();
        for (situation, happens, del) in SITUATIONS {
            let mut container = node.container();
            container.add();
            happens(&node, &mut container);
            del(&container);
            node.sh(&format!(
                "rm -f {}",
                if situation.contains("plain file") {
                    &container.netns
                } else {
                    "/run/none"
                }
            ));
            let left = node.traces();
            let new: Vec<_> = left
                .0
                .difference(&before.0)
                .filter(|line| !is_of(line, &stays, &result))
                .collect();
            assert!(new.is_empty(), "{tier:?}, {situation}: {new:?}");
            container.del().ok();
            container.del_without_netns().ok();
            if situation == "record and choice of the tier lost" {
                // The next ADD chooses again.
                let again = node.container();
                again.add();
                again.del().ok();
            }
        }
        stays.check(&result).ok();
        stays.del().ok();
        assert_eq!(node.traces(), before);
    }
}

fn is_of(line: &str, container: &Container<'_>, result: &Value) -> bool {
    line.contains(&container.host_veth())
        || line.contains(&container.id)
        || line.contains(&address(result).to_string())
}

#[test]
fn unknown_attachment_is_as_good_as_deleted() {
    let node = Node::new(Tier::Tcx);
    let before = node.traces();
    let container = node.container();
    container.del().ok();
    container.del_without_netns().ok();
    assert_eq!(node.traces(), before);
}

#[test]
fn interface_of_others_is_left_alone() {
    let node = Node::new(Tier::Tcx);
    let container = node.container();
    crate::fixture::sh(
        container.namespace(),
        "ip link add eth0 type veth peer name other",
    );
    let (_, text) = container.call("ADD", &json!({})).error();
    assert!(text.contains("eth0"), "{text}");
    container.del().ok();
    assert_eq!(
        ip(container.namespace(), "link show eth0")[0]["ifname"],
        "eth0"
    );
}

/// The bridge and the tier of the ADD are those that count.
#[test]
fn configuration_may_have_changed() {
    for tier in TIERS {
        let (node, before) = Node::settled(tier);
        let container = node.container();
        container.add();
        node.reconfigure(json!({ "cniVersion": "1.1.0", "name": "azure", "type": "azure-vnet", "mode": "transparent", "bridge": "other",
            "vlan": 7, "ipam": { "type": "azure-vnet-ipam", "subnet": "nonsense" }, "masquerade": { "datapath": "wrong" } }));
        container.del().ok();
        assert_eq!(node.traces(), before, "{tier:?}");
    }
}

/// Whatever IPAM does, everything else goes, and IPAM's own error is the answer.
#[test]
fn failing_ipam_keeps_nothing_else() {
    for tier in TIERS {
        let (node, before) = Node::settled(tier);
        node.install_plugin(
            "sulking",
            r#"echo '{"code":123,"msg":"not found","details":"sulking"}'; exit 1"#,
        );
        for (plugin, code) in [("sulking", 123), ("missing", 101)] {
            let container = node.container();
            container.add();
            node.use_ipam(plugin);
            let (found, text) = container.del().error();
            assert_eq!(found, code, "{text}");
            let text = text.to_lowercase();
            assert!(
                !text.contains("not found") && !text.contains("no such file"),
                "{text}"
            );
            let left = node.traces();
            let left: Vec<_> = left.0.difference(&before.0).collect();
            assert!(left.len() == 1 && left[0].starts_with("lease"), "{left:?}");
            node.use_ipam("azure-vnet-ipam");
            container.del().ok();
            assert_eq!(node.traces(), before);
        }
    }
}

/// An attachment that lingers while its address was given to another: what the other has stays.
#[test]
fn address_of_another_pod_by_now_stays_its() {
    for tier in TIERS {
        let node = Node::with_pool(tier, 1);
        node.install_plugin("deaf", "exit 0");
        let (old, new) = (node.container(), node.container());
        let result = old.add();
        // The address goes back behind the plugin's back, with the entries that show it in use.
        old.give_address_back();
        node.forget_in_kernel(address(&result));
        node.sh(&format!("ip link delete {}", old.host_veth()));
        let again = new.add();
        assert_eq!(address(&again), address(&result));
        node.use_ipam("deaf");
        old.del().ok();
        node.use_ipam("azure-vnet-ipam");
        new.check(&again).ok();
        let neighbours = node.sh("ip neighbour show nud permanent");
        assert!(
            neighbours.contains(&address(&again).to_string()),
            "{neighbours}"
        );
        new.del().ok();
        assert!(node.traces().about(&address(&again).to_string()).is_empty());
    }
}

#[test]
fn bridge_may_be_gone() {
    for tier in TIERS {
        let (node, before) = Node::settled(tier);
        let container = node.container();
        container.add();
        node.sh("ip link delete azure0");
        container.del().ok();
        let left = node.traces();
        let left: Vec<_> = left.0.difference(&before.0).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Of the netfilter tier's elements nobody knows then whose they are: they go with GC or the next ADD.
#[test]
fn state_and_link_may_both_be_gone() {
    for tier in [Tier::Tcx, Tier::ClsBpf] {
        let (node, before) = Node::settled(tier);
        let container = node.container();
        container.add();
        node.sh(&format!("ip link delete {}", container.host_veth()));
        node.sh("rm -r /run/azure-vnet/attachments");
        container.del().ok();
        assert_eq!(node.traces(), before, "{tier:?}");
    }
}
