//! What the node itself offers: a hostPort, an address of its own on another link, and names.

use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::Type;

use super::{HOST_PORT, Row, Scenario, row};
use crate::address_plan::WIRESERVER;
use crate::azure::PLATFORM_REPORT_PORT;
use crate::reporter::Reporter;
use crate::vm::Vm;
use crate::{Error, dns, iproute};

/// Where a cluster's resolver listens on each node that has one of its own.
const LOCAL_ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(169, 254, 20, 10), 53);

/// Gives the node its local address. Not on `lo`, from where the kernel would take it as the node's source before that of the NIC;
/// and not on a link of type dummy, which not every kernel has.
pub(super) fn start(node: &Vm) -> Result<Reporter, Error> {
    let address = *LOCAL_ADDRESS.ip();
    let lines = [
        "link add nodelocaldns type veth peer name nodelocaldns1".into(),
        "link set nodelocaldns up".into(),
        "link set nodelocaldns1 up".into(),
        format!("address add {address}/32 dev nodelocaldns"),
    ];
    iproute::batch(node.namespace(), &lines)?;
    Reporter::start(node.namespace(), &[address], LOCAL_ADDRESS.port()).map_err(|source| {
        Error::Setup {
            what: format!("start the reporter of {address}"),
            source,
        }
    })
}

pub(super) fn rows(scene: &Scenario<'_>) -> Vec<Row> {
    let mut rows = host_port(scene);
    let pod = scene.first_pod();
    for protocol in [Type::STREAM, Type::DGRAM] {
        let what = "node-local address";
        rows.push(pod.asks(what, protocol, LOCAL_ADDRESS, pod.address));
    }
    for asker in [scene.node(), pod] {
        rows.push(row(
            &format!("{} resolves a name", asker.name),
            asker.address,
            SocketAddrV4::new(WIRESERVER, PLATFORM_REPORT_PORT),
            asker.address,
            dns::resolve_whoami(asker.namespace),
        ));
    }
    rows
}

/// portmap keeps the source of what comes from outside the pod's subnet (the internet's is a row of its own) and masquerades the rest.
fn host_port(scene: &Scenario<'_>) -> Vec<Row> {
    let node = scene.primary();
    let to = SocketAddrV4::new(node, HOST_PORT);
    let mut rows = Vec::new();
    if let Some(pod) = scene.neighbour() {
        rows.push(pod.asks("hostPort of its node", Type::STREAM, to, node));
    }
    rows.push(
        scene
            .first_pod()
            .asks("its own hostPort", Type::STREAM, to, node),
    );
    for asker in [scene.other_node(), scene.remote_pod(), scene.node()] {
        rows.push(asker.asks("hostPort", Type::STREAM, to, node));
    }
    let loopback = SocketAddrV4::new(Ipv4Addr::LOCALHOST, HOST_PORT);
    rows.push(
        scene
            .node()
            .asks("hostPort at 127.0.0.1", Type::STREAM, loopback, node),
    );
    rows
}
