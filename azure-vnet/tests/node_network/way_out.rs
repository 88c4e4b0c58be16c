//! A node with two NICs: what the pods of each send leaves by it.

use azure_vnet::node::{Node, NodeWanted, leave, missing};

use crate::lab::{
    addresses_are_settled, assert_unchanged, ensure, everything, ip, lab, mend, netlink,
    plain_node, run, second_nic,
};
use crate::pods::{Pod, fabric, here, pod, settle, talk};

fn wanted_second() -> NodeWanted {
    NodeWanted {
        bridge: Some("azure1".to_owned()),
        master: None,
        mac: None,
        subnet: "10.9.0.0/24".parse().unwrap(),
    }
}

fn two_nics() -> (Node, Node) {
    plain_node(1500);
    second_nic();
    // Somebody far away.
    ip("-n fabric link set lo up");
    ip("-n fabric addr add 203.0.113.1/32 dev lo");
    let first = settle();
    let second = run(async { ensure(&netlink(), &wanted_second()).await }).unwrap();
    (first, second)
}

fn pods(first: &Node, second: &Node) -> [Pod; 3] {
    [
        pod(first, "one", "10.0.0.7"),
        pod(second, "two", "10.9.0.7"),
        pod(second, "three", "10.9.0.8"),
    ]
}

/// The table of the second bridge.
fn table(second: &Node) -> String {
    format!("{}", 0x617a_0000 + second.bridge.index)
}

fn named() -> Vec<String> {
    let missing = run(async { missing(&netlink()).await }).unwrap();
    missing.into_iter().map(|it| it.what).collect()
}

#[track_caller]
fn all_pass(pods: &[Pod; 3]) {
    let (here, fabric) = (here(), fabric());
    for pod in pods {
        for other in pods {
            talk(&pod.netns, &other.netns, other.address);
        }
        talk(&here, &pod.netns, pod.address);
        talk(&pod.netns, &here, "10.0.0.4");
        talk(&pod.netns, &here, "10.9.0.4");
        talk(&fabric, &pod.netns, pod.address);
        talk(&pod.netns, &fabric, "203.0.113.1");
    }
}

/// The rules that lead to tables of ours.
fn rules() -> Vec<String> {
    let rules = ip("rule");
    let ours = rules.lines().filter(|it| it.starts_with("32000:"));
    ours.map(str::to_owned).collect()
}

fn routes(table: &str) -> Vec<String> {
    let routes = ip(&format!("route show table {table}"));
    routes.lines().map(|it| it.trim().to_owned()).collect()
}

#[test]
fn what_its_pods_send_leaves_by_it() {
    lab(|| {
        let (first, second) = two_nics();
        let _pods = pods(&first, &second);
        let tables = [table(&first), table(&second)];
        let [of_first, of_second] = &tables;
        assert_eq!(
            rules(),
            [
                format!("32000:\tfrom 10.0.0.4 lookup {of_first}"),
                format!("32000:\tfrom all iif azure0 lookup {of_first}"),
                format!("32000:\tfrom 10.9.0.4 lookup {of_second}"),
                format!("32000:\tfrom all iif azure1 lookup {of_second}"),
            ]
        );
        for (table, default) in tables
            .iter()
            .zip(["10.0.0.1 dev eth0", "10.9.0.1 dev eth1"])
        {
            let default = format!("default via {default} proto 97 onlink");
            assert_eq!(
                routes(table),
                [
                    default.as_str(),
                    "10.0.0.7 dev azure0 proto 97 scope link metric 20",
                    "10.9.0.7 dev azure1 proto 97 scope link metric 20",
                    "10.9.0.8 dev azure1 proto 97 scope link metric 20",
                ]
            );
        }
        // In the main table the second NIC's subnet is on the link, wherever the packet comes from.
        for (from, nic) in [
            ("10.9.0.7 iif azure1", "eth1"),
            ("10.0.0.7 iif azure0", "eth0"),
            ("10.9.0.4", "eth1"),
            ("10.0.0.4", "eth0"),
        ] {
            for to in ["203.0.113.1", "10.9.0.99", "10.0.0.99"] {
                let way = ip(&format!("route get {to} from {from}"));
                assert!(way.contains(&format!("dev {nic} ")), "{from}: {way}");
            }
        }
    });
}

/// With a default route each, as cloud-init leaves them, it needs no bridge on the other.
#[test]
fn another_nic_with_a_default_route_is_enough() {
    lab(|| {
        plain_node(1500);
        second_nic();
        ip("route del default via 10.9.0.1 dev eth1 metric 200");
        let first = settle();
        pod(&first, "one", "10.0.0.7");
        assert!(rules().is_empty(), "{:?}", rules());
        ip("route add default via 10.9.0.1 dev eth1 metric 200");
        run(async { mend(&netlink()).await }).unwrap();
        let way = ip("route get 10.9.0.99 from 10.0.0.7 iif azure0");
        assert!(way.contains("dev eth0 "), "{way}");
        ip("route del default via 10.9.0.1 dev eth1 metric 200");
        run(async { mend(&netlink()).await }).unwrap();
        assert!(rules().is_empty(), "{:?}", rules());
        assert!(routes("all").iter().all(|it| !it.contains("table 163")));
    });
}

