//! What `conf/daemonset.yaml` leaves the container that installs.

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::process::Output;

use crate::node::{NEW, Node, dist};

const MANIFEST: &str = include_str!("../../conf/daemonset.yaml");

/// As an init container with these capabilities, whose mounts are the node's folders.
fn install(node: &Node<'_>, capabilities: &str) -> Output {
    let words = [
        "--no-new-privs",
        "--inh-caps=-all",
        "--ambient-caps=-all",
        capabilities,
    ];
    let setpriv = node.vm.program("setpriv").unwrap().args(words);
    setpriv
        .args(["/run/image/azure-vnet", "install", "--root", "/"])
        .output()
        .unwrap()
}

/// Archives of plugins that were unpacked by hand give the folder their maker's owner.
#[test]
fn one_capability_is_needed_where_a_folder_is_somebody_elses() {
    assert!(MANIFEST.contains("capabilities: { drop: [ALL], add: [DAC_OVERRIDE] }"));
    let azure = Azure::builder().build().unwrap();
    let node = Node::bare(&azure.vms[0]);
    let archive = format!("{}/azure-vnet-cni-linux-*-{NEW}.tgz", dist().display());
    node.shell(&format!("mkdir /run/image && tar -xzf {archive} -C /run/image && cp /usr/lib/cni/portmap /usr/lib/cni/loopback /run/image"));
    let output = install(&node, "--bounding-set=-all");
    assert!(output.status.success(), "{output:?}");

    node.shell("rm /opt/cni/bin/azure-vnet && chown 1001 /opt/cni/bin && chmod 755 /opt/cni/bin");
    let output = install(&node, "--bounding-set=-all");
    assert!(
        !output.status.success() && output.stderr.contains("/opt/cni/bin"),
        "{output:?}"
    );
    let output = install(&node, "--bounding-set=-all,+dac_override");
    assert!(output.status.success(), "{output:?}");
}
