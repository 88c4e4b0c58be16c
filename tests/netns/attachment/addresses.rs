//! Where pods' addresses come from, and that no live pod's is given to another, whatever is left of the record.

use std::net::{Ipv4Addr, SocketAddrV4};

use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::exchange::ask;
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::{Azure, PLUGIN_DIR, Vm};
use serde_json::{Value, json};
use socket2::Type;

use crate::fixture::{Node, TIERS, Tier};

fn address(result: &Value) -> Ipv4Addr {
    let text = result["ips"][0]["address"].as_str().unwrap();
    text.split('/').next().unwrap().parse().unwrap()
}

/// The metadata service as it is at 169.254.169.254, asked by the node.
#[test]
fn pool_can_come_from_the_metadata_service() {
    let node = Node::new(Tier::Tcx);
    let mut conf = node.conf();
    conf["ipam"]["environment"] = "imds".into();
    node.reconfigure(conf);
    let container = node.container();
    assert!(node.vm().nic.pool.contains(&address(&container.add())));
    assert_eq!(node.azure().wireserver_log(), []);
    let asked = node.azure().imds_log();
    let asked: Vec<u16> = asked.iter().map(|access| access.status).collect();
    assert_eq!(asked, [200]);
    container.del().ok();
}

/// The IPAM plugin on its own, for a network whose NIC is `master`.
fn added(vm: &Vm, container: &str, master: &str) -> Value {
    let conf = json!({"cniVersion": "1.1.0", "name": "azure", "type": "azure-vnet", "master": master,
        "ipam": {"type": "azure-vnet-ipam"}});
    let program = vm
        .program(&format!("{PLUGIN_DIR}/azure-vnet-ipam"))
        .unwrap();
    let output = program
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", "/run/netns/x")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", "")
        .env("CNI_PATH", PLUGIN_DIR)
        .stdin(conf.to_string())
        .output()
        .unwrap();
    serde_json::from_str(&output.stdout).unwrap()
}

#[test]
fn each_nic_has_a_pool_of_its_own() {
    let azure = Azure::builder().pool(2).second_nic(1).build().unwrap();
    let vm = &azure.vms[0];
    let second = vm.second_nic.as_ref().unwrap();
    let result = added(vm, "c1", "eth1");
    assert_eq!(address(&result), second.pool[0]);
    assert_eq!(result["azure-vnet/nic"], second.mac.to_string());
    assert_eq!(result["ips"][0]["gateway"], second.gateway().to_string());
    // The other NIC has addresses left, but was not asked for.
    assert_eq!(added(vm, "c2", "eth1")["code"], 110);
    let result = added(vm, "c3", "eth0");
    assert_eq!(address(&result), vm.nic.pool[0]);
    assert_eq!(result["azure-vnet/nic"], vm.nic.mac.to_string());
    assert_eq!(added(vm, "c4", "eth9")["code"], 7);
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

/// An ADD that stands between IPAM and the kernel while the record is lost: IPAM gives its address again. Whoever comes second
/// to the kernel is refused, and takes nothing from the other.
#[test]
fn an_address_that_ipam_gives_twice_stays_with_the_first() {
    for tier in TIERS {
        let node = Node::with_pool(tier, 1);
        let (old, new) = (node.container(), node.container());
        let result = old.add();
        old.give_address_back();
        let veth = old.host_veth();
        let refused = |holder: &str| {
            // Any call would mend that, and IPAM see it.
            node.forget_in_kernel(address(&result));
            let before = node.traces();
            let (_, message) = new.call("ADD", &json!({})).error();
            let expected = format!("in use by {holder}: ");
            assert!(message.contains(&expected), "{message}");
            assert_eq!(node.traces(), before, "{tier:?}");
            new.del().ok();
        };
        refused(&format!("container {} (link {veth})", old.id));
        // The kernel's word counts, not that of a file.
        node.sh(&format!(
            "truncate --size 5 /run/azure-vnet/attachments/{veth}.json"
        ));
        refused(&format!("the link {veth}"));
        let to = SocketAddrV4::new(INTERNET[0], REPORT_PORT);
        let seen = ask(Type::STREAM, old.namespace(), None, to).unwrap();
        assert_eq!(seen, node.vm().nic.primary, "{tier:?}");
        old.del().ok();
    }
}
