//! The addresses of live pods, when what was recorded of them is lost.

use std::net::Ipv4Addr;

use serde_json::Value;

use crate::fixture::{Node, TIERS};

fn address(result: &Value) -> Ipv4Addr {
    let text = result["ips"][0]["address"].as_str().unwrap();
    text.split('/').next().unwrap().parse().unwrap()
}

/// The record goes, then all that remembers pods by name: what is left is the kernel.
#[test]
fn no_pod_gets_the_address_of_a_live_one() {
    for tier in TIERS {
        let node = Node::with_pool(tier, 4);
        let containers: Vec<_> = (0..5).map(|_| node.container()).collect();
        let first = address(&containers[0].add());
        let second = address(&containers[1].add());
        node.sh("rm /run/azure-vnet/ipam.json /run/azure-vnet/ipam.json.backup");
        let third = address(&containers[2].add());
        assert!(
            third != first && third != second,
            "{tier:?}: {first} {second} {third}"
        );

        // By name: it is free again, and the last of the four is not needed.
        containers[0].del().ok();
        node.sh("rm -r /run/azure-vnet/ipam.json /run/azure-vnet/ipam.json.backup /run/azure-vnet/attachments");
        let (fourth, fifth) = (address(&containers[3].add()), address(&containers[4].add()));
        let mut all = [second, third, fourth, fifth];
        all.sort_unstable();
        let pool: Vec<Ipv4Addr> = node.vm().nic.pool.clone();
        assert_eq!(all[..], pool[..], "{tier:?}: each once, {first} again");
    }
}
