//! The life of an installation, with pods.

use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::exchange::ask;
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::{Azure, CONFIG_DIR, PLUGIN_DIR};
use socket2::Type;

use crate::node::{NEW, Node, OLD};

const INSTALLED: [&str; 4] = ["azure-vnet", "azure-vnet-ipam", "loopback", "portmap"];

#[test]
fn pods_live_through_upgrade_and_rollback() {
    let azure = Azure::builder().build().unwrap();
    let node = Node::bare(&azure.vms[0]);

    let printed = node.install(&[OLD]);
    assert!(printed.contains("Azure CNI Version v"), "{printed}");
    assert_eq!(node.files(PLUGIN_DIR), INSTALLED);
    assert_eq!(node.files(CONFIG_DIR), ["10-azure.conflist"]);
    let shipped = node.shell(&format!("cat {CONFIG_DIR}/10-azure.conflist"));
    assert_eq!(shipped, include_str!("../../conf/10-azure.conflist"));

    let first = pod(&azure, &node, "first");
    let printed = node.install(&[NEW]);
    assert!(!printed.contains("installed "), "{printed}");
    reaches_the_internet(&azure, &node, &first);
    let second = pod(&azure, &node, "second");
    node.install(&[OLD]);
    reaches_the_internet(&azure, &node, &first);
    reaches_the_internet(&azure, &node, &second);

    let refused = node.script(&["--uninstall"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(
        refused.stderr.contains("2 pods are attached"),
        "{refused:?}"
    );
    assert_eq!(node.files(PLUGIN_DIR), INSTALLED);
    first.delete().unwrap();
    second.delete().unwrap();
    node.install(&["--uninstall"]);
    assert_eq!(node.files(PLUGIN_DIR), ["loopback", "portmap"]);
    assert!(
        node.files(CONFIG_DIR).is_empty(),
        "{:?}",
        node.files(CONFIG_DIR)
    );
    assert_eq!(azure.fabric.leaked().unwrap(), 0);
}

#[test]
fn again_changes_nothing_and_an_edited_configuration_is_kept() {
    let azure = Azure::builder().build().unwrap();
    let node = Node::bare(&azure.vms[0]);
    node.install(&[OLD]);
    let before = node.shell(&format!("stat -c '%n %i %Y' {PLUGIN_DIR}/* {CONFIG_DIR}/*"));
    node.install(&[OLD]);
    let after = node.shell(&format!("stat -c '%n %i %Y' {PLUGIN_DIR}/* {CONFIG_DIR}/*"));
    assert_eq!(before, after);

    node.shell(&format!(
        "sed -i s/azure0/azure9/ {CONFIG_DIR}/10-azure.conflist"
    ));
    let printed = node.install(&[NEW]);
    assert!(
        printed.contains(&format!("kept       {CONFIG_DIR}/10-azure.conflist")),
        "{printed}"
    );
    let kept = node.shell(&format!("cat {CONFIG_DIR}/10-azure.conflist"));
    assert!(kept.contains("azure9"), "{kept}");
    node.install(&["--uninstall"]);
    let saved = node.shell(&format!("cat {CONFIG_DIR}/10-azure.conflist.saved"));
    assert_eq!(saved, kept);
}

#[test]
fn into_an_empty_root() {
    let azure = Azure::builder().build().unwrap();
    let node = Node::bare(&azure.vms[0]);
    let output = node.script_with(&[OLD], &[("DESTDIR", "/run/image")]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(node.files("/run/image/opt/cni/bin"), INSTALLED);
    assert_eq!(
        node.files("/run/image/etc/cni/net.d"),
        ["10-azure.conflist"]
    );
    assert!(
        node.files(PLUGIN_DIR).is_empty(),
        "{:?}",
        node.files(PLUGIN_DIR)
    );
}

fn pod<'a>(azure: &Azure, node: &Node<'a>, name: &str) -> Pod<'a> {
    let pod = node
        .vm
        .add_pod(&Conflist::shipped(), &PodSpec::named(name))
        .unwrap();
    reaches_the_internet(azure, node, &pod);
    pod
}

fn reaches_the_internet(azure: &Azure, node: &Node<'_>, pod: &Pod<'_>) {
    let server = std::net::SocketAddrV4::new(azure.internet.address(), REPORT_PORT);
    let seen = ask(Type::STREAM, pod.namespace(), None, server).unwrap();
    assert_eq!(seen, node.vm.nic.primary, "{}", pod.address);
}
