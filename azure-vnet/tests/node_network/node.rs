//! The node's network: the bridge is made, and the NIC is nobody's but its manager's.

use std::net::Ipv4Addr;

use azure_vnet::live;
use azure_vnet::node::{NodeError, NodeWanted, missing};

use crate::lab::{
    NIC_MAC, addresses_are_settled, all_but_ours, assert_unchanged, but_for_settings, command,
    ensure, everything, ip, lab, mend, netlink, nic, plain_node, remembered_settings, rich_node,
    rules, run, wanted,
};
use crate::pods::{all_talk, pod, ready_node, settle};

const RECORD: &str = "/run/azure-vnet/node-azure0.json";

#[test]
fn nothing_of_the_nic_changes() {
    for mtu in [1500, 3900, 9000] {
        lab(move || {
            rich_node(mtu);
            rules();
            addresses_are_settled();
            let before = all_but_ours();
            let node = settle();

            let after = but_for_settings(all_but_ours());
            assert_unchanged(&after, &but_for_settings(before), "after the call");
            assert_eq!(node.bridge.name, "azure0");
            assert_eq!(node.nic.name, "eth0");
            assert_eq!(node.mac.to_string(), NIC_MAC);
            assert_eq!(node.primary, Ipv4Addr::new(10, 0, 0, 4));
            assert_eq!((node.nic.mtu, node.bridge.mtu), (mtu, mtu));
            the_bridge_is_as_designed(mtu);
        });
    }
}

#[track_caller]
fn the_bridge_is_as_designed(mtu: u32) {
    let bridge = ip("-d addr show azure0");
    for part in [
        ",MULTICAST,",
        ",UP",
        &format!("mtu {mtu} "),
        "link/ether 12:34:56:78:9a:bc ",
        "alias azure-vnet\n",
        "inet 169.254.73.1/32 scope host azure0\n",
        "forward_delay 0 ",
        "stp_state 0 ",
        "mcast_snooping 0 ",
        "nf_call_iptables 0 ",
        "nf_call_ip6tables 0 ",
        "nf_call_arptables 0 ",
    ] {
        assert!(bridge.contains(part), "{part}: {bridge}");
    }
    assert_eq!(bridge.matches("inet").count(), 1, "{bridge}");
    for (setting, value) in [
        ("ipv4/conf/azure0/proxy_arp", "1"),
        ("ipv4/conf/azure0/proxy_arp_pvlan", "1"),
        ("ipv4/conf/azure0/send_redirects", "0"),
        ("ipv4/neigh/azure0/proxy_delay", "0"),
        ("ipv6/conf/azure0/accept_ra", "0"),
        ("ipv4/conf/azure0/forwarding", "1"),
        ("ipv4/ip_forward", "1"),
    ] {
        assert_eq!(setting_of(setting), value, "{setting}");
    }
    assert!(
        command("bridge", "link")
            .lines()
            .all(|it| !it.contains("azure0"))
    );
}

fn setting_of(path: &str) -> String {
    let value = std::fs::read_to_string(format!("/proc/sys/net/{path}"));
    value.unwrap().trim().to_owned()
}

#[test]
fn of_settings_only_those_change_that_forwarding_takes_along() {
    lab(|| {
        plain_node(1500);
        settle();
        let expected = |path: &str| {
            let forwarding = path.starts_with("net/ipv4/conf/") && path.ends_with("/forwarding");
            let redirects = ["send_redirects", "accept_redirects"]
                .iter()
                .any(|key| path == format!("net/ipv4/conf/all/{key}"));
            forwarding || redirects || path == "net/ipv4/ip_forward"
        };
        let remembered = remembered_settings();
        assert!(remembered.iter().all(|it| expected(it)), "{remembered:?}");
        assert!(remembered.contains(&"net/ipv4/conf/eth0/forwarding".to_owned()));
    });
}

