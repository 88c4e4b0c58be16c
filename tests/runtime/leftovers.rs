//! What pods leave on a node when the last is gone: nothing, in the plugins, the kernel and the runtime's own records.

use std::fs;

use azure_vnet_testbed::NETNS_DIR;
use serde_json::Value;

use crate::node::Node;

/// The bridge stays: it is the node's.
const LINKS: [&str; 3] = ["azure0", "eth0", "lo"];

/// Fails if there is anything that belonged to a pod.
pub fn assert_none(node: &Node<'_>) {
    assert_eq!(found(node), Vec::<String>::new());
}

/// All that belonged to a pod, each with what it is.
pub fn found(node: &Node<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |what: &str, things: Vec<String>| {
        found.extend(things.iter().map(|thing| format!("{what}: {thing}")));
    };
    let mut links = node.vm.links().unwrap();
    links.retain(|link| !LINKS.contains(&link.as_str()));
    add("link", links);
    add(
        "record of an attachment",
        entries(node, "/run/azure-vnet/attachments"),
    );
    add("network namespace", entries(node, NETNS_DIR));
    add(
        "result cached by libcni",
        entries(node, "/var/lib/cni/results"),
    );
    add("leased address", leases(node));
    add("pods in the plugin's status", pods_in_status(node));
    add("rule about a pod's address", rules(node));
    found
}

fn leases(node: &Node<'_>) -> Vec<String> {
    let record = node.read("/run/azure-vnet/ipam.json").unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    let leases = record["state"]["pool"]["leases"].as_array();
    let leases = leases.expect("the record of the IPAM plugin");
    leases.iter().map(Value::to_string).collect()
}

/// The number, unless it is 0.
fn pods_in_status(node: &Node<'_>) -> Vec<String> {
    let status = node.run("/opt/cni/bin/azure-vnet", &["status", "--json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    let bridges = status["bridges"].as_array().unwrap();
    let pods = bridges
        .iter()
        .map(|bridge| bridge["pods"].as_u64().unwrap());
    pods.filter(|&pods| pods > 0)
        .map(|pods| pods.to_string())
        .collect()
}

fn rules(node: &Node<'_>) -> Vec<String> {
    let pool: Vec<_> = node.vm.nic.pool.iter().map(ToString::to_string).collect();
    let rules = node.run("nft", &["list", "ruleset"]);
    let of_pod = |line: &&str| pool.iter().any(|address| mentions(line, address));
    rules.lines().filter(of_pod).map(str::to_owned).collect()
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
