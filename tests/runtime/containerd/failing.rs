//! What a runtime does when something goes wrong: with a plugin of the chain, with a pod's namespace, with itself.

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::{Azure, icmp};
use serde_json::{Value, json};

use super::daemon::Containerd;
use super::life::assert_connected;
use crate::cri::Pod;
use crate::recorder;

fn web() -> Pod {
    Pod {
        name: "web".into(),
        host_port: Some((80, 80)),
        ..Pod::default()
    }
}

fn no() -> Value {
    json!({ "cniVersion": "1.0.0", "code": 7, "msg": "not today", "details": "said the test" })
}

/// containerd then calls DEL of the whole chain at once; nothing was remembered, so there is no `prevResult`.
#[test]
fn chained_plugin_refuses_the_pod() {
    for version in ["0.3.1", "1.0.0"] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let list = Conflist::shipped().at_version(version);
        let containerd = Containerd::start(vm, &list);
        recorder::refuse(vm, "portmap", "ADD", &no());
        let refused = containerd.client().run_pod(&web()).unwrap_err().to_string();
        assert!(refused.contains("not today"), "{refused}");

        let mut calls = recorder::calls(vm);
        calls.retain(|call| call.plugin == "azure-vnet");
        let verbs: Vec<_> = calls.iter().map(recorder::Call::verb).collect();
        assert_eq!(verbs, ["ADD", "DEL"]);
        let netns = calls[0].env("CNI_NETNS");
        assert_eq!(calls[1].circumstances(), (netns, false, 0));
        containerd.assert_nothing_left();
    }
}

/// The order of DEL is backwards: ours, in the last place, is called each time, the one before it fails twice.
#[test]
fn plugin_before_ours_refuses_to_go() {
    let azure = Azure::builder().vms(2).build().unwrap();
    let vm = &azure.vms[0];
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "azure",
        "plugins": [
            { "type": "reluctant" },
            { "type": "azure-vnet", "mode": "bridge", "bridge": "azure0", "ipam": { "type": "azure-vnet-ipam" } },
        ],
    });
    let list = Conflist::parse(&list.to_string()).unwrap();
    let containerd = Containerd::start(vm, &list);
    recorder::alias(&containerd.node, "reluctant", "loopback");
    let pod = containerd.run_pod(Pod {
        host_port: None,
        ..web()
    });
    recorder::refuse(vm, "reluctant", "DEL", &no());
    let client = containerd.client();
    for _ in 0..2 {
        let refused = client.stop_pod(&pod.id).unwrap_err().to_string();
        assert!(refused.contains("not today"), "{refused}");
    }
    recorder::relent(vm, "reluctant", "DEL");
    client.stop_pod(&pod.id).unwrap();
    client.remove_pod(&pod.id).unwrap();

    let calls = containerd.calls("azure-vnet", &pod.id);
    let netns = calls[0].env("CNI_NETNS");
    let dels: Vec<_> = calls[1..]
        .iter()
        .map(recorder::Call::circumstances)
        .collect();
    assert_eq!(
        dels,
        [
            (netns, true, 0),
            (netns, true, 0),
            (netns, true, 0),
            ("", false, 0)
        ]
    );
    containerd.assert_nothing_left();
}

/// Somebody unmounts the namespace behind the runtime's back; the plugin is not even told where it was.
#[test]
fn namespace_is_gone_before_the_pod_stops() {
    let azure = Azure::builder().vms(2).build().unwrap();
    let vm = &azure.vms[0];
    let containerd = Containerd::start(vm, &Conflist::shipped().at_version("1.0.0"));
    let pod = containerd.run_pod(web());
    let netns = containerd.calls("azure-vnet", &pod.id)[0]
        .env("CNI_NETNS")
        .to_owned();
    containerd.node.run("umount", &[&netns]);
    containerd.node.run("rm", &[&netns]);
    let client = containerd.client();
    client.stop_pod(&pod.id).unwrap();
    client.remove_pod(&pod.id).unwrap();

    let calls = containerd.calls("azure-vnet", &pod.id);
    let dels: Vec<_> = calls[1..]
        .iter()
        .map(recorder::Call::circumstances)
        .collect();
    assert_eq!(dels, [("", true, 0), ("", false, 0)]);
    containerd.assert_nothing_left();
}

/// The pod goes on without its runtime, and can be removed by the next.
#[test]
fn containerd_is_killed_between_add_and_del() {
    let azure = Azure::builder().vms(2).build().unwrap();
    let vm = &azure.vms[0];
    let mut containerd = Containerd::start(vm, &Conflist::shipped().at_version("1.0.0"));
    let pod = containerd.run_pod(web());
    containerd.kill();
    let pinged = icmp::ping(
        azure.vms[1].namespace(),
        pod.address,
        1,
        b"still there",
        LIMIT,
    );
    pinged.unwrap();
    containerd.restart();
    assert_eq!(
        containerd.client().pods().unwrap(),
        std::slice::from_ref(&pod.id)
    );
    assert_connected(&azure, &containerd, &pod);
    let client = containerd.client();
    client.stop_pod(&pod.id).unwrap();
    client.remove_pod(&pod.id).unwrap();
    containerd.assert_nothing_left();
}

const LIMIT: std::time::Duration = std::time::Duration::from_secs(5);
