//! A pod's network: made, undone, removed.

use azure_vnet::apply::{ApplyError, Removal, apply, refuse_existing, remove};
use azure_vnet::netlink::Netlink;
use azure_vnet::node;
use azure_vnet::plan::Plan;
use azure_vnet::state;

use crate::lab::{assert_same, command, ip, lab, mend, namespace, netlink, run, wanted};
use crate::pods::{all_talk, attach, plan_for, pod, pool, ready_node, record};

/// Everything on the node that a pod leaves traces in.
fn traces() -> Vec<String> {
    let links = ip("-o link show");
    let links = links
        .lines()
        .map(|line| line.split(": <").next().unwrap_or(line));
    let forwarding = command("bridge", "fdb show");
    let made = |line: &&str| line.contains("static") || line.contains("permanent");
    let forwarding = forwarding.lines().filter(made);
    let rest = [ip("route show table all"), ip("neigh show nud permanent")].concat();
    // Multicast memberships, and what the kernel makes for link-local addresses, come a second late.
    let late = ["33:33:", "01:00:5e:", "fe80::", "ff00::"];
    let timely = |line: &&str| !late.iter().any(|part| line.contains(part));
    let rest = rest.lines().chain(forwarding).filter(timely);
    // State of the moment: whether the kernel has noted that the bridge has a carrier.
    let lasting = |line: &str| line.replace("linkdown ", "");
    links.chain(rest).map(lasting).collect()
}

#[test]
fn the_pod_has_what_the_plan_says() {
    for mtu in [1500, 3900, 9000] {
        lab(move || {
            let node = ready_node(mtu);
            let netns = namespace("pod");
            let plan = plan_for(&node, "c1", "eth0", "10.0.0.7/24");
            attach(&netns, "c1", &plan).unwrap();

            let inside = ip("-n pod -o link show");
            assert_eq!(inside.lines().count(), 2, "{inside}");
            assert!(inside.contains(": eth0@"), "{inside}");
            let eth0 = ip("-n pod link show eth0");
            assert!(eth0.contains("<BROADCAST,MULTICAST,UP,LOWER_UP>"), "{eth0}");
            assert!(eth0.contains(&format!("mtu {mtu} ")), "{eth0}");
            assert!(eth0.contains("0a:58:0a:00:00:07"), "{eth0}");
            assert!(ip("-n pod link show lo").contains(",UP,"));
            let address = ip("-n pod -4 -o addr show dev eth0");
            assert!(
                address.contains("10.0.0.7/24 brd 10.0.0.255 scope global"),
                "{address}"
            );
            assert_eq!(
                ip("-n pod route show")
                    .split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" "),
                "default via 10.0.0.1 dev eth0 proto static \
                 10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.7"
            );
            let accept_ra = "/proc/sys/net/ipv6/conf/eth0/accept_ra";
            let accept_ra = netns.run_in(|| std::fs::read_to_string(accept_ra)).unwrap();
            assert_eq!(accept_ra.unwrap().trim(), "0");
            the_node_knows_the_pod(&plan, mtu);
        });
    }
}

fn the_node_knows_the_pod(plan: &Plan, mtu: u32) {
    let name = &plan.veth.host_name;
    let host = ip(&format!("link show {name}"));
    for part in [
        ",MULTICAST,UP,",
        &format!("mtu {mtu} "),
        "master azure0",
        "0e:58:0a:00:00:07",
    ] {
        assert!(host.contains(part), "{part}: {host}");
    }
    let port = command("bridge", &format!("-d link show dev {name}"));
    for setting in [
        "hairpin on",
        "learning off",
        " flood off",
        "mcast_flood off",
        "bcast_flood off",
        "isolated off",
        "state forwarding",
    ] {
        assert!(port.contains(setting), "{setting}: {port}");
    }
    assert!(!ip(&format!("addr show dev {name}")).contains("inet"));
    assert!(
        ip("link show azure0").contains(&format!("mtu {mtu} ")),
        "the bridge keeps its MTU"
    );
    let neighbour = ip("neigh show 10.0.0.7 dev azure0");
    assert_eq!(
        neighbour.trim(),
        "10.0.0.7 lladdr 0a:58:0a:00:00:07 PERMANENT"
    );
    let forwarding = command("bridge", &format!("fdb show brport {name}"));
    assert!(
        forwarding.contains("0a:58:0a:00:00:07 sticky master azure0 static"),
        "{forwarding}"
    );
}