/// What the main table has on links that are no NICs comes and goes in ours.
#[test]
fn links_that_are_no_nics_stay_reachable() {
    lab(|| {
        let (first, second) = two_nics();
        let pods = pods(&first, &second);
        ip("link add docker0 type bridge");
        ip("link set docker0 up");
        ip("addr add 172.17.0.1/16 dev docker0");
        // With the last address of a link the kernel takes all of its routes away.
        ip("addr add 192.0.2.1/32 dev docker0");
        assert_eq!(named().len(), 2, "{:?}", named());
        run(async { mend(&netlink()).await }).unwrap();
        assert!(named().is_empty(), "{:?}", named());
        for pod in &pods {
            let bridge = if pod.address.starts_with("10.0.") {
                "azure0"
            } else {
                "azure1"
            };
            let way = ip(&format!(
                "route get 172.17.0.2 from {} iif {bridge}",
                pod.address
            ));
            assert!(way.contains("dev docker0 "), "{way}");
        }
        ip("addr del 172.17.0.1/16 dev docker0");
        assert_eq!(named().len(), 2, "{:?}", named());
        run(async { mend(&netlink()).await }).unwrap();
        assert!(named().is_empty(), "{:?}", named());
    });
}

#[test]
fn pods_of_both_reach_each_other_whatever_the_reverse_path_filter() {
    for filter in ["0", "1", "2"] {
        lab(move || {
            let (first, second) = two_nics();
            for link in ["all", "default", "eth0", "eth1", "azure0", "azure1"] {
                let path = format!("/proc/sys/net/ipv4/conf/{link}/rp_filter");
                std::fs::write(path, filter).unwrap();
            }
            // A host route of the first NIC is none for the pods of the second.
            ip("route add 168.63.129.16 via 10.0.0.1 dev eth0");
            all_pass(&pods(&first, &second));
            let way = ip("route get 168.63.129.16 from 10.9.0.7 iif azure1");
            assert!(way.contains("dev eth1 "), "{way}");
        });
    }
}

/// As networkd does when it starts.
#[test]
fn rules_that_were_deleted_are_named_and_come_back() {
    lab(|| {
        let (first, second) = two_nics();
        let pods = pods(&first, &second);
        ip("rule add pref 500 from 192.0.2.1 lookup 200");
        ip("rule add pref 32000 from 192.0.2.2 lookup 200");
        let before = ip("rule");
        assert!(named().is_empty(), "{:?}", named());
        ip("rule del pref 32000 iif azure1");
        let missing = named();
        let what = format!(
            "the routing rule iif azure1 lookup {} pref 32000 is missing",
            table(&second)
        );
        assert_eq!(missing, [what]);
        run(async { mend(&netlink()).await }).unwrap();
        assert!(named().is_empty(), "{:?}", named());
        let sorted = |rules: &str| {
            let mut lines: Vec<_> = rules.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&ip("rule")), sorted(&before));
        all_pass(&pods);

        ip(&format!("route flush table {}", table(&second)));
        assert_eq!(named().len(), 4, "{:?}", named());
        run(async { mend(&netlink()).await }).unwrap();
        assert!(named().is_empty(), "{:?}", named());
        all_pass(&pods);
    });
}

#[test]
fn each_has_its_own_whichever_has_the_default_route() {
    lab(|| {
        let (first, second) = two_nics();
        let pods = pods(&first, &second);
        let before = rules();
        ip("route add default via 10.9.0.1 dev eth1 metric 10");
        run(async { mend(&netlink()).await }).unwrap();
        assert!(named().is_empty(), "{:?}", named());
        assert_eq!(rules(), before);
        all_pass(&pods);
    });
}

#[test]
fn with_its_bridge_its_way_out_goes() {
    lab(|| {
        plain_node(1500);
        second_nic();
        addresses_are_settled();
        let before = everything();
        let first = settle();
        let second = run(async { ensure(&netlink(), &wanted_second()).await }).unwrap();
        pod(&first, "one", "10.0.0.7");
        pod(&second, "two", "10.9.0.7");
        for (bridge, container) in [("azure1", "two"), ("azure0", "one")] {
            let host_veth = azure_vnet::names::host_veth("azure", container, "eth0");
            ip(&format!("link delete {host_veth}"));
            azure_vnet::state::forget(&host_veth).unwrap();
            assert!(run(async { leave(&netlink(), bridge, false).await }).unwrap());
            assert!(named().is_empty() || bridge == "azure1", "{:?}", named());
            run(async { mend(&netlink()).await }).unwrap();
            assert!(!ip("rule").contains(bridge), "{}", ip("rule"));
        }
        assert_unchanged(&everything(), &before, "afterwards");
    });
}
