//! Archives are signed: with the key on the node, nothing is installed that its owner has not made.

use azure_vnet_testbed::{Azure, PLUGIN_DIR, Vm};

use crate::archives::Archives;
use crate::node::{NEW, Node, OLD, dist};

/// Well-formed, and nobody's here.
const OTHER_KEY: &str = "untrusted comment: minisign public key
RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3
";
const KEY: &str = "/etc/azure-vnet/release.pub";

/// The key where the script looks for it, as an operator puts it there.
fn with_key(vm: &Vm, key: &str) {
    vm.write_file(KEY, key).unwrap();
}

fn right_key() -> String {
    std::fs::read_to_string(dist().join("release.pub")).unwrap()
}

/// The version before is on the node and verifies the next; minisign is not installed there.
#[test]
fn what_is_signed_is_installed_and_nothing_else() {
    let mut azure = Azure::builder().build().unwrap();
    azure.vms[0]
        .replace_programs(&[("minisign", None)])
        .unwrap();
    let vm = &azure.vms[0];
    let node = Node::bare(vm);
    node.install(&[OLD]);
    with_key(vm, &right_key());
    let said = node.install(&[NEW]);
    assert!(
        said.contains("is signed with /etc/azure-vnet/release.pub"),
        "{said}"
    );

    let unsigned = Archives::copied(NEW);
    unsigned.remove_signature();
    let altered = Archives::copied(NEW);
    altered.append_to_archive(b"x");
    altered.sum_again();
    let replayed = Archives::copied(NEW);
    replayed.replace_content_and_signature(OLD);
    let before = node.shell(&format!("sha256sum {PLUGIN_DIR}/*"));
    for (archives, said) in [
        (&unsigned, ".minisig"),
        (&altered, "has signed"),
        (&replayed, "another file under its name"),
    ] {
        let output = node.script_with(&[NEW], &[("AZURE_VNET_SOURCE", archives.path())]);
        assert!(
            !output.status.success() && output.stderr.contains(said),
            "{said}: {output:?}"
        );
    }
    with_key(vm, OTHER_KEY);
    let output = node.script(&[NEW]);
    assert!(
        !output.status.success() && output.stderr.contains("has signed"),
        "{output:?}"
    );
    with_key(vm, "no key\n");
    assert!(!node.script(&[NEW]).status.success());
    assert_eq!(node.shell(&format!("sha256sum {PLUGIN_DIR}/*")), before);
    // Without a key the sum is all there is, as before.
    node.shell(&format!("rm {KEY}"));
    let output = node.script_with(&[NEW], &[("AZURE_VNET_SOURCE", unsigned.path())]);
    assert!(output.status.success(), "{output:?}");
}

/// Nothing out of the archive is run to say whether the archive is good.
#[test]
fn a_first_installation_needs_something_that_verifies() {
    let mut azure = Azure::builder().build().unwrap();
    azure.vms[0]
        .replace_programs(&[("minisign", None)])
        .unwrap();
    let vm = &azure.vms[0];
    let node = Node::bare(vm);
    let key = dist().join("release.pub");
    let output = node.script_with(&[NEW], &[("AZURE_VNET_KEY", key.to_str().unwrap())]);
    assert!(
        !output.status.success() && output.stderr.contains("install minisign"),
        "{output:?}"
    );
    assert!(node.files(PLUGIN_DIR).is_empty());
}

/// The state's folder is not kubelet's to make.
#[test]
fn the_folder_of_the_state_is_closed_from_the_start() {
    let azure = Azure::builder().build().unwrap();
    let node = Node::bare(&azure.vms[0]);
    node.shell("mkdir -m 755 /run/azure-vnet");
    node.install(&[NEW]);
    assert_eq!(node.shell("stat -c %a /run/azure-vnet"), "700\n");
}