/// Of the routes to a pod, the first says what the node sends from, the second is there when the first goes with that
/// address, and the third drops what is for a pod that is not there.
#[test]
fn a_pod_has_three_routes() {
    lab(|| {
        let node = ready_node(1500);
        pod(&node, "one", "10.0.0.7");
        let routes = ip("-d route show proto 97");
        let routes: Vec<String> = routes
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            routes,
            [
                "unicast 10.0.0.7 dev azure0 scope link src 10.0.0.4 metric 10",
                "unicast 10.0.0.7 dev azure0 scope link metric 20",
                "blackhole 10.0.0.7 scope global metric 30",
            ]
        );
    });
}

#[test]
fn node_and_pods_reach_each_other_at_once() {
    lab(|| {
        let node = ready_node(1500);
        let (one, two) = (pod(&node, "one", "10.0.0.7"), pod(&node, "two", "10.0.0.8"));
        all_talk("10.0.0.4", &[&one, &two]);
        // What is sent to the router's MAC is routed: no pod has another's.
        for pod in ["one", "two"] {
            let known = ip(&format!("-n {pod} neigh show dev eth0"));
            assert!(known.lines().count() >= 3, "{known}");
            for line in known.lines() {
                assert!(line.contains("12:34:56:78:9a:bc"), "{known}");
            }
        }
    });
}

#[test]
fn undoing_and_dropping_leave_nothing() {
    lab(|| {
        let node = ready_node(1500);
        let netns = namespace("pod");
        let plan = plan_for(&node, "c1", "eth0", "10.0.0.7/24");
        let before = traces();
        run(async {
            let (host, pod) = (netlink(), Netlink::in_netns(&netns).unwrap());
            let applied = apply(&host, &pod, &netns, &plan).await.unwrap();
            assert_ne!(traces(), before);
            let problems = applied.undo(&host).await;
            assert!(problems.is_empty(), "{problems:?}");
            assert_same(&traces(), &before, "traces");

            drop(apply(&host, &pod, &netns, &plan).await.unwrap());
            assert_same(&traces(), &before, "traces");
        });
    });
}

#[test]
fn a_failure_in_the_middle_leaves_nothing() {
    lab(|| {
        let node = ready_node(1500);
        let netns = namespace("pod");
        let mut plan = plan_for(&node, "c1", "eth0", "10.0.0.7/24");
        // A gateway that is nowhere: the kernel refuses the last of the changes.
        plan.routes[0].via = Some([192, 0, 2, 1].into());
        let before = traces();
        let refused = attach(&netns, "c1", &plan);
        assert!(
            matches!(&refused, Err(ApplyError::Netlink(_))),
            "{refused:?}"
        );
        assert_same(&traces(), &before, "traces");
        assert_eq!(ip("-n pod -o link show").lines().count(), 1);
    });
}

#[test]
fn an_interface_that_exists_is_not_touched() {
    lab(|| {
        let node = ready_node(1500);
        let netns = namespace("pod");
        attach(&netns, "c1", &plan_for(&node, "c1", "eth0", "10.0.0.7/24")).unwrap();
        let inside = || (ip("-n pod -4 addr show eth0"), ip("-n pod route show"));
        let before = (traces(), inside());

        let asked = run(async {
            let pod = Netlink::in_netns(&netns).unwrap();
            refuse_existing(&netns, &pod, "eth1").await.unwrap();
            refuse_existing(&netns, &pod, "eth0").await
        });
        assert!(
            matches!(asked, Err(ApplyError::InterfaceExists { .. })),
            "{asked:?}"
        );
        // The same attachment again, and another one that wants the same name.
        for container in ["c1", "c2"] {
            let refused = attach(
                &netns,
                container,
                &plan_for(&node, container, "eth0", "10.0.0.9/24"),
            );
            assert!(
                matches!(refused, Err(ApplyError::InterfaceExists { .. })),
                "{refused:?}"
            );
            assert_same(&traces(), &before.0, "traces");
            assert_eq!(inside(), before.1);
        }
    });
}

#[test]
fn what_a_killed_add_left_is_replaced() {
    lab(|| {
        let node = ready_node(1500);
        let (old, new) = (namespace("old"), namespace("new"));
        let plan = plan_for(&node, "c1", "eth0", "10.0.0.7/24");
        attach(&old, "c1", &plan).unwrap();
        attach(&new, "c1", &plan).unwrap();
        assert!(ip("-n new -o link show").contains("eth0@"));
        assert!(!ip("-n old -o link show").contains("eth0"));
    });
}

