//! Whatever takes something of the node's network away: it is named, and one call of any kind puts it right for all pods.

use azure_vnet::node::{self, missing};

use crate::lab::{command, ip, lab, mend, netlink, run};
use crate::pods::{Pod, all_talk, pod, ready_node, settle};

/// What is not as it should be, as CHECK and doctor say it.
fn complaints() -> Vec<String> {
    run(async {
        let netlink = netlink();
        let missing = missing(&netlink).await.unwrap();
        let mut named: Vec<String> = missing.into_iter().map(|it| it.what).collect();
        let bridge = netlink.link("azure0").await.unwrap();
        let nic = netlink.link("eth0").await.unwrap();
        if let (Some(bridge), Some(nic)) = (bridge, nic) {
            named.extend(node::defects(&netlink, &bridge, &nic).await.unwrap());
        }
        named
    })
}

/// Two pods; `damage` is done to the first, or to all. One call of any kind mends it.
#[track_caller]
fn is_mended(damage: impl FnOnce(&Pod) + Send + 'static, names: &[&'static str]) {
    let names = names.to_vec();
    lab(move || {
        let node = ready_node(1500);
        let (one, two) = (pod(&node, "one", "10.0.0.7"), pod(&node, "two", "10.0.0.8"));
        all_talk("10.0.0.4", &[&one, &two]);
        assert!(complaints().is_empty(), "{:?}", complaints());

        damage(&one);
        let said = complaints();
        for part in names {
            let is_named = said.iter().any(|it| it.contains(part));
            assert!(is_named, "{part:?} is not among {said:#?}");
        }
        run(async { mend(&netlink()).await }).unwrap();
        assert!(complaints().is_empty(), "{:?}", complaints());
        all_talk("10.0.0.4", &[&one, &two]);
    });
}

/// Somebody gives these commands.
fn by_hand(commands: &'static [&'static str]) -> impl FnOnce(&Pod) {
    move |_| commands.iter().copied().map(ip).for_each(drop)
}

fn set(path: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap();
}

fn port(pod: &Pod, setting: &str) {
    command(
        "bridge",
        &format!("link set dev {} {setting}", pod.host_veth),
    );
}

const ROUTES: [&str; 4] = [
    "route 10.0.0.7/32 metric 10 is missing",
    "route 10.0.0.7/32 metric 20 is missing",
    "route 10.0.0.8/32 metric 10 is missing",
    "route 10.0.0.8/32 metric 20 is missing",
];

/// The kernel keeps the forwarding entries, and forgets routes and neighbours.
#[test]
fn a_bridge_that_was_down_and_up() {
    let down_and_up = by_hand(&["link set azure0 down", "link set azure0 up"]);
    let neighbours = [
        "not know the MAC of 10.0.0.7",
        "not know the MAC of 10.0.0.8",
    ];
    let names = [&ROUTES[..], &neighbours].concat();
    is_mended(down_and_up, &names);
}

#[test]
fn a_bridge_that_is_down() {
    is_mended(by_hand(&["link set azure0 down"]), &["azure0 is down"]);
}

#[test]
fn routes_that_were_flushed() {
    is_mended(by_hand(&["route flush dev azure0"]), &ROUTES);
}

#[test]
fn blackholes_that_were_deleted() {
    is_mended(
        by_hand(&["route flush type blackhole"]),
        &[
            "route blackhole 10.0.0.7/32 metric 30 is missing",
            "route blackhole 10.0.0.8/32 metric 30 is missing",
        ],
    );
}

#[test]
fn neighbours_that_were_flushed() {
    is_mended(
        by_hand(&["neigh flush dev azure0 nud permanent"]),
        &[
            "not know the MAC of 10.0.0.7",
            "not know the MAC of 10.0.0.8",
        ],
    );
}

/// Somebody has asked, and what was answered is not for good.
#[test]
fn a_neighbour_that_is_not_permanent() {
    is_mended(
        by_hand(&["neigh replace 10.0.0.7 lladdr 0a:58:0a:00:00:07 dev azure0 nud stale"]),
        &["not know the MAC of 10.0.0.7"],
    );
}

#[test]
fn a_neighbour_that_is_another() {
    is_mended(
        by_hand(&["neigh replace 10.0.0.7 lladdr 0a:58:0a:00:00:09 dev azure0 nud permanent"]),
        &["not know the MAC of 10.0.0.7"],
    );
}

#[test]
fn a_forwarding_entry_that_was_deleted() {
    is_mended(
        |pod| {
            let entry = format!("fdb del 0a:58:0a:00:00:07 dev {} master", pod.host_veth);
            command("bridge", &entry);
        },
        &["not know that 0a:58:0a:00:00:07 is behind azv"],
    );
}

#[test]
fn ports_that_were_set_otherwise() {
    for setting in [
        "learning on",
        "flood on",
        "mcast_flood on",
        "bcast_flood on",
        "hairpin off",
    ] {
        is_mended(
            move |pod| port(pod, setting),
            &["of 10.0.0.7 is down, or not set as a pod's port is"],
        );
    }
}

#[test]
fn a_port_that_was_taken_out() {
    is_mended(
        |pod| drop(ip(&format!("link set {} nomaster", pod.host_veth))),
        &["of 10.0.0.7 is not a port of azure0", "is behind azv"],
    );
}

/// A manager that puts everything with this name pattern into a bridge of its own.
#[test]
fn a_port_that_is_one_of_another_bridge() {
    is_mended(
        |pod| {
            ip("link add br0 type bridge");
            ip(&format!("link set {} master br0", pod.host_veth));
        },
        &["of 10.0.0.7 is not a port of azure0"],
    );
}

#[test]
fn a_port_that_is_down() {
    is_mended(
        |pod| drop(ip(&format!("link set {} down", pod.host_veth))),
        &["of 10.0.0.7 is down"],
    );
}