/// Five, and two for the other link with a default route: which it is, and its addresses.
#[test]
fn the_second_call_asks_seven_questions_and_changes_nothing() {
    lab(|| {
        rich_node(1500);
        let first = settle();
        addresses_are_settled();
        let before = everything();
        let requests = run(async {
            let netlink = netlink();
            let again = ensure(&netlink, &wanted()).await.unwrap();
            assert_eq!(again.bridge, first.bridge);
            assert_eq!(again.primary, first.primary);
            netlink.requests()
        });
        assert_eq!(requests, 7);
        assert_unchanged(&everything(), &before, "after the call");
    });
}

/// Five to look at bridge, NIC and default routes, four at what the node knows of its pods; however many there are.
#[test]
fn to_find_nothing_to_mend_takes_nine_questions() {
    lab(|| {
        let node = ready_node(1500);
        for (name, address) in [("one", "10.0.0.7"), ("two", "10.0.0.8")] {
            pod(&node, name, address);
            let requests = run(async {
                let netlink = netlink();
                mend(&netlink).await.unwrap();
                netlink.requests()
            });
            assert_eq!(requests, 9, "with {name}");
        }
    });
}

#[test]
fn eight_calls_at_once_make_one_bridge() {
    lab(|| {
        rich_node(1500);
        let bridges: Vec<u32> = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| run(async { ensure(&netlink(), &wanted()).await })))
                .collect();
            let nodes = calls.into_iter().map(|call| call.join().unwrap().unwrap());
            nodes.map(|node| node.bridge.index).collect()
        });
        let first = bridges[0];
        assert!(bridges.iter().all(|index| *index == first), "{bridges:?}");
        assert_eq!(ip("-o link show type bridge").lines().count(), 1);
        the_bridge_is_as_designed(1500);
    });
}

#[test]
fn without_a_name_the_bridge_is_named_after_the_nic() {
    lab(|| {
        plain_node(1500);
        let wanted = NodeWanted {
            bridge: None,
            ..wanted()
        };
        let node = run(async { ensure(&netlink(), &wanted).await }).unwrap();
        assert_eq!(node.bridge.name, format!("azure{}", node.nic.index));
    });
}

#[test]
fn a_link_that_has_the_name_of_the_bridge_is_left_alone() {
    lab(|| {
        rich_node(1500);
        ip("link add azure0 type veth peer name guest");
        addresses_are_settled();
        let before = everything();
        let refused = run(async { ensure(&netlink(), &wanted()).await });
        assert!(
            matches!(&refused, Err(NodeError::NotABridge { .. })),
            "{refused:?}"
        );
        assert_unchanged(&everything(), &before, "after the call");
        assert!(!std::path::Path::new(RECORD).exists());
    });
}

#[test]
fn a_bridge_that_connects_something_else_is_refused() {
    lab(|| {
        plain_node(1500);
        ip("link add azure0 type bridge");
        ip("link add tap0 type veth peer name guest");
        ip("link set tap0 master azure0");
        addresses_are_settled();
        let before = everything();
        let refused = run(async { ensure(&netlink(), &wanted()).await });
        assert!(
            matches!(&refused, Err(NodeError::BridgeTaken { port, .. }) if port == "tap0"),
            "{refused:?}"
        );
        assert_unchanged(&everything(), &before, "after the call");
        assert!(!std::path::Path::new(RECORD).exists());
    });
}

#[test]
fn a_bridge_that_the_nic_is_a_port_of_is_the_nic() {
    lab(|| {
        plain_node(1500);
        // As netplan makes it for virtual machines.
        ip(&format!("link add br0 address {NIC_MAC} type bridge"));
        ip("link set br0 up");
        ip("addr flush dev eth0");
        ip("link set eth0 master br0");
        ip("addr add 10.0.0.4/24 brd + dev br0");
        ip("route add default via 10.0.0.1 dev br0");
        addresses_are_settled();
        let before = all_but_ours();
        let node = settle();
        assert_eq!((&*node.nic.name, &*node.bridge.name), ("br0", "azure0"));
        let after = but_for_settings(all_but_ours());
        assert_unchanged(&after, &but_for_settings(before), "after the call");
        let (one, two) = (pod(&node, "one", "10.0.0.7"), pod(&node, "two", "10.0.0.8"));
        all_talk("10.0.0.4", &[&one, &two]);
    });
}

