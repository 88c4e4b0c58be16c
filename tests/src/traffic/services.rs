//! Services by kube-proxy's rules on the first VM: ports of nodes, a load balancer with floating IP, addresses of the cluster. The
//! endpoints are pods of that VM and of the other.

use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::Type;

use super::{Asker, Row, Scenario, report_of};
use crate::Error;
use crate::address_plan::FRONTENDS;
use crate::azure::Azure;
use crate::kube_proxy::{self, Service};
use crate::pod::Pod;

/// To the first pod of this VM, to the first of the other, and to that of this VM with `externalTrafficPolicy: Local`.
const HERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 80);
const THERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 11), 81);
const LOCAL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 12), 82);
const NODE_PORT_HERE: u16 = 30080;
const NODE_PORT_THERE: u16 = 30081;
const NODE_PORT_LOCAL: u16 = 30082;

pub(super) fn start(azure: &Azure, here: &Pod<'_>, there: &Pod<'_>) -> Result<(), Error> {
    for frontend in FRONTENDS {
        azure.balance(0, frontend)?;
    }
    let (here, there) = (report_of(here), report_of(there));
    let services = [
        Service::new("HERE", HERE, here).node_port(NODE_PORT_HERE),
        Service::new("THERE", THERE, there).node_port(NODE_PORT_THERE),
        Service::new("LOCAL", LOCAL, here)
            .node_port(NODE_PORT_LOCAL)
            .local(),
    ];
    kube_proxy::install(
        &azure.vms[0],
        &services.map(|service| service.load_balancer(&FRONTENDS)),
    )
}

pub(super) fn rows(scene: &Scenario<'_>) -> Vec<Row> {
    let mut rows = node_ports(scene);
    rows.extend(local_ports(scene));
    rows.extend(load_balancer(scene));
    rows.extend(in_cluster(scene));
    rows
}

/// Everybody is seen as the node, which must see the answers; a pod of the other VM as well, since it answers to whom it sees.
fn node_ports(scene: &Scenario<'_>) -> Vec<Row> {
    let pod = scene.neighbour().unwrap_or_else(|| scene.first_pod());
    let askers = [
        scene.internet(),
        scene.other_node(),
        scene.remote_pod(),
        pod,
        scene.node(),
    ];
    let node = scene.primary();
    let to = |port| SocketAddrV4::new(node, port);
    let ask = |asker: &Asker<'_>| {
        both(asker, "NodePort, pod here", to(NODE_PORT_HERE), node)
            .into_iter()
            .chain(both(
                asker,
                "NodePort, pod there",
                to(NODE_PORT_THERE),
                node,
            ))
            .collect::<Vec<_>>()
    };
    askers.iter().flat_map(ask).collect()
}

/// Where a source is kept, and the node's own loopback address.
fn local_ports(scene: &Scenario<'_>) -> Vec<Row> {
    let (internet, node) = (scene.internet(), scene.node());
    let primary = scene.primary();
    let what = "NodePort, policy Local";
    let to = SocketAddrV4::new(primary, NODE_PORT_LOCAL);
    let mut rows = vec![internet.asks(what, Type::STREAM, to, internet.address)];
    if let Some(pod) = scene.neighbour() {
        rows.push(pod.asks(what, Type::STREAM, to, pod.address));
    }
    for (what, port) in [
        ("NodePort at 127.0.0.1, pod here", NODE_PORT_HERE),
        ("NodePort at 127.0.0.1, pod there", NODE_PORT_THERE),
    ] {
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        rows.push(node.asks(what, Type::STREAM, to, primary));
    }
    rows
}

fn load_balancer(scene: &Scenario<'_>) -> Vec<Row> {
    let [public, inside] = FRONTENDS;
    let (internet, other) = (scene.internet(), scene.other_node());
    let node = scene.primary();
    let mut rows = Vec::new();
    for (asker, frontend) in [(&internet, public), (&other, inside)] {
        let to = |service: SocketAddrV4| SocketAddrV4::new(frontend, service.port());
        rows.extend(both(asker, "load balancer, pod here", to(HERE), node));
        rows.extend(both(asker, "load balancer, pod there", to(THERE), node));
    }
    let to = SocketAddrV4::new(public, LOCAL.port());
    let what = "load balancer, policy Local";
    rows.push(internet.asks(what, Type::STREAM, to, internet.address));
    rows
}

/// Pods keep their address, but for one that reaches itself; the node has its own in any case.
fn in_cluster(scene: &Scenario<'_>) -> Vec<Row> {
    let (pod, node) = (scene.first_pod(), scene.node());
    let mut rows = Vec::new();
    if let Some(neighbour) = scene.neighbour() {
        rows.extend(both(
            &neighbour,
            "ClusterIP, same node",
            HERE,
            neighbour.address,
        ));
    }
    rows.extend(both(&pod, "ClusterIP, other VM", THERE, pod.address));
    rows.extend(both(&pod, "ClusterIP, itself", HERE, node.address));
    rows.push(node.asks("ClusterIP, pod here", Type::STREAM, HERE, node.address));
    rows.push(node.asks("ClusterIP, pod there", Type::STREAM, THERE, node.address));
    rows
}

fn both(asker: &Asker<'_>, what: &str, to: SocketAddrV4, expected: Ipv4Addr) -> [Row; 2] {
    [Type::STREAM, Type::DGRAM].map(|protocol| asker.asks(what, protocol, to, expected))
}
