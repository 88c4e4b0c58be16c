//! What cannot be right is refused, and the node stays as it was.

use azure_vnet_testbed::{Azure, CONFIG_DIR, PLUGIN_DIR};

use crate::archives::Archives;
use crate::node::{NEW, Node, OLD};

#[test]
fn a_bad_archive_leaves_the_node_as_it_was() {
    let azure = Azure::builder().build().unwrap();
    let node = Node::bare(&azure.vms[0]);
    node.install(&[OLD]);
    node.shell("mkdir /run/scratch");
    let before = node.shell(&format!("sha256sum {PLUGIN_DIR}/* {CONFIG_DIR}/*"));

    let other_content = Archives::copied(NEW);
    other_content.append_to_archive(b"x");
    let no_sum = Archives::copied(NEW);
    no_sum.remove_sum();
    let truncated = Archives::copied(NEW);
    truncated.truncate_and_sum_again();
    for (archives, said) in [
        (&other_content, "is not what"),
        (&no_sum, "has no azure-vnet-cni-linux"),
        (&truncated, ""),
    ] {
        let environment = [
            ("AZURE_VNET_SOURCE", archives.path()),
            ("TMPDIR", "/run/scratch"),
        ];
        let output = node.script_with(&[NEW], &environment);
        assert!(!output.status.success(), "{output:?}");
        assert!(output.stderr.contains(said), "{said}: {output:?}");
    }
    let after = node.shell(&format!("sha256sum {PLUGIN_DIR}/* {CONFIG_DIR}/*"));
    assert_eq!(before, after);
    assert!(
        node.files("/run/scratch").is_empty(),
        "{:?}",
        node.files("/run/scratch")
    );
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused() {
    let azure = Azure::builder().build().unwrap();
    let node = Node::bare(&azure.vms[0]);
    for (arguments, said) in [
        (&["v9.9.9"][..], "has no azure-vnet-cni-linux"),
        (&["--frobnicate"], "there is no option"),
        (&["--uninstall"], "nothing to uninstall"),
        (&["--uninstall", OLD], "takes no versions"),
        (&[OLD, "v1.0.1", "more"], "two versions at most"),
        (&[], "name the version to install"),
    ] {
        let output = node.script(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(said), "{arguments:?}: {output:?}");
        assert!(
            node.files(PLUGIN_DIR).is_empty(),
            "{:?}",
            node.files(PLUGIN_DIR)
        );
    }
}

#[test]
fn help_says_what_the_script_takes() {
    let azure = Azure::builder().build().unwrap();
    let printed = Node::bare(&azure.vms[0]).install(&["--help"]);
    for word in [
        "--uninstall",
        "AZURE_VNET_SOURCE",
        "CNI_PLUGINS_SOURCE",
        "DESTDIR",
    ] {
        assert!(printed.contains(word), "{printed}");
    }
    assert!(!printed.contains("set -eu"), "{printed}");
}
