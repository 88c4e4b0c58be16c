//! ADDs that fail: each leaves what was there, and nothing else, before any DEL.

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::pod::PodSpec;
use serde_json::json;

use crate::fixture::{Node, TIERS, Tier, address};

#[test]
fn refused_configurations_change_nothing() {
    let node = Node::new(Tier::Tcx);
    let container = node.container();
    let before = node.traces();
    for (extra, code, names) in [
        (json!({ "mode": "transparent" }), 7, "transparent"),
        (json!({ "vlan": 100 }), 2, "100"),
        (json!({ "macspoofchk": true }), 2, "macspoofchk"),
        (json!({ "PortIsolation": true }), 2, "portIsolation"),
        (json!({ "master": "eth7" }), 7, "eth7"),
        (json!({ "ipam": {} }), 7, "ipam"),
        (json!({ "ipam": { "type": "../x" } }), 7, "../x"),
        (json!({ "ipam": { "type": "nowhere" } }), 101, "nowhere"),
        (json!({ "prevResult": "text" }), 7, "prevResult"),
    ] {
        let (found, text) = container.call("ADD", &extra).error();
        assert!(
            found == code && text.contains(names),
            "{extra}: {found} {text}"
        );
        assert_eq!(node.traces(), before, "{extra}");
    }
    let default = json!({ "vlan": 0, "vlanTrunk": [], "macspoofchk": false, "promiscMode": null });
    container.call("ADD", &default).result();
    container.del().ok();
}

#[test]
fn repeated_add_costs_the_first_nothing() {
    for tier in TIERS {
        let node = Node::new(tier);
        let container = node.container();
        let result = container.add();
        let before = node.traces();
        let (code, text) = container.call("ADD", &json!({})).error();
        assert!(
            code >= 100 && text.contains("eth0") && text.contains("exists"),
            "{text}"
        );
        assert_eq!(node.traces(), before);
        container.check(&result).ok();
        container.del().ok();
    }
}

#[test]
fn own_namespace_is_refused_before_anything() {
    let node = Node::new(Tier::Tcx);
    let mut container = node.container();
    container.end_sandbox();
    node.sh("mkfifo /run/fifo");
    let before = node.traces();
    for (netns, names) in [
        ("/proc/self/ns/net", "itself"),
        ("/run/netns/none", "/run/netns/none"),
        ("/etc/hostname", "hostname"),
        ("/run/fifo", "not a network namespace"),
        ("/run/fifo/x", "/run/fifo/x"),
        ("/dev/zero", "not a network namespace"),
        ("/run", "not a network namespace"),
    ] {
        container.netns = netns.into();
        let (code, text) = container.call("ADD", &json!({})).error();
        assert!(code == 4 && text.contains(names), "{netns}: {code} {text}");
        assert_eq!(node.traces(), before, "{netns}");
        // What is none (any more) is no reason not to delete.
        if netns != "/proc/self/ns/net" {
            container.del().ok();
        }
    }
    container.netns = "/proc/self/ns/net".into();
    container.ifname = "pod0";
    for value in ["0", "yes", ""] {
        container.add_with_override(value).error();
        assert_eq!(node.traces(), before, "{value}");
    }
    for value in ["1", "True"] {
        container.add_with_override(value).result();
        assert!(node.vm().links().unwrap().contains(&"pod0".to_owned()));
        container.del().ok();
    }
}

#[test]
fn exhausted_pool_leaves_nothing() {
    for tier in TIERS {
        let node = Node::with_pool(tier, 1);
        let (first, second) = (node.container(), node.container());
        let result = first.add();
        let before = node.traces();
        let (code, text) = second.call("ADD", &json!({})).error();
        assert!(code >= 100 || code == 11, "{code} {text}");
        assert_eq!(node.traces(), before);
        first.check(&result).ok();
        first.del().ok();
        assert_eq!(address(&second.add()), address(&result));
        second.del().ok();
    }
}

/// IPAM gives the same address twice, which the kernel refuses when the veth is there already.
#[test]
fn failure_after_the_veth_takes_everything_back() {
    for tier in TIERS {
        let (node, before) = Node::settled(tier);
        let lease = r#"{"address":"10.0.0.9/20","gateway":"10.0.0.1"}"#;
        let script = format!(
            r#"echo $CNI_COMMAND >>/run/calls; [ $CNI_COMMAND = ADD ] || exit 0; echo '{{"cniVersion":"1.1.0","ips":[{lease},{lease}]}}'"#
        );
        node.install_plugin("twice", &script);
        node.use_ipam("twice");
        let container = node.container();
        let (code, text) = container.call("ADD", &json!({})).error();
        assert!(code >= 100 && text.contains("10.0.0.9"), "{text}");
        assert_eq!(node.traces(), before);
        assert_eq!(
            node.sh("cat /run/calls"),
            "ADD\nDEL\n",
            "the address goes back"
        );
        container.del().ok();
    }
}

/// The runtime answers a chained plugin's failure with DEL of the whole list.
#[test]
fn failing_chained_plugin_leaves_nothing() {
    for tier in TIERS {
        let (node, before) = Node::settled(tier);
        node.install_plugin(
            "failing",
            r#"[ $CNI_COMMAND = ADD ] || exit 0; echo '{"code":123,"msg":"no"}'; exit 1"#,
        );
        let list = json!({ "cniVersion": "1.0.0", "name": "azure", "plugins": [node.conf(), { "type": "failing" }] });
        let list = Conflist::parse(&list.to_string()).unwrap();
        let mut spec = PodSpec::named("unlucky");
        spec.loopback = false;
        let refused = node.vm().add_pod(&list, &spec).unwrap_err().to_string();
        assert!(refused.contains("123"), "{refused}");
        assert_eq!(node.traces(), before);
    }
}
