//! Whether others reach what runs in a pod.

use std::net::Ipv4Addr;
use std::time::Duration;

use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::{Azure, http};

use crate::{eventually, image};

const LIMIT: Duration = Duration::from_secs(5);

/// The pod of VM 0 that has this address, and port 80 of the VM, serves the VM itself, the other VM and the platform's probes.
pub fn assert_serves(azure: &Azure, pod: Ipv4Addr) {
    assert_answers(azure, pod);
    let (node, other) = (&azure.vms[0], &azure.vms[1]);
    let path = "another VM, to the node's port";
    assert_gets(path, other.namespace(), node.nic.primary);
}

/// The same for a pod without a port of the VM.
pub fn assert_answers(azure: &Azure, pod: Ipv4Addr) {
    let node = &azure.vms[0];
    let callers = [
        ("the node, to the pod", node.namespace(), pod),
        ("another VM, to the pod", azure.vms[1].namespace(), pod),
        ("a health probe, to the pod", azure.fabric.namespace(), pod),
    ];
    for (path, from, to) in callers {
        assert_gets(path, from, to);
    }
}

fn assert_gets(path: &str, from: &Namespace, to: Ipv4Addr) {
    let (status, page) = eventually(path, || http::get(from, to, "/", &[], LIMIT).ok());
    assert_eq!((status, page.as_str()), (200, image::PAGE), "{path}");
}
