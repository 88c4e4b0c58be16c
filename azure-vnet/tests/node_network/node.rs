//! The move of the node's network to its bridge.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use azure_vnet::netns::NetNs;
use azure_vnet::node::{NodeError, NodeWanted, ensure};

use crate::lab::{
    NIC_MAC, assert_same, command, ip, lab, moved, netlink, network, plain_node, rich_node, run,
    wanted,
};

#[test]
fn everything_moves_and_nothing_changes() {
    for mtu in [1500, 3900, 9000] {
        lab(move || {
            rich_node(mtu);
            let before = network();
            let node = run(async { ensure(&netlink(), &wanted()).await }).unwrap();

            assert_same(
                &network(),
                &moved(&before, "eth0", "azure0"),
                "after the call",
            );
            assert_eq!(node.bridge.name, "azure0");
            assert_eq!(node.master.name, "eth0");
            assert_eq!(node.mac.to_string(), NIC_MAC);
            assert_eq!(node.primary, Ipv4Addr::new(10, 0, 0, 4));
            assert_eq!(node.gateway, Some([10, 0, 0, 1].into()));
            assert_eq!((node.mtu, node.bridge.mtu), (mtu, mtu));
            assert_eq!(node.addresses.len(), 5);
            links_are_right(mtu);
            assert_eq!(forwarding(), "1");
        });
    }
}

fn links_are_right(mtu: u32) {
    for link in ["eth0", "azure0"] {
        let shown = ip(&format!("-d link show {link}"));
        assert!(shown.contains(",MULTICAST,"), "{shown}");
        assert!(shown.contains(",UP,"), "{shown}");
        assert!(shown.contains(&format!("mtu {mtu} ")), "{shown}");
        assert!(shown.contains(&format!("link/ether {NIC_MAC} ")), "{shown}");
    }
    let bridge = ip("-d link show azure0");
    for setting in ["forward_delay 0 ", "stp_state 0 ", "nf_call_iptables 1 "] {
        assert!(bridge.contains(setting), "{bridge}");
    }
    let port = command("bridge", "-d link show dev eth0");
    assert!(port.contains("hairpin off"), "{port}");
    assert!(port.contains("state forwarding"), "{port}");
}

fn forwarding() -> String {
    let value = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    value.trim().to_owned()
}

#[test]
fn lifetimes_go_on_counting() {
    lab(|| {
        rich_node(1500);
        run(async { ensure(&netlink(), &wanted()).await }).unwrap();
        let shown = ip("-o addr show dev azure0 to 10.3.0.4");
        let left: u32 = shown
            .split("valid_lft ")
            .nth(1)
            .and_then(|rest| rest.split("sec").next())
            .and_then(|seconds| seconds.parse().ok())
            .unwrap_or_else(|| panic!("no lifetime: {shown}"));
        assert!((3000..=3600).contains(&left), "{shown}");
        let expires = ip("-6 route show 2001:db8::/32");
        assert!(expires.contains("expires 2"), "{expires}");
        let permanent = ip("-o addr show dev azure0 to 10.0.0.4");
        assert!(permanent.contains("valid_lft forever"), "{permanent}");
    });
}

#[test]
fn settings_of_the_nic_hold_for_the_bridge() {
    lab(|| {
        plain_node(1500);
        let settings = [
            ("ipv4/conf", "rp_filter", "2"),
            ("ipv6/conf", "accept_ra", "0"),
        ];
        for (family, key, value) in settings {
            std::fs::write(format!("/proc/sys/net/{family}/eth0/{key}"), value).unwrap();
        }
        run(async { ensure(&netlink(), &wanted()).await }).unwrap();
        for (family, key, value) in settings {
            let path = format!("/proc/sys/net/{family}/azure0/{key}");
            assert_eq!(
                std::fs::read_to_string(&path).unwrap().trim(),
                value,
                "{path}"
            );
        }
    });
}

