//! What changes under a node that is settled: another boot, another NIC, another name.

use azure_vnet::node::{Node, NodeError, missing};

use crate::lab::{ensure, ip, lab, mend, netlink, nic, plain_node, run, wanted};
use crate::pods::{all_talk, fabric, here, pod, talk};

fn settle() -> Result<Node, NodeError> {
    run(async { ensure(&netlink(), &wanted()).await })
}

/// Another boot, as far as this test's mount namespace shows it.
fn reboot() {
    std::fs::write("/run/boot_id", "11111111-2222-3333-4444-555555555555\n").unwrap();
    rustix::mount::mount_bind("/run/boot_id", "/proc/sys/kernel/random/boot_id").unwrap();
}

#[test]
fn after_a_reboot_nothing_of_the_boot_before_comes_back() {
    lab(|| {
        plain_node(1500);
        settle().unwrap();
        // /run has survived the reboot, and the DHCP client is not done yet.
        ip("link delete azure0");
        ip("link delete eth0");
        reboot();
        nic(1500);
        run(async { mend(&netlink()).await }).unwrap();
        assert!(!ip("link").contains("azure0"), "{}", ip("link"));
        let early = settle();
        assert!(
            matches!(&early, Err(NodeError::NoMaster { .. })),
            "{early:?}"
        );
        assert_eq!(ip("-4 addr show dev eth0"), "");

        // This time the VM has another address.
        ip("addr add 10.0.0.14/24 brd + dev eth0");
        ip("route add default via 10.0.0.1 dev eth0");
        let node = settle().unwrap();
        assert_eq!(node.primary.to_string(), "10.0.0.14");
        assert!(!ip("addr").contains("10.0.0.4/24"));
        talk(&fabric(), &here(), "10.0.0.14");
        all_talk("10.0.0.14", &[&pod(&node, "one", "10.0.0.7")]);
    });
}

#[test]
fn a_nic_that_was_taken_out_and_put_in_again_is_the_nic_still() {
    lab(|| {
        plain_node(1500);
        let before = settle().unwrap();
        let one = pod(&before, "one", "10.0.0.7");
        // As when a VM is moved to another host: the same NIC under another index.
        ip("link delete eth0");
        let named = run(async { missing(&netlink()).await }).unwrap();
        assert!(
            named.iter().any(|it| it.what == "the NIC eth0 is gone"),
            "{named:?}"
        );
        // What is left of the node's network stays, for it comes back.
        run(async { mend(&netlink()).await }).unwrap();
        assert!(
            ip("route").contains("10.0.0.7 dev azure0"),
            "{}",
            ip("route")
        );
        ip("link add filler type bridge");
        nic(1500);
        ip("addr add 10.0.0.4/24 brd + dev eth0");
        ip("route append default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.4 metric 100");
        let node = settle().unwrap();
        assert_ne!(node.nic.index, before.nic.index);
        assert_eq!(node.bridge.index, before.bridge.index);
        run(async { mend(&netlink()).await }).unwrap();
        let two = pod(&node, "two", "10.0.0.8");
        all_talk("10.0.0.4", &[&one, &two]);
    });
}

#[test]
fn a_nic_that_was_renamed_is_the_nic_still() {
    lab(|| {
        plain_node(1500);
        let before = settle().unwrap();
        let one = pod(&before, "one", "10.0.0.7");
        ip("link set eth0 name wan0");
        let named = run(async { missing(&netlink()).await }).unwrap();
        assert!(named.is_empty(), "{named:?}");
        // Any call mends under the new name, not an ADD alone.
        ip("link set azure0 down");
        run(async { mend(&netlink()).await }).unwrap();
        all_talk("10.0.0.4", &[&one]);
        let node = settle().unwrap();
        assert_eq!(node.nic.name, "wan0");
        assert_eq!(node.nic.index, before.nic.index);
        assert_eq!(node.bridge.index, before.bridge.index);
        all_talk("10.0.0.4", &[&one, &pod(&node, "two", "10.0.0.8")]);
    });
}
