//! Other plugins behind ours.

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::conflist::Conflist;
use serde_json::{Value, json};

use super::daemon::Containerd;
use super::life::{assert_connected, go};
use crate::cri::Pod;

/// Each of them changes something that ours made, and all of it must take effect.
#[test]
fn other_plugins_follow() {
    for datapath in ["ebpf", "netfilter"] {
        let azure = Azure::builder().vms(2).build().unwrap();
        let containerd = Containerd::start(&azure.vms[0], &long_list(datapath));
        let pod = containerd.run_pod(Pod {
            name: "web".into(),
            host_port: Some((80, 80)),
            annotations: vec![
                ("kubernetes.io/ingress-bandwidth", "100M"),
                ("kubernetes.io/egress-bandwidth", "100M"),
            ],
        });
        let server = assert_connected(&azure, &containerd, &pod);
        assert_shaped(&azure, &containerd, &server);
        let sysctl = ["/bin/cat", "/proc/sys/net/core/somaxconn"];
        let (_, backlog, _) = containerd.client().exec(&server, &sysctl).unwrap();
        assert_eq!(backlog.trim(), "500");
        go(&containerd, &pod, true);
        assert_eq!(azure.fabric.leaked().unwrap(), 0);
    }
}

fn long_list(datapath: &str) -> Conflist {
    let azure_vnet = json!({
        "type": "azure-vnet",
        "bridge": "azure0",
        "ipam": { "type": "azure-vnet-ipam" },
        "masquerade": { "datapath": datapath },
    });
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "azure",
        "plugins": [
            azure_vnet,
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
            { "type": "tuning", "sysctl": { "net.core.somaxconn": "500" } },
            { "type": "firewall", "backend": "iptables" },
        ],
    });
    Conflist::parse(&list.to_string()).unwrap()
}

/// Every packet to the pod and from it passes the queues of `bandwidth`, on the host's end of the veth and on an ifb: what the
/// datapath does on the way must not lead around them.
fn assert_shaped(azure: &Azure, containerd: &Containerd<'_>, server: &str) {
    const PINGS: u64 = 20;
    let queued = || -> Vec<u64> {
        let queues = ["-s", "-j", "qdisc", "show"];
        let queues = containerd.node.run("tc", &queues);
        let queues: Vec<Value> = serde_json::from_str(&queues).unwrap();
        let shapers = queues.iter().filter(|queue| queue["kind"] == "tbf");
        shapers
            .map(|queue| queue["packets"].as_u64().unwrap())
            .collect()
    };
    let before = queued();
    assert_eq!(before.len(), 2, "a queue for each direction");
    let internet = azure.internet.address().to_string();
    let ping = [
        "/bin/ping",
        "-i",
        "0.05",
        "-c",
        &PINGS.to_string(),
        &internet,
    ];
    let (status, _, complaint) = containerd.client().exec(server, &ping).unwrap();
    assert_eq!(status, 0, "{complaint}");
    let passed: Vec<_> = queued()
        .iter()
        .zip(before)
        .map(|(now, before)| now - before)
        .collect();
    assert!(
        passed.iter().all(|&packets| packets >= PINGS),
        "{passed:?} of {PINGS}"
    );
}
