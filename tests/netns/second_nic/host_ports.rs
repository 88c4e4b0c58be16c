//! Ports of either of the node's addresses that lead to a pod of the second NIC. The answer has the address that was asked, so it must
//! leave by the NIC that has it, and that is not the pod's.
//!
//! With strict filtering the request ends at the first NIC: the kernel asks where the pod's answer would go, before it knows that
//! this will have another source, and that is by the second. The packet would have to bear a mark (`src_valid_mark`), and
//! marks are others' (kube-proxy, network policies). What comes in over a bridge is not so asked.

use std::net::{Ipv4Addr, SocketAddrV4};

use azure_vnet_testbed::exchange::ask;
use azure_vnet_testbed::host::{Host, REPORT_PORT};
use azure_vnet_testbed::kube_proxy::{self, Service};
use azure_vnet_testbed::namespace::Namespace;
use socket2::Type;

use super::{HOST_PORT, Rows, Scene, second_nic};

const CLUSTER_IP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 80);
const SERVICE_PORT: u16 = 30080;

pub fn rows(scene: &Scene<'_>, rows: &mut Rows, strict: bool) {
    let (azure, vm, [one, _]) = (scene.azure, scene.vm(), &scene.pods);
    let addresses = [vm.nic.primary, second_nic(vm).primary];
    let outside = |host: &'static str, it: &Host, rows: &mut Rows| {
        for address in addresses {
            for protocol in [Type::STREAM, Type::DGRAM] {
                let to = SocketAddrV4::new(address, HOST_PORT);
                let seen = ask(protocol, it.namespace(), None, to);
                let what = format!("{host} to hostPort at {address}, {protocol:?}");
                if strict && address == addresses[0] {
                    rows.fails(&what, &seen);
                } else {
                    rows.row(&what, it.address(), &seen);
                }
            }
        }
    };
    outside("internet", &azure.internet, rows);
    outside("on-premises", &azure.on_prem, rows);
    // None of them is in the pod's own subnet, whose sources alone portmap masquerades.
    let other = &azure.vms[1];
    let first = (addresses[0], HOST_PORT);
    if !strict {
        rows.tcp(
            "other VM to hostPort",
            other.namespace(),
            first,
            other.nic.primary,
        );
    }
    rows.tcp(
        "first NIC's pod to hostPort",
        one.namespace(),
        first,
        one.address,
    );
    rows.tcp("node to hostPort", vm.namespace(), first, addresses[0]);
    node_ports(scene, rows, strict);
}

/// Masqueraded, so the pod answers to the node, and what the node sends on has the address that was asked.
fn node_ports(scene: &Scene<'_>, rows: &mut Rows, strict: bool) {
    let (azure, vm, [one, two]) = (scene.azure, scene.vm(), &scene.pods);
    let endpoint = SocketAddrV4::new(two.address, REPORT_PORT);
    let service = Service::new("SECOND", CLUSTER_IP, endpoint).node_port(SERVICE_PORT);
    kube_proxy::install(vm, &[service]).unwrap();
    let addresses = [vm.nic.primary, second_nic(vm).primary];
    let askers: [(&str, &Namespace, bool); 3] = [
        ("internet", azure.internet.namespace(), strict),
        ("other VM", azure.vms[1].namespace(), strict),
        ("first NIC's pod", one.namespace(), false),
    ];
    for (name, from, ends_at_first) in askers {
        for address in addresses {
            let to = SocketAddrV4::new(address, SERVICE_PORT);
            let seen = ask(Type::STREAM, from, None, to);
            let what = format!("{name} to NodePort at {address}");
            if ends_at_first && address == addresses[0] {
                rows.fails(&what, &seen);
                continue;
            }
            // Which of its addresses the node takes towards its own pods is its affair.
            let is_node = seen.as_ref().ok().filter(|seen| addresses.contains(seen));
            rows.row(&what, *is_node.unwrap_or(&addresses[0]), &seen);
        }
    }
    let seen = ask(Type::STREAM, one.namespace(), None, CLUSTER_IP);
    rows.row(
        "first NIC's pod to ClusterIP of the second's",
        one.address,
        &seen,
    );
}
