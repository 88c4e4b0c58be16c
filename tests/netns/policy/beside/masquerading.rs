//! Others that masquerade: portmap, a foreign ip-masq-agent.

use azure_vnet_testbed::pod::PodSpec;
use azure_vnet_testbed::reporter::Reporter;

use super::{WAYS, assert_clean, cluster, list, restore, run, seen};

/// hostPorts of portmap with `snat`, from outside, from another pod, and from the pod itself.
#[test]
fn host_ports_answer_from_everywhere() {
    for way in WAYS {
        let azure = cluster();
        let vm = &azure.vms[0];
        run(vm, "sysctl -qw net.ipv4.ip_forward=1");
        let spec = PodSpec::named("server").host_port(8081, 80);
        let server = vm.add_pod(&list(way), &spec).unwrap();
        let _reporter = Reporter::start(server.namespace(), &[server.address], 80).unwrap();
        let other = vm.add_pod(&list(way), &PodSpec::named("other")).unwrap();
        let node = vm.nic.primary;
        for host in [&azure.on_prem, &azure.internet] {
            assert_eq!(
                seen(host.namespace(), node, 8081),
                host.address(),
                "{way:?}"
            );
        }
        // portmap's `snat` masquerades what comes from the pod's own subnet.
        assert_eq!(seen(other.namespace(), node, 8081), node, "{way:?}");
        // Its own hostPort, by portmap's hairpin masquerade.
        assert_eq!(seen(server.namespace(), node, 8081), node, "{way:?}");
        assert_clean(&azure);
    }
}

/// The chain that Azure's ip-masq-agent writes. What it masquerades reaches our hook with the node's address, and passes.
#[test]
fn a_foreign_ip_masq_agent_changes_nothing() {
    for way in WAYS {
        let azure = cluster();
        let vm = &azure.vms[0];
        let pod = vm.add_pod(&list(way), &PodSpec::named("web")).unwrap();
        restore(
            vm,
            "*nat
:IP-MASQ-AGENT - [0:0]
-A POSTROUTING -m comment --comment \"ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom IP-MASQ-AGENT chain\" -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT
-A IP-MASQ-AGENT -d 169.254.0.0/16 -m comment --comment \"ip-masq-agent: local traffic is not subject to MASQUERADE\" -j RETURN
-A IP-MASQ-AGENT -d 10.0.0.0/8 -m comment --comment \"ip-masq-agent: local traffic is not subject to MASQUERADE\" -j RETURN
-A IP-MASQ-AGENT -m comment --comment \"ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)\" -j MASQUERADE
COMMIT
",
        );
        let node = vm.nic.primary;
        for _ in 0..3 {
            assert_eq!(
                seen(pod.namespace(), azure.internet.address(), 80),
                node,
                "{way:?}"
            );
            assert_eq!(
                seen(pod.namespace(), azure.on_prem.address(), 80),
                pod.address,
                "{way:?}"
            );
        }
        assert_clean(&azure);
    }
}
