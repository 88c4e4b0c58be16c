//! A pod's network: made, undone, removed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use azure_vnet::apply::{ApplyError, Removal, apply, refuse_existing, remove};
use azure_vnet::names;
use azure_vnet::netlink::Netlink;
use azure_vnet::netns::NetNs;
use azure_vnet::node::{Node, ensure};
use azure_vnet::plan::{Attachment, Plan, PodAddress};

use crate::lab::{assert_same, command, ip, lab, namespace, netlink, plain_node, run, wanted};

/// A node that is ready for pods.
fn ready_node(mtu: u32) -> Node {
    plain_node(mtu);
    run(async { ensure(&netlink(), &wanted()).await }).unwrap()
}

fn plan_for(node: &Node, container: &str, ifname: &str, address: &str) -> Plan {
    let host_veth = names::host_veth("azure", container, ifname);
    let attachment = Attachment {
        host_veth: &host_veth,
        ifname,
        addresses: &[PodAddress {
            address: address.parse().unwrap(),
            gateway: Some([10, 0, 0, 1].into()),
        }],
        routes: &[],
    };
    Plan::new(&attachment, node).unwrap()
}

/// ADD's part: makes the plan and keeps it.
fn attach(netns: &NetNs, plan: &Plan) -> Result<(), ApplyError> {
    run(async {
        let host = netlink();
        let pod = Netlink::in_netns(netns)?;
        let applied = apply(&host, &pod, netns, plan).await?;
        applied.commit();
        Ok(())
    })
}

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
    links.chain(rest).map(str::to_owned).collect()
}

#[test]
fn the_pod_has_what_the_plan_says() {
    for mtu in [1500, 3900, 9000] {
        lab(move || {
            let node = ready_node(mtu);
            let netns = namespace("pod");
            let plan = plan_for(&node, "c1", "eth0", "10.0.0.7/24");
            attach(&netns, &plan).unwrap();

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
    assert!(command("bridge", &format!("-d link show dev {name}")).contains("hairpin on"));
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

#[test]
fn node_and_pods_reach_each_other_at_once() {
    lab(|| {
        let node = ready_node(1500);
        let (one, two) = (namespace("one"), namespace("two"));
        attach(&one, &plan_for(&node, "c1", "eth0", "10.0.0.7/24")).unwrap();
        attach(&two, &plan_for(&node, "c2", "eth0", "10.0.0.8/24")).unwrap();
        let fabric = NetNs::open("/run/netns/fabric").unwrap();
        let here = NetNs::open_any("/proc/thread-self/ns/net").unwrap();
        talk(&here, &one, "10.0.0.7:80");
        talk(&one, &two, "10.0.0.8:80");
        talk(&two, &here, "10.0.0.4:80");
        talk(&fabric, &one, "10.0.0.7:81");
        talk(&two, &fabric, "10.0.0.1:80");
        talk(&one, &one, "127.0.0.1:80");
    });
}

fn talk(client: &NetNs, server: &NetNs, address: &str) {
    let listener = server
        .run_in(|| TcpListener::bind(address))
        .unwrap()
        .unwrap();
    let mut out = client
        .run_in(|| TcpStream::connect(address))
        .unwrap()
        .unwrap();
    let (mut back, _) = listener.accept().unwrap();
    out.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    back.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
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
        let refused = attach(&netns, &plan);
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
        attach(&netns, &plan_for(&node, "c1", "eth0", "10.0.0.7/24")).unwrap();
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
            let refused = attach(&netns, &plan_for(&node, container, "eth0", "10.0.0.9/24"));
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
        attach(&old, &plan).unwrap();
        attach(&new, &plan).unwrap();
        assert!(ip("-n new -o link show").contains("eth0@"));
        assert!(!ip("-n old -o link show").contains("eth0"));
    });
}

#[test]
fn a_second_interface_keeps_the_first_default_route() {
    lab(|| {
        let node = ready_node(1500);
        let netns = namespace("pod");
        attach(&netns, &plan_for(&node, "c1", "eth0", "10.0.0.7/24")).unwrap();
        attach(&netns, &plan_for(&node, "c1", "eth1", "10.0.0.8/24")).unwrap();
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
        };
        remove_all(&removal);

        attach(&namespace("pod"), &plan).unwrap();
        for _ in 0..3 {
            remove_all(&removal);
            assert_same(&traces(), &before, "traces");
        }

        let netns = namespace("short-lived");
        attach(&netns, &plan).unwrap();
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

#[test]
fn a_steady_add_costs_fourteen_requests() {
    lab(|| {
        let node = ready_node(1500);
        let netns = namespace("pod");
        let plan = plan_for(&node, "c1", "eth0", "10.0.0.7/24");
        let (host, pod) = run(async {
            let host = netlink();
            ensure(&host, &wanted()).await.unwrap();
            let pod = Netlink::in_netns(&netns).unwrap();
            refuse_existing(&netns, &pod, "eth0").await.unwrap();
            apply(&host, &pod, &netns, &plan).await.unwrap().commit();
            (host.requests(), pod.requests())
        });
        assert_eq!((host, pod), (9, 5));
    });
}
