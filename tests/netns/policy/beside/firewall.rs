//! Others that drop, and others on the same hooks.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::{Azure, exchange};
use socket2::Type;

use super::super::connect;
use super::{Cluster, WAYS, assert_clean, cluster, list, restore, run, seen};

fn reaches_internet(azure: &Azure, pod: &Pod<'_>) -> bool {
    let internet = SocketAddrV4::new(azure.internet.address(), 80);
    exchange::ask(Type::STREAM, pod.namespace(), None, internet).is_ok()
}

/// docker and firewalld leave the chain FORWARD with the policy DROP. Pods' packets are routed through it, so they need rules that
/// accept them, one for each direction; without them nothing gets through, and nothing leaks either (decision 25).
#[test]
fn a_forward_policy_of_drop_needs_two_rules() {
    for way in WAYS {
        let azure = cluster();
        let vm = &azure.vms[0];
        let pod = vm.add_pod(&list(way), &PodSpec::named("web")).unwrap();
        run(vm, "iptables -P FORWARD DROP");
        assert!(!reaches_internet(&azure, &pod), "{way:?}");
        run(vm, "iptables -A FORWARD -i azure0 -j ACCEPT");
        assert!(!reaches_internet(&azure, &pod), "{way:?}");
        run(vm, "iptables -A FORWARD -o azure0 -j ACCEPT");
        assert_eq!(
            seen(pod.namespace(), azure.internet.address(), 80),
            vm.nic.primary,
            "{way:?}"
        );
        assert_clean(&azure);
    }
}

/// As policy engines write them that know a pod by its address, and what comes from pods by the bridge.
#[test]
fn rules_for_a_pod_drop_what_they_name() {
    for way in WAYS {
        let azure = cluster();
        let vm = &azure.vms[0];
        let cluster = Cluster::new(&azure, way);
        let denied = cluster.client.address;
        let mut open = connect(&azure.internet, &cluster.server);
        restore(
            vm,
            &format!(
                "*filter
:POLICY-EGRESS - [0:0]
-A FORWARD -i azure0 -j POLICY-EGRESS
-A POLICY-EGRESS -s {denied} -d 10.0.0.0/8 -j ACCEPT
-A POLICY-EGRESS -s {denied} -j DROP
COMMIT
"
            ),
        );
        assert!(!reaches_internet(&azure, &cluster.client), "{way:?}");
        let inside = seen(cluster.client.namespace(), cluster.elsewhere.address, 80);
        assert_eq!(inside, cluster.client.address, "{way:?}");
        open.is_alive().unwrap();
        assert!(reaches_internet(&azure, &cluster.server), "{way:?}");
        assert_clean(&azure);
    }
}

/// A filter of another on the NIC's hooks, which lets everything on.
#[test]
fn another_filter_on_the_nic_changes_nothing() {
    for way in WAYS {
        let azure = cluster();
        let vm = &azure.vms[0];
        let pod = vm.add_pod(&list(way), &PodSpec::named("web")).unwrap();
        // Where ours is a filter as well there is a qdisc already.
        let add = vm.program("tc").unwrap();
        let _ = add
            .args(["qdisc", "add", "dev", "eth0", "clsact"])
            .output()
            .unwrap();
        for direction in ["ingress", "egress"] {
            for priority in ["1", "60000"] {
                let filter = format!(
                    "tc filter add dev eth0 {direction} prio {priority} protocol all u32 match u32 0 0 classid 1:1"
                );
                run(vm, &filter);
            }
        }
        let other = vm.add_pod(&list(way), &PodSpec::named("other")).unwrap();
        for pod in [&pod, &other] {
            assert_eq!(
                seen(pod.namespace(), azure.internet.address(), 80),
                vm.nic.primary,
                "{way:?}"
            );
        }
        assert_clean(&azure);
    }
}

/// Pods' packets are routed, so the node's rules by source and by link hold for them as for anybody's. What they lead nowhere does not
/// leave another way.
#[test]
fn policy_routing_of_the_node_holds_for_pods() {
    for way in WAYS {
        let azure = cluster();
        let vm = &azure.vms[0];
        let cluster = Cluster::new(&azure, way);
        let pod = &cluster.client;
        run(vm, "ip route add blackhole default table 77");
        for rule in [
            format!("from {} lookup 77 priority 100", pod.address),
            "from all iif azure0 to 203.0.113.0/24 lookup 77 priority 101".to_owned(),
        ] {
            run(vm, &format!("ip rule add {rule}"));
            assert!(!reaches_internet(&azure, pod), "{way:?}: {rule}");
            run(vm, &format!("ip rule delete {rule}"));
            // Where the kernel answers for the router, it did not while that led nowhere, and the pod has to ask again.
            let end = Instant::now() + Duration::from_secs(10);
            while !reaches_internet(&azure, pod) && Instant::now() < end {}
            assert_eq!(
                seen(pod.namespace(), azure.internet.address(), 80),
                vm.nic.primary,
                "{way:?}: {rule}"
            );
        }
        assert_clean(&azure);
    }
}