/// In v0.1.0 that refused the NIC to the bridge.
#[test]
fn a_nic_with_a_macvlan_serves_pods() {
    lab(|| {
        plain_node(1500);
        ip("link add busy link eth0 type macvlan");
        let node = settle();
        let (one, two) = (pod(&node, "one", "10.0.0.7"), pod(&node, "two", "10.0.0.8"));
        all_talk("10.0.0.4", &[&one, &two]);
        assert!(ip("link show busy").contains("busy@eth0"));
    });
}

#[test]
fn a_nic_that_is_down_is_left_down() {
    lab(|| {
        plain_node(1500);
        ip("link set eth0 down");
        let node = settle();
        assert_eq!(node.primary, Ipv4Addr::new(10, 0, 0, 4));
        assert!(!ip("link show eth0").contains(",UP"));
    });
}

#[test]
fn a_nic_that_gets_another_address_is_the_nic_still() {
    lab(|| {
        let node = ready_node(1500);
        let (one, two) = (pod(&node, "one", "10.0.0.7"), pod(&node, "two", "10.0.0.8"));
        // Before the new one comes the old one goes, and with it the routes that say to send from it.
        ip("addr del 10.0.0.4/24 dev eth0");
        ip("addr add 10.0.0.14/24 brd + dev eth0");
        ip("route add default via 10.0.0.1 dev eth0 src 10.0.0.14");
        assert!(!ip("route").contains("10.0.0.4"), "{}", ip("route"));
        all_talk("10.0.0.14", &[&one, &two]);

        let again = settle();
        assert_eq!(again.primary, Ipv4Addr::new(10, 0, 0, 14));
        assert_eq!(again.bridge.index, node.bridge.index);
        let named = run(async { missing(&netlink()).await }).unwrap();
        assert_eq!(named.len(), 2, "{named:?}");
        run(async { mend(&netlink()).await }).unwrap();
        assert!(ip("route get 10.0.0.7").contains("src 10.0.0.14"));
        all_talk("10.0.0.14", &[&one, &two]);
    });
}

#[test]
fn a_nic_without_an_address_is_an_error_that_leaves_no_harm() {
    lab(|| {
        ip("netns add fabric");
        nic(1500);
        addresses_are_settled();
        let before = all_but_ours();
        let nobody = run(async { ensure(&netlink(), &wanted()).await });
        assert!(
            matches!(&nobody, Err(NodeError::NoMaster { .. })),
            "{nobody:?}"
        );
        let named = NodeWanted {
            master: Some("eth0".to_owned()),
            ..wanted()
        };
        let refused = run(async { ensure(&netlink(), &named).await });
        assert!(
            matches!(&refused, Err(NodeError::NoAddress { master, .. }) if master == "eth0"),
            "{refused:?}"
        );
        let after = but_for_settings(all_but_ours());
        assert_unchanged(&after, &but_for_settings(before), "after the call");

        // The lease comes.
        ip("addr add 10.0.0.4/24 brd + dev eth0");
        ip("route add default via 10.0.0.1 dev eth0");
        let node = settle();
        all_talk("10.0.0.4", &[&pod(&node, "one", "10.0.0.7")]);
    });
}

#[test]
fn a_bridge_whose_record_was_lost_is_known_again_with_its_pods() {
    lab(|| {
        let node = ready_node(1500);
        let (one, two) = (pod(&node, "one", "10.0.0.7"), pod(&node, "two", "10.0.0.8"));
        std::fs::remove_dir_all("/run/azure-vnet").unwrap();
        let before = all_but_ours();
        let again = settle();
        assert_eq!(again.bridge.index, node.bridge.index);
        assert_unchanged(&all_but_ours(), &before, "after the call");
        let pods = live::pods("azure0").unwrap();
        let mut found: Vec<_> = pods.iter().map(|it| it.address.to_string()).collect();
        found.sort();
        assert_eq!(found, [one.address, two.address]);
        assert!(run(async { missing(&netlink()).await }).unwrap().is_empty());
        all_talk("10.0.0.4", &[&one, &two]);
    });
}