#[test]
fn the_second_call_asks_four_questions_and_changes_nothing() {
    lab(|| {
        rich_node(1500);
        let first = run(async { ensure(&netlink(), &wanted()).await }).unwrap();
        let (network_before, links_before) = (network(), ip("-o link show"));
        let requests = run(async {
            let netlink = netlink();
            let again = ensure(&netlink, &wanted()).await.unwrap();
            assert_eq!(again.bridge.index, first.bridge.index);
            assert_eq!(again.addresses, first.addresses);
            assert_eq!(again.gateway, first.gateway);
            netlink.requests()
        });
        assert_eq!(requests, 4);
        assert_eq!(network(), network_before);
        assert_eq!(ip("-o link show"), links_before);
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
        assert_eq!(node.bridge.name, format!("azure{}", node.master.index));
    });
}

#[test]
fn a_nic_that_is_down_is_set_up() {
    lab(|| {
        plain_node(1500);
        ip("link set eth0 down");
        let node = run(async { ensure(&netlink(), &wanted()).await }).unwrap();
        assert!(node.master.is_up());
    });
}

#[test]
fn a_bridge_whose_state_was_lost_is_adopted_with_its_pods() {
    lab(|| {
        rich_node(1500);
        let first = run(async { ensure(&netlink(), &wanted()).await }).unwrap();
        ip("link add azv0123456789a type veth peer name pod-end");
        ip("link set azv0123456789a master azure0 up");
        std::fs::remove_dir_all("/run/azure-vnet").unwrap();
        let before = network();

        let node = run(async { ensure(&netlink(), &wanted()).await }).unwrap();
        assert_eq!(node.bridge.index, first.bridge.index);
        assert_eq!(node.gateway, first.gateway);
        assert_eq!(network(), before);
        assert!(ip("link show azv0123456789a").contains("master azure0"));
    });
}

#[test]
fn a_bridge_of_another_plugin_gets_the_macs_right() {
    lab(|| {
        plain_node(1500);
        // As the bridge of the older plugin is: no MAC of its own, hairpin on at the NIC.
        ip("link add azure0 type bridge");
        ip("link set azure0 address 02:00:00:00:00:01 up");
        ip("link set eth0 master azure0");
        ip("link set eth0 type bridge_slave hairpin on");
        ip("addr flush dev eth0");
        ip("addr add 10.0.0.4/24 dev azure0");
        let index = run(async { netlink().link("azure0").await.unwrap().unwrap().index });
        let wanted = NodeWanted {
            master: Some("eth0".to_owned()),
            ..wanted()
        };
        let node = run(async { ensure(&netlink(), &wanted).await }).unwrap();
        assert_eq!(node.bridge.index, index);
        assert_eq!(node.bridge.mac.unwrap().to_string(), NIC_MAC);
        let port = command("bridge", "-d link show dev eth0");
        assert!(port.contains("hairpin off"), "{port}");
    });
}

#[test]
fn an_address_that_dhcp_puts_back_moves_again() {
    lab(|| {
        rich_node(1500);
        let before = network();
        run(async { ensure(&netlink(), &wanted()).await }).unwrap();
        ip("addr add 10.0.0.4/24 brd + dev eth0 valid_lft 9000 preferred_lft 9000");
        ip("addr add 10.0.0.77/24 dev eth0");
        ip("route add 168.63.129.17 via 10.0.0.1 dev eth0");

        let node = run(async { ensure(&netlink(), &wanted()).await }).unwrap();
        assert_eq!(ip("-4 addr show dev eth0"), "");
        assert_eq!(ip("-4 route show dev eth0"), "");
        assert!(node.addresses.contains(&"10.0.0.77/24".parse().unwrap()));
        assert!(ip("route show 168.63.129.17").contains("dev azure0"));
        let renewed = ip("-o addr show to 10.0.0.4/32");
        assert!(!renewed.contains("forever"), "{renewed}");
        let after = network();
        for line in moved(&before, "eth0", "azure0") {
            let renewed = line.contains(" 10.0.0.4/24 ");
            assert!(renewed || after.contains(&line), "lost: {line}");
        }
    });
}

#[test]
fn a_node_whose_bridge_was_deleted_gets_its_addresses_back() {
    lab(|| {
        rich_node(1500);
        run(async { ensure(&netlink(), &wanted()).await }).unwrap();
        let before = network();
        ip("link delete azure0");
        assert!(!network().iter().any(|line| line.contains("10.0.0.4/24")));

        run(async { ensure(&netlink(), &wanted()).await }).unwrap();
        assert_same(&network(), &before, "after the call");
    });
}

