//! The reference plugins of containernetworking on the simulated Azure: the table of traffic can be met, and a fault shows in it.

use std::collections::BTreeSet;

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::libcni;
use azure_vnet_testbed::pod::PodSpec;
use azure_vnet_testbed::traffic::{HOST_PORT, Scenario, late_packets};
use azure_vnet_testbed::{Azure, Error, NETNS_DIR, Vm};
use serde_json::json;

use crate::ip;

/// With the reference plugins, the documented iptables rule and a route that keeps free addresses on the node every row can be met:
/// the table asks for nothing impossible.
#[test]
fn reference_plugins_meet_the_table() {
    let azure = Azure::builder().vms(2).build().unwrap();
    let lists = azure.vms.each_list();
    azure.vms.iter().for_each(masquerade_as_documented);
    azure.vms.iter().for_each(keep_free_addresses);
    let add = |vm: usize, spec: PodSpec| azure.vms[vm].add_pod(&lists[vm], &spec).unwrap();
    let pods = [
        add(0, PodSpec::named("web").host_port(HOST_PORT, REPORT_PORT)),
        add(0, PodSpec::named("other")),
    ];
    let remote = [add(1, PodSpec::named("remote"))];
    for row in Scenario::new(&azure, &pods, &remote).unwrap().rows() {
        assert!(row.ok(), "{row:?}");
    }
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
    assert!((0..2).all(|vm| azure.fabric.verdicts(vm).unwrap().spoofed() == 0));
    let addresses: Vec<_> = pods.iter().chain(&remote).map(|pod| pod.address).collect();
    for pod in pods.into_iter().chain(remote) {
        pod.delete().unwrap();
    }
    assert_eq!(late_packets(&azure, &addresses).unwrap(), 0);
    let links = azure.vms[0].links().unwrap();
    assert!(
        !links.iter().any(|link| link.starts_with("veth")),
        "{links:?}"
    );
}

/// Without the rules the table shows the pod's address and what came back, and the fabric counts it.
#[test]
fn a_missing_masquerade_is_seen() {
    let azure = Azure::builder().vms(2).build().unwrap();
    let lists = azure.vms.each_list();
    let pods = [azure.vms[0]
        .add_pod(
            &lists[0],
            &PodSpec::named("web").host_port(HOST_PORT, REPORT_PORT),
        )
        .unwrap()];
    let remote = [azure.vms[1]
        .add_pod(&lists[1], &PodSpec::named("remote"))
        .unwrap()];
    let rows = Scenario::new(&azure, &pods, &remote).unwrap().rows();
    let deviating: BTreeSet<_> = rows
        .iter()
        .filter(|row| !row.ok())
        .map(|row| row.kind.as_str())
        .collect();
    let expected = [
        "each of 2 pods to internet",
        "internet to a free pool address",
        "other VM to a free pool address",
        "pod to a free pool address",
        "pod to internet, TCP",
        "pod to internet, UDP",
        "pod to internet, ping",
        "pod to metadata (IMDS)",
    ];
    assert_eq!(deviating, BTreeSet::from(expected), "{rows:#?}");
    assert!(azure.fabric.leaked().unwrap() >= 4);
    let addresses = [remote[0].address];
    for pod in remote {
        pod.delete().unwrap();
    }
    assert!(late_packets(&azure, &addresses).unwrap() > 0);
}

#[test]
fn a_refused_pod_leaves_nothing() {
    let azure = Azure::builder().pool(1).build().unwrap();
    let vm = &azure.vms[0];
    let list = reference_list(vm);
    let pod = vm.add_pod(&list, &PodSpec::named("first")).unwrap();
    let links = vm.links().unwrap();
    let refused = vm.add_pod(&list, &PodSpec::named("second")).unwrap_err();
    assert!(
        matches!(&refused, Error::Plugin(libcni::Error::Refused { plugin, .. }) if plugin == "ptp"),
        "{refused}"
    );
    assert_eq!(vm.links().unwrap(), links);
    pod.delete().unwrap();
    let left = vm.program("ls").unwrap().arg(NETNS_DIR).checked().unwrap();
    assert_eq!(left, "");
}

trait EachList {
    fn each_list(&self) -> Vec<Conflist>;
}

impl EachList for Vec<Vm> {
    fn each_list(&self) -> Vec<Conflist> {
        self.iter().map(reference_list).collect()
    }
}

/// `ptp` routes, where a bridge would need what the plugin under test does; its pods get the VM's pool from `host-local`.
fn reference_list(vm: &Vm) -> Conflist {
    let (first, last) = (vm.nic.pool[0], vm.nic.pool[vm.nic.pool.len() - 1]);
    let range = json!([{ "subnet": "10.0.0.0/20", "rangeStart": first, "rangeEnd": last, "gateway": vm.nic.primary }]);
    let ipam =
        json!({ "type": "host-local", "ranges": [range], "routes": [{ "dst": "0.0.0.0/0" }] });
    let config = json!({
        "cniVersion": "0.3.1",
        "name": "reference",
        "plugins": [{ "type": "ptp", "ipam": ipam }, { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }],
    });
    Conflist::parse(&config.to_string()).unwrap()
}

/// The rule of Microsoft's page, word for word.
fn masquerade_as_documented(vm: &Vm) {
    let rule = "-t nat -A POSTROUTING -m iprange ! --dst-range 168.63.129.16 -m addrtype ! --dst-type local ! -d 10.0.0.0/8 -j MASQUERADE";
    vm.program("iptables")
        .unwrap()
        .args(rule.split(' '))
        .checked()
        .unwrap();
}

/// A pod's own route is before it.
fn keep_free_addresses(vm: &Vm) {
    for address in &vm.nic.pool {
        let route = format!("route add blackhole {address} metric 30");
        ip(vm, &route);
    }
}