#[test]
fn a_bridge_that_was_deleted() {
    is_mended(
        by_hand(&["link delete azure0"]),
        &["the bridge azure0 is gone"],
    );
}

#[test]
fn a_bridge_with_other_properties() {
    let bridge = |what: &'static str| move |_: &Pod| drop(ip(&format!("link set azure0 {what}")));
    is_mended(
        bridge("address 02:00:00:00:00:01"),
        &["azure0 does not have the MAC 12:34:56:78:9a:bc"],
    );
    is_mended(
        bridge("mtu 1400"),
        &["azure0 has the MTU 1400, and eth0 has 1500"],
    );
    is_mended(
        bridge("alias other"),
        &["the settings of a bridge of azure-vnet"],
    );
    for setting in ["mcast_snooping 1", "nf_call_iptables 1", "stp_state 1"] {
        is_mended(
            move |_| drop(ip(&format!("link set azure0 type bridge {setting}"))),
            &["the settings of a bridge of azure-vnet"],
        );
    }
}

#[test]
fn a_nic_with_another_mtu() {
    is_mended(
        by_hand(&["link set eth0 mtu 1400"]),
        &["azure0 has the MTU 1500, and eth0 has 1400"],
    );
}

#[test]
fn settings_of_the_bridge() {
    for (key, value) in [
        ("proxy_arp", "0"),
        ("proxy_arp_pvlan", "0"),
        ("send_redirects", "1"),
    ] {
        is_mended(
            move |_| set(&format!("ipv4/conf/azure0/{key}"), value),
            &["proxy_arp or proxy_arp_pvlan is not 1, or send_redirects is not 0"],
        );
    }
}

#[test]
fn forwarding_that_was_switched_off() {
    is_mended(
        |_| set("ipv4/ip_forward", "0"),
        &["net.ipv4.ip_forward is 0"],
    );
}

/// When the last IPv4 address of a link goes, so do all its routes and neighbours. There is one that stays.
#[test]
fn an_address_that_comes_and_goes_takes_nothing_along() {
    is_mended(
        |pod| {
            let before = ip("route show table all") + &ip("neigh show nud permanent");
            ip("addr add 192.0.2.9/24 dev azure0");
            ip("addr del 192.0.2.9/24 dev azure0");
            let after = ip("route show table all") + &ip("neigh show nud permanent");
            assert_eq!(after, before);
            assert!(complaints().is_empty());
            all_talk("10.0.0.4", &[pod]);
        },
        &[],
    );
}

#[test]
fn the_address_that_keeps_the_routes() {
    is_mended(
        by_hand(&["addr flush dev azure0"]),
        &[
            "azure0 does not have the address 169.254.73.1/32",
            ROUTES[0],
            ROUTES[3],
        ],
    );
}

/// Of a pod that has gone without a DEL, or that another version made.
#[test]
fn routes_of_no_pod_go() {
    is_mended(
        |_| {
            ip("route add 10.0.0.9 dev azure0 proto 97 metric 20");
            ip("route add blackhole 10.0.0.9 proto 97 metric 30");
            // Not ours.
            ip("route add 192.0.2.0/24 dev azure0 proto static");
        },
        &[
            "route 10.0.0.9/32 metric 20 is of no pod",
            "route blackhole 10.0.0.9/32 metric 30 is of no pod",
        ],
    );
}

/// With or without an ADD: the bridge is known by its mark, the pods by their links.
#[test]
fn a_lost_record() {
    for (lost, with_add) in [
        ("node-azure0.json", true),
        ("attachments", true),
        ("", true),
        ("node-azure0.json", false),
        ("", false),
    ] {
        lab(move || {
            let node = ready_node(1500);
            let (one, two) = (pod(&node, "one", "10.0.0.7"), pod(&node, "two", "10.0.0.8"));
            let path = format!("/run/azure-vnet/{lost}");
            let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
            assert!(!std::path::Path::new(&path).exists());
            if lost != "attachments" {
                let what = "the record of the bridge azure0 is lost";
                assert_eq!(complaints(), [what], "{lost}");
            }
            ip("route flush dev azure0");
            ip("route flush type blackhole");
            command(
                "bridge",
                &format!("link set dev {} learning on", one.host_veth),
            );
            if with_add {
                ip("link set azure0 down");
                assert_eq!(settle().bridge.index, node.bridge.index);
            }
            run(async { mend(&netlink()).await }).unwrap();
            assert!(complaints().is_empty(), "{lost}: {:?}", complaints());
            assert_eq!(ip("route show type blackhole").lines().count(), 2);
            all_talk("10.0.0.4", &[&one, &two]);
            // The next pod is beside them.
            let three = pod(&settle(), "three", "10.0.0.9");
            all_talk("10.0.0.4", &[&one, &two, &three]);
        });
    }
}

/// All of it at once, and what cannot be put right does not keep the rest from it.
#[test]
fn one_failure_does_not_keep_others_from_being_mended() {
    lab(|| {
        let node = ready_node(1500);
        let (one, two) = (pod(&node, "one", "10.0.0.7"), pod(&node, "two", "10.0.0.8"));
        ip("link set azure0 down");
        // A bridge cannot have a port that is a bridge's parent; nobody's MAC is a pod's.
        ip(&format!("link set {} nomaster", one.host_veth));
        ip(&format!(
            "link add link {} name busy type macvlan mode passthru",
            one.host_veth
        ));
        let failed = run(async { mend(&netlink()).await });
        assert!(failed.is_err());
        all_talk("10.0.0.4", &[&two]);
        ip("link delete busy");
        run(async { mend(&netlink()).await }).unwrap();
        all_talk("10.0.0.4", &[&one, &two]);
    });
}
