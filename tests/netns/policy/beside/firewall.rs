//! Others that drop, and others on the same hooks.

use std::net::SocketAddrV4;

use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::{Azure, exchange};
use socket2::Type;

use super::super::connect;
use super::{Cluster, WAYS, assert_clean, cluster, list, restore, run, seen};

fn reaches_internet(azure: &Azure, pod: &Pod<'_>) -> bool {
    let internet = SocketAddrV4::new(azure.internet.address(), 80);
    exchange::ask(Type::STREAM, pod.namespace(), None, internet).is_ok()
}

/// docker and firewalld leave the chain FORWARD with the policy DROP. Pods' packets are bridged through it, so they need a rule that
/// accepts them; without one nothing gets through, and nothing leaks either.
#[test]
fn a_forward_policy_of_drop_needs_one_rule() {
    for way in WAYS {
        let azure = cluster();
        let vm = &azure.vms[0];
        let pod = vm.add_pod(&list(way), &PodSpec::named("web")).unwrap();
        run(vm, "iptables -P FORWARD DROP");
        assert!(!reaches_internet(&azure, &pod), "{way:?}");
        run(vm, "iptables -A FORWARD -i azure0 -o azure0 -j ACCEPT");
        assert_eq!(
            seen(pod.namespace(), azure.internet.address(), 80),
            vm.nic.primary,
            "{way:?}"
        );
        assert_clean(&azure);
    }
}

/// As policy engines that know the pods' links write them.
#[test]
fn rules_for_a_pods_link_drop_what_they_name() {
    for way in WAYS {
        let azure = cluster();
        let vm = &azure.vms[0];
        let cluster = Cluster::new(&azure, way);
        let denied = super::super::host_veth(&cluster.client);
        let mut open = connect(&azure.internet, &cluster.server);
        restore(
            vm,
            &format!(
                "*filter
:POLICY-EGRESS - [0:0]
-A FORWARD -m physdev --physdev-is-bridged -j POLICY-EGRESS
-A POLICY-EGRESS -m physdev --physdev-in {denied} -d 10.0.0.0/8 -j ACCEPT
-A POLICY-EGRESS -m physdev --physdev-in {denied} -j DROP
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

/// The node's own routing by source has a word about the node's packets only: pods' are bridged. Not so in the netfilter tier,
/// where the kernel looks a reply up whose address it has changed back, and its reverse path filter asks the same rules.
#[test]
fn policy_routing_of_the_node_does_not_move_pods() {
    for way in WAYS.into_iter().filter(|(tier, _)| *tier == "ebpf") {
        let azure = cluster();
        let vm = &azure.vms[0];
        let cluster = Cluster::new(&azure, way);
        run(vm, "ip route add blackhole default table 77");
        run(
            vm,
            &format!(
                "ip rule add from {} lookup 77 priority 100",
                cluster.client.address
            ),
        );
        run(
            vm,
            "ip rule add from all iif azure0 to 203.0.113.0/24 lookup 77 priority 101",
        );
        let node = vm.nic.primary;
        assert_eq!(
            seen(cluster.client.namespace(), azure.internet.address(), 80),
            node,
            "{way:?}"
        );
        connect(&azure.internet, &cluster.server)
            .is_alive()
            .unwrap();
        assert_clean(&azure);
    }
}