#[test]
fn another_nic_keeps_its_equal_default_route() {
    lab(|| {
        plain_node(1500);
        ip("link add eth1 type veth peer name other");
        ip("link set eth1 up");
        ip("addr add 10.9.0.4/24 dev eth1");
        ip("route append default via 10.9.0.1 dev eth1 proto dhcp src 10.9.0.4 metric 100");
        let before = ip("route show default");
        run(async { ensure(&netlink(), &wanted()).await }).unwrap();
        assert_eq!(
            ip("route show default")
                .replace("azure0", "eth0")
                .replace("linkdown ", ""),
            before.replace("linkdown ", "")
        );
    });
}

#[test]
fn a_link_with_the_bridges_name_is_left_alone() {
    lab(|| {
        plain_node(1500);
        ip("link add azure0 type veth peer name foreign");
        let before = (network(), ip("-o link show"));
        let refused = run(async { ensure(&netlink(), &wanted()).await });
        assert!(
            matches!(&refused, Err(NodeError::NotABridge { .. })),
            "{refused:?}"
        );
        assert_eq!((network(), ip("-o link show")), before);
        assert!(!std::path::Path::new("/run/azure-vnet/node-azure0.json").exists());
    });
}

#[test]
fn a_nic_that_cannot_be_a_port_stays_as_it_was() {
    lab(|| {
        rich_node(1500);
        // The macvlan holds the NIC's receive handler: the bridge's request for it is refused.
        ip("link add busy link eth0 type macvlan");
        let before = network();
        let refused = run(async { ensure(&netlink(), &wanted()).await });
        assert!(
            matches!(&refused, Err(NodeError::Netlink(_))),
            "{refused:?}"
        );
        assert_eq!(network(), before);
        assert!(!ip("link show").contains("azure0"));
        assert!(!std::path::Path::new("/run/azure-vnet/node-azure0.json").exists());
        ip("link delete busy");
        run(async { ensure(&netlink(), &wanted()).await }).unwrap();
        assert_same(
            &network(),
            &moved(&before, "eth0", "azure0"),
            "after the call",
        );
    });
}

#[test]
fn eight_calls_at_once_make_one_bridge() {
    lab(|| {
        rich_node(1500);
        let before = network();
        let bridges: Vec<u32> = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| run(async { ensure(&netlink(), &wanted()).await })))
                .collect();
            let nodes = calls.into_iter().map(|call| call.join().unwrap().unwrap());
            nodes.map(|node| node.bridge.index).collect()
        });
        assert!(
            bridges.iter().all(|index| *index == bridges[0]),
            "{bridges:?}"
        );
        assert_same(
            &network(),
            &moved(&before, "eth0", "azure0"),
            "after the call",
        );
    });
}

#[test]
fn a_tcp_connection_survives_the_move() {
    lab(|| {
        plain_node(1500);
        let fabric = NetNs::open("/run/netns/fabric").unwrap();
        let server = fabric
            .run_in(|| TcpListener::bind("10.0.0.1:7"))
            .unwrap()
            .unwrap();
        let echo = std::thread::spawn(move || {
            let (mut peer, _) = server.accept().unwrap();
            let mut byte = [0; 1];
            while peer.read(&mut byte).unwrap() == 1 {
                peer.write_all(&byte).unwrap();
            }
        });
        let mut stream = TcpStream::connect("10.0.0.1:7").unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();

        let finished = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&finished);
        let traffic = std::thread::spawn(move || {
            let mut rounds = 0_u32;
            // On through the move, and then as much again.
            let mut rounds_after = 0;
            while rounds_after < 200 {
                stream.write_all(b"x").expect("sending");
                let mut byte = [0; 1];
                stream.read_exact(&mut byte).expect("the echo");
                rounds += 1;
                rounds_after += u32::from(seen.load(Ordering::SeqCst));
            }
            rounds
        });
        run(async { ensure(&netlink(), &wanted()).await }).unwrap();
        finished.store(true, Ordering::SeqCst);
        assert!(traffic.join().unwrap() >= 200);
        echo.join().unwrap();
    });
}
