//! Pods of the original plugin live on after the upgrade: their addresses are theirs until DEL.

use std::{
    fs::{self, File},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::node::{Node, silent_success, stderr};

/// The state of v1.1 to v1.4, tab-indented as Go writes it, with these addresses.
fn ipam_state(addresses: &Value) -> String {
    let pool = json!({"Id": "10.20.0.0/22", "IfName": "eth0", "Subnet": {"IP": "10.20.0.0", "Mask": "///8AA=="},
        "Gateway": "10.20.0.1", "Addresses": addresses, "IsIPv6": false, "Priority": 0, "RefCount": 1});
    let state = json!({"IPAM": {"Version": "v1.4.20", "TimeStamp": "2024-01-01T00:00:00Z", "AddressSpaces":
        {"local": {"Id": "local", "Scope": 0, "Pools": {"10.20.0.0/22": pool}}}}});
    format!("{state:#}").replace("  ", "\t")
}

fn used(container: &str, address: &str) -> Value {
    json!({"ID": container, "Addr": address, "InUse": true})
}

fn free(address: &str) -> Value {
    json!({"ID": "", "Addr": address, "InUse": false})
}

/// The state of its network plugin, with a pod for each container, address and link.
fn network_state(pods: &[(&str, &str, &str)]) -> String {
    let endpoint = |(container, address, link): &(&str, &str, &str)| {
        let endpoint = json!({"Id": format!("{container}-eth0"), "IfName": "eth0", "HostIfName": link,
            "ContainerID": container, "IPAddresses": [{"IP": address, "Mask": "///8AA=="}],
            "Routes": [{"Dst": {"IP": "0.0.0.0"}}]});
        (format!("{container}-eth0"), endpoint)
    };
    let endpoints: serde_json::Map<String, Value> = pods.iter().map(endpoint).collect();
    let network = json!({"Network": {"Version": "v1.0.29", "ExternalInterfaces": {"eth0": {"Networks":
        {"azure": {"Id": "azure", "Endpoints": endpoints}}}}}});
    network.to_string()
}

/// `old` has .5, .6 is free, .7 is in use by somebody. The node has links of pods, and no file says whose they are.
fn upgraded() -> Node {
    let mut node = Node::with(4);
    node.use_file(&["10.20.0.5", "10.20.0.6", "10.20.0.7", "10.20.0.8"]);
    node.links = vec!["azv0000000000a", "azv0000000000b"];
    let addresses = json!({"10.20.0.5": used("old", "10.20.0.5"), "10.20.0.6": free("10.20.0.6"),
        "10.20.0.7": used("other", "10.20.0.7"), "10.20.0.8": free("10.20.0.8")});
    fs::write(node.beside("azure-vnet-ipam.json"), ipam_state(&addresses)).unwrap();
    node
}

#[test]
fn their_addresses_are_not_given_out_and_del_frees_them() {
    let node = upgraded();
    let output = node.call("ADD", "c1");
    assert!(stderr(&output).contains("2 in use"), "{output:?}");
    assert_eq!(crate::node::address(&output), "10.20.0.6/22");
    node.del("old");
    assert_eq!(node.add("c2"), "10.20.0.8/22");
    assert_eq!(node.add("c3"), "10.20.0.5/22");
}

#[test]
fn del_may_be_the_first_call_after_the_upgrade() {
    let node = upgraded();
    silent_success(&node.call("DEL", "old"));
    let addresses: Vec<String> = ["c1", "c2", "c3"]
        .map(|container| node.add(container))
        .into();
    assert_eq!(addresses, ["10.20.0.6/22", "10.20.0.8/22", "10.20.0.5/22"]);
}

/// v1.0 did not write the container down; the network plugin's state has it.
#[test]
fn without_names_the_network_plugins_state_has_them() {
    let mut node = Node::with(0);
    node.use_file(&["10.20.0.5", "10.20.0.6"]);
    node.links = vec!["azvold"];
    let nameless = json!({"Addr": "10.20.0.5", "InUse": true});
    let state = ipam_state(
        &json!({"10.20.0.5": nameless, "10.20.0.6": {"Addr": "10.20.0.6", "InUse": false}}),
    );
    fs::write(node.beside("azure-vnet-ipam.json"), state).unwrap();
    let network = network_state(&[("old", "10.20.0.5", "azvold")]);
    fs::write(node.beside("azure-vnet.json"), network).unwrap();
    assert_eq!(node.add("c1"), "10.20.0.6/22");
    node.del("old");
    assert_eq!(node.add("c2"), "10.20.0.5/22");
}

/// Zero bytes and half a file are what it leaves after a crash (its issues 289, 306, 642).
#[test]
fn a_state_that_was_cut_off_counts_as_far_as_it_goes() {
    let addresses: serde_json::Map<String, Value> = (5..9)
        .map(|host| format!("10.20.0.{host}"))
        .map(|address| (address.clone(), used("old", &address)))
        .collect();
    let state = ipam_state(&addresses.into());
    let first = state.find("\"10.20.0.5\"").unwrap();
    let behind_first = first + state[first..].find('}').unwrap() + 1;
    for (keep, expected) in [
        (0, "10.20.0.5/22"),
        (behind_first - 1, "10.20.0.5/22"),
        (behind_first, "10.20.0.20/22"),
        (state.len(), "10.20.0.20/22"),
    ] {
        let mut node = Node::with(0);
        fs::write(node.beside("azure-vnet-ipam.json"), &state[..keep]).unwrap();
        // The kernel has an entry of each pod, also of those that the file has lost.
        node.use_file(&["10.20.0.5", "10.20.0.8", "10.20.0.20"]);
        node.neighbours = vec!["10.20.0.8"];
        node.links = vec!["azv0000000000a"];
        assert_eq!(node.add("c1"), expected, "{keep}");
        if keep < behind_first {
            node.neighbours.push("10.20.0.5");
            assert_ne!(node.add("c2"), "10.20.0.8/22", "{keep}");
        }
    }
}

/// Where `/run` is on a disk. A pod that lives has a link.
#[test]
fn a_state_from_before_the_boot_is_void() {
    let mut node = upgraded();
    node.links.clear();
    assert_eq!(node.add("c1"), "10.20.0.5/22");
}

/// A clock that was set says that they are, whatever their times.
#[test]
fn a_state_is_of_this_boot_if_its_pods_have_links() {
    let node = upgraded();
    let names = ["azure-vnet-ipam.json", "azure-vnet.json"];
    let network = network_state(&[
        ("old", "10.20.0.5", "azv0000000000a"),
        ("other", "10.20.0.7", "azv0000000000c"),
    ]);
    fs::write(node.beside(names[1]), network).unwrap();
    for name in names {
        let file = File::options().write(true).open(node.beside(name)).unwrap();
        let year = Duration::from_hours(366 * 24);
        file.set_modified(SystemTime::now() - 10 * year).unwrap();
    }
    // `old` has its link, and `other` has none.
    assert_eq!(node.add("c1"), "10.20.0.6/22");
    assert_eq!(node.add("c2"), "10.20.0.7/22");
    assert_eq!(node.add("c3"), "10.20.0.8/22");
    assert_eq!(node.refused("c4")["code"], 110);
}

/// It leaks addresses. What no pod has is free when it is needed; what a pod has is not.
#[test]
fn a_leaked_address_is_used_when_nothing_else_is_left() {
    let mut node = upgraded();
    node.use_file(&["10.20.0.5", "10.20.0.6", "10.20.0.7"]);
    node.neighbours = vec!["10.20.0.5"];
    assert_eq!(node.add("c1"), "10.20.0.6/22");
    // One of the links may be its, as far as anybody can say; then they are gone.
    assert_eq!(node.refused("c2")["code"], 110);
    node.links.clear();
    silent_success(&node.call("STATUS", ""));
    assert_eq!(node.add("c2"), "10.20.0.7/22");
    assert_eq!(node.refused("c3")["code"], 110);
}

/// The neighbour entries are lost, the pods live.
#[test]
fn an_address_whose_pod_has_a_link_is_never_taken_for_leaked() {
    let mut node = upgraded();
    node.use_file(&["10.20.0.5", "10.20.0.7"]);
    node.links = vec!["azv0000000000a", "azv0000000000b"];
    let network = network_state(&[
        ("old", "10.20.0.5", "azv0000000000a"),
        ("other", "10.20.0.7", "azv0000000000b"),
    ]);
    fs::write(node.beside("azure-vnet.json"), network).unwrap();
    assert_eq!(node.refused("c1")["code"], 110);
    assert_eq!(node.fails("STATUS", "")["code"], 50);
    node.links.pop();
    silent_success(&node.call("STATUS", ""));
    assert_eq!(node.add("c1"), "10.20.0.7/22");
}

/// Its state is not ours to change: going back must stay possible.
#[test]
fn the_original_state_stays_as_it_is() {
    let node = upgraded();
    let before = fs::read(node.beside("azure-vnet-ipam.json")).unwrap();
    node.add("c1");
    node.del("old");
    assert_eq!(
        fs::read(node.beside("azure-vnet-ipam.json")).unwrap(),
        before
    );
}
