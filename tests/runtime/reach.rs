//! Whether others reach what runs in a pod.

use std::net::Ipv4Addr;
use std::time::Duration;

use azure_vnet_testbed::{Azure, http};

use crate::{eventually, image};

const LIMIT: Duration = Duration::from_secs(5);

/// The pod of VM 0 that has this address, and port 80 of the VM, serves the VM itself, the other VM and the platform's probes.
pub fn assert_serves(azure: &Azure, pod: Ipv4Addr) {
    let node = &azure.vms[0];
    let callers = [
        ("the node, to the pod", node.namespace(), pod),
        ("another VM, to the pod", azure.vms[1].namespace(), pod),
        ("a health probe, to the pod", azure.fabric.namespace(), pod),
        (
            "another VM, to the node's port",
            azure.vms[1].namespace(),
            node.nic.primary,
        ),
    ];
    for (path, from, to) in callers {
        let (status, page) = eventually(path, || http::get(from, to, "/", &[], LIMIT).ok());
        assert_eq!((status, page.as_str()), (200, image::PAGE), "{path}");
    }
}