#[test]
fn a_second_interface_keeps_the_first_default_route() {
    lab(|| {
        let node = ready_node(1500);
        let netns = namespace("pod");
        attach(&netns, "c1", &plan_for(&node, "c1", "eth0", "10.0.0.7/24")).unwrap();
        attach(&netns, "c1", &plan_for(&node, "c1", "eth1", "10.0.0.8/24")).unwrap();
        let defaults = ip("-n pod route show default");
        let lines: Vec<_> = defaults.lines().collect();
        assert_eq!(lines.len(), 2, "{defaults}");
        assert!(
            lines[0].contains("dev eth0") && !lines[0].contains("metric"),
            "{defaults}"
        );
        assert!(
            lines[1].contains("dev eth1") && lines[1].contains("metric 10"),
            "{defaults}"
        );
    });
}

/// As in a DEL: what drops the packets for an address is there as long as the address is of the pool.
#[test]
fn removal_is_the_same_however_often_and_without_the_namespace() {
    lab(|| {
        let node = ready_node(1500);
        let before = traces();
        let plan = plan_for(&node, "c1", "eth0", "10.0.0.7/24");
        let removal = Removal::from(&plan);
        let remove_all = |removal: &Removal| {
            let problems = run(async { remove(&netlink(), removal).await });
            assert!(problems.is_empty(), "{problems:?}");
            state::forget(&removal.host_veth).unwrap();
            run(async { mend(&netlink()).await }).unwrap();
        };
        remove_all(&removal);

        attach(&namespace("pod"), "c1", &plan).unwrap();
        for _ in 0..3 {
            remove_all(&removal);
            assert_same(&traces(), &before, "traces");
        }

        let netns = namespace("short-lived");
        attach(&netns, "c1", &plan).unwrap();
        drop(netns);
        ip("netns delete short-lived");
        remove_all(&removal);
        assert_same(&traces(), &before, "traces");

        ip("link delete azure0");
        remove_all(&removal);
        remove_all(&Removal {
            bridge: None,
            ..removal
        });
    });
}

/// Whatever the pool has, a free address is dropped here, and an address that the pool had once is not.
#[test]
fn addresses_of_the_pool_are_dropped_where_no_pod_has_them() {
    lab(|| {
        let node = ready_node(1500);
        pool(&["10.0.0.7", "10.0.0.8"]);
        let one = pod(&node, "one", "10.0.0.7");
        let dropped = || -> Vec<String> {
            let routes = ip("route show type blackhole");
            let words = routes.lines().map(|line| line.split(' ').nth(1));
            words.map(|word| word.unwrap().to_owned()).collect()
        };
        assert_eq!(dropped(), ["10.0.0.7", "10.0.0.8"]);
        let answer = std::process::Command::new("ip")
            .args(["route", "get", "10.0.0.8"])
            .output();
        assert!(!answer.unwrap().status.success());
        all_talk("10.0.0.4", &[&one]);
        pool(&["10.0.0.9"]);
        run(async { mend(&netlink()).await }).unwrap();
        assert_eq!(dropped(), ["10.0.0.7", "10.0.0.9"]);
    });
}

/// Nine to look, four for the veth, four for what the node knows of its pod: three routes and a neighbour.
#[test]
fn a_steady_add_costs_twenty_two_requests() {
    lab(|| {
        let node = ready_node(1500);
        pod(&node, "c0", "10.0.0.8");
        let netns = namespace("pod");
        let plan = plan_for(&node, "c1", "eth0", "10.0.0.7/24");
        let (host, pod) = run(async {
            let host = netlink();
            let (_, look) = node::ensure(&host, &wanted()).await.unwrap();
            let pod = Netlink::in_netns(&netns).unwrap();
            refuse_existing(&netns, &pod, "eth0").await.unwrap();
            let remembered = state::remember(record("c1", &plan)).unwrap();
            let applied = apply(&host, &pod, &netns, &plan).await.unwrap();
            node::mend_pods(&host, look).await.unwrap();
            applied.commit();
            remembered.commit();
            (host.requests(), pod.requests())
        });
        assert_eq!((host, pod), (17, 5));
    });
}
