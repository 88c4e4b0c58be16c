//! The way back: after it, the node is as if we had never been there.

use azure_vnet::node::{NodeError, NodeWanted, bridges, ensure, leave};

use crate::lab::{
    assert_same, everything, ip, lab, netlink, network, plain_node, rich_node, rules, run, wanted,
};

fn settle() {
    run(async { ensure(&netlink(), &wanted()).await }).unwrap();
}

fn back() -> Result<bool, NodeError> {
    run(async { leave(&netlink(), "azure0", false).await })
}

#[track_caller]
fn is_as_before(before: &[String]) {
    let after = everything();
    assert_same(&after, before, "afterwards");
    if let Some((is, was)) = after.iter().zip(before).find(|(is, was)| is != was) {
        panic!("the order is another\n was: {was}\n  is: {is}");
    }
    nothing_is_remembered();
}

#[track_caller]
fn nothing_is_remembered() {
    assert!(!std::path::Path::new("/run/azure-vnet/node-azure0.json").exists());
    assert!(!std::path::Path::new("/run/azure-vnet/settings.json").exists());
}

#[test]
fn the_nic_is_as_it_was_to_the_last_byte() {
    for mtu in [1500, 3900, 9000] {
        lab(move || {
            rich_node(mtu);
            rules();
            ip("addr add 10.0.0.6/24 dev eth0 label eth0:secondary");
            ip("addr add fd00::5/64 dev eth0 home");
            ip("addr add fe80::99/64 dev eth0 nodad");
            ip("neigh add 10.0.0.99 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
            addresses_are_settled();
            let before = everything();
            settle();
            assert!(
                ip("rule").contains("iif azure0 lookup 200"),
                "{}",
                ip("rule")
            );
            assert!(!ip("rule").contains("iif eth0 "), "{}", ip("rule"));
            assert!(ip("-6 rule").contains("iif azure0 "));
            assert!(ip("neigh show 10.0.0.99 dev azure0").contains("PERMANENT"));
            assert!(back().unwrap());
            addresses_are_settled();
            is_as_before(&before);
            assert!(!back().unwrap(), "there is nothing left to go back from");
        });
    }
}

/// Detection of duplicate IPv6 addresses is over.
fn addresses_are_settled() {
    for _ in 0..1000 {
        if !ip("-6 addr show tentative").contains("inet6") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!(
        "an address stays tentative: {}",
        ip("-6 addr show tentative")
    );
}

#[test]
fn there_and_back_again_three_times() {
    lab(|| {
        rich_node(1500);
        rules();
        addresses_are_settled();
        let before = everything();
        for _ in 0..3 {
            settle();
            assert!(back().unwrap());
        }
        addresses_are_settled();
        is_as_before(&before);
    });
}

#[test]
fn equal_routes_of_another_nic_keep_their_place() {
    lab(|| {
        plain_node(1500);
        ip("link add eth1 type veth peer name other");
        ip("link set eth1 up");
        ip("link set other up");
        // The same subnet on two NICs, as some appliances have it: the first one is the one that is used.
        ip("addr add 10.0.0.44/24 dev eth1");
        addresses_are_settled();
        let before = everything();
        let first = |name: &str| ip("route get 10.0.0.200").contains(name);
        assert!(first("dev eth0"));
        let wanted = NodeWanted {
            master: Some("eth0".to_owned()),
            ..wanted()
        };
        run(async { ensure(&netlink(), &wanted).await }).unwrap();
        assert!(first("dev azure0"), "{}", ip("route"));
        assert!(back().unwrap());
        // Only the kernel's own entries for broadcasts, which are alike, have changed places.
        assert_same(&everything(), &before, "afterwards");
        assert!(first("dev eth0"), "{}", ip("route"));
        nothing_is_remembered();
    });
}

#[test]
fn a_nic_that_was_down_is_down_again() {
    lab(|| {
        plain_node(1500);
        ip("link set eth0 down");
        let before = everything();
        settle();
        assert!(back().unwrap());
        is_as_before(&before);
    });
}

#[test]
fn what_changed_meanwhile_goes_back_too() {
    lab(|| {
        plain_node(1500);
        settle();
        ip("addr add 10.5.0.9/24 dev azure0");
        ip("addr del 10.0.0.4/24 dev azure0");
        ip("route replace default via 10.5.0.2 dev azure0 metric 50");
        assert!(back().unwrap());
        let after = network();
        assert!(
            after
                .iter()
                .any(|line| line.starts_with("eth0 inet 10.5.0.9/24 ")),
            "{after:#?}"
        );
        assert!(
            !after.iter().any(|line| line.contains("10.0.0.4/24")),
            "{after:#?}"
        );
        assert!(ip("route show default").contains("via 10.5.0.2 dev eth0 metric 50"));
    });
}

#[test]
fn without_its_journal_a_bridge_of_ours_is_known_by_its_mark() {
    lab(|| {
        rich_node(1500);
        let before = network();
        settle();
        std::fs::remove_dir_all("/run/azure-vnet").unwrap();
        assert_eq!(
            run(async { bridges(&netlink()).await }).unwrap(),
            ["azure0"]
        );
        assert!(back().unwrap());
        assert_same(&network(), &before, "afterwards");
        assert!(!ip("link").contains("azure0"));
    });
}

#[test]
fn a_bridge_that_somebody_deleted_gives_the_addresses_back() {
    lab(|| {
        rich_node(1500);
        let before = network();
        settle();
        ip("link delete azure0");
        assert!(back().unwrap());
        assert_same(&network(), &before, "afterwards");
    });
}

#[test]
fn a_bridge_made_by_hand_stays() {
    lab(|| {
        plain_node(1500);
        ip("link add azure0 type bridge");
        ip("link set azure0 up");
        ip("link set eth0 master azure0");
        ip("addr flush dev eth0");
        ip("addr add 10.0.0.4/24 brd + dev azure0");
        ip("route add default via 10.0.0.1 dev azure0");
        settle();
        let before = network();
        assert!(back().unwrap());
        assert_eq!(network(), before);
        assert!(ip("link show eth0").contains("master azure0"));
    });
}

#[test]
fn an_empty_bridge_made_by_hand_is_empty_again() {
    lab(|| {
        plain_node(1500);
        ip("link add azure0 type bridge");
        let before = network();
        settle();
        assert!(back().unwrap());
        assert_same(&network(), &before, "afterwards");
        assert!(ip("link").contains("azure0"));
        assert!(!ip("link").contains("master azure0"));
    });
}

#[test]
fn other_ports_are_not_cut_off() {
    lab(|| {
        plain_node(1500);
        settle();
        ip("link add tap0 type veth peer name guest");
        ip("link set tap0 master azure0");
        let before = network();
        let refused = back();
        assert!(
            matches!(&refused, Err(NodeError::InUse { port, .. }) if port == "tap0"),
            "{refused:?}"
        );
        assert_eq!(network(), before);
        assert!(run(async { leave(&netlink(), "azure0", true).await }).unwrap());
        assert!(ip("addr show eth0").contains("10.0.0.4/24"));
    });
}

#[test]
fn a_renamed_nic_gets_its_addresses_back() {
    lab(|| {
        plain_node(1500);
        settle();
        ip("link set eth0 name wan0");
        assert!(back().unwrap());
        assert!(ip("addr show wan0").contains("10.0.0.4/24"));
        assert!(ip("route show default").contains("dev wan0"));
    });
}

#[test]
fn without_a_nic_nothing_is_taken_away() {
    lab(|| {
        plain_node(1500);
        settle();
        ip("link delete eth0");
        let before = network();
        let refused = back();
        assert!(
            matches!(&refused, Err(NodeError::NoNic { .. })),
            "{refused:?}"
        );
        assert_eq!(network(), before);
    });
}
