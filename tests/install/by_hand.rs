//! The archive, unpacked by whoever is root, where he happens to be.

use azure_vnet_testbed::{Azure, PLUGIN_DIR};

use crate::archives::Archives;
use crate::node::{NEW, Node};

#[test]
fn unpacking_leaves_the_folder_as_it_was_and_the_script_in_it_installs() {
    let azure = Azure::builder().build().unwrap();
    let node = Node::bare(&azure.vms[0]);
    let archives = Archives::copied(NEW);
    let line = format!(
        "mkdir /run/unpacked; chmod 1777 /run/unpacked; cd /run/unpacked; tar -xzf {}/*.tgz; stat -c %a .",
        archives.path()
    );
    assert_eq!(node.shell(&line).trim(), "1777");
    let printed = node.shell("/run/unpacked/install-cni-plugin.sh");
    assert!(printed.contains("installed "), "{printed}");
    node.shell(&format!("test -x {PLUGIN_DIR}/azure-vnet"));
}
