//! Pods that the original plugin attached before this one took over: DEL and GC find them in its file.

use serde_json::json;

use crate::fixture::{Node, Tier};

const STATE: &str = "/run/azure-vnet.json";
const VETHS: [&str; 2] = ["azvaaaaaaaaaa1", "azvaaaaaaaaaa2"];

/// A pod of the original, as its versions from 1.1 on leave it; it has the MAC aa:bb:cc:00:00:05 or 06.
fn attach(node: &Node, number: usize) -> String {
    let veth = VETHS[number];
    let mac = format!("aa:bb:cc:00:00:0{}", number + 5);
    node.sh(&format!(
        "ip link add {veth} type veth peer name peer{number} address {mac}"
    ));
    node.sh(&format!("ip link set {veth} master azure0 up"));
    let address = format!("10.0.0.{}", 200 + number);
    node.sh(&format!(
        "ip neigh add {address} lladdr {mac} dev azure0 nud permanent"
    ));
    format!("original-{number}")
}

fn state(ids: &[String]) -> String {
    let endpoint = |(number, id): (usize, &String)| {
        let mac = ["qrvMAAAF", "qrvMAAAG"][number];
        let address = format!("10.0.0.{}", 200 + number);
        let endpoint = json!({
            "IfName": "eth0", "HostIfName": VETHS[number], "ContainerID": id, "MacAddress": mac,
            "IPAddresses": [{ "IP": address, "Mask": "////AA==" }],
        });
        (format!("{id}-eth0"), endpoint)
    };
    let endpoints: serde_json::Map<_, _> = ids.iter().enumerate().map(endpoint).collect();
    json!({ "Network": { "ExternalInterfaces": { "eth0": {
        "BridgeName": "azure0", "MacAddress": "AA06AAAE",
        "Networks": { "azure": { "Mode": "bridge", "Endpoints": endpoints } },
    } } } })
    .to_string()
}

#[test]
fn del_and_gc_remove_what_it_made() {
    let (node, _) = Node::settled(Tier::Netfilter);
    let ids: Vec<String> = (0..2).map(|number| attach(&node, number)).collect();
    node.vm().write_file(STATE, &state(&ids)).unwrap();
    let refused = node.teardown(&[]).output().unwrap();
    assert!(
        refused.stderr.contains("2 pods are attached"),
        "{refused:?}"
    );

    node.call_of("DEL", [&ids[0], "", "eth0", ""]).ok();
    let left = |what: &str| [0, 1].map(|number| node.sh(what).contains(VETHS[number]));
    assert_eq!(left("ip link"), [false, true]);
    assert_eq!(left(&format!("cat {STATE}")), [false, true]);
    let neighbours = node.sh("ip neigh show nud permanent");
    assert!(!neighbours.contains("10.0.0.200") && neighbours.contains("10.0.0.201"));

    let nothing = json!({ "cni.dev/valid-attachments": [] });
    node.call("GC", &nothing).ok();
    assert_eq!(left("ip link"), [false, false]);
    assert_eq!(left(&format!("cat {STATE}")), [false, false]);
    assert!(!node.sh("ip neigh").contains("10.0.0.201"));
}
