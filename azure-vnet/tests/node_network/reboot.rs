//! What changes under a node that is settled: another boot, another NIC, another name.

use std::net::{TcpListener, TcpStream};

use azure_vnet::netns::NetNs;
use azure_vnet::node::{Node, NodeError, ensure};

use crate::lab::{ip, lab, netlink, nic, plain_node, run, wanted};

fn settle() -> Result<Node, NodeError> {
    run(async { ensure(&netlink(), &wanted()).await })
}

/// Another boot, as far as this test's mount namespace shows it.
fn reboot() {
    std::fs::write("/run/boot_id", "11111111-2222-3333-4444-555555555555\n").unwrap();
    rustix::mount::mount_bind("/run/boot_id", "/proc/sys/kernel/random/boot_id").unwrap();
}

/// The node and the fabric reach each other.
fn is_connected(address: &str) {
    let fabric = NetNs::open("/run/netns/fabric").unwrap();
    let listener = TcpListener::bind((address, 0)).unwrap();
    let to = listener.local_addr().unwrap();
    fabric.run_in(|| TcpStream::connect(to)).unwrap().unwrap();
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
        assert_eq!(node.addresses.len(), 1);
        assert!(!ip("addr").contains("10.0.0.4/24"));
        is_connected("10.0.0.14");
    });
}

#[test]
fn a_nic_that_was_taken_out_and_put_in_again_is_a_port_again() {
    for with_lease in [false, true] {
        lab(move || {
            plain_node(1500);
            let before = settle().unwrap();
            // As when a VM is moved to another host: the same NIC under another index.
            ip("link delete eth0");
            ip("link add filler type bridge");
            nic(1500);
            if with_lease {
                ip("addr add 10.0.0.4/24 brd + dev eth0");
                ip("route append default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.4 metric 100");
            }
            let node = settle().unwrap();
            assert_ne!(node.master.index, before.master.index);
            assert_eq!(node.bridge.index, before.bridge.index);
            assert_eq!(node.primary, before.primary);
            assert_eq!(
                ip("-4 addr show dev eth0"),
                "",
                "with a lease: {with_lease}"
            );
            assert!(ip("route show default").contains("via 10.0.0.1 dev azure0"));
            is_connected("10.0.0.4");
        });
    }
}

#[test]
fn a_nic_that_was_renamed_is_the_nic_still() {
    lab(|| {
        plain_node(1500);
        let before = settle().unwrap();
        ip("link set eth0 name wan0");
        let node = settle().unwrap();
        assert_eq!(node.master.name, "wan0");
        assert_eq!(node.master.index, before.master.index);
        assert_eq!(node.bridge.index, before.bridge.index);
        is_connected("10.0.0.4");
    });
}

#[test]
fn what_networkd_puts_back_over_and_over_leaves_one_working_address() {
    lab(|| {
        plain_node(1500);
        settle().unwrap();
        for _ in 0..3 {
            ip("addr add 10.0.0.4/24 brd + dev eth0 valid_lft 3600 preferred_lft 3600");
            ip("route append default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.4 metric 100");
            is_connected("10.0.0.4");
            settle().unwrap();
            assert_eq!(ip("-4 addr show dev eth0"), "");
            assert_eq!(ip("-4 route show dev eth0"), "");
            assert_eq!(
                ip("route show default").lines().count(),
                1,
                "{}",
                ip("route")
            );
            is_connected("10.0.0.4");
        }
        // An IPv6 address alone is noticed as well.
        ip("addr add fd00::9/64 dev eth0 nodad");
        settle().unwrap();
        assert!(ip("-6 addr show dev azure0").contains("fd00::9/64"));
        assert!(!ip("-6 addr show dev eth0").contains("fd00::9/64"));
    });
}
