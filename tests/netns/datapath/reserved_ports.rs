//! Ports of the range that the node needs itself: whatever a node uses ports for, masqueraded flows stay off them.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::{Azure, PLUGIN_DIR};
use serde_json::json;

use super::scarce_ports::{client, client_on, exchange, packets, refused, server};
use super::{list, run, status};

const FIRST: u16 = 20_000;
const LAST: u16 = 20_015;
/// What a pod has before the node wants it.
const EARLY: u16 = 20_013;

/// Has all ports that a pod can get; says which they were.
fn all_of(pod: &Pod<'_>, server: &UdpSocket, most: usize) -> BTreeSet<u16> {
    let clients: Vec<_> = (0..most).map(|_| client(pod.namespace(), server)).collect();
    let ports = clients
        .iter()
        .map(|client| exchange(client, server).unwrap());
    let ports: BTreeSet<u16> = ports.collect();
    // And not one more.
    refused(&client(pod.namespace(), server));
    ports
}

fn but(used: &[u16]) -> BTreeSet<u16> {
    let ports: RangeInclusive<u16> = FIRST..=LAST;
    ports.filter(|port| !used.contains(port)).collect()
}

/// What the kernel is told to reserve, sockets of the node, hostPorts, and the flow of a pod that was there before any of that.
#[test]
fn a_port_that_the_node_uses_is_no_pods() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let list = list(&json!({ "datapath": "ebpf", "ports": format!("{FIRST}-{LAST}") }));
    let early = vm.add_pod(&list, &PodSpec::named("early")).unwrap();
    let early_server = server(&azure);
    let early_client = client_on(EARLY, early.namespace(), &early_server);
    assert_eq!(exchange(&early_client, &early_server).unwrap(), EARLY);

    // Behind so many others that a short read of the list would miss them.
    let others: Vec<String> = (1..500).map(|port| (2 * port).to_string()).collect();
    let reserved = format!("{},{FIRST},20002-20003,{EARLY}", others.join(","));
    vm.namespace()
        .run(|| std::fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", reserved))
        .unwrap()
        .unwrap();
    let stream = |to: &str| {
        let to: SocketAddr = to.parse().unwrap();
        vm.namespace()
            .run(|| TcpListener::bind(to))
            .unwrap()
            .unwrap()
    };
    let datagram = |to: &str| {
        let to: SocketAddr = to.parse().unwrap();
        vm.namespace().run(|| UdpSocket::bind(to)).unwrap().unwrap()
    };
    let streams = [stream("0.0.0.0:20005"), stream("[::]:20006")];
    let datagrams = [datagram("127.0.0.1:20008"), datagram("[::]:20009")];
    let spec = PodSpec::named("mapped")
        .host_port(20_011, 80)
        .host_port(8080, 81);
    let mapped = vm.add_pod(&list, &spec).unwrap();
    // Another pod's ADD forgets nothing of that.
    let other = vm.add_pod(&list, &PodSpec::named("other")).unwrap();

    let used = [
        FIRST, 20_002, 20_003, 20_005, 20_006, 20_008, 20_009, 20_011, EARLY,
    ];
    let free = but(&used);
    let server_of_all = server(&azure);
    assert_eq!(all_of(&other, &server_of_all, free.len()), free);
    assert_eq!(status(vm)["reserved_ports"], used.len());
    assert!(packets(&azure, "no_port_found") > 0);
    let text = run(vm, &format!("{PLUGIN_DIR}/azure-vnet status"));
    let line = format!("ports {FIRST}-{LAST} without {}", used.len());
    assert!(text.contains(&line), "{text}");
    // The node's use of it began later than the flow.
    assert_eq!(exchange(&early_client, &early_server).unwrap(), EARLY);

    // What is over is given to pods again with the next ADD.
    drop((streams, datagrams));
    mapped.delete().unwrap();
    run(vm, "sysctl -qw net.ipv4.ip_local_reserved_ports=20003");
    let after = vm.add_pod(&list, &PodSpec::named("after")).unwrap();
    let free = but(&[20_003]);
    assert_eq!(all_of(&after, &server(&azure), free.len()), free);
    assert_eq!(status(vm)["reserved_ports"], 1);
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}

/// A datapath that is set up anew finds the hostPorts of the pods that are there.
#[test]
fn a_node_that_lost_its_maps_knows_the_ports_again() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let list = list(&json!({ "datapath": "ebpf", "ports": format!("{FIRST}-{LAST}") }));
    let spec = PodSpec::named("mapped").host_port(20_011, 80);
    let _mapped = vm.add_pod(&list, &spec).unwrap();
    assert_eq!(status(vm)["reserved_ports"], 1);
    run(vm, &format!("rm -r {}", super::pins()));
    let other = vm.add_pod(&list, &PodSpec::named("other")).unwrap();
    let free = but(&[20_011]);
    assert_eq!(all_of(&other, &server(&azure), free.len()), free);
}

/// Another range has other ports that are used, and is not used before they are known.
#[test]
fn another_range_has_reserved_ports_of_its_own() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let range = |ports: &str| list(&json!({ "datapath": "ebpf", "ports": ports }));
    let spec = PodSpec::named("mapped")
        .host_port(20_011, 80)
        .host_port(21_011, 81);
    let _mapped = vm.add_pod(&range("21000-21015"), &spec).unwrap();
    assert_eq!(status(vm)["reserved_ports"], 1);
    let other = vm
        .add_pod(&range(&format!("{FIRST}-{LAST}")), &PodSpec::named("other"))
        .unwrap();
    let free = but(&[20_011]);
    assert_eq!(all_of(&other, &server(&azure), free.len()), free);
}
