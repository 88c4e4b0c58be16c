//! What pods leave on a node when the last is gone: nothing, in the plugins, the kernel and the runtime's own records.

use std::fs;

use azure_vnet_testbed::NETNS_DIR;
use serde_json::Value;

use crate::node::Node;

/// The bridge stays; it is the node's.
const LINKS: [&str; 3] = ["azure0", "eth0", "lo"];

/// Fails if there is anything that belonged to a pod.
pub fn assert_none(node: &Node<'_>) {
    assert_eq!(node.vm.links().unwrap(), LINKS, "links");
    for (what, folder) in [
        ("records of attachments", "/run/azure-vnet/attachments"),
        ("network namespaces", NETNS_DIR),
        ("results cached by libcni", "/var/lib/cni/results"),
    ] {
        assert_eq!(entries(node, folder), Vec::<String>::new(), "{what}");
    }
    assert_eq!(pods_in_status(node), 0, "pods in the plugin's status");
    assert_eq!(leased(node), Vec::<Value>::new(), "leased addresses");

    let rules = node.run("nft", &["list", "ruleset"]);
    let of_pod = |line: &&str| {
        let mut pool = node.vm.nic.pool.iter();
        pool.any(|address| mentions(line, &address.to_string()))
    };
    let stale: Vec<_> = rules.lines().filter(of_pod).collect();
    assert_eq!(stale, Vec::<&str>::new(), "rules about a pod's address");
}

/// The addresses that the IPAM plugin has given away.
pub fn leased(node: &Node<'_>) -> Vec<Value> {
    let record = node.read("/run/azure-vnet/ipam.json").unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    let leases = record["state"]["pool"]["leases"].as_array();
    leases.expect("the record of the IPAM plugin").clone()
}

fn pods_in_status(node: &Node<'_>) -> u64 {
    let status = node.run("/opt/cni/bin/azure-vnet", &["status", "--json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    let bridges = status["bridges"].as_array().unwrap();
    bridges
        .iter()
        .map(|bridge| bridge["pods"].as_u64().unwrap())
        .sum()
}

/// The names in a folder of the node; none when there is no such folder.
fn entries(node: &Node<'_>, folder: &str) -> Vec<String> {
    let read = || {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    };
    node.vm.namespace().run(read).unwrap()
}

/// Whether a line has this address, and not just a longer one that it is a part of.
fn mentions(line: &str, address: &str) -> bool {
    line.match_indices(address).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + address.len()..].chars().next();
        let goes_on = |char: Option<char>| char.is_some_and(|char| char.is_ascii_digit());
        !goes_on(before) && !goes_on(after)
    })
}
