//! What is put there for the managers of a node's network, and taken away.

use azure_vnet_testbed::Azure;

use crate::node::{NEW, Node, OLD};

const NETWORKD: [&str; 2] = [
    "/etc/systemd/network/05-azure-vnet.network",
    "/etc/systemd/networkd.conf.d/50-azure-vnet.conf",
];
const NETWORK_MANAGER: &str = "/etc/NetworkManager/conf.d/50-azure-vnet.conf";
const CLOUD_INIT: &str = "/etc/cloud/cloud.cfg.d/95-azure-vnet.cfg";

#[test]
fn managers_that_are_there_are_told_and_others_are_not_made_up() {
    let azure = Azure::builder().build().unwrap();
    let node = Node::bare(&azure.vms[0]);
    node.shell(
        "rm -rf /etc/systemd/network /etc/systemd/networkd.conf.d /etc/NetworkManager /etc/cloud",
    );
    node.install(&[OLD]);
    assert_eq!(there(&node), [false; 4]);

    node.shell("mkdir -p /etc/systemd/network /etc/NetworkManager /etc/cloud/cloud.cfg.d");
    let printed = node.install(&[OLD]);
    assert!(printed.contains(NETWORKD[0]), "{printed}");
    assert_eq!(there(&node), [true; 4]);
    let ours = node.shell(&format!("cat {}", NETWORKD[0]));
    assert!(ours.contains("Name=azure* azv*\n"), "{ours}");
    assert!(ours.contains("Unmanaged=yes\n"), "{ours}");

    // An upgrade brings its own.
    node.shell(&format!("echo other > {}", NETWORKD[1]));
    let printed = node.install(&[NEW]);
    assert!(printed.contains("replaced "), "{printed}");

    node.shell("echo theirs > /etc/systemd/network/10-eth0.network");
    node.install(&["--uninstall"]);
    assert_eq!(there(&node), [false; 4]);
    assert_eq!(node.files("/etc/systemd/network"), ["10-eth0.network"]);
}

fn there(node: &Node<'_>) -> [bool; 4] {
    let [network, rules] = NETWORKD;
    [network, rules, NETWORK_MANAGER, CLOUD_INIT].map(|path| {
        let answer = node.shell(&format!("test -e {path} && echo yes || echo no"));
        answer.trim() == "yes"
    })
}
