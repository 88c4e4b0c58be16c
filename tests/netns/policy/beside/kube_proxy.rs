//! Beside kube-proxy in mode `iptables`.

use std::net::{Ipv4Addr, SocketAddrV4};

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::kube_proxy::{self, Service};

use super::super::connect;
use super::{Cluster, WAYS, assert_clean, cluster, seen};

/// Inside the ranges, to the server.
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const INSIDE_LOCAL: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);
/// Outside the ranges, to the pod elsewhere.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 10);
/// Inside the ranges, to an endpoint in the internet.
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 30);
/// To the server, `externalTrafficPolicy: Cluster` and `Local`.
const NODE_PORT: u16 = 30080;
const NODE_PORT_LOCAL: u16 = 30081;

fn services(cluster: &Cluster<'_>) -> [Service; 4] {
    let (here, there) = (cluster.server.address, cluster.elsewhere.address);
    let service = |name, address, endpoint| {
        let [from, to] = [address, endpoint].map(|ip| SocketAddrV4::new(ip, REPORT_PORT));
        Service::new(name, from, to)
    };
    [
        service("INSIDE", INSIDE, here).node_port(NODE_PORT),
        service("LOCAL", INSIDE_LOCAL, here)
            .node_port(NODE_PORT_LOCAL)
            .local(),
        service("OUTSIDE", OUTSIDE, there),
        service("EXTERNAL", EXTERNAL, INTERNET[0]),
    ]
}

fn each(test: impl Fn(&Azure, &Cluster<'_>)) {
    for way in WAYS {
        println!("{way:?}");
        let azure = cluster();
        let cluster = Cluster::new(&azure, way);
        kube_proxy::install(&azure.vms[0], &services(&cluster)).unwrap();
        test(&azure, &cluster);
        assert_clean(&azure);
    }
}

#[test]
fn pods_reach_services_inside_and_outside_the_ranges_with_their_own_address() {
    each(|azure, cluster| {
        let (client, node) = (&cluster.client, azure.vms[0].nic.primary);
        // Twice: the second connection meets what the first has left.
        for _ in 0..2 {
            assert_eq!(seen(client.namespace(), INSIDE, 80), client.address);
            assert_eq!(seen(client.namespace(), OUTSIDE, 80), client.address);
            assert_eq!(seen(client.namespace(), EXTERNAL, 80), node);
        }
        // The node itself.
        assert_eq!(seen(azure.vms[0].namespace(), INSIDE, 80), node);
    });
}

/// A pod that reaches itself through its Service sees the node, by the mark.
#[test]
fn a_pod_reaches_itself_through_its_service() {
    each(|azure, cluster| {
        let server = cluster.server.namespace();
        assert_eq!(seen(server, INSIDE, 80), azure.vms[0].nic.primary);
    });
}

#[test]
fn node_ports_of_either_traffic_policy_answer() {
    each(|azure, cluster| {
        let node = azure.vms[0].nic.primary;
        for host in [&azure.on_prem, &azure.internet] {
            let namespace = host.namespace();
            assert_eq!(seen(namespace, node, NODE_PORT), node);
            assert_eq!(seen(namespace, node, NODE_PORT_LOCAL), host.address());
        }
        let elsewhere = &cluster.elsewhere;
        let from_elsewhere = seen(elsewhere.namespace(), node, NODE_PORT_LOCAL);
        assert_eq!(from_elsewhere, elsewhere.address);
    });
}

/// What connection tracking calls invalid is dropped, and nothing of a connection is.
#[test]
fn connections_live_beside_the_drop_of_invalid_packets() {
    each(|azure, cluster| {
        for host in [&azure.internet, &azure.on_prem] {
            let mut connection = connect(host, &cluster.client);
            for _ in 0..20 {
                connection.is_alive().unwrap();
            }
        }
    });
}
